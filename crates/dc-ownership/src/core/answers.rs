//! What is asked of this node, and what its owner's side answers.

use std::time::{Duration, Instant};

use dc_controlplane::ownership::Keep;
use dc_core::Epoch;

use super::{
    Answer, Ask, Core, Effect, Input, KindState, Op, OpDone, Written,
    requests::Purpose,
    things::{Hold, Relocation, Stage, unit_of},
    timers::Timer,
};
use crate::{
    documents::{KindDocument, Unit},
    drain::DrainEnd,
    error::OwnershipError,
    event::OwnershipEvent,
    ids::SessionId,
    order::Thing,
};

/// The most documents that are read at once because somebody told of a higher epoch.
const MOST_LOOKS: usize = 1_024;

impl Core {
    pub(super) fn asked(&mut self, input: Input, now: Instant) {
        match input {
            Input::Answered { token, answer } => self.answered(token, answer, now),
            Input::Asked { op, ask } => match ask {
                Op::Claim(spec) => self.claim(op, spec, now),
                Op::Release(name, epoch) => self.release(op, &name, epoch, now),
                Op::Relocate(thing, to) => self.relocate(op, thing, to, now),
                Op::Place(thing, to) => self.place(op, thing, to, now),
                Op::Stop => self.stop(op, now),
            },
            Input::Hint { thing, heard } => self.hint(&thing, heard),
            Input::SetFloor(floor) if floor > Epoch::GREATEST => self.event(OwnershipEvent::FloorRefused { floor }),
            Input::SetFloor(floor) => {
                self.raise_floor(floor, now);
                self.remember(floor);
            }
            Input::SetTaking(taking) => {
                self.taking = taking;
                if taking {
                    self.end_drain(DrainEnd::Replaced);
                }
                self.live_stale = true;
                self.want_renewal(now);
                self.wake_orphans(now);
            }
            Input::WaitToBeTold => self.heeds = true,
            Input::Told(as_of) => {
                let waited = self.waits_since().is_some();
                self.told = self.told.max(Some(as_of));
                if waited && self.waits_since().is_none() {
                    self.wake_all(now);
                }
            }
            Input::Drain { number, options } => self.start_drain(number, options, now),
            Input::AbortDrain { number } => self.abort_drain(number, now),
            Input::NoteActor { name, epoch, actor } => self.note_actor(&name, epoch, actor, now),
            Input::Put { .. }
            | Input::Gone { .. }
            | Input::ReplayBegun { .. }
            | Input::ReplayDone { .. }
            | Input::Written { .. } => {}
        }
    }

    fn answered(&mut self, token: u64, answer: Answer, now: Instant) {
        let Some(thing) = self.waiting.remove(&token) else { return };
        match answer {
            Answer::Quiesced(None) => self.give_up_move(&thing, "the owner's side gave it up", now),
            Answer::Quiesced(Some(state)) => self.quiesced(&thing, state, now),
            Answer::Offered(Ok(())) => self.ready_to_move(&thing, now),
            Answer::Offered(Err(why)) => self.give_up_move(&thing, &why, now),
            Answer::Adopted(Ok(())) => {
                if let Some(Hold::Held { adopting, .. }) = self.holds.get_mut(&thing) {
                    *adopting = None;
                    self.drain_more(&thing, now);
                }
                if let Thing::Name(name) = &thing
                    && let Some(state) = self.names.get_mut(name)
                {
                    state.adopt_failures = 0;
                }
            }
            Answer::Adopted(Err(why)) => self.not_adopted(&thing, why, now),
        }
    }

    fn quiesced(&mut self, thing: &Thing, state: Vec<(String, bytes::Bytes)>, now: Instant) {
        let until = now + self.options.move_timeout();
        let token = self.token();
        let before = self.offered.contains_key(thing);
        let Some(Hold::Moving(moving)) = self.holds.get_mut(thing) else { return };
        moving.title.suspend();
        if state.is_empty() && !before {
            self.ready_to_move(thing, now);
            return;
        }
        moving.stage = Stage::Sending { token, until };
        moving.offer = crate::parcels::digest(&state);
        let (to, epoch) = (moving.to.clone(), moving.epoch);
        *self.offered.entry(thing.clone()).or_default() += 1;
        self.waiting.insert(token, thing.clone());
        self.dirty_thing(thing);
        self.out.effects.push(Effect::Offer { token, to, thing: thing.clone(), epoch, state });
        self.timers.at(until, Timer::Unit(unit_of(thing)));
    }

    fn ready_to_move(&mut self, thing: &Thing, now: Instant) {
        if let Some(Hold::Moving(moving)) = self.holds.get_mut(thing) {
            moving.stage = Stage::Ready { unsettled: false };
            self.dirty_thing(thing);
            self.timers.at(now, Timer::Unit(unit_of(thing)));
        }
    }

    fn hint(&mut self, thing: &Thing, heard: Epoch) {
        let known =
            self.entry(thing).or_else(|| self.entry(&thing.whole()?)).map_or(Epoch(0), |(owner, _)| owner.epoch);
        let unit = unit_of(thing);
        // Anybody may say anything: what there is no room for is said again, or seen by the watch.
        let may_be = heard > known && heard <= Epoch::GREATEST && self.asked_after.len() < MOST_LOOKS;
        if may_be && unit.key().is_ok() && self.asked_after.insert(unit.clone()) {
            self.ask(unit, Ask::Read, Purpose::Look);
        }
    }

    fn relocate(&mut self, op: u64, thing: Thing, to: dc_core::DataCenterSelector, now: Instant) {
        let refuse = match (self.entry(&thing), &thing) {
            (None, Thing::Name(name)) => Some(OwnershipError::NoSuchName { name: name.clone() }),
            (None, Thing::Grain(..)) => Some(OwnershipError::NotAllowed {
                what: format!("{thing:?}"),
                data_center: self.me.data_center.id().clone(),
                why: "it lives with its slot".to_owned(),
            }),
            (None, Thing::Slot(..)) | (Some(_), _) if self.policy(&thing).is_none() => {
                Some(OwnershipError::NotAllowed {
                    what: format!("{thing:?}"),
                    data_center: self.me.data_center.id().clone(),
                    why: "this node does not serve its kind".to_owned(),
                })
            }
            (Some((owner, _)), _) if self.lives(owner.session, now) => {
                let data_center = owner.data_center.clone();
                Some(OwnershipError::OwnerLives { thing: thing.clone(), data_center })
            }
            _ => None,
        };
        if let Some(refusal) = refuse {
            self.done(op, OpDone::Plain(Err(refusal)));
            return;
        }
        let until = now + self.options.ttl() * 3;
        if let Some(before) = self.relocations.remove(&thing) {
            self.done(before.op, OpDone::Plain(Err(OwnershipError::Stopped)));
        }
        self.timers.at(now, Timer::Unit(unit_of(&thing)));
        self.relocations.insert(thing, Relocation { op, to, until, sent: None });
    }

    fn lives(&self, id: SessionId, now: Instant) -> bool {
        self.own.open().is_some_and(|open| open.id == id)
            || self
                .sessions
                .get(&id)
                .is_some_and(|seen| seen.version.is_some() && seen.grave.is_none() && now < seen.since + seen.ttl())
    }

    fn stop(&mut self, op: u64, now: Instant) {
        self.stopping = Some(op);
        self.end_drain(DrainEnd::SessionLost);
        match self.own.id() {
            Some(id) => {
                self.lose_session("this node stops", now);
                self.look_at_session(id, now);
                if !self.over.contains(&id) {
                    self.finish_stop(id);
                }
            }
            None => self.finish_stop(SessionId(0)),
        }
    }

    /// A session of this node has its tombstone, or needs none.
    pub(super) fn finish_stop(&mut self, _id: SessionId) {
        if let Some(op) = self.stopping
            && !self.stopped
            && self.over.is_empty()
        {
            self.stopped = true;
            self.done(op, OpDone::Plain(Ok(())));
        }
    }

    pub(super) fn look_at_kind(&mut self, kind: &str, now: Instant) {
        if !self.may_claim(now) {
            return;
        }
        let Some((policy, state)) = self.kinds.get_mut(kind) else { return };
        if *state != KindState::Unknown || self.unreadable.contains_key(&Unit::Kind(kind.to_owned())) {
            return;
        }
        *state = KindState::Asked;
        let body = KindDocument::new(policy).write();
        self.write(Unit::Kind(kind.to_owned()), None, body, Keep::Forever, Purpose::Kind);
    }

    pub(super) fn kind_seen(&mut self, kind: &str, document: &KindDocument, now: Instant) {
        let Some((policy, state)) = self.kinds.get_mut(kind) else { return };
        let alike = document.group == policy.group();
        let next = if alike { KindState::Served } else { KindState::Refused };
        let policy = policy.clone();
        if std::mem::replace(state, next) == next {
            return;
        }
        if alike {
            self.serve(policy.group(), policy, now);
        } else {
            self.event(OwnershipEvent::PolicyConflict { kind: kind.to_owned() });
        }
        let refused = self.kinds.iter().filter(|(_, (_, state))| *state == KindState::Refused);
        let refused = refused.map(|(kind, _)| kind.clone()).collect();
        self.out.effects.push(Effect::RefusedKinds(refused));
    }

    pub(super) fn kind_written(&mut self, kind: &str, answer: &Written, now: Instant) {
        if let Written::Failed(_) = answer
            && let Some((_, state)) = self.kinds.get_mut(kind)
            && *state == KindState::Asked
        {
            *state = KindState::Unknown;
            let wait: Duration = self.options.step();
            self.timers.at(now + wait, Timer::Unit(Unit::Kind(kind.to_owned())));
        }
    }
}
