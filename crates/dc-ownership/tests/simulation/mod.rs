//! Whole systems of the production core under virtual time: three datacenters, a store that is only as good as its
//! contract, clocks that differ, and everything that breaks. The same seed gives the same run.

// The campaign and the example each use a part of it.
#![allow(dead_code, unreachable_pub, unused_imports)]

mod acts;
mod check;
mod effects;
mod moves;
mod node;
mod store;
mod world;

use std::{collections::BTreeMap, time::Duration};

use dc_ownership::{Stats, core::Plant};

pub use self::moves::{CrashAt, Side, Step};

pub const TTL: Duration = Duration::from_secs(10);

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub seed: u64,
    /// For how long things break, in true time.
    pub faults: Duration,
    /// Whether the store loses data once.
    pub loses: bool,
    pub plant: Option<Plant>,
    /// One node crashes there, and nothing else breaks.
    pub crash: Option<CrashAt>,
}

impl Config {
    pub fn new(seed: u64) -> Self {
        Self { seed, faults: Duration::from_secs(90), loses: false, plant: None, crash: None }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub violation: Option<String>,
    pub stats: Stats,
    pub counts: BTreeMap<&'static str, u64>,
    pub steps: u64,
    /// Of all that happened, in order.
    pub trace: u64,
    /// From the end of the faults until everything had its owner again.
    pub healed_in: Duration,
}

impl Report {
    pub fn count(&self, what: &str) -> u64 {
        let stats = self.stats.pairs();
        let stat = stats.iter().find(|(name, _)| *name == what).map(|(_, count)| *count);
        stat.or_else(|| self.counts.get(what).copied()).unwrap_or(0)
    }

    pub fn add(&mut self, other: &Self) {
        self.stats.add(&other.stats);
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
        self.steps += other.steps;
        self.healed_in = self.healed_in.max(other.healed_in);
    }
}

/// Runs one system until everything is well again, or something is wrong.
pub fn run(config: Config) -> Report {
    world::World::new(config).run()
}
