//! State that came along with what is being handed to this node, until its title is there.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use bytes::Bytes;
use dc_core::{Epoch, snapshot::hash};

use crate::order::Thing;

/// State by thing. Bounded in bytes and in time.
///
/// Several attempts to hand a thing over may have sent some, and the first may come last: the entry names the one that
/// counts, by epoch and digest.
#[derive(Debug, Default)]
pub struct Parcels {
    kept: HashMap<Thing, Vec<Parcel>>,
    bytes: usize,
}

#[derive(Debug)]
struct Parcel {
    epoch: Epoch,
    digest: u64,
    /// `None` once it has arrived.
    until: Option<Instant>,
    bytes: usize,
    state: BTreeMap<String, Bytes>,
}

impl Parcel {
    /// Its state, if it has arrived for this epoch.
    fn of(&self, epoch: Epoch) -> impl Iterator<Item = (&String, &Bytes)> {
        let arrived = self.epoch == epoch && self.until.is_none();
        self.state.iter().filter(move |_| arrived)
    }
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
        let digest = digest_of(&state);
        let bytes = state.iter().map(|(identity, state)| identity.len() + state.len()).sum::<usize>();
        let until = Some(now + keep);
        let kept = self.kept.entry(thing).or_default();
        if let Some(same) = kept.iter_mut().find(|kept| kept.epoch == epoch && kept.digest == digest) {
            // Sent twice. What has arrived is not to be taken twice.
            same.until = same.until.and(until);
            return Ok(());
        }
        if self.bytes + bytes > most {
            return Err(format!("no room for {bytes} bytes of state: {} of {most} are in use", self.bytes));
        }
        self.bytes += bytes;
        kept.push(Parcel { epoch, digest, until, bytes, state });
        Ok(())
    }

    /// Takes the state of one identity of `thing`, if it has arrived for this epoch.
    pub fn take(&mut self, thing: &Thing, identity: &str, epoch: Epoch) -> Option<Bytes> {
        let kept = self.kept.get_mut(thing)?;
        let parcel = kept.iter_mut().find(|parcel| parcel.epoch == epoch && parcel.until.is_none())?;
        let state = parcel.state.remove(identity)?;
        let freed = identity.len() + state.len();
        parcel.bytes -= freed;
        self.bytes -= freed;
        kept.retain(|parcel| !parcel.state.is_empty());
        if kept.is_empty() {
            self.kept.remove(thing);
        }
        Some(state)
    }

    /// What is left of a thing's state that has arrived for this epoch; of a single identity's, also with its slot.
    pub fn rest(&self, thing: &Thing, epoch: Epoch) -> Vec<(String, Bytes)> {
        let of_whole = thing.whole();
        let part = |identity: &str| matches!(thing, Thing::Grain(_, _, part) if part == identity);
        let of = |thing: &Thing| self.kept.get(thing).into_iter().flatten();
        let whole = of_whole.iter().flat_map(of).flat_map(|parcel| parcel.of(epoch)).filter(|(id, _)| part(id));
        let own = of(thing).flat_map(|parcel| parcel.of(epoch));
        own.chain(whole).map(|(id, state)| (id.clone(), state.clone())).collect()
    }

    /// The thing is owned under `epoch`: what was sent for it and has this digest stays as long as its owner, anything
    /// else for this epoch or an earlier one goes.
    pub fn arrived(&mut self, thing: &Thing, epoch: Epoch, digest: u64) {
        let Some(kept) = self.kept.remove(thing) else { return };
        for mut parcel in kept {
            if parcel.epoch == epoch && parcel.digest == digest {
                parcel.until = None;
                self.kept.entry(thing.clone()).or_default().push(parcel);
            } else if parcel.epoch > epoch {
                self.kept.entry(thing.clone()).or_default().push(parcel);
            } else {
                self.bytes -= parcel.bytes;
            }
        }
    }

    /// What was owned under `epoch` is owned here no more: forgets what was kept up to it. What was sent for a later
    /// epoch may be on its way back already.
    pub fn drop_up_to(&mut self, thing: &Thing, epoch: Epoch) {
        let Some(kept) = self.kept.get_mut(thing) else { return };
        let bytes = &mut self.bytes;
        kept.retain(|parcel| {
            let goes = parcel.epoch <= epoch;
            *bytes -= if goes { parcel.bytes } else { 0 };
            !goes
        });
        if kept.is_empty() {
            self.kept.remove(thing);
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.kept.clear();
        self.bytes = 0;
    }

    fn expire(&mut self, now: Instant) {
        let bytes = &mut self.bytes;
        self.kept.retain(|_, kept| {
            kept.retain(|parcel| {
                let late = parcel.until.is_some_and(|until| until <= now);
                *bytes -= if late { parcel.bytes } else { 0 };
                !late
            });
            !kept.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use dc_core::{Clock, ManualClock};

    use super::*;

    const KEEP: Duration = Duration::from_secs(10);

    fn thing(name: &str) -> Thing {
        Thing::Name(name.to_owned())
    }

    fn state(len: usize) -> Vec<(String, Bytes)> {
        vec![("a".to_owned(), Bytes::from(vec![0; len]))]
    }

    #[test]
    fn g5_state_is_given_for_the_epoch_that_it_was_sent_for_and_once() {
        let (mut parcels, clock) = (Parcels::default(), ManualClock::new());
        parcels.put(thing("x"), Epoch(4), state(3), clock.now(), KEEP, 100).expect("room");
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
            parcels.put(thing("x"), Epoch(4), state(len), clock.now(), KEEP, 100).expect("room");
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
        parcels.put(thing("x"), Epoch(4), state(3), clock.now(), KEEP, 100).expect("room");
        parcels.put(thing("x"), Epoch(6), state(5), clock.now(), KEEP, 100).expect("room");
        // Owned here under 3, elsewhere under 5, and handed back for 6: only now is it seen that 3 is over.
        parcels.drop_up_to(&thing("x"), Epoch(5));
        assert_eq!(parcels.bytes, 6);
        parcels.arrived(&thing("x"), Epoch(6), digest(&state(5)));
        assert_eq!(parcels.take(&thing("x"), "a", Epoch(6)).map(|state| state.len()), Some(5));
        assert_eq!(parcels.bytes, 0);
    }

    #[test]
    fn kept_state_is_bounded_in_bytes_and_in_time() {
        let (mut parcels, clock) = (Parcels::default(), ManualClock::new());
        parcels.put(thing("x"), Epoch(1), state(60), clock.now(), KEEP, 100).expect("room");
        assert!(parcels.put(thing("y"), Epoch(1), state(60), clock.now(), KEEP, 100).is_err());
        clock.advance(KEEP);
        parcels.put(thing("y"), Epoch(1), state(60), clock.now(), KEEP, 100).expect("the first is too old");
        parcels.arrived(&thing("x"), Epoch(1), digest(&state(60)));
        assert_eq!(parcels.take(&thing("x"), "a", Epoch(1)), None);
        parcels.arrived(&thing("y"), Epoch(2), digest(&state(60)));
        assert_eq!(parcels.take(&thing("y"), "a", Epoch(1)), None, "it arrived under another epoch");
        assert_eq!(parcels.bytes, 0);
    }
}
