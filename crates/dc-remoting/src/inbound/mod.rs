//! The dialled side: takes lanes, hands messages over, sends answers and credits back.
//!
//! Reading order: [`accept`] (connections), [`serve`] (the first frame), [`reader`], [`writer`].

mod accept;
mod reader;
mod serve;
mod writer;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{
    PeerIdentity,
    remoting::Shared,
    wire::{Credit, LaneKind, Outcome, Ping, Reply},
};

pub(crate) use accept::serve_connections;

/// How long credits wait for company before they travel on their own.
const CREDIT_DELAY: Duration = Duration::from_millis(1);

/// Bytes of answers that may wait to be written before a link's messages are read no further.
const BACKLOG_HIGH: usize = 16 << 20;

/// Bytes of answers that may wait at all; beyond, an answer is dropped and its asker told so.
const BACKLOG_LIMIT: usize = 64 << 20;

/// A link that another node dialled.
pub(crate) struct InLink {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: u128,
    pub(crate) identity: Arc<PeerIdentity>,
    lanes: Mutex<[Option<Arc<InLane>>; 3]>,
    closed: CancellationToken,
    why: OnceLock<Arc<str>>,
    /// Bytes of messages that arrived and were not accepted yet.
    unaccepted: AtomicUsize,
    /// Bytes of answers that were not written yet.
    backlog: AtomicUsize,
    drained: Notify,
}

fn slot(kind: LaneKind) -> usize {
    match kind {
        LaneKind::Unspecified | LaneKind::Control => 0,
        LaneKind::User => 1,
        LaneKind::Bulk => 2,
    }
}

impl InLink {
    fn new(shared: Arc<Shared>, id: u128, identity: PeerIdentity) -> Self {
        Self {
            shared,
            id,
            identity: Arc::new(identity),
            lanes: Mutex::default(),
            closed: CancellationToken::new(),
            why: OnceLock::new(),
            unaccepted: AtomicUsize::new(0),
            backlog: AtomicUsize::new(0),
            drained: Notify::new(),
        }
    }

    fn bulk(&self) -> Option<Arc<InLane>> {
        self.lanes.lock()[slot(LaneKind::Bulk)].clone()
    }

    fn is_complete(&self) -> bool {
        self.lanes.lock().iter().all(Option::is_some)
    }

    /// Nothing that this node still owes the peer an answer for.
    pub(crate) fn is_quiet(&self) -> bool {
        let answered = |lane: &Arc<InLane>| lane.unanswered.load(Ordering::Acquire) == 0;
        self.lanes.lock().iter().flatten().all(answered) && self.backlog.load(Ordering::Acquire) == 0
    }

    /// Ends the link; the first reason stays and is told to the peer.
    pub(crate) fn close(&self, why: &str) {
        if self.why.set(why.into()).is_ok() {
            tracing::info!(peer = ?self.identity, why, "link from peer ended");
        }
        self.closed.cancel();
        self.shared.inbound.lock().remove(&(self.identity.node, self.id));
        // Lanes and link hold each other: let go of the lanes.
        let lanes = std::mem::take(&mut *self.lanes.lock());
        drop(lanes);
    }

    fn why(&self) -> Arc<str> {
        self.why.get().cloned().unwrap_or_else(|| "closed".into())
    }
}

/// What the writer of a lane is given.
enum Back {
    Reply(Reply),
    Pong(Ping),
    /// Credits wait to be sent.
    Nudge,
}

/// One lane of a link that another node dialled.
pub(crate) struct InLane {
    link: Arc<InLink>,
    kind: LaneKind,
    back: mpsc::UnboundedSender<Back>,
    /// Asks or calls that were not answered yet.
    unanswered: AtomicUsize,
    /// Pairs that credits are owed to, each once.
    owing: Mutex<Vec<Arc<PairIn>>>,
    owed: AtomicUsize,
    /// Credits travel at once: nothing else is expected to take them along.
    eager: AtomicBool,
    nudged: AtomicBool,
}

impl InLane {
    fn new(link: Arc<InLink>, kind: LaneKind, back: mpsc::UnboundedSender<Back>) -> Self {
        Self {
            link,
            kind,
            back,
            unanswered: AtomicUsize::new(0),
            owing: Mutex::default(),
            owed: AtomicUsize::new(0),
            eager: AtomicBool::new(false),
            nudged: AtomicBool::new(false),
        }
    }

    /// Queues the one answer to `correlation`. A large one goes over the bulk lane.
    pub(crate) fn reply(&self, correlation: u64, outcome: Outcome, status: u32, body: Bytes) {
        let link = &*self.link;
        let mut reply = Reply { correlation, outcome: outcome.into(), status, body, ..Reply::default() };
        let cost = backlog_cost(&reply);
        if link.backlog.fetch_add(cost, Ordering::AcqRel) + cost > BACKLOG_LIMIT && !reply.body.is_empty() {
            tracing::warn!(peer = ?link.identity, bytes = reply.body.len(), "peer does not read its answers: one dropped");
            link.backlog.fetch_sub(reply.body.len(), Ordering::AcqRel);
            reply.body = Bytes::new();
            reply.outcome = Outcome::Unanswered.into();
        }
        // After the backlog, so that a link is never seen quiet in between.
        self.unanswered.fetch_sub(1, Ordering::AcqRel);
        let bulk = if reply.body.len() > link.shared.config.bulk_threshold { link.bulk() } else { None };
        // A lane that has ended takes its answers with it.
        let _ = bulk.as_deref().unwrap_or(self).back.send(Back::Reply(reply));
    }

    fn nudge(&self) {
        if !self.nudged.swap(true, Ordering::AcqRel) {
            let _ = self.back.send(Back::Nudge);
        }
    }

    /// Moves what is owed into `credits`.
    fn take_owed(&self, credits: &mut Vec<Credit>) {
        if self.owed.load(Ordering::Acquire) == 0 {
            return;
        }
        let pairs = std::mem::take(&mut *self.owing.lock());
        for pair in pairs {
            pair.queued.store(false, Ordering::SeqCst);
            let messages = pair.messages.swap(0, Ordering::SeqCst);
            let bytes = pair.bytes.swap(0, Ordering::SeqCst);
            self.owed.fetch_sub(bytes, Ordering::AcqRel);
            if messages > 0 || bytes > 0 {
                credits.push(Credit { pair: pair.id, messages, bytes: bytes as u64 });
            }
        }
    }
}

/// What an answer counts for while it waits to be written.
fn backlog_cost(reply: &Reply) -> usize {
    reply.body.len() + 64
}

/// What a lane knows of one pair: the credits that it owes it.
pub(crate) struct PairIn {
    lane: Arc<InLane>,
    id: u32,
    messages: AtomicU32,
    bytes: AtomicUsize,
    queued: AtomicBool,
}

impl PairIn {
    fn new(lane: Arc<InLane>, id: u32) -> Self {
        Self { lane, id, messages: AtomicU32::new(0), bytes: AtomicUsize::new(0), queued: AtomicBool::new(false) }
    }

    /// One message was accepted: its credits go back, together with others where that costs little time.
    pub(crate) fn accepted(this: &Arc<Self>, cost: u32) {
        let cost = cost as usize;
        let lane = &*this.lane;
        lane.link.unaccepted.fetch_sub(cost, Ordering::AcqRel);
        let owed = lane.owed.fetch_add(cost, Ordering::AcqRel) + cost;
        this.messages.fetch_add(1, Ordering::SeqCst);
        this.bytes.fetch_add(cost, Ordering::SeqCst);
        if !this.queued.swap(true, Ordering::SeqCst) {
            lane.owing.lock().push(Arc::clone(this));
        }
        if lane.eager.load(Ordering::Acquire) || owed > lane.link.shared.config.link_window / 8 {
            lane.nudge();
        }
    }
}
