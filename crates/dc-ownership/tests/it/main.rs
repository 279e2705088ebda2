//! The driver on the in-memory store, under paused time.

mod balance;
mod faults;
mod later;
mod names;
mod overrides;
mod protocol;
mod slots;
mod support;
mod together;
