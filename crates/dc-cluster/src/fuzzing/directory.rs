//! The directory's questions and answers, as other members send them.

use std::{collections::BTreeSet, time::Duration};

use dc_core::{Clock, Endpoint, NodeId, SystemClock};
use serde::{Serialize, de::DeserializeOwned};

use super::steps::{Step, Steps};
use crate::directory::{
    Entry,
    core::{Action, Core, NoAnswer},
    wire::{Digest, Framed, Request, Response, decode, encode, view_id},
};

const MEMBERS: [u128; 4] = [1, 2, 3, 4];
const MAX_NAMES: usize = 64;

fn again<T: Serialize + DeserializeOwned + std::fmt::Debug>(bytes: &[u8]) -> Option<(String, Vec<u8>)> {
    decode::<T>(bytes).map(|read| (format!("{read:?}"), encode(&read).expect("what was read can be written")))
}

/// Reads a question and writes it again: what was read, for people, and the bytes.
pub fn read_question(bytes: &[u8]) -> Option<(String, Vec<u8>)> {
    again::<Request>(bytes)
}

/// The same for an answer.
pub fn read_answer(bytes: &[u8]) -> Option<(String, Vec<u8>)> {
    again::<Response>(bytes)
}

/// Plays any bytes as a script of questions, answers, operations and time against one node's directory. Nothing
/// panics; each question of a member gets at most one answer and what is sent can be written; names stay bounded.
///
/// # Panics
///
/// Where that does not hold.
pub fn directory(script: &[u8]) {
    let mut now = SystemClock.now();
    let endpoint: Endpoint = "node-1.example:7946".parse().expect("legal");
    let mut core = Core::new(NodeId(1), endpoint, MAX_NAMES, 1, now);
    core.set_view(now, MEMBERS.map(|node| (NodeId(node), 1)), true);
    let (mut calls, mut asked, mut token) = (Vec::new(), BTreeSet::new(), 0);
    for Step { kind, argument, bytes } in Steps::of(script) {
        let member = NodeId(u128::from(argument % 5));
        match kind % 8 {
            0 | 1 => {
                if let Some(request) = decode::<Request>(bytes) {
                    token += 1;
                    asked.insert(token);
                    core.on_request(now, member, request, token, Duration::from_millis(u64::from(argument) * 10));
                }
            }
            2 | 3 => {
                if let Some(id) = calls.pop() {
                    let answer = match argument {
                        0 => Err(NoAnswer::Unreachable),
                        _ => decode::<Response>(bytes).ok_or(NoAnswer::Garbage),
                    };
                    core.on_answer(now, id, answer);
                }
            }
            4 => {
                let key = String::from_utf8_lossy(&bytes[..bytes.len().min(8)]).into_owned();
                let deadline = now + Duration::from_secs(1);
                match argument % 3 {
                    0 => drop(core.claim(now, (&key, "worker"), u64::from(argument), 7, deadline)),
                    1 => drop(core.lookup(now, &key, deadline)),
                    _ => drop(core.release(now, &key, u64::from(argument), true)),
                }
            }
            5 => {
                let members = MEMBERS.iter().filter(|&&node| node == 1 || argument & 1 << node != 0);
                core.set_view(now, members.map(|&node| (NodeId(node), u64::from(argument >> 5))), argument & 1 == 0);
            }
            _ => {
                now += Duration::from_millis(u64::from(argument) * 16);
                core.on_time(now);
            }
        }
        for action in core.take_actions() {
            match action {
                Action::Call { id, request, .. } => {
                    encode(&request).expect("a question of ours can be written");
                    calls.push(id);
                }
                Action::Reply { token, response } => {
                    encode(&response).expect("an answer of ours can be written");
                    assert!(asked.remove(&token), "one question, one answer");
                }
                Action::Done { .. } | Action::Evicted(_) => {}
            }
        }
        // Some hundred operations of one script, at most.
        assert!(core.hosts().len() <= 64, "{} names hosted", core.hosts().len());
    }
}

/// Bytes, and a name for each.
pub type Samples = Vec<(&'static str, Vec<u8>)>;

/// A question and an answer of every kind.
pub fn directory_samples() -> (Samples, Samples) {
    let entry = |key: &str, holder| Entry {
        key: key.into(),
        kind: "worker".into(),
        holder: NodeId(holder),
        endpoint: "node-2.example:7946".parse().expect("legal"),
        actor: 7,
        request: 9,
        age: 1_000,
    };
    let (one, two) = (entry("orders", 2), entry("orders", 3));
    let view = view_id(&MEMBERS.map(|node| (NodeId(node), 1)));
    let mut digest = Digest::default();
    digest.add(&one);
    let framed = |body: Request| encode(&Framed { clock: 1_000, body }).expect("can be written");
    let questions = vec![
        ("claim", framed(Request::Claim(Entry { age: 0, ..one.clone() }))),
        ("lookup", framed(Request::Lookup { key: "orders".into(), backup: false })),
        ("release", framed(Request::Release { entry: one.clone(), ran: true })),
        ("replicate", framed(Request::Replicate(one.clone()))),
        ("forget", framed(Request::Forget { entry: one.clone(), ran: false })),
        ("pull", framed(Request::Pull { view, digest, after: Some("a".into()), spent: true })),
        ("evict", framed(Request::Evict { lost: two, kept: one.clone() })),
    ];
    let framed = |body: Response| encode(&Framed { clock: 1_000, body }).expect("can be written");
    let answers = vec![
        ("granted", framed(Response::Granted(one.clone()))),
        ("same", framed(Response::Same(one.clone()))),
        ("taken", framed(Response::Taken(one.clone()))),
        ("found", framed(Response::Found(Some(one.clone())))),
        ("found-none", framed(Response::Found(None))),
        ("not-primary", framed(Response::NotPrimary)),
        ("busy", framed(Response::Busy)),
        ("full", framed(Response::Full)),
        ("done", framed(Response::Done)),
        ("other-view", framed(Response::OtherView)),
        ("unchanged", framed(Response::Unchanged { spent: vec![one.clone()] })),
        ("page", framed(Response::Page { entries: vec![one.clone()], next: Some("orders".into()), spent: vec![one] })),
        ("refused", framed(Response::Refused)),
    ];
    (questions, answers)
}

/// Scripts that are worth starting from.
pub fn directory_seeds() -> Vec<(String, Vec<u8>)> {
    let (questions, answers) = directory_samples();
    let mut seeds = Vec::new();
    for (name, bytes) in questions {
        let mut script = Vec::new();
        for member in [42, 43, 44] {
            Steps::write(&mut script, 0, member, &bytes);
            Steps::write(&mut script, 2, 1, &answers[8].1);
        }
        Steps::write(&mut script, 6, 60, &[]);
        seeds.push((format!("question-{name}"), script));
    }
    for (name, bytes) in answers {
        let mut script = Vec::new();
        Steps::write(&mut script, 4, 0, b"orders");
        Steps::write(&mut script, 4, 1, b"orders");
        for _ in 0..6 {
            Steps::write(&mut script, 2, 1, &bytes);
        }
        Steps::write(&mut script, 5, 0b0000_1100, &[]);
        Steps::write(&mut script, 4, 2, b"orders");
        Steps::write(&mut script, 6, 60, &[]);
        seeds.push((format!("answer-{name}"), script));
    }
    seeds
}
