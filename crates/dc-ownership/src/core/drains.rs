//! Handing over all that is owned, one by one with a bound.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Instant,
};

use super::{
    Core, Effect,
    rank::From,
    things::{Hold, Stage, unit_of},
    timers::Timer,
};
use crate::{
    documents::Unit,
    drain::{DrainEnd, DrainOptions, DrainScope, Progress},
    order::Thing,
};

#[derive(Debug)]
pub(super) struct Drain {
    number: u64,
    scope: DrainScope,
    at_once: usize,
    pending: VecDeque<Thing>,
    later: BTreeSet<(Instant, Thing)>,
    under_way: BTreeSet<Thing>,
    stuck: BTreeSet<Thing>,
    moved: usize,
    failed: usize,
    told: Option<Progress>,
    aborting: bool,
    /// Nothing was left: what comes all the same, from nodes that did not know yet, goes on.
    finished: bool,
}

impl Core {
    pub(super) fn start_drain(&mut self, number: u64, options: DrainOptions, now: Instant) {
        self.end_drain(DrainEnd::Replaced);
        let at_once = options.at_once.unwrap_or(self.options.moves_in_flight()).max(1);
        let under_way = self.holds.iter().filter(|(_, hold)| matches!(hold, Hold::Moving(_)));
        self.drain = Some(Drain {
            number,
            scope: options.scope,
            at_once,
            under_way: under_way.map(|(thing, _)| thing.clone()).collect(),
            // Names first, then what was placed: a node that has no time for all hands over what restarts at a cost.
            pending: self.holds.keys().rev().cloned().collect(),
            later: BTreeSet::new(),
            stuck: BTreeSet::new(),
            moved: 0,
            failed: 0,
            told: None,
            aborting: false,
            finished: false,
        });
        self.live_stale = true;
        self.want_renewal(now);
        self.timers.at(now, Timer::Drain);
    }

    /// Hands over the next ones.
    pub(super) fn pump_drain(&mut self, now: Instant) {
        let Some(mut drain) = self.drain.take() else { return };
        while let Some((at, _)) = drain.later.first()
            && *at <= now
        {
            let thing = drain.later.pop_first().map(|(_, thing)| thing);
            drain.pending.extend(thing);
        }
        let step = self.options.step();
        let mut begun = Vec::new();
        while !drain.aborting && drain.under_way.len() < drain.at_once {
            let Some(thing) = drain.pending.pop_front() else { break };
            match self.holds.get(&thing) {
                None | Some(Hold::Releasing { .. } | Hold::Moving(_)) => continue,
                Some(Hold::Held { adopting: None, .. }) if self.parts_of(&thing).is_empty() => {}
                Some(Hold::Held { .. } | Hold::Confirming { .. } | Hold::Spent { .. }) => {
                    self.timers.at(now, Timer::Unit(unit_of(&thing)));
                    drain.later.insert((now + step, thing));
                    continue;
                }
            }
            let policy = self.policy_of(&thing).unwrap_or_default();
            let order = self.candidates(&thing, &policy, From::Own(drain.scope), now).order;
            match order.first().and_then(|id| self.holder(*id)) {
                Some(to) => {
                    drain.stuck.remove(&thing);
                    drain.under_way.insert(thing.clone());
                    begun.push((thing, to));
                }
                None => {
                    drain.stuck.insert(thing.clone());
                    drain.later.insert((now + self.options.ttl() / 4, thing));
                }
            }
        }
        self.drain = Some(drain);
        for (thing, to) in begun {
            self.start_move(&thing, to, None, now);
        }
        self.tell_progress(now);
    }

    fn tell_progress(&mut self, now: Instant) {
        let left = self.holds.len();
        let Some(drain) = &mut self.drain else { return };
        let next = drain.later.first().map_or(now + self.options.ttl() / 4, |(at, _)| *at);
        self.timers.at(next, Timer::Drain);
        if drain.finished {
            return;
        }
        let end = if drain.aborting && drain.under_way.is_empty() {
            Some(DrainEnd::Aborted)
        } else if !drain.aborting && left == 0 {
            Some(DrainEnd::Done)
        } else {
            None
        };
        let progress = Progress { moved: drain.moved, left, failed: drain.failed, stuck: drain.stuck.len(), end };
        if drain.told != Some(progress) {
            drain.told = Some(progress);
            self.out.effects.push(Effect::Progress(drain.number, progress));
        }
        match end {
            Some(DrainEnd::Aborted) => {
                self.drain = None;
                self.stats.drains_aborted += 1;
                self.live_stale = true;
                self.want_renewal(now);
                self.wake_orphans(now);
            }
            Some(_) => drain.finished = true,
            None => {}
        }
    }

    pub(super) fn abort_drain(&mut self, number: u64, now: Instant) {
        if self.drain.as_ref().is_none_or(|drain| drain.number != number || drain.finished) {
            return;
        }
        let under_way: Vec<Thing> = self
            .drain
            .iter_mut()
            .flat_map(|drain| {
                drain.aborting = true;
                drain.pending.clear();
                drain.later.clear();
                drain.under_way.iter().cloned()
            })
            .collect();
        for thing in under_way {
            let writing = match unit_of(&thing) {
                Unit::Slots(group, number) => self.slots.get(&(group, number)).is_some_and(|state| state.writing),
                Unit::Name(name) => self.names.get(&name).is_some_and(|state| state.writing),
                Unit::Session(_) | Unit::Kind(_) => false,
            };
            let settled = match self.holds.get(&thing) {
                Some(Hold::Moving(moving)) => {
                    !matches!(moving.stage, Stage::Ready { unsettled } if unsettled || writing)
                }
                _ => false,
            };
            if settled {
                self.give_up_move(&thing, "the drain was aborted", now);
            }
        }
        self.timers.at(now, Timer::Drain);
    }

    pub(super) fn aborting(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.aborting)
    }

    pub(super) fn drain_scope(&self) -> Option<DrainScope> {
        self.drain.as_ref().map(|drain| drain.scope)
    }

    /// A thing that was held is not held any more.
    pub(super) fn drain_settled(&mut self, thing: &Thing, now: Instant) {
        if let Some(drain) = &mut self.drain {
            drain.under_way.remove(thing);
            drain.stuck.remove(thing);
            drain.moved += 1;
            self.timers.at(now, Timer::Drain);
        }
    }

    /// A hand-over was given up.
    pub(super) fn drain_failed(&mut self, thing: &Thing, now: Instant) {
        if self.drain.is_none() {
            self.put_off_rebalancing(now);
        }
        let step = self.options.step();
        if let Some(drain) = &mut self.drain {
            drain.under_way.remove(thing);
            drain.failed += 1;
            if !drain.aborting {
                drain.later.insert((now + step, thing.clone()));
            }
            self.timers.at(now, Timer::Drain);
        }
    }

    /// A thing came into this node's hands while it drains: it goes on.
    pub(super) fn drain_more(&mut self, thing: &Thing, now: Instant) {
        if let Some(drain) = &mut self.drain
            && !drain.aborting
        {
            drain.pending.push_back(thing.clone());
            self.timers.at(now, Timer::Drain);
        }
    }

    /// The drain is over for another reason than having nothing left.
    pub(super) fn end_drain(&mut self, end: DrainEnd) {
        let Some(mut drain) = self.drain.take() else { return };
        self.live_stale = true;
        if !drain.finished {
            let (moved, failed, stuck) = (drain.moved, drain.failed, drain.stuck.len());
            let left = self.holds.len();
            let end = Some(if drain.aborting { DrainEnd::Aborted } else { end });
            self.stats.drains_aborted += u64::from(drain.aborting);
            self.out.effects.push(Effect::Progress(drain.number, Progress { moved, left, failed, stuck, end }));
        }
        if end == DrainEnd::SessionLost && !drain.aborting {
            // Whoever leaves stays away until told otherwise.
            drain.finished = true;
            drain.under_way.clear();
            drain.pending.clear();
            drain.later.clear();
            drain.stuck.clear();
            self.drain = Some(drain);
        }
    }
}
