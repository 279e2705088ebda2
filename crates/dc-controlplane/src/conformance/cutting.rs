//! P2, P4, P5, P11 for a client whose link is cut while others go on. All need the hook `cut`.

use dc_core::DataCenterRecord;

use super::{Harness, faults::all_calls_end, ground::*};
use crate::{ControlPlane, Error, Expected, Removal, WatchEvent};

/// What a watch that was cut off says in the end: the event that `pick` takes, or that it is lost.
async fn told_or_lost<T>(watcher: &mut Watcher, mut pick: impl FnMut(WatchEvent) -> Option<T>) -> Option<T> {
    loop {
        match watcher.step().await {
            Some(Ok(event)) => {
                if let Some(found) = pick(event) {
                    return Some(found);
                }
            }
            Some(Err(Error::WatchLost { .. })) => return None,
            other => panic!("P5: a cut ends a watch with WatchLost or not at all, got {other:?}"),
        }
    }
}

/// P5: a removal while the watcher is cut off is told afterwards, or the watch is lost.
pub async fn p5_a_removal_while_cut_off_is_not_missed(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.harness.open_cuttable(&ground.store).await);
    let gone = create(&plane, &sample("gone")).await;
    ground.read(&reader, gone.id(), gone.version).await;
    let Some((mut watcher, _)) = ground.watch(&reader).await else { return };
    ground.harness.cut(&ground.store, &reader).await;
    plane.deregister(gone.id(), gone.version).await.expect("deregister");
    // Whatever trace the removal left may go meanwhile.
    ground.harness.advance(ground.harness.ttl() * 2).await;
    let after = create(&plane, &sample("after")).await;
    ground.harness.uncut(&ground.store, &reader).await;
    let mut removed = false;
    told_or_lost(&mut watcher, |event| match event {
        WatchEvent::Removed { id, why, .. } => {
            assert_eq!(id, *gone.id(), "P5: a living record is told as gone");
            assert_ne!(why, Removal::Expired, "P5: a deregistration is told as an expiry");
            removed = true;
            None
        }
        WatchEvent::Put(found) if found.id() == after.id() => {
            assert!(removed, "P5: what came after the removal is told, the removal is not");
            Some(())
        }
        _ => None,
    })
    .await;
}

/// P5: the last state of what changed while the watcher was cut off is told afterwards, or the watch is lost.
pub async fn p5_changes_while_cut_off_are_caught_up(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.harness.open_cuttable(&ground.store).await);
    let mut held = create(&plane, &sample("dc-1")).await;
    ground.read(&reader, held.id(), held.version).await;
    let Some((mut watcher, _)) = ground.watch(&reader).await else { return };
    for round in 0..3 {
        ground.harness.cut(&ground.store, &reader).await;
        for n in 0..20 {
            held = write(&plane, &taken_over(&held, round * 100 + n), Expected::Version(held.version)).await;
        }
        ground.harness.uncut(&ground.store, &reader).await;
        let told = told_or_lost(&mut watcher, |event| match event {
            WatchEvent::Put(found) if found.version == held.version => Some(found),
            WatchEvent::Removed { id, .. } => panic!("P5: {id} was told as gone"),
            _ => None,
        })
        .await;
        match told {
            Some(found) => assert_same("P5", &found, &held),
            None => return,
        }
    }
}

/// P4: a record that expires while the watcher is cut off is told as gone, or the watch is lost.
pub async fn p4_expiry_while_cut_off_is_seen(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.harness.open_cuttable(&ground.store).await);
    let watching = ground.watch(&reader).await;
    let record = create_for(&plane, "dc-1", ground.harness.ttl()).await;
    let Some((mut watcher, _)) = watching else { return };
    watcher.put(record.id()).await;
    ground.harness.cut(&ground.store, &reader).await;
    ground.outlive(&plane).await;
    ground.harness.advance(ground.harness.ttl() * 2).await;
    ground.harness.uncut(&ground.store, &reader).await;
    told_or_lost(&mut watcher, |event| match event {
        WatchEvent::Removed { id, why, .. } if id == *record.id() => {
            assert_ne!(why, Removal::Deregistered, "P4: an expiry is told as a deregistration");
            Some(())
        }
        _ => None,
    })
    .await;
    ground
        .until("the record to be gone", async || {
            let listing = reader.list_all().await.ok()?;
            listing.records.is_empty().then_some(())
        })
        .await;
}

/// P11: each call of a client that is cut off ends within its timeout; the client goes on afterwards (P12).
pub async fn p11_calls_end_in_time_while_cut_off(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.harness.open_cuttable(&ground.store).await;
    let record = create(&plane, &sample("dc-1")).await;
    ground.harness.cut(&ground.store, &plane).await;
    all_calls_end(&ground, &plane, &record, false).await;
    ground.harness.uncut(&ground.store, &plane).await;
    ground.until("an answer after the cut", async || plane.list_all().await.ok()).await;
}

/// P2: an owner that was cut off, and whose record was taken over meanwhile, is refused when it comes back.
pub async fn p2_an_owner_that_was_cut_off_is_fenced(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (rival, owner) = (ground.plane().await, ground.harness.open_cuttable(&ground.store).await);
    let mut old = create(&owner, &sample("dc-1")).await;
    old.version = owner.heartbeat(&old).await.expect("heartbeat");
    ground.harness.cut(&ground.store, &owner).await;
    let new = write(&rival, &taken_over(&old, 2), Expected::Version(old.version)).await;
    let lost = owner.heartbeat(&old).await;
    assert!(lost.as_ref().is_err_and(Error::is_outage), "P11: a client that is cut off was answered: {lost:?}");
    ground.harness.uncut(&ground.store, &owner).await;
    let told: DataCenterRecord = ground
        .until("an answer after the cut", async || match owner.heartbeat(&old).await {
            Err(err) if err.is_outage() => None,
            answer => Some(conflict("P2", answer).expect("P2: a conflict carries what is stored")),
        })
        .await;
    assert_same("P2", &told, &new);
    conflict("P2", owner.register(&old, Expected::Version(old.version)).await);
    conflict("P2", owner.deregister(old.id(), old.version).await);
    assert_same("P2: unchanged", &ground.read(&rival, new.id(), new.version).await, &new);
}
