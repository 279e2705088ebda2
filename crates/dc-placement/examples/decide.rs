//! Prints what one routing decision costs: `cargo run --release -p dc-placement --example decide`.
//!
//! A decision is: the snapshot is there, `choose` is called, the first endpoint
//! is read. The names that are asked for change with each decision.

use std::{hint::black_box, sync::Arc, time::Duration};

use dc_core::{
    Clock, DataCenter, DataCenterRecord, DataCenterSelector, DataCenterState, Entry, Epoch, Freshness, Lease,
    NodeEndpoint, NodeId, Owner, Seen, Selector, Snapshot, StoreId, SystemClock, Version,
};
use dc_placement::{Request, Strategy, choose};

/// Short rounds, of which the best counts: on a busy machine long ones measure the neighbours.
const DECISIONS: u64 = 10_000;
const ROUNDS: u64 = 100;

fn entry(number: usize) -> Arc<Entry> {
    let dc = DataCenter::new(format!("dc-{number}"))
        .region(format!("region-{}", number % 5))
        .label("tier", tier(number))
        .build()
        .expect("a valid datacenter");
    let endpoints: Vec<NodeEndpoint> = (0..3)
        .map(|node| {
            let text = format!("10.{}.{}.{node}:7946", number / 256, number % 256);
            NodeEndpoint::new(NodeId(node), text.parse().expect("a valid endpoint"))
        })
        .collect();
    let record = DataCenterRecord {
        owner: Owner { node: NodeId(0), endpoint: endpoints[0].endpoint.clone() },
        data_center: dc,
        endpoints,
        state: DataCenterState::Active,
        ttl: Duration::from_secs(30),
        epoch: Epoch::FIRST,
        handed_over: false,
        written_at_ms: 0,
        version: Version::new(StoreId(1), 1),
        unknown: serde_json::Map::new(),
    };
    let lease = Lease::new(SystemClock.now(), record.ttl);
    Arc::new(Entry::new(Arc::new(record), None, lease, Seen::Live))
}

fn measure(what: &str, count: usize, snapshot: &Snapshot, selectors: &[DataCenterSelector], strategy: Strategy) {
    // An argument picks what is measured, for a profiler.
    if std::env::args().nth(1).is_some_and(|wanted| !what.contains(&wanted)) {
        return;
    }
    let fresh = Freshness::Fresh { age: Duration::ZERO };
    let mut best = f64::MAX;
    for round in 0..ROUNDS {
        let begun = SystemClock.now();
        for seed in 0..DECISIONS {
            // Another selector each time, in an order that the processor cannot foresee.
            let drawn = u128::from(dc_core::snapshot::hash::mix(seed ^ round));
            let at = ((drawn * selectors.len() as u128) >> 64) as usize;
            let request = Request::placement(&selectors[at], fresh).strategy(strategy);
            match choose(snapshot, &request, seed) {
                Ok(choice) => drop(black_box(choice.endpoint())),
                Err(refusal) => panic!("{refusal}"),
            }
        }
        best = best.min((SystemClock.now() - begun).as_nanos() as f64 / DECISIONS as f64);
    }
    println!("{count:>6} records  {what:<28} {best:6.1} ns per decision");
}

fn main() {
    for count in [3, 100, 10_000] {
        let mut snapshot = Snapshot::default();
        let entries: Vec<Arc<Entry>> = (0..count).map(entry).collect();
        let begun = SystemClock.now();
        for entry in &entries {
            snapshot.put(Arc::clone(entry));
        }
        let built = SystemClock.now() - begun;
        let asked = || entries.iter().take(512);
        let by_id: Vec<_> = asked().map(|entry| Selector::id(entry.id().clone())).collect();
        let by_name: Vec<_> = asked().map(|entry| Selector::name(entry.data_center().name())).collect();
        let by_region: Vec<_> = (0..count.min(5)).map(|n| Selector::region(format!("region-{n}"))).collect();
        let by_both: Vec<_> =
            (0..count.min(5)).map(|n| Selector::region(format!("region-{n}")).label("tier", tier(n))).collect();
        measure("by id", count, &snapshot, &by_id, Strategy::Random);
        measure("by name", count, &snapshot, &by_name, Strategy::Random);
        measure("by region", count, &snapshot, &by_region, Strategy::Random);
        measure("by region and label", count, &snapshot, &by_both, Strategy::Random);
        measure("any, round-robin", count, &snapshot, &[Selector::any()], Strategy::RoundRobin);
        measure("by region, nearest", count, &snapshot, &by_region, Strategy::Nearest);
        single_changes(count, &snapshot, &entries, built);
    }
}

fn tier(number: usize) -> &'static str {
    if number.is_multiple_of(2) { "edge" } else { "core" }
}

/// What it costs to publish one change: clone, change, drop the old.
fn single_changes(count: usize, snapshot: &Snapshot, entries: &[Arc<Entry>], built: Duration) {
    const CHANGES: usize = 2_000;
    let mut published = Arc::new(snapshot.clone());
    let mut publish = |change: &dyn Fn(&mut Snapshot, usize)| {
        let begun = SystemClock.now();
        for number in 0..CHANGES {
            let mut next = (*published).clone();
            change(&mut next, number);
            published = Arc::new(next);
        }
        (SystemClock.now() - begun).as_nanos() / CHANGES as u128
    };
    let renewed = publish(&|next, number| {
        let entry = &entries[number % entries.len()];
        next.put(Arc::new(entry.renewed(entry.lease())));
    });
    let drained = publish(&|next, number| {
        let seen = if (number / entries.len()).is_multiple_of(2) { Seen::Grace } else { Seen::Live };
        next.put(Arc::new(entries[number % entries.len()].as_seen(seen)));
    });
    println!(
        "{count:>6} records  publish one renewal {renewed} ns, one change of routability {drained} ns; build all {built:?}"
    );
}
