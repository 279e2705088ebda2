//! R8: what comes over the port may be anything. One link closes with one clear line; everybody else goes on.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dc_remoting::{
    LinkError, PeerTarget,
    proto::{Call, Chunk, Envelope, Frame, LaneKind, SymbolDef},
};
use proptest::{prelude::*, test_runner::TestRunner};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

use crate::{
    raw::{LANE, RawLane, envelopes, hello, tell},
    support::*,
};

/// The node still serves others.
async fn still_serves(there: &Node) {
    let here = Node::echo(config("dc-1")).await;
    assert_eq!(body(here.remoting.peer(there.target()).pair().ask(message("x"), SOON).await), "x");
}

#[tokio::test]
async fn r8_garbage_on_the_port_is_cut_off_at_once() {
    let there = Node::echo(config("dc-2")).await;
    let mut events = there.remoting.events();
    let tls_hello: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    for garbage in
        [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", tls_hello, &[0u8; 100_000], b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"]
    {
        let mut stream = TcpStream::connect(there.remoting.local_addr()).await.expect("connects");
        let _ = stream.write_all(garbage).await;
        let mut rest = Vec::new();
        // Closed or reset, with nothing but perhaps an HTTP/2 goodbye.
        let read = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await.expect("R8: closed");
        assert!(read.is_err() || rest.len() < 200, "{rest:?}");
        refused(&mut events, "not HTTP/2").await;
    }
    still_serves(&there).await;
}

#[tokio::test]
async fn r8_a_connection_that_does_not_finish_its_handshake_is_closed() {
    let there = Node::echo(config("dc-2").handshake_timeout(Duration::from_millis(200))).await;
    let mut events = there.remoting.events();
    // Silence; half a preface; a preface and no more; a lane without its siblings.
    for said in [&b""[..], b"PRI * HT", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let mut stream = TcpStream::connect(there.remoting.local_addr()).await.expect("connects");
        stream.write_all(said).await.expect("writes");
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        let _ = tokio::time::timeout(SOON, read).await.expect("R8: closed");
        refused(&mut events, "in time").await;
    }
    let mut lonely = RawLane::lane(there.remoting.local_addr(), 1, LaneKind::Control).await;
    let why = tokio::time::timeout(SOON, lonely.ended()).await.expect("R8: closed");
    assert!(why.contains("other lanes"), "{why}");
    still_serves(&there).await;
}

#[tokio::test]
async fn r8_another_system_is_refused_with_the_reason_at_both_ends() {
    let there = Node::echo(config("dc-2")).await;
    let mut events = there.remoting.events();
    let dc = dc_core::DataCenter::new("dc-1").build().expect("legal");
    let other = dc_remoting::RemotingConfig::builder(system("other"), dc.id().clone(), dc_core::NodeId(5));
    let here = Node::echo(other).await;
    let peer = here.remoting.peer(there.target());
    let err = peer.pair().ask(message("x"), SOON).await.expect_err("another system");
    assert!(matches!(&err, LinkError::Refused { why, .. } if why.contains("other") && why.contains("app")), "{err:?}");
    assert!(err.certainly_not_run());
    refused(&mut events, "system \"other\"").await;
    still_serves(&there).await;
}

#[tokio::test]
async fn r8_an_unknown_protocol_version_is_refused() {
    let there = Node::echo(config("dc-2")).await;
    let mut events = there.remoting.events();
    let mut first = hello(1, LaneKind::Control);
    let said = first.hello.as_mut().expect("set above");
    (said.protocol, said.oldest_protocol) = (99, 98);
    let first = first.encode_to_vec().into();
    let status = RawLane::open(there.remoting.local_addr(), LANE, first).await.err().expect("refused");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("98 to 99"), "{status:?}");
    refused(&mut events, "98 to 99").await;
    still_serves(&there).await;
}

#[tokio::test]
async fn r8_what_a_later_version_adds_is_ignored() {
    let there = Node::echo(config("dc-2")).await;
    // Field 1000, a string: nothing that this version knows.
    let mut extra = BytesMut::new();
    prost::encoding::string::encode(1000, &"from the future".to_owned(), &mut extra);
    let with_extra = |frame: Frame| {
        let mut bytes = BytesMut::from(&frame.encode_to_vec()[..]);
        bytes.extend_from_slice(&extra);
        bytes.freeze()
    };
    let mut lanes = Vec::new();
    for lane in [LaneKind::Control, LaneKind::User, LaneKind::Bulk] {
        let opened = RawLane::open(there.remoting.local_addr(), LANE, with_extra(hello(3, lane))).await;
        lanes.push(opened.expect("welcome"));
    }
    let user = &mut lanes[1];
    user.send_bytes(extra.clone().freeze());
    let ask = Envelope { correlation: 4, left_us: 5_000_000, ..tell("hello") };
    user.send_bytes(with_extra(envelopes(vec![ask])));
    loop {
        let frame = user.back.message().await.expect("open").expect("open");
        if let Some(reply) = frame.replies.first() {
            assert_eq!((reply.correlation, &reply.body[..]), (4, &b"hello"[..]));
            return;
        }
    }
}

#[tokio::test]
async fn r8_what_breaks_a_rule_closes_its_link_and_no_other() {
    let there = Node::echo(config("dc-2")).await;
    let mut events = there.remoting.events();
    let here = Node::echo(config("dc-1")).await;
    let bystander = here.remoting.peer(there.target());
    let other = bystander.pair();
    let ask = |n| Envelope { correlation: n, left_us: 5_000_000, ..tell("x") };
    let large = Envelope { total: 100, transfer: 1, ..ask(4) };
    let piece = |data: &'static [u8]| Chunk { transfer: 1, data: Bytes::from_static(data) };
    let frame = Frame::default();
    let breaches: Vec<(&str, LaneKind, Frame)> = vec![
        ("symbol", LaneKind::User, envelopes(vec![Envelope { kind: 9, ..tell("x") }])),
        ("symbol", LaneKind::User, Frame { symbols: vec![SymbolDef { number: 7, text: "x".into() }], ..frame.clone() }),
        (
            "symbol",
            LaneKind::User,
            Frame { symbols: vec![SymbolDef { number: 1, text: "x".repeat(2000) }], ..frame.clone() },
        ),
        ("pair", LaneKind::User, envelopes(vec![Envelope { pair: u32::MAX, ..tell("x") }])),
        ("payload", LaneKind::Bulk, envelopes(vec![Envelope { total: u64::MAX, transfer: 1, ..ask(4) }])),
        ("key", LaneKind::User, envelopes(vec![Envelope { key: vec![0; 100_000].into(), ..tell("x") }])),
        ("transfer", LaneKind::Bulk, Frame { chunks: vec![piece(b"x")], ..frame.clone() }),
        ("transfer", LaneKind::Bulk, envelopes(vec![large.clone(), large.clone()])),
        ("control lane", LaneKind::Control, envelopes(vec![tell("x")])),
        ("control lane", LaneKind::User, Frame { calls: vec![Call::default()], ..frame.clone() }),
        ("too large", LaneKind::User, envelopes(vec![tell(vec![0; 5 << 20])])),
    ];
    for (n, (part, lane, frame)) in breaches.into_iter().enumerate() {
        let mut lanes = RawLane::link(there.remoting.local_addr(), 100 + n as u128).await;
        let lane = &mut lanes[lane as usize - 1];
        lane.send(&frame);
        let why = tokio::time::timeout(SOON, lane.ended()).await.unwrap_or_else(|_| panic!("R8: {part} not closed"));
        assert!(why.contains(part), "{part}: closed because {why:?}");
        refused(&mut events, part).await;
        body(other.ask(message("x"), SOON).await);
    }
    // A transfer that says more than its size.
    let lanes = RawLane::link(there.remoting.local_addr(), 99).await;
    lanes[2].send(&envelopes(vec![large]));
    lanes[2].send(&Frame { chunks: vec![piece(&[0; 101])], ..frame });
    refused(&mut events, "keep to its size").await;
    assert!(bystander.identity().is_some(), "the bystander's link was never lost");
}

#[tokio::test]
async fn r8_bytes_that_are_no_frames_close_the_link() {
    let there = Node::echo(config("dc-2")).await;
    let mut events = there.remoting.events();
    let [_control, user, _bulk] = RawLane::link(there.remoting.local_addr(), 5).await;
    user.send_bytes(Bytes::from_static(&[0xff; 50]));
    refused(&mut events, "malformed").await;
    still_serves(&there).await;
}

#[tokio::test]
async fn r8_one_connection_carries_one_lane_and_one_lane_is_opened_once() {
    let there = Node::echo(config("dc-2")).await;
    let mut events = there.remoting.events();
    let _first = RawLane::lane(there.remoting.local_addr(), 6, LaneKind::User).await;
    let again = hello(6, LaneKind::User).encode_to_vec().into();
    let status = RawLane::open(there.remoting.local_addr(), LANE, again).await.err().expect("refused");
    assert!(status.message().contains("twice"), "{status:?}");
    refused(&mut events, "twice").await;
    let status = RawLane::open(there.remoting.local_addr(), "/other.Service/Method", Bytes::new()).await;
    assert_eq!(status.err().expect("refused").code(), Code::Unimplemented);
    refused(&mut events, "not served here").await;
    still_serves(&there).await;
}

#[tokio::test]
async fn r8_connections_are_bounded() {
    let there = Node::echo(config("dc-2").max_connections(3)).await;
    let mut events = there.remoting.events();
    let here = Node::echo(config("dc-1")).await;
    body(here.remoting.peer(there.target()).pair().ask(message("x"), SOON).await);
    let late = Node::echo(config("dc-3")).await;
    let err = late.remoting.peer(there.target()).connected(Duration::from_secs(1)).await.expect_err("full");
    assert!(matches!(err, LinkError::Overloaded { .. }) && err.certainly_not_run(), "{err:?}");
    refused(&mut events, "too many connections").await;
    body(here.remoting.peer(there.target()).pair().ask(message("x"), SOON).await);
    // And so are peers.
    let few = Node::echo(config("dc-4").max_peers(1)).await;
    let _one = few.remoting.peer(here.target());
    let err = few.remoting.peer(PeerTarget::at(there.target().endpoint)).pair().tell(message("x")).await;
    assert!(matches!(err, Err(LinkError::Overloaded { .. })), "{err:?}");
}

fn any_envelope() -> impl Strategy<Value = Envelope> {
    let small = 0u64..4;
    (
        (small.clone(), 0u32..4, 0u32..4, 0u32..4),
        (
            prop_oneof![Just(0u64), 1u64..300_000, Just(u64::MAX)],
            0u32..3,
            proptest::collection::vec(any::<u8>(), 0..50),
        ),
        ("[a-z]{0,5}", any::<u64>()),
    )
        .prop_map(|((correlation, pair, kind, message), (total, transfer, payload), (text, left_us))| Envelope {
            correlation,
            pair,
            kind,
            message,
            total,
            transfer,
            payload: payload.into(),
            kind_text: text.clone(),
            message_text: text,
            left_us,
            ..Envelope::default()
        })
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let symbols = proptest::collection::vec((0u32..4, "[a-z]{0,5}"), 0..3);
    let chunks = proptest::collection::vec((0u32..3, proptest::collection::vec(any::<u8>(), 0..50)), 0..3);
    let calls = proptest::collection::vec((any::<u64>(), any::<u32>(), any::<u64>()), 0..3);
    (symbols, chunks, proptest::collection::vec(any_envelope(), 0..4), calls).prop_map(
        |(symbols, chunks, envelopes, calls)| Frame {
            symbols: symbols.into_iter().map(|(number, text)| SymbolDef { number, text }).collect(),
            chunks: chunks.into_iter().map(|(transfer, data)| Chunk { transfer, data: data.into() }).collect(),
            envelopes,
            calls: calls
                .into_iter()
                .map(|(correlation, service, left_us)| Call { correlation, service, left_us, ..Call::default() })
                .collect(),
            ..Frame::default()
        },
    )
}

/// Frames that are well formed and make no sense, and damaged ones: the node closes their link at most.
#[test]
fn r8_no_sequence_of_frames_harms_the_node() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    let there = runtime.block_on(Node::echo(config("dc-2")));
    let link = std::sync::atomic::AtomicU64::new(1000);
    let damage = (any::<u16>(), any::<u8>(), 0u8..3);
    let sequences = proptest::collection::vec((any_frame(), damage), 1..8);
    let mut runner = TestRunner::new(ProptestConfig { cases: 40, ..ProptestConfig::default() });
    let run = runner.run(&(sequences, 0usize..3), |(frames, lane)| {
        runtime.block_on(async {
            let number = link.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let lanes = RawLane::link(there.remoting.local_addr(), number.into()).await;
            for (frame, (at, byte, how)) in frames {
                let mut bytes = frame.encode_to_vec();
                if how == 0 && !bytes.is_empty() {
                    let at = usize::from(at) % bytes.len();
                    bytes[at] = byte;
                }
                lanes[lane].send_bytes(bytes.into());
            }
            // Alive: a fresh link is served. The old one is open, or was closed with a reason.
            let mut fresh = RawLane::link(there.remoting.local_addr(), u128::from(number) << 64).await;
            let ask = Envelope { correlation: 8, left_us: 5_000_000, ..tell("x") };
            fresh[1].send(&envelopes(vec![ask]));
            let reply = tokio::time::timeout(SOON, fresh[1].back.message()).await;
            prop_assert!(matches!(reply, Ok(Ok(Some(_)))), "{:?}", reply);
            Ok(())
        })
    });
    run.expect("R8");
}
