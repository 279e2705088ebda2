//! Documents of later versions, in a store that nodes of both versions write to (fault 19).

use std::time::Duration;

use bytes::Bytes;
use dc_controlplane::{
    ControlPlane, Expected,
    memory::MemoryControlPlane,
    ownership::{Keep, OwnershipStore, Swap},
};
use dc_ownership::{OwnershipEvent, ids::Slot, policy::Policy};
use serde_json::{Value, json};

use crate::support::{Node, TTL, World, survivor, until};

/// The session of a node of a later version.
const LOST: &str = "000000000000000000000000000000aa";

/// What a later version may add anywhere: a number that is kept to its last digit, text, structure.
fn quota() -> Value {
    json!({"limit": 0.1234567890123457e-5, "kinds": ["a", {"b": null}], "ä": 18_446_744_073_709_551_615_u64})
}

fn documents(world: &World) -> std::sync::Arc<dyn OwnershipStore> {
    MemoryControlPlane::new(&world.store).ownership().expect("the in-memory plane has documents")
}

async fn store(world: &World, key: &str, body: &Value) {
    let (key, body) = (key.parse().expect("legal"), Bytes::from(body.to_string()));
    let written = documents(world).compare_and_set(&key, Expected::Absent, body, Keep::Forever).await;
    assert!(matches!(written, Ok(Swap::Done(_))), "{written:?}");
}

async fn stored(world: &World, key: &str) -> Value {
    let read = documents(world).read(&key.parse().expect("legal")).await.expect("read");
    serde_json::from_slice(&read.expect("stored").body).expect("JSON")
}

fn session() -> Value {
    json!({"v": 1, "node": "000000000000000000000000000000ff", "dc": {"name": "us-1", "region": "us"},
        "endpoint": "10.9.9.9:7946", "ttl_ms": 2_000, "n": 3, "nonce": 1})
}

fn named(name: &str) -> Value {
    json!({"v": 1, "name": name, "kind": "ledger", "args": "", "policy": {"survives": "data-center"},
        "session": LOST, "dc": "us/us-1", "epoch": 7, "ttl_ms": 2_000, "nonce": 1})
}

/// Of the placement group of `policy`, all of it owned by `LOST`.
fn slots(policy: &Policy, number: u16) -> (String, Value) {
    let owner = json!({"session": LOST, "dc": "us/us-1", "ttl_ms": 2_000});
    let body = json!({"v": 1, "owners": [owner], "slots": vec![json!([0, 4]); 64], "nonce": 1});
    (format!("g/{}/{number}", policy.group()), body)
}

async fn started(world: &World, dc: &str) -> Node {
    let node = world.node(dc, &[("cart", survivor())]);
    node.own.until_ready().await;
    node
}

#[tokio::test(start_paused = true)]
async fn fault_19_who_takes_over_writes_back_what_a_later_version_added() {
    let world = World::new();
    let (mut of_session, mut of_name) = (session(), named("x"));
    (of_session["quota"], of_name["quota"]) = (quota(), quota());
    let identity = (0..).map(|n| format!("cart/{n}")).find(|identity| Slot::of(identity).document() == 3);
    let identity = identity.expect("one in 64 is in it");
    let (key, mut of_slots) = slots(&survivor(), 3);
    of_slots["quota"] = quota();
    // Identities that are placed stay where they were asked to live: this one in the owner's own region.
    of_slots["overrides"] = json!({(identity.as_str()): {"at": [1, 9], "to": {"region": "us"}, "quota": quota()}});
    let other =
        json!({"session": "000000000000000000000000000000bb", "dc": "us/us-1", "ttl_ms": 2_000, "quota": quota()});
    of_slots["owners"].as_array_mut().expect("a list").push(other);
    // It lives on, so that its part of the document is not this node's to write.
    let mut alive = session();
    alive["ttl_ms"] = 3_600_000.into();
    for (key, body) in [
        (format!("s/{LOST}"), &of_session),
        ("s/000000000000000000000000000000bb".to_owned(), &alive),
        ("n/x".to_owned(), &of_name),
        (key.clone(), &of_slots),
    ] {
        store(&world, &key, body).await;
    }

    let node = started(&world, "eu-1").await;
    let group = survivor().group();
    let slot = Slot::of(&identity);
    until("it takes over", 4 * TTL, || {
        node.own.name_title("x").is_some() && node.own.slot_title(group, slot).is_some()
    })
    .await;

    let grave = stored(&world, &format!("s/{LOST}")).await;
    assert_eq!((&grave["tombstone"], &grave["quota"]), (&true.into(), &quota()), "the session's: {grave}");
    let name = stored(&world, "n/x").await;
    assert_ne!(name["session"], LOST);
    assert_eq!(name["quota"], quota(), "the name's");
    let slots = stored(&world, &key).await;
    assert_eq!(slots["quota"], quota(), "that of the document of slots");
    assert_eq!(slots["overrides"][identity.as_str()]["quota"], quota(), "that of an override");
    let owners = slots["owners"].as_array().expect("a list").clone();
    let kept: Vec<_> = owners.iter().filter(|owner| !owner["quota"].is_null()).collect();
    assert_eq!((kept.len(), &kept[0]["quota"]), (1, &quota()), "that of an owner who stays: {owners:?}");
    assert!(owners.iter().all(|owner| owner["session"] != LOST), "the lost one is in it no more");
}

/// A document that cannot be read whole is left alone and told of: written again, it would lose what a later version
/// meant.
#[tokio::test(start_paused = true)]
async fn fault_19_what_cannot_be_read_whole_is_reported_and_never_overwritten() {
    let world = World::new();
    let node = world.node("eu-1", &[("cart", survivor())]);
    let mut events = node.own.events();
    let with = |mut body: Value, at: &str, value: Value| {
        *body.pointer_mut(at).expect("a field") = value;
        body
    };
    let (_, of_slots) = slots(&survivor(), 0);
    let kind = json!({"v": 1, "group": survivor().group().to_string(), "policy": {"survives": "data-center"}});
    let mut strange = vec![
        ("n/version".to_owned(), with(named("version"), "/v", 2.into())),
        ("n/policy".to_owned(), with(named("policy"), "/policy", json!({"survives": "planet"}))),
        ("n/failback".to_owned(), with(named("failback"), "/policy", json!({"failback": "later"}))),
        ("n/rule".to_owned(), with(named("rule"), "/policy", json!({"quorum": 2}))),
        ("k/version".to_owned(), with(kind.clone(), "/v", 2.into())),
        ("k/policy".to_owned(), with(kind.clone(), "/policy", json!({"on_loss": "panic"}))),
    ];
    let entries = [json!([0, 4, 2]), json!([0, 4, 0]), json!([0, 4, 1, 5, 6]), json!([0]), json!([9, 4])];
    for (number, entry) in (10..).zip(entries) {
        strange.push((slots(&survivor(), number).0, with(of_slots.clone(), "/slots/7", entry)));
    }
    strange.push((slots(&survivor(), 20).0, with(of_slots, "/v", 2.into())));
    let mut large = named("large");
    large["padding"] = "x".repeat(9_000).into();
    strange.push(("n/large".to_owned(), large));
    let fits = {
        let mut fits = named("fits");
        fits["padding"] = "x".repeat(8_000).into();
        fits
    };
    store(&world, "n/fits", &fits).await;
    for (key, body) in &strange {
        store(&world, key, body).await;
    }
    node.own.until_ready().await;
    until("it takes over what it can read", 4 * TTL, || node.own.name_title("fits").is_some()).await;
    tokio::time::sleep(2 * TTL).await;

    let mut told = std::collections::BTreeMap::new();
    while let Ok(event) = events.try_recv() {
        if let OwnershipEvent::Unreadable { key, why } = event {
            told.insert(key, why);
        }
    }
    for (key, body) in &strange {
        assert_eq!(&stored(&world, key).await, body, "{key} was written over");
        assert!(told.get(key).is_some_and(|why| !why.is_empty()), "{key} was not reported: {told:?}");
    }
    assert_eq!(told.len(), strange.len(), "nothing else: {told:?}");
    assert!(told["n/version"].contains("format 2"), "{}", told["n/version"]);
    assert!(told["n/large"].contains("not known"), "{}", told["n/large"]);
}

/// Whoever writes it lives as long as it changes; once it does not, it is buried by the version that was watched, and
/// what it owned is taken over (`docs/ownership.md`).
#[tokio::test(start_paused = true)]
async fn fault_19_a_session_of_a_later_format_is_reported_and_buried_only_once_it_is_silent() {
    let world = World::new();
    let mut later = session();
    later["v"] = 2.into();
    let key = format!("s/{LOST}");
    store(&world, &key, &later).await;
    store(&world, "n/x", &named("x")).await;
    let node = world.node("eu-1", &[]);
    let mut events = node.own.events();
    node.own.until_ready().await;
    let documents = documents(&world);
    let at = key.parse().expect("legal");
    for n in 0..4 {
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        assert!(node.own.name_title("x").is_none(), "it is renewed");
        later["n"] = (10 + n).into();
        let seen = documents.read(&at).await.expect("read").expect("stored").version;
        let body = Bytes::from(later.to_string());
        let written = documents.compare_and_set(&at, Expected::Version(seen), body, Keep::Forever).await;
        assert!(matches!(written, Ok(Swap::Done(_))), "it was written over: {written:?}");
    }
    until("it is taken over", 4 * TTL, || node.own.name_title("x").is_some()).await;
    assert_eq!(stored(&world, &key).await["tombstone"], true);
    let mut told = false;
    while let Ok(event) = events.try_recv() {
        told |= matches!(&event, OwnershipEvent::Unreadable { key: of, why } if *of == key && why.contains("format 2"));
    }
    assert!(told, "it is reported");
}
