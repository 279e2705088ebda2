//! The operator's word for this datacenter, obeyed: drain hands over what this node owns, out waits for all nodes (P8).

use std::time::Duration;

use dc_core::IntentKind;
use dc_ownership::{DrainEnd, DrainHandle, DrainOptions};

use crate::system::{Node, WeakSystem};

/// How often what is owned is counted for the registrar while nothing is told of.
const LOOK: Duration = Duration::from_millis(500);

/// Follows the intent of the own datacenter, for as long as the node runs.
pub(crate) async fn follow_intent(system: WeakSystem) {
    let Some(node) = system.node() else { return };
    let mut events = node.table().events();
    let (mut told, mut empty) = (None, 0_u32);
    // Until it is known, something may be owned.
    tell_registrar(&node, true, &mut told).await;
    drop(node);
    let (mut drain, mut waiting): (Option<DrainHandle>, bool) = (None, true);
    loop {
        let Some(node) = system.node() else { return };
        let Some(global) = node.try_global() else { return };
        let own = node.data_center().id();
        let wanted = node.table().snapshot().get(own).map(|entry| entry.wanted());
        match (wanted, &mut drain) {
            // The node's own end has begun a drain of its own.
            _ if node.accepting().is_err() => return,
            (Some(IntentKind::Drain | IntentKind::Out), running) => {
                let over = running.as_ref().and_then(|drain| drain.progress().end);
                let again = match over {
                    None => running.is_none(),
                    // What is owned after that came by another way: a spawn here, a session that was lost.
                    Some(DrainEnd::Done) => global.owns_here(),
                    Some(_) => true,
                };
                if again {
                    if running.is_none() {
                        tracing::info!(node = %node.label(), "the datacenter is to be drained: handing over what is owned here");
                    }
                    global.ownership.set_taking(false);
                    *running = Some(global.ownership.drain(DrainOptions::data_center()));
                }
            }
            (Some(_), running @ Some(_)) => {
                if let Some(drain) = running.take() {
                    tracing::info!(node = %node.label(), "the drain is undone: what is still owned here stays");
                    drain.abort();
                }
                global.ownership.set_taking(true);
            }
            (Some(_) | None, _) => {}
        }
        // Until then a node of a drained datacenter that starts again took nothing back.
        if waiting && wanted.is_some() {
            waiting = false;
            global.ownership.set_waiting(false);
        }
        // Only what is counted after the intent is known says that nothing is owned: until then more may come. Twice,
        // as what another node here has claimed just now is seen a little later.
        let leaves = matches!(wanted, Some(IntentKind::Drain | IntentKind::Out));
        let done = drain.as_ref().is_some_and(|drain| drain.progress().end == Some(DrainEnd::Done));
        let nothing = leaves && done && global.ownership.ready() && global.ownership.owned_by(own) == 0;
        empty = if nothing { empty + 1 } else { 0 };
        tell_registrar(&node, empty < 2, &mut told).await;
        drop(node);
        // What was missed shows in the table all the same. A table that has ended is looked at until the node ends.
        if let Ok(Err(tokio::sync::broadcast::error::RecvError::Closed)) =
            tokio::time::timeout(LOOK, events.recv()).await
        {
            tokio::time::sleep(LOOK).await;
        }
    }
}

async fn tell_registrar(node: &Node, owns: bool, told: &mut Option<bool>) {
    if *told != Some(owns)
        && let Some(registrar) = node.owns_global()
    {
        registrar.set(owns).await;
        *told = Some(owns);
    }
}
