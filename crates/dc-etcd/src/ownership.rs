//! The ownership documents: beside the records, in the same namespace.
//!
//! A document's version is its key's `mod_revision`. Each write is one transaction
//! that compares it and the store's id, and reads what stands there where it is
//! refused. A write whose answer is lost is never repeated here: nothing would
//! tell its own earlier attempt from another's write. Several writes together are
//! one transaction of as many inner ones, each with its own comparison: what they
//! change is of one revision.
//!
//! What is to be kept for a time hangs on a lease of twice that time, one for each
//! key, which the next writes of that key reuse. As long as it will last long
//! enough, a write costs one request; else it is kept alive first (two). With the
//! default timeout of 5 s, a session that is kept for 20 s and renewed every 3 s
//! takes a keepalive with about every fifth renewal.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use dc_controlplane::{
    Error, Expected, TokioClock,
    ownership::{
        Document, DocumentEvent, DocumentKey, DocumentWatch, Documents, Keep, OwnershipStore, Swap, Write, check_body,
        check_prefix,
    },
};
use dc_core::{Clock, StoreId, Version};
use etcd_client::{
    Compare, CompareOp, Event, EventType, GetOptions, KeyValue, LeaseGrantOptions, PutOptions, Txn, TxnOp,
    TxnOpResponse,
};
use parking_lot::Mutex;
use tracing::warn;

use crate::{
    connect::{Call, Repeat},
    error,
    keys::{self, Keys},
    lease,
    plane::{Answer, Contents, ROUNDS, Shared, comparable},
    store::{Mark, first_got},
    watch::{self, Store, View},
};

/// Documents per page: 125 MiB of the largest.
const PAGE: i64 = 1_000;

/// Writes of one transaction. By default etcd takes 128 operations, and requests of 1.5 MiB.
const AT_ONCE: usize = 32;

/// How many leases are remembered before those that have ended are forgotten.
const REMEMBERED: usize = 1_024;

/// The leases of the documents that this client wrote to be kept for a time.
#[derive(Debug, Default)]
pub(crate) struct DocumentLeases(Mutex<HashMap<DocumentKey, Kept>>);

#[derive(Clone, Copy, Debug)]
struct Kept {
    lease: i64,
    /// What was granted.
    ttl: Duration,
    /// When it was last granted or kept alive: before that was sent.
    since: Instant,
}

impl Kept {
    /// Whether it lasts for `keep` from `at` on.
    fn covers(&self, at: Instant, keep: Duration) -> bool {
        self.since + self.ttl >= at + keep
    }
}

impl DocumentLeases {
    /// The lease of `key`, if it is one for documents that are kept so long.
    fn of(&self, key: &DocumentKey, ttl: Duration) -> Option<Kept> {
        // What was granted beyond what was asked is no other lease; one of a much longer time is.
        self.0.lock().get(key).copied().filter(|kept| kept.ttl >= ttl && kept.ttl <= ttl + Duration::from_secs(10))
    }

    fn remember(&self, key: &DocumentKey, kept: Kept, now: Instant) {
        let mut all = self.0.lock();
        if all.len() >= REMEMBERED && all.len().is_power_of_two() {
            all.retain(|_, kept| kept.covers(now, Duration::ZERO));
        }
        all.insert(key.clone(), kept);
    }

    fn forget(&self, key: &DocumentKey) -> Option<i64> {
        Some(self.0.lock().remove(key)?.lease)
    }
}

/// A lease for one write. Dropped before the write is on its way, a fresh one is revoked.
struct Leased {
    shared: Weak<Shared>,
    kept: Kept,
    unused: bool,
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade()
            && self.unused
        {
            lease::revoke(&shared, vec![self.kept.lease]);
        }
    }
}

/// The documents of one namespace; shares the connections of its control plane.
pub(crate) struct EtcdOwnership {
    shared: Arc<Shared>,
}

impl EtcdOwnership {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared) }
    }

    async fn bounded<T>(&self, call: &Call, future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.shared.servers.bounded(call, future).await
    }
}

impl fmt::Debug for EtcdOwnership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdOwnership").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

#[async_trait]
impl OwnershipStore for EtcdOwnership {
    async fn store(&self) -> Result<StoreId, Error> {
        let call = Call::new("store");
        self.bounded(&call, async { Ok(self.shared.ready(&call).await?.store) }).await
    }

    async fn read(&self, key: &DocumentKey) -> Result<Option<Document>, Error> {
        let call = Call::new("read");
        self.bounded(&call, self.stored(&call, key)).await
    }

    async fn compare_and_set(
        &self,
        key: &DocumentKey,
        expected: Expected,
        body: Bytes,
        keep: Keep,
    ) -> Result<Swap, Error> {
        check_body(&body)?;
        let call = Call::new("compare_and_set");
        self.bounded(&call, self.write(&call, key, expected, body, keep)).await
    }

    fn at_once(&self) -> usize {
        AT_ONCE
    }

    async fn compare_and_set_all(&self, writes: Vec<Write>) -> Result<Vec<Swap>, Error> {
        for write in &writes {
            check_body(&write.body)?;
        }
        let call = Call::new("compare_and_set_all");
        self.bounded(&call, self.write_all(&call, &writes)).await
    }

    async fn remove(&self, key: &DocumentKey, version: Version) -> Result<Swap, Error> {
        let call = Call::new("remove");
        self.bounded(&call, self.delete(&call, key, version)).await
    }

    async fn list(&self, prefix: &str) -> Result<Documents, Error> {
        check_prefix(prefix)?;
        let call = Call::new("list");
        let contents = self.bounded(&call, self.contents(&call, prefix)).await?;
        let store = contents.mark.store;
        let as_of = Version::new(store, keys::unsigned(contents.revision));
        let mut listed = Documents { as_of, documents: Vec::with_capacity(contents.kvs.len()), skipped: Vec::new() };
        for kv in &contents.kvs {
            match self.shared.keys.read_document(store, kv) {
                Ok(document) => listed.documents.push(document),
                Err(corrupt) => listed.skipped.push(corrupt),
            }
        }
        Ok(listed)
    }

    async fn watch(&self, prefix: &str) -> Result<DocumentWatch, Error> {
        check_prefix(prefix)?;
        let call = Call::new("watch");
        let contents = self.bounded(&call, self.contents(&call, prefix)).await?;
        Ok(watch::start_view(Arc::clone(&self.shared), contents, Shown { prefix: prefix.to_owned() }))
    }
}

impl EtcdOwnership {
    async fn stored(&self, call: &Call, key: &DocumentKey) -> Result<Option<Document>, Error> {
        let (store, kv, _) = self.shared.read(call, &self.shared.keys.document(key)).await?;
        Ok(kv.map(|kv| document(key, store, &kv)))
    }

    /// One transaction; before it, where the document is to be kept for a time and its lease does not last so long, a
    /// grant or a keepalive.
    async fn write(
        &self,
        call: &Call,
        key: &DocumentKey,
        expected: Expected,
        body: Bytes,
        keep: Keep,
    ) -> Result<Swap, Error> {
        let shared = &self.shared;
        let place = shared.keys.document(key);
        for _ in 0..ROUNDS {
            let mark = shared.ready(call).await?;
            let Some(revision) = comparable(mark.store, expected) else {
                return Ok(Swap::Refused(self.stored(call, key).await?));
            };
            let mut leased = match keep {
                Keep::Forever => None,
                Keep::For(long) => Some(self.lease(call, key, long).await?),
            };
            let options = leased.as_ref().map(|leased| PutOptions::new().with_lease(leased.kept.lease));
            let put = TxnOp::put(place.as_str(), body.as_ref(), options);
            let condition = Compare::mod_revision(place.as_str(), CompareOp::Equal, revision);
            if let Some(leased) = &mut leased {
                // From now on the document may hang on it, also where nobody waits for the answer any more.
                leased.unused = false;
                shared.document_leases.remember(key, leased.kept, TokioClock.now());
            }
            match shared.txn_raw(call, Repeat::Once, mark, &place, Some(condition), vec![put]).await? {
                Ok(Answer::Done { revision, .. }) => {
                    match (keep, leased) {
                        (Keep::For(long), Some(leased)) => self.outlast(call, key, leased.kept, long).await?,
                        // No document hangs on the lease of before any more.
                        _ => self.release(key),
                    }
                    let store = shared.store_after(call, mark).await?;
                    return Ok(Swap::Done(Version::new(store, keys::unsigned(revision))));
                }
                Ok(Answer::Stored { kv, .. }) => {
                    let ours = leased.as_ref().map(|leased| leased.kept.lease);
                    if ours.is_some() && kv.as_ref().map(KeyValue::lease) != ours {
                        self.release(key);
                    }
                    return Ok(Swap::Refused(kv.map(|kv| document(key, mark.store, &kv))));
                }
                Ok(Answer::OtherStore) => {}
                // It has ended, or was revoked: another one.
                Err(err) if error::no_such_lease(&err) => {
                    shared.document_leases.forget(key);
                }
                Err(err) => return Err(error::translate(call.operation, err, call.outcome())),
            }
        }
        Err(error::malformed(call.operation, "the store keeps changing its id, or its leases"))
    }

    /// One transaction of inner ones.
    async fn write_all(&self, call: &Call, writes: &[Write]) -> Result<Vec<Swap>, Error> {
        let shared = &self.shared;
        let store_key = shared.keys.store();
        for _ in 0..ROUNDS {
            let mark = shared.ready(call).await?;
            let inner = |write: &Write| {
                let place = shared.keys.document(&write.key);
                let (place, get) = (place.as_str(), TxnOp::get(place.as_str(), None));
                // A version of another store is none of any document's.
                let Some(revision) = comparable(mark.store, write.expected) else { return get };
                let condition = Compare::mod_revision(place, CompareOp::Equal, revision);
                let put = TxnOp::put(place, write.body.as_ref(), None);
                TxnOp::txn(Txn::new().when([condition]).and_then([put]).or_else([get]))
            };
            let then = writes.iter().map(inner).collect();
            match shared.txn_raw(call, Repeat::Once, mark, &store_key, None, then).await? {
                Ok(Answer::Done { responses, revision }) => {
                    if responses.len() != writes.len() {
                        return Err(error::malformed(call.operation, "not every write was answered"));
                    }
                    let store = shared.store_after(call, mark).await?;
                    let swap = |(write, response): (&Write, TxnOpResponse)| {
                        let inner = match response {
                            TxnOpResponse::Txn(inner) if inner.succeeded() => {
                                // No document hangs on the lease of before any more.
                                self.release(&write.key);
                                return Swap::Done(Version::new(store, keys::unsigned(revision)));
                            }
                            TxnOpResponse::Txn(inner) => inner.op_responses(),
                            other => vec![other],
                        };
                        let kv = first_got(&inner, 0);
                        Swap::Refused(kv.map(|kv| document(&write.key, mark.store, kv)))
                    };
                    return Ok(writes.iter().zip(responses).map(swap).collect());
                }
                Ok(Answer::Stored { .. } | Answer::OtherStore) => {}
                Err(err) => return Err(error::translate(call.operation, err, call.outcome())),
            }
        }
        Err(error::malformed(call.operation, "the store keeps changing its id"))
    }

    /// A lease for a write of `key` that lasts long enough, as far as can be told before.
    async fn lease(&self, call: &Call, key: &DocumentKey, keep: Duration) -> Result<Leased, Error> {
        let shared = &self.shared;
        let ttl = whole_seconds(keep * 2);
        let leased = |kept, unused| Leased { shared: Arc::downgrade(shared), kept, unused };
        let now = TokioClock.now();
        if let Some(kept) = shared.document_leases.of(key, ttl) {
            // The write is accepted by then, or its answer is lost.
            if kept.covers(now + shared.config.request_timeout(), keep) {
                return Ok(leased(kept, false));
            }
            if shared.keep_alive(call, kept.lease).await? {
                return Ok(leased(Kept { since: now, ..kept }, false));
            }
            shared.document_leases.forget(key);
        }
        let lease = rand::random_range(1..i64::MAX);
        let mut fresh = leased(Kept { lease, ttl, since: now }, true);
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let answer = shared
            .servers
            .send_raw(call, Repeat::Harmless, |client| async move {
                client.lease_client().grant(seconds, Some(LeaseGrantOptions::new().with_id(lease))).await
            })
            .await?;
        match answer {
            Ok(grant) => {
                fresh.kept.ttl = Duration::from_secs(u64::try_from(grant.ttl()).unwrap_or(0)).max(ttl);
                shared.granted(ttl, fresh.kept.ttl);
                Ok(fresh)
            }
            // An earlier attempt of ours has landed: the id is random.
            Err(err) if error::lease_exists(&err) => Ok(fresh),
            Err(err) => Err(error::translate(call.operation, err, call.outcome())),
        }
    }

    /// Makes sure that what was written just now is kept for its time (O3): it may have taken longer than thought.
    async fn outlast(&self, call: &Call, key: &DocumentKey, kept: Kept, keep: Duration) -> Result<(), Error> {
        let now = TokioClock.now();
        if kept.covers(now, keep) {
            return Ok(());
        }
        if !self.shared.keep_alive(call, kept.lease).await? {
            return Err(error::malformed(call.operation, "the document was written so slowly that it has ended"));
        }
        self.shared.document_leases.remember(key, Kept { since: now, ..kept }, now);
        Ok(())
    }

    /// Revokes the lease of `key` that nothing hangs on any more.
    fn release(&self, key: &DocumentKey) {
        lease::revoke(&self.shared, self.shared.document_leases.forget(key).into_iter().collect());
    }

    async fn delete(&self, call: &Call, key: &DocumentKey, version: Version) -> Result<Swap, Error> {
        let shared = &self.shared;
        let place = shared.keys.document(key);
        for _ in 0..ROUNDS {
            let mark = shared.ready(call).await?;
            let Some(revision) = comparable(mark.store, Expected::Version(version)) else {
                return Ok(Swap::Refused(self.stored(call, key).await?));
            };
            let condition = Compare::mod_revision(place.as_str(), CompareOp::Equal, revision);
            let then = vec![TxnOp::delete(place.as_str(), None)];
            match shared.txn(call, Repeat::Once, mark, &place, Some(condition), then).await? {
                Answer::Done { revision, .. } => {
                    self.release(key);
                    let store = shared.store_after(call, mark).await?;
                    return Ok(Swap::Done(Version::new(store, keys::unsigned(revision))));
                }
                Answer::Stored { kv, .. } => {
                    return Ok(Swap::Refused(kv.map(|kv| document(key, mark.store, &kv))));
                }
                Answer::OtherStore => {}
            }
        }
        Err(error::malformed(call.operation, "the store keeps changing its id"))
    }

    /// Every document under `prefix`: one request for each page, all as of the revision of the first.
    async fn contents(&self, call: &Call, prefix: &str) -> Result<Contents, Error> {
        for _ in 0..ROUNDS {
            let mark = self.shared.ready(call).await?;
            if let Some((kvs, revision)) = self.pages(call, mark, prefix).await? {
                return Ok(Contents { mark, revision, kvs });
            }
        }
        Err(error::malformed(call.operation, "the store keeps changing while it is read"))
    }

    /// `None` where the store is another one, or a later page was compacted away.
    async fn pages(&self, call: &Call, mark: Mark, prefix: &str) -> Result<Option<(Vec<KeyValue>, i64)>, Error> {
        let shared = &self.shared;
        let store_key = shared.keys.store();
        let (mut from, end) = shared.keys.documents(prefix);
        let mut options = GetOptions::new().with_range(end).with_limit(PAGE);
        let mut kvs: Vec<KeyValue> = Vec::new();
        let mut as_of = None;
        loop {
            let get = TxnOp::get(from.clone(), Some(options.clone()));
            let answer = shared.txn_raw(call, Repeat::Harmless, mark, &store_key, None, vec![get]).await?;
            let (responses, revision) = match answer {
                Ok(Answer::Done { responses, revision }) => (responses, revision),
                Ok(Answer::Stored { .. } | Answer::OtherStore) => return Ok(None),
                Err(err) if error::compacted(&err) && as_of.is_some() => return Ok(None),
                Err(err) => return Err(error::translate(call.operation, err, call.outcome())),
            };
            let revision = *as_of.get_or_insert(revision);
            let Some(TxnOpResponse::Get(page)) = responses.into_iter().next() else {
                return Err(error::malformed(call.operation, "a page was answered by something else"));
            };
            let more = page.more();
            kvs.extend_from_slice(page.kvs());
            match kvs.last() {
                Some(last) if more => {
                    from = last.key().to_vec();
                    from.push(0);
                    options = options.with_revision(revision);
                }
                // Of a store that was found rolled back meanwhile it is not.
                _ if shared.store.current() == Some(mark.store) => return Ok(Some((kvs, revision))),
                _ => return Ok(None),
            }
        }
    }
}

fn document(key: &DocumentKey, store: StoreId, kv: &KeyValue) -> Document {
    Document { key: key.clone(), version: keys::version(store, kv), body: Bytes::copy_from_slice(kv.value()) }
}

/// Rounded up; at least one.
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs((time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1))
}

/// The documents under a prefix.
struct Shown {
    prefix: String,
}

impl View for Shown {
    type Event = DocumentEvent;

    fn range(&self, keys: &Keys) -> (Vec<u8>, Vec<u8>) {
        keys.documents(&self.prefix)
    }

    fn replay(&self, keys: &Keys, store: StoreId, kvs: &[KeyValue], as_of: Version) -> Vec<DocumentEvent> {
        let shown = kvs.iter().filter_map(|kv| Some(DocumentEvent::Put(keys.read_document(store, kv).ok()?)));
        shown.chain([DocumentEvent::ReplayDone { as_of }]).collect()
    }

    fn changes(&self, shared: &Shared, mark: Mark, events: &[&Event]) -> (Vec<DocumentEvent>, Store) {
        let told = events.iter().filter_map(|event| {
            let kv = event.kv()?;
            let read = match event.event_type() {
                EventType::Put => shared.keys.read_document(mark.store, kv).map(DocumentEvent::Put),
                EventType::Delete => shared
                    .keys
                    .document_key(kv.key())
                    .map(|key| DocumentEvent::Removed { key, version: keys::version(mark.store, kv) }),
            };
            read.inspect_err(|corrupt| warn!(%corrupt, "a key among the documents is none of theirs")).ok()
        });
        (told.collect(), Store::Same)
    }

    fn in_step() -> DocumentEvent {
        DocumentEvent::InStep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o3_a_lease_is_reused_as_long_as_it_lasts_long_enough() {
        let secs = Duration::from_secs;
        let (leases, now) = (DocumentLeases::default(), TokioClock.now());
        let key: DocumentKey = "s/a".parse().unwrap();
        let kept = Kept { lease: 7, ttl: secs(40), since: now };
        leases.remember(&key, kept, now);
        assert!(leases.of(&key, secs(40)).is_some(), "the same time");
        assert!(leases.of(&key, secs(41)).is_none(), "a longer time takes another lease");
        assert!(leases.of(&key, secs(10)).is_none(), "so does a much shorter one, which would be kept too long");
        assert!(kept.covers(now + secs(20), secs(20)) && !kept.covers(now + secs(21), secs(20)));
        assert_eq!((leases.forget(&key), leases.forget(&key)), (Some(7), None));
    }

    #[test]
    fn o3_leases_that_have_ended_are_forgotten() {
        let (leases, now) = (DocumentLeases::default(), TokioClock.now());
        let key = |n: usize| -> DocumentKey { format!("s/{n}").parse().unwrap() };
        for n in 0..REMEMBERED {
            leases.remember(&key(n), Kept { lease: 1, ttl: Duration::from_secs(1), since: now }, now);
        }
        let later = now + Duration::from_secs(2);
        leases.remember(&key(REMEMBERED), Kept { lease: 2, ttl: Duration::from_secs(1), since: later }, later);
        assert_eq!(leases.0.lock().len(), 1);
    }
}
