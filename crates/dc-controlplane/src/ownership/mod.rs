//! The second contract of a store: documents by which ownership in the world is decided.
//!
//! `dc-ownership` builds sessions, slots and names on it, see `docs/ownership.md`. A backend without it works for
//! everything that is not global.

mod key;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use dc_core::{Invalid, StoreId, Version};
use futures::stream::BoxStream;

pub use self::key::{DocumentKey, check_prefix};
use crate::{Corrupt, Error, Expected, Outcome};

/// The longest document that every store takes, in bytes.
pub const MAX_DOCUMENT: usize = 128 * 1024;

/// How many bytes of documents are asked for together at most: servers bound what one request may have.
pub const MAX_TOGETHER: usize = 512 * 1024;

/// Checks that a body is one that every store takes (O7). For those who write a backend.
///
/// # Errors
///
/// [`Invalid`], with its length, where it is longer than [`MAX_DOCUMENT`].
pub fn check_body(body: &[u8]) -> Result<(), Invalid> {
    if body.len() > MAX_DOCUMENT {
        return Err(Invalid::new("document", format!("{} bytes", body.len()), "must be at most 131072 bytes long"));
    }
    Ok(())
}

/// Documents under keys, changed by compare-and-set on one key: all that ownership needs of a store.
///
/// One handle serves all tasks of a process; a call may be dropped at any time (a dropped write may still land).
///
/// # Guarantees
///
/// Each number has at least one check in `conformance`.
///
/// - **O1 Versioned.** Every accepted write returns a [`Version`] higher than any earlier one of that key, also after
///   removal and re-creation, and higher than any version that was given for any key before it was sent, within one
///   store incarnation. Versions are those of the control plane: one order for records and documents.
/// - **O2 Fenced.** A write or removal that names another version than the stored one is refused, changes nothing,
///   and is told what is stored: read after the refusal, at least as new as what refused it. Creating what exists is
///   refused too. Of any number of writes that name one version at most one is accepted. Of writes that are asked for
///   together each is accepted or refused by itself.
/// - **O3 Kept.** A document written with [`Keep::Forever`] stays until it is removed. One written with
///   [`Keep::For`] stays at least so long after its last write, and is cleaned up some time after (at most that time
///   again + the backend's granularity). Each write says anew how long.
/// - **O4 Bounded.** Each call ends within the configured timeout. A write whose answer was lost ends with an error
///   that says so ([`Error::outcome_unknown`]); repeating it is safe (O2).
/// - **O5 Listed.** [`list`](OwnershipStore::list) gives every document whose key begins so, each as one read gives
///   it, and as of which version it is, in a bounded number of requests per 1,000 documents.
/// - **O6 Watched.** A watch first replays what is there, marks the end of the replay, then yields changes of each
///   key in version order. It may skip states that were overwritten meanwhile, never the last one and never a
///   removal, or it ends with [`Error::WatchLost`].
/// - **O7 Sized.** Bodies of up to [`MAX_DOCUMENT`] bytes and every [`DocumentKey`] are taken; larger ones are
///   [`Error::Invalid`] before anything is sent.
///
/// Not promised, and not needed: transactions over keys, linearizable reads, a store clock, order between keys.
#[async_trait]
pub trait OwnershipStore: fmt::Debug + Send + Sync + 'static {
    /// The store's incarnation: the same as [`ControlPlane::store`](crate::ControlPlane::store) answers.
    async fn store(&self) -> Result<StoreId, Error>;

    /// The document, if there is one. May be stale: decide by [`compare_and_set`](Self::compare_and_set) only.
    async fn read(&self, key: &DocumentKey) -> Result<Option<Document>, Error>;

    /// Writes the document if the store holds what `expected` says (O1, O2).
    async fn compare_and_set(
        &self,
        key: &DocumentKey,
        expected: Expected,
        body: Bytes,
        keep: Keep,
    ) -> Result<Swap, Error>;

    /// How many writes [`compare_and_set_all`](Self::compare_and_set_all) takes, as one request that costs little more
    /// than one of them. 1: the store has no such request.
    fn at_once(&self) -> usize {
        1
    }

    /// Writes up to [`at_once`](Self::at_once) documents of different keys, to be kept for ever: each by itself, as
    /// [`compare_and_set`](Self::compare_and_set) does, in one request where the store has one. Answers in their order.
    /// Some may be given the same version. Together at most [`MAX_TOGETHER`] bytes, or one document.
    ///
    /// # Errors
    ///
    /// None was written, or, where [`Error::outcome_unknown`] says so, any of them may have been (O4).
    async fn compare_and_set_all(&self, writes: Vec<Write>) -> Result<Vec<Swap>, Error> {
        let written = writes.into_iter().map(|Write { key, expected, body }| async move {
            self.compare_and_set(&key, expected, body, Keep::Forever).await
        });
        let mut swaps = Vec::new();
        let mut failed = None;
        for swap in futures::future::join_all(written).await {
            match swap {
                Ok(swap) => swaps.push(swap),
                Err(error) if failed.as_ref().is_none_or(|failed: &Error| !failed.outcome_unknown()) => {
                    failed = Some(error);
                }
                Err(_) => {}
            }
        }
        match failed {
            None => Ok(swaps),
            Some(error) if swaps.is_empty() || error.outcome_unknown() => Err(error),
            // The others were written.
            Some(error) => Err(Error::Backend {
                backend: "the ownership store",
                operation: "compare_and_set_all",
                outcome: Outcome::Unknown,
                source: error.into(),
            }),
        }
    }

    /// Removes the document if the store holds `version` (O2). What is already gone is [`Swap::Refused`] with `None`.
    async fn remove(&self, key: &DocumentKey, version: Version) -> Result<Swap, Error>;

    /// All documents whose key begins with `prefix` (O5). May be stale.
    async fn list(&self, prefix: &str) -> Result<Documents, Error>;

    /// What is there under `prefix`, then what changes (O6). Dropping the stream ends the watch. A backend whose
    /// server has no watch polls.
    async fn watch(&self, prefix: &str) -> Result<DocumentWatch, Error>;
}

impl DocumentEvent {
    /// The key that it is about, where it is about one.
    pub fn key(&self) -> Option<&DocumentKey> {
        match self {
            Self::Put(document) => Some(&document.key),
            Self::Removed { key, .. } => Some(key),
            Self::ReplayDone { .. } | Self::InStep => None,
        }
    }

    /// Whether it is about a key that begins so.
    pub fn is_under(&self, prefix: &str) -> bool {
        self.key().is_some_and(|key| key.as_str().starts_with(prefix))
    }
}

/// A document as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Where.
    pub key: DocumentKey,
    /// What. The store does not look into it.
    pub body: Bytes,
    /// Its version.
    pub version: Version,
}

/// One of the writes that are asked for together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub key: DocumentKey,
    /// What the store must hold.
    pub expected: Expected,
    /// What to store, for ever.
    pub body: Bytes,
}

/// How long the store keeps a document that is not written again (O3). Clean-up only: nothing is proved by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Until it is removed.
    Forever,
    /// At least so long after this write. Rounded up to what the store can tell apart.
    For(Duration),
}

/// What became of a compare-and-set.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a refused write changed nothing"]
pub enum Swap {
    /// Accepted, as this version. For a removal: some version above that of what was removed.
    Done(Version),
    /// The store holds something else: this, or nothing (O2).
    Refused(Option<Document>),
}

/// All documents under a prefix.
#[derive(Clone, Debug, PartialEq)]
pub struct Documents {
    /// The store's version that this is as of.
    pub as_of: Version,
    /// In no particular order.
    pub documents: Vec<Document>,
    /// Keys under the prefix that are no [`DocumentKey`]s.
    pub skipped: Vec<Corrupt>,
}

/// A stream of [`DocumentEvent`]s. After an error it ends.
pub type DocumentWatch = BoxStream<'static, Result<DocumentEvent, Error>>;

/// One step of a watch.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum DocumentEvent {
    /// A document was written; during the replay: is there.
    Put(Document),
    /// A document is gone.
    Removed {
        /// Which.
        key: DocumentKey,
        /// A version at or above that of the last write of this key that is gone.
        version: Version,
    },
    /// The replay is over.
    ReplayDone {
        /// The store's version at that moment.
        as_of: Version,
    },
    /// The server showed that nothing was missed up to now.
    InStep,
}

macro_rules! forward {
    ($($pointer:ty),+) => {$(
        #[async_trait]
        impl<S: OwnershipStore + ?Sized> OwnershipStore for $pointer {
            async fn store(&self) -> Result<StoreId, Error> {
                (**self).store().await
            }
            async fn read(&self, key: &DocumentKey) -> Result<Option<Document>, Error> {
                (**self).read(key).await
            }
            async fn compare_and_set(
                &self,
                key: &DocumentKey,
                expected: Expected,
                body: Bytes,
                keep: Keep,
            ) -> Result<Swap, Error> {
                (**self).compare_and_set(key, expected, body, keep).await
            }
            fn at_once(&self) -> usize {
                (**self).at_once()
            }
            async fn compare_and_set_all(&self, writes: Vec<Write>) -> Result<Vec<Swap>, Error> {
                (**self).compare_and_set_all(writes).await
            }
            async fn remove(&self, key: &DocumentKey, version: Version) -> Result<Swap, Error> {
                (**self).remove(key, version).await
            }
            async fn list(&self, prefix: &str) -> Result<Documents, Error> {
                (**self).list(prefix).await
            }
            async fn watch(&self, prefix: &str) -> Result<DocumentWatch, Error> {
                (**self).watch(prefix).await
            }
        }
    )+};
}

forward!(Arc<S>, Box<S>);
