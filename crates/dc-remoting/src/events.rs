//! What happened to links, for logs and for the layers above.

use std::{net::SocketAddr, sync::Arc};

use dc_core::{Endpoint, NodeId, StoreId};

use crate::{LinkError, PeerIdentity};

/// Something that happened to a link. Up and Down speak of links that this node dialled.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LinkEvent {
    /// A link stands.
    PeerUp {
        /// Who is at the other end.
        identity: Arc<PeerIdentity>,
    },
    /// A link that stood has ended.
    PeerDown {
        /// The node at its other end.
        node: NodeId,
        /// Where it was.
        endpoint: Endpoint,
        /// Why it ended.
        why: Arc<str>,
        /// Messages that were sent and not known to be accepted: they may have run.
        unaccepted: usize,
    },
    /// A link could not be made. Reported once for a row of like failures.
    DialFailed {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        error: LinkError,
    },
    /// A connection was refused or cut off for what it sent.
    Refused {
        /// Its remote address.
        from: SocketAddr,
        /// Why.
        why: Arc<str>,
    },
    /// The peer uses another control-plane store than this node.
    StoreMismatch {
        /// The peer.
        identity: Arc<PeerIdentity>,
        /// This node's store.
        ours: StoreId,
        /// The peer's store.
        theirs: StoreId,
    },
}
