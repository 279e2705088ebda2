//! One owner in the world: sessions, slots and global names, on any store with compare-and-set.
//!
//! Owns the protocol of `docs/ownership.md`: who owns what, by which epoch, until when, and how ownership moves. Must
//! not know: actors. What an owner does with what it owns is told to it as [`Order`](order::Order)s.
//!
//! Reading order: [`ids`], [`policy`], [`title`] (the proof that a message needs), [`order`].

pub mod ids;
pub mod names;
pub mod order;
pub mod policy;
pub mod session;
pub mod title;
