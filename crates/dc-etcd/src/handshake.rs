//! A handshake of our own with each member, to learn why there is no connection.
//!
//! etcd's client does not tell what a server said before it hung up, and in TLS
//! 1.3 a server looks at its client's certificate when the client thinks it is
//! through. Asked once, where connecting failed (P12): what no waiting mends is
//! an error then.

use std::{sync::Arc, time::Duration};

use dc_controlplane::{config::TlsFiles, tls};
use futures::future::join_all;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::EtcdConfig;

/// How long one member may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a server is listened to before it is spoken to: one that hangs up on what we say may take its last word
/// along.
const LISTEN: Duration = Duration::from_millis(200);
/// The beginning of HTTP/2: its preface, and settings without any.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Why every member refuses us, or we them; `None` where at least one may take us some time.
pub(crate) async fn refusal(config: &EtcdConfig) -> Option<String> {
    let asked = config.endpoints().iter().map(|url| tokio::time::timeout(PATIENCE, ask(url, config.tls())));
    let answers: Option<Vec<String>> = join_all(asked).await.into_iter().map(|answer| answer.ok().flatten()).collect();
    answers?.into_iter().next()
}

async fn ask(url: &str, files: Option<&TlsFiles>) -> Option<String> {
    let (scheme, address) = url.split_once("://")?;
    let host = address.rsplit_once(':')?.0.trim_matches(['[', ']']).to_owned();
    let stream = TcpStream::connect(address).await.ok()?;
    let connector = TlsConnector::from(Arc::new(client(&files.cloned().unwrap_or_default())?));
    let connected = connector.connect(ServerName::try_from(host).ok()?, stream).await;
    if scheme == "http" {
        let speaks_tls = match &connected {
            Ok(_) => true,
            Err(err) => tls::refusal(err).is_some_and(|why| why.contains("certificate")),
        };
        return speaks_tls.then(|| "the server speaks TLS at this address: use https".to_owned());
    }
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(err) => {
            let why = tls::refusal(&err);
            return if why.is_some() { why } else { plain(address).await };
        }
    };
    let mut answer = [0];
    let heard = match tokio::time::timeout(LISTEN, stream.read(&mut answer)).await {
        Ok(heard) => heard,
        Err(_) => {
            stream.write_all(HELLO).await.ok()?;
            stream.flush().await.ok()?;
            stream.read(&mut answer).await
        }
    };
    tls::refusal(&heard.err()?)
}

/// Whether the server understands HTTP/2 without TLS.
async fn plain(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(HELLO).await.ok()?;
    // Its settings, the length of which is less than 65,536.
    let understood = stream.read_u8().await.ok()? == 0;
    understood.then(|| "the server does not speak TLS at this address".to_owned())
}

/// As etcd's client is set up. `None` where the files cannot be used, which it has told by itself.
fn client(files: &TlsFiles) -> Option<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match &files.ca {
        Some(path) => {
            roots.add_parsable_certificates(CertificateDer::pem_file_iter(path).ok()?.flatten());
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    let builder = builder.with_root_certificates(roots);
    let mut config = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).ok()?.collect();
            builder.with_client_auth_cert(chain.ok()?, PrivateKeyDer::from_pem_file(key).ok()?).ok()?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Some(config)
}
