//! The actor system: kinds, spawn, names, references, tell, ask, request, grains; on kameo.
//!
//! Owns what an actor is across nodes: its identity, where it is, how messages reach it and what becomes of them
//! when they cannot; and how the parts of a node (links, membership, registrar, routing table) come together.
//! Must not know any control plane by name, nor frames, gossip or records. kameo is known to the module `host` alone.
//!
//! Reading order: [`ActorSystem`], [`Ref`], [`GrainRef`], [`Error`]; inside: `message` and `kind` (what can travel),
//! `host` (how a message runs), `link` and `receive` (how it comes over a link), `spawn`, `lookup`, `grain`.

// Doc examples and derives name this crate as their users do.
extern crate self as multidc;

mod activation;
mod authority;
pub mod codec;
mod context;
mod error;
mod events;
mod former;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod global;
mod grain;
mod host;
mod kind;
mod link;
mod lookup;
mod measure;
mod message;
mod mobile;
mod notices;
mod peers;
mod receive;
mod reference;
mod send;
mod snapshot;
mod spawn;
mod system;
mod text;
mod watch;
mod wire;

/// What the signatures of [`Handles`] need; nothing to call.
#[doc(hidden)]
pub mod opened {
    pub use crate::host::{BoxAnswer, Refusal};
}

#[cfg(feature = "simulation")]
#[doc(hidden)]
pub use crate::system::Plant;
pub use dc_cluster::DatagramTransport;
pub use dc_macros::{RemoteActor, RemoteMessage};
pub use dc_ownership::{
    OwnershipEvent, OwnershipOptions, OwnershipOptionsBuilder,
    policy::{Failback, Loss, OnLoss, Strictness},
};
#[cfg(feature = "tls")]
pub use dc_remoting::{CertificateName, TlsConfig, TlsConfigBuilder, TlsError, TlsRefusal};
pub use dc_remoting::{Connection, Listener, Network};

pub use crate::{
    activation::{Activation, OwnershipView},
    authority::{Authority, Rights},
    context::ContextExt,
    error::{AskError, Error, NewOwner},
    events::{DeadLetter, Event, EventStream},
    global::{PlaceIn, PlaceInFuture},
    grain::GrainRef,
    host::{Actor, ActorRef, Context, Infallible, Message, Reply, RestartPolicy},
    kind::{GrainBuilder, Home, KindBuilder, Scope},
    lookup::{ActorOf, ActorOfFuture},
    message::{Handles, RemoteActor, RemoteMessage},
    reference::Ref,
    send::{Ask, AskFuture, Tell, TellFuture},
    snapshot::Snapshot,
    spawn::{Spawn, SpawnFuture, SpawnGlobal, SpawnOn},
    system::{
        ActorSystem, ActorSystemBuilder, ConfigError, DataCenterInfo, Drain, DrainOptions, DrainOutcome, DrainProgress,
        StartError,
    },
    watch::{ActorChange, ActorWatch, EndReason, Watchable},
};
