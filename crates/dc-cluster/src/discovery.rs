//! Where to look for other members: fixed addresses and DNS names.

use std::{fmt, io, net::SocketAddr};

use async_trait::async_trait;
use dc_core::Endpoint;

/// Finds addresses at which other members of this datacenter may be asked.
///
/// Called when a node starts and again, with jittered backoff, for as long as it
/// runs: what a name stands for may change, and two halves of a datacenter that
/// were cut from each other find back through it.
#[async_trait]
pub trait Discovery: fmt::Debug + Send + Sync + 'static {
    /// Gossip addresses to ask. The own address may be among them; duplicates are harmless.
    ///
    /// # Errors
    ///
    /// Where nothing could be found out. What was found before stays in use, and it is tried again.
    async fn addresses(&self) -> io::Result<Vec<SocketAddr>>;

    /// Whether others may exist. `false` lets a node found its datacenter without waiting.
    fn expects_others(&self) -> bool {
        true
    }
}

/// A list of seeds, each an IP address or a DNS name with a port.
///
/// Names are resolved anew at each call and stand for all their addresses. A name
/// that does not resolve hides none of the other seeds.
#[derive(Clone, Debug, Default)]
pub struct StaticSeeds(Vec<Endpoint>);

impl StaticSeeds {
    /// The seeds, in no particular order.
    pub fn new(seeds: impl IntoIterator<Item = Endpoint>) -> Self {
        Self(seeds.into_iter().collect())
    }
}

#[async_trait]
impl Discovery for StaticSeeds {
    async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let mut found = Vec::new();
        let mut failure = None;
        for seed in &self.0 {
            match resolve(seed).await {
                Ok(addresses) => found.extend(addresses),
                Err(err) => failure = Some(err),
            }
        }
        match failure {
            Some(err) if found.is_empty() => Err(err),
            _ => Ok(found),
        }
    }

    fn expects_others(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Every address of one DNS name is a seed: the shape of a headless service.
#[derive(Clone, Debug)]
pub struct DnsSeeds(Endpoint);

impl DnsSeeds {
    /// The name and the port that all of its addresses use.
    pub fn new(name: Endpoint) -> Self {
        Self(name)
    }
}

#[async_trait]
impl Discovery for DnsSeeds {
    async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        resolve(&self.0).await
    }
}

/// All addresses of `endpoint`.
pub(crate) async fn resolve(endpoint: &Endpoint) -> io::Result<Vec<SocketAddr>> {
    match endpoint.socket_addr() {
        Some(address) => Ok(vec![address]),
        None => Ok(tokio::net::lookup_host((endpoint.host(), endpoint.port())).await?.collect()),
    }
}
