//! Clients on every node: each asks one counter after the other, and remembers what it was told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use dc_ownership::ids::Slot;
use multidc::{ActorSystem, AskError, Error, Infallible, Loss, Ref};
use multidc_ledger::Acknowledged;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    actors::{Counted, Counter, Increment, Plain, Shared, Tally, args},
    net::Run,
    node::DOCUMENTS,
};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What clients count with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A global name, and what it survives.
    Name(String, Survives),
    /// A global grain whose state goes along.
    Tally(String),
    /// A global grain that starts afresh wherever it comes.
    Plain(String),
}

/// What a name survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Survives {
    /// The loss of its datacenter.
    DataCenter,
    /// The loss of its node.
    Node,
    /// Nothing: whoever misses it spawns it again.
    Nothing,
}

impl From<Survives> for Loss {
    fn from(survives: Survives) -> Self {
        match survives {
            Survives::DataCenter => Self::DataCenter,
            Survives::Node => Self::Node,
            Survives::Nothing => Self::Nothing,
        }
    }
}

impl Target {
    /// As the log knows it.
    pub fn identity(&self) -> String {
        match self {
            Self::Name(name, _) => format!("counter/{name}"),
            Self::Tally(id) => format!("tally/{id}"),
            Self::Plain(id) => format!("plain/{id}"),
        }
    }

    /// All that is counted with in a run.
    pub fn all() -> Vec<Self> {
        let mut all = vec![
            Self::Name("a".into(), Survives::DataCenter),
            Self::Name("b".into(), Survives::DataCenter),
            Self::Name("c".into(), Survives::Node),
            Self::Name("d".into(), Survives::Nothing),
        ];
        // Those whose slots there are.
        let ids = |kind: &'static str| {
            (0..).map(|n: u32| n.to_string()).filter(move |id| Slot::of(&format!("{kind}/{id}")).document() < DOCUMENTS)
        };
        all.extend(ids("tally").take(4).map(Self::Tally));
        all.extend(ids("plain").take(3).map(Self::Plain));
        all
    }
}

/// What clients were told, and what they are to do.
#[derive(Default)]
pub struct Told {
    acknowledged: Mutex<Vec<Acknowledged>>,
    /// Faults are over: every client asks every counter in turn, and each answer is noted.
    calm: AtomicBool,
    answered: Mutex<BTreeSet<(usize, Target)>>,
    ops: AtomicU64,
}

impl Told {
    /// What was acknowledged so far.
    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        self.acknowledged.lock().clone()
    }

    /// Faults are over.
    pub fn calm(&self) {
        self.calm.store(true, Ordering::SeqCst);
    }

    /// Whether the client of that place was answered by it since faults are over.
    pub fn answered(&self, place: usize, target: &Target) -> bool {
        self.answered.lock().contains(&(place, target.clone()))
    }
}

/// A client of one node, until that ends.
pub struct Client {
    /// The node.
    pub system: ActorSystem,
    /// Which run of it.
    pub run: Run,
    /// The world around.
    pub shared: Arc<Shared>,
    /// What it is told goes here.
    pub told: Arc<Told>,
    /// What it asks.
    pub targets: Arc<Vec<Target>>,
    /// Of its choices.
    pub seed: u64,
}

/// References that a client keeps: they follow what moves.
type Known = BTreeMap<String, Ref<Counter>>;

impl Client {
    /// Asks for ever.
    pub async fn run(self) {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut known = Known::new();
        let mut turn = self.run.place;
        loop {
            let calm = self.told.calm.load(Ordering::SeqCst);
            let pause = if calm { 20..100 } else { 30..400 };
            tokio::time::sleep(Duration::from_millis(rng.random_range(pause))).await;
            turn += 1;
            let at = if calm { turn } else { rng.random_range(0..self.targets.len()) };
            let target = &self.targets[at % self.targets.len()];
            if calm && self.told.answered(self.run.place, target) {
                continue;
            }
            let op = format!("{}", self.told.ops.fetch_add(1, Ordering::SeqCst));
            for _ in 0..3 {
                match self.ask(target, &op, &mut known).await {
                    Ok(counted) => {
                        self.note(target, op, counted, calm);
                        break;
                    }
                    Err(error) => {
                        let (name, again) = (error.name(), error.certainly_not_run());
                        let at = self.shared.net.now() as f64 / 1e6;
                        self.shared.counts.add(&format!("client {name}"));
                        self.shared
                            .trace
                            .story(|| format!("{at:>10.3} client {}: {target:?} {op}: {error}", self.run.place));
                        if !again {
                            break;
                        }
                    }
                }
            }
        }
    }

    fn note(&self, target: &Target, op: String, counted: Counted, calm: bool) {
        if !counted.written {
            self.shared.counts.add("client not written");
            return;
        }
        self.shared.counts.add("client acknowledged");
        let Counted { count, epoch, .. } = counted;
        self.told.acknowledged.lock().push(Acknowledged { op, identity: target.identity(), count, epoch });
        if calm {
            self.told.answered.lock().insert((self.run.place, target.clone()));
        }
    }

    async fn ask(&self, target: &Target, op: &str, known: &mut Known) -> Result<Counted, Error> {
        let increment = || Increment { op: op.to_owned() };
        let answer = match target {
            Target::Tally(id) => self.system.grain::<Tally>(id).ask(increment()).timeout(PATIENCE).await,
            Target::Plain(id) => self.system.grain::<Plain>(id).ask(increment()).timeout(PATIENCE).await,
            Target::Name(name, survives) => {
                let counter = match known.get(name) {
                    Some(counter) => counter.clone(),
                    None => self.find(name, *survives, known).await?,
                };
                let answer = counter.ask(increment()).timeout(PATIENCE).await;
                if answer.is_err() {
                    known.remove(name);
                }
                answer
            }
        };
        answer.map_err(|error: AskError<Infallible>| match error {
            AskError::Failed(error) => error,
            AskError::Handler(never) => match never {},
        })
    }

    async fn find(&self, name: &str, survives: Survives, known: &mut Known) -> Result<Ref<Counter>, Error> {
        let found = self.system.actor_of::<Counter>(name).global().timeout(PATIENCE).await;
        let found = match found {
            Err(Error::ActorNotFound { .. }) => {
                self.shared.counts.add("names spawned");
                let spawn = self.system.spawn_on::<Counter>(name, args(name)).global();
                spawn.survives(survives.into()).timeout(PATIENCE).await?
            }
            found => found?,
        };
        known.insert(name.to_owned(), found.clone());
        Ok(found)
    }
}
