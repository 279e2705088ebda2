//! One client of a store in memory.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use dc_core::{DataCenterId, DataCenterRecord, DataCenterState, Intent, StoreId, Version};
use futures::stream::BoxStream;
use tokio::sync::oneshot;

use super::{
    BACKEND,
    faults::{Failure, Faults, Operation},
    ownership::MemoryOwnership,
    store::{Checkpoint, MemoryStore, Reception},
    watch::{Cursor, Event, Shared},
};
use crate::ownership::OwnershipStore;
use crate::{Capabilities, ControlPlane, Durability, Error, Expected, Listing, Outcome, StateChange, Watch, Writer};

/// How a client of a store in memory behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryOptions {
    /// How long a call may take (P11). Default 5 s.
    pub request_timeout: Duration,
    /// Whether there is a watch; without it, `watch` answers `WatchUnsupported`. Documents are watched all the same
    /// (O6). Default true.
    pub watch: bool,
    /// How many events may wait for a watcher, beyond the replay, before its watch is lost. Default 1,024.
    pub watch_backlog: usize,
    /// How often an idle watch says that it is in step. Default 1 s; not zero.
    pub in_step_every: Duration,
    /// How many events may wait for a watcher of documents, beyond the replay, before its watch is lost. Default 65,536.
    pub document_backlog: usize,
    /// Whether it keeps documents for ownership; if not, [`ControlPlane::ownership`] answers `None`. Default true.
    pub ownership: bool,
    /// What the capabilities say of reads. Default true; false for tests of those who must not rely on it.
    pub linearizable_reads: bool,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(5),
            watch: true,
            watch_backlog: 1_024,
            in_step_every: Duration::from_secs(1),
            document_backlog: 65_536,
            ownership: true,
            linearizable_reads: true,
        }
    }
}

/// One client of a [`MemoryStore`]. Clones are the same client, and suffer the same faults.
#[derive(Clone)]
pub struct MemoryControlPlane {
    pub(super) store: MemoryStore,
    pub(super) options: Arc<MemoryOptions>,
    pub(super) faults: Arc<Faults>,
}

impl MemoryControlPlane {
    /// One more client of `store`, with the default options.
    pub fn new(store: &MemoryStore) -> Self {
        Self::with(store, MemoryOptions::default())
    }

    /// One more client of `store`.
    pub fn with(store: &MemoryStore, options: MemoryOptions) -> Self {
        Self { store: store.clone(), options: Arc::new(options), faults: Arc::default() }
    }

    /// The store that this is a client of.
    pub fn memory_store(&self) -> &MemoryStore {
        &self.store
    }

    /// Calls of this operation that were made on this client so far, failed ones included.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.faults.calls(operation)
    }

    /// Cuts this client off: its calls are refused, its watches stay silent; others are not concerned.
    pub fn cut_off(&self) {
        self.faults.set_cut_off(true);
    }

    /// Ends [`cut_off`](Self::cut_off): watches go on with what they missed.
    pub fn reconnect(&self) {
        self.faults.set_cut_off(false);
        self.store.wake_all();
    }

    /// Makes the next `times` calls of `operation` fail; further scripts for it follow afterwards.
    pub fn fail_next(&self, operation: Operation, failure: Failure, times: usize) {
        self.faults.script(operation, failure, times);
    }

    /// Makes each call take this long: half on the way there, half on the way back. Beyond the request timeout it
    /// ends with a timeout, its write having landed if it got there in time.
    pub fn delay(&self, by: Duration) {
        self.faults.set_delay(by);
    }

    /// Makes this client's reads and lists, of records and of documents, show what is stored at this moment, until
    /// [`read_fresh`](Self::read_fresh).
    pub fn read_stale(&self) {
        let stale = self.store.apply(|state, now| {
            state.expire(now);
            state.renamed(state.id)
        });
        self.faults.set_stale(Some(Arc::new(stale)));
    }

    /// Makes this client's reads and lists show what was stored at that moment, as [`read_stale`](Self::read_stale) does.
    pub fn read_as_of(&self, then: &Checkpoint) {
        self.faults.set_stale(Some(Arc::new(then.state().clone())));
    }

    /// Ends [`read_stale`](Self::read_stale) and [`read_as_of`](Self::read_as_of).
    pub fn read_fresh(&self) {
        self.faults.set_stale(None);
    }

    fn unreachable(&self, operation: Operation) -> Error {
        let source = "the store in memory was made unreachable".into();
        Error::Unreachable { backend: BACKEND, operation: operation.name(), outcome: Outcome::Unchanged, source }
    }

    fn timeout(&self, operation: Operation) -> Error {
        let outcome = if operation.writes() { Outcome::Unknown } else { Outcome::Unchanged };
        let after = self.options.request_timeout;
        Error::Timeout { backend: BACKEND, operation: operation.name(), after, outcome }
    }

    /// One call: what the faults make of it, then the store, all within the request timeout.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        operation: Operation,
        act: impl FnOnce(&MemoryStore) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let verdict = self.faults.judge(operation);
        let late = || self.timeout(operation);
        let timeout = self.options.request_timeout;
        match verdict.failure {
            None => {}
            Some(Failure::Unreachable) => return Err(self.unreachable(operation)),
            Some(Failure::Denied) => {
                return Err(Error::Denied { backend: BACKEND, why: "told to by a test".to_owned() });
            }
            Some(Failure::RequestLost) => {
                tokio::time::sleep(timeout).await;
                return Err(late());
            }
            Some(Failure::AnswerLost) => {
                let carried_out = self.served(operation, act);
                let _ = tokio::time::timeout(timeout, carried_out).await;
                tokio::time::sleep(timeout).await;
                return Err(late());
            }
        }
        let answer = async {
            pause(verdict.delay / 2).await;
            let answer = self.served(operation, act).await;
            pause(verdict.delay / 2).await;
            answer
        };
        tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| Err(late()))
    }

    /// The stream of what a watcher of this client reads.
    pub(super) fn reading<E: Event>(&self, watcher: Arc<Shared<E>>) -> BoxStream<'static, Result<E, Error>> {
        let in_step_every = self.options.in_step_every.max(Duration::from_millis(1));
        let (store, faults) = (self.store.clone(), self.faults.clone());
        Cursor { watcher, store, faults, in_step_every, ended: false }.into_watch()
    }

    /// Brings a request to the server and waits for its answer.
    async fn served<T: Send + 'static>(
        &self,
        operation: Operation,
        act: impl FnOnce(&MemoryStore) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        match self.store.receive() {
            Reception::Refused => Err(self.unreachable(operation)),
            Reception::Served => act(&self.store),
            Reception::Frozen => {
                let (answer, answered) = oneshot::channel();
                let request = Box::new(move |store: &MemoryStore| {
                    // The caller may have gone: the request is carried out all the same.
                    let _ = answer.send(act(store));
                });
                if let Err(request) = self.store.wait(request) {
                    request(&self.store);
                }
                answered.await.unwrap_or_else(|_| Err(self.unreachable(operation)))
            }
        }
    }
}

async fn pause(by: Duration) {
    if !by.is_zero() {
        tokio::time::sleep(by).await;
    }
}

impl fmt::Debug for MemoryControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryControlPlane").field("store", &self.store).finish_non_exhaustive()
    }
}

#[async_trait]
impl ControlPlane for MemoryControlPlane {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: BACKEND,
            watch: self.options.watch,
            expiry_events: self.options.watch,
            expiry_granularity: Duration::ZERO,
            linearizable_reads: self.options.linearizable_reads,
            renewal_keeps_version: true,
            replicas: Some(1),
            durability: Durability::Memory,
            findings: Vec::new(),
        }
    }

    async fn store(&self) -> Result<StoreId, Error> {
        self.call(Operation::Store, |store| Ok(store.id())).await
    }

    async fn register(&self, record: &DataCenterRecord, expected: Expected) -> Result<Version, Error> {
        record.check()?;
        let record = record.clone();
        self.call(Operation::Register, move |store| store.apply(|state, now| state.register(now, &record, expected)))
            .await
    }

    async fn heartbeat(&self, record: &DataCenterRecord) -> Result<Version, Error> {
        let (id, seen) = (record.id().clone(), record.version);
        self.call(Operation::Heartbeat, move |store| store.apply(|state, now| state.heartbeat(now, &id, seen))).await
    }

    async fn set_state(&self, id: &DataCenterId, to: DataCenterState, by: Writer) -> Result<StateChange, Error> {
        let id = id.clone();
        self.call(Operation::SetState, move |store| store.apply(|state, now| state.set_state(now, &id, to, by))).await
    }

    async fn set_intent(&self, id: &DataCenterId, intent: &Intent) -> Result<Version, Error> {
        intent.check()?;
        let (id, intent) = (id.clone(), intent.clone());
        self.call(Operation::SetIntent, move |store| store.apply(|state, now| state.set_intent(now, &id, &intent)))
            .await
    }

    async fn get(&self, id: &DataCenterId) -> Result<Option<DataCenterRecord>, Error> {
        let (id, stale) = (id.clone(), self.faults.stale());
        self.call(Operation::Get, move |store| match stale {
            Some(stale) => Ok(stale.record(&id).cloned()),
            None => store.apply(|state, now| state.get(now, &id)),
        })
        .await
    }

    async fn list_all(&self) -> Result<Listing, Error> {
        let stale = self.faults.stale();
        self.call(Operation::List, move |store| match stale {
            Some(stale) => Ok(stale.as_it_was()),
            None => Ok(store.apply(|state, now| state.list(now))),
        })
        .await
    }

    async fn watch(&self) -> Result<Watch, Error> {
        if !self.options.watch {
            return Err(Error::WatchUnsupported { backend: BACKEND });
        }
        let limit = self.options.watch_backlog;
        let watcher = self.call(Operation::Watch, move |store| Ok(store.subscribe(limit))).await?;
        Ok(self.reading(watcher))
    }

    async fn deregister(&self, id: &DataCenterId, version: Version) -> Result<(), Error> {
        let id = id.clone();
        self.call(Operation::Deregister, move |store| store.apply(|state, now| state.deregister(now, &id, version)))
            .await
    }

    fn ownership(&self) -> Option<Arc<dyn OwnershipStore>> {
        self.options.ownership.then(|| Arc::new(MemoryOwnership::new(self)) as Arc<dyn OwnershipStore>)
    }
}
