//! Mutual TLS on every lane (R9), behind the feature `tls`.
//!
//! Owns certificates: where they come from, whom they are for, how they are replaced while the node runs, and what a
//! handshake says about the peer. Deliberately does not know: links and frames. TLS 1.3 only; rustls with ring, which
//! is the one crypto provider in the tree.
//!
//! Reading order: [`config`], [`name`], [`material`] (a set of certificates ready for use), [`verify`] (who is let
//! in), [`accept`] and [`dial`] (handshakes), [`state`] (the present set, and its replacement).

mod accept;
mod certificate;
mod config;
mod dial;
mod error;
mod material;
mod name;
mod state;
mod verify;

pub use config::{TlsConfig, TlsConfigBuilder};
pub use error::TlsError;
pub use name::CertificateName;

pub(crate) use accept::{Failure, accept};
pub(crate) use certificate::{Certificate, Validity, now};
pub(crate) use dial::dial;
pub(crate) use state::{Tls, check_claims, keep_fresh};
