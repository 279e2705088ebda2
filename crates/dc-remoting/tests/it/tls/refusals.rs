//! Each wrong peer is refused before its first message, and both ends say why.

use dc_core::{DataCenterId, Endpoint};
use dc_remoting::{LinkError, LinkEvent, PeerTarget, RefusedBy, RemotingConfigBuilder, TlsRefusal};
use tokio::sync::broadcast;

use super::{
    certs::{Ca, EXPIRED, FUTURE, Issued, VALID},
    wrapper,
};
use crate::support::*;

/// What the end that was dialled said.
async fn event(events: &mut broadcast::Receiver<LinkEvent>) -> (RefusedBy, TlsRefusal) {
    let waited = async {
        loop {
            if let LinkEvent::Refused { tls: Some(tls), why, .. } = events.recv().await.expect("open") {
                assert!(why.contains(&tls.1.to_string()) || why.contains("TLS"), "{why}");
                return tls;
            }
        }
    };
    tokio::time::timeout(SOON, waited).await.expect("R9: the dialled end tells")
}

/// What an ask from one node to the other ends in, at either end.
async fn refused(
    here: RemotingConfigBuilder,
    there: RemotingConfigBuilder,
) -> ((RefusedBy, TlsRefusal), (RefusedBy, TlsRefusal)) {
    let there = Node::start(there, |_| panic!("R9: a message of a refused peer was taken")).await;
    let here = Node::echo(here).await;
    let mut events = there.remoting.events();
    let dialler = tls_error(&here, there.target()).await;
    (dialler, event(&mut events).await)
}

async fn tls_error(here: &Node, target: PeerTarget) -> (RefusedBy, TlsRefusal) {
    let err = here.remoting.peer(target).pair().ask(message("x"), SOON).await.expect_err("R9: refused");
    assert!(err.certainly_not_run(), "{err:?}");
    let LinkError::Tls { by, why, .. } = err else { panic!("R9: got {err:?}") };
    (by, why)
}

fn node(dc: &str, certificate: &Issued, ca: &str) -> RemotingConfigBuilder {
    config(dc).tls(certificate.tls(ca))
}

#[tokio::test]
async fn r9_nodes_of_one_ca_talk_whichever_dials() {
    let ca = Ca::new();
    let (one, two) = (Node::echo(ca.node("dc-1")).await, Node::echo(ca.node("dc-2")).await);
    for (here, there) in [(&one, &two), (&two, &one)] {
        let peer = here.remoting.peer(there.target());
        assert_eq!(body(peer.pair().ask(message("hello"), SOON).await), "hello");
        // Over the other lanes: large over bulk, calls over control.
        let large = vec![7; 1 << 20];
        assert_eq!(body(peer.pair().ask(message(large.clone()), SOON).await), large);
        assert_eq!(peer.call(ECHO, "call".into(), SOON).await.expect("answered"), "call");
    }
}

#[tokio::test]
async fn r9_an_expired_certificate_is_refused() {
    let ca = Ca::new();
    let expired = |dc: &str| ca.issue(&[&format!("multidc://app/{dc}")], EXPIRED);
    let (dialler, dialled) = refused(node("dc-1", &expired("dc-1"), &ca.pem), ca.node("dc-2")).await;
    assert!(matches!(dialler, (RefusedBy::Peer, TlsRefusal::Expired { not_after: Some(_) })), "{dialler:?}");
    assert!(matches!(dialled, (RefusedBy::ThisNode, TlsRefusal::Expired { .. })), "{dialled:?}");

    let (dialler, dialled) = refused(ca.node("dc-1"), node("dc-2", &expired("dc-2"), &ca.pem)).await;
    assert!(matches!(dialler, (RefusedBy::ThisNode, TlsRefusal::Expired { not_after: Some(_) })), "{dialler:?}");
    assert!(matches!(dialled, (RefusedBy::Peer, TlsRefusal::Expired { .. })), "{dialled:?}");
}

#[tokio::test]
async fn r9_a_certificate_that_is_not_valid_yet_is_refused() {
    let ca = Ca::new();
    let future = |dc: &str| ca.issue(&[&format!("multidc://app/{dc}")], FUTURE);
    let (dialler, dialled) = refused(node("dc-1", &future("dc-1"), &ca.pem), ca.node("dc-2")).await;
    assert!(matches!(dialler, (RefusedBy::Peer, TlsRefusal::NotYetValid { not_before: Some(_) })), "{dialler:?}");
    assert!(matches!(dialled, (RefusedBy::ThisNode, TlsRefusal::NotYetValid { .. })), "{dialled:?}");

    let (dialler, dialled) = refused(ca.node("dc-1"), node("dc-2", &future("dc-2"), &ca.pem)).await;
    assert!(matches!(dialler, (RefusedBy::ThisNode, TlsRefusal::NotYetValid { .. })), "{dialler:?}");
    assert!(matches!(dialled, (RefusedBy::Peer, TlsRefusal::NotYetValid { .. })), "{dialled:?}");
}

#[tokio::test]
async fn r9_a_certificate_of_a_wrong_ca_is_refused() {
    // Both CAs bear the same name: only the key tells them apart.
    let (ca, other) = (Ca::new(), Ca::new());
    let both = format!("{}{}", ca.pem, other.pem);
    let stranger = |dc: &str| other.issue(&[&format!("multidc://app/{dc}")], VALID);
    let (dialler, dialled) = refused(node("dc-1", &stranger("dc-1"), &both), ca.node("dc-2")).await;
    assert_eq!(dialler, (RefusedBy::Peer, TlsRefusal::UnknownCa));
    assert_eq!(dialled, (RefusedBy::ThisNode, TlsRefusal::UnknownCa));

    let (dialler, dialled) = refused(ca.node("dc-1"), node("dc-2", &stranger("dc-2"), &both)).await;
    assert_eq!(dialler, (RefusedBy::ThisNode, TlsRefusal::UnknownCa));
    assert_eq!(dialled, (RefusedBy::Peer, TlsRefusal::UnknownCa));
}

#[tokio::test]
async fn r9_a_certificate_of_another_system_is_refused() {
    let ca = Ca::new();
    let dc = dc_core::DataCenter::new("dc-1").build().expect("legal");
    let other = dc_remoting::RemotingConfig::builder(system("other"), dc.id().clone(), dc_core::NodeId(5))
        .tls(ca.issue(&["multidc://other/dc-1"], VALID).tls(&ca.pem));
    let (dialler, dialled) = refused(other, ca.node("dc-2")).await;
    let wrong = TlsRefusal::WrongSystem { found: "app".into(), wanted: "other".into() };
    assert_eq!(dialler, (RefusedBy::ThisNode, wrong));
    assert_eq!(dialled, (RefusedBy::Peer, TlsRefusal::Identity));
}

/// A node without TLS whose connections show a certificate that it has no right to.
async fn impostor(certificate: Option<&Issued>) -> ((RefusedBy, TlsRefusal), LinkError) {
    let ca = Ca::new();
    impostor_at(&ca, certificate).await
}

async fn impostor_at(ca: &Ca, certificate: Option<&Issued>) -> ((RefusedBy, TlsRefusal), LinkError) {
    let there = Node::start(ca.node("dc-2"), |_| panic!("R9: a message of a refused peer was taken")).await;
    let mut events = there.remoting.events();
    let here = Node::echo(config("dc-1")).await;
    let at = wrapper::put_on(there.remoting.local_addr(), wrapper::client(certificate)).await;
    let err = here.remoting.peer(at).pair().ask(message("x"), SOON).await.expect_err("R9: refused");
    assert!(err.certainly_not_run(), "{err:?}");
    (event(&mut events).await, err)
}

#[tokio::test]
async fn r9_no_certificate_is_refused() {
    let (dialled, _) = impostor(None).await;
    assert_eq!(dialled, (RefusedBy::ThisNode, TlsRefusal::NoCertificate));
}

#[tokio::test]
async fn r9_a_certificate_of_one_datacenter_cannot_speak_as_another() {
    let ca = Ca::new();
    let (dialled, err) = impostor_at(&ca, Some(&ca.dc("dc-3"))).await;
    let id = |id: &str| id.parse::<DataCenterId>().expect("legal");
    let wrong = TlsRefusal::WrongDataCenter { certified: id("dc-3"), claimed: id("dc-1") };
    assert_eq!(dialled, (RefusedBy::ThisNode, wrong.clone()));
    let LinkError::Tls { by: RefusedBy::Peer, why: TlsRefusal::Failed { why }, .. } = &err else { panic!("{err:?}") };
    assert_eq!(**why, wrong.to_string());

    // And the other way round: who answers says dc-2, its certificate dc-3.
    let plain = Node::start(config("dc-2"), |_| panic!("R9: a message was sent to an impostor")).await;
    let (at, _) = wrapper::take_off(plain.remoting.local_addr(), wrapper::server(&ca.dc("dc-3"), &ca.pem)).await;
    let here = Node::echo(ca.node("dc-1")).await;
    let wrong = TlsRefusal::WrongDataCenter { certified: id("dc-3"), claimed: id("dc-2") };
    assert_eq!(tls_error(&here, at.into()).await, (RefusedBy::ThisNode, wrong));
}

#[tokio::test]
async fn r9_a_certificate_of_one_node_cannot_speak_as_another() {
    let ca = Ca::new();
    let elsewhere = ca.issue(&["multidc://app/dc-1?node=127.0.0.1:1"], VALID);
    let (dialled, _) = impostor_at(&ca, Some(&elsewhere)).await;
    assert!(matches!(dialled, (RefusedBy::ThisNode, TlsRefusal::WrongNode { .. })), "{dialled:?}");

    let plain = Node::start(config("dc-1"), |_| panic!("R9: a message was sent to an impostor")).await;
    let (at, _) = wrapper::take_off(plain.remoting.local_addr(), wrapper::server(&elsewhere, &ca.pem)).await;
    let here = Node::echo(ca.node("dc-2")).await;
    let dialler = tls_error(&here, at.into()).await;
    assert!(matches!(dialler, (RefusedBy::ThisNode, TlsRefusal::WrongNode { .. })), "{dialler:?}");
}

#[tokio::test]
async fn r9_a_certificate_of_the_system_that_names_nobody_is_refused() {
    let ca = Ca::new();
    for uris in [&[][..], &["spiffe://app/dc-1"], &["multidc://app/dc-1", "multidc://app/dc-2"]] {
        let (dialled, _) = impostor_at(&ca, Some(&ca.issue(uris, VALID))).await;
        assert!(matches!(dialled, (RefusedBy::ThisNode, TlsRefusal::NoName { .. })), "{dialled:?}");
    }
}

#[tokio::test]
async fn r9_the_dialler_wants_its_peer_in_the_datacenter_that_it_dials() {
    let ca = Ca::new();
    let there = Node::start(ca.node("dc-2"), |_| panic!("R9: a message reached another datacenter")).await;
    let here = Node::echo(ca.node("dc-1")).await;
    let target = PeerTarget { dc: Some("dc-3".parse().expect("legal")), node: None, ..there.target() };
    let err = here.remoting.peer(target).pair().ask(message("x"), SOON).await.expect_err("refused");
    assert!(matches!(&err, LinkError::WrongPeer { found_dc, .. } if found_dc.as_str() == "dc-2"), "{err:?}");
}

#[tokio::test]
async fn r9_plain_text_meets_tls_and_both_say_so() {
    let ca = Ca::new();
    let (dialler, dialled) = refused(config("dc-1"), ca.node("dc-2")).await;
    assert_eq!(dialler, (RefusedBy::Peer, TlsRefusal::TlsOnly));
    assert_eq!(dialled, (RefusedBy::ThisNode, TlsRefusal::PlainText));

    let (dialler, dialled) = refused(ca.node("dc-1"), config("dc-2")).await;
    assert_eq!(dialler, (RefusedBy::ThisNode, TlsRefusal::PlainText));
    assert_eq!(dialled, (RefusedBy::ThisNode, TlsRefusal::TlsOnly));
}

#[tokio::test]
async fn r9_garbage_instead_of_tls_is_cut_off() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let ca = Ca::new();
    let there = Node::echo(ca.node("dc-2").handshake_timeout(std::time::Duration::from_millis(300))).await;
    let mut events = there.remoting.events();
    // Nothing at all and half a record end by time; other bytes at once.
    for said in [&b""[..], &[0x16, 3, 1], &[0x16, 3, 1, 0, 4, 9, 9, 9, 9], b"GET / HTTP/1.1\r\n\r\n", &[0; 1000]] {
        let mut stream = tokio::net::TcpStream::connect(there.remoting.local_addr()).await.expect("connects");
        let _ = stream.write_all(said).await;
        let mut rest = Vec::new();
        let read = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await.expect("R8: closed");
        assert!(read.is_err() || rest.len() < 100, "{rest:?}");
        let refused = async { while !matches!(events.recv().await, Ok(LinkEvent::Refused { .. })) {} };
        tokio::time::timeout(SOON, refused).await.expect("R8: told");
    }
    let here = Node::echo(ca.node("dc-1")).await;
    assert_eq!(body(here.remoting.peer(there.target()).pair().ask(message("x"), SOON).await), "x");
}

#[tokio::test]
async fn r9_a_refused_peer_does_not_keep_others_waiting() {
    let ca = Ca::new();
    let there = Node::echo(ca.node("dc-2")).await;
    // Sockets that never say a word.
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(tokio::net::TcpStream::connect(there.remoting.local_addr()).await.expect("connects"));
    }
    let here = Node::echo(ca.node("dc-1")).await;
    let target: Endpoint = there.remoting.local().advertised.clone();
    let answer = here.remoting.peer(target).pair().ask(message("x"), std::time::Duration::from_secs(2)).await;
    assert_eq!(body(answer), "x");
}
