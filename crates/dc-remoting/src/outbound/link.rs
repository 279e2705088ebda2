//! One link to one node: its lanes, its credits, its end.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence},
    },
    time::Duration,
};

use dc_core::Endpoint;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::{Out, pending::Pending, writer::OutLane};
use crate::{LinkError, PeerIdentity, pair::PairInner, remoting::Shared, wire::Grant};

/// How often deadlines are looked at: an ask ends at most this much late, give or take a millisecond.
pub(crate) const TICK: Duration = Duration::from_millis(5);

/// How long a link waits for the goodbyes of its other lanes after the first.
const PARTING: Duration = Duration::from_secs(1);

/// Which of a link's streams; also the low bits of correlations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Control = 0,
    User = 1,
    Bulk = 2,
}

/// An established link that this node dialled.
pub(crate) struct Link {
    pub(crate) shared: Arc<Shared>,
    pub(crate) endpoint: Endpoint,
    pub(crate) identity: Arc<PeerIdentity>,
    pub(crate) grant: Grant,
    /// When it has to end, with TLS.
    #[cfg(feature = "tls")]
    pub(crate) term: Option<crate::renew::Term>,
    pub(crate) lanes: [mpsc::UnboundedSender<Out>; 3],
    pub(crate) pending: Arc<[Pending; 3]>,
    writers: [Arc<OutLane>; 3],
    /// Bytes that may still be sent before something is accepted.
    pub(crate) window: Semaphore,
    pub(crate) pairs: Mutex<Pairs>,
    /// Messages that were sent and not known to be accepted when the link ended.
    pub(crate) unaccepted: AtomicUsize,
    /// Set by the writers whenever something leaves.
    pub(crate) used: Arc<AtomicBool>,
    /// A pong came since this was last cleared.
    pub(crate) pong: AtomicBool,
    /// It was said that another datacenter is at its end than the one that is wanted.
    pub(crate) told_wrong: AtomicBool,
    rtt_ns: AtomicU64,
    /// Nobody looks after deadlines at present, as nothing was under way.
    resting: AtomicBool,
    roused: Notify,
    /// Takes nothing more: closed, or about to be.
    refuses: AtomicBool,
    /// Another link to the same node has taken over.
    retired: AtomicBool,
    /// Lanes that nothing comes over any more, since the peer said goodbye.
    parted: AtomicUsize,
    why: OnceLock<Arc<str>>,
    closed: CancellationToken,
}

/// Pairs by their number on this link.
#[derive(Default)]
pub(crate) struct Pairs {
    slots: Vec<Option<Arc<PairInner>>>,
    free: Vec<u32>,
}

impl Pairs {
    fn insert(&mut self, pair: Arc<PairInner>, max: usize) -> Option<u32> {
        if let Some(id) = self.free.pop() {
            self.slots[id as usize] = Some(pair);
            return Some(id);
        }
        if self.slots.len() >= max {
            return None;
        }
        self.slots.push(Some(pair));
        // Bounded by `max_pairs`, far below u32::MAX.
        Some((self.slots.len() - 1) as u32)
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Arc<PairInner>> {
        self.slots.get(id as usize)?.as_ref()
    }
}

/// What its lanes bring along when they have become a link.
pub(crate) struct Opened {
    pub(crate) lanes: [mpsc::UnboundedSender<Out>; 3],
    pub(crate) pending: Arc<[Pending; 3]>,
    pub(crate) writers: [Arc<OutLane>; 3],
    pub(crate) used: Arc<AtomicBool>,
    #[cfg(feature = "tls")]
    pub(crate) term: Option<crate::renew::Term>,
}

impl Link {
    pub(crate) fn new(
        shared: Arc<Shared>,
        endpoint: Endpoint,
        identity: PeerIdentity,
        grant: Grant,
        opened: Opened,
    ) -> Self {
        let Opened {
            lanes,
            pending,
            writers,
            used,
            #[cfg(feature = "tls")]
            term,
        } = opened;
        Self {
            shared,
            endpoint,
            identity: Arc::new(identity),
            window: Semaphore::new(grant.link_window),
            grant,
            #[cfg(feature = "tls")]
            term,
            lanes,
            pending,
            writers,
            pairs: Mutex::default(),
            unaccepted: AtomicUsize::new(0),
            used,
            pong: AtomicBool::new(false),
            told_wrong: AtomicBool::new(false),
            rtt_ns: AtomicU64::new(0),
            resting: AtomicBool::new(false),
            roused: Notify::new(),
            refuses: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            parted: AtomicUsize::new(0),
            why: OnceLock::new(),
            closed: CancellationToken::new(),
        }
    }

    /// Whether it takes nothing more.
    pub(crate) fn refuses(&self) -> bool {
        self.refuses.load(Ordering::Acquire)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Takes nothing more; what is under way goes on.
    pub(crate) fn stop_taking(&self) {
        self.refuses.store(true, Ordering::Release);
    }

    /// Another link to the same node has taken over: each pair follows once nothing of it is in flight here (R1).
    #[cfg(feature = "tls")]
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.stop_taking();
    }

    /// Whether it is about to end, and what it was given is still on its way.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire) && !self.is_closed()
    }

    /// Whether the peer said goodbye over one lane and answers may still come over others.
    pub(crate) fn is_parting(&self) -> bool {
        self.parted.load(Ordering::Acquire) > 0
    }

    /// Nothing more comes over one lane, as the peer takes its leave. Its lanes are not ordered among each
    /// other, so answers that it sent before may still come over the others: the link ends with the last
    /// lane, or after [`PARTING`].
    pub(crate) async fn parted(&self, why: &str) {
        self.stop_taking();
        if self.parted.fetch_add(1, Ordering::AcqRel) + 1 < self.lanes.len() {
            // Either way it is closed then.
            let _ = tokio::time::timeout(PARTING, self.closed()).await;
        }
        self.close(why);
    }

    /// Waits for the end of the link.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    pub(crate) fn why(&self) -> Arc<str> {
        self.why.get().cloned().unwrap_or_else(|| "closed".into())
    }

    /// Ends the link. Asks that have left fail with `Lost`; what still waits in a queue is dropped by
    /// its writer as certainly not run.
    pub(crate) fn close(&self, why: &str) {
        if self.why.set(why.into()).is_err() {
            return;
        }
        self.refuses.store(true, Ordering::Release);
        self.window.close();
        self.closed.cancel();
        let why = self.why();
        for writer in &self.writers {
            writer.end(&why);
        }
        for pending in self.pending.iter() {
            let asks = pending.lock().close();
            for ask in asks {
                ask.finish(Err(LinkError::Lost { endpoint: self.endpoint.clone(), why: Arc::clone(&why) }));
            }
        }
        let pairs = std::mem::take(&mut *self.pairs.lock());
        for pair in pairs.slots.into_iter().flatten() {
            self.unaccepted.fetch_add(pair.abandoned(self), Ordering::AcqRel);
            pair.changed.notify_one();
        }
    }

    /// Gives a pair its number.
    pub(crate) fn bind(&self, pair: Arc<PairInner>) -> Result<u32, LinkError> {
        self.pairs.lock().insert(pair, self.grant.max_pairs).ok_or_else(|| {
            crate::measure::limit("max_pairs");
            LinkError::Overloaded { endpoint: self.endpoint.clone(), what: "too many pairs on one link" }
        })
    }

    /// Takes a pair's number back: nothing of it may be in flight.
    pub(crate) fn unbind(&self, id: u32) {
        let mut pairs = self.pairs.lock();
        if let Some(slot) = pairs.slots.get_mut(id as usize)
            && slot.take().is_some()
        {
            pairs.free.push(id);
        }
    }

    /// An ask was queued whose time this link has to watch.
    pub(crate) fn watch_time(&self) {
        // Against the fence in `keep_time`: either this sees that nobody watches, or the watcher sees the ask.
        fence(Ordering::SeqCst);
        if self.resting.load(Ordering::Relaxed) {
            self.roused.notify_one();
        }
    }

    /// Ends asks whose time is over, every [`TICK`] while there are any.
    pub(crate) async fn keep_time(&self) {
        loop {
            self.resting.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if !self.has_asks() {
                self.roused.notified().await;
            }
            self.resting.store(false, Ordering::Relaxed);
            tokio::time::sleep(TICK).await;
            let now = self.shared.clock.now();
            for writer in &self.writers {
                writer.expire(now);
            }
            for pending in self.pending.iter() {
                let late = pending.lock().expire(now);
                for ask in late {
                    let endpoint = self.endpoint.clone();
                    let after = Duration::ZERO;
                    ask.finish(Err(LinkError::Timeout { endpoint, after, may_have_run: true }));
                }
            }
        }
    }

    pub(crate) fn has_asks(&self) -> bool {
        self.unanswered() > 0 || !self.writers.iter().all(|writer| writer.is_empty())
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        match self.rtt_ns.load(Ordering::Relaxed) {
            0 => None,
            ns => Some(Duration::from_nanos(ns)),
        }
    }

    /// Takes one measurement into the moving average (weight 1/8, as TCP does).
    pub(crate) fn measured(&self, rtt: Duration) {
        let new = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX).max(1);
        let old = self.rtt_ns.load(Ordering::Relaxed);
        let mean = if old == 0 { new } else { old - old / 8 + new / 8 };
        self.rtt_ns.store(mean.max(1), Ordering::Relaxed);
        crate::measure::sample(self);
    }

    /// Tells the peer why, lets that leave, and closes.
    pub(crate) async fn say_goodbye(&self, why: &'static str) {
        for lane in &self.lanes {
            let _ = lane.send(Out::Goodbye(why));
        }
        // The peer closes its side when it reads it; no need to insist.
        let _ = tokio::time::timeout(Duration::from_millis(50), self.closed()).await;
        self.close(why);
    }

    pub(crate) fn unanswered(&self) -> usize {
        self.pending.iter().map(Pending::len).sum()
    }

    /// Nothing is on its way and nobody waits.
    pub(crate) fn is_quiet(&self) -> bool {
        self.unanswered() == 0 && self.window.available_permits() == self.grant.link_window
    }
}
