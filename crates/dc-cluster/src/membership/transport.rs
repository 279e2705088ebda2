//! How datagrams travel: UDP, or whatever a test puts in its place.

use std::{fmt, io, net::SocketAddr};

use async_trait::async_trait;
use tokio::net::UdpSocket;

/// Sends and receives datagrams. May lose, repeat and reorder them.
#[async_trait]
pub trait DatagramTransport: fmt::Debug + Send + Sync + 'static {
    /// Sends one datagram.
    ///
    /// # Errors
    ///
    /// Where it was certainly not sent. Success promises nothing.
    async fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()>;

    /// Waits for a datagram and puts it into `buffer`; what does not fit is cut off. Cancel-safe.
    ///
    /// # Errors
    ///
    /// A failure that concerns no datagram in particular. The caller tries again.
    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)>;
}

#[async_trait]
impl DatagramTransport for UdpSocket {
    async fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        Self::send_to(self, datagram, to).await.map(drop)
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        Self::recv_from(self, buffer).await
    }
}
