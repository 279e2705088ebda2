//! A store that keeps O1 to O7 and nothing more: reads and watches lag, answers get lost, writes arrive late.

use std::collections::BTreeMap;

use bytes::Bytes;
use dc_controlplane::{
    Expected,
    ownership::{Document, DocumentKey, Keep},
};
use dc_core::{StoreId, Version};
use dc_ownership::core::{Ask, Written};

/// One accepted change.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) key: DocumentKey,
    pub(crate) body: Option<Bytes>,
}

#[derive(Clone, Debug)]
struct Stored {
    body: Bytes,
    revision: u64,
    keep: Option<u64>,
    expires: Option<u64>,
}

#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) id: StoreId,
    pub(crate) revision: u64,
    documents: BTreeMap<DocumentKey, Stored>,
    pub(crate) history: Vec<Change>,
}

impl Store {
    pub(crate) fn new(id: u128) -> Self {
        Self { id: StoreId(id), revision: 0, documents: BTreeMap::new(), history: Vec::new() }
    }

    pub(crate) fn version(&self, revision: u64) -> Version {
        Version::new(self.id, revision)
    }

    fn document(&self, key: &DocumentKey) -> Option<Document> {
        let stored = self.documents.get(key)?;
        Some(Document { key: key.clone(), body: stored.body.clone(), version: self.version(stored.revision) })
    }

    /// Carries out a request at `now` (nanoseconds); `late`: how much longer than asked a document is kept.
    pub(crate) fn apply(&mut self, key: &DocumentKey, ask: &Ask, now: u64, late: f64) -> Written {
        let there = self.documents.get(key).map(|stored| stored.revision);
        match ask {
            Ask::Read => Written::Read(self.document(key)),
            Ask::Write { expected, body, keep } => {
                let fits = match expected {
                    Expected::Absent => there.is_none(),
                    Expected::Version(version) => version.store == self.id && there == Some(version.revision),
                };
                if !fits {
                    return Written::Refused(self.document(key));
                }
                self.revision += 1;
                let keep = match keep {
                    Keep::Forever => None,
                    Keep::For(time) => Some((time.as_nanos() as f64 * (1.0 + late)) as u64),
                };
                let (revision, expires) = (self.revision, keep.map(|keep| now + keep));
                self.documents.insert(key.clone(), Stored { body: body.clone(), revision, keep, expires });
                self.history.push(Change { revision, key: key.clone(), body: Some(body.clone()) });
                Written::Done(self.version(revision))
            }
            Ask::Remove(version) => {
                if version.store != self.id || there != Some(version.revision) {
                    return Written::Refused(self.document(key));
                }
                self.remove(key);
                Written::Done(self.version(self.revision))
            }
        }
    }

    fn remove(&mut self, key: &DocumentKey) {
        self.revision += 1;
        self.documents.remove(key);
        self.history.push(Change { revision: self.revision, key: key.clone(), body: None });
    }

    /// Cleans up what nobody wrote again.
    pub(crate) fn expire(&mut self, now: u64) {
        let due = self.documents.iter().filter(|(_, stored)| stored.expires.is_some_and(|at| at <= now));
        let due: Vec<DocumentKey> = due.map(|(key, _)| key.clone()).collect();
        due.iter().for_each(|key| self.remove(key));
    }

    pub(crate) fn next_expiry(&self) -> Option<u64> {
        self.documents.values().filter_map(|stored| stored.expires).min()
    }

    /// What a reader sees that is at `revision`.
    pub(crate) fn as_of(&self, prefix: &str, revision: u64) -> Vec<Document> {
        let mut seen: BTreeMap<&DocumentKey, Option<(&Bytes, u64)>> = BTreeMap::new();
        for change in self.history.iter().take_while(|change| change.revision <= revision) {
            if change.key.as_str().starts_with(prefix) {
                seen.insert(&change.key, change.body.as_ref().map(|body| (body, change.revision)));
            }
        }
        let there = seen.into_iter().filter_map(|(key, body)| Some((key, body?)));
        there
            .map(|(key, (body, revision))| Document {
                key: key.clone(),
                body: body.clone(),
                version: self.version(revision),
            })
            .collect()
    }

    /// A reader's single document at `revision`.
    pub(crate) fn read_as_of(&self, key: &DocumentKey, revision: u64) -> Option<Document> {
        let change = self.history.iter().rev().find(|change| change.revision <= revision && change.key == *key)?;
        let body = change.body.clone()?;
        Some(Document { key: key.clone(), body, version: self.version(change.revision) })
    }

    pub(crate) fn keys(&self, prefix: &str) -> Vec<DocumentKey> {
        self.documents.keys().filter(|key| key.as_str().starts_with(prefix)).cloned().collect()
    }

    /// Sets it back to what it was at `revision`; leases begin anew, as after a restore.
    pub(crate) fn roll_back(&mut self, revision: u64, now: u64) {
        self.history.retain(|change| change.revision <= revision);
        let mut before: BTreeMap<DocumentKey, Stored> = BTreeMap::new();
        for change in &self.history {
            match &change.body {
                Some(body) => {
                    let session = change.key.as_str().starts_with("s/").then_some(20_000_000_000_u64);
                    let keep = self.documents.get(&change.key).map_or(session, |stored| stored.keep);
                    let (body, revision) = (body.clone(), change.revision);
                    before.insert(change.key.clone(), Stored { body, revision, keep, expires: keep.map(|k| now + k) });
                }
                None => _ = before.remove(&change.key),
            }
        }
        self.documents = before;
        self.revision = revision;
    }
}
