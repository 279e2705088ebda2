//! The watched end: which actors of this node are watched, by whom, and what other nodes have not taken note of yet.
//!
//! Another node names its watched actors once ([`wire::WATCH`]) and holds one question open ([`wire::ENDED`]). What has
//! ended is kept until that node says that it has taken note, so that a link that breaks with the answer on it loses
//! nothing. A node that asks nothing for [`FORGET`] is forgotten: if it still lives, it is told so and begins anew.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dc_remoting::{PeerIdentity, ReplyTo, Service, ServiceId, Services};
use parking_lot::Mutex;
use tokio::sync::{Notify, futures::OwnedNotified};
use tracing::Instrument;

use super::{
    EndReason,
    signal::{Signal, Signals},
};
use crate::{
    authority::Wish,
    error::Error,
    link, measure,
    peers::{AtWork, PeerId},
    system::{Node, WeakSystem},
    wire::{self, AT_ONCE, End, EndedBody, Ends, How, WatchBody, WatchedKind},
};

/// The longest that a question for what has ended is held. Its asker waits [`MARGIN`] longer.
pub(super) const HOLD: Duration = Duration::from_secs(30);

/// What an answer may take beyond that.
pub(super) const MARGIN: Duration = Duration::from_secs(5);

/// A node that has asked nothing for so long does not watch any more.
const FORGET: Duration = Duration::from_secs(60);

/// Characters of a failure that are told at most.
const WHY: usize = 1_000;

/// Nodes that watch here at most, and those of them of one datacenter.
const NODES: (usize, usize) = (8_192, 4_096);

/// What is found round a question.
struct Around<'a> {
    /// Whether the asker may watch actors of this kind.
    may: &'a dyn Fn(&str) -> Result<(), Error>,
    /// Whether it may watch any.
    may_any: bool,
    /// Whether the actor of this number and kind is there.
    there: &'a dyn Fn(u64, &str) -> bool,
    label: &'a str,
    max: usize,
    now: Instant,
}

/// What a question for ends finds.
enum Look {
    Told(Ends),
    Wait(OwnedNotified),
    /// Nothing, and this node ends.
    Parting,
}

/// Who watches actors of this node.
#[derive(Default)]
pub(super) struct Here {
    state: Mutex<State>,
    /// Woken when a node has taken note of an end, or is forgotten.
    taken: Notify,
}

#[derive(Default)]
struct State {
    actors: HashMap<u64, Watchers>,
    /// By what their links vouch for: what one datacenter watches, and has not been told, no other one sees or voids.
    peers: HashMap<PeerId, Peer>,
    /// Questions for ends so far.
    asks: u64,
    /// Questions are not held any more.
    parting: bool,
    /// This node's own watches end at once.
    closed: bool,
}

/// Who watches one actor.
#[derive(Default)]
struct Watchers {
    signals: Signals,
    peers: BTreeSet<PeerId>,
}

impl Watchers {
    fn is_empty(&self) -> bool {
        self.signals.is_empty() && self.peers.is_empty()
    }
}

/// Another node that watches here.
struct Peer {
    /// It begins a new one each time that it cannot know what is known of it here.
    round: u64,
    watched: HashSet<u64>,
    /// What it has not taken note of yet.
    ended: HashMap<u64, End>,
    news: Arc<Notify>,
    /// The newest question for ends: no other one is held.
    ask: u64,
    /// When it asked last.
    asked: Instant,
}

impl Peer {
    fn new(round: u64, now: Instant) -> Self {
        Self { round, watched: HashSet::new(), ended: HashMap::new(), news: Arc::default(), ask: 0, asked: now }
    }

    /// It has taken note of these ends.
    fn take(&mut self, taken: &[u64]) {
        taken.iter().for_each(|actor| _ = self.ended.remove(actor));
    }

    fn is_empty(&self) -> bool {
        self.watched.is_empty() && self.ended.is_empty()
    }
}

impl State {
    fn unwatch(&mut self, actor: u64, peer: &PeerId) {
        if let Some(watchers) = self.actors.get_mut(&actor) {
            watchers.peers.remove(peer);
            if watchers.is_empty() {
                self.actors.remove(&actor);
            }
        }
    }

    /// Notes that a node watches an actor; false where it may watch no more.
    fn add(&mut self, from: &PeerId, actor: u64, max: usize) -> bool {
        // Whoever asks is known by then.
        let Some(peer) = self.peers.get_mut(from) else { return true };
        // Who takes note of nothing is held to the same number of ends.
        if !peer.watched.contains(&actor) && peer.watched.len().max(peer.ended.len()) >= max {
            return false;
        }
        peer.watched.insert(actor);
        self.actors.entry(actor).or_default().peers.insert(from.clone());
        true
    }

    /// What a node is told of an actor that is not there.
    fn missing(&mut self, from: &PeerId, actor: u64) -> End {
        // Kept until it is taken note of: this answer may be lost too.
        let kept = self.peers.get(from).and_then(|peer| peer.ended.get(&actor).cloned());
        kept.unwrap_or_else(|| End::of(actor, How::Gone))
    }

    /// What a node watched is void; what it was not told yet is kept.
    fn begin_anew(&mut self, from: &PeerId, round: u64, now: Instant) {
        let mut peer = self.peers.remove(from).unwrap_or_else(|| Peer::new(round, now));
        peer.watched.drain().for_each(|actor| self.unwatch(actor, from));
        // Its question of the earlier round is answered: it is not known any more.
        peer.news.notify_waiters();
        peer.round = round;
        self.peers.insert(from.clone(), peer);
    }

    /// Whether a node that does not watch here yet may begin to.
    fn has_room(&self, from: &PeerId) -> bool {
        self.peers.len() < NODES.0 && self.peers.keys().filter(|peer| peer.dc == from.dc).count() < NODES.1
    }

    fn forget_idle(&mut self, id: &PeerId) {
        if self.peers.get(id).is_some_and(Peer::is_empty) {
            self.forget(id);
        }
    }

    /// Forgets a peer, and answers what it has asked.
    fn forget(&mut self, id: &PeerId) {
        let Some(peer) = self.peers.remove(id) else { return };
        peer.watched.iter().for_each(|actor| self.unwatch(*actor, id));
        peer.news.notify_waiters();
    }
}

impl Here {
    /// Notes a watch of this node's own; ends it where the actor is not there.
    pub(super) fn watch(&self, node: &Node, actor: u64, kind: &str, number: u64, signal: &Arc<Signal>) {
        let mut state = self.state.lock();
        if state.closed {
            return signal.close();
        }
        state.actors.entry(actor).or_default().signals.insert(number, signal.clone());
        drop(state);
        // An actor has stopped before its end is told, so that one of the two is always seen.
        if !is_there(node, actor, kind) {
            self.leave(actor, number);
            signal.end(EndReason::Gone);
        }
    }

    /// A watch of this node's own is over.
    pub(super) fn leave(&self, actor: u64, number: u64) {
        let mut state = self.state.lock();
        if let Some(watchers) = state.actors.get_mut(&actor) {
            watchers.signals.remove(&number);
            if watchers.is_empty() {
                state.actors.remove(&actor);
            }
        }
    }

    pub(super) fn actor_ended(&self, actor: u64, failure: Option<&str>) {
        let mut state = self.state.lock();
        let Some(watchers) = state.actors.remove(&actor) else { return };
        let why = failure.map(|why| why.chars().take(WHY).collect::<String>());
        for signal in watchers.signals.into_values() {
            signal.end(why.clone().map_or(EndReason::Stopped, |why| EndReason::Failed { why }));
        }
        for id in watchers.peers {
            let Some(peer) = state.peers.get_mut(&id) else { continue };
            peer.watched.remove(&actor);
            let how = if why.is_some() { How::Failed } else { How::Stopped };
            peer.ended.insert(actor, End { why: why.clone().unwrap_or_default(), ..End::of(actor, how) });
            peer.news.notify_waiters();
        }
    }

    /// Changes what a node watches here.
    ///
    /// # Errors
    ///
    /// [`Error::ShuttingDown`]; [`Error::Overloaded`] where too many nodes watch here.
    fn asked_to_watch(&self, from: &PeerId, body: WatchBody, around: &Around<'_>) -> Result<Ends, Error> {
        // All that takes time is done before the lock, which every actor that ends waits for.
        let refused = |kind: &WatchedKind| (around.may)(&kind.kind).err().map(|error| End::refused(0, &error));
        let refusals: Vec<Option<End>> = body.watch.iter().map(refused).collect();
        if !around.may_any {
            // Who may watch nothing touches nothing of what is noted, either.
            let kinds = body.watch.iter().zip(refusals);
            let ended = kinds.flat_map(|(kind, refusal)| {
                kind.actors.iter().filter_map(move |actor| Some(End { actor: *actor, ..refusal.clone()? }))
            });
            return Ok(Ends { unknown: false, ended: ended.collect() });
        }
        let what = format!("the node with {} actors that one node watches (`max_watches`)", around.max);
        let full = End::refused(0, &Error::Overloaded { what });
        let mut is_full = false;
        // Held all the time: an actor that ends meanwhile finds who watches it, and a later round what this one did.
        let mut state = self.state.lock();
        if state.closed {
            return Err(Error::ShuttingDown { node: around.label.to_owned() });
        }
        match state.peers.get(from).map(|peer| peer.round) {
            Some(round) if round == body.round => {}
            // A question of an earlier round, which came late.
            Some(round) if round > body.round => return Ok(Ends::unknown()),
            Some(_) | None if !body.afresh => return Ok(Ends::unknown()),
            None if !state.has_room(from) => {
                drop(state);
                measure::limit("watching_nodes");
                return Err(Error::Overloaded { what: "the node: too many others watch its actors".into() });
            }
            Some(_) | None => state.begin_anew(from, body.round, around.now),
        }
        if let Some(peer) = state.peers.get_mut(from) {
            peer.asked = around.now;
            peer.take(&body.taken);
        }
        let mut ends = Ends::default();
        for (kind, refusal) in body.watch.iter().zip(&refusals) {
            for actor in &kind.actors {
                let end = match refusal {
                    Some(refusal) => Some(End { actor: *actor, ..refusal.clone() }),
                    None if !(around.there)(*actor, &kind.kind) => Some(state.missing(from, *actor)),
                    None if state.add(from, *actor, around.max) => None,
                    None => {
                        is_full = true;
                        Some(End { actor: *actor, ..full.clone() })
                    }
                };
                ends.ended.extend(end);
            }
        }
        for actor in &body.unwatch {
            if let Some(peer) = state.peers.get_mut(from) {
                peer.watched.remove(actor);
            }
            state.unwatch(*actor, from);
        }
        state.forget_idle(from);
        drop(state);
        self.taken.notify_waiters();
        if is_full {
            measure::limit("max_watches");
        }
        Ok(ends)
    }

    /// The number of a question for ends: that of an earlier one is lower.
    fn ask(&self) -> u64 {
        let mut state = self.state.lock();
        state.asks += 1;
        state.asks
    }

    /// What has ended of what a node watches here, if anything has, or is to be waited for. A node has one question at a
    /// time: an earlier one than the newest is told that there is nothing.
    fn look(&self, from: &PeerId, ask: u64, round: u64, taken: &[u64], now: Instant) -> Look {
        let mut state = self.state.lock();
        let parting = state.parting;
        let Some(peer) = state.peers.get_mut(from).filter(|peer| peer.round == round) else {
            return Look::Told(Ends::unknown());
        };
        peer.asked = now;
        peer.take(taken);
        if peer.ask > ask {
            return Look::Told(Ends::default());
        }
        if peer.ask < ask {
            peer.ask = ask;
            peer.news.notify_waiters();
        }
        if !peer.ended.is_empty() {
            return Look::Told(Ends { unknown: false, ended: peer.ended.values().take(AT_ONCE).cloned().collect() });
        }
        let news = peer.news.clone().notified_owned();
        let look = match peer.watched.is_empty() {
            true => Look::Told(Ends::unknown()),
            false if parting => Look::Parting,
            false => Look::Wait(news),
        };
        state.forget_idle(from);
        drop(state);
        self.taken.notify_waiters();
        look
    }

    /// What has ended of what a node watches here, as soon as there is something, or nothing after `hold`.
    async fn asked_for_ends(&self, node: &Node, from: &PeerId, body: EndedBody, hold: Duration) -> Result<Ends, Error> {
        let until = node.clock().now() + hold;
        let (ask, mut taken) = (self.ask(), body.taken);
        loop {
            let now = node.clock().now();
            let news = match self.look(from, ask, body.round, &std::mem::take(&mut taken), now) {
                Look::Told(ends) => return Ok(ends),
                Look::Parting => return Err(Error::ShuttingDown { node: node.label() }),
                Look::Wait(news) => news,
            };
            if tokio::time::timeout(until.saturating_duration_since(now), news).await.is_err() {
                return Ok(Ends::default());
            }
        }
    }

    /// Forgets the nodes that are known to be gone, and those that have asked nothing for long.
    fn retain_peers(&self, now: Instant, alive: impl Fn(&PeerId) -> bool) {
        let mut state = self.state.lock();
        let over = |id: &PeerId, peer: &Peer| !alive(id) || now.saturating_duration_since(peer.asked) >= FORGET;
        let over: Vec<PeerId> =
            state.peers.iter().filter(|(id, peer)| over(id, peer)).map(|(id, _)| id.clone()).collect();
        over.iter().for_each(|id| state.forget(id));
        drop(state);
        self.taken.notify_waiters();
    }

    /// Holds no question any more; ends when every node has taken note of what has ended.
    pub(super) async fn part(&self) {
        {
            let mut state = self.state.lock();
            state.parting = true;
            state.peers.values().for_each(|peer| peer.news.notify_waiters());
        }
        loop {
            // Made before the look: it hears of every change from here on.
            let taken = self.taken.notified();
            if self.state.lock().peers.values().all(|peer| peer.ended.is_empty()) {
                return;
            }
            taken.await;
        }
    }

    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        (state.parting, state.closed) = (true, true);
        let signals = state.actors.values().flat_map(|watchers| watchers.signals.values());
        signals.for_each(|signal| signal.close());
        state.actors.clear();
        let peers: Vec<PeerId> = state.peers.keys().cloned().collect();
        peers.iter().for_each(|id| state.forget(id));
    }
}

fn is_there(node: &Node, actor: u64, kind: &str) -> bool {
    node.actors().get(actor).is_some_and(|cell| cell.core().kind == kind && !cell.core().has_stopped())
}

/// Forgets the nodes that watch here and are gone, as far as `alive` knows.
pub(crate) fn forget_peers(node: &Node, alive: impl Fn(&PeerId) -> bool) {
    node.watches().here.retain_peers(node.clock().now(), alive);
}

/// Registers what other nodes ask, and looks after those that ask no more.
pub(crate) fn serve(node: &Arc<Node>, services: &Services, at_work: &Arc<AtWork>) {
    for service in [wire::WATCH, wire::ENDED] {
        let (system, at_work) = (node.weak(), at_work.clone());
        services.set_service(service, Arc::new(Questions { system, service, at_work }));
    }
    let system = node.weak();
    node.keep(async move {
        loop {
            tokio::time::sleep(FORGET / 2).await;
            let Some(node) = system.node() else { return };
            forget_peers(&node, |_| true);
        }
    });
}

/// Questions of nodes that watch here.
struct Questions {
    system: WeakSystem,
    service: ServiceId,
    at_work: Arc<AtWork>,
}

impl Service for Questions {
    fn call(&self, from: &Arc<PeerIdentity>, body: Bytes, left: Duration, reply: ReplyTo) {
        let Some(node) = self.system.node() else { return reply.not_run("the system has ended") };
        let seat = match self.at_work.begin(PeerId::of(from), self.service, body.len()) {
            Ok(seat) => seat,
            Err(error) => return link::reply_error(reply, &error),
        };
        let (service, from) = (self.service, from.clone());
        let span = tracing::debug_span!("watch", service = service.0, from = %from.node.short());
        let work = async move {
            let (status, body) = match answer(&node, service, &from, body, left).await {
                Ok(ends) => (link::OK, wire::write(&ends)),
                Err(error) => link::write_fault(&error),
            };
            reply.send(status, body);
            drop(seat);
        };
        tokio::spawn(work.instrument(span));
    }
}

async fn answer(
    node: &Arc<Node>,
    service: ServiceId,
    from: &PeerIdentity,
    body: Bytes,
    left: Duration,
) -> Result<Ends, Error> {
    let (here, peer) = (&node.watches().here, PeerId::of(from));
    if service == wire::ENDED {
        node.authorise(&peer.dc, Wish::WatchAny)?;
        let body: EndedBody = wire::read("a question for ends", body)?;
        return here.asked_for_ends(node, &peer, body, left.saturating_sub(MARGIN).min(HOLD)).await;
    }
    let body: WatchBody = wire::read("a watch", body)?;
    if body.watch.is_empty() {
        node.authorise(&peer.dc, Wish::WatchAny)?;
    }
    let around = Around {
        may: &|kind| node.authorise(&peer.dc, Wish::Watch(kind)),
        may_any: node.allows(&peer.dc, Wish::WatchAny),
        there: &|actor, kind| is_there(node, actor, kind),
        label: &node.label(),
        max: node.options().max_watches,
        now: node.clock().now(),
    };
    here.asked_to_watch(&peer, body, &around)
}

#[cfg(test)]
mod tests {
    use dc_core::{Clock, ManualClock, NodeId};

    use super::*;

    fn of(dc: &str, node: u128) -> PeerId {
        PeerId { dc: dc.parse().unwrap(), node: NodeId(node) }
    }

    fn peer() -> PeerId {
        of("dc-1", 1)
    }

    fn watch(round: u64, afresh: bool, actors: &[u64]) -> WatchBody {
        let watch = vec![WatchedKind { kind: "worker".into(), actors: actors.to_vec() }];
        WatchBody { round, afresh, watch, ..WatchBody::default() }
    }

    /// Asks a node where the actors below 100 are there.
    fn ask(here: &Here, body: WatchBody, now: Instant) -> Ends {
        ask_as(here, &peer(), body, now)
    }

    fn ask_as(here: &Here, from: &PeerId, body: WatchBody, now: Instant) -> Ends {
        here.asked_to_watch(from, body, &around(&|actor, _| actor < 100, now)).expect("the node runs")
    }

    fn around(there: &dyn Fn(u64, &str) -> bool, now: Instant) -> Around<'_> {
        Around { may: &|_| Ok(()), may_any: true, there, label: "a node", max: 3, now }
    }

    fn told(here: &Here, round: u64, taken: &[u64], now: Instant) -> Option<Ends> {
        told_as(here, &peer(), round, taken, now)
    }

    fn told_as(here: &Here, from: &PeerId, round: u64, taken: &[u64], now: Instant) -> Option<Ends> {
        match here.look(from, here.ask(), round, taken, now) {
            Look::Told(ends) => Some(ends),
            Look::Wait(_) | Look::Parting => None,
        }
    }

    fn end(actor: u64, how: How) -> Ends {
        Ends { unknown: false, ended: vec![End::of(actor, how)] }
    }

    #[test]
    fn a7_an_end_is_told_until_it_is_taken_note_of_also_in_the_next_round() {
        let (here, now) = (Here::default(), ManualClock::new().now());
        assert_eq!(ask(&here, watch(1, true, &[1, 2]), now), Ends::default());
        assert_eq!(told(&here, 1, &[], now), None, "nothing has ended");
        here.actor_ended(1, None);
        for _ in 0..2 {
            assert_eq!(told(&here, 1, &[], now), Some(end(1, How::Stopped)));
        }
        // The link broke with the answer: the next round has it with its reason, and still when it asks for ends.
        let gone = |actor, _: &str| actor != 1;
        let again = here.asked_to_watch(&peer(), watch(2, true, &[1, 2]), &around(&gone, now));
        assert_eq!(again, Ok(end(1, How::Stopped)));
        assert_eq!(told(&here, 2, &[], now), Some(end(1, How::Stopped)));
        assert_eq!(told(&here, 2, &[1], now), None, "taken");
        here.actor_ended(2, Some("no"));
        let failed = End { why: "no".into(), ..End::of(2, How::Failed) };
        assert_eq!(told(&here, 2, &[], now), Some(Ends { unknown: false, ended: vec![failed] }));
        assert_eq!(told(&here, 2, &[2], now), Some(Ends::unknown()), "nothing is left to watch");
        assert!(here.state.lock().peers.is_empty() && here.state.lock().actors.is_empty());
    }

    #[test]
    fn a7_a_late_question_of_an_earlier_round_changes_nothing() {
        let (here, now) = (Here::default(), ManualClock::new().now());
        assert_eq!(ask(&here, watch(1, false, &[1]), now), Ends::unknown(), "a round begins afresh");
        ask(&here, watch(1, true, &[1]), now);
        ask(&here, watch(2, true, &[2]), now);
        let late = WatchBody { unwatch: vec![2], ..watch(1, true, &[3]) };
        assert_eq!(ask(&here, late, now), Ends::unknown());
        assert_eq!(told(&here, 1, &[], now), Some(Ends::unknown()));
        here.actor_ended(1, None);
        here.actor_ended(3, None);
        assert_eq!(told(&here, 2, &[], now), None, "neither is watched");
        here.actor_ended(2, None);
        assert_eq!(told(&here, 2, &[], now), Some(end(2, How::Stopped)));
    }

    #[test]
    fn a7_a_peer_is_bounded_and_forgotten_when_it_is_gone_or_asks_no_more() {
        let (here, clock) = (Here::default(), ManualClock::new());
        let ends = ask(&here, watch(1, true, &[1, 2, 200, 3, 4, 1]), clock.now());
        let [gone, refused] = &ends.ended[..] else { panic!("{ends:?}") };
        assert_eq!((gone.actor, gone.how(), refused.actor, refused.how()), (200, How::Gone, 4, How::Refused));
        assert!(matches!(link::read_fault(refused.fault.clone()), Error::Overloaded { .. }));
        clock.advance(FORGET - Duration::from_secs(1));
        assert_eq!(told(&here, 1, &[], clock.now()), None);
        clock.advance(FORGET - Duration::from_secs(1));
        here.retain_peers(clock.now(), |_| true);
        assert_eq!(here.state.lock().actors.len(), 3, "it asked in between");
        clock.advance(Duration::from_secs(1));
        here.retain_peers(clock.now(), |_| true);
        assert!(here.state.lock().actors.is_empty() && here.state.lock().peers.is_empty());
        assert_eq!(told(&here, 1, &[], clock.now()), Some(Ends::unknown()), "it is told so");

        ask(&here, watch(2, true, &[1]), clock.now());
        here.retain_peers(clock.now(), |id| *id != peer());
        assert!(here.state.lock().actors.is_empty());
    }
    #[test]
    fn a7_who_claims_the_id_of_another_datacenters_node_neither_voids_its_watches_nor_takes_its_ends() {
        let (here, now) = (Here::default(), ManualClock::new().now());
        let (victim, stranger) = (of("dc-1", 7), of("dc-2", 7));
        ask_as(&here, &victim, watch(1, true, &[1, 2]), now);
        here.actor_ended(1, Some("a secret"));
        assert_eq!(told_as(&here, &stranger, 1, &[1], now), Some(Ends::unknown()), "it watches nothing");
        let void = WatchBody { round: u64::MAX, afresh: true, taken: vec![1], ..WatchBody::default() };
        assert_eq!(ask_as(&here, &stranger, void, now), Ends::default());
        let failed = End { why: "a secret".into(), ..End::of(1, How::Failed) };
        assert_eq!(
            told_as(&here, &victim, 1, &[], now),
            Some(Ends { unknown: false, ended: vec![failed] }),
            "nothing was voided, nothing taken"
        );
        here.retain_peers(now, |id| *id != stranger);
        here.actor_ended(2, None);
        assert_eq!(told_as(&here, &victim, 1, &[1], now), Some(end(2, How::Stopped)));
    }

    #[test]
    fn a7_who_may_watch_nothing_is_refused_and_touches_nothing() {
        let (here, now) = (Here::default(), ManualClock::new().now());
        let no = |kind: &str| {
            let (what, by) = (format!("watch {kind}"), "a node".into());
            Err(Error::Unauthorized { data_center: "dc-2".into(), what, by })
        };
        ask(&here, watch(1, true, &[1]), now);
        let none = Around { may: &no, may_any: false, ..around(&|_, _| true, now) };
        let ends = here.asked_to_watch(&peer(), watch(9, true, &[1, 2]), &none).expect("answered");
        let told: Vec<_> = ends.ended.iter().map(|end| (end.actor, end.how())).collect();
        assert_eq!(told, [(1, How::Refused), (2, How::Refused)]);
        assert!(matches!(link::read_fault(ends.ended[0].fault.clone()), Error::Unauthorized { .. }));
        assert_eq!(told_as(&here, &peer(), 1, &[], now), None, "what is watched stays watched");
        assert_eq!(here.state.lock().peers.len(), 1);
    }

    #[tokio::test]
    async fn a7_one_question_of_a_node_is_held_and_a_newer_one_ends_it() {
        let (here, now) = (Here::default(), ManualClock::new().now());
        ask(&here, watch(1, true, &[1]), now);
        let (first, second) = (here.ask(), here.ask());
        let Look::Wait(held) = here.look(&peer(), first, 1, &[], now) else { panic!("nothing has ended") };
        assert!(matches!(here.look(&peer(), second, 1, &[], now), Look::Wait(_)));
        tokio::time::timeout(Duration::from_secs(5), held).await.expect("the earlier one is woken");
        let Look::Told(nothing) = here.look(&peer(), first, 1, &[], now) else { panic!("it is held still") };
        assert_eq!(nothing, Ends::default());
        here.actor_ended(1, None);
        let Look::Told(ends) = here.look(&peer(), second, 1, &[], now) else { panic!("it is told") };
        assert_eq!(ends, end(1, How::Stopped));
    }

    #[test]
    fn r5_nodes_that_watch_here_are_bounded_in_all_and_for_a_datacenter() {
        let (here, now) = (Here::default(), ManualClock::new().now());
        let watch_as =
            |dc: &str, node| here.asked_to_watch(&of(dc, node), watch(1, true, &[1]), &around(&|_, _| true, now));
        for dc in ["dc-1", "dc-2"] {
            for node in 0..NODES.1 as u128 {
                assert_eq!(watch_as(dc, node), Ok(Ends::default()));
            }
            let more = watch_as(dc, NODES.1 as u128);
            assert!(matches!(more, Err(Error::Overloaded { .. })), "{more:?}");
        }
        assert!(matches!(watch_as("dc-3", 0), Err(Error::Overloaded { .. })), "in all");
        assert_eq!(watch_as("dc-1", 0), Ok(Ends::default()), "who watches already goes on");
        here.retain_peers(now, |id| *id != of("dc-2", 0));
        assert_eq!(watch_as("dc-3", 0), Ok(Ends::default()), "there is room again");
    }
}
