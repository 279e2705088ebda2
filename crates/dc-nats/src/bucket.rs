//! The bucket: its settings, its store id, and requests that outlive a change of leader.
//!
//! Owns the audit (P13), the store's incarnation (P1) and the retries of what
//! certainly changed nothing. Knows no records.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::HeaderMap;
use bytes::Bytes;
use dc_controlplane::{Capabilities, Corrupt, Durability, Error, ownership::MAX_DOCUMENT};
use dc_core::{SharedClock, StoreId, Version};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    config::NatsConfig,
    connect::Link,
    error::{ApiError, BACKEND, Call, Failure, cannot_work},
    keys::STORE_ID,
    quorum::{Quorum, Replicas},
    wire::{Ack, Read, Wire, write_headers},
};

/// How much later than its TTL a record may be gone: leases are rounded up to whole seconds, and the servers look for
/// ended ones at most a second apart (measured on 2.15: 0.3 s). Nothing ends while the servers are down: then they take
/// as long from their return, and an election.
pub(crate) const GRANULARITY: Duration = Duration::from_secs(2);

/// The longest ownership document (O7), and its headers.
const LARGEST_MESSAGE: usize = MAX_DOCUMENT + 4_096;

/// What is known of the bucket, as of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    pub(crate) store: StoreId,
    /// When the stream was made, in the server's words: another stream has another time.
    pub(crate) created: String,
    /// The stream's last sequence, as whoever answered said: its leader, or what is left without a quorum.
    pub(crate) last_sequence: u64,
    /// How long the trace of a removal is kept.
    pub(crate) marker_ttl: Duration,
    /// Whether several servers keep the bucket: then one that answers may have lost touch with the others.
    pub(crate) replicated: bool,
    connects: u64,
    capabilities: Capabilities,
}

/// One bucket, through one link.
#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) wire: Wire,
    config: NatsConfig,
    ready: RwLock<Option<Arc<Ready>>>,
    /// One task looks at the bucket at a time.
    gate: tokio::sync::Mutex<()>,
    seen: Arc<Seen>,
    clock: SharedClock,
}

/// What was seen of the store, through whichever link.
#[derive(Debug, Default)]
struct Seen {
    /// The highest sequence.
    highest: AtomicU64,
    quorum: RwLock<Option<Quorum>>,
}

impl Bucket {
    pub(crate) fn new(wire: Wire, config: NatsConfig, clock: SharedClock) -> Self {
        let (ready, gate) = (RwLock::default(), tokio::sync::Mutex::default());
        Self { wire, config, ready, gate, seen: Arc::default(), clock }
    }

    /// The same bucket, through one more connection.
    pub(crate) async fn through_another_link(&self) -> Result<Self, Error> {
        let wire = Wire { link: Link::open(&self.config).await?, keys: self.wire.keys.clone() };
        // To be looked at anew; what was told of its settings is not told again.
        let known = self.known().map(|known| Arc::new(Ready { connects: u64::MAX, ..(*known).clone() }));
        let (ready, gate) = (RwLock::new(known), tokio::sync::Mutex::default());
        let (config, seen, clock) = (self.config.clone(), Arc::clone(&self.seen), Arc::clone(&self.clock));
        Ok(Self { wire, config, ready, gate, seen, clock })
    }

    pub(crate) fn limit(&self) -> Duration {
        self.config.request_timeout
    }

    fn known(&self) -> Option<Arc<Ready>> {
        self.ready.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        match self.known() {
            Some(ready) => ready.capabilities.clone(),
            None => capabilities(&self.config, &Map::new(), Vec::new()),
        }
    }

    /// The bucket, looked at once for each connection. Made if it is not there.
    pub(crate) async fn ready(&self, call: &Call) -> Result<Arc<Ready>, Error> {
        if let Some(ready) = self.current() {
            return Ok(ready);
        }
        let _gate = self.gate.lock().await;
        match self.current() {
            Some(ready) => Ok(ready),
            None => self.look(call).await,
        }
    }

    fn current(&self) -> Option<Arc<Ready>> {
        self.known().filter(|ready| ready.connects == self.wire.link.connects())
    }

    /// Looks at the bucket anew, whatever is known of it.
    pub(crate) async fn refresh(&self, call: &Call) -> Result<Arc<Ready>, Error> {
        let _gate = self.gate.lock().await;
        self.look(call).await
    }

    async fn look(&self, call: &Call) -> Result<Arc<Ready>, Error> {
        self.wire.link.connected().await;
        let connects = self.wire.link.connects();
        self.wire.link.check_version()?;
        // Before the leader is asked: what is acknowledged meanwhile proves nothing.
        let highest = self.highest();
        let info = self.open(call).await?;
        let mut audit = audit(&info.config, &self.config);
        audit.findings.extend(payload_finding(self.wire.link.client().server_info().max_payload));
        if !audit.impossible.is_empty() {
            return Err(cannot_work(audit.impossible));
        }
        let store = self.store_id(call).await?;
        let before = self.known();
        if before.as_ref().is_none_or(|before| before.capabilities.findings != audit.findings) {
            for finding in &audit.findings {
                tracing::warn!(bucket = self.config.bucket, finding, "NATS is not set up safely");
            }
        }
        self.check_strict(audit.findings.clone())?;
        if info.majority_heard().is_some() && info.state.last_seq < highest {
            tracing::error!(now = info.state.last_seq, seen = highest, "the store went back, or is another");
            self.seen.highest.store(info.state.last_seq, Ordering::SeqCst);
        }
        if let Some(before) = before.filter(|before| before.store != store) {
            tracing::error!(before = %before.store, now = %store, "this is another store than before");
        }
        let ready = Arc::new(Ready {
            store,
            created: info.created,
            last_sequence: info.state.last_seq,
            marker_ttl: audit.marker_ttl,
            replicated: info.config.get("num_replicas").and_then(Value::as_u64).is_some_and(|count| count > 1),
            connects,
            capabilities: capabilities(&self.config, &info.config, audit.findings),
        });
        *self.ready.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&ready));
        Ok(ready)
    }

    fn check_strict(&self, findings: Vec<String>) -> Result<(), Error> {
        if self.config.strict && !findings.is_empty() { Err(cannot_work(findings)) } else { Ok(()) }
    }

    /// The stream's settings; made or mended where that is needed and possible.
    async fn open(&self, call: &Call) -> Result<StreamInfo, Error> {
        let stream = self.wire.keys.stream();
        let info = match self.api::<StreamInfo>(call, &format!("STREAM.INFO.{stream}"), None).await {
            Err(ApiOr::Api(err)) if err.is_not_found() => {
                let wanted = settings(&self.config, &self.wire.keys.all(), stream);
                self.check_strict(audit(&wanted, &self.config).findings)?;
                let wanted = Value::Object(wanted);
                match self.api(call, &format!("STREAM.CREATE.{stream}"), Some(&wanted)).await {
                    // Another process made it meanwhile, from other settings.
                    Err(ApiOr::Api(err)) if err.is_name_in_use() => {
                        self.api(call, &format!("STREAM.INFO.{stream}"), None).await
                    }
                    Err(ApiOr::Api(err)) => {
                        let bucket = &self.config.bucket;
                        return Err(cannot_work(vec![format!(
                            "the bucket {bucket} cannot be made as configured: {err}"
                        )]));
                    }
                    made => made,
                }
            }
            info => info,
        };
        let info = info.map_err(|err| err.into_error(call))?;
        let mends = audit(&info.config, &self.config).mends;
        if mends.is_empty() {
            return Ok(info);
        }
        let mut mended = info.config;
        for (field, value) in &mends {
            mended.insert((*field).to_owned(), value.clone());
        }
        tracing::warn!(bucket = self.config.bucket, ?mends, "turning on what leases need");
        match self.api(call, &format!("STREAM.UPDATE.{stream}"), Some(&Value::Object(mended))).await {
            Ok(info) => Ok(info),
            Err(ApiOr::Api(err)) if !err.is_temporary() => Err(cannot_work(vec![format!(
                "the bucket {} keeps no leases (TTLs on single keys and limit markers), and they cannot be turned on: {err}",
                self.config.bucket
            )])),
            Err(err) => Err(err.into_error(call)),
        }
    }

    /// The store's id: read, or written by compare-and-set where there is none.
    async fn store_id(&self, call: &Call) -> Result<StoreId, Error> {
        let subject = self.wire.keys.store();
        let mut at_least = 0;
        let mut expected = 0;
        let mut pause = Pause::default();
        loop {
            let read = self.read_from(call, std::slice::from_ref(&subject), at_least).await?;
            let held = read.messages.into_iter().next();
            if let Some(held) = &held
                && held.removal.is_none()
            {
                return parse_store_id(&held.payload);
            }
            expected = held.map_or(0, |tombstone| tombstone.sequence).max(expected);
            let fresh = StoreId(rand::random());
            let headers = write_headers(Some(expected), None);
            match self.wire.publish(call, &subject, headers, fresh.to_string().into()).await {
                Ok(Ack::Stored(_)) => {
                    tracing::info!(store = %fresh, bucket = self.config.bucket, "the store was used for the first time");
                    return Ok(fresh);
                }
                Ok(Ack::WrongLast(stored)) => at_least = stored.unwrap_or(at_least),
                Err(failure) => self.retry(call, failure, &mut pause).await?,
            }
        }
    }

    /// Reads until the answer is as of `at_least` or later: a replica may lag.
    async fn read_from(&self, call: &Call, filters: &[String], at_least: u64) -> Result<Read, Error> {
        let mut pause = Pause::default();
        loop {
            match self.wire.read(call, filters).await {
                Ok(read) if read.up_to >= at_least => {
                    self.seen.highest.fetch_max(read.up_to, Ordering::SeqCst);
                    return Ok(read);
                }
                Ok(read) => {
                    let (as_of, wanted) = (read.up_to, at_least);
                    call.note(format!("the replica that answers is behind: at {as_of}, not yet at {wanted}"));
                    pause.rest().await;
                }
                Err(failure) => self.retry(call, failure, &mut pause).await?,
            }
        }
    }

    /// Reads; looks at the bucket where nothing answers. May be stale, but not older than `at_least`.
    pub(crate) async fn read(&self, call: &Call, filters: &[String], at_least: u64) -> Result<Read, Failure> {
        let mut pause = Pause::default();
        loop {
            match self.wire.read(call, filters).await {
                Ok(read) if read.up_to >= at_least => {
                    self.seen.highest.fetch_max(read.up_to, Ordering::SeqCst);
                    return Ok(read);
                }
                Ok(_) => pause.rest().await,
                Err(Failure::TooMany) => return Err(Failure::TooMany),
                Err(failure) => {
                    self.retry(call, failure, &mut pause).await?;
                    self.refresh(call).await?;
                }
            }
        }
    }

    /// Publishes; tries again where that certainly changed nothing.
    pub(crate) async fn publish(
        &self,
        call: &Call,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<Ack, Error> {
        let mut pause = Pause::default();
        loop {
            let at = self.clock.now();
            match self.wire.publish(call, subject, headers.clone(), payload.clone()).await {
                Ok(ack) => {
                    if let Ack::Stored(last_sequence) = ack {
                        self.show(Quorum { at, last_sequence });
                    }
                    return Ok(ack);
                }
                Err(failure) => {
                    self.retry(call, failure, &mut pause).await?;
                    self.refresh(call).await?;
                }
            }
        }
    }

    /// Proof that the store's leader was in touch with a majority, no longer than `age` ago.
    ///
    /// A replica that is cut off from the others goes on answering reads and feeding watches: that what it shows has no
    /// renewals proves nothing. The one replica of an unreplicated bucket is proof by itself. A leader that loses its
    /// majority believes in itself for 10 s more, but tells when it last heard from whom: that is what counts here.
    pub(crate) async fn quorum(&self, call: &Call, age: Duration) -> Result<Quorum, Error> {
        let mut pause = Pause::default();
        loop {
            let now = self.clock.now();
            let shown = *self.seen.quorum.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(shown) = shown
                && now.saturating_duration_since(shown.at) <= age
            {
                return Ok(shown);
            }
            call.note("no leader of the bucket answers that is in touch with a majority");
            let operation = format!("STREAM.INFO.{}", self.wire.keys.stream());
            match self.wire.api::<StreamInfo>(call, &operation, None).await {
                Ok(info) => {
                    if let Some(ago) = info.majority_heard() {
                        let at = now.checked_sub(ago).unwrap_or(now);
                        let quorum = Quorum { at, last_sequence: info.state.last_seq };
                        self.show(quorum);
                        return Ok(quorum);
                    }
                    pause.rest().await;
                }
                Err(Failure::Api(err)) if err.is_not_found() => {
                    self.refresh(call).await?;
                }
                Err(failure) => self.retry(call, failure, &mut pause).await?,
            }
        }
    }

    fn show(&self, quorum: Quorum) {
        let mut shown = self.seen.quorum.write().unwrap_or_else(PoisonError::into_inner);
        if shown.is_none_or(|shown| shown.at < quorum.at) {
            *shown = Some(quorum);
        }
    }

    /// The id of the store that answered: the one known, unless the answer shows another, or none.
    pub(crate) async fn store_of(&self, call: &Call, known: StoreId, read: &Read) -> Result<StoreId, Error> {
        let subject = self.wire.keys.store();
        let shown = read.messages.iter().find(|message| message.subject == subject && message.removal.is_none());
        let shown = shown.map(|message| parse_store_id(&message.payload)).transpose()?;
        if shown == Some(known) {
            return Ok(known);
        }
        Ok(self.refresh(call).await?.store)
    }

    /// The version that an accepted write has. `before` is [`highest`](Self::highest) from before it was sent.
    ///
    /// The leader gives sequences in order: one that is not above all that was seen comes from another stream, or
    /// from one that lost acknowledged writes.
    pub(crate) async fn accepted(&self, call: &Call, before: u64, sequence: u64) -> Result<Version, Error> {
        if sequence <= before {
            tracing::error!(sequence, seen = before, "the store went back: it was wiped, or lost acknowledged writes");
            self.seen.highest.store(sequence, Ordering::SeqCst);
            let store = self.refresh(call).await?.store;
            return Ok(Version::new(store, sequence));
        }
        self.seen.highest.fetch_max(sequence, Ordering::SeqCst);
        Ok(Version::new(self.ready(call).await?.store, sequence))
    }

    /// The highest sequence that was seen of the store.
    pub(crate) fn highest(&self) -> u64 {
        self.seen.highest.load(Ordering::SeqCst)
    }

    /// Waits a moment before the next try, or gives up.
    async fn retry(&self, call: &Call, failure: Failure, pause: &mut Pause) -> Result<(), Error> {
        match failure {
            Failure::Final(err) => return Err(err),
            Failure::Api(err) if !err.is_temporary() => return Err(call.backend(err)),
            Failure::TooMany => return Err(call.backend(failure)),
            Failure::Again => {}
            Failure::Api(_) | Failure::NoResponders => call.note(failure),
        }
        pause.rest().await;
        Ok(())
    }

    /// An API request that is tried again while the servers say "not yet".
    async fn api<T: for<'de> Deserialize<'de>>(
        &self,
        call: &Call,
        operation: &str,
        body: Option<&Value>,
    ) -> Result<T, ApiOr> {
        let mut pause = Pause::default();
        loop {
            match self.wire.api(call, operation, body).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Api(err)) if !err.is_temporary() => return Err(ApiOr::Api(err)),
                Err(failure) => self.retry(call, failure, &mut pause).await.map_err(ApiOr::Other)?,
            }
        }
    }
}

/// A refusal that the caller looks at, or any other error.
enum ApiOr {
    Api(ApiError),
    Other(Error),
}

impl ApiOr {
    fn into_error(self, call: &Call) -> Error {
        match self {
            Self::Api(err) => call.backend(err),
            Self::Other(err) => err,
        }
    }
}

/// Rests between tries: 20 ms at first, 320 ms at most, each up to a half shorter by chance.
#[derive(Default)]
pub(crate) struct Pause(u32);

impl Pause {
    pub(crate) async fn rest(&mut self) {
        let full = Duration::from_millis(20 << self.0.min(4));
        self.0 += 1;
        tokio::time::sleep(full.mul_f64(rand::random_range(0.5..1.0))).await;
    }
}

pub(crate) fn parse_store_id(payload: &[u8]) -> Result<StoreId, Error> {
    let text = String::from_utf8_lossy(payload);
    let corrupt = |err: dc_core::Invalid| Corrupt { key: STORE_ID.to_owned(), why: err.to_string() };
    text.parse().map_err(|err| corrupt(err).into())
}

#[derive(Debug, Deserialize)]
struct StreamInfo {
    config: Map<String, Value>,
    created: String,
    state: StreamState,
    #[serde(default)]
    cluster: Option<Replicas>,
}

#[derive(Debug, Deserialize)]
struct StreamState {
    last_seq: u64,
}

impl StreamInfo {
    /// As [`Replicas::majority_heard`]; a stream without replicas is its own majority.
    fn majority_heard(&self) -> Option<Duration> {
        self.cluster.as_ref().map_or(Some(Duration::ZERO), Replicas::majority_heard)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The settings of a new bucket: those of every key-value bucket, with one value for each key and TTL markers.
fn settings(config: &NatsConfig, subject: &str, stream: &str) -> Map<String, Value> {
    let settings = json!({
        "name": stream,
        "description": "multidc: datacenter records and intents",
        "subjects": [subject],
        "retention": "limits",
        "storage": "file",
        "num_replicas": config.replicas,
        "max_msgs_per_subject": 1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msg_size": -1,
        "max_consumers": -1,
        "discard": "new",
        "allow_direct": true,
        "allow_rollup_hdrs": true,
        "deny_delete": true,
        "allow_msg_ttl": true,
        "subject_delete_marker_ttl": nanos(config.marker_ttl),
    });
    match settings {
        Value::Object(settings) => settings,
        // An object was written above.
        _ => Map::new(),
    }
}

/// What an existing bucket's settings mean for us (P13).
#[derive(Debug, Default, PartialEq)]
struct Audit {
    /// Why it cannot be used at all.
    impossible: Vec<String>,
    /// Settings to be turned on, without harm to what others do with the bucket.
    mends: Vec<(&'static str, Value)>,
    /// What is unsafe, or other than configured.
    findings: Vec<String>,
    marker_ttl: Duration,
}

/// A field of a stream's settings; 0 or false where it is left out.
fn number(stream: &Map<String, Value>, field: &str) -> i64 {
    stream.get(field).and_then(Value::as_i64).unwrap_or_default()
}

fn is(stream: &Map<String, Value>, field: &str) -> bool {
    stream.get(field).and_then(Value::as_bool).unwrap_or_default()
}

fn audit(stream: &Map<String, Value>, config: &NatsConfig) -> Audit {
    let bucket = &config.bucket;
    let mut audit =
        Audit { impossible: impossible(stream, bucket), findings: findings(stream, config), ..Audit::default() };
    for field in ["allow_direct", "allow_msg_ttl"] {
        if !is(stream, field) {
            audit.mends.push((field, true.into()));
        }
    }
    let markers = Duration::from_nanos(number(stream, "subject_delete_marker_ttl").unsigned_abs());
    if markers.is_zero() {
        audit.mends.push(("subject_delete_marker_ttl", nanos(config.marker_ttl).into()));
        audit.mends.push(("allow_rollup_hdrs", true.into()));
        audit.mends.push(("deny_purge", false.into()));
    } else if markers != config.marker_ttl {
        let wanted = config.marker_ttl;
        audit.findings.push(format!("the bucket {bucket} keeps markers for {markers:?}, not {wanted:?} as configured"));
    }
    audit.marker_ttl = if markers.is_zero() { config.marker_ttl } else { markers };
    audit
}

/// Why a bucket cannot be used at all.
fn impossible(stream: &Map<String, Value>, bucket: &str) -> Vec<String> {
    let mut reasons = Vec::new();
    let max_age = number(stream, "max_age");
    if max_age > 0 {
        let max_age = Duration::from_nanos(max_age.unsigned_abs());
        reasons.push(format!(
            "the bucket {bucket} has max_age {max_age:?}, which would silently end intents and the store's id; it must have none"
        ));
    }
    let history = number(stream, "max_msgs_per_subject");
    if history != 1 {
        reasons.push(format!(
            "the bucket {bucket} has history {history}, which keeps leases from ending in time; it must be 1"
        ));
    }
    let subject = format!("$KV.{bucket}.>");
    if !stream.get("subjects").and_then(Value::as_array).is_some_and(|held| held.iter().any(|held| *held == subject)) {
        reasons.push(format!("the stream KV_{bucket} does not keep {subject}: it is no key-value bucket"));
    }
    for (field, why) in [
        ("sealed", "takes no writes"),
        ("no_ack", "confirms no writes"),
        ("discard_new_per_subject", "lets no key be written again"),
    ] {
        if is(stream, field) {
            reasons.push(format!("the bucket {bucket} is `{field}`: it {why}"));
        }
    }
    if stream.get("mirror").is_some_and(|mirror| !mirror.is_null()) {
        reasons.push(format!("the bucket {bucket} is a mirror: it takes no writes"));
    }
    reasons
}

/// What is wrong with the largest message that the servers take.
fn payload_finding(max_payload: usize) -> Option<String> {
    (max_payload < LARGEST_MESSAGE).then(|| {
        format!("the servers' max_payload is {max_payload} bytes: ownership documents of up to {MAX_DOCUMENT} may be refused")
    })
}

/// What is unsafe about a bucket's replicas and storage, or other than configured.
fn findings(stream: &Map<String, Value>, config: &NatsConfig) -> Vec<String> {
    let bucket = &config.bucket;
    let mut findings = Vec::new();
    let replicas = number(stream, "num_replicas").max(1);
    if replicas != i64::from(config.replicas) {
        let wanted = config.replicas;
        findings.push(format!("the bucket {bucket} has {replicas} replicas, not {wanted} as configured"));
    }
    if replicas < 3 {
        findings.push(format!("the bucket {bucket} has {replicas} replica(s): losing a server may lose the store"));
    }
    if stream.get("storage").and_then(Value::as_str) != Some("file") {
        findings.push(format!("the bucket {bucket} is kept in memory: a restart loses the store"));
    }
    for field in ["max_msgs", "max_bytes"] {
        if number(stream, field) > 0 {
            findings.push(format!(
                "the bucket {bucket} has {field} {}: records may be refused or lost",
                number(stream, field)
            ));
        }
    }
    let largest = number(stream, "max_msg_size");
    if largest > 0 && usize::try_from(largest).is_ok_and(|largest| largest < LARGEST_MESSAGE) {
        findings.push(format!("the bucket {bucket} has max_msg_size {largest}: ownership documents may be refused"));
    }
    if stream.get("persist_mode").and_then(Value::as_str) == Some("async") {
        findings.push(format!("the bucket {bucket} persists asynchronously: a crash may take back accepted writes"));
    }
    if !config.fsync_always {
        findings.push(
            "whether the servers run with `sync_interval: always` cannot be read: if not, a power loss may take back \
             accepted writes; say so in the configuration if they do"
                .to_owned(),
        );
    }
    findings
}

fn capabilities(config: &NatsConfig, stream: &Map<String, Value>, findings: Vec<String>) -> Capabilities {
    let text = |field: &str| stream.get(field).and_then(Value::as_str);
    let durability = match (text("storage"), text("persist_mode")) {
        (Some("memory"), _) => Durability::Memory,
        (_, Some("async")) => Durability::AfterAck,
        _ if config.fsync_always => Durability::BeforeAck,
        _ => Durability::Unknown,
    };
    let replicas = stream.get("num_replicas").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    Capabilities {
        backend: BACKEND,
        watch: true,
        expiry_events: true,
        expiry_granularity: GRANULARITY,
        linearizable_reads: false,
        renewal_keeps_version: false,
        replicas,
        durability,
        findings,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NatsConfig {
        NatsConfig::builder("nats://h").replicas(3).fsync_always(true).build().unwrap()
    }

    fn made() -> Map<String, Value> {
        settings(&config(), "$KV.multidc.>", "KV_multidc")
    }

    #[test]
    fn p13_a_bucket_of_our_own_making_has_no_findings() {
        let audit = audit(&made(), &config());
        assert_eq!(audit, Audit { marker_ttl: config().marker_ttl, ..Audit::default() });
    }

    #[test]
    fn p13_each_setting_that_cannot_work_is_refused_by_name() {
        for (field, value) in [
            ("max_age", json!(5_000_000_000_u64)),
            ("max_msgs_per_subject", json!(5)),
            ("subjects", json!(["elsewhere.>"])),
            ("sealed", json!(true)),
            ("no_ack", json!(true)),
            ("discard_new_per_subject", json!(true)),
            ("mirror", json!({"name": "KV_other"})),
        ] {
            let mut stream = made();
            stream.insert(field.to_owned(), value);
            let audit = audit(&stream, &config());
            assert_eq!(audit.impossible.len(), 1, "{field}: {audit:?}");
        }
    }

    #[test]
    fn p13_what_differs_or_is_unsafe_is_found() {
        for (field, value, word) in [
            ("num_replicas", json!(1), "replica"),
            ("num_replicas", json!(5), "5 replicas, not 3"),
            ("storage", json!("memory"), "memory"),
            ("subject_delete_marker_ttl", json!(5_000_000_000_u64), "markers for 5s"),
            ("max_bytes", json!(1_000_000), "max_bytes"),
            ("persist_mode", json!("async"), "asynchronously"),
            ("max_msg_size", json!(65_536), "max_msg_size 65536"),
        ] {
            let mut stream = made();
            stream.insert(field.to_owned(), value);
            let audit = audit(&stream, &config());
            assert!(audit.impossible.is_empty() && audit.mends.is_empty(), "{field}: {audit:?}");
            assert!(audit.findings.iter().any(|finding| finding.contains(word)), "{field}: {audit:?}");
        }
    }

    #[test]
    fn p13_servers_that_take_no_ownership_documents_are_found() {
        assert!(payload_finding(65_536).is_some_and(|finding| finding.contains("65536")));
        assert_eq!(payload_finding(1 << 20), None, "the servers' default");
    }

    #[test]
    fn a_bucket_without_leases_is_mended() {
        let mut stream = made();
        stream.remove("allow_msg_ttl");
        stream.remove("subject_delete_marker_ttl");
        let fields: Vec<_> = audit(&stream, &config()).mends.into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["allow_msg_ttl", "subject_delete_marker_ttl", "allow_rollup_hdrs", "deny_purge"]);
    }

    #[test]
    fn durability_is_what_can_be_known() {
        let plain = NatsConfig::builder("nats://h").build().unwrap();
        assert_eq!(capabilities(&plain, &made(), vec![]).durability, Durability::Unknown);
        assert_eq!(capabilities(&config(), &made(), vec![]).durability, Durability::BeforeAck);
        let mut memory = made();
        memory.insert("storage".into(), "memory".into());
        assert_eq!(capabilities(&config(), &memory, vec![]).durability, Durability::Memory);
    }
}
