//! Watches: why a record went, compaction, and being in step (P4, P5, C4).

use std::time::Duration;

use dc_controlplane::{ControlPlane, Error, Expected, Removal, WatchEvent, codec};
use dc_core::{Intent, IntentKind};
use dc_etcd::EtcdControlPlane;
use futures::StreamExt;

use crate::{
    proxy::Proxy,
    samples::*,
    server::{Cluster, Etcd, shared_cluster, shared_single},
};

#[tokio::test]
async fn p4_expiry_and_goodbye_are_told_apart() {
    let url = [shared_single().url()];
    let plane = plane(&url, &namespace()).await;
    let mut watch = plane.watch().await.expect("watch");
    replay(&mut watch).await;
    let said = registered(&plane, &record("said", 60)).await;
    let silent = registered(&plane, &record("silent", 1)).await;
    plane.deregister(said.id(), said.version).await.expect("deregister");
    assert_eq!(removed(&mut watch, said.id()).await, Removal::Deregistered);
    assert_eq!(removed(&mut watch, silent.id()).await, Removal::Expired);
}

#[tokio::test]
async fn p8_an_intent_that_was_removed_by_hand_means_serve() {
    let url = [shared_single().url()];
    let ns = namespace();
    let plane = plane(&url, &ns).await;
    let id = record("dc-1", 60).id().clone();
    plane.set_intent(&id, &Intent::new(IntentKind::Out, "ann", "")).await.expect("set_intent");
    let mut watch = plane.watch().await.expect("watch");
    assert!(matches!(replay(&mut watch).await[..], [WatchEvent::Intent(_)]));
    let mut kv = raw(&url).await.kv_client();
    kv.delete(format!("{ns}/{}{id}", codec::INTENTS), None).await.expect("delete");
    match change(&mut watch).await {
        WatchEvent::Intent(held) => assert_eq!((held.id, held.intent.want), (id, IntentKind::Serve)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn c4_an_idle_watch_is_in_step_again_and_again() {
    let plane = plane(&shared_cluster().urls(), &namespace()).await;
    let mut watch = plane.watch().await.expect("watch");
    replay(&mut watch).await;
    for _ in 0..3 {
        assert_eq!(next(&mut watch).await, WatchEvent::InStep);
    }
}

/// Watches that are idle for longer than etcd tolerates pings (three within 5 s each) keep their connection.
#[tokio::test]
async fn an_idle_connection_is_not_closed_for_its_pings() {
    let etcd = Etcd::single();
    let plane = plane(&[etcd.url()], &namespace()).await;
    let mut watch = plane.watch().await.expect("watch");
    replay(&mut watch).await;
    in_step(&mut watch).await;
    let streams = etcd.requests()["Watch"];
    for _ in 0..6 {
        in_step(&mut watch).await;
    }
    assert_eq!(etcd.requests()["Watch"], streams, "the watch had to be rebuilt");
}

#[tokio::test]
async fn p5_what_was_compacted_while_the_watch_was_away_ends_it() {
    let etcd = Etcd::single();
    let ns = namespace();
    let proxy = Proxy::before(etcd.addr());
    let reader = plane(&[proxy.url()], &ns).await;
    let writer = plane(&[etcd.url()], &ns).await;
    let mut watch = reader.watch().await.expect("watch");
    replay(&mut watch).await;
    proxy.cut();
    let held = registered(&writer, &record("dc-1", 60)).await;
    writer.deregister(held.id(), held.version).await.expect("deregister");
    let last = registered(&writer, &record("dc-2", 60)).await;
    let compacted = i64::try_from(last.version.revision).expect("a revision");
    raw(&[etcd.url()]).await.kv_client().compact(compacted, None).await.expect("compact");
    proxy.forward();
    let lost = end(&mut watch).await;
    assert!(matches!(&lost, Error::WatchLost { why } if why.contains("compacted")), "P5: {lost:?}");
    let mut again = reader.watch().await.expect("watch");
    let shown = replay(&mut again).await;
    assert!(matches!(&shown[..], [WatchEvent::Put(found)] if found.id() == last.id()), "{shown:?}");
}

#[tokio::test]
async fn p5_an_idle_watch_survives_compaction() {
    let etcd = Etcd::single();
    let (ns, other) = (namespace(), namespace());
    let proxy = Proxy::before(etcd.addr());
    let reader = plane(&[proxy.url()], &ns).await;
    let (writer, stranger) = (plane(&[etcd.url()], &ns).await, plane(&[etcd.url()], &other).await);
    let mut watch = reader.watch().await.expect("watch");
    replay(&mut watch).await;
    // Others write; nothing of ours is among it. Progress moves the watch past it.
    let theirs = registered(&stranger, &record("theirs", 60)).await;
    in_step(&mut watch).await;
    in_step(&mut watch).await;
    let compacted = i64::try_from(theirs.version.revision).expect("a revision");
    raw(&[etcd.url()]).await.kv_client().compact(compacted, None).await.expect("compact");
    proxy.cut();
    let ours = registered(&writer, &record("ours", 60)).await;
    proxy.forward();
    match change(&mut watch).await {
        WatchEvent::Put(found) => assert_eq!(found.version, ours.version),
        other => panic!("P5: {other:?}"),
    }
}

#[tokio::test]
async fn p5_nothing_is_lost_or_doubled_across_cut_connections() {
    let etcd = Etcd::single();
    let ns = namespace();
    let proxy = Proxy::before(etcd.addr());
    let reader = plane(&[proxy.url()], &ns).await;
    let writer = plane(&[etcd.url()], &ns).await;
    let mut watch = reader.watch().await.expect("watch");
    replay(&mut watch).await;
    for round in 0..5 {
        let held = registered(&writer, &record(&format!("dc-{round}"), 60)).await;
        proxy.forward();
        writer.deregister(held.id(), held.version).await.expect("deregister");
        proxy.cut();
        let back = registered(&writer, &record(&format!("dc-{round}"), 60)).await;
        proxy.forward();
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(change(&mut watch).await);
        }
        match &seen[..] {
            [
                WatchEvent::Put(put),
                WatchEvent::Removed { id, why: Removal::Deregistered, .. },
                WatchEvent::Put(again),
            ] => {
                assert_eq!((put.version, id, again.version), (held.version, held.id(), back.version));
            }
            other => panic!("P5: round {round}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn p5_a_slow_reader_misses_nothing() {
    let url = [shared_single().url()];
    let ns = namespace();
    let (reader, writer) = (plane(&url, &ns).await, plane(&url, &ns).await);
    let mut watch = reader.watch().await.expect("watch");
    replay(&mut watch).await;
    let mut held = registered(&writer, &record("dc-1", 3_600)).await;
    let mut written = vec![held.version];
    for _ in 0..600 {
        held.version = writer.register(&held, Expected::Version(held.version)).await.expect("register");
        written.push(held.version);
    }
    for version in written {
        match change(&mut watch).await {
            WatchEvent::Put(found) => assert_eq!(found.version, version, "P5: in order, none left out"),
            other => panic!("P5: {other:?}"),
        }
    }
}

/// `watched` is the only member that the watch knows of; the two others freeze.
async fn no_step_without_a_quorum(cluster: &Cluster, watched: usize) {
    // Asks every 300 ms.
    let often = Duration::from_millis(400);
    let config = builder(&[cluster.members[watched].url()], &namespace()).keepalive(often, often).build();
    let plane = EtcdControlPlane::connect(config.expect("a legal configuration")).await.expect("connect");
    let mut watch = plane.watch().await.expect("watch");
    replay(&mut watch).await;
    in_step(&mut watch).await;
    let others = || cluster.members.iter().enumerate().filter(|(n, _)| *n != watched).map(|(_, member)| member);
    others().for_each(Etcd::freeze);
    // A proof that was given before the freeze may be on its way: one question's worth.
    let under_way = tokio::time::timeout(often * 2, async { while watch.next().await.is_some() {} });
    under_way.await.expect_err("the watch goes on");
    let told = tokio::time::timeout(often * 10, watch.next()).await;
    assert!(told.is_err(), "C4: a member without a quorum is in step: {told:?}");
    others().for_each(Etcd::thaw);
    in_step(&mut watch).await;
}

#[tokio::test]
async fn c4_a_member_cut_off_from_its_quorum_is_not_in_step() {
    let cluster = Cluster::start();
    let leader = cluster.leader();
    no_step_without_a_quorum(&cluster, leader).await;
    let follower = (cluster.leader() + 1) % 3;
    no_step_without_a_quorum(&cluster, follower).await;
}
