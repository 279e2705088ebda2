//! Exponential backoff with full jitter over its upper half.

use std::time::Duration;

/// Doubles from `first` to `max`; each wait is drawn from the upper half of its range.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first }
    }

    /// The next wait; `random` is uniform in 0..1.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        let range = self.next;
        self.next = (self.next * 2).min(self.max);
        range.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn r6_backoff_doubles_to_its_cap_within_its_jitter(randoms in proptest::collection::vec(0.0f64..1.0, 1..20)) {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
            let mut range = Duration::from_millis(100);
            for random in randoms {
                let wait = backoff.next(random);
                prop_assert!(wait >= range / 2 && wait <= range, "{wait:?} of {range:?}");
                range = (range * 2).min(Duration::from_secs(5));
            }
            backoff.reset();
            prop_assert!(backoff.next(1.0) <= Duration::from_millis(100));
        }
    }
}
