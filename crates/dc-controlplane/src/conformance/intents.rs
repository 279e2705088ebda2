//! P8: the operator's word stands.

use dc_core::{DataCenterRecord, DataCenterState, Intent, IntentKind, Version};

use super::{Harness, ground::*};
use crate::{ControlPlane, Error, HeldIntent, StateChange, WatchEvent, Writer};

/// Waits until the list holds an intent for `record`'s datacenter at `version`; returns it.
async fn held<H: Harness>(ground: &Ground<H>, plane: &H::Plane, of: &DataCenterRecord, version: Version) -> HeldIntent {
    ground
        .until("the intent in the list", async || {
            let listing = plane.list_all().await.expect("list");
            let mut held = listing.intents.into_iter().filter(|held| held.id == *of.id());
            let first = held.next();
            assert_eq!(held.next(), None, "P8: one intent for each datacenter");
            first.filter(|held| held.version >= version)
        })
        .await
}

#[track_caller]
fn intended(change: Result<StateChange, Error>) -> Version {
    match change {
        Ok(StateChange::Intended(version)) => version,
        other => panic!("P8: expected an intent, got {other:?}"),
    }
}

/// P8: a state that an operator asks for is written as an intent, and the record stays as it is.
pub async fn p8_an_operators_state_is_an_intent(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let record = create(&plane, &sample("dc-1")).await;
    for (to, want) in [
        (DataCenterState::Draining, IntentKind::Drain),
        (DataCenterState::Inactive, IntentKind::Out),
        (DataCenterState::Active, IntentKind::Serve),
    ] {
        let version = intended(plane.set_state(record.id(), to, operator()).await);
        let held = held(&ground, &reader, &record, version).await;
        assert_eq!((held.intent.want, held.version), (want, version), "P8: {to}");
        assert_eq!((held.intent.by.as_str(), held.intent.why.as_str()), ("ann", "new rack"));
        assert_same("P8: the record", &ground.read(&reader, record.id(), record.version).await, &record);
    }
    let refused = plane.set_state(record.id(), DataCenterState::Registered, operator()).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "P8: no intent stands for REGISTERED, got {refused:?}");
}

/// P8: the same for a node that does not own the record, whatever version it names.
pub async fn p8_a_strangers_state_is_an_intent(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let record = create(&plane, &sample("dc-1")).await;
    let stranger = Writer::Owner { node: owner(99).node, seen: record.version };
    let version = intended(plane.set_state(record.id(), DataCenterState::Draining, stranger).await);
    assert_eq!(held(&ground, &plane, &record, version).await.intent.want, IntentKind::Drain);
    assert_same("P8: the record", &ground.read(&plane, record.id(), record.version).await, &record);
    plane.heartbeat(&record).await.expect("P8: an intent does not disturb the owner");
}

/// P8: an intent may be written before its datacenter is there.
pub async fn p8_an_intent_needs_no_record(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let absent = sample("not yet");
    let version = intended(plane.set_state(absent.id(), DataCenterState::Draining, operator()).await);
    assert_eq!(held(&ground, &plane, &absent, version).await.intent.want, IntentKind::Drain);
    assert_eq!(plane.get(absent.id()).await.expect("get"), None, "P8: an intent is no record");
    let record = create(&plane, &absent).await;
    let again = held(&ground, &plane, &record, version).await;
    assert_eq!(again.version, version, "P8: registering leaves the intent alone");
}

/// P8: the newest intent wins, with a higher version.
pub async fn p8_the_newest_intent_wins(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (ann, bob) = (ground.plane().await, ground.plane().await);
    let record = sample("dc-1");
    let mut last = None;
    for (n, want) in [IntentKind::Drain, IntentKind::Out, IntentKind::Serve, IntentKind::Drain].into_iter().enumerate()
    {
        let plane = if n % 2 == 0 { &ann } else { &bob };
        let mut intent = Intent::new(want, format!("operator {n}"), "ü \"quoted\" \\");
        // The newest is told by its version: an operator's wall clock may be behind.
        intent.at_ms = 1_000 - n as u64;
        let version = plane.set_intent(record.id(), &intent).await.expect("set_intent");
        assert!(last.is_none_or(|last| version > last), "P1: an intent at {version} follows {last:?}");
        let held = held(&ground, &ann, &record, version).await;
        assert_eq!(held, HeldIntent { id: record.id().clone(), intent, version }, "P8: it reads back as written");
        last = Some(version);
    }
}

/// P8: an intent survives heartbeats, updates, deregistration, re-registration and expiry.
pub async fn p8_an_intent_survives_everything(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let ttl = ground.harness.ttl();
    let record = create_for(&plane, "dc-1", ttl).await;
    let word = Intent::new(IntentKind::Drain, "ann", "new rack");
    let version = plane.set_intent(record.id(), &word).await.expect("set_intent");
    let wanted = HeldIntent { id: record.id().clone(), intent: word, version };
    let stands = async |when: &str| {
        assert_eq!(held(&ground, &plane, &record, version).await, wanted, "P8: the intent {when}");
    };
    let beat = DataCenterRecord { version: plane.heartbeat(&record).await.expect("heartbeat"), ..record.clone() };
    stands("after a heartbeat").await;
    let moved = moved(&plane, &beat, DataCenterState::Draining).await;
    stands("after a move of the state").await;
    plane.deregister(record.id(), moved.version).await.expect("deregister");
    stands("after deregistration").await;
    create_for(&plane, "dc-1", ttl).await;
    stands("after re-registration").await;
    ground.outlive(&plane).await;
    ground.gone(&plane, record.id()).await;
    ground.harness.advance(ttl).await;
    stands("after expiry").await;
    let later = ground.plane().await;
    assert_eq!(held(&ground, &later, &record, version).await, wanted, "P8: the intent for a new client");
}

/// P8: writing intents does not prolong the record's lease.
pub async fn p8_an_intent_leaves_the_lease_alone(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let ttl = ground.harness.ttl();
    let record = create_for(&plane, "dc-1", ttl).await;
    let granularity = plane.capabilities().expiry_granularity;
    let end = ground.now() + ttl + granularity;
    while ground.now() < end {
        intended(plane.set_state(record.id(), DataCenterState::Draining, operator()).await);
        ground.harness.advance(ttl / 3).await;
    }
    let listing = plane.list_all().await.expect("list");
    assert!(listing.records.is_empty(), "P8: intents keep a dead record alive: {:?}", listing.records);
}

/// P8: watchers see intents as they are written.
pub async fn p8_intents_reach_watchers(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let Some((mut watcher, _)) = ground.watch(&reader).await else { return };
    let record = sample("dc-1");
    let intent = Intent::new(IntentKind::Out, "ann", "");
    let version = plane.set_intent(record.id(), &intent).await.expect("set_intent");
    let seen = watcher
        .find(|event| match event {
            WatchEvent::Intent(held) => Some(held),
            WatchEvent::Put(record) => panic!("P8: an intent is no record: {record:?}"),
            _ => None,
        })
        .await;
    assert_eq!(seen, HeldIntent { id: record.id().clone(), intent, version });
}

/// P8: an intent with control characters, or of any length, is refused before it is sent.
pub async fn p8_a_malformed_intent_is_refused(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let record = sample("dc-1");
    for (field, intent) in [
        ("intent by", Intent::new(IntentKind::Drain, "a\nb", "")),
        ("intent why", Intent::new(IntentKind::Drain, "ann", "x".repeat(1_001))),
    ] {
        match plane.set_intent(record.id(), &intent).await {
            Err(Error::Invalid(invalid)) => assert_eq!(invalid.field, field),
            other => panic!("P8: {field}: expected Invalid, got {other:?}"),
        }
    }
    let asked = Writer::Operator { by: "a\u{7f}".to_owned(), why: String::new() };
    let refused = plane.set_state(record.id(), DataCenterState::Draining, asked).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "P8: got {refused:?}");
    assert!(plane.list_all().await.expect("list").intents.is_empty(), "P8: a refused intent was stored");
}
