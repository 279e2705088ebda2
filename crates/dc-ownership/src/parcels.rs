//! State that came along with what is being handed to this node, until its title is there.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use bytes::Bytes;
use dc_core::Epoch;

use crate::order::Thing;

/// State by thing, for the one epoch that it was sent for. Bounded in bytes and in time.
#[derive(Debug, Default)]
pub(crate) struct Parcels {
    kept: HashMap<Thing, Parcel>,
    bytes: usize,
}

#[derive(Debug)]
struct Parcel {
    epoch: Epoch,
    /// `None` once it has arrived.
    until: Option<Instant>,
    bytes: usize,
    state: BTreeMap<String, Bytes>,
}

impl Parcels {
    /// Keeps `state` for the owner that this node is about to be under `epoch`; it replaces what came before.
    pub(crate) fn put(
        &mut self,
        thing: Thing,
        epoch: Epoch,
        state: Vec<(String, Bytes)>,
        now: Instant,
        keep: Duration,
        most: usize,
    ) -> Result<(), String> {
        self.expire(now);
        if self.kept.get(&thing).is_some_and(|kept| kept.epoch > epoch) {
            return Err(format!("state for a later epoch than {epoch} is here already"));
        }
        self.drop_of(&thing);
        let bytes = state.iter().map(|(identity, state)| identity.len() + state.len()).sum::<usize>();
        if self.bytes + bytes > most {
            return Err(format!("no room for {bytes} bytes of state: {} of {most} are in use", self.bytes));
        }
        self.bytes += bytes;
        let state = state.into_iter().collect();
        self.kept.insert(thing, Parcel { epoch, until: Some(now + keep), bytes, state });
        Ok(())
    }

    /// Takes the state of one identity of `thing`, if it was sent for this epoch.
    pub(crate) fn take(&mut self, thing: &Thing, identity: &str, epoch: Epoch) -> Option<Bytes> {
        let parcel = self.kept.get_mut(thing).filter(|parcel| parcel.epoch == epoch)?;
        let state = parcel.state.remove(identity)?;
        let freed = identity.len() + state.len();
        parcel.bytes -= freed;
        self.bytes -= freed;
        if parcel.state.is_empty() {
            self.kept.remove(thing);
        }
        Some(state)
    }

    /// What is left of a thing's state, if it was sent for this epoch.
    pub(crate) fn rest(&self, thing: &Thing, epoch: Epoch) -> Vec<(String, Bytes)> {
        let parcel = self.kept.get(thing).filter(|parcel| parcel.epoch == epoch);
        parcel
            .map(|parcel| parcel.state.iter().map(|(id, state)| (id.clone(), state.clone())).collect())
            .unwrap_or_default()
    }

    /// It has arrived: what was sent for this epoch stays as long as its owner, anything else goes.
    pub(crate) fn arrived(&mut self, thing: &Thing, epoch: Epoch) {
        match self.kept.get_mut(thing) {
            Some(parcel) if parcel.epoch == epoch => parcel.until = None,
            Some(_) => self.drop_of(thing),
            None => {}
        }
    }

    /// Forgets what was kept of `thing`.
    pub(crate) fn drop_of(&mut self, thing: &Thing) {
        if let Some(parcel) = self.kept.remove(thing) {
            self.bytes -= parcel.bytes;
        }
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.kept.clear();
        self.bytes = 0;
    }

    fn expire(&mut self, now: Instant) {
        let late: Vec<Thing> = self
            .kept
            .iter()
            .filter(|(_, parcel)| parcel.until.is_some_and(|until| until <= now))
            .map(|(thing, _)| thing.clone())
            .collect();
        late.iter().for_each(|thing| self.drop_of(thing));
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
        assert_eq!(parcels.take(&thing("x"), "a", Epoch(5)), None, "another owner's");
        assert_eq!(parcels.take(&thing("x"), "a", Epoch(4)).map(|state| state.len()), Some(3));
        assert_eq!(parcels.take(&thing("x"), "a", Epoch(4)), None);
        assert_eq!(parcels.bytes, 0);
        parcels.put(thing("x"), Epoch(7), state(3), clock.now(), KEEP, 100).expect("room");
        let late = parcels.put(thing("x"), Epoch(6), state(5), clock.now(), KEEP, 100);
        assert!(late.is_err(), "an earlier attempt that comes late replaces nothing");
        assert_eq!(parcels.take(&thing("x"), "a", Epoch(7)).map(|state| state.len()), Some(3));
    }

    #[test]
    fn kept_state_is_bounded_in_bytes_and_in_time() {
        let (mut parcels, clock) = (Parcels::default(), ManualClock::new());
        parcels.put(thing("x"), Epoch(1), state(60), clock.now(), KEEP, 100).expect("room");
        assert!(parcels.put(thing("y"), Epoch(1), state(60), clock.now(), KEEP, 100).is_err());
        clock.advance(KEEP);
        parcels.put(thing("y"), Epoch(1), state(60), clock.now(), KEEP, 100).expect("the first is too old");
        assert_eq!(parcels.take(&thing("x"), "a", Epoch(1)), None);
        parcels.arrived(&thing("y"), Epoch(2));
        assert_eq!(parcels.take(&thing("y"), "a", Epoch(1)), None, "it arrived under another epoch");
        assert_eq!(parcels.bytes, 0);
    }
}
