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
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Semaphore, mpsc},
    time::Sleep,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::{
    places::{Place, Taken},
    serve::LinkService,
};
use crate::{LinkEvent, RefusedBy, TlsRefusal, network::Entrance, refusal, remoting::Shared, socket::Socket};

/// What every HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes that a connection may bring before its handshake is over: what a first frame and HTTP/2 need is a tenth of it.
const OPENING: usize = 16 << 10;

/// What every TLS connection begins with.
const TLS_HANDSHAKE: u8 = 0x16;

/// Time between two lines of the log about connections that found no place.
const ONE_LINE: Duration = Duration::from_secs(1);

/// Diallers that are told at the same time that there is no place for them; further ones are just closed.
const COURTESY: usize = 32;

/// One connection that was taken.
pub(crate) struct Conn {
    shared: Arc<Shared>,
    pub(crate) remote: SocketAddr,
    shaken: AtomicBool,
    reported: AtomicBool,
    pub(crate) taken: AtomicBool,
    pub(crate) close: CancellationToken,
    /// What the peer showed, with TLS.
    #[cfg(feature = "tls")]
    pub(crate) certificate: std::sync::OnceLock<crate::tls::Certificate>,
    place: Place,
}

impl Conn {
    /// The handshake is over: its time limit ends. False if its place went to another meanwhile.
    pub(crate) fn handshake_done(&self) -> bool {
        self.shaken.store(true, Ordering::Release);
        self.place.settle()
    }

    /// Says once that it is cut off for a bound that is reached; `limit` is the name of it.
    pub(crate) fn refuse_for(&self, limit: &'static str, why: &str) {
        if !self.reported.load(Ordering::Acquire) {
            crate::measure::limit(limit);
        }
        self.refuse(why);
    }

    /// Another connection takes its place.
    fn evict(&self) {
        self.refuse("it did not finish its handshake, and another connection needs the place");
        self.close.cancel();
    }

    /// Says once, in the log, as an event and a count, why this connection is cut off.
    pub(crate) fn refuse(&self, why: &str) {
        self.report("protocol", why, None);
    }

    /// The same, where TLS did not come about.
    #[cfg(feature = "tls")]
    pub(crate) fn refuse_tls(&self, by: RefusedBy, refusal: TlsRefusal) {
        self.report(refusal.name(), &format!("no TLS, {by}: {refusal}"), Some((by, refusal)));
    }

    fn report(&self, reason: &'static str, why: &str, tls: Option<(RefusedBy, TlsRefusal)>) {
        if !self.reported.swap(true, Ordering::AcqRel) {
            tracing::warn!(from = %self.remote, why, "connection refused");
            crate::measure::refused(reason);
            self.shared.event(LinkEvent::Refused { from: self.remote, why: why.into(), tls });
        }
    }

    /// Closes the connection once what was sent has had a moment to leave.
    pub(crate) fn close_soon(self: &Arc<Self>) {
        let close = self.close.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            close.cancel();
        });
    }
}

/// A socket that ends when its [`Conn`] says so, when its handshake takes too long, or at the first
/// bytes that are not HTTP/2.
pub(crate) struct Guarded {
    io: Socket,
    conn: Arc<Conn>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    deadline: Pin<Box<Sleep>>,
    /// Bytes of the preface that were seen.
    seen: usize,
    /// Bytes that came before the handshake was over.
    opening: usize,
}

impl Guarded {
    fn new(io: Socket, conn: Arc<Conn>, deadline: Pin<Box<Sleep>>) -> Self {
        let closed = Box::pin(conn.close.clone().cancelled_owned());
        Self { io, conn, closed, deadline, seen: 0, opening: 0 }
    }

    /// Fails once the connection is to end. Looked at before writing too: who reads nothing can keep HTTP/2 from reading.
    fn cut_off(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.closed.as_mut().poll(cx).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if !self.conn.shaken.load(Ordering::Acquire) && self.deadline.as_mut().poll(cx).is_ready() {
            self.conn.refuse_for("handshake_timeout", "it did not finish its handshake in time");
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    fn check_preface(&mut self, bytes: &[u8]) -> io::Result<()> {
        let wanted = &PREFACE[self.seen..];
        let n = wanted.len().min(bytes.len());
        if bytes[..n] != wanted[..n] {
            let why = "what it sends is not HTTP/2";
            if self.seen == 0 && bytes[0] == TLS_HANDSHAKE && self.io.is_plain() {
                let tls = Some((RefusedBy::ThisNode, TlsRefusal::TlsOnly));
                self.conn.report("tls_only", &format!("{why}: it speaks TLS, which is not set at this end"), tls);
            } else {
                self.conn.refuse(why);
            }
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        self.seen += n;
        Ok(())
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.cut_off(cx)?;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        if this.seen < PREFACE.len() && matches!(read, Poll::Ready(Ok(()))) {
            let fresh = buf.filled()[before..].to_vec();
            if let Err(err) = this.check_preface(&fresh) {
                return Poll::Ready(Err(err));
            }
        }
        if !this.conn.shaken.load(Ordering::Acquire) {
            this.opening += buf.filled().len() - before;
            if this.opening > OPENING {
                let why = "it sends too much before its handshake is over";
                this.conn.refuse_for("opening", why);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
            }
        }
        read
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.cut_off(cx)?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cut_off(cx)?;
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
        self.cut_off(cx)?;
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
pub(crate) async fn serve_connections(shared: Arc<Shared>, entrance: Entrance) {
    let config = &shared.config;
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .max_frame_size(1 << 20)
        .max_concurrent_streams(4)
        .http2_keepalive_interval(Some(config.keepalive_interval))
        // Answers may stand before a pong on a slow line: the control lane notices a dead dialler sooner.
        .http2_keepalive_timeout(Some(config.keepalive_timeout * 5));
    let door = Door::new(Arc::clone(&shared), entrance);
    let incoming = futures::stream::unfold(door, |mut door| async move {
        let io = door.next().await?;
        Some((Ok::<_, io::Error>(io), door))
    });
    let service = LinkService::new(Arc::clone(&shared));
    if let Err(err) = server.serve_with_incoming(service, incoming).await {
        tracing::error!(%err, "no more links are taken");
    }
}

/// Where connections come in.
struct Door {
    shared: Arc<Shared>,
    entrance: Entrance,
    /// Those that have shaken hands over TLS. As many as there are connections, which are bounded.
    secured: (mpsc::UnboundedSender<Guarded>, mpsc::UnboundedReceiver<Guarded>),
    /// When it was last logged that somebody was turned away.
    told: Option<Duration>,
    /// How many may be told at once why they are turned away.
    courtesy: Arc<Semaphore>,
}

impl Door {
    fn new(shared: Arc<Shared>, entrance: Entrance) -> Self {
        let courtesy = Arc::new(Semaphore::new(COURTESY));
        Self { shared, entrance, secured: mpsc::unbounded_channel(), told: None, courtesy }
    }

    /// The next connection that may speak HTTP/2; `None` when no further ones are taken.
    async fn next(&mut self) -> Option<Guarded> {
        loop {
            let accepted = tokio::select! {
                () = self.shared.accepting.cancelled() => return None,
                secured = self.secured.1.recv() => return secured,
                accepted = self.entrance.accept() => accepted,
            };
            let (io, remote) = match accepted {
                Ok(accepted) => accepted,
                Err(err) => {
                    // Out of descriptors, or reset before it was taken: others may still get through.
                    tracing::warn!(%err, "cannot take a connection");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let conn = match self.admit(remote) {
                Ok(conn) => conn,
                Err(limit) => {
                    self.turn_away(io, remote, limit);
                    continue;
                }
            };
            let deadline = Box::pin(tokio::time::sleep(self.shared.config.handshake_timeout));
            #[cfg(feature = "tls")]
            if let Some(tls) = self.shared.tls.clone() {
                // Nothing else comes in where TLS is set: see `Remoting::start_over`.
                if let Socket::Plain(io) = io {
                    let secured = self.secured.0.clone();
                    tokio::spawn(secure(tls, io, conn, deadline, secured));
                }
                continue;
            }
            return Some(Guarded::new(io, conn, deadline));
        }
    }

    fn admit(&self, remote: SocketAddr) -> Result<Arc<Conn>, &'static str> {
        let shared = &self.shared;
        let Taken { place, evicted } = shared.places.take(remote.ip(), shared.since_start())?;
        if let Some(evicted) = evicted {
            evicted.evict();
        }
        let conn = Arc::new(Conn {
            shared: Arc::clone(shared),
            remote,
            shaken: AtomicBool::new(false),
            reported: AtomicBool::new(false),
            taken: AtomicBool::new(false),
            close: shared.stop.child_token(),
            #[cfg(feature = "tls")]
            certificate: std::sync::OnceLock::new(),
            place,
        });
        conn.place.is_of(&conn);
        Ok(conn)
    }

    /// No place is free: says so to the log and, where it can, to the dialler.
    fn turn_away(&mut self, io: Socket, remote: SocketAddr, limit: &'static str) {
        let shared = &self.shared;
        crate::measure::refused("connections");
        // A flood of them is one line a second; the metric counts all.
        let now = shared.since_start();
        if self.told.is_none_or(|told| now.saturating_sub(told) >= ONE_LINE) {
            self.told = Some(now);
            tracing::warn!(from = %remote, limit, why = refusal::TOO_MANY, "connection refused");
        }
        shared.event(LinkEvent::Refused {
            from: remote,
            why: format!("{} ({limit})", refusal::TOO_MANY).into(),
            tls: None,
        });
        #[cfg(feature = "tls")]
        if shared.tls.is_some() {
            return;
        }
        let Ok(turn) = Arc::clone(&self.courtesy).try_acquire_owned() else { return };
        tokio::spawn(async move {
            refusal::say_goaway(io, refusal::ENHANCE_YOUR_CALM, refusal::TOO_MANY).await;
            drop(turn);
        });
    }
}

/// Shakes hands over TLS; slow peers keep nobody else waiting.
#[cfg(feature = "tls")]
async fn secure(
    tls: Arc<crate::tls::Tls>,
    io: tokio::net::TcpStream,
    conn: Arc<Conn>,
    mut deadline: Pin<Box<Sleep>>,
    secured: mpsc::UnboundedSender<Guarded>,
) {
    let accepted = tokio::select! {
        () = conn.close.cancelled() => return,
        () = deadline.as_mut() => {
            return conn.refuse_for("handshake_timeout", "it did not finish its TLS handshake in time");
        }
        accepted = crate::tls::accept(&tls, io) => accepted,
    };
    match accepted {
        Ok((io, certificate)) => {
            // Set once, here.
            let _ = conn.certificate.set(certificate);
            // Nobody takes it any more when remoting stops.
            let _ = secured.send(Guarded::new(Socket::Tls(Box::new(io)), conn, deadline));
        }
        Err(crate::tls::Failure::Refused(by, why)) => conn.refuse_tls(by, why),
        Err(crate::tls::Failure::Ended(why)) => conn.refuse(&why),
    }
}
