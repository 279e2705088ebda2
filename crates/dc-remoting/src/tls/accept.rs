//! The handshake at the end that was dialled.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    Tls,
    certificate::{Certificate, now},
    error,
    material::Material,
    verify::check_system,
};
use crate::{
    RefusedBy, TlsRefusal,
    refusal::{self, TLS_ONLY},
};

/// The first byte of a TLS connection: a record of type handshake.
const HANDSHAKE: u8 = 0x16;

/// Why there is no TLS connection.
#[derive(Debug)]
pub(crate) enum Failure {
    /// One end refused the other.
    Refused(RefusedBy, TlsRefusal),
    /// The connection ended before that was decided.
    Ended(String),
}

/// Shakes hands with whoever dialled. Nothing is taken from a peer that did not show a certificate of this system.
/// The caller bounds the time.
pub(crate) async fn accept(tls: &Tls, io: TcpStream) -> Result<(TlsStream<TcpStream>, Certificate), Failure> {
    let mut first = [0];
    match io.peek(&mut first).await {
        Ok(1) if first[0] == HANDSHAKE => {}
        Ok(0) => return Err(Failure::Ended("it closed the connection before it said anything".to_owned())),
        Ok(_) => {
            if first[0] == b'P' {
                refusal::say_goaway(io, refusal::INADEQUATE_SECURITY, TLS_ONLY).await;
            }
            return Err(Failure::Refused(RefusedBy::ThisNode, TlsRefusal::PlainText));
        }
        Err(err) => return Err(Failure::Ended(err.to_string())),
    }
    let material = tls.current();
    let accepted = TlsAcceptor::from(Arc::clone(&material.server)).accept(io).await;
    let stream = accepted.map_err(|err| failure(&err, &material))?;
    let shown = stream.get_ref().1.peer_certificates();
    let certificate = check(shown, tls).map_err(|refusal| Failure::Refused(RefusedBy::ThisNode, refusal))?;
    Ok((stream, certificate))
}

/// Checks what a handshake brought. A resumed one verifies no chain: what matters then is that its time is not over,
/// as the session was begun with the set of CAs that is used now.
pub(super) fn check(shown: Option<&[CertificateDer<'_>]>, tls: &Tls) -> Result<Certificate, TlsRefusal> {
    let certificate = Certificate::read(shown.unwrap_or_default())?;
    check_system(&certificate, tls.system())?;
    certificate.validity.check(now())?;
    Ok(certificate)
}

fn failure(err: &std::io::Error, material: &Material) -> Failure {
    match error::refusal(err, material.own.validity, now()) {
        Some((by, why)) => Failure::Refused(by, why),
        None => Failure::Ended(format!("it ended the connection during the TLS handshake: {err}")),
    }
}
