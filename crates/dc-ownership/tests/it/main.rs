//! The driver on the in-memory store, under paused time.

mod faults;
mod names;
mod slots;
mod support;
