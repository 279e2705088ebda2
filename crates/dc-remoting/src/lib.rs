//! Links between nodes: frames, lanes, credits, deadlines, peer identity, RTT.
//!
//! Owns everything between "this message goes to that node" and "that node was
//! handed this message": connections and their handshake, order, batching, flow
//! control, correlation of answers, time limits, and saying of every failure
//! whether the message certainly did not run. Deliberately does not know: what an
//! actor, a datacenter's membership or a control plane is. A [`Message`] is
//! addressed by numbers and bytes that only the layer above understands.
//!
//! Each node dials a link of its own to each node it talks to and takes the
//! links that others dial; a link is three streams (lanes), each on its own
//! connection. `docs/wire.md` describes what goes over them.
//!
//! Reading order: [`Remoting`], [`Peer`], [`Pair`], [`Receiver`], [`LinkError`];
//! inside: `slot` (keeping a link up), `outbound` (what a dialler does),
//! `inbound` (what the dialled does), `wire` (what both say).

mod backoff;
mod config;
mod error;
mod events;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod inbound;
mod measure;
mod message;
mod network;
mod outbound;
mod pair;
mod peer;
mod refusal;
mod remoting;
#[cfg(feature = "tls")]
mod renew;
mod slot;
mod socket;
#[cfg(feature = "tls")]
mod tls;
mod wire;

pub use config::{RemotingConfig, RemotingConfigBuilder, WhenFull};
pub use error::{LinkError, StartError};
pub use events::LinkEvent;
pub use identity::{PROTOCOL, PeerIdentity, PeerTarget};
pub use message::{
    Accept, Answer, Incoming, Message, Receiver, ReplyTo, Service, ServiceId, Services, Symbol, Undelivered,
};
pub use network::{Connection, Listener, Network};
pub use pair::Pair;
pub use peer::Peer;
pub use refusal::{RefusedBy, TlsRefusal};
pub use remoting::{Remoting, Taken, bind_one_port};
#[cfg(feature = "tls")]
pub use tls::{CertificateName, TlsConfig, TlsConfigBuilder, TlsError};

/// The Protobuf types of the wire, for tools that read captures. Not a stable interface.
#[doc(hidden)]
pub mod proto {
    pub use crate::wire::*;
}
