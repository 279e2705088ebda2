use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use dc_controlplane::{
    Capabilities, ControlPlane, Durability, Error, Expected, HeldIntent, Listing, StateChange, StatePlan, Watch,
    Writer, codec, ownership::OwnershipStore, plan_state,
};
use dc_core::{DataCenterId, DataCenterRecord, DataCenterState, Intent, Lease, SharedClock, StoreId, Version};

use super::shelf_documents::{Documents, ShelfOwnership};

/// The store: in your backend, a server.
#[derive(Debug)]
pub struct Shelf {
    id: StoreId,
    /// Raised by each change, lowered by nothing: that is P1.
    revision: u64,
    records: BTreeMap<DataCenterId, (Vec<u8>, Version, Lease)>,
    intents: BTreeMap<DataCenterId, (Vec<u8>, Version)>,
    /// Of the second trait.
    pub(super) documents: Documents,
}

impl Shelf {
    pub fn new() -> Arc<Mutex<Self>> {
        let id = StoreId(rand::random());
        let (records, intents, documents) = (BTreeMap::new(), BTreeMap::new(), Documents::default());
        Arc::new(Mutex::new(Self { id, revision: 0, records, intents, documents }))
    }

    pub(super) fn as_of(&self) -> Version {
        Version::new(self.id, self.revision)
    }

    pub(super) fn next(&mut self) -> Version {
        self.revision += 1;
        self.as_of()
    }

    /// The live record: one whose lease has not ended on the store's own clock (P3).
    fn live(&self, id: &DataCenterId, now: Instant) -> Result<Option<DataCenterRecord>, Error> {
        let Some((document, version, _)) = self.records.get(id).filter(|(_, _, lease)| !lease.is_expired(now)) else {
            return Ok(None);
        };
        Ok(Some(codec::decode_record(&format!("{}{id}", codec::RECORDS), id, document, *version)?))
    }

    /// Looks, compares and writes in one step: that is P2.
    fn put(&mut self, record: &DataCenterRecord, expected: Expected, now: Instant) -> Result<Version, Error> {
        let stored = self.live(record.id(), now)?;
        if stored.as_ref().map(|stored| stored.version) != expected.version() {
            return Err(conflict(record.id(), expected.version(), stored));
        }
        let version = self.next();
        let lease = Lease::new(now, record.ttl);
        self.records.insert(record.id().clone(), (codec::encode_record(record), version, lease));
        Ok(version)
    }
}

fn conflict(id: &DataCenterId, expected: Option<Version>, stored: Option<DataCenterRecord>) -> Error {
    Error::Conflict { id: id.clone(), expected, stored: stored.map(Box::new) }
}

/// One client of the store.
#[derive(Clone, Debug)]
pub struct ShelfControlPlane {
    shelf: Arc<Mutex<Shelf>>,
    clock: SharedClock,
}

impl ShelfControlPlane {
    pub fn open(shelf: &Arc<Mutex<Shelf>>, clock: SharedClock) -> Self {
        Self { shelf: shelf.clone(), clock }
    }

    pub(super) fn shelf(&self) -> (MutexGuard<'_, Shelf>, Instant) {
        (self.shelf.lock().unwrap_or_else(PoisonError::into_inner), self.clock.now())
    }
}

#[async_trait]
impl ControlPlane for ShelfControlPlane {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: "shelf",
            watch: false,
            expiry_events: false,
            expiry_granularity: Duration::ZERO,
            linearizable_reads: true,
            renewal_keeps_version: true,
            replicas: Some(1),
            durability: Durability::Memory,
            findings: Vec::new(),
        }
    }

    async fn store(&self) -> Result<StoreId, Error> {
        Ok(self.shelf().0.id)
    }

    async fn register(&self, record: &DataCenterRecord, expected: Expected) -> Result<Version, Error> {
        record.check()?;
        let (mut shelf, now) = self.shelf();
        shelf.put(record, expected, now)
    }

    async fn heartbeat(&self, record: &DataCenterRecord) -> Result<Version, Error> {
        let (id, seen) = (record.id(), record.version);
        let (mut shelf, now) = self.shelf();
        match shelf.live(id, now)? {
            None => return Err(Error::NotFound { id: id.clone() }),
            Some(stored) if stored.version != seen => return Err(conflict(id, Some(seen), Some(stored))),
            Some(_) => {}
        }
        if let Some((_, _, lease)) = shelf.records.get_mut(id) {
            *lease = lease.renewed(now);
        }
        Ok(seen)
    }

    async fn set_state(&self, id: &DataCenterId, to: DataCenterState, by: Writer) -> Result<StateChange, Error> {
        let stored = self.get(id).await?;
        match plan_state(id, stored, to, by)? {
            StatePlan::Nothing(version) => Ok(StateChange::Moved(version)),
            StatePlan::Write(record) => {
                self.register(&record, Expected::Version(record.version)).await.map(StateChange::Moved)
            }
            StatePlan::Intend(intent) => self.set_intent(id, &intent).await.map(StateChange::Intended),
        }
    }

    async fn set_intent(&self, id: &DataCenterId, intent: &Intent) -> Result<Version, Error> {
        intent.check()?;
        let (mut shelf, _) = self.shelf();
        let version = shelf.next();
        shelf.intents.insert(id.clone(), (codec::encode_intent(intent), version));
        Ok(version)
    }

    async fn get(&self, id: &DataCenterId) -> Result<Option<DataCenterRecord>, Error> {
        let (shelf, now) = self.shelf();
        shelf.live(id, now)
    }

    async fn list_all(&self) -> Result<Listing, Error> {
        let (shelf, now) = self.shelf();
        let mut listing = Listing { as_of: shelf.as_of(), records: vec![], intents: vec![], skipped: vec![] };
        for id in shelf.records.keys() {
            match shelf.live(id, now) {
                Ok(record) => listing.records.extend(record),
                Err(Error::Corrupt(corrupt)) => listing.skipped.push(corrupt),
                Err(err) => return Err(err),
            }
        }
        for (id, (document, version)) in &shelf.intents {
            match codec::decode_intent(&format!("{}{id}", codec::INTENTS), document) {
                Ok(intent) => listing.intents.push(HeldIntent { id: id.clone(), intent, version: *version }),
                Err(corrupt) => listing.skipped.push(corrupt),
            }
        }
        Ok(listing)
    }

    async fn watch(&self) -> Result<Watch, Error> {
        Err(Error::WatchUnsupported { backend: "shelf" })
    }

    async fn deregister(&self, id: &DataCenterId, version: Version) -> Result<(), Error> {
        let (mut shelf, now) = self.shelf();
        match shelf.live(id, now)? {
            None => return Ok(()),
            Some(stored) if stored.version != version => return Err(conflict(id, Some(version), Some(stored))),
            Some(_) => {}
        }
        shelf.next();
        shelf.records.remove(id);
        Ok(())
    }

    fn ownership(&self) -> Option<Arc<dyn OwnershipStore>> {
        Some(Arc::new(ShelfOwnership(self.clone())))
    }
}
