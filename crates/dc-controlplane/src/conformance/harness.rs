//! What a backend brings to be tested.

use std::{future::Future, sync::Arc, time::Duration};

use dc_core::SharedClock;

use crate::{ControlPlane, TokioClock};

/// What a backend brings to be tested.
///
/// One value is made for each test, inside that test's (single-threaded) tokio runtime.
///
/// The first methods are required. The others are *hooks*: a harness that cannot offer one leaves its tests
/// out by name, `conformance_tests!(MyHarness::new(), without: [freeze])`, so that what is not checked can be
/// read in the test file; a hook that is neither offered nor left out fails its tests.
///
/// | hook | methods |
/// |---|---|
/// | `requests` | [`requests`](Self::requests), [`requests_per_heartbeat`](Self::requests_per_heartbeat) |
/// | `raw` | [`write_raw`](Self::write_raw) |
/// | `outage` | [`stop_store`](Self::stop_store), [`start_store`](Self::start_store) |
/// | `freeze` | [`freeze_store`](Self::freeze_store), [`unfreeze_store`](Self::unfreeze_store) |
/// | `wipe` | [`wipe_store`](Self::wipe_store) |
/// | `cut` | [`open_cuttable`](Self::open_cuttable), [`cut`](Self::cut), [`uncut`](Self::uncut) |
/// | `skew` | [`open_skewed`](Self::open_skewed) |
pub trait Harness {
    /// The plane under test: one client.
    type Plane: ControlPlane;

    /// A handle to one store, from which several clients are opened. Dropping it gives back what it holds
    /// (server, bucket, file).
    type Store;

    /// A private, empty store. Panics with instructions if its server cannot be had: no silent pass.
    fn fresh(&self) -> impl Future<Output = Self::Store>;

    /// One more client of `store`; also while the store is stopped or frozen (P12).
    fn open(&self, store: &Self::Store) -> impl Future<Output = Self::Plane>;

    /// Lets `by` pass: jump a driven clock, or wait for a real server. Afterwards [`clock`](Self::clock) has
    /// moved on by at least `by`.
    fn advance(&self, by: Duration) -> impl Future<Output = ()>;

    /// The shortest TTL that the backend honours exactly. Tests of expiry last a few of these.
    fn ttl(&self) -> Duration;

    /// The request timeout that opened planes were configured with (P11).
    fn request_timeout(&self) -> Duration;

    /// The clock that [`advance`](Self::advance) moves. tokio's by default: real, or paused by the harness.
    fn clock(&self) -> SharedClock {
        Arc::new(TokioClock)
    }

    /// How long the suite waits, in tokio time, for what must come. Default 30 s: clusters elect slowly.
    fn patience(&self) -> Duration {
        Duration::from_secs(30)
    }

    /// Requests of all clients that reached the store so far, counted at the server or on the wire, not by the
    /// backend itself (P6, P7). Hook `requests`.
    fn requests(&self, store: &Self::Store) -> impl Future<Output = u64> {
        let _ = store;
        async { missing("requests") }
    }

    /// What one heartbeat may cost. 1, or 2 where the version check and the renewal are two messages that are
    /// sent together (P7). Hook `requests`.
    fn requests_per_heartbeat(&self) -> u64 {
        1
    }

    /// Writes `bytes` under `key` as a stranger would, without a lease. `key` is as in [`codec`](crate::codec)
    /// (`records/<id>`, `intents/<id>`), or foreign: of no form that the backend knows. Hook `raw`.
    fn write_raw(&self, store: &Self::Store, key: &str, bytes: &[u8]) -> impl Future<Output = ()> {
        let _ = (store, key, bytes);
        async { missing("raw") }
    }

    /// Stops the store: connections are refused or cut. What was written stays. Hook `outage`.
    fn stop_store(&self, store: &Self::Store) -> impl Future<Output = ()> {
        let _ = store;
        async { missing("outage") }
    }

    /// Starts what [`stop_store`](Self::stop_store) stopped, at the same address, with the same data.
    fn start_store(&self, store: &Self::Store) -> impl Future<Output = ()> {
        let _ = store;
        async { missing("outage") }
    }

    /// Freezes the store: it accepts, but does not answer. Hook `freeze`.
    fn freeze_store(&self, store: &Self::Store) -> impl Future<Output = ()> {
        let _ = store;
        async { missing("freeze") }
    }

    /// Thaws what [`freeze_store`](Self::freeze_store) froze.
    fn unfreeze_store(&self, store: &Self::Store) -> impl Future<Output = ()> {
        let _ = store;
        async { missing("freeze") }
    }

    /// Empties the store behind its clients' backs, as losing its disk would; it runs on, or again. Hook `wipe`.
    fn wipe_store(&self, store: &Self::Store) -> impl Future<Output = ()> {
        let _ = store;
        async { missing("wipe") }
    }

    /// A client behind a link of its own that can be cut, while others reach the store. Hook `cut`.
    fn open_cuttable(&self, store: &Self::Store) -> impl Future<Output = Self::Plane> {
        let _ = store;
        async { missing("cut") }
    }

    /// Cuts the link of a client that [`open_cuttable`](Self::open_cuttable) opened: reset, or silent. Hook `cut`.
    fn cut(&self, store: &Self::Store, plane: &Self::Plane) -> impl Future<Output = ()> {
        let _ = (store, plane);
        async { missing("cut") }
    }

    /// Mends what [`cut`](Self::cut) cut.
    fn uncut(&self, store: &Self::Store, plane: &Self::Plane) -> impl Future<Output = ()> {
        let _ = (store, plane);
        async { missing("cut") }
    }

    /// A client whose wall clock is off by `skew`. Hook `skew`.
    fn open_skewed(&self, store: &Self::Store, skew: Skew) -> impl Future<Output = Self::Plane> {
        let _ = (store, skew);
        async { missing("skew") }
    }
}

/// How far a client's wall clock is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skew {
    /// It is ahead by this much.
    Ahead(Duration),
    /// It is behind by this much.
    Behind(Duration),
}

fn missing<T>(hook: &str) -> T {
    panic!(
        "the harness offers no `{hook}`: implement that hook of `Harness`, or leave its tests out where everybody can \
         read it: `conformance_tests!(.., without: [{hook}])`"
    )
}
