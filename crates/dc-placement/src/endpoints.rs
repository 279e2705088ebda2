//! Which endpoint of a datacenter, and in which order the others follow.

use std::{sync::Arc, time::Duration};

use dc_core::{Entry, NodeEndpoint};

use crate::{
    Request, Strategy,
    rng::{Rng, rank},
};

/// What was chosen, borrowed from the snapshot and the request.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    entry: &'a Arc<Entry>,
    first: usize,
    turn: u64,
    stale: Option<Duration>,
    request: Request<'a>,
}

/// A [`Choice`] that stands by itself, so that it can be kept across an await.
#[derive(Clone, Debug)]
pub struct Chosen {
    entry: Arc<Entry>,
    order: Vec<u32>,
    stale: Option<Duration>,
}

impl<'a> Choice<'a> {
    pub(crate) fn new(
        entry: &'a Arc<Entry>,
        first: usize,
        turn: u64,
        stale: Option<Duration>,
        request: Request<'a>,
    ) -> Self {
        Self { entry, first, turn, stale, request }
    }

    /// The datacenter.
    pub fn entry(&self) -> &'a Arc<Entry> {
        self.entry
    }

    /// The endpoint to try first.
    pub fn endpoint(&self) -> &'a NodeEndpoint {
        &self.entry.endpoints()[self.first]
    }

    /// How old the table is, where it is stale and the choice was made all the same (C5): say so.
    pub fn stale(&self) -> Option<Duration> {
        self.stale
    }

    /// The endpoints in the order to try (L3): each that may be chosen, once. Allocates from the second one on.
    pub fn endpoints(&self) -> impl Iterator<Item = &'a NodeEndpoint> + use<'a> {
        let choice = *self;
        let nodes = self.entry.endpoints();
        let mut rest: Option<std::vec::IntoIter<u32>> = None;
        let mut begun = false;
        std::iter::from_fn(move || {
            if !std::mem::replace(&mut begun, true) {
                return Some(choice.first);
            }
            rest.get_or_insert_with(|| choice.others().into_iter()).next().map(|at| at as usize)
        })
        .map(|at| &nodes[at])
    }

    /// The choice by itself: the entry, and the order of its endpoints.
    pub fn detach(&self) -> Chosen {
        let mut order = self.others();
        order.insert(0, self.first as u32);
        Chosen { entry: Arc::clone(self.entry), order, stale: self.stale }
    }

    /// What follows the first endpoint.
    fn others(&self) -> Vec<u32> {
        let (request, nodes, turn) = (&self.request, self.entry.endpoints(), self.turn);
        // A record holds at most 4,096 endpoints.
        let mut others: Vec<u32> =
            (0..nodes.len()).filter(|&at| at != self.first && request.admits(&nodes[at])).map(|at| at as u32).collect();
        match request.strategy {
            Strategy::Random => others.sort_by_cached_key(|&at| rank(turn, at as usize)),
            Strategy::RoundRobin => {
                others.sort_by_key(|&at| (at as usize + nodes.len() - self.first) % nodes.len());
            }
            Strategy::Nearest | Strategy::LeastLoaded => {
                others.sort_by_cached_key(|&at| (key(&nodes[at as usize], request), rank(turn, at as usize)));
            }
            Strategy::Weighted => others.sort_by_cached_key(|&at| by_lot(turn, at as usize, nodes[at as usize].weight)),
        }
        others
    }
}

impl Chosen {
    /// The datacenter.
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// The endpoints in the order to try (L3): each that may be chosen, once; at least one.
    pub fn endpoints(&self) -> impl ExactSizeIterator<Item = &NodeEndpoint> {
        let nodes = self.entry.endpoints();
        self.order.iter().map(|&at| &nodes[at as usize])
    }

    /// How old the table was, where it was stale and the choice was made all the same (C5): say so.
    pub fn stale(&self) -> Option<Duration> {
        self.stale
    }
}

/// Lower is better; of distance or of load.
fn key(node: &NodeEndpoint, request: &Request<'_>) -> u128 {
    match request.strategy {
        Strategy::Nearest => request.signals.rtt(node).map_or(u128::MAX, |rtt| rtt.as_nanos()),
        Strategy::LeastLoaded => u128::from(request.signals.load(node).unwrap_or(0)),
        Strategy::Random | Strategy::RoundRobin | Strategy::Weighted => 0,
    }
}

/// The key of the best endpoint of `entry`; `None` where none may be chosen.
pub(crate) fn best_key(entry: &Entry, request: &Request<'_>) -> Option<u128> {
    entry.endpoints().iter().filter(|node| request.admits(node)).map(|node| key(node, request)).min()
}

/// A weighted random order without replacement (Efraimidis and Spirakis, 2006): the key is an exponentially
/// distributed waiting time whose rate is the weight. Lower comes first.
fn by_lot(turn: u64, at: usize, weight: u32) -> u64 {
    // 53 random bits: above 0, at most 1.
    let uniform = ((rank(turn, at) >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    let waiting = -uniform.ln() / f64::from(weight.max(1));
    // The bits of floats that are not negative sort as the floats do.
    waiting.abs().to_bits()
}

/// The number of the endpoint to try first; `None` where none may be chosen.
pub(crate) fn first_endpoint(entry: &Entry, request: &Request<'_>, turn: u64) -> Option<usize> {
    let nodes = entry.endpoints();
    let count = nodes.len();
    if count == 0 {
        return None;
    }
    match request.strategy {
        Strategy::Random => {
            let mut rng = Rng::new(turn);
            let drawn = rng.index(count);
            if request.exclude.is_empty() {
                return Some(drawn);
            }
            let admitted = nodes.iter().filter(|node| request.admits(node)).count();
            if admitted == 0 {
                return None;
            }
            let nth = rng.index(admitted);
            (0..count).filter(|&at| request.admits(&nodes[at])).nth(nth)
        }
        Strategy::RoundRobin => {
            let start = (turn % count as u64) as usize;
            (0..count).map(|step| (start + step) % count).find(|&at| request.admits(&nodes[at]))
        }
        Strategy::Nearest | Strategy::LeastLoaded => (0..count)
            .filter(|&at| request.admits(&nodes[at]))
            .min_by_key(|&at| (key(&nodes[at], request), rank(turn, at))),
        Strategy::Weighted => {
            (0..count).filter(|&at| request.admits(&nodes[at])).min_by_key(|&at| by_lot(turn, at, nodes[at].weight))
        }
    }
}
