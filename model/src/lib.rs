//! The protocol of `docs/ownership.md` as a model that is checked in every order of events, within bounds.
//!
//! Three nodes, each in a datacenter of its own, one thing to be owned, one store that knows compare-and-set. Any
//! request may be applied late, or never; any answer may be lost; any node may stand still for as long as it likes and
//! then go on; clocks run at rates of their own. Knows nothing of the code that carries the protocol out: what is
//! checked here is the page, what checks the code is its simulation.
//!
//! Each rule of the page that could be left out is left out once, on purpose ([`Plant`]): then a schedule must be found
//! in which something breaks, or the model would prove nothing.
//!
//! Reading order: [`config`], [`state`], [`store`], [`rules`], [`check`].

mod acts;
pub mod check;
pub mod config;
pub mod rules;
mod start;
pub mod state;
pub mod store;

pub use self::config::{Config, Plant, Scenario};
