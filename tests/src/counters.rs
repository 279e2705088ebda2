//! Global counters: each presents its epoch to the fencing log before it loads its count, and with every increment.
//! Without a log they count in memory, for measurements.

use std::{net::SocketAddr, process, sync::OnceLock, time::Duration};

use kameo::actor::ActorRef;
use multidc::{Activation, Snapshot, prelude::*};
use serde::{Deserialize, Serialize};

use crate::{
    actors::{activation, dc},
    ledger::{By, Client, Reason, Verdict, Want},
    protocol::{CountReport, Outcome},
};

static LOG: OnceLock<Client> = OnceLock::new();

/// Tells this process's counters where the log is. Must be called within a runtime.
pub fn log_at(addr: SocketAddr) {
    LOG.get_or_init(|| Client::new(addr));
}

/// Add one.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
#[remote(name = "increment")]
pub struct Increment {
    /// The operation: never used twice.
    pub op: String,
}

/// Which counter it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CounterArgs {
    /// Its name or identity.
    pub id: String,
}

/// What all kinds of counters have in common.
struct Counting {
    by: By,
    count: u64,
}

impl Counting {
    /// Presents the epoch, then loads the count.
    async fn open(kind: &str, id: &str) -> Result<Self, String> {
        let epoch = Activation::current().and_then(|here| here.ownership()).map_or(0, |owned| owned.epoch().0);
        let identity = format!("{kind}/{id}");
        let by = By { identity, epoch, activation: activation(), pid: process::id(), dc: dc() };
        let count = match LOG.get() {
            None => 0,
            Some(log) => Self::ask(log, &by, Want::Open).await?,
        };
        Ok(Self { by, count })
    }

    /// Asks until the log answers: an actor that fails to start for want of it would lose its name.
    async fn ask(log: &Client, by: &By, want: Want) -> Result<u64, String> {
        loop {
            match log.ask(by.clone(), want.clone()).await {
                Ok(Verdict::Accepted(count)) => return Ok(count),
                Ok(Verdict::Refused(reason)) => return Err(format!("{by:?} is refused: {reason:?}")),
                Err(error) => tracing::warn!(%error, "the log is asked again"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn add(&mut self, op: String) -> CountReport {
        let outcome = match LOG.get() {
            None => {
                self.count += 1;
                Outcome::Counted
            }
            Some(log) => match log.ask(self.by.clone(), Want::Add(op)).await {
                Ok(Verdict::Accepted(count)) => {
                    self.count = count;
                    Outcome::Counted
                }
                Ok(Verdict::Refused(Reason::LowerEpoch)) => Outcome::Fenced,
                Ok(Verdict::Refused(reason)) => {
                    tracing::error!(by = ?self.by, ?reason, "refused");
                    Outcome::Fenced
                }
                Err(_) => Outcome::NoLog,
            },
        };
        let By { identity: _, epoch, activation, pid, dc } = self.by.clone();
        CountReport { dc, pid, activation, epoch, count: self.count, outcome }
    }

    async fn restore(&mut self, count: u64) -> Result<(), String> {
        match LOG.get() {
            None => self.count = count,
            Some(log) => drop(Self::ask(log, &self.by, Want::Restored(count)).await?),
        }
        Ok(())
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
            type Reply = CountReport;

            async fn handle(&mut self, message: Increment, _: &mut Context<Self, CountReport>) -> CountReport {
                self.0.add(message.op).await
            }
        }

        impl Snapshot for $name {
            type State = u64;

            async fn snapshot(&mut self) -> Result<u64, String> {
                Ok(self.0.count)
            }

            async fn restore(&mut self, count: u64) -> Result<(), String> {
                self.0.restore(count).await
            }
        }
    };
}

counter!(
    /// A counter under a global name.
    Counter,
    "counter"
);
counter!(
    /// A counter as a global grain.
    Tally,
    "tally"
);
counter!(
    /// A counter as a grain of each datacenter: what a global one is compared with.
    Nearby,
    "nearby"
);
