//! A decision allocates nothing until it needs a second endpoint, or refuses.

use std::{sync::Arc, time::Duration};

use dc_core::{
    Clock, DataCenter, DataCenterRecord, DataCenterState, Entry, Epoch, Freshness, Lease, ManualClock, NodeEndpoint,
    NodeId, Owner, Seen, Selector, Snapshot, StoreId, Version,
};
use dc_placement::{Request, Strategy, choose};

#[test]
fn c1_a_decision_allocates_nothing() {
    let now = ManualClock::new().now();
    let mut snapshot = Snapshot::default();
    for number in 0..1_000 {
        let endpoint = |node: u128| format!("10.0.{node}.1:7946").parse::<dc_core::Endpoint>().unwrap();
        let record = DataCenterRecord {
            data_center: DataCenter::new(format!("dc-{number}")).region("eu").label("tier", "edge").build().unwrap(),
            endpoints: (0..3).map(|node| NodeEndpoint::new(NodeId(node), endpoint(node))).collect(),
            state: DataCenterState::Active,
            ttl: Duration::from_secs(30),
            owner: Owner { node: NodeId(0), endpoint: endpoint(0) },
            epoch: Epoch::FIRST,
            handed_over: false,
            written_at_ms: 0,
            version: Version::new(StoreId(1), 1),
            unknown: serde_json::Map::new(),
        };
        let lease = Lease::new(now, record.ttl);
        snapshot.put(Arc::new(Entry::new(Arc::new(record), None, lease, Seen::Live)));
    }
    let boxed = allocation_counter::measure(|| drop(std::hint::black_box(Box::new(1))));
    assert_eq!(boxed.count_total, 1, "the counter counts");
    let fresh = Freshness::Fresh { age: Duration::ZERO };
    let selectors = [Selector::name("dc-7"), Selector::region("eu"), Selector::region("eu").label("tier", "edge")];
    let dead = ["10.0.0.1:7946".parse().unwrap()];
    for strategy in
        [Strategy::Random, Strategy::RoundRobin, Strategy::Nearest, Strategy::LeastLoaded, Strategy::Weighted]
    {
        let used = allocation_counter::measure(|| {
            for seed in 0..100 {
                for selector in &selectors {
                    let request = Request::placement(selector, fresh).strategy(strategy).exclude(&dead);
                    let choice = choose(&snapshot, &request, seed).expect("there is one");
                    assert_eq!(choice.endpoints().next(), Some(choice.endpoint()));
                }
            }
        });
        assert_eq!(used.count_total, 0, "{strategy}");
    }
}
