//! What each call costs, counted by etcd itself (P6, P7).

use std::collections::BTreeMap;

use bytes::Bytes;
use dc_controlplane::{
    ControlPlane, Expected, WatchEvent,
    ownership::{DocumentEvent, DocumentKey, Keep, Swap},
};
use dc_core::{DataCenterRecord, Intent, IntentKind};
use dc_etcd::EtcdControlPlane;
use futures::{StreamExt, stream};

use crate::{samples::*, server::Etcd};

/// What came to the server since `before`.
fn since(etcd: &Etcd, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let mut now = etcd.requests();
    now.iter_mut().for_each(|(method, count)| *count -= before.get(method).copied().unwrap_or(0));
    now.retain(|_, count| *count > 0);
    now
}

fn cost(parts: &[(&str, u64)]) -> BTreeMap<String, u64> {
    parts.iter().map(|(method, count)| ((*method).to_owned(), *count)).collect()
}

#[tokio::test]
async fn p6_p7_each_call_costs_what_is_said() {
    let etcd = Etcd::single();
    let plane = plane(&[etcd.url()], &namespace()).await;
    let before = etcd.requests();
    let first = record("dc-1", 60);
    let first =
        DataCenterRecord { version: plane.register(&first, Expected::Absent).await.expect("register"), ..first };
    assert_eq!(since(&etcd, &before), cost(&[("LeaseGrant", 1), ("Txn", 1)]), "register");

    let before = etcd.requests();
    plane.heartbeat(&first).await.expect("heartbeat");
    assert_eq!(since(&etcd, &before), cost(&[("LeaseKeepAlive", 1), ("Txn", 1)]), "P7: heartbeat");

    let before = etcd.requests();
    plane.list_all().await.expect("list");
    assert_eq!(since(&etcd, &before), cost(&[("Range", 1)]), "P6: list");

    let before = etcd.requests();
    plane.get(first.id()).await.expect("get");
    assert_eq!(since(&etcd, &before), cost(&[("Txn", 1)]), "get");

    let before = etcd.requests();
    plane.set_intent(first.id(), &Intent::new(IntentKind::Drain, "ann", "")).await.expect("set_intent");
    assert_eq!(since(&etcd, &before), cost(&[("Txn", 1)]), "set_intent");

    let before = etcd.requests();
    plane.store().await.expect("store");
    assert_eq!(since(&etcd, &before), cost(&[]), "a store that is known is not asked for");

    // The lease of what was overwritten or removed is revoked in the background.
    let before = etcd.requests();
    let second = plane.register(&first, Expected::Version(first.version)).await.expect("register");
    let wanted = cost(&[("LeaseGrant", 1), ("LeaseRevoke", 1), ("Txn", 1)]);
    until("the old lease to be revoked", async || (since(&etcd, &before).len() == wanted.len()).then_some(())).await;
    let before_goodbye = etcd.requests();
    plane.deregister(first.id(), second).await.expect("deregister");
    let wanted = cost(&[("LeaseRevoke", 1), ("Txn", 1)]);
    until("the goodbye's lease to be revoked", async || {
        (since(&etcd, &before_goodbye).len() == wanted.len()).then_some(())
    })
    .await;
    assert_eq!(since(&etcd, &before_goodbye), wanted, "deregister");
}

#[tokio::test]
async fn p7_a_record_that_another_registered_is_read_once_before_it_is_renewed() {
    let etcd = Etcd::single();
    let ns = namespace();
    let (writer, renewer) = (plane(&[etcd.url()], &ns).await, plane(&[etcd.url()], &ns).await);
    let held = registered(&writer, &record("dc-1", 60)).await;
    let before = etcd.requests();
    renewer.heartbeat(&held).await.expect("heartbeat");
    assert_eq!(since(&etcd, &before), cost(&[("LeaseKeepAlive", 1), ("Txn", 2)]), "the first reads the lease");
    let before = etcd.requests();
    renewer.heartbeat(&held).await.expect("heartbeat");
    assert_eq!(since(&etcd, &before), cost(&[("LeaseKeepAlive", 1), ("Txn", 1)]), "later ones know it");
}

/// Registers this many records of an hour.
async fn fill(plane: &EtcdControlPlane, count: usize) {
    stream::iter(0..count)
        .map(|n| async move { plane.register(&record(&format!("dc-{n}"), 3_600), Expected::Absent).await })
        .buffer_unordered(64)
        .for_each(|written| async move {
            written.expect("register");
        })
        .await;
}

#[tokio::test]
async fn p6_beyond_a_page_records_are_listed_by_pages_of_one_revision() {
    let etcd = Etcd::single();
    let plane = plane(&[etcd.url()], &namespace()).await;
    fill(&plane, 2_500).await;
    let before = etcd.requests();
    let listing = plane.list_all().await.expect("list");
    assert_eq!(since(&etcd, &before), cost(&[("Range", 2)]), "P6: two pages");
    assert_eq!(listing.records.len(), 2_500);
    assert!(listing.skipped.is_empty(), "{:?}", listing.skipped);
    let mut watch = plane.watch().await.expect("watch");
    let shown = replay(&mut watch).await;
    assert_eq!(shown.iter().filter(|event| matches!(event, WatchEvent::Put(_))).count(), 2_500);
}

/// What is shown by changes how far it is need not be asked, and is in step all the same (C4).
#[tokio::test]
async fn c4_a_watch_that_brings_changes_is_not_asked_how_far_it_is() {
    let etcd = Etcd::single();
    let plane = plane(&[etcd.url()], &namespace()).await;
    let documents = plane.ownership().expect("documents");
    let key: DocumentKey = "s/a".parse().expect("legal");
    let mut watch = documents.watch("").await.expect("watch");
    let (mut expected, mut in_step, mut before) = (Expected::Absent, 0, 0);
    while in_step < 4 {
        let written = documents.compare_and_set(&key, expected, Bytes::from_static(b"alive"), Keep::Forever).await;
        let Ok(Swap::Done(version)) = written else { panic!("{written:?}") };
        expected = Expected::Version(version);
        loop {
            match watch.next().await.expect("it goes on").expect("no error") {
                DocumentEvent::Put(document) if document.version == version => break,
                DocumentEvent::InStep => in_step += 1,
                _ => {}
            }
        }
        if in_step == 0 {
            before = etcd.messages()["Watch"];
        }
    }
    let asked = etcd.messages()["Watch"] - before;
    assert!(asked <= 1, "asked {asked} times how far it is");
}
