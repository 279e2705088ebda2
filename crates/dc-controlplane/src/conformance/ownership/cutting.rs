//! O2, O4, O6 for a client whose link is cut while others go on. All need the hook `cut`.

use super::super::{Harness, ground::Ground};
use super::{faults::all_calls_end, ground::*};
use crate::{
    Error, Expected,
    ownership::{DocumentEvent, Keep},
};

/// Goes on until `pick` takes an event, or the watch is lost (`None`).
async fn told_or_lost<T>(watcher: &mut Watcher, mut pick: impl FnMut(DocumentEvent) -> Option<T>) -> Option<T> {
    loop {
        match watcher.step().await {
            Some(Ok(event)) => {
                if let Some(found) = pick(event) {
                    return Some(found);
                }
            }
            Some(Err(Error::WatchLost { .. })) => return None,
            other => panic!("O6: a cut ends a watch with WatchLost or not at all, got {other:?}"),
        }
    }
}

/// O6: a removal and a clean-up while the watcher is cut off are told afterwards, or the watch is lost.
pub async fn o6_a_removal_while_cut_off_is_not_missed(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let ((_plane, documents), (reader_plane, reader)) = (ground.client().await, ground.cuttable().await);
    let gone = create(&*documents, "n/gone", "x").await;
    let timed = put(&*documents, "s/timed", Expected::Absent, "x", Keep::For(ground.harness.ttl() * 2)).await;
    ground.seen(&*reader, &timed.key, timed.version).await;
    let (mut watcher, _) = ground.watching(&*reader, "").await;
    ground.harness.cut(&ground.store, &reader_plane).await;
    remove(&*documents, &gone).await;
    // Whatever trace the removals left may go meanwhile.
    ground.harness.advance(ground.harness.ttl() * 4).await;
    ground.absent(&*documents, &timed.key).await;
    let after = create(&*documents, "n/z-after", "x").await;
    ground.harness.uncut(&ground.store, &reader_plane).await;
    let mut missing = vec![gone.key, timed.key];
    let mut came = false;
    told_or_lost(&mut watcher, |event| {
        match event {
            DocumentEvent::Removed { key, .. } => {
                assert_ne!(key, after.key, "O6: a living document is told as gone");
                missing.retain(|wanted| *wanted != key);
            }
            DocumentEvent::Put(told) => came |= told == after,
            _ => {}
        }
        (came && missing.is_empty()).then_some(())
    })
    .await;
}

/// O6: the last state of what changed while the watcher was cut off is told afterwards, or the watch is lost.
pub async fn o6_changes_while_cut_off_are_caught_up(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let ((_plane, documents), (reader_plane, reader)) = (ground.client().await, ground.cuttable().await);
    let mut held = create(&*documents, "n/a", "first").await;
    ground.seen(&*reader, &held.key, held.version).await;
    let (mut watcher, _) = ground.watching(&*reader, "n/").await;
    for round in 0..3 {
        ground.harness.cut(&ground.store, &reader_plane).await;
        for n in 0..20 {
            held = again(&*documents, &held, &format!("{round} {n}")).await;
        }
        ground.harness.uncut(&ground.store, &reader_plane).await;
        let told = told_or_lost(&mut watcher, |event| match event {
            DocumentEvent::Put(told) if told.version == held.version => Some(told),
            DocumentEvent::Removed { key, .. } => panic!("O6: {key} was told as gone"),
            _ => None,
        })
        .await;
        match told {
            Some(told) => assert_eq!(told, held, "O6: the last state"),
            None => return,
        }
    }
}

/// O4: each call of a client that is cut off ends within its timeout; the client goes on afterwards.
pub async fn o4_document_calls_end_in_time_while_cut_off(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, documents) = ground.cuttable().await;
    let held = create(&*documents, "n/a", "1").await;
    ground.harness.cut(&ground.store, &plane).await;
    all_calls_end(&ground, &*documents, &held, false).await;
    ground.harness.uncut(&ground.store, &plane).await;
    ground.until("an answer after the cut", async || documents.list("").await.ok()).await;
}

/// O2: an owner that was cut off, and whose document was taken over meanwhile, is refused when it comes back.
pub async fn o2_an_owner_that_was_cut_off_is_refused(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let ((_plane, rival), (owner_plane, owner)) = (ground.client().await, ground.cuttable().await);
    let old = create(&*owner, "s/session", "alive 1").await;
    ground.harness.cut(&ground.store, &owner_plane).await;
    let new = again(&*rival, &old, "tombstone").await;
    let renewal = || owner.compare_and_set(&old.key, Expected::Version(old.version), body("alive 2"), Keep::Forever);
    let lost = renewal().await;
    assert!(lost.as_ref().is_err_and(Error::is_outage), "O4: a client that is cut off was answered: {lost:?}");
    ground.harness.uncut(&ground.store, &owner_plane).await;
    let told = ground
        .until("an answer after the cut", async || match renewal().await {
            Err(err) if err.is_outage() => None,
            answer => Some(refused("O2: a renewal of what was taken over", answer)),
        })
        .await;
    assert_eq!(told, Some(new.clone()), "O2: told what is stored");
    assert_eq!(refused("O2", owner.remove(&old.key, old.version).await), Some(new.clone()));
    assert_eq!(ground.seen(&*rival, &new.key, new.version).await, new);
}
