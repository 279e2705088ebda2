//! Taking over in good order: state that comes first, and messages of the former owner before direct ones (R1).
//!
//! Each node that offers has landings of its own: no offer and no sign of one touches those of another. Bounded by bytes,
//! number and time, and for each datacenter by half of it.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dc_core::{Clock, DataCenterId};
use dc_ownership::order::Thing;
use dc_remoting::PeerIdentity;
use parking_lot::Mutex;
use tokio::sync::SetOnce;

use super::{Global, label};
use crate::{
    error::Error,
    link::{self, Incoming},
    peers::PeerId,
    system::{Node, WeakSystem},
    wire::{self, OfferBody, ThingBody},
};

/// How long direct messages wait for the former owner's, from the first that does. Where it dies in between, this is
/// what its death costs.
const FORWARDING: Duration = Duration::from_secs(5);

/// How long an offer is remembered that is never followed by a hand-over.
const REMEMBERED: Duration = Duration::from_secs(120);

/// How long the next part of an offer may take to come. Longer than anybody waits for the answer to the last one.
const NEXT_PART: Duration = Duration::from_secs(30);

/// The most things that are on their way in.
const MOST: usize = 16_384;

/// The most bytes of state in offers that are not complete: as much as ownership keeps by default of complete ones.
const MOST_BYTES: usize = 256 * 1024 * 1024;

/// What one landing, and one state, take beside their text and bytes.
const OVERHEAD: usize = 256;

/// What is on its way in.
#[derive(Default)]
pub(super) struct Landings(Mutex<Table>);

#[derive(Default)]
struct Table {
    things: HashMap<Thing, Vec<Landing>>,
    all: Share,
    by_data_center: HashMap<DataCenterId, Share>,
    /// Somebody looks now and then for what is too old.
    swept: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    landings: usize,
    bytes: usize,
}

struct Landing {
    from: PeerId,
    epoch: u64,
    /// When its last part came.
    since: Instant,
    parts: Vec<(String, Bytes)>,
    /// What it is counted as.
    bytes: usize,
    next_part: u32,
    complete: bool,
    done: Arc<SetOnce<()>>,
    /// When nobody waits any longer: set by the first who does.
    until: Option<Instant>,
}

impl Landing {
    fn is_late(&self, now: Instant) -> bool {
        let keep = if self.complete { REMEMBERED } else { NEXT_PART };
        now.saturating_duration_since(self.since) >= keep
    }
}

impl Share {
    fn add(&mut self, more: Self) {
        self.landings += more.landings;
        self.bytes += more.bytes;
    }

    fn take(&mut self, less: Self) {
        self.landings = self.landings.saturating_sub(less.landings);
        self.bytes = self.bytes.saturating_sub(less.bytes);
    }

    /// Whether so much more is within one part in `parts` of what there may be.
    fn takes(&self, more: Self, parts: usize) -> bool {
        self.landings + more.landings <= MOST / parts && self.bytes + more.bytes <= MOST_BYTES / parts
    }
}

impl Table {
    fn takes(&self, of: &DataCenterId, more: Share) -> bool {
        let share = self.by_data_center.get(of).copied().unwrap_or_default();
        self.all.takes(more, 1) && share.takes(more, 2)
    }

    fn count(&mut self, of: &DataCenterId, more: Share) {
        self.all.add(more);
        self.by_data_center.entry(of.clone()).or_default().add(more);
    }

    fn free(&mut self, of: &DataCenterId, less: Share) {
        self.all.take(less);
        if let Some(share) = self.by_data_center.get_mut(of) {
            share.take(less);
            if *share == Share::default() {
                self.by_data_center.remove(of);
            }
        }
    }

    /// Takes landings out; nobody waits for them any more.
    fn remove(&mut self, thing: &Thing, which: impl FnMut(&mut Landing) -> bool) {
        let Some(landings) = self.things.get_mut(thing) else { return };
        let removed: Vec<Landing> = landings.extract_if(.., which).collect();
        if landings.is_empty() {
            self.things.remove(thing);
        }
        for landing in removed {
            self.free(&landing.from.dc, Share { landings: 1, bytes: landing.bytes });
            let _ = landing.done.set(());
        }
    }

    fn purge(&mut self, now: Instant) {
        let late = |landings: &Vec<Landing>| landings.iter().any(|landing| landing.is_late(now));
        let things: Vec<Thing> =
            self.things.iter().filter(|(_, landings)| late(landings)).map(|(thing, _)| thing.clone()).collect();
        things.iter().for_each(|thing| self.remove(thing, |landing| landing.is_late(now)));
    }

    fn of(&mut self, thing: &Thing, from: &PeerId) -> Option<&mut Landing> {
        self.things.get_mut(thing)?.iter_mut().find(|landing| landing.from == *from)
    }

    /// Finds room, if need be by letting go of what is too old.
    fn make_room(&mut self, from: &PeerId, more: Share, now: Instant) -> Result<(), Error> {
        if !self.takes(&from.dc, more) {
            self.purge(now);
        }
        if self.takes(&from.dc, more) {
            return Ok(());
        }
        crate::measure::limit("landings");
        Err(Error::Overloaded { what: format!("the room for what {} hands over", from.dc) })
    }
}

impl Landings {
    /// One part of what is offered; all of it, with the last part.
    pub(super) fn take(
        &self,
        from: &PeerId,
        thing: &Thing,
        body: &OfferBody,
        now: Instant,
    ) -> Result<Option<Vec<(String, Bytes)>>, Error> {
        let mut table = self.0.lock();
        if body.part == 0 {
            table.begin(from, thing, body.epoch, now)?;
        }
        let in_turn =
            |landing: &&mut Landing| landing.epoch == body.epoch && landing.next_part == body.part && !landing.complete;
        if table.of(thing, from).filter(in_turn).is_none() {
            let text = format!("part {} of the state of {} came out of turn", body.part, label(thing));
            return Err(Error::Other { text, not_run: true });
        }
        let bytes = body.states.iter().map(|state| OVERHEAD + state.identity.len() + state.state.len()).sum();
        let more = Share { landings: 0, bytes };
        if let Err(error) = table.make_room(from, more, now) {
            // Without this part the others are nothing.
            table.remove(thing, |landing| landing.from == *from);
            return Err(error);
        }
        table.count(&from.dc, more);
        let Some(landing) = table.of(thing, from) else { return Ok(None) };
        landing.next_part += 1;
        landing.since = now;
        landing.bytes += bytes;
        // A copy: what is kept must not hold the whole frame that it came in.
        let copy = |state: &wire::StateBody| (state.identity.clone(), Bytes::copy_from_slice(&state.state));
        landing.parts.extend(body.states.iter().map(copy));
        if !body.last {
            return Ok(None);
        }
        landing.complete = true;
        let (whole, mut freed) = (std::mem::take(&mut landing.parts), landing.bytes);
        landing.bytes = size_of(thing);
        freed -= landing.bytes;
        table.free(&from.dc, Share { landings: 0, bytes: freed });
        Ok(Some(whole))
    }

    /// What to wait for, and until when: the same for all, so that waits that are given up early and begun again come to
    /// an end.
    fn waits_for(&self, thing: &Thing, epoch: u64, now: Instant) -> Vec<(Arc<SetOnce<()>>, Instant)> {
        let mut table = self.0.lock();
        let landings = table.things.get_mut(thing).into_iter().flatten().filter(|landing| landing.epoch == epoch);
        let wait = |landing: &mut Landing| (landing.done.clone(), *landing.until.get_or_insert(now + FORWARDING));
        landings.map(wait).collect()
    }

    /// Waits until all has been forwarded, or it is time to go on without. Cancel safe.
    async fn wait(&self, thing: &Thing, epoch: u64, clock: &dyn Clock) {
        for (done, until) in self.waits_for(thing, epoch, clock.now()) {
            let left = until.saturating_duration_since(clock.now());
            if tokio::time::timeout(left, done.wait()).await.is_err() {
                tracing::warn!(thing = %label(thing), epoch, "the former owner did not say that it has forwarded all: going on");
                self.0.lock().remove(thing, |landing| Arc::ptr_eq(&landing.done, &done));
            }
        }
    }

    /// Who offered it says that this was all.
    fn end(&self, from: &PeerId, thing: &Thing, epoch: u64) {
        self.0.lock().remove(thing, |landing| landing.from == *from && landing.epoch <= epoch);
    }

    /// True once until [`sweep`](Self::sweep) finds nothing.
    fn wants_sweep(&self) -> bool {
        let mut table = self.0.lock();
        !table.things.is_empty() && !std::mem::replace(&mut table.swept, true)
    }

    /// Lets go of what is too old. Whether anything is left.
    fn sweep(&self, now: Instant) -> bool {
        let mut table = self.0.lock();
        table.purge(now);
        table.swept = !table.things.is_empty();
        table.swept
    }
}

impl Table {
    /// A new offer replaces what the same node offered of it for the same or an earlier epoch.
    fn begin(&mut self, from: &PeerId, thing: &Thing, epoch: u64, now: Instant) -> Result<(), Error> {
        if let Some(newer) = self.of(thing, from).filter(|landing| landing.epoch > epoch) {
            return Err(Error::StaleEpoch { actor: label(thing), sent: epoch, current: newer.epoch });
        }
        self.remove(thing, |landing| landing.from == *from);
        let bytes = size_of(thing);
        let more = Share { landings: 1, bytes };
        self.make_room(from, more, now)?;
        self.count(&from.dc, more);
        self.things.entry(thing.clone()).or_default().push(Landing {
            from: from.clone(),
            epoch,
            since: now,
            parts: Vec::new(),
            bytes,
            next_part: 0,
            complete: false,
            done: Arc::new(SetOnce::new()),
            until: None,
        });
        Ok(())
    }
}

fn size_of(thing: &Thing) -> usize {
    OVERHEAD
        + match thing {
            Thing::Slot(..) => 0,
            Thing::Grain(_, _, text) | Thing::Name(text) => text.len(),
        }
}

impl Global {
    /// Waits until the former owner has forwarded what it held, if this epoch was handed over: messages that come
    /// directly are behind those.
    pub(super) async fn after_landing(&self, thing: &Thing, epoch: u64) {
        self.landings.wait(thing, epoch, &*self.clock).await;
    }

    /// Has what is too old let go of, also where nothing is offered any more.
    pub(super) fn keep_swept(&self, node: &Arc<Node>) {
        if self.landings.wants_sweep() {
            tokio::spawn(sweep(node.weak()));
        }
    }
}

async fn sweep(system: WeakSystem) {
    loop {
        tokio::time::sleep(NEXT_PART).await;
        let Some(node) = system.node() else { return };
        let Some(global) = node.try_global() else { return };
        if !global.landings.sweep(global.clock.now()) {
            return;
        }
    }
}

/// The former owner has forwarded everything: what came with the same channel before this is in its mailboxes.
pub(crate) fn landed(node: &Arc<Node>, from: &PeerIdentity, incoming: Incoming) {
    let thing = wire::read::<ThingBody>("a sign", incoming.message.key.clone()).ok().and_then(|body| body.thing());
    if let (Some(thing), Some(global)) = (thing, node.try_global()) {
        global.landings.end(&PeerId::of(from), &thing, incoming.message.epoch);
    }
    if let Some(reply) = incoming.reply {
        reply.send(link::OK, Bytes::new());
    }
}

#[cfg(test)]
mod tests {
    use dc_core::{ManualClock, NodeId};
    use futures::FutureExt;

    use super::{super::offers::offers, *};

    fn peer(dc: &str, node: u128) -> PeerId {
        PeerId { dc: dc.parse().expect("legal"), node: NodeId(node) }
    }

    fn name(name: &str) -> Thing {
        Thing::Name(name.to_owned())
    }

    /// One part, which is not the last.
    fn first_part(thing: &Thing, epoch: u64, size: usize) -> OfferBody {
        let states = vec![wire::StateBody { identity: "x".into(), state: Bytes::from(vec![0; size]) }];
        OfferBody { thing: Some(ThingBody::of(thing)), epoch, part: 0, last: false, states }
    }

    fn taken(landings: &Landings) -> Share {
        landings.0.lock().all
    }

    #[test]
    fn g5_state_comes_whole_or_not_at_all_however_large() {
        let (clock, from, thing) = (ManualClock::new(), peer("dc-2", 2), name("x"));
        let states: Vec<_> = (0..7).map(|number| (format!("{number}"), Bytes::from(vec![number; 400_000]))).collect();
        let bodies = offers(&thing, 4, states.clone());
        assert!(bodies.len() > 2 && bodies.iter().all(|body| body.states.len() <= 2));
        let landings = Landings::default();
        let mut whole = None;
        for body in &bodies {
            assert!(whole.is_none(), "only the last one completes it");
            whole = landings.take(&from, &thing, body, clock.now()).expect("in turn");
        }
        assert_eq!(whole, Some(states));
        assert!(landings.take(&from, &thing, &bodies[1], clock.now()).is_err(), "out of turn");
        let waits_for = |epoch| !landings.waits_for(&thing, epoch, clock.now()).is_empty();
        assert!(waits_for(4) && !waits_for(5));
        assert_eq!(taken(&landings), Share { landings: 1, bytes: size_of(&thing) }, "its state is elsewhere now");
        landings.end(&from, &thing, 4);
        assert!(!waits_for(4));
        assert_eq!(taken(&landings), Share::default());
        assert_eq!(offers(&thing, 1, Vec::new()).len(), 1, "no state is an offer, too");
    }

    #[tokio::test]
    async fn g5_a_former_owner_that_died_is_waited_for_once_by_all_who_give_up_early_together() {
        let (clock, thing) = (ManualClock::new(), name("x"));
        let landings = Landings::default();
        let offer = offers(&thing, 4, Vec::new()).remove(0);
        landings.take(&peer("dc-2", 2), &thing, &offer, clock.now()).expect("in turn").expect("all of it");
        // Each asker of this node has less time than that, and takes its wait with it.
        let ask = || landings.wait(&thing, 4, &clock).now_or_never();
        for _ in 0..5 {
            assert_eq!(ask(), None, "the former owner may come still");
            clock.advance(FORWARDING / 5);
        }
        tokio::time::timeout(FORWARDING / 2, landings.wait(&thing, 4, &clock)).await.expect("its time is over");
        assert_eq!(ask(), Some(()), "nobody waits any more");
        assert_eq!(taken(&landings), Share::default());
    }

    #[test]
    fn r1_what_one_node_offers_and_says_changes_nothing_of_what_another_offered() {
        let (clock, thing, landings) = (ManualClock::new(), name("x"), Landings::default());
        let owner = peer("dc-2", 2);
        let bodies = offers(&thing, 4, (0..3).map(|n| (n.to_string(), Bytes::from(vec![0; 700_000]))).collect());
        landings.take(&owner, &thing, &bodies[0], clock.now()).expect("the first part");
        let parts = |of| landings.0.lock().of(&thing, of).map(|landing| landing.next_part);
        for other in [peer("dc-3", 3), peer("dc-3", 2), peer("dc-2", 3)] {
            assert!(landings.take(&other, &thing, &bodies[1], clock.now()).is_err(), "a part of what another offers");
            for epoch in [1, 4, 9] {
                landings.take(&other, &thing, &first_part(&thing, epoch, 1), clock.now()).expect("an offer of its own");
            }
            landings.end(&other, &thing, u64::MAX);
            assert_eq!(parts(&owner), Some(1), "{other:?}");
        }
        for body in &bodies[1..] {
            landings.take(&owner, &thing, body, clock.now()).expect("in turn");
        }
        landings.end(&peer("dc-3", 3), &thing, u64::MAX);
        assert_eq!(landings.waits_for(&thing, 4, clock.now()).len(), 1, "its sign has not come");
        landings.end(&owner, &thing, 4);
        assert!(landings.waits_for(&thing, 4, clock.now()).is_empty());
    }

    #[test]
    fn r1_an_offer_does_not_replace_one_of_a_later_epoch() {
        let (clock, thing, landings) = (ManualClock::new(), name("x"), Landings::default());
        let from = peer("dc-2", 2);
        landings.take(&from, &thing, &first_part(&thing, 7, 1), clock.now()).expect("the first part");
        let earlier = landings.take(&from, &thing, &first_part(&thing, 6, 1), clock.now());
        assert!(matches!(earlier, Err(Error::StaleEpoch { sent: 6, current: 7, .. })), "{earlier:?}");
        landings.end(&from, &thing, 6);
        assert_eq!(landings.waits_for(&thing, 7, clock.now()).len(), 1);
    }

    #[test]
    fn r8_what_is_on_its_way_in_is_bounded_in_number_for_each_datacenter_and_in_all() {
        let (clock, landings) = (ManualClock::new(), Landings::default());
        let offer = |dc: &str, number: usize| {
            let thing = name(&format!("{dc}-{number}"));
            // Many nodes, as without TLS one may say that it is another each time.
            landings.take(&peer(dc, number as u128), &thing, &first_part(&thing, 1, 0), clock.now())
        };
        for dc in ["dc-2", "dc-3"] {
            (0..MOST / 2).for_each(|number| drop(offer(dc, number).expect("room")));
            let more = offer(dc, MOST);
            assert!(matches!(more, Err(Error::Overloaded { .. })), "{more:?}");
        }
        assert!(matches!(offer("dc-4", 0), Err(Error::Overloaded { .. })));
        clock.advance(NEXT_PART);
        offer("dc-4", 0).expect("what is too old has gone");
        assert_eq!(taken(&landings).landings, 1);
    }

    #[test]
    fn r8_state_that_is_on_its_way_in_is_bounded_in_bytes() {
        let (clock, landings, from) = (ManualClock::new(), Landings::default(), peer("dc-2", 2));
        let thing = name("x");
        let mut part = first_part(&thing, 1, 1 << 20);
        let refused = (0..).find_map(|number| {
            part.part = number;
            landings.take(&from, &thing, &part, clock.now()).err().map(|error| (number, error))
        });
        let (parts, error) = refused.expect("never ending");
        assert!(matches!(error, Error::Overloaded { .. }), "{error}");
        assert!((100..=MOST_BYTES / 2 / (1 << 20)).contains(&(parts as usize)), "{parts} parts");
        assert_eq!(taken(&landings), Share::default(), "what can never be complete is let go");
        // Empty ones are not free.
        part.states = vec![wire::StateBody::default(); 1_000];
        part.part = 0;
        landings.take(&from, &thing, &part, clock.now()).expect("room");
        assert!(taken(&landings).bytes > 1_000 * OVERHEAD);
    }

    #[test]
    fn r8_an_offer_that_never_goes_on_is_let_go_without_another() {
        let (clock, landings, from) = (ManualClock::new(), Landings::default(), peer("dc-2", 2));
        assert!(!landings.wants_sweep(), "there is nothing");
        let complete = offers(&name("complete"), 1, Vec::new()).remove(0);
        landings.take(&from, &name("complete"), &complete, clock.now()).expect("room");
        landings.take(&from, &name("begun"), &first_part(&name("begun"), 1, 1 << 20), clock.now()).expect("room");
        assert!(landings.wants_sweep() && !landings.wants_sweep(), "one is enough");
        clock.advance(NEXT_PART);
        assert!(landings.sweep(clock.now()), "one is left");
        assert_eq!(taken(&landings), Share { landings: 1, bytes: size_of(&name("complete")) });
        clock.advance(REMEMBERED);
        assert!(!landings.sweep(clock.now()));
        assert_eq!(taken(&landings), Share::default());
    }
}
