//! The core alone, against a store that shows it exactly what a schedule says.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dc_controlplane::ownership::{Document, DocumentKey};
use dc_core::{Clock, Epoch, ManualClock, NodeId, StoreId, Version};
use dc_ownership::{
    Me, OwnershipOptions,
    core::{Ask, Core, Effect, Input, Op, OpDone, Setup, Written},
    order::Thing,
};
use serde_json::{Value, json};

use crate::support::{TTL, World, dc, name, spec, survivor};

/// A core whose every write is accepted.
struct Rig {
    core: Core,
    clock: ManualClock,
    revision: u64,
    begun: Instant,
    /// When what was written, last.
    written: BTreeMap<String, (Duration, Value)>,
    done: Vec<OpDone>,
    /// Removals are answered with a version just above what they removed, wherever the store is.
    removals_low: bool,
    /// Answers to writes of sessions are kept back, if any.
    kept_back: Option<Vec<(u64, Version)>>,
}

impl Rig {
    /// It has seen `documents`, and has a session.
    fn new(documents: &[(&str, Value)]) -> Self {
        Self::started(documents, false)
    }

    fn started(documents: &[(&str, Value)], keep_back: bool) -> Self {
        let clock = ManualClock::new();
        let setup = Setup {
            me: Me { node: NodeId(1), data_center: dc("us-1"), endpoint: "10.0.0.1:7946".parse().expect("legal") },
            kinds: Vec::new(),
            placeable: Arc::new(|_| true),
            options: OwnershipOptions::builder().ttl(TTL).build().expect("legal"),
            clock: Arc::new(clock.clone()),
            seed: 1,
            documents: 1,
            plant: None,
        };
        let begun = clock.now();
        let core = Core::new(setup, begun);
        let (written, done) = (BTreeMap::new(), Vec::new());
        let mut rig = Self { core, clock, revision: 100, begun, written, done, removals_low: false, kept_back: None };
        rig.kept_back = keep_back.then(Vec::new);
        rig.carry_out();
        for (prefix, start) in ["s/", "g/", "n/", "k/"].into_iter().enumerate() {
            rig.put(Input::ReplayBegun { generation: 0, prefix });
            for (key, body) in documents.iter().filter(|(key, _)| key.starts_with(start)) {
                rig.revision += 1;
                let document = rig.document(key, body);
                rig.put(Input::Put { generation: 0, document });
            }
            let as_of = rig.version();
            rig.put(Input::ReplayDone { generation: 0, prefix, as_of });
        }
        rig
    }

    fn version(&self) -> Version {
        Version::new(StoreId(1), self.revision)
    }

    fn document(&self, key: &str, body: &Value) -> Document {
        let key: DocumentKey = key.parse().expect("legal");
        Document { key, body: Bytes::from(body.to_string()), version: self.version() }
    }

    fn put(&mut self, input: Input) {
        let now = self.clock.now();
        self.core.put(input, now);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        loop {
            let effects = self.core.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Send(request) => {
                        self.revision += 1;
                        let mut version = self.version();
                        if let Ask::Write { body, .. } = &request.ask {
                            let body = serde_json::from_slice(body).expect("JSON");
                            let at = self.clock.now() - self.begun;
                            self.written.insert(request.key.to_string(), (at, body));
                        }
                        if let Ask::Remove(removed) = request.ask
                            && self.removals_low
                        {
                            version = Version::new(removed.store, removed.revision + 1);
                        }
                        if let Some(kept) = self.kept_back.as_mut().filter(|_| request.key.as_str().starts_with("s/")) {
                            kept.push((request.id, version));
                            continue;
                        }
                        let now = self.clock.now();
                        self.core.put(Input::Written { request: request.id, result: Written::Done(version) }, now);
                    }
                    Effect::Done(_, done) => self.done.push(done),
                    _ => {}
                }
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let step = Duration::from_millis(50);
        for _ in 0..time.as_millis() / step.as_millis() {
            self.clock.advance(step);
            let now = self.clock.now();
            self.core.tick(now);
            self.carry_out();
        }
    }
}

const LOST: &str = "000000000000000000000000000000aa";

fn named(ttl_ms: Option<u64>) -> Value {
    let mut document = json!({"v": 1, "name": "x", "kind": "ledger", "args": "", "policy": {"survives": "data-center"},
        "session": LOST, "dc": "us-1", "epoch": 7, "nonce": 1});
    if let Some(ttl_ms) = ttl_ms {
        document["ttl_ms"] = ttl_ms.into();
    }
    document
}

/// An entry names a session of which nothing is stored: dropped too early, or not seen yet.
fn absent(ttl_ms: Option<u64>, run: Duration) -> Rig {
    let mut rig = Rig::new(&[("n/x", named(ttl_ms))]);
    rig.run(run);
    rig
}

#[test]
fn g2_a_session_that_the_store_does_not_have_is_given_its_own_ttl_from_an_unproved_tombstone_on() {
    let rig = absent(Some(30_000), Duration::from_secs(60));
    let (at, tombstone) = &rig.written[&format!("s/{LOST}")];
    assert!(tombstone["tombstone"] == true && tombstone["proved"] != true, "{tombstone}");
    assert!(*at < TTL, "at once: it is refused where the session lives");
    let (claimed, claim) = &rig.written["n/x"];
    assert_eq!(claim["epoch"], 8);
    let waited = *claimed - *at;
    let bound = Duration::from_secs(30)..Duration::from_secs(33);
    assert!(bound.contains(&waited), "the lease of that session may run for its TTL, not for ours: {waited:?}");
}

#[test]
fn g2_of_a_session_of_unknown_ttl_the_largest_is_taken() {
    let rig = absent(None, Duration::from_secs(3_000));
    assert!(rig.written.contains_key(&format!("s/{LOST}")) && !rig.written.contains_key("n/x"));
}

#[test]
fn g2_an_unproved_tombstone_that_somebody_else_put_is_waited_for_and_a_proved_one_is_not() {
    for (proved, least) in [(false, TTL), (true, Duration::ZERO)] {
        let grave = json!({"v": 1, "tombstone": true, "proved": proved, "nonce": 2});
        let mut rig = Rig::new(&[(&format!("s/{LOST}"), grave), ("n/x", named(Some(10_000)))]);
        rig.run(3 * TTL);
        let (claimed, _) = rig.written["n/x"];
        assert!((least..least + TTL / 2).contains(&claimed), "proved: {proved}: {claimed:?}");
    }
}

#[test]
fn g4_a_tombstone_that_was_seen_before_an_entry_told_its_ttl_is_waited_for_no_longer_than_that() {
    let grave = json!({"v": 1, "tombstone": true, "nonce": 2});
    let mut rig = Rig::new(&[(&format!("s/{LOST}"), grave)]);
    rig.run(TTL / 10);
    rig.revision += 1;
    let document = rig.document("n/x", &named(Some(10_000)));
    rig.put(Input::Put { generation: 0, document });
    rig.run(2 * TTL);
    let (claimed, _) = rig.written["n/x"];
    assert!((TTL..TTL + TTL / 2).contains(&claimed), "{claimed:?}");
}

#[test]
fn g4_what_others_gave_to_a_session_before_its_node_knew_that_it_is_open_is_taken_up() {
    let mut rig = Rig::started(&[], true);
    let session = rig.written.keys().next().and_then(|key| key.strip_prefix("s/")).expect("it opens one").to_owned();
    rig.revision += 1;
    let mut document = named(Some(10_000));
    document["session"] = session.as_str().into();
    let document = rig.document("n/x", &document);
    rig.put(Input::Put { generation: 0, document });
    assert_eq!(rig.core.owned(), 0, "it does not know");
    for (request, version) in rig.kept_back.take().unwrap_or_default() {
        rig.put(Input::Written { request, result: Written::Done(version) });
    }
    rig.run(TTL / 2);
    assert_eq!((rig.core.owned(), rig.core.stats().titles), (1, 1));
}

#[test]
fn o1_a_removal_need_only_be_above_what_it_removed() {
    let mut rig = Rig::new(&[]);
    rig.removals_low = true;
    rig.put(Input::Asked { op: 1, ask: Op::Claim(spec("y", &survivor())) });
    rig.run(TTL);
    let Some(OpDone::Claimed(Ok(title))) = rig.done.pop() else { panic!("it is free") };
    rig.run(2 * TTL);
    rig.put(Input::Asked { op: 2, ask: Op::Release("y".to_owned(), title.epoch()) });
    rig.run(TTL);
    assert!(matches!(rig.done.pop(), Some(OpDone::Plain(Ok(())))));
    assert_eq!(rig.core.stats().store_changes, 0);
    assert!(rig.core.session().is_some());
}

#[tokio::test(start_paused = true)]
async fn g5_state_that_comes_when_its_thing_is_owned_already_is_refused() {
    let world = World::new();
    let (a, b) = (world.node("us-1", &[]), world.node("eu-1", &[]));
    a.own.until_ready().await;
    b.own.until_ready().await;
    let title = a.own.claim(spec("x", &survivor())).await.expect("free");
    let state = || vec![("x".to_owned(), Bytes::from_static(b"old"))];
    // An offer of the owner before, that was given up, and comes now.
    let late = a.own.offered(name("x"), title.epoch(), state());
    assert!(late.is_err_and(|why| why.contains("owned under epoch")));
    let next = Epoch(title.epoch().0 + 1);
    assert_eq!(a.own.offered(Thing::Name("x".to_owned()), next, state()), Ok(()));
}
