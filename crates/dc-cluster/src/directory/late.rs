//! Releases of a moment ago: what was asked before one, and comes after it, registers nothing.
//!
//! Questions travel side by side, and one may lie for seconds in the buffers of a process that stands still:
//! a claim may come after the release that takes it back.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use dc_core::NodeId;

use super::{Entry, rendezvous};

/// How long a release is remembered: longer than any question lies about.
const MEMORY: Duration = Duration::from_secs(60);
/// How many are remembered at most; the oldest go first.
const CAPACITY: usize = 8192;

/// Who asked, and which registration it was about: holder, actor, request, hash of the name.
type Id = (NodeId, NodeId, u64, u128, u64);

fn id(from: NodeId, entry: &Entry) -> Id {
    (from, entry.holder, entry.actor, entry.request, rendezvous::hash(entry.key.as_bytes()))
}

/// Releases, each with the reading of its sender's clock.
#[derive(Debug, Default)]
pub(super) struct Released {
    readings: HashMap<Id, u64>,
    order: VecDeque<(Instant, Id)>,
}

impl Released {
    /// `from` has released `entry` when its clock stood at `reading`.
    pub(super) fn add(&mut self, now: Instant, from: NodeId, entry: &Entry, reading: u64) {
        let id = id(from, entry);
        match self.readings.get_mut(&id) {
            Some(known) => *known = reading.max(*known),
            None => {
                self.readings.insert(id, reading);
                self.order.push_back((now, id));
            }
        }
        while let Some(&(since, id)) = self.order.front()
            && (self.order.len() > CAPACITY || now.saturating_duration_since(since) > MEMORY)
        {
            self.order.pop_front();
            self.readings.remove(&id);
        }
    }

    /// Whether `from` has released `entry` after its clock stood at `reading`.
    pub(super) fn after(&self, from: NodeId, entry: &Entry, reading: u64) -> bool {
        self.readings.get(&id(from, entry)).is_some_and(|released| reading < *released)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.order.len(), self.readings.len());
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use dc_core::{Clock, ManualClock};

    use super::*;

    fn entry(key: &str, actor: u64) -> Entry {
        let endpoint = "node.example:1".parse().unwrap();
        Entry { key: key.into(), kind: "k".into(), holder: NodeId(1), endpoint, actor, request: 9, age: 3 }
    }

    #[test]
    fn only_what_was_asked_before_the_release_is_late() {
        let (clock, mut released) = (ManualClock::new(), Released::default());
        let entry = entry("a/x", 7);
        released.add(clock.now(), NodeId(1), &entry, 100);
        released.add(clock.now(), NodeId(1), &entry, 50);
        assert!(released.after(NodeId(1), &entry, 99));
        assert!(!released.after(NodeId(1), &entry, 100), "claimed again, later");
        assert!(!released.after(NodeId(2), &entry, 99), "the clocks of two nodes are not compared");
        let others =
            [Entry { actor: 8, ..entry.clone() }, Entry { request: 8, ..entry.clone() }, self::entry("a/y", 7)];
        assert!(others.iter().all(|other| !released.after(NodeId(1), other, 99)));
    }

    #[test]
    fn as_many_are_remembered_as_there_is_room_for_and_none_forever() {
        let (clock, mut released) = (ManualClock::new(), Released::default());
        for actor in 0..CAPACITY as u64 + 10 {
            released.add(clock.now(), NodeId(1), &entry("a/x", actor), 100);
        }
        assert_eq!(released.len(), CAPACITY);
        assert!(!released.after(NodeId(1), &entry("a/x", 9), 1), "the oldest went first");
        assert!(released.after(NodeId(1), &entry("a/x", 10), 1));
        clock.advance(MEMORY + Duration::from_millis(1));
        released.add(clock.now(), NodeId(1), &entry("a/y", 1), 100);
        assert_eq!(released.len(), 1);
    }
}
