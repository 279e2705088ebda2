//! Servers that are down, killed, restarted, frozen (P11, P12).

use std::{collections::HashSet, time::Duration};

use dc_controlplane::{ControlPlane, Error, Expected, TokioClock, WatchEvent};
use dc_core::{Clock, DataCenterRecord};
use dc_etcd::EtcdControlPlane;

use crate::{
    proxy::Proxy,
    samples::*,
    server::{Cluster, Etcd, shared_single},
};

/// An address where nothing listens.
const NOBODY: &str = "http://127.0.0.1:1";

#[tokio::test]
async fn p12_an_endpoint_that_is_down_does_no_harm() {
    let urls = [NOBODY.to_owned(), shared_single().url(), "http://no-such-host.invalid:2379".to_owned()];
    let plane = plane(&urls, &namespace()).await;
    let held = registered(&plane, &record("dc-1", 60)).await;
    for _ in 0..10 {
        plane.heartbeat(&held).await.expect("heartbeat");
    }
    let mut watch = plane.watch().await.expect("watch");
    assert!(matches!(&replay(&mut watch).await[..], [WatchEvent::Put(found)] if *found == held));
    in_step(&mut watch).await;
}

#[tokio::test]
async fn p12_connect_goes_on_without_a_server_unless_told_otherwise() {
    let builder = || builder(&[NOBODY.to_owned()], "t");
    let clock = TokioClock;
    let began = clock.now();
    let refused = EtcdControlPlane::connect(builder().require_at_start(true).build().expect("legal")).await;
    let refused = refused.expect_err("nobody answers");
    assert!(refused.is_outage(), "{refused:?}");
    assert!(clock.now() - began < TIMEOUT + Duration::from_secs(1), "P11: it takes no longer than a request");
    let plane = EtcdControlPlane::connect(builder().build().expect("legal")).await.expect("P12");
    let err = plane.list_all().await.expect_err("nobody answers");
    assert!(err.is_outage() && err.is_retryable() && !err.outcome_unknown(), "{err:?}");
    let err = plane.register(&record("dc-1", 60), Expected::Absent).await.expect_err("nobody answers");
    assert!(!err.outcome_unknown(), "what was never sent has not landed: {err:?}");
}

#[tokio::test]
async fn p12_the_leader_of_three_is_killed_and_everything_goes_on() {
    let cluster = Cluster::start();
    let leader = cluster.leader();
    // The leader is the first to be asked.
    let mut urls = cluster.urls();
    urls.rotate_left(leader);
    let plane = plane(&urls, &namespace()).await;
    let held = registered(&plane, &record("before", 20)).await;
    let mut watch = plane.watch().await.expect("watch");
    replay(&mut watch).await;
    in_step(&mut watch).await;
    cluster.members[leader].kill();
    let after = registered(&plane, &record("after", 20)).await;
    until("a heartbeat", async || plane.heartbeat(&held).await.ok()).await;
    match change(&mut watch).await {
        WatchEvent::Put(found) => assert_eq!(found, after, "P5: the watch missed nothing"),
        other => panic!("P5: {other:?}"),
    }
    in_step(&mut watch).await;
    cluster.members[leader].start();
    let capabilities = plane.capabilities();
    assert_eq!(capabilities.replicas, Some(3), "P13");
    assert_eq!(capabilities.findings, Vec::<String>::new(), "P13: three members are safe");
}

#[tokio::test]
async fn p12_a_frozen_leader_of_three_is_replaced_and_comes_back_as_a_follower() {
    let cluster = Cluster::start();
    let leader = cluster.leader();
    let mut urls = cluster.urls();
    urls.rotate_left(leader);
    let plane = plane(&urls, &namespace()).await;
    let held = registered(&plane, &record("before", 60)).await;
    let mut watch = plane.watch().await.expect("watch");
    replay(&mut watch).await;
    in_step(&mut watch).await;
    cluster.members[leader].freeze();
    let after = registered(&plane, &record("after", 60)).await;
    let moved = until("an update", async || match plane.register(&held, Expected::Version(held.version)).await {
        Ok(version) => Some(version),
        // Our own lost write.
        Err(Error::Conflict { stored: Some(stored), .. }) if stored.same_content(&held) => Some(stored.version),
        Err(err) if err.is_outage() => None,
        Err(err) => panic!("{err:?}"),
    })
    .await;
    cluster.members[leader].thaw();
    let held = DataCenterRecord { version: moved, ..held };
    until("a heartbeat", async || plane.heartbeat(&held).await.ok()).await;
    for expected in [after, held] {
        match change(&mut watch).await {
            WatchEvent::Put(found) => assert_eq!(found, expected, "P5: in order, nothing twice"),
            other => panic!("P5: {other:?}"),
        }
    }
    in_step(&mut watch).await;
}

#[tokio::test]
async fn p12_all_three_are_down_for_longer_than_the_lease() {
    let cluster = Cluster::start();
    let plane = plane(&cluster.urls(), &namespace()).await;
    let held = registered(&plane, &record("dc-1", 2)).await;
    let mut watch = plane.watch().await.expect("watch");
    replay(&mut watch).await;
    cluster.members.iter().for_each(Etcd::kill);
    // Longer than the lease: as many heartbeats in vain as it takes.
    let clock = TokioClock;
    let down = clock.now();
    until("the lease to be over", async || {
        let err = plane.heartbeat(&held).await.expect_err("all are down");
        assert!(err.is_outage(), "{err:?}");
        (clock.now() - down > held.ttl + Duration::from_secs(1)).then_some(())
    })
    .await;
    cluster.members.iter().for_each(Etcd::spawn);
    // etcd starts every lease anew; either it is renewed, or it has expired and is registered again.
    let lives = until("the record to live", async || match plane.heartbeat(&held).await {
        Ok(version) => Some(version),
        Err(Error::NotFound { .. }) => Some(registered(&plane, &held).await.version),
        Err(err) if err.is_outage() => None,
        Err(err) => panic!("{err:?}"),
    })
    .await;
    let lives = DataCenterRecord { version: lives, ..held };
    for _ in 0..5 {
        until("a heartbeat", async || plane.heartbeat(&lives).await.ok()).await;
    }
    until("its expiry", async || plane.get(lives.id()).await.ok()?.is_none().then_some(())).await;
    // It may have expired once before it was registered again.
    within("its removal", async {
        loop {
            if let WatchEvent::Removed { version, .. } = change(&mut watch).await
                && version > lives.version
            {
                break;
            }
        }
    })
    .await;
    in_step(&mut watch).await;
}

#[tokio::test]
async fn p11_a_frozen_member_of_three_costs_no_call_more_than_its_timeout() {
    let cluster = Cluster::start();
    // Not the leader, so that the others need no election.
    let frozen = (cluster.leader() + 1) % 3;
    let mut urls = cluster.urls();
    urls.rotate_left(frozen);
    let plane = plane(&urls, &namespace()).await;
    let held = registered(&plane, &record("dc-1", 60)).await;
    let mut watch = plane.watch().await.expect("watch");
    replay(&mut watch).await;
    in_step(&mut watch).await;
    cluster.members[frozen].freeze();
    let clock = TokioClock;
    let began = clock.now();
    plane.list_all().await.expect("P12: the next member answers, within the timeout of the call");
    plane.heartbeat(&held).await.expect("heartbeat");
    let after = registered(&plane, &record("after", 60)).await;
    match change(&mut watch).await {
        WatchEvent::Put(found) => assert_eq!(found, after, "the watch moves to another member"),
        other => panic!("P5: {other:?}"),
    }
    let took = clock.now() - began;
    assert!(took < Duration::from_secs(10), "a frozen member held everything up for {took:?}");
    cluster.members[frozen].thaw();
}

#[tokio::test]
async fn p11_a_frozen_server_ends_calls_in_time_and_writes_in_doubt() {
    let etcd = Etcd::single();
    let plane = plane(&[etcd.url()], &namespace()).await;
    let held = registered(&plane, &record("dc-1", 60)).await;
    let mut watch = plane.watch().await.expect("watch");
    replay(&mut watch).await;
    in_step(&mut watch).await;
    etcd.freeze();
    let clock = TokioClock;
    let began = clock.now();
    let err = plane.deregister(held.id(), held.version).await.expect_err("it is frozen");
    assert!(matches!(err, Error::Timeout { .. } | Error::Unreachable { .. }) && err.outcome_unknown(), "{err:?}");
    let took = clock.now() - began;
    assert!(took < TIMEOUT + Duration::from_secs(1), "P11: {took:?}");
    etcd.thaw();
    until("the goodbye", async || plane.deregister(held.id(), held.version).await.ok()).await;
    removed(&mut watch, held.id()).await;
    in_step(&mut watch).await;
}

#[tokio::test]
async fn p12_a_connection_that_went_dead_is_replaced() {
    let etcd = Etcd::single();
    let ns = namespace();
    let proxy = Proxy::before(etcd.addr());
    let behind = plane(&[proxy.url()], &ns).await;
    let direct = plane(&[etcd.url()], &ns).await;
    let held = registered(&behind, &record("dc-1", 60)).await;
    // Without a watch nothing else tests the connection.
    proxy.kill_open_connections_silently();
    let err = behind.heartbeat(&held).await.expect_err("the connection is dead");
    assert!(err.is_outage(), "{err:?}");
    behind.heartbeat(&held).await.expect("P12: a new connection");

    let mut watch = behind.watch().await.expect("watch");
    replay(&mut watch).await;
    in_step(&mut watch).await;
    proxy.kill_open_connections_silently();
    let after = registered(&direct, &record("after", 60)).await;
    match change(&mut watch).await {
        WatchEvent::Put(found) => assert_eq!(found, after, "P5: the watch misses nothing"),
        other => panic!("P5: {other:?}"),
    }
    in_step(&mut watch).await;
}

#[tokio::test]
async fn p12_restarts_in_a_row_lose_no_event() {
    let etcd = Etcd::single();
    let plane = plane(&[etcd.url()], &namespace()).await;
    let mut watch = plane.watch().await.expect("watch");
    replay(&mut watch).await;
    let mut written = HashSet::new();
    for round in 0..4 {
        written.insert(registered(&plane, &record(&format!("before-{round}"), 60)).await.version);
        etcd.kill();
        etcd.start();
        written.insert(registered(&plane, &record(&format!("after-{round}"), 60)).await.version);
    }
    let mut seen = Vec::new();
    while seen.len() < written.len() {
        match change(&mut watch).await {
            WatchEvent::Put(found) => seen.push(found.version),
            other => panic!("P5: {other:?}"),
        }
    }
    assert!(seen.is_sorted_by(|a, b| a < b), "P5: in order, each once: {seen:?}");
    assert_eq!(HashSet::from_iter(seen), written, "P5: nothing was lost");
}
