//! L1 to L4, C5 and C6 as a decision sees them; random worlds against a naive reading of the rules.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dc_core::{
    Clock, DataCenter, DataCenterId, DataCenterRecord, DataCenterSelector, DataCenterState, Endpoint, Entry, Epoch,
    Freshness, Intent, IntentKind, Lease, ManualClock, NodeEndpoint, NodeId, Owner, Seen, Selector, Snapshot, StoreId,
    Version,
};
use dc_placement::{
    COMPARED, Explanation, Purpose, Reason, Refusal, Request, RuledOut, Signals, Strategy, Verdict, choose, explain,
};
use proptest::{prelude::*, strategy::Strategy as _};

const FRESH: Freshness = Freshness::Fresh { age: Duration::ZERO };
const STALE: Freshness = Freshness::Stale { age: Duration::from_secs(31) };
const STRATEGIES: [Strategy; 5] =
    [Strategy::Random, Strategy::RoundRobin, Strategy::Nearest, Strategy::LeastLoaded, Strategy::Weighted];

#[derive(Clone, Debug)]
struct World {
    dcs: Vec<Spec>,
}

#[derive(Clone, Debug)]
struct Spec {
    dc: DataCenter,
    state: DataCenterState,
    intent: Option<Intent>,
    seen: Seen,
    /// The weights of its endpoints.
    weights: Vec<u32>,
}

fn dc(name: &str) -> Spec {
    Spec {
        dc: DataCenter::new(name).region("eu").build().unwrap(),
        state: DataCenterState::Active,
        intent: None,
        seen: Seen::Live,
        weights: vec![1, 1, 1],
    }
}

fn endpoint(dc: &DataCenter, number: usize) -> Endpoint {
    format!("n{number}.{}.example:7946", dc.name()).parse().unwrap()
}

fn snapshot(dcs: &[Spec]) -> Snapshot {
    let now = ManualClock::new().now();
    let mut snapshot = Snapshot::default();
    for spec in dcs {
        let endpoints: Vec<NodeEndpoint> = spec
            .weights
            .iter()
            .enumerate()
            .map(|(number, weight)| NodeEndpoint {
                node: NodeId(number as u128),
                endpoint: endpoint(&spec.dc, number),
                weight: *weight,
            })
            .collect();
        let record = DataCenterRecord {
            data_center: spec.dc.clone(),
            owner: Owner { node: NodeId(0), endpoint: endpoint(&spec.dc, 0) },
            endpoints,
            state: spec.state,
            ttl: Duration::from_secs(30),
            epoch: Epoch::FIRST,
            handed_over: false,
            written_at_ms: 0,
            version: Version::new(StoreId(1), 1),
            unknown: serde_json::Map::new(),
        };
        let lease = Lease::new(now, record.ttl);
        let intent = spec.intent.clone().map(|intent| (Arc::new(intent), record.version));
        snapshot.put(Arc::new(Entry::new(Arc::new(record), intent, lease, spec.seen)));
    }
    snapshot
}

fn id(name: &str) -> DataCenterId {
    DataCenter::new(name).region("eu").build().unwrap().id().clone()
}

/// What one decision came to: the datacenter and its endpoints in order.
fn answer(snapshot: &Snapshot, request: &Request<'_>, seed: u64) -> Result<(String, Vec<String>), Refusal> {
    choose(snapshot, request, seed).map(|choice| {
        let order = choice.endpoints().map(|node| node.endpoint.to_string()).collect();
        (choice.entry().data_center().name().to_owned(), order)
    })
}

#[test]
fn l1_no_match_names_what_was_asked_and_what_is_known() {
    let world = snapshot(&[dc("a"), dc("b")]);
    let selector = Selector::name("c").region("us").label("tier", "edge");
    let refused = answer(&world, &Request::placement(&selector, FRESH), 1).unwrap_err();
    assert_eq!(refused, Refusal::NotFound { selector: Box::new(selector), known: vec![id("a"), id("b")], total: 2 });
    assert_eq!(refused.to_string(), "no datacenter matches name=c region=us tier=edge; known: eu/a, eu/b");
    let nobody = answer(&Snapshot::default(), &Request::placement(&Selector::any(), FRESH), 1).unwrap_err();
    assert_eq!(nobody.to_string(), "no datacenter matches any datacenter; none is known");
}

#[test]
fn l1_a_refusal_is_bounded_however_many_are_known() {
    let many: Vec<Spec> = (0..500).map(|number| dc(&format!("dc-{number:03}"))).collect();
    let world = snapshot(&many);
    let selector = Selector::name("nowhere");
    match answer(&world, &Request::placement(&selector, FRESH), 1).unwrap_err() {
        Refusal::NotFound { known, total, .. } => {
            assert_eq!((known.len(), total), (Refusal::LISTED, 500));
            assert_eq!(known[0], id("dc-000"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn c6_a_refusal_says_who_wants_it_drained_and_why() {
    let drained = Spec { intent: Some(Intent::new(IntentKind::Drain, "ada", "disks")), ..dc("a") };
    let world = snapshot(&[drained]);
    let selector = Selector::name("a");
    let refused = answer(&world, &Request::placement(&selector, FRESH), 1).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "no datacenter that matches name=a takes placement: eu/a ada wants it to drain (disks)"
    );
    assert_eq!(answer(&world, &Request::traffic(&selector, FRESH), 1).unwrap().0, "a", "traffic goes on");
}

#[test]
fn c6_each_reason_is_told() {
    use DataCenterState::*;
    let intent = Intent::new(IntentKind::Out, "ada", "");
    let cases = [
        (Spec { state: Draining, ..dc("x") }, Purpose::Placement, Reason::State(Draining)),
        (Spec { state: Registered, ..dc("x") }, Purpose::Traffic, Reason::State(Registered)),
        (Spec { state: Inactive, ..dc("x") }, Purpose::Traffic, Reason::State(Inactive)),
        (Spec { state: Unknown, ..dc("x") }, Purpose::Traffic, Reason::State(Unknown)),
        (Spec { intent: Some(intent.clone()), ..dc("x") }, Purpose::Placement, Reason::Intent(intent)),
        (Spec { seen: Seen::Grace, ..dc("x") }, Purpose::Placement, Reason::Grace),
        (Spec { seen: Seen::Expired, ..dc("x") }, Purpose::Traffic, Reason::Expired),
    ];
    for (spec, purpose, reason) in cases {
        let world = snapshot(std::slice::from_ref(&spec));
        let selector = Selector::region("eu");
        let request = Request { purpose, ..Request::placement(&selector, FRESH) };
        let ruled_out = vec![RuledOut { id: id("x"), reason: reason.clone() }];
        let want = Refusal::NotPlaceable { selector: Box::new(selector.clone()), purpose, ruled_out, total: 1 };
        assert_eq!(answer(&world, &request, 1), Err(want), "{reason}");
    }
}

#[test]
fn c5_a_stale_table_refuses_placements_unless_told_otherwise() {
    let world = snapshot(&[dc("a")]);
    let selector = Selector::name("a");
    let strict = Request::placement(&selector, STALE);
    assert_eq!(answer(&world, &strict, 1), Err(Refusal::Stale { age: Duration::from_secs(31) }));
    let lenient = strict.fail_on_stale_cache(false);
    let choice = choose(&world, &lenient, 1).unwrap();
    assert_eq!(choice.stale(), Some(Duration::from_secs(31)), "it proceeds, and says so");
    assert_eq!(choice.detach().stale(), Some(Duration::from_secs(31)));
    let traffic = Request::traffic(&selector, STALE);
    assert!(answer(&world, &traffic, 1).is_ok(), "messages go on");
    assert_eq!(choose(&world, &Request::placement(&selector, FRESH), 1).unwrap().stale(), None);
}

#[test]
fn a_table_that_was_never_in_step_is_not_ready() {
    let selector = Selector::any();
    for request in [Request::placement(&selector, Freshness::Never), Request::traffic(&selector, Freshness::Never)] {
        assert_eq!(answer(&Snapshot::default(), &request, 1), Err(Refusal::NotReady));
        assert_eq!(answer(&snapshot(&[dc("a")]), &request.fail_on_stale_cache(false), 1), Err(Refusal::NotReady));
    }
}

#[test]
fn l3_an_excluded_endpoint_fails_nothing_while_another_is_left() {
    let world = snapshot(&[dc("a")]);
    let a = dc("a").dc;
    let selector = Selector::name("a");
    for strategy in STRATEGIES {
        for seed in 0..50 {
            let dead = [endpoint(&a, 0), endpoint(&a, 2)];
            let request = Request::placement(&selector, FRESH).strategy(strategy).exclude(&dead);
            let (_, order) = answer(&world, &request, seed).unwrap();
            assert_eq!(order, [endpoint(&a, 1).to_string()], "{strategy}");
            let all = [endpoint(&a, 0), endpoint(&a, 1), endpoint(&a, 2)];
            let request = request.exclude(&all);
            let refused = answer(&world, &request, seed).unwrap_err();
            assert!(matches!(&refused, Refusal::NoEndpoints { total: 1, .. }), "{refused}");
        }
    }
}

#[test]
fn l3_a_datacenter_without_endpoints_left_gives_way_to_another() {
    let world = snapshot(&[dc("a"), dc("b")]);
    let a = dc("a").dc;
    let dead: Vec<Endpoint> = (0..3).map(|number| endpoint(&a, number)).collect();
    let selector = Selector::region("eu");
    for strategy in STRATEGIES {
        for seed in 0..50 {
            let request = Request::placement(&selector, FRESH).strategy(strategy).exclude(&dead);
            assert_eq!(answer(&world, &request, seed).unwrap().0, "b", "{strategy}");
        }
    }
}

#[test]
fn l3_each_endpoint_is_offered_once_and_a_detached_choice_offers_the_same() {
    let world = snapshot(&[Spec { weights: vec![3, 1, 4, 1, 5], ..dc("a") }]);
    let selector = Selector::name("a");
    for strategy in STRATEGIES {
        for seed in 0..50 {
            let request = Request::placement(&selector, FRESH).strategy(strategy);
            let choice = choose(&world, &request, seed).unwrap();
            let order: Vec<&NodeEndpoint> = choice.endpoints().collect();
            assert_eq!(order[0], choice.endpoint());
            let chosen = choice.detach();
            assert_eq!(chosen.endpoints().collect::<Vec<_>>(), order);
            let mut nodes: Vec<u128> = order.iter().map(|node| node.node.0).collect();
            nodes.sort();
            assert_eq!(nodes, [0, 1, 2, 3, 4], "{strategy}");
        }
    }
}

#[test]
fn l2_random_spreads_over_datacenters_and_endpoints() {
    let world = snapshot(&[dc("a"), dc("b"), dc("c"), Spec { state: DataCenterState::Draining, ..dc("d") }]);
    let selector = Selector::region("eu");
    let request = Request::placement(&selector, FRESH);
    let (mut first, mut second) = (BTreeMap::new(), BTreeMap::new());
    for seed in 0..9_000 {
        let (_, order) = answer(&world, &request, seed).unwrap();
        *first.entry(order[0].clone()).or_insert(0) += 1;
        *second.entry(order[1].clone()).or_insert(0) += 1;
    }
    for counts in [first, second] {
        assert_eq!(counts.len(), 9);
        assert!(counts.values().all(|count| (850..1_150).contains(count)), "{counts:?}");
    }
}

#[test]
fn l2_random_is_even_where_an_index_covers_only_part_of_the_selector() {
    // Two of forty in the region carry the zone; the zone's own index is longer still.
    let in_zone = |name: String, region: &str, zone: &str| {
        let dc = DataCenter::new(&name).region(region).zone(zone).build().unwrap();
        Spec { dc, ..self::dc(&name) }
    };
    let mut dcs: Vec<Spec> = (0..40).map(|n| in_zone(format!("r{n}"), "eu", if n < 2 { "z" } else { "y" })).collect();
    dcs.extend((0..60).map(|n| in_zone(format!("o{n}"), "us", "z")));
    let world = snapshot(&dcs);
    let selector = Selector::region("eu").zone("z");
    let request = Request::placement(&selector, FRESH);
    let mut counts = BTreeMap::new();
    for seed in 0..2_000 {
        *counts.entry(answer(&world, &request, seed).unwrap().0).or_insert(0) += 1;
    }
    assert_eq!(counts.keys().map(String::as_str).collect::<Vec<_>>(), ["r0", "r1"]);
    assert!(counts.values().all(|count| (900..1_100).contains(count)), "{counts:?}");
}

#[test]
fn l2_round_robin_takes_each_in_turn() {
    let world = snapshot(&[dc("a"), dc("b")]);
    let selector = Selector::region("eu");
    let request = Request::placement(&selector, FRESH).strategy(Strategy::RoundRobin);
    let firsts: Vec<String> = (0..6).map(|count| answer(&world, &request, count).unwrap().1[0].clone()).collect();
    let want: Vec<String> = (0..3).flat_map(|n| ["a", "b"].map(|name| endpoint(&dc(name).dc, n).to_string())).collect();
    assert_eq!(firsts, want);
    let (_, order) = answer(&world, &request, 2).unwrap();
    let want: Vec<String> = [1, 2, 0].iter().map(|n| endpoint(&dc("a").dc, *n).to_string()).collect();
    assert_eq!(order, want);
}

/// Measured: the distance and the load of some endpoints.
struct Measured(BTreeMap<String, u64>);

impl Signals for Measured {
    fn rtt(&self, node: &NodeEndpoint) -> Option<Duration> {
        self.0.get(&node.endpoint.to_string()).map(|ms| Duration::from_millis(*ms))
    }
    fn load(&self, node: &NodeEndpoint) -> Option<u64> {
        self.0.get(&node.endpoint.to_string()).copied()
    }
}

fn measured(values: &[(&str, usize, u64)]) -> Measured {
    Measured(values.iter().map(|(name, n, value)| (endpoint(&dc(name).dc, *n).to_string(), *value)).collect())
}

#[test]
fn l2_nearest_goes_by_measured_distance_and_the_unmeasured_come_last() {
    let world = snapshot(&[dc("a"), dc("b")]);
    let selector = Selector::region("eu");
    let signals = measured(&[("a", 0, 80), ("b", 1, 5), ("b", 2, 7)]);
    for seed in 0..50 {
        let request = Request::placement(&selector, FRESH).strategy(Strategy::Nearest).signals(&signals);
        let (name, order) = answer(&world, &request, seed).unwrap();
        let want: Vec<String> = [1, 2, 0].iter().map(|n| endpoint(&dc("b").dc, *n).to_string()).collect();
        assert_eq!((name.as_str(), order), ("b", want));
    }
}

#[test]
fn l2_least_loaded_goes_by_load_and_the_unknown_count_as_idle() {
    let world = snapshot(&[dc("a"), dc("b")]);
    let selector = Selector::region("eu");
    let signals = measured(&[("a", 0, 9), ("a", 1, 8), ("a", 2, 7), ("b", 0, 3), ("b", 1, 2)]);
    for seed in 0..50 {
        let request = Request::placement(&selector, FRESH).strategy(Strategy::LeastLoaded).signals(&signals);
        let (name, order) = answer(&world, &request, seed).unwrap();
        let want: Vec<String> = [2, 1, 0].iter().map(|n| endpoint(&dc("b").dc, *n).to_string()).collect();
        assert_eq!((name.as_str(), order), ("b", want));
    }
}

#[test]
fn l2_nearest_finds_the_best_of_as_many_as_are_compared() {
    let dcs: Vec<Spec> = (0..COMPARED).map(|number| dc(&format!("dc-{number:02}"))).collect();
    let world = snapshot(&dcs);
    let selector = Selector::region("eu");
    let signals = measured(&[("dc-03", 1, 20), ("dc-11", 2, 4)]);
    for seed in 0..50 {
        let request = Request::placement(&selector, FRESH).strategy(Strategy::Nearest).signals(&signals);
        assert_eq!(answer(&world, &request, seed).unwrap().0, "dc-11");
    }
}

#[test]
fn l2_weighted_is_in_proportion_and_a_weight_of_zero_takes_none() {
    let world = snapshot(&[
        Spec { weights: vec![1, 0, 3], ..dc("a") },
        Spec { weights: vec![4], ..dc("b") },
        Spec { weights: vec![0, 0], ..dc("c") },
    ]);
    let selector = Selector::region("eu");
    let request = Request::placement(&selector, FRESH).strategy(Strategy::Weighted);
    let mut counts: BTreeMap<String, i32> = BTreeMap::new();
    for seed in 0..8_000 {
        let (_, order) = answer(&world, &request, seed).unwrap();
        assert!(!order.contains(&endpoint(&dc("a").dc, 1).to_string()));
        *counts.entry(order[0].clone()).or_default() += 1;
    }
    for (name, number, want) in [("a", 0, 1_000), ("a", 2, 3_000), ("b", 0, 4_000)] {
        let count = counts[&endpoint(&dc(name).dc, number).to_string()];
        assert!((count - want).abs() < 150, "{name} {number}: {count}, {want} wanted");
    }
    let selector = Selector::name("c");
    let request = Request::placement(&selector, FRESH).strategy(Strategy::Weighted);
    assert!(matches!(answer(&world, &request, 1), Err(Refusal::NoEndpoints { .. })));
}

#[test]
fn l4_an_explanation_says_what_was_considered_and_why_not() {
    let world = snapshot(&[
        dc("a"),
        Spec { state: DataCenterState::Draining, ..dc("b") },
        Spec { intent: Some(Intent::new(IntentKind::Out, "ada", "moving")), ..dc("c") },
        Spec { dc: DataCenter::new("other").region("us").build().unwrap(), ..dc("other") },
    ]);
    let selector = Selector::region("eu");
    let request = Request::placement(&selector, FRESH);
    let explained = explain(&world, ManualClock::new().now(), &request, 3);
    assert_eq!((explained.known, explained.matching), (4, 3));
    let verdicts: Vec<(&str, &Verdict)> =
        explained.considered.iter().map(|one| (one.id.as_str(), &one.verdict)).collect();
    assert!(
        matches!(
            verdicts[..],
            [
                ("eu/a", Verdict::Chosen),
                ("eu/b", Verdict::RuledOut(Reason::State(DataCenterState::Draining))),
                ("eu/c", Verdict::RuledOut(Reason::Intent(_)))
            ]
        ),
        "{verdicts:?}"
    );
    let text = explained.to_string();
    for part in ["placement for region=eu, random", "eu/a: chosen", "is DRAINING", "ada wants it to go out (moving)"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn l4_an_explanation_is_bounded_and_still_shows_what_was_chosen() {
    let many: Vec<Spec> = (0..500).map(|number| dc(&format!("dc-{number:03}"))).collect();
    let world = snapshot(&many);
    let selector = Selector::region("eu");
    let request = Request::placement(&selector, FRESH);
    for seed in 0..20 {
        let explained = explain(&world, ManualClock::new().now(), &request, seed);
        assert_eq!(explained.matching, 500);
        assert!(explained.considered.len() <= Explanation::LISTED + 1);
        assert!(explained.considered.iter().any(|one| one.verdict == Verdict::Chosen));
    }
}

fn spec() -> impl proptest::strategy::Strategy<Value = Spec> {
    let state = prop_oneof![
        4 => Just(DataCenterState::Active),
        1 => Just(DataCenterState::Draining),
        1 => Just(DataCenterState::Registered),
        1 => Just(DataCenterState::Inactive),
    ];
    let intent = prop_oneof![
        4 => Just(None),
        1 => Just(Some(Intent::new(IntentKind::Drain, "ops", "why"))),
        1 => Just(Some(Intent::new(IntentKind::Out, "ops", ""))),
    ];
    let seen = prop_oneof![6 => Just(Seen::Live), 1 => Just(Seen::Grace), 1 => Just(Seen::Expired)];
    (0..30_u8, 0..3_u8, 0..2_u8, state, intent, seen, proptest::collection::vec(0..3_u32, 1..5)).prop_map(
        |(name, region, tier, state, intent, seen, weights)| Spec {
            dc: DataCenter::new(format!("n{name}"))
                .region(format!("r{region}"))
                .label("tier", format!("t{tier}"))
                .build()
                .unwrap(),
            state,
            intent,
            seen,
            weights,
        },
    )
}

fn world() -> impl proptest::strategy::Strategy<Value = World> {
    proptest::collection::vec(spec(), 0..40).prop_map(|dcs| {
        let by_id: BTreeMap<_, _> = dcs.into_iter().map(|spec| (spec.dc.id().clone(), spec)).collect();
        World { dcs: by_id.into_values().collect() }
    })
}

fn selector() -> impl proptest::strategy::Strategy<Value = DataCenterSelector> {
    (proptest::option::weighted(0.3, 0..31_u8), proptest::option::of(0..4_u8), proptest::option::of(0..3_u8)).prop_map(
        |(name, region, tier)| {
            let mut selector = Selector::any();
            selector.name = name.map(|name| format!("n{name}"));
            selector.region = region.map(|region| format!("r{region}"));
            match tier {
                Some(tier) => selector.label("tier", format!("t{tier}")),
                None => selector,
            }
        },
    )
}

/// What may be chosen, by a plain reading of C6 and L3.
fn allowed(spec: &Spec, request: &Request<'_>) -> bool {
    let want = spec.intent.as_ref().map_or(IntentKind::Serve, |intent| intent.want);
    let by_life = match spec.seen {
        Seen::Live => true,
        Seen::Grace => request.purpose == Purpose::Traffic,
        _ => false,
    };
    let by_word = match (spec.state, want) {
        (DataCenterState::Active, IntentKind::Serve) => true,
        (DataCenterState::Active | DataCenterState::Draining, _) => request.purpose == Purpose::Traffic,
        _ => false,
    };
    by_life && by_word && spec.weights.iter().enumerate().any(|(n, weight)| usable(&spec.dc, n, *weight, request))
}

fn usable(dc: &DataCenter, number: usize, weight: u32, request: &Request<'_>) -> bool {
    let weighs = request.strategy != Strategy::Weighted || weight > 0;
    weighs && !request.exclude.contains(&endpoint(dc, number))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn l1_l2_only_what_is_allowed_is_chosen_and_something_if_anything_is(
        world in world(),
        selector in selector(),
        placement in any::<bool>(),
        strategy in 0..STRATEGIES.len(),
        excluded in proptest::collection::vec((0..30_u8, 0..4_usize), 0..8),
        seed in any::<u64>(),
    ) {
        let snapshot = snapshot(&world.dcs);
        let exclude: Vec<Endpoint> =
            excluded.iter().map(|(name, n)| format!("n{n}.n{name}.example:7946").parse().unwrap()).collect();
        let purpose = if placement { Purpose::Placement } else { Purpose::Traffic };
        let strategy = STRATEGIES[strategy];
        let request =
            Request { purpose, ..Request::placement(&selector, FRESH) }.strategy(strategy).exclude(&exclude);
        let matching: Vec<&Spec> = world.dcs.iter().filter(|spec| selector.matches(&spec.dc)).collect();
        let eligible: Vec<&&Spec> = matching.iter().filter(|spec| allowed(spec, &request)).collect();
        match choose(&snapshot, &request, seed) {
            Ok(choice) => {
                let spec = eligible.iter().find(|spec| spec.dc.id() == choice.entry().id());
                prop_assert!(spec.is_some(), "{} must not be chosen", choice.entry().id());
                let spec = spec.unwrap();
                let mut order: Vec<Endpoint> = choice.endpoints().map(|node| node.endpoint.clone()).collect();
                order.sort();
                let mut want: Vec<Endpoint> = (0..spec.weights.len())
                    .filter(|&n| usable(&spec.dc, n, spec.weights[n], &request))
                    .map(|n| endpoint(&spec.dc, n))
                    .collect();
                want.sort();
                prop_assert_eq!(order, want, "L3: each usable endpoint, once");
            }
            Err(refusal) => {
                prop_assert!(eligible.is_empty(), "{} although {} would do", refusal, eligible[0].dc.id());
                match refusal {
                    Refusal::NotFound { total, .. } => {
                        prop_assert!(matching.is_empty());
                        prop_assert_eq!(total, world.dcs.len());
                    }
                    Refusal::NotPlaceable { total, .. } => prop_assert_eq!(total, matching.len()),
                    Refusal::NoEndpoints { total, .. } => prop_assert!((1..=matching.len()).contains(&total)),
                    other => prop_assert!(false, "{}", other),
                }
            }
        }
        let explained = explain(&snapshot, ManualClock::new().now(), &request, seed);
        prop_assert_eq!(explained.matching, matching.len());
        for one in &explained.considered {
            let may = eligible.iter().any(|spec| *spec.dc.id() == one.id);
            prop_assert_eq!(may, !matches!(one.verdict, Verdict::RuledOut(_)), "L4: {}", one.id);
        }
    }

    #[test]
    fn l2_the_same_inputs_and_seed_give_the_same_choice(
        world in world(),
        selector in selector(),
        strategy in 0..STRATEGIES.len(),
        seed in any::<u64>(),
    ) {
        let request = Request::traffic(&selector, FRESH).strategy(STRATEGIES[strategy]);
        let straight = snapshot(&world.dcs);
        // The same content, arrived at in another way.
        let mut winding = snapshot(&world.dcs.iter().rev().cloned().collect::<Vec<_>>());
        for spec in world.dcs.iter().step_by(3) {
            let entry = winding.remove(spec.dc.id()).unwrap();
            winding.put(entry);
        }
        let one = answer(&straight, &request, seed);
        prop_assert_eq!(&one, &answer(&straight, &request, seed));
        prop_assert_eq!(&one, &answer(&winding, &request, seed));
        let explained = explain(&straight, ManualClock::new().now(), &request, seed);
        let named = explained.outcome.map(|(id, order)| {
            (id, order.iter().map(|node| node.endpoint.to_string()).collect::<Vec<_>>())
        });
        prop_assert_eq!(one.map(|(_, order)| order), named.map(|(_, order)| order));
    }
}
