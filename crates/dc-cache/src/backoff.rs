//! Waits: doubling, capped, and a little different each time.

use std::time::Duration;

use dc_core::snapshot::hash::mix;

/// The first wait after a failure.
const FIRST: Duration = Duration::from_millis(200);

/// How long to wait after each failure in a row: doubling up to a cap.
#[derive(Debug)]
pub(crate) struct Backoff {
    failures: u32,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(max: Duration) -> Self {
        Self { failures: 0, max }
    }

    /// The wait after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// It worked.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Whether nothing has failed since it last worked.
    pub(crate) fn is_fresh(&self) -> bool {
        self.failures == 0
    }

    /// Failures in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }
}

/// Spreads waits, so that nodes which started together do not ask together.
#[derive(Debug)]
pub(crate) struct Jitter {
    state: u64,
    ratio: f64,
}

impl Jitter {
    pub(crate) fn new(seed: u64, ratio: f64) -> Self {
        Self { state: seed, ratio }
    }

    /// `wait`, longer or shorter by up to the ratio.
    pub(crate) fn around(&mut self, wait: Duration) -> Duration {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        // 53 random bits: 0 up to, not including, 1.
        let unit = (mix(self.state) >> 11) as f64 / (1_u64 << 53) as f64;
        wait.mul_f64(1.0 + self.ratio * (2.0 * unit - 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_to_its_cap_and_starts_again() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        let waits: Vec<u128> = (0..5).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert!(backoff.is_fresh());
        assert_eq!(backoff.next(), FIRST);
        backoff.failures = u32::MAX;
        assert_eq!(backoff.next(), Duration::from_secs(1));
    }

    #[test]
    fn jitter_stays_within_its_ratio_and_differs() {
        let mut jitter = Jitter::new(3, 0.1);
        let waits: Vec<Duration> = (0..1_000).map(|_| jitter.around(Duration::from_secs(10))).collect();
        assert!(waits.iter().all(|wait| (9_000..=11_000).contains(&wait.as_millis())));
        assert!(waits.iter().any(|wait| wait.as_millis() < 9_200));
        assert!(waits.iter().any(|wait| wait.as_millis() > 10_800));
        let mut none = Jitter::new(3, 0.0);
        assert_eq!(none.around(Duration::from_secs(10)), Duration::from_secs(10));
    }
}
