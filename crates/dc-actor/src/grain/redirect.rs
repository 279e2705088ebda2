//! Messages of links that come too late for an activation.
//!
//! They certainly did not run. An ask goes back: its asker looks for the grain again. A tell has nobody to go back to:
//! it is passed on to where the grain is now, in order with the others, once.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use dc_ownership::order::Thing;
use dc_remoting::{Pair, ReplyTo};
use parking_lot::Mutex;

use super::locate;
use crate::{
    error::Error,
    events::DeadLetter,
    global::{self, Located},
    link::{self, Accept, Incoming},
    mobile,
    system::Node,
    wire,
};

/// How long a tell may wait for its grain to become active again.
const PASS_ON: Duration = Duration::from_secs(5);

/// How long what was passed on may take to be taken in, before more follows by another way.
const TAKE_IN: Duration = Duration::from_secs(5);

enum Waiting {
    Message(Incoming),
    /// The question whether what came before is taken in. It holds its sender's credits, as messages do.
    Sign(ReplyTo, Accept),
}

type Queue = VecDeque<Waiting>;

/// Messages that wait to be passed on, by grain. They hold their senders' credits, so the links bound them.
#[derive(Default)]
pub(super) struct Redirects(Mutex<HashMap<(String, Bytes), Queue>>);

/// Takes a message for a grain, or a global actor, that is not here under the number that the message names.
pub(crate) fn redirect(node: &Arc<Node>, incoming: Incoming) {
    if let Some(reply) = incoming.reply {
        return not_here(node, reply, &incoming.message);
    }
    if wire::is_passed_on(&incoming.message.from) {
        return dead(node, &incoming.message, Error::not_found(label(&incoming.message)));
    }
    let grain = (incoming.message.kind.to_string(), incoming.message.key.clone());
    let mut redirects = node.grains().redirects.0.lock();
    if let Some(queue) = redirects.get_mut(&grain) {
        queue.push_back(Waiting::Message(incoming));
        return;
    }
    redirects.insert(grain.clone(), VecDeque::from([Waiting::Message(incoming)]));
    drop(redirects);
    tokio::spawn(pass_on(node.clone(), grain));
}

/// Answers once all that came before, for the target that is named, has been taken in where that is now.
pub(crate) fn passed_all(node: &Arc<Node>, incoming: Incoming) {
    let Some(reply) = incoming.reply else { return };
    let target = (incoming.message.message.to_string(), incoming.message.key);
    match node.grains().redirects.0.lock().get_mut(&target) {
        Some(queue) => queue.push_back(Waiting::Sign(reply, incoming.accept)),
        // What was passed on before is taken in, or this would be going on. What is held in a hand-over is ahead of
        // everything that its new owner is told directly.
        None => reply.send(link::OK, Bytes::new()),
    }
}

/// Lets the asker look again, once the old activation has let the identity go.
fn not_here(node: &Arc<Node>, reply: dc_remoting::ReplyTo, message: &dc_remoting::Message) {
    let error = gone(node, message);
    match node.actors().get(message.to) {
        Some(cell) => drop(tokio::spawn(async move {
            cell.core().wait_stopped().await;
            link::reply_error(reply, &error);
        })),
        None => link::reply_error(reply, &error),
    }
}

/// Why it is not here: who sent it looks again, at the newer owner if there is one.
fn gone(node: &Arc<Node>, message: &dc_remoting::Message) -> Error {
    match thing_of(node, message).and_then(|thing| node.newer_owner(&thing, message.epoch)) {
        Some(newer) => {
            Error::NotOwner { actor: label(message), epoch: message.epoch, newer: Some(newer), not_run: true }
        }
        None => Error::not_found(label(message)),
    }
}

fn thing_of(node: &Node, message: &dc_remoting::Message) -> Option<Thing> {
    let global = node.try_global().filter(|_| message.epoch != 0)?;
    global.thing_of(node, message)
}

/// Passes on what waits for one grain, until there is nothing, and what was passed on has been taken in: what comes then
/// may go by another way.
async fn pass_on(node: Arc<Node>, grain: (String, Bytes)) {
    let mut way: Option<(Located, Option<Pair>)> = None;
    loop {
        let next = {
            let mut redirects = node.grains().redirects.0.lock();
            let next = redirects.get_mut(&grain).and_then(VecDeque::pop_front);
            if next.is_none() && way.is_none() {
                redirects.remove(&grain);
                return;
            }
            next
        };
        let next = match next {
            Some(Waiting::Message(next)) => next,
            Some(Waiting::Sign(reply, accept)) => {
                taken_in(way.take()).await;
                reply.send(link::OK, Bytes::new());
                drop(accept);
                continue;
            }
            None => {
                taken_in(way.take()).await;
                continue;
            }
        };
        if way.is_none() {
            match find(&node, &next).await {
                Ok(found) => {
                    let at = &found.at;
                    let pair = (at.node != node.id()).then(|| node.peer(&at.endpoint, at.node).pair());
                    way = Some((found, pair));
                }
                Err(error) => {
                    dead(&node, &next.message, error);
                    continue;
                }
            }
        }
        if let Some((found, pair)) = &way
            && let Err(error) = forward(&node, found, pair.as_ref(), next).await
        {
            tracing::debug!(grain = %grain.0, %error, "a message could not be passed on");
        }
    }
}

/// Ends when all that was passed on this way has been taken in there: the answer is behind it.
async fn taken_in(way: Option<(Located, Option<Pair>)>) {
    let Some((_, Some(pair))) = way else { return };
    if let Err(error) = pair.ask(wire::landed(Bytes::new(), 0), TAKE_IN).await {
        tracing::debug!(%error, "whether what was passed on has come is not known");
    }
}

async fn find(node: &Arc<Node>, incoming: &Incoming) -> Result<Located, Error> {
    let message = &incoming.message;
    if let Some(cell) = node.actors().get(message.to) {
        cell.core().wait_stopped().await;
    }
    let until = node.clock().now() + PASS_ON;
    if let Some(Thing::Name(name)) = thing_of(node, message) {
        let found = mobile::find_name(node, &name, PASS_ON).await.map_err(|lost| lost.error)?;
        return if found.1 == *message.kind { Ok(found.0) } else { Err(Error::not_found(label(message))) };
    }
    let unknown = || Error::TypeNotRegistered { kind: message.kind.to_string(), node: node.label() };
    let (kind, _) = node.kinds().grain(&message.kind).ok_or_else(unknown)?;
    let id = std::str::from_utf8(&message.key).map_err(|_| Error::not_found(label(message)))?;
    node.grains().forget_number(kind, id, node.id(), message.to);
    locate::locate(node, kind, &id.into(), until, None).await.map_err(|lost| lost.error)
}

async fn forward(node: &Arc<Node>, found: &Located, pair: Option<&Pair>, mut incoming: Incoming) -> Result<(), Error> {
    incoming.message.to = found.at.actor;
    incoming.message.epoch = found.epoch;
    incoming.message.from = wire::pass_on_mark(&incoming.message.from);
    match pair {
        Some(pair) => {
            let copy = incoming.message.clone();
            if let Err(err) = pair.tell(copy).await {
                let error = link::link_error(&err, &label(&incoming.message));
                dead(node, &incoming.message, error.clone());
                return Err(error);
            }
        }
        None => {
            if let Err(incoming) = global::deliver(node, None, incoming, false) {
                let error = Error::not_found(label(&incoming.message));
                dead(node, &incoming.message, error.clone());
                return Err(error);
            }
        }
    }
    Ok(())
}

pub(crate) fn label(message: &dc_remoting::Message) -> String {
    format!("{}/{}", message.kind, String::from_utf8_lossy(&message.key))
}

/// A message that nobody takes.
pub(crate) fn dead(node: &Node, message: &dc_remoting::Message, error: Error) {
    node.bus().dead_letter(DeadLetter {
        target: label(message),
        kind: message.kind.to_string(),
        message: message.message.to_string(),
        error,
    });
}
