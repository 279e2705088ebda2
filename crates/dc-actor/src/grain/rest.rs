//! Putting idle grains to rest.

use std::{sync::Arc, time::Duration};

use super::active;
use crate::system::Node;

/// Looks for idle grains from time to time, for as long as the node runs.
pub(crate) async fn put_to_rest(node: Arc<Node>) {
    let weak = Arc::downgrade(&node);
    let every = look_every(&node);
    drop(node);
    loop {
        tokio::time::sleep(every).await;
        let Some(node) = weak.upgrade() else { return };
        for cell in active(&node) {
            let Some((_, kind)) = node.kinds().grain(cell.core().kind) else { continue };
            // Closed only if nothing is in its mailbox or on the way there; what comes later is passed on.
            if cell.core().idle() >= kind.options().idle && cell.core().gate.close_if_idle() {
                tracing::debug!(grain = %cell.core().label(), "grain goes to rest");
                tokio::spawn(cell.stop());
            }
        }
    }
}

/// A quarter of the shortest idle time, 5 ms to 10 s.
fn look_every(node: &Node) -> Duration {
    let shortest = node.kinds().grain_options().map(|options| options.idle).min().unwrap_or(Duration::MAX);
    (shortest / 4).clamp(Duration::from_millis(5), Duration::from_secs(10))
}
