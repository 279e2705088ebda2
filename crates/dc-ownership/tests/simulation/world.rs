//! Time, and what happens next.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dc_core::{Clock, DataCenter, DataCenterId, Endpoint, Epoch, NodeId, SystemClock};
use dc_ownership::{
    Me, OwnershipOptions,
    core::{Answer, Core, Input, Outcome, Parcels, Request, Setup, Written},
    ids::{SessionId, Slot},
    order::Thing,
    policy::{Loss, Policy},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    Config, Report, TTL,
    moves::{Offered, Step},
    node::{Node, SimClock, Watch},
    store::Store,
};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MS;
const DATA_CENTERS: [&str; 3] = ["us", "eu", "ap"];
pub(crate) const PREFIXES: [&str; 4] = ["s/", "g/", "n/", "k/"];
/// Within this time after the faults everything has its owner again.
const HEALS_WITHIN: u64 = 120 * SECOND;

pub(crate) enum Event {
    Wake(usize),
    Arrive(Request),
    Answer(u64, Written),
    Timeout(u64),
    OpenWatch(usize, u64),
    Watched(usize, u64, Input),
    Input(Input),
    Offered(Offered),
    Claim(String),
    Adopted(u64, String, Epoch, bool),
    Act,
    Expire,
    Resume,
    Restart,
    Heal(String),
    EndOutage,
    Unlag,
    Abort(u64),
    TakeAgain,
    Log(Thing, Epoch, SessionId),
}

pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) base: Instant,
    pub(crate) time: Arc<AtomicU64>,
    pub(crate) rng: StdRng,
    pub(crate) store: Store,
    pub(crate) nodes: Vec<Node>,
    pub(crate) events: BTreeMap<(u64, u64), (usize, u64, Event)>,
    pub(crate) numbers: u64,
    pub(crate) cut: BTreeSet<String>,
    pub(crate) outage: bool,
    pub(crate) unplaceable: Arc<Mutex<BTreeSet<DataCenterId>>>,
    pub(crate) faulty: bool,
    pub(crate) lost_at: Option<u64>,
    pub(crate) holders: BTreeMap<Thing, BTreeSet<usize>>,
    pub(crate) contested: BTreeSet<Thing>,
    pub(crate) granted: BTreeMap<Thing, (Epoch, SessionId)>,
    pub(crate) fence: BTreeMap<Thing, (Epoch, SessionId)>,
    pub(crate) available: BTreeSet<Thing>,
    /// Whom the store names, by true time.
    pub(crate) truth: BTreeMap<Thing, (SessionId, Epoch)>,
    /// Work that was acknowledged by whoever owned a thing, since it was last started from nothing.
    pub(crate) acked: BTreeMap<Thing, u64>,
    /// Identities of grains in the slots that there are.
    pub(crate) identities: Vec<String>,
    /// Those that, by the store, live elsewhere than their slots.
    pub(crate) apart: BTreeSet<Thing>,
    /// How often the step at which a node is to crash comes before it does.
    pub(crate) crash_after: u32,
    pub(crate) report: Report,
}

pub(crate) fn policy() -> Policy {
    Policy { survives: Loss::DataCenter, ..Policy::default() }
}

impl World {
    pub(crate) fn new(config: Config) -> Self {
        let mut world = Self {
            config,
            base: SystemClock.now(),
            time: Arc::default(),
            rng: StdRng::seed_from_u64(config.seed),
            store: Store::new(1),
            nodes: Vec::new(),
            events: BTreeMap::new(),
            numbers: 0,
            cut: BTreeSet::new(),
            outage: false,
            unplaceable: Arc::default(),
            faulty: true,
            lost_at: None,
            holders: BTreeMap::new(),
            contested: BTreeSet::new(),
            granted: BTreeMap::new(),
            fence: BTreeMap::new(),
            available: BTreeSet::new(),
            truth: BTreeMap::new(),
            acked: BTreeMap::new(),
            identities: (0..)
                .map(|id| format!("cart/{id}"))
                .filter(|id| Slot::of(id).document() == 0)
                .take(8)
                .collect(),
            apart: BTreeSet::new(),
            crash_after: 0,
            report: Report::default(),
        };
        world.crash_after = world.rng.random_range(0..8);
        let count = world.rng.random_range(3..=6);
        for place in 0..count {
            let node = world.boot(place, 0);
            world.nodes.push(node);
            world.begin(place);
        }
        world.at(0, 0, SECOND, Event::Act);
        world
    }

    pub(crate) fn t(&self) -> u64 {
        self.time.load(Ordering::SeqCst)
    }

    fn boot(&mut self, place: usize, run: u64) -> Node {
        let name = DATA_CENTERS[place % DATA_CENTERS.len()];
        let data_center = DataCenter::new(name).build().expect("legal");
        let clock = Arc::new(SimClock {
            base: self.base,
            time: Arc::clone(&self.time),
            rate: self.rng.random_range(0.9..1.1),
            offset: self.rng.random_range(0..100 * SECOND),
        });
        let node = NodeId((u128::from(run) << 32) | (place as u128 + 1));
        let endpoint: Endpoint = format!("10.0.{run}.{}:7946", place + 1).parse().expect("legal");
        let unplaceable = Arc::clone(&self.unplaceable);
        let setup = Setup {
            me: Me { node, data_center: data_center.clone(), endpoint },
            kinds: vec![("cart".to_owned(), policy())],
            placeable: Arc::new(move |dc| !unplaceable.lock().expect("no panic inside").contains(dc)),
            options: OwnershipOptions::builder().ttl(TTL).rebalance_per_second(8).build().expect("legal"),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            seed: self.rng.random(),
            documents: 1,
            plant: self.config.plant,
        };
        let core = Core::new(setup, clock.now());
        Node {
            core,
            clock,
            run,
            dc: data_center.id().clone(),
            alive: true,
            paused: false,
            queue: Vec::new(),
            generation: 0,
            watches: [Watch::default(); 4],
            lag: 0,
            pending: BTreeSet::new(),
            handing: BTreeMap::new(),
            titles: BTreeMap::new(),
            session: None,
            running: BTreeMap::new(),
            claims: BTreeMap::new(),
            placing: BTreeSet::new(),
            apart: BTreeSet::new(),
            parcels: Parcels::default(),
            last_offer: BTreeMap::new(),
            state_here: BTreeSet::new(),
            lost_state: BTreeSet::new(),
            known: BTreeMap::new(),
            counters: BTreeMap::new(),
            quiet: BTreeSet::new(),
            wake_at: u64::MAX,
            drain: 0,
        }
    }

    fn begin(&mut self, place: usize) {
        self.with(place, |_, _| {});
    }

    pub(crate) fn at(&mut self, place: usize, run: u64, after: u64, event: Event) {
        self.numbers += 1;
        let at = self.t() + after;
        self.events.insert((at, self.numbers), (place, run, event));
    }

    pub(crate) fn for_node(&mut self, place: usize, after: u64, event: Event) {
        let run = self.nodes[place].run;
        self.at(place, run, after, event);
    }

    pub(crate) fn chance(&mut self, share: f64) -> bool {
        self.rng.random_bool(share)
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.report.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn wrong(&mut self, what: String) {
        let at = Duration::from_nanos(self.t());
        self.report.violation.get_or_insert(format!("seed {}, at {at:?}: {what}", self.config.seed));
    }

    pub(crate) fn latency(&mut self) -> u64 {
        let slow = self.breaks() && self.rng.random_bool(0.03);
        if slow { self.rng.random_range(300 * MS..6 * SECOND) } else { self.rng.random_range(MS..40 * MS) }
    }

    /// Whether anything but the one crash that was asked for goes wrong.
    pub(crate) fn breaks(&self) -> bool {
        self.faulty && self.config.crash.is_none()
    }

    pub(crate) fn reaches(&self, place: usize) -> bool {
        !self.outage && !self.cut.contains(self.nodes[place].dc.as_str())
    }

    pub(crate) fn run(mut self) -> Report {
        let end = u64::try_from(self.config.faults.as_nanos()).unwrap_or(u64::MAX);
        while self.t() < end && self.report.violation.is_none() {
            self.step();
        }
        self.end_faults();
        let healed = self.t();
        let mut looked = healed;
        while self.report.violation.is_none() {
            self.step();
            if self.t() < looked + SECOND {
                continue;
            }
            looked = self.t();
            match self.unwell() {
                None => {
                    self.report.healed_in = Duration::from_nanos(self.t() - healed);
                    break;
                }
                Some(what) if self.t() > healed + HEALS_WITHIN => {
                    self.wrong(format!("not well {HEALS_WITHIN} ns after the faults: {what}"));
                }
                Some(_) => {}
            }
        }
        for node in &self.nodes {
            self.report.stats.add(&node.core.stats());
        }
        self.report
    }

    fn step(&mut self) {
        let Some(((at, _), (place, run, event))) = self.events.pop_first() else {
            self.wrong("nothing will ever happen again".to_owned());
            return;
        };
        self.time.fetch_max(at, Ordering::SeqCst);
        self.report.steps += 1;
        let mark = at ^ (place as u64) << 56 ^ std::mem::discriminant(&event).hash_value();
        self.report.trace = self.report.trace.rotate_left(5).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ mark;
        self.happen(place, run, event);
        self.check_titles();
    }

    fn happen(&mut self, place: usize, run: u64, event: Event) {
        let current = self.nodes.get(place).is_some_and(|node| node.run == run && node.alive);
        match event {
            Event::Act => self.act(),
            Event::Heal(dc) => _ = self.cut.remove(&dc),
            Event::EndOutage => self.outage = false,
            Event::Restart => self.restart(place, run),
            Event::Expire => {
                let now = self.t();
                let before = self.store.revision;
                self.store.expire(now);
                self.tell_watches(before);
                self.plan_expiry();
            }
            Event::Log(thing, epoch, session) => self.log(&thing, epoch, session),
            // What was sent before a crash still arrives.
            Event::Arrive(request) => self.arrive(place, run, &request),
            _ if !current => {}
            Event::Wake(_) => {
                self.nodes[place].wake_at = u64::MAX;
                if !self.nodes[place].paused {
                    self.with(place, |core, now| core.tick(now));
                }
            }
            Event::Answer(id, result) => {
                if self.nodes[place].pending.remove(&id) {
                    let handed = self.nodes[place].handing.remove(&id).filter(|_| matches!(result, Written::Done(_)));
                    if handed.is_some_and(|to| self.crash_at(Step::BeforeMoved, place, Some(to))) {
                        return;
                    }
                    self.give(place, Input::Written { request: id, result });
                }
            }
            Event::Timeout(id) => {
                if self.nodes[place].pending.remove(&id) {
                    let result = Written::Failed(Outcome::Unknown);
                    self.give(place, Input::Written { request: id, result });
                }
            }
            Event::OpenWatch(prefix, serial) => self.open_watch(place, prefix, serial),
            Event::Watched(prefix, serial, input) => {
                if self.nodes[place].watches[prefix].serial == serial {
                    self.give(place, input);
                }
            }
            Event::Input(input) => self.give(place, input),
            Event::Offered(offered) => self.offered(place, offered),
            Event::Claim(name) => {
                if self.faulty {
                    self.claim(place, &name);
                }
            }
            Event::Adopted(token, name, epoch, well) => {
                // It may have been lost, and come back, since.
                let same = self.nodes[place].running.get(&name).is_some_and(|title| title.epoch() == epoch);
                if !well && same {
                    self.nodes[place].running.remove(&name);
                }
                let answer = if well { Ok(()) } else { Err("on purpose".to_owned()) };
                self.give(place, Input::Answered { token, answer: Answer::Adopted(answer) });
            }
            Event::Resume => self.resume(place),
            Event::Unlag => self.nodes[place].lag = 0,
            Event::Abort(number) => self.give(place, Input::AbortDrain { number }),
            Event::TakeAgain => {
                let dc = self.nodes[place].dc.clone();
                self.unplaceable.lock().expect("no panic inside").remove(&dc);
                self.give(place, Input::SetTaking(true));
            }
        }
    }

    /// Gives a node something, now or when it runs again.
    pub(crate) fn give(&mut self, place: usize, input: Input) {
        if self.nodes[place].paused {
            self.nodes[place].queue.push(input);
        } else {
            self.with(place, |core, now| core.put(input, now));
        }
    }

    pub(crate) fn resume(&mut self, place: usize) {
        if !std::mem::take(&mut self.nodes[place].paused) {
            return;
        }
        self.with(place, |core, now| core.tick(now));
        for input in std::mem::take(&mut self.nodes[place].queue) {
            self.give(place, input);
        }
    }

    pub(crate) fn restart(&mut self, place: usize, run: u64) {
        if self.nodes[place].alive || self.nodes[place].run != run {
            return;
        }
        let node = self.boot(place, run + 1);
        self.report.stats.add(&self.nodes[place].core.stats());
        self.nodes[place] = node;
        self.begin(place);
    }

    /// Runs something on a node, carries out what comes of it, and plans when to wake it next.
    pub(crate) fn with(&mut self, place: usize, what: impl FnOnce(&mut Core, Instant)) {
        let now = self.nodes[place].now();
        what(&mut self.nodes[place].core, now);
        loop {
            let effects = self.nodes[place].core.take_effects();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                // What a node was about to do when it crashed is not done.
                if self.nodes[place].alive {
                    self.carry_out(place, effect);
                }
            }
        }
        let node = &self.nodes[place];
        let next = node.core.deadline().map(|at| node.clock.when(at).max(self.t() + 1));
        if let Some(at) = next.filter(|at| *at < node.wake_at) {
            self.nodes[place].wake_at = at;
            let after = at - self.t();
            self.for_node(place, after, Event::Wake(place));
        }
    }

    fn arrive(&mut self, place: usize, run: u64, request: &Request) {
        if self.outage {
            return;
        }
        let now = self.t();
        let late = self.rng.random_range(0.0..1.0);
        let before = self.store.revision;
        self.store.expire(now);
        let result = match &request.ask {
            dc_ownership::core::Ask::Read => {
                let back = if self.rng.random_bool(0.3) { self.rng.random_range(0..20) } else { 0 };
                let as_of = self.store.revision.saturating_sub(back);
                Written::Read(self.store.read_as_of(&request.key, as_of))
            }
            ask => self.store.apply(&request.key, ask, now, late),
        };
        self.tell_watches(before);
        self.plan_expiry();
        let current = self.nodes[place].run == run && self.nodes[place].alive;
        if current
            && matches!(result, Written::Done(_))
            && let Some(to) = self.nodes[place].handing.get(&request.id).copied()
            && self.crash_at(Step::Accepted, place, Some(to))
        {
            return;
        }
        // Releases more often: few are asked for.
        let share = if matches!(request.ask, dc_ownership::core::Ask::Remove(_)) { 0.2 } else { 0.03 };
        let lost = self.breaks() && self.rng.random_bool(share);
        if lost {
            self.count(if matches!(result, Written::Done(_)) { "lost_accepted" } else { "lost_refused" });
        } else if self.reaches(place) {
            let after = self.latency();
            self.at(place, run, after, Event::Answer(request.id, result));
        }
    }

    fn plan_expiry(&mut self) {
        if let Some(at) = self.store.next_expiry() {
            let after = at.saturating_sub(self.t()) + 1;
            self.at(0, u64::MAX, after.min(5 * SECOND), Event::Expire);
        }
    }

    /// Sends every change after `before` to the watches.
    fn tell_watches(&mut self, before: u64) {
        let changes: Vec<_> =
            self.store.history.iter().rev().take_while(|change| change.revision > before).cloned().collect();
        for change in changes.into_iter().rev() {
            self.note_truth(&change.key, change.body.as_ref(), change.revision);
            for place in 0..self.nodes.len() {
                self.tell_watch(place, &change);
            }
        }
    }

    pub(crate) fn tell_watch(&mut self, place: usize, change: &super::store::Change) {
        let Some(prefix) = PREFIXES.iter().position(|prefix| change.key.as_str().starts_with(prefix)) else { return };
        let node = &self.nodes[place];
        if !node.alive || !node.watches[prefix].open {
            return;
        }
        let (generation, serial, lag) = (node.generation, node.watches[prefix].serial, node.lag);
        let after = self.latency() + if lag > 0 { self.rng.random_range(0..lag) } else { 0 };
        let at = (self.t() + after).max(self.nodes[place].watches[prefix].last);
        self.nodes[place].watches[prefix].last = at;
        let version = self.store.version(change.revision);
        let input = match &change.body {
            Some(body) => Input::Put {
                generation,
                document: dc_controlplane::ownership::Document { key: change.key.clone(), body: body.clone(), version },
            },
            None => Input::Gone { generation, key: change.key.clone(), version },
        };
        let after = at - self.t();
        self.for_node(place, after, Event::Watched(prefix, serial, input));
    }

    fn open_watch(&mut self, place: usize, prefix: usize, serial: u64) {
        if self.nodes[place].watches[prefix].serial != serial {
            return;
        }
        if !self.reaches(place) {
            self.for_node(place, 500 * MS, Event::OpenWatch(prefix, serial));
            return;
        }
        let generation = self.nodes[place].generation;
        let stale = self.breaks() && self.chance(0.3);
        let back = if stale { self.rng.random_range(0..40) } else { 0 };
        let as_of = self.store.revision.saturating_sub(back);
        let documents = self.store.as_of(PREFIXES[prefix], as_of);
        let mut inputs = vec![Input::ReplayBegun { generation, prefix }];
        inputs.extend(documents.into_iter().map(|document| Input::Put { generation, document }));
        inputs.push(Input::ReplayDone { generation, prefix, as_of: self.store.version(as_of) });
        let after = self.latency();
        for input in inputs {
            self.for_node(place, after, Event::Watched(prefix, serial, input));
        }
        self.nodes[place].watches[prefix].open = true;
        self.nodes[place].watches[prefix].last = self.t() + after;
        let rest: Vec<_> = self.store.history.iter().filter(|change| change.revision > as_of).cloned().collect();
        for change in rest {
            if change.key.as_str().starts_with(PREFIXES[prefix]) {
                self.tell_watch(place, &change);
            }
        }
    }

    pub(crate) fn reopen_watch(&mut self, place: usize, prefix: usize, after: u64) {
        let watch = &mut self.nodes[place].watches[prefix];
        watch.serial += 1;
        watch.open = false;
        let serial = watch.serial;
        self.for_node(place, after, Event::OpenWatch(prefix, serial));
    }
}

trait HashValue {
    fn hash_value(&self) -> u64;
}

impl<T: std::hash::Hash> HashValue for T {
    fn hash_value(&self) -> u64 {
        use std::hash::Hasher;
        // Keys are fixed: the same in every run.
        let mut hasher = std::hash::DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}
