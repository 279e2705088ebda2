//! Seeds that derive from real encoders. `cargo xtask fuzz --write-seeds` writes them to `fuzz/seeds/`.

use dc_remoting::{
    fuzzing::{self, Sides, script},
    proto::{Chunk, Credit, Envelope, Frame, LaneKind, Outcome, Ping, Reply},
};
use prost::Message;

/// Frames of every kind, as prost writes them and as the writers do.
pub fn frames() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (name, frame) in fuzzing::samples() {
        seeds.push((name.to_owned(), frame.encode_to_vec()));
        let fast = fuzzing::write_fast(&frame);
        if !fast.is_empty() {
            seeds.push((format!("{name}-as-written"), fast.into()));
        }
    }
    seeds.push(("strange-hello".into(), fuzzing::strange_hello().encode_to_vec()));
    let all = fuzzing::samples().iter().flat_map(|(_, frame)| frame.encode_to_vec()).collect();
    seeds.push(("all-in-one".into(), all));
    seeds
}

/// Scripts for both sides of a link: each frame alone, and the courses that a link takes.
pub fn links() -> Vec<(String, Vec<u8>)> {
    let frame = Frame::default();
    let samples: Vec<_> = fuzzing::samples().into_iter().map(|(name, frame)| (name, frame.encode_to_vec())).collect();
    let mut seeds = Vec::new();
    for (name, bytes) in &samples {
        for (lane, lane_name) in [(LaneKind::Control, "control"), (LaneKind::User, "user")] {
            seeds.push((format!("in-{name}-{lane_name}"), script(Sides::Inbound, false, &[(lane, bytes)])));
        }
        seeds.push((format!("out-{name}"), script(Sides::Outbound, false, &[(LaneKind::User, bytes)])));
    }
    let of = |wanted: &str| samples.iter().find(|(name, _)| *name == wanted).map_or(&[][..], |(_, bytes)| bytes);
    let large = Envelope { correlation: 8, left_us: 9_000_000, total: 8, transfer: 4, ..Envelope::default() };
    let first = Frame { envelopes: vec![large], ..frame.clone() }.encode_to_vec();
    let piece = |data: &'static [u8]| {
        Frame { chunks: vec![Chunk { transfer: 4, data: data.into() }], ..frame.clone() }.encode_to_vec()
    };
    let (some, rest) = (piece(b"abc"), piece(b"defgh"));
    let whole = [(LaneKind::Bulk, &first[..]), (LaneKind::Bulk, &some), (LaneKind::Bulk, &rest)];
    seeds.push(("in-pieces".into(), script(Sides::Inbound, false, &whole)));
    seeds.push(("in-too-many-pieces".into(), script(Sides::Inbound, false, &[whole[0], whole[2], whole[2]])));
    let course = [
        (LaneKind::User, of("symbols")),
        (LaneKind::User, of("ask")),
        (LaneKind::User, of("want-credits")),
        (LaneKind::Control, of("call")),
        (LaneKind::Control, of("ping")),
        (LaneKind::Bulk, of("goodbye")),
    ];
    for tight in [false, true] {
        seeds.push((format!("in-course-{tight}"), script(Sides::Inbound, tight, &course)));
    }
    // The correlations of the first asks of a link: generation, slot, lane.
    let answers = |outcome: Outcome| {
        let reply = |correlation| Reply { correlation, outcome: outcome.into(), body: "hi".into(), ..Reply::default() };
        let replies = [1 << 32 | 1, 1 << 32 | 2, 2 << 32 | 5, 1 << 32].map(reply).to_vec();
        Frame { replies, ..frame.clone() }.encode_to_vec()
    };
    let credits: Vec<_> = (0..3).map(|pair| Credit { pair, messages: 1, bytes: 400_000 }).collect();
    let credits = Frame { credits, pong: Some(Ping { nonce: 1 }), ..frame.clone() }.encode_to_vec();
    for (name, outcome) in
        [("answered", Outcome::Answered), ("not-run", Outcome::NotRun), ("expired", Outcome::Expired)]
    {
        let answers = answers(outcome);
        let course = [(LaneKind::User, &credits[..]), (LaneKind::Control, &answers), (LaneKind::User, &answers)];
        for tight in [false, true] {
            seeds.push((format!("out-{name}-{tight}"), script(Sides::Outbound, tight, &course)));
        }
    }
    let begun = Reply { correlation: 1 << 32 | 1, total: 8, transfer: 4, ..Reply::default() };
    let begun = Frame { replies: vec![begun], ..frame }.encode_to_vec();
    let course = [(LaneKind::Bulk, &begun[..]), (LaneKind::Bulk, &some), (LaneKind::Bulk, &rest)];
    seeds.push(("out-pieces".into(), script(Sides::Outbound, false, &course)));
    seeds
}

/// Records and intents of every state, and documents of later versions.
pub fn records() -> Vec<(String, Vec<u8>)> {
    crate::records::samples()
        .into_iter()
        .chain(crate::records::of_later_versions())
        .map(|(name, document)| (name.to_owned(), document))
        .collect()
}

/// Bodies of every kind.
pub fn payloads() -> Vec<(String, Vec<u8>)> {
    dc_actor::fuzzing::samples().into_iter().map(|(name, body)| (name.to_owned(), body.into())).collect()
}
