//! O5: lists.

use dc_core::Version;
use futures::{StreamExt, stream};

use super::super::{
    Harness,
    ground::{self as records, Ground, LONG, sample},
};
use super::ground::*;
use crate::{
    ControlPlane, Expected,
    ownership::{Document, Keep, OwnershipStore, Swap},
};

/// Creates this many documents, several at a time; all under `n/`.
pub(super) async fn fill(documents: &dyn OwnershipStore, count: usize) -> (Vec<Document>, Version) {
    let created: Vec<Document> =
        stream::iter(0..count).map(|n| created_at_last(documents, n)).buffer_unordered(50).collect().await;
    let newest = created.iter().map(|document| document.version).max_by_key(|version| version.revision);
    (created, newest.expect("at least one"))
}

/// Creates one of many: on a machine that has much else to do, an answer may be lost now and then.
async fn created_at_last(documents: &dyn OwnershipStore, n: usize) -> Document {
    let (key, body) = (key(&format!("n/name-{n}")), body(&n.to_string()));
    loop {
        match documents.compare_and_set(&key, Expected::Absent, body.clone(), Keep::Forever).await {
            Ok(Swap::Done(version)) => return Document { key, body, version },
            Ok(Swap::Refused(Some(stored))) if stored.body == body => return stored,
            Err(err) if err.is_outage() => {}
            other => panic!("a creation: {other:?}"),
        }
    }
}

/// O5: an empty store lists nothing, and says as of when.
pub async fn o5_an_empty_store_lists_no_documents(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_plane, documents) = ground.client().await;
    let listed = documents.list("").await.expect("list");
    assert!(listed.documents.is_empty() && listed.skipped.is_empty(), "O5: an empty store lists {listed:?}");
    assert_eq!(listed.as_of.store, documents.store().await.expect("store"));
}

/// O5: a list shows each document whose key begins so, as one read gives it, and no other.
pub async fn o5_the_list_shows_what_begins_so(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let ((_plane, documents), (_reader_plane, reader)) = (ground.client().await, ground.client().await);
    let mut held = Vec::new();
    for at in ["n/a", "n/ab", "n/b", "n/a/b", "na", "s/a", "g/0/0", "g/0/1", "g/10/0", "G/0/0"] {
        held.push(create(&*documents, at, at).await);
    }
    let newest = held.last().expect("some").version;
    for (prefix, wanted) in [
        ("", vec!["n/a", "n/ab", "n/b", "n/a/b", "na", "s/a", "g/0/0", "g/0/1", "g/10/0", "G/0/0"]),
        ("n/", vec!["n/a", "n/ab", "n/b", "n/a/b"]),
        ("n", vec!["n/a", "n/ab", "n/b", "n/a/b", "na"]),
        ("n/a", vec!["n/a", "n/ab", "n/a/b"]),
        ("n/a/", vec!["n/a/b"]),
        ("g/0/", vec!["g/0/0", "g/0/1"]),
        ("g/1", vec!["g/10/0"]),
        ("s/b", vec![]),
    ] {
        let listed = ground.listed_documents(&*reader, prefix, newest).await;
        let wanted = held.iter().filter(|document| wanted.contains(&document.key.as_str())).cloned();
        assert_eq!(by_key(listed.documents), by_key(wanted), "O5: what begins with {prefix:?}");
        assert!(listed.skipped.is_empty(), "O5: skipped {:?}", listed.skipped);
    }
    for document in held {
        assert_eq!(ground.seen(&*reader, &document.key, document.version).await, document, "O5: one read, the same");
    }
}

/// O5: a list is as of a version that is not older than what it holds, and leaves out what is gone by then.
pub async fn o5_the_list_says_as_of_when_and_leaves_out_what_is_gone(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, documents) = ground.client().await;
    let short = put(&*documents, "s/short", Expected::Absent, "x", Keep::For(ground.harness.ttl())).await;
    let gone = create(&*documents, "n/gone", "x").await;
    let stays = again(&*documents, &create(&*documents, "n/stays", "1").await, "2").await;
    let removed = remove(&*documents, &gone).await;
    let listed = ground.listed_documents(&*documents, "n/", removed).await;
    assert_eq!(listed.documents, std::slice::from_ref(&stays), "O5: as of {}, removed at {removed}", listed.as_of);
    assert!(listed.as_of >= stays.version, "O5: as of {}, holds {}", listed.as_of, stays.version);
    ground.harness.advance(ground.harness.ttl() * 2 + plane.capabilities().expiry_granularity).await;
    ground.absent(&*documents, &short.key).await;
    let after = create(&*documents, "n/z", "x").await;
    let listed = ground.listed_documents(&*documents, "", after.version).await;
    assert_eq!(by_key(listed.documents), by_key([stays, after]), "O5: what was cleaned up is not listed");
}

/// O5: three thousand documents are listed, each once.
pub async fn o5_three_thousand_documents_are_listed(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_plane, documents) = ground.client().await;
    let other = create(&*documents, "s/other", "x").await;
    let (mut held, newest) = fill(&*documents, 3_000).await;
    let listed = ground.listed_documents(&*documents, "n/", newest).await;
    assert_eq!(listed.documents.len(), 3_000, "O5: each once");
    assert!(by_key(listed.documents) == by_key(held.clone()), "O5: the list is not what was written");
    held.push(other);
    let listed = ground.listed_documents(&*documents, "", newest).await;
    assert_eq!(listed.documents.len(), 3_001, "O5: each once");
    assert!(by_key(listed.documents) == by_key(held), "O5: the list of all is not what was written");
}

/// O5: a list of three thousand documents costs few requests, the list of records none more than without them; and
/// a read, a write and a removal cost one each, or two where how long to keep it is said apart. Needs the hook
/// `requests`.
pub async fn o5_three_thousand_documents_cost_few_requests(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, documents) = ground.client().await;
    records::create(&plane, &sample("dc-1")).await;
    plane.list_all().await.expect("list");
    let before = ground.harness.requests(&ground.store).await;
    plane.list_all().await.expect("list");
    let of_records = ground.harness.requests(&ground.store).await - before;

    let (_, newest) = fill(&*documents, 3_000).await;
    ground.listed_documents(&*documents, "n/", newest).await;
    let (listed, cost) = ground
        .until("a list in the time of one call", async || {
            let before = ground.harness.requests(&ground.store).await;
            let listed = documents.list("n/").await.ok()?.documents.len();
            Some((listed, ground.harness.requests(&ground.store).await - before))
        })
        .await;
    assert_eq!(listed, 3_000);
    assert!(cost <= 3 * 10, "O5: a list of 3,000 documents cost {cost} requests");

    let before = ground.harness.requests(&ground.store).await;
    let listing = plane.list_all().await.expect("list");
    let cost = ground.harness.requests(&ground.store).await - before;
    assert_eq!((listing.records.len(), listing.skipped.len()), (1, 0), "P6: documents are not records");
    assert!(cost <= of_records, "P6: with documents beside it, a list of records costs {cost}, not {of_records}");

    let mut held = create(&*documents, "n/a", "0").await;
    for (what, keep, most) in [("to be kept", Keep::Forever, 1), ("for a time", Keep::For(LONG), 2)] {
        let before = ground.harness.requests(&ground.store).await;
        held = put(&*documents, "n/a", Expected::Version(held.version), what, keep).await;
        let cost = ground.harness.requests(&ground.store).await - before;
        assert!(cost <= most, "O5: a write {what} cost {cost} requests");
    }
    let before = ground.harness.requests(&ground.store).await;
    documents.read(&held.key).await.expect("read");
    let cost = ground.harness.requests(&ground.store).await - before;
    assert!(cost <= 1, "O5: a read cost {cost} requests");
}

/// O5: what a stranger wrote where documents lie, under no key of theirs, is reported and harms nothing. Needs the
/// hook `raw`, with keys that begin with [`DOCUMENTS`](crate::codec::DOCUMENTS).
pub async fn o5_a_strangers_key_is_skipped_and_reported(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, documents) = ground.client().await;
    let held = create(&*documents, "n/a", "1").await;
    let stray = format!("{}n/a.b", crate::codec::DOCUMENTS);
    ground.harness.write_raw(&ground.store, &stray, b"hello").await;
    let after = create(&*documents, "n/b", "1").await;
    let listed = ground.listed_documents(&*documents, "n/", after.version).await;
    assert_eq!(by_key(listed.documents), by_key([held.clone(), after.clone()]), "O5: what can be read is listed");
    assert_eq!(listed.skipped.len(), 1, "O5: what cannot is reported: {:?}", listed.skipped);
    let (_watcher, replay) = ground.watching(&*documents, "").await;
    assert_eq!(replay, by_key([held, after]), "O6: the replay holds what can be read");
    let listing = plane.list_all().await.expect("list");
    assert!(listing.skipped.is_empty(), "P6: what lies among the documents is none of the records' business");
}
