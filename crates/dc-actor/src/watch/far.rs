//! Watching actors of other nodes: one task for each node of which something is watched.
//!
//! The task tells the node which actors it watches, keeps one question for ends open, and so hears at once when the link
//! breaks. Then it knows nothing: it tells the node everything anew over the next link, and learns what has ended
//! meanwhile. Only where the node cannot be reached *and* is listed no more is it taken for lost.

use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map::Entry},
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dc_core::{DataCenterId, Endpoint, Seen};
use dc_remoting::{LinkError, Peer, ServiceId};
use parking_lot::Mutex;
use tokio::{sync::Notify, task::AbortHandle};

use super::{
    EndReason,
    here::{HOLD, MARGIN},
    signal::{Signal, Signals},
};
use crate::{
    error::Error,
    link,
    peers::{self, PeerId},
    reference::Location,
    system::{Node, WeakSystem},
    wire::{self, AT_ONCE, End, EndedBody, Ends, How, WatchBody, WatchedKind},
};

/// The longest that telling a node what is watched may take.
const QUESTION: Duration = Duration::from_secs(5);

/// The waits between two tries to reach a node, doubled from the first to the last. Word that its members or endpoints
/// have changed ends a wait early, and so does a new watch.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long a node that was never listed, as far as this watch has seen, may be out of reach: it may have joined just now.
const UNLISTED: Duration = Duration::from_secs(3);

/// What is watched on other nodes.
#[derive(Default)]
pub(super) struct Fars {
    state: Mutex<State>,
    /// Woken when a task has ended.
    ended: Notify,
}

#[derive(Default)]
struct State {
    nodes: HashMap<PeerId, Far>,
    closed: bool,
}

/// What is watched on one other node.
struct Far {
    wanted: HashMap<u64, Wanted>,
    /// Watched for the first time or for the last one since the task looked.
    touched: HashSet<u64>,
    news: Arc<Notify>,
    /// This node ends: the far node is to be told, and no more.
    parting: bool,
    task: AbortHandle,
}

struct Wanted {
    kind: &'static str,
    signals: Signals,
}

/// Notes a watch of an actor at another node.
pub(super) fn watch(node: &Arc<Node>, at: Location, kind: &'static str, number: u64, signal: &Arc<Signal>) {
    let fars = &node.watches().far;
    let actor = at.actor;
    let mut state = fars.state.lock();
    if state.closed {
        return signal.close();
    }
    let far = match state.nodes.entry(PeerId::from(&at)) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(free) => free.insert(start(node, at)),
    };
    let first = !far.wanted.contains_key(&actor);
    let wanted = far.wanted.entry(actor).or_insert_with(|| Wanted { kind, signals: Signals::new() });
    wanted.signals.insert(number, signal.clone());
    if first {
        far.touched.insert(actor);
        far.news.notify_one();
    }
}

/// Starts the task of one node. It waits for the lock that the caller holds.
fn start(node: &Arc<Node>, at: Location) -> Far {
    let news = Arc::<Notify>::default();
    let id = PeerId::from(&at);
    let task = Task {
        system: node.weak(),
        peer: peer(node, &id, &at.endpoint),
        id,
        endpoint: at.endpoint,
        news: news.clone(),
        round: 0,
        registered: HashSet::new(),
        taken: BTreeSet::new(),
        listed: false,
        broken: None,
        tries: 0,
    };
    let task = tokio::spawn(task.run()).abort_handle();
    Far { wanted: HashMap::new(), touched: HashSet::new(), news, parting: false, task }
}

/// The way to a node: where its datacenter lists it. What a reference says of that counts for others only, as it may
/// have come from anybody.
fn peer(node: &Node, id: &PeerId, endpoint: &Endpoint) -> Peer {
    let listed = peers::listed(node, id);
    node.peer_of(&id.dc, listed.as_ref().unwrap_or(endpoint), id.node)
}

impl Fars {
    /// A watch is over.
    pub(super) fn leave(&self, node: &PeerId, actor: u64, number: u64) {
        let mut state = self.state.lock();
        let Some(far) = state.nodes.get_mut(node) else { return };
        let Some(wanted) = far.wanted.get_mut(&actor) else { return };
        wanted.signals.remove(&number);
        if wanted.signals.is_empty() {
            far.wanted.remove(&actor);
            far.touched.insert(actor);
            far.news.notify_one();
        }
    }

    /// Tells far nodes that nothing is watched any more; ends when they know, or cannot be reached.
    pub(super) async fn part(&self) {
        {
            let mut state = self.state.lock();
            state.closed = true;
            for far in state.nodes.values_mut() {
                far.parting = true;
                far.news.notify_one();
            }
        }
        loop {
            // Made before the look: it hears of every end from here on.
            let ended = self.ended.notified();
            if self.state.lock().nodes.is_empty() {
                return;
            }
            ended.await;
        }
    }

    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        for far in state.nodes.drain().map(|(_, far)| far) {
            far.task.abort();
            far.close();
        }
    }

    fn with<T>(&self, node: &PeerId, look: impl FnOnce(&mut Far) -> T) -> Option<T> {
        self.state.lock().nodes.get_mut(node).map(look)
    }

    /// Takes out what is watched on a node, and ends it all.
    fn end_all(&self, node: &PeerId, reason: &EndReason) {
        let far = self.state.lock().nodes.remove(node);
        let wanted = far.into_iter().flat_map(|far| far.wanted.into_values());
        for signal in wanted.flat_map(|wanted| wanted.signals.into_values()) {
            signal.end(reason.clone());
        }
        self.ended.notify_waiters();
    }

    /// Takes a node out of which nothing is watched; false where something is.
    fn end_if_idle(&self, node: &PeerId) -> bool {
        let mut state = self.state.lock();
        let idle = state.nodes.get(node).is_none_or(|far| far.parting || far.wanted.is_empty());
        if idle && let Some(far) = state.nodes.remove(node) {
            far.close();
        }
        drop(state);
        if idle {
            self.ended.notify_waiters();
        }
        idle
    }
}

impl Far {
    fn close(self) {
        self.wanted.into_values().flat_map(|wanted| wanted.signals.into_values()).for_each(|signal| signal.close());
    }

    /// What is to be told to the node next, given what it knows.
    fn changes(&mut self, registered: &HashSet<u64>) -> (Vec<(u64, &'static str)>, Vec<u64>) {
        let (mut watch, mut unwatch) = (Vec::new(), Vec::new());
        for actor in self.touched.drain() {
            match self.wanted.get(&actor) {
                Some(wanted) if !registered.contains(&actor) => watch.push((actor, wanted.kind)),
                None if registered.contains(&actor) => unwatch.push(actor),
                Some(_) | None => {}
            }
        }
        (watch, unwatch)
    }
}

/// Why what a node was told cannot be relied on.
enum Trouble {
    /// It did not answer.
    Link(LinkError),
    /// It answered with an error.
    Refused(Error),
    /// It has forgotten what is watched.
    Unknown,
    /// This node ends.
    Over,
}

type Answer = Result<dc_remoting::Answer, LinkError>;

/// Follows one node, until nothing of it is watched, or it is lost.
struct Task {
    system: WeakSystem,
    id: PeerId,
    /// Where a reference says that it is.
    endpoint: Endpoint,
    peer: Peer,
    news: Arc<Notify>,
    round: u64,
    /// What the node knows to be watched.
    registered: HashSet<u64>,
    /// Ends that the node is to be told of as taken note of.
    taken: BTreeSet<u64>,
    /// Whether its datacenter has listed it, as far as was seen.
    listed: bool,
    /// Since when it cannot be reached.
    broken: Option<Instant>,
    tries: u32,
}

impl Task {
    async fn run(mut self) {
        loop {
            let Err(trouble) = self.stand().await else { return };
            self.registered.clear();
            let Some(node) = self.system.node() else { return };
            tracing::debug!(node = %self.id.node.short(), dc = %self.id.dc, %trouble, "what is watched there is not known for sure");
            self.broken.get_or_insert_with(|| node.clock().now());
            if let Some(reason) = self.lost(&node, &trouble) {
                tracing::info!(node = %self.id.node.short(), dc = %self.id.dc, %reason, "watched actors end");
                return node.watches().far.end_all(&self.id, &reason);
            }
            if node.watches().far.end_if_idle(&self.id) {
                return;
            }
            self.wait(node).await;
        }
    }

    /// Tells the node everything, then follows what it tells and what is to be told. `Ok` when nothing is watched any
    /// more.
    async fn stand(&mut self) -> Result<(), Trouble> {
        self.tell_all().await?;
        (self.broken, self.tries) = (None, 0);
        loop {
            self.tell_changes().await?;
            if self.is_idle().await? {
                return Ok(());
            }
            let mut ends = Box::pin(self.ask_for_ends());
            let answer = loop {
                let news = self.news.clone();
                tokio::select! {
                    biased;
                    answer = &mut ends => break answer,
                    () = news.notified() => self.tell_changes().await?,
                }
                if self.is_idle().await? {
                    return Ok(());
                }
            };
            let answer = answer.map_err(Trouble::Link)?;
            self.take(wire::read_ends(answer.status, answer.body).map_err(Trouble::Refused)?)?;
        }
    }

    /// Begins a new round.
    async fn tell_all(&mut self) -> Result<(), Trouble> {
        let node = self.system.node().ok_or(Trouble::Over)?;
        (self.round, self.listed) = (node.watches().number(), self.listed || self.is_listed(&node));
        self.peer = peer(&node, &self.id, &self.endpoint);
        let all = node.watches().far.with(&self.id, |far| {
            far.touched.clear();
            far.wanted.iter().map(|(actor, wanted)| (*actor, wanted.kind)).collect::<Vec<_>>()
        });
        drop(node);
        self.tell(true, all.unwrap_or_default(), Vec::new()).await
    }

    async fn tell_changes(&mut self) -> Result<(), Trouble> {
        let node = self.system.node().ok_or(Trouble::Over)?;
        let changes = node.watches().far.with(&self.id, |far| far.changes(&self.registered));
        drop(node);
        let (watch, unwatch) = changes.unwrap_or_default();
        if watch.is_empty() && unwatch.is_empty() {
            return Ok(());
        }
        self.tell(false, watch, unwatch).await
    }

    /// Tells the node so many changes at a time; what it does not watch has ended.
    async fn tell(
        &mut self,
        mut afresh: bool,
        watch: Vec<(u64, &'static str)>,
        unwatch: Vec<u64>,
    ) -> Result<(), Trouble> {
        let (mut watch, mut unwatch) = (watch.chunks(AT_ONCE), unwatch.chunks(AT_ONCE));
        loop {
            let (watch, unwatch) = (watch.next().unwrap_or_default(), unwatch.next().unwrap_or_default());
            if watch.is_empty() && unwatch.is_empty() && !afresh {
                return Ok(());
            }
            let body = WatchBody {
                round: self.round,
                afresh,
                watch: by_kind(watch),
                unwatch: unwatch.to_vec(),
                taken: self.some_taken(),
            };
            afresh = false;
            let answer = call(self.peer.clone(), wire::WATCH, wire::write(&body), QUESTION).await;
            let answer = answer.map_err(Trouble::Link)?;
            self.registered.extend(watch.iter().map(|(actor, _)| *actor));
            unwatch.iter().for_each(|actor| _ = self.registered.remove(actor));
            self.take(wire::read_ends(answer.status, answer.body).map_err(Trouble::Refused)?)?;
        }
    }

    /// Ends to be told of as taken note of, as many as one question may hold; the others go with the next one.
    fn some_taken(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.taken.pop_first()).take(AT_ONCE).collect()
    }

    /// The question that the node holds until something has ended.
    fn ask_for_ends(&mut self) -> impl Future<Output = Answer> + Send + use<> {
        let body = EndedBody { round: self.round, taken: self.some_taken() };
        call(self.peer.clone(), wire::ENDED, wire::write(&body), HOLD + MARGIN)
    }

    /// Ends the watches that have ended there.
    fn take(&mut self, ends: Ends) -> Result<(), Trouble> {
        if ends.unknown {
            return Err(Trouble::Unknown);
        }
        let node = self.system.node().ok_or(Trouble::Over)?;
        for end in ends.ended {
            self.registered.remove(&end.actor);
            self.taken.insert(end.actor);
            let wanted = node.watches().far.with(&self.id, |far| far.wanted.remove(&end.actor)).flatten();
            let reason = reason(end);
            for signal in wanted.into_iter().flat_map(|wanted| wanted.signals.into_values()) {
                signal.end(reason.clone());
            }
        }
        Ok(())
    }

    /// Whether the task is over: nothing of the node is watched any more, and it knows that.
    async fn is_idle(&mut self) -> Result<bool, Trouble> {
        let node = self.system.node().ok_or(Trouble::Over)?;
        let fars = &node.watches().far;
        let (parting, wanted) = fars.with(&self.id, |far| (far.parting, !far.wanted.is_empty())).unwrap_or_default();
        if parting {
            let all = self.registered.drain().collect();
            self.tell(false, Vec::new(), all).await?;
        } else if wanted || !self.registered.is_empty() {
            return Ok(false);
        }
        Ok(fars.end_if_idle(&self.id))
    }

    /// Waits for a while, or until something that may decide has happened.
    async fn wait(&mut self, node: Arc<Node>) {
        let again = (AGAIN.0 * (1 << self.tries.min(8))).min(AGAIN.1);
        self.tries += 1;
        // Up to a quarter more, so that not all come back at once.
        let jitter = again * u32::try_from(node.draw() % 256).unwrap_or_default() / 1_024;
        let (mut views, mut table, own) = (node.views(), node.table().events(), *node.data_center().id() == self.id.dc);
        drop(node);
        let listed = async {
            match own {
                true => _ = views.changed().await,
                false => {
                    while let Ok(event) = table.recv().await
                        && event.id() != Some(&self.id.dc)
                    {}
                }
            }
        };
        tokio::select! {
            () = tokio::time::sleep(again + jitter) => {}
            () = listed => {}
            () = self.news.notified() => {}
        }
    }

    /// Whether its datacenter lists the node.
    fn is_listed(&self, node: &Node) -> bool {
        peers::listed(node, &self.id).is_some()
    }

    /// Why all that is watched there is over, if that can be said of a node that cannot be reached.
    fn lost(&mut self, node: &Node, trouble: &Trouble) -> Option<EndReason> {
        match trouble {
            Trouble::Link(error) if error.is_unknown_service() => return Some(EndReason::Unsupported),
            // Another run of a node has its place.
            Trouble::Link(LinkError::WrongPeer { found_dc, .. }) if *found_dc == self.id.dc => {
                return Some(EndReason::NodeLost);
            }
            // It is there.
            Trouble::Unknown | Trouble::Refused(_) => return None,
            Trouble::Over | Trouble::Link(LinkError::Closed) => return None,
            Trouble::Link(_) => {}
        }
        if self.is_listed(node) {
            self.listed = true;
            return None;
        }
        let own = *node.data_center().id() == self.id.dc;
        // What was never in step knows of nobody.
        let knows = if own { node.view().joined } else { node.table().ever_in_step() };
        let now = node.clock().now();
        let since = self.broken.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if !knows || !(self.listed || since >= UNLISTED) {
            return None;
        }
        Some(lost_with(node, &self.id.dc))
    }
}

/// How a node of this datacenter that is not listed is called: lost alone, or with all of it.
pub(super) fn lost_with(node: &Node, dc: &DataCenterId) -> EndReason {
    let whole = dc != node.data_center().id()
        && node.table().snapshot().get(dc).is_none_or(|entry| entry.seen() == Seen::Expired);
    if whole { EndReason::DataCenterLost } else { EndReason::NodeLost }
}

async fn call(peer: Peer, service: ServiceId, body: Bytes, timeout: Duration) -> Answer {
    peer.call_for_answer(service, body, timeout).await
}

fn by_kind(watch: &[(u64, &'static str)]) -> Vec<WatchedKind> {
    let mut kinds: HashMap<&str, Vec<u64>> = HashMap::new();
    for (actor, kind) in watch {
        kinds.entry(kind).or_default().push(*actor);
    }
    kinds.into_iter().map(|(kind, actors)| WatchedKind { kind: kind.to_owned(), actors }).collect()
}

/// What the far node says of an end.
fn reason(end: End) -> EndReason {
    match end.how() {
        How::Gone => EndReason::Gone,
        How::Stopped => EndReason::Stopped,
        How::Failed => EndReason::Failed { why: end.why },
        How::Refused => EndReason::Refused(link::read_fault(end.fault)),
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Link(error) => error.fmt(f),
            Self::Refused(error) => error.fmt(f),
            Self::Unknown => f.write_str("it does not know this watch any more"),
            Self::Over => f.write_str("this node ends"),
        }
    }
}
