//! Nodes that own things, and answer orders as a well-behaved owner's side does.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use dc_controlplane::{
    ControlPlane, TokioClock,
    memory::{MemoryControlPlane, MemoryStore},
    ownership::OwnershipStore,
};
use dc_core::{Clock, DataCenter, Endpoint, Epoch, NodeId, SharedClock};
use dc_ownership::{
    Me, Ownership, OwnershipOptions, OwnershipOptionsBuilder, Parts, Transfer,
    ids::{GroupId, Slot},
    names::NameSpec,
    order::{Order, Quiesced, Thing},
    policy::{Loss, Policy},
    session::Holder,
    title::Title,
};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

pub(crate) const TTL: Duration = Duration::from_secs(10);

pub(crate) fn now() -> Instant {
    TokioClock.now()
}

/// Nodes and their common store.
pub(crate) struct World {
    pub(crate) store: MemoryStore,
    seed: AtomicU64,
    nodes: Arc<Mutex<BTreeMap<NodeId, Ownership>>>,
}

pub(crate) struct Node {
    pub(crate) own: Ownership,
    pub(crate) plane: Arc<MemoryControlPlane>,
    pub(crate) dc: DataCenter,
    pub(crate) log: Arc<Log>,
    orders: JoinHandle<()>,
}

/// What the owner's side was told, and does.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) adopted: Mutex<BTreeMap<String, (Title, Option<Bytes>)>>,
    pub(crate) lost_sessions: AtomicU64,
    pub(crate) lost: Mutex<Vec<Thing>>,
    pub(crate) moved: Mutex<Vec<(Thing, bool)>>,
    pub(crate) refuse_adoption: AtomicBool,
    pub(crate) keep_quiet: AtomicBool,
    /// What was to be handed over.
    pub(crate) quiesced: Mutex<Vec<Thing>>,
    /// State that goes along with a thing.
    pub(crate) state: Mutex<BTreeMap<Thing, Vec<(String, Bytes)>>>,
    held_back: Mutex<Vec<tokio::sync::oneshot::Sender<Quiesced>>>,
}

struct Post(Arc<Mutex<BTreeMap<NodeId, Ownership>>>);

#[async_trait]
impl Transfer for Post {
    async fn offer(&self, to: &Holder, thing: &Thing, epoch: Epoch, state: Vec<(String, Bytes)>) -> Result<(), String> {
        let there = self.0.lock().get(&to.node).cloned();
        there.ok_or("no such node")?.offered(thing.clone(), epoch, state)
    }
}

pub(crate) fn dc(name: &str) -> DataCenter {
    DataCenter::new(name).region(name.split('-').next().unwrap_or(name)).build().expect("legal")
}

pub(crate) fn survivor() -> Policy {
    Policy { survives: Loss::DataCenter, ..Policy::default() }
}

pub(crate) fn spec(name: &str, policy: &Policy) -> NameSpec {
    NameSpec { name: name.into(), kind: "ledger".into(), args: Bytes::from_static(b"x"), policy: policy.clone() }
}

pub(crate) fn name(name: &str) -> Thing {
    Thing::Name(name.to_owned())
}

impl World {
    pub(crate) fn new() -> Self {
        let clock: SharedClock = Arc::new(TokioClock);
        Self { store: MemoryStore::new(clock), seed: AtomicU64::new(1), nodes: Arc::default() }
    }

    pub(crate) fn node(&self, dc_name: &str, kinds: &[(&str, Policy)]) -> Node {
        self.node_with(dc_name, kinds, |options| options)
    }

    pub(crate) fn node_with(
        &self,
        dc_name: &str,
        kinds: &[(&str, Policy)],
        set: impl FnOnce(OwnershipOptionsBuilder) -> OwnershipOptionsBuilder,
    ) -> Node {
        self.node_on(dc_name, kinds, set, |store| store)
    }

    /// Between which and its store something lies.
    pub(crate) fn node_on(
        &self,
        dc_name: &str,
        kinds: &[(&str, Policy)],
        set: impl FnOnce(OwnershipOptionsBuilder) -> OwnershipOptionsBuilder,
        between: impl FnOnce(Arc<dyn OwnershipStore>) -> Arc<dyn OwnershipStore>,
    ) -> Node {
        let seed = self.seed.fetch_add(1, Ordering::SeqCst);
        let plane = Arc::new(MemoryControlPlane::new(&self.store));
        let id = NodeId(u128::from(seed));
        let endpoint: Endpoint = format!("10.0.0.{seed}:7946").parse().expect("legal");
        let options = set(OwnershipOptions::builder().ttl(TTL)).build().expect("legal");
        let (own, mut orders) = Ownership::start(Parts {
            store: between(plane.ownership().expect("the in-memory plane has documents")),
            me: Me { node: id, data_center: dc(dc_name), endpoint },
            kinds: kinds.iter().map(|(kind, policy)| ((*kind).to_owned(), policy.clone())).collect(),
            placeable: Arc::new(|_| true),
            transfer: Arc::new(Post(Arc::clone(&self.nodes))),
            options,
            clock: Arc::new(TokioClock),
            seed,
        });
        self.nodes.lock().insert(id, own.clone());
        let log = Arc::new(Log::default());
        let side = Arc::clone(&log);
        let orders = tokio::spawn(async move {
            while let Some(order) = orders.recv().await {
                side.obey(order);
            }
        });
        Node { own, plane, dc: dc(dc_name), log, orders }
    }

    /// As a crash: nothing is said to anybody.
    pub(crate) fn kill(&self, node: Node) {
        self.nodes.lock().retain(|_, own| own.holder() != node.own.holder());
        node.orders.abort();
        // The driver ends with its last handle.
        drop(node);
    }
}

impl Log {
    fn obey(&self, order: Order) {
        match order {
            Order::SessionLost { .. } => {
                self.lost_sessions.fetch_add(1, Ordering::SeqCst);
                self.adopted.lock().clear();
            }
            Order::Lost { thing, .. } => {
                if let Thing::Name(name) = &thing {
                    self.adopted.lock().remove(name);
                }
                self.lost.lock().push(thing);
            }
            Order::Quiesce { thing, done, .. } => {
                self.quiesced.lock().push(thing.clone());
                if self.keep_quiet.load(Ordering::SeqCst) {
                    return self.held_back.lock().push(done);
                }
                let state = self.state.lock().get(&thing).cloned().unwrap_or_default();
                // A driver that has given up takes no answer.
                let _ = done.send(Quiesced { state });
            }
            Order::Moved { thing, to } => self.moved.lock().push((thing, to.is_some())),
            Order::Adopt { entry, title, state, done } => {
                if self.refuse_adoption.load(Ordering::SeqCst) {
                    let _ = done.send(Err("not here".to_owned()));
                } else {
                    self.adopted.lock().insert(entry.spec.name, (title, state));
                    let _ = done.send(Ok(()));
                }
            }
            _ => {}
        }
    }
}

impl Node {
    pub(crate) fn owned_slots(&self, group: GroupId) -> usize {
        Slot::all().filter(|slot| self.own.slot_title(group, *slot).is_some()).count()
    }
}

/// Waits until it is so; the bound is of paused time.
pub(crate) async fn until(what: &str, bound: Duration, mut so: impl FnMut() -> bool) -> Duration {
    let begun = now();
    while !so() {
        assert!(now() - begun < bound, "{what}: not within {bound:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    now() - begun
}
