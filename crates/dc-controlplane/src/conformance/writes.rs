//! P1, P2: versions, and what they fence.

use std::{collections::HashSet, time::Duration};

use dc_core::{DataCenter, DataCenterRecord, DataCenterState, Epoch, NodeEndpoint, NodeId, StoreId, Version};
use futures::future::join;

use super::{Harness, ground::*};
use crate::{ControlPlane, Error, Expected, Writer, codec};

/// P1: each accepted write returns a higher version than the one before.
pub async fn p1_each_write_has_a_higher_version(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let mut record = create(&plane, &sample("dc-1")).await;
    for n in 0..10_u64 {
        let change = DataCenterRecord { epoch: Epoch(n + 2), ..record.clone() };
        let next = write(&plane, &change, Expected::Version(record.version)).await;
        assert!(next.version > record.version, "P1: {} follows {}", next.version, record.version);
        record = next;
    }
    let drained = moved(&plane, &record, DataCenterState::Draining).await;
    assert!(drained.version > record.version, "P1: {} follows {}", drained.version, record.version);
    assert_same("P1", &ground.read(&plane, record.id(), drained.version).await, &drained);
}

/// P1: a record that is deleted and created again goes on with higher versions.
pub async fn p1_versions_grow_across_deletion_and_creation(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let mut last = no_version();
    for round in 0..4 {
        let record = create(&plane, &sample("dc-1")).await;
        assert!(round == 0 || record.version > last, "P1: created at {} after {last}", record.version);
        plane.deregister(record.id(), record.version).await.expect("deregister");
        last = record.version;
    }
}

/// P1: a record that expired and is created again goes on with higher versions.
pub async fn p1_versions_grow_across_expiry_and_creation(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let first = create_for(&plane, "dc-1", ground.harness.ttl()).await;
    let first = DataCenterRecord { version: plane.heartbeat(&first).await.expect("heartbeat"), ..first };
    ground.outlive(&plane).await;
    ground.gone(&plane, first.id()).await;
    let second = create(&plane, &sample("dc-1")).await;
    assert!(second.version > first.version, "P1: created at {} after {}", second.version, first.version);
}

/// P1: the clients of one store agree on its id, which is part of every version.
pub async fn p1_two_clients_see_one_store_id(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (one, two) = (ground.plane().await, ground.plane().await);
    let (id, same) = join(one.store(), two.store()).await;
    let id = id.expect("store");
    assert_eq!(id, same.expect("store"), "P1: two clients that open a store at once agree on its id");
    assert_eq!(id, one.store().await.expect("store"), "P1: the id stays");
    let record = create(&one, &sample("dc-1")).await;
    assert_eq!(record.version.store, id, "P1: a version names its store");
    assert_eq!(ground.listed(&two, record.version).await.as_of.store, id, "P1: a list names its store");
    let later = ground.plane().await;
    assert_eq!(later.store().await.expect("store"), id, "P1: the id is written once");
}

/// P1: two stores have two ids.
pub async fn p1_another_store_has_another_id(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let other = ground.harness.fresh().await;
    let here = ground.plane().await.store().await.expect("store");
    let there = ground.harness.open(&other).await.store().await.expect("store");
    assert_ne!(here, there, "P1: two stores share one id");
}

/// P2: a write that names an older version is refused and changes nothing.
pub async fn p2_stale_write_is_refused(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, rival) = (ground.plane().await, ground.plane().await);
    let old = create(&plane, &sample("dc-1")).await;
    let new = write(&plane, &taken_over(&old, 2), Expected::Version(old.version)).await;

    let stale = rival.register(&taken_over(&old, 3), Expected::Version(old.version)).await;

    let stored = conflict("P2", stale).expect("P2: a conflict carries what is stored");
    assert_same("P2: what the conflict carries", &stored, &new);
    assert_same("P2: the refused write left a mark", &ground.read(&rival, new.id(), new.version).await, &new);
}

/// P2: an owner that names an older version cannot move the state.
pub async fn p2_stale_owner_cannot_move_the_state(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let old = create(&plane, &sample("dc-1")).await;
    let new = moved(&plane, &old, DataCenterState::Draining).await;
    let by = Writer::Owner { node: old.owner.node, seen: old.version };
    let stale = plane.set_state(old.id(), DataCenterState::Inactive, by).await;
    assert_same("P2", &conflict("P2", stale).expect("P2: a conflict carries what is stored"), &new);
    assert_same("P2: unchanged", &ground.read(&plane, new.id(), new.version).await, &new);
}

/// P2: creating what exists is a conflict.
pub async fn p2_creating_what_exists_is_a_conflict(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, rival) = (ground.plane().await, ground.plane().await);
    let first = create(&plane, &sample("dc-1")).await;
    let second = rival.register(&taken_over(&first, 2), Expected::Absent).await;
    assert_same("P2", &conflict("P2", second).expect("P2: a conflict carries what is stored"), &first);
    assert_same("P2: unchanged", &ground.read(&rival, first.id(), first.version).await, &first);
}

/// P2: a write that names the version of a record that is gone is a conflict, and creates nothing.
pub async fn p2_updating_what_is_not_there_is_a_conflict(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let record = create(&plane, &sample("dc-1")).await;
    plane.deregister(record.id(), record.version).await.expect("deregister");
    let late = plane.register(&record, Expected::Version(record.version)).await;
    assert_eq!(conflict("P2", late), None, "P2: nothing is stored");
    let never = sample("dc-2");
    let invented = plane.register(&never, Expected::Version(record.version)).await;
    assert_eq!(conflict("P2", invented), None, "P2: nothing is stored");
    let listing = ground.listed(&plane, record.version).await;
    assert!(listing.records.iter().all(|found| found.id() != never.id()), "P2: a refused write left a record");
    ground.gone(&plane, record.id()).await;
}

/// P2: a version of another store is no version of this one, whatever its number.
pub async fn p2_version_of_another_store_is_refused(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let record = create(&plane, &sample("dc-1")).await;
    let foreign = Version::new(StoreId(!record.version.store.0), record.version.revision);
    conflict("P2", plane.register(&taken_over(&record, 2), Expected::Version(foreign)).await);
    conflict("P2", plane.heartbeat(&DataCenterRecord { version: foreign, ..record.clone() }).await);
    conflict("P2", plane.deregister(record.id(), foreign).await);
    let by = Writer::Owner { node: record.owner.node, seen: foreign };
    conflict("P2", plane.set_state(record.id(), DataCenterState::Draining, by).await);
    assert_same("P2: unchanged", &ground.read(&plane, record.id(), record.version).await, &record);
}

/// Awaits both at once; in odd rounds the second is sent first.
async fn join_in_turn<A, B>(round: u128, a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    if round.is_multiple_of(2) {
        join(a, b).await
    } else {
        let (b, a) = join(b, a).await;
        (a, b)
    }
}

/// P2: of two clients that take a record over from one version, one wins, and the other learns who.
pub async fn p2_racing_takeovers_have_one_winner(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (one, two) = (ground.plane().await, ground.plane().await);
    let mut held = create(&one, &sample("dc-1")).await;
    for round in 0..15 {
        let (ours, theirs) = (taken_over(&held, 10), taken_over(&held, 20));
        let expected = Expected::Version(held.version);
        let (our_write, their_write) = (one.register(&ours, expected), two.register(&theirs, expected));
        let (first, second) = join_in_turn(round, our_write, their_write).await;
        let (winner, version, loser) = match (first, second) {
            (Ok(version), loser @ Err(_)) => (ours, version, loser),
            (loser @ Err(_), Ok(version)) => (theirs, version, loser),
            both => panic!("P2: round {round}: one of two must win, got {both:?}"),
        };
        held = DataCenterRecord { version, ..winner };
        let told = conflict("P2: the loser", loser).expect("P2: a conflict carries what is stored");
        assert_same("P2: what the loser is told", &told, &held);
        assert_same("P2: what is stored", &ground.read(&two, held.id(), held.version).await, &held);
    }
}

/// P2: of several clients that create one record, one wins.
pub async fn p2_racing_creations_have_one_winner(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let planes = [ground.plane().await, ground.plane().await, ground.plane().await];
    for round in 0..5 {
        let fresh = sample(&format!("dc-{round}"));
        let creations = planes.iter().zip(1..).map(|(plane, n)| {
            let mine = taken_over(&fresh, n);
            async move { (plane.register(&mine, Expected::Absent).await, mine) }
        });
        let mut winners = Vec::new();
        for (answer, mine) in futures::future::join_all(creations).await {
            match answer {
                Ok(version) => winners.push(DataCenterRecord { version, ..mine }),
                lost => drop(conflict("P2: a loser", lost)),
            }
        }
        assert_eq!(winners.len(), 1, "P2: round {round}: one of three must win, got {winners:?}");
        let stored = ground.read(&planes[0], fresh.id(), winners[0].version).await;
        assert_same("P2: what is stored", &stored, &winners[0]);
    }
}

/// P2: a renewal that races with a takeover never undoes it.
pub async fn p2_a_renewal_that_races_with_a_takeover_never_undoes_it(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (owner, rival) = (ground.plane().await, ground.plane().await);
    let mut held = create(&owner, &sample("dc-1")).await;
    for round in 0..15 {
        let taken = taken_over(&held, 2 + round);
        let takeover = rival.register(&taken, Expected::Version(held.version));
        let (renewed, takeover) = join_in_turn(round, owner.heartbeat(&held), takeover).await;
        held = match (renewed, takeover) {
            // Taken over; the renewal came before, or was refused.
            (Ok(_), Ok(version)) => DataCenterRecord { version, ..taken },
            (renewed @ Err(_), Ok(version)) => {
                drop(conflict("P2: the renewal", renewed));
                DataCenterRecord { version, ..taken }
            }
            // The renewal gave the record another version, which the takeover did not name.
            (Ok(version), takeover @ Err(_)) => {
                drop(conflict("P2: the takeover", takeover));
                DataCenterRecord { version, ..held }
            }
            both => panic!("P2: round {round}: one of two must win, got {both:?}"),
        };
        assert_same("P2", &ground.read(&rival, held.id(), held.version).await, &held);
    }
}

/// P10: a goodbye that races with a takeover removes the version that it names, or nothing.
pub async fn p10_a_goodbye_that_races_with_a_takeover_removes_what_it_names_or_nothing(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (owner, rival) = (ground.plane().await, ground.plane().await);
    for round in 0..10 {
        let held = create(&owner, &sample(&format!("dc-{round}"))).await;
        let taken = taken_over(&held, 2);
        let takeover = rival.register(&taken, Expected::Version(held.version));
        let (goodbye, takeover) = join_in_turn(round, owner.deregister(held.id(), held.version), takeover).await;
        match (goodbye, takeover) {
            (Ok(()), takeover @ Err(_)) => {
                assert_eq!(conflict("P10: the takeover", takeover), None, "P10: nothing is stored");
                ground.gone(&rival, held.id()).await;
            }
            (goodbye @ Err(_), Ok(version)) => {
                drop(conflict("P10: the goodbye", goodbye));
                let taken = DataCenterRecord { version, ..taken };
                assert_same("P10", &ground.read(&owner, held.id(), version).await, &taken);
            }
            both => panic!("P10: round {round}: one of two must win, got {both:?}"),
        }
    }
}

/// P2: a record of as many endpoints as are allowed is stored, renewed, listed and watched.
pub async fn p2_the_largest_record_is_stored(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let watching = ground.watch(&reader).await;
    let mut large = sample("large");
    large.endpoints = (0..DataCenterRecord::MAX_ENDPOINTS)
        .map(|n| {
            let endpoint = format!("node-{n}.some-rack.datacenter-one.example:7946").parse().expect("a legal sample");
            NodeEndpoint::new(NodeId(u128::MAX - n as u128), endpoint)
        })
        .collect();
    let mut large = create(&plane, &large).await;
    if let Some((mut watcher, _)) = watching {
        assert_same("P5", &watcher.put(large.id()).await, &large);
    }
    large.version = plane.heartbeat(&large).await.expect("heartbeat");
    assert_same("P2", &ground.read(&reader, large.id(), large.version).await, &large);
    let listing = ground.listed(&reader, large.version).await;
    assert_same("P6", &listing.records[0], &large);
}

/// P2: a record without endpoints is refused before it is sent, by name of the field.
pub async fn p2_a_record_without_endpoints_is_refused(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let record = DataCenterRecord { endpoints: vec![], ..sample("dc-1") };
    match plane.register(&record, Expected::Absent).await {
        Err(Error::Invalid(invalid)) => assert_eq!(invalid.field, "endpoints"),
        other => panic!("a record without endpoints: expected Invalid, got {other:?}"),
    }
    assert_eq!(plane.get(record.id()).await.expect("get"), None, "the refused record was stored");
}

/// P2: a lease of no length, or of weeks, is refused before it is sent.
pub async fn p2_a_lease_out_of_bounds_is_refused(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    for ttl in [Duration::ZERO, Duration::from_millis(99), Duration::from_secs(86_401), Duration::MAX] {
        let record = DataCenterRecord { ttl, ..sample("dc-1") };
        match plane.register(&record, Expected::Absent).await {
            Err(Error::Invalid(invalid)) => assert_eq!(invalid.field, "lease ttl"),
            other => panic!("a lease of {ttl:?}: expected Invalid, got {other:?}"),
        }
    }
}

/// P2: every field of a record reads back as written, by get and in the list.
pub async fn p2_a_record_reads_back_as_written(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let data_center = DataCenter::new("dc-1")
        .region("eu")
        .zone("az a")
        .label("tier", "edge")
        .label("a/b.c_d", "ü \"x\" \\ '")
        .build();
    let mut record = sample_of(data_center.expect("a legal sample"));
    record.state = DataCenterState::Draining;
    record.epoch = Epoch(u64::MAX);
    record.handed_over = true;
    record.written_at_ms = 1;
    record.ttl = Duration::from_millis(86_399_000);
    record.endpoints[1].weight = 0;
    record.endpoints[0].node = NodeId(u128::MAX);
    record.endpoints[0].endpoint = "[2001:db8::1]:7946".parse().expect("a legal sample");
    let record = create(&plane, &record).await;
    let read = ground.read(&reader, record.id(), record.version).await;
    assert_eq!(read, record, "a record reads back as written");
    let listing = ground.listed(&reader, record.version).await;
    assert_eq!(listing.records, [record], "a record is listed as written");
}

/// P2: names that differ only in odd characters are different records.
pub async fn p2_odd_names_are_told_apart(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let long = "z".repeat(63);
    let wide = "ü".repeat(31);
    let names = [
        "dc",
        "DC",
        "d.c",
        "d/c",
        "d c",
        "d*c",
        ">",
        "*",
        "d>c",
        "d%c",
        "d%2Fc",
        "d_c",
        "d=c",
        "d=2Fc",
        "$KV",
        "_",
        "dc'; --",
        "\"dc\"",
        "数据中心",
        "🏢",
        "-",
        ".",
        "..",
        "a.b.c",
        "#",
        "?x=1",
        "\\",
        &long,
        &wide,
    ];
    let mut stored = Vec::new();
    for name in names {
        let plain = DataCenter::new(name).build().expect(name);
        let placed = DataCenter::new(name).region(name).zone(name).build().expect(name);
        let unzoned = DataCenter::new("n").zone(name).build().expect(name);
        for data_center in [plain, placed, unzoned] {
            let record = plane.register(&sample_of(data_center.clone()), Expected::Absent).await;
            let version = record.unwrap_or_else(|err| panic!("{data_center:?}: {err}"));
            stored.push(DataCenterRecord { version, ..sample_of(data_center) });
        }
    }
    let newest = stored.last().expect("not empty").version;
    let listing = ground.listed(&plane, newest).await;
    let listed: HashSet<_> = listing.records.iter().map(|record| record.id().clone()).collect();
    let wanted: HashSet<_> = stored.iter().map(|record| record.id().clone()).collect();
    assert_eq!(listed, wanted, "each odd name is listed once");
    assert_eq!(listing.records.len(), stored.len(), "no name is listed twice");
    for record in &stored {
        assert_same("an odd name", &ground.read(&plane, record.id(), record.version).await, record);
    }
    for record in &stored {
        plane.deregister(record.id(), record.version).await.unwrap_or_else(|err| panic!("{}: {err}", record.id()));
    }
    for record in &stored {
        ground.gone(&plane, record.id()).await;
    }
}

/// P2: fields that a later version wrote are kept through reading, renewing and writing back.
pub async fn p2_unknown_fields_are_kept(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let mut record = sample("dc-1");
    record.unknown.insert("future".to_owned(), serde_json::json!({"deep": [1, "two", null]}));
    let record = create(&plane, &record).await;
    let version = plane.heartbeat(&record).await.expect("heartbeat");
    let read = ground.read(&plane, record.id(), version).await;
    assert_eq!(read.unknown, record.unknown, "unknown fields are kept");
    let drained = moved(&plane, &read, DataCenterState::Draining).await;
    let read = ground.read(&plane, record.id(), drained.version).await;
    assert_eq!(read.unknown, record.unknown, "unknown fields are written back");
}

/// P2: an id that nobody registered is none.
pub async fn p2_get_of_an_unknown_id_is_none(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    assert_eq!(plane.get(sample("nobody").id()).await.expect("get"), None);
    create(&plane, &sample("somebody")).await;
    assert_eq!(plane.get(sample("some").id()).await.expect("get"), None, "a prefix is another id");
}

/// P2: a document of a later version, with fields and a state that we do not know, is read, and kept when written.
///
/// Needs the hook `raw`.
pub async fn p2_fields_and_states_of_a_later_version_are_read(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let record = sample("dc-1");
    let mut doc: serde_json::Value = serde_json::from_slice(&codec::encode_record(&record)).expect("our own document");
    doc["future"] = serde_json::json!({"a": 1});
    doc["state"] = "QUARANTINED".into();
    let key = format!("{}{}", codec::RECORDS, record.id());
    ground.harness.write_raw(&ground.store, &key, doc.to_string().as_bytes()).await;
    let read = ground
        .until("the later version's record", async || {
            let listing = plane.list_all().await.expect("list");
            listing.records.into_iter().find(|found| found.id() == record.id())
        })
        .await;
    assert_eq!(read.state, DataCenterState::Unknown, "an unknown state is read");
    assert_eq!(read.unknown["future"], doc["future"], "an unknown field is read");
    let ours = DataCenterRecord { state: DataCenterState::Active, ..read.clone() };
    let version = plane.register(&ours, Expected::Version(read.version)).await.expect("register");
    let again = ground.read(&plane, record.id(), version).await;
    assert_eq!(again.unknown, read.unknown, "unknown fields are written back");
    assert_eq!(again.state, DataCenterState::Active);
}
