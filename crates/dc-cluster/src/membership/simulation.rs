//! Membership under virtual time: many nodes, a network that can be cut, no sockets. Seeds are printed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use dc_core::{Clock, DcView, Endpoint, NodeId, SystemClock, SystemName};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    core::{Core, MAX_DATAGRAM, Own},
    split::{Seen, Standing},
    wire::{Packet, Tell},
};
use crate::{
    config::GossipTiming,
    events::{ClusterEvent, between},
    identity::{Identity, MAX_SENIORITY},
    seal::{Dropped, Envelope, GossipKey},
};

const FOUNDING: Duration = Duration::from_millis(500);

struct Node {
    core: Core,
    events: Vec<ClusterEvent>,
    rejoined: Vec<u64>,
    drops: Vec<Dropped>,
}

struct World {
    now: Instant,
    rng: StdRng,
    seed: u64,
    nodes: BTreeMap<SocketAddr, Node>,
    /// By arrival.
    flying: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    sent: u64,
    /// Group of an address; different groups do not hear each other.
    groups: HashMap<SocketAddr, u32>,
    /// Other addresses of a node.
    alias: HashMap<SocketAddr, SocketAddr>,
    /// Ways on which everything is lost, in one direction.
    one_way: BTreeSet<(SocketAddr, SocketAddr)>,
    /// Nodes that stand still.
    paused: BTreeSet<SocketAddr>,
    loss: f64,
}

fn addr(n: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], n))
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            now: SystemClock.now(),
            rng: StdRng::seed_from_u64(seed),
            seed,
            nodes: BTreeMap::new(),
            flying: BTreeMap::new(),
            sent: 0,
            groups: HashMap::new(),
            alias: HashMap::new(),
            one_way: BTreeSet::new(),
            paused: BTreeSet::new(),
            loss: 0.0,
        }
    }

    fn start_with(&mut self, port: u16, id: u128, seeds: &[SocketAddr], endpoint: Option<&str>, keys: &[GossipKey]) {
        self.start_in(("app", "dc"), port, id, seeds, endpoint, keys);
    }

    fn start_in(
        &mut self,
        (system, dc): (&str, &str),
        port: u16,
        id: u128,
        seeds: &[SocketAddr],
        endpoint: Option<&str>,
        keys: &[GossipKey],
    ) {
        let at = addr(port);
        let endpoint = endpoint.map_or(Endpoint::from(at), |text| text.parse().unwrap());
        let own = Own { node: NodeId(id), addr: at, endpoint };
        let envelope = Envelope::new(&SystemName::new(system).unwrap(), &dc.parse().unwrap(), keys);
        let mut core = Core::new(own, GossipTiming::lan(), FOUNDING, !seeds.is_empty(), envelope, self.seed, self.now);
        core.on_seeds(self.now, seeds.to_vec());
        self.nodes.insert(at, Node { core, events: vec![], rejoined: vec![], drops: vec![] });
        self.collect(at);
    }

    /// A node whose id is its port, with the first three ports as seeds.
    fn start(&mut self, port: u16) {
        self.start_with(port, u128::from(port), &[addr(1), addr(2), addr(3)], None, &[]);
    }

    fn collect(&mut self, at: SocketAddr) {
        let Some(node) = self.nodes.get_mut(&at) else { return };
        let before = node.core.view().clone();
        let output = node.core.take_output();
        if let Some(view) = &output.view {
            // `take_output` hands out the view that is published already.
            assert_eq!(view, &before);
        }
        node.rejoined.extend(output.rejoined);
        for (to, bytes) in output.send {
            assert!(bytes.len() <= MAX_DATAGRAM, "a datagram of {} bytes", bytes.len());
            if self.rng.random_bool(self.loss) || self.one_way.contains(&(at, to)) {
                continue;
            }
            let arrival = self.now + Duration::from_micros(self.rng.random_range(200..2_000));
            self.sent += 1;
            self.flying.insert((arrival, self.sent), (to, at, bytes));
        }
    }

    fn step(&mut self) {
        let timers = self.nodes.iter().filter(|(at, _)| !self.paused.contains(at));
        let timer = timers.filter_map(|(at, node)| node.core.deadline().map(|due| (due, *at))).min();
        let flight = self.flying.keys().next().copied();
        match (timer, flight) {
            (Some((due, at)), flight) if flight.is_none_or(|(arrival, _)| due < arrival) => {
                self.now = self.now.max(due);
                self.with(at, |core, now| core.on_time(now));
            }
            (_, Some(key)) => {
                let (to, from, bytes) = self.flying.remove(&key).unwrap();
                self.now = self.now.max(key.0);
                let to = self.alias.get(&to).copied().unwrap_or(to);
                let group = |at| self.groups.get(&at).copied().unwrap_or(0);
                if group(to) == group(from) && !self.paused.contains(&to) {
                    self.with(to, |core, now| {
                        core.on_time(now);
                        if let Err(why) = core.on_datagram(now, from, &bytes) {
                            panic!("a datagram of ours was dropped: {why:?}");
                        }
                    });
                }
            }
            (_, None) => panic!("nothing will ever happen again"),
        }
    }

    fn with(&mut self, at: SocketAddr, act: impl FnOnce(&mut Core, Instant)) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&at) else { return };
        let before = node.core.view().clone();
        act(&mut node.core, now);
        node.events.extend(between(&before, node.core.view()));
        self.collect(at);
    }

    fn view(&self, port: u16) -> &DcView {
        self.nodes[&addr(port)].core.view()
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// Runs until `done`, within `bound`; says how long it took.
    fn until(&mut self, what: &str, bound: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !done(self) {
            if self.now - start > bound {
                for (at, node) in &self.nodes {
                    eprintln!("{at}: {:?}", node.core.view());
                }
                panic!("seed {}: {what} did not happen within {bound:?}", self.seed);
            }
            self.step();
        }
        self.now - start
    }

    /// Whether exactly these nodes see exactly each other, led by `leader`.
    fn agree(&self, ports: &[u16], leader: Option<u16>) -> bool {
        ports.iter().all(|&port| {
            let view = self.view(port);
            let mut seen: Vec<_> = view.members.iter().map(|m| m.node.0).collect();
            let mut expected: Vec<_> = ports.iter().map(|&p| u128::from(p)).collect();
            seen.sort_unstable();
            expected.sort_unstable();
            let first = self.view(ports[0]).leader().map(|m| m.node);
            let led = view.leader().map(|m| m.node);
            view.joined && seen == expected && led == first && leader.is_none_or(|l| led == Some(NodeId(l.into())))
        })
    }

    fn cluster(seed: u64, ports: &[u16]) -> Self {
        let mut world = Self::new(seed);
        for (i, &port) in ports.iter().enumerate() {
            world.start(port);
            world.until("joining", Duration::from_secs(3), |w| w.agree(&ports[..=i], None));
        }
        world
    }

    fn leader_changes(&self, port: u16) -> usize {
        let events = &self.nodes[&addr(port)].events;
        events.iter().filter(|event| matches!(event, ClusterEvent::LeaderChanged { .. })).count()
    }
}

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

#[test]
fn the_first_founds_after_the_wait_and_the_others_join_at_once() {
    let mut world = World::new(1);
    world.start(1);
    let took = world.until("founding", SECONDS(2), |w| w.agree(&[1], Some(1)));
    assert!(took >= FOUNDING, "founded after {took:?}, before the founding wait was over");
    world.start(2);
    let took = world.until("joining", SECONDS(1), |w| w.agree(&[1, 2], Some(1)));
    assert!(took < Duration::from_millis(100), "joined after {took:?}");
    assert_eq!(world.view(2).member(NodeId(2)).unwrap().seniority, 2, "highest known + 1");
}

#[test]
fn a_node_without_seeds_founds_at_once() {
    let mut world = World::new(1);
    world.start_with(9, 9, &[], None, &[]);
    assert!(world.agree(&[9], Some(9)));
}

#[test]
fn nodes_that_start_together_found_one_cluster_under_the_lowest_id() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        for port in [3, 1, 2, 4, 5] {
            world.start(port);
        }
        world.until("one cluster", SECONDS(4), |w| w.agree(&[1, 2, 3, 4, 5], Some(1)));
        for port in 2..=5 {
            assert_eq!(world.leader_changes(port), 1, "seed {seed}: node {port} saw the leader change");
        }
    }
}

#[test]
fn a_killed_leader_is_noticed_in_about_a_second_and_the_next_oldest_leads() {
    let mut slowest = Duration::ZERO;
    for seed in 0..20 {
        let mut world = World::cluster(seed, &[1, 2, 3]);
        world.nodes.remove(&addr(1));
        slowest = slowest.max(world.until("succession", SECONDS(3), |w| w.agree(&[2, 3], Some(2))));
    }
    assert!(slowest < Duration::from_millis(2_200), "{slowest:?}");
}

#[test]
fn a_graceful_leave_is_seen_at_once() {
    let mut world = World::cluster(7, &[1, 2, 3, 4, 5, 6]);
    world.with(addr(1), |core, _| core.leave());
    let took = world.until("the leave", SECONDS(1), |w| w.agree(&[2, 3, 4, 5, 6], Some(2)));
    assert!(took < Duration::from_millis(20), "{took:?}");
    world.run(SECONDS(5));
    assert!(world.agree(&[2, 3, 4, 5, 6], Some(2)), "nobody takes the leaver back");
}

#[test]
fn a_restart_at_the_same_address_is_a_new_and_younger_member() {
    let mut world = World::cluster(3, &[1, 2, 3]);
    world.nodes.remove(&addr(1));
    world.start_with(1, 77, &[addr(2), addr(3)], None, &[]);
    world.until("the restart", SECONDS(3), |w| {
        w.view(2).member(NodeId(77)).is_some() && w.view(3).member(NodeId(77)).is_some() && w.view(1).joined
    });
    for port in [1, 2, 3] {
        assert_eq!(world.view(port).members.len(), 3);
        assert!(world.view(port).member(NodeId(1)).is_none(), "the old run is gone at once");
        assert_eq!(world.view(port).leader().unwrap().node, NodeId(2));
    }
}

#[test]
fn a_paused_leader_comes_back_as_the_youngest_and_leadership_does_not_flap() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, &[1, 2, 3]);
        world.paused.insert(addr(1));
        world.until("succession", SECONDS(3), |w| w.agree(&[2, 3], Some(2)));
        world.run(SECONDS(seed));
        world.paused.clear();
        world.until("the return", SECONDS(6), |w| w.agree(&[1, 2, 3], Some(2)));
        assert_eq!(world.view(2).members.last().unwrap().node, NodeId(1), "seed {seed}: the youngest now");
        assert_eq!(world.nodes[&addr(1)].rejoined.len(), 1, "seed {seed}");
        world.run(SECONDS(10));
        assert!(world.agree(&[1, 2, 3], Some(2)));
        for port in [2, 3] {
            let changes = world.leader_changes(port);
            assert_eq!(changes, 2, "seed {seed}: node {port}: once on joining, once on the succession");
        }
    }
}

#[test]
fn two_halves_of_a_partition_find_each_other_and_the_larger_keeps_its_leader() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, &[1, 2, 3, 4, 5]);
        // The oldest is on the smaller side; one of the three seeds is on the other.
        for port in [1, 2] {
            world.groups.insert(addr(port), 1);
        }
        world.until("one leader per side", SECONDS(6), |w| w.agree(&[1, 2], Some(1)) && w.agree(&[3, 4, 5], Some(3)));
        world.run(SECONDS(20));
        world.groups.clear();
        let took = world.until("one cluster again", SECONDS(12), |w| w.agree(&[1, 2, 3, 4, 5], Some(3)));
        for port in [3, 4, 5] {
            assert!(world.nodes[&addr(port)].rejoined.is_empty(), "seed {seed}: {port} had no reason to rejoin");
        }
        world.run(SECONDS(20));
        assert!(world.agree(&[1, 2, 3, 4, 5], Some(3)), "seed {seed}: stable after {took:?}");
    }
}

#[test]
fn the_rest_of_a_side_follows_the_first_that_gives_way_at_once() {
    for seed in 0..5 {
        let mut world = World::cluster(seed, &[1, 2, 3, 4, 5, 6, 7]);
        for port in [5, 6, 7] {
            world.groups.insert(addr(port), 1);
        }
        let split = |w: &World| w.agree(&[1, 2, 3, 4], Some(1)) && w.agree(&[5, 6, 7], Some(5));
        world.until("the split", SECONDS(8), split);
        world.groups.clear();
        let first = |w: &World| w.nodes.values().any(|node| !node.rejoined.is_empty());
        world.until("the first to give way", SECONDS(6), first);
        let all = |w: &World| [5, 6, 7].iter().all(|&port| !w.nodes[&addr(port)].rejoined.is_empty());
        let took = world.until("the others", SECONDS(6), all);
        // Told, asked, answered: three ways of at most 2 ms.
        assert!(took < Duration::from_millis(6), "seed {seed}: {took:?}, as long as if nobody had told them");
    }
}

#[test]
fn nodes_that_gave_way_to_a_side_that_then_died_find_each_other_again() {
    for seed in 0..10 {
        let mut world = World::new(seed);
        for port in 1..=5u16 {
            world.start_with(port, port.into(), &[addr(1)], None, &[]);
            world.run(SECONDS(1));
        }
        world.until("joining", SECONDS(5), |w| w.agree(&[1, 2, 3, 4, 5], Some(1)));
        for port in [4, 5] {
            world.groups.insert(addr(port), 1);
        }
        world.until("the split", SECONDS(8), |w| w.agree(&[1, 2, 3], Some(1)) && w.agree(&[4, 5], Some(4)));
        world.groups.clear();
        let gave_way = |w: &World| [4, 5].iter().all(|&port| !w.nodes[&addr(port)].rejoined.is_empty());
        world.until("giving way", SECONDS(8), gave_way);
        // Before they have been fed: the seed and all others are gone for good.
        for port in [1, 2, 3] {
            world.nodes.remove(&addr(port));
        }
        world.flying.clear();
        world.until("finding each other", SECONDS(20), |w| w.agree(&[4, 5], None));
    }
}

#[test]
fn nodes_that_no_seed_knows_find_back_after_a_partition() {
    // Both sides live on without a common seed: lost members are tried as well.
    let mut world = World::new(11);
    for port in [1, 2, 3, 4] {
        world.start_with(port, port.into(), &[addr(1)], None, &[]);
        world.run(SECONDS(1));
    }
    world.until("joining", SECONDS(3), |w| w.agree(&[1, 2, 3, 4], Some(1)));
    for port in [3, 4] {
        world.groups.insert(addr(port), 1);
    }
    world.until("the split", SECONDS(6), |w| w.agree(&[1, 2], Some(1)) && w.agree(&[3, 4], Some(3)));
    world.groups.clear();
    world.until("the heal", SECONDS(12), |w| w.agree(&[1, 2, 3, 4], Some(1)));
}

#[test]
fn two_clusters_that_were_founded_apart_become_one() {
    let mut world = World::new(5);
    for port in [1, 2, 3, 4, 5] {
        world.groups.insert(addr(port), u32::from(port % 2));
        world.start(port);
    }
    world.until("two clusters", SECONDS(8), |w| w.agree(&[1, 3, 5], None) && w.agree(&[2, 4], None));
    world.groups.clear();
    world.until("one cluster", SECONDS(12), |w| w.agree(&[1, 2, 3, 4, 5], Some(1)));
}

#[test]
fn a_seed_behind_another_address_is_joined_at_its_advertised_one() {
    let vip = addr(999);
    let mut world = World::new(2);
    world.alias.insert(vip, addr(1));
    world.start_with(1, 1, &[vip], None, &[]);
    world.until("founding", SECONDS(3), |w| w.agree(&[1], Some(1)));
    world.start_with(2, 2, &[vip], None, &[]);
    world.until("joining through the VIP", SECONDS(2), |w| w.agree(&[1, 2], Some(1)));
    world.run(SECONDS(10));
    assert!(world.nodes.values().all(|node| node.rejoined.is_empty()), "asking the VIP on changes nothing");
}

#[test]
fn members_with_a_dns_name_are_listed_under_it() {
    let mut world = World::new(4);
    let seeds = [addr(1)];
    for port in 1..=4u16 {
        let name = format!("node-{port}.dc.example:{port}");
        world.start_with(port, port.into(), &seeds, Some(&name), &[]);
        world.run(SECONDS(1));
    }
    world.until("the names", SECONDS(1), |w| {
        (1..=4).all(|port| {
            let members = &w.view(port).members;
            members.len() == 4 && members.iter().all(|m| m.endpoint.host() == format!("node-{}.dc.example", m.node.0))
        })
    });
    let ups = |world: &World| {
        let events = &world.nodes[&addr(1)].events;
        events.iter().filter(|e| matches!(e, ClusterEvent::MemberUp(m) if m.endpoint.socket_addr().is_some())).count()
    };
    assert_eq!(ups(&world), 0, "no member was shown under its address first");
}

#[test]
fn a_lossy_network_costs_no_member() {
    for seed in 0..5 {
        let mut world = World::cluster(seed, &[1, 2, 3, 4, 5]);
        world.loss = 0.1;
        world.run(SECONDS(60));
        world.loss = 0.0;
        world.until("quiet again", SECONDS(10), |w| w.agree(&[1, 2, 3, 4, 5], None));
        for (at, node) in &world.nodes {
            assert!(node.rejoined.is_empty(), "seed {seed}: {at} was declared down at 10 % loss");
        }
    }
}

#[test]
fn a_link_that_works_in_one_direction_only_costs_no_member() {
    for seed in 0..5 {
        let mut world = World::cluster(seed, &[1, 2, 3, 4]);
        world.one_way.insert((addr(1), addr(2)));
        world.run(SECONDS(60));
        assert!(world.agree(&[1, 2, 3, 4], Some(1)), "seed {seed}");
        for (at, node) in &world.nodes {
            assert!(node.rejoined.is_empty(), "seed {seed}: {at} was declared down");
        }
    }
}

#[test]
fn sixty_nodes_that_start_together_become_one_cluster() {
    let mut world = World::new(21);
    let ports: Vec<u16> = (1..=60).collect();
    ports.iter().for_each(|&port| world.start(port));
    let took = world.until("one cluster", SECONDS(20), |w| w.agree(&ports, None));
    println!("agreed after {took:?}");
    world.nodes.remove(&addr(30));
    let left: Vec<u16> = ports.iter().copied().filter(|&port| port != 30).collect();
    world.until("the death of one", SECONDS(5), |w| w.agree(&left, None));
}

#[test]
fn the_longest_names_leave_room_for_gossip() {
    let dc = [&"=C3=A4".repeat(31), &"=C3=A4".repeat(31), &"=C3=A4".repeat(31)].map(|part| part.as_str()).join("/");
    let system = "s".repeat(63);
    let key = GossipKey::new([1; 32]);
    let mut world = World::new(22);
    let ports: Vec<u16> = (1..=12).collect();
    for &port in &ports {
        let seeds = [addr(1), addr(2)];
        world.start_in((&system, &dc), port, port.into(), &seeds, None, std::slice::from_ref(&key));
    }
    world.until("one cluster", SECONDS(10), |w| w.agree(&ports, None));
}

#[test]
fn a_key_can_be_rotated_while_the_cluster_runs() {
    let (old, new) = (GossipKey::new([1; 32]), GossipKey::new([2; 32]));
    let mut world = World::new(8);
    let seeds = [addr(1)];
    world.start_with(1, 1, &seeds, None, std::slice::from_ref(&old));
    world.until("founding", SECONDS(3), |w| w.agree(&[1], Some(1)));
    // Step by step, each node restarts with the new key accepted, then sealing, then alone.
    world.start_with(2, 2, &seeds, None, &[old.clone(), new.clone()]);
    world.until("the new key accepted", SECONDS(3), |w| w.agree(&[1, 2], Some(1)));
    world.with(addr(1), |core, _| core.leave());
    world.nodes.remove(&addr(1));
    world.start_with(3, 3, &[addr(2)], None, &[new, old]);
    world.until("sealing with the new key", SECONDS(3), |w| w.agree(&[2, 3], Some(2)));
}

/// Datagrams of a rogue at port 500 that claims `seniority`, for the member `to`.
fn rogue_packets(to: Identity, seniority: u64) -> Vec<Vec<u8>> {
    let rogue = Identity { addr: addr(500), seniority, node: NodeId(500), named: false };
    let header = foca::Header { src: rogue, src_incarnation: 0, dst: to, message: foca::Message::Ping(1) };
    let header = postcard::to_stdvec(&header).unwrap();
    let packets = [
        Packet::Foca(&header),
        Packet::Ask { nonce: 1, node: rogue.node, from: Some(rogue) },
        Packet::Leave(rogue),
        Packet::Tell(rogue_tell(rogue, Some(to), 1)),
    ];
    packets.iter().map(|packet| packet.encode().unwrap()).collect()
}

/// The word of a rogue, unasked, that `to` has to give way to it.
fn rogue_tell(from: Identity, to: Option<Identity>, highest: u64) -> Tell {
    let standing = Standing { size: 1_000, leader: (0, NodeId(0)), me: from.rank() };
    let endpoint = Endpoint::from(from.addr);
    Tell { nonce: 0, hops: 0, to, from, endpoint, highest, you: Seen::Down, standing }
}

#[test]
fn seniorities_that_leave_no_room_for_others_are_malformed() {
    let mut world = World::cluster(1, &[1, 2]);
    let envelope = Envelope::new(&SystemName::new("app").unwrap(), &"dc".parse().unwrap(), &[]);
    let to = Identity { addr: addr(1), seniority: 1, node: NodeId(1), named: false };
    let rogue = Identity { addr: addr(500), seniority: 3, node: NodeId(500), named: false };
    for seniority in [MAX_SENIORITY + 1, u64::MAX] {
        let tells = [Some(to), None].map(|to| Packet::Tell(rogue_tell(rogue, to, seniority)).encode().unwrap());
        for body in rogue_packets(to, seniority).into_iter().chain(tells) {
            let now = world.now;
            let core = &mut world.nodes.get_mut(&addr(1)).unwrap().core;
            assert_eq!(core.on_datagram(now, rogue.addr, &envelope.close(&body)), Err(Dropped::Malformed));
        }
    }
    world.start(3);
    world.until("joining", SECONDS(3), |w| w.agree(&[1, 2, 3], Some(1)));
    // One more for each question of others that was answered meanwhile.
    let seniority = world.view(3).member(NodeId(3)).unwrap().seniority;
    assert!((3..10).contains(&seniority), "{seniority}");
}

#[test]
fn the_highest_seniority_is_taken_only_from_an_answer() {
    let envelope = Envelope::new(&SystemName::new("app").unwrap(), &"dc".parse().unwrap(), &[]);
    let rogue = Identity { addr: addr(500), seniority: 3, node: NodeId(500), named: false };
    let mut world = World::new(1);
    world.start(1);
    for round in 0..2 {
        // Before it is a member, and after.
        let to = Identity { addr: addr(1), seniority: 1, node: NodeId(1), named: false };
        for to in [Some(to), None] {
            let body = Packet::Tell(rogue_tell(rogue, to, MAX_SENIORITY)).encode().unwrap();
            world.with(addr(1), |core, now| {
                assert_eq!(core.on_datagram(now, rogue.addr, &envelope.close(&body)), Ok(()));
            });
        }
        world.until("founding", SECONDS(3), |w| w.agree(&[1], Some(1)));
        assert_eq!(world.view(1).members[0].seniority, 1, "round {round}");
    }
    assert!(world.nodes[&addr(1)].rejoined.is_empty(), "it asks first, and nobody answers");
    world.start(2);
    world.until("joining", SECONDS(3), |w| w.agree(&[1, 2], Some(1)));
    assert_eq!(world.view(2).member(NodeId(2)).unwrap().seniority, 2);
}

#[test]
fn a_member_at_the_highest_seniority_breaks_nobody() {
    let envelope = Envelope::new(&SystemName::new("app").unwrap(), &"dc".parse().unwrap(), &[]);
    let mut world = World::cluster(1, &[1, 2]);
    let to = Identity { addr: addr(1), seniority: 1, node: NodeId(1), named: false };
    for body in rogue_packets(to, MAX_SENIORITY) {
        world.with(addr(1), |core, now| {
            assert_eq!(core.on_datagram(now, addr(500), &envelope.close(&body)), Ok(()));
        });
    }
    // The rogue never answers, so it goes; others can still come, and the old leader stays.
    for port in [3, 4] {
        world.start(port);
    }
    world.until("joining", SECONDS(30), |w| w.agree(&[1, 2, 3, 4], Some(1)));
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let history = |seed| {
        let mut world = World::new(seed);
        for port in [1, 2, 3, 4] {
            world.start(port);
        }
        world.run(SECONDS(3));
        world.nodes.remove(&addr(2));
        world.run(SECONDS(5));
        let events: Vec<_> = world.nodes.values().map(|node| format!("{:?}", node.events)).collect();
        (world.sent, events)
    };
    assert_eq!(history(42), history(42));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever happens, once the network is whole all who live agree on members and leader.
    #[test]
    fn whatever_happens_a_whole_network_agrees_again(
        seed in any::<u64>(),
        acts in proptest::collection::vec((1u16..=5, 0u8..6, 100u64..6_000), 1..12),
    ) {
        let mut world = World::cluster(seed, &[1, 2, 3, 4, 5]);
        let mut next_id = 100u128;
        for (port, act, millis) in acts {
            let at = addr(port);
            match act {
                0 => { world.groups.insert(at, 1); }
                1 => { world.groups.insert(at, 2); }
                2 => world.groups.clear(),
                3 => { world.paused.insert(at); }
                4 => { world.paused.remove(&at); }
                _ => {
                    next_id += 1;
                    world.paused.remove(&at);
                    world.nodes.remove(&at);
                    world.start_with(port, next_id, &[addr(1), addr(2), addr(3)], None, &[]);
                }
            }
            if world.paused.len() < 5 {
                world.run(Duration::from_millis(millis));
            }
        }
        world.groups.clear();
        world.paused.clear();
        let whole = |w: &World| {
            let first = w.view(1).clone();
            (1..=5).all(|port| {
                let view = w.view(port);
                view.joined && view.members.len() == 5 && view.members == first.members
            })
        };
        world.until("agreement", SECONDS(30), whole);
        world.run(SECONDS(30));
        prop_assert!(whole(&world), "agreement does not last");
    }

    /// Garbage inside a good envelope is refused and harms nothing.
    #[test]
    fn garbage_in_the_envelope_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut world = World::cluster(1, &[1, 2]);
        let envelope = Envelope::new(&SystemName::new("app").unwrap(), &"dc".parse().unwrap(), &[]);
        for body in [bytes.clone(), [vec![0, 2, bytes.len() as u8 & 0x7f], bytes].concat()] {
            let datagram = envelope.close(&body);
            let now = world.now;
            let node = world.nodes.get_mut(&addr(1)).unwrap();
            node.drops.extend(node.core.on_datagram(now, addr(500), &datagram).err());
        }
        world.until("the cluster goes on", SECONDS(3), |w| w.agree(&[1, 2], Some(1)));
    }
}
