//! dc-nats against real servers.
//!
//! The server is `NATS_SERVER_BIN`, else `nats-server` on PATH (2.11 or newer); without one every test fails and says
//! how to get one. With `MULTIDC_NATS_URL` (one server) or `MULTIDC_NATS_CLUSTER_URLS` (three, separated by commas)
//! the conformance tests use those servers, a fresh bucket for each test; tests that kill or freeze servers start
//! their own.

mod conformance;
mod connecting;
mod faults;
mod lane;
mod ownership;
mod requests;
mod rights;
mod secrets;
mod settings;
mod support;
mod tls;
mod watching;
