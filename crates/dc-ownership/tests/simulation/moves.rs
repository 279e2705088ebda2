//! Moves: state that goes along and what was acknowledged, and a crash at a step of one.

use bytes::Bytes;
use dc_core::{Epoch, snapshot::hash};
use dc_ownership::{
    core::{Answer, Ask, Input, Plant, Request},
    ids::{SessionId, Slot},
    order::Thing,
    session::Holder,
};
use rand::RngExt;
use serde_json::Value;

use super::{
    TTL,
    world::{Event, SECOND, World},
};

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// What is handed over has stopped, its state is not sent yet.
    BeforeOffer,
    /// Its state has arrived, and nobody was told.
    AfterOffer,
    /// The write that names the new owner is sent, and arrives.
    Sent,
    /// The same, and it gets lost.
    Lost,
    /// It was accepted, and nobody was told.
    Accepted,
    /// The former owner was told, and has told nobody.
    BeforeMoved,
    /// The former owner has told others.
    AfterMoved,
}

impl Step {
    pub const ALL: [Self; 7] = [
        Self::BeforeOffer,
        Self::AfterOffer,
        Self::Sent,
        Self::Lost,
        Self::Accepted,
        Self::BeforeMoved,
        Self::AfterMoved,
    ];
}

/// Who crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    From,
    To,
}

/// Where to crash.
#[derive(Clone, Copy, Debug)]
pub struct CrashAt {
    pub step: Step,
    pub side: Side,
}

/// State on its way.
pub(crate) struct Offered {
    from: (usize, u64),
    token: u64,
    thing: Thing,
    epoch: Epoch,
    state: Vec<(String, Bytes)>,
}

const STATE: &str = "x";

impl World {
    /// Whether `place`, from where something moves to `to`, crashed just now.
    pub(crate) fn crash_at(&mut self, step: Step, place: usize, to: Option<SessionId>) -> bool {
        let Some(crash) = self.config.crash.filter(|crash| crash.step == step && self.faulty) else { return false };
        let to = self.nodes.iter().position(|node| node.alive && to.is_some() && node.session == to);
        let Some(hit) = (if crash.side == Side::From { Some(place) } else { to }) else { return false };
        if self.crash_after > 0 || !self.nodes[hit].alive {
            self.crash_after = self.crash_after.saturating_sub(1);
            return false;
        }
        self.crash_after = u32::MAX;
        self.count("crashed_at_step");
        self.crash(hit);
        hit == place
    }

    /// To whom a request hands something over.
    pub(crate) fn hands_over(&self, place: usize, request: &Request) -> Option<SessionId> {
        let Ask::Write { body, .. } = &request.ask else { return None };
        let document: Value = serde_json::from_slice(body).ok()?;
        let own = self.nodes[place].session;
        let other = |session: &Value| session.as_str()?.parse().ok().filter(|session| Some(*session) != own);
        if document["handed"] == true {
            return other(&document["session"]);
        }
        let group = super::world::policy().group();
        let slots = document["slots"].as_array()?.iter().zip(Slot::all());
        let slots = slots.map(|(row, slot)| (row, Thing::Slot(group, slot)));
        let overrides = document["overrides"].as_object().into_iter().flatten();
        let overrides = overrides.map(|(identity, of)| (&of["at"], Thing::grain(group, identity)));
        slots.chain(overrides).find_map(|(row, thing)| {
            let row = row.as_array().filter(|row| row.get(2).is_some_and(|handed| handed == 1))?;
            let to = other(&document["owners"][usize::try_from(row[0].as_u64()?).ok()?]["session"])?;
            // What is in the document from an earlier move is not handed over by this write.
            (self.truth.get(&thing) != Some(&(to, Epoch(row[1].as_u64()?)))).then_some(to)
        })
    }

    /// Some things have no state that goes along: they start from nothing.
    fn has_state(thing: &Thing) -> bool {
        match thing {
            Thing::Slot(_, slot) => slot.number() % 4 != 0,
            Thing::Grain(_, slot, _) => slot.number() % 5 != 0,
            Thing::Name(name) => name != "d",
        }
    }

    /// What goes along with a thing on a node, and under which identity: a slot's own, and those of the identities that
    /// are with it.
    pub(crate) fn units(&self, place: usize, thing: &Thing) -> Vec<(Thing, String)> {
        let Thing::Slot(group, slot) = thing else {
            let identity = if let Thing::Grain(_, _, identity) = thing { identity } else { STATE };
            return vec![(thing.clone(), identity.to_owned())];
        };
        let with_it = self.identities.iter().filter(|id| Slot::of(id) == *slot);
        let with_it = with_it.map(|id| (Thing::grain(*group, id), id.clone()));
        let with_it = with_it.filter(|(thing, _)| !self.nodes[place].apart.contains(thing));
        std::iter::once((thing.clone(), STATE.to_owned())).chain(with_it).collect()
    }

    /// Work was done and acknowledged, by its owner.
    pub(crate) fn acknowledge(&mut self, place: usize, thing: &Thing) {
        if self.nodes[place].quiet.contains(thing) {
            return;
        }
        *self.nodes[place].counters.entry(thing.clone()).or_default() += 1;
        *self.acked.entry(thing.clone()).or_default() += 1;
    }

    /// Stops a thing that is to be handed over; its state.
    pub(crate) fn quiesce(&mut self, place: usize, thing: &Thing) -> Vec<(String, Bytes)> {
        let mut state = Vec::new();
        for (unit, identity) in self.units(place, thing) {
            self.nodes[place].quiet.insert(unit.clone());
            let count = self.nodes[place].counters.get(&unit).copied().unwrap_or(0);
            if Self::has_state(&unit) {
                state.push((identity, Bytes::copy_from_slice(&count.to_be_bytes())));
            }
        }
        state
    }

    pub(crate) fn stopped_here(&mut self, place: usize, thing: &Thing, epoch: Epoch) {
        for (unit, _) in self.units(place, thing) {
            self.nodes[place].quiet.remove(&unit);
            self.nodes[place].counters.remove(&unit);
        }
        let node = &mut self.nodes[place];
        node.parcels.drop_up_to(thing, epoch);
        if let Thing::Name(name) = thing {
            node.running.remove(name);
        }
    }

    pub(crate) fn note_known(&mut self, place: usize, thing: Thing, epoch: Option<Epoch>) {
        match epoch {
            Some(epoch) => _ = self.nodes[place].known.insert(thing, epoch),
            None => _ = self.nodes[place].known.remove(&thing),
        }
    }

    /// Its session is over: state that came along goes, too.
    pub(crate) fn forget_state(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        node.quiet.clear();
        node.parcels.clear();
        node.last_offer.clear();
        node.lost_state.append(&mut node.state_here);
    }

    /// State is sent, as a call: it arrives or not, perhaps much later, and so does the answer.
    pub(crate) fn offer(
        &mut self,
        place: usize,
        token: u64,
        to: &Holder,
        thing: Thing,
        epoch: Epoch,
        state: Vec<(String, Bytes)>,
    ) {
        let run = self.nodes[place].run;
        let there = usize::try_from(to.node.0 as u32).unwrap_or(0).wrapping_sub(1);
        let there_run = (to.node.0 >> 32) as u64;
        let fate = if self.breaks() { self.rng.random_range(0..20) } else { 19 };
        if fate == 0 {
            let answer = Answer::Offered(Err("on purpose".to_owned()));
            let after = self.latency();
            self.for_node(place, after, Event::Input(Input::Answered { token, answer }));
            return;
        }
        // When nobody waits for it any more: during the next attempt, or long after.
        let late = fate < 5;
        let most = if fate < 3 { 3 * SECOND } else { 25 * SECOND };
        let after = if late { self.rng.random_range(SECOND / 4..most) } else { self.latency() };
        if late {
            self.count("offers_late");
            // The link was replaced: the caller hears of it, and what was on it still arrives.
            let answer = Answer::Offered(Err("the link was lost".to_owned()));
            let heard = self.latency();
            self.for_node(place, heard, Event::Input(Input::Answered { token, answer }));
        }
        let offered = Offered { from: (place, run), token, thing, epoch, state };
        self.at(there, there_run, after, Event::Offered(offered));
    }

    /// As `Ownership::offered` does.
    pub(crate) fn offered(&mut self, place: usize, offered: Offered) {
        let Offered { from: (from, run), token, thing, epoch, state } = offered;
        let now = self.nodes[place].now();
        let node = &mut self.nodes[place];
        let known = node.known.get(&thing).copied();
        let answer = if known.is_some_and(|known| known >= epoch) {
            self.count("offers_refused");
            Err("too late".to_owned())
        } else {
            node.state_here.insert((thing.clone(), epoch));
            node.last_offer.insert(thing.clone(), (epoch, state.clone()));
            node.parcels.put(thing, epoch, state, now, 12 * TTL, 1 << 20)
        };
        let current = self.nodes[from].alive && self.nodes[from].run == run;
        let session = self.nodes[place].session;
        if current && self.crash_at(Step::AfterOffer, from, session) || !self.nodes[place].alive {
            return;
        }
        let lost = self.breaks() && self.chance(0.05);
        if !lost {
            let after = self.latency();
            self.at(from, run, after, Event::Input(Input::Answered { token, answer: Answer::Offered(answer) }));
        }
    }

    /// A thing is owned here from now on: with the state that came along, which holds all that was acknowledged.
    pub(crate) fn arrived(&mut self, place: usize, thing: Thing, epoch: Epoch, offer: u64) {
        self.nodes[place].parcels.arrived(&thing, epoch, offer);
        for (unit, identity) in self.units(place, &thing) {
            self.unit_arrived(place, (&thing, epoch, offer), unit, &identity);
        }
    }

    fn unit_arrived(&mut self, place: usize, of: (&Thing, Epoch, u64), unit: Thing, identity: &str) {
        let (thing, epoch, offer) = of;
        let known_bad = self.lost_at.is_some() || self.available.contains(&unit);
        let planted = self.config.plant == Some(Plant::LateOffer);
        let node = &mut self.nodes[place];
        node.quiet.remove(&unit);
        let last = node.last_offer.get(thing).filter(|(of, _)| planted && *of == epoch);
        let last = last.and_then(|(_, state)| state.iter().find(|(of, _)| of == identity));
        let last = last.map(|(_, count)| count.clone());
        let count = last.or_else(|| node.parcels.take(thing, identity, epoch)).filter(|_| offer != 0);
        let count = count.and_then(|count| Some(u64::from_be_bytes(count.as_ref().try_into().ok()?)));
        let was_lost = node.lost_state.contains(&(thing.clone(), epoch));
        node.counters.insert(unit.clone(), count.unwrap_or(0));
        let acked = self.acked.insert(unit.clone(), count.unwrap_or(0)).unwrap_or(0);
        let alone = matches!(thing, Thing::Grain(..));
        match count {
            Some(count) if count == acked => {
                let moved = if alone { "override_state_moved" } else { "state_moved" };
                self.count(if acked > 0 { moved } else { "state_moved_empty" });
            }
            Some(count) if !known_bad => {
                self.wrong(format!("{unit:?} moved to node {place} with {count} of {acked} acknowledged"));
            }
            None if offer != 0 && !known_bad && Self::has_state(&unit) => {
                if was_lost {
                    self.count("state_lost_with_its_session");
                } else {
                    self.wrong(format!("{unit:?} moved to node {place} without its state"));
                }
            }
            _ => {}
        }
    }

    /// The node that is to have a slot, among those of its owner's datacenter.
    pub(crate) fn belongs_to(&self, thing: &Thing) -> Option<usize> {
        let Thing::Slot(group, slot) = thing else { return None };
        let owner = self.nodes.iter().find(|node| node.holds(thing))?;
        let block = u128::from(slot.number() / 8);
        let key = hash::key(&(group.0 ^ block << 64).to_be_bytes());
        let near = self.nodes.iter().enumerate().filter(|(_, node)| node.alive && node.dc == owner.dc);
        let ranked = near.filter_map(|(place, node)| {
            let id = node.session?;
            Some((hash::score(hash::mix(id.0 as u64 ^ (id.0 >> 64) as u64), key), id, place))
        });
        ranked.max().map(|(_, _, place)| place)
    }
}
