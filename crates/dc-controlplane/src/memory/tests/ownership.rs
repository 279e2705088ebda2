//! What the injected faults do to documents.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dc_core::{ManualClock, StoreId, Version};
use futures::{FutureExt, StreamExt};

use crate::{
    ControlPlane, Error, Expected, TokioClock,
    memory::{Failure, MemoryControlPlane, MemoryOptions, MemoryStore, Operation},
    ownership::{DocumentEvent, DocumentKey, DocumentWatch, Keep, OwnershipStore, Swap},
};

fn store() -> MemoryStore {
    MemoryStore::with_id(Arc::new(TokioClock), StoreId(7))
}

fn documents(plane: &MemoryControlPlane) -> Arc<dyn OwnershipStore> {
    plane.ownership().expect("a plane in memory has documents")
}

fn key(text: &str) -> DocumentKey {
    text.parse().unwrap()
}

async fn created(documents: &Arc<dyn OwnershipStore>, at: &str, keep: Keep) -> Version {
    match documents.compare_and_set(&key(at), Expected::Absent, Bytes::from_static(b"x"), keep).await {
        Ok(Swap::Done(version)) => version,
        other => panic!("a creation: {other:?}"),
    }
}

async fn keys(documents: &Arc<dyn OwnershipStore>) -> Vec<String> {
    let listed = documents.list("").await.expect("list").documents;
    listed.iter().map(|document| document.key.to_string()).collect()
}

/// The next event that is no `InStep`, in at most an hour of paused time.
async fn next(watch: &mut DocumentWatch) -> Result<DocumentEvent, Error> {
    let coming = async {
        loop {
            match watch.next().await.expect("the watch ended") {
                Ok(DocumentEvent::InStep) => {}
                event => return event,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(3_600), coming).await.expect("an event within an hour")
}

#[test]
fn o1_a_plane_without_documents_says_so() {
    let plane = MemoryControlPlane::with(&store(), MemoryOptions { ownership: false, ..MemoryOptions::default() });
    assert!(plane.ownership().is_none());
}

#[tokio::test(start_paused = true)]
async fn o4_a_lost_answer_leaves_the_write_and_a_lost_request_does_not() {
    let store = store();
    let plane = MemoryControlPlane::new(&store);
    let documents = documents(&plane);
    for (at, failure, landed) in [("n/a", Failure::AnswerLost, true), ("n/b", Failure::RequestLost, false)] {
        plane.fail_next(Operation::CompareAndSet, failure, 1);
        let write = documents.compare_and_set(&key(at), Expected::Absent, Bytes::new(), Keep::Forever).await;
        assert!(write.as_ref().is_err_and(Error::outcome_unknown), "O4: got {write:?}");
        assert_eq!(documents.read(&key(at)).await.unwrap().is_some(), landed, "O4: {failure:?}");
    }
    assert_eq!(plane.calls(Operation::CompareAndSet), 2);
    plane.fail_next(Operation::RemoveDocument, Failure::AnswerLost, 1);
    let version = store.document(&key("n/a")).expect("it landed").version;
    let removal = documents.remove(&key("n/a"), version).await;
    assert!(removal.as_ref().is_err_and(Error::outcome_unknown), "O4: got {removal:?}");
    assert_eq!(documents.remove(&key("n/a"), version).await.unwrap(), Swap::Refused(None), "O2: it is gone");
}

#[tokio::test(start_paused = true)]
async fn o2_a_stale_reader_is_told_what_is_stored_when_it_writes() {
    let store = store();
    let (late, other) = (MemoryControlPlane::new(&store), MemoryControlPlane::new(&store));
    let (reader, writer) = (documents(&late), documents(&other));
    let old = created(&writer, "n/a", Keep::Forever).await;
    let then = store.checkpoint();
    let Ok(Swap::Done(new)) =
        writer.compare_and_set(&key("n/a"), Expected::Version(old), Bytes::from_static(b"y"), Keep::Forever).await
    else {
        panic!("the write names what is stored");
    };
    created(&writer, "n/b", Keep::Forever).await;
    late.read_as_of(&then);
    assert_eq!(reader.read(&key("n/a")).await.unwrap().map(|document| document.version), Some(old), "a stale read");
    assert_eq!(keys(&reader).await, ["n/a"], "a stale list");
    let refused = reader.compare_and_set(&key("n/a"), Expected::Version(old), Bytes::new(), Keep::Forever).await;
    let Ok(Swap::Refused(Some(stored))) = refused else { panic!("O2: got {refused:?}") };
    assert_eq!((stored.version, stored.body), (new, Bytes::from_static(b"y")), "O2: what refused it");
    late.read_fresh();
    assert_eq!(keys(&reader).await, ["n/a", "n/b"]);
}

#[tokio::test(start_paused = true)]
async fn o3_documents_are_cleaned_up_in_their_time_and_watchers_are_told() {
    let store = store();
    let documents = documents(&MemoryControlPlane::new(&store));
    let kept = Duration::from_secs(20);
    let version = created(&documents, "s/a", Keep::For(kept)).await;
    created(&documents, "s/b", Keep::Forever).await;
    let mut watch = documents.watch("s/").await.unwrap();
    for _ in 0..3 {
        next(&mut watch).await.unwrap();
    }
    tokio::time::advance(kept - Duration::from_millis(1)).await;
    assert_eq!(keys(&documents).await, ["s/a", "s/b"], "O3: not before");
    let event = next(&mut watch).await.unwrap();
    let DocumentEvent::Removed { key, version: removed } = event else { panic!("O6: got {event:?}") };
    assert!(key.as_str() == "s/a" && removed > version, "O6: {key} at {removed}");
    assert_eq!(keys(&documents).await, ["s/b"]);
}

#[tokio::test(start_paused = true)]
async fn o6_a_watch_that_is_cut_off_misses_nothing_and_one_of_a_wiped_store_is_lost() {
    let store = store();
    let (cut, other) = (MemoryControlPlane::new(&store), MemoryControlPlane::new(&store));
    let (reader, writer) = (documents(&cut), documents(&other));
    let version = created(&writer, "n/a", Keep::Forever).await;
    let mut watch = reader.watch("n/").await.unwrap();
    for _ in 0..2 {
        next(&mut watch).await.unwrap();
    }
    cut.cut_off();
    assert!(matches!(reader.list("").await, Err(Error::Unreachable { .. })));
    let Ok(Swap::Done(_)) = writer.remove(&key("n/a"), version).await else { panic!("a removal") };
    created(&writer, "s/other", Keep::Forever).await;
    created(&writer, "n/b", Keep::Forever).await;
    let silent = tokio::time::timeout(Duration::from_secs(3_600), watch.next()).await;
    assert!(silent.is_err(), "a watch that is cut off says nothing: {silent:?}");
    cut.reconnect();
    let (first, second) = (next(&mut watch).await.unwrap(), next(&mut watch).await.unwrap());
    assert!(matches!(&first, DocumentEvent::Removed { key, .. } if key.as_str() == "n/a"), "O6: got {first:?}");
    assert!(matches!(&second, DocumentEvent::Put(document) if document.key.as_str() == "n/b"), "O6: got {second:?}");
    store.wipe_as(StoreId(8));
    assert!(matches!(next(&mut watch).await, Err(Error::WatchLost { .. })), "O6: another store");
    assert_eq!(reader.store().await.unwrap(), StoreId(8));
    assert_eq!(keys(&reader).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn o1_a_rollback_gives_versions_again_and_a_restored_store_others() {
    let store = store();
    let plane = MemoryControlPlane::new(&store);
    let documents = documents(&plane);
    let one = created(&documents, "n/a", Keep::Forever).await;
    let then = store.checkpoint();
    let two = created(&documents, "n/b", Keep::Forever).await;
    store.roll_back(&then);
    assert_eq!(keys(&documents).await, ["n/a"]);
    assert_eq!(created(&documents, "n/c", Keep::Forever).await, two, "rolled back: a version is given again");
    store.restore_as(&then, StoreId(9));
    let refused = documents.remove(&key("n/a"), one).await.unwrap();
    let Swap::Refused(Some(stored)) = refused else { panic!("O2: the old store's version: {refused:?}") };
    assert_eq!(stored.version, Version::new(StoreId(9), one.revision));
}

#[tokio::test]
async fn o3_a_clock_that_tokio_does_not_know_drives_clean_up_by_ticks() {
    let clock = ManualClock::new();
    let store = MemoryStore::with_id(Arc::new(clock.clone()), StoreId(7));
    let documents = documents(&MemoryControlPlane::new(&store));
    created(&documents, "s/a", Keep::For(Duration::from_secs(20))).await;
    let mut watch = documents.watch("").await.unwrap();
    for _ in 0..2 {
        watch.next().await;
    }
    clock.advance(Duration::from_secs(20) - Duration::from_nanos(1));
    store.tick();
    assert!(watch.next().now_or_never().is_none(), "O3: not before");
    clock.advance(Duration::from_nanos(1));
    store.tick();
    let event = watch.next().now_or_never();
    assert!(matches!(event, Some(Some(Ok(DocumentEvent::Removed { .. })))), "O6: got {event:?}");
}

#[tokio::test(start_paused = true)]
async fn o4_a_frozen_store_carries_out_late_what_was_given_up() {
    let store = store();
    let documents = documents(&MemoryControlPlane::new(&store));
    store.freeze();
    let write = documents.compare_and_set(&key("n/a"), Expected::Absent, Bytes::new(), Keep::Forever).await;
    assert!(write.as_ref().is_err_and(Error::outcome_unknown), "O4: got {write:?}");
    assert!(store.document(&key("n/a")).is_none());
    store.unfreeze();
    assert_eq!(store.documents("n/").len(), 1, "what timed out is applied when the server goes on");
}
