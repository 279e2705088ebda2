//! What a gossip datagram holds: foca's bytes, or one of our own questions.

use std::net::SocketAddr;

use dc_core::{Endpoint, NodeId};
use serde::{Deserialize, Serialize};

use super::split::{Seen, Standing};
use crate::identity::{Identity, read_seniority};

/// The body of a datagram.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Packet<'a> {
    /// A packet of foca's.
    Foca(#[serde(borrow)] &'a [u8]),
    /// Are you a member, how do you stand, and what am I to you? `from` is empty before joining.
    Ask { nonce: u64, node: NodeId, from: Option<Identity> },
    /// A member's answer, or its word, unasked, to a node that is down to it.
    Tell(Tell),
    /// The answer of a node that is not a member yet either.
    Founding { nonce: u64, node: NodeId },
    /// Where do you take links?
    Who,
    /// Where a member takes links.
    Iam { node: NodeId, endpoint: Endpoint },
    /// A member leaves for good.
    Leave(Identity),
    /// There is another side of this datacenter: ask it.
    Rally(SocketAddr),
}

/// How a member stands, told to one other node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tell {
    /// Of the question, or 0.
    pub(crate) nonce: u64,
    /// How often this pair of nodes has told each other already: bounds the exchange.
    pub(crate) hops: u8,
    /// Whom it is told: an earlier life of the receiver ignores it.
    pub(crate) to: Option<Identity>,
    /// The teller. An announce goes to this address, whatever was asked (a VIP, NAT).
    pub(crate) from: Identity,
    /// Where the teller takes links.
    pub(crate) endpoint: Endpoint,
    /// The highest seniority that the teller knows of.
    #[serde(deserialize_with = "read_seniority")]
    pub(crate) highest: u64,
    /// What the receiver is to the teller.
    pub(crate) you: Seen,
    /// How the teller stands.
    pub(crate) standing: Standing,
}

impl Packet<'_> {
    /// Room that foca's bytes need around them.
    pub(crate) const FOCA_OVERHEAD: usize = 4;

    pub(crate) fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_stdvec(self)
    }
}

/// Reads a body. Trailing bytes are refused.
pub(crate) fn decode(body: &[u8]) -> Option<Packet<'_>> {
    match postcard::take_from_bytes(body) {
        Ok((packet, [])) => Some(packet),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packets_read_back_as_written() {
        let id = Identity { addr: "10.0.0.1:7946".parse().unwrap(), seniority: 3, node: NodeId(9), named: false };
        let standing = Standing { size: 1, leader: id.rank(), me: id.rank() };
        let tell = Tell {
            nonce: 7,
            hops: 0,
            to: Some(id),
            from: id,
            endpoint: "node.example:7946".parse().unwrap(),
            highest: 5,
            you: Seen::Down,
            standing,
        };
        for packet in [
            Packet::Foca(b"bytes"),
            Packet::Ask { nonce: 1, node: NodeId(1), from: Some(id) },
            Packet::Tell(tell),
            Packet::Founding { nonce: 1, node: NodeId(1) },
            Packet::Who,
            Packet::Leave(id),
            Packet::Rally(id.addr),
        ] {
            let bytes = packet.encode().unwrap();
            assert_eq!(decode(&bytes), Some(packet.clone()));
            let longer = [bytes, vec![0]].concat();
            assert_eq!(decode(&longer), None, "trailing byte after {packet:?}");
        }
        let frame = Packet::Foca(&[0; 1300]).encode().unwrap();
        assert!(frame.len() <= 1300 + Packet::FOCA_OVERHEAD);
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }
    }
}
