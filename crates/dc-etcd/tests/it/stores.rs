//! Which store it is: wiped, rolled back, robbed of its id; and what is unsafe about it (P1, P13, fault 9).

use std::{fs, path::Path, time::Duration};

use dc_controlplane::{ControlPlane, Durability, Error, Expected, codec};
use dc_core::StoreId;
use dc_etcd::EtcdControlPlane;

use crate::{
    samples::*,
    server::{Etcd, shared_cluster, shared_single},
};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory").flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy(&source, &target);
        } else {
            fs::copy(&source, &target).expect("a copy");
        }
    }
}

#[tokio::test]
async fn p1_a_store_that_was_rolled_back_is_another_one() {
    let etcd = Etcd::single();
    let ns = namespace();
    let urls = [etcd.url()];
    let (plane, other) = (plane(&urls, &ns).await, plane(&urls, &ns).await);
    let kept = registered(&plane, &record("kept", 3_600)).await;
    etcd.kill();
    let backup = tempfile::tempdir().expect("a temporary directory");
    copy(&etcd.data(), backup.path());
    etcd.start();
    let lost = registered(&plane, &record("lost", 3_600)).await;
    registered(&other, &record("lost too", 3_600)).await;
    let before = plane.store().await.expect("store");
    let mut watch = plane.watch().await.expect("watch");
    replay(&mut watch).await;

    etcd.kill();
    etcd.wipe();
    copy(backup.path(), &etcd.data());
    etcd.start();

    let ended = end(&mut watch).await;
    assert!(matches!(ended, Error::WatchLost { .. }), "P5: {ended:?}");
    let listing = until("a list", async || plane.list_all().await.ok()).await;
    assert_eq!(listing.records.len(), 1, "{:?}", listing.records);
    assert_ne!(listing.as_of.store, before, "P1: revisions went back under the same id");
    let after = plane.store().await.expect("store");
    assert_eq!(listing.as_of.store, after);
    let refused = plane.register(&lost, Expected::Version(lost.version)).await;
    assert!(matches!(refused, Err(Error::Conflict { stored: None, .. })), "P2: {refused:?}");
    // The other client agrees, though it noticed later.
    let agreed = until("agreement", async || other.list_all().await.ok()).await;
    assert_eq!(agreed.as_of.store, after, "P1: one new id for all");
    let stale = other.register(&kept, Expected::Version(kept.version)).await;
    match stale {
        Err(Error::Conflict { stored: Some(stored), .. }) => assert_eq!(stored.version.store, after),
        other => panic!("P2: a version of the lost timeline was taken: {other:?}"),
    }
}

#[tokio::test]
async fn p1_a_store_whose_id_was_removed_gets_a_new_one() {
    let url = [shared_single().url()];
    let ns = namespace();
    let plane = plane(&url, &ns).await;
    let before = plane.store().await.expect("store");
    let held = registered(&plane, &record("dc-1", 60)).await;
    let mut watch = plane.watch().await.expect("watch");
    replay(&mut watch).await;
    let mut kv = raw(&url).await.kv_client();
    kv.delete(format!("{ns}/{}", codec::STORE_ID), None).await.expect("delete");
    let ended = end(&mut watch).await;
    assert!(matches!(ended, Error::WatchLost { .. }), "{ended:?}");
    let conflict = plane.heartbeat(&held).await;
    assert!(matches!(conflict, Err(Error::Conflict { stored: Some(_), .. })), "P2: {conflict:?}");
    let after = plane.store().await.expect("store");
    assert_ne!(after, before);
    let stored = plane.get(held.id()).await.expect("get").expect("stands");
    assert_eq!(stored.version.store, after);
    plane.heartbeat(&stored).await.expect("heartbeat");
}

#[tokio::test]
async fn p1_a_malformed_store_id_is_told() {
    let url = [shared_single().url()];
    let ns = namespace();
    let key = format!("{ns}/{}", codec::STORE_ID);
    raw(&url).await.kv_client().put(key.clone(), "not an id", None).await.expect("put");
    let refused = EtcdControlPlane::connect(builder(&url, &ns).build().expect("legal")).await;
    assert!(matches!(&refused, Err(Error::Corrupt(corrupt)) if corrupt.key == key), "{refused:?}");
}

#[tokio::test]
async fn p1_clients_that_start_at_once_agree_on_one_id() {
    let url = [shared_single().url()];
    let ns = namespace();
    let starting = (0..8).map(|_| async { plane(&url, &ns).await.store().await.expect("store") });
    let ids: Vec<StoreId> = futures::future::join_all(starting).await;
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[tokio::test]
async fn p13_a_single_member_is_a_finding_and_strict_mode_refuses_it() {
    let url = [shared_single().url()];
    let plane = plane(&url, &namespace()).await;
    let capabilities = plane.capabilities();
    assert_eq!((capabilities.replicas, capabilities.durability), (Some(1), Durability::BeforeAck));
    assert!(capabilities.linearizable_reads && capabilities.expiry_events && capabilities.renewal_keeps_version);
    assert!(capabilities.findings.iter().any(|finding| finding.contains("single member")), "{capabilities:?}");
    let strict = builder(&url, &namespace()).strict(true).build().expect("legal");
    let refused = EtcdControlPlane::connect(strict).await;
    assert!(matches!(&refused, Err(Error::Unsafe { findings, .. }) if findings.len() == 1), "{refused:?}");
    let strict = builder(&shared_cluster().urls(), &namespace()).strict(true).build().expect("legal");
    EtcdControlPlane::connect(strict).await.expect("three members are safe");
}

#[tokio::test]
async fn p13_strict_mode_refuses_an_unsafe_store_that_was_down_at_start() {
    let etcd = Etcd::single();
    etcd.kill();
    let strict = builder(&[etcd.url()], &namespace()).strict(true).build().expect("legal");
    let plane = EtcdControlPlane::connect(strict).await.expect("P12: it is down");
    etcd.start();
    let refused = until("an answer", async || plane.list_all().await.err().filter(|err| !err.is_outage())).await;
    assert!(matches!(refused, Error::Unsafe { .. }), "{refused:?}");
}

#[tokio::test]
async fn p3_a_server_that_grants_longer_leases_is_told_by_the_capabilities() {
    // An election timeout of 3 s: no lease below 5 s.
    let etcd = Etcd::single_with(&["--heartbeat-interval=300", "--election-timeout=3000"]);
    let plane = plane(&[etcd.url()], &namespace()).await;
    assert_eq!(plane.capabilities().expiry_granularity, Duration::from_secs(3), "as of the default timing");
    registered(&plane, &record("dc-1", 2)).await;
    assert_eq!(plane.capabilities().expiry_granularity, Duration::from_secs(6));
}
