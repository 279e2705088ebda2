//! One datacenter's members, its leader and its name directory.
//!
//! Owns: who of this datacenter is alive (SWIM by `foca`, over UDP, sealed with a
//! shared key when one is set), who of them is the oldest and so leads, where they
//! take links, and which node holds which name. Deliberately does not know: other
//! datacenters, control planes, actors. What is told here is this node's view: a
//! partition has a leader on each side, and the record in the control plane decides.
//!
//! # What is promised
//!
//! - A killed node is noticed in about a second on a LAN ([`GossipTiming`]), a graceful
//!   leave at once. Seeds are asked for ever, so two halves of a partition find each other.
//! - Seniority is drawn once, one above the highest that the asked seeds know; no clock
//!   takes part, and leadership does not come back to a node that was declared down.
//! - A name is unique while members agree on who is alive; within 5 s of agreeing again
//!   the older of two registrations remains, and the other's node is told (A2).
//! - The directory survives the loss of any one node, and keeps the request that claimed
//!   a name, so that a repeated spawn is not a second run (L3).
//!
//! Not promised: agreement through partitions. Without a gossip key whoever can send
//! datagrams to the port can disturb the membership.
//!
//! Reading order: [`Cluster`], [`ClusterConfig`], [`Directory`], [`Discovery`]; inside:
//! `membership::split`, `membership::core`, `directory::core`, `seal`.

mod cluster;
mod config;
mod directory;
mod discovery;
mod events;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod membership;
mod seal;
#[cfg(test)]
mod simulation;

pub use cluster::{Cluster, ClusterError};
pub use config::{ClusterConfig, ClusterConfigBuilder, GossipTiming};
pub use directory::{Claim, Directory, DirectoryError, Entry, Eviction};
pub use discovery::{Discovery, DnsSeeds, StaticSeeds};
pub use events::ClusterEvent;
pub use membership::{driver::GossipStats, transport::DatagramTransport};
pub use seal::{GossipKey, WIRE_VERSION};
