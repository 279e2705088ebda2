//! State that came along with what is being handed to this node, until its title is there.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use bytes::Bytes;
use dc_core::{Epoch, snapshot::hash};

use crate::order::Thing;

/// What a parcel takes beside its text and state.
const PARCEL: usize = 256;

/// What one state of a parcel takes beside its identity and bytes.
const STATE: usize = 64;

/// The most parcels that have not arrived yet.
const MOST_WAITING: usize = 65_536;

/// State by thing. Bounded in bytes, in number and in time.
///
/// Several attempts to hand a thing over may have sent some, and the first may come last: the entry names the one that
/// counts, by epoch and digest.
#[derive(Debug, Default)]
pub struct Parcels {
    kept: HashMap<Thing, BTreeMap<Which, Parcel>>,
    /// Those that have not arrived, by when they are let go. The number tells apart what comes at the same instant.
    waiting: BTreeMap<(Instant, u64), (Thing, Which)>,
    numbers: u64,
    bytes: usize,
}

/// By epoch and digest.
type Which = (Epoch, u64);

#[derive(Debug)]
struct Parcel {
    /// Where it stands among those that wait; `None` once it has arrived.
    until: Option<(Instant, u64)>,
    /// What it is counted as.
    bytes: usize,
    state: BTreeMap<String, Bytes>,
}

impl Parcel {
    /// Its state, if it has arrived.
    fn arrived(&self) -> impl Iterator<Item = (&String, &Bytes)> {
        self.state.iter().filter(|_| self.until.is_none())
    }
}

fn size_of_state(identity: &str, state: &Bytes) -> usize {
    STATE + identity.len() + state.len()
}

fn size_of(thing: &Thing) -> usize {
    PARCEL
        + match thing {
            Thing::Slot(..) => 0,
            // In both tables.
            Thing::Grain(_, _, text) | Thing::Name(text) => 2 * text.len(),
        }
}

/// All of one epoch.
fn of(epoch: Epoch) -> std::ops::RangeInclusive<Which> {
    (epoch, 0)..=(epoch, u64::MAX)
}

/// What an entry calls state by, never 0. Equal state is as good whichever attempt sent it.
pub(crate) fn digest(state: &[(String, Bytes)]) -> u64 {
    digest_of(&state.iter().map(|(identity, state)| (identity.clone(), state.clone())).collect())
}

fn digest_of(state: &BTreeMap<String, Bytes>) -> u64 {
    let mut digest = 0;
    for (identity, state) in state {
        for part in [identity.as_bytes(), state] {
            digest = hash::mix(digest ^ hash::fnv(part)).wrapping_add(part.len() as u64);
        }
    }
    // JSON readers of other languages keep 53 bits.
    (hash::mix(digest) >> 11).max(1)
}

impl Parcels {
    /// Keeps `state` for the owner that this node may be under `epoch`.
    ///
    /// # Errors
    ///
    /// There is no room.
    pub fn put(
        &mut self,
        thing: Thing,
        epoch: Epoch,
        state: Vec<(String, Bytes)>,
        now: Instant,
        keep: Duration,
        most: usize,
    ) -> Result<(), String> {
        self.expire(now);
        let state: BTreeMap<String, Bytes> = state.into_iter().collect();
        let which = (epoch, digest_of(&state));
        let until = (now + keep, self.numbers);
        self.numbers += 1;
        if let Some(same) = self.kept.get_mut(&thing).and_then(|kept| kept.get_mut(&which)) {
            // Sent twice. What has arrived is not to be taken twice.
            if let Some(before) = same.until.replace(until) {
                self.waiting.remove(&before);
                self.waiting.insert(until, (thing, which));
            } else {
                same.until = None;
            }
            return Ok(());
        }
        let held: usize = state.iter().map(|(identity, state)| size_of_state(identity, state)).sum();
        let bytes = size_of(&thing) + held;
        if self.bytes + bytes > most {
            return Err(format!("no room for {bytes} bytes of state: {} of {most} are in use", self.bytes));
        }
        if self.waiting.len() >= MOST_WAITING {
            return Err(format!("no room for more state: {MOST_WAITING} things are on their way here"));
        }
        self.bytes += bytes;
        self.waiting.insert(until, (thing.clone(), which));
        self.kept.entry(thing).or_default().insert(which, Parcel { until: Some(until), bytes, state });
        Ok(())
    }

    /// Takes the state of one identity of `thing`, if it has arrived for this epoch.
    pub fn take(&mut self, thing: &Thing, identity: &str, epoch: Epoch) -> Option<Bytes> {
        let mut kept = self.kept.get_mut(thing)?.range_mut(of(epoch));
        let (which, parcel) = kept.find(|(_, parcel)| parcel.until.is_none())?;
        let which = *which;
        let state = parcel.state.remove(identity)?;
        let freed = size_of_state(identity, &state);
        parcel.bytes -= freed;
        self.bytes -= freed;
        if parcel.state.is_empty() {
            self.remove(thing, &which);
        }
        Some(state)
    }

    /// What is left of a thing's state that has arrived for this epoch; of a single identity's, also with its slot.
    pub fn rest(&self, thing: &Thing, epoch: Epoch) -> Vec<(String, Bytes)> {
        let of_whole = thing.whole();
        let part = |identity: &str| matches!(thing, Thing::Grain(_, _, part) if part == identity);
        let parcels = |thing: &Thing| self.kept.get(thing).into_iter().flat_map(|kept| kept.range(of(epoch)));
        let whole =
            of_whole.iter().flat_map(parcels).flat_map(|(_, parcel)| parcel.arrived()).filter(|(id, _)| part(id));
        let own = parcels(thing).flat_map(|(_, parcel)| parcel.arrived());
        own.chain(whole).map(|(id, state)| (id.clone(), state.clone())).collect()
    }

    /// The thing is owned under `epoch`: what was sent for it and has this digest stays as long as its owner, anything
    /// else for this epoch or an earlier one goes.
    pub fn arrived(&mut self, thing: &Thing, epoch: Epoch, digest: u64) {
        let which = (epoch, digest);
        self.drop_where(thing, epoch, |other, parcel| *other != which || parcel.state.is_empty());
        if let Some(parcel) = self.kept.get_mut(thing).and_then(|kept| kept.get_mut(&which))
            && let Some(until) = parcel.until.take()
        {
            self.waiting.remove(&until);
        }
    }

    /// What was owned under `epoch` is owned here no more: forgets what was kept up to it. What was sent for a later
    /// epoch may be on its way back already.
    pub fn drop_up_to(&mut self, thing: &Thing, epoch: Epoch) {
        self.drop_where(thing, epoch, |_, _| true);
    }

    fn drop_where(&mut self, thing: &Thing, up_to: Epoch, goes: impl Fn(&Which, &Parcel) -> bool) {
        let Some(kept) = self.kept.get(thing) else { return };
        let old = kept.range(..=(up_to, u64::MAX)).filter(|(which, parcel)| goes(which, parcel));
        let old: Vec<Which> = old.map(|(which, _)| *which).collect();
        old.iter().for_each(|which| self.remove(thing, which));
    }

    fn remove(&mut self, thing: &Thing, which: &Which) {
        let Some(kept) = self.kept.get_mut(thing) else { return };
        if let Some(parcel) = kept.remove(which) {
            self.bytes -= parcel.bytes;
            if let Some(until) = parcel.until {
                self.waiting.remove(&until);
            }
        }
        if kept.is_empty() {
            self.kept.remove(thing);
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.kept.clear();
        self.waiting.clear();
        self.bytes = 0;
    }

    fn expire(&mut self, now: Instant) {
        while let Some(next) = self.waiting.first_entry()
            && next.key().0 <= now
        {
            let (thing, which) = next.remove();
            self.remove(&thing, &which);
        }
    }
}

#[cfg(test)]
mod tests {
    use dc_core::{Clock, ManualClock};

    use super::*;

    const KEEP: Duration = Duration::from_secs(10);
    const MOST: usize = 1 << 20;

    fn thing(name: &str) -> Thing {
        Thing::Name(name.to_owned())
    }

    fn state(len: usize) -> Vec<(String, Bytes)> {
        vec![("a".to_owned(), Bytes::from(vec![0; len]))]
    }

    #[test]
    fn g5_state_is_given_for_the_epoch_that_it_was_sent_for_and_once() {
        let (mut parcels, clock) = (Parcels::default(), ManualClock::new());
        parcels.put(thing("x"), Epoch(4), state(3), clock.now(), KEEP, MOST).expect("room");
        assert_eq!(parcels.take(&thing("x"), "a", Epoch(4)), None, "it has not arrived");
        parcels.arrived(&thing("x"), Epoch(4), digest(&state(3)));
        assert_eq!(parcels.take(&thing("x"), "a", Epoch(5)), None, "another owner's");
        assert_eq!(parcels.take(&thing("x"), "a", Epoch(4)).map(|state| state.len()), Some(3));
        assert_eq!(parcels.take(&thing("x"), "a", Epoch(4)), None);
        assert_eq!(parcels.bytes, 0);
    }

    #[test]
    fn g5_state_of_an_attempt_that_was_given_up_is_never_used_whenever_it_comes() {
        let (mut parcels, clock) = (Parcels::default(), ManualClock::new());
        let put = |parcels: &mut Parcels, len| {
            parcels.put(thing("x"), Epoch(4), state(len), clock.now(), KEEP, MOST).expect("room");
        };
        // The first attempt, of 5 bytes, comes after the second, of 3, and for the same epoch.
        put(&mut parcels, 3);
        put(&mut parcels, 5);
        parcels.arrived(&thing("x"), Epoch(4), digest(&state(3)));
        assert_eq!(parcels.rest(&thing("x"), Epoch(4)), state(3));
        put(&mut parcels, 5);
        assert_eq!(parcels.take(&thing("x"), "a", Epoch(4)).map(|state| state.len()), Some(3));
        // Taken over, not handed over: nothing that was offered counts.
        put(&mut parcels, 5);
        parcels.arrived(&thing("x"), Epoch(4), 0);
        assert_eq!((parcels.take(&thing("x"), "a", Epoch(4)), parcels.bytes), (None, 0));
    }

    #[test]
    fn g5_state_that_comes_back_before_its_loss_is_seen_stays() {
        let (mut parcels, clock) = (Parcels::default(), ManualClock::new());
        parcels.put(thing("x"), Epoch(4), state(3), clock.now(), KEEP, MOST).expect("room");
        parcels.put(thing("x"), Epoch(6), state(5), clock.now(), KEEP, MOST).expect("room");
        // Owned here under 3, elsewhere under 5, and handed back for 6: only now is it seen that 3 is over.
        parcels.drop_up_to(&thing("x"), Epoch(5));
        assert_eq!(parcels.bytes, size_of(&thing("x")) + STATE + 6);
        parcels.arrived(&thing("x"), Epoch(6), digest(&state(5)));
        assert_eq!(parcels.take(&thing("x"), "a", Epoch(6)).map(|state| state.len()), Some(5));
        assert_eq!(parcels.bytes, 0);
    }

    #[test]
    fn r8_kept_state_is_bounded_in_bytes_and_in_time() {
        let (mut parcels, clock) = (Parcels::default(), ManualClock::new());
        let most = 2 * (PARCEL + STATE) + 100;
        let put =
            |parcels: &mut Parcels, name: &str| parcels.put(thing(name), Epoch(1), state(60), clock.now(), KEEP, most);
        put(&mut parcels, "x").expect("room");
        assert!(put(&mut parcels, "y").is_err());
        clock.advance(KEEP);
        put(&mut parcels, "y").expect("the first is too old");
        parcels.arrived(&thing("x"), Epoch(1), digest(&state(60)));
        assert_eq!(parcels.take(&thing("x"), "a", Epoch(1)), None);
        parcels.arrived(&thing("y"), Epoch(2), digest(&state(60)));
        assert_eq!(parcels.take(&thing("y"), "a", Epoch(1)), None, "it arrived under another epoch");
        assert_eq!(taken(&parcels), (0, 0, 0));
    }

    fn taken(parcels: &Parcels) -> (usize, usize, usize) {
        (parcels.bytes, parcels.kept.len(), parcels.waiting.len())
    }

    #[test]
    fn r8_empty_parcels_are_not_free() {
        let (mut parcels, clock) = (Parcels::default(), ManualClock::new());
        // Of one thing for many epochs, and of many things.
        let things = |number: u64| if number.is_multiple_of(2) { thing("x") } else { thing(&number.to_string()) };
        let put = |parcels: &mut Parcels, number: u64| {
            parcels.put(things(number), Epoch(number + 1), Vec::new(), clock.now(), KEEP, 100 * PARCEL)
        };
        let refused = (0..).find(|number| put(&mut parcels, *number).is_err()).expect("never ending");
        assert!((90..=100).contains(&refused), "{refused}");
        clock.advance(KEEP);
        put(&mut parcels, 0).expect("the others are too old");
        parcels.arrived(&thing("x"), Epoch(1), digest(&[]));
        assert_eq!(taken(&parcels), (0, 0, 0), "nobody takes nothing");
    }

    #[test]
    fn r8_parcels_that_have_not_arrived_are_bounded_in_number() {
        let (mut parcels, clock) = (Parcels::default(), ManualClock::new());
        let mut put = |number: u64| parcels.put(thing("x"), Epoch(number), state(1), clock.now(), KEEP, usize::MAX);
        let most = MOST_WAITING as u64;
        (0..most).for_each(|number| put(number).expect("room"));
        assert!(put(most).is_err());
        put(most - 1).expect("sent twice");
        parcels.arrived(&thing("x"), Epoch(most - 1), digest(&state(1)));
        assert_eq!(taken(&parcels).2, 0);
        assert_eq!(parcels.take(&thing("x"), "a", Epoch(most - 1)).map(|state| state.len()), Some(1));
        assert_eq!(taken(&parcels), (0, 0, 0));
    }
}
