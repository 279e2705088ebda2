//! Sessions are resumed while nothing changed, and not beyond.

use rustls::HandshakeKind;

use super::{certs::Ca, wrapper};
use crate::support::*;

#[tokio::test]
async fn a_peer_that_is_dialled_again_resumes_its_sessions() {
    let ca = Ca::new();
    let plain = Node::echo(config("dc-2").idle_timeout(std::time::Duration::from_millis(300))).await;
    let (at, kinds) = wrapper::take_off(plain.remoting.local_addr(), wrapper::server(&ca.dc("dc-2"), &ca.pem)).await;
    let here = ca
        .node("dc-1")
        .idle_timeout(std::time::Duration::from_millis(100))
        .keepalive_interval(std::time::Duration::from_millis(50));
    let here = Node::echo(here).await;
    let peer = here.remoting.peer(at);
    assert_eq!(body(peer.pair().ask(message("1"), SOON).await), "1");
    assert_eq!(*kinds.lock(), [HandshakeKind::Full; 3], "nothing to resume yet");
    eventually("the idle link is closed", || peer.identity().is_none()).await;
    assert_eq!(body(peer.pair().ask(message("2"), SOON).await), "2");
    assert_eq!(kinds.lock()[3..], [HandshakeKind::Resumed; 3]);
}

#[tokio::test]
async fn a_node_resumes_sessions_that_it_has_given_tickets_for() {
    let ca = Ca::new();
    let there = Node::echo(ca.node("dc-2")).await;
    let client = wrapper::client(Some(&ca.dc("dc-1")));
    let connect = async || {
        use tokio::io::AsyncReadExt;
        let io = tokio::net::TcpStream::connect(there.remoting.local_addr()).await.expect("connects");
        let name = rustls::pki_types::ServerName::try_from("any.invalid").expect("a name");
        let mut io = tokio_rustls::TlsConnector::from(client.clone()).connect(name, io).await.expect("shakes hands");
        // The tickets come before what HTTP/2 says first.
        io.read_u8().await.expect("it speaks first");
        io.get_ref().1.handshake_kind().expect("done")
    };
    assert_eq!(connect().await, HandshakeKind::Full);
    assert_eq!(connect().await, HandshakeKind::Resumed);
}
