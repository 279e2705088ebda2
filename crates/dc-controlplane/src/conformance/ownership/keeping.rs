//! O3: how long documents are kept.

use std::time::{Duration, Instant};

use super::super::{
    Harness,
    ground::{Ground, LONG},
};
use super::ground::*;
use crate::{
    ControlPlane, Expected,
    ownership::{Document, DocumentKey, Keep, OwnershipStore},
};

/// Follows a document to its end: not before `keep` since it was last written, not after twice that + granularity.
async fn goes_in_time<H: Harness>(
    ground: &Ground<H>,
    (plane, documents): (&H::Plane, &dyn OwnershipStore),
    at: &DocumentKey,
    keep: Duration,
    (sent, answered): (Instant, Instant),
) {
    let mut seen = 0;
    loop {
        let asked = ground.now();
        let found = documents.read(at).await.expect("read").is_some();
        let told = ground.now();
        if told < sent + keep {
            assert!(found, "O3: {at} was gone {:?} after it was written to be kept for {keep:?}", told - sent);
            seen += 1;
        }
        if !found {
            break;
        }
        let late = keep * 2 + plane.capabilities().expiry_granularity;
        assert!(asked < answered + late, "O3: {at} is there {:?} after it was written for {keep:?}", asked - answered);
        ground.harness.advance(keep / 8).await;
    }
    assert!(seen >= 2, "O3: reads took so long that nothing was checked; give the harness a longer ttl()");
    let listed = documents.list("").await.expect("list").documents;
    assert!(listed.iter().all(|document| document.key != *at), "O3: {at} is listed, though a read does not find it");
}

/// O3: a document is kept for as long as was asked, and cleaned up some time after.
pub async fn o3_a_document_is_kept_for_its_time_and_then_cleaned_up(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, documents) = ground.client().await;
    let (keep, sent) = (ground.harness.ttl(), ground.now());
    let held = put(&*documents, "s/a", Expected::Absent, "x", Keep::For(keep)).await;
    let answered = ground.now();
    let stays = create(&*documents, "s/b", "x").await;
    ground.seen(&*documents, &held.key, held.version).await;
    goes_in_time(&ground, (&plane, &*documents), &held.key, keep, (sent, answered)).await;
    assert_eq!(ground.seen(&*documents, &stays.key, stays.version).await, stays, "O3: to be kept until removed");
}

/// O3: each write says anew for how long: a document that is written in time stays, then goes in time.
pub async fn o3_documents_that_are_written_again_stay(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, documents) = ground.client().await;
    let keep = ground.harness.ttl();
    let mut held = put(&*documents, "s/a", Expected::Absent, "0", Keep::For(keep)).await;
    let (mut sent, mut answered) = (ground.now(), ground.now());
    for round in 1..8 {
        ground.harness.advance(keep / 3).await;
        sent = ground.now();
        held = put(&*documents, "s/a", Expected::Version(held.version), &round.to_string(), Keep::For(keep)).await;
        answered = ground.now();
    }
    goes_in_time(&ground, (&plane, &*documents), &held.key, keep, (sent, answered)).await;
}

async fn rewritten(documents: &dyn OwnershipStore, held: &Document, keep: Keep) -> Document {
    put(documents, held.key.as_str(), Expected::Version(held.version), "again", keep).await
}

/// O3: written for ever after it was written for a time, a document stays; and the other way round it goes.
pub async fn o3_the_last_write_says_how_long(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, documents) = ground.client().await;
    let keep = ground.harness.ttl();
    let short = Keep::For(keep);
    let to_stay = put(&*documents, "s/stays", Expected::Absent, "x", short).await;
    let to_last = put(&*documents, "s/lasts", Expected::Absent, "x", short).await;
    let to_go = put(&*documents, "s/goes", Expected::Absent, "x", Keep::Forever).await;
    let to_stay = rewritten(&*documents, &to_stay, Keep::Forever).await;
    let to_last = rewritten(&*documents, &to_last, Keep::For(LONG)).await;
    let sent = ground.now();
    let to_go = rewritten(&*documents, &to_go, short).await;
    let answered = ground.now();
    goes_in_time(&ground, (&plane, &*documents), &to_go.key, keep, (sent, answered)).await;
    ground.harness.advance(keep * 2 + plane.capabilities().expiry_granularity).await;
    for held in [to_stay, to_last] {
        assert_eq!(documents.read(&held.key).await.expect("read"), Some(held), "O3: the last write counts");
    }
}

/// O3: a document that was cleaned up can be created again, and is then kept as its own write says.
pub async fn o3_what_was_cleaned_up_can_be_created_again(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, documents) = ground.client().await;
    let keep = ground.harness.ttl();
    let old = put(&*documents, "s/a", Expected::Absent, "old", Keep::For(keep)).await;
    ground.harness.advance(keep * 2 + plane.capabilities().expiry_granularity).await;
    ground.absent(&*documents, &old.key).await;
    let late = documents.compare_and_set(&old.key, Expected::Version(old.version), body("late"), Keep::Forever).await;
    assert_eq!(refused("O2: an update of what was cleaned up", late), None);
    let new = create(&*documents, "s/a", "new").await;
    ground.harness.advance(keep * 2 + plane.capabilities().expiry_granularity).await;
    assert_eq!(ground.seen(&*documents, &new.key, new.version).await, new);
}
