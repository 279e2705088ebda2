//! Documents of slots: what is seen of them, and one write at a time for each.

use std::{collections::BTreeMap, time::Instant};

use dc_controlplane::ownership::Keep;
use dc_core::{DataCenterSelector, Epoch, Version};

use super::{Core, Outcome, Plant, Written, overrides::OverrideEntry, requests::Purpose, things::Plan, timers::Timer};
use crate::{
    documents::{Override, SlotsDocument, SlotsLater, Unit, is_full},
    event::OwnershipEvent,
    ids::{GroupId, SLOTS_PER_DOCUMENT, SessionId, Slot},
    order::Thing,
    table::Owner,
};

#[derive(Debug)]
pub(super) struct SlotsState {
    pub(super) version: Option<Version>,
    pub(super) entries: Vec<SlotEntry>,
    /// Identities that live elsewhere than their slots.
    pub(super) overrides: BTreeMap<String, OverrideEntry>,
    /// What a later version wrote beside them.
    later: SlotsLater,
    pub(super) writing: bool,
    pub(super) retry_at: Instant,
    pub(super) failures: u32,
}

#[derive(Debug)]
pub(super) struct SlotEntry {
    pub(super) owner: Option<Owner>,
    /// On this node's clock, when it was last seen to change.
    pub(super) since: Instant,
    /// What is stored is below, or beside, what was seen before.
    pub(super) refused: bool,
    pub(super) highest: Option<(Epoch, SessionId)>,
}

impl SlotEntry {
    fn new(now: Instant) -> Self {
        Self { owner: None, since: now, refused: false, highest: None }
    }
}

impl SlotsState {
    pub(super) fn new(now: Instant) -> Self {
        let entries = (0..SLOTS_PER_DOCUMENT).map(|_| SlotEntry::new(now)).collect();
        let (overrides, later) = (BTreeMap::new(), SlotsLater::default());
        Self { version: None, entries, overrides, later, writing: false, retry_at: now, failures: 0 }
    }

    /// The entries of slots, and of what lives elsewhere.
    pub(super) fn all(&self) -> impl Iterator<Item = &SlotEntry> {
        self.entries.iter().chain(self.overrides.values().map(|of| &of.entry))
    }
}

/// Whether `owner` may follow what was seen before (G3).
pub(super) fn refuses(highest: Option<(Epoch, SessionId)>, owner: &Owner) -> bool {
    highest.is_some_and(|(epoch, session)| owner.epoch < epoch || (owner.epoch == epoch && owner.session != session))
}

/// What a newer version of a document says of its things.
#[derive(Default)]
struct News {
    shown: Vec<(Thing, Option<Owner>, bool)>,
    before: Vec<SessionId>,
    conflicts: Vec<(Thing, Owner, (Epoch, SessionId))>,
}

impl News {
    fn note(&mut self, thing: Thing, entry: &mut SlotEntry, row: Option<Owner>, now: Instant) {
        if entry.owner == row {
            self.shown.push((thing, row, false));
            return;
        }
        entry.since = now;
        if let Some(owner) = &row {
            entry.refused = refuses(entry.highest, owner);
            match entry.highest {
                Some(known) if entry.refused => self.conflicts.push((thing.clone(), owner.clone(), known)),
                _ => entry.highest = Some((owner.epoch, owner.session)),
            }
        }
        let before = std::mem::replace(&mut entry.owner, row);
        self.before.extend(before.as_ref().map(|owner| owner.session));
        self.shown.push((thing, before, true));
    }
}

/// What is to be written of a document.
pub(super) struct Draft {
    rows: Vec<Option<Owner>>,
    overrides: BTreeMap<String, Override>,
    /// Things that are handed over by it.
    handed: Vec<Thing>,
    changed: bool,
    /// When to look again.
    next: Option<Instant>,
}

impl Draft {
    fn of(state: &SlotsState) -> Self {
        let rows = state.entries.iter().map(|entry| entry.owner.clone()).collect();
        let overrides = state.overrides.iter().filter_map(|(identity, of)| {
            let owner = of.entry.owner.clone()?;
            Some((identity.clone(), Override { owner, to: of.to.clone() }))
        });
        Self { rows, overrides: overrides.collect(), handed: Vec::new(), changed: false, next: None }
    }

    /// What is planned for a thing.
    pub(super) fn put(&mut self, thing: Thing, plan: Plan) {
        match plan {
            Plan::Nothing => {}
            Plan::At(at) => self.next = Some(self.next.map_or(at, |next| next.min(at))),
            Plan::Write(owner) => {
                let handed = owner.handed;
                match &thing {
                    Thing::Slot(_, slot) => {
                        if let Some(row) = self.rows.get_mut(usize::from(slot.place())) {
                            *row = Some(owner);
                        }
                    }
                    Thing::Grain(_, _, identity) => {
                        if let Some(of) = self.overrides.get_mut(identity) {
                            of.owner = owner;
                        }
                    }
                    Thing::Name(_) => return,
                }
                self.handed.extend(handed.then_some(thing));
                self.changed = true;
            }
        }
    }

    /// Adds an identity that lives elsewhere from then on; false where there is no room for it.
    pub(super) fn add(&mut self, thing: &Thing, owner: Owner, to: DataCenterSelector) -> bool {
        let Thing::Grain(_, _, identity) = thing else { return false };
        let others = self.overrides.iter().map(|(other, of)| (other.as_str(), &of.to));
        let room = !is_full(others, identity, &to);
        if room {
            self.overrides.insert(identity.clone(), Override { owner, to });
        }
        room
    }

    /// Notes where an identity was asked to live; `alone`: nothing else of it changes.
    pub(super) fn asked_for(&mut self, thing: &Thing, to: &DataCenterSelector, alone: bool) {
        if let Thing::Grain(_, _, identity) = thing
            && let Some(of) = self.overrides.get_mut(identity)
        {
            self.changed |= alone && of.to != *to;
            of.to = to.clone();
        }
    }
}

impl Core {
    pub(super) fn slots_seen(&mut self, at: (GroupId, u16), document: SlotsDocument, version: Version, now: Instant) {
        let unit = Unit::Slots(at.0, at.1);
        let (rows, mut overrides) = (document.rows(), document.overrides());
        let state = self.slots.entry(at).or_insert_with(|| SlotsState::new(now));
        state.version = Some(version);
        state.later = document.later();
        let (mut news, mut gone) = (News::default(), Vec::new());
        for ((place, entry), row) in (0_u16..).zip(&mut state.entries).zip(rows) {
            let Some(slot) = Slot::new(at.1 * SLOTS_PER_DOCUMENT + place) else { continue };
            news.note(Thing::Slot(at.0, slot), entry, row, now);
        }
        for (identity, of) in &mut state.overrides {
            let (thing, row) = (Thing::grain(at.0, identity), overrides.remove(identity));
            if row.is_none() {
                // Never taken away: the store lost data, and it is its slot's again.
                gone.extend(of.entry.highest.map(|known| (thing.clone(), known)));
            }
            let row = row.map(|row| {
                of.to = row.to;
                row.owner
            });
            news.note(thing, &mut of.entry, row, now);
        }
        for (identity, row) in overrides {
            let mut of = OverrideEntry { entry: SlotEntry::new(now), to: row.to };
            news.note(Thing::grain(at.0, &identity), &mut of.entry, Some(row.owner), now);
            state.overrides.insert(identity, of);
        }
        state.overrides.retain(|_, of| of.entry.owner.is_some());
        let owners = state.all().filter_map(|entry| entry.owner.as_ref());
        let after: BTreeMap<SessionId, u64> = owners.map(|owner| (owner.session, owner.ttl_ms)).collect();
        for (session, ttl_ms) in &after {
            self.name_session(*session, *ttl_ms, &unit, now);
        }
        for session in news.before {
            if !after.contains_key(&session) {
                self.unname_session(session, &unit);
            }
        }
        for (thing, owner, known) in news.conflicts {
            self.conflict(thing, &owner, known);
        }
        for (thing, known) in gone {
            let slot = thing.whole().and_then(|slot| self.entry(&slot).map(|(owner, _)| owner.clone()));
            if let Some(owner) = slot {
                self.conflict(thing, &owner, known);
            }
        }
        for (thing, before, changed) in news.shown {
            self.reconcile(&thing, before.as_ref(), changed, now);
        }
        self.placements_seen(at);
        self.out.dirty.insert(unit.clone());
        self.timers.at(now, Timer::Unit(unit));
    }

    pub(super) fn conflict(&mut self, thing: Thing, owner: &Owner, known: (Epoch, SessionId)) {
        self.stats.epoch_conflicts += 1;
        self.remember(known.0);
        self.event(OwnershipEvent::Conflict { thing, epoch: owner.epoch, session: owner.session, known });
    }

    /// Claims what this node should have, and writes down what it hands over, all of a document in one write.
    pub(super) fn look_at_slots(&mut self, group: GroupId, number: u16, now: Instant) {
        let (unit, at) = (Unit::Slots(group, number), (group, number));
        let policy = self.groups.get(&group).cloned();
        let Some(state) = self.slots.get(&at) else { return };
        let orphaned = |entry: &SlotEntry| {
            entry
                .owner
                .as_ref()
                .is_none_or(|owner| self.sessions.get(&owner.session).is_some_and(|seen| seen.buried.is_some()))
        };
        if policy.is_some() && state.all().any(orphaned) {
            self.orphans.insert(unit.clone());
        } else {
            self.orphans.remove(&unit);
        }
        self.pursue_placements(at, now);
        let Some(state) = self.slots.get(&at) else { return };
        if state.writing || self.unreadable.contains_key(&unit) {
            return;
        }
        if state.retry_at > now {
            self.timers.at(state.retry_at, Timer::Unit(unit));
            return;
        }
        let Some(policy) = policy.filter(|_| self.may_claim(now)) else { return };
        let since: Vec<Instant> = state.entries.iter().map(|entry| entry.since).collect();
        let mut draft = Draft::of(state);
        for (place, since) in (0_u16..).zip(since) {
            let Some(slot) = Slot::new(number * SLOTS_PER_DOCUMENT + place) else { continue };
            let thing = Thing::Slot(group, slot);
            let plan = self.plan(&thing, &policy, since, now);
            draft.put(thing, plan);
        }
        self.plan_overrides(at, &mut draft, now);
        if let Some(at) = draft.next {
            self.timers.at(at, Timer::Unit(unit.clone()));
        }
        if !draft.changed {
            return;
        }
        let nonce = self.nonce();
        let Some(state) = self.slots.get_mut(&at) else { return };
        state.writing = true;
        let document = SlotsDocument::new(&draft.rows, &draft.overrides, nonce).with(&state.later);
        let (version, body) = (state.version, document.write());
        self.write(unit, version, body, Keep::Forever, Purpose::Slots(draft.handed));
    }

    /// A write of a document was answered; what it showed was seen already.
    pub(super) fn slots_written(&mut self, at: (GroupId, u16), handed: &[Thing], answer: &Written, now: Instant) {
        let failures = match (answer, self.slots.get(&at)) {
            (Written::Done(_) | Written::Read(_), _) | (_, None) => 0,
            (_, Some(state)) => state.failures + 1,
        };
        let pause = self.pause(answer, failures);
        let Some(state) = self.slots.get_mut(&at) else { return };
        state.writing = false;
        state.failures = failures;
        state.retry_at = now + pause;
        for thing in handed {
            match answer {
                Written::Failed(Outcome::Unknown) => {
                    self.unsettled(thing);
                    if self.plants(Plant::ResumeUnsettled) {
                        self.give_up_move(thing, "the answer was lost", now);
                    }
                }
                Written::Refused(_) => self.refused_move(thing, now),
                Written::Failed(Outcome::Unchanged) | Written::Done(_) | Written::Read(_) => {}
            }
        }
        self.timers.at(now + pause, Timer::Unit(Unit::Slots(at.0, at.1)));
    }
}
