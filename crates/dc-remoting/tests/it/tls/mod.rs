//! R9: who is let in over TLS, who is not, and what both ends are told.

pub(crate) mod certs;
mod config;
mod refusals;
mod rotation;
mod sessions;
mod wrapper;
