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
use dc_core::NodeId;
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
    system::{Node, WeakSystem},
    wire::{self, End, EndedBody, Ends, How, WatchBody},
};

/// The longest that a question for what has ended is held. Its asker waits [`MARGIN`] longer.
pub(super) const HOLD: Duration = Duration::from_secs(30);

/// What an answer may take beyond that.
pub(super) const MARGIN: Duration = Duration::from_secs(5);

/// A node that has asked nothing for so long does not watch any more.
const FORGET: Duration = Duration::from_secs(60);

/// Ends in one answer at most, and actors in one question.
pub(super) const AT_ONCE: usize = 512;

/// Characters of a failure that are told at most.
const WHY: usize = 1_000;

/// What is found round a question.
struct Around<'a> {
    /// Whether the asker may watch actors of this kind.
    may: &'a dyn Fn(&str) -> Result<(), Error>,
    /// Whether the actor of this number and kind is there.
    there: &'a dyn Fn(u64, &str) -> bool,
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
    peers: HashMap<NodeId, Peer>,
    /// Questions are not held any more.
    parting: bool,
    /// This node's own watches end at once.
    closed: bool,
}

/// Who watches one actor.
#[derive(Default)]
struct Watchers {
    signals: Signals,
    peers: BTreeSet<NodeId>,
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
    /// When it asked last.
    asked: Instant,
}

impl Peer {
    fn new(round: u64, now: Instant) -> Self {
        Self { round, watched: HashSet::new(), ended: HashMap::new(), news: Arc::default(), asked: now }
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
    fn unwatch(&mut self, actor: u64, peer: NodeId) {
        if let Some(watchers) = self.actors.get_mut(&actor) {
            watchers.peers.remove(&peer);
            if watchers.is_empty() {
                self.actors.remove(&actor);
            }
        }
    }

    /// Notes that a node watches an actor.
    fn add(&mut self, from: NodeId, actor: u64, max: usize) -> Result<(), Error> {
        // Whoever asks is known by then.
        let Some(peer) = self.peers.get_mut(&from) else { return Ok(()) };
        // Who takes note of nothing is held to the same number of ends.
        if !peer.watched.contains(&actor) && peer.watched.len().max(peer.ended.len()) >= max {
            measure::limit("max_watches");
            let what = format!("the node with {max} actors that one node watches (`max_watches`)");
            return Err(Error::Overloaded { what });
        }
        peer.watched.insert(actor);
        self.actors.entry(actor).or_default().peers.insert(from);
        Ok(())
    }

    /// What a node is told of an actor that is not there.
    fn missing(&mut self, from: NodeId, actor: u64) -> End {
        // Kept until it is taken note of: this answer may be lost too.
        let kept = self.peers.get(&from).and_then(|peer| peer.ended.get(&actor).cloned());
        kept.unwrap_or_else(|| End::of(actor, How::Gone))
    }

    /// What a node watched is void; what it was not told yet is kept.
    fn begin_anew(&mut self, from: NodeId, round: u64, now: Instant) {
        let mut peer = self.peers.remove(&from).unwrap_or_else(|| Peer::new(round, now));
        peer.watched.drain().for_each(|actor| self.unwatch(actor, from));
        // Its question of the earlier round is answered: it is not known any more.
        peer.news.notify_waiters();
        peer.round = round;
        self.peers.insert(from, peer);
    }

    fn forget_idle(&mut self, id: NodeId) {
        if self.peers.get(&id).is_some_and(Peer::is_empty) {
            self.forget(id);
        }
    }

    /// Forgets a peer, and answers what it has asked.
    fn forget(&mut self, id: NodeId) {
        let Some(peer) = self.peers.remove(&id) else { return };
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

    /// Changes what a node watches here; `None` where this node has ended.
    fn asked_to_watch(&self, from: NodeId, body: WatchBody, around: &Around<'_>) -> Option<Ends> {
        // Held all the time: an actor that ends meanwhile finds who watches it, and a later round what this one did.
        let mut state = self.state.lock();
        if state.closed {
            return None;
        }
        match state.peers.get(&from).map(|peer| peer.round) {
            Some(round) if round == body.round => {}
            // A question of an earlier round, which came late.
            Some(round) if round > body.round => return Some(Ends::unknown()),
            Some(_) | None if !body.afresh => return Some(Ends::unknown()),
            Some(_) | None => state.begin_anew(from, body.round, around.now),
        }
        if let Some(peer) = state.peers.get_mut(&from) {
            peer.asked = around.now;
            peer.take(&body.taken);
        }
        let mut ends = Ends::default();
        for kind in &body.watch {
            let may = (around.may)(&kind.kind);
            for actor in &kind.actors {
                let end = match &may {
                    Err(error) => Some(End::refused(*actor, error)),
                    Ok(()) if !(around.there)(*actor, &kind.kind) => Some(state.missing(from, *actor)),
                    Ok(()) => state.add(from, *actor, around.max).err().map(|error| End::refused(*actor, &error)),
                };
                ends.ended.extend(end);
            }
        }
        for actor in &body.unwatch {
            if let Some(peer) = state.peers.get_mut(&from) {
                peer.watched.remove(actor);
            }
            state.unwatch(*actor, from);
        }
        state.forget_idle(from);
        drop(state);
        self.taken.notify_waiters();
        Some(ends)
    }

    /// What has ended of what a node watches here, if anything has, or is to be waited for.
    fn look(&self, from: NodeId, round: u64, taken: &[u64], now: Instant) -> Look {
        let mut state = self.state.lock();
        let parting = state.parting;
        let Some(peer) = state.peers.get_mut(&from).filter(|peer| peer.round == round) else {
            return Look::Told(Ends::unknown());
        };
        peer.asked = now;
        peer.take(taken);
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
    async fn asked_for_ends(&self, node: &Node, from: NodeId, body: EndedBody, hold: Duration) -> Result<Ends, Error> {
        let until = node.clock().now() + hold;
        let mut taken = body.taken;
        loop {
            let now = node.clock().now();
            let news = match self.look(from, body.round, &std::mem::take(&mut taken), now) {
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
    fn retain_peers(&self, now: Instant, alive: impl Fn(NodeId) -> bool) {
        let mut state = self.state.lock();
        let over = |id: NodeId, peer: &Peer| !alive(id) || now.saturating_duration_since(peer.asked) >= FORGET;
        let over: Vec<NodeId> = state.peers.iter().filter(|(id, peer)| over(**id, peer)).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| state.forget(id));
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
        let peers: Vec<NodeId> = state.peers.keys().copied().collect();
        peers.into_iter().for_each(|id| state.forget(id));
    }
}

fn is_there(node: &Node, actor: u64, kind: &str) -> bool {
    node.actors().get(actor).is_some_and(|cell| cell.core().kind == kind && !cell.core().has_stopped())
}

/// Forgets the nodes that watch here and are gone, as far as `alive` knows.
pub(crate) fn forget_peers(node: &Node, alive: impl Fn(NodeId) -> bool) {
    node.watches().here.retain_peers(node.clock().now(), alive);
}

/// Registers what other nodes ask, and looks after those that ask no more.
pub(crate) fn serve(node: &Arc<Node>, services: &Services) {
    for service in [wire::WATCH, wire::ENDED] {
        services.set_service(service, Arc::new(Questions { system: node.weak(), service }));
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
}

impl Service for Questions {
    fn call(&self, from: &Arc<PeerIdentity>, body: Bytes, left: Duration, reply: ReplyTo) {
        let Some(node) = self.system.node() else { return reply.not_run("the system has ended") };
        let (service, from) = (self.service, from.clone());
        let span = tracing::debug_span!("watch", service = service.0, from = %from.node.short());
        let work = async move {
            let (status, body) = match answer(&node, service, &from, body, left).await {
                Ok(ends) => (link::OK, wire::write(&ends)),
                Err(error) => link::write_fault(&error),
            };
            reply.send(status, body);
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
    let here = &node.watches().here;
    if service == wire::ENDED {
        let body: EndedBody = wire::read("a question for ends", body)?;
        return here.asked_for_ends(node, from.node, body, left.saturating_sub(MARGIN).min(HOLD)).await;
    }
    let body: WatchBody = wire::read("a watch", body)?;
    let around = Around {
        may: &|kind| node.authorise(&from.dc, Wish::Watch(kind)),
        there: &|actor, kind| is_there(node, actor, kind),
        max: node.options().max_watches,
        now: node.clock().now(),
    };
    here.asked_to_watch(from.node, body, &around).ok_or_else(|| Error::ShuttingDown { node: node.label() })
}

#[cfg(test)]
mod tests {
    use dc_core::{Clock, ManualClock};

    use super::*;
    use crate::wire::WatchedKind;

    const PEER: NodeId = NodeId(1);

    fn watch(round: u64, afresh: bool, actors: &[u64]) -> WatchBody {
        let watch = vec![WatchedKind { kind: "worker".into(), actors: actors.to_vec() }];
        WatchBody { round, afresh, watch, ..WatchBody::default() }
    }

    /// Asks a node where the actors below 100 are there.
    fn ask(here: &Here, body: WatchBody, now: Instant) -> Ends {
        let around = Around { may: &|_| Ok(()), there: &|actor, _| actor < 100, max: 3, now };
        here.asked_to_watch(PEER, body, &around).expect("the node runs")
    }

    fn told(here: &Here, round: u64, taken: &[u64], now: Instant) -> Option<Ends> {
        match here.look(PEER, round, taken, now) {
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
        let around = Around { may: &|_| Ok(()), there: &gone, max: 3, now };
        let again = here.asked_to_watch(PEER, watch(2, true, &[1, 2]), &around);
        assert_eq!(again, Some(end(1, How::Stopped)));
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
        here.retain_peers(clock.now(), |id| id != PEER);
        assert!(here.state.lock().actors.is_empty());
    }
}
