//! The in-memory plane against the suite, on paused time.

use std::{sync::Arc, time::Duration};

use crate::memory::{MemoryControlPlane, MemoryOptions, MemoryStore};
use crate::{TokioClock, conformance::Harness};

struct Paused {
    options: MemoryOptions,
}

impl Paused {
    /// tokio's clock stands still from here on: it moves when told to, or when every task waits.
    fn with(options: MemoryOptions) -> Self {
        tokio::time::pause();
        Self { options }
    }
}

impl Harness for Paused {
    type Plane = MemoryControlPlane;
    type Store = MemoryStore;

    async fn fresh(&self) -> MemoryStore {
        MemoryStore::new(Arc::new(TokioClock))
    }

    async fn open(&self, store: &MemoryStore) -> MemoryControlPlane {
        MemoryControlPlane::with(store, self.options.clone())
    }

    async fn advance(&self, by: Duration) {
        tokio::time::advance(by).await;
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn request_timeout(&self) -> Duration {
        self.options.request_timeout
    }

    async fn requests(&self, store: &MemoryStore) -> u64 {
        store.requests()
    }

    async fn write_raw(&self, store: &MemoryStore, key: &str, bytes: &[u8]) {
        store.write_raw(key, bytes);
    }

    async fn stop_store(&self, store: &MemoryStore) {
        store.stop();
    }

    async fn start_store(&self, store: &MemoryStore) {
        store.start();
    }

    async fn freeze_store(&self, store: &MemoryStore) {
        store.freeze();
    }

    async fn unfreeze_store(&self, store: &MemoryStore) {
        store.unfreeze();
    }

    async fn open_cuttable(&self, store: &MemoryStore) -> MemoryControlPlane {
        self.open(store).await
    }

    async fn cut(&self, _: &MemoryStore, plane: &MemoryControlPlane) {
        plane.cut_off();
    }

    async fn uncut(&self, _: &MemoryStore, plane: &MemoryControlPlane) {
        plane.reconnect();
    }

    async fn wipe_store(&self, store: &MemoryStore) {
        store.wipe();
    }
}

mod watching {
    use super::*;

    // A store in memory never looks at a wall clock, so there is none to skew.
    crate::conformance_tests!(Paused::with(MemoryOptions::default()), without: [skew]);
    crate::ownership_conformance_tests!(Paused::with(MemoryOptions::default()));
}

mod polling {
    use super::*;

    crate::conformance_tests!(
        Paused::with(MemoryOptions { watch: false, ..MemoryOptions::default() }),
        without: [skew]
    );
}
