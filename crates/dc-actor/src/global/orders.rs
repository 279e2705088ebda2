//! What the driver of ownership asks of this node, done.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dc_core::Epoch;
use dc_ownership::{
    names::NameEntry,
    order::{Order, Thing},
    title::Title,
};
use tokio::sync::{mpsc::UnboundedReceiver, oneshot};

use super::{Global, label, moves, names};
use crate::{
    error::Error,
    host::AnyCell,
    system::{Node, WeakSystem},
};

/// Takes all orders, for as long as the node runs. None of them waits for another thing's.
pub(crate) async fn follow(system: WeakSystem, mut orders: UnboundedReceiver<Order>) {
    while let Some(order) = orders.recv().await {
        let Some(node) = system.node() else { return };
        let Some(global) = node.try_global().cloned() else { return };
        match order {
            Order::SessionLost { session } => {
                let of_it = |cell: &Arc<dyn AnyCell>| {
                    cell.core().owned.as_ref().is_some_and(|owned| owned.title.session() == session)
                };
                // One that is available works on until it is known to have another owner.
                let over = |cell: &Arc<dyn AnyCell>| cell.core().check_owned(true).is_err();
                let lost: Vec<_> = global.standing.all().into_iter().filter(|cell| of_it(cell) && over(cell)).collect();
                tracing::warn!(session = %session.short(), actors = lost.len(), "the session is lost: stopping what ran under it");
                lost.iter().for_each(|cell| cell.kill());
            }
            Order::Lost { thing, held } => stop_at_once(&global, &thing, held),
            Order::Quiesce { thing, to, done, .. } => {
                let moving = global.standing.begin_move(&thing, to);
                tokio::spawn(moves::quiesce(node.clone(), global, thing, moving, done));
            }
            Order::Moved { thing, to } => match (global.standing.moving(&thing), to) {
                // At once: the next order may be to hand it over again.
                (Some(moving), None) => moves::resume(&node, &global, &thing, &moving),
                (Some(moving), Some(owner)) => {
                    tokio::spawn(moves::settle(node.clone(), global, thing, moving, owner));
                }
                (None, _) => {}
            },
            Order::Adopt { entry, title, state, done } => {
                tokio::spawn(adopt(node.clone(), entry, title, state, done));
            }
            _ => tracing::warn!("an order of a newer version was not understood"),
        }
    }
}

fn stop_at_once(global: &Global, thing: &Thing, held: Epoch) {
    for cell in global.standing.cells(thing) {
        if cell.core().owned.as_ref().is_some_and(|owned| owned.title.epoch() == held) {
            tracing::warn!(actor = %cell.core().label(), thing = %label(thing), epoch = %held, "owned elsewhere: stopping it");
            cell.kill();
        }
    }
}

/// How long a former activation of a name on this very node may take to end.
const FORMER: Duration = Duration::from_secs(5);

async fn adopt(
    node: Arc<Node>,
    entry: NameEntry,
    title: Title,
    state: Option<Bytes>,
    done: oneshot::Sender<Result<(), String>>,
) {
    let outcome = start(&node, entry, title, state).await;
    if let Err(error) = &outcome {
        tracing::warn!(%error, "a global name that came to this node did not start here");
    }
    // The driver may have given it up meanwhile: then it says so by another order.
    let _ = done.send(outcome.map_err(|error| error.to_string()));
}

async fn start(node: &Arc<Node>, entry: NameEntry, title: Title, state: Option<Bytes>) -> Result<(), Error> {
    let spec = entry.spec;
    let unknown = || Error::TypeNotRegistered { kind: spec.kind.clone(), node: node.label() };
    let (kind, _) = node.kinds().actor(&spec.kind).ok_or_else(unknown)?;
    let thing = Thing::Name(spec.name.clone());
    // It came back before its former life here has ended.
    for cell in node.global(|| spec.name.clone())?.standing.cells(&thing) {
        cell.kill();
        let _ = tokio::time::timeout(FORMER, cell.core().wait_stopped()).await;
    }
    names::adopt(node, kind, spec, title, state).await
}
