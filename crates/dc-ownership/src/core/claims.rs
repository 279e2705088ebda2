//! Callers' claims of names: made, answered, and taken back when nobody waits for them any more.

use std::time::Instant;

use dc_core::Epoch;

use super::{
    Core, OpDone,
    names::{Claim, NameState},
    things::Hold,
};
use crate::{
    documents::NameDocument,
    error::OwnershipError,
    ids::SessionId,
    names::{NameEntry, NameSpec},
    order::Thing,
    policy::Loss,
    table::Owner,
    title::Title,
};

/// More than a store goes through between what was seen last and the next write.
const REVISIONS: u64 = 1 << 32;

fn no_epoch_left(name: &str) -> OwnershipError {
    OwnershipError::NoEpochLeft { what: format!("the global name {name:?}") }
}

impl Core {
    /// Claims of callers that were about to be made under a session that is over.
    pub(super) fn claims_void(&mut self) {
        let claimed: Vec<String> = self
            .names
            .iter()
            .filter(|(_, state)| state.claim.as_ref().is_some_and(|claim| state.holds_nonce(&claim.nonces)))
            .map(|(name, _)| name.clone())
            .collect();
        for name in claimed {
            let error = OwnershipError::OutcomeUnknown { what: format!("the global name {name:?}") };
            self.end_claim(&name, Err(error));
        }
    }

    pub(super) fn claim(&mut self, op: u64, spec: NameSpec, now: Instant) {
        let until = now + self.options.ttl();
        let name = spec.name.clone();
        if !spec.policy.allows(&self.me.data_center) {
            let data_center = self.me.data_center.id().clone();
            let why = format!("its policy keeps it within {}", spec.policy.within);
            let what = format!("the global name {name:?}");
            self.done(op, OpDone::Claimed(Err(OwnershipError::NotAllowed { what, data_center, why })));
            return;
        }
        let state = self.names.entry(name.clone()).or_insert_with(|| NameState::new(now));
        if let Some(first) = &state.claim {
            // Two callers on one node: the later one finds it taken by the earlier.
            let holder = Box::new(NameEntry {
                spec: first.spec.clone(),
                holder: None,
                session: self.own.id().unwrap_or(SessionId(0)),
                data_center: self.me.data_center.id().clone(),
                epoch: Epoch(0),
                actor: 0,
            });
            self.done(op, OpDone::Claimed(Err(OwnershipError::NameTaken { name, holder })));
            return;
        }
        state.claim = Some(Claim { op, spec, nonces: Vec::new(), unknown: false, begun: now, until });
        self.look_at_name(&name, now);
    }

    pub(super) fn end_claim(&mut self, name: &str, result: Result<Title, OwnershipError>) {
        if let Some(claim) = self.names.get_mut(name).and_then(|state| state.claim.take()) {
            self.done(claim.op, OpDone::Claimed(result));
        }
    }

    /// The caller is gone: what may have been claimed is let go again.
    fn abandon_claim(&mut self, name: &str, now: Instant) -> Option<Claim> {
        let keep = self.options.ttl() * 6;
        let state = self.names.get_mut(name)?;
        let claim = state.claim.take()?;
        state.abandoned.extend(&claim.nonces);
        state.abandoned_until = now + keep;
        let thing = Thing::Name(name.to_owned());
        if state.holds_nonce(&claim.nonces)
            && let Some(Hold::Confirming { epoch, .. }) = self.holds.get(&thing)
        {
            let epoch = *epoch;
            self.holds.insert(thing, Hold::Releasing { epoch, ops: Vec::new() });
        }
        Some(claim)
    }

    /// Whether an entry that names this session is one that nobody waits for any more. It is let go.
    pub(super) fn claims_nothing(&mut self, thing: &Thing, owner: &Owner, _now: Instant) -> bool {
        let Thing::Name(name) = thing else { return false };
        let forgotten = self.removed.forgotten();
        let abandoned = self.names.get(name).is_some_and(|state| {
            // So old that this session may have let it go since: then its removal, of this version, is refused.
            let old = state.version.is_some_and(|version| version.revision <= forgotten);
            state.holds_nonce(&state.abandoned) || old
        });
        if abandoned {
            self.holds.insert(thing.clone(), Hold::Releasing { epoch: owner.epoch, ops: Vec::new() });
        }
        abandoned
    }

    pub(super) fn expire_claim(&mut self, name: &str, now: Instant) {
        let Some(state) = self.names.get(name) else { return };
        let Some(claim) = state.claim.as_ref().filter(|claim| claim.until <= now) else { return };
        let (waited, has_session) = (now - claim.begun, self.own.open().is_some());
        let unknown = claim.unknown || state.writing || state.holds_nonce(&claim.nonces);
        let what = format!("the global name {name:?}");
        let error = if unknown {
            OwnershipError::OutcomeUnknown { what }
        } else if has_session {
            OwnershipError::Timeout { what, waited }
        } else {
            OwnershipError::NoSession { waited }
        };
        if let Some(claim) = self.abandon_claim(name, now) {
            self.done(claim.op, OpDone::Claimed(Err(error)));
        }
    }

    /// Goes on with a caller's claim. Whether it has written, or waits for what it wrote.
    pub(super) fn pursue_claim(&mut self, name: &str, buried: bool) -> bool {
        let nonce = self.nonce();
        // Its epoch will be the revision at which it is written, above the floor.
        let room = self.floor.after(self.highest.saturating_add(REVISIONS)).is_some();
        let own = self.own.open().map(|open| open.id);
        let (Some(session), Some(state)) = (own, self.names.get(name)) else { return false };
        let Some(claim) = &state.claim else { return false };
        let data_center = self.me.data_center.id().clone();
        let ttl_ms = self.ttl_of(session);
        let body = match &state.owner {
            None if !room => {
                self.end_claim(name, Err(no_epoch_left(name)));
                return false;
            }
            None => NameDocument::created(&claim.spec, (session, data_center), ttl_ms, self.floor, nonce),
            Some(_) if state.holds_nonce(&claim.nonces) => return true,
            Some(owner) if buried && state.policy().is_some_and(|policy| policy.survives == Loss::Nothing) => {
                // It ended with its node: the name is free, and its epochs go on.
                let last = owner.epoch.max(state.highest.map_or(Epoch(0), |highest| highest.0));
                let Some(epoch) = self.next_epoch(last) else {
                    self.end_claim(name, Err(no_epoch_left(name)));
                    return false;
                };
                let owner = self.owner(session, data_center.clone(), epoch);
                NameDocument::created(&claim.spec, (session, data_center), ttl_ms, Epoch(0), nonce).owned(&owner, nonce)
            }
            Some(owner) => {
                let Some(stored) = &state.document else { return false };
                let holder = Box::new(NameEntry {
                    spec: (*stored.spec).clone(),
                    holder: self.holder(owner.session),
                    session: owner.session,
                    data_center: owner.data_center.clone(),
                    epoch: owner.epoch,
                    actor: stored.body.actor,
                });
                self.end_claim(name, Err(OwnershipError::NameTaken { name: name.to_owned(), holder }));
                return false;
            }
        };
        if let Some(claim) = self.names.get_mut(name).and_then(|state| state.claim.as_mut()) {
            claim.nonces.push(nonce);
        }
        self.write_name(name, body, false);
        true
    }
}
