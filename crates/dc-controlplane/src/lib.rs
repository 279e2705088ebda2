//! Control plane: which datacenters exist, whether they may receive work, and
//! where to reach them.
//!
//! Owns the [`ControlPlane`] contract with its numbered guarantees, the errors,
//! what a backend says of itself ([`Capabilities`]), the format of what is
//! stored ([`codec`]), the in-memory plane ([`memory`]) and the suite that
//! checks a backend (`conformance`, a feature of that name), and a second contract, for
//! ownership in the world ([`ownership`]). Must not know:
//! NATS, etcd, actors, sockets; they depend on us, never we on them.
//!
//! Reading order: [`ControlPlane`], [`WatchEvent`], [`Error`], [`Capabilities`], [`codec`].

// The backend of `docs/write-a-backend.md` names this crate as others do.
#[cfg(test)]
extern crate self as dc_controlplane;

mod capabilities;
mod clock;
mod error;
mod plane;
mod writer;

pub mod codec;
pub mod config;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod memory;
pub mod ownership;
pub mod tls;

pub use capabilities::{Capabilities, Durability};
pub use clock::{TokioClock, wall_ms};
pub use error::{BoxError, Corrupt, Error, Outcome};
pub use plane::{ControlPlane, ControlPlaneExt, Expected, HeldIntent, Listing, Removal, Watch, WatchEvent};
pub use writer::{StateChange, StatePlan, Writer, plan_state};
