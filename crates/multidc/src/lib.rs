//! Actors across datacenters: spawn, name and message actors in any of your datacenters (DCs).
//!
//! Each DC runs its own cluster of nodes. A control plane (NATS JetStream, etcd, SQLite, memory, or yours) tells every
//! DC which DCs exist, whether they may receive work, and where to reach them; messages go straight from node to node.
//!
//! Owns nothing but names: this crate gathers what users need from the crates below. Features: `memory` (default),
//! `nats`, `etcd`, `sqlite` (control planes; without the feature the client is not compiled), `metrics`, `tls`
//! (mutual TLS on links). With `etcd`, building needs `protoc` (etcd-client's build script).
//!
//! ```
//! use kameo::Actor; // kameo's derive needs the direct dependency
//! use multidc::prelude::*;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Actor, RemoteActor, Default, Serialize, Deserialize)]
//! struct Worker { days: u32 }
//!
//! #[derive(Serialize, Deserialize, RemoteMessage)]
//! #[remote(name = "analyse")]
//! struct Analyse { day: u32 }
//!
//! impl Message<Analyse> for Worker {
//!     type Reply = u32;
//!     async fn handle(&mut self, _: Analyse, _: &mut Context<Self, u32>) -> u32 {
//!         self.days += 1;
//!         self.days
//!     }
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let plane = multidc::connect("memory://app").await?; // or sqlite:///.., nats://.., etcd://..
//! let system = ActorSystem::builder("app")
//!     .data_center(DataCenter::new("dc-1").region("us-east-1"))
//!     .control_plane(plane)
//!     .listen("127.0.0.1:0")
//!     .actor::<Worker>(|kind| kind.handles::<Analyse>())
//!     .start()
//!     .await?;
//!
//! let worker = system.spawn_on::<Worker>("analytics-worker", Worker::default()).await?;
//! assert_eq!(worker.ask(Analyse { day: 7 }).await?, 1);
//! let same = system.actor_of::<Worker>("analytics-worker").await?;
//! assert_eq!(same.ask(Analyse { day: 8 }).await?, 2);
//! system.shutdown().await?;
//! # Ok(()) }
//! ```
//!
//! Reading order: [`ActorSystem`], [`Ref`], [`GrainRef`], [`Error`], [`connect`].

mod connect;

/// What most programs import: kameo's own names, and ours. Can be imported beside `kameo::prelude::*`; of the two
/// derives that are called `RemoteActor`, say which: `use multidc::RemoteActor;`.
pub mod prelude {
    pub use dc_actor::{
        Activation, Actor, ActorChange, ActorSystem, ActorWatch, AskError, Context, ContextExt, DrainOptions,
        EndReason, Error, Event, Failback, GrainRef, Handles, Home, Loss, Message, OnLoss, Ref, RemoteActor,
        RemoteMessage, Reply, RestartPolicy, Scope, Snapshot, Strictness,
    };
    pub use dc_controller::{ControllerOptions, ControllerOptionsBuilder};
    pub use dc_core::{DataCenter, DataCenterId, DataCenterSelector, DataCenterState, NodeId, Selector};
    pub use dc_placement::Strategy;
}

pub use dc_actor::*;
// Both this crate and `dc_core` have one: the table's is `multidc::snapshot::Snapshot`.
pub use dc_actor::Snapshot;
pub use dc_cluster::{ClusterConfigBuilder, Discovery, DnsSeeds, GossipKey, GossipTiming, StaticSeeds};
pub use dc_controller::{ControllerOptions, ControllerOptionsBuilder};
pub use dc_controlplane::{
    Capabilities, ControlPlane, ControlPlaneExt, Corrupt, Error as ControlPlaneError, Expected, HeldIntent, Listing,
    Removal, StateChange, TokioClock, Watch, WatchEvent, Writer, config, wall_ms,
};
pub use dc_core::*;
pub use dc_placement::{Considered, Explanation, Strategy, Verdict};

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use connect::check_url;
pub use connect::{ConnectError, connect};

/// The control plane in memory: several DCs of one process share a store.
#[cfg(feature = "memory")]
pub use dc_controlplane::memory;

/// The control plane over NATS JetStream.
#[cfg(feature = "nats")]
pub use dc_nats as nats;
#[cfg(feature = "nats")]
pub use dc_nats::{NatsConfig, NatsControlPlane};

/// The control plane over etcd.
#[cfg(feature = "etcd")]
pub use dc_etcd as etcd;
#[cfg(feature = "etcd")]
pub use dc_etcd::{EtcdConfig, EtcdControlPlane};

/// The control plane in one file.
#[cfg(feature = "sqlite")]
pub use dc_sqlite as sqlite;
#[cfg(feature = "sqlite")]
pub use dc_sqlite::{SqliteConfig, SqliteControlPlane};

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
