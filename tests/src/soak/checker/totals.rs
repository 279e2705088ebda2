//! What a run came to: counts, and times that asks took.

use std::collections::BTreeMap;

use super::super::{
    control::ERRORS,
    record::{Class, Outcome},
};

/// Times in buckets a twelfth of a doubling wide: quantiles are right to 6 %.
#[derive(Clone, Debug, Default)]
pub struct Times {
    buckets: Vec<u64>,
    count: u64,
}

impl Times {
    /// Adds one, in microseconds.
    pub fn add(&mut self, us: u64) {
        let bucket = ((us.max(1) as f64).log2() * 12.0) as usize;
        if bucket >= self.buckets.len() {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.count += 1;
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The time that this share of them did not exceed, in microseconds; 0 if there are none.
    pub fn quantile(&self, share: f64) -> f64 {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return ((bucket as f64 + 0.5) / 12.0).exp2();
            }
        }
        0.0
    }
}

/// Between whom an ask went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distance {
    /// On one node.
    Here,
    /// Between nodes of one datacenter.
    Near,
    /// Between datacenters.
    Far,
}

/// Counts of a whole run.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Messages handled, by what they were for.
    pub handled: BTreeMap<Class, u64>,
    /// What senders were told: answered, accepted, certainly not run, may have run.
    pub told: [u64; 4],
    /// Failures by the error's name.
    pub errors: BTreeMap<&'static str, u64>,
    /// Times of answered asks, in quiet times and under chaos.
    pub times: BTreeMap<(Distance, bool), Times>,
    /// Messages that overtook others when a link had broken in between: allowed.
    pub overtaken_across_links: u64,
    /// Accepted tells that were lost with a link or a node: allowed.
    pub tells_lost: u64,
    /// Moments at which a grain was active twice within the documented limits: allowed.
    pub grains_twice: u64,
    /// Spawns that started one actor on each side while members disagreed: allowed.
    pub spawns_twice: u64,
    /// Acknowledged messages whose handling was found in a log, once.
    pub confirmed: u64,
    /// Refused messages that were followed and never ran.
    pub refused_and_silent: u64,
}

impl Totals {
    pub(super) fn note_told(&mut self, outcome: Outcome, error: u8) {
        self.told[outcome as usize] += 1;
        if error > 0 {
            let name = ERRORS.get(usize::from(error)).copied().unwrap_or("(another)");
            *self.errors.entry(name).or_default() += 1;
        }
    }

    /// All messages that were handled.
    pub fn handled_in_all(&self) -> u64 {
        self.handled.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_six_percent() {
        let mut times = Times::default();
        (1..=10_000).for_each(|us| times.add(us));
        for share in [0.5, 0.9, 0.99] {
            let (got, want) = (times.quantile(share), share * 10_000.0);
            assert!((got / want - 1.0).abs() < 0.06, "{share}: {got}");
        }
        assert_eq!(Times::default().quantile(0.5), 0.0);
    }
}
