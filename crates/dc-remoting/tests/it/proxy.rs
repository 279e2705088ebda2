//! A TCP proxy that can go deaf, slow down or cut.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dc_core::Endpoint;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// What the proxy does with bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Pass,
    /// Connections stay open, nothing passes.
    BlackHole,
    /// Connections are closed, new ones too.
    Cut,
    /// Each direction of each connection passes this many bytes per 5 ms.
    Slow(usize),
}

/// Stands between a dialler and a node.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    mode: Arc<watch::Sender<Mode>>,
    pub(crate) connections: Arc<AtomicUsize>,
}

impl Proxy {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let mode = Arc::new(watch::Sender::new(Mode::Pass));
        let connections = Arc::new(AtomicUsize::new(0));
        tokio::spawn({
            let (mode, connections) = (Arc::clone(&mode), Arc::clone(&connections));
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    connections.fetch_add(1, Ordering::SeqCst);
                    if *mode.borrow() != Mode::Cut {
                        tokio::spawn(carry(client, target, mode.subscribe()));
                    }
                }
            }
        });
        Self { address, mode, connections }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        self.address.into()
    }
}

async fn carry(client: TcpStream, target: SocketAddr, mut mode: watch::Receiver<Mode>) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    client.set_nodelay(true).expect("nodelay");
    server.set_nodelay(true).expect("nodelay");
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let there = pump(client_read, server_write, mode.clone());
    let back = pump(server_read, client_write, mode.clone());
    tokio::select! {
        () = there => {}
        () = back => {}
        _ = mode.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
) {
    let mut buf = vec![0; 64 << 10];
    loop {
        // In a black hole nothing is read either, so that buffers fill as they would.
        let Ok(now) = mode.wait_for(|mode| *mode != Mode::BlackHole).await.map(|mode| *mode) else { return };
        let most = if let Mode::Slow(bytes) = now { bytes.min(buf.len()) } else { buf.len() };
        let n = tokio::select! {
            n = from.read(&mut buf[..most]) => n,
            _ = mode.changed() => continue,
        };
        let Ok(n @ 1..) = n else { return };
        if to.write_all(&buf[..n]).await.is_err() {
            return;
        }
        if matches!(now, Mode::Slow(_)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
