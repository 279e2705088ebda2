//! The store that planes share: a server in memory, and what may befall it.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dc_core::{Clock, DataCenterId, SharedClock, StoreId, Version};
use parking_lot::Mutex;

use super::{
    state::State,
    watch::{Backlog, Shared},
};
use crate::{
    WatchEvent,
    ownership::{Document, DocumentEvent, DocumentKey},
};

/// A store in memory that several planes share. Clones are the same store.
///
/// Leases are timed on its clock: tokio's ([`TokioClock`](crate::TokioClock)), which paused time moves, or one that a
/// test drives; after moving a clock that tokio does not know, call [`tick`](Self::tick) so that watchers learn of
/// expiry at once.
#[derive(Clone)]
pub struct MemoryStore {
    pub(super) inner: Arc<Inner>,
}

/// A moment of a store, to go back to.
#[derive(Clone)]
pub struct Checkpoint(State);

impl Checkpoint {
    pub(super) fn state(&self) -> &State {
        &self.0
    }
}

type Waiting = Box<dyn FnOnce(&MemoryStore) + Send>;

pub(super) struct Inner {
    pub(super) clock: SharedClock,
    requests: AtomicU64,
    server: Mutex<Server>,
}

struct Server {
    state: State,
    stopped: bool,
    frozen: bool,
    /// Requests that came while it was frozen, in order.
    waiting: Vec<Waiting>,
    silent_expiry: bool,
    watchers: Vec<Weak<Shared<WatchEvent>>>,
    /// Those who watch documents, each with its prefix.
    document_watchers: Vec<(String, Weak<Shared<DocumentEvent>>)>,
}

/// What becomes of a request that reaches the server.
pub(super) enum Reception {
    /// It may be carried out.
    Served,
    /// Nobody answers at that address.
    Refused,
    /// It is taken, and waits.
    Frozen,
}

impl MemoryStore {
    /// An empty store with a random id, on this clock.
    pub fn new(clock: SharedClock) -> Self {
        Self::with_id(clock, StoreId(rand::random()))
    }

    /// An empty store with this id, for runs that are to be repeated to the letter.
    pub fn with_id(clock: SharedClock, id: StoreId) -> Self {
        let server = Server {
            state: State::new(id),
            stopped: false,
            frozen: false,
            waiting: Vec::new(),
            silent_expiry: false,
            watchers: Vec::new(),
            document_watchers: Vec::new(),
        };
        Self { inner: Arc::new(Inner { clock, requests: AtomicU64::new(0), server: Mutex::new(server) }) }
    }

    /// The id of the present incarnation.
    pub fn id(&self) -> StoreId {
        self.inner.server.lock().state.id
    }

    /// The version of the latest change.
    pub fn version(&self) -> Version {
        self.inner.server.lock().state.as_of()
    }

    /// Requests that reached the store so far.
    pub fn requests(&self) -> u64 {
        self.inner.requests.load(Ordering::SeqCst)
    }

    /// Looks at the clock: what has expired is removed and told to watchers.
    pub fn tick(&self) {
        self.apply(|state, now| state.expire(now));
    }

    /// Stops the server: each request is refused, and watches stay silent. Leases go on.
    pub fn stop(&self) {
        self.inner.server.lock().stopped = true;
    }

    /// Starts the server again, with its data.
    pub fn start(&self) {
        self.inner.server.lock().stopped = false;
        self.wake_all();
    }

    /// Freezes the server: requests are taken and wait; watches stay silent. Leases go on.
    pub fn freeze(&self) {
        self.inner.server.lock().frozen = true;
    }

    /// Thaws the server: it first carries out what waits, also where nobody awaits the answer any more.
    pub fn unfreeze(&self) {
        let waiting = {
            let mut server = self.inner.server.lock();
            server.frozen = false;
            std::mem::take(&mut server.waiting)
        };
        for request in waiting {
            request(self);
        }
        self.wake_all();
    }

    /// Loses everything: an empty store with another id. Open watches end with `WatchLost`.
    pub fn wipe(&self) {
        self.wipe_as(StoreId(rand::random()));
    }

    /// [`wipe`](Self::wipe), the new store having this id, for runs that are to be repeated to the letter.
    pub fn wipe_as(&self, id: StoreId) {
        self.inner.server.lock().state = State::new(id);
        self.lose_watches("the store is another one");
    }

    /// The present state, to go back to.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint(self.inner.server.lock().state.clone())
    }

    /// Goes back to a checkpoint and keeps the store's id: acknowledged writes are lost and their revisions will be
    /// given again, as after a power loss without fsync. Leases end when they would have then. Open watches end.
    pub fn roll_back(&self, to: &Checkpoint) {
        self.inner.server.lock().state = to.0.clone();
        self.lose_watches("the store is behind what was delivered");
    }

    /// Restores a checkpoint as another store, as an operator who follows the book restores a backup.
    pub fn restore_as_new(&self, from: &Checkpoint) {
        self.restore_as(from, StoreId(rand::random()));
    }

    /// [`restore_as_new`](Self::restore_as_new), as the store of this id.
    pub fn restore_as(&self, from: &Checkpoint, id: StoreId) {
        self.inner.server.lock().state = from.0.renamed(id);
        self.lose_watches("the store is another one");
    }

    /// Ends every open watch with `WatchLost`.
    pub fn lose_watches(&self, why: &str) {
        for watcher in self.watchers() {
            watcher.lose(why);
        }
        for watcher in self.document_watchers() {
            watcher.lose(why);
        }
    }

    /// The document as it is stored at this moment, asked of nobody: for checks, no request.
    pub fn document(&self, key: &DocumentKey) -> Option<Document> {
        self.apply(|state, now| state.read(now, key))
    }

    /// Every document whose key begins with `prefix`, as stored at this moment: for checks, no request.
    pub fn documents(&self, prefix: &str) -> Vec<Document> {
        self.apply(|state, now| state.list_documents(now, prefix)).documents
    }

    /// Whether records expire without a word to watchers, as in a store that has no events for it. This breaks P4,
    /// for tests of those who must not rely on it. Documents are not concerned.
    pub fn set_silent_expiry(&self, silent: bool) {
        self.inner.server.lock().silent_expiry = silent;
    }

    /// Forgets a record without a word to anybody; whether it was there.
    pub fn forget(&self, id: &DataCenterId) -> bool {
        self.inner.server.lock().state.forget(id)
    }

    /// Writes `document` under `key` as a stranger would, without a lease.
    pub fn write_raw(&self, key: &str, document: &[u8]) {
        self.apply(|state, now| state.write_raw(now, key, document));
    }

    pub(super) fn now(&self) -> Instant {
        self.inner.clock.now()
    }

    /// Takes in one request.
    pub(super) fn receive(&self) -> Reception {
        let server = self.inner.server.lock();
        if server.stopped {
            return Reception::Refused;
        }
        self.inner.requests.fetch_add(1, Ordering::SeqCst);
        if server.frozen { Reception::Frozen } else { Reception::Served }
    }

    /// Keeps a request until the server is thawed; gives it back where it is not frozen any more.
    pub(super) fn wait(&self, request: Waiting) -> Result<(), Waiting> {
        let mut server = self.inner.server.lock();
        if !server.frozen {
            return Err(request);
        }
        server.waiting.push(request);
        Ok(())
    }

    /// Carries out `act`, then tells watchers what changed.
    pub(super) fn apply<T>(&self, act: impl FnOnce(&mut State, Instant) -> T) -> T {
        let now = self.now();
        let mut server = self.inner.server.lock();
        let answer = act(&mut server.state, now);
        let events = std::mem::take(&mut server.state.untold);
        if !events.is_empty() {
            let silent = server.silent_expiry;
            let expired =
                |event: &WatchEvent| matches!(event, WatchEvent::Removed { why: crate::Removal::Expired, .. });
            server.watchers.retain(|watcher| match watcher.upgrade() {
                Some(watcher) => {
                    watcher.tell(events.iter().filter(|event| !(silent && expired(event))));
                    true
                }
                None => false,
            });
        }
        let events = std::mem::take(&mut server.state.documents.untold);
        if !events.is_empty() {
            server.document_watchers.retain(|(prefix, watcher)| match watcher.upgrade() {
                Some(watcher) => {
                    watcher.tell(events.iter().filter(|event| event.is_under(prefix)));
                    true
                }
                None => false,
            });
        }
        answer
    }

    /// Opens a watch: what is there, then the end of the replay; later changes are told to it from this moment on.
    pub(super) fn subscribe(&self, limit: usize) -> Arc<Shared<WatchEvent>> {
        self.tick();
        let mut server = self.inner.server.lock();
        let listing = server.state.as_it_was();
        let mut replay: Vec<WatchEvent> = listing.records.into_iter().map(WatchEvent::Put).collect();
        replay.extend(listing.intents.into_iter().map(WatchEvent::Intent));
        replay.extend(listing.skipped.into_iter().map(WatchEvent::Skipped));
        replay.push(WatchEvent::ReplayDone { as_of: listing.as_of });
        let watcher = Arc::new(Shared::new(Backlog::new(replay, limit)));
        server.watchers.push(Arc::downgrade(&watcher));
        watcher
    }

    /// Opens a watch of the documents under `prefix`, as [`subscribe`](Self::subscribe) does of the records.
    pub(super) fn subscribe_documents(&self, prefix: &str, limit: usize) -> Arc<Shared<DocumentEvent>> {
        self.tick();
        let mut server = self.inner.server.lock();
        let listing = server.state.documents_as_they_were(prefix);
        let mut replay: Vec<DocumentEvent> = listing.documents.into_iter().map(DocumentEvent::Put).collect();
        replay.push(DocumentEvent::ReplayDone { as_of: listing.as_of });
        let watcher = Arc::new(Shared::new(Backlog::new(replay, limit)));
        server.document_watchers.push((prefix.to_owned(), Arc::downgrade(&watcher)));
        watcher
    }

    /// Whether watchers can hear the server; if so, how long until the next lease ends.
    pub(super) fn audible(&self) -> Option<Option<Duration>> {
        let server = self.inner.server.lock();
        if server.stopped || server.frozen {
            return None;
        }
        let lease = if server.silent_expiry { None } else { server.state.next_end() };
        let end = lease.into_iter().chain(server.state.next_clean_up()).min();
        Some(end.map(|end| end.saturating_duration_since(self.now())))
    }

    fn watchers(&self) -> Vec<Arc<Shared<WatchEvent>>> {
        self.inner.server.lock().watchers.iter().filter_map(Weak::upgrade).collect()
    }

    fn document_watchers(&self) -> Vec<Arc<Shared<DocumentEvent>>> {
        self.inner.server.lock().document_watchers.iter().filter_map(|(_, watcher)| watcher.upgrade()).collect()
    }

    pub(super) fn wake_all(&self) {
        for watcher in self.watchers() {
            watcher.wake();
        }
        for watcher in self.document_watchers() {
            watcher.wake();
        }
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("version", &self.version()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint").field("version", &self.0.as_of()).finish_non_exhaustive()
    }
}
