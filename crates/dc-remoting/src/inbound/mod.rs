//! The dialled side: takes lanes, hands messages over, sends answers and credits back.
//!
//! Reading order: [`accept`] (connections), [`places`] (their number), [`serve`] (the first frame), [`reader`], [`writer`].

mod accept;
mod lingering;
mod places;
mod reader;
mod serve;
mod writer;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
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
    wire::{CreditRef, LaneKind, Outcome, Ping},
};

pub(crate) use accept::serve_connections;
pub(crate) use lingering::Lingering;
pub(crate) use places::Places;

/// How long credits wait for more of their pair before they travel.
const CREDIT_DELAY: Duration = Duration::from_millis(10);

/// Messages and bytes owed to one pair that travel with the next answer.
const WORTH_TAKING: (u64, usize) = (64, 64 << 10);

/// Messages and bytes owed to one pair that travel at once.
const WORTH_SENDING: (u64, usize) = (2048, 1 << 20);

/// Bytes of answers that may wait to be written before a link's messages are read no further.
const BACKLOG_HIGH: usize = 16 << 20;

/// Bytes of answers that may wait at all; beyond, an answer is dropped and its asker told so.
const BACKLOG_LIMIT: usize = 64 << 20;

/// What a pong counts for while it waits to be written: who sends pings and reads nothing is read no further.
const PONG_COST: usize = 64;

/// A link that another node dialled.
pub(crate) struct InLink {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: u128,
    pub(crate) identity: Arc<PeerIdentity>,
    lanes: Mutex<[Option<Arc<InLane>>; 3]>,
    closed: CancellationToken,
    /// This node takes its leave: what was answered still leaves, nothing more is taken.
    parting: AtomicBool,
    why: OnceLock<Arc<str>>,
    /// Bytes of messages that arrived and whose credits were not sent back yet.
    unaccepted: AtomicUsize,
    /// Bytes of calls that were not answered yet.
    call_bytes: AtomicUsize,
    /// Asks and calls that were not answered yet, times [`ONE`], plus the bytes of answers not written yet.
    work: AtomicU64,
    drained: Notify,
    /// Bytes of answers that have left, so that a peer that reads nothing can be told from a slow one.
    left: AtomicU64,
    /// A sixteenth of the window: whoever is owed more may be waiting for it.
    share: usize,
}

/// Two counters in one number, so that both move in one step: a count above, bytes below.
const ONE: u64 = 1 << 40;

/// The bytes of such a number.
fn bytes_of(both: u64) -> usize {
    (both & (ONE - 1)) as usize
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
        let share = shared.config.link_window / 16;
        Self {
            shared,
            id,
            identity: Arc::new(identity),
            lanes: Mutex::default(),
            closed: CancellationToken::new(),
            parting: AtomicBool::new(false),
            why: OnceLock::new(),
            unaccepted: AtomicUsize::new(0),
            call_bytes: AtomicUsize::new(0),
            work: AtomicU64::new(0),
            drained: Notify::new(),
            left: AtomicU64::new(0),
            share,
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
        self.work.load(Ordering::Acquire) == 0
    }

    /// Asks and calls that are not answered yet.
    fn unanswered(&self) -> usize {
        (self.work.load(Ordering::Acquire) / ONE) as usize
    }

    /// Several answers are still to come.
    fn expects_answers(&self) -> bool {
        self.work.load(Ordering::Relaxed) >= 4 * ONE
    }

    /// Answers of so many bytes have left.
    fn written(&self, bytes: usize) {
        let before = bytes_of(self.work.fetch_sub(bytes as u64, Ordering::AcqRel));
        self.left.fetch_add(bytes as u64, Ordering::Relaxed);
        if before > BACKLOG_HIGH / 2 && before - bytes <= BACKLOG_HIGH / 2 {
            self.drained.notify_waiters();
        }
    }

    /// Waits for the end of the link.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Takes leave of the peer: each lane says goodbye after the answers that wait there, and the link ends
    /// when the peer has closed it.
    pub(crate) fn part(&self, why: &str) {
        // The first reason stays.
        let _ = self.why.set(why.into());
        self.parting.store(true, Ordering::Release);
        for lane in self.lanes.lock().iter().flatten() {
            // A lane that has ended said goodbye before.
            let _ = lane.back.send(Back::Goodbye);
        }
    }

    /// Ends the link; the first reason stays and is told to the peer.
    pub(crate) fn close(&self, why: &str) {
        let first = self.why.set(why.into()).is_ok();
        if first || (self.parting.load(Ordering::Acquire) && !self.closed.is_cancelled()) {
            tracing::info!(peer = ?self.identity, why = &*self.why(), "link from peer ended");
        }
        self.closed.cancel();
        let listed = self.shared.inbound.lock().remove(&(self.identity.key(), self.id));
        // Lanes and link hold each other: let go of the lanes.
        let lanes = std::mem::take(&mut *self.lanes.lock());
        lanes.iter().flatten().for_each(|lane| lane.owe_nothing());
        if let Some(link) = listed {
            self.shared.lingering.left(&link);
        }
    }

    /// What this node holds of it, also after its end: bytes of messages that wait to be accepted and of calls, and the
    /// number of asks and calls that are not answered.
    fn held(&self) -> (usize, usize) {
        let calls = self.call_bytes.load(Ordering::Acquire);
        (self.unaccepted.load(Ordering::Acquire) + calls, self.unanswered())
    }

    fn why(&self) -> Arc<str> {
        self.why.get().cloned().unwrap_or_else(|| "closed".into())
    }
}

/// An answer on its way to the writer.
struct Answering {
    correlation: u64,
    outcome: Outcome,
    status: u32,
    body: Bytes,
}

/// What the writer of a lane is given.
enum Back {
    Reply(Answering),
    Pong(Ping),
    /// Credits wait to be sent.
    Nudge,
    /// Nothing more is to come.
    Goodbye,
}

/// One lane of a link that another node dialled.
pub(crate) struct InLane {
    link: Arc<InLink>,
    kind: LaneKind,
    back: mpsc::UnboundedSender<Back>,
    /// Calls that were not answered yet.
    calls: AtomicUsize,
    /// Pairs that credits are owed to, each once; `None` once nobody can be paid. They hold the lane.
    owing: Mutex<Option<Vec<Arc<PairIn>>>>,
    /// Credits travel at once: nothing else is expected to take them along, or a sender waits for them.
    eager: AtomicBool,
    /// The next frame takes the credits along.
    due: AtomicBool,
    nudged: AtomicBool,
    /// Nothing can be written to the peer any more.
    gone: CancellationToken,
}

impl InLane {
    fn new(link: Arc<InLink>, kind: LaneKind, back: mpsc::UnboundedSender<Back>) -> Self {
        Self {
            link,
            kind,
            back,
            calls: AtomicUsize::new(0),
            owing: Mutex::new(Some(Vec::new())),
            eager: AtomicBool::new(false),
            due: AtomicBool::new(false),
            nudged: AtomicBool::new(false),
            gone: CancellationToken::new(),
        }
    }

    /// Queues the answer to a ping. The error is a breach: one frame alone may hold millions of them.
    fn pong(&self, ping: Ping) -> Result<(), String> {
        let before = bytes_of(self.link.work.fetch_add(PONG_COST as u64, Ordering::AcqRel));
        if before > BACKLOG_LIMIT {
            crate::measure::limit("answer_backlog");
            return Err("it sends pings and reads nothing".into());
        }
        // A lane that has ended takes its answers with it.
        let _ = self.back.send(Back::Pong(ping));
        Ok(())
    }

    /// Queues the one answer to `correlation`. A large one goes over the bulk lane.
    pub(crate) fn reply(&self, correlation: u64, mut outcome: Outcome, status: u32, mut body: Bytes) {
        let link = &*self.link;
        let cost = backlog_cost(body.len());
        // One unanswered less, so many bytes more.
        let before = link.work.fetch_add((cost as u64).wrapping_sub(ONE), Ordering::AcqRel);
        if bytes_of(before) + cost > BACKLOG_LIMIT && !body.is_empty() {
            tracing::warn!(peer = ?link.identity, bytes = body.len(), "peer does not read its answers: one dropped");
            crate::measure::limit("answer_backlog");
            link.work.fetch_sub(body.len() as u64, Ordering::AcqRel);
            (outcome, body) = (Outcome::Unanswered, Bytes::new());
        }
        if self.kind == LaneKind::Control {
            self.calls.fetch_sub(1, Ordering::AcqRel);
        }
        let bulk = if body.len() > link.shared.config.bulk_threshold { link.bulk() } else { None };
        // A lane that has ended takes its answers with it.
        let _ =
            bulk.as_deref().unwrap_or(self).back.send(Back::Reply(Answering { correlation, outcome, status, body }));
    }

    /// Counts a call's body; false if those that are unanswered would be more than the link's window holds.
    fn hold_call(&self, bytes: usize) -> bool {
        let window = self.link.shared.config.link_window;
        let fits = self.link.call_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes <= window;
        if !fits {
            self.release_call(bytes);
        }
        fits
    }

    /// A call whose body was counted is answered.
    pub(crate) fn release_call(&self, bytes: usize) {
        self.link.call_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Nothing can be paid any more: the pairs that were owed to, and this lane, let go of each other.
    fn owe_nothing(&self) {
        let owing = self.owing.lock().take();
        for pair in owing.into_iter().flatten() {
            pair.write_off();
        }
    }

    /// Sends what is owed now.
    fn nudge(&self) {
        self.due.store(true, Ordering::Release);
        if !self.nudged.swap(true, Ordering::AcqRel) {
            let _ = self.back.send(Back::Nudge);
        }
    }

    /// Gives each credit that is owed to `send`, if they are due. `spare` lends its capacity.
    fn take_owed(&self, spare: &mut Vec<Arc<PairIn>>, mut send: impl FnMut(CreditRef)) {
        if !self.due.load(Ordering::Acquire) {
            return;
        }
        self.due.store(false, Ordering::Release);
        {
            let mut owing = self.owing.lock();
            let Some(owing) = owing.as_mut().filter(|owing| !owing.is_empty()) else { return };
            std::mem::swap(owing, spare);
        }
        let mut total = 0;
        for pair in spare.drain(..) {
            let owed = pair.owed.swap(0, Ordering::AcqRel);
            let bytes = bytes_of(owed);
            total += bytes;
            // At most what a window of 2 GiB holds in messages of 256 bytes.
            send(CreditRef { pair: pair.id, messages: (owed / ONE) as u32, bytes: bytes as u64 });
        }
        self.link.unaccepted.fetch_sub(total, Ordering::AcqRel);
    }
}

/// What an answer counts for while it waits to be written.
fn backlog_cost(body: usize) -> usize {
    body + 64
}

/// What a lane knows of one pair: the credits that it owes it.
pub(crate) struct PairIn {
    lane: Arc<InLane>,
    id: u32,
    /// Messages accepted and not credited yet, times [`ONE`], plus their bytes.
    owed: AtomicU64,
}

impl PairIn {
    fn new(lane: Arc<InLane>, id: u32) -> Self {
        Self { lane, id, owed: AtomicU64::new(0) }
    }

    /// Credits that nobody can be paid any more: what they are for is no longer held.
    fn write_off(&self) {
        let bytes = bytes_of(self.owed.swap(0, Ordering::AcqRel));
        self.lane.link.unaccepted.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// One message was accepted: its credits go back, together with others where that costs little time.
    pub(crate) fn accepted(this: &Arc<Self>, cost: u32) {
        let lane = &*this.lane;
        let before = this.owed.fetch_add(ONE + u64::from(cost), Ordering::AcqRel);
        if before == 0 {
            match &mut *lane.owing.lock() {
                Some(owing) => owing.push(Arc::clone(this)),
                // The link has ended. Whoever comes while this stands finds more than 0, and leaves it to us.
                None => return this.write_off(),
            }
        }
        let (messages, bytes) = (before / ONE + 1, bytes_of(before) + cost as usize);
        let reaches = |limit: (u64, usize)| messages >= limit.0 || bytes >= limit.1.min(lane.link.share);
        if lane.eager.load(Ordering::Acquire) || reaches(WORTH_SENDING) {
            lane.nudge();
        } else if reaches(WORTH_TAKING) {
            lane.due.store(true, Ordering::Release);
        }
    }
}
