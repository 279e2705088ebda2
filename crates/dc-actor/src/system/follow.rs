//! What goes on below, told on: events, readiness, names lost, remembered places that are no more.

use std::{collections::HashSet, sync::Arc};

use dc_cache::TableEvent;
use dc_cluster::{ClusterEvent, Eviction};
use dc_core::{DataCenterId, snapshot::Entry};
use dc_remoting::{LinkError, LinkEvent};
use tokio::sync::{
    broadcast::{Receiver, error::RecvError},
    mpsc::UnboundedReceiver,
};

use super::{WeakSystem, node::Node};
use crate::{events::Event, peers::PeerId, reference::Location};

/// Starts all followers of a node.
pub(super) fn all(node: &Arc<Node>, of_cluster: Receiver<ClusterEvent>) {
    node.keep(table(node.weak(), node.table().events()));
    node.keep(cluster(node.weak(), of_cluster));
    node.keep(evictions(node.weak(), node.directory().evictions()));
    node.keep(links(node.weak(), node.remoting().events()));
    node.keep(readiness(node.weak()));
}

/// The next event; `None` when there will be no more. What was missed is told.
async fn next<T: Clone>(receiver: &mut Receiver<T>, system: &WeakSystem) -> Option<T> {
    loop {
        match receiver.recv().await {
            Ok(event) => return Some(event),
            Err(RecvError::Lagged(missed)) => {
                system.node()?.bus().tell(Event::Missed(missed));
            }
            Err(RecvError::Closed) => return None,
        }
    }
}

async fn readiness(system: WeakSystem) {
    let Some(node) = system.node() else { return };
    let (mut views, table) = (node.views(), node.table().clone());
    drop(node);
    if views.wait_for(|view| view.joined).await.is_err() {
        return;
    }
    table.until_in_step().await;
    let Some(node) = system.node() else { return };
    if let Some(store) = table.store() {
        node.remoting().set_store(store);
    }
    if node.set_ready() {
        tracing::info!(node = %node.label(), "ready");
        node.bus().tell(Event::Ready);
    }
}

async fn table(system: WeakSystem, mut events: Receiver<TableEvent>) {
    let (mut homes, mut listed) = (HashSet::new(), HashSet::new());
    while let Some(first) = next(&mut events, &system).await {
        let Some(node) = system.node() else { return };
        // What has happened by now is looked at once: a list may bring thousands of changes.
        let mut event = Some(first);
        while let Some(happened) = event {
            if let TableEvent::StoreChanged { to, .. } = &happened {
                node.remoting().set_store(*to);
            }
            if let Some(event) = table_event(&node, happened) {
                node.bus().tell(event);
            }
            event = events.try_recv().ok();
        }
        follow_homes(&node, &mut homes);
        forget_unlisted(&node, &mut listed);
    }
}

/// Notes when the set of possible homes changes, and forgets places on nodes that are no longer listed.
fn follow_homes(node: &Arc<Node>, homes: &mut HashSet<DataCenterId>) {
    let (now, nodes): (HashSet<DataCenterId>, HashSet<PeerId>) = {
        let snapshot = node.table().snapshot();
        (snapshot.homes().map(|entry| entry.id().clone()).collect(), snapshot.homes().flat_map(nodes_of).collect())
    };
    let (own, view) = (node.data_center().id(), node.view());
    let alive = |at: &Location| nodes.contains(&PeerId::from(at)) || (at.dc == *own && view.member(at.node).is_some());
    node.names().retain(alive);
    node.grains().retain(alive);
    if now != *homes {
        *homes = now;
        node.grains().homes_changed();
    }
}

/// The nodes that a datacenter lists, as its own and nobody else's.
fn nodes_of(entry: &Arc<Entry>) -> impl Iterator<Item = PeerId> {
    entry.endpoints().iter().map(|endpoint| PeerId { dc: entry.id().clone(), node: endpoint.node })
}

/// Forgets what nodes watch here that their datacenters list no more.
fn forget_unlisted(node: &Node, listed: &mut HashSet<PeerId>) {
    let now: HashSet<PeerId> = node.table().snapshot().iter().flat_map(nodes_of).collect();
    let before = std::mem::replace(listed, now);
    if !before.is_subset(listed) {
        crate::watch::forget_peers(node, |peer| listed.contains(peer) || !before.contains(peer));
    }
}

fn table_event(node: &Arc<Node>, event: TableEvent) -> Option<Event> {
    let age = node.table().last_refresh();
    Some(match event {
        TableEvent::Joined { id, state } => Event::DataCenterJoined { id, state },
        TableEvent::Left { id, why } => Event::DataCenterLeft { id, reason: format!("{why:?}") },
        TableEvent::Expired { id } => Event::DataCenterLeft { id, reason: "its lease ended without a renewal".into() },
        TableEvent::Revived { id }
        | TableEvent::Grace { id, .. }
        | TableEvent::StateChanged { id, .. }
        | TableEvent::IntentChanged { id, .. } => return state_of(node, id),
        TableEvent::Stale { age } => Event::Stale { stale: true, age: Some(age) },
        TableEvent::Fresh => Event::Stale { stale: false, age },
        TableEvent::EndpointsChanged { .. } | TableEvent::StoreChanged { .. } | TableEvent::Skipped(_) => return None,
        _ => return None,
    })
}

fn state_of(node: &Arc<Node>, id: DataCenterId) -> Option<Event> {
    let snapshot = node.table().snapshot();
    let entry = snapshot.get(&id)?;
    let (state, takes_placements, takes_traffic) =
        (entry.record().state, entry.takes_placements(), entry.takes_traffic());
    Some(Event::DataCenterState { id, state, takes_placements, takes_traffic })
}

async fn cluster(system: WeakSystem, mut events: Receiver<ClusterEvent>) {
    while let Some(event) = next(&mut events, &system).await {
        let Some(node) = system.node() else { return };
        let members = node.view().members.len();
        match event {
            ClusterEvent::MemberUp(member) => {
                node.bus().tell(Event::Members { joined: vec![member.node], left: Vec::new(), members });
            }
            ClusterEvent::MemberDown(member) => {
                node.bus().tell(Event::Members { joined: Vec::new(), left: vec![member.node], members });
                let gone = PeerId { dc: node.data_center().id().clone(), node: member.node };
                node.names().retain(|at| !gone.has(at));
                node.grains().retain(|at| !gone.has(at));
                crate::watch::forget_peers(&node, |peer| *peer != gone);
            }
            ClusterEvent::LeaderChanged { to, .. } => {
                node.bus().tell(Event::Leader { leader: Some(to), me: to == node.id() });
            }
            // Names that were lost are followed where none is left out: [`evictions`].
            _ => {}
        }
    }
}

async fn evictions(system: WeakSystem, mut lost: UnboundedReceiver<Eviction>) {
    while let Some(eviction) = lost.recv().await {
        let Some(node) = system.node() else { return };
        evicted(&node, &eviction);
    }
}

/// Another side of a healed partition had the name for longer: ours stops (A2).
fn evicted(node: &Arc<Node>, eviction: &Eviction) {
    let (lost, kept_by) = (&eviction.lost, eviction.kept.holder);
    tracing::warn!(name = %lost.key, kept_by = %kept_by.short(), "lost a name to an older actor after a partition: stopping ours");
    if let Some(cell) = node.actors().get(lost.actor) {
        tokio::spawn(cell.stop());
    }
    let name = lost.key.strip_prefix("a/").or_else(|| lost.key.strip_prefix("g/")).unwrap_or(&lost.key);
    node.bus().tell(Event::NameEvicted { name: name.to_owned(), kept_by });
}

async fn links(system: WeakSystem, mut events: Receiver<LinkEvent>) {
    while let Some(event) = next(&mut events, &system).await {
        let Some(node) = system.node() else { return };
        match event {
            LinkEvent::StoreMismatch { identity, ours, theirs } => {
                tracing::warn!(peer = ?identity, ?ours, ?theirs, "a peer uses another control-plane store");
                node.bus().tell(Event::StoreMismatch { peer: format!("{identity:?}") });
            }
            LinkEvent::Refused { from, why, tls: Some(_) } => {
                node.bus().tell(Event::LinkRefused { peer: from.to_string(), why: why.to_string() });
            }
            LinkEvent::DialFailed { endpoint, error: error @ LinkError::Tls { .. } } => {
                node.bus().tell(Event::LinkRefused { peer: endpoint.to_string(), why: error.to_string() });
            }
            LinkEvent::CertificatesReplaced { not_after } => {
                node.bus().tell(Event::CertificatesReplaced { not_after });
            }
            LinkEvent::CertificatesRejected { why } => {
                node.bus().tell(Event::CertificatesRejected { why: why.to_string() });
            }
            _ => {}
        }
    }
}
