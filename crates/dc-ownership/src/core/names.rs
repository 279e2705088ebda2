//! Global names: claimed, released, taken over, one write at a time for each.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dc_controlplane::ownership::Keep;
use dc_core::{DataCenterId, Epoch, Version};

use super::{
    Ask, Core, OpDone, OrderOut, Outcome, Plant, Written,
    rank::From,
    requests::Purpose,
    slots::refuses,
    things::{Hold, Plan, Stage},
    timers::Timer,
};
use crate::{
    documents::{NameDocument, Unit},
    error::OwnershipError,
    event::OwnershipEvent,
    ids::SessionId,
    names::{NameEntry, NameSpec},
    order::Thing,
    policy::{Loss, Policy},
    table::Owner,
    title::Title,
};

#[derive(Debug)]
pub(super) struct NameState {
    pub(super) version: Option<Version>,
    pub(super) document: Option<Stored>,
    pub(super) owner: Option<Owner>,
    pub(super) since: Instant,
    pub(super) refused: bool,
    pub(super) highest: Option<(Epoch, SessionId)>,
    pub(super) writing: bool,
    retry_at: Instant,
    failures: u32,
    pub(super) claim: Option<Claim>,
    /// Claims whose callers were told that the outcome is unknown, or who do not wait any more.
    pub(super) abandoned: Vec<u64>,
    pub(super) abandoned_until: Instant,
    pub(super) adopt_failures: u32,
    note: Option<(Epoch, u64)>,
}

#[derive(Debug)]
pub(super) struct Stored {
    pub(super) body: NameDocument,
    pub(super) spec: Arc<NameSpec>,
}

/// A caller's claim.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) op: u64,
    pub(super) spec: NameSpec,
    pub(super) nonces: Vec<u64>,
    /// A write of it may have landed unseen.
    pub(super) unknown: bool,
    pub(super) begun: Instant,
    pub(super) until: Instant,
}

impl NameState {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            version: None,
            document: None,
            owner: None,
            since: now,
            refused: false,
            highest: None,
            writing: false,
            retry_at: now,
            failures: 0,
            claim: None,
            abandoned: Vec::new(),
            abandoned_until: now,
            adopt_failures: 0,
            note: None,
        }
    }

    pub(super) fn policy(&self) -> Option<&Policy> {
        self.document.as_ref().map(|stored| &stored.spec.policy)
    }

    pub(super) fn home(&self) -> Option<DataCenterId> {
        self.document.as_ref()?.body.home.clone()
    }

    fn is_idle(&self, now: Instant) -> bool {
        let claims = self.claim.is_some() || (!self.abandoned.is_empty() && self.abandoned_until > now);
        self.owner.is_none() && !self.writing && !claims
    }

    pub(super) fn holds_nonce(&self, nonces: &[u64]) -> bool {
        self.document.as_ref().is_some_and(|stored| nonces.contains(&stored.body.nonce))
    }
}

impl Core {
    pub(super) fn name_seen(&mut self, name: &str, body: NameDocument, version: Version, now: Instant) {
        let (unit, thing) = (Unit::Name(name.to_owned()), Thing::Name(name.to_owned()));
        let owner = body.owner(version);
        let state = self.names.entry(name.to_owned()).or_insert_with(|| NameState::new(now));
        state.version = Some(version);
        let spec = body.spec();
        let spec = match state.document.take() {
            Some(before) if *before.spec == spec => before.spec,
            _ => Arc::new(spec),
        };
        state.document = Some(Stored { body, spec });
        let news = state.owner.as_ref() != Some(&owner);
        let mut conflict = None;
        if news {
            state.since = now;
            state.refused = refuses(state.highest, &owner);
            match state.highest {
                Some(known) if state.refused => conflict = Some(known),
                _ => state.highest = Some((owner.epoch, owner.session)),
            }
        }
        let before = state.owner.replace(owner.clone());
        if let Some(before) = before.as_ref().filter(|before| before.session != owner.session) {
            self.unname_session(before.session, &unit);
        }
        self.name_session(owner.session, owner.ttl_ms, &unit, now);
        if let Some(known) = conflict {
            self.conflict(thing.clone(), &owner, known);
        }
        self.reconcile(&thing, before.as_ref(), news, now);
        self.out.dirty.insert(unit.clone());
        self.timers.at(now, Timer::Unit(unit));
    }

    pub(super) fn name_gone(&mut self, name: &str, now: Instant) {
        let Some(state) = self.names.get_mut(name) else { return };
        let (unit, thing) = (Unit::Name(name.to_owned()), Thing::Name(name.to_owned()));
        state.version = None;
        state.document = None;
        state.refused = false;
        state.since = now;
        let before = state.owner.take();
        if let Some(before) = &before {
            self.unname_session(before.session, &unit);
        }
        self.reconcile(&thing, before.as_ref(), before.is_some(), now);
        self.relocated(&thing, Err(OwnershipError::NoSuchName { name: name.to_owned() }));
        self.out.dirty.insert(unit.clone());
        self.orphans.remove(&unit);
        self.timers.at(now, Timer::Unit(unit));
    }

    /// The store lost data: what was known is void, callers wait on.
    pub(super) fn name_forgotten(&mut self, name: &str, now: Instant) {
        self.out.dirty.insert(Unit::Name(name.to_owned()));
        let Some(state) = self.names.get_mut(name) else { return };
        let claim = state.claim.take();
        *state = NameState { claim, ..NameState::new(now) };
        if state.claim.is_none() {
            self.names.remove(name);
        }
    }

    pub(super) fn release(&mut self, op: u64, name: &str, epoch: Epoch, now: Instant) {
        let thing = Thing::Name(name.to_owned());
        match self.holds.get_mut(&thing) {
            Some(Hold::Releasing { epoch: held, ops }) if *held == epoch => ops.push(op),
            Some(hold) if hold.title().is_some_and(|title| title.epoch() == epoch) => {
                if let Hold::Moving(moving) = hold
                    && let Stage::Ready { .. } = moving.stage
                {
                    // It is the new owner's by now, or about to be.
                    self.done(op, OpDone::Plain(Ok(())));
                    return;
                }
                self.end_title(&thing);
                let before = self.holds.insert(thing.clone(), Hold::Releasing { epoch, ops: vec![op] });
                if let Some(Hold::Moving(_)) = before {
                    self.move_ended(&thing);
                }
                self.dirty_thing(&thing);
                self.drain_settled(&thing, now);
                self.look_at_name(name, now);
            }
            _ => self.done(op, OpDone::Plain(Ok(()))),
        }
    }

    pub(super) fn note_actor(&mut self, name: &str, epoch: Epoch, actor: u64, now: Instant) {
        if let Some(state) = self.names.get_mut(name) {
            state.note = Some((epoch, actor));
            self.look_at_name(name, now);
        }
    }

    /// Does what is to be done for a name next.
    pub(super) fn look_at_name(&mut self, name: &str, now: Instant) {
        let (unit, thing) = (Unit::Name(name.to_owned()), Thing::Name(name.to_owned()));
        self.expire_claim(name, now);
        let Some(state) = self.names.get_mut(name) else { return };
        if state.is_idle(now) {
            self.names.remove(name);
            return;
        }
        if let Some(claim) = &state.claim {
            self.timers.at(claim.until, Timer::Unit(unit.clone()));
        }
        let buried = state.owner.as_ref().map(|owner| owner.session).and_then(|id| self.buried_at(id));
        if buried.is_some() {
            self.orphans.insert(unit.clone());
        } else {
            self.orphans.remove(&unit);
        }
        let Some(state) = self.names.get(name) else { return };
        if state.writing || self.unreadable.contains_key(&unit) {
            return;
        }
        if state.retry_at > now {
            self.timers.at(state.retry_at, Timer::Unit(unit));
            return;
        }
        if !self.may_claim(now) {
            return;
        }
        if let Some(Hold::Releasing { epoch, .. }) = self.holds.get(&thing) {
            let epoch = *epoch;
            self.remove_name(name, epoch);
            return;
        }
        if state.claim.is_some() && self.pursue_claim(name, buried.is_some()) {
            return;
        }
        if self.write_note(name, &thing) {
            return;
        }
        let Some(state) = self.names.get(name) else { return };
        let (Some(policy), Some(_)) = (state.policy().cloned(), &state.owner) else { return };
        let since = state.since;
        if buried.is_some() && policy.survives == Loss::Nothing {
            self.clear_lost(name, &thing, &policy, since, now);
            return;
        }
        match self.plan(&thing, &policy, since, now) {
            Plan::Nothing => {}
            Plan::At(at) => self.timers.at(at, Timer::Unit(unit)),
            Plan::Write(_) if buried.is_some() && !self.take_claim_token(now) => {
                let wait = Duration::from_secs(1) / self.options.claims_per_second();
                self.timers.at(now + wait.max(Duration::from_millis(1)), Timer::Unit(unit));
            }
            Plan::Write(owner) => {
                let nonce = self.nonce();
                let Some(stored) = self.names.get(name).and_then(|state| state.document.as_ref()) else { return };
                let body = stored.body.owned(&owner, nonce);
                self.write_name(name, body, owner.handed);
            }
        }
    }

    pub(super) fn write_name(&mut self, name: &str, body: NameDocument, handed: bool) {
        let Some(state) = self.names.get_mut(name) else { return };
        state.writing = true;
        let version = state.version;
        let unit = Unit::Name(name.to_owned());
        self.write(unit, version, body.write(), Keep::Forever, Purpose::Name { handed });
    }

    fn remove_name(&mut self, name: &str, epoch: Epoch) {
        let Some(state) = self.names.get_mut(name) else { return };
        let ours = state.owner.as_ref().is_some_and(|owner| owner.epoch == epoch);
        if let Some(version) = state.version.filter(|_| ours) {
            state.writing = true;
            self.ask(Unit::Name(name.to_owned()), Ask::Remove(version), Purpose::RemoveName);
        }
    }

    fn write_note(&mut self, name: &str, thing: &Thing) -> bool {
        let held = self.holds.get(thing).and_then(Hold::title).map(Title::epoch);
        let nonce = self.nonce();
        let Some(state) = self.names.get_mut(name) else { return false };
        let Some((epoch, actor)) = state.note.take() else { return false };
        let Some(stored) = state.document.as_ref().filter(|stored| stored.body.actor != actor) else { return false };
        if held != Some(epoch) || state.owner.as_ref().is_none_or(|owner| owner.epoch != epoch) {
            return false;
        }
        let body = stored.body.with_actor(epoch, actor, nonce);
        self.write_name(name, body, false);
        true
    }

    /// A name that ends with its node: the first candidate clears it away.
    fn clear_lost(&mut self, name: &str, thing: &Thing, policy: &Policy, since: Instant, now: Instant) {
        let order = self.candidates(thing, policy, From::Nobody, now).order;
        let own = self.own.id();
        let rank = order.iter().position(|id| Some(*id) == own).unwrap_or(order.len());
        let due = since + self.options.step() * u32::try_from(rank.min(32)).unwrap_or(32);
        if due > now {
            self.timers.at(due, Timer::Unit(Unit::Name(name.to_owned())));
            return;
        }
        let Some(state) = self.names.get_mut(name) else { return };
        if let Some(version) = state.version {
            state.writing = true;
            self.ask(Unit::Name(name.to_owned()), Ask::Remove(version), Purpose::RemoveName);
        }
    }

    /// So many names of lost owners in a second, and no more.
    fn take_claim_token(&mut self, now: Instant) -> bool {
        let rate = f64::from(self.options.claims_per_second());
        let passed = now.saturating_duration_since(self.claims_counted_at).as_secs_f64();
        self.claims_counted_at = now;
        // A tenth of a second's worth at once, and at least one.
        self.claim_tokens = (self.claim_tokens + passed * rate).min((rate / 10.0).max(1.0));
        let may = self.claim_tokens >= 1.0;
        self.claim_tokens -= f64::from(u8::from(may));
        may
    }

    /// A write of a name was answered; what it showed was seen already.
    pub(super) fn name_written(&mut self, name: &str, handed: bool, answer: &Written, now: Instant) {
        let thing = Thing::Name(name.to_owned());
        self.name_settled(name, answer, now);
        if handed {
            match answer {
                Written::Failed(Outcome::Unknown) => {
                    self.unsettled(&thing);
                    if self.plants(Plant::ResumeUnsettled) {
                        self.give_up_move(&thing, "the answer was lost", now);
                    }
                }
                Written::Refused(_) => self.refused_move(&thing, now),
                Written::Failed(Outcome::Unchanged) | Written::Done(_) | Written::Read(_) => {}
            }
        }
        let Some(state) = self.names.get_mut(name) else { return };
        let ours = state.claim.as_ref().is_some_and(|claim| {
            state.document.as_ref().is_some_and(|stored| claim.nonces.contains(&stored.body.nonce))
        });
        if let Some(claim) = &mut state.claim {
            match answer {
                Written::Failed(Outcome::Unknown) => claim.unknown = true,
                Written::Refused(_) => {
                    // What was sent before is settled by what is stored now.
                    claim.unknown = false;
                    self.stats.lost_answers += u64::from(ours);
                }
                Written::Failed(Outcome::Unchanged) | Written::Done(_) | Written::Read(_) => {}
            }
        }
        if matches!(answer, Written::Failed(Outcome::Unknown)) && self.plants(Plant::StartUnasked) {
            self.start_unasked(name);
        }
    }

    fn name_settled(&mut self, name: &str, answer: &Written, now: Instant) {
        let failed = !matches!(answer, Written::Done(_) | Written::Read(_));
        let failures = self.names.get(name).map_or(0, |state| state.failures);
        let failures = if failed { failures + 1 } else { 0 };
        let pause = self.pause(answer, failures);
        let Some(state) = self.names.get_mut(name) else { return };
        state.writing = false;
        state.failures = failures;
        state.retry_at = now + pause;
        self.timers.at(now + pause, Timer::Unit(Unit::Name(name.to_owned())));
    }

    pub(super) fn name_removed(&mut self, name: &str, answer: &Written, now: Instant) {
        self.name_settled(name, answer, now);
        if let Written::Refused(Some(document)) = answer
            && self.plants(Plant::LateDelete)
        {
            self.ask(Unit::Name(name.to_owned()), Ask::Remove(document.version), Purpose::RemoveName);
        }
    }

    /// The bug on purpose: what was not answered is taken for accepted.
    fn start_unasked(&mut self, name: &str) {
        let thing = Thing::Name(name.to_owned());
        let epoch = self.entry(&thing).map(|(owner, _)| owner.epoch.next());
        let lease = self.own.open().map(|open| open.lease.clone());
        if let (Some(epoch), Some(lease), false) = (epoch, lease, self.holds.contains_key(&thing)) {
            let title = Title::new(epoch, lease, crate::policy::Strictness::Strict);
            self.holds.insert(thing.clone(), Hold::Held { title: title.clone(), adopting: None });
            self.dirty_thing(&thing);
            self.name_titled(name, &title, false);
        }
    }

    /// A name has its title: whoever claimed it is told, or its actor is to be started.
    pub(super) fn name_titled(&mut self, name: &str, title: &Title, handed: bool) {
        let thing = Thing::Name(name.to_owned());
        let Some(state) = self.names.get(name) else { return };
        if state.claim.as_ref().is_some_and(|claim| state.holds_nonce(&claim.nonces)) {
            self.end_claim(name, Ok(title.clone()));
            return;
        }
        let (Some(stored), Some(owner)) = (&state.document, &state.owner) else { return };
        let entry = Box::new(NameEntry {
            spec: (*stored.spec).clone(),
            holder: self.holder(owner.session),
            session: owner.session,
            data_center: owner.data_center.clone(),
            epoch: title.epoch(),
            actor: 0,
        });
        let token = self.token();
        self.waiting.insert(token, thing.clone());
        if let Some(Hold::Held { adopting, .. }) = self.holds.get_mut(&thing) {
            *adopting = Some(token);
        }
        self.order(OrderOut::Adopt { entry, title: title.clone(), handed, token });
    }

    /// The actor of a name did not start here: the next candidate is to have it.
    pub(super) fn not_adopted(&mut self, thing: &Thing, why: String, now: Instant) {
        let Thing::Name(name) = thing else { return };
        let Some(Hold::Held { title, adopting: Some(_) }) = self.holds.get(thing) else { return };
        let epoch = title.epoch();
        title.end();
        self.stats.not_adopted += 1;
        let Some(state) = self.names.get_mut(name) else { return };
        state.adopt_failures += 1;
        let step = self.options.step();
        let wait = (step * 2_u32.saturating_pow(state.adopt_failures.min(10) - 1)).min(self.options.ttl() * 6);
        self.holds.insert(thing.clone(), Hold::Spent { epoch, retry_at: now + wait, pass_on: true });
        self.dirty_thing(thing);
        self.event(OwnershipEvent::NotAdopted { name: name.clone(), why });
        self.timers.at(now + wait, Timer::Unit(Unit::Name(name.clone())));
    }
}
