//! What is under way at the store. Renewals go at once; the rest waits its turn.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use dc_controlplane::{Expected, ownership::Keep};
use dc_core::Version;

use super::{Ask, Core, Effect, Request};
use crate::{documents::Unit, ids::SessionId, order::Thing};

/// Why it was asked.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Purpose {
    /// To open, or renew, this node's session.
    Session(SessionId),
    /// To put a tombstone in place of a session.
    Bury(SessionId),
    /// To change who owns slots; the things that are handed over by it.
    Slots(Vec<Thing>),
    /// To create or change a name.
    Name { handed: bool },
    /// To remove a name.
    RemoveName,
    /// To declare a kind.
    Kind,
    /// To know better.
    Look,
}

#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) unit: Unit,
    pub(super) purpose: Purpose,
    pub(super) ask: Ask,
    /// The highest revision that was seen when it was sent.
    pub(super) highest: u64,
    normal: bool,
}

impl InFlight {
    pub(super) fn expected(&self) -> Option<Version> {
        match &self.ask {
            Ask::Write { expected, .. } => expected.version(),
            Ask::Remove(version) => Some(*version),
            Ask::Read => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Requests {
    next: u64,
    under_way: BTreeMap<u64, InFlight>,
    normal: usize,
    most: usize,
    queue: VecDeque<(u64, InFlight)>,
}

impl Requests {
    pub(super) fn new(most: usize) -> Self {
        Self { next: 0, under_way: BTreeMap::new(), normal: 0, most, queue: VecDeque::new() }
    }

    pub(super) fn finish(&mut self, id: u64) -> Option<InFlight> {
        let done = self.under_way.remove(&id)?;
        self.normal -= usize::from(done.normal);
        Some(done)
    }

    /// Forgets all: their answers belong to a store that is no more.
    pub(super) fn forget(&mut self) {
        self.under_way.clear();
        self.queue.clear();
        self.normal = 0;
    }
}

impl Core {
    pub(super) fn write(
        &mut self,
        unit: Unit,
        expected: Option<Version>,
        body: Bytes,
        keep: Keep,
        purpose: Purpose,
    ) -> u64 {
        let expected = expected.map_or(Expected::Absent, Expected::Version);
        self.ask(unit, Ask::Write { expected, body, keep }, purpose)
    }

    pub(super) fn ask(&mut self, unit: Unit, ask: Ask, purpose: Purpose) -> u64 {
        self.requests.next += 1;
        let id = self.requests.next;
        let normal = !matches!(purpose, Purpose::Session(_) | Purpose::Bury(_));
        self.requests.queue.push_back((id, InFlight { unit, purpose, ask, highest: 0, normal }));
        if !normal {
            // To the front: it waits for nothing.
            self.requests.queue.rotate_right(1);
        }
        self.send_queued();
        id
    }

    /// Sends what may be sent.
    pub(super) fn send_queued(&mut self) {
        while let Some((_, first)) = self.requests.queue.front() {
            if first.normal && self.requests.normal >= self.requests.most {
                return;
            }
            let Some((id, mut flight)) = self.requests.queue.pop_front() else { return };
            // Units are checked where they are made; one without a key is never asked for.
            let Ok(key) = flight.unit.key() else { continue };
            flight.highest = self.highest;
            self.requests.normal += usize::from(flight.normal);
            self.stats.requests += 1;
            self.out.effects.push(Effect::Send(Request { id, key, ask: flight.ask.clone() }));
            self.requests.under_way.insert(id, flight);
        }
    }
}
