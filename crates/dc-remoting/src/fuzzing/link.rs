//! The link as a state machine: frames in any order, over any lane, from either side.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use dc_core::{DataCenter, NodeId, SystemClock, SystemName};
use futures::future::join_all;
use parking_lot::Mutex;
use prost::Message as _;

use super::{
    local,
    raw::{Answering, Dialled, Taken},
};
use crate::{
    Accept, Incoming, Message, PeerIdentity, PeerTarget, Receiver, Remoting, RemotingConfig, ReplyTo, Service,
    ServiceId, Services, Undelivered,
    wire::{Envelope, Frame, LaneKind, Ping, hello_frame, welcome_frame},
};

/// How long an end may take to answer, or to close: far longer than it ever needs.
const LIMIT: Duration = Duration::from_secs(20);

/// What closes every script: whoever reads this far answers it.
const NONCE: u64 = 0x6675_7a7a;

/// Which end is fuzzed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sides {
    /// The fuzzer dials; frames arrive at the dialled.
    Inbound,
    /// The fuzzer is dialled; frames arrive at the dialler, which has asked something.
    Outbound,
}

/// A script: a byte of switches, then frames, each after its lane (one byte) and its length (two, little endian).
struct Script<'a> {
    sides: Sides,
    /// Inbound: nothing is ever accepted. Outbound: the window granted is small.
    tight: bool,
    steps: Vec<(usize, &'a [u8])>,
}

/// Frames of one script, at most: enough for any state, and bounds the time of one run.
const MAX_STEPS: usize = 64;

impl<'a> Script<'a> {
    fn read(bytes: &'a [u8]) -> Self {
        let (switches, mut rest) = bytes.split_first().map_or((0, bytes), |(first, rest)| (*first, rest));
        let mut steps = Vec::new();
        while let ([lane, low, high, tail @ ..], true) = (rest, steps.len() < MAX_STEPS) {
            let len = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
            let (frame, after) = tail.split_at(len);
            steps.push((usize::from(lane % 3), frame));
            rest = after;
        }
        let sides = if switches & 1 == 0 { Sides::Inbound } else { Sides::Outbound };
        Self { sides, tight: switches & 2 != 0, steps }
    }
}

/// Writes a script that [`link`] plays.
pub fn script(sides: Sides, tight: bool, steps: &[(LaneKind, &[u8])]) -> Vec<u8> {
    let mut out = vec![u8::from(sides == Sides::Outbound) | u8::from(tight) << 1];
    for (lane, frame) in steps {
        // Frames of scripts are small; a longer one is cut, as the reader of the script would cut it.
        let len = u16::try_from(frame.len()).unwrap_or(u16::MAX);
        out.push(*lane as u8 - 1);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&frame[..usize::from(len)]);
    }
    out
}

/// Plays any bytes as a script of frames against a real end of a link over loopback sockets. That end answers what
/// comes after, or has closed; every ask ends; the node goes on.
///
/// # Panics
///
/// Where it does not, within 20 s.
pub fn link(bytes: &[u8]) {
    let script = Script::read(bytes);
    // A runtime of its own for each run: nothing is left of the one before.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let run = async {
        match script.sides {
            Sides::Inbound => inbound(&script).await,
            Sides::Outbound => outbound(&script).await,
        }
    };
    runtime.block_on(async {
        // A program without Rust's own `main` (libFuzzer's) is killed by a write to a closed socket unless it listens.
        let _ = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::pipe()).expect("a signal handler");
        tokio::time::timeout(LIMIT, run).await.unwrap_or_else(|_| panic!("{:?}: not over in time", script.sides));
    });
    // Tasks of the link end with the runtime; none of them blocks.
    runtime.shutdown_background();
}

/// Answers asks with what they say.
#[derive(Default)]
struct Echo {
    /// Where it is tight, nothing is accepted: all is kept here.
    held: Option<Mutex<Vec<Accept>>>,
}

impl Receiver for Echo {
    fn message(&self, _: &Arc<PeerIdentity>, incoming: Incoming) {
        match &self.held {
            Some(held) => held.lock().push(incoming.accept),
            None => drop(incoming.accept),
        }
        if let Some(reply) = incoming.reply {
            reply.send(0, incoming.message.payload);
        }
    }

    fn undelivered(&self, _: Undelivered) {}
}

impl Service for Echo {
    fn call(&self, _: &Arc<PeerIdentity>, body: Bytes, _: Duration, reply: ReplyTo) {
        reply.send(0, body);
    }
}

async fn node(receiver: Arc<Echo>) -> Remoting {
    let services = Services::new().receiver(receiver).service(ServiceId(1), Arc::new(Echo::default()));
    let dc = DataCenter::new("dc-1").build().expect("legal");
    let config = RemotingConfig::builder(SystemName::new("app").expect("legal"), dc.id().clone(), NodeId(1)).seed(1);
    // A machine that is busy with other things may leave this one waiting for longer than the default of 5 s.
    let config = config.handshake_timeout(LIMIT).build().expect("legal");
    Remoting::start(config, Arc::new(SystemClock), services).await.expect("a free port")
}

fn hello(link: u128, lane: LaneKind) -> Bytes {
    hello_frame(&local(), link, lane).encode_to_vec().into()
}

const LANES: [LaneKind; 3] = [LaneKind::Control, LaneKind::User, LaneKind::Bulk];

async fn inbound(script: &Script<'_>) {
    let receiver = Arc::new(Echo { held: script.tight.then(Mutex::default) });
    let node = node(receiver.clone()).await;
    let address = node.local_addr();
    let mut lanes = Vec::new();
    for lane in LANES {
        lanes.push(Dialled::open(address, hello(9, lane)).await.expect("a legal hello is welcome"));
    }
    for (lane, frame) in &script.steps {
        // A lane that was closed takes nothing.
        let _ = lanes[*lane].out.send(Bytes::copy_from_slice(frame));
    }
    let ping = Frame { ping: Some(Ping { nonce: NONCE }), ..Frame::default() };
    let ping = Bytes::from(ping.encode_to_vec());
    for lane in &lanes {
        let _ = lane.out.send(ping.clone());
    }
    join_all(lanes.iter_mut().map(goes_on_or_ends)).await;
    serves(address).await;
    // The peer goes, and so does what the node kept for it.
    drop(lanes);
    while node.taken().links > 0 || node.taken().connections > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // What is kept knows the node, which knows its receiver.
    if let Some(held) = &receiver.held {
        held.lock().clear();
    }
}

/// Reads what comes back until the pong, or the end of the lane.
async fn goes_on_or_ends(lane: &mut Dialled) {
    while let Ok(Some(bytes)) = lane.back.message().await {
        let frame = Frame::decode(bytes).expect("what a node writes is well formed");
        if frame.pong.is_some_and(|pong| pong.nonce == NONCE) {
            return;
        }
    }
}

/// Another link to the node is served.
async fn serves(address: SocketAddr) {
    let mut lane = Dialled::open(address, hello(10, LaneKind::User)).await.expect("the node takes links");
    answers(&mut lane).await;
}

/// An ask over the lane is answered.
async fn answers(lane: &mut Dialled) {
    let ask =
        Envelope { correlation: 4, left_us: 20_000_000, payload: Bytes::from_static(b"x"), ..Envelope::default() };
    let ask = Frame { envelopes: vec![ask], ..Frame::default() };
    let _ = lane.out.send(ask.encode_to_vec().into());
    loop {
        let bytes = lane.back.message().await.expect("an open lane").expect("an open lane");
        if Frame::decode(bytes).expect("well formed").replies.iter().any(|reply| reply.correlation == 4) {
            return;
        }
    }
}

/// What a welcome grants: nearly nothing where it is tight.
fn welcome(tight: bool) -> Bytes {
    static CONFIG: OnceLock<RemotingConfig> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let local = local();
        RemotingConfig::builder(local.system, local.dc, local.node).build().expect("defaults are legal")
    });
    let mut frame = welcome_frame(&local(), local().protocol, config);
    if let (true, Some(welcome)) = (tight, &mut frame.welcome) {
        welcome.link_window = 80 << 10;
        (welcome.max_pairs, welcome.max_symbols) = (1, 1);
    }
    frame.encode_to_vec().into()
}

async fn outbound(script: &Script<'_>) {
    let (address, mut opened) = Answering::start(welcome(script.tight)).await.expect("a free port");
    let node = node(Arc::default()).await;
    let peer = node.peer(PeerTarget::at(address.into()));
    let ask = |n: u8| {
        let message = Message {
            to: 7,
            kind: "worker".into(),
            key: Bytes::new(),
            message: "work".into(),
            epoch: 0,
            from: Bytes::new(),
            // The second is cut in pieces, the third large enough for the bulk lane.
            payload: vec![n; [1, 300 << 10, 70 << 10][usize::from(n)]].into(),
        };
        let pair = peer.pair();
        async move { pair.ask(message, Duration::from_secs(1)).await }
    };
    let call = peer.call(ServiceId(1), Bytes::from_static(b"q"), Duration::from_secs(1));
    let asked = async { tokio::join!(ask(0), ask(1), ask(2), call) };
    let play = async {
        let mut lanes: Vec<Taken> = Vec::new();
        while lanes.len() < 3 {
            lanes.push(opened.recv().await.expect("the dialler opens three lanes"));
        }
        lanes.sort_by_key(|taken| taken.lane);
        // Once the first question is here, the rest is under way or waits.
        let _ = lanes[0].frames.message().await;
        let (mut outs, mut ins): (Vec<_>, Vec<_>) = lanes.into_iter().map(|taken| (taken.out, taken.frames)).unzip();
        for (lane, frame) in &script.steps {
            let _ = outs[*lane].send(Bytes::copy_from_slice(frame));
        }
        // Nothing more comes: the dialler has to notice.
        outs.clear();
        for frames in &mut ins {
            while let Ok(Some(frame)) = frames.message().await {
                Frame::decode(frame).expect("what a node writes is well formed");
            }
        }
    };
    // Every ask ends, with an answer or an error, and the link with its lanes.
    let (_answers_or_errors, ()) = tokio::join!(asked, play);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_reads_as_written() {
        let written = script(Sides::Outbound, true, &[(LaneKind::Bulk, b"abc"), (LaneKind::Control, b"")]);
        let read = Script::read(&written);
        assert_eq!((read.sides, read.tight), (Sides::Outbound, true));
        assert_eq!(read.steps, [(2, &b"abc"[..]), (0, &b""[..])]);
    }

    #[test]
    fn r5_a_lane_that_is_opened_twice_keeps_nothing_of_what_it_owes_later() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let receiver = Arc::new(Echo { held: Some(Mutex::default()) });
        runtime.block_on(async {
            let node = node(receiver.clone()).await;
            let mut first = Dialled::open(node.local_addr(), hello(9, LaneKind::User)).await.expect("welcome");
            answers(&mut first).await;
            let second = Dialled::open(node.local_addr(), hello(9, LaneKind::User)).await;
            assert!(second.is_err(), "one link has one lane of each kind");
            let held = receiver.held.as_ref().expect("it holds what it was given");
            // Now the lane that was there first would owe credits.
            assert_eq!(std::mem::take(&mut *held.lock()).len(), 1);
        });
        drop(runtime);
        assert_eq!(Arc::strong_count(&receiver), 1, "the node is gone");
    }
}
