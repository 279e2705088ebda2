//! The operator's word for this datacenter, obeyed: drain hands over what this node owns, out waits for all nodes (P8).

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use dc_cache::TableEvent;
use dc_core::IntentKind;
use dc_ownership::{DrainEnd, DrainHandle, DrainOptions};
use tokio::sync::{
    broadcast::{self, error::RecvError},
    watch,
};

use crate::system::{Node, WeakSystem};

/// How often what is owned is counted for the registrar while nothing is told of.
const LOOK: Duration = Duration::from_millis(500);

/// Follows the intent of the own datacenter, for as long as the node runs.
pub(crate) async fn follow_intent(system: WeakSystem) {
    let Some(node) = system.node() else { return };
    let Some(waits) = node.try_global().map(|global| global.ownership.waits()) else { return };
    let mut wakers = Wakers { events: node.table().events(), lists: node.table().lists(), waits };
    let (mut told, mut empty) = (None, 0_u32);
    // Until it is known, something may be owned.
    tell_registrar(&node, true, &mut told).await;
    drop(node);
    let (mut drain, mut asked): (Option<DrainHandle>, Option<Instant>) = (None, None);
    loop {
        let Some(node) = system.node() else { return };
        let Some(global) = node.try_global() else { return };
        let own = node.data_center().id();
        let since = *wakers.waits.borrow_and_update();
        if since.is_some() && std::mem::replace(&mut asked, since) != since {
            node.table().refresh();
        }
        // Before the snapshot, which may be newer.
        let listed = *wakers.lists.borrow_and_update();
        let wanted = node.table().snapshot().get(own).map(|entry| entry.wanted());
        match (wanted, &mut drain) {
            // The node's own end has begun a drain of its own.
            _ if node.accepting().is_err() => return,
            (Some(IntentKind::Drain | IntentKind::Out), running) => {
                let over = running.as_ref().and_then(|drain| drain.progress().end);
                if over == Some(DrainEnd::Done) {
                    global.drained.store(true, Ordering::Release);
                }
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
                global.drained.store(false, Ordering::Release);
                global.ownership.set_taking(true);
            }
            (Some(_) | None, _) => {}
        }
        // Until then a node of a drained datacenter that starts again, or was out of reach, took nothing back. What a
        // watch shows is no answer: a node that was paused reads what was sent before.
        if let (Some(_), Some(listed)) = (wanted, listed.filter(|_| since.is_some() && listed >= since)) {
            global.ownership.told(listed);
        }
        // Only what is counted after the intent is known says that nothing is owned: until then more may come. Twice,
        // as what another node here has claimed just now is seen a little later.
        let leaves = matches!(wanted, Some(IntentKind::Drain | IntentKind::Out));
        let done = drain.as_ref().is_some_and(|drain| drain.progress().end == Some(DrainEnd::Done));
        let nothing = leaves && done && global.ownership.ready() && global.ownership.owned_by(own) == 0;
        empty = if nothing { empty + 1 } else { 0 };
        tell_registrar(&node, empty < 2, &mut told).await;
        // The end of the first is heeded at once; later ones may follow each other while what ran here is ending.
        let first = drain.as_mut().filter(|_| !global.drained.load(Ordering::Acquire));
        drop(node);
        wakers.wait(first).await;
    }
}

/// What there may be to look at.
struct Wakers {
    events: broadcast::Receiver<TableEvent>,
    lists: watch::Receiver<Option<Instant>>,
    /// Since when claims wait for this task.
    waits: watch::Receiver<Option<Instant>>,
}

impl Wakers {
    /// Waits for news, at most until it is time to look all the same.
    async fn wait(&mut self, drain: Option<&mut DrainHandle>) {
        let look = tokio::time::sleep(LOOK);
        let drained = async {
            match drain.filter(|drain| drain.progress().end.is_none()) {
                // Without an end where the driver has ended before it.
                Some(drain) => drain.done().await.end.is_none(),
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            // What was missed shows in the table all the same.
            event = self.events.recv() => matches!(event, Err(RecvError::Closed)),
            news = self.lists.changed() => news.is_err(),
            news = self.waits.changed() => news.is_err(),
            ended = drained => ended,
            () = look => false,
        };
        if ended {
            // A table or a driver that has ended is looked at until the node ends.
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
