//! P5: no silent gap. A plane without a watch must say so; that is all these checks then ask.

use dc_core::{DataCenterId, DataCenterState};

use super::{Harness, ground::*};
use crate::{ControlPlane, Error, Expected, Removal, WatchEvent, codec};

/// P5: on an empty store the end of the replay comes at once.
pub async fn p5_an_empty_store_replays_to_its_end(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let Some((mut watcher, replay)) = ground.watch(&plane).await else { return };
    assert!(matches!(replay[..], [WatchEvent::ReplayDone { .. }]), "P5: an empty store replays {replay:?}");
    assert_eq!(watcher.replayed_to().store, plane.store().await.expect("store"), "P5: as of this store");
    let record = create(&plane, &sample("dc-1")).await;
    assert_same("P5: what follows", &watcher.put(record.id()).await, &record);
}

/// P5: the replay shows every record and intent, then says as of when.
pub async fn p5_the_replay_shows_what_is_there(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let one = create(&plane, &sample("dc-1")).await;
    let two = moved(&plane, &create(&plane, &sample("dc-2")).await, DataCenterState::Inactive).await;
    let word = plane.set_state(one.id(), DataCenterState::Draining, operator()).await.expect("set_state");
    ground.listed(&reader, two.version).await;
    let Some((watcher, replay)) = ground.watch(&reader).await else { return };
    let mut shown = Vec::new();
    let mut intents = Vec::new();
    for event in replay {
        match event {
            WatchEvent::Put(record) => shown.push(record),
            WatchEvent::Intent(held) => intents.push(held),
            WatchEvent::ReplayDone { as_of } => assert!(as_of >= two.version, "P5: as of {as_of}: {word:?}"),
            other => panic!("P5: the replay shows {other:?}"),
        }
    }
    shown.sort_by_key(|record| record.version.revision);
    assert_eq!(shown.len(), 2, "P5: the replay shows every record once: {shown:?}");
    assert_same("P5: the replay", &shown[0], &one);
    assert_same("P5: the replay", &shown[1], &two);
    assert_eq!(intents.len(), 1, "P5: the replay shows every intent");
    assert_eq!(intents[0].id, *one.id());
    drop(watcher);
}

/// P5: the replay shows nothing that was removed or has expired.
pub async fn p5_the_replay_leaves_out_what_is_gone(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let removed = create(&plane, &sample("removed")).await;
    let expired = create_for(&plane, "expired", ground.harness.ttl()).await;
    let stays = create(&plane, &sample("stays")).await;
    plane.deregister(removed.id(), removed.version).await.expect("deregister");
    ground.outlive(&plane).await;
    ground.gone(&reader, removed.id()).await;
    ground.gone(&reader, expired.id()).await;
    let Some((_, replay)) = ground.watch(&reader).await else { return };
    let mut shown = Vec::new();
    for event in replay {
        match event {
            WatchEvent::Put(record) => shown.push(record),
            // A trace of what is gone may be told as gone.
            WatchEvent::Removed { id, .. } => assert_ne!(id, *stays.id(), "P5: a living record is told as gone"),
            _ => {}
        }
    }
    assert_eq!(shown, [stays], "P5: the replay shows what is there");
}

/// P5: changes of several records come in version order; the last state of each is among them.
pub async fn p5_changes_come_in_order(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let watching = ground.watch(&reader).await;
    let mut records = Vec::new();
    for n in 0..4 {
        records.push(create(&plane, &sample(&format!("dc-{n}"))).await);
    }
    for round in 0..10 {
        for record in &mut records {
            *record = write(&plane, &taken_over(record, round), Expected::Version(record.version)).await;
        }
    }
    let Some((mut watcher, _)) = watching else { return };
    // The watcher checks the order of all that it passes over.
    let last = records.last().expect("not empty").clone();
    let mut latest: Vec<Option<_>> = vec![None; records.len()];
    while latest.last() != Some(&Some(last.version)) {
        let WatchEvent::Put(found) = watcher.next().await else { continue };
        let at = records.iter().position(|record| record.id() == found.id()).expect("P5: a record of a stranger");
        latest[at] = Some(found.version);
    }
    let wanted: Vec<_> = records.iter().map(|record| Some(record.version)).collect();
    assert_eq!(latest, wanted, "P5: the last state of each record is shown, in order");
}

/// P5: a removal is seen, as what it is, above the version that it removed.
pub async fn p5_a_removal_is_seen(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let watching = ground.watch(&reader).await;
    let record = create(&plane, &sample("dc-1")).await;
    plane.deregister(record.id(), record.version).await.expect("deregister");
    let Some((mut watcher, _)) = watching else { return };
    let (version, why) = watcher.removed(record.id()).await;
    assert!(version > record.version, "P5: removed at {version}, written at {}", record.version);
    assert_ne!(why, Removal::Expired, "P5: a deregistration is told as an expiry");
}

/// P5: a record that is removed and at once created again ends as there, with its last version.
pub async fn p5_a_quick_return_is_not_lost(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let watching = ground.watch(&reader).await;
    let mut record = create(&plane, &sample("dc-1")).await;
    for n in 0..5 {
        plane.deregister(record.id(), record.version).await.expect("deregister");
        record = create(&plane, &taken_over(&record, n)).await;
    }
    let Some((mut watcher, _)) = watching else { return };
    // The first write may have been overwritten before it was shown.
    let mut there = true;
    let shown = watcher
        .find(|event| match event {
            WatchEvent::Put(found) => {
                there = true;
                (found.version == record.version).then_some(found)
            }
            WatchEvent::Removed { .. } => {
                assert!(there, "P5: removed twice");
                there = false;
                None
            }
            _ => None,
        })
        .await;
    assert_same("P5", &shown, &record);
}

/// P5: several watchers, of one client and of others, see the same.
pub async fn p5_several_watchers_see_the_same(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let mut watchers = Vec::new();
    for plane in [&plane, &reader, &reader] {
        let Some((watcher, _)) = ground.watch(plane).await else { return };
        watchers.push(watcher);
    }
    let one = create(&plane, &sample("dc-1")).await;
    let two = create(&reader, &sample("dc-2")).await;
    for watcher in &mut watchers {
        assert_same("P5", &watcher.put(one.id()).await, &one);
        assert_same("P5", &watcher.put(two.id()).await, &two);
    }
    // Not before all have seen it: a state that is overwritten meanwhile may be skipped.
    plane.deregister(two.id(), two.version).await.expect("deregister");
    for watcher in &mut watchers {
        watcher.removed(two.id()).await;
    }
}

/// P5: dropping a watch ends it, and nothing else.
pub async fn p5_a_dropped_watch_ends_alone(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    for _ in 0..20 {
        drop(ground.watch_from_start(&plane).await);
    }
    let watching = ground.watch(&plane).await;
    drop(ground.watch(&plane).await);
    let record = create(&plane, &sample("dc-1")).await;
    ground.read(&plane, record.id(), record.version).await;
    let Some((mut watcher, _)) = watching else { return };
    assert_same("P5", &watcher.put(record.id()).await, &record);
}

/// P5: something that cannot be decoded reaches watchers as skipped; what follows still comes. Needs the hook `raw`.
pub async fn p5_a_corrupt_record_reaches_watchers_as_skipped(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let watching = ground.watch(&reader).await;
    let key = format!("{}dc-0", codec::RECORDS);
    ground.harness.write_raw(&ground.store, &key, b"{not json").await;
    let record = create(&plane, &sample("dc-1")).await;
    let Some((mut watcher, _)) = watching else { return };
    let corrupt = watcher.skipped().await;
    let id: DataCenterId = "dc-0".parse().expect("a legal id");
    assert!(corrupt.key.contains(id.as_str()), "P6: the report names the key: {corrupt}");
    assert_same("P5", &watcher.put(record.id()).await, &record);
}

/// P5: a watch goes on after a restart of the store, or ends with `WatchLost`. Needs the hook `outage`.
pub async fn p5_a_watch_outlives_a_restart_or_says_so(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let Some((mut watcher, _)) = ground.watch(&reader).await else { return };
    let before = create(&plane, &sample("before")).await;
    assert_same("P5", &watcher.put(before.id()).await, &before);
    ground.harness.stop_store(&ground.store).await;
    ground.harness.start_store(&ground.store).await;
    let after = ground.until("a write after the restart", async || created_again(&plane, "after").await).await;
    loop {
        match watcher.step().await {
            Some(Ok(WatchEvent::Put(found))) if found.id() == after.id() => break,
            Some(Ok(WatchEvent::Removed { id, .. })) => panic!("P5: {id} was told as gone"),
            Some(Ok(_)) => {}
            Some(Err(Error::WatchLost { .. })) => break,
            other => panic!("P5: a restart ends a watch with WatchLost or not at all, got {other:?}"),
        }
    }
    let replay = ground.until("a watch after the restart", async || reader.watch().await.ok()).await;
    drop(replay);
}

/// P5: a store that was wiped ends the watch with `WatchLost`. Needs the hook `wipe`.
pub async fn p5_a_watch_does_not_miss_a_wipe(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let Some((mut watcher, _)) = ground.watch(&reader).await else { return };
    let record = create(&plane, &sample("dc-1")).await;
    watcher.put(record.id()).await;
    ground.harness.wipe_store(&ground.store).await;
    ground.until("a write after the wipe", async || created_again(&plane, "after").await).await;
    loop {
        match watcher.step().await {
            Some(Ok(WatchEvent::Removed { id, .. })) if id == *record.id() => {}
            Some(Ok(_)) => {}
            Some(Err(Error::WatchLost { .. })) => break,
            other => panic!("P5: a wiped store ends a watch with WatchLost, got {other:?}"),
        }
    }
}

/// P5: an idle watch says that it is in step, so that an idle healthy system is never taken for stale.
pub async fn p5_an_idle_watch_says_that_it_is_in_step(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let Some((mut watcher, _)) = ground.watch(&plane).await else { return };
    for _ in 0..2 {
        let claimed = watcher.claims_to_be_in_step(ground.harness.patience()).await;
        assert!(claimed, "P5: an idle watch never says that it is in step");
    }
}

/// P5: an open silent connection is no proof: nothing is claimed while the store is frozen. Needs the hook `freeze`.
pub async fn p5_no_step_is_claimed_while_the_store_is_frozen(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let Some((mut watcher, _)) = ground.watch(&plane).await else { return };
    ground.harness.freeze_store(&ground.store).await;
    let timeout = ground.harness.request_timeout();
    // What was on its way when the store froze; a plane that goes on claiming does so for ever.
    for claims in 0..10 {
        if !watcher.claims_to_be_in_step(timeout).await {
            break;
        }
        assert!(claims < 9, "P5: a frozen store is claimed to be in step, again and again");
    }
    let claimed = watcher.claims_to_be_in_step(timeout * 4).await;
    assert!(!claimed, "P5: a frozen store is claimed to be in step");
    ground.harness.unfreeze_store(&ground.store).await;
}
