//! P9, P10: legal moves, and goodbye.

use dc_core::{DataCenterRecord, DataCenterState};

use super::{Harness, ground::*};
use crate::{ControlPlane, Error, Expected, StateChange, Writer};

/// P9: exactly the legal moves succeed; any other is refused by name and changes nothing.
pub async fn p9_only_legal_moves_succeed(harness: impl Harness) {
    use DataCenterState::{Active, Draining, Inactive, Registered};
    let legal = [
        (Registered, Active),
        (Registered, Draining),
        (Registered, Inactive),
        (Active, Draining),
        (Draining, Active),
        (Active, Inactive),
        (Draining, Inactive),
        (Inactive, Active),
    ];
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let mut record = create(&plane, &sample("dc-1")).await;
    for from in [Registered, Active, Draining, Inactive] {
        for to in [Registered, Active, Draining, Inactive].into_iter().filter(|to| *to != from) {
            // Registering is not judged: it sets the scene.
            let scene = DataCenterRecord { state: from, ..record.clone() };
            record = write(&plane, &scene, Expected::Version(record.version)).await;
            let by = Writer::Owner { node: record.owner.node, seen: record.version };
            ground.read(&plane, record.id(), record.version).await;
            match plane.set_state(record.id(), to, by).await {
                Ok(StateChange::Moved(version)) if legal.contains(&(from, to)) => {
                    assert!(version > record.version, "P1: {from} -> {to}");
                    record = DataCenterRecord { state: to, version, ..record };
                }
                Err(Error::IllegalTransition { source, .. }) if !legal.contains(&(from, to)) => {
                    assert_eq!((source.from, source.to), (from, to), "P9: the error names both states");
                }
                other => panic!("P9: {from} -> {to}: {other:?}"),
            }
            assert_same("P9", &ground.read(&plane, record.id(), record.version).await, &record);
        }
    }
}

/// P9: a move to where it is already succeeds and changes nothing.
pub async fn p9_a_move_to_the_same_state_changes_nothing(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let record = create(&plane, &sample("dc-1")).await;
    ground.read(&plane, record.id(), record.version).await;
    let same = moved(&plane, &record, DataCenterState::Active).await;
    assert_eq!(same.version, record.version, "P9: a move to the same state writes nothing");
    assert_same("P9", &ground.read(&plane, record.id(), record.version).await, &record);
}

/// P9: an owner whose record is gone is told so.
pub async fn p9_an_owner_without_a_record_is_not_found(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let record = create(&plane, &sample("dc-1")).await;
    plane.deregister(record.id(), record.version).await.expect("deregister");
    ground.gone(&plane, record.id()).await;
    let by = Writer::Owner { node: record.owner.node, seen: record.version };
    let answer = plane.set_state(record.id(), DataCenterState::Draining, by).await;
    assert!(matches!(answer, Err(Error::NotFound { .. })), "P9: got {answer:?}");
    assert!(plane.list_all().await.expect("list").intents.is_empty(), "P9: a refused move was written as an intent");
}

/// P10: deregistering removes the named version, and nothing else.
pub async fn p10_deregister_removes_the_named_version(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let gone = create(&plane, &sample("gone")).await;
    let stays = create(&plane, &sample("stays")).await;
    plane.deregister(gone.id(), gone.version).await.expect("deregister");
    ground.gone(&reader, gone.id()).await;
    assert_same("P10", &ground.read(&reader, stays.id(), stays.version).await, &stays);
}

/// P10: a late goodbye does not remove its successor's record.
pub async fn p10_deregistering_another_version_is_refused(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, rival) = (ground.plane().await, ground.plane().await);
    let old = create(&plane, &sample("dc-1")).await;
    let new = write(&rival, &taken_over(&old, 2), Expected::Version(old.version)).await;
    let late = plane.deregister(old.id(), old.version).await;
    assert_same("P10", &conflict("P10", late).expect("P2: a conflict carries what is stored"), &new);
    assert_same("P10", &ground.read(&plane, new.id(), new.version).await, &new);
    plane.deregister(new.id(), new.version).await.expect("deregister");
    let again = create(&rival, &sample("dc-1")).await;
    conflict("P10", plane.deregister(new.id(), new.version).await);
    assert_same("P10", &ground.read(&plane, again.id(), again.version).await, &again);
}

/// P10: what is already gone, by goodbye or by expiry, or never was, is success.
pub async fn p10_what_is_gone_is_success(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let record = create(&plane, &sample("dc-1")).await;
    for _ in 0..3 {
        plane.deregister(record.id(), record.version).await.expect("P10: already gone is success");
    }
    plane.deregister(sample("never").id(), record.version).await.expect("P10: never there is success");
    let expired = create_for(&plane, "expired", ground.harness.ttl()).await;
    ground.outlive(&plane).await;
    ground.gone(&plane, expired.id()).await;
    plane.deregister(expired.id(), expired.version).await.expect("P10: expired is success");
}
