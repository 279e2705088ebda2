//! Requests whose actor has stopped: a repeated spawn must not run again (L3).

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::Entry;

/// How long a request is remembered after its entry was released.
const MEMORY: Duration = Duration::from_secs(600);
/// How many are remembered at most; the oldest go first.
const CAPACITY: usize = 8192;

/// Entries that were released, by request id.
#[derive(Debug, Default)]
pub(crate) struct Spent {
    by_request: HashMap<u128, Entry>,
    order: VecDeque<(Instant, u128)>,
}

impl Spent {
    /// Remembers `entry`. Without a request id there is nothing to remember.
    pub(crate) fn add(&mut self, now: Instant, entry: Entry) {
        if entry.request != 0 && !self.by_request.contains_key(&entry.request) {
            self.order.push_back((now, entry.request));
            self.by_request.insert(entry.request, entry);
        }
        while let Some(&(since, request)) = self.order.front()
            && (self.order.len() > CAPACITY || now.saturating_duration_since(since) > MEMORY)
        {
            self.order.pop_front();
            self.by_request.remove(&request);
        }
    }

    /// The entry that `request` claimed under `key`, if it was released not too long ago.
    pub(crate) fn get(&self, key: &str, request: u128) -> Option<&Entry> {
        self.by_request.get(&request).filter(|entry| entry.key == key && request != 0)
    }

    /// The newest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.order.iter().rev().filter_map(|(_, request)| self.by_request.get(request))
    }
}
