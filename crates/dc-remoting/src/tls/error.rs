//! Why certificates cannot be used, and what a failed handshake means.

use std::{io, path::PathBuf, sync::Arc};

use dc_core::{DataCenterId, Endpoint, Invalid, SystemName};
use rustls::{AlertDescription, CertificateError, Error as RustlsError, InvalidMessage};

use super::{CertificateName, certificate::Validity};
use crate::{RefusedBy, TlsRefusal};

/// Why this node cannot use the certificates that it was given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// Some of the three parts are set, this one is not. Half-set TLS is never taken for none.
    #[error("TLS is half set: `{field}` is missing; give `{field}_file` or `{field}_pem`")]
    Missing {
        /// `ca`, `certificate` or `key`.
        field: &'static str,
    },
    /// Another field breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A file cannot be read.
    #[error("`{field}`: cannot read {}", path.display())]
    Unreadable {
        /// `ca`, `certificate` or `key`.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was read is no usable PEM of its kind.
    #[error("`{field}`: {why}")]
    Malformed {
        /// `ca`, `certificate` or `key`.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The key is not the one that the certificate was made for.
    #[error("`key` does not belong to `certificate`: give the key that it was made with")]
    KeyMismatch,
    /// The certificate is for somebody else.
    #[error("`certificate` is for {certified}, this node is {}", CertificateName {
        system: system.clone(), dc: dc.clone(), node: Some(node.clone())
    })]
    NotThisNode {
        /// Whom it is for.
        certified: Box<CertificateName>,
        /// This node's system.
        system: SystemName,
        /// This node's datacenter.
        dc: DataCenterId,
        /// Where this node takes links, as it advertises itself.
        node: Endpoint,
    },
    /// Peers would refuse the certificate: it names nobody, has expired or is not valid yet.
    #[error("`certificate`: {0}")]
    Unusable(#[from] TlsRefusal),
}

/// Wraps a refusal so that it passes through the TLS library.
pub(crate) fn wrapped(refusal: TlsRefusal) -> RustlsError {
    RustlsError::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(refusal))))
}

/// What a failed handshake means; `None` where the connection just ended. `own` tells an expired certificate of this
/// node from one that is not valid yet, which the peer's alert does not.
pub(crate) fn refusal(err: &io::Error, own: Validity, now: u64) -> Option<(RefusedBy, TlsRefusal)> {
    let err = err.get_ref()?.downcast_ref::<RustlsError>()?;
    Some(match err {
        RustlsError::AlertReceived(alert) => (RefusedBy::Peer, from_alert(*alert, own, now)),
        RustlsError::InvalidCertificate(err) => (RefusedBy::ThisNode, from_certificate(err)),
        RustlsError::NoCertificatesPresented => (RefusedBy::ThisNode, TlsRefusal::NoCertificate),
        RustlsError::InvalidMessage(InvalidMessage::InvalidContentType) => (RefusedBy::ThisNode, TlsRefusal::PlainText),
        err => (RefusedBy::ThisNode, failed(err)),
    })
}

fn failed(err: impl ToString) -> TlsRefusal {
    TlsRefusal::Failed { why: err.to_string().into() }
}

fn from_certificate(err: &CertificateError) -> TlsRefusal {
    match err {
        CertificateError::Expired => TlsRefusal::Expired { not_after: None },
        CertificateError::ExpiredContext { not_after, .. } => {
            TlsRefusal::Expired { not_after: Some(not_after.as_secs()) }
        }
        CertificateError::NotValidYet => TlsRefusal::NotYetValid { not_before: None },
        CertificateError::NotValidYetContext { not_before, .. } => {
            TlsRefusal::NotYetValid { not_before: Some(not_before.as_secs()) }
        }
        CertificateError::UnknownIssuer => TlsRefusal::UnknownCa,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => TlsRefusal::WrongPurpose,
        CertificateError::Other(other) => match other.0.downcast_ref::<TlsRefusal>() {
            Some(refusal) => refusal.clone(),
            None => failed(err),
        },
        err => failed(err),
    }
}

fn from_alert(alert: AlertDescription, own: Validity, now: u64) -> TlsRefusal {
    match alert {
        AlertDescription::CertificateExpired if own.not_before > now => {
            TlsRefusal::NotYetValid { not_before: Some(own.not_before) }
        }
        AlertDescription::CertificateExpired => {
            TlsRefusal::Expired { not_after: Some(own.not_after).filter(|end| *end <= now) }
        }
        AlertDescription::UnknownCA => TlsRefusal::UnknownCa,
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => TlsRefusal::NoCertificate,
        AlertDescription::UnsupportedCertificate => TlsRefusal::WrongPurpose,
        AlertDescription::CertificateUnknown | AlertDescription::AccessDenied => TlsRefusal::Identity,
        alert => failed(RustlsError::AlertReceived(alert)),
    }
}
