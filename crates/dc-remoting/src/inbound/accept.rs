//! Connections: their number, their time to shake hands, and cutting them off.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
    time::Sleep,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::serve::LinkService;
use crate::{LinkEvent, remoting::Shared};

/// What every HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One connection that was taken.
pub(crate) struct Conn {
    shared: Arc<Shared>,
    pub(crate) remote: SocketAddr,
    shaken: AtomicBool,
    reported: AtomicBool,
    pub(crate) taken: AtomicBool,
    pub(crate) close: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Conn {
    /// The handshake is over: its time limit ends.
    pub(crate) fn handshake_done(&self) {
        self.shaken.store(true, Ordering::Release);
    }

    /// Says once, in the log and as an event, why this connection is cut off.
    pub(crate) fn refuse(&self, why: &str) {
        if !self.reported.swap(true, Ordering::AcqRel) {
            tracing::warn!(from = %self.remote, why, "connection refused");
            self.shared.event(LinkEvent::Refused { from: self.remote, why: why.into() });
        }
    }

    /// Closes the connection once what was sent has had a moment to leave.
    pub(crate) fn close_soon(self: &Arc<Self>) {
        let close = self.close.clone();
        tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            close.cancel();
        });
    }
}

/// A socket that ends when its [`Conn`] says so, when its handshake takes too long, or at the first
/// bytes that are not HTTP/2.
pub(crate) struct Guarded {
    io: TcpStream,
    conn: Arc<Conn>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    deadline: Pin<Box<Sleep>>,
    /// Bytes of the preface that were seen.
    seen: usize,
}

impl Guarded {
    fn new(io: TcpStream, conn: Arc<Conn>) -> Self {
        let closed = Box::pin(conn.close.clone().cancelled_owned());
        let deadline = Box::pin(tokio::time::sleep(conn.shared.config.handshake_timeout));
        Self { io, conn, closed, deadline, seen: 0 }
    }

    fn check_preface(&mut self, bytes: &[u8]) -> io::Result<()> {
        let wanted = &PREFACE[self.seen..];
        let n = wanted.len().min(bytes.len());
        if bytes[..n] != wanted[..n] {
            let why = "what it sends is not HTTP/2";
            self.conn.refuse(why);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        self.seen += n;
        Ok(())
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if !this.conn.shaken.load(Ordering::Acquire) && this.deadline.as_mut().poll(cx).is_ready() {
            this.conn.refuse("it did not finish its handshake in time");
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        if this.seen < PREFACE.len() && matches!(read, Poll::Ready(Ok(()))) {
            let fresh = buf.filled()[before..].to_vec();
            if let Err(err) = this.check_preface(&fresh) {
                return Poll::Ready(Err(err));
            }
        }
        read
    }
}

impl AsyncWrite for Guarded {
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

impl Connected for Guarded {
    type ConnectInfo = Arc<Conn>;

    fn connect_info(&self) -> Arc<Conn> {
        Arc::clone(&self.conn)
    }
}

/// Takes connections until remoting stops. The listening socket closes when `accepting` is cancelled.
pub(crate) async fn serve_connections(shared: Arc<Shared>, listener: TcpListener) {
    let config = &shared.config;
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .max_frame_size(1 << 20)
        .max_concurrent_streams(4)
        .http2_keepalive_interval(Some(config.keepalive_interval))
        // Answers may stand before a pong on a slow line: the control lane notices a dead dialler sooner.
        .http2_keepalive_timeout(Some(config.keepalive_timeout * 5));
    let incoming = futures::stream::unfold((Arc::clone(&shared), listener), |(shared, listener)| async move {
        let io = next_connection(&shared, &listener).await?;
        Some((Ok::<_, io::Error>(io), (shared, listener)))
    });
    let service = LinkService::new(Arc::clone(&shared));
    if let Err(err) = server.serve_with_incoming(service, incoming).await {
        tracing::error!(%err, "no more links are taken");
    }
}

async fn next_connection(shared: &Arc<Shared>, listener: &TcpListener) -> Option<Guarded> {
    loop {
        let accepted = tokio::select! {
            () = shared.accepting.cancelled() => return None,
            accepted = listener.accept() => accepted,
        };
        let (io, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(err) => {
                // Out of descriptors, or reset before it was taken: others may still get through.
                tracing::warn!(%err, "cannot take a connection");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&shared.connections).try_acquire_owned() else {
            let why = "too many connections";
            tracing::warn!(from = %remote, max = shared.config.max_connections, why, "connection refused");
            shared.event(LinkEvent::Refused { from: remote, why: why.into() });
            continue;
        };
        if let Err(err) = io.set_nodelay(true) {
            tracing::debug!(from = %remote, %err, "cannot set TCP_NODELAY");
        }
        let conn = Conn {
            shared: Arc::clone(shared),
            remote,
            shaken: AtomicBool::new(false),
            reported: AtomicBool::new(false),
            taken: AtomicBool::new(false),
            close: shared.stop.child_token(),
            _permit: permit,
        };
        return Some(Guarded::new(io, Arc::new(conn)));
    }
}
