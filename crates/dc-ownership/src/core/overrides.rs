//! Identities that live elsewhere than their slot: placed there by the owner of the slot, which hands over a part of
//! what it owns, and owned like any other thing from then on.

use std::time::Instant;

use dc_core::DataCenterSelector;

use super::{
    Core, OpDone, OrderOut,
    rank::From,
    slots::{Draft, SlotEntry},
    things::{Hold, Plan, Stage, unit_of},
    timers::Timer,
};
use crate::{
    documents::{Unit, is_full},
    error::OwnershipError,
    ids::{GroupId, SLOTS_PER_DOCUMENT, SessionId, Slot},
    order::Thing,
    policy::Policy,
    session::Holder,
    table::Owner,
    title::Title,
};

/// What is stored of an identity that lives elsewhere than its slot.
#[derive(Debug)]
pub(super) struct OverrideEntry {
    pub(super) entry: SlotEntry,
    /// Where it was asked to live.
    pub(super) to: DataCenterSelector,
}

/// A caller's word where an identity is to live.
#[derive(Debug)]
pub(super) struct Placement {
    ops: Vec<u64>,
    to: DataCenterSelector,
    begun: Instant,
    until: Instant,
    /// The session that is to have it.
    sent: Option<SessionId>,
}

impl Core {
    /// The policy of a thing, with what was asked for an identity as its preference.
    pub(super) fn policy_of(&self, thing: &Thing) -> Option<Policy> {
        let mut policy = self.policy(thing)?.clone();
        if let Some(of) = self.override_of(thing) {
            policy.prefer = Some(of.to.clone());
        }
        Some(policy)
    }

    pub(super) fn override_of(&self, thing: &Thing) -> Option<&OverrideEntry> {
        let Thing::Grain(group, slot, identity) = thing else { return None };
        self.slots.get(&(*group, slot.document()))?.overrides.get(identity)
    }

    /// Whether it is an identity that still belongs to its slot.
    pub(super) fn is_part(&self, thing: &Thing) -> bool {
        matches!(thing, Thing::Grain(..)) && self.entry(thing).is_none()
    }

    /// Identities of a slot that its owner is about to hand over.
    pub(super) fn parts_of(&self, slot: &Thing) -> Vec<Thing> {
        let Thing::Slot(group, number) = slot else { return Vec::new() };
        let of_slot = |thing: &&Thing| matches!(thing, Thing::Grain(of, slot, _) if (of, slot) == (group, number));
        let from = Thing::Grain(*group, *number, String::new());
        let held = self.holds.range(from..).map(|(thing, _)| thing);
        held.take_while(of_slot).filter(|thing| self.is_part(thing)).cloned().collect()
    }

    /// Asks that an identity lives where `to` says.
    pub(super) fn place(&mut self, op: u64, thing: Thing, to: DataCenterSelector, now: Instant) {
        if self.policy(&thing).is_none() {
            let why = "this node does not serve its kind".to_owned();
            let data_center = self.me.data_center.id().clone();
            let error = OwnershipError::NotAllowed { what: format!("{thing:?}"), data_center, why };
            self.done(op, OpDone::Plain(Err(error)));
            return;
        }
        let (begun, until) = (now, now + self.options.ttl() * 3);
        match self.placements.get_mut(&thing) {
            Some(same) if same.to == to => same.ops.push(op),
            _ => {
                // What was asked before may have been done in part.
                self.placed(&thing, Err(OwnershipError::Unsettled { what: format!("{thing:?}") }));
                self.placements.insert(thing.clone(), Placement { ops: vec![op], to, begun, until, sent: None });
            }
        }
        self.timers.at(now, Timer::Unit(unit_of(&thing)));
    }

    /// A placement has ended.
    pub(super) fn placed(&mut self, thing: &Thing, result: Result<(), OwnershipError>) {
        let Some(placement) = self.placements.remove(thing) else { return };
        let mut result = Some(result);
        for op in placement.ops {
            // Callers who asked for the same are told the same; what has no copy, that it is to be asked again.
            let again = || Err(OwnershipError::Unsettled { what: format!("{thing:?}") });
            let done = match &result {
                Some(Ok(())) => Ok(()),
                _ => result.take().unwrap_or_else(again),
            };
            self.done(op, OpDone::Plain(done));
        }
    }

    /// The session is over: what was to be placed is its next owner's.
    pub(super) fn placements_void(&mut self) {
        let things: Vec<Thing> = self.placements.keys().cloned().collect();
        for thing in things {
            self.placed(&thing, Err(OwnershipError::Unsettled { what: format!("{thing:?}") }));
        }
    }

    /// Parts of the slots of a document that are being handed over.
    pub(super) fn parts_in(&self, at: (GroupId, u16)) -> Vec<Thing> {
        let Some(first) = Slot::new(at.1 * SLOTS_PER_DOCUMENT) else { return Vec::new() };
        let held = self.holds.range(Thing::Grain(at.0, first, String::new())..).map(|(thing, _)| thing);
        held.take_while(|thing| in_document(thing, at)).filter(|thing| self.is_part(thing)).cloned().collect()
    }

    /// A document was seen: parts are settled by it, and placements may have come about.
    pub(super) fn placements_seen(&mut self, at: (GroupId, u16)) {
        for part in self.parts_in(at) {
            // A newer version, in which its slot is still this node's: no earlier write can be accepted any more.
            if let Some(Hold::Moving(moving)) = self.holds.get_mut(&part)
                && let Stage::Ready { unsettled } = &mut moving.stage
            {
                *unsettled = false;
            }
        }
        for thing in self.placements_in(at) {
            let Some(placement) = self.placements.get(&thing) else { continue };
            let there = self.override_of(&thing).is_some_and(|of| {
                let session = of.entry.owner.as_ref().map(|owner| owner.session);
                of.to == placement.to && session.is_some() && session == placement.sent
            });
            if there {
                self.placed(&thing, Ok(()));
            }
        }
    }

    fn placements_in(&self, at: (GroupId, u16)) -> Vec<Thing> {
        self.placements.keys().filter(|thing| in_document(thing, at)).cloned().collect()
    }

    /// Begins what was asked for identities of a document, where their owner can.
    pub(super) fn pursue_placements(&mut self, at: (GroupId, u16), now: Instant) {
        for thing in self.placements_in(at) {
            if let Err(error) = self.pursue_placement(&thing, now) {
                self.placed(&thing, Err(error));
            }
        }
    }

    fn pursue_placement(&mut self, thing: &Thing, now: Instant) -> Result<(), OwnershipError> {
        let (Some(placement), Some(slot)) = (self.placements.get(thing), thing.whole()) else { return Ok(()) };
        let (to, begun, until) = (placement.to.clone(), placement.begun, placement.until);
        let what = || format!("{thing:?}");
        if until <= now {
            return Err(match self.holds.get(thing) {
                Some(Hold::Moving(_)) => OwnershipError::Unsettled { what: what() },
                _ => OwnershipError::Timeout { what: what(), waited: now - begun },
            });
        }
        let own = self.own.id();
        let free = |hold: Option<&Hold>| match hold {
            Some(Hold::Held { title, adopting: None }) => Some(title.clone()),
            _ => None,
        };
        self.timers.at(until, Timer::Unit(unit_of(thing)));
        let held = match (self.is_part(thing), self.holds.get(thing)) {
            (_, Some(Hold::Moving(_))) => return Ok(()),
            (true, _) => self.holds.get(&slot),
            (false, hold) => hold,
        };
        if held.is_none() {
            return Err(OwnershipError::OwnedElsewhere { what: what() });
        }
        // What is being confirmed, or moves, is looked at again.
        self.timers.at(until.min(now + self.options.step()), Timer::Unit(unit_of(thing)));
        let Some(title) = free(held) else { return Ok(()) };
        if self.has_no_room(thing, &to) {
            return Err(OwnershipError::Full { what: what() });
        }
        if let Some(of) = self.override_of(thing)
            && to.matches(&self.me.data_center)
        {
            // It is there already: at most what was asked for is to be written down.
            if of.to == to {
                self.placed(thing, Ok(()));
            } else {
                self.sent_to(thing, own);
            }
            return Ok(());
        }
        let target = self.target(thing, &to, now)?;
        self.sent_to(thing, Some(target.session));
        if self.is_part(thing) {
            self.start_part(thing, &title, target, to, now)
        } else {
            self.start_move(thing, target, Some(to), now)
        }
        Ok(())
    }

    fn sent_to(&mut self, thing: &Thing, session: Option<SessionId>) {
        if let Some(placement) = self.placements.get_mut(thing) {
            placement.sent = session;
        }
    }

    /// Who is to have an identity that is to live where `to` says: this node, if that is there.
    fn target(&mut self, thing: &Thing, to: &DataCenterSelector, now: Instant) -> Result<Holder, OwnershipError> {
        let policy = Policy { prefer: Some(to.clone()), ..self.policy(thing).cloned().unwrap_or_default() };
        let order = self.candidates(thing, &policy, From::Nobody, now).order;
        let there = |id: &&SessionId| self.data_center_of(**id).is_some_and(|dc| to.matches(dc));
        let fits: Vec<SessionId> = order.iter().filter(there).copied().collect();
        let own = self.own.id().filter(|own| fits.contains(own));
        if let Some(holder) = own.or(fits.first().copied()).and_then(|id| self.holder(id)) {
            return Ok(holder);
        }
        let what = format!("{thing:?}");
        let mut asked = self.live.iter().map(|live| &live.data_center).filter(|dc| to.matches(dc));
        Err(match asked.next() {
            Some(dc) if !policy.allows(dc) && asked.all(|dc| !policy.allows(dc)) => {
                let why = format!("its policy keeps it within {}", policy.within);
                OwnershipError::NotAllowed { what, data_center: dc.id().clone(), why }
            }
            _ => OwnershipError::NobodyThere { what, asked: to.to_string() },
        })
    }

    /// Whether its document takes no more identities, those included that this node is about to add.
    fn has_no_room(&self, thing: &Thing, to: &DataCenterSelector) -> bool {
        let Thing::Grain(group, slot, identity) = thing else { return false };
        let at = (*group, slot.document());
        let Some(state) = self.slots.get(&at) else { return false };
        let there = state.overrides.iter().map(|(other, of)| (other.as_str(), &of.to));
        let parts = self.parts_in(at);
        let coming = parts.iter().filter_map(|part| match part {
            Thing::Grain(_, _, other) => Some((other.as_str(), self.asked_for(part)?)),
            Thing::Slot(..) | Thing::Name(_) => None,
        });
        is_full(there.chain(coming).filter(|(other, _)| other != identity), identity, to)
    }

    /// Begins to hand over one identity of a slot, which goes on.
    fn start_part(&mut self, thing: &Thing, of: &Title, to: Holder, want: DataCenterSelector, now: Instant) {
        let attempts = self.attempts(thing);
        let next = self.next_epoch(of.epoch());
        let Some(epoch) = next.and_then(|next| next.after(attempts)) else { return self.cannot_move(thing, now) };
        self.quiesce_for(thing, of.part(), to, epoch, Some(want), now);
        // From now on nothing of it starts.
        self.dirty_thing(thing);
    }

    /// What is to be written of an identity that its slot's owner, which this node is, hands over.
    fn plan_part(&mut self, thing: &Thing, now: Instant) -> Plan {
        let Some(slot) = thing.whole() else { return Plan::Nothing };
        let Some((policy, owner)) = self.policy_of(thing).zip(self.entry(&slot).map(|(owner, _)| owner.clone())) else {
            return Plan::Nothing;
        };
        self.plan_own(thing, &policy, &owner, now)
    }

    fn give_up_unless_unsettled(&mut self, thing: &Thing, why: &str, now: Instant) {
        if let Some(Hold::Moving(moving)) = self.holds.get(thing)
            && !matches!(moving.stage, Stage::Ready { unsettled: true })
        {
            self.give_up_move(thing, why, now);
        }
    }

    /// A hand-over was given up: who asked for it is told.
    pub(super) fn placement_failed(&mut self, thing: &Thing, why: &str) {
        self.placed(thing, Err(OwnershipError::NotMoved { what: format!("{thing:?}"), why: why.to_owned() }));
    }

    /// The whole is over: so is what this node was about to hand over of it. `owner`: who has it now.
    pub(super) fn drop_parts(&mut self, slot: &Thing, owner: Option<&Owner>, now: Instant) {
        for part in self.parts_of(slot) {
            self.drop_hold(&part, owner, now);
        }
    }

    /// The lease is over, and with it what was to be handed over of a slot.
    pub(super) fn end_part(&mut self, thing: &Thing) {
        let Some(Hold::Moving(moving)) = self.holds.remove(thing) else { return };
        moving.title.end();
        self.dirty_thing(thing);
        self.order(OrderOut::Lost { thing: thing.clone(), held: moving.title.epoch() });
        self.move_ended(thing);
    }

    /// What is to be written down of where an identity was asked to live.
    fn asked_for(&self, thing: &Thing) -> Option<&DataCenterSelector> {
        match self.holds.get(thing)? {
            Hold::Moving(moving) => moving.want.as_ref(),
            Hold::Held { .. } => {
                let placement = self.placements.get(thing)?;
                Some(&placement.to).filter(|_| placement.sent.is_some() && placement.sent == self.own.id())
            }
            Hold::Confirming { .. } | Hold::Spent { .. } | Hold::Releasing { .. } => None,
        }
    }

    /// Notes in a draft what is to be written of identities that live, or are to live, elsewhere than their slot.
    pub(super) fn plan_overrides(&mut self, at: (GroupId, u16), draft: &mut Draft, now: Instant) {
        let Some(state) = self.slots.get(&at) else { return };
        let known: Vec<(Thing, Instant)> =
            state.overrides.iter().map(|(identity, of)| (Thing::grain(at.0, identity), of.entry.since)).collect();
        for (thing, since) in known {
            let Some(policy) = self.policy_of(&thing) else { continue };
            let plan = self.plan(&thing, &policy, since, now);
            let placing = matches!(self.holds.get(&thing), Some(Hold::Held { .. })) && matches!(plan, Plan::Nothing);
            match self.asked_for(&thing) {
                Some(to) if placing || matches!(plan, Plan::Write(_)) => draft.asked_for(&thing, to, placing),
                _ => {}
            }
            draft.put(thing, plan);
        }
        for part in self.parts_in(at) {
            let plan = self.plan_part(&part, now);
            if let (Plan::Write(owner), Some(to)) = (&plan, self.asked_for(&part).cloned())
                && !draft.add(&part, owner.clone(), to)
            {
                // Others have placed some meanwhile.
                self.placed(&part, Err(OwnershipError::Full { what: format!("{part:?}") }));
                self.give_up_unless_unsettled(&part, "its document is full", now);
                continue;
            }
            draft.put(part, plan);
        }
    }
}

fn in_document(thing: &Thing, at: (GroupId, u16)) -> bool {
    unit_of(thing) == Unit::Slots(at.0, at.1)
}
