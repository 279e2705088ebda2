//! The routing snapshot: every known datacenter (DC) at one moment, indexed.
//!
//! Owns the structure that a routing decision reads: entries by slot, indexes
//! by id, name, region, zone and label, the list of homes for grains. A
//! [`Snapshot`] is a value: reading takes no lock and allocates nothing (C1),
//! cloning shares everything, and a change to a clone copies only what it
//! touches (one chunk of slots; the posting lists only when a DC joins, leaves or
//! changes what may be sent to it). It must not know where entries come from
//! or when they end: dc-cache decides that and writes it down as [`Seen`].
//!
//! Reading order: [`Entry`], [`Seen`], [`Snapshot`], [`Candidates`], [`hash`].

mod candidates;
mod entry;
pub mod hash;
mod postings;
mod shards;
mod slots;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

pub use candidates::Candidates;
pub use entry::{Entry, Freshness, Seen};

use self::{
    postings::{Posting, Postings},
    shards::ShardMap,
    slots::Slots,
};
use crate::{DataCenterId, DataCenterSelector, Routability, StoreId};

/// An immutable view of all known datacenters.
///
/// Lookups cost the same at 3 and at 10,000 records. Two snapshots of the same
/// content iterate in the same order (by DC id), whatever happened before.
///
/// ```
/// use dc_core::{DataCenterId, Routability, Selector, Snapshot};
/// let snapshot = Snapshot::default();
/// assert!(snapshot.get(&"eu/dc-1".parse::<DataCenterId>()?).is_none());
/// assert!(snapshot.candidates(&Selector::region("eu"), Routability::Traffic).is_empty());
/// # Ok::<(), dc_core::Invalid>(())
/// ```
#[derive(Clone, Default)]
pub struct Snapshot {
    store: Option<StoreId>,
    generation: u64,
    slots: Slots,
    by_id: ShardMap<u32>,
    by_name: Postings,
    by_region: Postings,
    by_zone: Postings,
    by_label: Postings,
    all: Posting,
    homes: Arc<Vec<Home>>,
}

/// A DC that may be a home: the hash of its id, and its slot.
#[derive(Clone, Copy, Debug)]
struct Home {
    hash: u64,
    slot: u32,
}

impl Snapshot {
    /// How many datacenters are known, whatever may be sent to them.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The store incarnation that this view is of; `None` before the first contact.
    pub fn store(&self) -> Option<StoreId> {
        self.store
    }

    /// Grows with each change but mere renewals: a cheap "has anything changed".
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The entry of one datacenter, routable or not.
    pub fn get(&self, id: &DataCenterId) -> Option<&Arc<Entry>> {
        self.slot_of(id).and_then(|slot| self.slots.get(slot))
    }

    /// All entries, by id; what takes placements first, then what takes traffic only, then the rest.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.candidates_of(None, Routability::Nothing).iter()
    }

    /// What matches `selector` and takes at least `at_least`, found through the shortest index that applies.
    ///
    /// Neither allocates nor walks: see [`Candidates`].
    pub fn candidates<'a>(&'a self, selector: &'a DataCenterSelector, at_least: Routability) -> Candidates<'a> {
        self.candidates_of(Some(selector), at_least)
    }

    /// Datacenters that may be homes of grains, by id: whatever takes traffic
    /// (ACTIVE, DRAINING, and those in C5's grace).
    pub fn homes(&self) -> impl ExactSizeIterator<Item = &Arc<Entry>> {
        // A home's slot is always full: both change together in `put` and `remove`.
        self.homes.iter().map(|home| self.slots.get(home.slot).expect("a home's slot is full"))
    }

    /// The home of `key`, chosen by all nodes alike: rendezvous hashing as written down in [`hash`].
    ///
    /// One multiplication or two for each home; no allocation. `None` where there is no home.
    pub fn home_of(&self, key: &[u8]) -> Option<&Arc<Entry>> {
        self.home_where(key, |_| true)
    }

    /// As [`home_of`](Self::home_of), among the homes that `eligible` accepts
    /// (a DRAINING home sends new grains on to the best that takes placements).
    pub fn home_where(&self, key: &[u8], eligible: impl Fn(&Entry) -> bool) -> Option<&Arc<Entry>> {
        let key = hash::key(key);
        let mut best: Option<(u64, &Arc<Entry>)> = None;
        for home in self.homes.iter() {
            let score = hash::score(home.hash, key);
            if best.is_some_and(|(highest, _)| highest >= score) {
                continue;
            }
            if let Some(entry) = self.slots.get(home.slot).filter(|entry| eligible(entry)) {
                best = Some((score, entry));
            }
        }
        best.map(|(_, entry)| entry)
    }

    /// All homes of `key`, best first: where to look next, should the first be gone. Allocates.
    pub fn homes_ranked(&self, key: &[u8]) -> Vec<&Arc<Entry>> {
        let key = hash::key(key);
        let mut homes: Vec<_> =
            self.homes().zip(self.homes.iter()).map(|(entry, home)| (hash::score(home.hash, key), entry)).collect();
        // Stable: equal scores stay in the order of their ids, as in `home_of`.
        homes.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
        homes.into_iter().map(|(_, entry)| entry).collect()
    }

    /// Writes down which store incarnation this view is of.
    pub fn set_store(&mut self, store: Option<StoreId>) {
        self.generation += u64::from(self.store != store);
        self.store = store;
    }

    /// Adds `entry`, or replaces the one of the same id, and returns what was replaced.
    ///
    /// A renewal (same place, same routability) copies one chunk of slots and touches no index.
    pub fn put(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let Some(slot) = self.slot_of(entry.id()) else {
            self.generation += 1;
            let hash = hash::index(entry.id().as_str().as_bytes());
            let slot = self.slots.insert(Arc::clone(&entry));
            self.by_id.insert(hash, slot);
            self.link(slot, &entry);
            self.set_home(slot, &entry);
            return None;
        };
        // The slot came from the index, so it is full.
        let old = self.slots.get(slot).map(Arc::clone)?;
        self.generation += u64::from(!old.same_but_lease(&entry));
        if old.routability() == entry.routability() && old.data_center() == entry.data_center() {
            self.slots.replace(slot, entry);
        } else {
            self.unlink(slot, &old);
            self.slots.replace(slot, Arc::clone(&entry));
            self.link(slot, &entry);
            if old.takes_traffic() != entry.takes_traffic() {
                self.unset_home(slot);
                self.set_home(slot, &entry);
            }
        }
        Some(old)
    }

    /// Removes the entry of `id` and returns it.
    pub fn remove(&mut self, id: &DataCenterId) -> Option<Arc<Entry>> {
        let slot = self.slot_of(id)?;
        let entry = self.slots.get(slot).map(Arc::clone)?;
        self.generation += 1;
        self.unlink(slot, &entry);
        self.unset_home(slot);
        self.by_id.remove(hash::index(id.as_str().as_bytes()), |&other| other == slot);
        self.slots.remove(slot);
        Some(entry)
    }

    fn slot_of(&self, id: &DataCenterId) -> Option<u32> {
        let is_it = |slot: &u32| self.slots.get(*slot).is_some_and(|entry| entry.id() == id);
        self.by_id.find(hash::index(id.as_str().as_bytes()), is_it).copied()
    }

    fn link(&mut self, slot: u32, entry: &Entry) {
        let (dc, class) = (entry.data_center(), entry.routability());
        let slots = &self.slots;
        self.by_name.add(dc.name(), "", class, slot, slots);
        if let Some(region) = dc.region() {
            self.by_region.add(region, "", class, slot, slots);
        }
        if let Some(zone) = dc.zone() {
            self.by_zone.add(zone, "", class, slot, slots);
        }
        for (key, value) in dc.labels() {
            self.by_label.add(key, value, class, slot, slots);
        }
        self.all.add(class, slot, slots);
    }

    /// Makes `entry` a home, if it may be one. Its slot is full already.
    fn set_home(&mut self, slot: u32, entry: &Entry) {
        if entry.takes_traffic() {
            let slots = &self.slots;
            let at = self.homes.partition_point(|home| slots.id(home.slot) < Some(entry.id()));
            Arc::make_mut(&mut self.homes).insert(at, Home { hash: entry.home_hash(), slot });
        }
    }

    fn unset_home(&mut self, slot: u32) {
        if let Some(at) = self.homes.iter().position(|home| home.slot == slot) {
            Arc::make_mut(&mut self.homes).remove(at);
        }
    }

    fn unlink(&mut self, slot: u32, entry: &Entry) {
        let (dc, class) = (entry.data_center(), entry.routability());
        self.by_name.take(dc.name(), "", class, slot);
        if let Some(region) = dc.region() {
            self.by_region.take(region, "", class, slot);
        }
        if let Some(zone) = dc.zone() {
            self.by_zone.take(zone, "", class, slot);
        }
        for (key, value) in dc.labels() {
            self.by_label.take(key, value, class, slot);
        }
        self.all.take(class, slot);
    }
}

impl fmt::Debug for Snapshot {
    /// How many of what, and of which store; entries are printed one by one where they are wanted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("store", &self.store)
            .field("generation", &self.generation)
            .field("known", &self.len())
            .field("homes", &self.homes.len())
            .finish()
    }
}
