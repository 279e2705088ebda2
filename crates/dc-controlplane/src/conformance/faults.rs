//! P11, P12: bounded calls, and clients that keep trying.

use std::{fmt::Debug, future::Future, time::Duration};

use dc_core::{DataCenterRecord, DataCenterState, Intent, IntentKind, StoreId};

use super::{Harness, ground::*};
use crate::{ControlPlane, Error, Expected, Removal, WatchEvent};

/// What a call may take beyond the request timeout: scheduling on a busy machine.
const SLACK: Duration = Duration::from_secs(2);

/// One call to `plane` while its store is away: it must end in time (guarantee `number`), and may succeed only where
/// `may_succeed`.
pub(super) async fn ends_as<T: Debug>(
    number: &str,
    what: &str,
    timeout: Duration,
    may_succeed: bool,
    call: impl Future<Output = Result<T, Error>>,
) {
    match within(&format!("{number}: {what} to end within its timeout"), timeout + SLACK, call).await {
        Ok(answer) => assert!(may_succeed, "{number}: {what} succeeded with {answer:?} while the store was away"),
        Err(err) => assert!(err.is_outage() && err.is_retryable(), "{number}: {what}: not told as an outage: {err:?}"),
    }
}

async fn ends<T: Debug>(
    what: &str,
    timeout: Duration,
    may_succeed: bool,
    call: impl Future<Output = Result<T, Error>>,
) {
    ends_as("P11", what, timeout, may_succeed, call).await;
}

/// Makes every call while the store is away; reads may be answered where `reads_go_on`.
pub(super) async fn all_calls_end<H: Harness>(
    ground: &Ground<H>,
    plane: &H::Plane,
    record: &DataCenterRecord,
    reads_go_on: bool,
) {
    let timeout = ground.harness.request_timeout();
    let (id, intent) = (record.id(), Intent::new(IntentKind::Drain, "ann", ""));
    ends("get", timeout, reads_go_on, plane.get(id)).await;
    ends("list", timeout, reads_go_on, plane.list_all()).await;
    ends("register", timeout, false, plane.register(&sample("new"), Expected::Absent)).await;
    ends("heartbeat", timeout, false, plane.heartbeat(record)).await;
    // set_state reads, then writes.
    ends("set_state", timeout * 2, false, plane.set_state(id, DataCenterState::Draining, operator())).await;
    ends("set_intent", timeout, false, plane.set_intent(id, &intent)).await;
    ends("deregister", timeout, false, plane.deregister(record.id(), record.version)).await;
    if plane.capabilities().watch {
        // A watch may open at once and begin once the store is there.
        let watch = async { plane.watch().await.map(drop) };
        ends("watch", timeout, true, watch).await;
    }
}

/// P11: each call ends within its timeout while the store is stopped. Needs the hook `outage`.
pub async fn p11_calls_end_in_time_while_the_store_is_stopped(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let record = create(&plane, &sample("dc-1")).await;
    ground.harness.stop_store(&ground.store).await;
    all_calls_end(&ground, &plane, &record, false).await;
    ground.harness.start_store(&ground.store).await;
}

/// P11: each call ends within its timeout while the store is frozen. Needs the hook `freeze`.
pub async fn p11_calls_end_in_time_while_the_store_is_frozen(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let record = create(&plane, &sample("dc-1")).await;
    ground.harness.freeze_store(&ground.store).await;
    all_calls_end(&ground, &plane, &record, true).await;
    ground.harness.unfreeze_store(&ground.store).await;
}

/// P11: an unanswered write says that its outcome is unknown, or did not land; repeating it is safe. Needs the hook `freeze`.
pub async fn p11_repeating_an_unanswered_write_is_safe(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let held = create(&plane, &sample("dc-1")).await;
    ground.harness.freeze_store(&ground.store).await;
    let takeover = taken_over(&held, 2);
    let unanswered = plane.register(&takeover, Expected::Version(held.version)).await;
    let unanswered = unanswered.expect_err("P11: a frozen store answered");
    assert!(unanswered.is_outage(), "P11: got {unanswered:?}");
    ground.harness.unfreeze_store(&ground.store).await;
    let landed = ground
        .until("an answer to the repeated write", async || {
            match plane.register(&takeover, Expected::Version(held.version)).await {
                Ok(version) => Some(DataCenterRecord { version, ..takeover.clone() }),
                // Our own lost write, told by owner and epoch.
                Err(Error::Conflict { stored: Some(stored), .. }) => Some(*stored),
                Err(err) if err.is_outage() => None,
                Err(err) => panic!("P11: repeating a lost write: {err:?}"),
            }
        })
        .await;
    assert!(landed.same_content(&takeover), "P11: what landed is not what was sent: {landed:?}");
    let stored = ground.read(&plane, held.id(), landed.version).await;
    assert!(stored.same_content(&takeover), "P11: stored {stored:?}");
    assert_eq!(ground.listed(&plane, landed.version).await.records.len(), 1);
}

/// P12: a client goes on after a freeze, without being opened anew. Needs the hook `freeze`.
pub async fn p12_a_client_goes_on_after_a_freeze(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let record = create(&plane, &sample("dc-1")).await;
    ground.harness.freeze_store(&ground.store).await;
    let beat = plane.heartbeat(&record).await;
    assert!(beat.as_ref().is_err_and(Error::is_outage), "P11: a frozen store answered: {beat:?}");
    ground.harness.unfreeze_store(&ground.store).await;
    renew(&ground, &plane, &record).await;
    create(&plane, &sample("dc-2")).await;
}

/// Renews `record`, however long the store takes to be back: a heartbeat whose answer was lost may have landed.
pub(super) async fn renew<H: Harness>(
    ground: &Ground<H>,
    plane: &H::Plane,
    record: &DataCenterRecord,
) -> DataCenterRecord {
    let mut record = record.clone();
    ground
        .until("a heartbeat after the outage", async || match plane.heartbeat(&record).await {
            Ok(version) => Some(DataCenterRecord { version, ..record.clone() }),
            Err(Error::Conflict { stored: Some(stored), .. }) => {
                assert!(stored.same_content(&record), "P2: stored {stored:?}");
                record = *stored;
                None
            }
            Err(err) if err.is_outage() => None,
            Err(err) => panic!("P12: after the outage: {err:?}"),
        })
        .await
}

/// P12: a client goes on after a restart of its store, which keeps its data and its id. Needs the hook `outage`.
pub async fn p12_a_client_goes_on_after_a_restart(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let id = plane.store().await.expect("store");
    let record = create(&plane, &sample("dc-1")).await;
    let word = plane.set_intent(record.id(), &Intent::new(IntentKind::Drain, "ann", "")).await.expect("set_intent");
    for _ in 0..2 {
        ground.harness.stop_store(&ground.store).await;
        let away = plane.get(record.id()).await;
        assert!(away.as_ref().is_err_and(Error::is_outage), "P11: a stopped store answered: {away:?}");
        ground.harness.start_store(&ground.store).await;
        let record = renew(&ground, &plane, &record).await;
        let listing = ground.listed(&plane, record.version).await;
        assert_eq!(listing.records.len(), 1, "P12: a restart loses nothing");
        assert_eq!(listing.intents.first().map(|held| held.version), Some(word), "P8: a restart loses no intent");
        assert_eq!(listing.as_of.store, id, "P1: a restart is no new store");
    }
}

/// P12: a client can be opened while its store is stopped, and works once it is there. Needs the hook `outage`.
pub async fn p12_a_client_opens_while_the_store_is_stopped(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    create(&ground.plane().await, &sample("dc-1")).await;
    ground.harness.stop_store(&ground.store).await;
    let plane = ground.plane().await;
    ends("list", ground.harness.request_timeout(), false, plane.list_all()).await;
    ground.harness.start_store(&ground.store).await;
    let listing = ground.until("a list after the start", async || plane.list_all().await.ok()).await;
    assert_eq!(listing.records.len(), 1, "P12: the client works once its store is there");
}

/// P12: an outage longer than the lease: the record is renewed or created again. Needs the hook `outage`.
pub async fn p12_an_outage_longer_than_the_lease_is_survived(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let mut record = create_for(&plane, "dc-1", ground.harness.ttl()).await;
    ground.harness.stop_store(&ground.store).await;
    ground.outlive(&plane).await;
    ground.harness.start_store(&ground.store).await;
    let before = record.version;
    record.ttl = LONG;
    let after = ground
        .until("the record to be there again", async || match plane.register(&record, Expected::Absent).await {
            Ok(version) => Some(version),
            // Not expired yet, or our own lost write.
            Err(Error::Conflict { stored: Some(stored), .. }) if stored.version != before => Some(stored.version),
            Err(Error::Conflict { .. }) => None,
            Err(err) if err.is_outage() => None,
            Err(err) => panic!("P12: after the outage: {err:?}"),
        })
        .await;
    assert!(after > before, "P1: created at {after} after {before}");
    ground.read(&plane, record.id(), after).await;
}

/// P4: a record that expires while the store is stopped is told as gone, or the watch is lost. Needs the hook `outage`.
pub async fn p4_expiry_during_an_outage_is_seen(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let watching = ground.watch(&reader).await;
    let record = create_for(&plane, "dc-1", ground.harness.ttl()).await;
    if let Some((mut watcher, _)) = watching {
        watcher.put(record.id()).await;
        ground.harness.stop_store(&ground.store).await;
        ground.outlive(&plane).await;
        ground.harness.start_store(&ground.store).await;
        loop {
            match watcher.step().await {
                Some(Ok(WatchEvent::Removed { id, why, .. })) if id == *record.id() => {
                    assert_ne!(why, Removal::Deregistered, "P4: an expiry is told as a deregistration");
                    break;
                }
                Some(Ok(_)) => {}
                Some(Err(Error::WatchLost { .. })) => break,
                other => panic!("P4: an expiry during an outage: {other:?}"),
            }
        }
    } else {
        ground.harness.stop_store(&ground.store).await;
        ground.outlive(&plane).await;
        ground.harness.start_store(&ground.store).await;
    }
    ground
        .until("the record to be gone", async || {
            let listing = plane.list_all().await.ok()?;
            listing.records.is_empty().then_some(())
        })
        .await;
}

/// P1: a store that lost its data is another store: versions of the old one are refused. Needs the hook `wipe`.
pub async fn p1_a_wiped_store_has_another_id(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let old: StoreId = plane.store().await.expect("store");
    let record = create(&plane, &sample("dc-1")).await;
    ground.harness.wipe_store(&ground.store).await;
    let listing = ground
        .until("a list of the new store", async || {
            plane.list_all().await.ok().filter(|listing| listing.as_of.store != old)
        })
        .await;
    assert!(listing.records.is_empty(), "P1: a wiped store lists {:?}", listing.records);
    assert_ne!(plane.store().await.expect("store"), old, "P1: the plane notices");
    let late = plane.heartbeat(&record).await;
    assert!(matches!(late, Err(Error::NotFound { .. } | Error::Conflict { .. })), "P2: got {late:?}");
    conflict("P2", plane.register(&record, Expected::Version(record.version)).await);
    let new = create(&plane, &record).await;
    assert_eq!(new.version.store, listing.as_of.store, "P1: new versions name the new store");
    conflict("P2", plane.register(&record, Expected::Version(record.version)).await);
    let fresh = ground.plane().await;
    assert_eq!(fresh.store().await.expect("store"), new.version.store, "P1: clients agree on the new id");
}

/// P11: a call may be dropped at any time: its write lands whole or not at all, and the client works on.
pub async fn p11_a_dropped_call_harms_nothing(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let mut held = create(&plane, &sample("dc-1")).await;
    for round in 0..10_u32 {
        let takeover = taken_over(&held, u128::from(round) + 2);
        {
            let mut write = plane.register(&takeover, Expected::Version(held.version));
            // Polled a few times, then dropped: before, while or after the request is on its way.
            for _ in 0..=round {
                if futures::poll!(write.as_mut()).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        // The same write again: it is accepted, or our own dropped write is in its place.
        match plane.register(&takeover, Expected::Version(held.version)).await {
            Ok(version) => held = DataCenterRecord { version, ..takeover },
            Err(Error::Conflict { stored: Some(stored), .. }) => {
                assert!(stored.same_content(&takeover), "P11: a dropped write landed in part: {stored:?}");
                held = *stored;
            }
            other => panic!("P11: after a dropped call: {other:?}"),
        }
    }
    let last = ground.read(&plane, held.id(), held.version).await;
    assert!(last.same_content(&held), "P11: stored {last:?}");
}
