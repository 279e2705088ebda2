//! O1 to O7: the documents by which ownership is decided, on the store of a plane.
//!
//! The harness is that of the control plane; the documents are what
//! [`ControlPlane::ownership`](crate::ControlPlane::ownership) answers.
//! `docs/write-a-backend.md` walks through it.

mod apart;
mod cutting;
mod faults;
mod ground;
mod keeping;
mod lists;
mod macros;
mod measure;
mod races;
mod sizes;
mod watching;
mod writes;

pub use apart::*;
pub use cutting::*;
pub use faults::*;
pub use keeping::*;
pub use lists::*;
pub use measure::*;
pub use races::*;
pub use sizes::*;
pub use watching::*;
pub use writes::*;
