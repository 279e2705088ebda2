//! Watching what is owned: global names, and grains by their identities, each in its slot or placed elsewhere.
//!
//! Every node that takes part in ownership sees every change of owner at the store; one task passes on those of what is
//! watched here. What has lost its owner is looked at again and again until it has one: that costs a look into memory.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use dc_core::{DataCenterId, Epoch, NodeId};
use dc_ownership::{
    Change, Standing,
    names::NameEntry,
    order::{Holder, Thing},
};
use parking_lot::Mutex;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{
    EndReason,
    far::lost_with,
    signal::{Signal, Signals},
};
use crate::{
    error::Error,
    global::{Global, ownership_error},
    grain::identity,
    system::{Node, WeakSystem},
};

/// How often what has no owner is looked at.
const OWNERLESS: Duration = Duration::from_millis(250);

/// How long to wait before a store that did not say who has a name is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What is watched of what is owned.
#[derive(Default)]
pub(super) struct Things {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Names and grains; the grains of one slot are neighbours.
    watched: BTreeMap<Thing, Signals>,
    /// Those of them whose owner is lost, or not known yet.
    ownerless: HashSet<Thing>,
    following: bool,
    closed: bool,
}

impl Things {
    /// A watch is over.
    pub(super) fn leave(&self, thing: &Thing, number: u64) {
        let mut state = self.state.lock();
        let Some(signals) = state.watched.get_mut(thing) else { return };
        signals.remove(&number);
        if signals.is_empty() {
            state.watched.remove(thing);
            state.ownerless.remove(thing);
        }
    }

    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        std::mem::take(&mut state.watched).into_values().flatten().for_each(|(_, signal)| signal.close());
        state.ownerless.clear();
    }

    fn is_watched(&self, thing: &Thing) -> bool {
        self.state.lock().watched.contains_key(thing)
    }

    /// Its owner is lost, or not known yet.
    fn lost(&self, thing: &Thing) {
        let mut state = self.state.lock();
        if state.watched.contains_key(thing) {
            state.ownerless.insert(thing.clone());
        }
    }

    /// What is watched of it: of a slot, its grains.
    fn about(&self, thing: &Thing) -> Vec<Thing> {
        let state = self.state.lock();
        match thing {
            Thing::Slot(group, slot) => {
                let grains = state.watched.range(Thing::Grain(*group, *slot, String::new())..).map(|(thing, _)| thing);
                let of_slot = |thing: &&Thing| matches!(thing, Thing::Grain(of, at, _) if (of, at) == (group, slot));
                grains.take_while(of_slot).cloned().collect()
            }
            Thing::Grain(..) | Thing::Name(_) => {
                state.watched.contains_key(thing).then(|| thing.clone()).into_iter().collect()
            }
        }
    }

    fn all(&self) -> Vec<Thing> {
        self.state.lock().watched.keys().cloned().collect()
    }

    /// Ends all watches of it.
    fn end(&self, thing: &Thing, reason: &EndReason) {
        let mut state = self.state.lock();
        state.ownerless.remove(thing);
        let signals = state.watched.remove(thing);
        signals.into_iter().flatten().for_each(|(_, signal)| signal.end(reason.clone()));
    }

    /// Notes a watch; the changes of owners are followed from before it is looked at.
    fn add(&self, node: &Arc<Node>, global: &Global, thing: &Thing, number: u64, signal: &Arc<Signal>) {
        let mut state = self.state.lock();
        if state.closed {
            return signal.close();
        }
        if !std::mem::replace(&mut state.following, true) {
            node.keep(follow(node.weak(), global.ownership.changes()));
        }
        state.watched.entry(thing.clone()).or_default().insert(number, signal.clone());
    }
}

/// Watches whoever owns a name. `None`: it has ended at once.
pub(super) fn watch_name(node: &Arc<Node>, name: &str, number: u64, signal: &Arc<Signal>) -> Option<Thing> {
    let global = global(node, || format!("the name {name:?}"), signal)?;
    let thing = Thing::Name(name.to_owned());
    node.watches().owned.add(node, global, &thing, number, signal);
    if global.ownership.known(name).is_some() {
        look(node, global, &thing);
    } else {
        // What is stored has not been seen here yet, or nobody has the name: the store says which.
        tokio::spawn(ask(node.weak(), name.to_owned(), thing.clone(), EndReason::Gone));
    }
    Some(thing)
}

/// Watches where a grain belongs. `None`: it has ended at once.
pub(super) fn watch_grain(
    node: &Arc<Node>,
    kind: &'static str,
    id: &str,
    number: u64,
    signal: &Arc<Signal>,
) -> Option<Thing> {
    let refuse = |error: Error| {
        signal.end(EndReason::Refused(error));
        None
    };
    let is_global = node.kinds().global_grains().any(|(global, _)| global == kind);
    if !is_global {
        let (field, rule) = ("watch".to_owned(), "must be a grain of a global kind: others have no place to follow");
        return refuse(Error::Invalid { field, value: identity(kind, id), rule: rule.to_owned() });
    }
    let global = global(node, || format!("grain kind {kind:?}"), signal)?;
    if let Err(error) = global.ownership.check_kind(kind) {
        return refuse(ownership_error(&format!("grain kind {kind:?}"), error, Duration::ZERO));
    }
    let thing = global.grain(kind, id)?;
    if let Some((_, epoch)) = owner(global, &thing) {
        signal.knows(epoch.0);
    }
    node.watches().owned.add(node, global, &thing, number, signal);
    // It may have changed since.
    look(node, global, &thing);
    Some(thing)
}

fn global<'a>(node: &'a Arc<Node>, what: impl FnOnce() -> String, signal: &Signal) -> Option<&'a Arc<Global>> {
    node.global(what).map_err(|error| signal.end(EndReason::Refused(error))).ok()
}

/// Asks the store who has a name, until it says so; `free` is the end where nobody has.
async fn ask(system: WeakSystem, name: String, thing: Thing, free: EndReason) {
    loop {
        let Some(node) = system.node() else { return };
        let Some(global) = node.try_global().cloned() else { return };
        drop(node);
        let found = global.ownership.look_up(&name).await;
        let Some(node) = system.node() else { return };
        let owned = &node.watches().owned;
        if !owned.is_watched(&thing) {
            return;
        }
        match found {
            Ok(None) => return owned.end(&thing, &free),
            Ok(Some(entry)) => return told(&node, &thing, &entry),
            Err(error) => tracing::debug!(name, %error, "who has a watched name is not known yet"),
        }
        drop(node);
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Follows the changes of owners, for as long as the node runs.
async fn follow(system: WeakSystem, mut changes: Receiver<Change>) {
    let mut every = tokio::time::interval(OWNERLESS);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let Some(node) = system.node() else { return };
        let waits = !node.watches().owned.state.lock().ownerless.is_empty();
        drop(node);
        let changed = tokio::select! {
            changed = changes.recv() => Some(changed),
            _ = every.tick(), if waits => None,
        };
        let Some(node) = system.node() else { return };
        let Some(global) = node.try_global() else { return };
        let owned = &node.watches().owned;
        match changed {
            Some(Ok(change)) => for_change(&node, global, &change),
            Some(Err(RecvError::Lagged(_))) => owned.all().iter().for_each(|thing| look_again(&node, global, thing)),
            Some(Err(RecvError::Closed)) => return,
            None => {
                let ownerless: Vec<Thing> = owned.state.lock().ownerless.iter().cloned().collect();
                ownerless.iter().for_each(|thing| look(&node, global, thing));
            }
        }
    }
}

/// An owner has changed. What is known by now may be of a later change, which is told as well: so that a thing is free,
/// and why, is taken from the change.
fn for_change(node: &Node, global: &Global, change: &Change) {
    let owned = &node.watches().owned;
    for thing in owned.about(&change.thing) {
        match (&thing, &change.to) {
            (Thing::Name(name), Standing::Free(with)) if global.ownership.known(name).is_none() => {
                owned.end(&thing, &with.as_ref().map_or(EndReason::LetGo, |dc| lost_with(node, dc)));
            }
            _ => look(node, global, &thing),
        }
    }
}

/// The owner of a grain, or of its slot.
fn owner(global: &Global, thing: &Thing) -> Option<(Holder, Epoch)> {
    match thing {
        Thing::Slot(group, slot) => global.ownership.slot_owner(*group, *slot),
        Thing::Grain(group, slot, identity) => global.ownership.grain_owner(*group, *slot, identity),
        Thing::Name(_) => None,
    }
}

/// As [`look`], where changes were missed: a name that is not known may be free.
fn look_again(node: &Arc<Node>, global: &Global, thing: &Thing) {
    match thing {
        Thing::Name(name) if global.ownership.known(name).is_none() => {
            tokio::spawn(ask(node.weak(), name.clone(), thing.clone(), EndReason::LetGo));
        }
        Thing::Name(_) | Thing::Grain(..) | Thing::Slot(..) => look(node, global, thing),
    }
}

/// Tells what the node knows now of something that is watched. A name that it does not know says nothing: only its
/// change does.
fn look(node: &Node, global: &Global, thing: &Thing) {
    match thing {
        Thing::Slot(..) | Thing::Grain(..) => match owner(global, thing) {
            Some((holder, epoch)) => moved(node, thing, &holder.data_center, holder.node, epoch.0),
            None => node.watches().owned.lost(thing),
        },
        Thing::Name(name) => {
            if let Some(entry) = global.ownership.known(name) {
                told(node, thing, &entry);
            }
        }
    }
}

/// Tells what is known of a name.
fn told(node: &Node, thing: &Thing, entry: &NameEntry) {
    match &entry.holder {
        Some(holder) => moved(node, thing, &holder.data_center, holder.node, entry.epoch.0),
        // Not the end of one that is to end with its owner: that is when the name is cleared away.
        None => node.watches().owned.lost(thing),
    }
}

fn moved(node: &Node, thing: &Thing, data_center: &DataCenterId, at: NodeId, epoch: u64) {
    let mut state = node.watches().owned.state.lock();
    state.ownerless.remove(thing);
    let Some(signals) = state.watched.get(thing) else { return };
    signals.values().for_each(|signal| signal.moved(data_center, at, epoch));
}
