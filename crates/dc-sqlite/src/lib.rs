//! The control plane in one SQLite file, shared by the processes of one machine.
//!
//! Owns how the contracts of [`dc_controlplane::ControlPlane`] and of
//! [`dc_controlplane::ownership`] are kept in a file, and is the only door to
//! `rusqlite`. No server, no set-up, no watch: readers poll. Must not know: actors, sockets, other backends.
//!
//! | guarantee | how |
//! |---|---|
//! | P1 | one counter for each namespace, raised by every change and never lowered; the store's id is written with it |
//! | P2 | each write is one `BEGIN IMMEDIATE` transaction that looks before it writes |
//! | P3 | a lease is a boot of this machine, a moment of the clock that all its processes share, and a TTL ([`MachineClock`]) |
//! | P4, P5 | `WatchUnsupported`: a list leaves out what has expired |
//! | P6 | one read transaction |
//! | P7 | one transaction that touches the lease only; the version stays |
//! | P11 | blocking threads that give up before the caller does; what gave up has changed nothing |
//! | O1 to O3 | documents lie in the same file and are counted by the same counter; each write is one transaction; how long one is kept is timed as leases are |
//! | O6 | watchers poll, by default every 200 ms; of what is removed a trace is left for 10 minutes |
//! | P12 | the file is opened anew where it was moved, removed or replaced |
//!
//! # What it does not do
//!
//! The file must be on a disk of this machine: SQLite's locks and its shared memory do not work across machines, and
//! neither does the clock that leases are timed on. A network file system is reported as a finding (P13). Containers
//! may share the file as long as they share kernel and file system. There is one copy, so that nothing here would
//! pass a strict mode; there is none.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! use dc_controlplane::ControlPlane;
//! use dc_sqlite::{SqliteConfig, SqliteControlPlane};
//!
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("control-plane.db");
//! let plane = SqliteControlPlane::connect(SqliteConfig::builder(path).build()?).await?;
//! assert!(plane.list_all().await?.records.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Reading order: [`SqliteConfig`], [`SqliteControlPlane`], then `store` (the transactions), `schema`, `connect`, `clock`; for
//! ownership `documents` and `ownership`.

mod clock;
mod config;
mod connect;
mod documents;
mod error;
mod ownership;
mod plane;
mod schema;
mod store;

pub use clock::{BootClock, MachineClock, MachineTime};
pub use config::{SqliteConfig, SqliteConfigBuilder};
pub use plane::SqliteControlPlane;

/// As errors and capabilities name it.
const BACKEND: &str = "sqlite";
