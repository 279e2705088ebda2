//! What the store shows, and when it has lost data.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use dc_controlplane::ownership::Document;
use dc_core::{StoreId, Version};

use super::{
    Core, Effect, Input, KindState, Outcome, Written,
    requests::{InFlight, Purpose},
    slots::SlotsState,
    timers::Timer,
};
use crate::{
    documents::{KindDocument, NameDocument, SessionDocument, SlotsDocument, Unit, tombstone},
    event::OwnershipEvent,
    options::MAX_TTL,
};

/// Removed names are remembered until there are so many.
const REMOVED_KEPT: usize = 65_536;

/// Where the last removal of a name stands, so that a late event or read does not bring it back.
#[derive(Debug, Default)]
pub(super) struct Removed {
    at: BTreeMap<Unit, u64>,
    by_age: BTreeSet<(u64, Unit)>,
    /// The highest removal that is remembered no more.
    forgotten: u64,
}

impl Removed {
    fn insert(&mut self, unit: &Unit, revision: u64, most: usize) {
        self.remove(unit);
        self.at.insert(unit.clone(), revision);
        self.by_age.insert((revision, unit.clone()));
        if self.by_age.len() > most
            && let Some((oldest, unit)) = self.by_age.pop_first()
        {
            self.at.remove(&unit);
            self.forgotten = self.forgotten.max(oldest);
        }
    }

    fn remove(&mut self, unit: &Unit) {
        if let Some(before) = self.at.remove(unit) {
            self.by_age.remove(&(before, unit.clone()));
        }
    }

    fn get(&self, unit: &Unit) -> Option<u64> {
        self.at.get(unit).copied()
    }

    /// What is not known otherwise, and not newer than this, may have been removed since.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

impl Core {
    /// Something happened. It [`tick`](Self::tick)s first: nothing is taken in under a lease that has ended.
    pub fn put(&mut self, input: Input, now: Instant) {
        self.tick(now);
        match input {
            Input::Put { generation, document } if generation == self.watches => {
                if let Some(unit) = Unit::of(&document.key) {
                    if let Some(prefix) = prefix_of(&unit) {
                        self.replaying[prefix].insert(unit);
                    }
                    self.observe(&document, now);
                }
            }
            Input::Gone { generation, key, version } if generation == self.watches => {
                if let Some(unit) = Unit::of(&key)
                    && self.same_store(version.store, now)
                {
                    self.gone(&unit, version.revision, now);
                }
            }
            Input::ReplayBegun { generation, prefix } if generation == self.watches => {
                self.replaying[prefix].clear();
            }
            Input::ReplayDone { generation, prefix, as_of } if generation == self.watches => {
                self.replay_done(prefix, as_of, now);
            }
            Input::Put { .. } | Input::Gone { .. } | Input::ReplayBegun { .. } | Input::ReplayDone { .. } => {}
            Input::Written { request, result } => self.written(request, result, now),
            other => self.asked(other, now),
        }
        self.send_queued();
        self.tick(now);
    }

    /// Whether it is the store that is known; if it is another, everything starts afresh, and what showed it is not
    /// looked at any further.
    fn same_store(&mut self, store: StoreId, now: Instant) -> bool {
        match self.store {
            None => {
                self.store = Some(store);
                true
            }
            Some(known) if known == store => true,
            Some(_) => {
                self.store_lost("another store answers", Some(store), now);
                false
            }
        }
    }

    fn known_revision(&self, unit: &Unit) -> u64 {
        let version = match unit {
            Unit::Session(id) => self.sessions.get(id).and_then(|seen| seen.version),
            Unit::Slots(group, number) => self.slots.get(&(*group, *number)).and_then(|state| state.version),
            Unit::Name(name) => self.names.get(name).and_then(|state| state.version),
            Unit::Kind(_) => None,
        };
        let known = version.map_or(0, |version| version.revision);
        let unreadable = self.unreadable.get(unit).copied().unwrap_or(0);
        known.max(unreadable).max(self.removed.get(unit).unwrap_or(0))
    }

    /// A document was seen. What is older than what is known changes nothing.
    pub(super) fn observe(&mut self, document: &Document, now: Instant) {
        let Some(unit) = Unit::of(&document.key) else { return };
        let version = document.version;
        if !self.same_store(version.store, now) {
            return;
        }
        let known = self.known_revision(&unit);
        if version.revision <= known {
            self.stats.stale_reads += u64::from(version.revision < known);
            return;
        }
        self.highest = self.highest.max(version.revision);
        self.removed.remove(&unit);
        self.unreadable.remove(&unit);
        if let Err(why) = self.take_in(&unit, document, now) {
            if let Unit::Session(id) = unit {
                self.session_unreadable(id, version, now);
            }
            self.unreadable.insert(unit, version.revision);
            self.event(OwnershipEvent::Unreadable { key: document.key.to_string(), why });
        }
    }

    fn take_in(&mut self, unit: &Unit, document: &Document, now: Instant) -> Result<(), String> {
        let version = document.version;
        match unit {
            Unit::Session(id) if tombstone(&document.body).is_some() => {
                self.session_buried(*id, tombstone(&document.body) == Some(true), version, now);
            }
            Unit::Session(id) => self.session_seen(*id, SessionDocument::read(&document.body)?, version, now),
            Unit::Slots(group, number) => {
                let read = SlotsDocument::read(&document.body, *number)?;
                self.slots_seen((*group, *number), read, version, now);
            }
            Unit::Name(name) => self.name_seen(name, NameDocument::read(document)?, version, now),
            Unit::Kind(kind) => self.kind_seen(kind, &KindDocument::read(&document.body)?, now),
        }
        Ok(())
    }

    /// A document is gone, as of `revision` or earlier.
    pub(super) fn gone(&mut self, unit: &Unit, revision: u64, now: Instant) {
        if revision < self.known_revision(unit) {
            self.stats.stale_reads += 1;
            return;
        }
        self.highest = self.highest.max(revision);
        self.unreadable.remove(unit);
        match unit {
            Unit::Session(id) => self.session_gone(*id, now),
            Unit::Name(name) => {
                self.name_gone(name, now);
                self.removed.insert(unit, revision, REMOVED_KEPT);
            }
            // Documents of slots are never removed.
            Unit::Slots(group, number) => {
                if self.slots.get(&(*group, *number)).is_some_and(|state| state.version.is_some()) {
                    self.store_lost("a document of slots is gone", self.store, now);
                }
            }
            Unit::Kind(kind) => {
                if let Some((_, state)) = self.kinds.get_mut(kind) {
                    *state = KindState::Unknown;
                    self.timers.at(now, Timer::Unit(unit.clone()));
                }
            }
        }
    }

    fn replay_done(&mut self, prefix: usize, as_of: Version, now: Instant) {
        if !self.same_store(as_of.store, now) {
            return;
        }
        self.highest = self.highest.max(as_of.revision);
        let (shown, watches) = (std::mem::take(&mut self.replaying[prefix]), self.watches);
        let known: Vec<Unit> = match prefix {
            0 => self.sessions.iter().filter(|(_, s)| s.version.is_some()).map(|(id, _)| Unit::Session(*id)).collect(),
            1 => {
                self.slots.iter().filter(|(_, s)| s.version.is_some()).map(|(at, _)| Unit::Slots(at.0, at.1)).collect()
            }
            2 => self.names.iter().filter(|(_, s)| s.version.is_some()).map(|(n, _)| Unit::Name(n.clone())).collect(),
            _ => self.kinds.keys().map(|kind| Unit::Kind(kind.clone())).collect(),
        };
        for unit in known {
            if !shown.contains(&unit) && self.known_revision(&unit) <= as_of.revision {
                self.gone(&unit, as_of.revision, now);
            }
        }
        if watches != self.watches {
            // What is missing showed that the store lost data: this replay is of what is void.
            return;
        }
        self.replayed[prefix] = true;
        self.check_ready(now);
    }

    pub(super) fn check_ready(&mut self, now: Instant) {
        if self.replayed.iter().all(|done| *done) && self.own.open().is_some() {
            if self.ready_at.is_none() {
                self.ready_at = Some(now);
                self.out.effects.push(Effect::Ready);
            }
            self.wake_all(now);
        }
    }

    /// The store is another, or was set back: all that was known of it is void.
    pub(super) fn store_lost(&mut self, why: &'static str, store: Option<StoreId>, now: Instant) {
        self.stats.store_changes += 1;
        self.floor = self.floor.max(self.remembered);
        self.lose_session("the store lost data", now);
        self.over.clear();
        self.requests.forget();
        self.store = store;
        self.highest = 0;
        self.sessions.clear();
        self.named.clear();
        self.live_stale = true;
        self.removed = Removed::default();
        self.orphans.clear();
        self.unreadable.clear();
        self.asked_after.clear();
        for (at, state) in &mut self.slots {
            *state = SlotsState::new(now);
            self.out.dirty.insert(Unit::Slots(at.0, at.1));
        }
        let names: Vec<String> = self.names.keys().cloned().collect();
        for name in names {
            self.name_forgotten(&name, now);
        }
        for (_, state) in self.kinds.values_mut() {
            *state = KindState::Unknown;
        }
        self.replayed = [false; 4];
        self.out.dirty_sessions = true;
        // Its things may be named by entries that are gone: as long as anybody's lease may run.
        let longest = self.options.ttl().max(Duration::from_millis(self.longest_ttl_ms).min(MAX_TTL));
        self.frozen_until = Some(now + longest);
        self.watch_afresh();
        let floor = self.remembered_floor();
        self.event(OwnershipEvent::StoreLost { why, floor });
    }

    pub(super) fn watch_afresh(&mut self) {
        self.watches += 1;
        self.stats.rewatches += 1;
        self.out.effects.push(Effect::Watch { generation: self.watches });
    }

    fn written(&mut self, request: u64, result: Written, now: Instant) {
        let Some(flight) = self.requests.finish(request) else { return };
        let generation = self.watches;
        let answer = match result {
            Written::Done(version) => {
                if !self.same_store(version.store, now) {
                    return;
                }
                // A removal only promises to be above what it removed.
                let seen = match flight.ask {
                    super::Ask::Remove(removed) => removed.revision,
                    super::Ask::Write { .. } | super::Ask::Read => flight.highest,
                };
                if version.revision <= seen {
                    // O1: versions grow over all keys.
                    self.store_lost(
                        "a write was given an older version than one that was seen before",
                        self.store,
                        now,
                    );
                    return;
                }
                self.accepted(&flight, version, now);
                Written::Done(version)
            }
            Written::Refused(Some(document)) => {
                self.stats.conflicts += 1;
                if !self.same_store(document.version.store, now) {
                    return;
                }
                if flight.expected().is_some_and(|expected| document.version.revision < expected.revision) {
                    self.store_lost("a write was refused for an older version than one seen before", self.store, now);
                    return;
                }
                self.observe(&document, now);
                Written::Refused(Some(document))
            }
            Written::Refused(None) => {
                self.stats.conflicts += 1;
                if let Some(expected) = flight.expected() {
                    // As of what was named: whoever has created it again since is newer.
                    self.gone(&flight.unit, expected.revision, now);
                }
                Written::Refused(None)
            }
            Written::Read(document) => {
                if let Some(document) = &document {
                    self.observe(document, now);
                }
                Written::Read(document)
            }
            Written::Failed(outcome) => Written::Failed(outcome),
        };
        if generation == self.watches || matches!(flight.purpose, Purpose::Session(_)) {
            self.after(flight, &answer, now);
        }
    }

    fn accepted(&mut self, flight: &InFlight, version: Version, now: Instant) {
        match &flight.ask {
            super::Ask::Write { body, .. } => {
                // It was sent, so it has a key.
                if let Ok(key) = flight.unit.key() {
                    self.observe(&Document { key, body: body.clone(), version }, now);
                }
            }
            super::Ask::Remove(_) => self.gone(&flight.unit, version.revision, now),
            super::Ask::Read => {}
        }
    }

    fn after(&mut self, flight: InFlight, answer: &Written, now: Instant) {
        match flight.purpose {
            Purpose::Session(id) => self.own_written(id, answer, now),
            Purpose::Bury(id) => self.bury_written(id, answer, now),
            Purpose::Slots(things) => {
                if let Unit::Slots(group, number) = flight.unit {
                    self.slots_written((group, number), &things, answer, now);
                }
            }
            Purpose::Name { handed } => {
                if let Unit::Name(name) = &flight.unit {
                    self.name_written(name, handed, answer, now);
                }
            }
            Purpose::RemoveName => {
                if let Unit::Name(name) = &flight.unit {
                    self.name_removed(name, answer, now);
                }
            }
            Purpose::Kind => {
                if let Unit::Kind(kind) = &flight.unit {
                    self.kind_written(kind, answer, now);
                }
            }
            Purpose::Look => _ = self.asked_after.remove(&flight.unit),
        }
    }

    /// The pause before a write is tried again: shorter after a refusal, growing while the store does not answer.
    pub(super) fn pause(&mut self, answer: &Written, failures: u32) -> std::time::Duration {
        use rand::RngExt;
        let step = self.options.step();
        let share = self.rng.random_range(0.5..1.0);
        match answer {
            Written::Failed(Outcome::Unchanged | Outcome::Unknown) => {
                (step * 2_u32.saturating_pow(failures.min(6))).min(self.options.ttl() / 4).mul_f64(share)
            }
            Written::Refused(_) if failures > 0 => (step / 8 * failures.min(8)).mul_f64(share),
            Written::Refused(_) | Written::Done(_) | Written::Read(_) => std::time::Duration::ZERO,
        }
    }
}

fn prefix_of(unit: &Unit) -> Option<usize> {
    Some(match unit {
        Unit::Session(_) => 0,
        Unit::Slots(..) => 1,
        Unit::Name(_) => 2,
        Unit::Kind(_) => 3,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use dc_controlplane::ownership::DocumentKey;
    use dc_core::{Clock, DataCenter, ManualClock, NodeId};

    use super::*;
    use crate::{
        core::{Ask, Op, Setup},
        documents::PREFIXES,
        handle::Me,
        ids::{GroupId, SLOTS_PER_DOCUMENT},
        names::NameSpec,
        options::OwnershipOptions,
        policy::Policy,
    };

    const STORE: StoreId = StoreId(1);

    fn core(clock: &ManualClock) -> Core {
        let setup = Setup {
            me: Me {
                node: NodeId(1),
                data_center: DataCenter::new("dc-1").build().expect("legal"),
                endpoint: "10.0.0.1:7946".parse().expect("legal"),
            },
            kinds: Vec::new(),
            placeable: Arc::new(|_| true),
            options: OwnershipOptions::builder().build().expect("legal"),
            clock: Arc::new(clock.clone()),
            seed: 1,
            documents: Setup::DOCUMENTS,
            plant: None,
        };
        Core::new(setup, clock.now())
    }

    /// Writes that were sent since this was asked last; those of sessions are done, at revisions above `revision`.
    fn writes(core: &mut Core, clock: &ManualClock, revision: &mut u64) -> Vec<DocumentKey> {
        let mut keys = Vec::new();
        loop {
            let effects = core.take_effects();
            if effects.is_empty() {
                return keys;
            }
            for effect in effects {
                let Effect::Send(request) = effect else { continue };
                let Ask::Write { .. } = request.ask else { continue };
                if request.key.as_str().starts_with(PREFIXES[0]) {
                    *revision += 1;
                    let result = Written::Done(Version::new(STORE, *revision));
                    core.put(Input::Written { request: request.id, result }, clock.now());
                }
                keys.push(request.key);
            }
        }
    }

    #[test]
    fn a_replay_that_shows_that_the_store_lost_data_counts_for_nothing_itself() {
        let clock = ManualClock::new();
        let (mut core, mut revision) = (core(&clock), 10);
        let done = |core: &mut Core, generation, prefix, as_of| {
            let as_of = Version::new(STORE, as_of);
            core.put(Input::ReplayBegun { generation, prefix }, clock.now());
            core.put(Input::ReplayDone { generation, prefix, as_of }, clock.now());
        };
        writes(&mut core, &clock, &mut revision);
        let slots = Unit::Slots(GroupId(1), 0);
        let rows = vec![None; usize::from(SLOTS_PER_DOCUMENT)];
        let body = SlotsDocument::new(&rows, &BTreeMap::new(), 1).write();
        let (key, version) = (slots.key().expect("legal"), Version::new(STORE, 9));
        core.put(Input::Put { generation: 0, document: Document { key, version, body } }, clock.now());
        for prefix in [0, 2, 3] {
            done(&mut core, 0, prefix, revision);
        }
        // Opened again, the watch shows no document of slots any more: those are never removed.
        done(&mut core, 0, 1, revision);
        assert_eq!((core.stats().store_changes, core.watches), (1, 1));

        for prefix in [0, 2, 3] {
            done(&mut core, 1, prefix, revision);
        }
        let name = |key: &DocumentKey| key.as_str().starts_with(PREFIXES[2]);
        let mut pass = |core: &mut Core, seconds: u32| {
            let mut named = 0;
            for _ in 0..seconds * 4 {
                clock.advance(Duration::from_millis(250));
                core.tick(clock.now());
                named += writes(core, &clock, &mut revision).iter().filter(|key| name(key)).count();
            }
            named
        };
        // For a lease nothing is claimed anyway.
        pass(&mut core, 15);
        let spec = NameSpec { name: "x".into(), kind: "k".into(), args: Bytes::new(), policy: Policy::default() };
        core.put(Input::Asked { op: 1, ask: Op::Claim(spec) }, clock.now());
        assert_eq!(pass(&mut core, 5), 0, "what there is of slots is not known");
        done(&mut core, 1, 1, 100);
        assert_eq!(pass(&mut core, 1), 1, "now it is");
    }

    #[test]
    fn r8_hints_of_what_nobody_has_cost_the_store_a_bounded_number_of_reads_at_once() {
        let clock = ManualClock::new();
        let mut core = core(&clock);
        let mut hint = |name: &str, heard| {
            let thing = crate::order::Thing::Name(name.to_owned());
            core.put(Input::Hint { thing, heard: dc_core::Epoch(heard) }, clock.now());
            core.asked_after.len()
        };
        assert_eq!(hint("x", u64::MAX), 0, "no epoch");
        assert_eq!(hint("x", 9), 1);
        let most = (0..5_000).map(|number| hint(&format!("n{number}"), 9)).max();
        assert_eq!(most, Some(1_024));
    }
}
