//! dc-etcd against real servers.
//!
//! The binary comes from `ETCD_BIN`, else from PATH. `MULTIDC_ETCD_URL` and
//! `MULTIDC_ETCD_CLUSTER_URLS` name running servers for the conformance suite;
//! whatever kills, freezes or counts starts servers of its own all the same.
//!
//! Reading order: `server` (processes), `proxy` (a wire that loses answers),
//! `conformance`, then the others by subject.

mod capture;
mod certificates;
mod conformance;
mod costs;
mod credentials;
mod faults;
mod leases;
mod ownership;
mod proxy;
mod rights;
mod samples;
mod secrets;
mod server;
mod stores;
mod tls;
mod watching;
