//! Joining, leaving, dying, coming back, keys.

use dc_cluster::{ClusterConfig, ClusterEvent, GossipKey, GossipTiming};
use dc_core::{Clock, Endpoint, SystemClock};
use tokio::net::UdpSocket;

use crate::support::{BOUND, Network, Node, Plan, agree, cluster, cluster_with};

#[tokio::test]
async fn nodes_join_through_any_seed_and_the_oldest_leads() {
    let nodes = cluster(4, &Network::default()).await;
    let leader = agree(&nodes.iter().collect::<Vec<_>>()).await;
    assert_eq!(leader, nodes[0].node);
    for node in &nodes {
        for (member, expected) in node.view().members.iter().zip(&nodes) {
            assert_eq!((member.node, &member.endpoint), (expected.node, &expected.endpoint()));
        }
    }
}

#[tokio::test]
async fn a_seed_may_be_a_dns_name_and_so_may_a_member() {
    let mut first = Plan::new(&[]);
    first.advertise_host = Some("localhost");
    let first = first.start().await;
    let name = format!("localhost:{}", first.addr.port()).parse().unwrap();
    let second = Plan::new(&[name]).start().await;
    agree(&[&first, &second]).await;
    let view =
        second.sees("the name", |view| view.member(first.node).is_some_and(|m| m.endpoint.host() == "localhost"));
    assert_eq!(view.await.leader().unwrap().node, first.node);
}

#[tokio::test]
async fn a_killed_leader_is_noticed_and_the_next_oldest_leads() {
    let plan = |seeds: &[Endpoint]| {
        let mut plan = Plan::new(seeds);
        plan.config = plan.config.timing(GossipTiming::lan());
        plan
    };
    let mut nodes = cluster_with(3, plan).await;
    let clock = SystemClock;
    let since = clock.now();
    let (dead, _) = nodes.remove(0).kill();
    let leader = agree(&nodes.iter().collect::<Vec<_>>()).await;
    println!("noticed after {:?}", clock.now() - since);
    assert_eq!(leader, nodes[0].node);
    let next = nodes[0].node;
    let other = &mut nodes[1];
    other.hears("the death", |event| matches!(event, ClusterEvent::MemberDown(m) if m.node == dead)).await;
    let changed = ClusterEvent::LeaderChanged { from: Some(dead), to: next };
    other.hears("the succession", |event| *event == changed).await;
}

#[tokio::test]
async fn a_graceful_leave_is_seen_without_waiting_for_suspicion() {
    // Silence alone would be noticed only long after the bound of this test.
    let timing = GossipTiming { probe_period: BOUND * 2, suspicion: BOUND * 2, ..GossipTiming::lan() };
    let plan = |seeds: &[Endpoint]| {
        let mut plan = Plan::new(seeds);
        plan.config = plan.config.timing(timing);
        plan
    };
    let mut nodes = cluster_with(3, plan).await;
    let leaver = nodes.remove(0);
    leaver.cluster.leave().await;
    agree(&nodes.iter().collect::<Vec<_>>()).await;
    leaver.cluster.leave().await;
}

#[tokio::test]
async fn a_restart_at_the_same_address_comes_back_as_the_youngest() {
    let network = Network::default();
    let mut nodes = cluster(3, &network).await;
    let (old, addr) = nodes.remove(0).kill();
    let seeds: Vec<_> = nodes.iter().map(Node::endpoint).collect();
    let mut plan = Plan::new(&seeds).on(&network);
    plan.listen = addr;
    nodes.push(plan.start().await);
    let leader = agree(&nodes.iter().collect::<Vec<_>>()).await;
    assert_eq!(leader, nodes[0].node);
    let view = nodes[0].view();
    assert!(view.member(old).is_none());
    assert_eq!(view.members.last().unwrap().node, nodes[2].node, "the youngest");
}

#[tokio::test]
async fn two_halves_find_each_other_again_and_the_larger_keeps_its_leader() {
    let network = Network::default();
    let mut nodes = cluster(5, &network).await;
    network.cut(&[&nodes[0], &nodes[1]], 1);
    let small = agree(&[&nodes[0], &nodes[1]]).await;
    let large = agree(&[&nodes[2], &nodes[3], &nodes[4]]).await;
    assert_eq!((small, large), (nodes[0].node, nodes[2].node), "a leader per side");
    network.heal();
    assert_eq!(agree(&nodes.iter().collect::<Vec<_>>()).await, large);
    nodes[0].hears("rejoining", |event| matches!(event, ClusterEvent::Rejoined { .. })).await;
}

#[tokio::test]
async fn a_node_whose_seeds_come_later_joins_them_in_the_end() {
    // The seed's address is taken, but nobody gossips there yet.
    let late = Plan::new(&[]).start().await;
    let addr = late.addr;
    drop(late);
    let early = Plan::new(&[addr.into()]).start().await;
    early.sees("founding", |view| view.joined).await;
    let mut plan = Plan::new(&[]);
    plan.listen = addr;
    let late = plan.start().await;
    agree(&[&early, &late]).await;
}

#[tokio::test]
async fn gossip_is_sealed_with_a_shared_key_and_others_are_kept_out() {
    let key = |byte| GossipKey::new([byte; 32]);
    let start = async |keys: &[u8], seeds: &[&Node], system| {
        let seeds: Vec<_> = seeds.iter().map(|node| node.endpoint()).collect();
        let mut plan = Plan::new(&seeds);
        plan.system = system;
        for (at, &byte) in keys.iter().enumerate() {
            plan.config = if at == 0 { plan.config.gossip_key(key(byte)) } else { plan.config.accept_key(key(byte)) };
        }
        plan.start().await
    };
    let first = start(&[1], &[], "app").await;
    let second = start(&[1, 2], &[&first], "app").await;
    agree(&[&first, &second]).await;
    let wrong_key = start(&[3], &[&first, &second], "app").await;
    let no_key = start(&[], &[&first, &second], "app").await;
    let other_system = start(&[1], &[&first, &second], "other").await;
    for stranger in [&wrong_key, &no_key, &other_system] {
        let view = stranger.sees("its own cluster", |view| view.joined).await;
        assert_eq!(view.members.len(), 1);
    }
    agree(&[&first, &second]).await;
    let stats = first.cluster.gossip_stats();
    assert!(stats.dropped_keys >= 2, "{stats:?}");
    assert!(stats.dropped_strangers >= 1, "{stats:?}");
    assert_eq!(stats.dropped_malformed, 0);
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn datagrams_with_a_wrong_key_are_counted_for_metrics() {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
        time::Duration,
    };

    use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

    /// Counts what is dropped for its key.
    #[derive(Default)]
    struct Dropped(AtomicU64);

    impl CounterFn for Dropped {
        fn increment(&self, by: u64) {
            self.0.fetch_add(by, Ordering::Relaxed);
        }
        fn absolute(&self, _: u64) {}
    }

    struct Only(Arc<Dropped>);

    impl Recorder for Only {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            let wanted = key.name() == "multidc_gossip_dropped_total"
                && key.labels().any(|label| (label.key(), label.value()) == ("reason", "key"));
            if wanted { Counter::from_arc(Arc::clone(&self.0)) } else { Counter::noop() }
        }
        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    let dropped = Arc::new(Dropped::default());
    let recorder = Only(Arc::clone(&dropped));
    // The runtime of this test has one thread, which all of its tasks run on.
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut plan = Plan::new(&[]);
    plan.config = plan.config.gossip_key(GossipKey::new([1; 32]));
    let node = plan.start().await;
    let mut plan = Plan::new(&[node.endpoint()]);
    plan.config = plan.config.gossip_key(GossipKey::new([2; 32]));
    let stranger = plan.start().await;
    stranger.sees("its own cluster", |view| view.joined).await;
    let counted = async {
        while dropped.0.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, counted).await.expect("counted in time");
    let counted = dropped.0.load(Ordering::Relaxed);
    let stats = node.cluster.gossip_stats().dropped_keys + stranger.cluster.gossip_stats().dropped_keys;
    assert!(counted <= stats, "metrics say {counted}, the node {stats}");
    assert!(include_str!("../../../../docs/metrics.md").contains("`multidc_gossip_dropped_total`"));
}

#[tokio::test]
async fn garbage_on_the_port_is_counted_and_harms_nothing() {
    let nodes = cluster(2, &Network::default()).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for n in 0..200u8 {
        socket.send_to(&vec![n; usize::from(n) * 10], nodes[0].addr).await.unwrap();
        socket.send_to(&[b"mdcg\x01\x00", &vec![n; usize::from(n)][..]].concat(), nodes[0].addr).await.unwrap();
    }
    let third = Plan::new(&[nodes[0].endpoint()]).start().await;
    agree(&[&nodes[0], &nodes[1], &third]).await;
    let stats = nodes[0].cluster.gossip_stats();
    assert!(stats.dropped_strangers > 0, "{stats:?}");
}

#[tokio::test]
async fn nodes_of_another_datacenter_are_no_members() {
    let first = Plan::new(&[]).start().await;
    let mut plan = Plan::new(&[first.endpoint()]);
    plan.dc = "dc-2";
    let other = plan.start().await;
    other.sees("its own cluster", |view| view.joined).await;
    assert_eq!((first.view().members.len(), other.view().members.len()), (1, 1));
}

#[tokio::test]
async fn a_taken_udp_port_is_an_error_that_names_it() {
    let node = Plan::new(&[]).start().await;
    let config = ClusterConfig::builder().build().unwrap();
    let err = dc_cluster::Cluster::start(config, node.remoting.clone(), std::sync::Arc::new(SystemClock), 1).await;
    let err = err.expect_err("taken").to_string();
    assert!(err.contains(&node.addr.to_string()), "{err}");
}
