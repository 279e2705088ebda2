//! What the fuzzers drive: documents as others stored them, and a node's core that is shown them. Not an interface.
//!
//! Takes any bytes and panics where a claim of `docs/ownership.md` does not hold. The same functions run under
//! cargo-fuzz and as property tests on the stable toolchain; `docs/fuzzing.md` tells how.

mod world;

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use dc_controlplane::ownership::{Document, DocumentKey};
use dc_core::{DataCenter, Epoch, NodeId, Selector, StoreId, Version};

pub use self::world::scripts;
use crate::{
    documents::{
        KindDocument, NameDocument, Override, SessionDocument, SlotsDocument, Unit, bare_tombstone, tombstone,
    },
    handle::Me,
    ids::{GroupId, SLOTS_PER_DOCUMENT, SessionId, Slot},
    names::NameSpec,
    policy::{Failback, Loss, OnLoss, Policy},
    table::Owner,
};

/// The store of the samples.
const STORE: StoreId = StoreId(1);

fn dc(name: &str) -> DataCenter {
    // The names used here are legal.
    DataCenter::new(name).region("eu-west-1").label("tier", "core").build().expect("legal")
}

fn me(node: u128, name: &str) -> Me {
    // All of it is legal.
    let endpoint = format!("node-{node}.{name}.example:7946").parse().expect("legal");
    Me { node: NodeId(node), data_center: dc(name), endpoint }
}

fn session(me: &Me, n: u64) -> SessionDocument {
    let mut document = SessionDocument::new(me.node, me.data_center.clone(), me.endpoint.clone(), 2_000);
    document.n = n;
    document.nonce = 7;
    document.taking = true;
    document.groups = vec![Policy::default().group()];
    document.floor = Epoch(3);
    document
}

fn owner(session: u128, epoch: u64) -> Owner {
    let data_center = dc("dc-2").id().clone();
    Owner { session: SessionId(session), data_center, epoch: Epoch(epoch), handed: false, offer: 0, ttl_ms: 2_000 }
}

/// An identity of document 1 that lives elsewhere than its slot.
fn elsewhere(owner: Owner) -> (String, Override) {
    // One in 64 is in it.
    let identity = (0..).map(|number| format!("cart/{number}")).find(|identity| Slot::of(identity).document() == 1);
    let to = Selector::region("eu-west-1");
    (identity.expect("there are more than enough"), Override { owner, to })
}

fn spec(name: &str) -> NameSpec {
    let policy = Policy {
        survives: Loss::DataCenter,
        on_loss: OnLoss::Relocate { grace: std::time::Duration::from_millis(1_500) },
        failback: Failback::Automatic,
        ..Policy::default()
    };
    NameSpec { name: name.to_owned(), kind: "ledger".into(), args: Bytes::from_static(b"args"), policy }
}

fn key(unit: &Unit) -> DocumentKey {
    // The samples' names are legal.
    unit.key().expect("legal")
}

/// A document of every kind: a name for each, its key and its body.
pub fn samples() -> Vec<(&'static str, DocumentKey, Bytes)> {
    let other = me(9, "dc-2");
    let session_key = key(&Unit::Session(SessionId(5)));
    let open = session(&other, 4);
    let mut grave = open.clone();
    (grave.tombstone, grave.proved) = (true, true);
    let mut rows = vec![None; usize::from(SLOTS_PER_DOCUMENT)];
    rows[0] = Some(owner(5, 4));
    rows[1] = Some(Owner { handed: true, offer: 77, ..owner(6, 5) });
    let slots = SlotsDocument::new(&rows, &BTreeMap::new(), 8);
    let apart = SlotsDocument::new(&rows, &BTreeMap::from([elsewhere(owner(6, 9))]), 9);
    let slots_key = key(&Unit::Slots(Policy::default().group(), 1));
    let name_key = key(&Unit::Name("ledger-7".into()));
    let created = NameDocument::created(&spec("ledger-7"), (SessionId(5), dc("dc-2").id().clone()), 2_000, Epoch(3), 9);
    let moved = created.owned(&Owner { handed: true, offer: 78, ..owner(6, 12) }, 10).with_actor(Epoch(12), 3, 11);
    let kind = KindDocument::new(&spec("x").policy);
    vec![
        ("ownership-session", session_key.clone(), open.write()),
        ("ownership-session-over", session_key.clone(), grave.write()),
        ("ownership-session-bare", session_key, bare_tombstone(12)),
        ("ownership-slots", slots_key.clone(), slots.write()),
        ("ownership-slots-overrides", slots_key, apart.write()),
        ("ownership-name", name_key.clone(), created.write()),
        ("ownership-name-moved", name_key, moved.write()),
        ("ownership-kind", key(&Unit::Kind("ledger".into())), kind.write()),
    ]
}

/// Documents of versions that are not there yet: of each kind one with more fields, one of another format, and one with a
/// word or a number that is not known.
pub fn of_later_versions() -> Vec<(String, DocumentKey, Bytes)> {
    let quota = || serde_json::json!({"limit": 7, "kinds": ["a", {"b": null}]});
    let mut later = Vec::new();
    for (name, key, body) in samples() {
        // What a tombstone of which nothing is known holds besides, nobody looks at.
        let Some(name) = name.strip_prefix("ownership-").filter(|name| *name != "session-bare") else { continue };
        // Ours, and an object.
        let ours: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut add = |what: &str, change: &dyn Fn(&mut serde_json::Value)| {
            let mut document = ours.clone();
            change(&mut document);
            later.push((format!("later-{name}{what}"), key.clone(), Bytes::from(document.to_string())));
        };
        add("", &|document| {
            document["quota"] = quota();
            for at in ["/owners/1", "/overrides/cart~168"] {
                if let Some(part) = document.pointer_mut(at) {
                    part["quota"] = quota();
                }
            }
        });
        add("-format", &|document| document["v"] = 2.into());
        match &key.as_str()[..2] {
            "g/" => add("-entry", &|document| document["slots"][0] = serde_json::json!([0, 4, 2])),
            "s/" => {}
            _ => add("-word", &|document| document["policy"]["survives"] = "planet".into()),
        }
    }
    later
}

/// Any document as its reader reads it, for people, and as it is written again.
pub fn read_document(key: &DocumentKey, bytes: &[u8]) -> Option<(String, Vec<u8>)> {
    let document = Document { key: key.clone(), body: Bytes::copy_from_slice(bytes), version: Version::new(STORE, 9) };
    read(&document).map(|(shown, written)| (shown, written.into()))
}

/// What a document says, for people, and as it is written again; `None` where it is none that this version reads.
fn read(document: &Document) -> Option<(String, Bytes)> {
    fn shown<T: fmt::Debug>(document: T, written: Bytes) -> Option<(String, Bytes)> {
        Some((format!("{document:?}"), written))
    }
    match Unit::of(&document.key)? {
        Unit::Session(_) => match (SessionDocument::read(&document.body), tombstone(&document.body)) {
            (Ok(session), _) => shown(&session, session.write()),
            // What else stands in it is not looked at: it says that the session is over.
            (Err(_), Some(proved)) => shown(("tombstone", proved), document.body.clone()),
            (Err(_), None) => None,
        },
        Unit::Slots(_, number) => SlotsDocument::read(&document.body, number).ok().and_then(|read| {
            let rows = read.rows();
            assert_eq!(rows.len(), usize::from(SLOTS_PER_DOCUMENT), "a slot for each entry");
            assert!(read.overrides().keys().all(|identity| Slot::of(identity).document() == number));
            shown(&read, read.write())
        }),
        Unit::Name(_) => NameDocument::read(document).ok().and_then(|read| {
            assert!(read.spec().check().is_ok(), "a name that nobody could have claimed is taken for one");
            shown(&read, read.write())
        }),
        Unit::Kind(_) => KindDocument::read(&document.body).ok().and_then(|read| shown(&read, read.write())),
    }
}

/// The sample of that name as its reader reads it, for people, and as it is written again.
pub fn read_sample(name: &str, bytes: &[u8]) -> Option<(String, Vec<u8>)> {
    let (_, key, _) = samples().into_iter().find(|(sample, ..)| *sample == name)?;
    read_document(&key, bytes)
}

/// Any bytes as a document under every kind of key, and as what a node is shown while it takes part: refused with a
/// reason, or read and written back the same; the node goes on, and what it writes can be read.
///
/// # Panics
///
/// Where it is not.
pub fn ownership(bytes: &[u8]) {
    let version = Version::new(STORE, 9);
    for (name, key, _) in samples() {
        let document = Document { key, body: Bytes::copy_from_slice(bytes), version };
        if let Some((shown, written)) = read(&document) {
            let again = read(&Document { body: written.clone(), ..document });
            assert_eq!(again, Some((shown, written)), "{name} does not read back");
        }
    }
    if let Ok(key) = String::from_utf8_lossy(bytes).parse::<DocumentKey>()
        && let Some(unit) = Unit::of(&key)
    {
        let again = unit.key().expect("what was read from a key has one");
        assert_eq!(Unit::of(&again), Some(unit), "a key reads back");
    }
    world::run(bytes);
}

/// The placement group of the script's kind of grains.
fn group() -> GroupId {
    Policy::default().group()
}
