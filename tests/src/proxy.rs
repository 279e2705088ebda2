//! A TCP proxy that delays, loses, black-holes and cuts: what `tc netem` would do.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    distance::{Distance, Transit},
    rng::Rng,
};

/// What happens to connections through a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Bytes pass.
    Open,
    /// Bytes are taken and never delivered.
    BlackHole,
    /// What the client says passes; what the server answers is taken and never delivered.
    Unanswered,
    /// Connections are reset, new ones too.
    Cut,
}

/// A proxy in front of one address. Dropping it cuts everything.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    line: watch::Sender<Line>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on loopback and forwards to `target`.
    ///
    /// # Errors
    ///
    /// No port can be bound.
    pub async fn start(target: SocketAddr) -> std::io::Result<Self> {
        Self::far(target, Distance::NEAR, 0).await
    }

    /// As [`start`](Self::start), this far from `target`; what is lost on the way follows from `seed`.
    ///
    /// # Errors
    ///
    /// No port can be bound.
    pub async fn far(target: SocketAddr, way: Distance, seed: u64) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let (line, watched) = watch::channel(Line::Open);
        let task = tokio::spawn(accept(listener, target, watched, way, Rng::new(seed)));
        Ok(Self { addr, line, task })
    }

    /// Where to connect instead.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes what happens to connections.
    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.line.send_replace(Line::Cut);
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, line: watch::Receiver<Line>, way: Distance, mut rng: Rng) {
    while let Ok((client, _)) = listener.accept().await {
        if *line.borrow() == Line::Cut {
            continue;
        }
        tokio::spawn(forward(client, target, line.clone(), way, [rng.draw(), rng.draw()]));
    }
}

async fn forward(
    client: TcpStream,
    target: SocketAddr,
    mut line: watch::Receiver<Line>,
    way: Distance,
    [there, back]: [u64; 2],
) {
    let (mut there, back) = (Transit::new(there), Transit::new(back));
    if way != Distance::NEAR {
        tokio::time::sleep(there.handshake(way)).await;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    // Without it small messages wait for acknowledgements.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    tokio::select! {
        () = pump(client_in, server_out, line.clone(), (there, way), &[Line::BlackHole]) => {}
        () = pump(server_in, client_out, line.clone(), (back, way), &[Line::BlackHole, Line::Unanswered]) => {}
        _ = line.wait_for(|line| *line == Line::Cut) => {}
    }
}

/// Reads as fast as bytes come, writes each chunk at its time: the delay costs no throughput. What comes while the line
/// is one of `silent` goes nowhere.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    line: watch::Receiver<Line>,
    (mut transit, way): (Transit, Distance),
    silent: &[Line],
) {
    let (queue, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let read = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            #[expect(clippy::disallowed_methods, reason = "the proxy is a clock of its own")]
            let now = Instant::now();
            let at = transit.arrival(now, read, way);
            if queue.send((at, buffer[..read].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((at, chunk)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            if silent.contains(&line.borrow()) {
                continue;
            }
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}
