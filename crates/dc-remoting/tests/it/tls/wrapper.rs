//! Puts TLS round a plain connection, or takes it off: so an honest node without TLS plays a dishonest one with it.

use std::{net::SocketAddr, sync::Arc};

use dc_core::Endpoint;
use parking_lot::Mutex;
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring::{Ticketer, default_provider},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::certs::Issued;

/// Trusts whoever answers.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

impl Issued {
    fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<Result<_, _>>();
        (chain.expect("PEM"), PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("PEM"))
    }
}

/// A client that trusts anyone and shows `certificate`, or none.
pub(crate) fn client(certificate: Option<&Issued>) -> Arc<ClientConfig> {
    let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut client = match certificate.map(Issued::parts) {
        Some((chain, key)) => client.with_client_auth_cert(chain, key).expect("legal"),
        None => client.with_no_client_auth(),
    };
    client.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(client)
}

/// A server that shows `certificate`, and takes clients of the CA.
pub(crate) fn server(certificate: &Issued, ca: &str) -> Arc<ServerConfig> {
    let provider = Arc::new(default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).expect("PEM")).expect("a CA");
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let (chain, key) = certificate.parts();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(verifier.build().expect("legal"))
        .with_single_cert(chain, key)
        .expect("legal");
    server.alpn_protocols = vec![b"h2".to_vec()];
    server.ticketer = Ticketer::new().expect("random");
    Arc::new(server)
}

/// What takes connections in the clear and passes them on over TLS.
pub(crate) async fn put_on(to: SocketAddr, client: Arc<ClientConfig>) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let at = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut plain, _)) = listener.accept().await {
            let connector = TlsConnector::from(Arc::clone(&client));
            tokio::spawn(async move {
                let io = TcpStream::connect(to).await.expect("connects");
                let name = ServerName::try_from("any.invalid").expect("a name");
                let Ok(mut io) = connector.connect(name, io).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut plain, &mut io).await;
            });
        }
    });
    at.into()
}

/// How the handshakes went that [`take_off`] has seen.
pub(crate) type Kinds = Arc<Mutex<Vec<HandshakeKind>>>;

/// What takes connections over TLS and passes them on in the clear.
pub(crate) async fn take_off(to: SocketAddr, server: Arc<ServerConfig>) -> (Endpoint, Kinds) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let at = listener.local_addr().expect("bound");
    let kinds = Kinds::default();
    let seen = Arc::clone(&kinds);
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let (acceptor, seen) = (TlsAcceptor::from(Arc::clone(&server)), Arc::clone(&seen));
            tokio::spawn(async move {
                let Ok(mut io) = acceptor.accept(io).await else { return };
                seen.lock().extend(io.get_ref().1.handshake_kind());
                let mut plain = TcpStream::connect(to).await.expect("connects");
                let _ = tokio::io::copy_bidirectional(&mut io, &mut plain).await;
            });
        }
    });
    (at.into(), kinds)
}
