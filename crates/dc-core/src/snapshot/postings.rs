//! Which slots carry a name, a region, a zone or a label.

use std::sync::Arc;

use super::{hash, shards::ShardMap, slots::Slots};
use crate::Routability;

/// Slots by what may be sent there, each list by the id of its entries.
#[derive(Clone, Debug, Default)]
pub(super) struct Posting {
    /// At [`place`]: placements, traffic only, nothing.
    lists: [List; 3],
}

/// Slots in order. Most names are borne by one datacenter: that needs no allocation, and no hop to read.
#[derive(Clone, Debug, Default)]
enum List {
    #[default]
    Empty,
    One(u32),
    Many(Arc<Vec<u32>>),
}

impl List {
    fn as_slice(&self) -> &[u32] {
        match self {
            Self::Empty => &[],
            Self::One(slot) => std::slice::from_ref(slot),
            Self::Many(slots) => slots,
        }
    }

    fn insert(&mut self, at: usize, slot: u32) {
        match self {
            Self::Empty => *self = Self::One(slot),
            Self::One(other) => {
                let pair = if at == 0 { vec![slot, *other] } else { vec![*other, slot] };
                *self = Self::Many(Arc::new(pair));
            }
            Self::Many(slots) => Arc::make_mut(slots).insert(at, slot),
        }
    }

    fn remove(&mut self, at: usize) {
        match self {
            Self::Empty | Self::One(_) => *self = Self::Empty,
            Self::Many(slots) if slots.len() == 2 => *self = Self::One(slots[1 - at]),
            Self::Many(slots) => drop(Arc::make_mut(slots).remove(at)),
        }
    }
}

fn place(class: Routability) -> usize {
    match class {
        Routability::Placements => 0,
        Routability::Traffic => 1,
        Routability::Nothing => 2,
    }
}

impl Posting {
    /// The lists of what takes at least `at_least`; the others empty.
    pub(super) fn lists(&self, at_least: Routability) -> [&[u32]; 3] {
        let last = place(at_least);
        std::array::from_fn(|at| if at <= last { self.lists[at].as_slice() } else { &[] })
    }

    /// How many slots take at least `at_least`.
    pub(super) fn len(&self, at_least: Routability) -> usize {
        self.lists[..=place(at_least)].iter().map(|list| list.as_slice().len()).sum()
    }

    /// Adds a slot, which is full already.
    pub(super) fn add(&mut self, class: Routability, slot: u32, slots: &Slots) {
        let list = &mut self.lists[place(class)];
        let at = list.as_slice().partition_point(|&other| slots.id(other) < slots.id(slot));
        list.insert(at, slot);
    }

    pub(super) fn take(&mut self, class: Routability, slot: u32) {
        let list = &mut self.lists[place(class)];
        if let Some(at) = list.as_slice().iter().position(|&other| other == slot) {
            list.remove(at);
        }
    }

    fn is_empty(&self) -> bool {
        self.len(Routability::Nothing) == 0
    }
}

#[derive(Clone, Debug)]
struct Keyed {
    key: Box<str>,
    value: Box<str>,
    posting: Posting,
}

impl Keyed {
    fn is(&self, key: &str, value: &str) -> bool {
        // Empty strings are not compared: their dangling pointers cost glibc's vectorised memcmp 100 ns.
        *self.key == *key && self.value.len() == value.len() && (value.is_empty() || *self.value == *value)
    }
}

/// Postings by key and value (of a label; elsewhere the value is empty).
#[derive(Clone, Debug, Default)]
pub(super) struct Postings(ShardMap<Arc<Keyed>>);

fn hash_of(key: &str, value: &str) -> u64 {
    let hash = hash::index(key.as_bytes());
    if value.is_empty() { hash } else { hash::mix(hash ^ hash::index(value.as_bytes()).rotate_left(29)) }
}

impl Postings {
    #[cfg(test)]
    pub(super) fn shares_all_with(&self, other: &Self) -> bool {
        self.0.shares_all_with(&other.0)
    }

    pub(super) fn get(&self, key: &str, value: &str) -> Option<&Posting> {
        let is_it = |keyed: &Arc<Keyed>| keyed.is(key, value);
        self.0.find(hash_of(key, value), is_it).map(|keyed| &keyed.posting)
    }

    pub(super) fn add(&mut self, key: &str, value: &str, class: Routability, slot: u32, slots: &Slots) {
        let hash = hash_of(key, value);
        let is_it = |keyed: &Arc<Keyed>| keyed.is(key, value);
        if let Some(keyed) = self.0.find_mut(hash, is_it) {
            Arc::make_mut(keyed).posting.add(class, slot, slots);
            return;
        }
        let mut posting = Posting::default();
        posting.add(class, slot, slots);
        self.0.insert(hash, Arc::new(Keyed { key: key.into(), value: value.into(), posting }));
    }

    pub(super) fn take(&mut self, key: &str, value: &str, class: Routability, slot: u32) {
        let hash = hash_of(key, value);
        let is_it = |keyed: &Arc<Keyed>| keyed.is(key, value);
        let Some(keyed) = self.0.find_mut(hash, is_it) else { return };
        let posting = &mut Arc::make_mut(keyed).posting;
        posting.take(class, slot);
        if posting.is_empty() {
            self.0.remove(hash, is_it);
        }
    }
}
