//! O4: bounded calls, and writes whose answer was lost. They need the hooks `outage` and `freeze`.

use std::{fmt::Debug, future::Future, time::Duration};

use super::super::{
    Harness,
    faults::ends_as,
    ground::{Ground, LONG},
};
use super::ground::*;
use crate::{
    Error, Expected,
    ownership::{Document, DocumentEvent, Keep, OwnershipStore, Swap},
};

async fn ends<T: Debug>(
    what: &str,
    timeout: Duration,
    may_succeed: bool,
    call: impl Future<Output = Result<T, Error>>,
) {
    ends_as("O4", what, timeout, may_succeed, call).await;
}

/// Makes every call while the store is away; reads may be answered where `reads_go_on`.
pub(super) async fn all_calls_end<H: Harness>(
    ground: &Ground<H>,
    documents: &dyn OwnershipStore,
    held: &Document,
    reads_go_on: bool,
) {
    let timeout = ground.harness.request_timeout();
    let new = key("n/new");
    ends("read", timeout, reads_go_on, documents.read(&held.key)).await;
    ends("list", timeout, reads_go_on, documents.list("n/")).await;
    let creation = documents.compare_and_set(&new, Expected::Absent, body("x"), Keep::Forever);
    ends("compare_and_set", timeout, false, creation).await;
    let expected = Expected::Version(held.version);
    let write = documents.compare_and_set(&held.key, expected, body("x"), Keep::For(LONG));
    ends("compare_and_set for a time", timeout, false, write).await;
    ends("remove", timeout, false, documents.remove(&held.key, held.version)).await;
    // A watch may open at once and begin once the store is there.
    ends("watch", timeout, true, async { documents.watch("").await.map(drop) }).await;
}

/// O4: each call ends within its timeout while the store is stopped.
pub async fn o4_document_calls_end_in_time_while_the_store_is_stopped(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_plane, documents) = ground.client().await;
    let held = create(&*documents, "n/a", "1").await;
    ground.harness.stop_store(&ground.store).await;
    all_calls_end(&ground, &*documents, &held, false).await;
    ground.harness.start_store(&ground.store).await;
}

/// O4: each call ends within its timeout while the store is frozen.
pub async fn o4_document_calls_end_in_time_while_the_store_is_frozen(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_plane, documents) = ground.client().await;
    let held = create(&*documents, "n/a", "1").await;
    ground.harness.freeze_store(&ground.store).await;
    all_calls_end(&ground, &*documents, &held, true).await;
    ground.harness.unfreeze_store(&ground.store).await;
}

/// Repeats a write until it is answered: what it says is stored.
async fn repeated<H: Harness>(
    ground: &Ground<H>,
    documents: &dyn OwnershipStore,
    before: &Document,
    text: &str,
    may_have_landed: bool,
) -> Document {
    let expected = Expected::Version(before.version);
    ground
        .until("an answer to the repeated write", async || {
            match documents.compare_and_set(&before.key, expected, body(text), Keep::Forever).await {
                Ok(Swap::Done(version)) => Some(Document { key: before.key.clone(), body: body(text), version }),
                Ok(Swap::Refused(stored)) => {
                    assert!(may_have_landed, "O4: a write that was told as certainly not landed has: {stored:?}");
                    let stored = stored.expect("O4: nobody removed it");
                    assert_eq!(stored.body, body(text), "O4: only the lost write can have refused the repeated one");
                    Some(stored)
                }
                Err(err) if err.is_outage() => None,
                Err(err) => panic!("O4: repeating a lost write: {err:?}"),
            }
        })
        .await
}

/// O4: an unanswered write says that its outcome is unknown, or has certainly not landed; reading again tells, and
/// repeating it is safe.
pub async fn o4_an_unanswered_document_write_is_found_by_repeating_it(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_plane, documents) = ground.client().await;
    let held = create(&*documents, "n/a", "old").await;
    ground.harness.freeze_store(&ground.store).await;
    let expected = Expected::Version(held.version);
    let lost = documents.compare_and_set(&held.key, expected, body("new"), Keep::Forever).await;
    let lost = lost.expect_err("O4: a frozen store answered");
    assert!(lost.is_outage(), "O4: got {lost:?}");
    ground.harness.unfreeze_store(&ground.store).await;
    let landed = repeated(&ground, &*documents, &held, "new", lost.outcome_unknown()).await;
    assert!(landed.version > held.version, "O1: {} after {}", landed.version, held.version);
    assert_eq!(ground.seen(&*documents, &held.key, landed.version).await, landed, "O4: one write, once");
}

/// O4: a creation whose answer was lost is found by what is stored, or can be repeated.
pub async fn o4_an_unanswered_creation_is_found_by_repeating_it(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_plane, documents) = ground.client().await;
    create(&*documents, "n/other", "x").await;
    ground.harness.freeze_store(&ground.store).await;
    let at = key("n/a");
    let lost = documents.compare_and_set(&at, Expected::Absent, body("mine"), Keep::For(LONG)).await;
    let lost = lost.expect_err("O4: a frozen store answered");
    assert!(lost.is_outage(), "O4: got {lost:?}");
    ground.harness.unfreeze_store(&ground.store).await;
    let landed = ground
        .until("an answer to the repeated creation", async || {
            match documents.compare_and_set(&at, Expected::Absent, body("mine"), Keep::For(LONG)).await {
                Ok(Swap::Done(version)) => Some(version),
                Ok(Swap::Refused(stored)) => {
                    assert!(lost.outcome_unknown(), "O4: told as not landed, and has: {stored:?}");
                    let stored = stored.expect("O4: what refused a creation is there");
                    assert_eq!(stored.body, body("mine"));
                    Some(stored.version)
                }
                Err(err) if err.is_outage() => None,
                Err(err) => panic!("O4: repeating a lost creation: {err:?}"),
            }
        })
        .await;
    assert_eq!(ground.seen(&*documents, &at, landed).await.version, landed, "O4: one creation, once");
}

/// O4: a restart of the store loses no document; clients and their watches go on, or say that they were lost.
pub async fn o4_documents_outlive_a_restart(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_plane, documents) = ground.client().await;
    let (_reader_plane, reader) = ground.client().await;
    let held = create(&*documents, "n/a", "1").await;
    let timed = put(&*documents, "s/a", Expected::Absent, "1", Keep::For(LONG)).await;
    let (mut watcher, _) = ground.watching(&*reader, "").await;
    ground.harness.stop_store(&ground.store).await;
    let away = documents.read(&held.key).await;
    assert!(away.as_ref().is_err_and(Error::is_outage), "O4: a stopped store answered: {away:?}");
    ground.harness.start_store(&ground.store).await;
    let new = repeated(&ground, &*documents, &held, "2", true).await;
    let listed = ground.listed_documents(&*documents, "", new.version).await;
    assert_eq!(by_key(listed.documents), by_key([new.clone(), timed]), "O4: a restart loses nothing");
    assert_eq!(listed.as_of.store, held.version.store, "O1: a restart is no new store");
    loop {
        match watcher.step().await {
            Some(Ok(DocumentEvent::Put(told))) if told == new => break,
            Some(Ok(DocumentEvent::Removed { key, .. })) => panic!("O6: {key} was told as gone"),
            Some(Ok(_)) => {}
            Some(Err(Error::WatchLost { .. })) => break,
            other => panic!("O6: a restart ends a watch with WatchLost or not at all, got {other:?}"),
        }
    }
}

/// O6: a watch of a store that was wiped is lost, or tells what is gone. Needs the hook `wipe`.
pub async fn o6_a_document_watch_does_not_miss_a_wipe(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_plane, documents) = ground.client().await;
    let held = create(&*documents, "n/a", "1").await;
    let (mut watcher, _) = ground.watching(&*documents, "").await;
    ground.harness.wipe_store(&ground.store).await;
    loop {
        match watcher.step().await {
            Some(Err(Error::WatchLost { .. })) => break,
            Some(Ok(DocumentEvent::Removed { key, .. })) if key == held.key => break,
            Some(Ok(_)) => {}
            other => panic!("O6: a wiped store: {other:?}"),
        }
    }
}

/// O6: a watch claims to be in step only with a store that answers. Needs the hook `freeze`.
pub async fn o6_no_step_is_claimed_of_documents_while_the_store_is_frozen(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_plane, documents) = ground.client().await;
    let (mut watcher, _) = ground.watching(&*documents, "").await;
    ground.harness.freeze_store(&ground.store).await;
    if documents.list("").await.is_ok() {
        // It goes on answering reads, and nothing can be written: a watch is in step with that.
        return ground.harness.unfreeze_store(&ground.store).await;
    }
    let timeout = ground.harness.request_timeout();
    // What was on its way when the store froze; a watch that goes on claiming does so for ever.
    for claims in 0..10 {
        if !watcher.claims_to_be_in_step(timeout).await {
            break;
        }
        assert!(claims < 9, "O6: a frozen store is claimed to be in step, again and again");
    }
    let claimed = watcher.claims_to_be_in_step(timeout * 4).await;
    ground.harness.unfreeze_store(&ground.store).await;
    assert!(!claimed, "O6: a watch claims to be in step with a store that is frozen");
}
