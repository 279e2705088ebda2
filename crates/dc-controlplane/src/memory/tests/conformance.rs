//! The in-memory plane against the suite, on paused time.

use std::{sync::Arc, time::Duration};

use crate::memory::{MemoryControlPlane, MemoryOptions, MemoryStore};
use crate::{
    TokioClock,
    conformance::{Harness, tests::memory_hooks},
};

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

    memory_hooks!(MemoryControlPlane, |plane| plane);

    async fn fresh(&self) -> MemoryStore {
        MemoryStore::new(Arc::new(TokioClock))
    }

    async fn open(&self, store: &MemoryStore) -> MemoryControlPlane {
        MemoryControlPlane::with(store, self.options.clone())
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn request_timeout(&self) -> Duration {
        self.options.request_timeout
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
