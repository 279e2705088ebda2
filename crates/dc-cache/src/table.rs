//! The published table.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};
use dc_core::{Freshness, SharedClock, Snapshot, StoreId};
use tokio::sync::{Notify, broadcast, watch};

use crate::{CacheOptions, TableEvent};

/// Events that a slow listener may lag behind before it misses some.
const EVENTS: usize = 1_024;

/// The routing table of one node. Cheap to clone; clones are the same table.
///
/// Reading is lock-free and allocates nothing (C1). Every node has one (A1);
/// [`keep_in_step`](crate::keep_in_step) is what fills it.
#[derive(Clone)]
pub struct RoutingTable {
    shared: Arc<Shared>,
}

struct Shared {
    snapshot: ArcSwap<Snapshot>,
    clock: SharedClock,
    max_staleness: Duration,
    /// What `proof_ns` counts from.
    start: Instant,
    /// The last proof of being in step, in nanoseconds since `start`, plus one; 0 where there was none.
    proof_ns: AtomicU64,
    watching: AtomicBool,
    in_step: watch::Sender<bool>,
    /// When the newest list that is in the snapshot was begun.
    listed: watch::Sender<Option<Instant>>,
    events: broadcast::Sender<TableEvent>,
    refresh: Notify,
}

impl RoutingTable {
    /// An empty table, which has never been in step.
    pub fn new(clock: SharedClock, options: CacheOptions) -> Self {
        let shared = Shared {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            start: clock.now(),
            clock,
            max_staleness: options.max_cache_staleness(),
            proof_ns: AtomicU64::new(0),
            watching: AtomicBool::new(false),
            in_step: watch::Sender::new(false),
            listed: watch::Sender::new(None),
            events: broadcast::Sender::new(EVENTS),
            refresh: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The present view. Never hold the guard across an await: it keeps the
    /// snapshot's slot busy; take [`snapshot_owned`](Self::snapshot_owned) for that.
    pub fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.shared.snapshot.load()
    }

    /// The present view, to keep. Slower than [`snapshot`](Self::snapshot) where many threads ask at once.
    pub fn snapshot_owned(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// How far the table can be trusted at `now` of the table's clock (C4).
    pub fn freshness(&self, now: Instant) -> Freshness {
        match self.proof() {
            None => Freshness::Never,
            Some(proof) => {
                let age = now.saturating_duration_since(proof);
                if age > self.shared.max_staleness { Freshness::Stale { age } } else { Freshness::Fresh { age } }
            }
        }
    }

    /// Time since the last proof that the table is in step; `None` where there was none yet.
    pub fn last_refresh(&self) -> Option<Duration> {
        self.proof().map(|proof| self.shared.clock.now().saturating_duration_since(proof))
    }

    /// Whether the table is stale now: longer than `max_cache_staleness` without a proof, or never in step.
    pub fn is_stale(&self) -> bool {
        !matches!(self.freshness(self.shared.clock.now()), Freshness::Fresh { .. })
    }

    /// Whether the table has ever been in step. Stays true through outages of the store (D7).
    pub fn ever_in_step(&self) -> bool {
        self.shared.proof_ns.load(Ordering::Acquire) != 0
    }

    /// Waits until the table has once been in step. May be dropped at any time.
    pub async fn until_in_step(&self) {
        let mut in_step = self.shared.in_step.subscribe();
        // The sender lives as long as `self`.
        let _ = in_step.wait_for(|in_step| *in_step).await;
    }

    /// Whether a watch is open and has replayed; else the table is kept in step by lists alone.
    pub fn is_watching(&self) -> bool {
        self.shared.watching.load(Ordering::Acquire)
    }

    /// The store incarnation that the table is of; `None` before the first contact.
    pub fn store(&self) -> Option<StoreId> {
        self.snapshot().store()
    }

    /// What happens from now on. A listener that lags 1,024 events behind is told how many it missed.
    pub fn events(&self) -> broadcast::Receiver<TableEvent> {
        self.shared.events.subscribe()
    }

    /// Asks for a list now rather than at the next interval. Several requests before it begins make one list; one that
    /// comes while a list is under way makes another, which shows what was written before it was asked for.
    pub fn refresh(&self) {
        self.shared.refresh.notify_one();
    }

    /// When the newest list that the table shows was begun, on its [`clock`](Self::clock): it shows what was written
    /// before that, whatever a watch may still keep back. `None` before the first. Read it before the snapshot.
    pub fn lists(&self) -> watch::Receiver<Option<Instant>> {
        self.shared.listed.subscribe()
    }

    /// The clock that ages are measured on.
    pub fn clock(&self) -> &SharedClock {
        &self.shared.clock
    }

    fn proof(&self) -> Option<Instant> {
        match self.shared.proof_ns.load(Ordering::Acquire) {
            0 => None,
            ns => Some(self.shared.start + Duration::from_nanos(ns - 1)),
        }
    }

    pub(crate) async fn refresh_wanted(&self) {
        self.shared.refresh.notified().await;
    }

    pub(crate) fn publish(&self, snapshot: &Snapshot) {
        self.shared.snapshot.store(Arc::new(snapshot.clone()));
    }

    pub(crate) fn set_proof(&self, proof: Instant) {
        let ns = u64::try_from(proof.saturating_duration_since(self.shared.start).as_nanos()).unwrap_or(u64::MAX - 1);
        self.shared.proof_ns.fetch_max(ns.saturating_add(1), Ordering::AcqRel);
        self.shared.in_step.send_if_modified(|in_step| !std::mem::replace(in_step, true));
    }

    pub(crate) fn set_listed(&self, begun: Instant) {
        self.shared.listed.send_if_modified(|listed| {
            let newer = *listed < Some(begun);
            *listed = (*listed).max(Some(begun));
            newer
        });
    }

    pub(crate) fn set_watching(&self, watching: bool) {
        self.shared.watching.store(watching, Ordering::Release);
    }

    pub(crate) fn tell(&self, event: TableEvent) {
        // Nobody listens: that is fine.
        let _ = self.shared.events.send(event);
    }
}

impl fmt::Debug for RoutingTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoutingTable")
            .field("snapshot", &**self.snapshot())
            .field("last_refresh", &self.last_refresh())
            .field("watching", &self.is_watching())
            .finish()
    }
}
