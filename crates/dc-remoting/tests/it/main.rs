//! Links over real sockets: R1 to R9, faults included.

mod basic;
mod deadlines;
mod faults;
mod flow;
mod hostile;
mod lanes;
mod limits;
#[cfg(feature = "metrics")]
mod metrics;
mod network;
mod order;
mod proxy;
mod raw;
mod support;
#[cfg(feature = "tls")]
mod tls;
mod warning;
mod wire_agrees;
