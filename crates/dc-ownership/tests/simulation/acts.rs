//! What is done to the system while things break, and the end of that.

use bytes::Bytes;
use dc_core::{DataCenterSelector, Epoch, Selector};
use dc_ownership::{
    DrainOptions,
    core::{Input, Op},
    names::NameSpec,
    order::Thing,
    policy::{Failback, Loss, OnLoss, Policy, Strictness},
};
use rand::RngExt;

use super::world::{Event, MS, SECOND, World, policy};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn policy_of(name: &str) -> Policy {
    match name {
        "a" => policy(),
        "b" => Policy { failback: Failback::Automatic, ..policy() },
        "c" => Policy { strictness: Strictness::Available, ..policy() },
        "d" => Policy { survives: Loss::Nothing, ..Policy::default() },
        _ => Policy {
            on_loss: OnLoss::Relocate { grace: std::time::Duration::from_secs(3) },
            prefer: Some(Selector::name("eu")),
            ..policy()
        },
    }
}

impl World {
    pub(crate) fn act(&mut self) {
        if !self.faulty {
            return;
        }
        let after = self.rng.random_range(50 * MS..700 * MS);
        self.at(0, 0, after, Event::Act);
        for _ in 0..4 {
            self.work();
        }
        let place = self.rng.random_range(0..self.nodes.len());
        let name = NAMES[self.rng.random_range(0..NAMES.len())];
        let alive = self.nodes[place].alive;
        if self.config.crash.is_some() {
            // Enough that moves come; the one crash breaks enough.
            match self.rng.random_range(0..10) {
                0..4 if alive => self.claim(place, name),
                4..7 if alive => self.drain(place),
                7..9 => self.place(),
                _ => {}
            }
            return;
        }
        match self.rng.random_range(0..100) {
            0..25 if alive => self.claim(place, name),
            25..32 => self.release(name),
            32..38 if alive => self.pause(place),
            38..42 if alive => self.crash(place),
            42..45 => self.cut_off(place),
            45..47 => self.outage(),
            47..55 if alive => {
                let prefix = self.rng.random_range(0..4);
                let after = self.rng.random_range(0..3 * SECOND);
                self.count("watches_dropped");
                self.reopen_watch(place, prefix, after);
            }
            55..60 if alive => {
                self.nodes[place].lag = self.rng.random_range(0..12 * SECOND);
                let after = self.rng.random_range(SECOND..20 * SECOND);
                self.for_node(place, after, Event::Unlag);
            }
            60..66 if alive => self.drain(place),
            66..68 if alive => {
                let thing = Thing::Name(name.to_owned());
                let heard = Epoch(self.store.revision + 5);
                self.give(place, Input::Hint { thing, heard });
            }
            68..70 if alive => {
                self.numbers += 1;
                let to: DataCenterSelector = Selector::name(["us", "eu", "ap"][place % 3]);
                let ask = Op::Relocate(Thing::Name(name.to_owned()), to);
                self.give(place, Input::Asked { op: self.numbers, ask });
            }
            71..79 => self.place(),
            70 if self.config.loses && self.lost_at.is_none() && self.t() > 20 * SECOND => self.lose(),
            _ => {}
        }
    }

    /// Has an identity live in some datacenter: mostly asked of its owner, as callers do.
    fn place(&mut self) {
        let identity = self.identities[self.rng.random_range(0..self.identities.len())].clone();
        let thing = Thing::grain(policy().group(), identity);
        let owner = (0..self.nodes.len()).find(|at| self.nodes[*at].holds(&thing)).filter(|_| self.chance(0.9));
        let place = owner.unwrap_or_else(|| self.rng.random_range(0..self.nodes.len()));
        if !self.nodes[place].alive {
            return;
        }
        let to = Selector::name(["us", "eu", "ap"][self.rng.random_range(0..3)]);
        self.numbers += 1;
        self.nodes[place].placing.insert(self.numbers);
        self.give(place, Input::Asked { op: self.numbers, ask: Op::Place(thing, to) });
    }

    pub(crate) fn claim(&mut self, place: usize, name: &str) {
        self.numbers += 1;
        let op = self.numbers;
        self.nodes[place].claims.insert(op, name.to_owned());
        let (kind, args) = ("ledger".to_owned(), Bytes::from_static(b"x"));
        let spec = NameSpec { name: name.to_owned(), kind, args, policy: policy_of(name) };
        self.give(place, Input::Asked { op, ask: Op::Claim(spec) });
    }

    fn release(&mut self, name: &str) {
        let Some(place) = self.nodes.iter().position(|node| node.alive && node.running.contains_key(name)) else {
            return;
        };
        if self.nodes[place].paused {
            return;
        }
        // As an actor that stops: it runs no more, then its name is let go.
        let Some(title) = self.nodes[place].running.remove(name) else { return };
        self.numbers += 1;
        let ask = Op::Release(name.to_owned(), title.epoch());
        self.count("releases");
        self.give(place, Input::Asked { op: self.numbers, ask });
        // Others want it soon.
        for _ in 0..2 {
            let next = self.rng.random_range(0..self.nodes.len());
            let after = self.rng.random_range(0..4 * SECOND);
            self.for_node(next, after, Event::Claim(name.to_owned()));
        }
    }

    fn pause(&mut self, place: usize) {
        if std::mem::replace(&mut self.nodes[place].paused, true) {
            return;
        }
        self.count("pauses");
        let after = self.rng.random_range(100 * MS..25 * SECOND);
        self.for_node(place, after, Event::Resume);
    }

    pub(crate) fn crash(&mut self, place: usize) {
        self.count("crashes");
        self.nodes[place].alive = false;
        let things: Vec<Thing> = self.nodes[place].titles.keys().cloned().collect();
        for thing in things {
            self.set_title(place, thing, None);
        }
        let after = self.rng.random_range(100 * MS..30 * SECOND);
        self.for_node(place, after, Event::Restart);
    }

    fn cut_off(&mut self, place: usize) {
        let dc = self.nodes[place].dc.to_string();
        if !self.cut.insert(dc.clone()) {
            return;
        }
        self.count("cuts");
        let places: Vec<usize> = (0..self.nodes.len()).filter(|at| self.nodes[*at].dc.as_str() == dc).collect();
        for place in places {
            for prefix in 0..4 {
                self.reopen_watch(place, prefix, 500 * MS);
            }
        }
        let after = self.rng.random_range(SECOND..30 * SECOND);
        self.at(0, 0, after, Event::Heal(dc));
    }

    fn outage(&mut self) {
        if std::mem::replace(&mut self.outage, true) {
            return;
        }
        self.count("outages");
        let after = self.rng.random_range(SECOND..15 * SECOND);
        self.at(0, 0, after, Event::EndOutage);
    }

    fn drain(&mut self, place: usize) {
        self.count("drains");
        self.nodes[place].drain += 1;
        let number = self.nodes[place].drain;
        let whole = self.chance(0.3);
        let options = if whole { DrainOptions::data_center() } else { DrainOptions::node() };
        if whole {
            let dc = self.nodes[place].dc.clone();
            self.unplaceable.lock().expect("no panic inside").insert(dc);
        }
        self.give(place, Input::Drain { number, options });
        if self.chance(0.4) {
            let after = self.rng.random_range(10 * MS..3 * SECOND);
            self.for_node(place, after, Event::Abort(number));
        }
        let after = self.rng.random_range(5 * SECOND..30 * SECOND);
        self.for_node(place, after, Event::TakeAgain);
    }

    fn work(&mut self) {
        let place = self.rng.random_range(0..self.nodes.len());
        let node = &self.nodes[place];
        if !node.alive || node.paused || node.titles.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.nodes[place].titles.len());
        let found = self.nodes[place].titles.iter().nth(at).map(|(thing, title)| (thing.clone(), title.clone()));
        let Some((thing, title)) = found.filter(|(_, title)| title.check().is_ok()) else { return };
        self.acknowledge(place, &thing);
        // On its way to storage it may be held up for as long as it likes.
        let late = self.chance(0.2);
        let after = if late { self.rng.random_range(0..30 * SECOND) } else { self.latency() };
        self.for_node(place, after, Event::Log(thing, title.epoch(), title.session()));
    }

    /// The store is wiped, or set back.
    fn lose(&mut self) {
        self.lost_at = Some(self.t());
        self.truth.clear();
        self.apart.clear();
        self.count("losses");
        if self.chance(0.5) {
            self.store = super::store::Store::new(u128::from(self.config.seed) + 2);
        } else {
            let back = self.rng.random_range(1..60);
            let (revision, now) = (self.store.revision.saturating_sub(back), self.t());
            self.store.roll_back(revision, now);
            for change in self.store.history.clone() {
                self.note_truth(&change.key, change.body.as_ref(), change.revision);
            }
        }
        for place in 0..self.nodes.len() {
            for prefix in 0..4 {
                let after = self.rng.random_range(0..3 * SECOND);
                self.reopen_watch(place, prefix, after);
            }
        }
    }

    pub(crate) fn end_faults(&mut self) {
        self.faulty = false;
        self.outage = false;
        self.cut.clear();
        self.unplaceable.lock().expect("no panic inside").clear();
        for place in 0..self.nodes.len() {
            self.nodes[place].lag = 0;
            if self.nodes[place].alive {
                self.resume(place);
                self.give(place, Input::SetTaking(true));
            } else {
                let run = self.nodes[place].run;
                self.restart(place, run);
            }
        }
    }
}
