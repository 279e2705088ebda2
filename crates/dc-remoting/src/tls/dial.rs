//! The handshake at the end that dials.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use dc_core::Endpoint;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Tls,
    accept::check,
    certificate::{Certificate, Validity, now},
    error::refusal,
};
use crate::{LinkError, RefusedBy, RemotingConfig};

/// A connection whose first bytes were read already.
pub(crate) struct Begun {
    first: Vec<u8>,
    io: TlsStream<TcpStream>,
}

/// Connects to `endpoint` and shakes hands. Returns when the peer has said something over the new connection: under
/// TLS 1.3 a dialler has finished its handshake before the other end has seen its certificate, and learns only from
/// what comes next whether it was taken. The dialled speaks first (its HTTP/2 settings), so waiting costs no more than
/// a round trip, and the refusal cannot get lost behind data that nobody reads. Gives the time of this node's
/// certificate and what the peer's says.
pub(crate) async fn dial(
    tls: &Tls,
    config: &RemotingConfig,
    endpoint: &Endpoint,
) -> Result<(Begun, Validity, Certificate), LinkError> {
    let unreachable = |why: String| LinkError::Unreachable { endpoint: endpoint.clone(), why: why.into() };
    let io = timeout(config.connect_timeout, TcpStream::connect((endpoint.host(), endpoint.port())))
        .await
        .map_err(|_| unreachable(format!("no connection in {:?}", config.connect_timeout)))?
        .map_err(|err| unreachable(err.to_string()))?;
    if let Err(err) = io.set_nodelay(true) {
        tracing::debug!(%endpoint, %err, "cannot set TCP_NODELAY");
    }
    timeout(config.handshake_timeout, shake(tls, endpoint, io))
        .await
        .map_err(|_| unreachable(format!("no TLS handshake in {:?}", config.handshake_timeout)))?
}

async fn shake(tls: &Tls, endpoint: &Endpoint, io: TcpStream) -> Result<(Begun, Validity, Certificate), LinkError> {
    let material = tls.current();
    let own = material.own.validity;
    let refused = |by, why| {
        // Whatever was agreed on before is not worth resuming.
        material.forget(endpoint);
        LinkError::Tls { endpoint: endpoint.clone(), by, why }
    };
    let failed = |err: &io::Error| match refusal(err, own, now()) {
        Some((by, why)) => refused(by, why),
        None => {
            let why = format!("it ended the connection during the TLS handshake ({err}): is TLS set there?");
            LinkError::Unreachable { endpoint: endpoint.clone(), why: why.into() }
        }
    };
    // Peers are known by the URI in their certificate, whatever their host: the name is a formality, and is not sent.
    let name = ServerName::try_from("multidc.invalid").map_err(|err| failed(&io::Error::other(err)))?;
    let connector = TlsConnector::from(material.client(endpoint));
    let mut io = connector.connect(name, io).await.map_err(|err| failed(&err))?;
    let certificate =
        check(io.get_ref().1.peer_certificates(), tls).map_err(|why| refused(RefusedBy::ThisNode, why))?;
    let mut first = vec![0; 256];
    let read = match io.read(&mut first).await {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        read => read,
    };
    let read = read.map_err(|err| match own.check(now()) {
        // A resumed session is refused without an alert when this node's certificate has expired meanwhile.
        Err(why) if refusal(&err, own, now()).is_none() => refused(RefusedBy::Peer, why),
        _ => failed(&err),
    })?;
    first.truncate(read);
    let resumed = io.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    tracing::debug!(%endpoint, peer = %certificate.name, resumed, "TLS handshake done");
    Ok((Begun { first, io }, own, certificate))
}

impl AsyncRead for Begun {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first[..n]);
        self.first.drain(..n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Begun {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
