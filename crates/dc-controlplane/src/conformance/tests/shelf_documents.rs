use std::{collections::BTreeMap, time::Duration, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use dc_controlplane::{
    ControlPlane, Error, Expected,
    ownership::{self, Document, DocumentEvent, DocumentKey, DocumentWatch, Keep, OwnershipStore, Swap},
};
use dc_core::{StoreId, Version};
use futures::{StreamExt, stream};

use super::shelf::{Shelf, ShelfControlPlane};

/// How often a watch looks for changes. It says each time that it is in step.
const POLL: Duration = Duration::from_millis(50);

/// The documents on the shelf.
#[derive(Debug, Default)]
pub struct Documents {
    held: BTreeMap<DocumentKey, (Document, Option<Instant>)>,
    /// Where each key was last removed, so that those who poll learn of it (O6). A store that forgets such traces must
    /// end a watch that has not seen them with `WatchLost`.
    removed: BTreeMap<DocumentKey, Version>,
}

impl Shelf {
    /// Removes what nobody asked to keep any longer (O3). A removal has a version too (O1).
    fn clean_up(&mut self, now: Instant) {
        let over = |(_, end): &(Document, Option<Instant>)| end.is_some_and(|end| end <= now);
        let gone: Vec<_> =
            self.documents.held.iter().filter(|(_, held)| over(held)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.take_off(&key);
        }
    }

    fn document(&mut self, key: &DocumentKey, now: Instant) -> Option<Document> {
        self.clean_up(now);
        self.documents.held.get(key).map(|(document, _)| document.clone())
    }

    fn take_off(&mut self, key: &DocumentKey) -> Version {
        let version = self.next();
        self.documents.held.remove(key);
        self.documents.removed.insert(key.clone(), version);
        version
    }

    /// What happened under `prefix` after `seen`, in order.
    fn since(&self, seen: u64, prefix: &str) -> Vec<DocumentEvent> {
        let puts = self.documents.held.values().map(|(document, _)| DocumentEvent::Put(document.clone()));
        let gone = self.documents.removed.iter();
        let gone = gone.map(|(key, version)| DocumentEvent::Removed { key: key.clone(), version: *version });
        let at = |event: &DocumentEvent| match event {
            DocumentEvent::Put(document) => document.version.revision,
            DocumentEvent::Removed { version, .. } => version.revision,
            _ => 0,
        };
        let mut events: Vec<_> = puts.chain(gone).filter(|event| event.is_under(prefix) && at(event) > seen).collect();
        events.sort_by_key(at);
        events
    }
}

/// The documents of one client.
#[derive(Clone, Debug)]
pub struct ShelfOwnership(pub ShelfControlPlane);

#[async_trait]
impl OwnershipStore for ShelfOwnership {
    async fn store(&self) -> Result<StoreId, Error> {
        self.0.store().await
    }

    async fn read(&self, key: &DocumentKey) -> Result<Option<Document>, Error> {
        let (mut shelf, now) = self.0.shelf();
        Ok(shelf.document(key, now))
    }

    /// Looks, compares and writes in one step; a refusal tells what is stored: that is O2.
    async fn compare_and_set(
        &self,
        key: &DocumentKey,
        expected: Expected,
        body: Bytes,
        keep: Keep,
    ) -> Result<Swap, Error> {
        ownership::check_body(&body)?;
        let (mut shelf, now) = self.0.shelf();
        let stored = shelf.document(key, now);
        if stored.as_ref().map(|stored| stored.version) != expected.version() {
            return Ok(Swap::Refused(stored));
        }
        let version = shelf.next();
        let end = match keep {
            Keep::Forever => None,
            Keep::For(long) => now.checked_add(long),
        };
        shelf.documents.held.insert(key.clone(), (Document { key: key.clone(), body, version }, end));
        Ok(Swap::Done(version))
    }

    async fn remove(&self, key: &DocumentKey, version: Version) -> Result<Swap, Error> {
        let (mut shelf, now) = self.0.shelf();
        match shelf.document(key, now) {
            Some(stored) if stored.version == version => Ok(Swap::Done(shelf.take_off(key))),
            stored => Ok(Swap::Refused(stored)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<ownership::Documents, Error> {
        ownership::check_prefix(prefix)?;
        let (shelf, now) = self.0.shelf();
        let held = shelf.documents.held.values().filter(|(_, end)| end.is_none_or(|end| now < end));
        let under = held.map(|(document, _)| document).filter(|document| document.key.as_str().starts_with(prefix));
        Ok(ownership::Documents { as_of: shelf.as_of(), documents: under.cloned().collect(), skipped: vec![] })
    }

    async fn watch(&self, prefix: &str) -> Result<DocumentWatch, Error> {
        let listed = self.list(prefix).await?;
        let as_of = listed.as_of;
        let replay = listed.documents.into_iter().map(DocumentEvent::Put).chain([DocumentEvent::ReplayDone { as_of }]);
        let polling = (self.0.clone(), prefix.to_owned(), as_of.revision);
        let changes = stream::unfold(polling, |(client, prefix, seen)| async move {
            tokio::time::sleep(POLL).await;
            let (mut events, as_of) = {
                let (mut shelf, now) = client.shelf();
                shelf.clean_up(now);
                (shelf.since(seen, &prefix), shelf.as_of().revision)
            };
            events.push(DocumentEvent::InStep);
            Some((stream::iter(events), (client, prefix, as_of)))
        });
        Ok(stream::iter(replay).chain(changes.flatten()).map(Ok).boxed())
    }
}
