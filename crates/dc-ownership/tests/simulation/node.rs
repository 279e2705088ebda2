//! One node: its core, its clock, its watches, and what runs on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use dc_core::{Clock, DataCenterId, Epoch};
use dc_ownership::{
    core::{Core, Input, Parcels},
    ids::SessionId,
    order::Thing,
    title::Title,
};

/// True time, at another rate and from another start.
#[derive(Debug)]
pub(crate) struct SimClock {
    pub(crate) base: Instant,
    pub(crate) time: Arc<AtomicU64>,
    pub(crate) rate: f64,
    pub(crate) offset: u64,
}

impl SimClock {
    fn local(&self, true_ns: u64) -> Instant {
        self.base + Duration::from_nanos(self.offset + (true_ns as f64 * self.rate) as u64)
    }

    /// When this clock shows `at`, in true time; a little later, never earlier.
    pub(crate) fn when(&self, at: Instant) -> u64 {
        let local = u64::try_from(at.saturating_duration_since(self.base).as_nanos()).unwrap_or(u64::MAX);
        (local.saturating_sub(self.offset) as f64 / self.rate) as u64 + 1_000
    }
}

impl Clock for SimClock {
    fn now(&self) -> Instant {
        self.local(self.time.load(Ordering::SeqCst))
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watch {
    pub(crate) serial: u64,
    pub(crate) open: bool,
    /// Events of one watch arrive in order.
    pub(crate) last: u64,
}

pub(crate) struct Node {
    pub(crate) core: Core,
    pub(crate) clock: Arc<SimClock>,
    /// Which run of the place it is.
    pub(crate) run: u64,
    pub(crate) dc: DataCenterId,
    pub(crate) alive: bool,
    pub(crate) paused: bool,
    pub(crate) queue: Vec<Input>,
    pub(crate) generation: u64,
    pub(crate) watches: [Watch; 4],
    /// How much later than usual its watches and reads are.
    pub(crate) lag: u64,
    pub(crate) pending: BTreeSet<u64>,
    /// Writes that hand something over, and to whom.
    pub(crate) handing: BTreeMap<u64, SessionId>,
    pub(crate) titles: BTreeMap<Thing, Title>,
    pub(crate) session: Option<SessionId>,
    /// Actors of names that run here.
    pub(crate) running: BTreeMap<String, Title>,
    pub(crate) claims: BTreeMap<u64, String>,
    pub(crate) placing: BTreeSet<u64>,
    /// Identities that, by its table, are not with their slots.
    pub(crate) apart: BTreeSet<Thing>,
    pub(crate) parcels: Parcels,
    /// What was offered last, of each thing.
    pub(crate) last_offer: BTreeMap<Thing, (Epoch, Vec<(String, Bytes)>)>,
    /// State that was offered under the present session.
    pub(crate) state_here: BTreeSet<(Thing, Epoch)>,
    /// State that was here when its session was lost.
    pub(crate) lost_state: BTreeSet<(Thing, Epoch)>,
    /// The epochs that its table shows.
    pub(crate) known: BTreeMap<Thing, Epoch>,
    /// What it has acknowledged, counted, of each thing that it owns: state that goes along.
    pub(crate) counters: BTreeMap<Thing, u64>,
    /// Things that do nothing more, since they are to be handed over.
    pub(crate) quiet: BTreeSet<Thing>,
    pub(crate) wake_at: u64,
    pub(crate) drain: u64,
}

impl Node {
    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(crate) fn holds(&self, thing: &Thing) -> bool {
        self.alive && self.titles.get(thing).is_some_and(|title| title.check().is_ok())
    }
}
