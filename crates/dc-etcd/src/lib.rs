//! The control plane over etcd: leases and transactions.
//!
//! Owns how the contract of [`dc_controlplane::ControlPlane`] is kept on etcd
//! 3.5 or later, and is the only door to `etcd-client`. Must not know: actors,
//! sockets of ours, other backends.
//!
//! | guarantee | how |
//! |---|---|
//! | P1 | a record's version is its key's `mod_revision`; the store's id is written once, by a transaction |
//! | P2 | each write is a transaction that compares `mod_revision` (or absence) and the store's id; the other branch reads what is stored, so that a conflict costs no second question |
//! | P3 | each accepted write of a record has a lease of its own; whole seconds, rounded up; the server may grant more than was asked |
//! | P4 | etcd deletes what expired, and its watch says so |
//! | P5 | a watch goes on at the revision after the last one delivered; what was compacted ends it |
//! | P6 | one range over the namespace |
//! | P7 | a version check and a keepalive of that version's lease, sent together; a renewal leaves `mod_revision` alone |
//! | O1, O2 | a document's version is its key's `mod_revision` too; one transaction writes it, or reads what stands there |
//! | O3 | a document that is kept for a time has a lease of its own, of twice that time, which its next writes reuse |
//! | O5, O6 | pages of 1,000; watched as the records are, on a range of their own |
//! | P10 | `deregister` deletes and leaves a goodbye in the same revision, by which watchers tell it from expiry |
//!
//! Reading order: [`EtcdConfig`], [`EtcdControlPlane`], then `plane` (the calls), `lease`, `store`, `watch`, `connect`; for
//! the documents `ownership`.

mod audit;
mod config;
mod connect;
mod error;
mod handshake;
mod keys;
mod lease;
mod ownership;
mod plane;
mod store;
mod watch;

pub use config::{EtcdConfig, EtcdConfigBuilder};
pub use plane::EtcdControlPlane;

/// As errors and capabilities name it.
const BACKEND: &str = "etcd";
