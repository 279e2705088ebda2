//! Links over something else than TCP.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use dc_core::Endpoint;
use dc_remoting::{Connection, LinkError, Listener, Network};
use parking_lot::Mutex;
use tokio::{io::DuplexStream, sync::mpsc};

use crate::support::*;

type Waiting = mpsc::UnboundedSender<DuplexStream>;

/// Pipes in memory.
#[derive(Clone, Debug, Default)]
struct Pipes(Arc<Mutex<HashMap<SocketAddr, Waiting>>>);

struct Mouth(SocketAddr, mpsc::UnboundedReceiver<DuplexStream>);

#[async_trait]
impl Network for Pipes {
    async fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        let (waiting, taken) = mpsc::unbounded_channel();
        self.0.lock().insert(address, waiting);
        Ok(Box::new(Mouth(address, taken)))
    }

    async fn connect(&self, to: &Endpoint) -> io::Result<Box<dyn Connection>> {
        let (here, there) = tokio::io::duplex(64 << 10);
        let address = to.socket_addr().ok_or(io::ErrorKind::InvalidInput)?;
        let sent = self.0.lock().get(&address).map(|waiting| waiting.send(there));
        match sent {
            Some(Ok(())) => Ok(Box::new(here)),
            _ => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

#[async_trait]
impl Listener for Mouth {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0)
    }

    async fn accept(&mut self) -> io::Result<(Box<dyn Connection>, SocketAddr)> {
        let stream = self.1.recv().await.ok_or(io::ErrorKind::NotConnected)?;
        Ok((Box::new(stream), "10.0.0.1:1".parse().expect("legal")))
    }
}

fn at(address: &str) -> SocketAddr {
    address.parse().expect("legal")
}

#[tokio::test]
async fn links_go_over_another_network_than_tcp() {
    let pipes = Pipes::default();
    let there = Node::start_over(pipes.clone(), config("dc-2").listen(at("10.0.0.2:7946")), echo).await;
    let here = Node::start_over(pipes, config("dc-1").listen(at("10.0.0.1:7946")), echo).await;
    let pair = here.remoting.peer(there.target()).pair();
    assert_eq!(body(pair.ask(message("hello"), SOON).await), "hello");
    let large = vec![7; 1 << 20];
    assert_eq!(body(pair.ask(message(large.clone()), SOON).await), large, "over the bulk lane");
    let nobody: Endpoint = "10.0.0.3:7946".parse().expect("legal");
    let lost = here.remoting.peer(nobody).pair().ask(message("hello"), SOON).await;
    assert!(matches!(lost, Err(LinkError::Unreachable { .. })), "{lost:?}");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn r9_tls_is_refused_over_another_network() {
    let node = crate::tls::certs::Ca::new().node("dc-1");
    let config = node.listen(at("10.0.0.1:7946")).build().expect("legal");
    use dc_remoting::{Remoting, Services};
    let clock = Arc::new(dc_core::SystemClock);
    let started = Remoting::start_over(Arc::new(Pipes::default()), config, clock, Services::new()).await;
    let error = started.err().expect("nothing would be encrypted");
    assert!(error.to_string().contains("another network"), "{error}");
}
