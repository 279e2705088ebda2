//! A TCP proxy that counts requests on the wire, cuts and freezes.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
    task::JoinHandle,
};

/// What the proxy does with what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Open,
    /// Connections are closed as they come, and those that stood were.
    Cut,
    /// Connections stand, and nothing passes.
    Frozen,
    /// The same for this connection alone, counted from 0 as they came.
    FrozenOne(usize),
}

impl Mode {
    fn freezes(self, connection: usize) -> bool {
        self == Self::Frozen || self == Self::FrozenOne(connection)
    }
}

/// What came through each connection.
type Counts = Arc<Mutex<Vec<Arc<AtomicU64>>>>;

/// Stands before one server. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    counts: Counts,
    mode: watch::Sender<Mode>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let counts = Counts::default();
        let (mode, receiver) = watch::channel(Mode::Open);
        let counted = Arc::clone(&counts);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let count = Arc::new(AtomicU64::new(0));
                let number = {
                    let mut counts = counted.lock().expect("no panic while held");
                    counts.push(Arc::clone(&count));
                    counts.len() - 1
                };
                tokio::spawn(serve(client, server, number, count, receiver.clone()));
            }
        });
        Self { address, counts, mode, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Messages that clients published through this proxy so far.
    pub(crate) fn requests(&self) -> u64 {
        self.counts.lock().expect("no panic while held").iter().map(|count| count.load(Ordering::SeqCst)).sum()
    }

    /// The same of one connection, counted from 0 as they came.
    pub(crate) fn requests_of(&self, connection: usize) -> u64 {
        let counts = self.counts.lock().expect("no panic while held");
        counts.get(connection).map_or(0, |count| count.load(Ordering::SeqCst))
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(
    client: TcpStream,
    server: SocketAddr,
    number: usize,
    count: Arc<AtomicU64>,
    mut mode: watch::Receiver<Mode>,
) {
    if *mode.borrow() == Mode::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else { return };
    // Small writes are to pass at once.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut counter = Counter::default();
    let there = pump(from_client, to_server, number, mode.clone(), move |bytes| {
        count.fetch_add(counter.feed(bytes), Ordering::SeqCst);
    });
    let back = pump(from_server, to_client, number, mode.clone(), |_| {});
    tokio::select! {
        () = there => {}
        () = back => {}
        // The other end of the channel goes when the proxy is dropped: that cuts as well.
        _ = mode.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: usize,
    mut mode: watch::Receiver<Mode>,
    mut look: impl FnMut(&[u8]),
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        if mode.wait_for(|mode| !mode.freezes(number)).await.is_err() {
            return;
        }
        look(&buffer[..length]);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// Finds `PUB` and `HPUB` in what a client sends.
#[derive(Debug, Default)]
struct Counter {
    line: Vec<u8>,
    /// Bytes of a payload that are still to come.
    payload: usize,
}

impl Counter {
    fn feed(&mut self, mut bytes: &[u8]) -> u64 {
        let mut found = 0;
        while !bytes.is_empty() {
            let skipped = self.payload.min(bytes.len());
            self.payload -= skipped;
            bytes = &bytes[skipped..];
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                self.line.extend_from_slice(bytes);
                break;
            };
            self.line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let line = String::from_utf8_lossy(&self.line).trim().to_owned();
            self.line.clear();
            if line.starts_with("PUB ") || line.starts_with("HPUB ") {
                found += 1;
                let length: usize = line.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a length");
                self.payload = length + 2;
            }
        }
        found
    }
}

#[test]
fn the_counter_finds_each_message_however_it_is_cut() {
    let wire = b"CONNECT {\"a\":\"PUB \"}\r\nPING\r\nSUB _INBOX.a 1\r\nPUB a.b r 11\r\nPUB x y 3\r\n\r\nHPUB k r 4 9\r\nhead\nPUB \r\nPUB z 0\r\n\r\nPONG\r\n";
    for size in 1..wire.len() {
        let mut counter = Counter::default();
        let found: u64 = wire.chunks(size).map(|chunk| counter.feed(chunk)).sum();
        assert_eq!(found, 3, "in chunks of {size}");
    }
}
