//! What the driver tells, told on; and what other nodes remember where the store has lost data (G3).

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use dc_core::{Endpoint, Epoch, NodeId};
use dc_ownership::OwnershipEvent;
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::{
    error::Error,
    events::Event,
    measure,
    system::{Node, WeakSystem},
    wire::{self, Place},
};

/// How long a node may take to say what it remembers.
const QUESTION: Duration = Duration::from_secs(2);

/// How far above all that this node remembers another's answer may be. No store goes through so many versions in the
/// life of a system, and a lie costs no more of the epochs that there are.
const ABOVE: u64 = 1 << 40;

/// Tells on what happens to ownership, for as long as the node runs.
pub(crate) async fn tell_events(system: WeakSystem, mut events: Receiver<OwnershipEvent>) {
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(missed)) => {
                let Some(node) = system.node() else { return };
                node.bus().tell(Event::Missed(missed));
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        let Some(node) = system.node() else { return };
        measure::ownership(name(&event));
        if let OwnershipEvent::StoreLost { .. } = &event {
            tokio::spawn(ask_for_floor(node.clone()));
        }
        node.bus().tell(Event::Ownership(Arc::new(event)));
    }
}

fn name(event: &OwnershipEvent) -> &'static str {
    match event {
        OwnershipEvent::SessionOpened { .. } => "session_opened",
        OwnershipEvent::SessionLost { .. } => "session_lost",
        OwnershipEvent::SessionBuried { .. } => "session_buried",
        OwnershipEvent::Takeover { .. } => "takeover",
        OwnershipEvent::Conflict { .. } => "conflict",
        OwnershipEvent::StoreLost { .. } => "store_lost",
        OwnershipEvent::PolicyConflict { .. } => "policy_conflict",
        OwnershipEvent::Unreadable { .. } => "unreadable",
        OwnershipEvent::NotAdopted { .. } => "not_adopted",
        OwnershipEvent::MoveFailed { .. } => "move_failed",
        OwnershipEvent::NoEpochLeft { .. } => "no_epoch_left",
        OwnershipEvent::FloorRefused { .. } => "floor_refused",
        _ => "other",
    }
}

/// The store lost data: new epochs start above what any node that can be reached remembers.
async fn ask_for_floor(node: Arc<Node>) {
    let mut nodes: HashSet<(NodeId, Endpoint)> =
        node.view().members.iter().map(|member| (member.node, member.endpoint.clone())).collect();
    {
        let snapshot = node.table().snapshot();
        nodes.extend(snapshot.iter().flat_map(|entry| entry.endpoints()).map(|at| (at.node, at.endpoint.clone())));
    }
    let Some(global) = node.try_global() else { return };
    // Taken once: no answer makes a higher one believable.
    let own = global.ownership.remembered_floor();
    let mut asked: FuturesUnordered<_> = nodes
        .into_iter()
        .filter(|(id, _)| *id != node.id())
        .map(|(id, endpoint)| {
            let peer = node.peer(&endpoint, id);
            async move { (id, peer.call_for_answer(wire::FLOOR, Bytes::new(), QUESTION).await.ok()) }
        })
        .collect();
    while let Some((from, answer)) = asked.next().await {
        let place = answer.and_then(|answer| wire::read_answer(answer.status, answer.body).ok());
        let Some(floor) = place.map(|place| Epoch(place.epoch)) else { continue };
        if is_believable(floor, own) {
            global.ownership.set_floor(floor);
        } else {
            tracing::error!(from = %from.short(), %floor, %own, "an epoch that no node can remember: not believed");
        }
    }
}

/// Whether another node can remember this, where this one remembers `own`.
fn is_believable(floor: Epoch, own: Epoch) -> bool {
    floor <= own.after(ABOVE).unwrap_or(Epoch::GREATEST)
}

/// Answers a node whose store lost data.
pub(crate) fn asked_for_floor(node: &Arc<Node>) -> Result<Place, Error> {
    let global = node.global(|| "an epoch".into())?;
    Ok(Place { epoch: global.ownership.remembered_floor().0, ..Place::none() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g3_a_floor_that_no_node_can_remember_is_not_believed() {
        for (floor, own, believed) in [
            (0, 0, true),
            (5, 7_000_000, true),
            (7_000_000_000, 5, true),
            (ABOVE + 5, 5, true),
            (ABOVE + 6, 5, false),
            (u64::MAX, 5, false),
            (Epoch::GREATEST.0, Epoch::GREATEST.0 - 1, true),
            (Epoch::GREATEST.0 + 1, Epoch::GREATEST.0 - 1, false),
        ] {
            assert_eq!(is_believable(Epoch(floor), Epoch(own)), believed, "{floor} where {own} is remembered");
        }
    }
}
