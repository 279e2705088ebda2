//! What documents cost on a store: printed, not judged. For tests that are ignored by default.

use std::time::Duration;

use futures::{StreamExt, stream};

use super::super::{Harness, ground::Ground};
use super::ground::*;
use crate::{
    Expected,
    ownership::{Document, Keep, OwnershipStore},
};

/// How many documents are written.
const COUNT: usize = 10_000;
/// How many writes are under way at a time.
const IN_FLIGHT: usize = 64;

async fn all<T, F: Future<Output = T>>(writes: impl Iterator<Item = F>) -> Vec<T> {
    stream::iter(writes).buffer_unordered(IN_FLIGHT).collect().await
}

/// Prints the rates of 10,000 creations, compare-and-set writes and removals, 64 at a time, and what a list of all
/// takes; then, where the harness counts requests, what renewing a session costs: kept for 20 s, written every 3 s.
pub async fn measure_documents(harness: impl Harness, counts_requests: bool) {
    let ground = Ground::new(harness).await;
    let (_plane, documents) = ground.client().await;
    let documents = &*documents;
    let text = "x".repeat(300);
    let rate = |what: &str, took: Duration| {
        println!("{what}: {COUNT} in {took:.2?}, {:.0} per second", COUNT as f64 / took.as_secs_f64());
    };

    let start = ground.now();
    let created = all((0..COUNT).map(|n| {
        let text = &text;
        async move { create(documents, &format!("n/name-{n}"), text).await }
    }));
    let created: Vec<Document> = created.await;
    rate("creations", ground.now() - start);

    let start = ground.now();
    let changed: Vec<Document> = all(created.iter().map(|held| again(documents, held, &text))).await;
    rate("compare-and-set writes", ground.now() - start);

    let newest = changed.iter().map(|document| document.version).max_by_key(|version| version.revision);
    let start = ground.now();
    ground.listed_documents(documents, "n/", newest.expect("some")).await;
    println!("a list of {COUNT}: {:.2?}", ground.now() - start);

    let start = ground.now();
    all(changed.iter().map(|held| remove(documents, held))).await;
    rate("removals", ground.now() - start);

    if counts_requests {
        renewals(&ground, documents).await;
    }
}

async fn renewals<H: Harness>(ground: &Ground<H>, documents: &dyn OwnershipStore) {
    const RENEWALS: u64 = 20;
    let keep = Keep::For(Duration::from_secs(20));
    let mut session = put(documents, "s/session", Expected::Absent, "0", keep).await;
    let before = ground.harness.requests(&ground.store).await;
    for n in 0..RENEWALS {
        ground.harness.advance(Duration::from_secs(3)).await;
        session = put(documents, "s/session", Expected::Version(session.version), &n.to_string(), keep).await;
    }
    let requests = ground.harness.requests(&ground.store).await - before;
    println!("{RENEWALS} renewals of a session, one each 3 s, kept for 20 s: {requests} requests");
}
