//! What the fuzzers drive: the decoders of this crate and its links. Not an interface.
//!
//! Each function takes any bytes and panics where a claim of `docs/wire.md` does not hold. The same functions run
//! under cargo-fuzz and as property tests on the stable toolchain; `docs/fuzzing.md` tells how.

mod link;
mod raw;

use bytes::{Bytes, BytesMut};
use dc_core::{DataCenter, NodeId, StoreId, SystemName};
use prost::Message;

pub use link::{Sides, link, script};

use crate::{
    PROTOCOL, PeerIdentity, RemotingConfig,
    proto::{
        Call, Chunk, Credit, Envelope, Frame, Goodbye, Hello, Identity, LaneKind, Outcome, Ping, Reply, SymbolDef,
        Welcome,
    },
    wire::{
        ChunkRef, CreditRef, EnvelopeRef, Fields, Malformed, ReplyRef, Value, hello_frame, read_hello, read_welcome,
        welcome_frame,
    },
};

/// The identity under which the fuzzed node reads handshakes.
pub fn local() -> PeerIdentity {
    // All of it is legal.
    PeerIdentity {
        system: SystemName::new("app").expect("legal"),
        dc: DataCenter::new("dc-1").region("eu").build().expect("legal").id().clone(),
        node: NodeId(7),
        advertised: "127.0.0.1:7946".parse().expect("legal"),
        store: Some(StoreId(3)),
        protocol: PROTOCOL,
    }
}

/// The first frame of a dialler, as this build writes it.
pub fn write_hello(local: &PeerIdentity, link: u128, lane: LaneKind) -> Frame {
    hello_frame(local, link, lane)
}

/// The first frame of the dialled, as this build writes it.
pub fn write_welcome(local: &PeerIdentity, config: &RemotingConfig) -> Frame {
    welcome_frame(local, PROTOCOL, config)
}

/// Reads a hello as the dialled does: who it is, the link's number, the lane.
pub fn hello_of(local: &PeerIdentity, frame: Bytes) -> Result<(PeerIdentity, u128, LaneKind), String> {
    read_hello(local, frame).map(|read| (read.identity, read.link, read.lane))
}

/// Reads a welcome as the dialler does: who it is.
pub fn welcome_of(local: &PeerIdentity, frame: Bytes) -> Result<PeerIdentity, String> {
    read_welcome(local, frame).map(|(identity, _)| identity)
}

/// Reads a frame as the readers of both sides do, in place, field by field, and writes it down as the struct.
pub fn read_fast(bytes: &[u8]) -> Result<Frame, String> {
    let wire = |err: Malformed| err.to_string();
    let prost = |err: prost::DecodeError| err.to_string();
    let mut frame = Frame::default();
    let mut fields = Fields::of(bytes);
    while let Some((number, value)) = fields.next().map_err(wire)? {
        match number {
            // What is read through prost here, the readers read through prost too.
            1 => frame.hello.get_or_insert_default().merge(value.bytes().map_err(wire)?).map_err(prost)?,
            2 => frame.welcome.get_or_insert_default().merge(value.bytes().map_err(wire)?).map_err(prost)?,
            3 => frame.symbols.push(SymbolDef::decode(value.bytes().map_err(wire)?).map_err(prost)?),
            4 => {
                let ChunkRef { transfer, data } = ChunkRef::read(value.bytes().map_err(wire)?).map_err(wire)?;
                frame.chunks.push(Chunk { transfer, data: Bytes::copy_from_slice(data) });
            }
            5 => frame.envelopes.push(envelope(&EnvelopeRef::read(value.bytes().map_err(wire)?).map_err(wire)?)),
            6 => frame.calls.push(Call::decode(value.bytes().map_err(wire)?).map_err(prost)?),
            7 => frame.replies.push(reply(&ReplyRef::read(value.bytes().map_err(wire)?).map_err(wire)?)),
            8 => {
                let read = CreditRef::read(value.bytes().map_err(wire)?).map_err(wire)?;
                frame.credits.push(Credit { pair: read.pair, messages: read.messages, bytes: read.bytes });
            }
            9 => frame.ping.get_or_insert_default().merge(value.bytes().map_err(wire)?).map_err(prost)?,
            10 => frame.pong.get_or_insert_default().merge(value.bytes().map_err(wire)?).map_err(prost)?,
            11 => frame.goodbye.get_or_insert_default().merge(value.bytes().map_err(wire)?).map_err(prost)?,
            12 => match value {
                Value::Number(number) => frame.want_credits = number != 0,
                _ => return Err("a bool has another wire type".into()),
            },
            _ => {}
        }
    }
    Ok(frame)
}

fn envelope(read: &EnvelopeRef<'_>) -> Envelope {
    Envelope {
        correlation: read.correlation,
        pair: read.pair,
        to: read.to,
        kind: read.kind,
        message: read.message,
        epoch: read.epoch,
        key: Bytes::copy_from_slice(read.key),
        from: Bytes::copy_from_slice(read.from),
        left_us: read.left_us,
        payload: Bytes::copy_from_slice(read.payload),
        total: read.total,
        transfer: read.transfer,
        kind_text: read.kind_text.to_owned(),
        message_text: read.message_text.to_owned(),
    }
}

fn reply(read: &ReplyRef<'_>) -> Reply {
    Reply {
        correlation: read.correlation,
        outcome: read.outcome,
        status: read.status,
        body: Bytes::copy_from_slice(read.body),
        total: read.total,
        transfer: read.transfer,
    }
}

/// Writes envelopes, replies, chunks and credits as the writers do, without their structs.
pub fn write_fast(frame: &Frame) -> Bytes {
    let mut out = BytesMut::new();
    for chunk in &frame.chunks {
        ChunkRef::write_head(chunk.transfer, chunk.data.len(), &mut out);
        out.extend_from_slice(&chunk.data);
    }
    for e in &frame.envelopes {
        let envelope = EnvelopeRef {
            correlation: e.correlation,
            pair: e.pair,
            to: e.to,
            kind: e.kind,
            message: e.message,
            epoch: e.epoch,
            key: &e.key,
            from: &e.from,
            left_us: e.left_us,
            payload: &e.payload,
            total: e.total,
            transfer: e.transfer,
            kind_text: &e.kind_text,
            message_text: &e.message_text,
        };
        envelope.write(&mut out, None);
    }
    for r in &frame.replies {
        let reply = ReplyRef {
            correlation: r.correlation,
            outcome: r.outcome,
            status: r.status,
            body: &r.body,
            total: r.total,
            transfer: r.transfer,
        };
        reply.write(&mut out, None);
    }
    for &Credit { pair, messages, bytes } in &frame.credits {
        CreditRef { pair, messages, bytes }.write(&mut out);
    }
    out.freeze()
}

/// Any bytes as a frame: read in place and through prost they are the same or refused; what is written in place
/// reads back through prost.
///
/// # Panics
///
/// Where the two differ.
pub fn frame(bytes: &[u8]) {
    match (read_fast(bytes), Frame::decode(bytes)) {
        (Ok(fast), Ok(prost)) => {
            assert_eq!(fast, prost, "read in place / read by prost");
            let hot = Frame {
                chunks: prost.chunks,
                envelopes: prost.envelopes,
                replies: prost.replies,
                credits: prost.credits,
                ..Frame::default()
            };
            // An empty piece is a breach of the rules: no writer writes one.
            if hot.chunks.iter().all(|chunk| !chunk.data.is_empty()) {
                assert_eq!(Frame::decode(write_fast(&hot)).expect("what is written reads back"), hot);
            }
        }
        (Ok(fast), Err(err)) => panic!("read in place as {fast:?}, refused by prost: {err}"),
        // Groups, long gone from Protobuf, are skipped by prost and refused in place.
        (Err(err), Ok(prost)) => {
            assert!(err.contains("unknown wire type"), "refused in place ({err}), read by prost as {prost:?}")
        }
        (Err(_), Err(_)) => {}
    }
}

/// Any bytes as either first frame: refused with a reason, or an identity that reads back as it was.
///
/// # Panics
///
/// Where it does not.
pub fn handshake(bytes: &[u8]) {
    let (local, bytes) = (local(), Bytes::copy_from_slice(bytes));
    match read_hello(&local, bytes.clone()) {
        Ok(read) => {
            let again = hello_frame(&read.identity, read.link, read.lane).encode_to_vec();
            assert_eq!(read_hello(&local, again.into()), Ok(read), "a hello reads back");
        }
        Err(why) => assert!(!why.is_empty() && why.len() < 16 << 10, "a reason that can be told: {} bytes", why.len()),
    }
    match read_welcome(&local, bytes) {
        Ok((identity, grant)) => {
            assert_eq!(identity.system, local.system);
            let room = RemotingConfig::MESSAGE_ROOM;
            assert!(grant.max_payload + room <= grant.link_window, "{grant:?}: a payload that never fits");
            let config = RemotingConfig::builder(identity.system.clone(), identity.dc.clone(), identity.node);
            let again = welcome_frame(&identity, identity.protocol, &config.build().expect("defaults are legal"));
            let read = read_welcome(&local, again.encode_to_vec().into()).expect("a welcome reads back");
            assert_eq!(read.0, identity);
        }
        Err(why) => assert!(!why.is_empty() && why.len() < 16 << 10, "a reason that can be told: {} bytes", why.len()),
    }
}

/// Frames of every kind, as seeds and as what `tests/wire/` keeps: a name for each.
pub fn samples() -> Vec<(&'static str, Frame)> {
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    let local = local();
    // The defaults are legal.
    let config = RemotingConfig::builder(local.system.clone(), local.dc.clone(), local.node).build().expect("legal");
    let envelope = Envelope {
        correlation: 1 << 32 | 1,
        pair: 1,
        to: 42,
        kind: 1,
        message: 2,
        epoch: 3,
        key: bytes("user-42"),
        from: bytes("passed-on"),
        left_us: 5_000_000,
        payload: bytes("hello"),
        ..Envelope::default()
    };
    let tell = Envelope {
        to: 42,
        kind_text: "worker".into(),
        message_text: "analyse".into(),
        payload: bytes("x"),
        ..Envelope::default()
    };
    let reply =
        Reply { correlation: 1 << 32 | 1, outcome: Outcome::Answered.into(), body: bytes("hi"), ..Reply::default() };
    let not_run = Reply { outcome: Outcome::NotRun.into(), status: 2, body: bytes("no such actor"), ..reply.clone() };
    let symbol = |number, text: &str| SymbolDef { number, text: text.into() };
    let frame = Frame::default();
    vec![
        ("hello", hello_frame(&local, 9, LaneKind::User)),
        ("hello-without-store", hello_frame(&PeerIdentity { store: None, ..local.clone() }, 9, LaneKind::Control)),
        ("welcome", welcome_frame(&local, PROTOCOL, &config)),
        ("symbols", Frame { symbols: vec![symbol(1, "worker"), symbol(2, "analyse")], ..frame.clone() }),
        (
            "ask",
            Frame {
                symbols: vec![symbol(1, "worker"), symbol(2, "analyse")],
                envelopes: vec![envelope.clone()],
                ..frame.clone()
            },
        ),
        ("tell-in-the-clear", Frame { envelopes: vec![tell.clone()], ..frame.clone() }),
        ("ask-first-piece", Frame { envelopes: vec![Envelope { total: 8, transfer: 4, ..envelope }], ..frame.clone() }),
        ("chunk", Frame { chunks: vec![Chunk { transfer: 4, data: bytes("abc") }], ..frame.clone() }),
        (
            "call",
            Frame {
                calls: vec![Call { correlation: 1 << 32, service: 17, left_us: 1_000_000, body: bytes("q") }],
                ..frame.clone()
            },
        ),
        ("replies", Frame { replies: vec![reply.clone(), not_run], ..frame.clone() }),
        ("reply-first-piece", Frame { replies: vec![Reply { total: 5, transfer: 6, ..reply }], ..frame.clone() }),
        (
            "credits",
            Frame {
                credits: vec![
                    Credit { pair: 0, messages: 1, bytes: 300 },
                    Credit { pair: 1, messages: 64, bytes: 65_536 },
                ],
                ..frame.clone()
            },
        ),
        ("ping", Frame { ping: Some(Ping { nonce: 123_456_789 }), ..frame.clone() }),
        ("pong", Frame { pong: Some(Ping { nonce: 123_456_789 }), ..frame.clone() }),
        ("goodbye", Frame { goodbye: Some(Goodbye { why: "shutting down".into() }), ..frame.clone() }),
        ("want-credits", Frame { want_credits: true, ..frame }),
    ]
}

/// A hello as no rule allows it, for seeds.
pub fn strange_hello() -> Frame {
    let identity = Identity { system: "other".into(), ..Identity::default() };
    let hello = Hello { protocol: 9, oldest_protocol: 2, identity: Some(identity), ..Hello::default() };
    Frame { hello: Some(hello), welcome: Some(Welcome::default()), ..Frame::default() }
}
