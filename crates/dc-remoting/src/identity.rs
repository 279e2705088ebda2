//! Who is at the other end.

use std::fmt;

use dc_core::{DataCenterId, Endpoint, NodeId, StoreId, SystemName};

/// The newest protocol version that this build speaks.
pub const PROTOCOL: u32 = 1;

/// What a node says of itself in the handshake.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerIdentity {
    /// The actor system; nodes of different systems refuse each other.
    pub system: SystemName,
    /// Its datacenter.
    pub dc: DataCenterId,
    /// Its run (a new one at each start).
    pub node: NodeId,
    /// Where it takes links, as it advertises itself.
    pub advertised: Endpoint,
    /// The control plane's store that it uses, once known.
    pub store: Option<StoreId>,
    /// The protocol version agreed on.
    pub protocol: u32,
}

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.dc, self.node.short(), self.advertised)
    }
}

/// A node as a peer's tables know it: with TLS, its certificate vouches for the datacenter, and for where it takes links
/// if it names that. The id is only claimed, so that it counts for nothing without the others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PeerKey {
    pub(crate) dc: DataCenterId,
    pub(crate) advertised: Endpoint,
    pub(crate) node: NodeId,
}

impl PeerIdentity {
    pub(crate) fn key(&self) -> PeerKey {
        PeerKey { dc: self.dc.clone(), advertised: self.advertised.clone(), node: self.node }
    }
}

/// Where a peer is, and who it is expected to be.
///
/// A part that is `None` matches anyone. All targets at one endpoint share one link.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerTarget {
    /// Where it takes links.
    pub endpoint: Endpoint,
    /// The datacenter it must belong to.
    pub dc: Option<DataCenterId>,
    /// The run it must be.
    pub node: Option<NodeId>,
}

impl PeerTarget {
    /// Whoever answers at `endpoint`.
    pub fn at(endpoint: Endpoint) -> Self {
        Self { endpoint, dc: None, node: None }
    }

    /// The node `node` at `endpoint`, and no other.
    pub fn node(endpoint: Endpoint, node: NodeId) -> Self {
        Self { endpoint, dc: None, node: Some(node) }
    }

    pub(crate) fn matches(&self, identity: &PeerIdentity) -> bool {
        self.node.is_none_or(|node| node == identity.node) && self.dc.as_ref().is_none_or(|dc| *dc == identity.dc)
    }
}

impl From<Endpoint> for PeerTarget {
    fn from(endpoint: Endpoint) -> Self {
        Self::at(endpoint)
    }
}
