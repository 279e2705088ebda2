//! What nodes ask for is done, or goes wrong.

use dc_core::Epoch;
use dc_ownership::{
    core::{Answer, Effect, Input, OpDone, OrderOut, Request, Update},
    ids::{SLOTS_PER_DOCUMENT, Slot},
    order::Thing,
    table::SlotRow,
    title::Title,
};
use rand::RngExt;

use super::{
    moves::Step,
    world::{Event, MS, SECOND, World},
};

impl World {
    pub(crate) fn carry_out(&mut self, place: usize, effect: Effect) {
        match effect {
            Effect::Send(request) => self.send(place, request),
            Effect::Watch { generation } => {
                self.nodes[place].generation = generation;
                for prefix in 0..4 {
                    let after = self.rng.random_range(5 * MS..200 * MS);
                    self.reopen_watch(place, prefix, after);
                }
            }
            Effect::Order(order) => self.order(place, order),
            Effect::Offer { token, to, thing, epoch, state } => {
                if !self.crash_at(Step::BeforeOffer, place, Some(to.session)) {
                    self.offer(place, token, &to, thing, epoch, state);
                }
            }
            Effect::Done(op, OpDone::Claimed(result)) => {
                let Some(name) = self.nodes[place].claims.remove(&op) else { return };
                match result {
                    Ok(title) => {
                        self.count("claims");
                        self.start(place, &name, title);
                    }
                    Err(_) => self.count("claims_failed"),
                }
            }
            Effect::Present(present) => {
                self.nodes[place].session = present.map(|(lease, _)| lease.session());
            }
            Effect::Update(Update::Slots(group, number, rows)) => {
                for (at, row) in (0_u16..).zip(rows.iter().flat_map(|rows| rows.slots.iter())) {
                    if let Some(slot) = Slot::new(number * SLOTS_PER_DOCUMENT + at) {
                        self.note_row(place, Thing::Slot(group, slot), row);
                    }
                }
                // An identity is owned by its own row, or by its slot's: never by both.
                for id in self.identities.clone() {
                    let thing = Thing::grain(group, &id);
                    let apart = rows.as_ref().and_then(|rows| rows.overrides.get(&id));
                    match apart {
                        Some(_) => _ = self.nodes[place].apart.insert(thing.clone()),
                        None => _ = self.nodes[place].apart.remove(&thing),
                    }
                    let slot = || rows.as_ref()?.slots.get(usize::from(Slot::of(&id).place()));
                    if let Some(row) = apart.or_else(slot) {
                        self.note_row(place, thing, row);
                    }
                }
            }
            Effect::Update(Update::Name(name, row)) => {
                self.note_known(place, Thing::Name(name.clone()), row.as_ref().map(|row| row.owner.epoch));
                self.set_title(place, Thing::Name(name), row.and_then(|row| row.title));
            }
            Effect::Event(event) => {
                if matches!(event, dc_ownership::OwnershipEvent::Conflict { .. }) && self.lost_at.is_none() {
                    self.wrong(format!("{event:?}"));
                }
            }
            Effect::Progress(_, progress) => {
                if progress.end == Some(dc_ownership::DrainEnd::Done) {
                    self.count("drains_done");
                }
            }
            Effect::Arrived(thing, epoch, offer) => self.arrived(place, thing, epoch, offer),
            Effect::Done(op, OpDone::Plain(result)) => {
                if self.nodes[place].placing.remove(&op) {
                    self.count(if result.is_ok() { "placed" } else { "placed_not" });
                }
            }
            Effect::Update(Update::Sessions(_)) | Effect::Ready | Effect::Changed(_) | Effect::RefusedKinds(_) => {}
        }
    }

    fn note_row(&mut self, place: usize, thing: Thing, row: &SlotRow) {
        self.note_known(place, thing.clone(), row.owner.as_ref().map(|owner| owner.epoch));
        self.set_title(place, thing, row.title.clone());
    }

    fn send(&mut self, place: usize, request: Request) {
        if let Some(to) = self.hands_over(place, &request) {
            self.nodes[place].handing.insert(request.id, to);
            if self.crash_at(Step::Lost, place, Some(to)) {
                return;
            }
            if self.crash_at(Step::Sent, place, Some(to)) {
                let after = self.latency();
                self.for_node(place, after, Event::Arrive(request));
                return;
            }
        }
        self.nodes[place].pending.insert(request.id);
        // As long on the node's clock as its options say.
        let timeout = (2.5 * SECOND as f64 / self.nodes[place].clock.rate) as u64;
        self.for_node(place, timeout, Event::Timeout(request.id));
        if self.reaches(place) {
            let after = self.latency();
            self.for_node(place, after, Event::Arrive(request));
        } else if self.chance(0.1) {
            // Kept on the way, and delivered when nobody expects it any more.
            let after = self.rng.random_range(0..15 * SECOND);
            self.for_node(place, after, Event::Arrive(request));
        }
    }

    fn order(&mut self, place: usize, order: OrderOut) {
        match order {
            OrderOut::SessionLost { .. } => {
                self.nodes[place].running.retain(|_, title| title.check().is_ok());
                self.forget_state(place);
            }
            OrderOut::Lost { thing, held } => self.stopped_here(place, &thing, held),
            OrderOut::Moved { thing, to: Some((to, epoch)) } => {
                let epoch = if self.nodes[place].session == Some(to.session) { Epoch(0) } else { epoch };
                self.stopped_here(place, &thing, epoch);
                self.crash_at(Step::AfterMoved, place, Some(to.session));
            }
            OrderOut::Moved { thing, to: None } => {
                for (unit, _) in self.units(place, &thing) {
                    self.nodes[place].quiet.remove(&unit);
                }
                self.count("moves_stayed");
            }
            OrderOut::Quiesce { thing, token, .. } => {
                let state = self.quiesce(place, &thing);
                let fate = if self.breaks() { self.rng.random_range(0..20) } else { 19 };
                let state = match fate {
                    0 => return,
                    1 => None,
                    _ => Some(state),
                };
                let after = self.latency();
                self.for_node(place, after, Event::Input(Input::Answered { token, answer: Answer::Quiesced(state) }));
            }
            OrderOut::Adopt { entry, title, token, .. } => {
                let name = entry.spec.name.clone();
                let well = !self.breaks() || self.rng.random_bool(0.9);
                let epoch = title.epoch();
                self.start(place, &name, title);
                self.count("adoptions");
                let after = self.latency();
                self.for_node(place, after, Event::Adopted(token, name, epoch, well));
            }
        }
    }

    fn start(&mut self, place: usize, name: &str, title: Title) {
        if let Some(before) = self.nodes[place].running.insert(name.to_owned(), title.clone()) {
            self.wrong(format!("{name} is started twice on node {place}: {before:?}, then {title:?}"));
        }
    }
}
