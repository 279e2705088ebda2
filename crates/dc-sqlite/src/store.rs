//! The transactions: what each call reads and writes. They know SQL, not threads.

use std::time::Duration;

use dc_controlplane::{
    Corrupt, Error, Expected, HeldIntent, Listing, StateChange, StatePlan, Writer, codec, plan_state,
};
use dc_core::{DataCenterId, DataCenterRecord, DataCenterState, Intent, StoreId, Version};
use rusqlite::{OptionalExtension, Transaction, params};
use tracing::warn;

use crate::{MachineClock, MachineTime, error::Failure};

/// One namespace within one transaction.
pub(crate) struct Store<'a> {
    pub(crate) tx: &'a Transaction<'a>,
    pub(crate) namespace: &'a str,
    pub(crate) now: MachineTime,
    as_of: Version,
}

/// What a record's row holds.
struct Row {
    version: Version,
    document: Vec<u8>,
}

impl<'a> Store<'a> {
    /// For reading. `None` where the namespace was never written to: [`create`](Self::create) it first.
    ///
    /// A transaction that reads sees the file as of its first `SELECT`, which is done here; the clock is read after it,
    /// so that nothing is seen that was renewed after `now`.
    pub(crate) fn open(
        tx: &'a Transaction<'a>,
        namespace: &'a str,
        clock: &dyn MachineClock,
    ) -> Result<Option<Self>, Failure> {
        let found = tx
            .prepare_cached("SELECT id, revision FROM stores WHERE namespace = ?1")?
            .query_row([namespace], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))
            .optional()?;
        let Some((id, revision)) = found else { return Ok(None) };
        let id: StoreId = id.parse().map_err(|err| Failure::Foreign(format!("the store's id is broken: {err}")))?;
        Ok(Some(Self { tx, namespace, now: clock.now(), as_of: Version::new(id, revision_of(revision)) }))
    }

    /// For writing: gives the namespace an id on first use. `seen` is the latest version that this client knows of: a
    /// store that is behind it was rolled back, and becomes another store (P1).
    pub(crate) fn create(
        tx: &'a Transaction<'a>,
        namespace: &'a str,
        clock: &dyn MachineClock,
        seen: Option<Version>,
    ) -> Result<Self, Failure> {
        let id = StoreId(rand::random());
        tx.prepare_cached("INSERT INTO stores VALUES (?1, ?2, 0) ON CONFLICT DO NOTHING")?
            .execute(params![namespace, id.to_string()])?;
        let Some(mut store) = Self::open(tx, namespace, clock)? else {
            return Err(Failure::Foreign("the store's id cannot be written".to_owned()));
        };
        if seen.is_some_and(|seen| store.as_of < seen) {
            warn!(store = %store.as_of, seen = ?seen, "the store has lost changes: it was rolled back, and gets a new id");
            tx.execute("UPDATE stores SET id = ?2 WHERE namespace = ?1", params![namespace, id.to_string()])?;
            store.as_of.store = id;
        }
        Ok(store)
    }

    /// The store's present version.
    pub(crate) fn as_of(&self) -> Version {
        self.as_of
    }

    pub(crate) fn version(&self, revision: i64) -> Version {
        Version::new(self.as_of.store, revision_of(revision))
    }

    /// Raises the counter (P1).
    pub(crate) fn next_version(&mut self) -> Result<Version, Failure> {
        let revision: i64 = self
            .tx
            .prepare_cached("UPDATE stores SET revision = revision + 1 WHERE namespace = ?1 RETURNING revision")?
            .query_row([self.namespace], |row| row.get(0))?;
        self.as_of = self.version(revision);
        Ok(self.as_of)
    }

    /// The live record's row: one whose lease has not ended, or that a stranger wrote without one.
    fn row(&self, id: &DataCenterId) -> Result<Option<Row>, Failure> {
        let sql = "SELECT revision, document, boot, renewed_ns, ttl_ns
                   FROM records LEFT JOIN leases USING (namespace, id) WHERE namespace = ?1 AND id = ?2";
        let row = self.tx.prepare_cached(sql)?.query_row(params![self.namespace, id.as_str()], |row| {
            let lease = StoredLease::of(row, 2)?;
            Ok((Row { version: self.version(row.get(0)?), document: row.get(1)? }, lease))
        });
        Ok(row.optional()?.filter(|(_, lease)| lease.is_live(&self.now)).map(|(row, _)| row))
    }

    /// The live record; what cannot be decoded is an error.
    pub(crate) fn record(&self, id: &DataCenterId) -> Result<Option<DataCenterRecord>, Failure> {
        let Some(row) = self.row(id)? else { return Ok(None) };
        let key = format!("{}{id}", codec::RECORDS);
        let record = codec::decode_record(&key, id, &row.document, row.version).map_err(Error::from)?;
        Ok(Some(record))
    }

    fn conflict(&self, id: &DataCenterId, expected: Option<Version>) -> Failure {
        // What is stored is told as far as it can be read.
        let stored = self.record(id).ok().flatten().map(Box::new);
        Error::Conflict { id: id.clone(), expected, stored }.into()
    }

    pub(crate) fn register(&mut self, record: &DataCenterRecord, expected: Expected) -> Result<Version, Failure> {
        let id = record.id();
        match self.row(id)? {
            stored if stored.as_ref().map(|row| row.version) == expected.version() => {}
            // Somebody's garbage, under a record's key: not ours to remove.
            Some(_) if expected == Expected::Absent => {
                self.record(id)?;
                return Err(self.conflict(id, None));
            }
            _ => return Err(self.conflict(id, expected.version())),
        }
        self.put(record)
    }

    fn put(&mut self, record: &DataCenterRecord) -> Result<Version, Failure> {
        let version = self.next_version()?;
        let id = record.id().as_str();
        self.tx
            .prepare_cached(
                "INSERT OR REPLACE INTO records (namespace, id, revision, document) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![self.namespace, id, column_of(version), codec::encode_record(record)])?;
        self.tx.prepare_cached("INSERT OR REPLACE INTO leases VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
            self.namespace,
            id,
            &*self.now.boot,
            nanos(self.now.since_boot),
            nanos(record.ttl)
        ])?;
        self.sweep()?;
        Ok(version)
    }

    pub(crate) fn heartbeat(&mut self, id: &DataCenterId, seen: Version) -> Result<Version, Failure> {
        match self.row(id)? {
            None => return Err(Error::NotFound { id: id.clone() }.into()),
            Some(row) if row.version != seen => return Err(self.conflict(id, Some(seen))),
            Some(_) => {}
        }
        self.tx
            .prepare_cached("UPDATE leases SET boot = ?3, renewed_ns = ?4 WHERE namespace = ?1 AND id = ?2")?
            .execute(params![self.namespace, id.as_str(), &*self.now.boot, nanos(self.now.since_boot)])?;
        Ok(seen)
    }

    pub(crate) fn set_state(
        &mut self,
        id: &DataCenterId,
        to: DataCenterState,
        by: Writer,
    ) -> Result<StateChange, Failure> {
        let stored = match self.record(id) {
            Ok(stored) => stored,
            // An operator's word needs no readable record.
            Err(Failure::Answer(Error::Corrupt(_))) if matches!(by, Writer::Operator { .. }) => None,
            Err(failure) => return Err(failure),
        };
        match plan_state(id, stored, to, by)? {
            StatePlan::Nothing(version) => Ok(StateChange::Moved(version)),
            StatePlan::Write(record) => Ok(StateChange::Moved(self.put(&record)?)),
            StatePlan::Intend(intent) => Ok(StateChange::Intended(self.set_intent(id, &intent)?)),
        }
    }

    pub(crate) fn set_intent(&mut self, id: &DataCenterId, intent: &Intent) -> Result<Version, Failure> {
        let version = self.next_version()?;
        self.tx
            .prepare_cached(
                "INSERT OR REPLACE INTO intents (namespace, id, revision, document) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![self.namespace, id.as_str(), column_of(version), codec::encode_intent(intent)])?;
        Ok(version)
    }

    pub(crate) fn deregister(&mut self, id: &DataCenterId, version: Version) -> Result<(), Failure> {
        match self.row(id)? {
            None => return Ok(()),
            Some(row) if row.version != version => return Err(self.conflict(id, Some(version))),
            Some(_) => {}
        }
        self.next_version()?;
        for sql in [
            "DELETE FROM records WHERE namespace = ?1 AND id = ?2",
            "DELETE FROM leases WHERE namespace = ?1 AND id = ?2",
        ] {
            self.tx.prepare_cached(sql)?.execute(params![self.namespace, id.as_str()])?;
        }
        Ok(())
    }

    pub(crate) fn list(&self) -> Result<Listing, Failure> {
        let mut listing = Listing { as_of: self.as_of, records: vec![], intents: vec![], skipped: vec![] };
        self.list_records(&mut listing)?;
        self.list_intents(&mut listing)?;
        Ok(listing)
    }

    fn list_records(&self, listing: &mut Listing) -> Result<(), Failure> {
        let sql = "SELECT id, revision, document, boot, renewed_ns, ttl_ns
                   FROM records LEFT JOIN leases USING (namespace, id) WHERE namespace = ?1";
        let mut statement = self.tx.prepare_cached(sql)?;
        let mut rows = statement.query([self.namespace])?;
        while let Some(row) = rows.next()? {
            if !StoredLease::of(row, 3)?.is_live(&self.now) {
                continue;
            }
            let (key, version) =
                (format!("{}{}", codec::RECORDS, row.get_ref(0)?.as_str().unwrap_or("?")), row.get(1)?);
            let document = row.get_ref(2)?.as_bytes().unwrap_or_default();
            let record = codec::id_of_key(codec::RECORDS, &key)
                .and_then(|id| codec::decode_record(&key, &id, document, self.version(version)));
            sort(record, &mut listing.records, &mut listing.skipped);
        }
        Ok(())
    }

    fn list_intents(&self, listing: &mut Listing) -> Result<(), Failure> {
        let mut statement =
            self.tx.prepare_cached("SELECT id, revision, document FROM intents WHERE namespace = ?1")?;
        let mut rows = statement.query([self.namespace])?;
        while let Some(row) = rows.next()? {
            let (key, version) =
                (format!("{}{}", codec::INTENTS, row.get_ref(0)?.as_str().unwrap_or("?")), row.get(1)?);
            let document = row.get_ref(2)?.as_bytes().unwrap_or_default();
            let held = codec::id_of_key(codec::INTENTS, &key).and_then(|id| {
                let intent = codec::decode_intent(&key, document)?;
                Ok(HeldIntent { id, intent, version: self.version(version) })
            });
            sort(held, &mut listing.intents, &mut listing.skipped);
        }
        Ok(())
    }

    /// Removes what has expired, so that the file does not grow with every datacenter that ever was.
    fn sweep(&self) -> Result<(), Failure> {
        let now = params![self.namespace, &*self.now.boot, nanos(self.now.since_boot)];
        let dead = "namespace = ?1 AND (boot <> ?2 OR renewed_ns - ttl_ns > ?3 OR renewed_ns + ttl_ns <= ?3)";
        let records =
            format!("DELETE FROM records WHERE namespace = ?1 AND id IN (SELECT id FROM leases WHERE {dead})");
        if self.tx.prepare_cached(&records)?.execute(now)? > 0 {
            self.tx.prepare_cached(&format!("DELETE FROM leases WHERE {dead}"))?.execute(now)?;
        }
        Ok(())
    }
}

/// A lease as its columns hold it; `None` for a row that a stranger wrote without one.
struct StoredLease(Option<(String, i64, i64)>);

impl StoredLease {
    fn of(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Self> {
        let boot: Option<String> = row.get(at)?;
        Ok(Self(match boot {
            Some(boot) => Some((boot, row.get(at + 1)?, row.get(at + 2)?)),
            None => None,
        }))
    }

    /// It ends exactly one TTL after its renewal, or with its boot. One renewed in the future (by a wall clock that was
    /// set back since) is live, unless that is further away than a TTL.
    fn is_live(&self, now: &MachineTime) -> bool {
        match &self.0 {
            None => true,
            Some((boot, renewed, ttl)) => {
                let now_ns = nanos(now.since_boot);
                **boot == *now.boot && renewed.saturating_sub(*ttl) <= now_ns && now_ns < renewed.saturating_add(*ttl)
            }
        }
    }
}

fn sort<T>(decoded: Result<T, Corrupt>, good: &mut Vec<T>, bad: &mut Vec<Corrupt>) {
    match decoded {
        Ok(value) => good.push(value),
        Err(corrupt) => bad.push(corrupt),
    }
}

/// SQLite's integers are signed; a revision is a counter from 0.
fn revision_of(column: i64) -> u64 {
    u64::try_from(column).unwrap_or(0)
}

pub(crate) fn column_of(version: Version) -> i64 {
    i64::try_from(version.revision).unwrap_or(i64::MAX)
}

pub(crate) fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}
