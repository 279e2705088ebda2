//! Which datacenter (DC), and which of its nodes: pure functions of a request,
//! a snapshot and a seed.
//!
//! Owns placement (L1, L2, L4): what a selector and a purpose allow, the
//! endpoint strategies, the order in which endpoints are tried (so that a dead
//! one can be skipped, L3), the refusals with their reasons, and the
//! explanation of a choice. Must not know: clocks, I/O, tokio, links or where
//! the snapshot comes from; how fresh the table is and how near a node is are
//! inputs.
//!
//! The same snapshot, request and seed give the same choice, on every node and
//! whatever way the snapshot came about (L2).
//!
//! ```
//! use std::time::Duration;
//! use dc_core::{Freshness, Selector, Snapshot};
//! use dc_placement::{Refusal, Request, choose};
//!
//! let selector = Selector::region("eu-west-1");
//! let request = Request::placement(&selector, Freshness::Fresh { age: Duration::ZERO });
//! let refused = choose(&Snapshot::default(), &request, 7).unwrap_err();
//! assert!(matches!(refused, Refusal::NotFound { .. }));
//! ```
//!
//! Reading order: [`Request`], [`choose`], [`Choice`], [`Refusal`], [`explain`].

mod choose;
mod endpoints;
mod explain;
mod refusal;
mod request;
mod rng;

pub use choose::{COMPARED, choose};
pub use endpoints::{Choice, Chosen};
pub use explain::{Considered, Explanation, Verdict, explain};
pub use refusal::{Reason, Refusal, RuledOut};
pub use request::{NoSignals, Purpose, Request, Signals, Strategy};
