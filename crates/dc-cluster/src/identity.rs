//! Who a member is to foca: address, seniority, node.

use std::net::SocketAddr;

use dc_core::NodeId;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// The highest seniority there is. Far above any that is drawn in earnest, and far enough below what
/// a `u64` holds that counting on cannot overflow. Datagrams with a higher one are malformed.
pub(crate) const MAX_SENIORITY: u64 = u64::MAX / 2;

/// Reads a seniority; refuses one above [`MAX_SENIORITY`].
pub(crate) fn read_seniority<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let seniority = u64::deserialize(from)?;
    if seniority > MAX_SENIORITY {
        return Err(D::Error::custom(format_args!("seniority {seniority} is above {MAX_SENIORITY}")));
    }
    Ok(seniority)
}

/// The seniority of whoever comes after `highest`.
pub(crate) fn next_seniority(highest: u64) -> u64 {
    highest.saturating_add(1).min(MAX_SENIORITY)
}

/// One life of one member. A node that was declared down comes back under a new one.
///
/// At most 64 bytes on the wire (in fact 49); everything else is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Where others send it gossip.
    pub(crate) addr: SocketAddr,
    /// Age rank; drawn once, one above the highest known.
    #[serde(deserialize_with = "read_seniority")]
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
            seniority: MAX_SENIORITY,
            node: NodeId(u128::MAX),
            named: true,
        };
        let bytes = postcard::to_stdvec(&largest).unwrap();
        assert_eq!(bytes.len(), 49);
        assert_eq!(postcard::from_bytes::<Identity>(&bytes).unwrap(), largest);
    }

    #[test]
    fn a_seniority_that_leaves_no_room_for_others_is_refused() {
        for seniority in [MAX_SENIORITY + 1, u64::MAX] {
            let identity =
                Identity { addr: "10.0.0.1:7946".parse().unwrap(), seniority, node: NodeId(1), named: false };
            let bytes = postcard::to_stdvec(&identity).unwrap();
            assert!(postcard::from_bytes::<Identity>(&bytes).is_err(), "{seniority}");
        }
        assert_eq!(next_seniority(u64::MAX), MAX_SENIORITY);
        assert_eq!(next_seniority(7), 8);
    }
}
