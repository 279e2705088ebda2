//! Handing over: what runs finishes what it accepted, gives its state, and messages that come meanwhile follow it.
//!
//! While a thing is on its way, its actors take nothing new: messages of links wait here in order, senders of this node
//! wait where they are. Then either all goes on here as it was, or everything that waited is forwarded, and the new
//! owner is told that this is all: it lets direct messages of others wait for that (R1).

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use dc_core::Epoch;
use dc_ownership::{
    Transfer,
    order::{Holder, Quiesced, Thing},
    title::Title,
};
use dc_remoting::{Message, Pair, Symbol};
use futures::{FutureExt, future::try_join_all};
use tokio::sync::oneshot;

use super::{Global, Located, Owner, label, names, offers, slots, standing::Move};
use crate::{
    error::Error,
    events::Event,
    grain::{self, identity},
    host::{AnyCell, Key},
    link::{self, Incoming},
    system::{Node, WeakSystem},
    wire::{self, FindBody, GrainBody, ThingBody},
};

/// Messages of one thing that wait at most while it is handed over; beyond, `Overloaded` (G5).
const HELD: usize = 4_096;

/// How long one question to the new owner may take.
const QUESTION: Duration = Duration::from_secs(5);

/// A message that waits, and since when.
pub(super) struct Held {
    incoming: Incoming,
    since: Instant,
}

/// Stops what runs of `thing`, and answers with its state; given up, everything goes on as it was.
pub(super) async fn quiesce(
    node: Arc<Node>,
    global: Arc<Global>,
    thing: Thing,
    moving: Arc<Move>,
    mut done: oneshot::Sender<Quiesced>,
) {
    let held = async {
        global.standing.started(&thing).await;
        let cells = global.standing.cells(&thing);
        let hold = || cells.iter().for_each(|cell| _ = cell.core().gate.hold());
        // Given up before it came to that, nobody would open these gates again.
        if !moving.unless_over(hold) {
            return Err("it was given up".into());
        }
        try_join_all(cells.into_iter().map(finish)).await
    };
    let held = tokio::select! {
        held = held => held,
        () = done.closed() => Err("it took too long".into()),
    };
    let given_up = match held {
        Ok(states) => {
            let state = states.into_iter().flatten().collect();
            // The title to its slot goes on: that of what runs here does not.
            moving.unless_over(|| global.standing.cells(&thing).iter().filter_map(part).for_each(Title::suspend));
            done.send(Quiesced { state }).is_err().then(|| "it took too long".to_owned())
        }
        Err(reason) => Some(reason),
    };
    if let Some(reason) = given_up {
        tracing::info!(thing = %label(&thing), to = %moving.to.node.short(), %reason, "not handed over: it goes on here");
        resume(&node, &global, &thing, &moving);
    }
}

/// The state of one actor, after what it had accepted.
async fn finish(cell: Arc<dyn AnyCell>) -> Result<Option<(String, Bytes)>, String> {
    let core = cell.core().clone();
    let emptied = async {
        tokio::select! {
            () = core.gate.emptied() => {}
            () = core.wait_stopped() => {}
        }
    };
    emptied.await;
    if core.gate.is_closed() {
        // It has stopped for good, or is about to: nothing goes along.
        return Ok(None);
    }
    let name = match &core.key {
        Key::Grain(id) => identity(core.kind, id),
        Key::Global(name) | Key::Name(name) => name.to_string(),
        Key::Anonymous => return Ok(None),
    };
    match cell.snapshot().await {
        Ok(state) => Ok(state.map(|state| (name, state))),
        Err(_) if core.gate.is_closed() => Ok(None),
        Err(reason) => Err(format!("{}: {reason}", core.label())),
    }
}

/// The title of one activation of a grain, which may end before that of its slot.
fn part(cell: &Arc<dyn AnyCell>) -> Option<&Title> {
    let owned = cell.core().owned.as_ref()?;
    matches!(owned.thing, Thing::Grain(..)).then_some(&owned.title)
}

/// The hand-over is over: what waited follows it.
pub(super) async fn settle(
    node: Arc<Node>,
    global: Arc<Global>,
    thing: Thing,
    moving: Arc<Move>,
    (holder, epoch): (Holder, Epoch),
) {
    let moved = Event::GlobalMoved {
        what: label(&thing),
        data_center: holder.data_center.clone(),
        node: holder.node,
        epoch: epoch.0,
    };
    for cell in global.standing.cells(&thing) {
        if let Some(part) = part(&cell) {
            part.end();
        }
        // Its gate closes at once; what it does in its end, it does as a former owner.
        tokio::spawn(cell.stop());
    }
    if holder.node == node.id() {
        // An identity that was placed where it is.
        to_itself(&node, &global, &thing, &moving);
        return node.bus().tell(moved);
    }
    let owner = Owner::of(holder, epoch);
    let pair = node.peer_of(&owner.dc, &owner.endpoint, owner.node).pair();
    let mut forwarding = Forwarding { node: &node, owner: &owner, pair: &pair, places: HashMap::new() };
    loop {
        let next = {
            let mut held = moving.held.lock();
            match held.as_mut().and_then(VecDeque::pop_front) {
                Some(next) => next,
                None => {
                    // Under the lock: what comes later finds that this is over.
                    *held = None;
                    break;
                }
            }
        };
        forwarding.forward(next).await;
    }
    // Behind all that was forwarded, on the same channel: whoever answers has taken all of it in.
    let sign = wire::landed(wire::write(&ThingBody::of(&thing)), owner.epoch);
    if let Err(error) = pair.ask(sign, QUESTION).await {
        tracing::debug!(thing = %label(&thing), %error, "the new owner was not told that all is forwarded");
    }
    global.standing.end_move(&thing, &moving);
    let _ = moving.over.set(());
    node.bus().tell(moved);
}

/// It stays: what waited is taken in, in order, before anything that comes now. Nothing where the hand-over has ended:
/// another one may have begun.
pub(super) fn resume(node: &Arc<Node>, global: &Global, thing: &Thing, moving: &Arc<Move>) {
    let cells = global.standing.cells(thing);
    let mut late = Vec::new();
    {
        let mut held = moving.held.lock();
        let Some(waited) = held.take() else { return };
        for Held { incoming, .. } in waited {
            late.extend(super::deliver(node, None, incoming, true).err());
        }
        cells.iter().filter_map(part).for_each(Title::resume);
        cells.iter().for_each(|cell| cell.core().gate.release());
    }
    if !global.is_apart(thing) {
        global.standing.rejoin(thing);
    }
    global.standing.end_move(thing, moving);
    let _ = moving.over.set(());
    for incoming in late {
        grain::redirect(node, incoming);
    }
}

/// It was handed over to this very node: what waited looks for its new activation.
fn to_itself(node: &Arc<Node>, global: &Global, thing: &Thing, moving: &Arc<Move>) {
    let held = moving.held.lock().take();
    global.standing.end_move(thing, moving);
    let _ = moving.over.set(());
    for Held { incoming, .. } in held.into_iter().flatten() {
        grain::redirect(node, incoming);
    }
}

/// Takes a message for something global that is not taken in here (now, or any more).
pub(crate) fn arrived_late(node: &Arc<Node>, incoming: Incoming) {
    let Some(global) = node.try_global() else { return grain::redirect(node, incoming) };
    let Some(thing) = global.thing_of(node, &incoming.message) else { return grain::redirect(node, incoming) };
    if let Some(moving) = global.standing.moving_of(&thing)
        && let Some(held) = &mut *moving.held.lock()
    {
        if held.len() < HELD {
            crate::measure::ownership("message_held");
            return held.push_back(Held { incoming, since: node.clock().now() });
        }
        let what = format!("{} while it is handed over", label(&thing));
        return refuse(node, incoming, &thing, Error::Overloaded { what });
    }
    // It may have been resumed in between.
    if let Err(incoming) = super::deliver(node, None, incoming, false) {
        grain::redirect(node, incoming);
    }
}

impl Global {
    /// Whether it is an identity that lives elsewhere than its slot, or is about to.
    fn is_apart(&self, thing: &Thing) -> bool {
        match thing {
            Thing::Grain(group, slot, identity) => self.ownership.is_overridden(*group, *slot, identity),
            Thing::Slot(..) | Thing::Name(_) => false,
        }
    }

    /// What a message is for, by its kind and key.
    pub(crate) fn thing_of(&self, node: &Node, message: &Message) -> Option<Thing> {
        let key = std::str::from_utf8(&message.key).ok()?;
        match node.kinds().grain(&message.kind) {
            Some((kind, _)) => self.grain(kind, key),
            None => Some(Thing::Name(key.to_owned())),
        }
    }
}

fn refuse(node: &Node, incoming: Incoming, thing: &Thing, error: Error) {
    match incoming.reply {
        Some(reply) => link::reply_error(reply, &error),
        None => grain::dead(node, &incoming.message, error),
    }
    tracing::debug!(thing = %label(thing), "a message was refused while it is handed over");
}

/// Messages on their way to the new owner, in order.
struct Forwarding<'a> {
    node: &'a Arc<Node>,
    owner: &'a Owner,
    pair: &'a Pair,
    places: HashMap<(Symbol, Bytes), Result<Located, Error>>,
}

impl Forwarding<'_> {
    async fn forward(&mut self, held: Held) {
        crate::measure::ownership("message_forwarded");
        let Held { mut incoming, since } = held;
        let key = (incoming.message.kind.clone(), incoming.message.key.clone());
        if !self.places.contains_key(&key) {
            let found = self.find(&incoming.message).await;
            self.places.insert(key.clone(), found);
        }
        let located = match self.places.get(&key) {
            Some(Ok(located)) => located.clone(),
            Some(Err(error)) => {
                let error = error.clone();
                return match incoming.reply {
                    Some(reply) => link::reply_error(reply, &error),
                    None => grain::dead(self.node, &incoming.message, error),
                };
            }
            None => return,
        };
        let mut message = std::mem::replace(&mut incoming.message, empty());
        (message.to, message.epoch) = (located.at.actor, located.epoch);
        let target = grain::label(&message);
        let Some(reply) = incoming.reply else {
            message.from = wire::pass_on_mark(&message.from);
            if let Err(err) = self.pair.tell(message.clone()).await {
                grain::dead(self.node, &message, link::link_error(&err, &target));
            }
            return;
        };
        let waited = self.node.clock().now().saturating_duration_since(since);
        let left = incoming.left.unwrap_or(QUESTION).saturating_sub(waited);
        if left.is_zero() {
            return reply.expired();
        }
        let pair = self.pair.clone();
        let mut asking = Box::pin(async move { pair.ask(message, left).await });
        // The first step puts it on its way, before anything that is forwarded later.
        let early = asking.as_mut().now_or_never();
        let accept = incoming.accept;
        tokio::spawn(async move {
            let answer = match early {
                Some(answer) => answer,
                None => asking.await,
            };
            drop(accept);
            match answer {
                Ok(answer) => reply.send(answer.status | link::FORWARDED, answer.body),
                Err(err) => link::reply_error(reply, &link::link_error(&err, &target)),
            }
        });
    }

    /// Where the new owner has it; not behind what is forwarded, as others are.
    async fn find(&self, message: &Message) -> Result<Located, Error> {
        let name = std::str::from_utf8(&message.key).map_err(|_| Error::not_found(grain::label(message)))?;
        let epoch = self.owner.epoch;
        if self.node.kinds().grain(&message.kind).is_some() {
            let body = GrainBody { kind: message.kind.to_string(), id: name.to_owned(), epoch, forwarded: true };
            return slots::ask(self.node, self.owner, body, QUESTION).await;
        }
        let body = FindBody { name: name.to_owned(), request: Bytes::new(), epoch, forwarded: true };
        let place = names::ask(self.node, self.owner, body, QUESTION).await?;
        let at = place.location()?.ok_or_else(|| Error::not_found(name))?;
        Ok(Located { at, epoch: place.epoch })
    }
}

fn empty() -> Message {
    Message {
        to: 0,
        kind: Symbol::from_static(""),
        key: Bytes::new(),
        message: Symbol::from_static(""),
        epoch: 0,
        from: Bytes::new(),
        payload: Bytes::new(),
    }
}

/// State on its way from node to node.
pub(crate) struct Carrier {
    pub(crate) system: WeakSystem,
}

#[async_trait]
impl Transfer for Carrier {
    async fn offer(&self, to: &Holder, thing: &Thing, epoch: Epoch, state: Vec<(String, Bytes)>) -> Result<(), String> {
        let node = self.system.node().ok_or("the system has ended")?;
        let peer = node.peer_of(&to.data_center, &to.endpoint, to.node);
        for body in offers::offers(thing, epoch.0, state) {
            offers::may_move(&node, &to.data_center, thing, &body.states).map_err(|err| err.to_string())?;
            let answer = peer.call_for_answer(wire::OFFER, wire::write(&body), QUESTION).await;
            let answer = answer.map_err(|err| err.to_string())?;
            wire::read_answer(answer.status, answer.body).map_err(|err| err.to_string())?;
        }
        Ok(())
    }
}
