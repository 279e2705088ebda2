//! What links travel over: TCP, or what a simulation puts in its place.

use std::{
    fmt,
    future::{Ready, ready},
    io,
    net::SocketAddr,
    task::{Context, Poll},
};

use async_trait::async_trait;
use dc_core::Endpoint;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tonic::codegen::{Service, http::Uri};

use crate::socket::Socket;

/// The bytes of one connection, in both directions: whatever reads and writes.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for T {}

/// Makes and takes connections in the place of TCP: for simulations, and for networks that are no sockets.
///
/// Nothing is encrypted on them, and nobody's identity is proved: TLS is for TCP only. Each direction of a connection
/// keeps its order; what is lost ends the connection.
#[async_trait]
pub trait Network: fmt::Debug + Send + Sync + 'static {
    /// Takes connections at `address` from now on.
    ///
    /// # Errors
    ///
    /// The address is taken, or is not one of this network.
    async fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>>;

    /// Makes a connection to whoever takes them at `to`. The caller bounds the time. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Nobody takes connections there.
    async fn connect(&self, to: &Endpoint) -> io::Result<Box<dyn Connection>>;
}

/// Where a [`Network`] takes connections. Dropped, it takes none any more.
#[async_trait]
pub trait Listener: Send + 'static {
    /// The address that it takes them at.
    ///
    /// # Errors
    ///
    /// It has ended.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// The next connection, and where it comes from. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Of one connection: the caller goes on.
    async fn accept(&mut self) -> io::Result<(Box<dyn Connection>, SocketAddr)>;
}

/// Where this node takes connections.
pub(crate) enum Entrance {
    Tcp(TcpListener),
    Other(Box<dyn Listener>),
}

impl Entrance {
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Other(listener) => listener.local_addr(),
        }
    }

    /// The next connection. Cancel-safe.
    pub(crate) async fn accept(&mut self) -> io::Result<(Socket, SocketAddr)> {
        match self {
            Self::Tcp(listener) => {
                let (io, from) = listener.accept().await?;
                if let Err(err) = io.set_nodelay(true) {
                    tracing::debug!(%from, %err, "cannot set TCP_NODELAY");
                }
                Ok((Socket::Plain(io), from))
            }
            Self::Other(listener) => {
                let (io, from) = listener.accept().await?;
                Ok((Socket::Other(io), from))
            }
        }
    }
}

/// Hands a connection that stands to HTTP/2, which wants to make it itself. A lost one is not made again: the link is.
pub(crate) struct Once<T>(Option<T>);

impl<T> Once<T> {
    pub(crate) fn new(io: T) -> Self {
        Self(Some(io))
    }
}

impl<T> Service<Uri> for Once<T> {
    type Response = TokioIo<T>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<T>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        ready(self.0.take().map(TokioIo::new).ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}
