//! The transactions of ownership documents. They know SQL, not threads.

use std::time::Duration;

use bytes::Bytes;
use dc_controlplane::{
    Corrupt, Expected, codec,
    ownership::{Document, DocumentEvent, DocumentKey, Documents, Keep, Swap, Write},
};
use dc_core::Version;
use rusqlite::{OptionalExtension, Row, named_params, params, types::ValueRef};

use crate::{
    error::Failure,
    store::{Store, column_of, nanos},
};

/// How long the trace of a removal is kept: a watch that was away longer is lost.
pub(crate) const TRACES: Duration = Duration::from_secs(600);

/// How many changes one look of a watch takes up.
const CHANGES: i64 = 500;

/// Whether a document is to be cleaned up. One that was written in another boot has been kept for its time once this
/// boot has lasted so long: it was written before it. One written in the future, by a wall clock that was set back
/// since, stays, unless that is further away than its time.
const IS_OVER: &str = "(keep_ns IS NOT NULL AND CASE WHEN boot = :boot
    THEN written_ns - keep_ns > :now OR written_ns + keep_ns <= :now ELSE keep_ns <= :now END)";

/// What a watch finds that has looked before.
pub(crate) struct Changes {
    /// Up to where it has looked now.
    pub(crate) up_to: Version,
    pub(crate) events: Vec<DocumentEvent>,
    /// Whether there is more.
    pub(crate) more: bool,
    /// Whether documents are to be cleaned up: by a write, so that the removal has a version.
    pub(crate) overdue: bool,
    /// Whether traces of removals that the watch has not seen are gone.
    pub(crate) forgotten: bool,
}

impl Store<'_> {
    fn document_of(&self, key: &DocumentKey, row: &Row<'_>) -> rusqlite::Result<Document> {
        let body = Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?);
        Ok(Document { key: key.clone(), version: self.version(row.get(0)?), body })
    }

    /// The document, unless its time is over.
    pub(crate) fn document(&self, key: &DocumentKey) -> Result<Option<Document>, Failure> {
        let sql = format!(
            "SELECT revision, body FROM documents WHERE namespace = :namespace AND key = :key AND NOT {IS_OVER}"
        );
        let found = self.tx.prepare_cached(&sql)?.query_row(
            named_params! {
                ":namespace": self.namespace, ":key": key.as_str(),
                ":boot": &*self.now.boot, ":now": nanos(self.now.since_boot),
            },
            |row| self.document_of(key, row),
        );
        Ok(found.optional()?)
    }

    pub(crate) fn compare_and_set(
        &mut self,
        key: &DocumentKey,
        expected: Expected,
        body: &[u8],
        keep: Keep,
    ) -> Result<Swap, Failure> {
        // First, so that what is over is told as removed also where it is created again now.
        self.clean_up()?;
        self.swap(key, expected, body, keep)
    }

    /// Each by itself.
    pub(crate) fn compare_and_set_all(&mut self, writes: &[Write]) -> Result<Vec<Swap>, Failure> {
        self.clean_up()?;
        writes.iter().map(|write| self.swap(&write.key, write.expected, &write.body, Keep::Forever)).collect()
    }

    fn swap(&mut self, key: &DocumentKey, expected: Expected, body: &[u8], keep: Keep) -> Result<Swap, Failure> {
        let stored = self.document(key)?;
        if stored.as_ref().map(|stored| stored.version) != expected.version() {
            return Ok(Swap::Refused(stored));
        }
        let version = self.next_version()?;
        let (boot, written, keep) = match keep {
            Keep::Forever => (None, None, None),
            Keep::For(long) => (Some(&*self.now.boot), Some(nanos(self.now.since_boot)), Some(nanos(long))),
        };
        self.tx
            .prepare_cached("INSERT OR REPLACE INTO documents VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
            .execute(params![self.namespace, key.as_str(), column_of(version), body, boot, written, keep])?;
        Ok(Swap::Done(version))
    }

    pub(crate) fn remove_document(&mut self, key: &DocumentKey, version: Version) -> Result<Swap, Failure> {
        self.clean_up()?;
        let stored = self.document(key)?;
        if stored.as_ref().map(|stored| stored.version) != Some(version) {
            return Ok(Swap::Refused(stored));
        }
        self.tx
            .prepare_cached("DELETE FROM documents WHERE namespace = ?1 AND key = ?2")?
            .execute(params![self.namespace, key.as_str()])?;
        Ok(Swap::Done(self.leave_trace(key.as_str())?))
    }

    /// Notes a removal for those who watch; forgets old ones.
    fn leave_trace(&mut self, key: &str) -> Result<Version, Failure> {
        let version = self.next_version()?;
        let now = nanos(self.now.since_boot);
        self.tx
            .prepare_cached("INSERT OR REPLACE INTO removed_documents VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![self.namespace, key, column_of(version), &*self.now.boot, now])?;
        let old = "namespace = ?1 AND (boot <> ?2 OR removed_ns + ?4 <= ?3)";
        let newest: Option<i64> = self
            .tx
            .prepare_cached(&format!("SELECT max(revision) FROM removed_documents WHERE {old}"))?
            .query_row(params![self.namespace, &*self.now.boot, now, nanos(TRACES)], |row| row.get(0))?;
        if let Some(newest) = newest {
            let old = format!("DELETE FROM removed_documents WHERE {old}");
            self.tx.prepare_cached(&old)?.execute(params![self.namespace, &*self.now.boot, now, nanos(TRACES)])?;
            let sql = "INSERT INTO forgotten_removals VALUES (?1, ?2)
                       ON CONFLICT DO UPDATE SET revision = max(revision, excluded.revision)";
            self.tx.prepare_cached(sql)?.execute(params![self.namespace, newest])?;
        }
        Ok(version)
    }

    /// Removes what nobody asked to keep any longer.
    pub(crate) fn clean_up(&mut self) -> Result<(), Failure> {
        let sql = format!("DELETE FROM documents WHERE namespace = :namespace AND {IS_OVER} RETURNING key");
        let over: Vec<String> = self
            .tx
            .prepare_cached(&sql)?
            .query_map(
                named_params! {
                    ":namespace": self.namespace, ":boot": &*self.now.boot, ":now": nanos(self.now.since_boot),
                },
                |row| row.get(0),
            )?
            .collect::<Result<_, _>>()?;
        for key in over {
            self.leave_trace(&key)?;
        }
        Ok(())
    }

    pub(crate) fn list_documents(&self, prefix: &str) -> Result<Documents, Failure> {
        let sql = format!(
            "SELECT revision, body, key FROM documents
             WHERE namespace = :namespace AND key >= :prefix AND key < :prefix || char(0x10FFFF) AND NOT {IS_OVER}"
        );
        let mut listed = Documents { as_of: self.as_of(), documents: Vec::new(), skipped: Vec::new() };
        let mut statement = self.tx.prepare_cached(&sql)?;
        let mut rows = statement.query(named_params! {
            ":namespace": self.namespace, ":prefix": prefix,
            ":boot": &*self.now.boot, ":now": nanos(self.now.since_boot),
        })?;
        while let Some(row) = rows.next()? {
            let key = row.get_ref(2)?.as_str().unwrap_or("?");
            match key.parse() {
                Ok(key) => listed.documents.push(self.document_of(&key, row)?),
                Err(why) => {
                    listed.skipped.push(Corrupt { key: format!("{}{key}", codec::DOCUMENTS), why: format!("{why}") })
                }
            }
        }
        Ok(listed)
    }

    /// What happened under `prefix` after `since`, which is of this store, in order.
    pub(crate) fn changes(&self, prefix: &str, since: Version) -> Result<Changes, Failure> {
        let mut changes = Changes {
            up_to: self.as_of(),
            events: Vec::new(),
            more: false,
            overdue: self.is_overdue()?,
            forgotten: false,
        };
        if self.as_of() == since {
            return Ok(changes);
        }
        let forgotten: Option<i64> = self
            .tx
            .prepare_cached("SELECT revision FROM forgotten_removals WHERE namespace = ?1")?
            .query_row([self.namespace], |row| row.get(0))
            .optional()?;
        changes.forgotten = forgotten.is_some_and(|forgotten| forgotten > column_of(since));
        let sql = "SELECT revision, body, key FROM documents WHERE namespace = ?1 AND revision > ?2
                   UNION ALL
                   SELECT revision, NULL, key FROM removed_documents WHERE namespace = ?1 AND revision > ?2
                   ORDER BY 1 LIMIT ?3";
        let mut statement = self.tx.prepare_cached(sql)?;
        let mut rows = statement.query(params![self.namespace, column_of(since), CHANGES])?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            count += 1;
            let version = self.version(row.get(0)?);
            if count == CHANGES {
                (changes.more, changes.up_to) = (true, version);
            }
            let key = row.get_ref(2)?.as_str().unwrap_or("?");
            let Ok(key) = key.parse::<DocumentKey>() else { continue };
            if !key.as_str().starts_with(prefix) {
                continue;
            }
            changes.events.push(match row.get_ref(1)? {
                ValueRef::Null => DocumentEvent::Removed { key, version },
                _ => DocumentEvent::Put(self.document_of(&key, row)?),
            });
        }
        Ok(changes)
    }

    fn is_overdue(&self) -> Result<bool, Failure> {
        let sql = format!("SELECT EXISTS (SELECT 1 FROM documents WHERE namespace = :namespace AND {IS_OVER})");
        let overdue = self.tx.prepare_cached(&sql)?.query_row(
            named_params! {
                ":namespace": self.namespace, ":boot": &*self.now.boot, ":now": nanos(self.now.since_boot),
            },
            |row| row.get(0),
        )?;
        Ok(overdue)
    }
}
