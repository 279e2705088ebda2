//! The ownership documents, in the bucket of the records.
//!
//! A document's version is its message's sequence, as a record's is. Knows
//! nothing of what documents say.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use dc_controlplane::{
    Error, Expected,
    ownership::{
        Document, DocumentEvent, DocumentKey, DocumentWatch, Documents, Keep, OwnershipStore, Swap, check_body,
        check_prefix,
    },
};
use dc_core::{StoreId, Version};
use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    bucket::{Bucket, Pause, Ready},
    error::{Call, Failure},
    keys::{DOCUMENT_STEPS, Key, Keys},
    lane,
    plane::{Inner, PAGES_AT_ONCE},
    watch::{self, View},
    wire::{Ack, KV_OPERATION, Read, Stored, write_headers},
};

/// The documents of one bucket; shares the connections of its control plane.
pub(crate) struct NatsOwnership {
    inner: Arc<Inner>,
}

impl NatsOwnership {
    pub(crate) fn new(inner: &Arc<Inner>) -> Self {
        Self { inner: Arc::clone(inner) }
    }
}

impl fmt::Debug for NatsOwnership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsOwnership").field("stream", &self.inner.keys().stream()).finish_non_exhaustive()
    }
}

#[async_trait]
impl OwnershipStore for NatsOwnership {
    async fn store(&self) -> Result<StoreId, Error> {
        let call = self.inner.call("store");
        self.inner.bounded(&call, async { Ok(self.inner.bucket.ready(&call).await?.store) }).await
    }

    async fn read(&self, key: &DocumentKey) -> Result<Option<Document>, Error> {
        let call = self.inner.call("read");
        let bucket = &self.inner.bucket;
        let held = async {
            let ready = bucket.ready(&call).await?;
            Ok(self.held(bucket, &call, &ready, key, 0).await?.document)
        };
        self.inner.bounded(&call, held).await
    }

    async fn compare_and_set(
        &self,
        key: &DocumentKey,
        expected: Expected,
        body: Bytes,
        keep: Keep,
    ) -> Result<Swap, Error> {
        check_body(&body)?;
        let call = self.inner.call("compare_and_set");
        let write = |bucket| self.write(bucket, &call, key, expected, body, keep);
        match keep {
            Keep::Forever => self.inner.bounded(&call, write(&self.inner.bucket)).await,
            Keep::For(_) => {
                let turn = lane::turn(&self.inner);
                let bucket = turn.bucket();
                turn.bounded(&call, write(bucket)).await
            }
        }
    }

    async fn remove(&self, key: &DocumentKey, version: Version) -> Result<Swap, Error> {
        let call = self.inner.call("remove");
        self.inner.bounded(&call, self.entomb(&call, key, version)).await
    }

    async fn list(&self, prefix: &str) -> Result<Documents, Error> {
        check_prefix(prefix)?;
        let call = self.inner.call("list");
        self.inner.bounded(&call, self.listing(&call, prefix)).await
    }

    async fn watch(&self, prefix: &str) -> Result<DocumentWatch, Error> {
        check_prefix(prefix)?;
        let call = self.inner.call("watch");
        let view = Shown { prefix: prefix.to_owned(), known: HashSet::new(), gone: HashMap::new() };
        self.inner.bounded(&call, watch::open_view(&self.inner, &call, view)).await
    }
}

/// What lies under a document's key.
struct Held {
    /// The key's last sequence, also that of a trace of a removal; 0 where there is nothing at all.
    sequence: u64,
    document: Option<Document>,
}

impl NatsOwnership {
    /// What lies under `key`, as of `at_least` or later; one request.
    async fn held(
        &self,
        bucket: &Bucket,
        call: &Call,
        ready: &Ready,
        key: &DocumentKey,
        at_least: u64,
    ) -> Result<Held, Error> {
        let subjects = [self.inner.keys().document(key), self.inner.keys().store()];
        let read = bucket.read(call, &subjects, at_least).await;
        let read = read.map_err(|failure| self.inner.unanswered(call, failure))?;
        let store = bucket.store_of(call, ready.store, &read).await?;
        let Some(stored) = read.messages.into_iter().find(|message| message.subject == subjects[0]) else {
            return Ok(Held { sequence: 0, document: None });
        };
        let document = stored.removal.is_none().then(|| Document {
            key: key.clone(),
            version: Version::new(store, stored.sequence),
            body: stored.payload,
        });
        Ok(Held { sequence: stored.sequence, document })
    }

    /// What refused a write that named `named`: as new as that, and as what the server told. `None` where another write
    /// is in flight, or the replica that answered is behind: ask again.
    async fn what_refused(
        &self,
        bucket: &Bucket,
        call: &Call,
        ready: &Ready,
        key: &DocumentKey,
        named: u64,
        told: Option<u64>,
    ) -> Result<Option<Held>, Error> {
        let held = self.held(bucket, call, ready, key, told.unwrap_or(0)).await?;
        // Below what the writer has seen is only what the leader itself says to be there.
        let behind = held.sequence < named && told != Some(held.sequence);
        Ok(if behind || held.sequence == named { None } else { Some(held) })
    }

    /// One request, unless it is refused, or takes the place of a trace of a removal.
    async fn write(
        &self,
        bucket: &Bucket,
        call: &Call,
        key: &DocumentKey,
        expected: Expected,
        body: Bytes,
        keep: Keep,
    ) -> Result<Swap, Error> {
        let ready = bucket.ready(call).await?;
        let subject = self.inner.keys().document(key);
        let ttl = match keep {
            Keep::Forever => None,
            Keep::For(long) => Some(long),
        };
        let mut named = match expected {
            Expected::Absent => 0,
            // Nothing stands at sequence 0: the server would read it as absence.
            Expected::Version(version) if version.store == ready.store && version.revision > 0 => version.revision,
            // A version of another store: whatever is stored, it is not that.
            Expected::Version(_) => return Ok(Swap::Refused(self.held(bucket, call, &ready, key, 0).await?.document)),
        };
        let mut pause = Pause::default();
        loop {
            let before = bucket.highest();
            let headers = write_headers(Some(named), ttl);
            let told = match bucket.publish(call, &subject, headers, body.clone()).await? {
                Ack::Stored(sequence) => return Ok(Swap::Done(bucket.accepted(call, before, sequence).await?)),
                Ack::WrongLast(told) => told,
            };
            match self.what_refused(bucket, call, &ready, key, named, told).await? {
                None => pause.rest().await,
                // A trace of a removal is absence as well.
                Some(held) if expected == Expected::Absent && held.document.is_none() => named = held.sequence,
                Some(held) => return Ok(Swap::Refused(held.document)),
            }
        }
    }

    /// Puts a tombstone in the place of `version`; it goes by itself when no watch can need it any more.
    async fn entomb(&self, call: &Call, key: &DocumentKey, version: Version) -> Result<Swap, Error> {
        let bucket = &self.inner.bucket;
        let ready = bucket.ready(call).await?;
        if version.store != ready.store || version.revision == 0 {
            return Ok(Swap::Refused(self.held(bucket, call, &ready, key, 0).await?.document));
        }
        let subject = self.inner.keys().document(key);
        let named = version.revision;
        let mut pause = Pause::default();
        loop {
            let before = bucket.highest();
            let mut headers = write_headers(Some(named), Some(ready.marker_ttl));
            headers.insert(KV_OPERATION, "DEL");
            let told = match bucket.publish(call, &subject, headers, Bytes::new()).await? {
                Ack::Stored(sequence) => return Ok(Swap::Done(bucket.accepted(call, before, sequence).await?)),
                Ack::WrongLast(told) => told,
            };
            match self.what_refused(bucket, call, &ready, key, named, told).await? {
                None => pause.rest().await,
                Some(held) => return Ok(Swap::Refused(held.document)),
            }
        }
    }

    async fn listing(&self, call: &Call, prefix: &str) -> Result<Documents, Error> {
        let ready = self.inner.bucket.ready(call).await?;
        let (step, reads) = self.pages(call, prefix).await?;
        // Replicas may answer as of different moments: absence counts as of the earliest.
        let as_of = reads.iter().map(|read| read.up_to).min().unwrap_or_default();
        let count: usize = reads.iter().map(|read| read.messages.len()).sum();
        if step > 0 && count < 700 * DOCUMENT_STEPS[step - 1] {
            self.inner.document_step.store(step - 1, Ordering::Relaxed);
        }
        let store = match reads.first() {
            Some(first) => self.inner.bucket.store_of(call, ready.store, first).await?,
            None => ready.store,
        };
        let (mut documents, mut skipped) = (Vec::with_capacity(count), Vec::new());
        for message in reads.into_iter().flat_map(|read| read.messages).filter(|message| message.removal.is_none()) {
            match self.inner.keys().read(&message.subject) {
                Key::Document(key) if key.as_str().starts_with(prefix) => {
                    let version = Version::new(store, message.sequence);
                    documents.push(Document { key, version, body: message.payload });
                }
                Key::Foreign(corrupt) => skipped.push(corrupt),
                _ => {}
            }
        }
        Ok(Documents { as_of: Version::new(store, as_of), documents, skipped })
    }

    /// Every document under `prefix`, page by page, perhaps with more; and in which step they were cut.
    async fn pages(&self, call: &Call, prefix: &str) -> Result<(usize, Vec<Read>), Error> {
        let inner = &self.inner;
        loop {
            let step = inner.document_step.load(Ordering::Relaxed);
            let pages = DOCUMENT_STEPS[step];
            let reads = stream::iter(0..pages).map(|page| {
                let subjects = inner.keys().document_page(prefix, pages, page);
                async move { inner.bucket.read(call, &subjects, 0).await }
            });
            match reads.buffered(PAGES_AT_ONCE).try_collect::<Vec<_>>().await {
                Ok(reads) => return Ok((step, reads)),
                Err(Failure::TooMany) if step + 1 < DOCUMENT_STEPS.len() => {
                    tracing::debug!(
                        pages = DOCUMENT_STEPS[step + 1],
                        "documents are listed in smaller pages from now on"
                    );
                    inner.document_step.store(step + 1, Ordering::Relaxed);
                }
                Err(failure) => return Err(inner.unanswered(call, failure)),
            }
        }
    }
}

/// What a watch of documents has shown.
struct Shown {
    prefix: String,
    /// Every document that was told and not removed.
    known: HashSet<DocumentKey>,
    /// What was told as gone, and when: a tombstone is followed by the marker of its own end.
    gone: HashMap<DocumentKey, Instant>,
}

impl View for Shown {
    type Event = DocumentEvent;

    fn filters(&self, keys: &Keys) -> Vec<String> {
        keys.watched_documents(&self.prefix)
    }

    fn take(&mut self, inner: &Inner, store: StoreId, stored: Stored, replayed: bool) -> Vec<DocumentEvent> {
        let key = match inner.keys().read(&stored.subject) {
            Key::Document(key) if key.as_str().starts_with(&self.prefix) => key,
            _ => return Vec::new(),
        };
        let version = Version::new(store, stored.sequence);
        if stored.removal.is_none() {
            self.gone.remove(&key);
            self.known.insert(key.clone());
            return vec![DocumentEvent::Put(Document { key, version, body: stored.payload })];
        }
        let shown = self.known.remove(&key);
        let told = self.gone.insert(key.clone(), inner.clock.now()).is_some();
        // Also of one that was not shown: its writes may have been overwritten before they were pushed.
        if shown || (replayed && !told) { vec![DocumentEvent::Removed { key, version }] } else { Vec::new() }
    }

    /// The server tells of every end; none is timed here.
    fn expire(&mut self, contact: Instant, traces: Duration) -> Vec<DocumentEvent> {
        self.gone.retain(|_, told| contact.saturating_duration_since(*told) < traces);
        Vec::new()
    }

    fn replay_done(as_of: Version) -> DocumentEvent {
        DocumentEvent::ReplayDone { as_of }
    }

    fn in_step() -> DocumentEvent {
        DocumentEvent::InStep
    }
}
