//! The ownership documents: the contract, call by call, and watches that poll.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use dc_controlplane::{
    ControlPlane, Error, Expected,
    ownership::{
        Document, DocumentEvent, DocumentKey, DocumentWatch, Documents, Keep, OwnershipStore, Swap, Write, check_body,
        check_prefix,
    },
};
use dc_core::{StoreId, Version};
use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tracing::debug;

use crate::{SqliteControlPlane, connect::Access};

/// How often an idle watch says that it is in step.
const IN_STEP_EVERY: Duration = Duration::from_secs(1);

/// How many events may wait for a reader; while they do, the watch does not look.
const BACKLOG: usize = 256;

/// Writes of one transaction: it holds the file's lock for so long.
const AT_ONCE: usize = 64;

/// The documents of one namespace.
#[derive(Clone)]
pub(crate) struct SqliteOwnership {
    plane: SqliteControlPlane,
    poll: Duration,
}

impl SqliteOwnership {
    pub(crate) fn new(plane: SqliteControlPlane, poll: Duration) -> Self {
        Self { plane, poll }
    }
}

impl fmt::Debug for SqliteOwnership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqliteOwnership").field(&self.plane).finish()
    }
}

#[async_trait]
impl OwnershipStore for SqliteOwnership {
    async fn store(&self) -> Result<StoreId, Error> {
        self.plane.store().await
    }

    async fn read(&self, key: &DocumentKey) -> Result<Option<Document>, Error> {
        let key = key.clone();
        self.plane.read("read", move |store| store.document(&key)).await
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
        let write = move |store: &mut crate::store::Store<'_>| store.compare_and_set(&key, expected, &body, keep);
        let access = match keep {
            Keep::Forever => Access::Bulk,
            // A session: it ends unless it is renewed in time.
            Keep::For(_) => Access::Write,
        };
        self.plane.write("compare_and_set", access, write).await
    }

    fn at_once(&self) -> usize {
        AT_ONCE
    }

    async fn compare_and_set_all(&self, writes: Vec<Write>) -> Result<Vec<Swap>, Error> {
        for write in &writes {
            check_body(&write.body)?;
        }
        let write = move |store: &mut crate::store::Store<'_>| store.compare_and_set_all(&writes);
        self.plane.write("compare_and_set_all", Access::Bulk, write).await
    }

    async fn remove(&self, key: &DocumentKey, version: Version) -> Result<Swap, Error> {
        let key = key.clone();
        self.plane.write("remove", Access::Bulk, move |store| store.remove_document(&key, version)).await
    }

    async fn list(&self, prefix: &str) -> Result<Documents, Error> {
        check_prefix(prefix)?;
        let prefix = prefix.to_owned();
        self.plane.read("list", move |store| store.list_documents(&prefix)).await
    }

    async fn watch(&self, prefix: &str) -> Result<DocumentWatch, Error> {
        let listed = self.list(prefix).await?;
        let (events, receiver) = mpsc::channel(BACKLOG);
        let follower =
            Follower { documents: self.clone(), prefix: prefix.to_owned(), seen: listed.as_of, quiet: 0, events };
        tokio::spawn(follower.run());
        let as_of = listed.as_of;
        let replay = listed.documents.into_iter().map(DocumentEvent::Put).chain([DocumentEvent::ReplayDone { as_of }]);
        let changes = stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        Ok(stream::iter(replay.map(Ok)).chain(changes).boxed())
    }
}

/// Looks for changes until its reader is gone, or the watch is lost.
struct Follower {
    documents: SqliteOwnership,
    prefix: String,
    /// Up to here everything was told.
    seen: Version,
    /// How many looks found nothing since the reader was last told that it is in step.
    quiet: u128,
    events: mpsc::Sender<Result<DocumentEvent, Error>>,
}

/// The reader is gone, or was told the end.
struct Ended;

impl Follower {
    async fn run(mut self) {
        let reader = self.events.clone();
        let following = async {
            loop {
                tokio::time::sleep(self.documents.poll).await;
                if self.look().await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = reader.closed() => {}
            () = following => {}
        }
    }

    /// Tells what happened since the last look.
    async fn look(&mut self) -> Result<(), Ended> {
        loop {
            let (prefix, seen) = (self.prefix.clone(), self.seen);
            let looked = self.documents.plane.read("watch", move |store| {
                let same = store.as_of() >= seen;
                same.then(|| store.changes(&prefix, seen)).transpose()
            });
            let changes = match looked.await {
                Ok(Some(changes)) => changes,
                Ok(None) => return self.end(lost("the store is another one, or is behind what was told")).await,
                Err(err) if err.is_outage() => {
                    debug!(error = %err, "a watch of documents waits for its file");
                    return Ok(());
                }
                Err(err) => return self.end(err).await,
            };
            if changes.forgotten {
                return self.end(lost("traces of removals that were not told yet are gone")).await;
            }
            for event in changes.events {
                self.tell(event).await?;
            }
            self.seen = changes.up_to;
            if changes.overdue && !changes.more {
                // By a write, so that the removals have versions; another watcher may have been first.
                let cleaned = self.documents.plane.write("watch", Access::Bulk, |store| store.clean_up()).await;
                match cleaned {
                    Ok(()) => continue,
                    Err(err) => debug!(error = %err, "documents are overdue, and cannot be cleaned up yet"),
                }
            }
            if !changes.more {
                return self.in_step().await;
            }
        }
    }

    async fn in_step(&mut self) -> Result<(), Ended> {
        self.quiet += 1;
        if self.quiet * self.documents.poll.as_millis() < IN_STEP_EVERY.as_millis() {
            return Ok(());
        }
        self.quiet = 0;
        self.tell(DocumentEvent::InStep).await
    }

    async fn tell(&self, event: DocumentEvent) -> Result<(), Ended> {
        self.events.send(Ok(event)).await.map_err(|_| Ended)
    }

    async fn end(&self, err: Error) -> Result<(), Ended> {
        // A reader that is gone needs no word.
        let _ = self.events.send(Err(err)).await;
        Err(Ended)
    }
}

fn lost(why: &str) -> Error {
    Error::WatchLost { why: why.to_owned() }
}
