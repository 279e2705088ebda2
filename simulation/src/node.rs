//! One node of a simulated datacenter: its runtime with a clock of its own, and the production system on it.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use multidc::{ActorSystem, ActorSystemBuilder, DataCenter, Event, GossipTiming, Loss, Scope, StartError, TokioClock};
use parking_lot::Mutex;
use tokio::{runtime::Runtime, time::Instant};

use crate::{
    actors::{Counter, Here, Increment, Mirror, Plain, Shared, Shows, Tally, args, set_here},
    net::{Run, address},
    seeded,
    store::SimPlane,
    world::Plant,
};

/// The lease of what is owned.
pub const OWN_TTL: Duration = Duration::from_secs(5);

/// Documents of slots in each group: the identities of a run lie in these.
pub const DOCUMENTS: u16 = 1;

/// How a node is made.
pub struct Spec {
    /// The world around.
    pub shared: Arc<Shared>,
    /// Which run of which place.
    pub run: Run,
    /// Its datacenter.
    pub dc: Arc<str>,
    /// The places of its datacenter.
    pub places: Vec<usize>,
    /// Its way to the store.
    pub plane: SimPlane,
    /// How fast its clock runs, in thousandths.
    pub rate: u64,
    /// By how many seconds its wall clock is wrong.
    pub wall: i64,
    /// A bug on purpose.
    pub plant: Option<Plant>,
}

/// What has become of the start.
pub type Started = Arc<Mutex<Option<Result<ActorSystem, StartError>>>>;

/// A node that runs.
pub struct Node {
    /// Which run.
    pub run: Run,
    /// Its datacenter.
    pub dc: Arc<str>,
    here: Here,
    runtime: Runtime,
    /// When the runtime was made, on its own clock.
    born: Instant,
    /// How far its clock is, in microseconds since then.
    local: u64,
    rate: u64,
    wall: i64,
    /// Its machine stands still: nothing runs there, its clock goes on.
    pub paused: bool,
    started: Started,
}

impl Node {
    /// Begins to start a node.
    pub fn start(spec: Spec) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let here = Here { shared: spec.shared.clone(), run: spec.run, dc: spec.dc.clone() };
        let started: Started = Arc::default();
        let born = {
            let _in = runtime.enter();
            #[expect(clippy::disallowed_methods, reason = "the simulated clock itself")]
            Instant::now()
        };
        let (rate, wall, run, dc) = (spec.rate, spec.wall, spec.run, spec.dc.clone());
        runtime.spawn({
            let started = started.clone();
            async move {
                let system = describe(&spec).start().await;
                if let Ok(system) = &system {
                    tokio::spawn(follow(system.clone(), spec.shared.clone(), spec.run));
                }
                *started.lock() = Some(system);
            }
        });
        Ok(Self { run, dc, here, runtime, born, local: 0, rate, wall, paused: false, started })
    }

    /// The system, once it has started.
    pub fn system(&self) -> Option<ActorSystem> {
        self.started.lock().as_ref().and_then(|started| started.as_ref().ok().cloned())
    }

    /// Why it did not start, if so.
    pub fn failed(&self) -> Option<String> {
        self.started.lock().as_ref().and_then(|started| started.as_ref().err().map(ToString::to_string))
    }

    /// Lets it run for so long, in microseconds of true time.
    pub fn advance(&mut self, by: u64) {
        self.local += by * self.rate / 1_000;
        let until = self.born + Duration::from_micros(self.local);
        set_here(Some(self.here.clone()));
        seeded::set_wall_wrong_by(self.wall);
        if self.paused {
            self.move_clock(until);
        } else {
            self.runtime.block_on(async move { tokio::time::sleep_until(until).await });
        }
        seeded::set_wall_wrong_by(0);
        set_here(None);
    }

    /// Moves its clock on without letting anything run.
    fn move_clock(&self, until: Instant) {
        let _in = self.runtime.enter();
        #[expect(clippy::disallowed_methods, reason = "the simulated clock itself")]
        let missing = until.saturating_duration_since(Instant::now());
        if !missing.is_zero() {
            // The clock is moved at the first look at it; what follows is for whoever runs.
            let _ = pin!(tokio::time::advance(missing)).poll(&mut Context::from_waker(Waker::noop()));
        }
    }

    /// Does something as this node, without letting anything run.
    pub fn within<T>(&self, act: impl FnOnce() -> T) -> T {
        let _in = self.runtime.enter();
        set_here(Some(self.here.clone()));
        let done = act();
        set_here(None);
        done
    }

    /// Runs something on it from now on.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Ends it without a word, with all that runs on it.
    pub fn crash(self) {
        set_here(Some(self.here.clone()));
        let Self { runtime, started, .. } = self;
        drop(runtime);
        // Its last handle: there is nothing left to abort it on.
        drop(started);
        set_here(None);
    }
}

/// The system of a node, with the kinds of all nodes.
fn describe(spec: &Spec) -> ActorSystemBuilder {
    let net = spec.shared.net.of(spec.run);
    let second = Duration::from_secs(1);
    let seeds = spec.places.iter().filter(|place| **place != spec.run.place).map(|place| address(*place));
    let plant = spec.plant;
    let builder = ActorSystem::builder("sim");
    plant
        .and_then(Plant::actor)
        .into_iter()
        .fold(builder, ActorSystemBuilder::plant)
        .data_center(DataCenter::new(&*spec.dc))
        .control_plane(spec.plane.clone())
        .network(net.clone(), net)
        .listen(address(spec.run.place))
        .seeds(seeds)
        .clock(Arc::new(TokioClock))
        .gossip_timing(GossipTiming::lan())
        .cluster(|cluster| cluster.founding_wait(Duration::from_millis(500)))
        .controller(move |options| {
            options
                .lease_ttl(4 * second)
                .heartbeat_interval(second)
                .cache_refresh_interval(second / 2)
                .max_cache_staleness(5 * second)
                .leader_check_interval(second / 2)
                .request_timeout(2 * second)
                .max_backoff(second)
        })
        .ownership(move |options| {
            let options = options.ttl(OWN_TTL).documents(DOCUMENTS);
            plant.and_then(Plant::core).into_iter().fold(options, dc_ownership::OwnershipOptionsBuilder::plant)
        })
        .shutdown_grace(5 * second)
        .links(move |links| links.connect_timeout(second).backoff_max(second))
        .actor::<Counter>(|kind| kind.handles::<Increment>().snapshots())
        .grain::<Mirror>(|kind| {
            let home = multidc::Selector::name("dc-1");
            kind.args(args).home(home).handles::<Shows>()
        })
        .grain::<Tally>(|kind| {
            let kind = kind.args(args).scope(Scope::Global).survives(Loss::DataCenter);
            kind.handles::<Increment>().snapshots()
        })
        .grain::<Plain>(|kind| {
            let kind = kind.args(args).scope(Scope::Global).survives(Loss::DataCenter);
            kind.failback(multidc::Failback::Automatic).prefer(multidc::Selector::name("dc-2")).handles::<Increment>()
        })
}

/// Counts what the node tells.
async fn follow(system: ActorSystem, shared: Arc<Shared>, run: Run) {
    let mut events = system.events();
    drop(system);
    while let Some(event) = events.next().await {
        let at = shared.net.now();
        match &event {
            Event::Ownership(event) => {
                let text = format!("{event:?}");
                let name = text.split([' ', '{']).next().unwrap_or_default();
                shared.counts.add(&format!("event {name}"));
                shared.trace.story(|| format!("{:>10.3} node {}: {text}", at as f64 / 1e6, run.place));
            }
            Event::Members { .. }
            | Event::Leader { .. }
            | Event::DataCenterState { .. }
            | Event::GlobalMoved { .. } => {
                shared.trace.story(|| format!("{:>10.3} node {}: {event:?}", at as f64 / 1e6, run.place));
            }
            Event::DeadLetter(letter) => shared.counts.add(&format!("dead letter {}", letter.error.name())),
            _ => {}
        }
    }
}
