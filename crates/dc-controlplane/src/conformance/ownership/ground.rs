//! What the checks of documents stand on: clients, samples, a watch that is read with a bound.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use dc_core::{StoreId, Version};
use futures::StreamExt;

use super::super::{
    Harness,
    ground::{Ground, within},
};
use crate::{
    ControlPlane, Error, Expected,
    ownership::{Document, DocumentEvent, DocumentKey, DocumentWatch, Documents, Keep, OwnershipStore, Swap},
};

/// The documents of a plane, which has them.
pub(super) fn documents_of<P: ControlPlane>(plane: &P) -> Arc<dyn OwnershipStore> {
    plane.ownership().expect("the plane offers no ownership documents: `ControlPlane::ownership` answers None")
}

pub(super) fn key(text: &str) -> DocumentKey {
    text.parse().expect("a legal sample")
}

pub(super) fn body(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// A version that this store cannot have given.
pub(super) fn of_another_store(version: Version) -> Version {
    Version::new(StoreId(version.store.0 ^ 1), version.revision)
}

/// The version of an accepted write.
#[track_caller]
pub(super) fn done(claim: &str, swap: Result<Swap, Error>) -> Version {
    match swap {
        Ok(Swap::Done(version)) => version,
        other => panic!("{claim}: expected an accepted write, got {other:?}"),
    }
}

/// What a refused write was told.
#[track_caller]
pub(super) fn refused(claim: &str, swap: Result<Swap, Error>) -> Option<Document> {
    match swap {
        Ok(Swap::Refused(stored)) => stored,
        other => panic!("{claim}: expected a refusal, got {other:?}"),
    }
}

/// Writes what must be accepted.
pub(super) async fn put(
    documents: &dyn OwnershipStore,
    at: &str,
    expected: Expected,
    text: &str,
    keep: Keep,
) -> Document {
    let (key, body) = (key(at), body(text));
    let version = done("a write", documents.compare_and_set(&key, expected, body.clone(), keep).await);
    Document { key, body, version }
}

/// Creates a document to be kept.
pub(super) async fn create(documents: &dyn OwnershipStore, at: &str, text: &str) -> Document {
    put(documents, at, Expected::Absent, text, Keep::Forever).await
}

/// Writes `document` again, to be kept.
pub(super) async fn again(documents: &dyn OwnershipStore, document: &Document, text: &str) -> Document {
    put(documents, document.key.as_str(), Expected::Version(document.version), text, Keep::Forever).await
}

/// Removes what must be there.
pub(super) async fn remove(documents: &dyn OwnershipStore, document: &Document) -> Version {
    done("a removal", documents.remove(&document.key, document.version).await)
}

impl<H: Harness> Ground<H> {
    /// One more client, and its documents.
    pub(super) async fn client(&self) -> (H::Plane, Arc<dyn OwnershipStore>) {
        let plane = self.plane().await;
        let documents = documents_of(&plane);
        (plane, documents)
    }

    /// One more client whose link can be cut, and its documents.
    pub(super) async fn cuttable(&self) -> (H::Plane, Arc<dyn OwnershipStore>) {
        let plane = self.harness.open_cuttable(&self.store).await;
        let documents = documents_of(&plane);
        (plane, documents)
    }

    /// The document, once its version is `version` or later.
    pub(super) async fn seen(&self, documents: &dyn OwnershipStore, at: &DocumentKey, version: Version) -> Document {
        self.until("the document as last written", async || {
            documents.read(at).await.expect("read").filter(|document| document.version >= version)
        })
        .await
    }

    /// Waits until a read finds nothing.
    pub(super) async fn absent(&self, documents: &dyn OwnershipStore, at: &DocumentKey) {
        self.until("the document to be gone", async || documents.read(at).await.expect("read").is_none().then_some(()))
            .await;
    }

    /// The list, once it is as of `version` or later.
    pub(super) async fn listed_documents(
        &self,
        documents: &dyn OwnershipStore,
        prefix: &str,
        version: Version,
    ) -> Documents {
        self.until("a list as of the last write", async || match documents.list(prefix).await {
            Ok(listed) => (listed.as_of >= version).then_some(listed),
            // Thousands may take longer than a call may, on a machine that has much else to do.
            Err(err) if err.is_outage() => None,
            Err(err) => panic!("list: {err:?}"),
        })
        .await
    }

    /// A watch past its replay, and what that showed.
    pub(super) async fn watching(
        &self,
        documents: &dyn OwnershipStore,
        prefix: &str,
    ) -> (Watcher, BTreeMap<DocumentKey, Document>) {
        let mut watcher = self.watching_from_start(documents, prefix).await;
        let replay = watcher.replay().await;
        (watcher, replay)
    }

    /// A watch at its first event.
    pub(super) async fn watching_from_start(&self, documents: &dyn OwnershipStore, prefix: &str) -> Watcher {
        let stream = self.within("watch", documents.watch(prefix)).await.expect("O6: every store can be watched");
        Watcher { stream, patience: self.harness.patience(), as_of: None, last: BTreeMap::new() }
    }
}

/// A watch of documents whose events are awaited with a bound, and whose order by key is checked as they come (O6).
pub(super) struct Watcher {
    stream: DocumentWatch,
    patience: std::time::Duration,
    as_of: Option<Version>,
    last: BTreeMap<DocumentKey, Version>,
}

impl Watcher {
    /// The next event, `InStep`s left out; `None` where the watch has ended.
    pub(super) async fn step(&mut self) -> Option<Result<DocumentEvent, Error>> {
        let stream = &mut self.stream;
        let coming = async {
            loop {
                let event = stream.next().await;
                if !matches!(event, Some(Ok(DocumentEvent::InStep))) {
                    return event;
                }
            }
        };
        let event = within("an event of the watch", self.patience, coming).await?;
        match &event {
            Ok(DocumentEvent::ReplayDone { as_of }) => {
                assert_eq!(self.as_of, None, "O6: the replay ends once");
                self.as_of = Some(*as_of);
            }
            Ok(DocumentEvent::Put(document)) => {
                let before = self.last.insert(document.key.clone(), document.version);
                let in_order = before.is_none_or(|before| document.version > before);
                assert!(in_order, "O6: {} at {} after {before:?}", document.key, document.version);
            }
            Ok(DocumentEvent::Removed { key, version }) => {
                let before = self.last.insert(key.clone(), *version);
                let in_order = before.is_none_or(|before| *version >= before);
                assert!(in_order, "O6: {key} removed at {version} after {before:?}");
            }
            _ => {}
        }
        Some(event)
    }

    /// Whether the watch says within `bound` that it is in step; other events are passed over.
    pub(super) async fn claims_to_be_in_step(&mut self, bound: std::time::Duration) -> bool {
        let stream = &mut self.stream;
        let claim = async {
            while let Some(event) = stream.next().await {
                if matches!(event, Ok(DocumentEvent::InStep)) {
                    return true;
                }
            }
            false
        };
        tokio::time::timeout(bound, claim).await.unwrap_or(false)
    }

    /// The next event; the watch must not have ended.
    pub(super) async fn next(&mut self) -> DocumentEvent {
        self.step().await.expect("O6: the watch ended without an error").expect("O6: the watch failed")
    }

    /// What is there at the end of the replay.
    pub(super) async fn replay(&mut self) -> BTreeMap<DocumentKey, Document> {
        let mut shown = BTreeMap::new();
        while self.as_of.is_none() {
            self.next_into(&mut shown).await;
        }
        shown
    }

    /// The version that the replay ended at.
    pub(super) fn replayed_to(&self) -> Version {
        self.as_of.expect("replayed first")
    }

    /// Takes the next event into a mirror of what is there.
    pub(super) async fn next_into(&mut self, mirror: &mut BTreeMap<DocumentKey, Document>) {
        match self.next().await {
            DocumentEvent::Put(document) => {
                mirror.insert(document.key.clone(), document);
            }
            DocumentEvent::Removed { key, .. } => {
                mirror.remove(&key);
            }
            DocumentEvent::ReplayDone { .. } | DocumentEvent::InStep => {}
        }
    }

    /// Goes on until the mirror is as `wanted`.
    pub(super) async fn until_mirrors(
        &mut self,
        mirror: &mut BTreeMap<DocumentKey, Document>,
        wanted: &BTreeMap<DocumentKey, Document>,
    ) {
        while mirror != wanted {
            self.next_into(mirror).await;
        }
    }

    /// The next write of `at` that is told.
    pub(super) async fn put(&mut self, at: &DocumentKey) -> Document {
        loop {
            match self.next().await {
                DocumentEvent::Put(document) if document.key == *at => return document,
                DocumentEvent::Removed { key, .. } if key == *at => panic!("O6: {at} was told as gone"),
                _ => {}
            }
        }
    }

    /// The next removal of `at` that is told.
    pub(super) async fn removed(&mut self, at: &DocumentKey) -> Version {
        loop {
            if let DocumentEvent::Removed { key, version } = self.next().await
                && key == *at
            {
                return version;
            }
        }
    }
}

/// Documents by key.
pub(super) fn by_key(documents: impl IntoIterator<Item = Document>) -> BTreeMap<DocumentKey, Document> {
    documents.into_iter().map(|document| (document.key.clone(), document)).collect()
}
