//! What the injected faults do to calls, watches and what is stored.

use std::{sync::Arc, time::Duration};

use dc_core::{
    Clock, DataCenter, DataCenterRecord, DataCenterState, Endpoint, Epoch, Intent, IntentKind, ManualClock,
    NodeEndpoint, NodeId, Owner, StoreId, Version,
};
use futures::{FutureExt, StreamExt};

use crate::{
    ControlPlane, Error, Expected, Outcome, Removal, TokioClock, Watch, WatchEvent,
    memory::{Failure, MemoryControlPlane, MemoryOptions, MemoryStore, Operation},
};

const TTL: Duration = Duration::from_secs(30);

fn store() -> MemoryStore {
    MemoryStore::new(Arc::new(TokioClock))
}

fn record(name: &str) -> DataCenterRecord {
    let endpoint: Endpoint = "127.0.0.1:7946".parse().unwrap();
    DataCenterRecord {
        data_center: DataCenter::new(name).build().unwrap(),
        endpoints: vec![NodeEndpoint::new(NodeId(1), endpoint.clone())],
        state: DataCenterState::Active,
        ttl: TTL,
        owner: Owner { node: NodeId(1), endpoint },
        epoch: Epoch::FIRST,
        handed_over: false,
        written_at_ms: 0,
        version: Version::new(StoreId(0), 0),
        unknown: serde_json::Map::new(),
    }
}

async fn created(plane: &MemoryControlPlane, name: &str) -> DataCenterRecord {
    let record = record(name);
    let version = plane.register(&record, Expected::Absent).await.expect("register");
    DataCenterRecord { version, ..record }
}

async fn names(plane: &MemoryControlPlane) -> Vec<String> {
    let listing = plane.list_all().await.expect("list");
    listing.records.iter().map(|record| record.id().to_string()).collect()
}

/// The next event, in at most an hour of paused time.
async fn next(watch: &mut Watch) -> Option<Result<WatchEvent, Error>> {
    tokio::time::timeout(Duration::from_secs(3_600), watch.next()).await.expect("an event within an hour")
}

async fn next_change(watch: &mut Watch) -> WatchEvent {
    loop {
        match next(watch).await.expect("the watch ended").expect("the watch failed") {
            WatchEvent::InStep | WatchEvent::ReplayDone { .. } => {}
            event => return event,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_cut_off_misses_nothing_and_disturbs_nobody() {
    let store = store();
    let (cut, other) = (MemoryControlPlane::new(&store), MemoryControlPlane::new(&store));
    let mut watch = cut.watch().await.unwrap();
    assert!(matches!(next(&mut watch).await, Some(Ok(WatchEvent::ReplayDone { .. }))));
    cut.cut_off();
    let err = cut.list_all().await.expect_err("cut off");
    assert!(matches!(err, Error::Unreachable { outcome: Outcome::Unchanged, .. }), "{err:?}");
    let held = created(&other, "dc-1").await;
    let silent = tokio::time::timeout(Duration::from_secs(3_600), watch.next()).await;
    assert!(silent.is_err(), "C4: a watch that is cut off says nothing, not even that it is in step: {silent:?}");
    cut.reconnect();
    assert_eq!(next_change(&mut watch).await, WatchEvent::Put(held.clone()));
    let WatchEvent::Removed { id, why, .. } = next_change(&mut watch).await else { panic!("not a removal") };
    assert_eq!((id, why), (held.id().clone(), Removal::Expired), "P4: it expired meanwhile");
}

#[tokio::test(start_paused = true)]
async fn p11_a_lost_answer_leaves_the_write_and_a_lost_request_does_not() {
    let store = store();
    let plane = MemoryControlPlane::new(&store);
    for (name, failure, landed) in [("dc-1", Failure::AnswerLost, true), ("dc-2", Failure::RequestLost, false)] {
        plane.fail_next(Operation::Register, failure, 1);
        let start = TokioClock.now();
        let err = plane.register(&record(name), Expected::Absent).await.expect_err("no answer");
        assert!(matches!(err, Error::Timeout { .. }) && err.outcome_unknown(), "P11: {err:?}");
        assert_eq!(TokioClock.now() - start, MemoryOptions::default().request_timeout, "P11: in time");
        assert_eq!(names(&plane).await.contains(&name.to_owned()), landed, "{failure:?}");
    }
    assert_eq!(plane.calls(Operation::Register), 2);
}

#[tokio::test(start_paused = true)]
async fn scripted_failures_come_in_order_and_end() {
    let store = store();
    let plane = MemoryControlPlane::new(&store);
    plane.fail_next(Operation::List, Failure::Denied, 1);
    plane.fail_next(Operation::List, Failure::Unreachable, 2);
    assert!(plane.get(record("dc-1").id()).await.is_ok(), "other calls are not concerned");
    assert!(matches!(plane.list_all().await, Err(Error::Denied { .. })));
    for _ in 0..2 {
        assert!(matches!(plane.list_all().await, Err(Error::Unreachable { .. })));
    }
    plane.list_all().await.expect("the script is over");
}

#[tokio::test(start_paused = true)]
async fn a_delay_beyond_the_timeout_loses_the_answer_first_and_the_request_at_last() {
    let store = store();
    let plane = MemoryControlPlane::new(&store);
    let timeout = MemoryOptions::default().request_timeout;
    for (name, delay, answered, landed) in
        [("dc-1", timeout / 2, true, true), ("dc-2", timeout * 3 / 2, false, true), ("dc-3", timeout * 3, false, false)]
    {
        plane.delay(delay);
        let answer = plane.register(&record(name), Expected::Absent).await;
        assert_eq!(answer.is_ok(), answered, "{delay:?}: {answer:?}");
        plane.delay(Duration::ZERO);
        assert_eq!(names(&plane).await.contains(&name.to_owned()), landed, "{delay:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_frozen_store_carries_out_late_what_was_given_up() {
    let store = store();
    let plane = MemoryControlPlane::new(&store);
    store.freeze();
    let err = plane.register(&record("dc-1"), Expected::Absent).await.expect_err("no answer");
    assert!(err.outcome_unknown(), "P11: {err:?}");
    store.unfreeze();
    assert_eq!(names(&plane).await, ["dc-1"], "a request that timed out is applied when the server goes on");
}

#[tokio::test(start_paused = true)]
async fn stale_reads_show_the_past_and_writes_the_present() {
    let store = store();
    let plane = MemoryControlPlane::new(&store);
    let old = created(&plane, "dc-1").await;
    plane.read_stale();
    let new = plane.register(&old, Expected::Version(old.version)).await.expect("register");
    created(&plane, "dc-2").await;
    assert_eq!(plane.get(old.id()).await.unwrap(), Some(old.clone()), "a stale get");
    let listing = plane.list_all().await.unwrap();
    assert_eq!((listing.records, listing.as_of), (vec![old.clone()], old.version), "a stale list says as of when");
    assert!(matches!(plane.heartbeat(&old).await, Err(Error::Conflict { .. })), "P2: a stale read is refused later");
    plane.read_fresh();
    assert_eq!(plane.get(old.id()).await.unwrap().map(|record| record.version), Some(new));
    assert_eq!(names(&plane).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn silent_expiry_leaves_the_list_without_a_word() {
    let store = store();
    store.set_silent_expiry(true);
    let plane = MemoryControlPlane::new(&store);
    let held = created(&plane, "dc-1").await;
    let mut watch = plane.watch().await.unwrap();
    assert_eq!(next_change(&mut watch).await, WatchEvent::Put(held));
    tokio::time::advance(TTL).await;
    assert_eq!(names(&plane).await, [""; 0]);
    let after = created(&plane, "dc-2").await;
    assert_eq!(next_change(&mut watch).await, WatchEvent::Put(after), "the expiry is not told");
}

#[tokio::test(start_paused = true)]
async fn p5_a_watch_that_falls_behind_is_lost_and_ends() {
    let store = store();
    let plane = MemoryControlPlane::with(&store, MemoryOptions { watch_backlog: 10, ..MemoryOptions::default() });
    for n in 0..20 {
        created(&plane, &format!("before-{n}")).await;
    }
    let mut watch = plane.watch().await.unwrap();
    for n in 0..10 {
        created(&plane, &format!("dc-{n}")).await;
    }
    assert!(matches!(next(&mut watch).await, Some(Ok(WatchEvent::Put(_)))), "a backlog of ten is kept");
    for n in 10..12 {
        created(&plane, &format!("dc-{n}")).await;
    }
    let mut last = next(&mut watch).await;
    while matches!(last, Some(Ok(_))) {
        last = next(&mut watch).await;
    }
    assert!(matches!(last, Some(Err(Error::WatchLost { .. }))), "P5: got {last:?}");
    assert!(next(&mut watch).await.is_none(), "P5: after the error it ends");
}

#[tokio::test(start_paused = true)]
async fn watches_can_be_lost_and_opened_again() {
    let store = store();
    let plane = MemoryControlPlane::new(&store);
    let mut watch = plane.watch().await.unwrap();
    store.lose_watches("told to by a test");
    assert!(matches!(next(&mut watch).await, Some(Err(Error::WatchLost { .. }))));
    assert!(matches!(next(&mut plane.watch().await.unwrap()).await, Some(Ok(WatchEvent::ReplayDone { .. }))));
}

#[tokio::test(start_paused = true)]
async fn p1_a_store_that_is_wiped_or_restored_has_another_id_and_one_rolled_back_gives_versions_again() {
    let store = store();
    let plane = MemoryControlPlane::new(&store);
    let one = created(&plane, "dc-1").await;
    let checkpoint = store.checkpoint();
    let two = created(&plane, "dc-2").await;

    store.roll_back(&checkpoint);
    assert_eq!(names(&plane).await, ["dc-1"]);
    let again = created(&plane, "dc-3").await;
    assert_eq!(again.version, two.version, "rolled back: a version is given again");

    store.restore_as_new(&checkpoint);
    let restored = plane.get(one.id()).await.unwrap().expect("restored");
    assert_ne!(restored.version.store, one.version.store, "restored: another store");
    assert_eq!(restored.version.revision, one.version.revision);
    assert!(matches!(plane.heartbeat(&one).await, Err(Error::Conflict { .. })), "P2: the old store's version");

    let before = plane.store().await.unwrap();
    store.wipe();
    assert_ne!(plane.store().await.unwrap(), before);
    assert_eq!(names(&plane).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn c4_an_idle_watch_says_that_it_is_in_step_and_a_silent_server_does_not() {
    let store = store();
    let every = Duration::from_secs(3);
    let plane = MemoryControlPlane::with(&store, MemoryOptions { in_step_every: every, ..MemoryOptions::default() });
    let mut watch = plane.watch().await.unwrap();
    next(&mut watch).await;
    let start = TokioClock.now();
    for beats in 1..4 {
        assert!(matches!(next(&mut watch).await, Some(Ok(WatchEvent::InStep))));
        let waited = TokioClock.now() - start;
        assert!(waited >= every * beats && waited < every * (beats + 1), "C4: beat {beats} after {waited:?}");
    }
    for (quiet, loud) in
        [(MemoryStore::stop as fn(&_), MemoryStore::start as fn(&_)), (MemoryStore::freeze, MemoryStore::unfreeze)]
    {
        quiet(&store);
        let silent = tokio::time::timeout(every * 100, watch.next()).await;
        assert!(silent.is_err(), "C4: a silent server is no proof: {silent:?}");
        loud(&store);
        assert!(matches!(next(&mut watch).await, Some(Ok(WatchEvent::InStep))));
    }
}

#[tokio::test]
async fn p4_a_clock_that_tokio_does_not_know_drives_expiry_by_ticks() {
    let clock = ManualClock::new();
    let store = MemoryStore::new(Arc::new(clock.clone()));
    let plane = MemoryControlPlane::new(&store);
    let held = created(&plane, "dc-1").await;
    plane.set_intent(held.id(), &Intent::new(IntentKind::Drain, "ann", "")).await.unwrap();
    let mut watch = plane.watch().await.unwrap();
    for _ in 0..3 {
        watch.next().await;
    }
    clock.advance(TTL - Duration::from_nanos(1));
    store.tick();
    assert!(watch.next().now_or_never().is_none(), "P3: not before its TTL");
    clock.advance(Duration::from_nanos(1));
    store.tick();
    let event = watch.next().now_or_never();
    assert!(matches!(event, Some(Some(Ok(WatchEvent::Removed { why: Removal::Expired, .. })))), "P4: got {event:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_is_gone_without_a_word() {
    let store = store();
    let plane = MemoryControlPlane::new(&store);
    let held = created(&plane, "dc-1").await;
    assert!(store.forget(held.id()) && !store.forget(held.id()));
    assert!(matches!(plane.heartbeat(&held).await, Err(Error::NotFound { .. })));
}
