//! Senders that were heard of here before this node's table shows them: no receiver on this node takes in what was sent
//! under a lower epoch after a higher (G3).
//!
//! Owns what the table does not know yet, or not any more (names are let go), for a while: what it has not shown by then
//! is a lie, or of a store that is away for longer than any title holds.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dc_ownership::order::Thing;
use parking_lot::{Mutex, MutexGuard};

use super::label;
use crate::{
    error::Error,
    link::Incoming,
    receive::refuse,
    system::Node,
    wire::{self, PASSED_ON, SenderBody, ThingBody},
};

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
#[must_use = "held until the message is delivered"]
pub(super) struct Turn<'a> {
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
        // The table forgets a name that is let go; what else is owned it shows for good.
        if shown < epoch || matches!(thing, Thing::Name(_)) {
            shard.note(thing, epoch, now + self.keep);
        } else if heard == epoch {
            shard.forget(thing);
        }
        Ok(Turn { _shard: shard })
    }
}

impl Shard {
    fn note(&mut self, thing: &Thing, epoch: u64, until: Instant) {
        if let Some(heard) = self.epochs.get_mut(thing) {
            *heard = (epoch, until);
            return;
        }
        self.epochs.insert(thing.clone(), (epoch, until));
        self.order.push_back(thing.clone());
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

/// Delivers a message to the actor of this node that it names, also while that one is held (`held`), unless its sender's
/// ownership is over as far as this node knows: then it is refused, unread.
///
/// # Errors
///
/// Hands the message back if that actor is not here, or takes nothing any more.
#[expect(clippy::result_large_err, reason = "moved back once in a while; a box would cost every message")]
pub(crate) fn deliver(node: &Arc<Node>, incoming: Incoming, held: bool) -> Result<(), Incoming> {
    let turn = match check_sender(node, &incoming.message.from) {
        Ok(turn) => turn,
        Err(error) => {
            refuse(node, incoming, error);
            return Ok(());
        }
    };
    let back = match node.actors().get(incoming.message.to) {
        Some(cell) if cell.core().kind != incoming.message.kind.as_str() => Err(incoming),
        Some(cell) if held => cell.deliver_held(incoming),
        Some(cell) => cell.deliver(incoming),
        None => Err(incoming),
    };
    drop(turn);
    back
}

fn check_sender<'a>(node: &'a Node, from: &Bytes) -> Result<Option<Turn<'a>>, Error> {
    if from.is_empty() || from.as_ref() == PASSED_ON {
        return Ok(None);
    }
    // What cannot be read is of a newer version, and marks something else.
    let Ok(sender) = wire::read::<SenderBody>("a sender", from.clone()) else { return Ok(None) };
    let Some(thing) = sender.thing.as_ref().and_then(ThingBody::thing) else { return Ok(None) };
    let Some(global) = node.try_global() else { return Ok(None) };
    let now = global.clock.now();
    let higher = match global.heard.check(&thing, sender.epoch, |thing| global.epoch(thing), now) {
        Ok(turn) => return Ok(Some(turn)),
        Err(higher) => higher,
    };
    #[cfg(feature = "simulation")]
    if node.plants(crate::system::Plant::AnySender) {
        return Ok(None);
    }
    crate::measure::ownership("sender_over");
    tracing::debug!(sender = label(&thing), epoch = sender.epoch, higher, "sent under an epoch that is over");
    let newer = node.newer_owner(&thing, sender.epoch);
    Err(Error::NotOwner { actor: format!("the sender, {}", label(&thing)), epoch: sender.epoch, newer, not_run: true })
}

#[cfg(test)]
mod tests {
    use dc_ownership::ids::GroupId;

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
    fn g3_a_name_that_is_let_go_takes_nothing_of_its_epochs_along() {
        let (heard, now) = (Heard::new(KEEP), dc_core::Clock::now(&dc_core::SystemClock));
        let check = |epoch: u64, shown: Option<u64>| heard.check(&name("x"), epoch, |_| shown, now).map(drop);
        assert_eq!(check(7, Some(7)), Ok(()));
        assert_eq!(check(5, None), Err(7), "the table shows nothing of it any more");
        assert_eq!(check(8, None), Ok(()));
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
        let all = || (0..SHARDS * MOST * 2).map(|n| Thing::grain(GroupId(9), format!("cart/{n}")));
        for grain in all() {
            assert!(heard.check(&grain, 2, |_| Some(1), now).is_ok());
        }
        assert!(remembered() <= SHARDS * MOST);
        for grain in all() {
            assert!(heard.check(&grain, 2, |_| Some(2), now).is_ok());
        }
        assert_eq!(remembered(), 0);
        assert!(heard.shards.iter().all(|shard| shard.lock().order.is_empty()));
    }
}
