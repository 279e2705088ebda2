//! Where a grain or something global was before: what was told there may still be on its way to where it is now, and
//! what comes later waits for it (R1).
//!
//! The former place passes on what comes too late. It is asked for a sign on the channel that was used
//! there: the sign comes back once all that went before it has been taken in where the target is now. A channel whose
//! link has ended promises nothing, so any answer will do.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use dc_remoting::{LinkError, Message, Symbol};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::{
    activation::Activation,
    message::RemoteActor,
    reference::{Route, Way},
    wire::PASSED_ALL,
};

/// How long a sign is waited for. Longer than a link may be silent: where none comes, the channel has ended.
const SIGN: Duration = Duration::from_secs(5);

/// How long after the last tell a sender waits for a former place that is not known to pass on: it may be lost, and what
/// was told with it.
const LOST: Duration = Duration::from_millis(500);

/// When something was last told over a link at a place, and not answered.
pub(crate) struct Told {
    base: Instant,
    /// Nanoseconds since `base`; 0 for none.
    last: AtomicU64,
}

impl Told {
    pub(crate) fn new(base: Instant) -> Self {
        Self { base, last: AtomicU64::new(0) }
    }

    pub(crate) fn note(&self, now: Instant) {
        let since = u64::try_from(now.saturating_duration_since(self.base).as_nanos()).unwrap_or(u64::MAX);
        self.last.store(since.max(1), Ordering::Relaxed);
    }

    fn take(&self) -> Option<Instant> {
        match self.last.swap(0, Ordering::Relaxed) {
            0 => None,
            last => Some(self.base + Duration::from_nanos(last)),
        }
    }
}

/// An ask that has no answer yet: given up, it may run as late as any tell.
pub(crate) struct Unanswered<'a> {
    pub(crate) told: &'a Told,
    /// When it was sent; `None` once there is an answer.
    pub(crate) at: Option<Instant>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            self.told.note(at);
        }
    }
}

/// The former places of one target, as one reference and its clones see it.
pub(crate) struct Former<A: RemoteActor> {
    /// Whether there is any: one load for each message.
    any: AtomicBool,
    places: Mutex<Vec<Arc<Place<A>>>>,
}

struct Place<A: RemoteActor> {
    route: Arc<Route<A>>,
    until: Instant,
    /// By who sends: the number of an actor, or none for the reference itself. Set once the sign has come.
    signs: Mutex<HashMap<Option<u64>, Arc<OnceCell<()>>>>,
}

impl<A: RemoteActor> Former<A> {
    pub(crate) fn new() -> Self {
        Self { any: AtomicBool::new(false), places: Mutex::default() }
    }

    /// The target is no longer at the end of `route`; `passes_on`: whoever had it there is known to pass on what comes late.
    pub(crate) fn leave(&self, route: &Arc<Route<A>>, told: &Told, passes_on: bool, now: Instant) {
        // Whoever comes second finds the place here.
        let mut places = self.places.lock();
        let Some(last) = told.take() else { return };
        let until = if passes_on { now + SIGN } else { last + LOST };
        if until > now {
            places.push(Arc::new(Place { route: route.clone(), until, signs: Mutex::default() }));
            self.any.store(true, Ordering::Release);
        }
    }

    /// One load.
    pub(crate) fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }

    /// Waits until what `sender` sent to former places is taken in where the target is now. Cancel safe.
    pub(crate) async fn passed_all(&self, sender: Option<&Activation>, clock: &dyn dc_core::Clock) {
        for place in self.still_counting(clock.now()) {
            let left = place.until.saturating_duration_since(clock.now());
            // An Err is the time that has passed.
            let _ = tokio::time::timeout(left, place.sign(sender, left)).await;
        }
    }

    fn still_counting(&self, now: Instant) -> Vec<Arc<Place<A>>> {
        let mut places = self.places.lock();
        places.retain(|place| place.until > now);
        if places.is_empty() {
            self.any.store(false, Ordering::Release);
        }
        places.clone()
    }
}

impl<A: RemoteActor> Place<A> {
    /// Ends once the sign has come, or cannot come any more.
    async fn sign(&self, sender: Option<&Activation>, within: Duration) {
        let Route::There(way) = &*self.route else { return };
        let who = sender.map(|sender| sender.core().number);
        let sign = self.signs.lock().entry(who).or_default().clone();
        let asked = sign.get_or_try_init(|| async {
            match way.pair(sender).ask(way.sign(), within).await {
                // Not for good: what was told may be on its way still.
                Err(LinkError::Timeout { .. } | LinkError::Overloaded { .. }) => Err(()),
                Ok(_) | Err(_) => Ok(()),
            }
        });
        // Without it, later messages ask again.
        let _ = asked.await;
    }
}

impl Way {
    /// The question whether all that went before it on the same channel has been passed on.
    fn sign(&self) -> Message {
        Message {
            to: self.at.actor,
            kind: Symbol::from_static(PASSED_ALL),
            key: self.key.clone(),
            message: self.kind.clone(),
            epoch: self.epoch,
            from: Bytes::new(),
            payload: Bytes::new(),
        }
    }
}
