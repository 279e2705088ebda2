//! A lease, timed on the observer's own monotonic clock.

use std::time::{Duration, Instant};

/// A lease that was seen to start at an instant of the observer's clock.
///
/// The TTL is a duration; no remote wall clock is ever compared with a local one.
///
/// ```
/// use std::time::{Duration, Instant};
/// use dc_core::{Clock, Expired, Lease, ManualClock};
/// let clock = ManualClock::new();
/// let lease = Lease::new(clock.now(), Duration::from_secs(30));
/// clock.advance(Duration::from_secs(29));
/// assert_eq!(lease.left(clock.now()), Ok(Duration::from_secs(1)));
/// clock.advance(Duration::from_secs(1));
/// assert_eq!(lease.left(clock.now()), Err(Expired));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    since: Instant,
    ttl: Duration,
}

/// The lease has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease has ended")]
pub struct Expired;

impl Lease {
    /// A lease of `ttl` from `since` on.
    pub fn new(since: Instant, ttl: Duration) -> Self {
        Self { since, ttl }
    }

    /// When it was last seen alive.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// How long it lasts from [`since`](Self::since).
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Time left. `now` is the caller's clock, so tests never sleep.
    ///
    /// # Errors
    ///
    /// [`Expired`] from the exact end instant onward.
    pub fn left(&self, now: Instant) -> Result<Duration, Expired> {
        match self.ttl.checked_sub(now.saturating_duration_since(self.since)) {
            Some(left) if !left.is_zero() => Ok(left),
            _ => Err(Expired),
        }
    }

    /// Whether [`left`](Self::left) is an error at `now`.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.left(now).is_err()
    }

    /// The same lease, seen alive at `now`.
    #[must_use]
    pub fn renewed(&self, now: Instant) -> Self {
        Self { since: now, ..*self }
    }
}
