//! The actors of a soak: each writes down what it handles before it answers.

use std::{
    convert::Infallible,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use kameo::actor::ActorRef;
use multidc::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    clock::now_us,
    control::Plant,
    record::{Class, Entry, LogWriter, What},
};

/// What this process's actors and senders share.
#[derive(Debug)]
pub(crate) struct Here {
    pub(crate) run: u32,
    pub(crate) log: LogWriter,
    pub(crate) plant: Option<Plant>,
    count: AtomicU64,
    handled: AtomicU64,
}

static HERE: OnceLock<Here> = OnceLock::new();

/// Longest life of an actor that nobody stops: its spawner was killed, or does not know that it started.
const BRIEF_LIFE: Duration = Duration::from_secs(15);

impl Here {
    pub(crate) fn begin(run: u32, log: LogWriter, plant: Option<Plant>) -> &'static Self {
        HERE.get_or_init(|| Self { run, log, plant, count: AtomicU64::new(1), handled: AtomicU64::new(0) })
    }

    /// A number that no other stream or activation of any process has.
    pub(crate) fn number(&self) -> u64 {
        (u64::from(self.run) << 32) | self.count.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn write(&self, entry: &Entry) {
        if let Err(error) = self.log.write(entry) {
            tracing::error!(%error, "the log cannot be written: ending");
            std::process::exit(3);
        }
    }

    /// Whether this is the time for a planted fault that comes once in `every` messages.
    pub(crate) fn strikes(&self, plant: Plant, every: u64) -> bool {
        self.plant == Some(plant) && self.handled.fetch_add(1, Ordering::Relaxed) % every == every - 1
    }
}

/// Actors run only after [`Here::begin`].
fn here() -> &'static Here {
    HERE.get().expect("begun before the system started")
}

/// Handle this, and write it down.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
#[remote(name = "soak-put")]
pub(crate) struct Put {
    pub(crate) stream: u64,
    pub(crate) seq: u32,
    pub(crate) sent_us: u64,
    pub(crate) tell: bool,
    /// Stop afterwards.
    pub(crate) last: bool,
    pub(crate) pad: Bytes,
}

/// It was handled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kameo::Reply)]
pub(crate) struct Ack {
    /// By this activation.
    pub(crate) activation: u64,
    /// Of the target, or grain, of this number.
    pub(crate) target: u32,
}

/// What all of them do.
struct Book {
    class: Class,
    target: u32,
    grain: u32,
    activation: u64,
    held: Option<Entry>,
}

impl Book {
    fn new(class: Class, target: u32) -> Self {
        let grain = if class.moves() { target } else { 0 };
        Self { class, target, grain, activation: here().number(), held: None }
    }

    fn entry(&self, stream: u64, seq: u32, sent_us: u64) -> Entry {
        let (class, activation, grain) = (self.class, self.activation, self.grain);
        Entry { what: What::Handled, class, stream, seq, activation, sent_us, at_us: now_us(), grain }
    }

    fn handle(&mut self, put: &Put) -> Ack {
        let here = here();
        let entry = self.entry(put.stream, put.seq, put.sent_us);
        let ack = Ack { activation: self.activation, target: self.target };
        if !put.tell && here.strikes(Plant::Lose, 100) || put.tell && here.strikes(Plant::Drop, 100) {
            return ack;
        }
        if put.tell && self.class == Class::Actor && self.held.is_none() && here.strikes(Plant::Reorder, 100) {
            self.held = Some(entry);
            return ack;
        }
        if self.grain > 0 && here.strikes(Plant::Split, 10) {
            here.write(&Entry { activation: self.activation | 1 << 31, ..entry });
            return ack;
        }
        here.write(&entry);
        if let Some(held) = self.held.take_if(|held| held.stream == entry.stream) {
            here.write(&held);
        }
        if here.strikes(Plant::Twice, 100) {
            here.write(&entry);
        }
        ack
    }
}

/// How a target starts: with its number.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Number(pub(crate) u32);

macro_rules! target {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $class:expr) => {
        $(#[$doc])*
        #[derive(RemoteActor)]
        #[remote(name = $kind)]
        pub(crate) struct $name(Book);

        impl Actor for $name {
            type Args = Number;
            type Error = Infallible;

            async fn on_start(args: Number, _: ActorRef<Self>) -> Result<Self, Infallible> {
                Ok(Self(Book::new($class, args.0)))
            }
        }

        impl Message<Put> for $name {
            type Reply = Ack;

            async fn handle(&mut self, put: Put, _: &mut Context<Self, Ack>) -> Ack {
                self.0.handle(&put)
            }
        }
    };
}

target!(
    /// An actor with a name, as long as its node lives.
    Target,
    "soak-target",
    Class::Actor
);
target!(
    /// A grain: one activation in each datacenter that is asked.
    Cart,
    "soak-cart",
    Class::Cart
);
target!(
    /// A grain with one home across datacenters.
    Ledger,
    "soak-ledger",
    Class::Ledger
);
target!(
    /// A grain of which there is one in the world.
    Vault,
    "soak-vault",
    Class::Vault
);
target!(
    /// An actor with a name in the world: it starts again elsewhere when its node is lost.
    Deed,
    "soak-deed",
    Class::Deed
);

/// An actor that is spawned, asked once, and stops.
#[derive(RemoteActor)]
#[remote(name = "soak-brief")]
pub(crate) struct Brief(Book);

/// How a brief actor starts: its start is a message too, the first of its stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BriefArgs {
    pub(crate) stream: u64,
    pub(crate) sent_us: u64,
}

impl Actor for Brief {
    type Args = BriefArgs;
    type Error = Infallible;

    async fn on_start(args: BriefArgs, this: ActorRef<Self>) -> Result<Self, Infallible> {
        let book = Book::new(Class::Spawn, 0);
        here().write(&book.entry(args.stream, 1, args.sent_us));
        let this = this.downgrade();
        tokio::spawn(async move {
            tokio::time::sleep(BRIEF_LIFE).await;
            if let Some(this) = this.upgrade() {
                // It has stopped by itself, most likely.
                let _ = this.stop_gracefully().await;
            }
        });
        Ok(Self(Book { class: Class::Actor, ..book }))
    }
}

impl Message<Put> for Brief {
    type Reply = Ack;

    async fn handle(&mut self, put: Put, ctx: &mut Context<Self, Ack>) -> Ack {
        let ack = self.0.handle(&put);
        if put.last {
            ctx.stop();
        }
        ack
    }
}
