//! What must hold after every step. The first thing that does not is kept, and ends the run.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use multidc::OwnershipView;
use multidc_ledger::By;
use parking_lot::Mutex;

use crate::{count::Counts, net::Run};

/// An activation that has begun to start and has not ended.
#[derive(Clone)]
pub struct Live {
    /// Where.
    pub run: Run,
    /// In which datacenter.
    pub dc: Arc<str>,
    /// Its number, never used twice.
    pub activation: u64,
    /// Under which epoch.
    pub epoch: u64,
    /// Its proof.
    pub owned: OwnershipView,
}

#[derive(Default)]
struct State {
    live: BTreeMap<String, Vec<Live>>,
    /// The highest epoch under which each identity has accepted work, and where.
    accepted: BTreeMap<String, (u64, Run)>,
    /// The same at each receiver.
    received: BTreeMap<(u64, String), u64>,
    /// Runs that have crashed, and whether their whole datacenter was gone then.
    lost: BTreeMap<Run, bool>,
    /// Datacenters that have drained, and are to stay so.
    drained: BTreeMap<Arc<str>, u64>,
    wrong: Option<String>,
}

/// The checks of one run.
#[derive(Default)]
pub struct Check {
    state: Mutex<State>,
    numbers: AtomicU64,
    counts: Counts,
}

impl Check {
    /// Checks that count here what they see.
    pub fn new(counts: Counts) -> Self {
        Self { counts, ..Self::default() }
    }

    /// A number that was never given before.
    pub fn next(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Something that must hold does not.
    pub fn wrong(&self, what: String) {
        self.state.lock().wrong.get_or_insert(what);
    }

    /// What does not hold, if anything.
    pub fn found(&self) -> Option<String> {
        self.state.lock().wrong.clone()
    }

    /// An activation begins.
    pub fn started(&self, identity: &str, live: Live) {
        let mut state = self.state.lock();
        let grain = identity.starts_with("tally/") || identity.starts_with("plain/");
        if let Some(since) = state.drained.get(&live.dc).filter(|_| grain) {
            let what = format!(
                "a drain that undoes itself: {identity} starts under {} on {:?} of {}, which has drained at {since} us",
                live.epoch, live.run, live.dc
            );
            state.wrong.get_or_insert(what);
        }
        state.live.entry(identity.to_owned()).or_default().push(live);
    }

    /// An activation has ended.
    pub fn ended(&self, identity: &str, activation: u64) {
        if let Some(live) = self.state.lock().live.get_mut(identity) {
            live.retain(|live| live.activation != activation);
        }
    }

    /// A node is gone with all that ran there; `alone`: it was the last one of its datacenter.
    pub fn crashed(&self, run: Run, alone: bool) {
        let mut state = self.state.lock();
        state.lost.insert(run, alone);
        for live in state.live.values_mut() {
            live.retain(|live| live.run != run);
        }
    }

    /// An activation accepts work: it is the one with the highest epoch ever (G2, G3).
    pub fn accepted(&self, by: &By, run: Run) {
        let mut state = self.state.lock();
        let known = state.accepted.get(&by.identity).copied();
        match known {
            Some((highest, other)) if by.epoch < highest || (by.epoch == highest && run != other) => {
                let what = format!("G2: {by:?} accepts work at {run:?} after epoch {highest} of {other:?}");
                state.wrong.get_or_insert(what);
            }
            _ => {
                let from = known.and_then(|(_, other)| state.lost.get(&other).copied());
                if known.is_some_and(|(_, other)| other.place != run.place)
                    && let Some(alone) = from
                {
                    let what = if alone { "datacenter" } else { "node" };
                    self.counts.add(&format!("taken over from a lost {what}"));
                }
                state.accepted.insert(by.identity.clone(), (by.epoch, run));
            }
        }
    }

    /// A receiver takes in what an owner sent: never under a lower epoch after a higher (G3).
    pub fn received(&self, receiver: u64, identity: &str, epoch: u64) {
        let mut state = self.state.lock();
        let highest = state.received.entry((receiver, identity.to_owned())).or_default();
        if epoch < *highest {
            let what = format!("G3: receiver {receiver} takes {identity} under {epoch} after {highest}");
            state.wrong.get_or_insert(what);
        } else {
            *highest = epoch;
        }
    }

    /// A datacenter has drained at this time; from now on nothing global starts there. `None`: it serves again.
    pub fn set_drained(&self, dc: &Arc<str>, since: Option<u64>) {
        let mut state = self.state.lock();
        match since {
            Some(since) => drop(state.drained.insert(dc.clone(), since)),
            None => drop(state.drained.remove(dc)),
        }
    }

    /// Identities with more than one activation, to be looked at.
    pub fn contested(&self) -> Vec<(String, Vec<Live>)> {
        let state = self.state.lock();
        let contested = state.live.iter().filter(|(_, live)| live.len() > 1);
        contested.map(|(identity, live)| (identity.clone(), live.clone())).collect()
    }
}
