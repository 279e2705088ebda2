//! Grains that are active in two datacenters, because tables differed or one could not ask the other: one of them ends
//! (G2).
//!
//! A home asks those that were home before whether they have a grain active before it makes it so. Where it could not
//! know of them, or they of it, both have it once tables agree again, and the one away from home ends. Where they could
//! not answer, the home's ends if they turn out to have it: that one is older. Senders go on where they have found it,
//! so without this it would stay so for as long as both are used.

use std::{collections::HashMap, sync::Arc, time::Duration};

use dc_core::{DataCenterId, NodeId};
use futures::{StreamExt, stream};

use super::{active, identity, locate};
use crate::{
    error::Error,
    host::{AnyCell, Key},
    kind::GrainScope,
    lookup::ask_data_center,
    system::Node,
    wire::{self, GrainBody},
};

/// How often they are looked at. Longer than it takes to make a grain active, so that what is said twice is there.
const LOOK: Duration = Duration::from_millis(1_500);

/// How long a datacenter may take to answer.
const QUESTION: Duration = Duration::from_secs(1);

/// Questions at once.
const AT_ONCE: usize = 256;

/// A datacenter that may have a grain of this node active, too.
struct Doubt {
    cell: Arc<dyn AnyCell>,
    at: DataCenterId,
    /// Who has it there, as was answered.
    other: Option<(NodeId, u64)>,
}

/// Asks for what is in doubt until it is answered, for as long as the node runs.
pub(crate) async fn settle_doubts(node: Arc<Node>) {
    let weak = Arc::downgrade(&node);
    let mut since = node.grains().homes_since();
    drop(node);
    let mut doubts: HashMap<(u64, DataCenterId), Doubt> = HashMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(node) = weak.upgrade() else { return };
        let now = node.grains().homes_since();
        if std::mem::replace(&mut since, now) != now {
            let away = active(&node).into_iter().filter_map(|cell| Some((home_elsewhere(&node, &cell)?, cell)));
            note(&mut doubts, away);
        }
        let unanswered = std::mem::take(&mut *node.grains().unanswered.lock());
        let still = |(number, at)| Some((at, node.actors().get(number)?));
        note(&mut doubts, unanswered.into_iter().filter_map(still));
        let asked = stream::iter(std::mem::take(&mut doubts)).map(|(key, doubt)| {
            let node = &node;
            async move { (key, ask(node, doubt).await) }
        });
        let left: Vec<_> = asked.buffer_unordered(AT_ONCE).collect().await;
        doubts.extend(left.into_iter().filter_map(|(key, doubt)| Some((key, doubt?))));
    }
}

fn note(
    doubts: &mut HashMap<(u64, DataCenterId), Doubt>,
    more: impl Iterator<Item = (DataCenterId, Arc<dyn AnyCell>)>,
) {
    for (at, cell) in more {
        doubts.entry((cell.core().number, at.clone())).or_insert(Doubt { cell, at, other: None });
    }
}

/// The home of a grain that is not at home here, as this node's table says.
fn home_elsewhere(node: &Node, cell: &Arc<dyn AnyCell>) -> Option<DataCenterId> {
    let (core, Key::Grain(id)) = (cell.core(), &cell.core().key) else { return None };
    let (_, kind) = node.kinds().grain(core.kind)?;
    let GrainScope::OneHome(among) = &kind.options().scope else { return None };
    let home = locate::home_of(node, &identity(core.kind, id), among, None).ok()?;
    (home != *node.data_center().id()).then_some(home)
}

/// Asks once; what that leaves open.
async fn ask(node: &Arc<Node>, doubt: Doubt) -> Option<Doubt> {
    let Doubt { cell, at, other: before } = doubt;
    let Key::Grain(id) = &cell.core().key else { return None };
    if cell.core().gate.is_closed() {
        return None;
    }
    let body = GrainBody { kind: cell.core().kind.to_owned(), id: id.to_string(), ..GrainBody::default() };
    let answer = ask_data_center(node, &at, wire::PEEK, wire::write(&body), QUESTION).await;
    let other = match answer.flatten().and_then(|place| place.location()) {
        // It will ask here before it makes it active.
        Ok(None) => return None,
        Ok(Some(other)) if other.node == node.id() => return None,
        Ok(Some(other)) => Some((other.node, other.actor)),
        // Of no use to ask for ever: who may not ask never learns; and one that is not listed any more is asked again if it
        // comes back, as a home.
        Err(Error::Unauthorized { .. }) => return None,
        Err(_) if node.table().snapshot().get(&at).is_none() => return None,
        Err(_) => before,
    };
    if other.is_some() && other == before {
        tracing::info!(grain = %cell.core().label(), %at, "active there, too: it ends here");
        // What has been accepted is finished; what comes later is passed on.
        tokio::spawn(cell.stop());
        return None;
    }
    Some(Doubt { cell, at, other })
}
