//! P11, P12: real servers killed, restarted and frozen.

use std::time::Duration;

use dc_controlplane::{ControlPlane, Error, Expected, WatchEvent};
use dc_core::DataCenterRecord;
use dc_nats::{NatsConfig, NatsControlPlane};
use futures::{StreamExt, stream};

use crate::support::{
    admin, at, find, record, refused, register_at_last, replay,
    server::{Cluster, Server},
    timed, until,
};

const LONG: Duration = Duration::from_secs(600);

async fn connect(urls: &str, replicas: u32, timeout: Duration) -> NatsControlPlane {
    let config = NatsConfig::builder(urls).replicas(replicas).request_timeout(timeout).build().expect("legal");
    let plane = NatsControlPlane::connect(config).await.expect("connected");
    until("the store", async || plane.store().await.ok()).await;
    plane
}

/// Heartbeats until one is taken; finds its own lost writes, as a registrar does.
async fn renew(plane: &NatsControlPlane, held: &mut DataCenterRecord) {
    until("a heartbeat", async || match plane.heartbeat(held).await {
        Ok(version) => {
            assert!(version > held.version, "P1: {version} after {}", held.version);
            held.version = version;
            Some(())
        }
        Err(Error::Conflict { stored: Some(stored), .. }) => {
            assert!(stored.same_content(held), "P2: {stored:?}");
            *held = *stored;
            None
        }
        Err(err) if err.is_outage() => None,
        Err(err) => panic!("renewing: {err:?}"),
    })
    .await;
}

/// A page without a key says nothing of its own as of when that is.
#[tokio::test]
async fn p6_a_replicated_bucket_with_an_empty_page_is_listed() {
    let cluster = Cluster::start();
    let urls = cluster.urls();
    let plane = connect(&urls, 3, Duration::from_secs(10)).await;
    // Strangers' keys, too many for one page; none of them on the second page of four (shards 4 to 7).
    let client = admin::client(&urls).await;
    let writes = stream::iter(0..1_200).map(|n| {
        let key = format!("{}.0.stranger-{n}", ["0", "8", "c"][n % 3]);
        let client = &client;
        async move { admin::put(client, "multidc", &key, b"").await }
    });
    writes.buffer_unordered(50).collect::<Vec<_>>().await;
    let listing = plane.list_all().await.expect("P6: a list of several pages");
    assert_eq!(listing.skipped.len(), 1_200);
}

#[tokio::test]
async fn p12_the_leader_of_three_is_killed_and_renewals_and_watch_go_on() {
    let mut cluster = Cluster::start();
    let urls = cluster.urls();
    let plane = connect(&urls, 3, Duration::from_secs(2)).await;
    let reader = connect(&urls, 3, Duration::from_secs(2)).await;
    let client = admin::client(&urls).await;
    let store = plane.store().await.expect("store");
    let mut held = record("dc-1", LONG);
    held.version = plane.register(&held, Expected::Absent).await.expect("register");
    let mut watch = reader.watch().await.expect("watch");
    replay(&mut watch).await;
    let leader = admin::bucket(&client, "multidc").await["cluster"]["leader"].as_str().expect("a leader").to_owned();
    cluster.named(&leader).kill();
    renew(&plane, &mut held).await;
    let wanted = held.version;
    find(&mut watch, "the renewal after the election", |event| match event {
        WatchEvent::Put(found) => (found.version == wanted).then_some(()),
        WatchEvent::Removed { id, .. } => panic!("P5: {id} was told as gone"),
        _ => None,
    })
    .await;
    let listing = until("a list as of the renewal", async || {
        plane.list_all().await.ok().filter(|listing| listing.as_of >= wanted)
    })
    .await;
    assert_eq!(listing.records, [held.clone()], "P12: nothing was lost");
    assert_eq!(plane.store().await.expect("store"), store, "P1: a new leader is no new store");
    cluster.named(&leader).start_again();
    renew(&plane, &mut held).await;
}

#[tokio::test]
async fn p12_all_three_down_for_longer_than_the_lease() {
    let mut cluster = Cluster::start();
    let plane = connect(&cluster.urls(), 3, Duration::from_secs(2)).await;
    let brief = record("brief", Duration::from_secs(1));
    let long = record("long", LONG);
    let before = plane.register(&brief, Expected::Absent).await.expect("register");
    let mut held = at(&long, plane.register(&long, Expected::Absent).await.expect("register"));
    cluster.servers.iter_mut().for_each(Server::kill);
    let err = refused(plane.heartbeat(&at(&brief, before)).await);
    assert!(err.is_outage(), "{err:?}");
    cluster.servers.iter_mut().for_each(Server::start_again);
    renew(&plane, &mut held).await;
    // It ends soon after the servers are back; then a renewal says so, and it can be there again.
    until("the lease to end", async || matches!(plane.get(brief.id()).await, Ok(None)).then_some(())).await;
    until("the expiry to be told", async || match plane.heartbeat(&at(&brief, before)).await {
        Err(Error::NotFound { .. }) => Some(()),
        Err(err) if err.is_outage() => None,
        other => panic!("P3: the lease has ended, got {other:?}"),
    })
    .await;
    let again = register_at_last(&plane, &brief).await;
    assert!(again.version > before, "P1: {} after {before}", again.version);
}

#[tokio::test]
async fn p12_two_of_three_down_refuses_writes_and_says_what_it_knows() {
    let mut cluster = Cluster::start();
    let plane = connect(&cluster.urls(), 3, Duration::from_secs(2)).await;
    let mut held = record("dc-1", LONG);
    held.version = plane.register(&held, Expected::Absent).await.expect("register");
    cluster.servers[1..].iter_mut().for_each(Server::kill);
    let (lost, took) = timed(plane.heartbeat(&held)).await;
    let err = refused(lost);
    assert!(err.is_outage() && err.is_retryable(), "{err:?}");
    assert!(took < Duration::from_secs(4), "P11: {took:?}");
    cluster.servers[1..].iter_mut().for_each(Server::start_again);
    renew(&plane, &mut held).await;
}

#[tokio::test]
async fn p11_a_write_that_timed_out_on_a_frozen_server_lands_later_and_is_found() {
    let server = Server::start("");
    let plane = connect(&server.url(), 1, Duration::from_secs(1)).await;
    let reader = connect(&server.url(), 1, Duration::from_secs(1)).await;
    let mut held = record("dc-1", LONG);
    held.version = plane.register(&held, Expected::Absent).await.expect("register");
    server.freeze();
    let next = DataCenterRecord { epoch: held.epoch.next(), ..held.clone() };
    let (lost, took) = timed(plane.register(&next, Expected::Version(held.version))).await;
    let err = refused(lost);
    assert!(matches!(err, Error::Timeout { .. }) && err.outcome_unknown() && err.is_retryable(), "P11: {err:?}");
    assert!(took < Duration::from_secs(2), "P11: {took:?}");
    server.unfreeze();
    // It was on its way, and lands.
    let landed = until("the late write", async || {
        reader.get(held.id()).await.ok().flatten().filter(|found| found.version > held.version)
    })
    .await;
    assert!(landed.same_content(&next), "P2: {landed:?}");
    let again = refused(plane.register(&next, Expected::Version(held.version)).await);
    match again {
        Error::Conflict { stored: Some(stored), .. } => assert_eq!(*stored, landed, "P11: repeating finds what landed"),
        other => panic!("P2: {other:?}"),
    }
}

#[tokio::test]
async fn p12_a_frozen_server_of_three_is_left_for_another() {
    let mut cluster = Cluster::start();
    let plane = connect(&cluster.urls(), 3, Duration::from_secs(2)).await;
    let mut held = record("dc-1", LONG);
    held.version = plane.register(&held, Expected::Absent).await.expect("register");
    let names: Vec<_> = (0..3).map(|n| format!("n{n}")).collect();
    // Whichever it is connected to, it is frozen at some time.
    for name in names {
        cluster.named(&name).freeze();
        renew(&plane, &mut held).await;
        cluster.named(&name).unfreeze();
        renew(&plane, &mut held).await;
    }
}

#[tokio::test]
async fn p12_a_plane_outlives_many_leases_and_restarts_of_its_server() {
    let mut server = Server::start("");
    let plane = connect(&server.url(), 1, Duration::from_secs(1)).await;
    let mut held = record("dc-1", Duration::from_secs(3));
    held.version = plane.register(&held, Expected::Absent).await.expect("register");
    let mut restarts = 0;
    for beat in 0..16 {
        if beat % 6 == 5 {
            server.kill();
            server.start_again();
            restarts += 1;
        }
        renew(&plane, &mut held).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!((plane.list_all().await.expect("list").records.len(), restarts), (1, 2));
}
