//! Taking over in good order: state that comes first, and messages of the former owner before direct ones (R1).

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dc_core::{Clock, DataCenterId, Epoch};
use dc_ownership::order::Thing;
use parking_lot::Mutex;
use tokio::sync::SetOnce;

use super::{Global, label};
use crate::{
    authority::Wish,
    error::Error,
    link::{self, Incoming},
    system::Node,
    wire::{self, OfferBody, Place, StateBody, ThingBody},
};

/// How long direct messages wait for the former owner's, from the first that does. Where it dies in between, this is
/// what its death costs.
const FORWARDING: Duration = Duration::from_secs(5);

/// How long an offer is remembered that is never followed by a hand-over.
const REMEMBERED: Duration = Duration::from_secs(120);

/// What is on its way in, by thing.
#[derive(Default)]
pub(super) struct Landings(Mutex<HashMap<Thing, Landing>>);

struct Landing {
    epoch: u64,
    since: Instant,
    parts: Vec<(String, Bytes)>,
    next_part: u32,
    done: Arc<SetOnce<()>>,
    /// When nobody waits any longer: set by the first who does.
    until: Option<Instant>,
}

impl Landings {
    /// One part of what is offered; all of it, with the last part.
    fn take(&self, thing: &Thing, body: &OfferBody, now: Instant) -> Result<Option<Vec<(String, Bytes)>>, Error> {
        let mut landings = self.0.lock();
        landings.retain(|_, landing| now.saturating_duration_since(landing.since) < REMEMBERED);
        if body.part == 0 {
            let done = Arc::new(SetOnce::new());
            let (epoch, since) = (body.epoch, now);
            let landing = Landing { epoch, since, parts: Vec::new(), next_part: 0, done, until: None };
            landings.insert(thing.clone(), landing);
        }
        let landing = landings.get_mut(thing).filter(|of| of.epoch == body.epoch && of.next_part == body.part);
        let Some(landing) = landing else {
            let text = format!("part {} of the state of {} came out of turn", body.part, label(thing));
            return Err(Error::Other { text, not_run: true });
        };
        landing.next_part += 1;
        landing.parts.extend(body.states.iter().map(|state| (state.identity.clone(), state.state.clone())));
        Ok(body.last.then(|| std::mem::take(&mut landing.parts)))
    }

    /// What to wait for, and until when: the same for all, so that waits that are given up early and begun again come to
    /// an end.
    fn waits_for(&self, thing: &Thing, epoch: u64, now: Instant) -> Option<(Arc<SetOnce<()>>, Instant)> {
        let mut landings = self.0.lock();
        let landing = landings.get_mut(thing).filter(|landing| landing.epoch == epoch)?;
        let until = *landing.until.get_or_insert(now + FORWARDING);
        Some((landing.done.clone(), until))
    }

    /// Waits until all has been forwarded, or it is time to go on without. Cancel safe.
    async fn wait(&self, thing: &Thing, epoch: u64, clock: &dyn Clock) {
        let Some((done, until)) = self.waits_for(thing, epoch, clock.now()) else { return };
        let left = until.saturating_duration_since(clock.now());
        if tokio::time::timeout(left, done.wait()).await.is_err() {
            tracing::warn!(thing = %label(thing), epoch, "the former owner did not say that it has forwarded all: going on");
            self.end(thing, epoch);
        }
    }

    fn end(&self, thing: &Thing, epoch: u64) {
        let mut landings = self.0.lock();
        if landings.get(thing).is_some_and(|landing| landing.epoch <= epoch)
            && let Some(landing) = landings.remove(thing)
        {
            let _ = landing.done.set(());
        }
    }
}

impl Global {
    /// Waits until the former owner has forwarded what it held, if this epoch was handed over: messages that come
    /// directly are behind those.
    pub(super) async fn after_landing(&self, thing: &Thing, epoch: u64) {
        self.landings.wait(thing, epoch, &*self.clock).await;
    }
}

/// State of something that is handed to this node.
pub(crate) fn asked_to_take(node: &Arc<Node>, body: OfferBody) -> Result<Place, Error> {
    let global = node.global(|| "what is handed over".into())?;
    node.accepting()?;
    let unreadable = || Error::Codec { what: "an offer".into(), reason: "of nothing known".into(), not_run: true };
    let thing = body.thing.as_ref().and_then(ThingBody::thing).ok_or_else(unreadable)?;
    if let Some(state) = global.landings.take(&thing, &body, node.clock().now())? {
        let offered = global.ownership.offered(thing, Epoch(body.epoch), state);
        offered.map_err(|what| Error::Overloaded { what })?;
    }
    Ok(Place::none())
}

/// Whether `who`, a datacenter, may hand this over to us, or be handed it.
///
/// # Errors
///
/// [`Error::Unauthorized`] names the kind.
pub(crate) fn may_move(node: &Arc<Node>, who: &DataCenterId, body: &OfferBody) -> Result<(), Error> {
    if node.options().guard.is_none() {
        return Ok(());
    }
    let named = body.thing.as_ref().filter(|thing| !thing.name.is_empty());
    match named {
        Some(thing) => {
            let global = node.global(|| thing.name.clone())?;
            let known = global.ownership.known(&thing.name).ok_or_else(|| Error::not_found(&thing.name))?;
            node.authorise(who, Wish::TakeOver(&known.spec.kind))
        }
        None => body.states.iter().try_for_each(|state| {
            let kind = state.identity.split_once('/').map_or(&*state.identity, |(kind, _)| kind);
            node.authorise(who, Wish::TakeOver(kind))
        }),
    }
}

/// The former owner has forwarded everything: what came with the same channel before this is in its mailboxes.
pub(crate) fn landed(node: &Arc<Node>, incoming: Incoming) {
    let thing = wire::read::<ThingBody>("a sign", incoming.message.key.clone()).ok().and_then(|body| body.thing());
    if let (Some(thing), Some(global)) = (thing, node.try_global()) {
        global.landings.end(&thing, incoming.message.epoch);
    }
    if let Some(reply) = incoming.reply {
        reply.send(link::OK, Bytes::new());
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

#[cfg(test)]
mod tests {
    use dc_core::ManualClock;
    use futures::FutureExt;

    use super::*;

    #[test]
    fn g5_state_comes_whole_or_not_at_all_however_large() {
        let clock = ManualClock::new();
        let thing = Thing::Name("x".into());
        let states: Vec<_> = (0..7).map(|number| (format!("{number}"), Bytes::from(vec![number; 400_000]))).collect();
        let bodies = offers(&thing, 4, states.clone());
        assert!(bodies.len() > 2 && bodies.iter().all(|body| body.states.len() <= 2));
        let landings = Landings::default();
        let mut whole = None;
        for body in &bodies {
            assert!(whole.is_none(), "only the last one completes it");
            whole = landings.take(&thing, body, clock.now()).expect("in turn");
        }
        assert_eq!(whole, Some(states));
        assert!(landings.take(&thing, &bodies[1], clock.now()).is_err(), "out of turn");
        let waits_for = |epoch| landings.waits_for(&thing, epoch, clock.now()).is_some();
        assert!(waits_for(4) && !waits_for(5));
        landings.end(&thing, 4);
        assert!(!waits_for(4));
        assert_eq!(offers(&thing, 1, Vec::new()).len(), 1, "no state is an offer, too");
    }

    #[tokio::test]
    async fn g5_a_former_owner_that_died_is_waited_for_once_by_all_who_give_up_early_together() {
        let clock = ManualClock::new();
        let thing = Thing::Name("x".into());
        let landings = Landings::default();
        let offer = offers(&thing, 4, Vec::new()).remove(0);
        landings.take(&thing, &offer, clock.now()).expect("in turn").expect("all of it");
        // Each asker of this node has less time than that, and takes its wait with it.
        let ask = || landings.wait(&thing, 4, &clock).now_or_never();
        for _ in 0..5 {
            assert_eq!(ask(), None, "the former owner may come still");
            clock.advance(FORWARDING / 5);
        }
        tokio::time::timeout(FORWARDING / 2, landings.wait(&thing, 4, &clock)).await.expect("its time is over");
        assert_eq!(ask(), Some(()), "nobody waits any more");
    }
}
