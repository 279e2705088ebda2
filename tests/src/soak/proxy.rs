//! What stands before each node: links (TCP) and gossip (UDP) of every pair of nodes pass one of these, and can be cut,
//! black-holed, delayed or made to lose something pair by pair, without privileges. It also sees when a link begins and ends.
//!
//! Who dials is found out from the operating system: the process that owns the other end of the connection.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use super::clock::{SECOND, now_us};
use crate::{
    distance::{Distance, Transit},
    proxy::Line,
    rng::Rng,
};

/// A position that stands for "nobody knows who".
const UNKNOWN: usize = usize::MAX;

/// How far back link changes are remembered.
const MEMORY: u64 = 120 * SECOND;

/// What happens between two nodes, in the direction of dialling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Whether bytes pass.
    pub line: Line,
    /// How far from each other they are.
    pub distance: Distance,
}

const OPEN: Way = Way { line: Line::Open, distance: Distance::NEAR };

/// The network of a soak: who reaches whom, and which links came and went.
#[derive(Debug)]
pub struct Network {
    ways: watch::Sender<Arc<Vec<Vec<Way>>>>,
    pids: Arc<[AtomicU32]>,
    finder: std::sync::mpsc::Sender<Wanted>,
    real: Vec<SocketAddr>,
    changes: Mutex<HashMap<(usize, usize), VecDeque<u64>>>,
    passed: AtomicU64,
    /// Draws what is lost.
    rng: Mutex<Rng>,
}

impl Network {
    /// A network between nodes that listen at these addresses; all ways open.
    pub fn new(real: Vec<SocketAddr>) -> Arc<Self> {
        Self::with_seed(real, 0)
    }

    /// As [`new`](Self::new); what is lost follows from `seed`.
    pub fn with_seed(real: Vec<SocketAddr>, seed: u64) -> Arc<Self> {
        let nodes = real.len();
        let pids: Arc<[AtomicU32]> = (0..nodes).map(|_| AtomicU32::new(0)).collect();
        let (finder, wanted) = std::sync::mpsc::channel();
        let known = pids.clone();
        std::thread::spawn(move || find_diallers(&wanted, &known));
        Arc::new(Self {
            ways: watch::Sender::new(Arc::new(vec![vec![OPEN; nodes]; nodes])),
            pids,
            finder,
            real,
            changes: Mutex::default(),
            passed: AtomicU64::new(0),
            rng: Mutex::new(Rng::new(seed)),
        })
    }

    /// The two directions of a new connection.
    fn transits(&self) -> [Transit; 2] {
        let mut rng = self.rng.lock();
        [Transit::new(rng.draw()), Transit::new(rng.draw())]
    }

    /// Which process is the node at this place now.
    pub fn set_pid(&self, slot: usize, pid: u32) {
        self.pids[slot].store(pid, Ordering::Relaxed);
    }

    /// Changes the ways from each of `from` to each of `to`, and back.
    pub fn set(&self, from: &[usize], to: &[usize], way: Way) {
        self.ways.send_modify(|ways| {
            let ways = Arc::make_mut(ways);
            for (&a, &b) in from.iter().flat_map(|a| to.iter().map(move |b| (a, b))) {
                if a != b {
                    (ways[a][b], ways[b][a]) = (way, way);
                }
            }
        });
    }

    /// Opens every way, without delay.
    pub fn open_all(&self) {
        self.ways.send_modify(|ways| Arc::make_mut(ways).iter_mut().for_each(|row| row.fill(OPEN)));
    }

    /// Whether a link from one to the other began or ended between two times.
    pub fn changed(&self, from: usize, to: usize, begin_us: u64, end_us: u64) -> bool {
        let changes = self.changes.lock();
        let within =
            |pair| changes.get(&pair).is_some_and(|times| times.iter().any(|time| (begin_us..=end_us).contains(time)));
        within((from, to)) || within((UNKNOWN, to))
    }

    /// Bytes that passed so far, links only.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    fn note(&self, from: usize, to: usize) {
        let now = now_us();
        let mut changes = self.changes.lock();
        let times = changes.entry((from, to)).or_default();
        while times.front().is_some_and(|time| time + MEMORY < now) {
            times.pop_front();
        }
        times.push_back(now);
    }

    /// The node at the other end of a connection, if it is one.
    async fn dialler(&self, peer: SocketAddr, proxy: SocketAddr) -> usize {
        let (answer, answered) = oneshot::channel();
        // The finder ends with the network.
        let _ = self.finder.send((peer, proxy, answer));
        answered.await.unwrap_or(UNKNOWN)
    }
}

/// A connection whose dialler is wanted: its two addresses, and whom to tell.
type Wanted = (SocketAddr, SocketAddr, oneshot::Sender<usize>);

/// Finds out who dials, for all connections that wait at a time together: after a cut, dozens come at once.
fn find_diallers(wanted: &std::sync::mpsc::Receiver<Wanted>, pids: &[AtomicU32]) {
    while let Ok(first) = wanted.recv() {
        let all: Vec<Wanted> = std::iter::once(first).chain(wanted.try_iter()).collect();
        let sockets = sockets();
        let owners = owners(pids);
        for (peer, proxy, answer) in all {
            let owner = sockets.get(&(hex(peer), hex(proxy))).and_then(|inode| owners.get(inode));
            // The connection may have ended meanwhile.
            let _ = answer.send(owner.copied().unwrap_or(UNKNOWN));
        }
    }
}

/// The kernel's numbers of all TCP sockets, by their two addresses.
fn sockets() -> HashMap<(String, String), u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let socket = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        Some(((words.get(1)?.to_string(), words.get(2)?.to_string()), words.get(9)?.parse().ok()?))
    };
    table.lines().filter_map(socket).collect()
}

/// Which node has which socket.
fn owners(pids: &[AtomicU32]) -> HashMap<u64, usize> {
    let mut owners = HashMap::new();
    for (slot, pid) in pids.iter().enumerate() {
        let files = std::fs::read_dir(format!("/proc/{}/fd", pid.load(Ordering::Relaxed)));
        for file in files.into_iter().flatten().flatten() {
            let Ok(to) = std::fs::read_link(file.path()) else { continue };
            let inode = to.to_str().and_then(|to| to.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            owners.extend(inode.map(|inode: u64| (inode, slot)));
        }
    }
    owners
}

/// An address as the kernel's table spells it.
fn hex(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port()),
        SocketAddr::V6(_) => String::new(),
    }
}

/// The proxy before one node. Dropping it cuts everything.
#[derive(Debug)]
pub struct NodeProxy {
    /// What the node advertises.
    pub addr: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

impl NodeProxy {
    /// Stands before the node at `slot`.
    ///
    /// # Errors
    ///
    /// No port is free for both TCP and UDP.
    pub async fn start(network: &Arc<Network>, slot: usize) -> std::io::Result<Self> {
        let (tcp, udp) = bind_both().await?;
        let addr = tcp.local_addr()?;
        let links = tokio::spawn(accept(tcp, addr, slot, network.clone()));
        let gossip = tokio::spawn(relay(Arc::new(udp), slot, network.clone()));
        Ok(Self { addr, tasks: vec![links, gossip] })
    }
}

impl Drop for NodeProxy {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// One port for both.
async fn bind_both() -> std::io::Result<(TcpListener, UdpSocket)> {
    let mut last = None;
    for _ in 0..64 {
        let tcp = TcpListener::bind("127.0.0.1:0").await?;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((tcp, udp)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::Error::other("no port")))
}

async fn accept(listener: TcpListener, addr: SocketAddr, slot: usize, network: Arc<Network>) {
    // Aborted, it takes its connections along.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, peer)) = accepted else { continue };
                connections.spawn(forward(client, peer, addr, slot, network.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn forward(client: TcpStream, peer: SocketAddr, addr: SocketAddr, slot: usize, network: Arc<Network>) {
    let from = network.dialler(peer, addr).await;
    let way = move |ways: &Arc<Vec<Vec<Way>>>| ways.get(from).map_or(OPEN, |row| row[slot]);
    let mut ways = network.ways.subscribe();
    network.note(from, slot);
    if way(&ways.borrow()).line == Line::Cut {
        return;
    }
    let [mut there, back] = network.transits();
    let distance = way(&ways.borrow()).distance;
    if distance != Distance::NEAR {
        tokio::time::sleep(there.handshake(distance)).await;
    }
    let Ok(server) = TcpStream::connect(network.real[slot]).await else { return };
    // Without it small messages wait for acknowledgements.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let current = {
        let ways = ways.clone();
        move || way(&ways.borrow())
    };
    tokio::select! {
        () = pump(client_in, server_out, current.clone(), there, &network) => {}
        () = pump(server_in, client_out, current, back, &network) => {}
        _ = ways.wait_for(|ways| way(ways).line == Line::Cut) => {}
    }
    network.note(from, slot);
}

/// Reads as fast as bytes come, up to a bound, and writes each chunk at its time: the delay costs no throughput.
async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    way: impl Fn() -> Way,
    mut transit: Transit,
    network: &Network,
) {
    let (queue, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(64);
    let read = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            #[expect(clippy::disallowed_methods, reason = "the proxy is a clock of its own")]
            let now = Instant::now();
            let at = transit.arrival(now, read, way().distance);
            if queue.send((at, buffer[..read].to_vec())).await.is_err() {
                return;
            }
        }
        drop(queue);
    };
    let write = async {
        while let Some((at, chunk)) = due.recv().await {
            if way().distance != Distance::NEAR {
                tokio::time::sleep_until(at).await;
            }
            network.passed.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if way().line == Line::BlackHole {
                // What is lost inside a stream is never made good: the stream stays silent from here on.
                std::future::pending::<()>().await;
            }
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
    };
    // Whichever direction ends first ends the connection.
    tokio::select! {
        () = write => {}
        () = async { read.await; std::future::pending().await } => {}
    }
}

/// Passes datagrams on, each sender through a socket of its own, so that answers find their way back.
async fn relay(outer: Arc<UdpSocket>, slot: usize, network: Arc<Network>) {
    let mut inner: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut answers = JoinSet::new();
    let mut rng = Rng::new(network.rng.lock().draw());
    let mut buffer = vec![0; 4096];
    loop {
        let Ok((length, peer)) = outer.recv_from(&mut buffer).await else { continue };
        let from = network.real.iter().position(|real| *real == peer);
        let way = from.map_or(OPEN, |from| network.ways.borrow()[from][slot]);
        if way.line != Line::Open {
            continue;
        }
        let socket = match inner.get(&peer) {
            Some(socket) => socket.clone(),
            None => {
                let Ok(socket) = UdpSocket::bind("127.0.0.1:0").await else { continue };
                if socket.connect(network.real[slot]).await.is_err() {
                    continue;
                }
                let socket = Arc::new(socket);
                answers.spawn(answer(socket.clone(), outer.clone(), peer));
                inner.insert(peer, socket.clone());
                socket
            }
        };
        if rng.range(0..1_000) < u64::from(way.distance.lost_per_mille) {
            continue;
        }
        let datagram = buffer[..length].to_vec();
        if way.distance.one_way.is_zero() {
            // A node that is down takes none; gossip lives with loss.
            let _ = socket.send(&datagram).await;
        } else {
            answers.spawn(async move {
                tokio::time::sleep(way.distance.one_way).await;
                let _ = socket.send(&datagram).await;
            });
            while answers.try_join_next().is_some() {}
        }
    }
}

async fn answer(inner: Arc<UdpSocket>, outer: Arc<UdpSocket>, peer: SocketAddr) {
    let mut buffer = vec![0; 4096];
    loop {
        match inner.recv(&mut buffer).await {
            Ok(length) => drop(outer.send_to(&buffer[..length], peer).await),
            // Sockets report here that the node is down.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_link_is_known_by_its_dialler_and_cut_for_it_alone() {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let network = Network::new(vec![server.local_addr().expect("bound"); 2]);
        let proxy = NodeProxy::start(&network, 1).await.expect("started");
        network.set_pid(0, std::process::id());
        let begin = now_us();

        let mut client = TcpStream::connect(proxy.addr).await.expect("connected");
        let (mut taken, _) = server.accept().await.expect("forwarded");
        client.write_all(b"hello").await.expect("written");
        let mut five = [0; 5];
        taken.read_exact(&mut five).await.expect("read");
        assert_eq!(&five, b"hello");
        assert!(network.changed(0, 1, begin, now_us()), "it was seen to begin");
        let standing = now_us();
        assert!(!network.changed(0, 1, standing, now_us()), "and stands");

        network.set(&[0], &[1], Way { line: Line::Cut, ..OPEN });
        assert_eq!(taken.read(&mut five).await.unwrap_or(0), 0, "cut");
        crate::eventually("its end to be noted", Duration::from_secs(5), || async {
            if network.changed(0, 1, standing, now_us()) { Ok(()) } else { Err("not yet".into()) }
        })
        .await
        .expect("noted");
        assert!(!network.changed(1, 0, begin, now_us()), "nobody dialled the other way");
    }
}
