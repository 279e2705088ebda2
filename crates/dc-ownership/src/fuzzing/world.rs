//! One node, a store without faults of its own, and a script of what strangers write there.
//!
//! A script is text, a step for each line: `+MS` lets time pass; `-KEY` removes a document; `?` loses the answer to
//! the node's next write; `~` opens its watches anew; `@NAME` claims a name here; `!NAME` lets it go; `#` drains the
//! node; `*BODY` writes over its own session; anything else is `KEY BODY`, a document that somebody writes. What cannot be read is passed over.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use dc_controlplane::{
    Expected,
    ownership::{Document, DocumentKey},
};
use dc_core::{Clock, Epoch, SystemClock, Version};

use super::{STORE, elsewhere, group, key, me, of_later_versions, owner, read, samples, session, spec};
use crate::{
    core::{Answer, Ask, Core, Effect, Input, Op, OrderOut, Outcome, Setup, Written},
    documents::{NameDocument, PREFIXES, SlotsDocument, Unit},
    drain::DrainOptions,
    ids::{SLOTS_PER_DOCUMENT, SessionId},
    options::OwnershipOptions,
    policy::Policy,
    table::Owner,
};

/// What one step may have a node do: far more than any document can ask for.
const MOST: usize = 20_000;

/// The longest that one step lets pass.
const LONGEST: Duration = Duration::from_secs(9);

/// The most steps of a script that are run.
const STEPS: usize = 64;

#[derive(Debug)]
struct Hand {
    base: Instant,
    ms: AtomicU64,
}

impl Clock for Hand {
    fn now(&self) -> Instant {
        self.base + Duration::from_millis(self.ms.load(Ordering::Relaxed))
    }
}

struct World {
    core: Core,
    clock: Arc<Hand>,
    stored: BTreeMap<DocumentKey, (Bytes, u64)>,
    revision: u64,
    generation: u64,
    lose_next: bool,
    ops: u64,
    inbox: VecDeque<Input>,
}

/// Runs a script.
///
/// # Panics
///
/// Where the node does, writes what cannot be read, or never comes to rest.
pub(super) fn run(script: &[u8]) {
    let clock = Arc::new(Hand { base: SystemClock.now(), ms: AtomicU64::new(0) });
    // Two seconds are a legal TTL.
    let options = OwnershipOptions::builder().ttl(Duration::from_secs(2)).build().expect("legal");
    let setup = Setup {
        me: me(7, "dc-1"),
        kinds: vec![("cart".into(), Policy::default())],
        placeable: Arc::new(|_| true),
        options,
        clock: clock.clone(),
        seed: 1,
        documents: 2,
        plant: None,
    };
    let core = Core::new(setup, clock.now());
    let mut world = World {
        core,
        clock,
        stored: BTreeMap::new(),
        revision: 0,
        generation: 0,
        lose_next: false,
        ops: 0,
        inbox: VecDeque::new(),
    };
    world.settle();
    world.pass(Duration::from_millis(100));
    for line in script.split(|byte| *byte == b'\n').take(STEPS) {
        world.step(line);
    }
    world.pass(LONGEST);
    // What is shown to people on call is shown of any state.
    let _ = format!("{:?}", world.core);
}

impl World {
    fn step(&mut self, line: &[u8]) {
        let Some((first, rest)) = line.split_first() else { return };
        let text = String::from_utf8_lossy(rest);
        self.ops += 1;
        let op = self.ops;
        match first {
            b'+' => {
                let passes = text.trim().parse().map_or(Duration::ZERO, Duration::from_millis);
                self.pass(passes.min(LONGEST));
            }
            b'-' => {
                if let Ok(key) = text.parse() {
                    self.remove(key);
                }
            }
            b'?' => self.lose_next = true,
            b'~' => self.replay(),
            b'*' => {
                if let Some(session) = self.core.session() {
                    self.store(key(&Unit::Session(session)), Bytes::copy_from_slice(rest));
                }
            }
            b'@' => self.inbox.push_back(Input::Asked { op, ask: Op::Claim(spec(&text)) }),
            b'!' => {
                let epoch = Epoch(self.revision);
                self.inbox.push_back(Input::Asked { op, ask: Op::Release(text.into_owned(), epoch) });
            }
            b'#' => self.inbox.push_back(Input::Drain { number: op, options: DrainOptions::default() }),
            _ => {
                let at = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
                let (key, body) = line.split_at(at);
                if let Ok(key) = String::from_utf8_lossy(key).parse() {
                    self.store(key, Bytes::copy_from_slice(body.get(1..).unwrap_or_default()));
                }
            }
        }
        self.settle();
    }

    fn store(&mut self, key: DocumentKey, body: Bytes) -> Version {
        self.revision += 1;
        self.stored.insert(key.clone(), (body.clone(), self.revision));
        let document = Document { key, body, version: self.version() };
        self.inbox.push_back(Input::Put { generation: self.generation, document });
        self.version()
    }

    fn remove(&mut self, key: DocumentKey) {
        self.revision += 1;
        self.stored.remove(&key);
        self.inbox.push_back(Input::Gone { generation: self.generation, key, version: self.version() });
    }

    fn version(&self) -> Version {
        Version::new(STORE, self.revision)
    }

    fn stored(&self, key: &DocumentKey) -> Option<Document> {
        let (body, revision) = self.stored.get(key)?;
        Some(Document { key: key.clone(), body: body.clone(), version: Version::new(STORE, *revision) })
    }

    fn replay(&mut self) {
        for (prefix, begins) in PREFIXES.into_iter().enumerate() {
            let generation = self.generation;
            self.inbox.push_back(Input::ReplayBegun { generation, prefix });
            let there = self.stored.keys().filter(|key| key.as_str().starts_with(begins));
            let shown: Vec<_> = there.filter_map(|key| self.stored(key)).collect();
            self.inbox.extend(shown.into_iter().map(|document| Input::Put { generation, document }));
            self.inbox.push_back(Input::ReplayDone { generation, prefix, as_of: self.version() });
        }
    }

    /// Lets time pass, from one of the node's deadlines to the next.
    fn pass(&mut self, time: Duration) {
        let until = self.clock.now() + time;
        for _ in 0..MOST {
            let due = self.core.deadline().filter(|due| *due < until);
            let now = due.unwrap_or(until).max(self.clock.now());
            // The hand moves by whole milliseconds: to the first at or after the deadline.
            let ms = now.duration_since(self.clock.base).as_nanos().div_ceil(1_000_000);
            self.clock.ms.store(u64::try_from(ms).unwrap_or(u64::MAX), Ordering::Relaxed);
            self.core.tick(self.clock.now());
            self.settle();
            if due.is_none() {
                return;
            }
        }
        panic!("{MOST} deadlines within {time:?}");
    }

    /// Answers what the node asks, until it asks nothing more.
    fn settle(&mut self) {
        for _ in 0..MOST {
            for effect in self.core.take_effects() {
                self.carry_out(effect);
            }
            match self.inbox.pop_front() {
                Some(input) => self.core.put(input, self.clock.now()),
                None => return,
            }
        }
        panic!("{MOST} things to do, and no end");
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Send(request) => {
                let result = self.answer(&request.key, request.ask);
                self.inbox.push_back(Input::Written { request: request.id, result });
            }
            Effect::Watch { generation } => {
                self.generation = generation;
                self.replay();
            }
            Effect::Order(OrderOut::Quiesce { token, .. }) => {
                self.inbox.push_back(Input::Answered { token, answer: Answer::Quiesced(Some(Vec::new())) });
            }
            Effect::Order(OrderOut::Adopt { token, .. }) => {
                self.inbox.push_back(Input::Answered { token, answer: Answer::Adopted(Ok(())) });
            }
            Effect::Offer { token, .. } => {
                self.inbox.push_back(Input::Answered { token, answer: Answer::Offered(Ok(())) });
            }
            _ => {}
        }
    }

    fn answer(&mut self, key: &DocumentKey, ask: Ask) -> Written {
        let stored = self.stored(key);
        let is = stored.as_ref().map(|document| document.version);
        let result = match ask {
            Ask::Read => return Written::Read(stored),
            Ask::Write { expected, body, .. } => {
                let wanted = match expected {
                    Expected::Absent => None,
                    Expected::Version(version) => Some(version),
                };
                if wanted != is {
                    return Written::Refused(stored);
                }
                let document = Document { key: key.clone(), body: body.clone(), version: self.version() };
                assert!(read(&document).is_some(), "the node writes what nobody can read: {document:?}");
                Written::Done(self.store(key.clone(), body))
            }
            Ask::Remove(version) => {
                if is != Some(version) {
                    return Written::Refused(stored);
                }
                self.remove(key.clone());
                Written::Done(self.version())
            }
        };
        if std::mem::take(&mut self.lose_next) { Written::Failed(Outcome::Unknown) } else { result }
    }
}

/// Scripts to start from: every document alone, and the courses that a node goes through.
pub fn scripts() -> Vec<(String, Vec<u8>)> {
    let line = |unit: &Unit, body: Bytes| format!("{} {}", key(unit), String::from_utf8_lossy(&body));
    let mut scripts: Vec<(String, Vec<u8>)> = samples()
        .into_iter()
        .map(|(name, key, body)| (name.to_owned(), format!("{key} {}", String::from_utf8_lossy(&body)).into_bytes()))
        .collect();
    let later = of_later_versions().into_iter();
    scripts.extend(
        later.map(|(name, key, body)| (name, format!("{key} {}", String::from_utf8_lossy(&body)).into_bytes())),
    );
    let other = me(9, "dc-2");
    let open = |n| line(&Unit::Session(SessionId(5)), session(&other, n).write());
    let rows = |row: Owner| vec![Some(row); usize::from(SLOTS_PER_DOCUMENT)];
    let document = |row: Owner, apart: &BTreeMap<_, _>| {
        line(&Unit::Slots(group(), 1), SlotsDocument::new(&rows(row), apart, 8).write())
    };
    let slots = |row: Owner| document(row, &BTreeMap::new());
    let apart = BTreeMap::from([elsewhere(owner(99, 9))]);
    let handed = Owner { handed: true, offer: 5, ..owner(5, 9) };
    let named = |name: &str| {
        let created =
            NameDocument::created(&spec(name), (SessionId(5), handed.data_center.clone()), 2_000, Epoch(3), 9);
        line(&Unit::Name(name.into()), created.write())
    };
    let courses = [
        ("owned-elsewhere", vec![open(1), slots(owner(5, 4)), "+500".into(), open(2), "+500".into(), "~".into()]),
        ("taken-over", vec![open(1), slots(owner(5, 4)), named("a"), "+9000".into()]),
        ("handed-over", vec![open(1), slots(handed.clone()), "+3000".into(), "-s/5".into(), "+9000".into()]),
        ("claims", vec!["@a".into(), "?".into(), "@b".into(), "+300".into(), "!a".into(), "+300".into(), "@a".into()]),
        ("own-session-overwritten", vec!["@a".into(), "+500".into(), "*garbage".into(), "+3000".into(), "@b".into()]),
        ("drained", vec![open(1), "@a".into(), "+500".into(), "#".into(), "+2000".into(), open(2), "+2000".into()]),
        ("identities-elsewhere", vec![open(1), document(owner(5, 4), &apart), "+9000".into(), "#".into()]),
        ("entries-without-a-session", vec![slots(owner(99, 4)), named("a"), "+9000".into()]),
    ];
    scripts.extend(courses.into_iter().map(|(name, lines)| (name.to_owned(), lines.join("\n").into_bytes())));
    scripts
}
