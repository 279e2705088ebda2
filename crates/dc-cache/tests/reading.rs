//! C1: reads are lock-free and allocation-free, and see one consistent snapshot.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dc_cache::{CacheOptions, RoutingTable, keep_in_step};
use dc_controlplane::{
    ControlPlane, Expected, TokioClock,
    memory::{MemoryControlPlane, MemoryStore},
};
use dc_core::{
    Clock, DataCenter, DataCenterRecord, DataCenterState, Epoch, NodeEndpoint, NodeId, Owner, Routability, Selector,
    StoreId, Version,
};

fn record(name: &str, endpoints: u16) -> DataCenterRecord {
    let endpoint = |port: u16| format!("{name}.example:{port}").parse::<dc_core::Endpoint>().unwrap();
    DataCenterRecord {
        data_center: DataCenter::new(name).region("eu").label("tier", "edge").build().unwrap(),
        endpoints: (1..=endpoints).map(|port| NodeEndpoint::new(NodeId(7), endpoint(port))).collect(),
        state: DataCenterState::Active,
        ttl: Duration::from_secs(30),
        owner: Owner { node: NodeId(7), endpoint: endpoint(1) },
        epoch: Epoch::FIRST,
        handed_over: false,
        written_at_ms: 0,
        version: Version::new(StoreId(0), 0),
        unknown: serde_json::Map::new(),
    }
}

#[tokio::test]
async fn c1_reads_allocate_nothing() {
    let store = MemoryStore::new(Arc::new(TokioClock));
    let plane = MemoryControlPlane::new(&store);
    for number in 0..100 {
        plane.register(&record(&format!("dc-{number}"), 3), Expected::Absent).await.unwrap();
    }
    let (clock, options) = (Arc::new(TokioClock), CacheOptions::default());
    let table = RoutingTable::new(clock.clone(), options);
    let task = keep_in_step(table.clone(), Arc::new(plane), options, clock, 1);
    tokio::time::timeout(Duration::from_secs(10), table.until_in_step()).await.expect("in step");
    task.stop().await;

    let id = record("dc-42", 1).id().clone();
    let selectors = [
        Selector::id(id.clone()),
        Selector::name("dc-7"),
        Selector::region("eu"),
        Selector::label("tier", "edge").region("eu").name("dc-9"),
        Selector::any(),
    ];
    let boxed = allocation_counter::measure(|| drop(std::hint::black_box(Box::new(1))));
    assert_eq!(boxed.count_total, 1, "the counter counts");
    // The first load of a thread sets up its debt list in arc-swap.
    drop(table.snapshot());
    let now = TokioClock.now();
    let used = allocation_counter::measure(|| {
        for _ in 0..100 {
            let snapshot = table.snapshot();
            assert!(snapshot.get(&id).is_some_and(|entry| !entry.endpoints().is_empty()));
            assert!(snapshot.home_of(b"cart/user-42").is_some());
            for selector in &selectors {
                let candidates = snapshot.candidates(selector, Routability::Placements);
                assert!(candidates.iter().next().is_some_and(|entry| candidates.matches(entry)));
            }
            assert!(!table.is_stale() && table.ever_in_step() && table.last_refresh().is_some());
            let _ = table.freshness(now);
        }
    });
    assert_eq!((used.count_total, used.bytes_total), (0, 0), "C1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_readers_see_one_consistent_snapshot_while_it_changes() {
    let store = MemoryStore::new(Arc::new(TokioClock));
    let plane = MemoryControlPlane::new(&store);
    let (clock, options) = (Arc::new(TokioClock), CacheOptions::default());
    let table = RoutingTable::new(clock.clone(), options);
    let task = keep_in_step(table.clone(), Arc::new(plane.clone()), options, clock, 1);
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (table, done) = (table.clone(), Arc::clone(&done));
            std::thread::spawn(move || {
                let (mut reads, mut last) = (0_u64, 0);
                while !done.load(Ordering::Acquire) {
                    let snapshot = table.snapshot();
                    assert!(snapshot.generation() >= last, "a reader never goes back");
                    last = snapshot.generation();
                    let all = snapshot.iter().count();
                    let found = snapshot.iter().filter(|entry| snapshot.get(entry.id()).is_some()).count();
                    let in_region = snapshot.candidates(&Selector::region("eu"), Routability::Nothing).len();
                    assert_eq!((all, found, in_region), (snapshot.len(), all, all), "C1: indexes and entries agree");
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    for number in 0..60_u16 {
        let mut record = record(&format!("dc-{}", number % 7), 1 + number % 3);
        match plane.get(record.id()).await.unwrap() {
            Some(held) if number % 2 == 0 => plane.deregister(record.id(), held.version).await.unwrap(),
            Some(held) => {
                record.version = held.version;
                plane.register(&record, Expected::Version(held.version)).await.map(drop).unwrap();
            }
            None => plane.register(&record, Expected::Absent).await.map(drop).unwrap(),
        }
        tokio::task::yield_now().await;
    }
    let held = plane.list_all().await.unwrap().records.len();
    let arrived = tokio::time::timeout(Duration::from_secs(10), async {
        while table.snapshot().len() != held {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    arrived.await.expect("the table ends at the store's view");
    done.store(true, Ordering::Release);
    for reader in readers {
        assert!(reader.join().expect("no reader failed") > 0);
    }
    task.stop().await;
}
