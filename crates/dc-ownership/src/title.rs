//! The proof of ownership that every message needs: cheap to ask, and false in time.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dc_core::{Epoch, SharedClock};

use crate::{ids::SessionId, policy::Strictness};

/// A session's lease as its holder sees it: it owns what it has claimed until the deadline, which each acknowledged
/// renewal moves on. Shared by all titles of the session.
#[derive(Clone)]
pub struct Lease(Arc<LeaseState>);

struct LeaseState {
    session: SessionId,
    clock: SharedClock,
    base: Instant,
    /// Nanoseconds since `base`; [`ENDED`] once the session is over.
    deadline: AtomicU64,
}

const ENDED: u64 = 0;

impl Lease {
    /// A lease that runs until `deadline`, on this clock, which must go on while the machine sleeps.
    pub fn new(session: SessionId, clock: SharedClock, deadline: Instant) -> Self {
        // One nanosecond back, so that no deadline from now on is ENDED.
        let now = clock.now();
        let base = now.checked_sub(Duration::from_nanos(1)).unwrap_or(now);
        let lease = Self(Arc::new(LeaseState { session, clock, base, deadline: AtomicU64::new(1) }));
        lease.renew(deadline);
        lease
    }

    /// Moves the deadline on; never back, and never after the end.
    pub fn renew(&self, deadline: Instant) {
        let since = deadline.saturating_duration_since(self.0.base).as_nanos();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        let later = |now: u64| (now != ENDED && since > now).then_some(since);
        // An Err says that there was nothing to move.
        let _ = self.0.deadline.fetch_update(Ordering::AcqRel, Ordering::Acquire, later);
    }

    /// Ends it now: the session is over, or known to be lost.
    pub fn end(&self) {
        self.0.deadline.store(ENDED, Ordering::Release);
    }

    /// Whose.
    pub fn session(&self) -> SessionId {
        self.0.session
    }

    /// Whether it was ended, or can be renewed no more.
    pub fn has_ended(&self) -> bool {
        self.0.deadline.load(Ordering::Acquire) == ENDED
    }

    /// Until when it runs; `None` once ended.
    pub fn deadline(&self) -> Option<Instant> {
        match self.0.deadline.load(Ordering::Acquire) {
            ENDED => None,
            since => Some(self.0.base + Duration::from_nanos(since)),
        }
    }

    /// Whether it runs now. One clock read.
    pub fn runs(&self) -> bool {
        self.runs_at(self.0.clock.now())
    }

    fn runs_at(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| now < deadline)
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({}, {:?})", self.0.session.short(), self.deadline())
    }
}

/// One owner's claim to one thing (a slot, a name): under which epoch, and whether it holds.
///
/// [`check`](Self::check) it before each piece of work starts, and again before its outcome leaves (G2).
#[derive(Clone)]
pub struct Title(Arc<TitleState>);

struct TitleState {
    epoch: Epoch,
    lease: Lease,
    strictness: Strictness,
    stage: AtomicU8,
    /// Of a part: the title to the whole.
    whole: Option<Title>,
}

const HELD: u8 = 0;
const MOVING: u8 = 1;
const OVER: u8 = 2;

/// The owner is one no more, or cannot know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotOwner {
    /// The lease ran out before it was renewed: the store was away, or this node was paused.
    #[error("epoch {epoch}: the lease ran out before it was renewed")]
    LeaseOver {
        /// Under which epoch it was owned.
        epoch: Epoch,
    },
    /// It is being handed over: what arrives is held until that is settled.
    #[error("epoch {epoch}: being handed over")]
    Moving {
        /// Under which epoch it is owned.
        epoch: Epoch,
    },
    /// It was handed over, or taken.
    #[error("epoch {epoch}: owned by another now")]
    Moved {
        /// Under which epoch it was owned.
        epoch: Epoch,
    },
}

impl Title {
    /// A title under `epoch`, good while `lease` runs.
    pub fn new(epoch: Epoch, lease: Lease, strictness: Strictness) -> Self {
        Self(Arc::new(TitleState { epoch, lease, strictness, stage: AtomicU8::new(HELD), whole: None }))
    }

    /// The title to a part of what this one is to: it holds while both do, and can end before this one.
    pub fn part(&self) -> Self {
        let (epoch, lease, strictness) = (self.0.epoch, self.0.lease.clone(), self.0.strictness);
        let stage = AtomicU8::new(HELD);
        Self(Arc::new(TitleState { epoch, lease, strictness, stage, whole: Some(self.clone()) }))
    }

    /// The fencing token.
    pub fn epoch(&self) -> Epoch {
        self.0.epoch
    }

    /// The session that owns.
    pub fn session(&self) -> SessionId {
        self.0.lease.session()
    }

    /// The session's lease.
    pub fn lease(&self) -> &Lease {
        &self.0.lease
    }

    /// Whether the store's absence ends it.
    pub fn strictness(&self) -> Strictness {
        self.0.strictness
    }

    /// Whether it holds at this moment.
    ///
    /// # Errors
    ///
    /// [`NotOwner`]. Of a strict title: for good, or until the lease is renewed (a renewal that was under way may
    /// still arrive). An available one holds until it is known to be [`end`](Self::end)ed.
    pub fn check(&self) -> Result<(), NotOwner> {
        self.check_with(|lease| lease.runs())
    }

    /// As [`check`](Self::check), for a caller who has just read the clock that the lease was made with: `now` must be
    /// what it showed this moment, as work that starts later than that is work without a title.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn check_at(&self, now: Instant) -> Result<(), NotOwner> {
        self.check_with(|lease| lease.runs_at(now))
    }

    fn check_with(&self, runs: impl Fn(&Lease) -> bool) -> Result<(), NotOwner> {
        let state = &*self.0;
        match state.stage.load(Ordering::Acquire) {
            HELD => {}
            MOVING => return Err(NotOwner::Moving { epoch: state.epoch }),
            _ => return Err(NotOwner::Moved { epoch: state.epoch }),
        }
        if let Some(whole) = &state.whole {
            return whole.check_with(runs);
        }
        if state.strictness == Strictness::Strict && !runs(&state.lease) {
            return Err(NotOwner::LeaseOver { epoch: state.epoch });
        }
        Ok(())
    }

    /// Ends it: handed over, taken, or given up.
    pub fn end(&self) {
        self.0.stage.store(OVER, Ordering::Release);
    }

    /// It does not hold while it is being handed over: nothing new may start once its state was taken.
    pub fn suspend(&self) {
        self.change(HELD, MOVING);
    }

    /// The hand-over was given up: it holds again, unless it has ended.
    pub fn resume(&self) {
        self.change(MOVING, HELD);
    }

    fn change(&self, from: u8, to: u8) {
        // An Err says that it has ended, or that there is nothing to change.
        let _ = self.0.stage.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }
}

impl fmt::Debug for Title {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Title(epoch {}, {:?}, {:?})", self.0.epoch, self.0.lease, self.check())
    }
}

#[cfg(test)]
mod tests {
    use dc_core::ManualClock;

    use super::*;

    fn lease(clock: &ManualClock, ttl: Duration) -> Lease {
        use dc_core::Clock;
        Lease::new(SessionId(7), Arc::new(clock.clone()), clock.now() + ttl)
    }

    #[test]
    fn g2_a_strict_title_ends_with_its_lease_and_not_before() {
        use dc_core::Clock;
        let clock = ManualClock::new();
        let lease = lease(&clock, Duration::from_secs(8));
        let title = Title::new(Epoch(3), lease.clone(), Strictness::Strict);
        clock.advance(Duration::from_millis(7_999));
        assert_eq!(title.check(), Ok(()));
        clock.advance(Duration::from_millis(1));
        assert_eq!(title.check(), Err(NotOwner::LeaseOver { epoch: Epoch(3) }));
        assert_eq!(title.check_at(clock.now()), title.check(), "the clock that was read already tells the same");
        assert_eq!(title.check_at(clock.now() - Duration::from_millis(1)), Ok(()));
        lease.renew(clock.now() + Duration::from_secs(8));
        assert_eq!(title.check(), Ok(()), "a renewal that was under way arrived");
        lease.renew(clock.now());
        clock.advance(Duration::from_secs(7));
        assert_eq!(title.check(), Ok(()), "a late answer to an earlier renewal takes nothing back");
        lease.end();
        lease.renew(clock.now() + Duration::from_secs(60));
        assert!(title.check().is_err(), "what has ended stays so");
    }

    #[test]
    fn g2_a_part_ends_with_the_whole_and_the_whole_goes_on_without_it() {
        let clock = ManualClock::new();
        let whole = Title::new(Epoch(3), lease(&clock, Duration::from_secs(8)), Strictness::Strict);
        let (part, other) = (whole.part(), whole.part());
        assert_eq!((part.epoch(), part.session(), part.check()), (Epoch(3), SessionId(7), Ok(())));
        part.suspend();
        assert_eq!(part.check(), Err(NotOwner::Moving { epoch: Epoch(3) }));
        part.resume();
        part.end();
        assert_eq!((part.check().is_err(), other.check(), whole.check()), (true, Ok(()), Ok(())));
        whole.suspend();
        assert_eq!(other.check(), Err(NotOwner::Moving { epoch: Epoch(3) }));
        whole.resume();
        clock.advance(Duration::from_secs(8));
        assert_eq!(other.check(), Err(NotOwner::LeaseOver { epoch: Epoch(3) }));
        whole.end();
        assert_eq!(other.check(), Err(NotOwner::Moved { epoch: Epoch(3) }));
    }

    #[test]
    fn an_available_title_outlives_its_lease_and_ends_when_it_moved() {
        let clock = ManualClock::new();
        let title = Title::new(Epoch(3), lease(&clock, Duration::from_secs(8)), Strictness::Available);
        clock.advance(Duration::from_secs(3_600));
        assert_eq!(title.check(), Ok(()));
        title.suspend();
        assert_eq!(title.check(), Err(NotOwner::Moving { epoch: Epoch(3) }));
        title.resume();
        assert_eq!(title.check(), Ok(()));
        title.end();
        title.resume();
        assert_eq!(title.check(), Err(NotOwner::Moved { epoch: Epoch(3) }));
    }
}
