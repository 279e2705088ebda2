//! A whole world: datacenters, the store, the log, clients, and time that passes when everybody is done.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicU32},
    time::{Duration, Instant},
};

use dc_controlplane::memory::{MemoryControlPlane, MemoryStore};
use dc_ownership::core::Plant as CorePlant;
use futures::FutureExt;
use multidc::{ActorSystem, Clock, ControlPlane, IntentKind, Listing, StoreId};
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::runtime::Runtime;

use crate::{
    actors::Shared,
    check::Check,
    clients::{Client, Target, Told},
    count::Counts,
    net::{Net, Place, Run},
    node::{Node, Spec},
    seeded,
    store::{Faults, Parts, SimPlane, StorePlant},
    trace::{Keep, Trace},
};

/// A millisecond, a second, in the unit of simulated time.
pub(crate) const MS: u64 = 1_000;
/// See [`MS`].
pub(crate) const SECOND: u64 = 1_000 * MS;
/// How long everybody runs before anything arrives.
pub(crate) const TICK: u64 = 5 * MS;

/// The datacenters, and how many nodes each has.
pub(crate) const DATACENTERS: [(&str, usize); 3] = [("dc-1", 2), ("dc-2", 2), ("dc-3", 2)];
/// How many nodes there are.
pub(crate) const NODES: usize = 6;
/// Where the store is.
pub(crate) const STORE: Place = 100;
/// Where the log is.
pub(crate) const LOG: Place = 101;

/// A bug on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Plant {
    /// The owner's lease has no margin.
    SkipMargin,
    /// A take-over keeps the epoch.
    KeepEpoch,
    /// What a silent session has is claimed without a tombstone in its place.
    NoTombstone,
    /// A claim whose answer was lost is taken for accepted.
    StartUnasked,
    /// Entries are written over whatever is stored.
    Unversioned,
    /// A release removes whatever is stored.
    LateDelete,
    /// A write whose answer was lost is told as done.
    LostIsDone,
    /// An actor takes in work without looking at its title.
    NoTitle,
    /// What an owner sends is taken in whatever its epoch is.
    AnySender,
}

impl Plant {
    /// In the core of ownership.
    pub(crate) fn core(self) -> Option<CorePlant> {
        match self {
            Self::SkipMargin => Some(CorePlant::SkipMargin),
            Self::KeepEpoch => Some(CorePlant::IgnoreEpoch),
            Self::NoTombstone => Some(CorePlant::NoTombstone),
            Self::StartUnasked => Some(CorePlant::StartUnasked),
            _ => None,
        }
    }

    /// On the way to the store.
    fn store(self) -> Option<StorePlant> {
        match self {
            Self::Unversioned => Some(StorePlant::Unversioned),
            Self::LateDelete => Some(StorePlant::LateDelete),
            Self::LostIsDone => Some(StorePlant::LostIsDone),
            _ => None,
        }
    }

    /// Where actors are.
    pub(crate) fn actor(self) -> Option<dc_actor::Plant> {
        match self {
            Self::NoTitle => Some(dc_actor::Plant::NoTitle),
            Self::AnySender => Some(dc_actor::Plant::AnySender),
            _ => None,
        }
    }
}

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Decides everything.
    pub seed: u64,
    /// A bug on purpose.
    pub plant: Option<Plant>,
    /// What is printed.
    pub keep: Keep,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// What did not hold, if anything.
    pub wrong: Option<String>,
    /// How often what happened.
    pub counts: BTreeMap<String, u64>,
    /// Of everything that happened.
    pub trace: (u64, u64),
    /// Simulated time, in microseconds.
    pub time: u64,
}

/// True time, for the store.
#[derive(Debug)]
struct TrueClock {
    start: Instant,
    net: Net,
}

impl Clock for TrueClock {
    fn now(&self) -> Instant {
        self.start + Duration::from_micros(self.net.now())
    }
}

pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) now: u64,
    pub(crate) rng: StdRng,
    pub(crate) shared: Arc<Shared>,
    pub(crate) nodes: BTreeMap<Place, Node>,
    /// How often each place was started.
    runs: [u32; NODES],
    /// Those that were started and have no client yet.
    pub(crate) fresh: Vec<Place>,
    rates: [u64; NODES],
    store: MemoryStore,
    store_runtime: Runtime,
    store_local: tokio::time::Instant,
    pub(crate) faults: Arc<Faults>,
    pub(crate) told: Arc<Told>,
    pub(crate) targets: Arc<Vec<Target>>,
    /// Planned acts, by time.
    pub(crate) acts: BTreeMap<(u64, u64), crate::acts::Act>,
    pub(crate) serial: u64,
    pub(crate) drains: Vec<crate::acts::Draining>,
    /// What operators want of each datacenter.
    pub(crate) intents: BTreeMap<Arc<str>, IntentKind>,
    /// Writes of operators that are not there yet.
    pub(crate) unwritten: Arc<AtomicU32>,
    /// The record of that datacenter has followed a drain.
    pub(crate) followed: BTreeMap<Arc<str>, bool>,
    /// Datacenters that were to serve again and whose record is not seen to be ACTIVE since: its owner may be about to
    /// make it so, also after the next drain is stored.
    pub(crate) behind: BTreeSet<Arc<str>>,
}

/// The datacenter of a place.
pub(crate) fn dc_of(place: Place) -> &'static str {
    let mut left = place;
    for (dc, nodes) in DATACENTERS {
        if left < nodes {
            return dc;
        }
        left -= nodes;
    }
    "nowhere"
}

/// The places of a datacenter.
pub(crate) fn places_of(dc: &str) -> Vec<Place> {
    (0..NODES).filter(|place| dc_of(*place) == dc).collect()
}

impl World {
    pub(crate) fn new(config: Config) -> std::io::Result<Self> {
        let mut rng = StdRng::seed_from_u64(config.seed);
        let trace = Trace::new(config.keep);
        let net = Net::new(rng.random(), trace.clone());
        let (store_at, log_at) = (Run { place: STORE, number: 1 }, Run { place: LOG, number: 1 });
        net.start(store_at);
        net.start(log_at);
        for from in (0..NODES).chain([STORE, LOG]) {
            for to in (0..NODES).chain([STORE, LOG]) {
                let near = from < NODES && to < NODES && dc_of(from) == dc_of(to);
                let base = if near { MS } else { rng.random_range(5 * MS..40 * MS) };
                net.set_latency(from, to, base, base * 2);
            }
        }
        #[expect(clippy::disallowed_methods, reason = "the simulated clock itself")]
        let start = Instant::now();
        let store = MemoryStore::with_id(Arc::new(TrueClock { start, net: net.clone() }), StoreId(7));
        let store_runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let store_local = {
            let _in = store_runtime.enter();
            #[expect(clippy::disallowed_methods, reason = "the simulated clock itself")]
            tokio::time::Instant::now()
        };
        let counts = Counts::default();
        let shared = Shared { net, log: Mutex::default(), log_at, check: Check::new(counts.clone()), counts, trace };
        let rates = std::array::from_fn(|_| rng.random_range(900..=1_100));
        Ok(Self {
            config,
            now: 0,
            rng,
            shared: Arc::new(shared),
            nodes: BTreeMap::new(),
            runs: [0; NODES],
            fresh: Vec::new(),
            rates,
            store,
            store_runtime,
            store_local,
            faults: Arc::default(),
            told: Arc::default(),
            targets: Arc::new(Target::all()),
            acts: BTreeMap::new(),
            serial: 0,
            drains: Vec::new(),
            intents: BTreeMap::new(),
            unwritten: Arc::default(),
            followed: BTreeMap::new(),
            behind: BTreeSet::new(),
        })
    }

    pub(crate) fn store(&self) -> &MemoryStore {
        &self.store
    }

    /// Runs something at the store.
    pub(crate) fn on_store(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.store_runtime.spawn(task);
    }

    /// What is stored of all datacenters, while the store answers.
    pub(crate) fn stored(&self) -> Option<Listing> {
        let _in = self.store_runtime.enter();
        MemoryControlPlane::new(&self.store).list_all().now_or_never()?.ok()
    }

    pub(crate) fn story(&self, what: impl FnOnce() -> String) {
        self.shared.trace.story(|| format!("{:>10.3} {}", self.now as f64 / 1e6, what()));
    }

    /// Starts a node at a place where none runs.
    pub(crate) fn boot(&mut self, place: Place) -> std::io::Result<()> {
        if self.nodes.contains_key(&place) {
            return Ok(());
        }
        self.runs[place] += 1;
        let run = Run { place, number: self.runs[place] };
        self.story(|| format!("node {place} of {} starts", dc_of(place)));
        self.shared.net.start(run);
        let plane = SimPlane::new(Parts {
            net: self.shared.net.clone(),
            node: run,
            store: self.shared.net.run_at(STORE),
            runtime: self.store_runtime.handle().clone(),
            plane: MemoryControlPlane::new(&self.store),
            faults: self.faults.clone(),
            counts: self.shared.counts.clone(),
            seed: self.rng.random(),
            plant: self.config.plant.and_then(Plant::store),
        });
        let dc = dc_of(place);
        let spec = Spec {
            shared: self.shared.clone(),
            run,
            dc: dc.into(),
            places: places_of(dc),
            plane,
            rate: self.rates[place],
            wall: self.rng.random_range(-3_600..3_600),
            plant: self.config.plant,
        };
        let node = Node::start(spec)?;
        self.nodes.insert(place, node);
        self.fresh.push(place);
        Ok(())
    }

    /// One step: what is due arrives, then everybody runs for a tick, then all is looked at.
    pub(crate) fn step(&mut self) {
        seeded::set_now(self.now);
        self.shared.net.arrive(self.now);
        let until = self.store_local + Duration::from_micros(self.now + TICK);
        self.store_runtime.block_on(async move { tokio::time::sleep_until(until).await });
        let mut order: Vec<Place> = self.nodes.keys().copied().collect();
        order.shuffle(&mut self.rng);
        for place in order {
            if let Some(node) = self.nodes.get_mut(&place) {
                node.advance(TICK);
            }
        }
        self.now += TICK;
        self.attend();
        self.check_owners();
        self.check_intents();
    }

    /// Gives nodes that have started their client, and tries those again that have not.
    fn attend(&mut self) {
        for place in std::mem::take(&mut self.fresh) {
            let Some(node) = self.nodes.get(&place) else { continue };
            if let Some(why) = node.failed() {
                self.shared.check.wrong(format!("node {place} does not start: {why}"));
            }
            match node.system() {
                Some(system) => self.add_client(place, system),
                None => self.fresh.push(place),
            }
        }
    }

    fn add_client(&mut self, place: Place, system: ActorSystem) {
        let Some(node) = self.nodes.get(&place) else { return };
        let client = Client {
            system,
            run: node.run,
            shared: self.shared.clone(),
            told: self.told.clone(),
            targets: self.targets.clone(),
            seed: self.rng.random(),
        };
        node.spawn(client.run());
    }

    /// At most one activation of an identity has a title that holds, each at its own node's clock (G2).
    fn check_owners(&self) {
        for (identity, live) in self.shared.check.contested() {
            let holds = live.iter().filter(|live| {
                let node = self.nodes.get(&live.run.place).filter(|node| node.run == live.run);
                node.is_some_and(|node| node.within(|| live.owned.holds()))
            });
            let holds: Vec<_> = holds.map(|live| (live.run, live.epoch)).collect();
            if holds.len() > 1 {
                self.shared.check.wrong(format!("G2: {identity} has owners at once: {holds:?}"));
            }
        }
    }

    /// What came of it, once it has ended.
    pub(crate) fn report(mut self) -> Report {
        for place in 0..NODES {
            self.gather(place);
        }
        let report = Report {
            wrong: self.shared.check.found(),
            counts: self.shared.counts.all(),
            trace: self.shared.trace.hash(),
            time: self.now,
        };
        for (_, node) in std::mem::take(&mut self.nodes) {
            self.shared.net.stop(node.run.place, true);
            node.crash();
        }
        report
    }

    /// Adds what a node has counted before it ends.
    pub(crate) fn gather(&self, place: Place) {
        let Some(system) = self.nodes.get(&place).and_then(Node::system) else { return };
        for (name, count) in system.ownership_stats() {
            self.shared.counts.more(&format!("own {name}"), count);
        }
    }
}
