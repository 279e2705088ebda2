//! The calls of the contract, each as few requests as it can be.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use dc_controlplane::{
    Capabilities, ControlPlane, Error, Expected, Listing, StateChange, StatePlan, Watch, Writer, codec,
    ownership::OwnershipStore, plan_state,
};
use dc_core::{DataCenterId, DataCenterRecord, DataCenterState, Intent, StoreId, Version};
use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse};
use parking_lot::RwLock;
use tracing::{info, warn};

use crate::{
    BACKEND, EtcdConfig, audit,
    connect::{Call, Repeat, Servers},
    error, handshake,
    keys::{self, Keys, Place},
    lease::{self, Held, Leases},
    ownership::{DocumentLeases, EtcdOwnership},
    store::{Incarnation, Mark, first_got},
    watch,
};

/// Keys per page: 1,000 records, as many intents, the store's id, and some goodbyes fit on the first.
const PAGE: i64 = 2_100;
/// The largest answer that is taken: a page of records with a thousand endpoints each.
pub(crate) const LARGEST_ANSWER: usize = 256 << 20;
/// How often a call starts over because the store turned out to be another one.
pub(crate) const ROUNDS: usize = 3;

/// The control plane over etcd. Cheap to clone; clones share their connections.
///
/// # Time to live
///
/// etcd counts leases in whole seconds: a TTL is rounded up, and a server grants no less than about 1.5 election
/// timeouts (2 s with default timing). Each change of etcd's own leader starts every lease anew.
/// [`Capabilities::expiry_granularity`] starts at 3 s and follows what the servers are seen to grant.
///
/// # Cancellation
///
/// A call may be dropped at any time: a lease that it was granted is revoked in the background, unless a write
/// that names it was on its way.
///
/// ```no_run
/// use dc_etcd::{EtcdConfig, EtcdControlPlane};
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let plane = EtcdControlPlane::connect(EtcdConfig::builder(["http://127.0.0.1:2379"]).build()?).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct EtcdControlPlane {
    shared: Arc<Shared>,
}

/// What the clones, the watches and the background share.
pub(crate) struct Shared {
    pub(crate) config: EtcdConfig,
    pub(crate) servers: Servers,
    pub(crate) keys: Keys,
    pub(crate) store: Incarnation,
    pub(crate) leases: Leases,
    pub(crate) document_leases: DocumentLeases,
    capabilities: RwLock<Known>,
    /// Whether the servers are new enough for a watch's progress to be relied on (P5).
    pub(crate) honest_progress: AtomicBool,
    /// One at a time finds out which store this is.
    starting: tokio::sync::Mutex<()>,
}

/// What is known of the servers.
struct Known {
    told: Capabilities,
    /// The shortest lease that they grant.
    least_ttl: Duration,
}

/// Everything in a range of the namespace, at one revision.
pub(crate) struct Contents {
    pub(crate) mark: Mark,
    pub(crate) revision: i64,
    pub(crate) kvs: Vec<KeyValue>,
}

/// What came of a transaction.
pub(crate) enum Answer {
    /// Its condition held.
    Done { responses: Vec<TxnOpResponse>, revision: i64 },
    /// It did not; this is stored.
    Stored { kv: Option<KeyValue>, revision: i64 },
    /// The store is another one than thought.
    OtherStore,
}

impl EtcdControlPlane {
    /// Asks a member who they are, checks the credentials and the settings, and learns the store's id.
    ///
    /// Where no server answers in time, it succeeds all the same unless the configuration says
    /// [`require_at_start`](crate::EtcdConfigBuilder::require_at_start): each call tries again (P12).
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for TLS files that cannot be used, [`Error::Denied`] for refused credentials or certificates,
    /// [`Error::Unsafe`] in strict mode where there are findings, [`Error::Corrupt`] for a malformed store id,
    /// and what [`require_at_start`](crate::EtcdConfigBuilder::require_at_start) asks for.
    pub async fn connect(config: EtcdConfig) -> Result<Self, Error> {
        let servers = Servers::new(&config).await?;
        let shared = Shared {
            keys: Keys::new(config.namespace()),
            config,
            servers,
            store: Incarnation::default(),
            leases: Leases::default(),
            document_leases: DocumentLeases::default(),
            capabilities: RwLock::new(Known { told: audit::unheard(), least_ttl: audit::DEFAULT_LEAST_TTL }),
            honest_progress: AtomicBool::new(false),
            starting: tokio::sync::Mutex::new(()),
        };
        let call = Call::new("connect");
        match shared.servers.bounded(&call, shared.ready(&call)).await {
            Ok(mark) => {
                info!(endpoints = ?shared.config.endpoints(), namespace = shared.config.namespace(), store = %mark.store, "connected to etcd");
            }
            Err(err) if err.is_outage() => {
                if let Some(why) = handshake::refusal(&shared.config).await {
                    return Err(Error::Denied { backend: BACKEND, why });
                }
                if shared.config.require_at_start() {
                    return Err(err);
                }
                warn!(endpoints = ?shared.config.endpoints(), %err, "etcd does not answer; each call will try again");
            }
            Err(err) => return Err(err),
        }
        Ok(Self { shared: Arc::new(shared) })
    }

    async fn bounded<T>(&self, call: &Call, future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.shared.servers.bounded(call, future).await
    }
}

impl fmt::Debug for EtcdControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdControlPlane")
            .field("config", &self.shared.config)
            .field("store", &self.shared.store.current())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl ControlPlane for EtcdControlPlane {
    fn capabilities(&self) -> Capabilities {
        self.shared.capabilities.read().told.clone()
    }

    async fn store(&self) -> Result<StoreId, Error> {
        let call = Call::new("store");
        self.bounded(&call, async { Ok(self.shared.ready(&call).await?.store) }).await
    }

    async fn register(&self, record: &DataCenterRecord, expected: Expected) -> Result<Version, Error> {
        record.check()?;
        let call = Call::new("register");
        self.bounded(&call, self.shared.write(&call, record, expected)).await
    }

    async fn heartbeat(&self, record: &DataCenterRecord) -> Result<Version, Error> {
        let call = Call::new("heartbeat");
        self.bounded(&call, self.shared.renew(&call, record)).await
    }

    async fn set_state(&self, id: &DataCenterId, to: DataCenterState, by: Writer) -> Result<StateChange, Error> {
        let call = Call::new("set_state");
        let change = async {
            match plan_state(id, self.shared.record(&call, id).await?, to, by)? {
                StatePlan::Nothing(version) => Ok(StateChange::Moved(version)),
                StatePlan::Write(record) => {
                    let expected = Expected::Version(record.version);
                    Ok(StateChange::Moved(self.shared.write(&call, &record, expected).await?))
                }
                StatePlan::Intend(intent) => Ok(StateChange::Intended(self.shared.intend(&call, id, &intent).await?)),
            }
        };
        self.bounded(&call, change).await
    }

    async fn set_intent(&self, id: &DataCenterId, intent: &Intent) -> Result<Version, Error> {
        intent.check()?;
        let call = Call::new("set_intent");
        self.bounded(&call, self.shared.intend(&call, id, intent)).await
    }

    async fn get(&self, id: &DataCenterId) -> Result<Option<DataCenterRecord>, Error> {
        let call = Call::new("get");
        self.bounded(&call, self.shared.record(&call, id)).await
    }

    async fn list_all(&self) -> Result<Listing, Error> {
        let call = Call::new("list");
        let contents = self.bounded(&call, self.shared.contents(&call)).await?;
        let store = contents.mark.store;
        let mut listing = Listing {
            as_of: Version::new(store, keys::unsigned(contents.revision)),
            records: Vec::new(),
            intents: Vec::new(),
            skipped: Vec::new(),
        };
        for kv in &contents.kvs {
            match self.shared.keys.place(kv.key()) {
                Place::Record(id) => match keys::record(store, &id, kv) {
                    Ok(record) => listing.records.push(record),
                    Err(corrupt) => listing.skipped.push(corrupt),
                },
                Place::Intent(id) => match keys::intent(store, id, kv) {
                    Ok(held) => listing.intents.push(held),
                    Err(corrupt) => listing.skipped.push(corrupt),
                },
                Place::Foreign(corrupt) => listing.skipped.push(corrupt),
                Place::Store | Place::Gone(_) => {}
            }
        }
        Ok(listing)
    }

    async fn watch(&self) -> Result<Watch, Error> {
        let call = Call::new("watch");
        let contents = self.bounded(&call, self.shared.contents(&call)).await?;
        Ok(watch::start(Arc::clone(&self.shared), contents))
    }

    async fn deregister(&self, id: &DataCenterId, version: Version) -> Result<(), Error> {
        let call = Call::new("deregister");
        self.bounded(&call, self.shared.remove(&call, id, version)).await
    }

    fn ownership(&self) -> Option<Arc<dyn OwnershipStore>> {
        Some(Arc::new(EtcdOwnership::new(&self.shared)))
    }
}

impl Shared {
    /// Knows which store this is; asks where it does not, and looks at the store's settings then (P13).
    pub(crate) async fn ready(&self, call: &Call) -> Result<Mark, Error> {
        if let Some(mark) = self.store.mark() {
            return Ok(mark);
        }
        let _turn = self.starting.lock().await;
        if let Some(mark) = self.store.mark() {
            return Ok(mark);
        }
        let found = audit::audit(&self.servers, &self.config, call).await?;
        self.honest_progress.store(found.honest_progress, Ordering::Relaxed);
        let found = found.capabilities;
        for finding in &found.findings {
            warn!(finding, "etcd is set up unsafely");
        }
        let refused = self.config.strict() && !found.findings.is_empty();
        let findings = found.findings.clone();
        {
            let mut known = self.capabilities.write();
            known.told = Capabilities { expiry_granularity: audit::lateness(known.least_ttl), ..found };
        }
        if refused {
            return Err(Error::Unsafe { backend: BACKEND, findings });
        }
        self.store.ensure(&self.servers, &self.keys, call).await?;
        self.store.mark().ok_or_else(|| error::malformed(call.operation, "the store keeps changing its id"))
    }

    /// Takes note of what a server granted: P3 is stated by it.
    pub(crate) fn granted(&self, asked: Duration, granted: Duration) {
        let mut known = self.capabilities.write();
        let least = audit::least_ttl(known.least_ttl, asked, granted);
        if least > known.least_ttl {
            warn!(?asked, ?granted, "etcd grants longer leases than asked for: expiry will be late by as much");
        }
        known.least_ttl = least;
        known.told.expiry_granularity = audit::lateness(least);
    }

    /// One transaction on `key`: `then` if the store is still the same one and `condition` holds, else it reads `key`.
    pub(crate) async fn txn(
        &self,
        call: &Call,
        repeat: Repeat,
        mark: Mark,
        key: &str,
        condition: Option<Compare>,
        then: Vec<TxnOp>,
    ) -> Result<Answer, Error> {
        match self.txn_raw(call, repeat, mark, key, condition, then).await? {
            Ok(answer) => Ok(answer),
            Err(err) => Err(error::translate(call.operation, err, call.outcome())),
        }
    }

    /// As [`txn`](Self::txn), with the client's own error where a server refused.
    pub(crate) async fn txn_raw(
        &self,
        call: &Call,
        repeat: Repeat,
        mark: Mark,
        key: &str,
        condition: Option<Compare>,
        then: Vec<TxnOp>,
    ) -> Result<Result<Answer, etcd_client::Error>, Error> {
        let store_key = self.keys.store();
        let mut conditions = vec![Compare::value(store_key.clone(), CompareOp::Equal, mark.store.to_string())];
        conditions.extend(condition);
        let txn =
            Txn::new().when(conditions).and_then(then).or_else([TxnOp::get(key, None), TxnOp::get(store_key, None)]);
        let answer = self
            .servers
            .send_raw(call, repeat, |client| {
                let txn = txn.clone();
                async move { client.kv_client().max_decoding_message_size(LARGEST_ANSWER).txn(txn).await }
            })
            .await?;
        let answer = match answer {
            Ok(answer) => answer,
            Err(err) => return Ok(Err(err)),
        };
        let revision = answer.header().map_or(0, |header| header.revision());
        let intact = self.store.saw(mark, revision);
        let responses = answer.op_responses();
        if answer.succeeded() {
            return Ok(Ok(Answer::Done { responses, revision }));
        }
        let same = first_got(&responses, 1).is_some_and(|kv| keys::store_id(kv) == Ok(mark.store));
        if !same || !intact {
            self.store.is_another(mark);
            return Ok(Ok(Answer::OtherStore));
        }
        Ok(Ok(Answer::Stored { kv: first_got(&responses, 0).cloned(), revision }))
    }

    /// The store as it is after an answer that was taken by `mark`'s: the same, unless it was found rolled back.
    pub(crate) async fn store_after(&self, call: &Call, mark: Mark) -> Result<StoreId, Error> {
        match self.store.current() {
            Some(store) if store == mark.store => Ok(store),
            _ => Ok(self.ready(call).await?.store),
        }
    }

    /// Reads one key: one request, linearizable.
    pub(crate) async fn read(&self, call: &Call, key: &str) -> Result<(StoreId, Option<KeyValue>, i64), Error> {
        for _ in 0..ROUNDS {
            let mark = self.ready(call).await?;
            let then = vec![TxnOp::get(key, None)];
            if let Answer::Done { responses, revision } =
                self.txn(call, Repeat::Harmless, mark, key, None, then).await?
                && self.store.current() == Some(mark.store)
            {
                return Ok((mark.store, first_got(&responses, 0).cloned(), revision));
            }
        }
        Err(error::malformed(call.operation, "the store keeps changing its id"))
    }

    async fn record(&self, call: &Call, id: &DataCenterId) -> Result<Option<DataCenterRecord>, Error> {
        let (store, kv, _) = self.read(call, &self.keys.record(id)).await?;
        Ok(kv.map(|kv| keys::record(store, id, &kv)).transpose()?)
    }

    /// Everything in the namespace: one request for each page, all as of the revision of the first (P6).
    async fn contents(&self, call: &Call) -> Result<Contents, Error> {
        for _ in 0..ROUNDS {
            let mark = self.ready(call).await?;
            let Some((kvs, revision)) = self.pages(call).await? else { continue };
            let intact = self.store.saw(mark, revision);
            let is_store = |kv: &&KeyValue| self.keys.place(kv.key()) == Place::Store;
            let same = kvs.iter().find(is_store).is_some_and(|kv| keys::store_id(kv) == Ok(mark.store));
            if intact && same {
                return Ok(Contents { mark, revision, kvs });
            }
            self.store.is_another(mark);
        }
        Err(error::malformed(call.operation, "the store keeps changing while it is read"))
    }

    /// `None` where a later page was compacted away.
    async fn pages(&self, call: &Call) -> Result<Option<(Vec<KeyValue>, i64)>, Error> {
        let (mut from, end) = self.keys.range();
        let mut options = GetOptions::new().with_range(end).with_limit(PAGE);
        let mut kvs: Vec<KeyValue> = Vec::new();
        let mut as_of = None;
        loop {
            let page = self
                .servers
                .send_raw(call, Repeat::Harmless, |client| {
                    let (from, options) = (from.clone(), options.clone());
                    async move {
                        client.kv_client().max_decoding_message_size(LARGEST_ANSWER).get(from, Some(options)).await
                    }
                })
                .await?;
            let mut page = match page {
                Ok(page) => page,
                Err(err) if error::compacted(&err) && as_of.is_some() => return Ok(None),
                Err(err) => return Err(error::translate(call.operation, err, call.outcome())),
            };
            let revision = *as_of.get_or_insert(page.header().map_or(0, |header| header.revision()));
            let more = page.more();
            kvs.extend(page.take_kvs());
            match kvs.last() {
                Some(last) if more => {
                    from = last.key().to_vec();
                    from.push(0);
                    options = options.with_revision(revision);
                }
                _ => return Ok(Some((kvs, revision))),
            }
        }
    }

    /// Writes a record with a lease of its own (P2, P3): grant, then one transaction.
    async fn write(
        self: &Arc<Self>,
        call: &Call,
        record: &DataCenterRecord,
        expected: Expected,
    ) -> Result<Version, Error> {
        let id = record.id();
        let key = self.keys.record(id);
        for _ in 0..ROUNDS {
            let mark = self.ready(call).await?;
            let Some(revision) = comparable(mark.store, expected) else {
                let (store, kv, _) = self.read(call, &key).await?;
                return Err(conflict(id, expected.version(), store, kv.as_ref()));
            };
            let mut granted = lease::grant(self, call, id, record.ttl).await?;
            let condition = Compare::mod_revision(key.as_str(), CompareOp::Equal, revision);
            let options = PutOptions::new().with_lease(granted.lease()).with_prev_key();
            let put = TxnOp::put(key.as_str(), codec::encode_record(record), Some(options));
            granted.write_begins();
            let answer = self.txn(call, Repeat::Fenced, mark, &key, Some(condition), vec![put]).await;
            let (kv, stands) = match answer {
                Ok(Answer::Done { responses, revision }) => {
                    let before = match responses.first() {
                        Some(TxnOpResponse::Put(put)) => put.prev_key().map(KeyValue::lease),
                        _ => None,
                    };
                    lease::revoke(self, before.into_iter().filter(|lease| *lease != 0).collect());
                    (None, revision)
                }
                // Our own write, whose first answer was lost.
                Ok(Answer::Stored { kv: Some(kv), .. }) if kv.lease() == granted.lease() => (None, kv.mod_revision()),
                Ok(Answer::Stored { kv, revision }) => (Some(kv), revision),
                Ok(Answer::OtherStore) => {
                    granted.write_refused();
                    continue;
                }
                Err(err) => {
                    if !err.outcome_unknown() {
                        granted.write_refused();
                    }
                    return Err(err);
                }
            };
            if let Some(kv) = kv {
                granted.write_refused();
                self.settle(id, mark.store, kv.as_ref(), stands);
                return Err(conflict(id, expected.version(), mark.store, kv.as_ref()));
            }
            let held = Held { store: mark.store, revision: stands, lease: granted.lease() };
            granted.settled();
            lease::revoke(self, self.leases.settle(id, held));
            return Ok(Version::new(self.store_after(call, mark).await?, keys::unsigned(stands)));
        }
        Err(error::malformed(call.operation, "the store keeps changing its id"))
    }

    /// Takes note of what stood under the key of `id` at `revision`; revokes our leases that no record has any more.
    fn settle(self: &Arc<Self>, id: &DataCenterId, store: StoreId, kv: Option<&KeyValue>, revision: i64) {
        let orphans = match kv {
            Some(kv) => self.leases.settle(id, Held { store, revision: kv.mod_revision(), lease: kv.lease() }),
            None => self.leases.forget(id, store, revision),
        };
        lease::revoke(self, orphans);
    }

    /// Checks the version and renews its lease: two requests that are sent together (P7).
    async fn renew(self: &Arc<Self>, call: &Call, record: &DataCenterRecord) -> Result<Version, Error> {
        let (id, seen) = (record.id(), record.version);
        let key = self.keys.record(id);
        for _ in 0..ROUNDS {
            let mark = self.ready(call).await?;
            let revision = comparable(mark.store, Expected::Version(seen));
            let known = revision.and_then(|revision| self.leases.of(id, mark.store, revision));
            let (Some(revision), Some(lease)) = (revision, known) else {
                // Not ours, or not of this store: read it first, once.
                let (store, kv, as_of) = self.read(call, &key).await?;
                self.settle(id, store, kv.as_ref(), as_of);
                let Some(kv) = kv else { return Err(Error::NotFound { id: id.clone() }) };
                if keys::version(store, &kv) != seen {
                    return Err(conflict(id, Some(seen), store, Some(&kv)));
                }
                if kv.lease() == 0 {
                    // Written by a stranger: it would never expire. Written again, it has a lease.
                    let stored = keys::record(store, id, &kv)?;
                    return self.write(call, &stored, Expected::Version(seen)).await;
                }
                continue;
            };
            let condition = Compare::mod_revision(key.as_str(), CompareOp::Equal, revision);
            let check = self.txn(call, Repeat::Harmless, mark, &key, Some(condition), Vec::new());
            let (checked, renewed) = tokio::join!(check, self.keep_alive(call, lease));
            match checked? {
                Answer::OtherStore => continue,
                Answer::Stored { kv, revision } => {
                    self.settle(id, mark.store, kv.as_ref(), revision);
                    return Err(match kv {
                        Some(_) => conflict(id, Some(seen), mark.store, kv.as_ref()),
                        None => Error::NotFound { id: id.clone() },
                    });
                }
                Answer::Done { .. } if renewed? => return Ok(seen),
                // It expired between the two.
                Answer::Done { .. } => return Err(Error::NotFound { id: id.clone() }),
            }
        }
        Err(error::malformed(call.operation, "the store keeps changing its id"))
    }

    /// Renews a lease; false where it does not exist.
    pub(crate) async fn keep_alive(&self, call: &Call, lease: i64) -> Result<bool, Error> {
        let answer = self
            .servers
            .send_raw(call, Repeat::Fenced, |client| async move { client.lease_client().keep_alive(lease).await })
            .await?;
        match answer {
            Ok(_) => Ok(true),
            Err(err) if error::no_such_lease(&err) => Ok(false),
            Err(err) => Err(error::translate(call.operation, err, call.outcome())),
        }
    }

    /// Writes an intent: one request, never repeated where the first may have landed, lest it undo a newer one (P8).
    async fn intend(&self, call: &Call, id: &DataCenterId, intent: &Intent) -> Result<Version, Error> {
        let key = self.keys.intent(id);
        for _ in 0..ROUNDS {
            let mark = self.ready(call).await?;
            let put = TxnOp::put(key.as_str(), codec::encode_intent(intent), None);
            if let Answer::Done { revision, .. } = self.txn(call, Repeat::Once, mark, &key, None, vec![put]).await? {
                return Ok(Version::new(self.store_after(call, mark).await?, keys::unsigned(revision)));
            }
        }
        Err(error::malformed(call.operation, "the store keeps changing its id"))
    }

    /// Deletes a record and leaves a goodbye in the same revision, on the record's lease, which is then revoked (P10).
    async fn remove(self: &Arc<Self>, call: &Call, id: &DataCenterId, version: Version) -> Result<(), Error> {
        let key = self.keys.record(id);
        for _ in 0..ROUNDS {
            let mark = self.ready(call).await?;
            let revision = comparable(mark.store, Expected::Version(version));
            let known = revision.and_then(|revision| self.leases.of(id, mark.store, revision));
            let (Some(revision), Some(lease)) = (revision, known) else {
                let (store, kv, as_of) = self.read(call, &key).await?;
                self.settle(id, store, kv.as_ref(), as_of);
                match kv {
                    None => return Ok(()),
                    Some(kv) if keys::version(store, &kv) != version => {
                        return Err(conflict(id, Some(version), store, Some(&kv)));
                    }
                    Some(_) => continue,
                }
            };
            let mut then = vec![TxnOp::delete(key.as_str(), None)];
            if lease != 0 {
                then.push(TxnOp::put(self.keys.gone(id), "", Some(PutOptions::new().with_lease(lease))));
            }
            let condition = Compare::mod_revision(key.as_str(), CompareOp::Equal, revision);
            match self.txn_raw(call, Repeat::Fenced, mark, &key, Some(condition), then).await? {
                Ok(Answer::Done { revision, .. } | Answer::Stored { kv: None, revision }) => {
                    self.settle(id, mark.store, None, revision);
                    return Ok(());
                }
                Ok(Answer::Stored { kv, revision }) => {
                    self.settle(id, mark.store, kv.as_ref(), revision);
                    return Err(conflict(id, Some(version), mark.store, kv.as_ref()));
                }
                Ok(Answer::OtherStore) => {}
                // It expired just now: read what is there.
                Err(err) if error::no_such_lease(&err) => {
                    self.settle(id, mark.store, None, revision);
                }
                Err(err) => return Err(error::translate(call.operation, err, call.outcome())),
            }
        }
        Err(error::malformed(call.operation, "the record neither goes nor stays"))
    }
}

/// The `mod_revision` that `expected` stands for in `store`, 0 for absence; `None` where it is of another store.
pub(crate) fn comparable(store: StoreId, expected: Expected) -> Option<i64> {
    match expected {
        Expected::Absent => Some(0),
        // No record stands at revision 0: etcd would read it as absence.
        Expected::Version(version) => {
            (version.store == store && version.revision != 0).then(|| keys::signed(version.revision))
        }
    }
}

/// The conflict that what is stored makes; what cannot be decoded blocks its key until someone removes it.
fn conflict(id: &DataCenterId, expected: Option<Version>, store: StoreId, kv: Option<&KeyValue>) -> Error {
    match kv.map(|kv| keys::record(store, id, kv)).transpose() {
        Ok(stored) => Error::Conflict { id: id.clone(), expected, stored: stored.map(Box::new) },
        Err(corrupt) => corrupt.into(),
    }
}
