//! What must hold after every step, and what must hold again once faults have stopped.

use bytes::Bytes;
use dc_controlplane::ownership::DocumentKey;
use dc_core::Epoch;
use dc_ownership::{
    ids::{SessionId, Slot},
    order::Thing,
    policy::Strictness,
    title::Title,
};
use serde_json::Value;

use super::world::{SECOND, World, policy};

/// What a store that lost data leaves possible, and for how long: until every owner's lease is over.
const AFTER_LOSS: u64 = 12 * SECOND;

impl World {
    /// The store has accepted a change: who it names now. Nobody else may hold a title that holds.
    pub(crate) fn note_truth(&mut self, key: &DocumentKey, body: Option<&Bytes>, revision: u64) {
        let parsed = body.and_then(|body| serde_json::from_slice::<Value>(body).ok());
        if let Some(name) = key.unescape("n") {
            let owner = parsed.as_ref().and_then(|name| {
                let epoch = name["epoch"].as_u64().filter(|epoch| *epoch > 0);
                let epoch = epoch.unwrap_or(name["base"].as_u64()? + revision);
                Some((name["session"].as_str()?.parse().ok()?, Epoch(epoch)))
            });
            self.note(Thing::Name(name), owner);
        } else if key.as_str().starts_with("g/") {
            let places = parsed.as_ref().and_then(|document| document["slots"].as_array()).map_or(0, Vec::len);
            let named = |entry: &Value| {
                let owner = usize::try_from(entry.get(0)?.as_u64()?).ok()?;
                let session = parsed.as_ref()?["owners"][owner]["session"].as_str()?.parse().ok()?;
                Some((session, Epoch(entry.get(1)?.as_u64()?)))
            };
            let slot = |at: usize| parsed.as_ref().and_then(|document| named(&document["slots"][at]));
            let apart = |id: &str| parsed.as_ref().map(|document| document["overrides"][id]["at"].clone());
            let identities: Vec<_> = self
                .identities
                .iter()
                .map(|id| (id.clone(), apart(id).filter(|at| !at.is_null()), slot(Slot::of(id).place().into())))
                .map(|(id, apart, slot)| (id, apart.as_ref().and_then(named), apart, slot))
                .collect();
            let slots: Vec<_> = (0..places).zip(Slot::all()).map(|(at, number)| (number, slot(at))).collect();
            for (slot, owner) in slots {
                self.note(Thing::Slot(policy().group(), slot), owner);
            }
            for (id, own, apart, slot) in identities {
                let thing = Thing::grain(policy().group(), id);
                if let Some(apart) = apart {
                    self.count_override(&thing, own, apart.get(2).is_some());
                }
                self.note(thing, own.or(slot));
            }
        }
    }

    fn count_override(&mut self, thing: &Thing, owner: Option<(SessionId, Epoch)>, handed: bool) {
        if self.truth.get(thing) != owner.as_ref() {
            let first = self.apart.insert(thing.clone());
            self.count(match (first, handed) {
                (true, _) => "overrides_made",
                (false, true) => "overrides_moved",
                (false, false) => "overrides_taken_over",
            });
        }
    }

    fn note(&mut self, thing: Thing, owner: Option<(SessionId, Epoch)>) {
        let before = match owner {
            Some(owner) => self.truth.insert(thing.clone(), owner),
            None => self.truth.remove(&thing),
        };
        if before != owner {
            self.check_truth(&thing);
        }
    }

    /// Whoever has a title that holds is the one that the store names.
    fn check_truth(&mut self, thing: &Thing) {
        let named = self.truth.get(thing).copied();
        let odd = self.holders.get(thing).into_iter().flatten().find(|place| {
            let node = &self.nodes[**place];
            let title = &node.titles[thing];
            node.holds(thing)
                && title.strictness() == Strictness::Strict
                && named != Some((title.session(), title.epoch()))
        });
        let Some(place) = odd.copied() else { return };
        match self.lost_at {
            Some(at) if self.t() < at + AFTER_LOSS => self.count("owned_unnamed_after_loss"),
            _ => {
                let title = &self.nodes[place].titles[thing];
                self.wrong(format!("node {place} holds {thing:?} by {title:?}, and the store names {named:?}"));
            }
        }
    }

    /// A node's table says whether it has a title.
    pub(crate) fn set_title(&mut self, place: usize, thing: Thing, title: Option<Title>) {
        let before = self.nodes[place].titles.get(&thing);
        let same = |a: &Title, b: &Title| a.epoch() == b.epoch() && a.session() == b.session();
        match (&title, before) {
            (None, None) => return,
            (Some(new), Some(old)) if same(new, old) => {}
            (Some(new), _) => {
                let (epoch, session) = (new.epoch(), new.session());
                self.grant(&thing, epoch, session);
            }
            (None, Some(_)) => {}
        }
        let holders = self.holders.entry(thing.clone()).or_default();
        match title {
            Some(title) => {
                if title.strictness() == Strictness::Available {
                    self.available.insert(thing.clone());
                }
                holders.insert(place);
                self.nodes[place].titles.insert(thing.clone(), title);
            }
            None => {
                holders.remove(&place);
                self.nodes[place].titles.remove(&thing);
            }
        }
        if holders.len() > 1 {
            self.contested.insert(thing.clone());
        } else {
            self.contested.remove(&thing);
        }
        self.check_truth(&thing);
    }

    /// Epochs never fall, and never repeat under another session (G3).
    fn grant(&mut self, thing: &Thing, epoch: Epoch, session: SessionId) {
        let known = self.granted.get(thing).copied();
        if let Some((highest, owner)) = known
            && (epoch < highest || (epoch == highest && session != owner))
        {
            if self.lost_at.is_some() {
                self.count("epochs_repeated_after_loss");
            } else {
                self.wrong(format!("{thing:?}: epoch {epoch} of {session} after {highest} of {owner}"));
            }
        }
        if known.is_none_or(|(highest, _)| epoch > highest) {
            self.granted.insert(thing.clone(), (epoch, session));
        }
    }

    /// At most one title holds, at every node's own clock, in true time (G2).
    pub(crate) fn check_titles(&mut self) {
        let mut wrong = None;
        for thing in &self.contested {
            if self.available.contains(thing) {
                continue;
            }
            let holding: Vec<usize> =
                self.holders[thing].iter().copied().filter(|place| self.nodes[*place].holds(thing)).collect();
            if holding.len() > 1 {
                let titles: Vec<_> = holding.iter().map(|place| (place, &self.nodes[*place].titles[thing])).collect();
                wrong = Some(format!("{thing:?} is owned by {titles:?}"));
            }
        }
        let Some(what) = wrong else { return };
        match self.lost_at {
            Some(at) if self.t() < at + AFTER_LOSS => self.count("owned_twice_after_loss"),
            _ => self.wrong(what),
        }
    }

    /// Work arrives at storage that fences: it refuses a lower epoch, and an equal one of another session.
    pub(crate) fn log(&mut self, thing: &Thing, epoch: Epoch, session: SessionId) {
        match self.fence.get(thing).copied() {
            Some((highest, _)) if epoch < highest => self.count("fenced"),
            Some((highest, owner)) if epoch == highest && session != owner => {
                if self.lost_at.is_none() {
                    self.wrong(format!("{thing:?}: work of {session} and of {owner}, both under epoch {epoch}"));
                }
            }
            _ => {
                self.fence.insert(thing.clone(), (epoch, session));
                self.count("work");
            }
        }
    }

    /// What is not as it should be when nothing is wrong.
    pub(crate) fn unwell(&self) -> Option<String> {
        let group = policy().group();
        let owners = |thing: &Thing| self.nodes.iter().filter(|node| node.holds(thing)).count();
        for slot in (0..64).filter_map(Slot::new) {
            let thing = Thing::Slot(group, slot);
            if owners(&thing) != 1 {
                return Some(format!("{thing:?} has {} owners", owners(&thing)));
            }
            if let Some(place) = self.belongs_to(&thing).filter(|place| !self.nodes[*place].holds(&thing)) {
                return Some(format!("{thing:?} is not on node {place}, the first choice of its datacenter"));
            }
        }
        for id in &self.identities {
            let thing = Thing::grain(group, id);
            if owners(&thing) != 1 {
                return Some(format!("{thing:?} has {} owners", owners(&thing)));
            }
        }
        for key in self.store.keys("n/") {
            let name = key.unescape("n").unwrap_or_default();
            let thing = Thing::Name(name.clone());
            let runs = self.nodes.iter().filter(|node| node.holds(&thing) && node.running.contains_key(&name)).count();
            if (owners(&thing), runs) != (1, 1) {
                return Some(format!("{thing:?} has {} owners and runs {runs} times", owners(&thing)));
            }
        }
        None
    }
}
