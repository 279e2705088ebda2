//! Who a member is to foca: address, seniority, node.

use std::net::SocketAddr;

use dc_core::NodeId;
use serde::{Deserialize, Serialize};

/// One life of one member. A node that was declared down comes back under a new one.
///
/// At most 64 bytes on the wire (in fact 51); everything else is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Where others send it gossip.
    pub(crate) addr: SocketAddr,
    /// Age rank; drawn once, one above the highest known.
    pub(crate) seniority: u64,
    /// The node's run.
    pub(crate) node: NodeId,
    /// Whether its endpoint for links is something else than `addr` (a DNS name) and must be asked.
    pub(crate) named: bool,
}

impl Identity {
    /// The order of age: the lowest leads.
    pub(crate) fn rank(&self) -> Rank {
        (self.seniority, self.node)
    }
}

/// The order of age among members: the lowest leads.
pub(crate) type Rank = (u64, NodeId);

impl foca::Identity for Identity {
    type Addr = SocketAddr;

    /// Never by itself: a new seniority must be above all that others know.
    fn renew(&self) -> Option<Self> {
        None
    }

    fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.rank() > adversary.rank()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_fits_in_64_bytes() {
        let largest = Identity {
            addr: "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap(),
            seniority: u64::MAX,
            node: NodeId(u128::MAX),
            named: true,
        };
        let bytes = postcard::to_stdvec(&largest).unwrap();
        assert!(bytes.len() <= 64, "{} bytes", bytes.len());
        assert_eq!(postcard::from_bytes::<Identity>(&bytes).unwrap(), largest);
    }
}
