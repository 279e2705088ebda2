//! From what the documents say to titles, and back: a title is given after a renewal has confirmed the claim, and ends
//! when a document names another.

use std::time::Instant;

use dc_core::{DataCenterSelector, Epoch};

use super::{
    Core, Effect, OpDone, OrderOut, Plant,
    observe::Seen,
    things::{Hold, Move, Stage, unit_of},
    timers::Timer,
};
use crate::{
    error::OwnershipError,
    event::{Change, OwnershipEvent, Standing},
    order::Thing,
    policy::Strictness,
    session::Holder,
    table::Owner,
    title::Title,
};

impl Core {
    /// The document of a thing was seen in a newer version. `before`: its entry until then; `news`: it has changed.
    pub(super) fn reconcile(&mut self, thing: &Thing, before: Option<&Owner>, news: bool, now: Instant) {
        let entry = self.entry(thing).map(|(owner, refused)| (owner.clone(), refused));
        if let Some((owner, _)) = &entry {
            self.remember(owner.epoch);
        }
        let entry = entry.filter(|(_, refused)| !refused).map(|(owner, _)| owner);
        if news {
            self.tell_change(thing, before, entry.as_ref());
            self.check_relocation(thing, entry.as_ref());
        }
        match entry {
            Some(owner) if self.mine(&owner) => self.is_mine(thing, &owner, before, now),
            other => self.not_mine(thing, other.as_ref(), now),
        }
    }

    fn tell_change(&mut self, thing: &Thing, before: Option<&Owner>, after: Option<&Owner>) {
        let from = before.map(|owner| owner.epoch);
        if from == after.map(|owner| owner.epoch) {
            return;
        }
        let own = self.own.open().map(|open| open.id);
        let to = match after {
            Some(owner) => {
                let me = || (own == Some(owner.session)).then(|| self.me(owner));
                let holder = self.holder(owner.session).or_else(me);
                holder.map_or(Standing::Ownerless(owner.data_center.clone()), |of| Standing::Owned(of, owner.epoch))
            }
            None => {
                let over = before.filter(|owner| self.sessions.get(&owner.session).is_some_and(Seen::is_over));
                Standing::Free(over.map(|owner| owner.data_center.clone()))
            }
        };
        self.out.effects.push(Effect::Changed(Change { thing: thing.clone(), from, to }));
    }

    fn me(&self, owner: &Owner) -> Holder {
        let (node, endpoint) = (self.me.node, self.me.endpoint.clone());
        Holder { session: owner.session, node, data_center: self.me.data_center.id().clone(), endpoint }
    }

    fn check_relocation(&mut self, thing: &Thing, after: Option<&Owner>) {
        let Some(relocation) = self.relocations.get(thing) else { return };
        match after {
            Some(owner) if relocation.sent == Some(owner.session) => self.relocated(thing, Ok(())),
            Some(owner) if self.buried_at(owner.session).is_none() => {
                let data_center = owner.data_center.clone();
                self.relocated(thing, Err(OwnershipError::OwnerLives { thing: thing.clone(), data_center }));
            }
            _ => {}
        }
    }

    fn is_mine(&mut self, thing: &Thing, owner: &Owner, before: Option<&Owner>, now: Instant) {
        let keeps = match self.holds.get_mut(thing) {
            None => false,
            Some(Hold::Confirming { epoch, .. }) => *epoch == owner.epoch,
            Some(Hold::Held { title, .. }) => title.epoch() == owner.epoch,
            Some(Hold::Moving(moving)) => {
                if let Stage::Ready { unsettled } = &mut moving.stage {
                    // A newer version that still names this session: no earlier write can be accepted any more.
                    *unsettled = false;
                }
                moving.title.epoch() == owner.epoch
            }
            Some(Hold::Spent { epoch, .. }) => *epoch == owner.epoch,
            Some(Hold::Releasing { epoch, .. }) => *epoch == owner.epoch,
        };
        if keeps {
            return;
        }
        let came_back = matches!(self.holds.get(thing), Some(Hold::Moving(moving)) if moving.is_to(owner));
        self.drop_hold(thing, Some(owner).filter(|_| came_back), now);
        if self.claims_nothing(thing, owner, now) {
            return;
        }
        self.claims_seen += 1;
        let seen = self.claims_seen;
        let other = before.filter(|before| before.session != owner.session);
        let silent_since = other.and_then(|before| self.sessions.get(&before.session)?.alive);
        let (epoch, taken) = (owner.epoch, before.is_some());
        self.holds.insert(thing.clone(), Hold::Confirming { epoch, seen, silent_since, taken });
        self.confirming.insert(seen, thing.clone());
        self.want_renewal(now);
    }

    fn not_mine(&mut self, thing: &Thing, owner: Option<&Owner>, now: Instant) {
        if self.holds.contains_key(thing) {
            self.drop_hold(thing, owner, now);
        }
    }

    /// What this node held of a thing is over; `owner` is who has it now, if that is known.
    pub(super) fn drop_hold(&mut self, thing: &Thing, owner: Option<&Owner>, now: Instant) {
        let Some(hold) = self.holds.remove(thing) else { return };
        self.offered.remove(thing);
        self.dirty_thing(thing);
        let mut moved = false;
        match hold {
            Hold::Confirming { .. } | Hold::Spent { .. } => {}
            Hold::Held { title, .. } => {
                title.end();
                self.order(OrderOut::Lost { thing: thing.clone(), held: title.epoch() });
            }
            Hold::Moving(moving) => {
                moving.title.end();
                let to = owner.and_then(|owner| Some((self.holder(owner.session)?, owner.epoch)));
                moved = owner.is_some_and(|owner| moving.is_to(owner));
                match (to, &moving.stage) {
                    (Some(to), Stage::Sending { .. } | Stage::Ready { .. }) => {
                        self.order(OrderOut::Moved { thing: thing.clone(), to: Some(to) });
                    }
                    _ => {
                        self.order(OrderOut::Lost { thing: thing.clone(), held: moving.title.epoch() });
                        self.move_ended(thing);
                    }
                }
            }
            Hold::Releasing { ops, .. } => ops.into_iter().for_each(|op| self.done(op, OpDone::Plain(Ok(())))),
        }
        self.stats.moves += u64::from(moved);
        self.drop_parts(thing, owner, now);
        self.drain_settled(thing, now);
    }

    /// Nothing comes of a hand-over: whoever was to quiesce must not wait for it.
    pub(super) fn move_ended(&mut self, thing: &Thing) {
        self.order(OrderOut::Moved { thing: thing.clone(), to: None });
    }

    /// A renewal was acknowledged that was sent when so many claims were known.
    pub(super) fn confirm(&mut self, claims: u64, now: Instant) {
        let Some(lease) = self.own.open().filter(|open| open.may_claim()).map(|open| open.lease.clone()) else {
            return;
        };
        let later = self.confirming.split_off(&(claims + 1));
        let confirmed = std::mem::replace(&mut self.confirming, later);
        for (number, thing) in confirmed {
            let Some(Hold::Confirming { epoch, seen, silent_since, taken }) = self.holds.get(&thing) else { continue };
            let (epoch, silent_since, taken) = (*epoch, *silent_since, *taken);
            if *seen != number {
                continue;
            }
            let strictness = self.policy(&thing).map(|policy| policy.strictness).unwrap_or_default();
            let title = Title::new(epoch, lease.clone(), strictness);
            self.stats.titles += 1;
            self.stats.takeovers += u64::from(taken);
            if taken {
                let took = silent_since.map(|since| now.saturating_duration_since(since));
                self.event(OwnershipEvent::Takeover { thing: thing.clone(), epoch, took });
            }
            let entry = self.entry(&thing).map(|(owner, _)| (owner.handed, owner.offer));
            let (handed, offer) = entry.unwrap_or_default();
            self.out.effects.push(Effect::Arrived(thing.clone(), epoch, offer));
            self.holds.insert(thing.clone(), Hold::Held { title: title.clone(), adopting: None });
            self.dirty_thing(&thing);
            if let Thing::Name(name) = &thing {
                self.name_titled(name, &title, handed);
            }
            self.drain_more(&thing, now);
        }
        if !self.confirming.is_empty() {
            self.want_renewal(now);
        }
    }

    /// The session is over: every title ends.
    pub(super) fn end_all(&mut self, now: Instant) {
        for (thing, hold) in std::mem::take(&mut self.holds) {
            self.dirty_thing(&thing);
            if let Some(title) = hold.title() {
                title.end();
            }
            match hold {
                Hold::Releasing { ops, .. } => {
                    let waited = std::time::Duration::ZERO;
                    for op in ops {
                        self.done(op, OpDone::Plain(Err(OwnershipError::NoSession { waited })));
                    }
                }
                Hold::Moving(_) => self.move_ended(&thing),
                Hold::Confirming { .. } | Hold::Held { .. } | Hold::Spent { .. } => {}
            }
            // Tombstones that others see in time are seen here too.
            self.timers.at(now, Timer::Unit(unit_of(&thing)));
        }
        self.confirming.clear();
        self.offered.clear();
        self.waiting.clear();
        self.claims_void();
        self.placements_void();
    }

    /// The lease is over: what is strict ends; the session may still come back for the rest.
    pub(super) fn end_strict(&mut self, now: Instant) {
        let things: Vec<Thing> = self.holds.keys().cloned().collect();
        for thing in things {
            let Some(hold) = self.holds.get(&thing) else { continue };
            let available = matches!(hold, Hold::Held { title, .. } if title.strictness() == Strictness::Available);
            let Some(title) = hold.title().filter(|_| !available) else { continue };
            let epoch = title.epoch();
            title.end();
            if self.is_part(&thing) {
                self.end_part(&thing);
                continue;
            }
            let Some(hold) = self.holds.get_mut(&thing) else { continue };
            let before = std::mem::replace(hold, Hold::Spent { epoch, retry_at: now, pass_on: false });
            self.dirty_thing(&thing);
            if let Hold::Moving(_) = before {
                self.move_ended(&thing);
            }
        }
        self.confirming.clear();
        for hold in self.holds.values_mut() {
            if let Hold::Confirming { epoch, .. } = hold {
                *hold = Hold::Spent { epoch: *epoch, retry_at: now, pass_on: false };
            }
        }
    }

    /// Each attempt that sent state has an epoch of its own: a late one is never taken for a newer one.
    pub(super) fn attempts(&self, thing: &Thing) -> u64 {
        self.offered.get(thing).copied().filter(|_| !self.plants(Plant::LateOffer)).unwrap_or(0)
    }

    /// Begins to hand a thing over. `want`: of an identity that is placed elsewhere, where.
    pub(super) fn start_move(&mut self, thing: &Thing, to: Holder, want: Option<DataCenterSelector>, now: Instant) {
        let Some((owner, _)) = self.entry(thing) else { return };
        let attempts = self.attempts(thing);
        let next = self.next_epoch(owner.epoch);
        let epoch = match thing {
            Thing::Slot(..) | Thing::Grain(..) => next.and_then(|next| next.after(attempts)),
            // Never above what the name would begin with if it were claimed anew (`NameDocument::epoch`).
            Thing::Name(_) => next.and_then(|next| {
                let anew = self.floor.0.saturating_add(self.highest);
                next.after(attempts.min(anew.saturating_sub(next.0)))
            }),
        };
        let Some(Hold::Held { title, adopting: None }) = self.holds.get(thing) else { return };
        let Some(epoch) = epoch else { return self.cannot_move(thing, now) };
        self.quiesce_for(thing, title.clone(), to, epoch, want, now);
    }

    pub(super) fn quiesce_for(
        &mut self,
        thing: &Thing,
        title: Title,
        to: Holder,
        epoch: Epoch,
        want: Option<DataCenterSelector>,
        now: Instant,
    ) {
        let token = self.token();
        let until = now + self.options.move_timeout();
        let order = OrderOut::Quiesce { thing: thing.clone(), epoch: title.epoch(), to: to.clone(), token };
        let moving = Move { title, to, epoch, offer: 0, want, stage: Stage::Quiescing { token, until } };
        self.holds.insert(thing.clone(), Hold::Moving(Box::new(moving)));
        self.waiting.insert(token, thing.clone());
        self.order(order);
        self.timers.at(until, Timer::Unit(unit_of(thing)));
    }

    /// The thing stays: its next owner would have no epoch of its own.
    pub(super) fn cannot_move(&mut self, thing: &Thing, now: Instant) {
        let why = "no epoch is left for it";
        self.stats.moves_failed += 1;
        self.event(OwnershipEvent::MoveFailed { thing: thing.clone(), why: why.to_owned() });
        self.placement_failed(thing, why);
        self.drain_failed(thing, now);
    }

    /// The thing stays: nothing was written, and nothing will be.
    pub(super) fn give_up_move(&mut self, thing: &Thing, why: &str, now: Instant) {
        let Some(Hold::Moving(moving)) = self.holds.get(thing) else { return };
        let title = moving.title.clone();
        if let Stage::Quiescing { token, .. } | Stage::Sending { token, .. } = moving.stage {
            self.waiting.remove(&token);
        }
        title.resume();
        if self.is_part(thing) {
            // It is its slot's again.
            self.holds.remove(thing);
        } else {
            self.holds.insert(thing.clone(), Hold::Held { title, adopting: None });
        }
        self.stats.moves_failed += 1;
        self.dirty_thing(thing);
        self.move_ended(thing);
        self.event(OwnershipEvent::MoveFailed { thing: thing.clone(), why: why.to_owned() });
        self.placement_failed(thing, why);
        self.drain_failed(thing, now);
    }

    pub(super) fn unsettled(&mut self, thing: &Thing) {
        if let Some(Hold::Moving(moving)) = self.holds.get_mut(thing)
            && let Stage::Ready { unsettled } = &mut moving.stage
        {
            *unsettled = true;
        }
    }

    /// A hand-over was refused for certain, and this node is still named: it is tried again, unless there is no more
    /// reason to.
    pub(super) fn refused_move(&mut self, thing: &Thing, now: Instant) {
        let Some(Hold::Moving(moving)) = self.holds.get(thing) else { return };
        let lives = self.holder(moving.to.session).is_some();
        if let Stage::Ready { unsettled: false } = moving.stage
            && (self.aborting() || !lives)
        {
            self.give_up_move(thing, "the write was refused", now);
        }
    }

    /// Ends a title that its owner has let go.
    pub(super) fn end_title(&mut self, thing: &Thing) -> Option<Epoch> {
        let title = self.holds.get(thing)?.title()?;
        title.end();
        Some(title.epoch())
    }
}
