//! Senders that were heard of here before this node's table shows them: no receiver on this node takes in what was sent
//! under a lower epoch after a higher (G3).
//!
//! Owns what the table does not know yet, for a while: what it has not shown by then is a lie, or of a store that is
//! away for longer than any title holds.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use dc_ownership::order::Thing;
use parking_lot::{Mutex, MutexGuard};

/// Messages of different senders seldom wait for each other.
const SHARDS: usize = 16;

/// Senders remembered in each shard; beyond, the oldest are forgotten.
const MOST: usize = 1_024;

/// See the module.
pub(super) struct Heard {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    /// How long what was heard counts.
    keep: Duration,
}

#[derive(Default)]
struct Shard {
    epochs: HashMap<Thing, (u64, Instant)>,
    /// As they came.
    order: VecDeque<Thing>,
}

/// Held while what was checked is delivered: whatever its sender sends under another epoch comes before it, or after.
pub(crate) struct Turn<'a> {
    _shard: MutexGuard<'a, Shard>,
}

impl Heard {
    /// `keep`: longer than any title outlives the news of the next.
    pub(super) fn new(keep: Duration) -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new(), keep }
    }

    /// Whether what `thing` sent under `epoch` may be taken in, where `known` tells what the table shows of it.
    ///
    /// # Errors
    ///
    /// The higher epoch that is known.
    pub(super) fn check(
        &self,
        thing: &Thing,
        epoch: u64,
        known: impl Fn(&Thing) -> Option<u64>,
        now: Instant,
    ) -> Result<Turn<'_>, u64> {
        // Never out of bounds.
        let mut shard = self.shards[self.hasher.hash_one(thing) as usize % SHARDS].lock();
        // Looked up while nobody else of this sender can be on the way in.
        let shown = known(thing).unwrap_or_default();
        let heard = shard.epochs.get(thing).filter(|(_, until)| *until > now).map_or(0, |(epoch, _)| *epoch);
        if shown.max(heard) > epoch {
            return Err(shown.max(heard));
        }
        if shown < epoch && heard < epoch {
            shard.note(thing, epoch, now + self.keep);
        } else if shown == epoch && heard == epoch {
            shard.forget(thing);
        }
        Ok(Turn { _shard: shard })
    }
}

impl Shard {
    fn note(&mut self, thing: &Thing, epoch: u64, until: Instant) {
        if self.epochs.insert(thing.clone(), (epoch, until)).is_none() {
            self.order.push_back(thing.clone());
        }
        while self.epochs.len() > MOST {
            let Some(oldest) = self.order.pop_front() else { return };
            self.epochs.remove(&oldest);
        }
    }

    /// The table shows it.
    fn forget(&mut self, thing: &Thing) {
        self.epochs.remove(thing);
        self.order.retain(|other| other != thing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(30);

    fn name(name: &str) -> Thing {
        Thing::Name(name.to_owned())
    }

    #[test]
    fn g3_after_a_higher_epoch_a_lower_is_refused_before_the_table_shows_it() {
        let (heard, now) = (Heard::new(KEEP), dc_core::Clock::now(&dc_core::SystemClock));
        let check = |epoch: u64, shown: Option<u64>, now| heard.check(&name("x"), epoch, |_| shown, now).map(drop);
        assert_eq!(check(5, Some(5), now), Ok(()));
        assert_eq!(check(7, Some(5), now), Ok(()), "it is newer than the table");
        assert_eq!(check(5, Some(5), now), Err(7), "a higher one was taken in");
        assert_eq!(check(6, Some(6), now), Err(7));
        assert_eq!(check(7, Some(7), now), Ok(()));
        assert_eq!(check(6, Some(7), now), Err(7), "the table shows it");
        assert_eq!(heard.check(&name("y"), 1, |_| None, now).map(drop), Ok(()), "another sender");
    }

    #[test]
    fn g3_what_the_table_never_shows_is_forgotten() {
        let (heard, now) = (Heard::new(KEEP), dc_core::Clock::now(&dc_core::SystemClock));
        let check = |epoch: u64, now| heard.check(&name("x"), epoch, |_| Some(5), now).map(drop);
        assert_eq!(check(u64::MAX, now), Ok(()));
        assert_eq!(check(5, now + KEEP / 2), Err(u64::MAX));
        assert_eq!(check(5, now + KEEP), Ok(()), "nobody can keep a sender away for long by a lie");
    }

    #[test]
    fn g3_what_was_heard_is_bounded_and_given_back() {
        let (heard, now) = (Heard::new(KEEP), dc_core::Clock::now(&dc_core::SystemClock));
        let remembered = || heard.shards.iter().map(|shard| shard.lock().epochs.len()).sum::<usize>();
        let many = SHARDS * MOST * 2;
        for n in 0..many {
            assert!(heard.check(&name(&n.to_string()), 2, |_| Some(1), now).is_ok());
        }
        assert!(remembered() <= SHARDS * MOST);
        for n in 0..many {
            assert!(heard.check(&name(&n.to_string()), 2, |_| Some(2), now).is_ok());
        }
        assert_eq!(remembered(), 0);
        assert!(heard.shards.iter().all(|shard| shard.lock().order.is_empty()));
    }
}
