//! The routing table: published snapshots of the control plane, kept in step by one task.

mod event;
mod options;
mod table;
mod task;

pub use event::TableEvent;
pub use options::{CacheOptions, CacheOptionsBuilder};
pub use table::RoutingTable;
pub use task::{CacheTask, keep_in_step};
