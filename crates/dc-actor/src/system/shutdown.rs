//! In which order a node ends (D6).

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use dc_controller::Goodbye;
use dc_ownership::DrainOptions;
use futures::{FutureExt, future::join_all};

use super::{actors::Actors, node::Node};
use crate::error::Error;

/// How long links may take to finish what is under way once the actors have ended.
const LINKS_GRACE: Duration = Duration::from_secs(1);

/// Runs on a task of its own, so that a caller who gives up leaves no node behind that has half ended.
pub(super) async fn run(node: &Arc<Node>) -> Result<(), Error> {
    if !node.begin_end() {
        // Leaving the cluster is the last step, also of an abort: with it the view ends.
        let mut views = node.views();
        while views.changed().await.is_ok() {}
        return Ok(());
    }
    let ending = tokio::spawn(end(node.clone()));
    ending.await.unwrap_or_else(|err| Err(cut_short(node, &err.to_string())))
}

async fn end(node: Arc<Node>) -> Result<(), Error> {
    if let Ok(outcome) = AssertUnwindSafe(in_order(&node)).catch_unwind().await {
        return outcome;
    }
    // Nothing waits for a node for ever because one step of its end is broken.
    node.abort();
    Err(cut_short(&node, "a step of it panicked, and the rest was aborted"))
}

fn cut_short(node: &Node, reason: &str) -> Error {
    Error::Other { text: format!("the shutdown of {} was cut short: {reason}", node.label()), not_run: false }
}

async fn in_order(node: &Arc<Node>) -> Result<(), Error> {
    tracing::info!(node = %node.label(), "shutting down");
    node.stop_accepting();
    hand_over(node).await;
    if let Some(controller) = node.take_controller() {
        controller.stop(Goodbye::HandOver).await;
    }
    let stopped = stop_actors(node).await;
    // Whoever watches an actor here is told that it stopped, before the links go.
    node.watches().shut_down().await;
    if let Some(global) = node.try_global() {
        // Ends its session: what could not be handed over may be taken over at once.
        global.ownership.stop().await;
    }
    node.stop_tasks();
    node.remoting().shutdown(LINKS_GRACE).await;
    if let Some(cluster) = node.take_cluster() {
        cluster.leave().await;
    }
    tracing::info!(node = %node.label(), "shut down");
    stopped
}

/// What this node owns goes to other nodes of its datacenter, or elsewhere where that is allowed, within the grace.
async fn hand_over(node: &Arc<Node>) {
    let Some(global) = node.try_global() else { return };
    let own = node.data_center().id();
    let alone = node.view().members.iter().all(|member| member.node == node.id())
        && node.table().snapshot().homes().all(|entry| entry.id() == own);
    if alone {
        // Nobody is there to take it.
        return;
    }
    let mut drain = global.ownership.drain(DrainOptions::node());
    let moved = async {
        while let Some(progress) = drain.next().await {
            let nowhere = progress.left > 0 && progress.stuck >= progress.left;
            if progress.end.is_some() || nowhere {
                return;
            }
        }
    };
    let in_time = tokio::time::timeout(node.options().shutdown_grace, moved).await.is_ok();
    let progress = drain.progress();
    if progress.left > 0 {
        tracing::warn!(node = %node.label(), left = progress.left, moved = progress.moved, in_time, "not everything global could be handed over: the rest is taken over");
    }
}

/// Actors finish what is in their mailboxes; those that do not in time are killed.
async fn stop_actors(node: &Arc<Node>) -> Result<(), Error> {
    let after = node.options().shutdown_grace;
    if tokio::time::timeout(after, stop_all(node.actors())).await.is_ok() {
        return Ok(());
    }
    let late = node.actors().all();
    let names: Vec<String> = late.iter().take(8).map(|cell| cell.core().label()).collect();
    tracing::warn!(actors = late.len(), first = %names.join(", "), "actors did not end in time: killing them");
    for cell in &late {
        cell.kill();
    }
    Err(Error::Timeout { to: format!("{} actors ({})", late.len(), names.join(", ")), after, not_run: false })
}

/// Ends when there are no actors.
async fn stop_all(actors: &Actors) {
    // A spawn that was under way may add one more.
    while actors.len() > 0 {
        join_all(actors.all().into_iter().map(|cell| cell.stop())).await;
        // One that has ended but is still in the table is removed by somebody else's task, and waiting for its end
        // takes no time: without this, neither that task nor the caller's timer would run.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        any::Any,
        sync::atomic::{AtomicU32, Ordering},
    };

    use dc_core::ManualClock;
    use futures::future::BoxFuture;

    use super::*;
    use crate::{
        events::EventBus,
        host::{AnyCell, Core, Host, Key},
        link::Incoming,
        system::WeakSystem,
    };

    /// An actor that has ended and is still in the table.
    #[derive(Debug)]
    struct Ended {
        core: Arc<Core>,
        asked: AtomicU32,
    }

    impl AnyCell for Ended {
        fn core(&self) -> &Arc<Core> {
            &self.core
        }

        fn deliver(self: Arc<Self>, incoming: Incoming) -> Result<(), Incoming> {
            Err(incoming)
        }

        fn stop(self: Arc<Self>) -> BoxFuture<'static, ()> {
            let asked = self.asked.fetch_add(1, Ordering::Relaxed);
            assert!(asked < 10_000, "asked again and again, while nobody else runs");
            Box::pin(std::future::ready(()))
        }

        fn kill(&self) {}

        fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
            self
        }
    }

    #[tokio::test]
    async fn d6_an_ended_actor_that_is_still_in_the_table_does_not_hold_the_thread() {
        let host = Host { clock: Arc::new(ManualClock::new()), bus: EventBus::new(), system: WeakSystem::default() };
        let core = Arc::new(Core::new(1, "ended", Key::Anonymous, host));
        let actors = Actors::new();
        actors.insert(Arc::new(Ended { core, asked: AtomicU32::new(0) }));
        // `join!` polls in this order: the second one runs when the first one lets it.
        tokio::join!(biased; stop_all(&actors), async { actors.remove(1) });
        assert_eq!(actors.len(), 0);
    }
}
