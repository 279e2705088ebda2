//! P3, P4, P7: leases, their end, and renewals.

use std::time::{Duration, Instant};

use dc_core::{DataCenterId, DataCenterRecord, DataCenterState};

use super::{Harness, Skew, ground::*};
use crate::{ControlPlane, Error, Expected, Removal, WatchEvent};

/// A renewal: not before the first instant, not after the second.
struct Renewed {
    sent: Instant,
    answered: Instant,
}

/// Follows an unrenewed record to its end: not before its TTL, not after TTL + granularity.
async fn ends_in_time<H: Harness>(
    ground: &Ground<H>,
    plane: &H::Plane,
    id: &DataCenterId,
    ttl: Duration,
    from: Renewed,
) {
    let granularity = plane.capabilities().expiry_granularity;
    let mut seen_alive = 0;
    loop {
        let asked = ground.now();
        let listing = plane.list_all().await.expect("list");
        let told = ground.now();
        let listed = listing.records.iter().any(|record| record.id() == id);
        if told < from.sent + ttl {
            assert!(listed, "P3: {id} left the list {:?} after a renewal, its TTL is {ttl:?}", told - from.sent);
            seen_alive += 1;
        }
        if asked >= from.answered + ttl + granularity {
            let late = asked - from.answered;
            assert!(!listed, "P3: {id} is listed {late:?} after its renewal, TTL {ttl:?} + {granularity:?}");
            assert_eq!(plane.get(id).await.expect("get"), None, "P3: get shows what expired");
            break;
        }
        ground.harness.advance(ttl / 8).await;
    }
    assert!(seen_alive >= 2, "P3: lists took so long that nothing was checked; give the harness a longer ttl()");
}

/// P3: an unrenewed record leaves the list no earlier than its TTL and no later than TTL + granularity.
pub async fn p3_a_lease_ends_in_time(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let (ttl, sent) = (ground.harness.ttl(), ground.now());
    let record = create_for(&plane, "dc-1", ttl).await;
    let answered = ground.now();
    ground.read(&reader, record.id(), record.version).await;
    ends_in_time(&ground, &reader, record.id(), ttl, Renewed { sent, answered }).await;
}

/// P3: an update and a move of the state start the lease anew, like a registration.
pub async fn p3_an_update_starts_the_lease_anew(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let ttl = ground.harness.ttl();
    let record = create_for(&plane, "dc-1", ttl).await;
    ground.harness.advance(ttl / 2).await;
    let record = write(&plane, &taken_over(&record, 2), Expected::Version(record.version)).await;
    ground.harness.advance(ttl / 2).await;
    let sent = ground.now();
    let record = moved(&plane, &record, DataCenterState::Draining).await;
    let answered = ground.now();
    ground.read(&plane, record.id(), record.version).await;
    ends_in_time(&ground, &plane, record.id(), ttl, Renewed { sent, answered }).await;
}

/// P3: heartbeats keep a record alive for as long as they come; then it ends in time.
pub async fn p3_heartbeats_keep_a_record_alive(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let ttl = ground.harness.ttl();
    let mut record = create_for(&plane, "dc-1", ttl).await;
    let mut renewed = Renewed { sent: ground.now(), answered: ground.now() };
    for beat in 0..10 {
        ground.harness.advance(ttl / 3).await;
        renewed.sent = ground.now();
        record.version = plane.heartbeat(&record).await.unwrap_or_else(|err| panic!("P3: heartbeat {beat}: {err}"));
        renewed.answered = ground.now();
        let read = ground.read(&reader, record.id(), record.version).await;
        assert!(read.same_content(&record), "P3: a heartbeat changed the record: {read:?}");
    }
    ends_in_time(&ground, &reader, record.id(), ttl, renewed).await;
}

/// P3: what a writer's wall clock says neither ends a lease nor prolongs it.
pub async fn p3_wall_clock_times_in_records_change_nothing(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let (ttl, hour) = (ground.harness.ttl(), 3_600_000);
    let now = crate::wall_ms();
    let times = [("fast", now + hour), ("slow", now.saturating_sub(hour)), ("none", 0), ("end", u64::MAX)];
    let mut written = Vec::new();
    for (name, written_at_ms) in times {
        written.push(create(&plane, &DataCenterRecord { ttl, written_at_ms, ..sample(name) }).await);
    }
    let newest = written.last().expect("not empty").version;
    assert_eq!(ground.listed(&plane, newest).await.records.len(), times.len(), "P3: a wall clock hides a record");
    ground.outlive(&plane).await;
    for record in &written {
        ground.gone(&plane, record.id()).await;
    }
}

/// P3: a client whose wall clock is an hour off writes, renews and reads as any other. Needs the hook `skew`.
pub async fn p3_a_skewed_wall_clock_changes_nothing(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let sober = ground.plane().await;
    let (ttl, hour) = (ground.harness.ttl(), Duration::from_secs(3_600));
    for (name, skew) in [("fast", Skew::Ahead(hour)), ("slow", Skew::Behind(hour))] {
        let skewed = ground.harness.open_skewed(&ground.store, skew).await;
        let sent = ground.now();
        let theirs = create_for(&skewed, name, ttl).await;
        let ours = create_for(&sober, &format!("sober beside {name}"), ttl).await;
        let answered = ground.now();
        ground.read(&sober, theirs.id(), theirs.version).await;
        ground.read(&skewed, ours.id(), ours.version).await;
        ends_in_time(&ground, &sober, theirs.id(), ttl, Renewed { sent, answered }).await;
        ground.gone(&skewed, ours.id()).await;
    }
}

/// P3: an expired record is absent: it can be created again, and the old version is refused.
pub async fn p3_an_expired_record_can_be_created_again(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let old = create_for(&plane, "dc-1", ground.harness.ttl()).await;
    ground.outlive(&plane).await;
    ground.gone(&plane, old.id()).await;
    assert_eq!(conflict("P2", plane.register(&old, Expected::Version(old.version)).await), None);
    let new = create(&plane, &taken_over(&old, 2)).await;
    conflict("P2", plane.register(&old, Expected::Version(old.version)).await);
    assert_same("P3", &ground.read(&plane, new.id(), new.version).await, &new);
}

/// P3: an update with a shorter TTL is kept to the shorter, and with a longer one to the longer.
pub async fn p3_a_shortened_lease_holds(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let ttl = ground.harness.ttl();
    let shortened = create(&plane, &sample("shortened")).await;
    let prolonged = create_for(&plane, "prolonged", ttl).await;
    let version = Expected::Version(prolonged.version);
    let prolonged = write(&plane, &DataCenterRecord { ttl: LONG, ..prolonged }, version).await;
    let version = Expected::Version(shortened.version);
    let sent = ground.now();
    let shortened = write(&plane, &DataCenterRecord { ttl, ..shortened }, version).await;
    let answered = ground.now();
    ground.read(&plane, shortened.id(), shortened.version).await;
    ends_in_time(&ground, &plane, shortened.id(), ttl, Renewed { sent, answered }).await;
    assert_same("P3", &ground.read(&plane, prolonged.id(), prolonged.version).await, &prolonged);
}

/// P4: a watcher learns that a record expired; without a watch, the list does not hold it any more.
pub async fn p4_expiry_is_seen(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let watching = ground.watch(&reader).await;
    let record = create_for(&plane, "dc-1", ground.harness.ttl()).await;
    ground.outlive(&plane).await;
    if let Some((mut watcher, _)) = watching {
        assert_same("P5", &watcher.put(record.id()).await, &record);
        let (version, why) = watcher.removed(record.id()).await;
        assert!(version >= record.version, "P4: removed at {version}, written at {}", record.version);
        assert_ne!(why, Removal::Deregistered, "P4: an expiry is told as a deregistration");
    }
    ground.gone(&reader, record.id()).await;
}

/// P4: the same for a record that was there before the watch, and was kept alive by heartbeats for a while.
pub async fn p4_expiry_after_heartbeats_is_seen(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let ttl = ground.harness.ttl();
    let mut record = create_for(&plane, "dc-1", ttl).await;
    ground.read(&reader, record.id(), record.version).await;
    let watching = ground.watch(&reader).await;
    for _ in 0..5 {
        ground.harness.advance(ttl / 3).await;
        record.version = plane.heartbeat(&record).await.expect("heartbeat");
    }
    let last_beat = ground.now();
    if let Some((mut watcher, _)) = watching {
        let (version, _) = watcher.removed(record.id()).await;
        let after = ground.now() - last_beat;
        let granularity = plane.capabilities().expiry_granularity;
        assert!(version >= record.version, "P4: removed at {version}, renewed at {}", record.version);
        // The heartbeat was taken up to one round trip before it was answered.
        assert!(after + ttl / 4 >= ttl, "P4: a living record was removed {after:?} after its heartbeat");
        let late = ttl + granularity + ttl;
        assert!(after <= late, "P4: told {after:?} after the last heartbeat, TTL {ttl:?} + {granularity:?}");
    }
    ground.outlive(&plane).await;
    ground.gone(&reader, record.id()).await;
}

/// P4: of several records, those that expired are told, and only those.
pub async fn p4_expiry_of_several_is_seen(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let watching = ground.watch(&reader).await;
    let stays = create(&plane, &sample("stays")).await;
    let mut going = Vec::new();
    for n in 0..5 {
        going.push(create_for(&plane, &format!("goes-{n}"), ground.harness.ttl()).await);
    }
    ground.outlive(&plane).await;
    if let Some((mut watcher, _)) = watching {
        let mut left: Vec<_> = going.iter().map(|record| record.id().clone()).collect();
        while !left.is_empty() {
            let gone = watcher
                .find(|event| match event {
                    WatchEvent::Removed { id, .. } => Some(id),
                    _ => None,
                })
                .await;
            assert_ne!(gone, *stays.id(), "P4: a living record was told as expired");
            assert!(left.contains(&gone), "P4: {gone} was told twice");
            left.retain(|id| *id != gone);
        }
    }
    for record in &going {
        ground.gone(&reader, record.id()).await;
    }
    assert_same("P3", &ground.read(&reader, stays.id(), stays.version).await, &stays);
}

/// P7: a heartbeat that names another version is refused, and prolongs nothing.
pub async fn p7_heartbeats_are_fenced(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, rival) = (ground.plane().await, ground.plane().await);
    let ttl = ground.harness.ttl();
    let old = create_for(&plane, "dc-1", ttl).await;
    let sent = ground.now();
    let new = write(&rival, &taken_over(&old, 2), Expected::Version(old.version)).await;
    let answered = ground.now();
    for _ in 0..3 {
        let stored = conflict("P7", plane.heartbeat(&old).await).expect("P2: a conflict carries what is stored");
        assert_same("P7", &stored, &new);
        ground.harness.advance(ttl / 8).await;
    }
    ends_in_time(&ground, &rival, new.id(), ttl, Renewed { sent, answered }).await;
}

/// P7: a heartbeat for a record that was removed, or never was, is not found, and creates nothing.
pub async fn p7_a_heartbeat_without_a_record_is_not_found(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let record = create(&plane, &sample("dc-1")).await;
    let never = DataCenterRecord { version: record.version, ..sample("never") };
    plane.deregister(record.id(), record.version).await.expect("deregister");
    for record in [&record, &never] {
        let answer = plane.heartbeat(record).await;
        assert!(matches!(answer, Err(Error::NotFound { .. })), "P7: {}: got {answer:?}", record.id());
        ground.gone(&plane, record.id()).await;
    }
}

/// P7: a heartbeat after the lease has ended is not found: the record does not come back.
pub async fn p7_a_heartbeat_after_expiry_is_not_found(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let record = create_for(&plane, "dc-1", ground.harness.ttl()).await;
    ground.outlive(&plane).await;
    ground.gone(&plane, record.id()).await;
    let answer = plane.heartbeat(&record).await;
    assert!(matches!(answer, Err(Error::NotFound { .. })), "P7: got {answer:?}");
    ground.gone(&plane, record.id()).await;
}

/// P7: where the capabilities say so, a renewal keeps the version and wakes no watcher.
pub async fn p7_renewals_wake_no_watcher(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let mut record = create(&plane, &sample("dc-1")).await;
    let first = record.version;
    ground.read(&reader, record.id(), first).await;
    let watching = ground.watch(&reader).await;
    for _ in 0..5 {
        let next = plane.heartbeat(&record).await.expect("heartbeat");
        assert!(next >= record.version, "P1: a heartbeat went from {} back to {next}", record.version);
        record.version = next;
    }
    let keeps = plane.capabilities().renewal_keeps_version;
    assert!(!keeps || record.version == first, "P13: capabilities promise that a renewal keeps the version");
    let last = create(&plane, &sample("last")).await;
    if let Some((mut watcher, _)) = watching {
        let woken = watcher
            .find(|event| match event {
                WatchEvent::Put(found) if found.id() == last.id() => Some(false),
                WatchEvent::Put(found) if found.id() == record.id() && keeps => Some(true),
                _ => None,
            })
            .await;
        assert!(!woken, "P7: a renewal woke a watcher, though the capabilities deny it");
    }
}

/// P7: the version that a heartbeat returns is the one that the next write is to name.
pub async fn p7_a_renewed_record_can_be_written(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let mut record = create(&plane, &sample("dc-1")).await;
    for n in 2..6 {
        record.version = plane.heartbeat(&record).await.expect("heartbeat");
        record = write(&plane, &taken_over(&record, n), Expected::Version(record.version)).await;
    }
    record.version = plane.heartbeat(&record).await.expect("heartbeat");
    plane.deregister(record.id(), record.version).await.expect("deregister");
}

/// P7: a heartbeat costs one round trip. Needs the hook `requests`.
pub async fn p7_a_heartbeat_costs_one_round_trip(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let mut record = create(&plane, &sample("dc-1")).await;
    record.version = plane.heartbeat(&record).await.expect("heartbeat");
    let each = ground.harness.requests_per_heartbeat();
    assert!((1..=2).contains(&each), "P7: a heartbeat of {each} requests is not one round trip");
    let beats = 10;
    let before = ground.harness.requests(&ground.store).await;
    for _ in 0..beats {
        record.version = plane.heartbeat(&record).await.expect("heartbeat");
    }
    let cost = ground.harness.requests(&ground.store).await - before;
    assert_eq!(cost, beats * each, "P7: {beats} heartbeats cost {cost} requests");
}
