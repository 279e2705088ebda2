//! The contract, on one bucket.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use dc_controlplane::{
    Capabilities, ControlPlane, Corrupt, Error, Expected, HeldIntent, Listing, StateChange, StatePlan, TokioClock,
    Watch, Writer, codec, ownership::OwnershipStore, plan_state,
};
use dc_core::{DataCenterId, DataCenterRecord, DataCenterState, Intent, SharedClock, StoreId, Version};
use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    bucket::{Bucket, Pause, Ready},
    config::NatsConfig,
    connect::Link,
    error::{Call, Failure},
    keys::{Key, Keys, PAGE_STEPS},
    lane::Lane,
    ownership::NatsOwnership,
    quorum::PROOF_AGE,
    watch,
    wire::{Ack, KV_OPERATION, Read, Stored, Wire, write_headers},
};

/// How many pages of a list are asked for at a time.
pub(crate) const PAGES_AT_ONCE: usize = 16;

/// The control plane on NATS JetStream; see the crate's header for how it keeps the guarantees.
///
/// Cheap to clone; clones share one connection, and a second one once sessions are renewed, which are kept up until the
/// last of them is dropped.
#[derive(Clone)]
pub struct NatsControlPlane {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) bucket: Bucket,
    pub(crate) lane: Lane,
    pub(crate) clock: SharedClock,
    /// Into how many pages the bucket had to be cut for the last list: an index of [`PAGE_STEPS`].
    step: AtomicUsize,
    /// The same for ownership documents: an index of `DOCUMENT_STEPS`.
    pub(crate) document_step: AtomicUsize,
}

impl fmt::Debug for NatsControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsControlPlane")
            .field("stream", &self.inner.bucket.wire.keys.stream())
            .field("connected", &self.inner.bucket.wire.link.is_connected())
            .finish_non_exhaustive()
    }
}

impl NatsControlPlane {
    /// Connects, and looks at the bucket; makes it if it is not there.
    ///
    /// Takes up to twice the request timeout. Where no server answers by then, it succeeds all the same and keeps
    /// trying in the background for ever (P12), unless `require_at_start` is set.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`]: refused credentials or certificates. [`Error::Unsafe`]: a server older than 2.11, a bucket
    /// that cannot work, or in strict mode anything unsafe. [`Error::Invalid`]: files that cannot be used.
    /// [`Error::Unreachable`], [`Error::Timeout`]: only with `require_at_start`.
    pub async fn connect(config: NatsConfig) -> Result<Self, Error> {
        let link = Link::open(&config).await?;
        let require = config.require_at_start;
        let wire = Wire { link, keys: Keys::new(&config.bucket) };
        let clock: SharedClock = Arc::new(TokioClock);
        let bucket = Bucket::new(wire, config, Arc::clone(&clock));
        let inner = Inner {
            bucket,
            lane: Lane::default(),
            clock,
            step: AtomicUsize::new(0),
            document_step: AtomicUsize::new(0),
        };
        let plane = Self { inner: Arc::new(inner) };
        if require || plane.inner.bucket.wire.link.is_connected() {
            match plane.store().await {
                Err(err) if err.is_outage() && !require => {
                    tracing::warn!(error = %err, "JetStream does not answer yet; trying on");
                }
                store => drop(store?),
            }
        }
        Ok(plane)
    }
}

#[async_trait]
impl ControlPlane for NatsControlPlane {
    fn capabilities(&self) -> Capabilities {
        self.inner.bucket.capabilities()
    }

    async fn store(&self) -> Result<StoreId, Error> {
        let call = self.inner.call("store");
        self.inner.bounded(&call, async { Ok(self.inner.bucket.ready(&call).await?.store) }).await
    }

    async fn register(&self, record: &DataCenterRecord, expected: Expected) -> Result<Version, Error> {
        record.check()?;
        let call = self.inner.call("register");
        self.inner.bounded(&call, self.inner.write(&call, record, expected)).await
    }

    async fn heartbeat(&self, record: &DataCenterRecord) -> Result<Version, Error> {
        record.check()?;
        let call = self.inner.call("heartbeat");
        let renewed = self.inner.write(&call, record, Expected::Version(record.version));
        match self.inner.bounded(&call, renewed).await {
            Err(Error::Conflict { id, stored: None, .. }) => Err(Error::NotFound { id }),
            renewed => renewed,
        }
    }

    async fn set_state(&self, id: &DataCenterId, to: DataCenterState, by: Writer) -> Result<StateChange, Error> {
        let call = self.inner.call("set_state");
        self.inner.bounded(&call, self.inner.set_state(&call, id, to, by)).await
    }

    async fn set_intent(&self, id: &DataCenterId, intent: &Intent) -> Result<Version, Error> {
        intent.check()?;
        let call = self.inner.call("set_intent");
        self.inner.bounded(&call, self.inner.write_intent(&call, id, intent)).await
    }

    async fn get(&self, id: &DataCenterId) -> Result<Option<DataCenterRecord>, Error> {
        let call = self.inner.call("get");
        let held = async {
            let ready = self.inner.bucket.ready(&call).await?;
            self.inner.held(&call, &ready, id, 0).await
        };
        Ok(self.inner.bounded(&call, held).await?.record)
    }

    async fn list_all(&self) -> Result<Listing, Error> {
        let call = self.inner.call("list_all");
        self.inner.bounded(&call, self.inner.list(&call)).await
    }

    async fn watch(&self) -> Result<Watch, Error> {
        let call = self.inner.call("watch");
        self.inner.bounded(&call, watch::open(&self.inner, &call)).await
    }

    async fn deregister(&self, id: &DataCenterId, version: Version) -> Result<(), Error> {
        let call = self.inner.call("deregister");
        self.inner.bounded(&call, self.inner.remove(&call, id, version)).await
    }

    fn ownership(&self) -> Option<Arc<dyn OwnershipStore>> {
        Some(Arc::new(NatsOwnership::new(&self.inner)))
    }
}

/// What lies under a record's key.
#[derive(Debug)]
pub(crate) struct Held {
    /// The key's last sequence, also that of a trace of a removal; 0 where there is nothing at all.
    sequence: u64,
    record: Option<DataCenterRecord>,
}

impl Inner {
    pub(crate) fn call(&self, operation: &'static str) -> Call {
        Call::new(operation, self.bucket.limit())
    }

    pub(crate) async fn bounded<T>(
        &self,
        call: &Call,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.bucket.wire.bounded(call, work).await
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.bucket.wire.keys
    }

    /// Writes `record` with its lease, by compare-and-set. One request, unless it is refused, or takes the place of a
    /// trace of a removal.
    async fn write(&self, call: &Call, record: &DataCenterRecord, expected: Expected) -> Result<Version, Error> {
        let document = codec::encode_record(record).into();
        self.compare_and_set(call, record.id(), expected, Some(record.ttl), document).await
    }

    async fn compare_and_set(
        &self,
        call: &Call,
        id: &DataCenterId,
        expected: Expected,
        ttl: Option<Duration>,
        document: Bytes,
    ) -> Result<Version, Error> {
        let ready = self.bucket.ready(call).await?;
        let subject = self.keys().record(id);
        let mut named = match expected {
            Expected::Absent => 0,
            Expected::Version(version) if version.store == ready.store => version.revision,
            // A version of another store: whatever is stored, it is not that.
            Expected::Version(_) => {
                let stored = self.held(call, &ready, id, 0).await?.record;
                return Err(conflict(id, expected, stored));
            }
        };
        let mut pause = Pause::default();
        loop {
            let before = self.bucket.highest();
            let headers = write_headers(Some(named), ttl);
            let stored = match self.bucket.publish(call, &subject, headers, document.clone()).await? {
                Ack::Stored(sequence) => return self.bucket.accepted(call, before, sequence).await,
                Ack::WrongLast(stored) => stored,
            };
            // Other writers' answers are not needed to be as new as this: only as the refusal.
            let held = self.held(call, &ready, id, stored.unwrap_or_default()).await?;
            match expected {
                Expected::Absent if held.record.is_none() && held.sequence != named => named = held.sequence,
                // What was refused is what is there: another write is in flight. Wait for what becomes of it.
                _ if held.sequence == named => pause.rest().await,
                _ => return Err(conflict(id, expected, held.record)),
            }
        }
    }

    /// What lies under the key of `id`, as of `at_least` or later; one request.
    async fn held(&self, call: &Call, ready: &Ready, id: &DataCenterId, at_least: u64) -> Result<Held, Error> {
        let subjects = [self.keys().record(id), self.keys().store()];
        let read =
            self.bucket.read(call, &subjects, at_least).await.map_err(|failure| self.unanswered(call, failure))?;
        let store = self.bucket.store_of(call, ready.store, &read).await?;
        let Some(stored) = read.messages.into_iter().find(|message| message.subject == subjects[0]) else {
            return Ok(Held { sequence: 0, record: None });
        };
        let record = if stored.removal.is_some() { None } else { Some(self.decode(id, &stored, store)?) };
        Ok(Held { sequence: stored.sequence, record })
    }

    fn decode(&self, id: &DataCenterId, stored: &Stored, store: StoreId) -> Result<DataCenterRecord, Corrupt> {
        let version = Version::new(store, stored.sequence);
        codec::decode_record(self.keys().key(&stored.subject), id, &stored.payload, version)
    }

    pub(crate) fn unanswered(&self, call: &Call, failure: Failure) -> Error {
        match failure {
            Failure::Final(err) => err,
            other => call.backend(other.to_string()),
        }
    }

    async fn set_state(
        &self,
        call: &Call,
        id: &DataCenterId,
        to: DataCenterState,
        by: Writer,
    ) -> Result<StateChange, Error> {
        let stored = match &by {
            // What an operator asks for does not depend on the record.
            Writer::Operator { .. } => None,
            Writer::Owner { seen, .. } => {
                let ready = self.bucket.ready(call).await?;
                // A read that is older than what the owner saw would make its own write look like another's.
                let at_least = if seen.store == ready.store { seen.revision } else { 0 };
                // One that is not there yet cannot be waited for: the store may have gone back.
                let at_least = at_least.min(self.bucket.highest());
                self.held(call, &ready, id, at_least).await?.record
            }
        };
        match plan_state(id, stored, to, by)? {
            StatePlan::Nothing(version) => Ok(StateChange::Moved(version)),
            StatePlan::Write(record) => {
                let expected = Expected::Version(record.version);
                self.write(call, &record, expected).await.map(StateChange::Moved)
            }
            StatePlan::Intend(intent) => self.write_intent(call, id, &intent).await.map(StateChange::Intended),
        }
    }

    /// Writes an intent: no lease, and no compare-and-set, for the newest wins.
    async fn write_intent(&self, call: &Call, id: &DataCenterId, intent: &Intent) -> Result<Version, Error> {
        self.bucket.ready(call).await?;
        let before = self.bucket.highest();
        let document: Bytes = codec::encode_intent(intent).into();
        let headers = write_headers(None, None);
        match self.bucket.publish(call, &self.keys().intent(id), headers, document).await? {
            Ack::Stored(sequence) => self.bucket.accepted(call, before, sequence).await,
            Ack::WrongLast(_) => Err(call.backend("an unconditional write was refused as conditional")),
        }
    }

    /// Puts a tombstone in the place of `version`; it goes by itself when no watch can need it any more.
    async fn remove(&self, call: &Call, id: &DataCenterId, version: Version) -> Result<(), Error> {
        let ready = self.bucket.ready(call).await?;
        let expected = Expected::Version(version);
        if version.store != ready.store {
            return match self.held(call, &ready, id, 0).await?.record {
                Some(record) => Err(conflict(id, expected, Some(record))),
                None => Ok(()),
            };
        }
        let subject = self.keys().record(id);
        let mut pause = Pause::default();
        loop {
            let mut headers = write_headers(Some(version.revision), Some(ready.marker_ttl));
            headers.insert(KV_OPERATION, "DEL");
            let stored = match self.bucket.publish(call, &subject, headers, Bytes::new()).await? {
                Ack::Stored(_) => return Ok(()),
                Ack::WrongLast(stored) => stored,
            };
            match self.held(call, &ready, id, stored.unwrap_or_default()).await?.record {
                None => return Ok(()),
                Some(record) if record.version != version => return Err(conflict(id, expected, Some(record))),
                // What was refused is what is there: another write is in flight.
                Some(_) => pause.rest().await,
            }
        }
    }

    async fn list(&self, call: &Call) -> Result<Listing, Error> {
        let ready = self.bucket.ready(call).await?;
        let proof = async {
            match ready.replicated {
                true => self.bucket.quorum(call, PROOF_AGE).await.map(|quorum| quorum.last_sequence),
                false => Ok(0),
            }
        };
        let (pages, proof) = futures::try_join!(self.pages(call, 0), proof)?;
        // A replica that lags behind what the leader had then is asked again.
        let lags = pages.1.iter().any(|read| read.up_to < proof);
        let (step, reads) = if lags { self.pages(call, proof).await? } else { pages };
        self.listing(call, &ready, step, reads).await
    }

    /// Every key of the bucket, page by page, each as of `at_least` or later; and in which step it was cut.
    async fn pages(&self, call: &Call, at_least: u64) -> Result<(usize, Vec<Read>), Error> {
        loop {
            let step = self.step.load(Ordering::Relaxed);
            let pages = PAGE_STEPS[step];
            let reads = stream::iter(0..pages).map(|page| {
                let subjects = self.keys().page(pages, page);
                async move { self.bucket.read(call, &subjects, at_least).await }
            });
            match reads.buffered(PAGES_AT_ONCE).try_collect::<Vec<_>>().await {
                Ok(reads) => return Ok((step, reads)),
                Err(Failure::TooMany) if step + 1 < PAGE_STEPS.len() => {
                    tracing::debug!(pages = PAGE_STEPS[step + 1], "the bucket is listed in smaller pages from now on");
                    self.step.store(step + 1, Ordering::Relaxed);
                }
                Err(failure) => return Err(self.unanswered(call, failure)),
            }
        }
    }

    async fn listing(&self, call: &Call, ready: &Ready, step: usize, reads: Vec<Read>) -> Result<Listing, Error> {
        // Replicas may answer as of different moments: absence counts as of the earliest.
        let as_of = reads.iter().map(|read| read.up_to).min().unwrap_or_default();
        let count: usize = reads.iter().map(|read| read.messages.len()).sum();
        if step > 0 && count < 700 * PAGE_STEPS[step - 1] {
            self.step.store(step - 1, Ordering::Relaxed);
        }
        let store = match reads.first() {
            Some(first) => self.bucket.store_of(call, ready.store, first).await?,
            None => ready.store,
        };
        let mut listing = Listing {
            as_of: Version::new(store, as_of),
            records: Vec::with_capacity(count),
            intents: Vec::new(),
            skipped: Vec::new(),
        };
        for message in reads.iter().flat_map(|read| &read.messages).filter(|message| message.removal.is_none()) {
            match self.understand(message, store) {
                Ok(Some(Item::Record(record))) => listing.records.push(*record),
                Ok(Some(Item::Intent(held))) => listing.intents.push(held),
                Ok(None) => {}
                Err(corrupt) => listing.skipped.push(corrupt),
            }
        }
        Ok(listing)
    }

    /// What a message of the bucket says; `None` for what is nobody's business but ours.
    pub(crate) fn understand(&self, message: &Stored, store: StoreId) -> Result<Option<Item>, Corrupt> {
        match self.keys().read(&message.subject) {
            Key::Store | Key::Document(_) => Ok(None),
            Key::Record(id) => self.decode(&id, message, store).map(|record| Some(Item::Record(Box::new(record)))),
            Key::Intent(id) => {
                let intent = codec::decode_intent(self.keys().key(&message.subject), &message.payload)?;
                let version = Version::new(store, message.sequence);
                Ok(Some(Item::Intent(HeldIntent { id, intent, version })))
            }
            Key::Foreign(corrupt) => Err(corrupt),
        }
    }
}

/// What one key of the bucket holds.
#[derive(Debug)]
pub(crate) enum Item {
    Record(Box<DataCenterRecord>),
    Intent(HeldIntent),
}

fn conflict(id: &DataCenterId, expected: Expected, stored: Option<DataCenterRecord>) -> Error {
    Error::Conflict { id: id.clone(), expected: expected.version(), stored: stored.map(Box::new) }
}
