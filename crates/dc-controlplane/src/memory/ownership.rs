//! The documents of ownership, as one client of a store in memory sees them.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use dc_core::{StoreId, Version};

use super::{MemoryControlPlane, faults::Operation};
use crate::{
    ControlPlane, Error, Expected,
    ownership::{
        Document, DocumentKey, DocumentWatch, Documents, Keep, OwnershipStore, Swap, check_body, check_prefix,
    },
};

/// The ownership documents of a [`MemoryControlPlane`]: the same client, which suffers the same faults.
///
/// Documents are cleaned up to the moment when the time they were to be kept for has passed (O3).
#[derive(Clone)]
pub struct MemoryOwnership {
    plane: MemoryControlPlane,
}

impl MemoryOwnership {
    /// The documents of the store that `plane` is a client of.
    pub fn new(plane: &MemoryControlPlane) -> Self {
        Self { plane: plane.clone() }
    }

    /// The client that this is part of: for its faults and its counts.
    pub fn plane(&self) -> &MemoryControlPlane {
        &self.plane
    }
}

impl fmt::Debug for MemoryOwnership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryOwnership").field(&self.plane).finish()
    }
}

#[async_trait]
impl OwnershipStore for MemoryOwnership {
    async fn store(&self) -> Result<StoreId, Error> {
        ControlPlane::store(&self.plane).await
    }

    async fn read(&self, key: &DocumentKey) -> Result<Option<Document>, Error> {
        let (key, stale) = (key.clone(), self.plane.faults.stale());
        let read = self.plane.call(Operation::ReadDocument, move |store| match stale {
            Some(stale) => Ok(stale.document(&key)),
            None => Ok(store.apply(|state, now| state.read(now, &key))),
        });
        read.await
    }

    async fn compare_and_set(
        &self,
        key: &DocumentKey,
        expected: Expected,
        body: Bytes,
        keep: Keep,
    ) -> Result<Swap, Error> {
        check_body(&body)?;
        let key = key.clone();
        let write = self.plane.call(Operation::CompareAndSet, move |store| {
            Ok(store.apply(|state, now| state.compare_and_set(now, &key, expected, body, keep)))
        });
        write.await
    }

    /// One after the other in truth; so that who asks for several together is tested.
    fn at_once(&self) -> usize {
        16
    }

    async fn remove(&self, key: &DocumentKey, version: Version) -> Result<Swap, Error> {
        let key = key.clone();
        let removal = self.plane.call(Operation::RemoveDocument, move |store| {
            Ok(store.apply(|state, now| state.remove_if(now, &key, version)))
        });
        removal.await
    }

    async fn list(&self, prefix: &str) -> Result<Documents, Error> {
        check_prefix(prefix)?;
        let (prefix, stale) = (prefix.to_owned(), self.plane.faults.stale());
        let list = self.plane.call(Operation::ListDocuments, move |store| match stale {
            Some(stale) => Ok(stale.documents_as_they_were(&prefix)),
            None => Ok(store.apply(|state, now| state.list_documents(now, &prefix))),
        });
        list.await
    }

    async fn watch(&self, prefix: &str) -> Result<DocumentWatch, Error> {
        check_prefix(prefix)?;
        let (prefix, limit) = (prefix.to_owned(), self.plane.options.document_backlog);
        let opened =
            self.plane.call(Operation::WatchDocuments, move |store| Ok(store.subscribe_documents(&prefix, limit)));
        Ok(self.plane.reading(opened.await?))
    }
}
