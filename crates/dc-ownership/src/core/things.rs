//! What this node's session owns, and what is to be written next of one thing.

use std::time::{Duration, Instant};

use dc_core::{DataCenterId, DataCenterSelector, Epoch};

use super::{Core, OpDone, rank::From};
use crate::{
    documents::Unit,
    drain::DrainScope,
    error::OwnershipError,
    ids::{SessionId, Slot},
    order::Thing,
    policy::{OnLoss, Policy, Strictness},
    session::Holder,
    table::Owner,
    title::Title,
};

/// How far a thing is that the documents give to this node's present session.
#[derive(Debug)]
pub(super) enum Hold {
    /// It counts once a renewal was acknowledged that was sent after it was seen.
    Confirming { epoch: Epoch, seen: u64, silent_since: Option<Instant>, taken: bool },
    /// Owned.
    Held { title: Title, adopting: Option<u64> },
    /// Being handed over.
    Moving(Box<Move>),
    /// It was owned under this epoch, and is no more: to be claimed again, or passed on, under a higher one.
    Spent { epoch: Epoch, retry_at: Instant, pass_on: bool },
    /// A name that its actor has let go.
    Releasing { epoch: Epoch, ops: Vec<u64> },
}

#[derive(Debug)]
pub(super) struct Move {
    pub(super) title: Title,
    pub(super) to: Holder,
    /// The epoch that it will have.
    pub(super) epoch: Epoch,
    /// The digest of the state that was sent for it; 0 for none.
    pub(super) offer: u64,
    /// Of an identity that is placed elsewhere: where it was asked to live.
    pub(super) want: Option<DataCenterSelector>,
    pub(super) stage: Stage,
}

impl Move {
    /// Whether this hand-over is what made `owner` one.
    pub(super) fn is_to(&self, owner: &Owner) -> bool {
        owner.session == self.to.session && owner.epoch == self.epoch
    }
}

#[derive(Debug)]
pub(super) enum Stage {
    Quiescing {
        token: u64,
        until: Instant,
    },
    Sending {
        token: u64,
        until: Instant,
    },
    /// To be written; `unsettled`: it may have been already, and whoever goes on here does so beside the new owner.
    Ready {
        unsettled: bool,
    },
}

impl Hold {
    pub(super) fn title(&self) -> Option<&Title> {
        match self {
            Self::Held { title, .. } => Some(title),
            Self::Moving(moving) => Some(&moving.title),
            Self::Confirming { .. } | Self::Spent { .. } | Self::Releasing { .. } => None,
        }
    }

    pub(super) fn strictness(&self) -> Option<Strictness> {
        self.title().map(Title::strictness)
    }
}

/// An operator's word for what waits.
#[derive(Debug)]
pub(super) struct Relocation {
    pub(super) op: u64,
    pub(super) to: DataCenterSelector,
    pub(super) until: Instant,
    /// The claim that was sent names this session.
    pub(super) sent: Option<SessionId>,
}

/// What is to be written of a thing.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    Nothing,
    /// Look again then.
    At(Instant),
    /// This owner.
    Write(Owner),
}

pub(super) fn unit_of(thing: &Thing) -> Unit {
    match thing {
        Thing::Slot(group, slot) | Thing::Grain(group, slot, _) => Unit::Slots(*group, slot.document()),
        Thing::Name(name) => Unit::Name(name.clone()),
    }
}

impl Core {
    /// The owner that is stored, and since when it is unchanged.
    pub(super) fn entry(&self, thing: &Thing) -> Option<(&Owner, bool)> {
        match thing {
            Thing::Slot(group, slot) => {
                let entry = self.slots.get(&(*group, slot.document()))?.entries.get(usize::from(slot.place()))?;
                entry.owner.as_ref().map(|owner| (owner, entry.refused))
            }
            Thing::Grain(..) => {
                let entry = &self.override_of(thing)?.entry;
                entry.owner.as_ref().map(|owner| (owner, entry.refused))
            }
            Thing::Name(name) => {
                let state = self.names.get(name)?;
                state.owner.as_ref().map(|owner| (owner, state.refused))
            }
        }
    }

    /// What a document says of each of its things.
    pub(super) fn entries_of(&self, unit: &Unit) -> Vec<(Thing, Owner)> {
        match unit {
            Unit::Slots(group, number) => {
                let Some(state) = self.slots.get(&(*group, *number)) else { return Vec::new() };
                let slots = (0..).map_while(|place| Slot::new(number * crate::ids::SLOTS_PER_DOCUMENT + place));
                let slots = slots
                    .zip(&state.entries)
                    .filter_map(|(slot, entry)| Some((Thing::Slot(*group, slot), entry.owner.clone()?)));
                let overrides = state
                    .overrides
                    .iter()
                    .filter_map(|(identity, of)| Some((Thing::grain(*group, identity), of.entry.owner.clone()?)));
                slots.chain(overrides).collect()
            }
            Unit::Name(name) => {
                let owner = self.names.get(name).and_then(|state| state.owner.clone());
                owner.map(|owner| (Thing::Name(name.clone()), owner)).into_iter().collect()
            }
            Unit::Session(_) | Unit::Kind(_) => Vec::new(),
        }
    }

    /// Since when the entries of a document that name a session are unchanged.
    pub(super) fn named_since(&self, unit: &Unit, id: SessionId) -> Option<Instant> {
        match unit {
            Unit::Slots(group, number) => {
                let state = self.slots.get(&(*group, *number))?;
                let named = state.all().filter(|entry| entry.owner.as_ref().is_some_and(|owner| owner.session == id));
                named.map(|entry| entry.since).max()
            }
            Unit::Name(name) => {
                let state = self.names.get(name)?;
                state.owner.as_ref().filter(|owner| owner.session == id).map(|_| state.since)
            }
            Unit::Session(_) | Unit::Kind(_) => None,
        }
    }

    pub(super) fn mine(&self, owner: &Owner) -> bool {
        self.own.open().is_some_and(|open| open.id == owner.session)
    }

    /// An entry that names `session`, without state that goes along.
    pub(super) fn owner(&self, session: SessionId, data_center: DataCenterId, epoch: Epoch) -> Owner {
        Owner { session, data_center, epoch, handed: false, offer: 0, ttl_ms: self.ttl_of(session) }
    }

    /// This node, as the owner after `epoch`.
    fn for_me(&mut self, thing: &Thing, epoch: Epoch) -> Option<Owner> {
        let session = self.own.open()?.id;
        let data_center = self.me.data_center.id().clone();
        let epoch = self.next_epoch_of(thing, epoch)?;
        Some(self.owner(session, data_center, epoch))
    }

    /// What is to be written of a thing, or when to look again. Step (3) of a take-over: only what nobody owns, or
    /// what names a session with a tombstone.
    pub(super) fn plan(&mut self, thing: &Thing, policy: &Policy, free_since: Instant, now: Instant) -> Plan {
        let entry = self.entry(thing).map(|(owner, refused)| (owner.clone(), refused));
        let Some((owner, refused)) = entry else {
            let settled = free_since.max(self.ready_at.unwrap_or(now)) + self.options.settle();
            return self.plan_claim(thing, policy, From::Nobody, settled, Epoch(0), now);
        };
        if self.mine(&owner) && !refused {
            return self.plan_own(thing, policy, &owner, now);
        }
        let Some(buried) = self.buried_at(owner.session) else {
            return self.relocation_waits(thing, now);
        };
        if let Some(plan) = self.plan_relocation(thing, policy, &owner, now) {
            return plan;
        }
        let (home, epoch) = (owner.data_center.clone(), owner.epoch.max(self.highest_epoch(thing)));
        self.plan_claim(thing, policy, From::Lost(&home), buried, epoch, now)
    }

    /// The highest epoch that was seen of a thing: what is stored may be refused for being below it.
    fn highest_epoch(&self, thing: &Thing) -> Epoch {
        let highest = match thing {
            Thing::Slot(group, slot) => self
                .slots
                .get(&(*group, slot.document()))
                .and_then(|state| state.entries.get(usize::from(slot.place())))
                .and_then(|entry| entry.highest),
            Thing::Grain(..) => self.override_of(thing).and_then(|of| of.entry.highest),
            Thing::Name(name) => self.names.get(name).and_then(|state| state.highest),
        };
        highest.map_or(Epoch(0), |(epoch, _)| epoch)
    }

    fn plan_claim(
        &mut self,
        thing: &Thing,
        policy: &Policy,
        from: From<'_>,
        free: Instant,
        epoch: Epoch,
        now: Instant,
    ) -> Plan {
        let later = now + self.options.ttl() / 4;
        if !self.takes() || self.waits_since().is_some() {
            return Plan::At(later);
        }
        let candidates = self.candidates(thing, policy, from, now);
        let own = self.own.id();
        let Some(rank) = candidates.order.iter().position(|id| Some(*id) == own) else {
            return Plan::At(later);
        };
        let grace = match policy.on_loss {
            OnLoss::Relocate { grace } if candidates.beyond => grace,
            OnLoss::Relocate { .. } | OnLoss::Wait | OnLoss::Operator => Duration::ZERO,
        };
        let rank = u32::try_from(rank.min(32)).unwrap_or(32);
        let due = free + grace + self.options.step() * rank;
        if now < due {
            return Plan::At(due.min(later));
        }
        self.for_me(thing, epoch).map_or(Plan::At(later), Plan::Write)
    }

    pub(super) fn plan_own(&mut self, thing: &Thing, policy: &Policy, owner: &Owner, now: Instant) -> Plan {
        match self.holds.get(thing) {
            Some(Hold::Moving(moving)) => match &moving.stage {
                Stage::Ready { .. } => {
                    let (session, data_center) = (moving.to.session, moving.to.data_center.clone());
                    let owner = self.owner(session, data_center, moving.epoch);
                    Plan::Write(Owner { handed: true, offer: moving.offer, ..owner })
                }
                Stage::Quiescing { until, .. } | Stage::Sending { until, .. } if *until > now => Plan::At(*until),
                Stage::Quiescing { .. } | Stage::Sending { .. } => {
                    self.give_up_move(thing, "it took too long", now);
                    Plan::Nothing
                }
            },
            Some(Hold::Spent { retry_at, .. }) if *retry_at > now => Plan::At(*retry_at),
            Some(Hold::Spent { pass_on, .. }) => {
                let (pass_on, scope) = (*pass_on || !self.takes(), self.drain_scope());
                let others = if pass_on {
                    self.candidates(thing, policy, From::Own(scope.unwrap_or(DrainScope::Node)), now).order
                } else {
                    Vec::new()
                };
                match others.first().and_then(|id| self.holder(*id)) {
                    Some(to) => match self.next_epoch_of(thing, owner.epoch) {
                        Some(next) => Plan::Write(self.owner(to.session, to.data_center, next)),
                        None => Plan::Nothing,
                    },
                    None => self.for_me(thing, owner.epoch).map_or(Plan::Nothing, Plan::Write),
                }
            }
            Some(Hold::Confirming { .. } | Hold::Held { .. } | Hold::Releasing { .. }) | None => Plan::Nothing,
        }
    }

    fn relocation_waits(&mut self, thing: &Thing, now: Instant) -> Plan {
        let Some(relocation) = self.relocations.get(thing) else { return Plan::Nothing };
        if relocation.until > now {
            return Plan::At(relocation.until.min(now + self.options.ttl() / 4));
        }
        let waited = self.options.ttl() * 3;
        let what = format!("{thing:?}");
        self.relocated(thing, Err(OwnershipError::Timeout { what, waited }));
        Plan::Nothing
    }

    fn plan_relocation(&mut self, thing: &Thing, policy: &Policy, owner: &Owner, now: Instant) -> Option<Plan> {
        self.relocations.get(thing)?;
        let order = self.candidates(thing, policy, From::Nobody, now).order;
        let relocation = self.relocations.get(thing)?;
        let found = order.into_iter().find(|id| self.data_center_of(*id).is_some_and(|dc| relocation.to.matches(dc)));
        let Some((session, data_center)) = found.and_then(|id| Some((id, self.data_center_of(id)?.id().clone())))
        else {
            let (what, why) = (format!("{thing:?}"), "none of its sessions that take things lives".to_owned());
            let to = self.relocations.get(thing).map(|relocation| relocation.to.to_string()).unwrap_or_default();
            let data_center = owner.data_center.clone();
            let why = format!("asked for {to}: {why}, or the policy does not allow it");
            self.relocated(thing, Err(OwnershipError::NotAllowed { what, data_center, why }));
            return None;
        };
        let Some(epoch) = self.next_epoch_of(thing, owner.epoch.max(self.highest_epoch(thing))) else {
            self.relocated(thing, Err(OwnershipError::NoEpochLeft { what: format!("{thing:?}") }));
            return None;
        };
        if let Some(relocation) = self.relocations.get_mut(thing) {
            relocation.sent = Some(session);
        }
        Some(Plan::Write(self.owner(session, data_center, epoch)))
    }

    pub(super) fn relocated(&mut self, thing: &Thing, result: Result<(), OwnershipError>) {
        if let Some(relocation) = self.relocations.remove(thing) {
            self.done(relocation.op, OpDone::Plain(result));
        }
    }
}
