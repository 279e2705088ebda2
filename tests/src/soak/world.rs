//! What happened around the messages, as the driver saw it: processes, links, disturbances.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::{
    checker::World,
    clock::{SECOND, now_us},
    proxy::Network,
};

/// How long after a disturbance grains may be active twice: A2's healing time, what tables and processes may lag, and
/// what a node takes to find that another datacenter has one of its grains active, too.
pub const HEAL: u64 = 11 * SECOND;

/// How far back disturbances are remembered.
const MEMORY: u64 = 180 * SECOND;

#[derive(Clone, Copy, Debug)]
struct Life {
    slot: usize,
    node: u64,
    ended_us: Option<u64>,
}

impl Life {
    /// Whether it went on beyond a time. Its end is noted before it is brought about: what it sends in between is sent by
    /// one that has ended.
    fn outlasts(&self, at_us: u64) -> bool {
        self.ended_us.is_none_or(|ended| ended > at_us)
    }
}

/// One time at which something was done to the system, or differed in it.
#[derive(Clone, Copy, Debug)]
struct Span {
    begin_us: u64,
    /// `None`: it lasts.
    end_us: Option<u64>,
}

/// The driver's record of the run.
#[derive(Debug)]
pub struct Around {
    per_dc: usize,
    network: Arc<Network>,
    lives: HashMap<u32, Life>,
    nodes: HashMap<u64, u32>,
    /// What the driver did.
    acts: VecDeque<Span>,
    /// What nodes said of members, leaders, datacenters and staleness.
    changes: VecDeque<u64>,
}

impl Around {
    /// A run that begins.
    pub fn new(per_dc: usize, network: Arc<Network>) -> Self {
        let (lives, nodes) = (HashMap::new(), HashMap::new());
        Self { per_dc, network, lives, nodes, acts: VecDeque::new(), changes: VecDeque::new() }
    }

    /// A process began.
    pub fn born(&mut self, run: u32, slot: usize) {
        self.lives.insert(run, Life { slot, node: 0, ended_us: None });
    }

    /// It told its id.
    pub fn named(&mut self, run: u32, node: u64) {
        if let Some(life) = self.lives.get_mut(&run) {
            life.node = node;
            self.nodes.insert(node, run);
        }
    }

    /// It is about to end.
    pub fn ends(&mut self, run: u32) {
        if let Some(life) = self.lives.get_mut(&run) {
            life.ended_us.get_or_insert_with(now_us);
        }
    }

    /// Something is being done to the system, until [`undone`](Self::undone).
    pub fn done(&mut self) {
        self.acts.push_back(Span { begin_us: now_us(), end_us: None });
        let old = now_us().saturating_sub(MEMORY);
        while self.acts.front().is_some_and(|span| span.end_us.is_some_and(|end| end < old)) {
            self.acts.pop_front();
        }
    }

    /// What was done is undone.
    pub fn undone(&mut self) {
        if let Some(last) = self.acts.back_mut() {
            last.end_us.get_or_insert_with(now_us);
        }
    }

    /// A node said that something changed.
    pub fn changed(&mut self, at_us: u64) {
        let old = now_us().saturating_sub(MEMORY);
        while self.changes.front().is_some_and(|at| *at < old) {
            self.changes.pop_front();
        }
        self.changes.push_back(at_us);
    }

    fn in_act(&self, at_us: u64, after: u64) -> bool {
        self.acts
            .iter()
            .any(|span| at_us + SECOND >= span.begin_us && span.end_us.is_none_or(|end| at_us <= end + after))
    }
}

impl World for Around {
    fn slot(&self, run: u32) -> Option<usize> {
        self.lives.get(&run).map(|life| life.slot)
    }

    fn dc(&self, slot: usize) -> usize {
        slot / self.per_dc
    }

    fn run_of_node(&self, node: u64) -> Option<u32> {
        self.nodes.get(&node).copied()
    }

    fn lived_until(&self, run: u32, end_us: u64) -> bool {
        self.lives.get(&run).is_some_and(|life| life.outlasts(end_us))
    }

    fn link_changed(&self, from: usize, to: usize, begin_us: u64, end_us: u64) -> bool {
        self.network.changed(from, to, begin_us, end_us)
    }

    fn disturbed(&self, at_us: u64) -> bool {
        let changed = |change: &u64| at_us + HEAL / 2 >= *change && at_us <= change + HEAL;
        self.in_act(at_us, HEAL) || self.changes.iter().any(changed)
    }

    fn quiet(&self, at_us: u64) -> bool {
        !self.in_act(at_us, HEAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_while_its_sender_is_being_ended_has_no_living_sender() {
        let life = Life { slot: 0, node: 0, ended_us: Some(100) };
        let times = [50, 99, 100, 150].map(|at| life.outlasts(at));
        assert_eq!(times, [true, true, false, false]);
        assert!(Life { ended_us: None, ..life }.outlasts(150));
    }
}
