//! The directory under virtual time: many nodes, late and disagreeing views, lost messages. Seeds are printed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use dc_core::{Clock, NodeId, SystemClock};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    Claim, Entry, Eviction,
    core::{Action, Core, NoAnswer, OpId, Outcome, Token},
    rendezvous::homes,
    wire::{Framed, Request, Response},
};

#[derive(Debug)]
enum Event {
    Request { to: u8, from: u8, call: u64, request: Framed<Request>, left: Duration },
    Answer { to: u8, call: u64, answer: Result<Framed<Response>, NoAnswer> },
    View { to: u8, members: Vec<(NodeId, u64)> },
    Cancel { to: u8, op: OpId },
}

struct Node {
    core: Core,
    /// Token to (asker, its call).
    asked: HashMap<Token, (u8, u64)>,
    outcomes: HashMap<OpId, Outcome>,
    evicted: Vec<Eviction>,
}

struct World {
    now: Instant,
    seed: u64,
    rng: StdRng,
    nodes: BTreeMap<u8, Node>,
    events: BTreeMap<(Instant, u64), Event>,
    numbers: u64,
    /// Different groups do not reach each other.
    groups: HashMap<u8, u8>,
    loss: f64,
    /// Extra time on the way from one to another.
    slow: HashMap<(u8, u8), Duration>,
    calls_made: usize,
}

fn id(n: u8) -> NodeId {
    NodeId(u128::from(n))
}

const MS: fn(u64) -> Duration = Duration::from_millis;

impl World {
    fn new(seed: u64) -> Self {
        Self {
            now: SystemClock.now(),
            seed,
            rng: StdRng::seed_from_u64(seed),
            nodes: BTreeMap::new(),
            events: BTreeMap::new(),
            numbers: 0,
            groups: HashMap::new(),
            loss: 0.0,
            slow: HashMap::new(),
            calls_made: 0,
        }
    }

    /// `n` nodes that agree on each other and have asked each other everything.
    fn settled(seed: u64, n: u8) -> Self {
        let mut world = Self::new(seed);
        (1..=n).for_each(|node| world.add(node));
        world.agree(0);
        world.run(MS(500));
        world.calls_made = 0;
        world
    }

    fn add(&mut self, node: u8) {
        let endpoint = format!("10.0.0.{node}:7946").parse().unwrap();
        let core = Core::new(id(node), endpoint, 10_000, self.seed, self.now);
        let new = Node { core, asked: HashMap::new(), outcomes: HashMap::new(), evicted: vec![] };
        self.nodes.insert(node, new);
    }

    /// All live nodes of each group learn of each other, each up to `lag` ms from now.
    fn agree(&mut self, lag: u64) {
        self.agree_in(lag, &HashMap::new());
    }

    fn agree_in(&mut self, lag: u64, lives: &HashMap<u8, u64>) {
        let all: Vec<u8> = self.nodes.keys().copied().collect();
        for &to in &all {
            let side = all.iter().filter(|node| self.groups.get(node) == self.groups.get(&to));
            let members = side.map(|&node| (id(node), lives.get(&node).copied().unwrap_or(1))).collect();
            let late = Duration::from_micros(self.rng.random_range(0..=lag * 1000));
            self.at(late, Event::View { to, members });
        }
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.numbers += 1;
        self.events.insert((self.now + after, self.numbers), event);
    }

    fn latency(&mut self, from: u8, to: u8) -> Duration {
        let extra = self.slow.get(&(from, to)).copied().unwrap_or_default();
        extra + Duration::from_micros(self.rng.random_range(100..3_000))
    }

    fn reach(&self, a: u8, b: u8) -> bool {
        self.nodes.contains_key(&b) && self.groups.get(&a) == self.groups.get(&b)
    }

    fn with<R>(&mut self, node: u8, act: impl FnOnce(&mut Core, Instant) -> R) -> R {
        let now = self.now;
        let result = act(&mut self.nodes.get_mut(&node).expect("a live node").core, now);
        self.carry_out(node);
        result
    }

    fn carry_out(&mut self, node: u8) {
        let Some(this) = self.nodes.get_mut(&node) else { return };
        for action in this.core.take_actions() {
            match action {
                Action::Call { id: call, to, request, timeout } => {
                    self.calls_made += 1;
                    let to = to.0 as u8;
                    let late = self.latency(node, to);
                    // Whatever happens, the caller hears of it by its timeout.
                    self.at(timeout, Event::Answer { to: node, call, answer: Err(NoAnswer::Unreachable) });
                    if !self.rng.random_bool(self.loss) {
                        let left = timeout.saturating_sub(late);
                        self.at(late, Event::Request { to, from: node, call, request, left });
                    }
                }
                Action::Reply { token, response } => {
                    let this = self.nodes.get_mut(&node).unwrap();
                    let (asker, call) = this.asked.remove(&token).expect("each question is answered once");
                    let late = self.latency(node, asker);
                    if self.reach(node, asker) && !self.rng.random_bool(self.loss) {
                        self.at(late, Event::Answer { to: asker, call, answer: Ok(response) });
                    }
                }
                Action::Done { op, outcome } => {
                    self.nodes.get_mut(&node).unwrap().outcomes.insert(op, outcome);
                }
                Action::Evicted(eviction) => self.nodes.get_mut(&node).unwrap().evicted.push(eviction),
            }
        }
    }

    fn step(&mut self) {
        let timers = self.nodes.iter().filter_map(|(node, this)| this.core.deadline().map(|at| (at, *node)));
        let timer = timers.min();
        let next = self.events.keys().next().copied();
        match (timer, next) {
            (Some((at, node)), next) if next.is_none_or(|(event, _)| at < event) => {
                self.now = self.now.max(at);
                self.with(node, Core::on_time);
            }
            (_, Some(key)) => {
                self.now = self.now.max(key.0);
                let event = self.events.remove(&key).unwrap();
                self.happen(event);
            }
            (_, None) => panic!("seed {}: nothing will ever happen again", self.seed),
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Request { to, from, call, request, left } if self.reach(from, to) => {
                self.numbers += 1;
                let token = self.numbers;
                self.nodes.get_mut(&to).unwrap().asked.insert(token, (from, call));
                self.with(to, |core, now| core.on_request(now, id(from), request, token, left));
            }
            Event::Request { .. } => {}
            Event::Answer { to, call, answer } if self.nodes.contains_key(&to) => {
                self.with(to, |core, now| core.on_answer(now, call, answer));
            }
            Event::View { to, members } if self.nodes.contains_key(&to) => {
                self.with(to, |core, now| core.set_view(now, members, true));
            }
            Event::Cancel { to, op } if self.nodes.contains_key(&to) => {
                if !self.nodes[&to].outcomes.contains_key(&op) {
                    self.with(to, |core, now| core.cancel(now, op));
                }
            }
            Event::Answer { .. } | Event::View { .. } | Event::Cancel { .. } => {}
        }
    }

    /// When something happens next.
    fn next(&self) -> Option<Instant> {
        let timers = self.nodes.values().filter_map(|node| node.core.deadline());
        timers.chain(self.events.keys().next().map(|(at, _)| *at)).min()
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.next().is_some_and(|at| at <= end) {
            self.step();
        }
        self.now = end;
    }

    fn start_claim(&mut self, node: u8, key: &str, actor: u64, request: u128) -> OpId {
        let deadline = self.now + Duration::from_secs(5);
        let op = self.with(node, |core, now| core.claim(now, (key, "k"), actor, request, deadline));
        self.at(Duration::from_secs(5), Event::Cancel { to: node, op });
        op
    }

    /// A claim that lay about before it came to `to`. Nobody waits for it.
    fn late_claim(&mut self, to: u8, from: u8, key: &str, actor: u64) {
        let endpoint = format!("10.0.0.{from}:7946").parse().unwrap();
        let entry = Entry { key: key.into(), kind: "k".into(), holder: id(from), endpoint, actor, request: 0, age: 0 };
        let claim = Framed { clock: 0, body: Request::Claim(entry) };
        self.numbers += 1;
        let token = self.numbers;
        self.nodes.get_mut(&to).unwrap().asked.insert(token, (from, u64::MAX));
        self.with(to, |core, now| core.on_request(now, id(from), claim, token, MS(1_000)));
    }

    fn claim(&mut self, node: u8, key: &str, actor: u64, request: u128) -> Claim {
        let op = self.start_claim(node, key, actor, request);
        match self.outcome(node, op) {
            Outcome::Claim(claim) => claim,
            other => panic!("seed {}: {other:?}", self.seed),
        }
    }

    fn lookup(&mut self, node: u8, key: &str) -> Option<Entry> {
        let deadline = self.now + Duration::from_secs(5);
        let op = self.with(node, |core, now| core.lookup(now, key, deadline));
        match self.outcome(node, op) {
            Outcome::Lookup(found) => found,
            other => panic!("seed {}: {other:?}", self.seed),
        }
    }

    fn outcome(&mut self, node: u8, op: OpId) -> Outcome {
        let end = self.now + Duration::from_secs(6);
        loop {
            if let Some(outcome) = self.nodes[&node].outcomes.get(&op) {
                return outcome.clone();
            }
            assert!(self.now < end, "seed {}: no outcome", self.seed);
            self.step();
        }
    }

    /// Who hosts `key` right now.
    fn hosts(&self, key: &str) -> Vec<Entry> {
        self.nodes.values().filter_map(|node| node.core.hosts().get(key).cloned()).collect()
    }

    /// A key whose primary and backup among `nodes` are these.
    fn key_at(nodes: &[u8], primary: u8, backup: Option<u8>) -> String {
        let fits = |key: &String| {
            let (first, second) = homes(key, nodes.iter().map(|&node| id(node)));
            first == Some(id(primary)) && (backup.is_none() || second == backup.map(id))
        };
        (0..10_000).map(|n| format!("a/{n}")).find(fits).expect("some key fits")
    }
}

fn granted(claim: &Claim) -> &Entry {
    match claim {
        Claim::Granted(entry) => entry,
        other => panic!("not granted: {other:?}"),
    }
}

#[test]
fn a_claimed_name_is_taken_for_others_and_found_from_everywhere() {
    let mut world = World::settled(1, 5);
    let entry = granted(&world.claim(1, "a/x", 7, 100)).clone();
    assert_eq!(world.claim(2, "a/x", 8, 101), Claim::Taken(entry.clone()));
    assert_eq!(world.claim(1, "a/x", 9, 102), Claim::Taken(entry.clone()), "also on the same node");
    for node in 1..=5 {
        assert_eq!(world.lookup(node, "a/x").as_ref(), Some(&entry));
        assert_eq!(world.lookup(node, "a/none"), None);
    }
}

#[test]
fn a_claim_costs_two_round_trips_at_most_and_a_lookup_one() {
    let mut world = World::settled(2, 5);
    let key = World::key_at(&[1, 2, 3, 4, 5], 2, Some(3));
    for (host, calls) in [(1, 2), (2, 0), (3, 1)] {
        world.calls_made = 0;
        granted(&world.claim(host, &key, 1, 0));
        assert_eq!(world.calls_made, calls, "claim by {host}");
        world.calls_made = 0;
        world.lookup(4, &key);
        world.lookup(4, "a/none");
        assert_eq!(world.calls_made, 2, "one for each lookup");
        world.calls_made = 0;
        world.lookup(host, &key);
        assert_eq!(world.calls_made, 0, "what is held here costs nothing");
        world.with(host, |core, now| core.release(now, &key, 1, false));
        world.run(MS(50));
    }
}

#[test]
fn l3_a_repeated_request_is_not_a_second_run() {
    let mut world = World::settled(3, 4);
    let first = granted(&world.claim(1, "a/x", 7, 100)).clone();
    assert_eq!(world.claim(2, "a/x", 50, 100), Claim::Same(first.clone()), "tried again on another node");
    assert_eq!(world.claim(1, "a/x", 51, 100), Claim::Same(first.clone()), "and on the same");
    world.with(1, |core, now| core.release(now, "a/x", 7, true));
    world.run(MS(50));
    assert_eq!(world.lookup(3, "a/x"), None);
    assert_eq!(world.claim(2, "a/x", 52, 100), Claim::Same(first), "also after it has run and stopped");
    granted(&world.claim(2, "a/x", 53, 101));
}

#[test]
fn l3_requests_outlive_the_loss_of_any_one_node() {
    let nodes = [1, 2, 3, 4];
    for lost in [2, 3, 4] {
        let mut world = World::settled(4, 4);
        let key = World::key_at(&nodes, 2, Some(3));
        let running = granted(&world.claim(1, &key, 7, 100)).clone();
        world.nodes.remove(&lost);
        world.agree(100);
        world.run(MS(2_000));
        let asker = if lost == 4 { 3 } else { 4 };
        assert_eq!(world.claim(asker, &key, 8, 100), Claim::Same(running.clone()), "without {lost}");
        world.with(1, |core, now| core.release(now, &key, 7, true));
        world.run(MS(50));
        world.agree(0);
        assert_eq!(world.claim(asker, &key, 9, 100), Claim::Same(running), "stopped, without {lost}");
    }
}

#[test]
fn a_name_survives_the_loss_of_any_one_node_but_its_host() {
    let nodes = [1, 2, 3, 4];
    for lost in [2, 3] {
        let mut world = World::settled(5, 4);
        let key = World::key_at(&nodes, 2, Some(3));
        let entry = granted(&world.claim(1, &key, 7, 0)).clone();
        world.nodes.remove(&lost);
        // Before anybody has noticed, the other copy answers.
        assert_eq!(world.lookup(4, &key).as_ref(), Some(&entry), "{lost} is dead, unnoticed");
        world.agree(200);
        assert_eq!(world.lookup(4, &key).as_ref(), Some(&entry));
        assert_eq!(world.claim(4, &key, 8, 0), Claim::Taken(entry));
    }
}

#[test]
fn the_name_of_a_lost_host_is_free_again() {
    let mut world = World::settled(6, 4);
    granted(&world.claim(1, "a/x", 7, 0));
    world.nodes.remove(&1);
    world.agree(100);
    world.run(MS(1_000));
    assert_eq!(world.lookup(2, "a/x"), None);
    assert_eq!(granted(&world.claim(3, "a/x", 8, 0)).holder, id(3));
}

#[test]
fn a_dead_backup_delays_a_claim_and_does_not_fail_it() {
    let mut world = World::settled(7, 4);
    let key = World::key_at(&[1, 2, 3, 4], 2, Some(3));
    world.nodes.remove(&3);
    let start = world.now;
    granted(&world.claim(1, &key, 7, 0));
    assert!(world.now - start < MS(400), "{:?}", world.now - start);
}

#[test]
fn a_new_primary_says_nobody_only_when_all_hosts_have_told() {
    let mut world = World::settled(8, 3);
    let key = World::key_at(&[1, 2, 3, 9], 9, None);
    let entry = granted(&world.claim(1, &key, 7, 0)).clone();
    world.add(9);
    // The newcomer learns of the membership at once, the host only 300 ms later.
    let members: Vec<_> = [1, 2, 3, 9].map(|n| (id(n), 1)).to_vec();
    for (to, late) in [(9, 0), (2, 10), (3, 10), (1, 300)] {
        world.at(MS(late), Event::View { to, members: members.clone() });
    }
    world.run(MS(50));
    let start = world.now;
    assert_eq!(world.lookup(9, &key), Some(entry.clone()), "the miss waited for the host's word");
    assert!(world.now - start > MS(200));
    assert_eq!(world.claim(2, &key, 8, 0), Claim::Taken(entry));
}

#[test]
fn a_host_that_never_tells_holds_a_miss_up_for_a_bounded_time() {
    let mut world = World::settled(9, 3);
    let key = World::key_at(&[1, 2, 3, 9], 9, None);
    world.add(9);
    let members: Vec<_> = [1, 2, 3, 9].map(|n| (id(n), 1)).to_vec();
    for to in [9, 2, 3] {
        world.at(MS(0), Event::View { to, members: members.clone() });
    }
    world.run(MS(20));
    let start = world.now;
    assert_eq!(world.lookup(2, &key), None);
    let took = world.now - start;
    assert!(took > MS(1_500) && took < MS(2_600), "{took:?}");
}

#[test]
fn a_primary_that_stays_answers_through_the_loss_of_others() {
    let mut world = World::settled(10, 4);
    let key = World::key_at(&[1, 2, 3, 4], 2, Some(3));
    world.nodes.remove(&4);
    // Node 1 never hears of the loss, so the round of node 2 cannot end early.
    let members: Vec<_> = [1, 2, 3].map(|n| (id(n), 1)).to_vec();
    for to in [2, 3] {
        world.at(MS(0), Event::View { to, members: members.clone() });
    }
    world.run(MS(10));
    let start = world.now;
    assert_eq!(world.lookup(1, &key), None);
    assert!(world.now - start < MS(20), "{:?}", world.now - start);
}

#[test]
fn a2_the_older_registration_remains_after_a_heal() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 5);
        world.groups.extend([(4, 1), (5, 1)]);
        world.agree(300);
        world.run(MS(2_500));
        let key = format!("a/{seed}");
        let (early, late) = if seed % 2 == 0 { (1, 4) } else { (4, 1) };
        let older = granted(&world.claim(early, &key, 1, 0)).clone();
        // The other side is busy meanwhile: its counter alone would make its registration look younger or older.
        for n in 0..20 {
            world.claim(if seed % 3 == 0 { early } else { late }, &format!("a/busy/{n}"), n, 0);
        }
        world.run(MS(1_000));
        let younger = granted(&world.claim(late, &key, 2, 0)).clone();
        assert_eq!(world.hosts(&key).len(), 2, "each side may have one");
        world.groups.clear();
        world.agree_in(300, &HashMap::from([(4, 2), (5, 2)]));
        world.run(MS(5_000));
        assert_eq!(world.hosts(&key), std::slice::from_ref(&older), "seed {seed}");
        let evicted = &world.nodes[&late].evicted;
        assert_eq!(evicted[..], [Eviction { lost: younger, kept: older.clone() }], "seed {seed}: told once");
        for node in 1..=5 {
            assert_eq!(world.lookup(node, &key).as_ref(), Some(&older), "seed {seed}: seen from {node}");
        }
    }
}

#[test]
fn a_node_that_was_away_knows_that_it_may_have_missed_something() {
    let mut world = World::settled(11, 3);
    let key = World::key_at(&[1, 2, 3], 3, None);
    // Node 3 is paused: the others go on without it, it sees no change of members at all.
    world.groups.insert(3, 1);
    let without: Vec<_> = [1, 2].map(|n| (id(n), 1)).to_vec();
    for to in [1, 2] {
        world.at(MS(0), Event::View { to, members: without.clone() });
    }
    world.run(MS(100));
    let entry = granted(&world.claim(1, &key, 1, 0)).clone();
    world.groups.clear();
    world.agree_in(0, &HashMap::from([(3, 2)]));
    // Asked in the moment in which it learns that it had been away.
    world.run(Duration::from_micros(1));
    assert_eq!(world.lookup(3, &key), Some(entry));
}

#[test]
fn a_grant_of_an_earlier_primary_counts_only_if_the_new_one_agrees() {
    let mut world = World::settled(15, 3);
    let all = [1, 2, 3, 9];
    let fits = |key: &String| {
        let primary = |nodes: &[u8]| homes(key, nodes.iter().map(|&n| id(n))).0;
        primary(&[1, 2, 3]) == Some(id(2)) && primary(&all) == Some(id(9))
    };
    let key = (0..10_000).map(|n| format!("a/{n}")).find(fits).expect("some key fits");
    // Node 2 grants the name to node 1, but its word is slow; meanwhile 9 joins and becomes the primary.
    world.slow.insert((2, 1), MS(300));
    let early = world.start_claim(1, &key, 7, 0);
    world.run(MS(50));
    world.add(9);
    world.agree(0);
    world.run(MS(50));
    let late = world.claim(3, &key, 8, 0);
    let Outcome::Claim(early) = world.outcome(1, early) else { panic!("an answer") };
    assert_eq!(early, Claim::Taken(granted(&late).clone()));
    assert_eq!(world.hosts(&key).len(), 1);
}

#[test]
fn l3_a_new_primary_knows_the_requests_that_are_done() {
    let mut world = World::settled(16, 3);
    // Node 3, which asks later, keeps nothing of it.
    let not_at_3 =
        |key: &str| homes(key, [1, 2, 3].map(id)).0 != Some(id(3)) && homes(key, [1, 2, 3].map(id)).1 != Some(id(3));
    let moves_to_9 = |key: &str| homes(key, [1, 2, 3, 9].map(id)).0 == Some(id(9));
    let key = (0..10_000).map(|n| format!("a/{n}")).find(|key| not_at_3(key) && moves_to_9(key)).expect("some key");
    let first = granted(&world.claim(1, &key, 7, 100)).clone();
    world.with(1, |core, now| core.release(now, &key, 7, true));
    world.run(MS(50));
    world.add(9);
    world.agree(50);
    world.run(MS(100));
    assert_eq!(world.claim(3, &key, 8, 100), Claim::Same(first));
}

#[test]
fn a_primary_that_stays_waits_for_the_word_of_those_who_come() {
    let mut world = World::settled(18, 4);
    let fits = |key: &String| {
        let primary = |nodes: &[u8]| homes(key, nodes.iter().map(|&n| id(n))).0;
        primary(&[1, 2, 3]) == Some(id(2)) && primary(&[1, 2, 3, 4]) == Some(id(2))
    };
    let key = (0..10_000).map(|n| format!("a/{n}")).find(fits).expect("some key fits");
    world.groups.insert(4, 1);
    world.agree(0);
    world.run(MS(100));
    let other_side = granted(&world.claim(4, &key, 1, 0)).clone();
    world.groups.clear();
    world.slow.insert((4, 2), MS(200));
    world.agree_in(0, &HashMap::from([(4, 2)]));
    world.run(MS(10));
    assert_eq!(world.lookup(3, &key), Some(other_side));
}

#[test]
fn a_claim_is_seen_only_once_it_is_granted() {
    let mut world = World::settled(19, 4);
    let key = World::key_at(&[1, 2, 3, 4], 2, Some(3));
    world.slow.insert((2, 3), MS(200));
    let op = world.start_claim(1, &key, 7, 0);
    world.run(MS(50));
    assert_eq!(world.lookup(4, &key), None, "its backup has no copy yet");
    let Outcome::Claim(claim) = world.outcome(1, op) else { panic!("an answer") };
    assert_eq!(world.lookup(4, &key).as_ref(), Some(granted(&claim)));
}

#[test]
fn a_registration_is_not_evicted_for_one_that_was_given_up() {
    let mut world = World::settled(17, 4);
    let fits = |key: &String| {
        let primary = |nodes: &[u8]| homes(key, nodes.iter().map(|&n| id(n))).0;
        primary(&[1, 2, 3]) == Some(id(2)) && primary(&[1, 2, 3, 4]) == Some(id(2))
    };
    let key = (0..10_000).map(|n| format!("a/{n}")).find(fits).expect("some key fits");
    granted(&world.claim(1, &key, 1, 0));
    world.groups.insert(4, 1);
    world.agree(0);
    world.run(MS(6_000));
    let running = granted(&world.claim(4, &key, 2, 0)).clone();
    // The older one is given up in the moment of the heal, and the primary hears of it late.
    world.groups.clear();
    world.slow.insert((1, 2), MS(400));
    world.with(1, |core, now| core.release(now, &key, 1, true));
    world.agree_in(0, &HashMap::from([(4, 2)]));
    world.run(MS(3_000));
    assert_eq!(world.hosts(&key), std::slice::from_ref(&running));
    assert!(world.nodes[&4].evicted.is_empty());
    assert_eq!(world.lookup(3, &key), Some(running));
}

#[test]
fn a_cancelled_claim_leaves_nothing_behind() {
    let mut world = World::settled(12, 4);
    let key = World::key_at(&[1, 2, 3, 4], 2, Some(3));
    let op = world.start_claim(1, &key, 7, 0);
    world.with(1, |core, now| core.cancel(now, op));
    world.run(MS(100));
    assert_eq!(world.lookup(4, &key), None);
    granted(&world.claim(4, &key, 8, 0));
}

#[test]
fn a_claim_that_comes_after_its_release_registers_nothing() {
    let mut world = World::settled(20, 4);
    let key = World::key_at(&[1, 2, 3, 4], 2, Some(3));
    world.slow.insert((1, 2), MS(300));
    let op = world.start_claim(1, &key, 7, 0);
    world.slow.clear();
    world.run(MS(50));
    world.with(1, |core, now| core.cancel(now, op));
    world.run(MS(500));
    assert_eq!(world.lookup(4, &key), None);
    granted(&world.claim(4, &key, 8, 0));
    // The same registration may come again: later than the release, it is no late one.
    world.with(4, |core, now| core.release(now, &key, 8, false));
    granted(&world.claim(4, &key, 8, 0));
}

#[test]
fn a_claim_that_waits_at_a_new_primary_ends_with_its_release() {
    let mut world = World::settled(21, 4);
    let key = World::key_at(&[1, 2, 3, 4], 2, None);
    // Node 2 does not know yet what 4 holds: claims wait.
    world.slow.insert((2, 4), MS(400));
    world.agree_in(0, &HashMap::from([(4, 2)]));
    world.run(MS(10));
    let op = world.start_claim(1, &key, 7, 0);
    world.run(MS(50));
    world.with(1, |core, now| core.cancel(now, op));
    world.run(MS(1_000));
    assert_eq!(world.lookup(3, &key), None);
    granted(&world.claim(3, &key, 8, 0));
}

#[test]
fn a_claim_without_an_answer_is_taken_back_when_a_later_try_ends_it() {
    let mut world = World::settled(22, 4);
    let key = World::key_at(&[1, 2, 3, 4], 2, Some(3));
    granted(&world.claim(4, &key, 8, 0));
    world.slow.insert((1, 2), MS(1_500));
    let op = world.start_claim(1, &key, 7, 0);
    world.slow.clear();
    assert!(matches!(world.outcome(1, op), Outcome::Claim(Claim::Taken(_))));
    // The name is free again when the first try comes.
    world.with(4, |core, now| core.release(now, &key, 8, true));
    world.run(MS(50));
    world.late_claim(2, 1, &key, 7);
    world.run(MS(50));
    assert_eq!(world.lookup(3, &key), None);
    granted(&world.claim(3, &key, 9, 0));
}

#[test]
fn a_claim_without_an_answer_is_taken_back_at_the_member_that_was_asked() {
    let mut world = World::settled(23, 4);
    let key = World::key_at(&[1, 2, 3, 4], 2, Some(3));
    world.slow.insert((1, 2), MS(1_500));
    let op = world.start_claim(1, &key, 7, 0);
    world.slow.clear();
    world.run(MS(900));
    // To node 1 another member answers for the name now; to node 2 nothing has changed.
    let without: Vec<_> = [1, 3, 4].map(|n| (id(n), 1)).to_vec();
    for to in [1, 3] {
        world.at(MS(0), Event::View { to, members: without.clone() });
    }
    world.run(MS(300));
    world.with(1, |core, now| core.cancel(now, op));
    world.run(MS(50));
    world.late_claim(2, 1, &key, 7);
    world.run(MS(50));
    assert_eq!(world.lookup(4, &key), None);
    granted(&world.claim(4, &key, 8, 0));
}

#[test]
fn a_registration_of_which_its_host_knows_nothing_ends_in_two_seconds() {
    let mut world = World::settled(24, 4);
    let key = World::key_at(&[1, 2, 3, 4], 2, Some(3));
    world.late_claim(2, 1, &key, 7);
    world.run(MS(50));
    assert_eq!(world.lookup(4, &key).map(|entry| entry.actor), Some(7));
    world.agree_in(0, &HashMap::from([(4, 2)]));
    world.run(MS(2_100));
    assert_eq!(world.lookup(3, &key), None);
    granted(&world.claim(3, &key, 8, 0));
}

#[test]
fn a_registration_that_was_not_granted_yet_when_its_host_was_asked_ends_as_well() {
    let mut world = World::settled(27, 4);
    let key = World::key_at(&[1, 2, 3, 4], 2, Some(3));
    world.slow.insert((2, 3), MS(250));
    world.late_claim(2, 1, &key, 7);
    world.agree_in(0, &HashMap::from([(4, 2)]));
    world.run(MS(200));
    assert_eq!(world.lookup(4, &key), None, "node 1 has told what it holds, and the claim is not granted yet");
    world.run(MS(200));
    world.slow.clear();
    assert_eq!(world.lookup(4, &key).map(|entry| entry.actor), Some(7));
    world.run(MS(2_300));
    assert_eq!(world.lookup(3, &key), None);
}

#[test]
fn who_gives_up_a_name_for_an_earlier_primary_tells_the_present_one() {
    let mut world = World::settled(28, 4);
    let key = World::key_at(&[1, 2, 3, 4], 2, Some(3));
    let lost = granted(&world.claim(1, &key, 7, 0)).clone();
    let kept = Entry { holder: id(4), actor: 8, age: lost.age - 1, ..lost.clone() };
    world.numbers += 1;
    let token = world.numbers;
    world.nodes.get_mut(&1).unwrap().asked.insert(token, (4, u64::MAX));
    let order = Framed { clock: 0, body: Request::Evict { lost, kept } };
    world.with(1, |core, now| core.on_request(now, id(4), order, token, MS(1_000)));
    world.run(MS(50));
    assert!(world.hosts(&key).is_empty());
    assert_eq!(world.lookup(3, &key), None);
}

#[test]
fn a_grant_that_is_given_again_is_on_its_way_again() {
    let mut world = World::settled(25, 4);
    let key = World::key_at(&[1, 2, 3, 4], 2, Some(3));
    world.slow.insert((2, 1), MS(1_500));
    let op = world.start_claim(1, &key, 7, 0);
    world.run(MS(1_950));
    world.slow.insert((2, 1), MS(600));
    world.run(MS(150));
    world.slow.clear();
    // Asked by node 2 for what it holds, node 1 does not know of the grant yet.
    assert!(world.hosts(&key).is_empty());
    world.agree_in(0, &HashMap::from([(4, 2)]));
    let Outcome::Claim(claim) = world.outcome(1, op) else { panic!("an answer") };
    assert_eq!(world.lookup(4, &key).as_ref(), Some(granted(&claim)));
    assert!(matches!(world.claim(4, &key, 8, 0), Claim::Taken(_)));
}

#[test]
fn an_answer_past_its_time_is_none() {
    let mut world = World::settled(26, 4);
    let key = World::key_at(&[1, 2, 3, 4], 2, Some(3));
    let deadline = world.now + Duration::from_secs(5);
    let now = world.now;
    let core = &mut world.nodes.get_mut(&1).unwrap().core;
    let mut claim_and_answer = |key: &str, actor: u64, after: Duration| {
        core.claim(now, (key, "k"), actor, 0, deadline);
        let call = core.take_actions().into_iter().find_map(|action| match action {
            Action::Call { id, request: Framed { body: Request::Claim(entry), .. }, .. } => Some((id, entry)),
            _ => None,
        });
        let (call, entry) = call.expect("the claim is sent");
        let granted = Framed { clock: 0, body: Response::Granted(Entry { age: 5, ..entry }) };
        core.on_answer(now + after, call, Ok(granted));
        core.hosted(key).is_some()
    };
    assert!(!claim_and_answer(&key, 7, MS(1_001)), "its host may have said that it knows of no grant");
    let other = (0..10_000).map(|n| format!("b/{n}"));
    let other = { other }.find(|key| homes(key, [1, 2, 3, 4].map(id)).0 == Some(id(2))).expect("some key fits");
    assert!(claim_and_answer(&other, 8, MS(999)));
}

#[test]
fn a_full_member_refuses_further_names() {
    let mut world = World::settled(13, 1);
    for n in 0..10_000u64 {
        granted(&world.claim(1, &format!("a/{n}"), n, 0));
    }
    let op = world.start_claim(1, "a/more", 1, 0);
    let key = "a/more".to_owned();
    assert_eq!(world.outcome(1, op), Outcome::Failed(super::DirectoryError::Full { key }));
}

#[test]
fn many_names_travel_page_by_page() {
    let mut world = World::settled(14, 2);
    for n in 0..5_000u64 {
        granted(&world.claim(1, &format!("a/with-a-rather-long-name/{n}"), n, 0));
    }
    world.add(3);
    world.agree(10);
    world.run(MS(500));
    for n in (0..5_000u64).step_by(97) {
        let found = world.lookup(3, &format!("a/with-a-rather-long-name/{n}")).expect("held by 1");
        assert_eq!((found.holder, found.actor), (id(1), n));
    }
}

#[derive(Clone, Debug)]
enum Act {
    Claim(u8, u8),
    Release(u8, u8),
    Add(u8),
    Kill(u8),
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => (1u8..=6, 0u8..4).prop_map(|(node, key)| Act::Claim(node, key)),
        2 => (1u8..=6, 0u8..4).prop_map(|(node, key)| Act::Release(node, key)),
        1 => (1u8..=6).prop_map(Act::Add),
        1 => (1u8..=6).prop_map(Act::Kill),
        3 => (0u64..400).prop_map(Act::Wait),
    ]
}

fn play(
    world: &mut World,
    acts: Vec<Act>,
    mut check: impl FnMut(&World) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let mut actor = 0;
    let mut run = |world: &mut World, time: Duration| {
        let end = world.now + time;
        while world.next().is_some_and(|at| at <= end) {
            world.step();
            check(world)?;
        }
        world.now = end;
        Ok(())
    };
    for act in acts {
        match act {
            Act::Claim(node, key) if world.nodes.contains_key(&node) => {
                actor += 1;
                world.start_claim(node, &format!("a/{key}"), actor, u128::from(actor));
            }
            Act::Release(node, key) if world.nodes.contains_key(&node) => {
                let key = format!("a/{key}");
                if let Some(entry) = world.nodes[&node].core.hosted(&key).cloned() {
                    world.with(node, |core, now| core.release(now, &key, entry.actor, true));
                }
            }
            Act::Add(node) if !world.nodes.contains_key(&node) => {
                world.add(node);
                world.agree(300);
                run(world, MS(300))?;
            }
            Act::Kill(node) if world.nodes.len() > 2 => {
                world.nodes.remove(&node);
                world.agree(1_200);
                // A killed node does not start anew under its old run's id before it was noticed.
                run(world, MS(1_200))?;
            }
            Act::Wait(ms) => run(world, MS(ms))?,
            _ => {}
        }
    }
    run(world, MS(4_000))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// While all who live reach each other, no name ever has two hosts: not while nodes come, are killed
    /// and are noticed late, and not when claims, releases and their answers cross.
    #[test]
    fn a2_a_name_has_one_host_while_members_reach_each_other(
        seed in any::<u64>(),
        acts in proptest::collection::vec(act(), 1..60),
    ) {
        let mut world = World::settled(seed, 4);
        play(&mut world, acts, |world| {
            for key in 0..4 {
                let hosts = world.hosts(&format!("a/{key}"));
                prop_assert!(hosts.len() <= 1, "seed {}: {hosts:?}", world.seed);
            }
            Ok(())
        })?;
        for key in (0..4).map(|key| format!("a/{key}")) {
            let host = world.hosts(&key).into_iter().next();
            for node in world.nodes.keys().copied().collect::<Vec<_>>() {
                prop_assert_eq!(world.lookup(node, &key), host.clone(), "seed {}: seen from {}", world.seed, node);
            }
        }
    }

    /// Through loss, partitions and everything else: 5 s after the members agree again and messages
    /// arrive, each name has one host at most, and it is the oldest that was left.
    #[test]
    fn a2_one_host_remains_within_5_s_of_agreeing_again(
        seed in any::<u64>(),
        sides in proptest::collection::vec(0u8..2, 5),
        before in proptest::collection::vec(act(), 0..20),
        during in proptest::collection::vec((1u8..=5, 0u8..4, 0u64..300), 0..40),
    ) {
        let mut world = World::settled(seed, 5);
        world.loss = 0.05;
        let before = before.into_iter().filter(|act| !matches!(act, Act::Add(_) | Act::Kill(_))).collect();
        play(&mut world, before, |_| Ok(()))?;
        for (at, side) in sides.iter().enumerate() {
            world.groups.insert(at as u8 + 1, *side);
        }
        world.agree(1_500);
        for (n, (node, key, wait)) in during.into_iter().enumerate() {
            world.start_claim(node, &format!("a/{key}"), 1_000 + n as u64, 0);
            world.run(MS(wait));
        }
        world.run(MS(6_000));
        let oldest: BTreeMap<String, Entry> = (0..4)
            .map(|key| format!("a/{key}"))
            .filter_map(|key| world.hosts(&key).into_iter().min_by_key(|e| (e.age, e.holder)).map(|e| (key, e)))
            .collect();
        world.groups.clear();
        world.loss = 0.0;
        let lives = (1..=5).map(|node| (node, 1 + u64::from(sides[usize::from(node) - 1]))).collect();
        world.agree_in(0, &lives);
        world.run(MS(5_000));
        let evicted: BTreeSet<_> = world.nodes.values().flat_map(|node| &node.evicted).map(|e| e.lost.key.clone()).collect();
        for key in (0..4).map(|key| format!("a/{key}")) {
            let hosts = world.hosts(&key);
            prop_assert_eq!(hosts.first(), oldest.get(&key), "seed {}: {} (evicted: {:?})", world.seed, key, evicted);
            prop_assert!(hosts.len() <= 1, "seed {}: {:?}", world.seed, hosts);
            for node in 1..=5 {
                prop_assert_eq!(world.lookup(node, &key), hosts.first().cloned(), "seed {}", world.seed);
            }
        }
    }
}
