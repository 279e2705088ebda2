//! When the store was heard from, and when it was not (C4, C5).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Outages that are remembered; older ones have no record left to excuse.
const OUTAGES: usize = 64;
/// Shorter ones cost nobody a lease: the shortest TTL is 100 ms.
const SHORTEST: Duration = Duration::from_millis(30);
/// Times between proofs that tell what is usual.
const GAPS: usize = 8;

/// Contact with the store, as this reader had it.
///
/// An *outage* is a time between two proofs of contact in which a request
/// failed or a watch broke, or which was three times as long as any of the last
/// eight (a watch may fall silent and resume without an error). Whether it was long enough to cost
/// a leader its lease is judged for each record, by its TTL.
#[derive(Debug)]
pub(super) struct Contact {
    max_staleness: Duration,
    /// The last proof that the table is in step (C4).
    last_proof: Option<Instant>,
    /// When that proof came in.
    last_heard: Option<Instant>,
    /// The last times between proofs without a failure.
    gaps: VecDeque<Duration>,
    /// Whether something failed since the last proof.
    failing: bool,
    stale: bool,
    outages: VecDeque<(Instant, Instant)>,
}

impl Contact {
    pub(super) fn new(max_staleness: Duration) -> Self {
        Self {
            max_staleness,
            last_proof: None,
            last_heard: None,
            gaps: VecDeque::new(),
            failing: false,
            stale: false,
            outages: VecDeque::new(),
        }
    }

    pub(super) fn last_proof(&self) -> Option<Instant> {
        self.last_proof
    }

    /// Something failed: the store may be out.
    pub(super) fn failed(&mut self) {
        self.failing = true;
    }

    /// News came in, which is no proof of being in step; but silence, if there was one, is over.
    pub(super) fn heard(&mut self, now: Instant) {
        let Some(since) = self.last_heard else { return };
        let gap = now.saturating_duration_since(since);
        if gap < SHORTEST || !(self.failing || self.is_unusual(gap)) {
            return;
        }
        match self.outages.back_mut() {
            Some((start, end)) if *start == since => *end = now,
            _ => self.outages.push_back((since, now)),
        }
        if self.outages.len() > OUTAGES {
            self.outages.pop_front();
        }
    }

    /// The table was in step at `at`, as is known at `now`; whether it was stale, or never in step, until now.
    pub(super) fn proved(&mut self, at: Instant, now: Instant) -> bool {
        self.heard(now);
        if let Some(since) = self.last_heard {
            let gap = now.saturating_duration_since(since);
            if !self.failing && !gap.is_zero() {
                self.gaps.push_back(gap);
                if self.gaps.len() > GAPS {
                    self.gaps.pop_front();
                }
            }
        }
        self.failing = false;
        self.last_heard = Some(now);
        let first = self.last_proof.is_none();
        self.last_proof = self.last_proof.max(Some(at));
        let was_stale = self.stale;
        self.stale = self.last_proof.is_some_and(|proof| now.saturating_duration_since(proof) > self.max_staleness);
        first || (was_stale && !self.stale)
    }

    /// The longest of the outages whose end `counts`.
    pub(super) fn longest_outage(&self, counts: impl Fn(Instant) -> bool) -> Option<Duration> {
        self.outages.iter().filter(|(_, end)| counts(*end)).map(|(start, end)| *end - *start).max()
    }

    fn is_unusual(&self, gap: Duration) -> bool {
        self.gaps.len() == GAPS && self.gaps.iter().max().is_some_and(|longest| gap >= *longest * 3)
    }

    /// Time without a proof from which a table is stale.
    pub(super) fn max_staleness(&self) -> Duration {
        self.max_staleness
    }

    /// How long the outage was that ended at `now`, if one did.
    pub(super) fn outage_until(&self, now: Instant) -> Option<Duration> {
        self.outages.back().filter(|(_, end)| *end == now).map(|(start, end)| *end - *start)
    }

    /// When the table turns stale, unless there is a proof before.
    pub(super) fn stale_at(&self) -> Option<Instant> {
        let proof = self.last_proof.filter(|_| !self.stale)?;
        // Stale is what is older than the limit, not what is as old.
        Some(proof + self.max_staleness + Duration::from_nanos(1))
    }

    /// The age, at the moment when the table turns stale.
    pub(super) fn turns_stale(&mut self, now: Instant) -> Option<Duration> {
        let age = now.saturating_duration_since(self.last_proof.filter(|_| !self.stale)?);
        self.stale = age > self.max_staleness;
        self.stale.then_some(age)
    }
}
