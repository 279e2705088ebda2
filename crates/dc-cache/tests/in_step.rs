//! The task that keeps a table in step, on the in-memory plane and paused time.

use std::{sync::Arc, time::Duration};

use dc_cache::{CacheOptions, CacheTask, RoutingTable, TableEvent, keep_in_step};
use dc_controlplane::{
    ControlPlane, Expected, TokioClock,
    memory::{Failure, MemoryControlPlane, MemoryOptions, MemoryStore, Operation},
};
use dc_core::{
    Clock, DataCenter, DataCenterId, DataCenterRecord, DataCenterState, Epoch, Freshness, Intent, IntentKind,
    NodeEndpoint, NodeId, Owner, Routability, Seen, StoreId, Version,
};
use tokio::{sync::broadcast, task::JoinHandle};

const TTL: Duration = Duration::from_secs(30);
const SEED: u64 = 7;

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn id(name: &str) -> DataCenterId {
    name.parse().unwrap()
}

fn record(name: &str) -> DataCenterRecord {
    let (node, endpoint) = (NodeId(7), format!("{name}.example:7946").parse::<dc_core::Endpoint>().unwrap());
    DataCenterRecord {
        data_center: DataCenter::new(name).build().unwrap(),
        endpoints: vec![NodeEndpoint::new(node, endpoint.clone())],
        state: DataCenterState::Active,
        ttl: TTL,
        owner: Owner { node, endpoint },
        epoch: Epoch::FIRST,
        handed_over: false,
        written_at_ms: 0,
        version: Version::new(StoreId(0), 0),
        unknown: serde_json::Map::new(),
    }
}

/// A datacenter's leader, reduced to its heart: registers, renews, registers again when it must.
struct Leader(JoinHandle<()>);

impl Leader {
    fn start(store: &MemoryStore, name: &str) -> Self {
        let plane = MemoryControlPlane::new(store);
        let mut record = record(name);
        Self(tokio::spawn(async move {
            let mut registered = false;
            loop {
                let answer = if registered {
                    plane.heartbeat(&record).await
                } else {
                    plane.register(&record, Expected::Absent).await
                };
                let pause = match answer {
                    Ok(version) => {
                        (registered, record.version) = (true, version);
                        TTL / 3
                    }
                    Err(error) => {
                        registered &= error.is_retryable();
                        secs(1)
                    }
                };
                tokio::time::sleep(pause).await;
            }
        }))
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Reader {
    plane: MemoryControlPlane,
    table: RoutingTable,
    events: broadcast::Receiver<TableEvent>,
    task: CacheTask,
}

impl Reader {
    fn start(store: &MemoryStore, memory: MemoryOptions, options: CacheOptions) -> Self {
        let plane = MemoryControlPlane::with(store, memory);
        let clock = Arc::new(TokioClock);
        let table = RoutingTable::new(clock.clone(), options);
        let events = table.events();
        let task = keep_in_step(table.clone(), Arc::new(plane.clone()), options, clock, SEED);
        Self { plane, table, events, task }
    }

    fn watching(store: &MemoryStore) -> Self {
        Self::start(store, MemoryOptions::default(), CacheOptions::default())
    }

    fn polling(store: &MemoryStore) -> Self {
        Self::start(store, MemoryOptions { watch: false, ..MemoryOptions::default() }, CacheOptions::default())
    }

    fn takes(&self, name: &str) -> Routability {
        self.table.snapshot().get(&id(name)).map_or(Routability::Nothing, |entry| entry.routability())
    }

    fn seen(&self, name: &str) -> Option<Seen> {
        self.table.snapshot().get(&id(name)).map(|entry| entry.seen())
    }

    /// How long it took until `what` held; fails after `within`.
    async fn until(&self, within: Duration, what: impl Fn(&Self) -> bool) -> Duration {
        let begun = TokioClock.now();
        loop {
            let passed = TokioClock.now() - begun;
            if what(self) {
                return passed;
            }
            assert!(passed <= within, "not within {within:?} (seed {SEED}): {:?}", self.table);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether `what` holds all the time, for so long.
    async fn all_along(&self, length: Duration, what: impl Fn(&Self) -> bool) {
        let begun = TokioClock.now();
        while TokioClock.now() - begun < length {
            assert!(what(self), "broken after {:?} (seed {SEED}): {:?}", TokioClock.now() - begun, self.table);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn told(&mut self) -> Vec<TableEvent> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }
}

fn store() -> MemoryStore {
    MemoryStore::with_id(Arc::new(TokioClock), StoreId(1))
}

#[tokio::test(start_paused = true)]
async fn a_change_shows_at_once_through_the_watch() {
    let store = store();
    let mut reader = Reader::watching(&store);
    reader.table.until_in_step().await;
    assert!(reader.table.ever_in_step() && !reader.table.is_stale());
    assert_eq!(reader.table.store(), Some(StoreId(1)));
    let _leader = Leader::start(&store, "a");
    reader.until(secs(1), |r| r.takes("a") == Routability::Placements).await;
    let operator = MemoryControlPlane::new(&store);
    operator.set_intent(&id("a"), &Intent::new(IntentKind::Drain, "ops", "disks")).await.unwrap();
    reader.until(secs(1), |r| r.takes("a") == Routability::Traffic).await;
    let held = reader.plane.get(&id("a")).await.unwrap().unwrap();
    operator.deregister(&id("a"), held.version).await.unwrap();
    reader.until(secs(1), |r| r.seen("a").is_none()).await;
    let told = reader.told();
    assert!(
        matches!(
            &told[..],
            [
                TableEvent::Fresh,
                TableEvent::Joined { .. },
                TableEvent::IntentChanged { .. },
                TableEvent::Left { why: dc_controlplane::Removal::Deregistered, .. }
            ]
        ),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_watch_the_table_is_polled_at_the_interval_with_jitter() {
    let store = store();
    let reader = Reader::polling(&store);
    reader.table.until_in_step().await;
    let _leader = Leader::start(&store, "a");
    let delay = reader.until(secs(11), |r| r.takes("a") == Routability::Placements).await;
    assert!(delay > secs(8), "{delay:?}");
    let before = reader.plane.calls(Operation::List);
    tokio::time::sleep(secs(1_000)).await;
    let lists = reader.plane.calls(Operation::List) - before;
    assert!((92..=108).contains(&lists), "about one list in 10 s, got {lists} in 1,000 s");
    assert!(!reader.table.is_watching());
}

#[tokio::test(start_paused = true)]
async fn watch_enabled_false_never_asks_for_a_watch() {
    let store = store();
    let options = CacheOptions::builder().watch_enabled(false).build().unwrap();
    let reader = Reader::start(&store, MemoryOptions::default(), options);
    reader.table.until_in_step().await;
    tokio::time::sleep(secs(100)).await;
    assert_eq!(reader.plane.calls(Operation::Watch), 0);
    assert!(!reader.table.is_stale());
}

#[tokio::test(start_paused = true)]
async fn c4_an_idle_healthy_system_is_never_stale_and_lives_on() {
    for memory in [MemoryOptions::default(), MemoryOptions { watch: false, ..MemoryOptions::default() }] {
        let store = store();
        let mut reader = Reader::start(&store, memory, CacheOptions::default());
        let _leaders = [Leader::start(&store, "a"), Leader::start(&store, "b")];
        reader.until(secs(12), |r| r.takes("b") == Routability::Placements).await;
        reader.told();
        reader.all_along(TTL * 20, |r| r.takes("a") == Routability::Placements && !r.table.is_stale()).await;
        assert_eq!(reader.told(), [], "many TTLs pass and nothing happens");
    }
}

#[tokio::test(start_paused = true)]
async fn a_datacenter_that_dies_leaves_within_its_ttl_through_the_watch() {
    let store = store();
    let reader = Reader::watching(&store);
    let (dead, _well) = (Leader::start(&store, "a"), Leader::start(&store, "b"));
    reader.until(secs(1), |r| r.takes("a") == Routability::Placements).await;
    drop(dead);
    let delay = reader.until(TTL + secs(1), |r| r.takes("a") == Routability::Nothing).await;
    assert!(delay >= TTL - secs(2), "P3: not before its TTL, {delay:?}");
    assert_eq!(reader.takes("b"), Routability::Placements);
}

#[tokio::test(start_paused = true)]
async fn c2_a_silent_expiry_is_seen_at_the_end_of_the_lease() {
    let store = store();
    store.set_silent_expiry(true);
    let reader = Reader::watching(&store);
    let (dead, _well) = (Leader::start(&store, "a"), Leader::start(&store, "b"));
    reader.until(secs(1), |r| r.takes("b") == Routability::Placements).await;
    drop(dead);
    reader.until(TTL + secs(12), |r| r.takes("a") == Routability::Nothing).await;
    assert_eq!(reader.takes("b"), Routability::Placements);
}

#[tokio::test(start_paused = true)]
async fn c2_the_end_of_a_lease_is_not_waited_out_until_the_next_interval() {
    let store = store();
    let options =
        CacheOptions::builder().cache_refresh_interval(secs(600)).max_cache_staleness(secs(1_200)).build().unwrap();
    let memory = MemoryOptions { watch: false, ..MemoryOptions::default() };
    let _leader = Leader::start(&store, "a");
    tokio::time::sleep(secs(1)).await;
    let mut reader = Reader::start(&store, memory, options);
    reader.until(secs(1), |r| r.takes("a") == Routability::Placements).await;
    reader.told();
    reader.all_along(TTL * 10, |r| r.takes("a") == Routability::Placements).await;
    assert_eq!(reader.told(), []);
    let lists = reader.plane.calls(Operation::List);
    assert!((10..=12).contains(&lists), "one list for each lease, got {lists}");
}

#[tokio::test(start_paused = true)]
async fn a_first_list_that_fails_is_recovered_from() {
    let store = store();
    let options = CacheOptions::builder().watch_enabled(false).build().unwrap();
    store.stop();
    let mut reader = Reader::start(&store, MemoryOptions::default(), options);
    tokio::time::sleep(secs(100)).await;
    assert!(!reader.table.ever_in_step() && reader.table.is_stale());
    assert_eq!(reader.table.last_refresh(), None);
    assert_eq!(reader.table.freshness(TokioClock.now()), Freshness::Never);
    let _leader = Leader::start(&store, "a");
    store.start();
    reader.until(secs(34), |r| r.takes("a") == Routability::Placements).await;
    assert_eq!(reader.told()[0], TableEvent::Joined { id: id("a"), state: DataCenterState::Active });
}

#[tokio::test(start_paused = true)]
async fn lists_that_fail_back_off_to_the_cap() {
    let store = store();
    let options = CacheOptions::builder().watch_enabled(false).build().unwrap();
    store.stop();
    let reader = Reader::start(&store, MemoryOptions::default(), options);
    // 0.2, 0.4, .. 25.6, 30, 30: nine attempts in the first 51.2 s, then one in 30 s.
    tokio::time::sleep(secs(40)).await;
    let first = reader.plane.calls(Operation::List);
    assert!((8..=9).contains(&first), "{first}");
    tokio::time::sleep(secs(3_000)).await;
    let later = reader.plane.calls(Operation::List) - first;
    assert!((95..=108).contains(&later), "{later} in 3,000 s");
}

#[tokio::test(start_paused = true)]
async fn a_lost_watch_is_listed_and_opened_again() {
    let store = store();
    let reader = Reader::watching(&store);
    let _leader = Leader::start(&store, "a");
    reader.until(secs(1), |r| r.table.is_watching() && r.takes("a") == Routability::Placements).await;
    for lost in 2..5 {
        store.forget(&id("a"));
        store.lose_watches("compacted");
        reader.until(secs(1), |r| r.seen("a").is_none()).await;
        reader.until(secs(1), |r| r.table.is_watching()).await;
        assert_eq!(reader.plane.calls(Operation::Watch), lost);
        // Its leader finds out with its next heartbeat.
        reader.until(secs(12), |r| r.takes("a") == Routability::Placements).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_cannot_be_opened_backs_off_and_lists_go_on() {
    let store = store();
    let plane_options = MemoryOptions::default();
    let reader = Reader::start(&store, plane_options, CacheOptions::default());
    reader.plane.fail_next(Operation::Watch, Failure::Unreachable, 1_000);
    reader.table.until_in_step().await;
    tokio::time::sleep(secs(300)).await;
    let attempts = reader.plane.calls(Operation::Watch);
    assert!((14..=20).contains(&attempts), "doubling to 30 s, got {attempts} in 300 s");
    assert!(!reader.table.is_stale(), "lists keep it in step");
    assert!(reader.plane.calls(Operation::List) >= 28);
}

#[tokio::test(start_paused = true)]
async fn c5_an_outage_keeps_the_last_view_and_its_end_spares_the_living() {
    for memory in [MemoryOptions::default(), MemoryOptions { watch: false, ..MemoryOptions::default() }] {
        let store = store();
        let mut reader = Reader::start(&store, memory, CacheOptions::default());
        let (_a, b) = (Leader::start(&store, "a"), Leader::start(&store, "b"));
        reader.until(secs(12), |r| r.takes("b") == Routability::Placements).await;
        store.stop();
        reader.until(secs(45), |r| r.table.is_stale()).await;
        reader.all_along(secs(3_600), |r| r.takes("a") == Routability::Placements).await;
        assert!(reader.table.ever_in_step(), "D7");
        drop(b);
        reader.told();
        store.start();
        // The store has expired both. One registers again, the other is dead.
        reader.until(secs(34), |r| !r.table.is_stale()).await;
        reader
            .all_along(secs(25), |r| r.takes("a") >= Routability::Traffic && r.takes("b") == Routability::Traffic)
            .await;
        assert_eq!(reader.takes("a"), Routability::Placements);
        reader.until(secs(8), |r| r.seen("b").is_none()).await;
        let told = reader.told();
        assert!(told.contains(&TableEvent::Fresh) && told.contains(&TableEvent::Grace { id: id("b"), left: TTL }));
    }
}

#[tokio::test(start_paused = true)]
async fn c5_a_wiped_store_is_started_afresh_with_and_nobody_is_dropped() {
    let store = store();
    let mut reader = Reader::watching(&store);
    let _leader = Leader::start(&store, "a");
    reader.until(secs(1), |r| r.takes("a") == Routability::Placements).await;
    store.wipe();
    reader.all_along(secs(5), |r| r.takes("a") >= Routability::Traffic).await;
    assert_eq!(reader.table.store(), Some(store.id()));
    reader.until(secs(12), |r| r.takes("a") == Routability::Placements).await;
    reader.until(secs(1), |r| r.table.is_watching()).await;
    let told = reader.told();
    assert!(told.iter().any(|event| matches!(event, TableEvent::StoreChanged { .. })), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn c3_a_store_that_is_set_back_is_noticed() {
    let store = store();
    let mut reader = Reader::watching(&store);
    let _leader = Leader::start(&store, "a");
    reader.until(secs(1), |r| r.takes("a") == Routability::Placements).await;
    let before = store.checkpoint();
    let _late = Leader::start(&store, "b");
    reader.until(secs(1), |r| r.takes("b") == Routability::Placements).await;
    store.roll_back(&before);
    reader.until(secs(1), |r| r.seen("b") == Some(Seen::Grace)).await;
    assert_eq!(reader.takes("a"), Routability::Placements);
    reader.until(secs(12), |r| r.takes("b") == Routability::Placements).await;
    let set_back = TableEvent::StoreChanged { from: StoreId(1), to: StoreId(1) };
    assert!(reader.told().contains(&set_back));
}

#[tokio::test(start_paused = true)]
async fn a_frozen_store_is_given_up_after_the_request_timeout() {
    let store = store();
    let options = CacheOptions::builder().watch_enabled(false).request_timeout(secs(1)).build().unwrap();
    let memory = MemoryOptions { request_timeout: secs(3_600), ..MemoryOptions::default() };
    let reader = Reader::start(&store, memory, options);
    reader.table.until_in_step().await;
    store.freeze();
    tokio::time::sleep(secs(60)).await;
    assert!(reader.plane.calls(Operation::List) > 3);
    store.unfreeze();
    reader.until(secs(35), |r| !r.table.is_stale()).await;
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_record_is_left_out_and_reported_once() {
    let store = store();
    store.write_raw("records/broken", b"{");
    let _leader = Leader::start(&store, "a");
    let mut reader = Reader::watching(&store);
    reader.until(secs(1), |r| r.takes("a") == Routability::Placements).await;
    tokio::time::sleep(secs(100)).await;
    let skipped = reader.told().into_iter().filter(|event| matches!(event, TableEvent::Skipped(_))).count();
    assert_eq!(skipped, 1);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_asked_for_does_not_wait_for_the_interval() {
    let store = store();
    let reader = Reader::polling(&store);
    reader.table.until_in_step().await;
    let _leader = Leader::start(&store, "a");
    tokio::time::sleep(secs(1)).await;
    assert_eq!(reader.takes("a"), Routability::Nothing);
    reader.table.refresh();
    reader.until(secs(1), |r| r.takes("a") == Routability::Placements).await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_asked_for_while_a_list_is_under_way_makes_another() {
    let store = store();
    let reader = Reader::polling(&store);
    reader.table.until_in_step().await;
    tokio::time::sleep(secs(1)).await;
    reader.plane.delay(secs(2));
    reader.table.refresh();
    // The store has read by then, and its answer is on its way.
    tokio::time::sleep(secs(1) + Duration::from_millis(500)).await;
    let _leader = Leader::start(&store, "a");
    tokio::time::sleep(Duration::from_millis(100)).await;
    reader.table.refresh();
    reader.until(secs(5), |r| r.takes("a") == Routability::Placements).await;
}

#[tokio::test(start_paused = true)]
async fn a_stopped_task_asks_nothing_more_and_the_table_keeps_its_view() {
    let store = store();
    let reader = Reader::watching(&store);
    let _leader = Leader::start(&store, "a");
    reader.until(secs(1), |r| r.takes("a") == Routability::Placements).await;
    let Reader { plane, table, task, .. } = reader;
    task.stop().await;
    let calls = plane.calls(Operation::List) + plane.calls(Operation::Watch);
    tokio::time::sleep(secs(1_000)).await;
    assert_eq!(plane.calls(Operation::List) + plane.calls(Operation::Watch), calls);
    assert!(table.snapshot().get(&id("a")).is_some_and(|entry| entry.takes_placements()));
    assert!(table.is_stale() && table.ever_in_step() && !table.is_watching());
}

#[tokio::test(start_paused = true)]
async fn stopping_does_not_wait_for_a_request_that_hangs() {
    let store = store();
    store.freeze();
    let reader = Reader::watching(&store);
    tokio::task::yield_now().await;
    let begun = TokioClock.now();
    reader.task.stop().await;
    assert_eq!(TokioClock.now() - begun, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_records_are_taken_in() {
    let store = store();
    let plane = MemoryControlPlane::new(&store);
    for number in 0..10_000 {
        plane.register(&record(&format!("dc-{number}")), Expected::Absent).await.unwrap();
    }
    let memory = MemoryOptions { watch_backlog: 20_000, ..MemoryOptions::default() };
    let reader = Reader::start(&store, memory, CacheOptions::default());
    reader.until(secs(5), |r| r.table.snapshot().len() == 10_000).await;
    reader.until(secs(5), |r| r.table.is_watching()).await;
}
