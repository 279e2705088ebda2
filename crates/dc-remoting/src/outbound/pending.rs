//! Asks and calls that have left and wait for their answer, by correlation.
//!
//! Only the lane's writer adds and only the link's readers remove: senders never meet here.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

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
    /// No ask here is due before this; `None` where there is none.
    due: Option<Instant>,
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
        table.due = Some(table.due.map_or(ask.deadline, |due| due.min(ask.deadline)));
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

    /// Whether its asker still waits.
    pub(crate) fn waits(&self, correlation: u64) -> bool {
        let slot = self.table.slots.get((correlation as u32 >> 2) as usize);
        slot.is_some_and(|slot| slot.generation == (correlation >> 32) as u32 && slot.ask.is_some())
    }

    /// Takes out the asks whose time is over, and those that nobody waits for any more.
    /// Looks at the table only when something may be due.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Ask> {
        let Table { slots, free, due, .. } = &mut *self.table;
        if due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        let mut expired = Vec::new();
        *due = None;
        for (index, slot) in slots.iter_mut().enumerate() {
            let Some(ask) = &slot.ask else { continue };
            if ask.deadline > now && !ask.is_abandoned() {
                *due = Some(due.map_or(ask.deadline, |due| due.min(ask.deadline)));
                continue;
            }
            // At most `max` slots.
            free.push(index as u32);
            expired.extend(slot.ask.take());
        }
        expired
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
    use std::{collections::HashMap, time::Duration};

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

        /// R4: whatever is due leaves the table, nothing else does, and nothing is missed later.
        #[test]
        fn r4_asks_that_are_due_are_taken_out(
            due in proptest::collection::vec(0u64..100, 1..40),
            mut looks in proptest::collection::vec(0u64..100, 1..10),
        ) {
            let pending = Pending::new(64);
            let start = SystemClock.now();
            let mut open: Vec<_> = Vec::new();
            for &at in &due {
                let (ask, waiting) = ask_pair(start + Duration::from_secs(at));
                prop_assert!(pending.lock().insert(ask, 1).is_ok());
                open.push((at, waiting));
            }
            looks.sort_unstable();
            for look in looks {
                for ask in pending.lock().expire(start + Duration::from_secs(look)) {
                    ask.finish(Ok(Answer { status: 0, body: Bytes::new() }));
                }
                for (at, waiting) in &open {
                    prop_assert_eq!(waiting.take().is_some(), *at <= look, "due {} at {}", at, look);
                }
                open.retain(|(at, _)| *at > look);
                prop_assert_eq!(pending.len(), open.len());
            }
        }
    }
}
