//! R5, R8: what one peer may hold is bounded, reaching a bound is told to the one who does, and it is freed with the peer.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use dc_core::{DataCenter, NodeId, SystemClock};
use dc_remoting::{
    LinkError, LinkEvent, PeerIdentity, PeerTarget, Remoting, RemotingConfig, RemotingConfigBuilder, ReplyTo, Service,
    Services,
    proto::{Envelope, Frame, LaneKind, Ping},
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    sync::broadcast,
};

use crate::{
    raw::{LANE, RawLane, envelopes, hello, tell},
    support::*,
};

/// The node that raw lanes speak as.
const RAW: NodeId = NodeId(77);

/// A connection from another address of this host.
async fn from(host: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((host, 0).into()).expect("a loopback address");
    socket.connect(to).await.expect("connects")
}

async fn until_free(node: &Node) {
    eventually("everything to be freed", || {
        let taken = node.remoting.taken();
        (taken.connections, taken.handshaking, taken.links) == (0, 0, 0)
    })
    .await;
}

#[tokio::test]
async fn r8_one_address_takes_no_place_from_another() {
    let there = Node::echo(config("dc-2").max_connections(12).max_handshaking(12).max_handshaking_per_address(5)).await;
    let mut events = there.remoting.events();
    // They say nothing. The sixth finds no place, as none of the others had a fair time.
    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(from([127, 0, 0, 2], there.remoting.local_addr()).await);
    }
    refused(&mut events, "max_handshaking_per_address").await;
    assert_eq!(there.remoting.taken().handshaking, 5);
    let here = Node::echo(config("dc-1")).await;
    body(here.remoting.peer(there.target()).pair().ask(message("x"), SOON).await);
    assert_eq!(there.remoting.taken().connections, 5 + 3);
    drop((silent, here));
    until_free(&there).await;
}

#[tokio::test]
async fn r8_a_slow_handshake_makes_room_for_another_of_its_address() {
    let there =
        Node::echo(config("dc-2").max_handshaking_per_address(3).handshake_timeout(Duration::from_secs(3))).await;
    let mut events = there.remoting.events();
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(there.remoting.local_addr()).await.expect("connects"));
    }
    // Of the same address: refused for a moment, served long before those three are given up.
    let here = Node::echo(config("dc-1")).await;
    here.remoting.peer(there.target()).connected(Duration::from_secs(2)).await.expect("R8: the oldest made room");
    refused(&mut events, "needs the place").await;
    body(here.remoting.peer(there.target()).pair().ask(message("x"), SOON).await);
}

#[tokio::test]
async fn r8_links_of_one_peer_are_bounded_and_it_is_told_so() {
    let there = Node::echo(config("dc-2").max_links_per_peer(2)).await;
    let mut events = there.remoting.events();
    let first = RawLane::link(there.remoting.local_addr(), 1).await;
    let _second = RawLane::link(there.remoting.local_addr(), 2).await;
    let raw = DataCenter::new("raw").build().expect("legal");
    let twin = RemotingConfig::builder(system("app"), raw.id().clone(), RAW);
    let twin = Node::echo(twin.advertise("127.0.0.1:9".parse().expect("legal"))).await;
    let err = twin.remoting.peer(there.target()).pair().ask(message("x"), SOON).await.expect_err("a third link");
    assert!(matches!(&err, LinkError::Overloaded { what, .. } if what.contains("links")), "{err:?}");
    assert!(err.certainly_not_run());
    refused(&mut events, "no more links").await;
    let here = Node::echo(config("dc-3")).await;
    body(here.remoting.peer(there.target()).pair().ask(message("x"), SOON).await);
    // An id is only claimed: who claims it elsewhere takes nothing from its node, nor is it taken for it.
    let dc = DataCenter::new("dc-1").build().expect("legal");
    let namesake = Node::echo(RemotingConfig::builder(system("app"), dc.id().clone(), RAW)).await;
    body(namesake.remoting.peer(there.target()).pair().ask(message("x"), SOON).await);
    // One goes: its place is free again.
    drop(first);
    twin.remoting.peer(there.target()).connected(SOON).await.expect("R8: freed");
}

/// Whoever reads nothing is given up soon.
fn impatient() -> RemotingConfigBuilder {
    let (interval, timeout) = (Duration::from_millis(300), Duration::from_millis(900));
    config("dc-2").keepalive_interval(interval).keepalive_timeout(timeout)
}

async fn cut_off(events: &mut broadcast::Receiver<LinkEvent>, there: &Node) {
    refused(events, "reads none of its answers").await;
    until_free(there).await;
}

/// Asks for 20 MiB of answers.
fn ask_for_much(user: &RawLane) {
    for n in 1..=640 {
        user.send(&envelopes(vec![Envelope { correlation: n << 2, left_us: 60_000_000, ..tell(vec![7; 32 << 10]) }]));
    }
}

#[tokio::test]
async fn r5_a_peer_that_reads_none_of_its_answers_is_cut_off() {
    let there = Node::echo(impatient()).await;
    let mut events = there.remoting.events();
    let [control, user, _bulk] = RawLane::link(there.remoting.local_addr(), 1).await;
    ask_for_much(&user);
    let alive = tokio::spawn(async move {
        loop {
            control.send(&Frame { ping: Some(Ping::default()), ..Frame::default() });
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    cut_off(&mut events, &there).await;
    alive.abort();
}

#[tokio::test]
async fn r5_a_peer_that_only_pings_and_reads_nothing_is_cut_off() {
    let there = Node::echo(impatient()).await;
    let mut events = there.remoting.events();
    let [control, _user, _bulk] = RawLane::link(there.remoting.local_addr(), 1).await;
    let pings = Frame { ping: Some(Ping { nonce: u64::MAX }), ..Frame::default() };
    let pings = Bytes::from(pings.encode_to_vec().repeat(10_000));
    for _ in 0..60 {
        control.send_bytes(pings.clone());
    }
    cut_off(&mut events, &there).await;
}

#[tokio::test]
async fn r5_what_waits_for_a_peer_is_freed_when_it_goes() {
    let arrived = Arc::new(AtomicUsize::new(0));
    let there = Node::start(config("dc-2"), {
        let arrived = Arc::clone(&arrived);
        move |incoming| {
            echo(incoming);
            arrived.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let [mut control, user, bulk] = RawLane::link(there.remoting.local_addr(), 1).await;
    ask_for_much(&user);
    eventually("answers to pile up", || arrived.load(Ordering::SeqCst) * (32 << 10) > 18 << 20).await;
    // After one more frame the node reads none of the lanes any further, and so does not see their end there.
    let before = arrived.load(Ordering::SeqCst);
    bulk.send(&envelopes(vec![tell("x")]));
    eventually("the bulk lane to be read", || arrived.load(Ordering::SeqCst) > before).await;
    control.send(&Frame { ping: Some(Ping::default()), ..Frame::default() });
    control.back.message().await.expect("open").expect("a pong");
    drop((control, user, bulk));
    until_free(&there).await;
}

#[tokio::test]
async fn r8_a_handshake_that_reads_nothing_ends_in_time() {
    let there = Node::echo(config("dc-2").handshake_timeout(Duration::from_secs(2))).await;
    let mut events = there.remoting.events();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4 << 10).expect("small");
    let mut stream = socket.connect(there.remoting.local_addr()).await.expect("connects");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("writes");
    // HTTP/2 pings, whose answers nobody reads.
    let pings = [&[0u8, 0, 8, 6, 0, 0, 0, 0, 0][..], &[0; 8]].concat().repeat(1000);
    let flood = async { while stream.write_all(&pings).await.is_ok() {} };
    tokio::time::timeout(SOON, flood).await.expect("R8: cut off");
    refused(&mut events, "too much before its handshake").await;
    until_free(&there).await;
}

#[tokio::test]
async fn r8_a_first_frame_is_not_taken_at_any_size() {
    let there = Node::echo(config("dc-2")).await;
    let mut events = there.remoting.events();
    let mut first = hello(1, LaneKind::User).encode_to_vec();
    first.extend([0x2a, 0x00].repeat(32 << 10)); // empty envelopes
    let opened = RawLane::open(there.remoting.local_addr(), LANE, first.into());
    tokio::time::timeout(SOON, opened).await.expect("R8: cut off").err().expect("refused");
    refused(&mut events, "too much before its handshake").await;
    until_free(&there).await;
}

/// What ended links have left behind counts: coming back brings no window that is as good as new.
#[tokio::test]
async fn r5_messages_that_wait_outlive_their_link_and_count_against_the_next() {
    const WINDOW: usize = 1 << 20;
    let kept = Arc::new(Mutex::new(Vec::new()));
    let there = Node::start(config("dc-2").max_payload(64 << 10).link_window(WINDOW), {
        let kept = Arc::clone(&kept);
        move |incoming| kept.lock().push(incoming.accept)
    })
    .await;
    let mut events = there.remoting.events();
    let at = there.remoting.local_addr();
    for link in 1..=2 {
        let [_control, user, _bulk] = RawLane::link(at, link).await;
        let before = kept.lock().len();
        for _ in 0..10 {
            user.send(&envelopes(vec![tell(vec![7; 60 << 10])]));
        }
        eventually("all of it to wait", || kept.lock().len() == before + 10).await;
    }
    eventually("both links to end", || there.remoting.taken().links == 0).await;
    assert_eq!(there.remoting.taken().lingering, 2);
    let first = hello(3, LaneKind::User).encode_to_vec().into();
    let refusal = RawLane::open(at, LANE, first).await.err().expect("R5: no third window");
    assert!(refusal.message().contains("still holds"), "{refusal:?}");
    refused(&mut events, "still holds").await;
    // Half of it is taken in: what is left is less than a window.
    kept.lock().drain(..10);
    let [_control, user, _bulk] = RawLane::link(at, 4).await;
    user.send(&envelopes(vec![tell("x")]));
    eventually("R5: room again", || kept.lock().len() == 11).await;
    kept.lock().clear();
    eventually("nothing to be left", || there.remoting.taken().lingering == 0).await;
}

#[tokio::test]
async fn r8_an_answer_is_bounded_by_who_asks_and_costs_no_link() {
    let there = Node::start(config("dc-2"), |incoming| {
        let size = if incoming.message.to == 1 { 1 << 20 } else { 10 };
        if let Some(reply) = incoming.reply {
            reply.send(0, vec![7; size].into());
        }
    })
    .await;
    let here = Node::echo(config("dc-1").max_payload(64 << 10).max_call_body(64 << 10)).await;
    let pair = here.remoting.peer(there.target()).pair();
    let ask = |to| pair.ask(dc_remoting::Message { to, ..message("x") }, SOON);
    let err = ask(1).await.expect_err("R8: larger than this node takes");
    assert!(matches!(&err, LinkError::TooLarge { size, max, .. } if (*size, *max) == (1 << 20, 64 << 10)), "{err:?}");
    let up = here.remoting.peer(there.target()).identity();
    assert_eq!(body(ask(2).await).len(), 10);
    assert!(up.is_some_and(|up| Some(up) == here.remoting.peer(there.target()).identity()), "over the same link");
}

#[tokio::test]
async fn r5_unanswered_asks_of_one_link_are_bounded() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let there = Node::start(config("dc-2").max_asks(4), {
        let kept = Arc::clone(&kept);
        move |mut incoming| {
            // Accepted, and not answered.
            kept.lock().extend(incoming.reply.take());
        }
    })
    .await;
    let [_control, mut user, _bulk] = RawLane::link(there.remoting.local_addr(), 1).await;
    for n in 1..=17 {
        user.send(&envelopes(vec![Envelope { correlation: n << 2, left_us: 60_000_000, ..tell("x") }]));
    }
    let refused = loop {
        let frame = tokio::time::timeout(SOON, user.back.message()).await.expect("in time");
        if let Some(reply) = frame.expect("open").expect("open").replies.pop() {
            break reply;
        }
    };
    assert_eq!((refused.correlation, kept.lock().len()), (17 << 2, 16));
    assert!(String::from_utf8_lossy(&refused.body).contains("too many"), "{refused:?}");
}

/// Keeps calls and answers none.
#[derive(Default)]
struct Silent(Mutex<Vec<ReplyTo>>);

impl Service for Silent {
    fn call(&self, _from: &Arc<PeerIdentity>, _body: Bytes, _left: Duration, reply: ReplyTo) {
        self.0.lock().push(reply);
    }
}

#[tokio::test]
async fn r5_bytes_of_unanswered_calls_are_bounded_and_freed() {
    let silent = Arc::new(Silent::default());
    let tight = config("dc-2").max_payload(64 << 10).link_window(1 << 20).build().expect("legal");
    let services = Services::new().service(ECHO, Arc::clone(&silent) as Arc<dyn Service>);
    let there = Remoting::start(tight, Arc::new(SystemClock), services).await.expect("starts");
    let here = Node::echo(config("dc-1")).await;
    let peer = here.remoting.peer(PeerTarget::at(there.local_addr().into()));
    peer.connected(SOON).await.expect("up");
    let call = |body: usize| {
        let peer = peer.clone();
        async move { peer.call(ECHO, vec![0; body].into(), SOON).await }
    };
    let held = tokio::spawn(futures::future::join_all((0..4).map(|_| call(256 << 10))));
    eventually("four calls", || silent.0.lock().len() == 4).await;
    let err = call(1).await.expect_err("R5: no room");
    assert!(matches!(&err, LinkError::NotRun { why, .. } if why.contains("too many bytes")), "{err:?}");
    silent.0.lock().drain(..).for_each(|reply| reply.send(0, Bytes::new()));
    held.await.expect("no panic").into_iter().for_each(|answer| drop(answer.expect("answered")));
    let again = tokio::spawn(call(256 << 10));
    eventually("R5: room again", || silent.0.lock().len() == 1).await;
    again.abort();
}

#[tokio::test]
async fn r8_a_place_is_freed_whenever_its_peer_leaves_the_handshake() {
    let there = Node::echo(config("dc-2")).await;
    for said in [&b""[..], b"PRI * HT", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let mut stream = TcpStream::connect(there.remoting.local_addr()).await.expect("connects");
        stream.write_all(said).await.expect("writes");
        eventually("the connection to be taken", || there.remoting.taken().connections == 1).await;
        drop(stream);
        until_free(&there).await;
    }
    let lonely = RawLane::lane(there.remoting.local_addr(), 9, LaneKind::User).await;
    assert_eq!(there.remoting.taken().handshaking, 0);
    drop(lonely);
    until_free(&there).await;
}
