//! One owner in the world: sessions, slots and global names, on any store with compare-and-set.
//!
//! Owns the protocol of `docs/ownership.md`: who owns what, by which epoch, until when, and how ownership moves. Must
//! not know: actors. What an owner does with what it owns is told to it as [`Order`](order::Order)s.
//!
//! Reading order: [`ids`], [`policy`], [`title`] (the proof that a message needs), [`order`], then [`Ownership`], the
//! handle.

mod clock;
#[doc(hidden)]
pub mod core;
mod documents;
mod drain;
mod driver;
mod error;
mod event;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod grains;
mod handle;
mod options;
mod parcels;
mod watching;

pub mod ids;
pub mod names;
pub mod order;
pub mod policy;
pub mod session;
pub mod table;
pub mod title;

pub use clock::BootClock;
pub use drain::{DrainEnd, DrainHandle, DrainOptions, DrainScope, Progress};
pub use driver::NoTransfer;
pub use error::OwnershipError;
pub use event::{Change, OwnershipEvent, Standing, Stats};
pub use handle::{Me, Ownership, Parts, Transfer};
pub use options::{OwnershipOptions, OwnershipOptionsBuilder};
