//! What comes out.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use dc_controlplane::ownership::DocumentKey;
use dc_core::Epoch;

use super::{Ask, Core, Plant, slots::SlotEntry, things::Hold};
use crate::{
    documents::Unit,
    drain::Progress,
    error::OwnershipError,
    event::{Change, OwnershipEvent},
    ids::{GroupId, SLOTS_PER_DOCUMENT, SessionId, Slot},
    names::NameEntry,
    order::Thing,
    session::Holder,
    table::{NameRow, SlotRow, SlotRows},
    title::{Lease, Title},
};

/// Something to be done.
#[derive(Debug)]
pub enum Effect {
    /// Ask the store.
    Send(Request),
    /// Watch it afresh, and pass what comes with this generation.
    Watch {
        /// The generation.
        generation: u64,
    },
    /// Tell the owner's side.
    Order(OrderOut),
    /// Send state to another node, and pass its answer with this token.
    Offer {
        /// The token.
        token: u64,
        /// To whom.
        to: Holder,
        /// Of what.
        thing: Thing,
        /// The epoch that it will have.
        epoch: Epoch,
        /// What.
        state: Vec<(String, Bytes)>,
    },
    /// An operation has ended.
    Done(u64, OpDone),
    /// The present session has changed.
    Present(Option<(Lease, Holder)>),
    /// Everything was seen once, and there is a session.
    Ready,
    /// A part of the table has changed.
    Update(Update),
    /// An owner has changed.
    Changed(Change),
    /// For people.
    Event(OwnershipEvent),
    /// How far a drain is.
    Progress(u64, Progress),
    /// Kinds that are not served here, declared otherwise elsewhere.
    RefusedKinds(Vec<String>),
    /// State with this digest that came along for this epoch belongs to the present owner; any other is of no use. 0:
    /// there is none.
    Arrived(Thing, Epoch, u64),
}

/// A request to the store.
#[derive(Clone, Debug)]
pub struct Request {
    /// To name it by in the answer.
    pub id: u64,
    /// Which document.
    pub key: DocumentKey,
    /// What.
    pub ask: Ask,
}

/// An order, with a token in place of the channel for its answer.
#[derive(Clone, Debug)]
pub enum OrderOut {
    /// See `Order::SessionLost`.
    SessionLost {
        /// Which.
        session: SessionId,
    },
    /// See `Order::Lost`.
    Lost {
        /// What.
        thing: Thing,
        /// Under which epoch it was held.
        held: Epoch,
    },
    /// See `Order::Quiesce`.
    Quiesce {
        /// What.
        thing: Thing,
        /// Under which epoch it is held.
        epoch: Epoch,
        /// Who is to have it.
        to: Holder,
        /// For the answer.
        token: u64,
    },
    /// See `Order::Moved`.
    Moved {
        /// What.
        thing: Thing,
        /// To whom.
        to: Option<(Holder, Epoch)>,
    },
    /// See `Order::Adopt`.
    Adopt {
        /// What.
        entry: Box<NameEntry>,
        /// The proof.
        title: Title,
        /// Whether state that was sent for this epoch may be used.
        handed: bool,
        /// For the answer.
        token: u64,
    },
}

/// How an operation ended.
#[derive(Debug)]
pub enum OpDone {
    /// A claim.
    Claimed(Result<Title, OwnershipError>),
    /// Anything else.
    Plain(Result<(), OwnershipError>),
}

/// A part of the table.
#[derive(Debug)]
pub enum Update {
    /// The sessions that live, as far as known.
    Sessions(HashMap<SessionId, Holder>),
    /// One document of slots.
    Slots(GroupId, u16, Option<Arc<SlotRows>>),
    /// One name.
    Name(String, Option<NameRow>),
}

#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) effects: Vec<Effect>,
    pub(super) dirty: BTreeSet<Unit>,
    pub(super) dirty_sessions: bool,
}

impl Core {
    pub(super) fn done(&mut self, op: u64, done: OpDone) {
        self.out.effects.push(Effect::Done(op, done));
    }

    pub(super) fn order(&mut self, order: OrderOut) {
        self.out.effects.push(Effect::Order(order));
    }

    pub(super) fn holder(&self, session: SessionId) -> Option<Holder> {
        self.sessions.get(&session)?.holder()
    }

    pub(super) fn dirty_thing(&mut self, thing: &Thing) {
        self.out.dirty.insert(super::things::unit_of(thing));
    }

    /// Turns what has changed into updates of the table, titles included.
    pub(super) fn publish(&mut self) {
        let mut updates = Vec::new();
        if std::mem::take(&mut self.out.dirty_sessions) {
            let live = self.sessions.iter().filter_map(|(id, seen)| Some((*id, seen.holder()?)));
            updates.push(Update::Sessions(live.collect()));
        }
        for unit in std::mem::take(&mut self.out.dirty) {
            match unit {
                Unit::Slots(group, number) => {
                    updates.push(Update::Slots(group, number, self.slot_rows(group, number).map(Arc::new)));
                }
                Unit::Name(name) => {
                    let title = self.holds.get(&Thing::Name(name.clone())).and_then(Hold::title);
                    let row = self.names.get(&name).and_then(|state| {
                        let owner = state.owner.clone().filter(|_| !state.refused)?;
                        let document = state.document.as_ref()?;
                        let title = title.cloned();
                        Some(NameRow { spec: Arc::clone(&document.spec), owner, actor: document.body.actor, title })
                    });
                    updates.push(Update::Name(name, row));
                }
                Unit::Session(_) | Unit::Kind(_) => {}
            }
        }
        // Before the effects that let others look: orders, answers, changes.
        let at = self.out.effects.iter().position(|effect| {
            matches!(effect, Effect::Order(_) | Effect::Done(..) | Effect::Changed(_) | Effect::Ready)
        });
        let at = at.unwrap_or(self.out.effects.len());
        self.out.effects.splice(at..at, updates.into_iter().map(Effect::Update));
    }

    fn slot_rows(&self, group: GroupId, number: u16) -> Option<SlotRows> {
        let state = self.slots.get(&(group, number))?;
        let row = |thing: &Thing, entry: &SlotEntry| {
            let owner = entry.owner.clone().filter(|_| !entry.refused);
            SlotRow { owner, title: self.holds.get(thing).and_then(Hold::title).cloned() }
        };
        let slots = (0_u16..).zip(&state.entries).filter_map(|(place, entry)| {
            let slot = Slot::new(number * SLOTS_PER_DOCUMENT + place)?;
            Some(row(&Thing::Slot(group, slot), entry))
        });
        let overrides = state
            .overrides
            .iter()
            .map(|(identity, of)| (identity.clone(), row(&Thing::grain(group, identity), &of.entry)));
        // What is about to be handed over is still its slot's, and nobody starts it.
        let parts = if self.plants(Plant::ServeParts) { Vec::new() } else { self.parts_in((group, number)) };
        let parts = parts.into_iter().filter_map(|part| {
            let owner = self.entry(&part.whole()?).filter(|(_, refused)| !refused).map(|(owner, _)| owner.clone());
            let Thing::Grain(_, _, identity) = part else { return None };
            Some((identity, SlotRow { owner, title: None }))
        });
        Some(SlotRows { slots: slots.collect(), overrides: overrides.chain(parts).collect() })
    }
}
