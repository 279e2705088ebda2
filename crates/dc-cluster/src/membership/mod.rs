//! Who the members are. Knows nothing of links, names or other datacenters.
//!
//! Reading order: [`split`] (who gives way), [`wire`], [`core`] (the state machine), [`driver`].

pub(crate) mod core;
pub(crate) mod driver;
pub(crate) mod split;
pub(crate) mod transport;
pub(crate) mod wire;

#[cfg(test)]
mod simulation;
