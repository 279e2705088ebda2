//! Whole-system tests: real node processes in two datacenters, real control
//! planes, real faults. Numbers in names are those of `docs/guarantees.md`;
//! `fault_N` are those of `docs/faults.md`.

mod bench;
mod drain;
mod faults;
mod ownership;
mod path;
mod soak;
mod stores;
mod world;
