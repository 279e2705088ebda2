//! The actors of this node, by number.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;

use crate::host::AnyCell;

/// Readers of different actors rarely meet: one lock for each of these shares.
const SHARES: usize = 64;

/// All actors that run here. A number is never given twice in one run of a node.
pub(crate) struct Actors {
    next: AtomicU64,
    shares: [RwLock<HashMap<u64, Arc<dyn AnyCell>>>; SHARES],
}

impl Actors {
    pub(crate) fn new() -> Self {
        Self { next: AtomicU64::new(1), shares: std::array::from_fn(|_| RwLock::default()) }
    }

    /// A fresh number; 0 is never one.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn share(&self, number: u64) -> &RwLock<HashMap<u64, Arc<dyn AnyCell>>> {
        // The remainder is below the number of shares.
        &self.shares[(number % SHARES as u64) as usize]
    }

    pub(crate) fn get(&self, number: u64) -> Option<Arc<dyn AnyCell>> {
        self.share(number).read().get(&number).cloned()
    }

    pub(crate) fn insert(&self, cell: Arc<dyn AnyCell>) {
        let number = cell.core().number;
        self.share(number).write().insert(number, cell);
    }

    pub(crate) fn remove(&self, number: u64) {
        self.share(number).write().remove(&number);
    }

    pub(crate) fn len(&self) -> usize {
        self.shares.iter().map(|share| share.read().len()).sum()
    }

    pub(crate) fn all(&self) -> Vec<Arc<dyn AnyCell>> {
        self.shares.iter().flat_map(|share| share.read().values().cloned().collect::<Vec<_>>()).collect()
    }
}
