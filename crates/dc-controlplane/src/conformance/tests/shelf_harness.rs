use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use dc_controlplane::conformance::Harness;
use dc_core::{ManualClock, SharedClock};

use super::shelf::{Shelf, ShelfControlPlane};

struct Shelves(ManualClock);

impl Harness for Shelves {
    type Plane = ShelfControlPlane;
    type Store = Arc<Mutex<Shelf>>;

    /// For a server: start one, or take a bucket of its own. Panic, saying how to get one, where there is none.
    async fn fresh(&self) -> Self::Store {
        Shelf::new()
    }

    async fn open(&self, store: &Self::Store) -> ShelfControlPlane {
        ShelfControlPlane::open(store, self.clock())
    }

    /// For a server: `tokio::time::sleep(by)`.
    async fn advance(&self, by: Duration) {
        self.0.advance(by);
    }

    /// Only for a driven clock that tokio does not know.
    fn clock(&self) -> SharedClock {
        Arc::new(self.0.clone())
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn request_timeout(&self) -> Duration {
        Duration::from_secs(1)
    }
}

dc_controlplane::conformance_tests!(Shelves(ManualClock::new()), without: [requests, raw, outage, freeze, wipe, cut, skew]);
dc_controlplane::ownership_conformance_tests!(
    Shelves(ManualClock::new()),
    without: [requests, raw, outage, freeze, wipe, cut]
);
