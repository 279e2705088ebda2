//! The store as one node reaches it: every call travels there and back, and may be lost on either way.
//!
//! Owns the way only: behind it is the store in memory, with the contract of every store, on a runtime of its own.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use dc_controlplane::{
    Error, Outcome, Watch,
    memory::{MemoryControlPlane, MemoryOwnership},
    ownership::{Document, DocumentEvent, DocumentKey, DocumentWatch, Documents, Keep, OwnershipStore, Swap},
};
use futures::{
    StreamExt,
    future::{BoxFuture, try_join_all},
    stream::{BoxStream, select_all},
};
use multidc::{
    Capabilities, ControlPlane, DataCenterId, DataCenterRecord, DataCenterState, Expected, Intent, Listing,
    StateChange, StoreId, Version, Writer,
};
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{runtime::Handle, sync::mpsc, sync::oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::{
    count::Counts,
    net::{Net, Run},
};

/// The name in errors.
const BACKEND: &str = "simulated";
/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Bugs on purpose, at the way to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorePlant {
    /// A write takes the place of whatever is stored.
    Unversioned,
    /// A removal removes whatever is stored.
    LateDelete,
    /// A write whose answer was lost is told as done.
    LostIsDone,
}

/// What breaks on the way to the store, for all nodes.
#[derive(Debug, Default)]
pub struct Faults {
    /// Of a thousand answers to writes, how many are lost.
    pub lose_answers: AtomicU32,
    /// Where watches are broken at the next chance.
    watches: Mutex<Vec<Arc<AtomicBool>>>,
}

impl Faults {
    /// Ends all open watches of everybody with an error.
    pub fn break_watches(&self) {
        for watch in self.watches.lock().drain(..) {
            watch.store(true, Ordering::SeqCst);
        }
    }
}

/// The way of one run of a node to the store.
#[derive(Clone)]
pub struct SimPlane {
    way: Arc<Way>,
}

struct Way {
    net: Net,
    node: Run,
    store: Run,
    /// Where the store runs.
    runtime: Handle,
    plane: MemoryControlPlane,
    faults: Arc<Faults>,
    counts: Counts,
    rng: Mutex<StdRng>,
    plant: Option<StorePlant>,
}

/// What a [`SimPlane`] is made of.
pub struct Parts {
    /// How calls travel.
    pub net: Net,
    /// Who asks.
    pub node: Run,
    /// Where the store is.
    pub store: Run,
    /// What the store runs on.
    pub runtime: Handle,
    /// The store itself.
    pub plane: MemoryControlPlane,
    /// What breaks.
    pub faults: Arc<Faults>,
    /// What is counted.
    pub counts: Counts,
    /// Of which answers are lost.
    pub seed: u64,
    /// A bug on purpose.
    pub plant: Option<StorePlant>,
}

impl fmt::Debug for SimPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimPlane({:?})", self.way.node)
    }
}

type Answer<T> = Result<T, Error>;

impl SimPlane {
    /// The way of one run of a node.
    pub fn new(parts: Parts) -> Self {
        let Parts { net, node, store, runtime, plane, faults, counts, seed, plant } = parts;
        let rng = Mutex::new(StdRng::seed_from_u64(seed));
        Self { way: Arc::new(Way { net, node, store, runtime, plane, faults, counts, rng, plant }) }
    }

    fn late(operation: &'static str, writes: bool) -> Error {
        let outcome = if writes { Outcome::Unknown } else { Outcome::Unchanged };
        Error::Timeout { backend: BACKEND, operation, after: TIMEOUT, outcome }
    }

    /// Sends a call to the store and waits for its answer. A call that was sent is carried out also if nobody waits.
    async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        writes: bool,
        ask: impl FnOnce(MemoryControlPlane) -> BoxFuture<'static, Answer<T>> + Send + 'static,
    ) -> Answer<T> {
        let way = self.way.clone();
        let (answer, answered) = oneshot::channel();
        let lost = writes && {
            let share = way.faults.lose_answers.load(Ordering::SeqCst);
            way.rng.lock().random_range(0..1_000) < share
        };
        let (node, store) = (way.node, way.store);
        self.way.net.send(node, store, move || {
            let there = way.clone();
            way.runtime.spawn(async move {
                let result = ask(there.plane.clone()).await;
                if lost {
                    there.counts.add("store answers lost");
                    return;
                }
                // Who asked may have given up.
                there.net.send(store, node, move || drop(answer.send(result)));
            });
        });
        match tokio::time::timeout(TIMEOUT, answered).await {
            Ok(Ok(answer)) => answer,
            // Dropped on its way: nothing is known until the time is over.
            Ok(Err(_)) => {
                tokio::time::sleep(TIMEOUT).await;
                Err(Self::late(operation, writes))
            }
            Err(_) => Err(Self::late(operation, writes)),
        }
    }

    async fn watch_of(&self, prefix: String) -> Answer<DocumentWatch> {
        let open = move |plane: MemoryControlPlane| -> BoxFuture<'static, _> {
            Box::pin(async move { MemoryOwnership::new(&plane).watch(&prefix).await })
        };
        self.follow("watch", open).await
    }

    /// Opens a watch at the store; what it yields travels in order.
    async fn follow<E, F>(&self, operation: &'static str, open: F) -> Answer<BoxStream<'static, Answer<E>>>
    where
        E: Send + 'static,
        F: FnOnce(MemoryControlPlane) -> BoxFuture<'static, Answer<BoxStream<'static, Answer<E>>>> + Send + 'static,
    {
        let way = self.way.clone();
        let broken: Arc<AtomicBool> = Arc::default();
        let (node, store) = (way.node, way.store);
        let (events, seen) = mpsc::unbounded_channel();
        let opened = self.call(operation, false, move |plane| {
            Box::pin(async move {
                let mut watch = open(plane).await?;
                way.faults.watches.lock().push(broken.clone());
                let line = way.net.ordered(store, node);
                tokio::spawn(async move {
                    loop {
                        let next = watch.next().await;
                        let ends = next.is_none() || broken.load(Ordering::SeqCst) || events.is_closed();
                        if ends || line.is_broken() {
                            // Its error comes behind what was sent before.
                            let why = "the way to the store broke".to_owned();
                            let last = events.clone();
                            line.send(move || drop(last.send(Err(Error::WatchLost { why }))));
                            // Until that has arrived, or nobody waits for it any more.
                            events.closed().await;
                            return;
                        }
                        let Some(event) = next else { return };
                        let events = events.clone();
                        line.send(move || drop(events.send(event)));
                    }
                });
                Ok(())
            })
        });
        opened.await?;
        let stream = UnboundedReceiverStream::new(seen);
        // It ends after an error.
        Ok(Box::pin(stream.scan(false, |over, event| {
            let ended = std::mem::replace(over, event.is_err());
            std::future::ready((!ended).then_some(event))
        })))
    }
}

#[async_trait]
impl ControlPlane for SimPlane {
    fn capabilities(&self) -> Capabilities {
        Capabilities { backend: BACKEND, ..self.way.plane.capabilities() }
    }

    async fn store(&self) -> Answer<StoreId> {
        self.call("store", false, |plane| Box::pin(async move { ControlPlane::store(&plane).await })).await
    }

    async fn register(&self, record: &DataCenterRecord, expected: Expected) -> Answer<Version> {
        let record = record.clone();
        let ask = move |plane: MemoryControlPlane| -> BoxFuture<'static, _> {
            Box::pin(async move { plane.register(&record, expected).await })
        };
        self.call("register", true, ask).await
    }

    async fn heartbeat(&self, record: &DataCenterRecord) -> Answer<Version> {
        let record = record.clone();
        self.call("heartbeat", true, move |plane| Box::pin(async move { plane.heartbeat(&record).await })).await
    }

    async fn set_state(&self, id: &DataCenterId, to: DataCenterState, by: Writer) -> Answer<StateChange> {
        let id = id.clone();
        self.call("set_state", true, move |plane| Box::pin(async move { plane.set_state(&id, to, by).await })).await
    }

    async fn set_intent(&self, id: &DataCenterId, intent: &Intent) -> Answer<Version> {
        let (id, intent) = (id.clone(), intent.clone());
        self.call("set_intent", true, move |plane| Box::pin(async move { plane.set_intent(&id, &intent).await })).await
    }

    async fn get(&self, id: &DataCenterId) -> Answer<Option<DataCenterRecord>> {
        let id = id.clone();
        self.call("get", false, move |plane| Box::pin(async move { plane.get(&id).await })).await
    }

    async fn list_all(&self) -> Answer<Listing> {
        self.call("list", false, |plane| Box::pin(async move { plane.list_all().await })).await
    }

    async fn watch(&self) -> Answer<Watch> {
        self.follow("watch", |plane| Box::pin(async move { ControlPlane::watch(&plane).await })).await
    }

    async fn deregister(&self, id: &DataCenterId, version: Version) -> Answer<()> {
        let id = id.clone();
        self.call("deregister", true, move |plane| Box::pin(async move { plane.deregister(&id, version).await })).await
    }

    fn ownership(&self) -> Option<Arc<dyn OwnershipStore>> {
        Some(Arc::new(self.clone()))
    }
}

/// Writes over whatever is stored, as the bug on purpose does.
async fn overwrite(store: &MemoryOwnership, key: &DocumentKey, body: Bytes, keep: Keep) -> Answer<Swap> {
    let mut expected = Expected::Absent;
    loop {
        match store.compare_and_set(key, expected, body.clone(), keep).await? {
            Swap::Refused(Some(stored)) => expected = Expected::Version(stored.version),
            other => return Ok(other),
        }
    }
}

#[async_trait]
impl OwnershipStore for SimPlane {
    async fn store(&self) -> Answer<StoreId> {
        ControlPlane::store(self).await
    }

    async fn read(&self, key: &DocumentKey) -> Answer<Option<Document>> {
        let key = key.clone();
        let ask = move |plane: MemoryControlPlane| -> BoxFuture<'static, _> {
            Box::pin(async move { MemoryOwnership::new(&plane).read(&key).await })
        };
        self.call("read", false, ask).await
    }

    async fn compare_and_set(&self, key: &DocumentKey, expected: Expected, body: Bytes, keep: Keep) -> Answer<Swap> {
        let (key, plant) = (key.clone(), self.way.plant);
        // Entries only: a session that took the place of its tombstone would be no session.
        let plain = key.as_str().starts_with("s/");
        let ask = move |plane: MemoryControlPlane| -> BoxFuture<'static, _> {
            Box::pin(async move {
                let store = MemoryOwnership::new(&plane);
                if plant == Some(StorePlant::Unversioned) && !plain {
                    return overwrite(&store, &key, body, keep).await;
                }
                store.compare_and_set(&key, expected, body, keep).await
            })
        };
        let answer = self.call("compare_and_set", true, ask).await;
        match answer {
            Err(error) if plant == Some(StorePlant::LostIsDone) && error.outcome_unknown() && !plain => {
                let version = self.way.plane.memory_store().version();
                Ok(Swap::Done(version))
            }
            answer => answer,
        }
    }

    async fn remove(&self, key: &DocumentKey, version: Version) -> Answer<Swap> {
        let (key, plant) = (key.clone(), self.way.plant);
        let ask = move |plane: MemoryControlPlane| -> BoxFuture<'static, _> {
            Box::pin(async move {
                let store = MemoryOwnership::new(&plane);
                let mut version = version;
                if plant == Some(StorePlant::LateDelete)
                    && let Some(stored) = store.read(&key).await?
                {
                    version = stored.version;
                }
                store.remove(&key, version).await
            })
        };
        self.call("remove", true, ask).await
    }

    async fn list(&self, prefix: &str) -> Answer<Documents> {
        let prefix = prefix.to_owned();
        let ask = move |plane: MemoryControlPlane| -> BoxFuture<'static, _> {
            Box::pin(async move { MemoryOwnership::new(&plane).list(&prefix).await })
        };
        self.call("list", false, ask).await
    }

    /// The contract promises no order between keys: what begins differently travels by itself, and may break or be late
    /// by itself.
    async fn watch(&self, prefix: &str) -> Answer<DocumentWatch> {
        if !prefix.is_empty() {
            return self.watch_of(prefix.to_owned()).await;
        }
        let parts = try_join_all(PARTS.map(|part| self.watch_of(part.to_owned()))).await?;
        let (mut replays, mut earliest) = (parts.len(), None);
        let whole = select_all(parts).filter_map(move |event| {
            std::future::ready(match event {
                Ok(DocumentEvent::ReplayDone { as_of }) => {
                    replays -= 1;
                    let as_of = earliest.map_or(as_of, |earliest: Version| match as_of.revision < earliest.revision {
                        true => as_of,
                        false => earliest,
                    });
                    earliest = Some(as_of);
                    (replays == 0).then_some(Ok(DocumentEvent::ReplayDone { as_of }))
                }
                other => Some(other),
            })
        });
        Ok(whole.boxed())
    }
}

/// How keys of documents begin.
const PARTS: [&str; 4] = ["s/", "g/", "n/", "k/"];
