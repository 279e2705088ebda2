//! Who is let in: whoever shows a certificate of this system that a CA of the bundle has signed.
//!
//! Host names mean nothing here: nodes are known by the URI that names their system and datacenter, whichever way
//! they are reached. Which datacenter the peer *says* it is comes later, in the handshake of the link.

use std::sync::Arc;

use dc_core::SystemName;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{
    certificate::{Certificate, name},
    error::wrapped,
};
use crate::TlsRefusal;

/// Verifies peers at both ends alike.
#[derive(Debug)]
pub(super) struct Verifier {
    roots: Arc<RootCertStore>,
    diallers: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
    system: SystemName,
}

/// A peer's certificate may be for this system only.
pub(crate) fn check_system(certificate: &Certificate, system: &SystemName) -> Result<(), TlsRefusal> {
    if certificate.name.system == *system {
        return Ok(());
    }
    Err(TlsRefusal::WrongSystem { found: certificate.name.system.as_str().into(), wanted: system.as_str().into() })
}

impl Verifier {
    pub(super) fn new(
        roots: RootCertStore,
        provider: &Arc<CryptoProvider>,
        system: SystemName,
    ) -> Result<Self, VerifierBuilderError> {
        let roots = Arc::new(roots);
        let diallers = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider))
            .clear_root_hint_subjects()
            .build()?;
        Ok(Self { roots, diallers, algorithms: provider.signature_verification_algorithms, system })
    }

    fn check_name(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        // Before anything else is believed of it, its chain was verified.
        let named = name(leaf).map_err(wrapped)?;
        if named.system == self.system {
            return Ok(());
        }
        Err(wrapped(TlsRefusal::WrongSystem {
            found: named.system.as_str().into(),
            wanted: self.system.as_str().into(),
        }))
    }
}

/// A CA of the same name and another key is an unknown one.
fn unknown_ca(err: Error) -> Error {
    match err {
        Error::InvalidCertificate(CertificateError::BadSignature) => CertificateError::UnknownIssuer.into(),
        err => err,
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)
            .map_err(unknown_ca)?;
        self.check_name(leaf)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.diallers.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.diallers.verify_client_cert(leaf, intermediates, now).map_err(unknown_ca)?;
        self.check_name(leaf)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.diallers.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.diallers.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.diallers.supported_verify_schemes()
    }
}
