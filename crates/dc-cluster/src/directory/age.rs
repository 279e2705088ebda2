//! The ages of registrations: a logical clock that also runs with local time.

use std::time::{Duration, Instant};

/// Gives ages in milliseconds. Lower is older.
///
/// A Lamport clock: never below what was seen from others. It also advances with
/// this node's own monotonic clock, so that during a partition both sides' ages
/// go on at the same rate and, after a heal, the lower age is the older
/// registration in time as well, up to clock drift. No wall clock plays a part.
#[derive(Debug)]
pub(crate) struct AgeClock {
    start: Instant,
    ahead: Duration,
    last: u64,
}

impl AgeClock {
    pub(crate) fn new(now: Instant) -> Self {
        Self { start: now, ahead: Duration::ZERO, last: 0 }
    }

    /// The present reading.
    pub(crate) fn read(&self, now: Instant) -> u64 {
        let run = now.saturating_duration_since(self.start).saturating_add(self.ahead);
        self.last.max(u64::try_from(run.as_millis()).unwrap_or(u64::MAX))
    }

    /// An age that is higher than any given or seen before. Never 0.
    pub(crate) fn next(&mut self, now: Instant) -> u64 {
        self.last = self.read(now).saturating_add(1);
        self.last
    }

    /// Another node's clock stands at `reading`.
    pub(crate) fn observe(&mut self, now: Instant, reading: u64) {
        let behind = reading.saturating_sub(self.read(now));
        self.ahead = self.ahead.saturating_add(Duration::from_millis(behind));
    }
}

#[cfg(test)]
mod tests {
    use dc_core::{Clock, ManualClock};

    use super::*;

    #[test]
    fn ages_grow_with_time_and_with_what_is_seen() {
        let clock = ManualClock::new();
        let (mut a, mut b) = (AgeClock::new(clock.now()), AgeClock::new(clock.now()));
        let first = a.next(clock.now());
        assert!(a.next(clock.now()) > first, "never the same twice");
        b.observe(clock.now(), 1_000_000);
        clock.advance(Duration::from_millis(500));
        assert_eq!(b.read(clock.now()), 1_000_500);
        a.observe(clock.now(), b.read(clock.now()));
        assert!(a.next(clock.now()) > 1_000_500);
        a.observe(clock.now(), u64::MAX);
        assert_eq!(a.next(clock.now()), u64::MAX, "absurd readings saturate");
    }
}
