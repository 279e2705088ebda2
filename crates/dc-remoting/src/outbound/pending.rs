//! Asks and calls that have left and wait for their answer, by correlation.
//!
//! Only the lane's writer adds and only the link's readers remove: senders never meet here.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::ask::Ask;

/// The asks of one lane.
pub(crate) struct Pending {
    table: Mutex<Table>,
    count: AtomicUsize,
    max: usize,
}

#[derive(Default)]
pub(crate) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Distinguishes uses of one slot, so that a late answer finds nobody.
    generation: u32,
    closed: bool,
}

struct Slot {
    generation: u32,
    ask: Option<Ask>,
}

/// Slot, lane and generation in one number; never 0.
fn correlation(generation: u32, slot: u32, lane: u8) -> u64 {
    u64::from(generation) << 32 | u64::from(slot) << 2 | u64::from(lane & 3)
}

/// The lane whose table holds the asker of `correlation`.
pub(crate) fn lane_of(correlation: u64) -> usize {
    (correlation & 3) as usize
}

impl Pending {
    pub(crate) fn new(max: usize) -> Self {
        Self { table: Mutex::default(), count: AtomicUsize::new(0), max }
    }

    /// Unanswered asks, roughly.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn lock(&self) -> Locked<'_> {
        Locked { table: self.table.lock(), pending: self }
    }
}

/// The table, held for one frame.
pub(crate) struct Locked<'a> {
    table: MutexGuard<'a, Table>,
    pending: &'a Pending,
}

impl Locked<'_> {
    /// Adds an ask; gives it back where the table is full or closed.
    pub(crate) fn insert(&mut self, ask: Ask, lane: u8) -> Result<u64, Ask> {
        let table = &mut *self.table;
        if table.closed || table.slots.len() - table.free.len() >= self.pending.max {
            return Err(ask);
        }
        table.generation = table.generation.wrapping_add(1).max(1);
        let generation = table.generation;
        let slot = match table.free.pop() {
            Some(slot) => {
                table.slots[slot as usize] = Slot { generation, ask: Some(ask) };
                slot
            }
            None => {
                table.slots.push(Slot { generation, ask: Some(ask) });
                // At most `max` slots, which the configuration bounds far below 2^30.
                (table.slots.len() - 1) as u32
            }
        };
        Ok(correlation(generation, slot, lane))
    }

    /// Takes the asker out; `None` if it is unknown or was taken before.
    pub(crate) fn remove(&mut self, correlation: u64) -> Option<Ask> {
        let table = &mut *self.table;
        let slot = (correlation as u32) >> 2;
        let entry = table.slots.get_mut(slot as usize)?;
        if entry.generation != (correlation >> 32) as u32 {
            return None;
        }
        let ask = entry.ask.take()?;
        table.free.push(slot);
        Some(ask)
    }

    /// Forgets asks that nobody waits for any more.
    pub(crate) fn sweep(&mut self) {
        let Table { slots, free, .. } = &mut *self.table;
        for (index, slot) in slots.iter_mut().enumerate() {
            if slot.ask.as_ref().is_some_and(Ask::is_abandoned) {
                slot.ask = None;
                free.push(index as u32);
            }
        }
    }

    /// Takes all askers; nothing is added from now on.
    pub(crate) fn close(&mut self) -> Vec<Ask> {
        self.table.closed = true;
        self.table.free.clear();
        std::mem::take(&mut self.table.slots).into_iter().filter_map(|slot| slot.ask).collect()
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let count = self.table.slots.len() - self.table.free.len();
        self.pending.count.store(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use dc_core::{Clock, SystemClock};
    use proptest::prelude::*;

    use super::*;
    use crate::{Answer, outbound::ask::ask_pair};

    proptest! {
        /// R2: whatever the order of answers, late and doubled ones included, each asker gets its own, once.
        #[test]
        fn r2_each_answer_finds_its_asker_once(steps in proptest::collection::vec((any::<bool>(), any::<u16>()), 1..200)) {
            let pending = Pending::new(64);
            let mut open = HashMap::new();
            let mut all = Vec::new();
            for (n, (add, pick)) in steps.into_iter().enumerate() {
                if add || all.is_empty() {
                    let (ask, waiting) = ask_pair(SystemClock.now());
                    if let Ok(id) = pending.lock().insert(ask, 1) {
                        prop_assert!(open.insert(id, (n, waiting)).is_none(), "correlation used twice");
                        all.push(id);
                    }
                } else {
                    let id = all[pick as usize % all.len()];
                    let ask = pending.lock().remove(id);
                    prop_assert_eq!(ask.is_some(), open.contains_key(&id));
                    if let (Some(ask), Some((n, waiting))) = (ask, open.remove(&id)) {
                        ask.finish(Ok(Answer { status: n as u32, body: Bytes::new() }));
                        prop_assert_eq!(waiting.take().unwrap().unwrap().status, n as u32);
                    }
                }
                prop_assert_eq!(pending.len(), open.len());
            }
        }
    }
}
