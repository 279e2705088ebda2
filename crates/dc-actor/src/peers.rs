//! Other nodes as links vouch for them: who one is, where it is listed, and how much of its questions is at work here.
//!
//! Certificates prove the datacenter of a peer, and not its node id, which is drawn anew at each start: a node is known
//! by both together, so that no datacenter touches what is noted of another one's nodes.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use dc_core::{DataCenterId, Endpoint, NodeId, Seen};
use dc_remoting::{PeerIdentity, ServiceId};
use parking_lot::Mutex;

use crate::{error::Error, measure, reference::Location, system::Node, wire};

/// A node of a datacenter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PeerId {
    pub(crate) dc: DataCenterId,
    pub(crate) node: NodeId,
}

impl PeerId {
    pub(crate) fn of(peer: &PeerIdentity) -> Self {
        Self { dc: peer.dc.clone(), node: peer.node }
    }

    /// Whether it is the node of this place.
    pub(crate) fn has(&self, place: &Location) -> bool {
        self.node == place.node && self.dc == place.dc
    }
}

impl From<&Location> for PeerId {
    fn from(place: &Location) -> Self {
        Self { dc: place.dc.clone(), node: place.node }
    }
}

/// Where its datacenter lists a node, as far as is known here; `None` for one that nobody lists.
pub(crate) fn listed(node: &Node, peer: &PeerId) -> Option<Endpoint> {
    if peer.dc == *node.data_center().id() {
        return node.view().member(peer.node).map(|member| member.endpoint.clone());
    }
    let snapshot = node.table().snapshot();
    let entry = snapshot.get(&peer.dc).filter(|entry| entry.seen() != Seen::Expired)?;
    entry.endpoints().iter().find(|endpoint| endpoint.node == peer.node).map(|endpoint| endpoint.endpoint.clone())
}

/// The longest that a question is worked at for its asker, whatever time that gives it.
pub(crate) const LONGEST_QUESTION: Duration = Duration::from_secs(3_600);

/// How much may be at work at once.
#[derive(Clone, Copy, Debug)]
struct Bound {
    questions: usize,
    /// Spawns among them.
    spawns: usize,
    bytes: usize,
}

/// For one node, however many links it has, or had.
const OF_A_NODE: Bound = Bound { questions: 16_384, spawns: 4_096, bytes: 64 << 20 };

/// For all nodes of another datacenter.
const OF_A_DATA_CENTER: Bound = Bound { questions: 49_152, spawns: 12_288, bytes: 192 << 20 };

/// For all other datacenters together; as much again for the own one, whose nodes do not wait for strangers.
const OF_ALL: Bound = Bound { questions: 65_536, spawns: 16_384, bytes: 256 << 20 };

/// The questions of other nodes that are at work here: bounded, and given back with the answer. A link that ends takes
/// none of them away: work on a question goes on, and whoever dials again has them still.
pub(crate) struct AtWork {
    own: DataCenterId,
    loads: Mutex<Loads>,
}

#[derive(Default)]
struct Loads {
    /// Of other datacenters.
    others: Load,
    data_centers: HashMap<DataCenterId, Load>,
    nodes: HashMap<PeerId, Load>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    questions: usize,
    spawns: usize,
    bytes: usize,
}

impl Load {
    fn add(&mut self, more: Self) {
        self.questions += more.questions;
        self.spawns += more.spawns;
        self.bytes += more.bytes;
    }

    fn take(&mut self, less: Self) {
        self.questions -= less.questions;
        self.spawns -= less.spawns;
        self.bytes -= less.bytes;
    }

    /// The bound that `more` would pass, by its name in metrics.
    fn full(&self, more: Self, bound: Bound) -> Option<(&'static str, usize)> {
        if self.questions + more.questions > bound.questions {
            Some(("questions", bound.questions))
        } else if self.spawns + more.spawns > bound.spawns {
            Some(("pending_spawns", bound.spawns))
        } else if self.bytes + more.bytes > bound.bytes {
            Some(("question_bytes", bound.bytes))
        } else {
            None
        }
    }
}

impl AtWork {
    pub(crate) fn new(own: DataCenterId) -> Arc<Self> {
        Arc::new(Self { own, loads: Mutex::default() })
    }

    /// Notes a question with a body of so many bytes, until what this gives is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`] names the bound that is reached: it certainly did not run.
    pub(crate) fn begin(self: &Arc<Self>, from: PeerId, service: ServiceId, bytes: usize) -> Result<Seat, Error> {
        let load = Load { questions: 1, spawns: usize::from(service == wire::SPAWN), bytes };
        let mut loads = self.loads.lock();
        let of_dc = loads.data_centers.get(&from.dc).copied().unwrap_or_default();
        let of_node = loads.nodes.get(&from).copied().unwrap_or_default();
        let is_own = from.dc == self.own;
        let (most_of_dc, others) = if is_own { (OF_ALL, Load::default()) } else { (OF_A_DATA_CENTER, loads.others) };
        let full = |whose, of: Load, bound| of.full(load, bound).map(|full| (whose, full));
        let full = full("one node", of_node, OF_A_NODE)
            .or_else(|| full("one datacenter", of_dc, most_of_dc))
            .or_else(|| full("other datacenters", others, OF_ALL));
        if let Some((whose, (limit, most))) = full {
            drop(loads);
            measure::limit(limit);
            return Err(Error::Overloaded { what: format!("a node at work for {whose} (`{limit}`, {most})") });
        }
        if !is_own {
            loads.others.add(load);
        }
        loads.data_centers.entry(from.dc.clone()).or_default().add(load);
        loads.nodes.entry(from.clone()).or_default().add(load);
        drop(loads);
        Ok(Seat { at_work: self.clone(), from, load })
    }
}

/// One question at work.
pub(crate) struct Seat {
    at_work: Arc<AtWork>,
    from: PeerId,
    load: Load,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut loads = self.at_work.loads.lock();
        if self.from.dc != self.at_work.own {
            loads.others.take(self.load);
        }
        give_back(&mut loads.data_centers, self.from.dc.clone(), self.load);
        give_back(&mut loads.nodes, self.from.clone(), self.load);
    }
}

fn give_back<K: Eq + Hash>(loads: &mut HashMap<K, Load>, of: K, load: Load) {
    if let Entry::Occupied(mut noted) = loads.entry(of) {
        noted.get_mut().take(load);
        // Nothing is kept of those who ask nothing.
        if *noted.get() == Load::default() {
            noted.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(dc: &str, node: u128) -> PeerId {
        PeerId { dc: dc.parse().unwrap(), node: NodeId(node) }
    }

    fn at_work() -> Arc<AtWork> {
        AtWork::new("dc-1".parse().unwrap())
    }

    fn refused(at_work: &Arc<AtWork>, from: PeerId, service: ServiceId, bytes: usize) -> String {
        match at_work.begin(from, service, bytes) {
            Err(Error::Overloaded { what }) => what,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("taken"),
        }
    }

    #[test]
    fn r5_questions_of_one_node_are_bounded_and_given_back_with_the_answer() {
        let at_work = at_work();
        let begin = |service, bytes| at_work.begin(peer("dc-2", 1), service, bytes).ok();
        let mut seats: Vec<_> = (0..OF_A_NODE.spawns).map(|_| begin(wire::SPAWN, 10).expect("room")).collect();
        let spawn = refused(&at_work, peer("dc-2", 1), wire::SPAWN, 10);
        assert!(spawn.contains("one node") && spawn.contains("pending_spawns"), "{spawn}");
        while seats.len() < OF_A_NODE.questions {
            seats.push(begin(wire::LOOKUP, 10).expect("room for what is no spawn"));
        }
        let lookup = refused(&at_work, peer("dc-2", 1), wire::LOOKUP, 10);
        assert!(lookup.contains("one node") && lookup.contains("`questions`"), "{lookup}");
        assert!(at_work.begin(peer("dc-2", 2), wire::SPAWN, 10).is_ok(), "another node");
        assert!(at_work.begin(peer("dc-3", 1), wire::SPAWN, 10).is_ok(), "who gives itself that id elsewhere");
        seats.pop();
        assert!(begin(wire::LOOKUP, 10).is_some(), "there is room again");
        seats.clear();
        let large = begin(wire::SPAWN, OF_A_NODE.bytes).expect("room");
        let more = refused(&at_work, peer("dc-2", 1), wire::LOOKUP, 1);
        assert!(more.contains("question_bytes"), "{more}");
        drop(large);
        let loads = at_work.loads.lock();
        assert!(loads.others == Load::default() && loads.nodes.is_empty() && loads.data_centers.is_empty());
    }

    #[test]
    fn r5_neither_one_datacenter_nor_all_together_take_everything() {
        let at_work = at_work();
        // As many ids as it likes.
        let mut seats = Vec::new();
        let full = loop {
            let from = peer("dc-2", seats.len() as u128);
            match at_work.begin(from, wire::LOOKUP, 0) {
                Ok(seat) => seats.push(seat),
                Err(error) => break error.to_string(),
            }
        };
        assert!(seats.len() == OF_A_DATA_CENTER.questions && full.contains("one datacenter"), "{full}");
        while seats.len() < OF_ALL.questions {
            let from = peer("dc-3", seats.len() as u128);
            let seat = at_work.begin(from, wire::LOOKUP, 0);
            seats.push(seat.unwrap_or_else(|error| panic!("another datacenter has room: {error}")));
        }
        let full = refused(&at_work, peer("dc-9", 1), wire::LOOKUP, 0);
        assert!(full.contains("other datacenters"), "{full}");
        assert!(at_work.begin(peer("dc-1", 1), wire::LOOKUP, 0).is_ok(), "the own nodes have room of their own");
    }
}
