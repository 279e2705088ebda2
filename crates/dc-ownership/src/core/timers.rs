//! When to look at what next: one instant for each thing, the earliest that was asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use crate::documents::Unit;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Own,
    Drain,
    Round,
    Unit(Unit),
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeSet<(Instant, Timer)>,
    at: BTreeMap<Timer, Instant>,
}

impl Timers {
    /// Looks at it at `at`, or earlier if that was asked for already.
    pub(super) fn at(&mut self, at: Instant, timer: Timer) {
        if let Some(before) = self.at.get(&timer) {
            if *before <= at {
                return;
            }
            self.due.remove(&(*before, timer.clone()));
        }
        self.at.insert(timer.clone(), at);
        self.due.insert((at, timer));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    pub(super) fn pop(&mut self, now: Instant) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        let (_, timer) = self.due.pop_first()?;
        self.at.remove(&timer);
        Some(timer)
    }
}
