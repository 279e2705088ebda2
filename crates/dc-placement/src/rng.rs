//! Randomness from a seed: splitmix64.

use dc_core::snapshot::hash::mix;

/// A sequence that its seed determines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `n`, which is not 0; even to within n / 2^64.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// A number of `0..n`, which is not empty.
    pub(crate) fn index(&mut self, n: usize) -> usize {
        self.below(n as u64) as usize
    }
}

/// Where `item` stands in the random order that `seed` determines.
pub(crate) fn rank(seed: u64, item: usize) -> u64 {
    mix(seed ^ mix(item as u64 + 1))
}
