//! Which activation of each grain handled something when: two at work in turn are two at once (G1, G2).

use std::collections::HashMap;

use super::super::{
    clock::SECOND,
    record::{Class, Entry},
};

/// How long an activation that handles nothing is remembered.
const MEMORY: u64 = 60 * SECOND;

/// A grain: its kind, its number, and its datacenter where each has its own.
type Key = (Class, u32, usize);

#[derive(Clone, Copy, Debug)]
struct Life {
    activation: u64,
    first_us: u64,
    last_us: u64,
}

/// The activations of all grains.
#[derive(Debug, Default)]
pub(super) struct Grains(HashMap<Key, Vec<Life>>);

/// Two activations of one grain that were seen at work at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overlap {
    pub(super) activations: [u64; 2],
    /// The last moment at which both are known to have been at work.
    pub(super) at_us: u64,
}

impl Grains {
    /// Notes that an activation handled a message; tells who else was at work at the same time.
    pub(super) fn handled(&mut self, entry: &Entry, dc: usize) -> Vec<Overlap> {
        let key = (entry.class, entry.grain, if entry.class == Class::Cart { dc } else { 0 });
        let lives = self.0.entry(key).or_default();
        let at = entry.at_us;
        let mine = match lives.iter_mut().find(|life| life.activation == entry.activation) {
            Some(life) => {
                // Logs of several processes are not read in the order of time; one process's is.
                life.last_us = life.last_us.max(at);
                *life
            }
            None => {
                let life = Life { activation: entry.activation, first_us: at, last_us: at };
                lives.push(life);
                life
            }
        };
        let others = lives.iter().filter(|other| other.activation != mine.activation);
        let overlaps = others.filter_map(|other| {
            let (from, to) = (mine.first_us.max(other.first_us), mine.last_us.min(other.last_us));
            let activations = [mine.activation, other.activation];
            (from <= to).then_some(Overlap { activations, at_us: to })
        });
        overlaps.collect()
    }

    /// Forgets who has been silent for long.
    pub(super) fn forget(&mut self, now_us: u64) {
        self.0.retain(|_, lives| {
            lives.retain(|life| life.last_us + MEMORY > now_us);
            !lives.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::record::What;

    fn entry(activation: u64, at_us: u64) -> Entry {
        let (what, class) = (What::Handled, Class::Ledger);
        Entry { what, class, stream: 1, seq: 1, activation, sent_us: at_us, at_us, grain: 4 }
    }

    #[test]
    fn one_after_the_other_is_no_overlap_and_in_turn_is() {
        let mut grains = Grains::default();
        for at in [10, 20] {
            assert!(grains.handled(&entry(1, at), 0).is_empty());
        }
        assert!(grains.handled(&entry(2, 30), 0).is_empty(), "it moved");
        let overlaps = grains.handled(&entry(1, 40), 0);
        assert_eq!(overlaps, [Overlap { activations: [1, 2], at_us: 30 }], "the old one is still at work");
    }

    #[test]
    fn each_datacenter_has_its_own_cart() {
        let mut grains = Grains::default();
        for (activation, at, dc) in [(1, 10, 0), (2, 20, 1), (1, 30, 0), (2, 40, 1)] {
            let cart = Entry { class: Class::Cart, ..entry(activation, at) };
            assert!(grains.handled(&cart, dc).is_empty());
        }
    }
}
