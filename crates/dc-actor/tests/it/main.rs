//! Several nodes of several datacenters in one process, on real loopback sockets and one in-memory control plane.

// The derives name the facade, as in users' programs.
extern crate dc_actor as multidc;

mod actors;
mod authority;
mod errors;
mod global;
mod grains;
mod lifecycle;
mod lookups;
mod messages;
mod moves;
mod owned;
mod placing;
mod proxy;
mod spawns;
mod strangers;
#[cfg(feature = "tls")]
mod tls;
mod watches;
mod watches_owned;
mod world;
