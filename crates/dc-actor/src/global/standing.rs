//! What runs here under which title, what is about to, and what is being handed over.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
};

use dc_ownership::order::{Holder, Thing};
use parking_lot::Mutex;
use tokio::sync::{Notify, SetOnce, futures::Notified};

use super::moves::Held;
use crate::host::AnyCell;

/// What runs of each thing. Things without anything are not listed.
#[derive(Default)]
pub(crate) struct Standing {
    things: Mutex<HashMap<Thing, State>>,
    /// A start has ended.
    started: Notify,
}

#[derive(Default)]
struct State {
    cells: Vec<Arc<dyn AnyCell>>,
    /// What is about to start: identities of a slot, or the thing itself.
    starting: Vec<Thing>,
    moving: Option<Arc<Move>>,
    /// Of a name: the spawn that started it (L3); 0 for none.
    request: u128,
}

impl State {
    fn is_over(&self) -> bool {
        self.cells.is_empty() && self.starting.is_empty() && self.moving.is_none()
    }
}

/// A hand-over that is under way.
pub(super) struct Move {
    pub(super) to: Holder,
    /// Messages that came for it, in order; `None` once it is over.
    pub(super) held: Mutex<Option<VecDeque<Held>>>,
    pub(super) over: SetOnce<()>,
}

impl Move {
    fn new(to: Holder) -> Self {
        Self { to, held: Mutex::new(Some(VecDeque::new())), over: SetOnce::new() }
    }

    /// Does it, unless the hand-over has ended: it does not end in the middle of it. False where it has ended.
    pub(super) fn unless_over(&self, act: impl FnOnce()) -> bool {
        let held = self.held.lock();
        if held.is_some() {
            act();
        }
        held.is_some()
    }
}

/// Holds a place for something that starts; dropped, the start is over.
pub(super) struct Starting<'a> {
    standing: &'a Standing,
    thing: Thing,
    what: Thing,
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.standing.change(&self.thing, |state| {
            if let Some(at) = state.starting.iter().position(|what| *what == self.what) {
                state.starting.swap_remove(at);
            }
        });
        self.standing.started.notify_waiters();
    }
}

impl Standing {
    fn change<T>(&self, thing: &Thing, change: impl FnOnce(&mut State) -> T) -> T {
        let mut things = self.things.lock();
        match things.entry(thing.clone()) {
            Entry::Occupied(mut found) => {
                let out = change(found.get_mut());
                if found.get().is_over() {
                    found.remove();
                }
                out
            }
            Entry::Vacant(none) => {
                let mut state = State::default();
                let out = change(&mut state);
                if !state.is_over() {
                    none.insert(state);
                }
                out
            }
        }
    }

    /// Takes a place for a start of `what`, which is `thing` or belongs to it.
    ///
    /// # Errors
    ///
    /// The hand-over that is under way, of either.
    pub(super) fn begin(&self, thing: &Thing, what: &Thing) -> Result<Starting<'_>, Arc<Move>> {
        let mut things = self.things.lock();
        for of in [thing, what] {
            if let Some(moving) = things.get(of).and_then(|state| state.moving.clone()) {
                return Err(moving);
            }
        }
        things.entry(thing.clone()).or_default().starting.push(what.clone());
        Ok(Starting { standing: self, thing: thing.clone(), what: what.clone() })
    }

    /// Notes what a start has made. What belongs to a slot, and is being handed over by itself, is with that.
    pub(super) fn add(&self, thing: &Thing, cell: Arc<dyn AnyCell>, request: u128) {
        let mut things = self.things.lock();
        let own = cell.core().owned.as_ref().map(|owned| owned.thing.clone());
        let own = own.filter(|own| things.get(own).is_some_and(|state| state.moving.is_some()));
        let state = things.entry(own.unwrap_or_else(|| thing.clone())).or_default();
        state.cells.push(cell);
        state.request = request;
    }

    /// It has ended, whatever it belonged to.
    pub(super) fn remove(&self, what: &Thing, number: u64) {
        for thing in std::iter::once(what.clone()).chain(what.whole()) {
            self.change(&thing, |state| state.cells.retain(|cell| cell.core().number != number));
        }
    }

    /// What runs of it.
    pub(super) fn cells(&self, thing: &Thing) -> Vec<Arc<dyn AnyCell>> {
        self.things.lock().get(thing).map(|state| state.cells.clone()).unwrap_or_default()
    }

    /// What runs of a name, and the spawn that started it.
    pub(super) fn of_name(&self, thing: &Thing) -> Option<(Arc<dyn AnyCell>, u128)> {
        let things = self.things.lock();
        let state = things.get(thing)?;
        Some((state.cells.last()?.clone(), state.request))
    }

    /// Whether anything runs under a title.
    pub(super) fn is_empty(&self) -> bool {
        self.things.lock().is_empty()
    }

    /// Everything that runs under a title.
    pub(super) fn all(&self) -> Vec<Arc<dyn AnyCell>> {
        self.things.lock().values().flat_map(|state| state.cells.clone()).collect()
    }

    /// The hand-over that is under way.
    pub(super) fn moving(&self, thing: &Thing) -> Option<Arc<Move>> {
        self.things.lock().get(thing)?.moving.clone()
    }

    /// The hand-over that is under way, of it or of the slot that it belongs to.
    pub(super) fn moving_of(&self, what: &Thing) -> Option<Arc<Move>> {
        self.moving(what).or_else(|| self.moving(&what.whole()?))
    }

    /// From now on nothing of it starts. A hand-over that was not ended is replaced: the driver has given it up. What
    /// runs of an identity is taken out of its slot.
    pub(super) fn begin_move(&self, thing: &Thing, to: Holder) -> Arc<Move> {
        let moving = Arc::new(Move::new(to));
        let mut things = self.things.lock();
        if let Some(whole) = thing.whole() {
            Self::carry(&mut things, &whole, thing, thing);
        }
        things.entry(thing.clone()).or_default().moving = Some(moving.clone());
        moving
    }

    /// The identity stays with its slot: what runs of it is its slot's again.
    pub(super) fn rejoin(&self, what: &Thing) {
        if let Some(whole) = what.whole() {
            Self::carry(&mut self.things.lock(), what, &whole, what);
        }
    }

    /// Takes what runs of `what` from one thing to another.
    fn carry(things: &mut HashMap<Thing, State>, from: &Thing, to: &Thing, what: &Thing) {
        let of_it = |cell: &mut Arc<dyn AnyCell>| cell.core().owned.as_ref().is_some_and(|owned| owned.thing == *what);
        let Some(state) = things.get_mut(from) else { return };
        let carried: Vec<_> = state.cells.extract_if(.., of_it).collect();
        if state.is_over() {
            things.remove(from);
        }
        if !carried.is_empty() {
            things.entry(to.clone()).or_default().cells.extend(carried);
        }
    }

    /// Takes the hand-over out, if it is this one; what follows may start again.
    pub(super) fn end_move(&self, thing: &Thing, moving: &Arc<Move>) {
        self.change(thing, |state| {
            if state.moving.as_ref().is_some_and(|now| Arc::ptr_eq(now, moving)) {
                state.moving = None;
            }
        });
    }

    /// Ends when anything that was starting runs, or has failed to, from this call on.
    pub(super) fn next_start(&self) -> Notified<'_> {
        self.started.notified()
    }

    fn starts(&self, thing: &Thing) -> bool {
        let things = self.things.lock();
        let own = things.get(thing).is_some_and(|state| !state.starting.is_empty());
        let whole = thing.whole().and_then(|whole| things.get(&whole));
        own || whole.is_some_and(|state| state.starting.contains(thing))
    }

    /// Ends when nothing of it is starting.
    pub(super) async fn started(&self, thing: &Thing) {
        loop {
            // Made before the look: it hears of every end from here on.
            let ended = self.started.notified();
            if !self.starts(thing) {
                return;
            }
            ended.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use dc_core::NodeId;
    use dc_ownership::ids::SessionId;

    use super::*;

    #[test]
    fn g5_nothing_is_held_for_a_hand_over_that_was_given_up_before_it_began() {
        let to = Holder {
            session: SessionId(1),
            node: NodeId(1),
            data_center: "dc-1".parse().expect("legal"),
            endpoint: "10.0.0.1:7946".parse().expect("legal"),
        };
        let moving = Move::new(to);
        let mut holds = 0;
        assert!(moving.unless_over(|| holds += 1));
        // As settling it does.
        *moving.held.lock() = None;
        assert!(!moving.unless_over(|| holds += 1));
        assert_eq!(holds, 1);
    }
}
