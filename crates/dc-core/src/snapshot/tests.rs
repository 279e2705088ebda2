//! The snapshot against a naive model, and what its structure promises.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::*;
use crate::{
    Clock, DataCenter, DataCenterRecord, DataCenterState, Epoch, Intent, IntentKind, Lease, ManualClock, NodeEndpoint,
    NodeId, Owner, Selector, StoreId, Version,
};

fn record(dc: DataCenter, state: DataCenterState) -> DataCenterRecord {
    let endpoint: crate::Endpoint = "n.example:7946".parse().unwrap();
    let owner = Owner { node: NodeId(1), endpoint: endpoint.clone() };
    DataCenterRecord {
        data_center: dc,
        endpoints: vec![NodeEndpoint::new(NodeId(1), endpoint)],
        state,
        ttl: Duration::from_secs(30),
        owner,
        epoch: Epoch::FIRST,
        handed_over: false,
        written_at_ms: 0,
        version: Version::new(StoreId(1), 1),
        unknown: serde_json::Map::new(),
    }
}

fn entry(dc: DataCenter, state: DataCenterState, want: IntentKind, seen: Seen, now: Instant) -> Arc<Entry> {
    let intent =
        (want != IntentKind::Serve).then(|| (Arc::new(Intent::new(want, "ops", "")), Version::new(StoreId(1), 1)));
    Arc::new(Entry::new(Arc::new(record(dc, state)), intent, Lease::new(now, Duration::from_secs(30)), seen))
}

fn numbered(number: usize, now: Instant) -> Arc<Entry> {
    let dc = DataCenter::new(format!("dc-{number:05}")).region(format!("region-{}", number % 5)).build().unwrap();
    entry(dc, DataCenterState::Active, IntentKind::Serve, Seen::Live, now)
}

#[test]
fn c6_grace_takes_traffic_only_and_expired_nothing() {
    use DataCenterState::*;
    let now = ManualClock::new().now();
    let dc = || DataCenter::new("a").build().unwrap();
    for (state, want, seen, takes) in [
        (Active, IntentKind::Serve, Seen::Live, Routability::Placements),
        (Active, IntentKind::Serve, Seen::Grace, Routability::Traffic),
        (Draining, IntentKind::Serve, Seen::Grace, Routability::Traffic),
        (Inactive, IntentKind::Serve, Seen::Grace, Routability::Nothing),
        (Active, IntentKind::Out, Seen::Live, Routability::Traffic),
        (Active, IntentKind::Serve, Seen::Expired, Routability::Nothing),
    ] {
        assert_eq!(entry(dc(), state, want, seen, now).routability(), takes, "{state} {want} {seen:?}");
    }
}

#[test]
fn a_change_of_ten_thousand_copies_only_what_it_touches() {
    let now = ManualClock::new().now();
    let mut snapshot = Snapshot::default();
    for number in 0..10_000 {
        snapshot.put(numbered(number, now));
    }
    let before = snapshot.clone();
    // A renewal: one chunk of slots, no index.
    let renewed = numbered(4_321, now + Duration::from_secs(1));
    snapshot.put(Arc::clone(&renewed));
    assert_eq!(snapshot.slots.shared_chunks(&before.slots), (156, 157));
    for (one, other) in [(&snapshot.by_name, &before.by_name), (&snapshot.by_region, &before.by_region)] {
        assert!(one.shares_all_with(other), "a renewal touches no index");
    }
    assert!(snapshot.by_id.shares_all_with(&before.by_id) && Arc::ptr_eq(&snapshot.homes, &before.homes));
    // A new one: also its shard of each index.
    let before = snapshot.clone();
    snapshot.put(numbered(10_000, now));
    assert_eq!(snapshot.slots.shared_chunks(&before.slots), (156, 157));
    assert_eq!(snapshot.by_id.shared_shards(&before.by_id), 255);
    // What was published stays as it was.
    assert!(before.get(numbered(10_000, now).id()).is_none());
    assert_eq!((before.len(), snapshot.len()), (10_000, 10_001));
}

#[test]
fn the_generation_grows_with_changes_and_not_with_renewals() {
    let now = ManualClock::new().now();
    let mut snapshot = Snapshot::default();
    let one = numbered(1, now);
    snapshot.put(Arc::clone(&one));
    let before = snapshot.generation();
    snapshot.put(Arc::new(one.renewed(Lease::new(now + Duration::from_secs(9), Duration::from_secs(30)))));
    assert_eq!(snapshot.generation(), before);
    snapshot.put(Arc::new(one.as_seen(Seen::Grace)));
    assert!(snapshot.generation() > before);
    let before = snapshot.generation();
    snapshot.remove(one.id());
    assert!(snapshot.generation() > before);
    assert_eq!(snapshot.remove(one.id()).map(|_| ()), None);
}

#[test]
fn g2_homes_are_spread_evenly_and_few_keys_move() {
    let now = ManualClock::new().now();
    let mut snapshot = Snapshot::default();
    for number in 0..10 {
        snapshot.put(numbered(number, now));
    }
    let keys: Vec<String> = (0..10_000).map(|number| format!("cart/user-{number}")).collect();
    let homes = |snapshot: &Snapshot| -> Vec<DataCenterId> {
        keys.iter().map(|key| snapshot.home_of(key.as_bytes()).unwrap().id().clone()).collect()
    };
    let before = homes(&snapshot);
    for number in 0..10 {
        let share = before.iter().filter(|home| *home == numbered(number, now).id()).count();
        assert!((850..1_150).contains(&share), "dc-{number} is home to {share} of 10,000");
    }
    let gone = numbered(3, now);
    snapshot.remove(gone.id());
    for (old, new) in before.iter().zip(homes(&snapshot)) {
        assert!(*old == new || old == gone.id(), "G2: only what lived in the lost DC moves");
    }
    snapshot.put(numbered(10, now));
    let moved = before.iter().zip(homes(&snapshot)).filter(|(old, new)| *old != new && *old != gone.id()).count();
    assert!((700..1_100).contains(&moved), "a joining DC takes about a tenth of the others' keys, took {moved}");
}

#[test]
fn g2_a_home_is_pinned_to_the_letter() {
    // Another answer here is another home for every grain, between nodes of different versions.
    let now = ManualClock::new().now();
    let mut snapshot = Snapshot::default();
    for number in 0..5 {
        snapshot.put(numbered(number, now));
    }
    let homes: Vec<&str> = ["a", "cart/user-42", "", "grain/ä"]
        .iter()
        .map(|key| snapshot.home_of(key.as_bytes()).unwrap().data_center().name())
        .collect();
    assert_eq!(homes, ["dc-00001", "dc-00000", "dc-00002", "dc-00000"]);
}

#[derive(Clone, Debug)]
struct Spec {
    name: u8,
    region: Option<u8>,
    zone: Option<u8>,
    labels: Vec<(u8, u8)>,
    state: DataCenterState,
    want: IntentKind,
    seen: Seen,
}

impl Spec {
    fn data_center(&self) -> DataCenter {
        let mut dc = DataCenter::new(format!("n{}", self.name));
        if let Some(region) = self.region {
            dc = dc.region(format!("r{region}"));
        }
        if let Some(zone) = self.zone {
            dc = dc.zone(format!("z{zone}"));
        }
        for (key, value) in &self.labels {
            dc = dc.label(format!("k{key}"), if *value == 0 { String::new() } else { format!("v{value}") });
        }
        dc.build().unwrap()
    }
}

fn spec() -> impl Strategy<Value = Spec> {
    let state = prop_oneof![
        3 => Just(DataCenterState::Active),
        1 => Just(DataCenterState::Draining),
        1 => Just(DataCenterState::Inactive),
    ];
    let want = prop_oneof![3 => Just(IntentKind::Serve), 1 => Just(IntentKind::Drain)];
    let seen = prop_oneof![4 => Just(Seen::Live), 1 => Just(Seen::Grace), 1 => Just(Seen::Expired)];
    (
        0..6_u8,
        proptest::option::of(0..3_u8),
        proptest::option::of(0..2_u8),
        proptest::collection::vec((0..2_u8, 0..3_u8), 0..3),
        state,
        want,
        seen,
    )
        .prop_map(|(name, region, zone, labels, state, want, seen)| Spec {
            name,
            region,
            zone,
            labels,
            state,
            want,
            seen,
        })
}

fn selector() -> impl Strategy<Value = DataCenterSelector> {
    (
        proptest::option::of(0..7_u8),
        proptest::option::of(0..4_u8),
        proptest::option::of(0..3_u8),
        proptest::collection::vec((0..2_u8, 0..3_u8), 0..2),
        proptest::option::weighted(0.2, spec()),
    )
        .prop_map(|(name, region, zone, labels, id)| {
            let mut selector = Selector::any();
            selector.name = name.map(|name| format!("n{name}"));
            selector.region = region.map(|region| format!("r{region}"));
            selector.zone = zone.map(|zone| format!("z{zone}"));
            for (key, value) in labels {
                selector =
                    selector.label(format!("k{key}"), if value == 0 { String::new() } else { format!("v{value}") });
            }
            selector.id = id.map(|spec| spec.data_center().id().clone());
            selector
        })
}

fn ids<'a>(entries: impl Iterator<Item = &'a Arc<Entry>>) -> Vec<(DataCenterId, Routability, Seen)> {
    entries.map(|entry| (entry.id().clone(), entry.routability(), entry.seen())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn l1_every_index_agrees_with_a_scan(
        changes in proptest::collection::vec((spec(), any::<bool>()), 0..60),
        selectors in proptest::collection::vec(selector(), 1..12),
        keys in proptest::collection::vec(any::<Vec<u8>>(), 1..4),
    ) {
        let now = ManualClock::new().now();
        let mut snapshot = Snapshot::default();
        let mut model: BTreeMap<DataCenterId, Arc<Entry>> = BTreeMap::new();
        // Old versions must not feel later changes.
        let mut kept = Vec::new();
        for (spec, keep) in &changes {
            let dc = spec.data_center();
            if *keep {
                let entry = entry(dc.clone(), spec.state, spec.want, spec.seen, now);
                let old = snapshot.put(Arc::clone(&entry));
                prop_assert_eq!(old.is_some(), model.insert(dc.id().clone(), entry).is_some());
            } else {
                prop_assert_eq!(snapshot.remove(dc.id()).is_some(), model.remove(dc.id()).is_some());
            }
            kept.push((snapshot.clone(), model.clone()));
        }
        kept.push((snapshot, model));
        let recent = kept.len().saturating_sub(3);
        for (snapshot, model) in kept.iter().take(2).chain(&kept[recent..]) {
            prop_assert_eq!(snapshot.len(), model.len());
            for (id, entry) in model {
                prop_assert!(snapshot.get(id).is_some_and(|found| Arc::ptr_eq(found, entry)));
            }
            for selector in &selectors {
                for at_least in [Routability::Nothing, Routability::Traffic, Routability::Placements] {
                    let candidates = snapshot.candidates(selector, at_least);
                    let mut want = ids(model
                        .values()
                        .filter(|entry| selector.matches(entry.data_center()) && entry.routability() >= at_least));
                    // By id, placements first: the model is by id already.
                    want.sort_by_key(|(_, class, _)| std::cmp::Reverse(*class));
                    prop_assert_eq!(ids(candidates.iter()), want, "{} at least {:?}", selector, at_least);
                    prop_assert!(candidates.get(candidates.len()).is_none());
                    prop_assert!(!candidates.is_exact() || candidates.iter().count() == candidates.len());
                }
            }
            let homes: Vec<_> = model.values().filter(|entry| entry.takes_traffic()).collect();
            prop_assert_eq!(ids(snapshot.homes()), ids(homes.iter().copied()));
            for key in &keys {
                let score = |entry: &Entry| hash::score(hash::data_center(entry.id().as_str()), hash::key(key));
                let mut ranked = homes.clone();
                ranked.sort_by_key(|entry| std::cmp::Reverse(score(entry)));
                prop_assert_eq!(ids(snapshot.homes_ranked(key).into_iter()), ids(ranked.iter().copied()));
                prop_assert_eq!(ids(snapshot.home_of(key).into_iter()), ids(ranked.iter().copied().take(1)));
                let placeable = ranked.iter().copied().find(|entry| entry.takes_placements());
                let found = snapshot.home_where(key, Entry::takes_placements);
                prop_assert_eq!(ids(found.into_iter()), ids(placeable.into_iter()));
            }
        }
    }

    #[test]
    fn l2_the_same_content_looks_the_same_whatever_happened_before(
        specs in proptest::collection::vec(spec(), 1..30),
        order in any::<u64>(),
    ) {
        let now = ManualClock::new().now();
        let content: BTreeMap<DataCenterId, Arc<Entry>> = specs
            .iter()
            .map(|spec| entry(spec.data_center(), spec.state, spec.want, spec.seen, now))
            .map(|entry| (entry.id().clone(), entry))
            .collect();
        let mut straight = Snapshot::default();
        content.values().for_each(|entry| drop(straight.put(Arc::clone(entry))));
        let mut shuffled: Vec<_> = content.values().collect();
        shuffled.sort_by_key(|entry| hash::mix(order ^ entry.home_hash()));
        let mut winding = Snapshot::default();
        for entry in &shuffled {
            winding.put(Arc::new(entry.as_seen(Seen::Grace)));
        }
        for entry in shuffled.iter().rev().step_by(2) {
            winding.remove(entry.id());
        }
        for entry in &shuffled {
            winding.put(Arc::clone(entry));
        }
        prop_assert_eq!(ids(straight.iter()), ids(winding.iter()));
        let any = Selector::any();
        for number in 0..straight.len() {
            let at = |snapshot: &Snapshot| ids(snapshot.candidates(&any, Routability::Nothing).get(number).into_iter());
            prop_assert_eq!(at(&straight), at(&winding));
        }
    }
}
