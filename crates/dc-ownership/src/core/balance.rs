//! Giving what is owned to who is to have it: slots to the nodes of the same datacenter, and whatever says so
//! (`Failback::Automatic`) to a better datacenter. A few at a time, and only once membership has not changed for a while.

use std::time::Instant;

use rand::RngExt;

use super::{
    Core,
    rank::From,
    things::{Hold, unit_of},
};
use crate::{documents::Unit, ids::SessionId, order::Thing, policy::Failback, session::Holder};

/// How many names, and single identities, go back to a better place at once.
const NAMES_AT_ONCE: usize = 8;

/// What is known of the datacenter's nodes, and since when it is so.
#[derive(Debug)]
pub(super) struct Balance {
    near: Vec<SessionId>,
    not_before: Instant,
}

impl Balance {
    pub(super) fn new(now: Instant) -> Self {
        Self { near: Vec::new(), not_before: now }
    }
}

impl Core {
    /// Hands over what others are to have, so much that it is done by the next round.
    pub(super) fn rebalance(&mut self, now: Instant) {
        if !self.takes() || !self.may_claim(now) {
            return;
        }
        self.refresh_live(now);
        let own = self.me.data_center.id();
        let near = self.live.iter().filter(|live| live.data_center.id() == own && live.taking);
        let near: Vec<SessionId> = near.map(|live| live.id).collect();
        if near != self.balance.near {
            self.balance.near = near;
            self.put_off_rebalancing(now);
        }
        if self.holds.values().any(|hold| matches!(hold, Hold::Moving(_))) {
            return;
        }
        let round = self.options.ttl().as_secs_f64() / 4.0;
        let rate = f64::from(self.options.rebalance_per_second());
        let slots = if rate > 0.0 { ((rate * round) as usize).clamp(1, self.options.moves_in_flight()) } else { 0 };
        let things: Vec<Thing> = self
            .holds
            .iter()
            .filter(|(_, hold)| matches!(hold, Hold::Held { adopting: None, .. }))
            .map(|(thing, _)| thing.clone())
            .collect();
        let (mut slots, mut names) = (slots, NAMES_AT_ONCE);
        for thing in things {
            let left = match thing {
                Thing::Slot(..) => &mut slots,
                Thing::Name(_) | Thing::Grain(..) => &mut names,
            };
            if *left == 0 || self.writes(&thing) {
                continue;
            }
            *left -= 1;
            let (to, near) = match self.better(&thing, now) {
                Some(to) => (Some(to), false),
                None => (self.near(&thing, now), true),
            };
            match to {
                Some(to) => {
                    self.stats.rebalanced += u64::from(near);
                    self.start_move(&thing, to, None, now);
                }
                None => match thing {
                    Thing::Slot(..) => slots += 1,
                    Thing::Name(_) | Thing::Grain(..) => names += 1,
                },
            }
        }
    }

    /// Nodes that come and go get nothing: about a TTL without a change. All nodes wait differently long, so that not
    /// everything moves at once.
    pub(super) fn put_off_rebalancing(&mut self, now: Instant) {
        let wait = self.options.ttl().mul_f64(self.rng.random_range(0.8..1.4));
        self.balance.not_before = now + wait;
    }

    fn writes(&self, thing: &Thing) -> bool {
        match unit_of(thing) {
            Unit::Slots(group, number) => self.slots.get(&(group, number)).is_some_and(|state| state.writing),
            Unit::Name(name) => self.names.get(&name).is_some_and(|state| state.writing),
            Unit::Session(_) | Unit::Kind(_) => false,
        }
    }

    /// The first choice of its own datacenter for a slot, if that is another node. Names stay with their actors, single
    /// identities where they were placed.
    fn near(&self, thing: &Thing, now: Instant) -> Option<Holder> {
        let Thing::Slot(group, _) = thing else { return None };
        if now < self.balance.not_before {
            return None;
        }
        let own = self.me.data_center.id();
        let near = self.live.iter().filter(|live| live.data_center.id() == own && live.taking);
        let first = near.filter(|live| live.groups.contains(group)).max_by_key(|live| live.score(thing))?;
        self.holder(first.id).filter(|to| self.own.id() != Some(to.session))
    }

    /// The better place in another datacenter of what goes back by itself.
    fn better(&mut self, thing: &Thing, now: Instant) -> Option<Holder> {
        let policy = self.policy_of(thing).filter(|policy| policy.failback == Failback::Automatic)?;
        let home = match thing {
            Thing::Name(name) => self.names.get(name).and_then(|state| state.home()),
            Thing::Slot(..) | Thing::Grain(..) => None,
        };
        let first = *self.candidates(thing, &policy, From::Better(home.as_ref()), now).order.first()?;
        let own = &self.me.data_center;
        let there = self.data_center_of(first).filter(|dc| dc.id() != own.id())?;
        // A name without a better or an own place stays; slots have one place that suits them best.
        let better = (policy.prefers(there) && !policy.prefers(own))
            || matches!(thing, Thing::Slot(..))
            || home.as_ref() == Some(there.id());
        self.holder(first).filter(|_| better)
    }
}
