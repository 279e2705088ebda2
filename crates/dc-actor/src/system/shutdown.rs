//! In which order a node ends (D6).

use std::{sync::Arc, time::Duration};

use dc_controller::Goodbye;
use futures::future::join_all;

use super::node::Node;
use crate::error::Error;

/// How long links may take to finish what is under way once the actors have ended.
const LINKS_GRACE: Duration = Duration::from_secs(1);

pub(super) async fn run(node: &Arc<Node>) -> Result<(), Error> {
    if !node.begin_end() {
        return Ok(());
    }
    tracing::info!(node = %node.label(), "shutting down");
    node.stop_accepting();
    if let Some(controller) = node.take_controller() {
        controller.stop(Goodbye::HandOver).await;
    }
    let stopped = stop_actors(node).await;
    node.stop_tasks();
    node.remoting().shutdown(LINKS_GRACE).await;
    if let Some(cluster) = node.take_cluster() {
        cluster.leave().await;
    }
    tracing::info!(node = %node.label(), "shut down");
    stopped
}

/// Actors finish what is in their mailboxes; those that do not in time are killed.
async fn stop_actors(node: &Arc<Node>) -> Result<(), Error> {
    let after = node.options().shutdown_grace;
    let stop_all = async {
        // A spawn that was under way may add one more.
        while node.actors().len() > 0 {
            join_all(node.actors().all().into_iter().map(|cell| cell.stop())).await;
        }
    };
    if tokio::time::timeout(after, stop_all).await.is_ok() {
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
