//! What the checks stand on: a fresh store, samples, bounded waiting.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use dc_core::{
    DataCenter, DataCenterId, DataCenterRecord, DataCenterState, Endpoint, Epoch, NodeEndpoint, NodeId, Owner, StoreId,
    Version,
};
use futures::StreamExt;

use super::Harness;
use crate::{ControlPlane, Corrupt, Error, Expected, Listing, Removal, StateChange, Watch, WatchEvent, Writer};

/// A TTL that no test outlives.
pub(super) const LONG: Duration = Duration::from_secs(3_600);

/// A harness with one fresh store.
pub(super) struct Ground<H: Harness> {
    pub(super) harness: H,
    pub(super) store: H::Store,
}

impl<H: Harness> Ground<H> {
    pub(super) async fn new(harness: H) -> Self {
        let store = harness.fresh().await;
        Self { harness, store }
    }

    /// One more client of the store.
    pub(super) async fn plane(&self) -> H::Plane {
        self.within("open", self.harness.open(&self.store)).await
    }

    pub(super) fn now(&self) -> Instant {
        self.harness.clock().now()
    }

    /// Awaits `future`, no longer than the harness's patience.
    pub(super) async fn within<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        within(what, self.harness.patience(), future).await
    }

    /// Asks until `check` has an answer, no longer than the harness's patience.
    pub(super) async fn until<T>(&self, what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
        let asking = async {
            loop {
                if let Some(found) = check().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        self.within(what, asking).await
    }

    /// The list, once it is as of `version` or later (P6).
    pub(super) async fn listed(&self, plane: &H::Plane, version: Version) -> Listing {
        self.until("a list as of the last write", async || {
            let listing = plane.list_all().await.expect("list");
            (listing.as_of >= version).then_some(listing)
        })
        .await
    }

    /// The record of `id`, once its version is `version` or later.
    pub(super) async fn read(&self, plane: &H::Plane, id: &DataCenterId, version: Version) -> DataCenterRecord {
        self.until("the record as last written", async || {
            plane.get(id).await.expect("get").filter(|record| record.version >= version)
        })
        .await
    }

    /// Waits until the list does not hold `id` any more.
    pub(super) async fn gone(&self, plane: &H::Plane, id: &DataCenterId) {
        self.until("the record to be gone", async || {
            let listing = plane.list_all().await.expect("list");
            listing.records.iter().all(|record| record.id() != id).then_some(())
        })
        .await;
        self.until("get to answer None", async || plane.get(id).await.expect("get").is_none().then_some(())).await;
    }

    /// Lets the lease of a record with the harness's TTL run out, and the store's granularity with it.
    pub(super) async fn outlive(&self, plane: &H::Plane) {
        self.harness.advance(self.harness.ttl() + plane.capabilities().expiry_granularity).await;
    }

    /// A watch past its replay; `None`, having checked that the plane says so, where it has none.
    pub(super) async fn watch(&self, plane: &H::Plane) -> Option<(Watcher, Vec<WatchEvent>)> {
        let mut watcher = self.watch_from_start(plane).await?;
        let replay = watcher.replay().await;
        Some((watcher, replay))
    }

    /// A watch at its first event; `None`, having checked that the plane says so, where it has none.
    pub(super) async fn watch_from_start(&self, plane: &H::Plane) -> Option<Watcher> {
        let watch = self.within("watch", plane.watch()).await;
        if plane.capabilities().watch {
            let stream = watch.expect("P13: the capabilities promise a watch");
            Some(Watcher { stream, patience: self.harness.patience(), as_of: None, last: None })
        } else {
            assert!(
                matches!(watch, Err(Error::WatchUnsupported { .. })),
                "P5: a plane without a watch answers WatchUnsupported"
            );
            None
        }
    }
}

pub(super) async fn within<T>(what: &str, bound: Duration, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(bound, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {bound:?} in vain for: {what}"),
    }
}

/// A watch whose events are awaited with a bound, and whose order is checked as they come (P5).
pub(super) struct Watcher {
    stream: Watch,
    patience: Duration,
    as_of: Option<Version>,
    last: Option<Version>,
}

impl Watcher {
    /// The next event, `InStep`s left out; `None` where the watch has ended.
    pub(super) async fn step(&mut self) -> Option<Result<WatchEvent, Error>> {
        let stream = &mut self.stream;
        let coming = async {
            loop {
                let event = stream.next().await;
                if !matches!(event, Some(Ok(WatchEvent::InStep))) {
                    return event;
                }
            }
        };
        let event = within("an event of the watch", self.patience, coming).await?;
        match &event {
            Ok(WatchEvent::ReplayDone { as_of }) => {
                assert_eq!(self.as_of, None, "P5: the replay ends once");
                self.as_of = Some(*as_of);
                self.last = Some(*as_of);
            }
            Ok(WatchEvent::Put(record)) => self.in_order(record.version),
            Ok(WatchEvent::Intent(held)) => self.in_order(held.version),
            // A removal that a client-side timer found bears the record's version: not ordered.
            _ => {}
        }
        Some(event)
    }

    /// Whether the watch says within `bound` that it is in step; other events are passed over.
    pub(super) async fn claims_to_be_in_step(&mut self, bound: Duration) -> bool {
        let stream = &mut self.stream;
        let claim = async {
            while let Some(event) = stream.next().await {
                if matches!(event, Ok(WatchEvent::InStep)) {
                    return true;
                }
            }
            false
        };
        tokio::time::timeout(bound, claim).await.unwrap_or(false)
    }

    fn in_order(&mut self, version: Version) {
        if let Some(last) = self.last {
            assert!(version > last, "P5: {version} was yielded after {last}");
            self.last = Some(version);
        }
    }

    /// The next event; the watch must not have ended.
    pub(super) async fn next(&mut self) -> WatchEvent {
        self.step().await.expect("P5: the watch ended without an error").expect("P5: the watch failed")
    }

    /// Everything up to `ReplayDone`.
    pub(super) async fn replay(&mut self) -> Vec<WatchEvent> {
        let mut seen = Vec::new();
        while self.as_of.is_none() {
            seen.push(self.next().await);
        }
        seen
    }

    /// The version that the replay ended at.
    pub(super) fn replayed_to(&self) -> Version {
        self.as_of.expect("replayed first")
    }

    /// The next event that `pick` takes; others are passed over.
    pub(super) async fn find<T>(&mut self, mut pick: impl FnMut(WatchEvent) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(self.next().await) {
                return found;
            }
        }
    }

    /// The next write of `id`.
    pub(super) async fn put(&mut self, id: &DataCenterId) -> DataCenterRecord {
        self.find(|event| match event {
            WatchEvent::Put(record) if record.id() == id => Some(record),
            WatchEvent::Removed { id: removed, .. } if removed == *id => panic!("P5: {id} was removed"),
            _ => None,
        })
        .await
    }

    /// The next removal of `id`.
    pub(super) async fn removed(&mut self, id: &DataCenterId) -> (Version, Removal) {
        self.find(|event| match event {
            WatchEvent::Removed { id: removed, version, why } if removed == *id => Some((version, why)),
            _ => None,
        })
        .await
    }

    /// The next report of something that cannot be decoded.
    pub(super) async fn skipped(&mut self) -> Corrupt {
        self.find(|event| match event {
            WatchEvent::Skipped(corrupt) => Some(corrupt),
            _ => None,
        })
        .await
    }
}

/// An ACTIVE record that no test outlives, of a datacenter of this name.
pub(super) fn sample(name: &str) -> DataCenterRecord {
    sample_of(DataCenter::new(name).region("region 1").label("tier", "edge").build().expect("a legal sample"))
}

/// An ACTIVE record of `data_center`, owned by node 1.
pub(super) fn sample_of(data_center: DataCenter) -> DataCenterRecord {
    let record = DataCenterRecord {
        data_center,
        endpoints: vec![],
        state: DataCenterState::Active,
        ttl: LONG,
        owner: owner(1),
        epoch: Epoch::FIRST,
        handed_over: false,
        written_at_ms: crate::wall_ms(),
        version: no_version(),
        unknown: serde_json::Map::new(),
    };
    DataCenterRecord { endpoints: [1, 2].map(|n| NodeEndpoint::new(NodeId(n), endpoint(n))).to_vec(), ..record }
}

/// The version of what was never written.
pub(super) fn no_version() -> Version {
    Version::new(StoreId(0), 0)
}

/// Node `n` as an owner.
pub(super) fn owner(n: u128) -> Owner {
    Owner { node: NodeId(n), endpoint: endpoint(n) }
}

fn endpoint(n: u128) -> Endpoint {
    format!("node-{n}.example:7946").parse().expect("a legal sample")
}

/// `record` as node `n` takes it over: its own name, and the next epoch.
pub(super) fn taken_over(record: &DataCenterRecord, n: u128) -> DataCenterRecord {
    DataCenterRecord { owner: owner(n), epoch: record.epoch.next(), ..record.clone() }
}

/// Writes `record`, which must succeed, and returns it as stored.
pub(super) async fn write<P: ControlPlane>(
    plane: &P,
    record: &DataCenterRecord,
    expected: Expected,
) -> DataCenterRecord {
    let version = plane.register(record, expected).await.expect("register");
    DataCenterRecord { version, ..record.clone() }
}

/// Creates `record`, which must succeed, and returns it as stored.
pub(super) async fn create<P: ControlPlane>(plane: &P, record: &DataCenterRecord) -> DataCenterRecord {
    write(plane, record, Expected::Absent).await
}

/// Creates `record` with this TTL; returns it as stored.
pub(super) async fn create_for<P: ControlPlane>(plane: &P, name: &str, ttl: Duration) -> DataCenterRecord {
    create(plane, &DataCenterRecord { ttl, ..sample(name) }).await
}

/// Moves `record` as its owner, which must succeed; returns it as stored.
pub(super) async fn moved<P: ControlPlane>(
    plane: &P,
    record: &DataCenterRecord,
    to: DataCenterState,
) -> DataCenterRecord {
    let by = Writer::Owner { node: record.owner.node, seen: record.version };
    match plane.set_state(record.id(), to, by).await.expect("set_state") {
        StateChange::Moved(version) => DataCenterRecord { state: to, version, ..record.clone() },
        StateChange::Intended(_) => panic!("P8: the owner's own move was written as an intent"),
    }
}

/// The operator of the samples.
pub(super) fn operator() -> Writer {
    Writer::Operator { by: "ann".to_owned(), why: "new rack".to_owned() }
}

/// Asserts that `result` is a conflict, and returns what it carries.
#[track_caller]
pub(super) fn conflict<T: std::fmt::Debug>(claim: &str, result: Result<T, Error>) -> Option<DataCenterRecord> {
    match result {
        Err(Error::Conflict { stored, .. }) => stored.map(|record| *record),
        other => panic!("{claim}: expected a conflict, got {other:?}"),
    }
}

/// Asserts that `record` is stored unchanged.
#[track_caller]
pub(super) fn assert_same(claim: &str, found: &DataCenterRecord, expected: &DataCenterRecord) {
    assert!(found.same_content(expected), "{claim}: found {found:?}, expected {expected:?}");
    assert_eq!(found.version, expected.version, "{claim}: another version");
}

/// Creates a sample after an outage; `None` while the store is not back. Finds its own lost write.
pub(super) async fn created_again<P: ControlPlane>(plane: &P, name: &str) -> Option<DataCenterRecord> {
    let record = sample(name);
    match plane.register(&record, Expected::Absent).await {
        Ok(version) => Some(DataCenterRecord { version, ..record }),
        Err(Error::Conflict { stored: Some(stored), .. }) => Some(*stored),
        Err(err) if err.is_outage() => None,
        Err(err) => panic!("after an outage: {err:?}"),
    }
}
