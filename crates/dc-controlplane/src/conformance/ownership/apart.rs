//! Documents and records keep out of each other's way.

use dc_core::{Intent, IntentKind};

use super::super::{
    Harness,
    ground::{self as records, Ground, sample},
};
use super::ground::*;
use crate::{ControlPlane, WatchEvent, ownership::DocumentEvent};

/// O5: lists and goodbyes of records do not concern documents, nor the other way round.
pub async fn o5_records_and_documents_do_not_concern_each_other(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, documents) = ground.client().await;
    let record = records::create(&plane, &sample("dc-1")).await;
    let document = create(&*documents, "n/dc-1", "x").await;
    let same = create(&*documents, &format!("records/{}", key_of(record.id())), "x").await;
    let word = plane.set_intent(record.id(), &Intent::new(IntentKind::Drain, "ann", "")).await.expect("set_intent");
    let listing = ground.listed(&plane, word).await;
    assert_eq!(listing.records, std::slice::from_ref(&record), "P6: documents are not records");
    assert_eq!((listing.intents.len(), listing.skipped.len()), (1, 0), "P6: nor intents, nor strangers: {listing:?}");
    let listed = ground.listed_documents(&*documents, "", word).await;
    assert_eq!(by_key(listed.documents), by_key([document.clone(), same.clone()]), "O5: records are not documents");
    plane.deregister(record.id(), record.version).await.expect("deregister");
    ground.gone(&plane, record.id()).await;
    let after = create(&*documents, "n/z", "x").await;
    let listed = ground.listed_documents(&*documents, "", after.version).await;
    assert_eq!(by_key(listed.documents), by_key([document.clone(), same.clone(), after]), "O5: a goodbye takes none");
    remove(&*documents, &document).await;
    remove(&*documents, &same).await;
    let listing = plane.list_all().await.expect("list");
    assert_eq!(listing.intents.len(), 1, "P8: a removal of documents takes no intent");
}

/// A record's id in the characters of a document key.
fn key_of(id: &dc_core::DataCenterId) -> String {
    crate::ownership::DocumentKey::escaped("x", id.as_str()).expect("short").as_str()[2..].to_owned()
}

/// O6: watches of records do not tell of documents, nor the other way round.
pub async fn o6_watches_of_records_and_documents_are_apart(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, documents) = ground.client().await;
    create(&*documents, "n/before", "x").await;
    let of_records = ground.watch(&plane).await;
    let (mut of_documents, _) = ground.watching(&*documents, "").await;
    let first = create(&*documents, "n/a", "x").await;
    remove(&*documents, &first).await;
    let record = records::create(&plane, &sample("dc-1")).await;
    let last = create(&*documents, "n/b", "x").await;
    loop {
        match of_documents.next().await {
            DocumentEvent::Put(told) if told.key == last.key => break,
            DocumentEvent::Put(told) => assert_eq!(told, first, "O6: what is told is a document"),
            DocumentEvent::Removed { key, .. } => assert_eq!(key, first.key),
            other => panic!("O6: got {other:?}"),
        }
    }
    let Some((mut watcher, replay)) = of_records else { return };
    assert!(matches!(replay[..], [WatchEvent::ReplayDone { .. }]), "P5: documents are replayed as {replay:?}");
    let told = watcher.next().await;
    assert!(matches!(&told, WatchEvent::Put(put) if put.id() == record.id()), "P5: documents are told as {told:?}");
}
