//! O1, O2: versions, and writes that name them.

use dc_core::{Intent, IntentKind};

use super::super::{
    Harness,
    ground::{self as records, Ground, sample, taken_over},
};
use super::ground::*;
use crate::{
    ControlPlane, Expected,
    ownership::{Document, Keep, OwnershipStore, Swap, Write},
};

/// O1: the documents lie in the control plane's own store.
pub async fn o1_documents_and_records_are_of_one_store(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, documents) = ground.client().await;
    let (_, other) = ground.client().await;
    let id = plane.store().await.expect("store");
    assert_eq!(documents.store().await.expect("store"), id, "O1: one store");
    assert_eq!(other.store().await.expect("store"), id, "O1: clients agree");
    assert_eq!(create(&*documents, "n/a", "1").await.version.store, id, "O1: versions name it");
}

/// O1: each accepted write gives a version above all earlier ones of its key.
pub async fn o1_each_write_of_a_document_has_a_higher_version(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_, documents) = ground.client().await;
    let mut held = create(&*documents, "n/a", "0").await;
    for round in 1..6 {
        let next = again(&*documents, &held, &round.to_string()).await;
        assert!(next.version > held.version, "O1: {} after {}", next.version, held.version);
        held = next;
        assert_eq!(ground.seen(&*documents, &held.key, held.version).await, held, "O1: stored as written");
    }
}

/// O1: versions go on across removal and creation; a removal's own lies above what it removed.
pub async fn o1_document_versions_grow_across_removal(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_, documents) = ground.client().await;
    let mut last = create(&*documents, "n/a", "0").await;
    for round in 0..4 {
        let removed = remove(&*documents, &last).await;
        assert!(removed > last.version, "O1: removed at {removed}, written at {}", last.version);
        let next = create(&*documents, "n/a", &round.to_string()).await;
        assert!(next.version > last.version, "O1: created at {} after {}", next.version, last.version);
        last = next;
    }
}

/// O1: versions go on across clean-up and creation.
pub async fn o1_document_versions_grow_across_clean_up(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, documents) = ground.client().await;
    let old = put(&*documents, "s/a", Expected::Absent, "x", Keep::For(ground.harness.ttl())).await;
    ground.outlive(&plane).await;
    ground.absent(&*documents, &old.key).await;
    let new = create(&*documents, "s/a", "x").await;
    assert!(new.version > old.version, "O1: created at {} after {}", new.version, old.version);
}

/// O1: documents of different keys and records are counted by one order: what was answered is below what is sent after.
pub async fn o1_documents_and_records_share_one_order(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let ((plane, documents), (other_plane, other)) = (ground.client().await, ground.client().await);
    let record = records::create(&plane, &sample("dc-1")).await;
    let mut versions = vec![record.version];
    let a = create(&*documents, "n/a", "1").await;
    versions.push(a.version);
    versions.push(create(&*other, "s/b", "1").await.version);
    let taken = taken_over(&record, 2);
    versions.push(records::write(&other_plane, &taken, Expected::Version(record.version)).await.version);
    versions.push(again(&*other, &a, "2").await.version);
    let intent = Intent::new(IntentKind::Drain, "ann", "");
    versions.push(plane.set_intent(record.id(), &intent).await.expect("set_intent"));
    versions.push(create(&*documents, "g/c/0", "1").await.version);
    assert!(versions.is_sorted_by(|a, b| a < b), "O1: given one after the other: {versions:?}");
}

/// O1: a wiped store is another one: versions of the old one are refused. Needs the hook `wipe`.
pub async fn o1_a_wiped_store_refuses_versions_of_before(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_, documents) = ground.client().await;
    let old = create(&*documents, "n/a", "1").await;
    ground.harness.wipe_store(&ground.store).await;
    let listed = ground
        .until("a list of the new store", async || {
            documents.list("").await.ok().filter(|listed| listed.as_of.store != old.version.store)
        })
        .await;
    assert_eq!(listed.documents, [], "O1: a wiped store is empty");
    let late = documents.compare_and_set(&old.key, Expected::Version(old.version), body("2"), Keep::Forever).await;
    assert_eq!(refused("O2: the old store's version", late), None);
    let new = create(&*documents, "n/a", "3").await;
    assert_eq!(new.version.store, listed.as_of.store, "O1: new versions name the new store");
    let late = documents.compare_and_set(&old.key, Expected::Version(old.version), body("4"), Keep::Forever).await;
    assert_eq!(refused("O2: the old store's version", late), Some(new.clone()));
    assert_eq!(refused("O2", documents.remove(&old.key, old.version).await), Some(new));
}

/// O2: a write that names an old version is refused, told what is stored, and changes nothing.
pub async fn o2_a_stale_document_write_is_refused_and_told_what_is_stored(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let ((_, documents), (_, late)) = (ground.client().await, ground.client().await);
    let old = create(&*documents, "n/a", "old").await;
    let new = again(&*documents, &old, "new").await;
    for (who, client) in [("the same", &documents), ("another", &late)] {
        let write = client.compare_and_set(&old.key, Expected::Version(old.version), body("late"), Keep::Forever).await;
        let told = refused("O2: a stale write", write);
        assert_eq!(told.as_ref(), Some(&new), "O2: {who} client is told what refused it");
    }
    assert_eq!(ground.seen(&*late, &new.key, new.version).await, new, "O2: a refused write left a mark");
}

/// O2: creating what exists is refused, and told what that is.
pub async fn o2_creating_a_document_that_exists_is_refused(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let ((_, documents), (_, late)) = (ground.client().await, ground.client().await);
    let held = create(&*documents, "n/a", "mine").await;
    let write = late.compare_and_set(&held.key, Expected::Absent, body("theirs"), Keep::Forever).await;
    assert_eq!(refused("O2: a second creation", write), Some(held.clone()), "O2: told what is stored");
    assert_eq!(ground.seen(&*documents, &held.key, held.version).await, held);
}

/// O2: a write that names a version of what is not there is refused, with nothing.
pub async fn o2_updating_a_document_that_is_gone_is_refused(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let ((_, documents), (_, late)) = (ground.client().await, ground.client().await);
    let held = create(&*documents, "n/a", "1").await;
    remove(&*documents, &held).await;
    let write = late.compare_and_set(&held.key, Expected::Version(held.version), body("2"), Keep::Forever).await;
    assert_eq!(refused("O2: an update of what is gone", write), None);
    let never = late.compare_and_set(&key("n/never"), Expected::Version(held.version), body("2"), Keep::Forever).await;
    assert_eq!(refused("O2: an update of what never was", never), None);
    assert_eq!(ground.seen(&*late, &key("n/b"), create(&*documents, "n/b", "1").await.version).await.body, body("1"));
    ground.absent(&*late, &held.key).await;
}

/// O2: a removal that names another version is refused, and told what is stored; what is gone is refused with nothing.
pub async fn o2_a_stale_removal_is_refused(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let ((_, documents), (_, late)) = (ground.client().await, ground.client().await);
    let old = create(&*documents, "n/a", "old").await;
    let new = again(&*documents, &old, "new").await;
    assert_eq!(refused("O2", late.remove(&old.key, old.version).await), Some(new.clone()), "O2: told what is stored");
    assert_eq!(ground.seen(&*late, &new.key, new.version).await, new, "O2: a refused removal left a mark");
    remove(&*late, &new).await;
    assert_eq!(refused("O2: a second removal", documents.remove(&new.key, new.version).await), None);
    ground.absent(&*documents, &new.key).await;
    assert_eq!(refused("O2", documents.remove(&key("n/never"), new.version).await), None);
}

/// O2: a version of another store is not the stored one, whatever its number.
pub async fn o2_a_document_version_of_another_store_is_refused(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_, documents) = ground.client().await;
    let held = create(&*documents, "n/a", "1").await;
    let foreign = of_another_store(held.version);
    let write = documents.compare_and_set(&held.key, Expected::Version(foreign), body("2"), Keep::Forever).await;
    assert_eq!(refused("O2: a version of another store", write), Some(held.clone()));
    assert_eq!(refused("O2", documents.remove(&held.key, foreign).await), Some(held.clone()));
    assert_eq!(ground.seen(&*documents, &held.key, held.version).await, held);
}

/// O2: a call may be dropped at any time: its write lands whole or not at all, and the client works on.
pub async fn o2_a_dropped_document_write_lands_whole_or_not_at_all(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_, documents) = ground.client().await;
    let mut held = create(&*documents, "n/a", "0").await;
    for round in 1..=10_usize {
        let text = format!("round {round}");
        let expected = Expected::Version(held.version);
        {
            let mut write = documents.compare_and_set(&held.key, expected, body(&text), Keep::Forever);
            // Polled a few times, then dropped: before, while or after the request is on its way.
            for _ in 0..round {
                if futures::poll!(write.as_mut()).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        held = after_a_lost_write(&*documents, &held, &text).await;
    }
    assert_eq!(ground.seen(&*documents, &held.key, held.version).await, held);
}

/// Makes the same write again: it is accepted, or the lost one is in its place.
async fn after_a_lost_write(documents: &dyn OwnershipStore, before: &Document, text: &str) -> Document {
    let expected = Expected::Version(before.version);
    match documents.compare_and_set(&before.key, expected, body(text), Keep::Forever).await {
        Ok(Swap::Done(version)) => Document { version, body: body(text), ..before.clone() },
        Ok(Swap::Refused(Some(stored))) => {
            assert_eq!(stored.body, body(text), "O2: a dropped write landed in part, or something else did");
            stored
        }
        other => panic!("O2: after a dropped call: {other:?}"),
    }
}

/// O2: documents that are written together are written each by itself: those that name what is stored are accepted, the
/// others are refused, told what is stored, and change nothing.
pub async fn o2_documents_written_together_are_each_by_themselves(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let ((plane, documents), (_, reader)) = (ground.client().await, ground.client().await);
    let held = create(&*documents, "n/held", "1").await;
    let old = create(&*documents, "n/old", "1").await;
    let new = again(&*documents, &old, "2").await;
    let kept = put(&*documents, "n/kept", Expected::Absent, "1", Keep::For(ground.harness.ttl())).await;
    let foreign = of_another_store(new.version);
    let gone = create(&*documents, "n/gone", "1").await;
    let last = remove(&*documents, &gone).await;
    let write = |at: &str, expected| Write { key: key(at), expected, body: body("together") };
    // What is stored of it, where it is to be refused.
    let asked = [
        (write("n/held", Expected::Version(held.version)), None),
        (write("n/old", Expected::Version(old.version)), Some(Some(new.clone()))),
        (write("n/fresh", Expected::Absent), None),
        (write("n/held-2", Expected::Version(held.version)), Some(None)),
        (write("n/kept", Expected::Version(kept.version)), None),
        (write("n/gone", Expected::Version(gone.version)), Some(None)),
        (write("n/fresh-2", Expected::Absent), None),
        (write("n/foreign", Expected::Version(foreign)), Some(None)),
    ];
    let mut swaps = Vec::new();
    for some in asked.chunks(documents.at_once().max(1)) {
        let writes: Vec<Write> = some.iter().map(|(write, _)| write.clone()).collect();
        let count = writes.len();
        let answers = documents.compare_and_set_all(writes).await.expect("each is answered");
        assert_eq!(answers.len(), count, "O2: one answer for each");
        swaps.extend(answers);
    }
    for ((write, refusal), swap) in asked.iter().zip(swaps) {
        match (swap, refusal) {
            (Swap::Done(version), None) => {
                assert!(version > last, "O1: {} at {version}, after {last}", write.key);
                let stored = Document { key: write.key.clone(), body: write.body.clone(), version };
                assert_eq!(ground.seen(&*reader, &write.key, version).await, stored, "O1: stored as written");
            }
            (Swap::Refused(told), Some(stored)) => {
                assert_eq!(&told, stored, "O2: {} is told what is stored", write.key)
            }
            (swap, _) => panic!("O2: {}: {swap:?}", write.key),
        }
    }
    assert_eq!(ground.seen(&*reader, &new.key, new.version).await, new, "O2: a refused write left a mark");
    // Written together they are kept for ever, whatever was said before.
    ground.outlive(&plane).await;
    let stays = reader.read(&kept.key).await.expect("read").expect("O3: what was written to be kept for ever stays");
    assert_eq!(stays.body, body("together"));
}
