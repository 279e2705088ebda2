//! Links over real sockets: R1 to R8, faults included.

mod basic;
mod support;
