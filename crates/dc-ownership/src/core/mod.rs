//! What to do next, without I/O: time, what the store shows and what was answered go in; requests, orders, titles and
//! changes of the table come out. The same inputs and seed give the same outputs.
//!
//! Not an interface: public for the simulation in `tests/` and for nobody else.

mod answers;
mod balance;
mod claims;
mod drains;
mod input;
mod names;
mod observe;
mod output;
mod overrides;
mod own;
mod rank;
mod requests;
mod silence;
mod slots;
mod store;
mod things;
mod timers;
mod titles;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Instant,
};

use dc_core::{DataCenterId, Epoch, SharedClock, StoreId};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use self::{
    balance::Balance,
    drains::Drain,
    names::NameState,
    observe::Seen,
    output::Output,
    overrides::Placement,
    own::Own,
    rank::Live,
    requests::Requests,
    slots::SlotsState,
    store::Removed,
    things::{Hold, Relocation},
    timers::{Timer, Timers},
};
pub use self::{
    input::{Answer, Ask, Input, Op, Outcome, Plant, Written},
    output::{Effect, OpDone, OrderOut, Request, Update},
};
/// What the driver keeps for a core: so that the simulation runs it too.
pub use crate::parcels::Parcels;
use crate::{
    documents::Unit,
    event::{OwnershipEvent, Stats},
    handle::Me,
    ids::{GroupId, SLOTS, SLOTS_PER_DOCUMENT, SessionId},
    options::OwnershipOptions,
    order::Thing,
    policy::Policy,
    title::Title,
};

/// What a core is told at its start.
pub struct Setup {
    /// This node.
    pub me: Me,
    /// Kinds of grains, and their policies.
    pub kinds: Vec<(String, Policy)>,
    /// Whether a datacenter takes placements.
    pub placeable: Arc<dyn Fn(&DataCenterId) -> bool + Send + Sync>,
    /// How it takes part.
    pub options: OwnershipOptions,
    /// What its leases are checked on. All else goes by the instants that are passed in.
    pub clock: SharedClock,
    /// Of every random choice.
    pub seed: u64,
    /// How many documents of slots each group has: all of them, but for the simulation.
    pub documents: u16,
    /// Bugs on purpose, for the simulation.
    pub plant: Option<Plant>,
}

impl Setup {
    /// How many documents the slots of a group fill.
    pub const DOCUMENTS: u16 = SLOTS / SLOTS_PER_DOCUMENT;
}

/// One node's part in the protocol.
pub struct Core {
    me: Me,
    options: OwnershipOptions,
    clock: SharedClock,
    placeable: Arc<dyn Fn(&DataCenterId) -> bool + Send + Sync>,
    documents: u16,
    plant: Option<Plant>,
    rng: StdRng,

    kinds: BTreeMap<String, (Policy, KindState)>,
    /// The groups that this node serves: those of its kinds that are declared alike everywhere.
    groups: BTreeMap<GroupId, Policy>,

    /// Which store it is, and the highest revision that was seen of it.
    store: Option<StoreId>,
    highest: u64,
    /// No claims before this instant: the store lost data.
    frozen_until: Option<Instant>,
    /// By prefix, whether what is there was replayed.
    replayed: [bool; 4],
    /// Grows each time that the store is watched afresh.
    watches: u64,
    /// Keys that the running replay of a prefix showed.
    replaying: [BTreeSet<Unit>; 4],
    ready_at: Option<Instant>,

    own: Own,
    /// Sessions of this node that are over, to be buried by it.
    over: BTreeSet<SessionId>,
    sessions: BTreeMap<SessionId, Seen>,
    /// The longest TTL that any of them had, in milliseconds.
    longest_ttl_ms: u64,
    /// Which documents name a session.
    named: BTreeMap<SessionId, BTreeSet<Unit>>,
    live: Vec<Live>,
    live_stale: bool,

    slots: BTreeMap<(GroupId, u16), SlotsState>,
    names: BTreeMap<String, NameState>,
    removed: Removed,
    /// Units with entries that somebody should claim.
    orphans: BTreeSet<Unit>,
    unreadable: BTreeMap<Unit, u64>,

    /// What this node's present session owns, by the documents, and how far it is.
    holds: BTreeMap<Thing, Hold>,
    /// Things that wait for a renewal which was sent after they were claimed.
    confirming: BTreeMap<u64, Thing>,
    claims_seen: u64,
    /// How often state of a thing was sent to another node under the present title.
    offered: BTreeMap<Thing, u64>,
    relocations: BTreeMap<Thing, Relocation>,
    placements: BTreeMap<Thing, Placement>,
    asked_after: BTreeSet<Unit>,

    taking: bool,
    /// Whether claims wait until it is known what is wanted of this node.
    heeds: bool,
    /// As of when that is known.
    told: Option<Instant>,
    drain: Option<Drain>,
    balance: Balance,
    tokens: u64,
    /// Things that wait for an answer, by token.
    waiting: BTreeMap<u64, Thing>,
    claim_tokens: f64,
    claims_counted_at: Instant,
    stopping: Option<u64>,
    stopped: bool,

    floor: Epoch,
    remembered: Epoch,
    /// Things that can have no other owner, as was told.
    at_the_end: BTreeSet<Thing>,
    requests: Requests,
    timers: Timers,
    out: Output,
    stats: Stats,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KindState {
    Unknown,
    Asked,
    Served,
    Refused,
}

impl Core {
    /// A core that has seen nothing yet. Ask [`take_effects`](Self::take_effects) for the first requests.
    pub fn new(setup: Setup, now: Instant) -> Self {
        let Setup { me, kinds, placeable, options, clock, seed, documents, plant } = setup;
        let kinds = kinds.into_iter().map(|(kind, policy)| (kind, (policy, KindState::Unknown))).collect();
        let requests = Requests::new(options.requests_in_flight());
        let mut core = Self {
            claim_tokens: 0.0,
            claims_counted_at: now,
            me,
            options,
            clock,
            placeable,
            documents,
            plant,
            rng: StdRng::seed_from_u64(seed),
            kinds,
            groups: BTreeMap::new(),
            store: None,
            highest: 0,
            frozen_until: None,
            replayed: [false; 4],
            watches: 0,
            replaying: Default::default(),
            ready_at: None,
            own: Own::None { retry_at: now },
            over: BTreeSet::new(),
            sessions: BTreeMap::new(),
            longest_ttl_ms: 0,
            named: BTreeMap::new(),
            live: Vec::new(),
            live_stale: true,
            slots: BTreeMap::new(),
            names: BTreeMap::new(),
            removed: Removed::default(),
            orphans: BTreeSet::new(),
            unreadable: BTreeMap::new(),
            holds: BTreeMap::new(),
            confirming: BTreeMap::new(),
            claims_seen: 0,
            offered: BTreeMap::new(),
            relocations: BTreeMap::new(),
            placements: BTreeMap::new(),
            asked_after: BTreeSet::new(),
            taking: true,
            heeds: false,
            told: None,
            drain: None,
            balance: Balance::new(now),
            tokens: 0,
            waiting: BTreeMap::new(),
            stopping: None,
            stopped: false,
            floor: Epoch(0),
            remembered: Epoch(0),
            at_the_end: BTreeSet::new(),
            requests,
            timers: Timers::default(),
            out: Output::default(),
            stats: Stats::default(),
        };
        core.timers.at(now, Timer::Own);
        core.timers.at(now + core.options.ttl() / 2, Timer::Round);
        core.out.effects.push(Effect::Watch { generation: 0 });
        core.tick(now);
        core
    }

    /// When [`tick`](Self::tick) is due next.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Time has passed: whatever is due is done. Call it before anything else is put in: leases end by it.
    pub fn tick(&mut self, now: Instant) {
        self.check_lease(now);
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Own => self.run_own(now),
                Timer::Unit(unit) => self.look_at(&unit, now),
                Timer::Drain => self.pump_drain(now),
                Timer::Round => self.round(now),
            }
        }
    }

    fn look_at(&mut self, unit: &Unit, now: Instant) {
        match unit {
            Unit::Session(id) => self.look_at_session(*id, now),
            Unit::Slots(group, number) => self.look_at_slots(*group, *number, now),
            Unit::Name(name) => self.look_at_name(name, now),
            Unit::Kind(kind) => self.look_at_kind(kind, now),
        }
    }

    /// Now and then: what no event tells of (placements, failback, things that wait for a place).
    fn round(&mut self, now: Instant) {
        self.timers.at(now + self.options.ttl() / 4, Timer::Round);
        self.live_stale = true;
        if self.frozen_until.is_some_and(|until| until <= now) {
            // What was due in the meantime was looked at in vain.
            self.frozen_until = None;
            self.wake_all(now);
        }
        self.rebalance(now);
        self.wake_orphans(now);
        let kinds: Vec<String> = self.kinds.keys().cloned().collect();
        for kind in kinds {
            self.timers.at(now, Timer::Unit(Unit::Kind(kind)));
        }
    }

    /// Whether this node may claim: it has a session whose lease runs, has seen what is there, and the store is sound.
    fn may_claim(&self, now: Instant) -> bool {
        self.own.open().is_some_and(|open| open.may_claim())
            && self.replayed.iter().all(|done| *done)
            && self.frozen_until.is_none_or(|until| until <= now)
            && self.stopping.is_none()
    }

    fn takes(&self) -> bool {
        self.taking && self.drain.is_none() && self.stopping.is_none()
    }

    fn plants(&self, plant: Plant) -> bool {
        self.plant == Some(plant)
    }

    fn nonce(&mut self) -> u64 {
        // JSON readers of other languages keep 53 bits.
        self.rng.random::<u64>() >> 11
    }

    fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    fn remember(&mut self, epoch: Epoch) {
        self.remembered = self.remembered.max(epoch);
    }

    /// The epoch after `epoch`, above the floor. `None` where there is none: nothing gets an epoch twice (G3).
    fn next_epoch(&self, epoch: Epoch) -> Option<Epoch> {
        if self.plants(Plant::IgnoreEpoch) && epoch > Epoch(0) {
            return Some(epoch);
        }
        epoch.max(self.floor).after(1)
    }

    /// As [`next_epoch`](Self::next_epoch); that there is none is told, once.
    fn next_epoch_of(&mut self, thing: &Thing, epoch: Epoch) -> Option<Epoch> {
        let next = self.next_epoch(epoch);
        if next.is_none() && self.at_the_end.insert(thing.clone()) {
            self.event(OwnershipEvent::NoEpochLeft { thing: thing.clone() });
        }
        next
    }

    /// The policy of what is known of a thing; `None` where this node does not serve it.
    fn policy(&self, thing: &Thing) -> Option<&Policy> {
        match thing {
            Thing::Slot(group, _) | Thing::Grain(group, ..) => self.groups.get(group),
            Thing::Name(name) => self.names.get(name).and_then(NameState::policy),
        }
    }

    fn event(&mut self, event: OwnershipEvent) {
        self.out.effects.push(Effect::Event(event));
    }

    /// What happened since it was last asked.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        self.publish();
        std::mem::take(&mut self.out.effects)
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The highest epoch that it remembers, or was told of.
    pub fn remembered_floor(&self) -> Epoch {
        self.remembered.max(self.floor)
    }

    /// The present session's id.
    pub fn session(&self) -> Option<SessionId> {
        self.own.open().map(|open| open.id)
    }

    /// How many things it owns, or is about to.
    pub fn owned(&self) -> usize {
        self.holds.len()
    }

    /// What an answer with this token is about, while it is being stopped: under which epoch it is held.
    pub fn quiescing(&self, token: u64) -> Option<(Thing, Epoch)> {
        let thing = self.waiting.get(&token)?;
        let epoch = self.holds.get(thing)?.title()?.epoch();
        Some((thing.clone(), epoch))
    }

    /// The name that this title is of.
    pub fn name_of(&self, title: &Title) -> Option<String> {
        let same = |held: &Title| held.epoch() == title.epoch() && held.session() == title.session();
        self.holds.iter().find_map(|(thing, hold)| match thing {
            Thing::Name(name) if hold.title().is_some_and(same) => Some(name.clone()),
            Thing::Name(_) | Thing::Slot(..) | Thing::Grain(..) => None,
        })
    }

    fn serve(&mut self, group: GroupId, policy: Policy, now: Instant) {
        if self.groups.insert(group, policy).is_none() {
            for number in 0..self.documents {
                self.slots.entry((group, number)).or_insert_with(|| SlotsState::new(now));
                self.timers.at(now, Timer::Unit(Unit::Slots(group, number)));
            }
            self.live_stale = true;
            // Others learn of it with the next renewal.
            self.want_renewal(now);
        }
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("own", &self.own)
            .field("sessions", &self.sessions)
            .field("names", &self.names)
            .field("slots", &self.slots)
            .field("holds", &self.holds)
            .field("drain", &self.drain)
            .field("orphans", &self.orphans)
            .field("replayed", &self.replayed)
            .field("frozen", &self.frozen_until)
            .finish_non_exhaustive()
    }
}
