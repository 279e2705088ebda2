//! The documents of ownership: every write and read of them. Pure: `now` is passed in.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Instant,
};

use bytes::Bytes;
use dc_core::{StoreId, Version};

use super::state::State;
use crate::{
    Corrupt, Expected, codec,
    ownership::{self, Document, DocumentEvent, DocumentKey, Keep, Swap},
};

/// What is stored of them, and what is not yet told of them.
#[derive(Clone, Default)]
pub(super) struct Documents {
    held: BTreeMap<DocumentKey, Held>,
    /// When documents are to be cleaned up, soonest first.
    ends: BTreeSet<(Instant, DocumentKey)>,
    /// What strangers wrote below our place under no document key.
    strays: BTreeMap<String, Corrupt>,
    /// What happened and was not yet told to watchers.
    pub(super) untold: Vec<DocumentEvent>,
}

#[derive(Clone)]
struct Held {
    document: Document,
    /// `None` for [`Keep::Forever`].
    end: Option<Instant>,
}

impl Documents {
    pub(super) fn rename(&mut self, id: StoreId) {
        for held in self.held.values_mut() {
            held.document.version.store = id;
        }
    }

    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(end, _)| *end)
    }

    fn get(&self, key: &DocumentKey) -> Option<&Document> {
        self.held.get(key).map(|held| &held.document)
    }

    fn put(&mut self, document: Document, end: Option<Instant>) {
        let key = document.key.clone();
        self.untold.push(DocumentEvent::Put(document.clone()));
        self.forget(&key);
        if let Some(end) = end {
            self.ends.insert((end, key.clone()));
        }
        self.held.insert(key, Held { document, end });
    }

    fn forget(&mut self, key: &DocumentKey) {
        if let Some(end) = self.held.remove(key).and_then(|held| held.end) {
            self.ends.remove(&(end, key.clone()));
        }
    }
}

impl State {
    /// Removes the documents that nobody asked to keep any longer.
    pub(super) fn clean_up(&mut self, now: Instant) {
        while let Some((end, _)) = self.documents.ends.first() {
            if *end > now {
                break;
            }
            let Some((_, key)) = self.documents.ends.pop_first() else { break };
            self.remove_document(key);
        }
    }

    fn remove_document(&mut self, key: DocumentKey) -> Version {
        self.documents.forget(&key);
        let version = self.next_version();
        self.documents.untold.push(DocumentEvent::Removed { key, version });
        version
    }

    /// The document, once what has expired is gone.
    pub(super) fn read(&mut self, now: Instant, key: &DocumentKey) -> Option<Document> {
        self.expire(now);
        self.document(key)
    }

    /// The document without looking at the time: what a stale read shows.
    pub(super) fn document(&self, key: &DocumentKey) -> Option<Document> {
        self.documents.get(key).cloned()
    }

    pub(super) fn compare_and_set(
        &mut self,
        now: Instant,
        key: &DocumentKey,
        expected: Expected,
        body: Bytes,
        keep: Keep,
    ) -> Swap {
        self.expire(now);
        let stored = self.document(key);
        if stored.as_ref().map(|stored| stored.version) != expected.version() {
            return Swap::Refused(stored);
        }
        let version = self.next_version();
        let end = match keep {
            Keep::Forever => None,
            // Beyond what an instant can hold is for ever.
            Keep::For(long) => now.checked_add(long),
        };
        self.documents.put(Document { key: key.clone(), body, version }, end);
        Swap::Done(version)
    }

    pub(super) fn remove_if(&mut self, now: Instant, key: &DocumentKey, version: Version) -> Swap {
        self.expire(now);
        match self.document(key) {
            Some(stored) if stored.version == version => Swap::Done(self.remove_document(key.clone())),
            stored => Swap::Refused(stored),
        }
    }

    pub(super) fn list_documents(&mut self, now: Instant, prefix: &str) -> ownership::Documents {
        self.expire(now);
        self.documents_as_they_were(prefix)
    }

    /// The list without looking at the time.
    pub(super) fn documents_as_they_were(&self, prefix: &str) -> ownership::Documents {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let under = self.documents.held.range::<str, _>(from).take_while(|(key, _)| key.as_str().starts_with(prefix));
        let strays = self.documents.strays.iter().filter(|(key, _)| key.starts_with(prefix));
        ownership::Documents {
            as_of: self.as_of(),
            documents: under.map(|(_, held)| held.document.clone()).collect(),
            skipped: strays.map(|(_, corrupt)| corrupt.clone()).collect(),
        }
    }

    /// Writes a document as a stranger would: to be kept, checked by nobody.
    pub(super) fn write_raw_document(&mut self, key: &str, body: &[u8]) {
        let version = self.next_version();
        match key.parse() {
            Ok(key) => self.documents.put(Document { key, body: Bytes::copy_from_slice(body), version }, None),
            Err(why) => {
                let corrupt = Corrupt { key: format!("{}{key}", codec::DOCUMENTS), why: format!("{why}") };
                self.documents.strays.insert(key.to_owned(), corrupt);
            }
        }
    }
}
