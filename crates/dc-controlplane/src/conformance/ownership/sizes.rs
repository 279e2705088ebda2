//! O7: what can be stored.

use bytes::Bytes;

use super::super::{
    Harness,
    ground::{Ground, LONG},
};
use super::ground::*;
use crate::{
    Error, Expected,
    ownership::{Document, DocumentKey, Keep, MAX_DOCUMENT, OwnershipStore, Swap},
};

/// The longest key: one long part, and one of many.
fn longest() -> [String; 2] {
    [format!("n/{}", "x".repeat(898)), format!("{}x", "ab=20-_/".repeat(112)) + "yyy"]
}

/// O7: the longest body and the longest keys are taken, read, listed, watched and removed.
pub async fn o7_the_largest_document_is_stored(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_plane, documents) = ground.client().await;
    let (mut watcher, mut mirror) = ground.watching(&*documents, "").await;
    let mut held = Vec::new();
    for (at, fill) in longest().into_iter().zip([0x00, 0xff]) {
        assert_eq!(at.len(), 900, "the longest key");
        let (at, body) = (key(&at), Bytes::from(vec![fill; MAX_DOCUMENT]));
        let write = documents.compare_and_set(&at, Expected::Absent, body.clone(), Keep::Forever).await;
        let first = done("O7: the largest document", write);
        let write = documents.compare_and_set(&at, Expected::Version(first), body.clone(), Keep::For(LONG)).await;
        held.push(Document { version: done("O7: the largest document", write), key: at, body });
    }
    let newest = held[1].version;
    for document in &held {
        assert!(ground.seen(&*documents, &document.key, document.version).await == *document, "O7: read as written");
    }
    let listed = ground.listed_documents(&*documents, "", newest).await;
    assert!(by_key(listed.documents) == by_key(held.clone()), "O7: listed as written");
    watcher.until_mirrors(&mut mirror, &by_key(held.clone())).await;
    for document in &held {
        remove(&*documents, document).await;
    }
    watcher.until_mirrors(&mut mirror, &by_key([])).await;
}

async fn too_large(documents: &dyn OwnershipStore, expected: Expected) -> Result<Swap, Error> {
    let body = Bytes::from(vec![b'x'; MAX_DOCUMENT + 1]);
    documents.compare_and_set(&key("n/a"), expected, body, Keep::Forever).await
}

/// O7: a body beyond the longest is refused, and the document stays as it was; so is a prefix that no key has.
pub async fn o7_a_larger_document_is_refused(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_plane, documents) = ground.client().await;
    let held = create(&*documents, "n/a", "x").await;
    for expected in [Expected::Absent, Expected::Version(held.version)] {
        let refused = too_large(&*documents, expected).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "O7: got {refused:?}");
    }
    assert_eq!(ground.seen(&*documents, &held.key, held.version).await, held);
    for prefix in ["*", "n.*", ">", "n//", "/n"] {
        let refused = documents.list(prefix).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "O7: {prefix:?}: got {refused:?}");
        let refused = documents.watch(prefix).await.map(drop);
        assert!(matches!(refused, Err(Error::Invalid(_))), "O7: {prefix:?}: got {refused:?}");
    }
}

/// O7: what is refused for its size was not sent. Needs the hook `requests`.
pub async fn o7_a_larger_document_is_not_sent(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_plane, documents) = ground.client().await;
    create(&*documents, "n/a", "x").await;
    let before = ground.harness.requests(&ground.store).await;
    let refused = too_large(&*documents, Expected::Absent).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "O7: got {refused:?}");
    assert_eq!(ground.harness.requests(&ground.store).await, before, "O7: refused before anything is sent");
}

/// O7: any bytes are a body, also none; keys that look alike are told apart.
pub async fn o7_odd_documents_are_told_apart(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_plane, documents) = ground.client().await;
    let every = Bytes::from_iter(0..=u8::MAX);
    let bodies = [Bytes::new(), every, body("x"), body("{\"v\":1}"), body("ü\0\r\n"), body("MSG 1 2 3\r\n")];
    let odd = DocumentKey::escaped("n", "Ledger 7/ü.*>").expect("short");
    let keys = ["a", "A", "a/b", "a/b/c", "a=b", "a-b", "a_b", "ab", "-", "_", "=", "=2F", odd.as_str()];
    let mut held = Vec::new();
    for (n, at) in keys.iter().enumerate() {
        let (at, body) = (key(at), bodies[n % bodies.len()].clone());
        let write = documents.compare_and_set(&at, Expected::Absent, body.clone(), Keep::Forever).await;
        held.push(Document { version: done("O7: an odd document", write), key: at, body });
    }
    let newest = held[held.len() - 1].version;
    for document in &held {
        assert_eq!(ground.seen(&*documents, &document.key, document.version).await, *document);
    }
    let listed = ground.listed_documents(&*documents, "", newest).await;
    assert_eq!(by_key(listed.documents), by_key(held), "O7: each is listed under its own key");
}
