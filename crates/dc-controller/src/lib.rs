//! The controller of one node: it keeps its datacenter's record, and its routing table.
//!
//! Owns the registrar (D1-D5: who may write the record, when it takes over, when
//! it steps down, how it hands over) and starts and stops dc-cache's task on
//! every node. Membership is fed in as a stream of [`DcView`](dc_core::DcView)s.
//! Must not know: actors, foca, any backend by name.
//!
//! Reading order: [`ControllerOptions`], [`registrar`] (pure decisions), [`Controller`] (the task that carries them out).

mod controller;
mod events;
mod metrics;
mod options;

pub mod registrar;

pub use controller::{Controller, Goodbye, OwnsGlobal, Parts};
pub use events::{ControllerEvent, RegistrarStatus, Role, TakeOver};
pub use options::{ControllerOptions, ControllerOptionsBuilder};
