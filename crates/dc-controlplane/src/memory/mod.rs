//! The in-memory plane: a real one, for one process.
//!
//! Owns a store in memory that several planes may share as clients share a
//! server ([`MemoryStore`]), leases timed on a [`Clock`](dc_core::Clock) that is
//! passed in, versions, watches with a bounded backlog, and faults that can be
//! injected: at the store (stopped, frozen, wiped, rolled back, silent) and at
//! each client (cut off, answers lost, delayed, stale). The documents of
//! [`ownership`](crate::ownership) lie in the same store, under the same faults. Must not know: files,
//! sockets, any other backend. It outlives neither its process nor its last handle.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! use std::sync::Arc;
//! use dc_controlplane::{ControlPlane, TokioClock, memory::{MemoryControlPlane, MemoryStore}};
//!
//! let store = MemoryStore::new(Arc::new(TokioClock));
//! let (here, there) = (MemoryControlPlane::new(&store), MemoryControlPlane::new(&store));
//! assert_eq!(here.store().await?, there.store().await?);
//! # Ok::<(), dc_controlplane::Error>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Reading order: [`MemoryStore`], [`MemoryControlPlane`], [`Failure`].

mod documents;
mod faults;
mod ownership;
mod plane;
mod state;
mod store;
mod watch;

#[cfg(test)]
mod tests;

pub use faults::{Failure, Operation};
pub use ownership::MemoryOwnership;
pub use plane::{MemoryControlPlane, MemoryOptions};
pub use store::{Checkpoint, MemoryStore};

/// The name in errors and capabilities.
const BACKEND: &str = "memory";
