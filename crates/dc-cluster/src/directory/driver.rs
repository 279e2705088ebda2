//! The directory as its users see it, and what feeds the [`Core`]: links, timers, views.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use dc_core::{DcView, Member, NodeId, SharedClock};
use dc_remoting::{Peer, PeerIdentity, PeerTarget, Remoting, ReplyTo, Service, ServiceId};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Notify, broadcast, mpsc, oneshot, watch},
    time::{sleep, timeout as within},
};

use super::{
    Claim, DirectoryError, Entry, Eviction, check_key,
    core::{Action, CallId, Core, NoAnswer, OpId, Outcome, Token},
    rendezvous,
    wire::{Framed, Request, Response, decode, encode},
};
use crate::events::ClusterEvent;

/// The directory's service number, the same on all nodes.
pub(crate) const SERVICE: ServiceId = ServiceId(1);
/// How long [`Directory::release`] waits for the word of the member that answers for the name.
const RELEASE_WAIT: Duration = Duration::from_secs(5);

/// The names of this node's datacenter. Cheap to clone; clones share.
#[derive(Clone)]
pub struct Directory(Arc<Inner>);

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("node", &self.0.node).finish_non_exhaustive()
    }
}

struct Inner {
    node: NodeId,
    remoting: Remoting,
    clock: SharedClock,
    view: watch::Receiver<Arc<DcView>>,
    state: Mutex<State>,
    events: broadcast::Sender<ClusterEvent>,
    /// The core's deadline has changed.
    wake: Notify,
    /// Where calls run: what is waited for may be dropped anywhere.
    runtime: Handle,
}

struct State {
    core: Core,
    peers: HashMap<NodeId, Peer>,
    /// Operations that somebody waits for.
    waiting: HashMap<OpId, oneshot::Sender<Outcome>>,
    /// Questions of other members that are not answered yet.
    asked: HashMap<Token, ReplyTo>,
    next_token: Token,
    subscribers: Vec<mpsc::UnboundedSender<Eviction>>,
    left: bool,
}

impl Directory {
    /// Serves the directory on `remoting`'s links, over the members that `view` tells. Within a tokio runtime.
    pub(crate) fn new(
        remoting: Remoting,
        clock: SharedClock,
        view: watch::Receiver<Arc<DcView>>,
        events: broadcast::Sender<ClusterEvent>,
        max_names: usize,
        seed: u64,
    ) -> Self {
        let local = remoting.local();
        let node = local.node;
        let core = Core::new(node, local.advertised.clone(), max_names, seed, clock.now());
        let state = State {
            core,
            peers: HashMap::new(),
            waiting: HashMap::new(),
            asked: HashMap::new(),
            next_token: 0,
            subscribers: Vec::new(),
            left: false,
        };
        let inner = Inner {
            node,
            remoting,
            clock,
            view,
            state: Mutex::new(state),
            events,
            wake: Notify::new(),
            runtime: Handle::current(),
        };
        let directory = Self(Arc::new(inner));
        // Weak: the links must not keep the directory, which keeps the links.
        let service = Served(Arc::downgrade(&directory.0));
        directory.0.remoting.services().set_service(SERVICE, Arc::new(service));
        directory
    }

    /// Keeps the directory going. Runs until it is dropped.
    pub(crate) async fn run(self) {
        let mut view = self.0.view.clone();
        view.mark_changed();
        // Ends when the membership has ended.
        let _ = self.follow(&mut view).await;
    }

    async fn follow(&self, view: &mut watch::Receiver<Arc<DcView>>) -> Option<()> {
        let inner = &self.0;
        loop {
            let now = inner.clock.now();
            let deadline = inner.act(|state, now| {
                state.core.on_time(now);
                state.core.deadline()
            });
            let left = deadline.map_or(Duration::from_secs(1), |at| at.saturating_duration_since(now));
            tokio::select! {
                changed = view.changed() => {
                    changed.ok()?;
                    let seen = view.borrow_and_update().clone();
                    inner.on_view(&seen);
                }
                () = inner.wake.notified() => {}
                () = sleep(left) => {}
            }
        }
    }

    /// This node leaves: nothing is claimed or looked up any more.
    pub(crate) fn leave(&self) {
        self.0.state.lock().left = true;
    }

    /// Claims `key` for `actor` of this node, before it starts. `request` is the id of what asks for it (0
    /// for none): the same request gets the same answer again (L3).
    ///
    /// Costs at most two round trips inside the datacenter. Dropped before it is done, a claim that may have
    /// been registered is taken back.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`]; the claim is then taken back as well.
    pub async fn claim(
        &self,
        key: &str,
        kind: &str,
        actor: u64,
        request: u128,
        timeout: Duration,
    ) -> Result<Claim, DirectoryError> {
        check_key(key)?;
        if kind.len() > Entry::MAX_KIND {
            return Err(dc_core::Invalid::new("kind", kind, "must be at most 256 bytes long").into());
        }
        let waiting = self.start(|core, now| core.claim(now, (key, kind), actor, request, now + timeout))?;
        match waiting.outcome(key, timeout).await? {
            Outcome::Claim(claim) => Ok(claim),
            other => Err(failure(key, other)),
        }
    }

    /// The holder of `key`, if any. A miss is authoritative. One round trip inside the datacenter at most;
    /// what this node holds itself costs none. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`].
    pub async fn lookup(&self, key: &str, timeout: Duration) -> Result<Option<Entry>, DirectoryError> {
        check_key(key)?;
        if let Some(entry) = self.0.state.lock().core.hosted(key) {
            return Ok(Some(entry.clone()));
        }
        let waiting = self.start(|core, now| core.lookup(now, key, now + timeout))?;
        match waiting.outcome(key, timeout).await? {
            Outcome::Lookup(found) => Ok(found),
            other => Err(failure(key, other)),
        }
    }

    /// Gives up `key`, if `actor` of this node holds it: the actor ran, and stopped. Its request is remembered
    /// for ten minutes (L3).
    ///
    /// Returns when the member that answers for the name has heard of it, or after 5 s; it is tried on
    /// in the background, also when this is dropped.
    pub async fn release(&self, key: &str, actor: u64) {
        self.give_up(key, actor, true).await;
    }

    /// Like [`release`](Self::release) for an actor that never ran: its request may claim the name again.
    pub async fn abandon(&self, key: &str, actor: u64) {
        self.give_up(key, actor, false).await;
    }

    async fn give_up(&self, key: &str, actor: u64, ran: bool) {
        let (done, heard) = oneshot::channel();
        let started = self.0.act(|state, now| {
            let op = state.core.release(now, key, actor, ran)?;
            state.waiting.insert(op, done);
            Some(())
        });
        if started.is_some() {
            // Either way the name is no longer this node's.
            let _ = within(RELEASE_WAIT, heard).await;
        }
    }

    /// The member that answers for `key`: by rendezvous over the members, alike on all that see the same ones.
    /// `None` before this node has joined.
    pub fn home(&self, key: &str) -> Option<Member> {
        let view = self.0.view.borrow();
        if !view.joined {
            return None;
        }
        let (primary, _) = rendezvous::homes(key, view.members.iter().map(|member| member.node));
        view.member(primary?).cloned()
    }

    /// What this node hosts under `key`.
    pub fn hosted(&self, key: &str) -> Option<Entry> {
        self.0.state.lock().core.hosted(key).cloned()
    }

    /// The registrations of this node's that lose against older ones, from now on: stop their actors (A2).
    ///
    /// Subscribe before the first claim; nothing is left out.
    pub fn evictions(&self) -> mpsc::UnboundedReceiver<Eviction> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.state.lock().subscribers.push(sender);
        receiver
    }

    fn start(&self, begin: impl FnOnce(&mut Core, Instant) -> OpId) -> Result<Waiting<'_>, DirectoryError> {
        let (done, outcome) = oneshot::channel();
        let op = self.0.act(|state, now| {
            if state.left {
                return None;
            }
            let op = begin(&mut state.core, now);
            state.waiting.insert(op, done);
            Some(op)
        });
        let op = op.ok_or(DirectoryError::Left)?;
        Ok(Waiting { inner: &self.0, op, outcome, taken: false })
    }
}

fn failure(key: &str, outcome: Outcome) -> DirectoryError {
    match outcome {
        Outcome::Failed(err) => err,
        // An operation ends as what it began as.
        _ => DirectoryError::Protocol { key: key.to_owned() },
    }
}

/// Somebody waits for an operation. Dropped, the operation is cancelled.
struct Waiting<'a> {
    inner: &'a Arc<Inner>,
    op: OpId,
    outcome: oneshot::Receiver<Outcome>,
    taken: bool,
}

impl Waiting<'_> {
    async fn outcome(mut self, key: &str, timeout: Duration) -> Result<Outcome, DirectoryError> {
        match within(timeout, &mut self.outcome).await {
            Ok(Ok(outcome)) => {
                self.taken = true;
                Ok(outcome)
            }
            Ok(Err(_)) | Err(_) => Err(DirectoryError::Timeout { key: key.to_owned(), after: timeout }),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        self.inner.act(|state, now| {
            state.waiting.remove(&self.op);
            match self.outcome.try_recv() {
                // Granted in the same moment: nobody will use it.
                Ok(Outcome::Claim(Claim::Granted(entry))) => {
                    state.core.release(now, &entry.key, entry.actor, false);
                }
                Ok(_) => {}
                Err(_) => state.core.cancel(now, self.op),
            }
        });
    }
}

impl Inner {
    /// One step of the core and what it asks for.
    fn act<R>(self: &Arc<Self>, step: impl FnOnce(&mut State, Instant) -> R) -> R {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let before = state.core.deadline();
        let result = step(&mut state, now);
        loop {
            let actions = state.core.take_actions();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.carry_out(&mut state, now, action);
            }
        }
        let after = state.core.deadline();
        drop(state);
        if after.is_some_and(|at| before.is_none_or(|old| at < old)) {
            self.wake.notify_one();
        }
        result
    }

    fn carry_out(self: &Arc<Self>, state: &mut State, now: Instant, action: Action) {
        match action {
            Action::Call { id, to, request, timeout } => match (state.peers.get(&to), encode(&request)) {
                (Some(peer), Ok(body)) => drop(self.runtime.spawn(self.clone().call(id, peer.clone(), body, timeout))),
                _ => state.core.on_answer(now, id, Err(NoAnswer::Unreachable)),
            },
            Action::Reply { token, response } => {
                let Some(reply) = state.asked.remove(&token) else { return };
                match encode(&response) {
                    Ok(body) => reply.send(0, body.into()),
                    Err(err) => tracing::error!(%err, "cannot encode an answer about a name"),
                }
            }
            Action::Done { op, outcome } => {
                if let Some(waiting) = state.waiting.remove(&op)
                    && let Err(Outcome::Claim(Claim::Granted(entry))) = waiting.send(outcome)
                {
                    state.core.release(now, &entry.key, entry.actor, false);
                }
            }
            Action::Evicted(eviction) => {
                tracing::warn!(
                    key = %eviction.lost.key,
                    kept_on = %eviction.kept.holder.short(),
                    "a name is lost against an older registration"
                );
                state.subscribers.retain(|subscriber| subscriber.send(eviction.clone()).is_ok());
                // Without a receiver there is nobody to tell.
                let _ = self.events.send(ClusterEvent::NameEvicted(Box::new(eviction)));
            }
        }
    }

    async fn call(self: Arc<Self>, id: CallId, peer: Peer, body: Vec<u8>, timeout: Duration) {
        let answer = match peer.call(SERVICE, body.into(), timeout).await {
            Ok(body) => decode::<Response>(&body).ok_or(NoAnswer::Garbage),
            Err(err) => {
                tracing::debug!(%err, "no answer about a name");
                Err(NoAnswer::Unreachable)
            }
        };
        self.act(|state, now| state.core.on_answer(now, id, answer));
    }

    fn on_view(self: &Arc<Self>, view: &DcView) {
        self.act(|state, now| {
            state.peers.retain(|node, peer| {
                view.member(*node).is_some_and(|member| member.endpoint == peer.target().endpoint)
            });
            for member in view.members.iter().filter(|member| member.node != self.node) {
                let peer = || self.remoting.peer(PeerTarget::node(member.endpoint.clone(), member.node));
                state.peers.entry(member.node).or_insert_with(peer);
            }
            let lives = view.members.iter().map(|member| (member.node, member.seniority));
            state.core.set_view(now, lives, view.joined);
        });
    }

    fn on_request(self: &Arc<Self>, from: NodeId, request: Framed<Request>, left: Duration, reply: ReplyTo) {
        self.act(|state, now| {
            state.next_token += 1;
            let token = state.next_token;
            state.asked.insert(token, reply);
            state.core.on_request(now, from, request, token, left);
        });
    }
}

/// The directory at the end of a link.
struct Served(Weak<Inner>);

impl Service for Served {
    fn call(&self, from: &Arc<PeerIdentity>, body: Bytes, left: Duration, reply: ReplyTo) {
        let Some(inner) = self.0.upgrade() else { return reply.not_run("this node is leaving") };
        if from.dc != inner.remoting.local().dc {
            return reply.not_run("the directory answers its own datacenter only");
        }
        match decode::<Request>(&body) {
            Some(request) => inner.on_request(from.node, request, left, reply),
            None => {
                tracing::warn!(?from, bytes = body.len(), "a question about names cannot be read");
                reply.not_run("the question cannot be read");
            }
        }
    }
}
