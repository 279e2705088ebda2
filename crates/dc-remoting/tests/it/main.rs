//! Links over real sockets: R1 to R8, faults included.

mod basic;
mod deadlines;
mod faults;
mod flow;
mod hostile;
mod lanes;
#[cfg(feature = "metrics")]
mod metrics;
mod order;
mod proxy;
mod raw;
mod support;
#[cfg(feature = "tls")]
mod tls;
mod wire_agrees;
