//! What runs in the simulated systems: counters that write to the log that fences, and a mirror that they tell of it.

use std::{cell::RefCell, sync::Arc, time::Duration};

use kameo::actor::ActorRef;
use multidc::{Activation, Snapshot, prelude::*};
use multidc_ledger::{By, Log, Reason, Verdict, Want};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{
    check::{Check, Live},
    count::Counts,
    net::{Net, Run},
    trace::Trace,
};

/// What all nodes of a run share: what is outside of them, and what is seen of them.
pub struct Shared {
    /// How anything travels.
    pub net: Net,
    /// What the counters write to.
    pub log: Mutex<Log>,
    /// Where the log is.
    pub log_at: Run,
    /// What must hold.
    pub check: Check,
    /// What happened how often.
    pub counts: Counts,
    /// What happened.
    pub trace: Trace,
}

/// Who runs at this moment.
#[derive(Clone)]
pub struct Here {
    /// The world around.
    pub shared: Arc<Shared>,
    /// Which run of which node.
    pub run: Run,
    /// Of which datacenter.
    pub dc: Arc<str>,
}

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

/// Says who runs from now on.
pub fn set_here(here: Option<Here>) {
    HERE.set(here);
}

fn here() -> Result<Here, String> {
    HERE.with_borrow(Clone::clone).ok_or_else(|| "runs outside of a simulation".to_owned())
}

/// Add one.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
#[remote(name = "increment")]
pub struct Increment {
    /// The operation: never used twice, but for what certainly did not run.
    pub op: String,
}

/// What came of an increment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kameo::Reply)]
pub struct Counted {
    /// Whether it is written.
    pub written: bool,
    /// The epoch of who wrote it.
    pub epoch: u64,
    /// The count after it.
    pub count: u64,
}

/// Which counter it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CounterArgs {
    /// Its name or identity.
    pub id: String,
}

/// How long the log is waited for: what it says after that is not told.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long is waited before it is asked again.
const AGAIN: Duration = Duration::from_millis(100);
/// How long the mirror is waited for.
const GLANCE: Duration = Duration::from_millis(300);
/// Of so many increments one is held up on its way to the log.
const LATE_ONE_IN: u64 = 40;

/// What all kinds of counters have in common.
struct Counting {
    here: Here,
    by: By,
    count: u64,
    /// Something was asked of the log that it has not answered: it may have counted more, or be about to.
    unsure: bool,
}

impl Counting {
    /// Presents the epoch, then loads the count.
    async fn open(kind: &str, id: &str) -> Result<Self, String> {
        let here = here()?;
        let owned = Activation::current().and_then(|activation| activation.ownership());
        let owned = owned.ok_or_else(|| format!("{kind}/{id} runs without a title"))?;
        let by = By {
            identity: format!("{kind}/{id}"),
            epoch: owned.epoch().0,
            activation: here.shared.check.next(),
            pid: u32::try_from(here.run.place).unwrap_or(u32::MAX) * 1_000 + here.run.number,
            dc: here.dc.to_string(),
        };
        let live = Live { run: here.run, dc: here.dc.clone(), activation: by.activation, epoch: by.epoch, owned };
        here.shared.check.started(&by.identity, live);
        here.shared.counts.add("activations");
        let mut this = Self { here, by, count: 0, unsure: false };
        this.count = this.insist(Want::Open).await?;
        Ok(this)
    }

    /// Asks until the log answers: an actor that fails to start for want of it would lose its name.
    async fn insist(&self, want: Want) -> Result<u64, String> {
        loop {
            match self.ask(want.clone()).await {
                Some(Verdict::Accepted(count)) => return Ok(count),
                Some(Verdict::Refused(reason)) => return Err(format!("{:?} is refused: {reason:?}", self.by)),
                None => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    async fn ask(&self, want: Want) -> Option<Verdict> {
        let (answer, answered) = oneshot::channel();
        let (from, shared, by) = (self.here.run, self.here.shared.clone(), self.by.clone());
        let late = matches!(want, Want::Add(_)) && shared.check.next() % LATE_ONE_IN == 0;
        let job = {
            let shared = shared.clone();
            move || {
                let verdict = write(&shared, by, want);
                shared.net.send(shared.log_at, from, move || drop(answer.send(verdict)));
            }
        };
        if late {
            shared.counts.add("late effects");
            shared.net.send_after(from, shared.log_at, shared.check.next() % 12 * 1_000_000, job);
        } else {
            shared.net.send(from, shared.log_at, job);
        }
        tokio::time::timeout(PATIENCE, answered).await.ok()?.ok()
    }

    async fn add(&mut self, op: String) -> Counted {
        self.here.shared.check.accepted(&self.by, self.here.run);
        let (mut written, epoch) = (false, self.by.epoch);
        match self.ask(Want::Add(op)).await {
            Some(Verdict::Accepted(count)) => {
                self.count = count;
                written = true;
            }
            Some(Verdict::Refused(_)) => {}
            None => self.unsure = true,
        }
        if written {
            self.tell_mirror().await;
        }
        Counted { written, epoch, count: self.count }
    }

    /// Another actor hears of it: it takes in nothing of an owner that it knows to be over.
    async fn tell_mirror(&self) {
        let Some(system) = Activation::current().and_then(|activation| activation.system()) else { return };
        let shows = Shows { identity: self.by.identity.clone(), epoch: self.by.epoch };
        if system.grain::<Mirror>("mirror").tell(shows).timeout(GLANCE).await.is_err() {
            self.here.shared.counts.add("mirror not told");
        }
    }

    /// What it knows of its count, if that is all.
    fn state(&self) -> Option<u64> {
        (!self.unsure).then_some(self.count)
    }

    async fn restore(&mut self, state: Option<u64>) -> Result<(), String> {
        self.here.shared.counts.add("state restored");
        if let Some(count) = state {
            self.count = self.insist(Want::Restored(count)).await?;
        }
        Ok(())
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.here.shared.check.ended(&self.by.identity, self.by.activation);
    }
}

/// One line to the log.
fn write(shared: &Shared, by: By, want: Want) -> Verdict {
    let at = Duration::from_micros(shared.net.now());
    shared.trace.story(|| {
        format!("{:>10.3} log: {want:?} of {} under {} by {}", at.as_secs_f64(), by.identity, by.epoch, by.pid)
    });
    let verdict = shared.log.lock().ask(at, by.clone(), want);
    match &verdict {
        Verdict::Accepted(_) => {}
        Verdict::Refused(Reason::SameEpoch) => shared.check.wrong(format!("G3: one epoch in two processes: {by:?}")),
        Verdict::Refused(Reason::LowerEpoch) => shared.counts.add("fenced by the log"),
        Verdict::Refused(_) => shared.counts.add("refused by the log"),
    }
    verdict
}

/// What a counter has done.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
#[remote(name = "shows")]
pub struct Shows {
    identity: String,
    epoch: u64,
}

/// Hears of what counters do: a receiver that must take in nothing under a lower epoch after a higher.
#[derive(RemoteActor)]
#[remote(name = "mirror")]
pub struct Mirror {
    here: Here,
    number: u64,
}

impl Actor for Mirror {
    type Args = CounterArgs;
    type Error = String;

    async fn on_start(_: CounterArgs, _: ActorRef<Self>) -> Result<Self, String> {
        let here = here()?;
        let number = here.shared.check.next();
        Ok(Self { here, number })
    }
}

impl Message<Shows> for Mirror {
    type Reply = ();

    async fn handle(&mut self, shows: Shows, _: &mut Context<Self, ()>) {
        self.here.shared.counts.add("mirrored");
        self.here.shared.check.received(self.number, &shows.identity, shows.epoch);
    }
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(RemoteActor)]
        #[remote(name = $kind)]
        pub struct $name(Counting);

        impl Actor for $name {
            type Args = CounterArgs;
            type Error = String;

            async fn on_start(args: CounterArgs, _: ActorRef<Self>) -> Result<Self, String> {
                Ok(Self(Counting::open($kind, &args.id).await?))
            }
        }

        impl Message<Increment> for $name {
            type Reply = Counted;

            async fn handle(&mut self, message: Increment, _: &mut Context<Self, Counted>) -> Counted {
                self.0.add(message.op).await
            }
        }
    };
}

macro_rules! moves_along {
    ($name:ident) => {
        impl Snapshot for $name {
            type State = Option<u64>;

            async fn snapshot(&mut self) -> Result<Option<u64>, String> {
                Ok(self.0.state())
            }

            async fn restore(&mut self, state: Option<u64>) -> Result<(), String> {
                self.0.restore(state).await
            }
        }
    };
}

counter!(
    /// A counter under a global name; its state goes along.
    Counter,
    "counter"
);
moves_along!(Counter);
counter!(
    /// A counter as a global grain; its state goes along.
    Tally,
    "tally"
);
moves_along!(Tally);
counter!(
    /// A counter as a global grain that starts from the log wherever it comes.
    Plain,
    "plain"
);

/// Makes a counter's arguments of its identity.
pub fn args(id: &str) -> CounterArgs {
    CounterArgs { id: id.to_owned() }
}
