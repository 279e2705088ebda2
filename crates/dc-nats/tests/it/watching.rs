//! P4, P5, C4: what a watch tells, and when it says that it cannot.

use std::time::Duration;

use dc_controlplane::{ControlPlane, Error, Expected, Removal, TokioClock, Watch, WatchEvent};
use dc_core::Clock;
use dc_nats::{NatsConfig, NatsControlPlane};
use futures::StreamExt;

use crate::support::{
    admin, at, find,
    proxy::{Mode, Proxy},
    record, register_at_last, replay,
    server::{Cluster, Server},
    timed, until, within,
};

const LONG: Duration = Duration::from_secs(600);

/// A server, a plane that reaches it directly, and one whose way to it can be cut.
struct Ground {
    server: Server,
    proxy: Proxy,
    near: NatsControlPlane,
    far: NatsControlPlane,
}

async fn ground(markers: Duration) -> Ground {
    let server = Server::start("");
    let proxy = Proxy::start(server.address()).await;
    let connect = async |url: String| {
        let config = NatsConfig::builder(url).marker_ttl(markers).request_timeout(Duration::from_secs(2)).build();
        NatsControlPlane::connect(config.expect("legal")).await.expect("connected")
    };
    let (near, far) = (connect(server.url()).await, connect(proxy.url()).await);
    Ground { server, proxy, near, far }
}

/// How the watch goes on: `Ok` with the removal of a record, or the error that it ends with.
async fn removal_or_end(watch: &mut Watch) -> Result<Removal, Error> {
    within("a removal, or the end", async {
        loop {
            match watch.next().await.expect("P5: a watch ends with an error") {
                Ok(WatchEvent::Removed { why, .. }) => return Ok(why),
                Ok(_) => {}
                Err(err) => return Err(err),
            }
        }
    })
    .await
}

#[tokio::test]
async fn p5_a_removal_during_a_short_absence_is_told_afterwards() {
    let ground = ground(LONG).await;
    let mine = record("dc-1", LONG);
    let held = at(&mine, ground.near.register(&mine, Expected::Absent).await.expect("register"));
    let mut watch = ground.far.watch().await.expect("watch");
    replay(&mut watch).await;
    ground.proxy.set(Mode::Cut);
    ground.near.deregister(held.id(), held.version).await.expect("deregister");
    ground.proxy.set(Mode::Open);
    assert!(matches!(removal_or_end(&mut watch).await, Ok(Removal::Deregistered)));
}

#[tokio::test]
async fn p5_a_removal_whose_trace_has_gone_ends_the_watch() {
    let ground = ground(Duration::from_secs(2)).await;
    let mine = record("dc-1", LONG);
    let held = at(&mine, ground.near.register(&mine, Expected::Absent).await.expect("register"));
    let mut watch = ground.far.watch().await.expect("watch");
    replay(&mut watch).await;
    ground.proxy.set(Mode::Cut);
    ground.near.deregister(held.id(), held.version).await.expect("deregister");
    // The tombstone goes, then the marker of its own end.
    let client = admin::client(&ground.server.url()).await;
    until("the traces to go", async || {
        let bucket = admin::bucket(&client, "multidc").await;
        (bucket["state"]["messages"] == 1).then_some(())
    })
    .await;
    ground.proxy.set(Mode::Open);
    let end = removal_or_end(&mut watch).await;
    assert!(matches!(&end, Err(Error::WatchLost { why }) if why.contains("out of contact")), "{end:?}");
    assert!(within("the end", watch.next()).await.is_none(), "after an error a watch ends");
    let mut again = ground.far.watch().await.expect("watch");
    replay(&mut again).await;
}

#[tokio::test]
async fn p5_a_store_that_went_back_ends_the_watch() {
    let mut ground = ground(LONG).await;
    let early = record("early", LONG);
    ground.near.register(&early, Expected::Absent).await.expect("register");
    ground.server.kill();
    ground.server.copy_data("data", "backup");
    ground.server.start_again();
    let late = record("late", LONG);
    let held = register_at_last(&ground.near, &late).await;
    let mut watch = until("a watch", async || ground.far.watch().await.ok()).await;
    assert!(replay(&mut watch).await >= held.version);
    ground.server.kill();
    ground.server.copy_data("backup", "data");
    ground.server.start_again();
    let end = removal_or_end(&mut watch).await;
    assert!(matches!(&end, Err(Error::WatchLost { why }) if why.contains("went back")), "{end:?}");
    let listing = until("a list", async || ground.far.list_all().await.ok()).await;
    assert_eq!(listing.records.len(), 1, "the late record is lost");
    assert!(listing.as_of < held.version, "P1: the list says that it is older");
    register_at_last(&ground.near, &late).await;
}

#[tokio::test]
async fn p5_another_store_at_the_same_address_ends_the_watch() {
    let mut ground = ground(LONG).await;
    let old = ground.near.store().await.expect("store");
    let mut watch = ground.near.watch().await.expect("watch");
    replay(&mut watch).await;
    ground.server.kill();
    ground.server.wipe();
    ground.server.start_again();
    let end = removal_or_end(&mut watch).await;
    assert!(matches!(&end, Err(Error::WatchLost { why }) if why.contains("another store")), "{end:?}");
    let new = until("the store", async || ground.near.store().await.ok()).await;
    assert_ne!(new, old, "P1");
}

#[tokio::test]
async fn p5_a_connection_that_is_cut_again_and_again_loses_nothing() {
    let ground = ground(LONG).await;
    let mut watch = ground.far.watch().await.expect("watch");
    replay(&mut watch).await;
    let mut held = record("dc-1", LONG);
    held.version = ground.near.register(&held, Expected::Absent).await.expect("register");
    let mut seen = held.version;
    for round in 0..8 {
        if round % 2 == 0 {
            ground.proxy.set(Mode::Cut);
            ground.proxy.set(Mode::Open);
        }
        held.version = ground.near.heartbeat(&held).await.expect("heartbeat");
        let wanted = held.version;
        find(&mut watch, "the newest version", |event| match event {
            WatchEvent::Put(found) => {
                assert!(found.version >= seen, "P5: {} after {seen}", found.version);
                seen = found.version;
                (seen == wanted).then_some(())
            }
            WatchEvent::Removed { .. } => panic!("P5: told as gone"),
            _ => None,
        })
        .await;
    }
}

/// A stranger's record has no lease on the server: only the watcher's own timing can end it.
#[tokio::test]
async fn p4_a_lease_that_the_server_does_not_end_is_timed_by_the_watcher() {
    let ground = ground(LONG).await;
    let silent = record("silent", Duration::from_secs(1));
    let document = dc_controlplane::codec::encode_record(&silent);
    let client = admin::client(&ground.server.url()).await;
    let mut watch = ground.near.watch().await.expect("watch");
    replay(&mut watch).await;
    admin::put(&client, "multidc", &format!("records/{}", silent.id()), &document).await;
    let put = find(&mut watch, "the record", |event| match event {
        WatchEvent::Put(record) => Some(record),
        _ => None,
    })
    .await;
    let start = TokioClock.now();
    let (version, why) = find(&mut watch, "its end", |event| match event {
        WatchEvent::Removed { version, why, .. } => Some((version, why)),
        _ => None,
    })
    .await;
    assert_eq!((version, why), (put.version, Removal::Expired), "P4: found by a timer, so at the record's version");
    let granularity = ground.near.capabilities().expiry_granularity;
    assert!(TokioClock.now() - start >= silent.ttl + granularity, "P3: not before its time");
}

#[tokio::test]
async fn c4_an_idle_watch_shows_contact_and_a_silent_server_shows_none() {
    let ground = ground(LONG).await;
    let mut watch = ground.far.watch().await.expect("watch");
    replay(&mut watch).await;
    for _ in 0..2 {
        let in_step = find(&mut watch, "a sign of life", |event| matches!(event, WatchEvent::InStep).then_some(()));
        let ((), took) = timed(in_step).await;
        assert!(took < Duration::from_secs(4), "C4: an idle healthy system is never stale, but it took {took:?}");
    }
    ground.server.freeze();
    let silence = tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            match watch.next().await {
                // What was on its way may still come.
                Some(Ok(WatchEvent::InStep)) => tokio::time::sleep(Duration::from_secs(1)).await,
                other => panic!("C4: a frozen server told {other:?}"),
            }
        }
    })
    .await;
    assert!(silence.is_err());
    assert!(
        tokio::time::timeout(Duration::from_secs(3), watch.next()).await.is_err(),
        "C4: an open silent connection is no proof"
    );
    ground.server.unfreeze();
    find(&mut watch, "a sign of life", |event| matches!(event, WatchEvent::InStep).then_some(())).await;
}

#[tokio::test]
async fn c4_a_busy_watch_shows_contact_as_well() {
    let ground = ground(LONG).await;
    let mut watch = ground.far.watch().await.expect("watch");
    replay(&mut watch).await;
    let mut held = record("dc-1", LONG);
    held.version = ground.near.register(&held, Expected::Absent).await.expect("register");
    // No pause between writes is as long as an idle heartbeat's.
    let busy = async {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            held.version = ground.near.heartbeat(&held).await.expect("heartbeat");
        }
    };
    let in_step = async {
        for _ in 0..2 {
            find(&mut watch, "a sign of life", |event| matches!(event, WatchEvent::InStep).then_some(())).await;
        }
    };
    let ((), took) = tokio::select! {
        () = busy => unreachable!("it goes on for ever"),
        timed = timed(in_step) => timed,
    };
    assert!(took < Duration::from_secs(8), "C4: {took:?}");
}

/// What cannot be handed on cannot be kept for ever either: traces of removals go meanwhile.
#[tokio::test]
async fn p5_a_reader_that_sleeps_too_long_starts_over() {
    let ground = ground(Duration::from_secs(4)).await;
    for n in 0..1_100 {
        let mine = record(&format!("dc-{n}"), LONG);
        ground.near.register(&mine, Expected::Absent).await.expect("register");
    }
    let mut watch = ground.near.watch().await.expect("watch");
    // The reader does nothing for longer than a quarter of the traces' life.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let end = removal_or_end(&mut watch).await;
    assert!(matches!(&end, Err(Error::WatchLost { why }) if why.contains("too slow")), "{end:?}");
}

/// A dropped watch leaves no consumer behind on the server.
#[tokio::test]
async fn a_dropped_watch_is_taken_off_the_server() {
    let ground = ground(LONG).await;
    let client = admin::client(&ground.server.url()).await;
    let consumers = async || admin::bucket(&client, "multidc").await["state"]["consumer_count"].as_u64();
    let mut watch = ground.near.watch().await.expect("watch");
    replay(&mut watch).await;
    assert_eq!(consumers().await, Some(1));
    drop(watch);
    until("the consumer to go", async || (consumers().await == Some(0)).then_some(())).await;
}

/// Fault 8: without its quorum a store takes no renewals, though what is left of it goes on answering and feeding
/// watches. That no renewal comes then proves nothing.
#[tokio::test]
async fn c5_nothing_is_told_as_gone_or_in_step_while_the_quorum_is_lost() {
    let mut cluster = Cluster::start();
    let connect = async |url: String| {
        let config = NatsConfig::builder(url).replicas(3).request_timeout(Duration::from_secs(2)).build();
        NatsControlPlane::connect(config.expect("legal")).await.expect("connected")
    };
    let reader = connect(cluster.servers[0].url()).await;
    let ttl = Duration::from_secs(4);
    let mine = register_at_last(&reader, &record("dc-1", ttl)).await;
    // Their consumers lie on any of the three servers: some on the one that is left.
    let mut watches = Vec::new();
    for n in 0..8 {
        let mut watch = until("a watch", async || reader.watch().await.ok()).await;
        replay(&mut watch).await;
        watches.push(watch.map(move |event| (n, event)).boxed());
    }
    let mut events = futures::stream::select_all(watches);
    until("a renewal", async || reader.heartbeat(&mine).await.ok()).await;
    cluster.servers[1].kill();
    cluster.servers[2].kill();
    let start = TokioClock.now();
    // What was proved before may be told for a little while.
    let grace = Duration::from_secs(5);
    let lost = tokio::time::timeout(ttl * 3, async {
        while let Some((n, event)) = events.next().await {
            match event.expect("P5: the watches go on") {
                WatchEvent::Removed { id, version, why } => {
                    let after = TokioClock.now() - start;
                    panic!("C5: watch {n} tells {id} as gone ({why:?}) at {version} after {after:?}, {}", mine.version)
                }
                WatchEvent::InStep => {
                    let after = TokioClock.now() - start;
                    assert!(after < grace, "C4: watch {n} claims to be in step {after:?} after the quorum was lost");
                }
                _ => {}
            }
        }
    });
    assert!(lost.await.is_err(), "the watches ended");
    let listed = reader.list_all().await;
    assert!(listed.as_ref().is_err_and(Error::is_outage), "C5: a list without a quorum proves nothing: {listed:?}");
    cluster.servers[1].start_again();
    cluster.servers[2].start_again();
    within("each watch to tell of the end of the lease, and to be in step", async {
        let (mut gone, mut in_step) = (0, 0);
        while gone < 8 || in_step == 0 {
            match events.next().await.expect("P5: the watches go on") {
                (_, Ok(WatchEvent::Removed { .. })) => gone += 1,
                (_, Ok(WatchEvent::InStep)) => in_step += 1,
                (_, Ok(_)) => {}
                (n, Err(err)) => panic!("watch {n}: {err}"),
            }
        }
    })
    .await;
    until("a list", async || reader.list_all().await.ok()).await;
}
