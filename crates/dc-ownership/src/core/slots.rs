//! Documents of slots: what is seen of them, and one write at a time for each.

use std::time::Instant;

use dc_controlplane::ownership::Keep;
use dc_core::{Epoch, Version};

use super::{Core, Outcome, Plant, Written, requests::Purpose, things::Plan, timers::Timer};
use crate::{
    documents::{SlotsDocument, Unit},
    event::OwnershipEvent,
    ids::{GroupId, SLOTS_PER_DOCUMENT, SessionId, Slot},
    order::Thing,
    table::Owner,
};

#[derive(Debug)]
pub(super) struct SlotsState {
    pub(super) version: Option<Version>,
    pub(super) document: Option<SlotsDocument>,
    pub(super) entries: Vec<SlotEntry>,
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

impl SlotsState {
    pub(super) fn new(now: Instant) -> Self {
        let entry = || SlotEntry { owner: None, since: now, refused: false, highest: None };
        let entries = (0..SLOTS_PER_DOCUMENT).map(|_| entry()).collect();
        Self { version: None, document: None, entries, writing: false, retry_at: now, failures: 0 }
    }
}

/// Whether `owner` may follow what was seen before (G3).
pub(super) fn refuses(highest: Option<(Epoch, SessionId)>, owner: &Owner) -> bool {
    highest.is_some_and(|(epoch, session)| owner.epoch < epoch || (owner.epoch == epoch && owner.session != session))
}

impl Core {
    pub(super) fn slots_seen(&mut self, at: (GroupId, u16), document: SlotsDocument, version: Version, now: Instant) {
        let unit = Unit::Slots(at.0, at.1);
        let rows = document.rows();
        let state = self.slots.entry(at).or_insert_with(|| SlotsState::new(now));
        state.version = Some(version);
        state.document = Some(document);
        let mut changed = Vec::new();
        let mut before_sessions = Vec::new();
        let mut conflicts = Vec::new();
        for ((place, entry), row) in (0_u16..).zip(&mut state.entries).zip(rows) {
            let Some(slot) = Slot::new(at.1 * SLOTS_PER_DOCUMENT + place) else { continue };
            let thing = Thing::Slot(at.0, slot);
            if entry.owner == row {
                changed.push((thing, entry.owner.clone(), false));
                continue;
            }
            entry.since = now;
            if let Some(owner) = &row {
                entry.refused = refuses(entry.highest, owner);
                match entry.highest {
                    Some(known) if entry.refused => conflicts.push((thing.clone(), owner.clone(), known)),
                    _ => entry.highest = Some((owner.epoch, owner.session)),
                }
            }
            let before = std::mem::replace(&mut entry.owner, row);
            before_sessions.extend(before.as_ref().map(|owner| owner.session));
            changed.push((thing, before, true));
        }
        let owners = state.entries.iter().filter_map(|entry| entry.owner.as_ref());
        let after: std::collections::BTreeMap<SessionId, u64> =
            owners.map(|owner| (owner.session, owner.ttl_ms)).collect();
        for (session, ttl_ms) in &after {
            self.name_session(*session, *ttl_ms, &unit, now);
        }
        for session in before_sessions {
            if !after.contains_key(&session) {
                self.unname_session(session, &unit);
            }
        }
        for (thing, owner, known) in conflicts {
            self.conflict(thing, &owner, known);
        }
        for (thing, before, news) in changed {
            self.reconcile(&thing, before.as_ref(), news, now);
        }
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
        if policy.is_some() && state.entries.iter().any(orphaned) {
            self.orphans.insert(unit.clone());
        } else {
            self.orphans.remove(&unit);
        }
        if state.writing || self.unreadable.contains_key(&unit) {
            return;
        }
        if state.retry_at > now {
            self.timers.at(state.retry_at, Timer::Unit(unit));
            return;
        }
        let Some(policy) = policy.filter(|_| self.may_claim(now)) else { return };
        let since: Vec<Instant> = state.entries.iter().map(|entry| entry.since).collect();
        let mut rows: Vec<Option<Owner>> = state.entries.iter().map(|entry| entry.owner.clone()).collect();
        let (mut handed, mut writes, mut next) = (Vec::new(), 0, None::<Instant>);
        for ((place, row), since) in (0_u16..).zip(&mut rows).zip(since) {
            let Some(slot) = Slot::new(number * SLOTS_PER_DOCUMENT + place) else { continue };
            let thing = Thing::Slot(group, slot);
            match self.plan(&thing, &policy, since, now) {
                Plan::Nothing => {}
                Plan::At(at) => next = Some(next.map_or(at, |next| next.min(at))),
                Plan::Write(owner) => {
                    if owner.handed {
                        handed.push(thing);
                    }
                    *row = Some(owner);
                    writes += 1;
                }
            }
        }
        if let Some(at) = next {
            self.timers.at(at, Timer::Unit(unit.clone()));
        }
        if writes == 0 {
            return;
        }
        let nonce = self.nonce();
        let Some(state) = self.slots.get_mut(&at) else { return };
        state.writing = true;
        let (version, body) = (state.version, SlotsDocument::with_rows(state.document.as_ref(), &rows, nonce).write());
        self.write(unit, version, body, Keep::Forever, Purpose::Slots(handed));
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
