//! What the table believes, and why: no I/O, no clock, no randomness.
//!
//! Feed it lists, watch events, failures and the present instant; it keeps the
//! [`Snapshot`] and says what happened. Reading order: [`Core`], then `apply`
//! (what a list or an event changes), `life` (leases, grace), `contact`
//! (outages, staleness), `tombstones`.

mod apply;
mod contact;
mod life;
#[cfg(test)]
mod tests;
mod tombstones;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use dc_controlplane::{Capabilities, WatchEvent};
use dc_core::{DataCenterId, Entry, Intent, Snapshot, Version};

use self::{contact::Contact, life::Grace, tombstones::Tombstones};
use crate::TableEvent;

/// What the table needs to know of the backend, from its [`Capabilities`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// A list shows every write that was accepted before it was asked: what it contains is alive (C2).
    pub linearizable_reads: bool,
    /// A renewal keeps the version, so that a watch does not show it.
    pub renewal_keeps_version: bool,
    /// How much older than its question an answer may be in what it does not show: that a renewal is missing counts
    /// only from so long after the end of a lease. None where reads are linearizable; elsewhere the time by which the
    /// store itself may be late to remove what has ended (P3).
    pub proof_lag: Duration,
}

impl From<&Capabilities> for Traits {
    fn from(of: &Capabilities) -> Self {
        let Capabilities { linearizable_reads, renewal_keeps_version, expiry_granularity, .. } = *of;
        let proof_lag = if linearizable_reads { Duration::ZERO } else { expiry_granularity };
        Self { linearizable_reads, renewal_keeps_version, proof_lag }
    }
}

/// A list that is on its way: what was known when it was asked. Pass it back with the answer.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct ListTicket {
    begun: Instant,
    high: Option<Version>,
}

impl ListTicket {
    /// When it was asked.
    pub fn begun(&self) -> Instant {
        self.begun
    }
}

/// What became of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// It was applied: the table is in step as of when it was asked.
    InStep,
    /// It is older than what was known when it was asked (a read that is not linearizable), and proves nothing.
    Behind,
}

/// The table's beliefs. Deterministic: the same feed gives the same snapshots and events.
#[derive(Debug)]
pub struct Core {
    snapshot: Snapshot,
    events: Vec<TableEvent>,
    /// Whether the snapshot differs from the one that was last taken.
    dirty: bool,
    contact: Contact,
    intents: BTreeMap<DataCenterId, (Arc<Intent>, Version)>,
    tombstones: Tombstones,
    graces: BTreeMap<DataCenterId, Grace>,
    /// Datacenters whose version is from before a fresh start, so that any replaces it.
    void: BTreeSet<DataCenterId>,
    /// As of which version the table was last known to be complete.
    complete: Option<Version>,
    /// The highest version that was delivered, and when it last rose.
    high: Option<(Version, Instant)>,
    /// Since when lists have been older than what was delivered.
    behind_since: Option<Instant>,
    /// Records and intents of a replay that is under way.
    replay: Option<Replay>,
    watching: bool,
    list_wanted: bool,
    rewatch: bool,
    next_sweep: Option<Instant>,
    /// What could not be decoded, and was told.
    skipped: BTreeMap<String, String>,
    traits: Traits,
}

#[derive(Debug)]
struct Replay {
    begun: Instant,
    high: Option<Version>,
    records: BTreeSet<DataCenterId>,
    intents: BTreeSet<DataCenterId>,
    /// Whose intents cannot be decoded.
    unreadable: BTreeSet<DataCenterId>,
}

impl Core {
    /// An empty table that turns stale after `max_staleness` without a proof of being in step (C4).
    pub fn new(max_staleness: Duration, traits: Traits) -> Self {
        Self {
            snapshot: Snapshot::default(),
            events: Vec::new(),
            dirty: false,
            contact: Contact::new(max_staleness),
            intents: BTreeMap::new(),
            tombstones: Tombstones::default(),
            graces: BTreeMap::new(),
            void: BTreeSet::new(),
            complete: None,
            high: None,
            behind_since: None,
            replay: None,
            watching: false,
            list_wanted: false,
            rewatch: false,
            next_sweep: None,
            skipped: BTreeMap::new(),
            traits,
        }
    }

    /// The present view. Cloning it is cheap.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Whether the view has changed since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    /// What happened since this was last asked, in order.
    pub fn take_events(&mut self) -> Vec<TableEvent> {
        std::mem::take(&mut self.events)
    }

    /// When the table was last proved to be in step (C4).
    pub fn last_proof(&self) -> Option<Instant> {
        self.contact.last_proof()
    }

    /// Whether a watch is open and has replayed.
    pub fn is_watching(&self) -> bool {
        self.watching
    }

    /// Whether a list should be asked before the next interval: a lease has ended here and only a list can tell
    /// what that means (C2), the watch was lost, or there is a doubt about the store.
    pub fn list_wanted(&self) -> bool {
        self.list_wanted
    }

    /// Whether the open watch is of a store that is no more and must be opened anew; asked once.
    pub fn take_rewatch(&mut self) -> bool {
        std::mem::take(&mut self.rewatch)
    }

    /// When [`tick`](Self::tick) is next needed.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.next_sweep.into_iter().chain(self.contact.stale_at()).min()
    }

    /// Lets time pass: staleness, and leases and graces that ended, of which the store must be asked.
    pub fn tick(&mut self, now: Instant) {
        if let Some(age) = self.contact.turns_stale(now) {
            self.events.push(TableEvent::Stale { age });
        }
        if self.next_sweep.is_some_and(|at| at <= now) {
            self.sweep(now);
        }
    }

    /// A list is being asked.
    pub fn list_begun(&mut self, now: Instant) -> ListTicket {
        self.list_wanted = false;
        ListTicket { begun: now, high: self.high.map(|(version, _)| version) }
    }

    /// A request failed: a list, or opening a watch.
    pub fn failed(&mut self) {
        self.contact.failed();
    }

    /// A watch was opened: its replay begins.
    pub fn watch_opened(&mut self, now: Instant) {
        self.watching = false;
        self.replay = Some(Replay {
            begun: now,
            high: self.high.map(|(version, _)| version),
            records: BTreeSet::new(),
            intents: BTreeSet::new(),
            unreadable: BTreeSet::new(),
        });
    }

    /// The watch is no more, whatever the reason: only a list can tell what it would have said.
    pub fn watch_ended(&mut self) {
        self.watching = false;
        self.replay = None;
        self.list_wanted = true;
        self.contact.failed();
    }

    /// The watch yielded an event.
    pub fn watched(&mut self, event: WatchEvent, now: Instant) {
        self.contact.heard(now);
        match event {
            WatchEvent::Put(record) => self.put(record, now),
            WatchEvent::Removed { id, version, why } => self.removed(&id, version, why, now),
            WatchEvent::Intent(held) => self.intended(held, now),
            WatchEvent::ReplayDone { as_of } => self.replayed(as_of, now),
            WatchEvent::InStep if self.watching => self.proved(now, now),
            WatchEvent::Skipped(corrupt) => self.skipped(corrupt),
            // InStep before the end of the replay proves nothing; nor does what a later version may add.
            _ => {}
        }
    }

    fn proved(&mut self, at: Instant, now: Instant) {
        if self.contact.proved(at, now) {
            self.events.push(TableEvent::Fresh);
        }
        self.extend_graces(now);
        self.end_graces(at);
    }

    /// Writes an entry into the snapshot, and sees to it that its lease is looked at in time.
    fn write(&mut self, entry: Entry) {
        self.sweep_by(life::lease_end(&entry) + self.traits.proof_lag);
        self.dirty = true;
        self.snapshot.put(Arc::new(entry));
    }

    fn sweep_by(&mut self, at: Instant) {
        if self.next_sweep.is_none_or(|next| at < next) {
            self.next_sweep = Some(at);
        }
    }

    /// Takes note that `version` was delivered; whether it is of the table's store.
    fn delivered(&mut self, version: Version, now: Instant) -> bool {
        match self.snapshot.store() {
            None => {
                self.snapshot.set_store(Some(version.store));
                self.dirty = true;
            }
            Some(store) if store != version.store => {
                // Only a list changes the incarnation: a late event of the last one must not.
                self.list_wanted = true;
                return false;
            }
            Some(_) => {}
        }
        if self.high.is_none_or(|(high, _)| version.store != high.store || version.revision > high.revision) {
            self.high = Some((version, now));
        }
        true
    }
}
