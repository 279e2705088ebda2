//! What the store holds, and every write and read of it. Pure: `now` is passed in.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use dc_core::{DataCenterId, DataCenterRecord, DataCenterState, Intent, Lease, StoreId, Version};

use super::documents::Documents;
use crate::{
    Corrupt, Error, Expected, HeldIntent, Listing, Removal, StateChange, StatePlan, WatchEvent, Writer, codec,
    plan_state,
};

/// What the store holds. Each call takes the present instant, and first removes what has expired.
#[derive(Clone)]
pub(super) struct State {
    pub(super) id: StoreId,
    pub(super) revision: u64,
    records: BTreeMap<DataCenterId, Held>,
    intents: BTreeMap<DataCenterId, HeldIntent>,
    /// Keys whose content cannot be decoded. A good write to such a key replaces it.
    corrupt: BTreeMap<String, Corrupt>,
    /// When leases end, soonest first.
    ends: BTreeSet<(Instant, DataCenterId)>,
    /// What happened and was not yet told to watchers.
    pub(super) untold: Vec<WatchEvent>,
    /// The documents of ownership: apart from the records, counted by the same revision.
    pub(super) documents: Documents,
}

#[derive(Clone)]
struct Held {
    record: DataCenterRecord,
    /// `None` for what a stranger wrote without one.
    lease: Option<Lease>,
}

impl Held {
    fn end(&self) -> Option<Instant> {
        self.lease.map(|lease| lease.since() + lease.ttl())
    }
}

impl State {
    pub(super) fn new(id: StoreId) -> Self {
        Self {
            id,
            revision: 0,
            records: BTreeMap::new(),
            intents: BTreeMap::new(),
            corrupt: BTreeMap::new(),
            ends: BTreeSet::new(),
            untold: Vec::new(),
            documents: Documents::default(),
        }
    }

    /// The same content as the store of another id.
    pub(super) fn renamed(&self, id: StoreId) -> Self {
        let mut renamed = Self { id, untold: Vec::new(), ..self.clone() };
        for held in renamed.records.values_mut() {
            held.record.version.store = id;
        }
        for held in renamed.intents.values_mut() {
            held.version.store = id;
        }
        renamed.documents.rename(id);
        renamed
    }

    pub(super) fn as_of(&self) -> Version {
        Version::new(self.id, self.revision)
    }

    pub(super) fn next_version(&mut self) -> Version {
        self.revision += 1;
        self.as_of()
    }

    /// When the next lease ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// When the next document is cleaned up.
    pub(super) fn next_clean_up(&self) -> Option<Instant> {
        self.documents.next_end()
    }

    /// Removes what has expired by `now`.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((end, _)) = self.ends.first() {
            if *end > now {
                break;
            }
            let Some((_, id)) = self.ends.pop_first() else { break };
            self.records.remove(&id);
            let version = self.next_version();
            self.untold.push(WatchEvent::Removed { id, version, why: Removal::Expired });
        }
        self.clean_up(now);
    }

    fn put(&mut self, now: Instant, mut record: DataCenterRecord, leased: bool) -> Version {
        let version = self.next_version();
        record.version = version;
        let id = record.id().clone();
        let held = Held { lease: leased.then(|| Lease::new(now, record.ttl)), record };
        self.untold.push(WatchEvent::Put(held.record.clone()));
        self.corrupt.remove(&format!("{}{id}", codec::RECORDS));
        if let Some(end) = held.end() {
            self.ends.insert((end, id.clone()));
        }
        if let Some(end) = self.records.insert(id.clone(), held).and_then(|old| old.end())
            && self.records.get(&id).and_then(Held::end) != Some(end)
        {
            self.ends.remove(&(end, id));
        }
        version
    }

    fn remove(&mut self, id: &DataCenterId) {
        if let Some(end) = self.records.remove(id).and_then(|held| held.end()) {
            self.ends.remove(&(end, id.clone()));
        }
    }

    pub(super) fn register(
        &mut self,
        now: Instant,
        record: &DataCenterRecord,
        expected: Expected,
    ) -> Result<Version, Error> {
        record.check()?;
        self.expire(now);
        let stored = self.records.get(record.id()).map(|held| &held.record);
        if stored.map(|stored| stored.version) != expected.version() {
            return Err(conflict(record.id(), expected.version(), stored));
        }
        if let Some(corrupt) = self.corrupt.get(&format!("{}{}", codec::RECORDS, record.id())) {
            return Err(Error::Corrupt(corrupt.clone()));
        }
        Ok(self.put(now, record.clone(), true))
    }

    pub(super) fn heartbeat(&mut self, now: Instant, id: &DataCenterId, seen: Version) -> Result<Version, Error> {
        self.expire(now);
        let Some(held) = self.records.get_mut(id) else {
            return Err(Error::NotFound { id: id.clone() });
        };
        if held.record.version != seen {
            return Err(conflict(id, Some(seen), Some(&held.record)));
        }
        let before = held.end();
        held.lease = Some(Lease::new(now, held.record.ttl));
        let after = held.end();
        if let Some(end) = before {
            self.ends.remove(&(end, id.clone()));
        }
        if let Some(end) = after {
            self.ends.insert((end, id.clone()));
        }
        Ok(seen)
    }

    pub(super) fn set_state(
        &mut self,
        now: Instant,
        id: &DataCenterId,
        to: DataCenterState,
        by: Writer,
    ) -> Result<StateChange, Error> {
        self.expire(now);
        let stored = self.records.get(id).map(|held| held.record.clone());
        match plan_state(id, stored, to, by)? {
            StatePlan::Nothing(version) => Ok(StateChange::Moved(version)),
            StatePlan::Write(record) => Ok(StateChange::Moved(self.put(now, *record, true))),
            StatePlan::Intend(intent) => self.set_intent(now, id, &intent).map(StateChange::Intended),
        }
    }

    pub(super) fn set_intent(&mut self, now: Instant, id: &DataCenterId, intent: &Intent) -> Result<Version, Error> {
        intent.check()?;
        self.expire(now);
        let version = self.next_version();
        let held = HeldIntent { id: id.clone(), intent: intent.clone(), version };
        self.corrupt.remove(&format!("{}{id}", codec::INTENTS));
        self.untold.push(WatchEvent::Intent(held.clone()));
        self.intents.insert(id.clone(), held);
        Ok(version)
    }

    pub(super) fn get(&mut self, now: Instant, id: &DataCenterId) -> Result<Option<DataCenterRecord>, Error> {
        self.expire(now);
        if let Some(corrupt) = self.corrupt.get(&format!("{}{id}", codec::RECORDS)) {
            return Err(Error::Corrupt(corrupt.clone()));
        }
        Ok(self.records.get(id).map(|held| held.record.clone()))
    }

    pub(super) fn list(&mut self, now: Instant) -> Listing {
        self.expire(now);
        self.as_it_was()
    }

    /// The record of `id`, without looking at the time.
    pub(super) fn record(&self, id: &DataCenterId) -> Option<&DataCenterRecord> {
        self.records.get(id).map(|held| &held.record)
    }

    /// The list without looking at the time: what a stale read shows.
    pub(super) fn as_it_was(&self) -> Listing {
        Listing {
            as_of: self.as_of(),
            records: self.records.values().map(|held| held.record.clone()).collect(),
            intents: self.intents.values().cloned().collect(),
            skipped: self.corrupt.values().cloned().collect(),
        }
    }

    pub(super) fn deregister(&mut self, now: Instant, id: &DataCenterId, version: Version) -> Result<(), Error> {
        self.expire(now);
        let Some(held) = self.records.get(id) else { return Ok(()) };
        if held.record.version != version {
            return Err(conflict(id, Some(version), Some(&held.record)));
        }
        self.remove(id);
        let version = self.next_version();
        self.untold.push(WatchEvent::Removed { id: id.clone(), version, why: Removal::Deregistered });
        Ok(())
    }

    /// Writes a document as a stranger would: without a lease, checked by nobody.
    pub(super) fn write_raw(&mut self, now: Instant, key: &str, document: &[u8]) {
        self.expire(now);
        let found = if key.starts_with(codec::RECORDS) {
            codec::id_of_key(codec::RECORDS, key)
                .and_then(|id| codec::decode_record(key, &id, document, self.as_of()))
                .map(|record| {
                    self.put(now, record, false);
                })
        } else if key.starts_with(codec::INTENTS) {
            codec::id_of_key(codec::INTENTS, key).and_then(|id| {
                let intent = codec::decode_intent(key, document)?;
                self.set_intent(now, &id, &intent)
                    .map_err(|err| Corrupt { key: key.to_owned(), why: err.to_string() })?;
                Ok(())
            })
        } else if let Some(rest) = key.strip_prefix(codec::DOCUMENTS) {
            self.write_raw_document(rest, document);
            Ok(())
        } else {
            // A stranger's key is none of ours.
            self.revision += 1;
            Ok(())
        };
        if let Err(corrupt) = found {
            self.revision += 1;
            if let Ok(id) = codec::id_of_key(codec::RECORDS, key) {
                self.remove(&id);
            }
            self.untold.push(WatchEvent::Skipped(corrupt.clone()));
            self.corrupt.insert(key.to_owned(), corrupt);
        }
    }

    /// Forgets a record without a word to anybody, as a store does that loses data.
    pub(super) fn forget(&mut self, id: &DataCenterId) -> bool {
        let known = self.records.contains_key(id);
        self.remove(id);
        known
    }
}

fn conflict(id: &DataCenterId, expected: Option<Version>, stored: Option<&DataCenterRecord>) -> Error {
    Error::Conflict { id: id.clone(), expected, stored: stored.cloned().map(Box::new) }
}
