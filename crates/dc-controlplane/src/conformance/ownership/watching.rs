//! O6: watches of documents.

use std::collections::BTreeMap;

use futures::{StreamExt, future::join_all, stream};

use super::super::{
    Harness,
    ground::{Ground, LONG},
};
use super::{ground::*, lists::fill};
use crate::{
    ControlPlane, Expected,
    ownership::{Document, DocumentEvent, Keep},
};

/// O6: a watch shows what is there under its prefix, marks the end, then tells what changes.
pub async fn o6_a_document_watch_replays_then_tells_changes(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let ((_plane, documents), (_reader_plane, reader)) = (ground.client().await, ground.client().await);
    let gone = create(&*documents, "n/gone", "x").await;
    let a = create(&*documents, "n/a", "1").await;
    let b = put(&*documents, "n/b", Expected::Absent, "1", Keep::For(LONG)).await;
    let other = create(&*documents, "s/other", "1").await;
    remove(&*documents, &gone).await;
    ground.seen(&*reader, &other.key, other.version).await;
    ground.absent(&*reader, &gone.key).await;
    let (mut watcher, replay) = ground.watching(&*reader, "n/").await;
    assert_eq!(replay, by_key([a.clone(), b.clone()]), "O6: what is there");
    let as_of = watcher.replayed_to();
    assert!(as_of >= b.version, "O6: replayed as of {as_of}, with {}", b.version);
    let c = create(&*documents, "n/c", "1").await;
    assert_eq!(watcher.put(&c.key).await, c, "O6: a creation");
    let a = again(&*documents, &a, "2").await;
    assert_eq!(watcher.put(&a.key).await, a, "O6: a change");
    let removed = remove(&*documents, &b).await;
    let told = watcher.removed(&b.key).await;
    assert!(told >= b.version && told <= removed, "O6: removed at {removed}, told {told}");
    let b = create(&*documents, "n/b", "2").await;
    assert_eq!(watcher.put(&b.key).await, b, "O6: a return");
}

/// O6: where there is nothing, the end of the replay comes at once.
pub async fn o6_an_empty_prefix_replays_to_its_end(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_plane, documents) = ground.client().await;
    for prefix in ["", "n/", "n/x"] {
        let (watcher, replay) = ground.watching(&*documents, prefix).await;
        assert_eq!(replay, BTreeMap::new(), "O6: nothing begins with {prefix:?}");
        assert_eq!(watcher.replayed_to().store, documents.store().await.expect("store"), "O6: as of this store");
    }
    let (mut watcher, _) = ground.watching(&*documents, "n/x").await;
    create(&*documents, "n/y", "1").await;
    let x = create(&*documents, "n/xy", "1").await;
    let first = watcher.next().await;
    assert_eq!(first, DocumentEvent::Put(x), "O6: what follows");
}

/// O6: changes of a key come in version order, and the last of each is among them.
pub async fn o6_document_changes_come_in_order(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let ((_plane, documents), (_reader_plane, reader)) = (ground.client().await, ground.client().await);
    let (mut watcher, mut mirror) = ground.watching(&*reader, "").await;
    let mut held = Vec::new();
    for n in 0..4 {
        held.push(create(&*documents, &format!("n/{n}"), "0").await);
    }
    for round in 0..10 {
        for document in &mut held {
            *document = again(&*documents, document, &round.to_string()).await;
        }
    }
    // The watcher checks the order of all that it passes over.
    watcher.until_mirrors(&mut mirror, &by_key(held)).await;
}

/// O6: a document that is removed and at once created again ends as there, with its last version; and one that is
/// removed at last ends as gone.
pub async fn o6_the_last_state_is_never_skipped(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let ((_plane, documents), (_reader_plane, reader)) = (ground.client().await, ground.client().await);
    let (mut watcher, mut mirror) = ground.watching(&*reader, "").await;
    let (mut stays, mut goes) = (create(&*documents, "n/stays", "0").await, create(&*documents, "n/goes", "0").await);
    for round in 0..5 {
        remove(&*documents, &stays).await;
        remove(&*documents, &goes).await;
        goes = create(&*documents, "n/goes", &round.to_string()).await;
        stays = create(&*documents, "n/stays", &round.to_string()).await;
    }
    remove(&*documents, &goes).await;
    let last = create(&*documents, "n/z", "x").await;
    watcher.until_mirrors(&mut mirror, &by_key([stays, last])).await;
}

/// O6: a removal is told to each watcher, also where it saw the document in its replay only.
pub async fn o6_a_document_removal_is_told_to_every_watcher(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let ((_plane, documents), (_reader_plane, reader)) = (ground.client().await, ground.client().await);
    let held = create(&*documents, "n/a", "x").await;
    ground.seen(&*reader, &held.key, held.version).await;
    let (mut one, _) = ground.watching(&*reader, "").await;
    let (mut two, _) = ground.watching(&*reader, "n/a").await;
    let (dropped, _) = ground.watching(&*reader, "n/").await;
    drop(dropped);
    let removed = remove(&*documents, &held).await;
    for watcher in [&mut one, &mut two] {
        let told = watcher.removed(&held.key).await;
        assert!(told >= held.version && told <= removed, "O6: removed at {removed}, told {told}");
    }
}

/// O6: a document that is cleaned up is told as removed, at or above its last version.
pub async fn o6_a_clean_up_is_told(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let ((plane, documents), (_reader_plane, reader)) = (ground.client().await, ground.client().await);
    let keep = ground.harness.ttl();
    let before = put(&*documents, "s/before", Expected::Absent, "x", Keep::For(keep * 2)).await;
    ground.seen(&*reader, &before.key, before.version).await;
    let (mut watcher, _) = ground.watching(&*reader, "s/").await;
    let after = put(&*documents, "s/after", Expected::Absent, "1", Keep::For(keep)).await;
    let after = put(&*documents, "s/after", Expected::Version(after.version), "2", Keep::For(keep)).await;
    while watcher.put(&after.key).await != after {}
    ground.harness.advance(keep * 4 + plane.capabilities().expiry_granularity).await;
    let mut missing = by_key([before, after]);
    while !missing.is_empty() {
        if let DocumentEvent::Removed { key, version } = watcher.next().await {
            let last = missing.remove(&key).unwrap_or_else(|| panic!("O6: {key} is told as gone twice"));
            assert!(version >= last.version, "O6: {key} gone at {version}, last written at {}", last.version);
        }
    }
}

/// O6: a watch that is opened while others write misses nothing of what they wrote last.
pub async fn o6_a_watch_opened_amid_writes_misses_nothing(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let ((_plane, documents), (_reader_plane, reader)) = (ground.client().await, ground.client().await);
    let writers = (0..8).map(|n| {
        let documents = &documents;
        async move {
            let mut held = create(&**documents, &format!("n/{n}"), "0").await;
            for round in 1..12 {
                held = if round % 5 == 4 {
                    remove(&**documents, &held).await;
                    create(&**documents, held.key.as_str(), &round.to_string()).await
                } else {
                    again(&**documents, &held, &round.to_string()).await
                };
            }
            held
        }
    });
    let readers = (0..4).map(|_| async {
        let mut watcher = ground.watching_from_start(&*reader, "n/").await;
        let mut mirror = BTreeMap::new();
        watcher.next_into(&mut mirror).await;
        (watcher, mirror)
    });
    let (written, readers): (Vec<Document>, Vec<_>) = futures::join!(join_all(writers), join_all(readers));
    let wanted = by_key(written);
    for (mut watcher, mut mirror) in readers {
        watcher.until_mirrors(&mut mirror, &wanted).await;
    }
}

/// O6: more than a thousand documents are replayed, and as many changes told after it, removals among them.
pub async fn o6_more_than_a_thousand_documents_are_watched(harness: impl Harness) {
    const COUNT: usize = 1_200;
    let ground = Ground::new(harness).await;
    let ((_plane, documents), (_reader_plane, reader)) = (ground.client().await, ground.client().await);
    let (held, newest) = fill(&*documents, COUNT).await;
    ground.listed_documents(&*reader, "n/", newest).await;
    let (mut watcher, mut mirror) = ground.watching(&*reader, "n/").await;
    assert!(mirror == by_key(held.clone()), "O6: {COUNT} documents are replayed as {}", mirror.len());
    let (goes, stays) = held.split_at(COUNT / 4);
    let changes = stream::iter(goes).map(|document| {
        let documents = &documents;
        async move {
            remove(&**documents, document).await;
            None
        }
    });
    let removals: Vec<Option<Document>> = changes.buffer_unordered(50).collect().await;
    let changes = stream::iter(stays).map(|document| {
        let documents = &documents;
        async move { Some(again(&**documents, document, "changed").await) }
    });
    let changed: Vec<Option<Document>> = changes.buffer_unordered(50).collect().await;
    let wanted = by_key(removals.into_iter().chain(changed).flatten());
    watcher.until_mirrors(&mut mirror, &wanted).await;
}

/// O6: a watch without changes says that it is in step.
pub async fn o6_an_idle_document_watch_says_that_it_is_in_step(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_plane, documents) = ground.client().await;
    create(&*documents, "n/a", "x").await;
    let (mut watcher, _) = ground.watching(&*documents, "").await;
    assert!(watcher.claims_to_be_in_step(ground.harness.patience()).await, "O6: an idle watch says nothing");
}
