//! A clock that runs at another rate than the others (fault 14).

use std::time::Instant;

use dc_core::{Clock, SystemClock};

/// The machine's monotonic clock, faster or slower.
#[derive(Clone, Copy, Debug)]
pub struct RateClock {
    start: Instant,
    rate: f64,
}

impl RateClock {
    /// A clock that begins right and gains `rate` seconds in a true second.
    ///
    /// # Panics
    ///
    /// The rate is not above zero, or not below 10.
    pub fn new(rate: f64) -> Self {
        assert!(rate > 0.0 && rate < 10.0, "a clock of rate {rate}");
        Self { start: SystemClock.now(), rate }
    }
}

impl Clock for RateClock {
    fn now(&self) -> Instant {
        self.start + (SystemClock.now() - self.start).mul_f64(self.rate)
    }
}
