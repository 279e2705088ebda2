//! Peers that mean harm, on threads of their own.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use dc_remoting::proto::{Envelope, LaneKind};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    proxy::{Mode, Proxy},
    raw::{LANE, RawLane, envelopes, hello, tell},
};

/// What HTTP/2 begins with, and empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The beginning of a TLS handshake: a record of 512 bytes, a ClientHello.
#[cfg(feature = "tls")]
const CLIENT_HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What the abuser does, until it is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attack {
    /// 300 connections that say one byte of their handshake every 50 ms, and come again.
    SlowHandshakes,
    /// The same, with TLS.
    #[cfg(feature = "tls")]
    SlowTlsHandshakes,
    /// Four links at a time that fall silent without closing.
    HalfOpen,
    /// 20 times at once: connect, begin, reset.
    Resets,
    /// Four links that ask for 20 MiB and read nothing.
    NeverReads,
    /// Links that begin large messages, and connections that begin large frames: the lengths come, the bytes do not.
    HeadersOnly,
    /// 3000 connections that are kept as long as they are let, from two addresses, and come again after a second.
    Connections,
}

impl Attack {
    pub(crate) const ALL: &[Self] = &[
        Self::SlowHandshakes,
        #[cfg(feature = "tls")]
        Self::SlowTlsHandshakes,
        Self::HalfOpen,
        Self::Resets,
        Self::NeverReads,
        Self::HeadersOnly,
        Self::Connections,
    ];
}

/// The CA of the nodes.
#[cfg(feature = "tls")]
pub(crate) fn ca() -> &'static crate::certs::Ca {
    static CA: std::sync::LazyLock<crate::certs::Ca> = std::sync::LazyLock::new(crate::certs::Ca::new);
    &CA
}

/// An attack under way.
pub(crate) struct Running {
    pub(crate) strikes: Arc<AtomicUsize>,
    stop: CancellationToken,
    thread: thread::JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(attack: Attack, target: SocketAddr) -> Self {
        let (strikes, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let abuser = Abuser { target, strikes: Arc::clone(&strikes) };
        let thread = thread::spawn({
            let stop = stop.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async {
                    tokio::select! { () = stop.cancelled() => {}, () = abuser.run(attack) => {} }
                });
            }
        });
        Self { strikes, stop, thread }
    }

    /// Ends it, with all its connections. What it did, in its own units.
    pub(crate) fn stop(self) -> usize {
        self.stop.cancel();
        self.thread.join().expect("no panic");
        self.strikes.load(Ordering::SeqCst)
    }
}

#[derive(Clone)]
struct Abuser {
    target: SocketAddr,
    strikes: Arc<AtomicUsize>,
}

impl Abuser {
    async fn run(self, attack: Attack) {
        match attack {
            Attack::SlowHandshakes => self.many(300, |abuser, n| abuser.drip(n, PREFACE)).await,
            #[cfg(feature = "tls")]
            Attack::SlowTlsHandshakes => self.many(300, |abuser, n| abuser.drip(n, CLIENT_HELLO)).await,
            Attack::HalfOpen => self.half_open().await,
            Attack::Resets => self.many(20, |abuser, _| abuser.reset()).await,
            Attack::NeverReads => self.never_reads().await,
            Attack::HeadersOnly => self.headers().await,
            Attack::Connections => self.many(3000, |abuser, n| abuser.sit(n)).await,
        }
    }

    fn struck(&self) {
        self.strikes.fetch_add(1, Ordering::SeqCst);
    }

    /// So many at once, each over and over.
    async fn many<F: Future<Output = ()> + Send + 'static>(
        &self,
        count: usize,
        one: impl Fn(Self, usize) -> F + Clone + Send + Sync + 'static,
    ) {
        let mut all = JoinSet::new();
        for n in 0..count {
            let (abuser, one) = (self.clone(), one.clone());
            all.spawn(async move {
                loop {
                    one(abuser.clone(), n).await;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            });
        }
        all.join_all().await;
    }

    /// A connection from one of two further addresses of this host.
    async fn connect(&self, n: usize) -> Option<TcpStream> {
        let socket = TcpSocket::new_v4().expect("a socket");
        let from = [127, 0, 0, 2 + (n % 2) as u8];
        socket.bind((from, 0).into()).ok()?;
        let stream = socket.connect(self.target).await.ok()?;
        self.struck();
        Some(stream)
    }

    async fn drip(self, n: usize, text: &'static [u8]) {
        let Some(mut stream) = self.connect(n).await else { return };
        for byte in text {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        until_closed(stream).await;
    }

    async fn reset(self) {
        let Some(mut stream) = self.connect(0).await else { return };
        let _ = stream.write_all(PREFACE).await;
        let _ = stream.set_zero_linger();
    }

    async fn sit(self, n: usize) {
        if let Some(stream) = self.connect(n).await {
            until_closed(stream).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    async fn half_open(self) {
        for round in 0u128.. {
            let proxy = Proxy::to(self.target).await;
            let mut links = Vec::new();
            for n in 0..4 {
                // Refused while those before are not given up yet.
                links.extend(link(proxy.address, round * 4 + n).await);
            }
            if !links.is_empty() {
                self.struck();
            }
            proxy.set(Mode::BlackHole);
            tokio::time::sleep(Duration::from_secs(3)).await;
            proxy.set(Mode::Cut);
        }
    }

    async fn never_reads(self) {
        let mut links = Vec::new();
        for n in 0..4 {
            links.extend(link(self.target, n).await);
        }
        for n in 1..=640u64 {
            for [_, user, _] in &links {
                let ask = Envelope { correlation: n << 2, left_us: 60_000_000, ..tell(vec![7; 32 << 10]) };
                user.send(&envelopes(vec![ask]));
                self.struck();
            }
            tokio::task::yield_now().await;
        }
        std::future::pending::<()>().await;
    }

    async fn headers(self) {
        let frames = self.clone();
        let frames = frames.many(50, |abuser, n| async move {
            let Some(mut stream) = abuser.connect(n).await else { return };
            // HEADERS of 16 KiB, of which nothing comes.
            let head = [PREFACE, &[0, 0x40, 0, 1, 4, 0, 0, 0, 1]].concat();
            let _ = stream.write_all(&head).await;
            until_closed(stream).await;
        });
        let messages = async {
            let mut links = Vec::new();
            for n in 0..8 {
                links.extend(link(self.target, n).await);
            }
            for [_, _, bulk] in &links {
                // All that the window holds.
                for transfer in 1..=3 {
                    bulk.send(&envelopes(vec![Envelope {
                        total: 16 << 20,
                        transfer,
                        ..tell(Bytes::from_static(b"x"))
                    }]));
                    self.struck();
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::join!(frames, messages);
    }
}

/// A link with all lanes, unless it is refused.
async fn link(to: SocketAddr, number: u128) -> Option<[RawLane; 3]> {
    let mut lanes = Vec::new();
    for kind in [LaneKind::Control, LaneKind::User, LaneKind::Bulk] {
        lanes.push(RawLane::open(to, LANE, hello(number, kind).encode_to_vec().into()).await.ok()?);
    }
    lanes.try_into().ok()
}

async fn until_closed(mut stream: TcpStream) {
    let mut rest = [0; 256];
    while matches!(stream.read(&mut rest).await, Ok(1..)) {}
}
