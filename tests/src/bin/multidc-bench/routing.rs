//! One routing decision, as a spawn makes it: the snapshot, the time, the choice of datacenter and endpoint.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use dc_core::{
    Clock, DataCenter, DataCenterRecord, DataCenterSelector, DataCenterState, Entry, Epoch, Lease, NodeEndpoint,
    NodeId, Owner, Selector, Snapshot, StoreId, SystemClock, Version,
    snapshot::{Freshness, Seen},
};
use dc_placement::{Request, choose};

use crate::table;

fn record(n: usize) -> DataCenterRecord {
    let node = NodeId(n as u128 + 1);
    let endpoint: dc_core::Endpoint = format!("10.{}.{}.1:7946", n / 256, n % 256).parse().expect("an endpoint");
    DataCenterRecord {
        data_center: DataCenter::new(format!("dc-{n}"))
            .region(format!("region-{}", n % 3))
            .label("tier", "edge")
            .build()
            .expect("a datacenter"),
        endpoints: (0..4).map(|_| NodeEndpoint::new(node, endpoint.clone())).collect(),
        state: DataCenterState::Active,
        ttl: Duration::from_secs(30),
        owner: Owner { node, endpoint },
        epoch: Epoch::FIRST,
        handed_over: false,
        written_at_ms: 0,
        version: Version::new(StoreId(1), n as u64 + 1),
        unknown: Default::default(),
    }
}

fn snapshot(records: usize) -> Snapshot {
    let now = SystemClock.now();
    let mut snapshot = Snapshot::default();
    for n in 0..records {
        let record = Arc::new(record(n));
        let lease = Lease::new(now, record.ttl);
        snapshot.put(Arc::new(Entry::new(record, None, lease, Seen::Live)));
    }
    snapshot
}

pub(crate) fn run(time: Duration) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for records in [3, 100, 10_000] {
        let published = arc_swap::ArcSwap::from_pointee(snapshot(records));
        let by_id = Selector::id(record(records / 2).id().clone());
        let mut row = vec![records.to_string(), clock(time)];
        for selector in [
            by_id,
            Selector::name(format!("dc-{}", records / 2)),
            Selector::region("region-1"),
            Selector::label("tier", "edge"),
        ] {
            row.push(decision(&published, &selector, time));
        }
        row.push(single_change(records, time));
        rows.push(row);
    }
    let head = ["records", "clock alone", "by id", "by name", "by region", "by label", "one change"];
    table::print("One routing decision (goal: under 100 ns, flat)", &head, &rows);
    Ok(())
}

/// The floor: what reading the clock costs.
fn clock(time: Duration) -> String {
    per_call(time, |_| {
        black_box(SystemClock.now());
    })
}

fn decision(published: &arc_swap::ArcSwap<Snapshot>, selector: &DataCenterSelector, time: Duration) -> String {
    let since = SystemClock.now();
    per_call(time, |seed| {
        let snapshot = published.load();
        let age = SystemClock.now().saturating_duration_since(since);
        let freshness =
            if age > Duration::from_secs(3600) { Freshness::Stale { age } } else { Freshness::Fresh { age } };
        let choice = choose(&snapshot, &Request::placement(selector, freshness), seed);
        black_box(choice.expect("a datacenter").endpoint());
    })
}

/// A renewal of one record: what the table's task pays for each change.
fn single_change(records: usize, time: Duration) -> String {
    let mut snapshot = snapshot(records);
    let ids: Vec<_> = (0..records).map(|n| record(n).id().clone()).collect();
    let published = arc_swap::ArcSwap::from_pointee(snapshot.clone());
    per_call(time, |seed| {
        let id = &ids[seed as usize % ids.len()];
        let entry = snapshot.get(id).expect("known").renewed(Lease::new(SystemClock.now(), Duration::from_secs(30)));
        snapshot.put(Arc::new(entry));
        published.store(Arc::new(snapshot.clone()));
    })
}

fn per_call(time: Duration, mut call: impl FnMut(u64)) -> String {
    let mut seed = 0_u64;
    for _ in 0..1000 {
        seed += 1;
        call(seed);
    }
    let (start, mut calls) = (Instant::now(), 0_u64);
    while start.elapsed() < time / 4 {
        for _ in 0..1000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            call(seed);
        }
        calls += 1000;
    }
    format!("{:.0} ns", start.elapsed().as_secs_f64() * 1e9 / calls as f64)
}
