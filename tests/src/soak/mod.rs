//! Soak and chaos: three datacenters of processes under load, hurt by a schedule, followed message by message.
//!
//! Owns the load, the faults, the checker and the report; `multidc-soak` is both the driver and each node. Knows of the
//! library only what its users see.
//!
//! Reading order: [`options`], [`driver`] (the course of a run), [`chaos`] (what is done when), [`checker`] (what must
//! not be), [`flat`] (what counts as growth); then [`node`] and `load` (what nodes do), [`record`] (what they write
//! down), [`proxy`] (what is between them).

mod actors;
pub mod chaos;
pub mod checker;
pub mod clock;
pub mod control;
pub mod driver;
pub mod flat;
pub mod fleet;
mod load;
pub mod node;
pub mod options;
pub mod process;
pub mod proxy;
pub mod record;
pub mod report;
pub mod sample;
pub mod servers;
pub mod svg;
pub mod watch;
pub mod world;
