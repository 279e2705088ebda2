//! What runs here under which title, what is about to, and what is being handed over.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
};

use dc_ownership::order::{Holder, Thing};
use parking_lot::Mutex;
use tokio::sync::{Notify, SetOnce};

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
    starting: usize,
    moving: Option<Arc<Move>>,
    /// Of a name: the spawn that started it (L3); 0 for none.
    request: u128,
}

impl State {
    fn is_over(&self) -> bool {
        self.cells.is_empty() && self.starting == 0 && self.moving.is_none()
    }
}

/// A hand-over that is under way.
pub(super) struct Move {
    pub(super) to: Holder,
    /// Messages that came for it, in order; `None` once it is over.
    pub(super) held: Mutex<Option<VecDeque<Held>>>,
    pub(super) over: SetOnce<()>,
}

/// Holds a place for something that starts; dropped, the start is over.
pub(super) struct Starting<'a> {
    standing: &'a Standing,
    thing: Thing,
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.standing.change(&self.thing, |state| state.starting -= 1);
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

    /// Takes a place for a start.
    ///
    /// # Errors
    ///
    /// The hand-over that is under way.
    pub(super) fn begin(&self, thing: &Thing) -> Result<Starting<'_>, Arc<Move>> {
        self.change(thing, |state| match &state.moving {
            Some(moving) => Err(moving.clone()),
            None => {
                state.starting += 1;
                Ok(())
            }
        })?;
        Ok(Starting { standing: self, thing: thing.clone() })
    }

    /// Notes what a start has made.
    pub(super) fn add(&self, thing: &Thing, cell: Arc<dyn AnyCell>, request: u128) {
        self.change(thing, |state| {
            state.cells.push(cell);
            state.request = request;
        });
    }

    /// It has ended.
    pub(super) fn remove(&self, thing: &Thing, number: u64) {
        self.change(thing, |state| state.cells.retain(|cell| cell.core().number != number));
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

    /// From now on nothing of it starts. A hand-over that was not ended is replaced: the driver has given it up.
    pub(super) fn begin_move(&self, thing: &Thing, to: Holder) -> Arc<Move> {
        let moving = Arc::new(Move { to, held: Mutex::new(Some(VecDeque::new())), over: SetOnce::new() });
        let _ = self.change(thing, |state| state.moving.replace(moving.clone()));
        moving
    }

    /// Takes the hand-over out, if it is this one; what follows may start again.
    pub(super) fn end_move(&self, thing: &Thing, moving: &Arc<Move>) {
        self.change(thing, |state| {
            if state.moving.as_ref().is_some_and(|now| Arc::ptr_eq(now, moving)) {
                state.moving = None;
            }
        });
    }

    /// Ends when nothing of it is starting.
    pub(super) async fn started(&self, thing: &Thing) {
        loop {
            // Made before the look: it hears of every end from here on.
            let ended = self.started.notified();
            if self.things.lock().get(thing).is_none_or(|state| state.starting == 0) {
                return;
            }
            ended.await;
        }
    }
}
