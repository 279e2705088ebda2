//! Senders that were heard of here before this node's table shows them: no receiver on this node takes in what was sent
//! under a lower epoch after a higher (G3).
//!
//! Owns what the table does not know yet, or not any more (names are let go), for a while. Where the table shows the
//! owner, nobody of another datacenter speaks for it; what it does not show may be news, or a lie: the store is asked, and
//! the owner that it still shows a moment later is heard again. What it never shows is a lie, or of a store that is away
//! for longer than any title holds.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dc_ownership::order::Thing;
use dc_remoting::PeerIdentity;
use parking_lot::{Mutex, MutexGuard};
use prost::Message as _;

use super::{AHEAD, Global, label, offers::check_owned};
use crate::{
    error::Error,
    link::Incoming,
    receive::refuse,
    system::Node,
    wire::{PASSED_ON, SenderBody, ThingBody},
};

/// Messages of different senders seldom wait for each other.
const SHARDS: usize = 16;

/// Senders remembered in each shard, of less than 1 KiB each; beyond, the oldest are forgotten.
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
    heard: HashMap<Arc<Thing>, Entry>,
    /// By when they are forgotten. The number tells apart what comes at the same instant.
    by_age: BTreeMap<(Instant, u64), Arc<Thing>>,
    numbers: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    epoch: u64,
    /// Since when this, or a lower one, is above what the table shows.
    since: Instant,
    until: (Instant, u64),
}

/// What the table shows of a sender.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shown {
    epoch: u64,
    speaker: Speaker,
}

/// Who brings a message, as the table shows the sender's owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Speaker {
    /// Not known, or somebody who passes it on.
    #[default]
    Any,
    /// A node of the owner's datacenter, while this node is in touch with the store.
    Owner,
    /// A node of another datacenter.
    Other,
}

/// Why a message is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its sender has been heard of under this epoch.
    Over(u64),
    /// Who brings it is not in the datacenter that owns its sender.
    NotItsOwner,
}

/// Held while what was checked is delivered: whatever its sender sends under another epoch comes before it, or after.
#[must_use = "held until the message is delivered"]
pub(super) struct Turn<'a> {
    _shard: MutexGuard<'a, Shard>,
    /// The table does not show it, and nobody has said so before.
    news: bool,
}

impl Heard {
    /// `keep`: longer than any title outlives the news of the next.
    pub(super) fn new(keep: Duration) -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new(), keep }
    }

    /// Whether what `thing` sent under `epoch` may be taken in, where `shown` tells what the table shows of it.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(super) fn check(
        &self,
        thing: &Thing,
        epoch: u64,
        shown: impl FnOnce() -> Shown,
        now: Instant,
    ) -> Result<Turn<'_>, Refused> {
        // Never out of bounds.
        let mut shard = self.shards[self.hasher.hash_one(thing) as usize % SHARDS].lock();
        // Looked up while nobody else of this sender can be on the way in.
        let shown = shown();
        if shown.epoch > epoch {
            return Err(Refused::Over(shown.epoch));
        }
        if shown.epoch == epoch && shown.speaker == Speaker::Other {
            return Err(Refused::NotItsOwner);
        }
        let before = shard.heard.get(thing).copied().filter(|entry| entry.until.0 > now);
        if let Some(before) = before.filter(|before| before.epoch > epoch) {
            let is_owner = shown.epoch == epoch && shown.speaker == Speaker::Owner;
            if !is_owner || now < before.since + AHEAD {
                return Err(Refused::Over(before.epoch));
            }
            // The store was asked, and shows this one still.
            return Ok(Turn { _shard: shard, news: false });
        }
        let news = shown.epoch < epoch && before.is_none_or(|before| before.epoch < epoch);
        // The table forgets a name that is let go; what else is owned it shows for good.
        if shown.epoch < epoch || matches!(thing, Thing::Name(_)) {
            let since = before.filter(|before| before.epoch > shown.epoch).map_or(now, |before| before.since);
            shard.note(thing, epoch, since, now, self.keep);
        } else if before.is_some() {
            shard.forget(thing);
        }
        Ok(Turn { _shard: shard, news })
    }
}

impl Shard {
    fn note(&mut self, thing: &Thing, epoch: u64, since: Instant, now: Instant, keep: Duration) {
        let before = self.heard.get(thing).copied();
        // Seldom moved on: who sends all the time costs little.
        let lasts = |entry: &Entry| entry.epoch == epoch && entry.until.0 > now + keep - keep / 16;
        if before.as_ref().is_some_and(lasts) {
            return;
        }
        let until = (now + keep, self.numbers);
        self.numbers += 1;
        let thing = match before {
            Some(before) => self.by_age.remove(&before.until),
            None => None,
        }
        .unwrap_or_else(|| Arc::new(thing.clone()));
        self.by_age.insert(until, thing.clone());
        self.heard.insert(thing, Entry { epoch, since, until });
        while let Some(oldest) = self.by_age.first_entry()
            && (oldest.key().0 <= now || self.heard.len() > MOST)
        {
            self.heard.remove(&oldest.remove());
        }
    }

    /// The table shows it.
    fn forget(&mut self, thing: &Thing) {
        if let Some(entry) = self.heard.remove(thing) {
            self.by_age.remove(&entry.until);
        }
    }
}

impl Global {
    /// What the table shows of `thing`, where `from` brings what it sent.
    fn shown(&self, thing: &Thing, from: Option<&PeerIdentity>) -> Shown {
        let epoch = self.epoch(thing).unwrap_or_default();
        let owner = self.owner(thing).filter(|(_, of)| of.0 == epoch);
        let speaker = match (from, owner) {
            (Some(from), Some((owner, _))) if owner.data_center != from.dc => Speaker::Other,
            (Some(_), Some(_)) if self.ownership.lease().is_some_and(|lease| lease.runs()) => Speaker::Owner,
            _ => Speaker::Any,
        };
        Shown { epoch, speaker }
    }
}

/// Delivers a message to the actor of this node that it names, also while that one is held (`held`), unless its sender's
/// ownership is over as far as this node knows: then it is refused, unread. `from` brings it; nobody where it was looked
/// at before.
///
/// # Errors
///
/// Hands the message back if that actor is not here, or takes nothing any more.
#[expect(clippy::result_large_err, reason = "moved back once in a while; a box would cost every message")]
pub(crate) fn deliver(
    node: &Arc<Node>,
    from: Option<&PeerIdentity>,
    incoming: Incoming,
    held: bool,
) -> Result<(), Incoming> {
    let turn = match check_sender(node, from, &incoming.message.from) {
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

fn check_sender<'a>(node: &'a Node, from: Option<&PeerIdentity>, mark: &Bytes) -> Result<Option<Turn<'a>>, Error> {
    if mark.is_empty() || mark.as_ref() == PASSED_ON {
        return Ok(None);
    }
    // What cannot be read is of a newer version, and marks something else. What can is checked below, not left aside.
    let Ok(sender) = SenderBody::decode(mark.clone()) else { return Ok(None) };
    let Some(thing) = sender.thing.as_ref().and_then(ThingBody::thing) else { return Ok(None) };
    let Some(global) = node.try_global() else { return Ok(None) };
    check_owned(&thing, sender.epoch).map_err(|reason| Error::Codec {
        what: "a sender".into(),
        reason,
        not_run: true,
    })?;
    // Who passes it on is a former owner of its target, and speaks for nobody.
    let speaks = from.filter(|_| !sender.passed_on);
    let refused = match global.heard.check(&thing, sender.epoch, || global.shown(&thing, speaks), global.clock.now()) {
        Ok(turn) => {
            if turn.news {
                node.heard_of(thing, sender.epoch);
            }
            return Ok(Some(turn));
        }
        Err(refused) => refused,
    };
    #[cfg(feature = "simulation")]
    if node.plants(crate::system::Plant::AnySender) {
        return Ok(None);
    }
    let higher = match (refused, speaks) {
        (Refused::NotItsOwner, Some(speaks)) => {
            return Err(node.unauthorized(&speaks.dc, format!("speak for {}", label(&thing))));
        }
        (Refused::NotItsOwner, None) => sender.epoch,
        (Refused::Over(higher), _) => higher,
    };
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

    /// Of the table, where nothing is known of who speaks.
    fn shown(epoch: Option<u64>) -> Shown {
        Shown { epoch: epoch.unwrap_or_default(), speaker: Speaker::Any }
    }

    #[test]
    fn g3_after_a_higher_epoch_a_lower_is_refused_before_the_table_shows_it() {
        let (heard, now) = (Heard::new(KEEP), dc_core::Clock::now(&dc_core::SystemClock));
        let check =
            |epoch: u64, table: Option<u64>, now| heard.check(&name("x"), epoch, || shown(table), now).map(drop);
        assert_eq!(check(5, Some(5), now), Ok(()));
        assert_eq!(check(7, Some(5), now), Ok(()), "it is newer than the table");
        assert_eq!(check(5, Some(5), now), Err(Refused::Over(7)), "a higher one was taken in");
        assert_eq!(check(6, Some(6), now), Err(Refused::Over(7)));
        assert_eq!(check(7, Some(7), now), Ok(()));
        assert_eq!(check(6, Some(7), now), Err(Refused::Over(7)), "the table shows it");
        assert_eq!(heard.check(&name("y"), 1, || shown(None), now).map(drop), Ok(()), "another sender");
    }

    #[test]
    fn g3_a_name_that_is_let_go_takes_nothing_of_its_epochs_along() {
        let (heard, now) = (Heard::new(KEEP), dc_core::Clock::now(&dc_core::SystemClock));
        let check = |epoch: u64, table: Option<u64>| heard.check(&name("x"), epoch, || shown(table), now).map(drop);
        assert_eq!(check(7, Some(7)), Ok(()));
        assert_eq!(check(5, None), Err(Refused::Over(7)), "the table shows nothing of it any more");
        assert_eq!(check(8, None), Ok(()));
    }

    #[test]
    fn g3_what_the_table_never_shows_is_forgotten() {
        let (heard, now) = (Heard::new(KEEP), dc_core::Clock::now(&dc_core::SystemClock));
        let check = |epoch: u64, now| heard.check(&name("x"), epoch, || shown(Some(5)), now).map(drop);
        assert_eq!(check(u64::MAX, now), Ok(()));
        assert_eq!(check(5, now + KEEP / 2), Err(Refused::Over(u64::MAX)));
        assert_eq!(check(5, now + KEEP), Ok(()), "nobody can keep a sender away for long by a lie");
    }

    #[test]
    fn g3_what_was_heard_is_bounded_and_given_back() {
        let (heard, now) = (Heard::new(KEEP), dc_core::Clock::now(&dc_core::SystemClock));
        let remembered = || heard.shards.iter().map(|shard| shard.lock().heard.len()).sum::<usize>();
        let all = || (0..SHARDS * MOST * 2).map(|n| Thing::grain(GroupId(9), format!("cart/{n}")));
        for grain in all() {
            assert!(heard.check(&grain, 2, || shown(Some(1)), now).is_ok());
        }
        assert!(remembered() <= SHARDS * MOST);
        for grain in all() {
            assert!(heard.check(&grain, 2, || shown(Some(2)), now).is_ok());
        }
        assert_eq!(remembered(), 0);
        assert!(heard.shards.iter().all(|shard| shard.lock().by_age.is_empty()));
    }

    #[test]
    fn r8_what_was_heard_and_is_over_makes_room() {
        let (heard, now) = (Heard::new(KEEP), dc_core::Clock::now(&dc_core::SystemClock));
        let all = |from: usize| (from..from + SHARDS * MOST).map(|n| Thing::grain(GroupId(9), format!("cart/{n}")));
        for grain in all(0) {
            assert!(heard.check(&grain, 2, || shown(Some(1)), now).is_ok());
        }
        // One for each shard lets go of all that is over there.
        for grain in all(1_000_000).take(SHARDS * 20) {
            assert!(heard.check(&grain, 2, || shown(Some(1)), now + KEEP).is_ok());
        }
        let (heard, by_age) = heard.shards.iter().fold((0, 0), |(heard, by_age), shard| {
            let shard = shard.lock();
            (heard + shard.heard.len(), by_age + shard.by_age.len())
        });
        assert_eq!((heard, by_age), (SHARDS * 20, SHARDS * 20));
    }

    #[test]
    fn g3_nobody_speaks_for_what_another_datacenter_owns() {
        let (heard, now) = (Heard::new(KEEP), dc_core::Clock::now(&dc_core::SystemClock));
        let check = |epoch, speaker| heard.check(&name("x"), epoch, || Shown { epoch: 5, speaker }, now).map(drop);
        assert_eq!(check(5, Speaker::Other), Err(Refused::NotItsOwner));
        assert_eq!(check(5, Speaker::Owner), Ok(()));
        assert_eq!(check(5, Speaker::Any), Ok(()), "it is passed on");
        assert_eq!(check(6, Speaker::Other), Ok(()), "it may have been handed over there");
    }

    #[test]
    fn g3_a_lie_about_a_sender_silences_its_owner_for_a_moment_however_often_it_is_told() {
        let (heard, now) = (Heard::new(KEEP), dc_core::Clock::now(&dc_core::SystemClock));
        let check = |epoch, speaker, now| heard.check(&name("x"), epoch, || Shown { epoch: 5, speaker }, now).map(drop);
        assert_eq!(check(9, Speaker::Other, now), Ok(()), "news, or a lie");
        assert_eq!(check(5, Speaker::Owner, now), Err(Refused::Over(9)), "it may be the former owner");
        let later = now + AHEAD;
        assert_eq!(check(10, Speaker::Any, later), Ok(()), "told again");
        assert_eq!(check(5, Speaker::Owner, later), Ok(()), "the table shows no other still");
        assert_eq!(check(5, Speaker::Any, later), Err(Refused::Over(10)), "who knows who that is");
        assert_eq!(check(11, Speaker::Other, later + AHEAD / 2), Ok(()));
        assert_eq!(check(5, Speaker::Owner, later + AHEAD / 2), Ok(()));
    }
}
