//! A TCP proxy before a node, that can keep back what others send there.

use std::net::SocketAddr;

use dc_actor::{ActorSystem, ActorSystemBuilder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Ends with the runtime of its test.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    open: watch::Sender<bool>,
}

impl Proxy {
    /// Starts a node that others reach by way of a proxy only; `open` as in [`open`](Self::open).
    pub(crate) async fn and_node(builder: ActorSystemBuilder, open: bool) -> (ActorSystem, Self) {
        // A free port, as the proxy must know it before the node starts.
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let address = free.expect("a free port");
        let way = Self::before(address).await;
        way.open(open);
        let node = builder.listen(address).advertise(way.address).start().await.expect("starts");
        (node, way)
    }

    async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (open, gate) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                tokio::spawn(carry(from, server, gate.clone()));
            }
        });
        Self { address, open }
    }

    /// Whether what is sent to the node arrives there, or waits. What the node answers arrives.
    pub(crate) fn open(&self, open: bool) {
        self.open.send_replace(open);
    }
}

async fn carry(from: TcpStream, server: SocketAddr, mut gate: watch::Receiver<bool>) {
    let Ok(to) = TcpStream::connect(server).await else { return };
    let ((mut asks, mut answered), (mut answers, mut asked)) = (from.into_split(), to.into_split());
    tokio::spawn(async move { tokio::io::copy(&mut answers, &mut answered).await });
    let mut some = vec![0; 65_536];
    while let Ok(read @ 1..) = asks.read(&mut some).await {
        if gate.wait_for(|open| *open).await.is_err() || asked.write_all(&some[..read]).await.is_err() {
            return;
        }
    }
}
