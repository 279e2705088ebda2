//! Offers: state of something global that one node is about to hand over to another, checked at both ends.

use std::sync::Arc;

use bytes::Bytes;
use dc_core::{DataCenterId, Epoch};
use dc_ownership::{
    ids::{GroupId, Slot},
    order::Thing,
};
use dc_remoting::PeerIdentity;

use super::{Global, label};
use crate::{
    authority::Wish,
    error::Error,
    peers::PeerId,
    spawn::check_name,
    system::Node,
    wire::{OfferBody, Place, StateBody, ThingBody},
};

/// The kind of something that this node knows nothing of: no kind has this name, so only who may take over all may
/// take over this.
const UNKNOWN: &str = "";

/// State of something that is handed to this node.
pub(crate) fn asked_to_take(node: &Arc<Node>, from: &PeerIdentity, body: &OfferBody) -> Result<Place, Error> {
    let global = node.global(|| "what is handed over".into())?;
    node.accepting()?;
    let thing = global.check_offer(body)?;
    may_move(node, &from.dc, &thing, &body.states)?;
    if let Some(current) = global.epoch(&thing).filter(|known| *known >= body.epoch) {
        return Err(Error::StaleEpoch { actor: label(&thing), sent: body.epoch, current });
    }
    let whole = global.landings.take(&PeerId::of(from), &thing, body, global.clock.now());
    global.keep_swept(node);
    if let Some(state) = whole? {
        let offered = global.ownership.offered(thing, Epoch(body.epoch), state);
        offered.map_err(|what| Error::Overloaded { what })?;
    }
    Ok(Place::none())
}

impl Global {
    /// What is offered, where that can be: state of that thing and of nothing else, for an epoch that there is.
    ///
    /// # Errors
    ///
    /// [`Error::Codec`] says what is wrong with it.
    fn check_offer(&self, body: &OfferBody) -> Result<Thing, Error> {
        let wrong = |reason: String| Error::Codec { what: "an offer".into(), reason, not_run: true };
        let thing = body.thing.as_ref().and_then(ThingBody::thing).ok_or_else(|| wrong("of nothing known".into()))?;
        check_owned(&thing, body.epoch).map_err(wrong)?;
        for StateBody { identity, .. } in &body.states {
            let belongs = match &thing {
                Thing::Name(name) => identity == name,
                Thing::Grain(_, _, own) => identity == own,
                Thing::Slot(group, slot) => {
                    check_identity(identity).map_err(wrong)?;
                    self.may_be_of(*group, *slot, identity)
                }
            };
            if !belongs {
                return Err(wrong(format!("state of {identity:?}, which is not of {}", label(&thing))));
            }
        }
        Ok(thing)
    }

    /// A kind that is not of this node may be of others of the group: its state goes on with the slot.
    fn may_be_of(&self, group: GroupId, slot: Slot, identity: &str) -> bool {
        Slot::of(identity) == slot && self.groups.get(kind_of(identity)).is_none_or(|of| *of == group)
    }
}

/// Whether something can be owned under this name, and under this epoch: what another node says may be of any length.
///
/// # Errors
///
/// What is wrong.
pub(super) fn check_owned(thing: &Thing, epoch: u64) -> Result<(), String> {
    match thing {
        Thing::Name(name) => check_name("global name", name).map_err(|invalid| invalid.to_string())?,
        Thing::Grain(_, _, identity) => check_identity(identity)?,
        Thing::Slot(..) => {}
    }
    if epoch == 0 || Epoch(epoch) > Epoch::GREATEST {
        return Err(format!("epoch {epoch}, which nothing can have"));
    }
    Ok(())
}

fn check_identity(identity: &str) -> Result<(), String> {
    let (kind, id) = identity.split_once('/').unwrap_or((identity, ""));
    let checked = check_name("kind", kind).and_then(|()| check_name("grain id", id));
    checked.map_err(|invalid| invalid.to_string())
}

fn kind_of(identity: &str) -> &str {
    identity.split_once('/').map_or(identity, |(kind, _)| kind)
}

/// Whether `who`, a datacenter, may hand this over to us, or be handed it: all kinds that it has state of; of a slot
/// without any, one kind at least that may live there; of what is not known here, only who may take over everything.
///
/// # Errors
///
/// [`Error::Unauthorized`] names the kind.
pub(super) fn may_move(node: &Arc<Node>, who: &DataCenterId, thing: &Thing, states: &[StateBody]) -> Result<(), Error> {
    if node.options().guard.is_none() {
        return Ok(());
    }
    let global = node.global(|| label(thing))?;
    match thing {
        Thing::Name(name) => {
            let known = global.ownership.known(name);
            node.authorise(who, Wish::TakeOver(known.as_ref().map_or(UNKNOWN, |known| &known.spec.kind)))
        }
        Thing::Grain(_, _, identity) => node.authorise(who, Wish::TakeOver(kind_of(identity))),
        Thing::Slot(group, _) if states.is_empty() => {
            let mut kinds: Vec<&str> =
                global.groups.iter().filter(|(_, of)| *of == group).map(|(kind, _)| *kind).collect();
            kinds.sort_unstable();
            if kinds.iter().any(|kind| node.allows(who, Wish::TakeOver(kind))) {
                return Ok(());
            }
            node.authorise(who, Wish::TakeOver(kinds.first().copied().unwrap_or(UNKNOWN)))
        }
        Thing::Slot(..) => states.iter().try_for_each(|of| node.authorise(who, Wish::TakeOver(kind_of(&of.identity)))),
    }
}

/// State as offers carry it: in parts that no link finds too large.
pub(super) fn offers(thing: &Thing, epoch: u64, states: Vec<(String, Bytes)>) -> Vec<OfferBody> {
    const PART: usize = 1 << 20;
    let mut bodies = Vec::new();
    let (mut part, mut size) = (Vec::new(), 0);
    let mut finish = |states: Vec<StateBody>, last| {
        let number = u32::try_from(bodies.len()).unwrap_or(u32::MAX);
        bodies.push(OfferBody { thing: Some(ThingBody::of(thing)), epoch, part: number, last, states });
    };
    for (identity, state) in states {
        let more = identity.len() + state.len();
        if size > 0 && size + more > PART {
            finish(std::mem::take(&mut part), false);
            size = 0;
        }
        size += more;
        part.push(StateBody { identity, state });
    }
    finish(part, true);
    bodies
}
