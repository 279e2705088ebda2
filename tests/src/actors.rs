//! The actors of the whole-system tests and the demo.

use std::{
    convert::Infallible,
    process,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use kameo::actor::ActorRef;
use multidc::prelude::*;
use serde::{Deserialize, Serialize};

use crate::protocol::{CartReport, WorkerReport};

static HERE: OnceLock<String> = OnceLock::new();
static ACTIVATIONS: AtomicU64 = AtomicU64::new(1);

/// Tells this process's actors which datacenter they run in.
pub fn here(dc: &str) {
    HERE.get_or_init(|| dc.to_owned());
}

pub(crate) fn dc() -> String {
    HERE.get().cloned().unwrap_or_default()
}

pub(crate) fn activation() -> u64 {
    (u64::from(process::id()) << 32) | ACTIVATIONS.fetch_add(1, Ordering::Relaxed)
}

/// Analyses days; remembers which, in the order they came.
#[derive(RemoteActor)]
#[remote(name = "worker")]
pub struct Worker {
    activation: u64,
    days: Vec<u32>,
}

/// How a worker starts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WorkerArgs {}

/// Analyse this day.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
#[remote(name = "analyse")]
pub struct Analyse {
    /// Which.
    pub day: u32,
}

/// How far are you?
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
#[remote(name = "progress")]
pub struct Progress;

/// Panic, for tests.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
#[remote(name = "panic")]
pub struct PanicNow;

impl Actor for Worker {
    type Args = WorkerArgs;
    type Error = Infallible;

    async fn on_start(_: WorkerArgs, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(Self { activation: activation(), days: Vec::new() })
    }
}

impl Message<Analyse> for Worker {
    type Reply = ();

    async fn handle(&mut self, message: Analyse, _: &mut Context<Self, ()>) {
        self.days.push(message.day);
    }
}

impl Message<Progress> for Worker {
    type Reply = WorkerReport;

    async fn handle(&mut self, _: Progress, _: &mut Context<Self, WorkerReport>) -> WorkerReport {
        WorkerReport { dc: dc(), pid: process::id(), activation: self.activation, days: self.days.clone() }
    }
}

impl Message<PanicNow> for Worker {
    type Reply = ();

    async fn handle(&mut self, _: PanicNow, _: &mut Context<Self, ()>) {
        panic!("asked to");
    }
}

/// How a grain starts: with nothing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CartArgs {}

/// Adds an item; answers how many there are.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
#[remote(name = "add-item")]
pub struct AddItem;

macro_rules! cart {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(RemoteActor)]
        #[remote(name = $kind)]
        pub struct $name {
            activation: u64,
            items: u64,
        }

        impl Actor for $name {
            type Args = CartArgs;
            type Error = Infallible;

            async fn on_start(_: CartArgs, _: ActorRef<Self>) -> Result<Self, Infallible> {
                Ok(Self { activation: activation(), items: 0 })
            }
        }

        impl Message<AddItem> for $name {
            type Reply = CartReport;

            async fn handle(&mut self, _: AddItem, _: &mut Context<Self, CartReport>) -> CartReport {
                self.items += 1;
                CartReport { dc: dc(), pid: process::id(), activation: self.activation, items: self.items }
            }
        }
    };
}

cart!(
    /// A grain: one activation in each datacenter that is asked.
    Cart,
    "cart"
);
cart!(
    /// A grain with one home across datacenters.
    Ledger,
    "ledger"
);
