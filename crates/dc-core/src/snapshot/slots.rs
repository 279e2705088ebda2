//! Entries by slot number: chunks of 64, copied one chunk at a time.

use std::sync::Arc;

use super::Entry;
use crate::DataCenterId;

const CHUNK: usize = 64;
const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
enum Slot {
    Full(Arc<Entry>),
    /// Free; the next free slot, or `NONE`.
    Free(u32),
}

/// A persistent vector. A change to a clone copies one chunk and the list of chunks.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    chunks: Arc<Vec<Arc<[Slot; CHUNK]>>>,
    free: u32,
    len: usize,
}

impl Default for Slots {
    fn default() -> Self {
        Self { chunks: Arc::default(), free: NONE, len: 0 }
    }
}

fn place(slot: u32) -> (usize, usize) {
    let slot = slot as usize;
    (slot / CHUNK, slot % CHUNK)
}

impl Slots {
    /// Entries held.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Arc<Entry>> {
        let (chunk, at) = place(slot);
        match self.chunks.get(chunk).map(|chunk| &chunk[at]) {
            Some(Slot::Full(entry)) => Some(entry),
            _ => None,
        }
    }

    pub(super) fn id(&self, slot: u32) -> Option<&DataCenterId> {
        self.get(slot).map(|entry| entry.id())
    }

    /// Fills the free slot that was freed last, or a new one.
    pub(super) fn insert(&mut self, entry: Arc<Entry>) -> u32 {
        if self.free == NONE {
            self.grow();
        }
        let slot = self.free;
        self.free = match std::mem::replace(self.slot_mut(slot), Slot::Full(entry)) {
            Slot::Free(next) => next,
            // The free list links free slots only.
            Slot::Full(_) => NONE,
        };
        self.len += 1;
        slot
    }

    pub(super) fn replace(&mut self, slot: u32, entry: Arc<Entry>) {
        *self.slot_mut(slot) = Slot::Full(entry);
    }

    pub(super) fn remove(&mut self, slot: u32) {
        let next = self.free;
        *self.slot_mut(slot) = Slot::Free(next);
        self.free = slot;
        self.len -= 1;
    }

    fn slot_mut(&mut self, slot: u32) -> &mut Slot {
        let (chunk, at) = place(slot);
        &mut Arc::make_mut(&mut Arc::make_mut(&mut self.chunks)[chunk])[at]
    }

    fn grow(&mut self) {
        // Four thousand million slots of one entry each do not fit into memory.
        let first = u32::try_from(self.chunks.len() * CHUNK).expect("fewer than 2^32 slots");
        let chunk = std::array::from_fn(|at| {
            let next = first + at as u32 + 1;
            Slot::Free(if at + 1 == CHUNK { NONE } else { next })
        });
        Arc::make_mut(&mut self.chunks).push(Arc::new(chunk));
        self.free = first;
    }

    /// How many chunks are shared with `other`, of how many.
    #[cfg(test)]
    pub(super) fn shared_chunks(&self, other: &Self) -> (usize, usize) {
        let shared = self.chunks.iter().zip(other.chunks.iter()).filter(|(one, other)| Arc::ptr_eq(one, other)).count();
        (shared, self.chunks.len())
    }
}
