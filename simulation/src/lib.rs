//! Whole systems on one thread: production code over a simulated network, store and time.
//!
//! Owns the world around the nodes: what carries their bytes, what they reach as the store, how fast their clocks run, and
//! what breaks when. A seed decides all of it, and gives the same run again. Above the network and the store everything is
//! production code: links, gossip, the registrar, routing tables, the driver of ownership, actors. What must hold is checked
//! after every step; `docs/simulation.md` says what is in it and what is not.
//!
//! Reading order: [`run`] (a run), `world` (its parts, and a step), [`check`] (what must hold), `acts` (what breaks),
//! [`net`], [`store`], [`node`], [`actors`], [`clients`]; [`seeded`] makes it the same again.

pub mod actors;
mod acts;
pub mod check;
pub mod clients;
pub mod count;
pub mod net;
pub mod node;
pub mod seeded;
pub mod store;
pub mod trace;
mod world;

pub use acts::run;
pub use count::MUST_HAPPEN;
pub use world::{Config, Plant, Report};
