//! What happened to links, for logs and for the layers above.

use std::{net::SocketAddr, sync::Arc};

use dc_core::{Endpoint, NodeId, StoreId};

use crate::{LinkError, PeerIdentity, RefusedBy, TlsRefusal};

/// Something that happened to a link. Up and Down speak of links that this node dialled.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LinkEvent {
    /// A link stands.
    PeerUp {
        /// Who is at the other end.
        identity: Arc<PeerIdentity>,
    },
    /// A link was replaced by another to the same node, as its certificates were about to expire: nothing is lost.
    Renewed {
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
        /// Which end refused the other and why, where TLS did not come about (R9).
        tls: Option<(RefusedBy, TlsRefusal)>,
    },
    /// This node's certificate, or the CAs that it trusts, were replaced: new connections use the new ones.
    CertificatesReplaced {
        /// The end of the new certificate's time, in seconds since 1970.
        not_after: u64,
    },
    /// Changed certificates cannot be used: the old ones stay. Told once for as long as they stay so.
    CertificatesRejected {
        /// What is wrong with them.
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
