//! Gossip datagrams: sealed and in the clear, foreign, cut short, and bodies that a member with the key may send.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use dc_core::{Clock, Endpoint, NodeId, SystemClock, SystemName};

use super::steps::{Step, Steps};
use crate::{
    GossipKey, GossipTiming,
    identity::Identity,
    membership::{
        core::{Core, MAX_DATAGRAM, Own},
        split::{Seen, Standing},
        wire::{Packet, Tell, decode},
    },
    seal::{Dropped, Envelope, WIRE_VERSION},
};

/// Members that a core keeps, and itself.
const MAX_MEMBERS: usize = 4096 + 1;

fn envelope(keys: &[u8]) -> Envelope {
    let keys: Vec<_> = keys.iter().map(|&byte| GossipKey::new([byte; 32])).collect();
    Envelope::new(&SystemName::new("app").expect("legal"), &"eu/dc-1".parse().expect("legal"), &keys)
}

fn own(n: u8) -> Own {
    let addr: SocketAddr = ([10, 0, 0, n], 7946).into();
    Own { node: NodeId(u128::from(n)), addr, endpoint: addr.into() }
}

fn core(n: u8, keys: &[u8], now: Instant) -> Core {
    Core::new(own(n), GossipTiming::lan(), Duration::from_millis(500), true, envelope(keys), 1, now)
}

/// Why `datagram` is dropped by a node with these keys; the body where it is not.
pub fn open(keys: &[u8], datagram: &[u8]) -> Result<Vec<u8>, String> {
    envelope(keys).open(datagram).map_err(|why| format!("{why:?}"))
}

/// A datagram with `body`, sealed with the first of these keys, or in the clear where there is none.
pub fn close(keys: &[u8], body: &[u8]) -> Vec<u8> {
    envelope(keys).close(body)
}

/// Reads a body and writes it again: what was read, for people, and the bytes.
pub fn read_body(body: &[u8]) -> Option<(String, Vec<u8>)> {
    decode(body).map(|packet| (format!("{packet:?}"), packet.encode().expect("what was read can be written")))
}

/// Plays any bytes as a script of datagrams and time against one member's core: an even first byte with a key, an odd
/// one without. Nothing panics; what is foreign, cut or sealed otherwise is dropped for the right reason; what the
/// core sends fits a datagram and reads back; the view stays bounded and holds the node itself.
///
/// # Panics
///
/// Where that does not hold.
pub fn gossip(bytes: &[u8]) {
    let Some((&switches, script)) = bytes.split_first() else { return };
    let keys: &[u8] = if switches & 1 == 0 { &[1] } else { &[] };
    let ours = envelope(keys);
    let mut now = SystemClock.now();
    let mut core = core(1, keys, now);
    if switches & 2 != 0 {
        // Nobody answers: it founds.
        now += Duration::from_secs(1);
        core.on_time(now);
    }
    drain(&mut core, &ours);
    for Step { kind, argument, bytes } in Steps::of(script) {
        let from: SocketAddr = ([10, 0, 0, argument], 7946).into();
        match kind % 8 {
            // What a member says; twice as likely as anything else.
            0 | 1 => {
                let result = core.on_datagram(now, from, &ours.close(bytes));
                assert!(matches!(result, Ok(()) | Err(Dropped::Malformed | Dropped::TooMany)), "{result:?}");
            }
            2 => drop(core.on_datagram(now, from, bytes)),
            3 => {
                let sealed = envelope(&[argument | 2]).close(bytes);
                assert_eq!(core.on_datagram(now, from, &sealed), Err(Dropped::Key), "another key");
            }
            4 => {
                let mut cut = ours.close(bytes);
                cut.truncate(cut.len().saturating_sub(1 + usize::from(argument)));
                let result = core.on_datagram(now, from, &cut);
                assert!(keys.is_empty() || result.is_err(), "a datagram that was cut");
            }
            5 => {
                let mut later = ours.close(bytes);
                later[4] = WIRE_VERSION.wrapping_add(argument.max(1));
                assert_eq!(core.on_datagram(now, from, &later), Err(Dropped::Version), "another wire version");
            }
            6 => {
                now += Duration::from_millis(u64::from(argument) * 16);
                core.on_time(now);
                assert!(core.deadline().is_none_or(|due| due > now), "what is due was done");
            }
            _ => core.on_seeds(now, bytes.iter().take(16).map(|&n| ([10, 0, 0, n], 7946).into()).collect()),
        }
        drain(&mut core, &ours);
    }
    core.leave();
    drain(&mut core, &ours);
}

fn drain(core: &mut Core, ours: &Envelope) {
    let out = core.take_output();
    for (_, datagram) in &out.send {
        assert!(datagram.len() <= MAX_DATAGRAM, "a datagram of {} bytes", datagram.len());
        let body = ours.open(datagram).expect("what a node sends opens");
        assert!(decode(&body).is_some(), "what a node sends reads back");
    }
    let view = core.view();
    let nodes: BTreeSet<NodeId> = view.members.iter().map(|member| member.node).collect();
    assert!(nodes.contains(&view.me), "a view without the node itself");
    assert!(view.members.len() <= MAX_MEMBERS, "{} members", view.members.len());
}

/// A body of every kind: a name for each.
pub fn gossip_samples() -> Vec<(&'static str, Vec<u8>)> {
    let id = Identity { addr: own(2).addr, seniority: 3, node: NodeId(2), named: false };
    let tell = Tell {
        nonce: 7,
        hops: 1,
        to: Some(id),
        from: Identity { addr: own(3).addr, seniority: 1, node: NodeId(3), named: true },
        endpoint: "node-3.example:7946".parse().expect("legal"),
        highest: 5,
        you: Seen::Down,
        standing: Standing { size: 2, leader: (1, NodeId(3)), me: (1, NodeId(3)) },
    };
    let endpoint: Endpoint = "node-3.example:7946".parse().expect("legal");
    [
        ("foca", Packet::Foca(b"bytes of foca")),
        ("ask", Packet::Ask { nonce: 300, node: NodeId(2), from: Some(id) }),
        ("ask-before-joining", Packet::Ask { nonce: 300, node: NodeId(2), from: None }),
        ("tell", Packet::Tell(tell)),
        ("founding", Packet::Founding { nonce: 300, node: NodeId(2) }),
        ("who", Packet::Who),
        ("iam", Packet::Iam { node: NodeId(3), endpoint }),
        ("leave", Packet::Leave(id)),
        ("rally", Packet::Rally(own(3).addr)),
    ]
    .map(|(name, packet)| (name, packet.encode().expect("a body of ours can be written")))
    .into()
}

/// Scripts that are worth starting from: real members founding, joining, leaving, as one of them receives them.
pub fn gossip_seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds: Vec<(String, Vec<u8>)> = gossip_samples()
        .iter()
        .flat_map(|(name, body)| {
            [0u8, 1, 2, 3].map(|switches| {
                let mut script = vec![switches];
                Steps::write(&mut script, 0, 2, body);
                Steps::write(&mut script, 6, 40, &[]);
                (format!("{name}-{switches}"), script)
            })
        })
        .collect();
    for (kind, name) in [(2, "raw"), (3, "another-key"), (4, "cut"), (5, "another-version"), (7, "seeds")] {
        let mut script = vec![2];
        // In the clear, as a seal differs each time.
        Steps::write(&mut script, kind, 9, &envelope(&[]).close(b"x"));
        seeds.push((name.into(), script));
    }
    for switches in [0, 2] {
        seeds.push((format!("conversation-{switches}"), conversation(switches)));
    }
    seeds
}

/// What two others say to the fuzzed core in five seconds, after which one of them leaves.
fn conversation(switches: u8) -> Vec<u8> {
    let start = SystemClock.now();
    let mut now = start;
    let ours = envelope(&[1]);
    let mut cores: Vec<Core> = (1..=3).map(|n| core(n, &[1], now)).collect();
    let mut script = vec![switches];
    if switches & 2 != 0 {
        now += Duration::from_secs(1);
        cores[0].on_time(now);
    }
    let seeds: Vec<SocketAddr> = (1..=3).map(|n| own(n).addr).collect();
    for core in &mut cores {
        core.on_seeds(now, seeds.clone());
    }
    Steps::write(&mut script, 7, 0, &[1, 2, 3]);
    for round in 0..50 {
        now += Duration::from_millis(96);
        Steps::write(&mut script, 6, 6, &[]);
        cores.iter_mut().for_each(|core| core.on_time(now));
        if round == 40 {
            cores[2].leave();
        }
        // Until nobody has anything to say.
        loop {
            let mut said = Vec::new();
            for (n, core) in cores.iter_mut().enumerate() {
                said.extend(core.take_output().send.into_iter().map(|sent| (own(n as u8 + 1).addr, sent)));
            }
            if said.is_empty() {
                break;
            }
            for (from, (to, datagram)) in said {
                if let Some(n) = (1..=3).find(|&n| own(n).addr == to) {
                    // A node that has left answers nothing.
                    let _ = cores[usize::from(n) - 1].on_datagram(now, from, &datagram);
                    if let (1, Ok(body), SocketAddr::V4(from)) = (n, ours.open(&datagram), from) {
                        Steps::write(&mut script, 0, from.ip().octets()[3], &body);
                    }
                }
            }
        }
    }
    script
}
