//! Why a message did not go through, and whether it may have run all the same.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use dc_core::{DataCenterId, Endpoint, Invalid, NodeId};

use crate::{RefusedBy, TlsRefusal};

/// Why a tell, an ask or a call failed. [`certainly_not_run`](Self::certainly_not_run)
/// is what decides about sending it again (R3).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The peer cannot be reached, or is known to be dead: nothing was written.
    #[error("{endpoint} is unreachable: {why}")]
    Unreachable {
        /// Where the peer should be.
        endpoint: Endpoint,
        /// What the last attempt said.
        why: Arc<str>,
    },
    /// No answer within the time given.
    #[error("no answer from {endpoint} in {after:?} ({})", ran(*.may_have_run))]
    Timeout {
        /// The peer asked.
        endpoint: Endpoint,
        /// The time that was given.
        after: Duration,
        /// False where the message never left, or the peer refused to start it late.
        may_have_run: bool,
    },
    /// The link ended while the message was on its way or being handled: it may have run.
    #[error("link to {endpoint} lost while waiting: {why}")]
    Lost {
        /// The peer asked.
        endpoint: Endpoint,
        /// Why the link ended.
        why: Arc<str>,
    },
    /// The peer took the message and dropped it without an answer: it may have run.
    #[error("{endpoint} gave no answer")]
    Unanswered {
        /// The peer asked.
        endpoint: Endpoint,
    },
    /// The peer said that the message certainly did not run.
    #[error("{endpoint} did not run it: {why}")]
    NotRun {
        /// The peer asked.
        endpoint: Endpoint,
        /// Its reason.
        why: Arc<str>,
    },
    /// A bound is reached: too much is under way or waiting already. Nothing was sent.
    #[error("{endpoint} is overloaded: {what}")]
    Overloaded {
        /// The peer.
        endpoint: Endpoint,
        /// Which bound.
        what: &'static str,
    },
    /// Another node, or a node of another datacenter, answers at that endpoint. Nothing was sent.
    #[error("{endpoint} is {found_node} of {found_dc}, not who was expected")]
    WrongPeer {
        /// Where.
        endpoint: Endpoint,
        /// The node that answers there.
        found_node: NodeId,
        /// Its datacenter.
        found_dc: DataCenterId,
    },
    /// A message, or its answer, is larger than the link carries.
    #[error("{what} of {size} bytes is larger than {max} ({})", ran(*.may_have_run))]
    TooLarge {
        /// Which part: `payload`, `key`, `answer`, ..
        what: &'static str,
        /// Its size in bytes; 0 where only the peer knows it.
        size: usize,
        /// The bound in bytes; 0 where only the peer knows it.
        max: usize,
        /// True for an answer: the message ran, its result was too large.
        may_have_run: bool,
    },
    /// The peer refused the link (another system, another protocol version, too many links). Nothing was sent.
    #[error("{endpoint} refused the link: {why}")]
    Refused {
        /// The peer.
        endpoint: Endpoint,
        /// Its reason.
        why: Arc<str>,
    },
    /// One end refused the other's certificate, or does not speak TLS (R9). Nothing was sent.
    #[error("no TLS with {endpoint}, {by}: {why}")]
    Tls {
        /// The peer.
        endpoint: Endpoint,
        /// Which end refused the other.
        by: RefusedBy,
        /// What was wrong with the refused end.
        why: TlsRefusal,
    },
    /// This node's remoting is shut down, or shutting down. Nothing was sent.
    #[error("remoting is shut down")]
    Closed,
}

fn ran(may: bool) -> &'static str {
    if may { "may have run" } else { "certainly not run" }
}

/// How a node begins that knows no service of the number called.
pub(crate) const NO_SERVICE: &str = "no service ";

impl LinkError {
    /// Whether the peer is of a version that has no such service: asking again is of no use.
    pub fn is_unknown_service(&self) -> bool {
        matches!(self, Self::NotRun { why, .. } if why.starts_with(NO_SERVICE))
    }

    /// Whether the message certainly did not run, so that sending it again is safe (R3).
    pub fn certainly_not_run(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::NotRun { .. }
            | Self::Overloaded { .. }
            | Self::WrongPeer { .. }
            | Self::Refused { .. }
            | Self::Tls { .. }
            | Self::Closed => true,
            Self::Lost { .. } | Self::Unanswered { .. } => false,
            Self::Timeout { may_have_run, .. } | Self::TooLarge { may_have_run, .. } => !may_have_run,
        }
    }
}

/// Why remoting did not start, or its configuration was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A field of the configuration breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The listener is bound to a wildcard address and no advertised endpoint is configured.
    #[error("listening on {0}: set `advertise`, as a wildcard address cannot be told to others")]
    NoAdvertise(SocketAddr),
    /// TLS is set, and cannot be used.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    Tls(#[from] crate::TlsError),
}
