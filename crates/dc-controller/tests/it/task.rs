//! The controller's task against the in-memory plane, on paused time.

use std::{sync::Arc, time::Duration};

use dc_cache::{CacheOptions, RoutingTable};
use dc_controller::{Controller, ControllerEvent, ControllerOptions, Goodbye, Parts, Role};
use dc_controlplane::{
    ControlPlane, Removal, TokioClock, WatchEvent, Writer,
    memory::{MemoryControlPlane, MemoryStore},
};
use dc_core::{
    DataCenter, DataCenterId, DataCenterRecord, DataCenterState, DcView, Epoch, Intent, IntentKind, Member, NodeId,
    Owner,
};
use futures::StreamExt;
use tokio::sync::watch;

fn dc() -> DataCenter {
    DataCenter::new("dc-1").region("eu").build().unwrap()
}

fn id() -> DataCenterId {
    dc().id().clone()
}

fn view(me: u128, members: &[u128]) -> Arc<DcView> {
    let member = |n: &u128| Member {
        node: NodeId(*n),
        seniority: *n as u64,
        endpoint: format!("10.0.0.{n}:7946").parse().unwrap(),
    };
    Arc::new(DcView { me: NodeId(me), joined: true, members: members.iter().map(member).collect() })
}

/// One node: its own client, table, membership view and controller.
struct Node {
    n: u128,
    plane: MemoryControlPlane,
    view: watch::Sender<Arc<DcView>>,
    controller: Controller,
}

impl Node {
    fn start(store: &MemoryStore, n: u128, members: &[u128]) -> Self {
        Self::with_plane(MemoryControlPlane::new(store), n, members)
    }

    fn with_plane(plane: MemoryControlPlane, n: u128, members: &[u128]) -> Self {
        let clock = Arc::new(TokioClock);
        let (view, views) = watch::channel(view(n, members));
        let me = Owner { node: NodeId(n), endpoint: format!("10.0.0.{n}:7946").parse().unwrap() };
        let controller = Controller::start(Parts {
            plane: Arc::new(plane.clone()),
            data_center: dc(),
            me,
            options: ControllerOptions::default(),
            view: views,
            table: RoutingTable::new(clock.clone(), CacheOptions::default()),
            clock,
            seed: 7 + n as u64,
        })
        .unwrap();
        Self { n, plane, view, controller }
    }

    fn sees(&self, members: &[u128]) {
        self.view.send_replace(view(self.n, members));
    }

    async fn until_role(&self, role: Role) {
        let mut status = self.controller.status();
        let waited = tokio::time::timeout(Duration::from_secs(120), status.wait_for(|s| s.role == role)).await;
        assert!(waited.is_ok(), "node {} is not {role:?} after two minutes", self.n);
    }

    async fn until_event(&self, what: &str, wanted: impl Fn(&ControllerEvent) -> bool) -> ControllerEvent {
        let mut events = self.controller.events();
        let wait = async {
            loop {
                match events.recv().await {
                    Ok(event) if wanted(&event) => return event,
                    Ok(_) => {}
                    Err(error) => panic!("{what}: {error}"),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(120), wait).await.unwrap_or_else(|_| panic!("no {what}"))
    }
}

fn store() -> MemoryStore {
    MemoryStore::new(Arc::new(TokioClock))
}

async fn until(store: &MemoryStore, what: &str, wanted: impl Fn(Option<&DataCenterRecord>) -> bool) {
    let plane = MemoryControlPlane::new(store);
    for _ in 0..1200 {
        if wanted(plane.get(&id()).await.unwrap().as_ref()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what}: not within two minutes; stored: {:?}", plane.get(&id()).await.unwrap());
}

/// Follows the record and says at the end whether it was ever missing or not ACTIVE, once it was.
fn guard_routability(store: &MemoryStore) -> tokio::task::JoinHandle<Vec<String>> {
    let plane = MemoryControlPlane::new(store);
    tokio::spawn(async move {
        let mut seen = Vec::new();
        let mut events = plane.watch().await.unwrap();
        while let Some(Ok(event)) = events.next().await {
            match event {
                WatchEvent::Put(record) if record.data_center.name() == "stop" => break,
                WatchEvent::Put(record) if record.state != DataCenterState::Active => {
                    seen.push(format!("{} in epoch {}", record.state, record.epoch));
                }
                WatchEvent::Removed { why, .. } if why != Removal::Unknown => seen.push(format!("{why:?}")),
                _ => {}
            }
        }
        seen
    })
}

async fn stop_guard(store: &MemoryStore, guard: tokio::task::JoinHandle<Vec<String>>) -> Vec<String> {
    let plane = MemoryControlPlane::new(store);
    let mut record = plane.get(&id()).await.unwrap().unwrap();
    record.data_center = DataCenter::new("stop").build().unwrap();
    plane.register(&record, dc_controlplane::Expected::Absent).await.unwrap();
    guard.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_record_outlives_many_leases() {
    let store = store();
    let node = Node::start(&store, 1, &[1]);
    until(&store, "registered and ACTIVE", |r| r.is_some_and(|r| r.state == DataCenterState::Active)).await;
    let guard = guard_routability(&store);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(stop_guard(&store, guard).await, Vec::<String>::new());
    assert_eq!(node.controller.status().borrow().epoch, Some(Epoch::FIRST));
}

#[tokio::test(start_paused = true)]
async fn d2_a_graceful_stop_hands_over_without_a_gap() {
    let store = store();
    let leader = Node::start(&store, 1, &[1, 2]);
    let follower = Node::start(&store, 2, &[1, 2]);
    leader.until_role(Role::Registrar).await;
    until(&store, "ACTIVE", |r| r.is_some_and(|r| r.state == DataCenterState::Active)).await;
    let guard = guard_routability(&store);
    leader.controller.stop(Goodbye::HandOver).await;
    follower.sees(&[2]);
    follower.until_role(Role::Registrar).await;
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!(stop_guard(&store, guard).await, Vec::<String>::new(), "D2");
    assert_eq!(follower.controller.status().borrow().epoch, Some(Epoch(2)));
}

#[tokio::test(start_paused = true)]
async fn d2_a_crash_of_the_leader_leaves_no_gap() {
    let store = store();
    let leader = Node::start(&store, 1, &[1, 2]);
    let follower = Node::start(&store, 2, &[1, 2]);
    leader.until_role(Role::Registrar).await;
    until(&store, "ACTIVE", |r| r.is_some_and(|r| r.state == DataCenterState::Active)).await;
    let guard = guard_routability(&store);
    leader.controller.stop(Goodbye::Abandon).await;
    follower.sees(&[2]);
    follower.until_role(Role::Registrar).await;
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!(stop_guard(&store, guard).await, Vec::<String>::new(), "D2");
}

#[tokio::test(start_paused = true)]
async fn d6_the_last_node_removes_the_record() {
    let store = store();
    let node = Node::start(&store, 1, &[1]);
    node.until_role(Role::Registrar).await;
    node.controller.stop(Goodbye::HandOver).await;
    assert_eq!(node.plane.get(&id()).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn d6_a_record_handed_to_nodes_that_leave_as_well_is_removed_by_the_last() {
    let store = store();
    let leader = Node::start(&store, 1, &[1, 2]);
    let follower = Node::start(&store, 2, &[1, 2]);
    leader.until_role(Role::Registrar).await;
    leader.controller.stop(Goodbye::HandOver).await;
    follower.sees(&[2]);
    // Before it could take the record over.
    follower.controller.stop(Goodbye::HandOver).await;
    assert_eq!(follower.plane.get(&id()).await.unwrap(), None, "D6");
}

#[tokio::test(start_paused = true)]
async fn d3_a_join_is_advertised_at_once() {
    let store = store();
    let node = Node::start(&store, 1, &[1]);
    until(&store, "registered", |r| r.is_some()).await;
    node.sees(&[1, 2, 3]);
    #[expect(clippy::disallowed_methods, reason = "paused time")]
    let before = tokio::time::Instant::now();
    until(&store, "three endpoints", |r| r.is_some_and(|r| r.endpoints.len() == 3)).await;
    assert!(before.elapsed() < Duration::from_secs(1), "D3");
}

#[tokio::test(start_paused = true)]
async fn d4_start_does_not_wait_for_the_store_and_joins_when_it_is_back() {
    let store = store();
    store.stop();
    let node = Node::start(&store, 1, &[1]);
    node.until_event("failure", |e| matches!(e, ControllerEvent::StoreFailed { .. })).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    store.start();
    until(&store, "registered", |r| r.is_some()).await;
    node.until_role(Role::Registrar).await;
}

#[tokio::test(start_paused = true)]
async fn d4_a_store_that_was_away_for_many_leases_gets_the_record_back() {
    let store = store();
    let node = Node::start(&store, 1, &[1]);
    until(&store, "ACTIVE", |r| r.is_some_and(|r| r.state == DataCenterState::Active)).await;
    store.stop();
    tokio::time::sleep(Duration::from_secs(200)).await;
    store.start();
    until(&store, "ACTIVE again", |r| r.is_some_and(|r| r.state == DataCenterState::Active)).await;
    node.until_role(Role::Registrar).await;
    assert!(node.controller.status().borrow().epoch > Some(Epoch::FIRST));
}

#[tokio::test(start_paused = true)]
async fn d4_a_stop_ends_in_time_while_the_store_is_away() {
    let store = store();
    let node = Node::start(&store, 1, &[1]);
    node.until_role(Role::Registrar).await;
    store.freeze();
    let stop = node.controller.stop(Goodbye::HandOver);
    tokio::time::timeout(Duration::from_secs(11), stop).await.expect("ends within two request timeouts");
}

#[tokio::test(start_paused = true)]
async fn d1_of_two_nominees_one_writes() {
    let store = store();
    // Each believes that it leads: a partition of the datacenter from its start.
    let nodes = [Node::start(&store, 1, &[1]), Node::start(&store, 2, &[2])];
    until(&store, "registered", |r| r.is_some()).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    let owners = nodes.iter().filter(|n| n.controller.status().borrow().role == Role::Registrar).count();
    assert_eq!(owners, 1, "D1");
    let record = nodes[0].plane.get(&id()).await.unwrap().unwrap();
    assert_eq!(record.epoch, Epoch::FIRST, "D1: they alternate");
    let other = nodes.iter().find(|n| n.controller.status().borrow().role == Role::Follower).unwrap();
    assert!(other.controller.status().borrow().id_in_use_by.is_some(), "D1: strangers are reported");
}

#[tokio::test(start_paused = true)]
async fn p8_a_drain_survives_everything_but_an_operator() {
    let store = store();
    let operator = MemoryControlPlane::new(&store);
    let leader = Node::start(&store, 1, &[1, 2]);
    let follower = Node::start(&store, 2, &[1, 2]);
    until(&store, "ACTIVE", |r| r.is_some_and(|r| r.state == DataCenterState::Active)).await;
    let by = Writer::Operator { by: "op".into(), why: "test".into() };
    operator.set_state(&id(), DataCenterState::Draining, by).await.unwrap();
    let draining = |r: Option<&DataCenterRecord>| r.is_some_and(|r| r.state == DataCenterState::Draining);
    until(&store, "DRAINING", draining).await;
    leader.sees(&[1, 2, 3]);
    follower.sees(&[1, 2, 3]);
    until(&store, "three endpoints", |r| r.is_some_and(|r| r.endpoints.len() == 3)).await;
    leader.controller.stop(Goodbye::Abandon).await;
    follower.sees(&[2]);
    follower.until_role(Role::Registrar).await;
    until(&store, "DRAINING after churn", draining).await;
    // The whole datacenter goes, and comes back later.
    follower.controller.stop(Goodbye::Abandon).await;
    until(&store, "expired", |r| r.is_none()).await;
    let mut events = operator.watch().await.unwrap();
    let _again = Node::start(&store, 3, &[3]);
    until(&store, "DRAINING after a restart", draining).await;
    while let Some(Ok(event)) = events.next().await {
        match event {
            WatchEvent::Put(r) if r.state == DataCenterState::Draining => break,
            WatchEvent::Put(r) => assert_ne!(r.state, DataCenterState::Active, "P8: it served before it drained"),
            _ => {}
        }
    }
    operator.set_intent(&id(), &Intent::new(IntentKind::Serve, "op", "done")).await.unwrap();
    until(&store, "ACTIVE", |r| r.is_some_and(|r| r.state == DataCenterState::Active)).await;
}
