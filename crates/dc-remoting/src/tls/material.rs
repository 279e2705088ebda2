//! One set of certificates, ready to be used at both ends.

use std::{collections::HashMap, sync::Arc};

use dc_core::{Endpoint, SystemName};
use parking_lot::Mutex;
use rustls::{
    ClientConfig, Error as RustlsError, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{
        CryptoProvider,
        ring::{Ticketer, default_provider},
    },
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::danger::ClientCertVerifier,
    version::TLS13,
};

use super::{TlsError, certificate::Certificate, config::Contents, verify::Verifier};

/// HTTP/2, as links speak it.
const ALPN: &[u8] = b"h2";

/// Tickets kept per peer: two per handshake, three lanes, and some that were not used.
const TICKETS: usize = 16;

/// Peers whose tickets are kept.
const CLIENTS: usize = 4096;

/// A set of certificates and what was made of it. Sessions that it began can be resumed with it only: a new set means
/// full handshakes.
pub(crate) struct Material {
    pub(super) contents: Contents,
    /// What this node's own certificate says.
    pub(crate) own: Certificate,
    pub(crate) server: Arc<ServerConfig>,
    client: ClientConfig,
    /// By peer, as each has tickets of its own.
    clients: Mutex<HashMap<Endpoint, Arc<ClientConfig>>>,
}

fn certificates(field: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let malformed = |why: String| TlsError::Malformed { field, why };
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|err| malformed(format!("is no PEM: {err}")))?;
    if found.is_empty() {
        return Err(malformed("holds no certificate (no `-----BEGIN CERTIFICATE-----`)".to_owned()));
    }
    Ok(found)
}

impl Material {
    /// Checks that the parts belong together.
    pub(super) fn new(contents: Contents, system: &SystemName) -> Result<Self, TlsError> {
        let provider = Arc::new(default_provider());
        let malformed = |field, why: String| TlsError::Malformed { field, why };
        let mut roots = RootCertStore::empty();
        for ca in certificates("ca", &contents.ca)? {
            roots.add(ca).map_err(|err| malformed("ca", format!("holds what is no CA certificate: {err}")))?;
        }
        let chain = certificates("certificate", &contents.certificate)?;
        let own = Certificate::read(&chain)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|err| malformed("key", format!("holds no private key: {err}")))?;
        let verifier = Verifier::new(roots, &provider, system.clone())
            .map(Arc::new)
            .map_err(|err| malformed("ca", err.to_string()))?;
        let server = server(&provider, Arc::clone(&verifier) as _, chain.clone(), key.clone_key())?;
        let client = client(provider, verifier, chain, key)?;
        Ok(Self { contents, own, server: Arc::new(server), client, clients: Mutex::default() })
    }

    /// The configuration with which `endpoint` is dialled.
    pub(crate) fn client(&self, endpoint: &Endpoint) -> Arc<ClientConfig> {
        let mut clients = self.clients.lock();
        if clients.len() >= CLIENTS && !clients.contains_key(endpoint) {
            // Peers come and go: those that are still there shake hands in full once.
            clients.clear();
        }
        let config = clients.entry(endpoint.clone()).or_insert_with(|| {
            let mut config = self.client.clone();
            config.resumption = Resumption::in_memory_sessions(TICKETS);
            Arc::new(config)
        });
        Arc::clone(config)
    }

    /// Forgets what was begun with `endpoint`: the next handshake is a full one.
    pub(crate) fn forget(&self, endpoint: &Endpoint) {
        self.clients.lock().remove(endpoint);
    }
}

fn key_error(err: RustlsError) -> TlsError {
    match err {
        RustlsError::InconsistentKeys(_) => TlsError::KeyMismatch,
        err => TlsError::Malformed { field: "key", why: err.to_string() },
    }
}

fn server(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ClientCertVerifier>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(key_error)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(key_error)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Tickets hold the session, sealed by a key that lives as long as this set: nothing is kept per peer.
    config.ticketer = Ticketer::new().map_err(key_error)?;
    config.max_early_data_size = 0;
    Ok(config)
}

fn client(
    provider: Arc<CryptoProvider>,
    verifier: Arc<Verifier>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(key_error)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain, key)
        .map_err(key_error)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    Ok(config)
}
