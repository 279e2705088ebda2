//! Datacenters and nodes for tests.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use dc_actor::{ActorSystem, ActorSystemBuilder, Event, EventStream};
use dc_cluster::GossipTiming;
use dc_controlplane::{
    TokioClock,
    memory::{MemoryControlPlane, MemoryStore},
};
use dc_core::{Clock, DataCenter};

use crate::actors;

/// The bound of everything that is waited for.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The lease of the records of these tests.
pub(crate) const TTL: Duration = Duration::from_secs(3);

/// The lease of sessions of these tests.
pub(crate) const OWN_TTL: Duration = Duration::from_secs(5);

/// One control plane, shared by all datacenters of a test.
pub(crate) struct World {
    pub(crate) store: MemoryStore,
    name: String,
}

impl World {
    pub(crate) fn new(name: &str) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        Self { store: MemoryStore::new(Arc::new(TokioClock)), name: name.to_owned() }
    }

    pub(crate) fn plane(&self) -> MemoryControlPlane {
        MemoryControlPlane::new(&self.store)
    }

    /// A node that is described, with the kinds of these tests.
    pub(crate) fn describe(&self, dc: &str, seeds: &[&ActorSystem]) -> ActorSystemBuilder {
        let bare = self.bare(dc, seeds);
        actors::register(bare)
    }

    /// A node that is described, without any kind.
    pub(crate) fn bare(&self, dc: &str, seeds: &[&ActorSystem]) -> ActorSystemBuilder {
        self.bare_on(dc, seeds, self.plane())
    }

    /// As [`bare`](Self::bare), with a client of the store of its own.
    pub(crate) fn bare_on(&self, dc: &str, seeds: &[&ActorSystem], plane: MemoryControlPlane) -> ActorSystemBuilder {
        ActorSystem::builder(self.name.clone())
            .data_center(DataCenter::new(dc))
            .control_plane(plane)
            .listen("127.0.0.1:0")
            .seeds(seeds.iter().map(|seed| seed.endpoint().to_string()))
            .gossip_timing(GossipTiming::lan())
            .cluster(|cluster| cluster.founding_wait(Duration::from_millis(300)))
            .controller(|options| {
                options
                    .lease_ttl(TTL)
                    .heartbeat_interval(Duration::from_millis(500))
                    .cache_refresh_interval(Duration::from_millis(300))
                    .max_cache_staleness(Duration::from_secs(2))
                    .leader_check_interval(Duration::from_millis(200))
                    .request_timeout(Duration::from_secs(2))
                    .max_backoff(Duration::from_secs(1))
            })
            .ownership(|options| options.ttl(OWN_TTL))
            .links(|links| links.connect_timeout(Duration::from_millis(500)).backoff_max(Duration::from_millis(500)))
    }

    /// Starts `nodes` nodes in each of `dcs`, and waits until every node knows every datacenter with all its nodes.
    pub(crate) async fn start<const D: usize>(&self, dcs: [&str; D], nodes: usize) -> Vec<Vec<ActorSystem>> {
        let mut all = Vec::new();
        for dc in dcs {
            let first = self.describe(dc, &[]).start().await.expect("starts");
            let mut members = vec![first];
            for _ in 1..nodes {
                let node = self.describe(dc, &[&members[0]]).start().await.expect("starts");
                members.push(node);
            }
            all.push(members);
        }
        until_known(&all).await;
        all
    }
}

/// Waits until every node knows every datacenter as taking placements, with all its nodes.
pub(crate) async fn until_known(all: &[Vec<ActorSystem>]) {
    for system in all.iter().flatten() {
        eventually("every node knows every datacenter", || async {
            let known = system.data_centers();
            let complete = all.iter().all(|members| {
                known.iter().any(|dc| {
                    dc.id() == members[0].data_center().id()
                        && dc.takes_placements
                        && dc.endpoints.len() == members.len()
                })
            });
            (complete && system.data_center_ready()).then_some(())
        })
        .await;
    }
}

/// Polls `probe` until it yields, within [`SOON`].
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let until = now() + SOON;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(now() < until, "within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ends `future` within [`SOON`].
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.unwrap_or_else(|_| panic!("within {SOON:?}: {what}"))
}

/// The next event that `wanted` takes.
pub(crate) async fn event<T>(events: &mut EventStream, what: &str, wanted: impl Fn(Event) -> Option<T>) -> T {
    soon(what, async {
        loop {
            let event = events.next().await.expect("the system runs");
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    })
    .await
}

pub(crate) fn now() -> Instant {
    TokioClock.now()
}

/// Ends all nodes, the last ones of a datacenter last.
pub(crate) async fn shut_down(all: Vec<Vec<ActorSystem>>) {
    for system in all.into_iter().flatten() {
        soon("shutdown", system.shutdown()).await.expect("ends in good order");
    }
}
