//! What the fuzzers drive: the bodies that nodes send each other about actors, errors on their way back, references
//! and messages. Not an interface.
//!
//! Takes any bytes and panics where a claim of `docs/wire.md` does not hold. The same function runs under cargo-fuzz
//! and as a property test on the stable toolchain; `docs/fuzzing.md` tells how.

use std::{fmt, time::Duration};

use bytes::Bytes;
use dc_core::NodeId;
use dc_ownership::{ids::GroupId, order::Thing, policy::Policy};
use serde::{Deserialize, Serialize};

use crate::{
    RemoteActor, RemoteMessage,
    codec::{Codec, Postcard, Prost, to_bytes},
    error::Error,
    host::{Actor, ActorRef, Infallible},
    link::{read_fault, write_fault},
    reference::{Location, Ref},
    wire::{
        Body, End, EndedBody, Ends, FindBody, GoneBody, GrainBody, How, LookupBody, OfferBody, Place, PlaceInBody,
        SenderBody, SpawnBody, StateBody, ThingBody, WatchBody, WatchedKind, pass_on_mark, read, read_answer,
        sender_mark, write, write_answer,
    },
};

/// A kind of the samples.
#[derive(RemoteActor)]
#[remote(name = "worker")]
pub struct Worker;

impl Actor for Worker {
    type Args = ();
    type Error = Infallible;

    async fn on_start((): (), _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(Self)
    }
}

/// A message with whatever serde has, by postcard.
#[derive(Debug, Serialize, Deserialize, RemoteMessage)]
#[remote(name = "analyse")]
pub struct Analyse {
    to: Option<Ref<Worker>>,
    text: String,
    numbers: Vec<(u64, i32)>,
    choice: Choice,
    bytes: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Choice {
    None,
    One(u128),
    Deep { inner: Vec<Option<Box<Choice>>> },
}

/// A message by prost.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Measured {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    raw: Bytes,
    #[prost(message, repeated, tag = "3")]
    parts: Vec<Measured>,
}

fn sample_location() -> Location {
    // All of it is legal.
    Location {
        dc: "eu/dc-1".parse().expect("legal"),
        node: NodeId(7),
        endpoint: "node-1.example:7946".parse().expect("legal"),
        actor: 9,
    }
}

/// A reference as it reads from the wire.
fn sample_ref() -> Ref<Worker> {
    let wire = ("worker", sample_location(), Some("orders"), None::<String>);
    let bytes = to_bytes::<Postcard, _>(&(wire.0.to_owned(), wire.1, wire.2.map(str::to_owned), wire.3));
    Postcard::decode(bytes.expect("can be written")).expect("a reference")
}

fn sample_watch() -> WatchBody {
    let watch = vec![
        WatchedKind { kind: "worker".into(), actors: vec![9, 10] },
        WatchedKind { kind: "cart".into(), actors: vec![11] },
    ];
    WatchBody { round: 3, afresh: true, watch, unwatch: vec![7], taken: vec![5] }
}

fn sample_ends() -> Ends {
    let failed = End { why: "told to panic".into(), ..End::of(10, How::Failed) };
    let refused = End::refused(11, &Error::Overloaded { what: "watches".into() });
    Ends { unknown: false, ended: vec![End::of(8, How::Gone), End::of(9, How::Stopped), failed, refused] }
}

/// A body of every kind: a name for each.
pub fn samples() -> Vec<(&'static str, Bytes)> {
    let request = Bytes::copy_from_slice(&9u128.to_be_bytes());
    let name = Thing::Name("ledger-7".into());
    let slot = ThingBody { group: request.clone(), slot: 4_095, name: String::new(), identity: String::new() };
    let state = StateBody { identity: "cart/user-42".into(), state: Bytes::from_static(b"state") };
    let to = Bytes::from_static(br#"{"region":"eu-west-1"}"#);
    let placing = PlaceInBody { kind: "cart".into(), id: "user-42".into(), to, epoch: 12 };
    // Plain data: JSON takes it.
    let policy = serde_json::to_vec(&Policy::default()).expect("can be written");
    #[allow(clippy::needless_update, reason = "fields are added, and are not in what version 1 wrote")]
    let spawn = SpawnBody {
        kind: "worker".into(),
        name: "orders".into(),
        request: request.clone(),
        args: Bytes::from_static(b"args"),
        passed_on: true,
        ..SpawnBody::default()
    };
    let fault = |error: &Error| write_fault(error).1;
    let timeout = Error::Timeout { to: "worker/orders".into(), after: Duration::from_millis(1_500), not_run: true };
    let analyse = Analyse {
        to: Some(sample_ref()),
        text: "text".into(),
        numbers: vec![(1, -1), (u64::MAX, i32::MIN)],
        choice: Choice::Deep { inner: vec![None, Some(Box::new(Choice::One(5))), Some(Box::new(Choice::None))] },
        bytes: vec![0, 255],
    };
    let measured = Measured { name: "m".into(), raw: Bytes::from_static(b"raw"), parts: vec![Measured::default()] };
    let prost = to_bytes::<Prost, _>(&measured).expect("can be written");
    vec![
        ("spawn", write(&spawn)),
        ("lookup", write(&LookupBody { name: "orders".into() })),
        ("grain", write(&GrainBody { kind: "cart".into(), id: "user-42".into(), ..GrainBody::default() })),
        ("gone", write(&GoneBody { actor: 9 })),
        ("spawn-global", write(&SpawnBody { policy: policy.into(), passed_on: false, ..spawn })),
        ("grain-owned", write(&GrainBody { kind: "cart".into(), id: "user-42".into(), epoch: 12, forwarded: true })),
        ("find", write(&FindBody { name: "ledger-7".into(), request: request.clone(), epoch: 12, forwarded: true })),
        ("offer", write(&OfferBody { thing: Some(slot), epoch: 13, part: 1, last: true, states: vec![state] })),
        ("sender", sender_mark(&name, 12)),
        ("sender-passed-on", pass_on_mark(&sender_mark(&name, 12))),
        ("sender-grain", sender_mark(&Thing::grain(GroupId(9), "cart/user-42"), 12)),
        ("placing", write(&placing)),
        ("place-global", write(&Place { epoch: 12, same_request: true, ..Place::at("ledger", &sample_location()) })),
        ("watch", write(&sample_watch())),
        ("ended", write(&EndedBody { round: 3, taken: vec![5, u64::MAX] })),
        ("ends", write(&sample_ends())),
        ("ends-unknown", write(&Ends::unknown())),
        ("place", write(&Place::at("worker", &sample_location()))),
        ("place-none", write(&Place::none())),
        ("place-ask-next", write(&Place::ask_next())),
        ("fault-timeout", fault(&timeout)),
        ("fault-not-found", fault(&Error::not_found("orders"))),
        ("fault-name-taken", fault(&Error::NameTaken { name: "orders".into(), holder: "#9".into() })),
        // Errors travel by the number of their variant: the last of version 1 shows that none was put before it.
        ("fault-other", fault(&Error::Other { text: "text".into(), not_run: false })),
        ("reference", to_bytes::<Postcard, _>(&sample_ref()).expect("can be written")),
        ("message-postcard", to_bytes::<Postcard, _>(&analyse).expect("can be written")),
        ("message-prost", prost),
    ]
}

/// A sample for each reader.
const READERS: [&str; 16] = [
    "spawn",
    "lookup",
    "grain",
    "gone",
    "watch",
    "ended",
    "ends",
    "find",
    "offer",
    "sender",
    "placing",
    "place",
    "fault",
    "reference",
    "message-postcard",
    "message-prost",
];

/// The sample of that name as its reader reads it, for people, and as it is written again.
pub fn read_sample(name: &str, bytes: Bytes) -> Result<(String, Bytes), Error> {
    fn body<T: Body + fmt::Debug>(bytes: Bytes) -> Result<(String, Bytes), Error> {
        let body: T = read("a sample", bytes)?;
        Ok((format!("{body:?}"), write(&body)))
    }
    fn value<C: Codec<T>, T: fmt::Debug>(bytes: Bytes) -> Result<(String, Bytes), Error> {
        let codec = |err: crate::codec::CodecError| Error::Other { text: err.to_string(), not_run: true };
        let value = C::decode(bytes).map_err(codec)?;
        Ok((format!("{value:?}"), to_bytes::<C, T>(&value).map_err(codec)?))
    }
    match name.split('-').next().unwrap_or_default() {
        "spawn" => body::<SpawnBody>(bytes),
        "lookup" => body::<LookupBody>(bytes),
        "grain" => body::<GrainBody>(bytes),
        "gone" => body::<GoneBody>(bytes),
        "find" => body::<FindBody>(bytes),
        "offer" => body::<OfferBody>(bytes),
        "sender" => body::<SenderBody>(bytes),
        "watch" => body::<WatchBody>(bytes),
        "ended" => body::<EndedBody>(bytes),
        "ends" => body::<Ends>(bytes),
        "placing" => body::<PlaceInBody>(bytes),
        "place" => body::<Place>(bytes),
        "reference" => value::<Postcard, Ref<Worker>>(bytes),
        "fault" => {
            let error = read_fault(bytes);
            Ok((format!("{error:?}"), write_fault(&error).1))
        }
        _ if name == "message-postcard" => value::<Postcard, Analyse>(bytes),
        _ if name == "message-prost" => value::<Prost, Measured>(bytes),
        _ => Err(Error::Invalid { field: "sample".into(), value: name.into(), rule: "is not known".into() }),
    }
}

/// Any bytes as any body, error, reference or message: an error, or a value that is written and read again the same.
///
/// # Panics
///
/// Where it is not.
pub fn payload(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    for name in READERS {
        if let Ok((shown, written)) = read_sample(name, bytes.clone()) {
            let again = read_sample(name, written.clone());
            assert_eq!(again, Ok((shown, written)), "{name} does not read back");
        }
    }
    if let Ok(spawn) = read::<SpawnBody>("a spawn", bytes.clone()) {
        assert_eq!(spawn.request().is_ok(), spawn.request.len() == 16, "a request id of {}", spawn.request.len());
    }
    let offered = read::<OfferBody>("an offer", bytes.clone()).ok().and_then(|offer| offer.thing);
    let sender = read::<SenderBody>("a sender", bytes.clone()).ok().and_then(|sender| sender.thing);
    for thing in offered.iter().chain(&sender).filter_map(ThingBody::thing) {
        assert_eq!(ThingBody::of(&thing).thing(), Some(thing), "what is owned reads back");
    }
    for end in read::<Ends>("ends", bytes.clone()).into_iter().flat_map(|ends| ends.ended) {
        // What a refusal says can be shown.
        drop((end.how(), read_fault(end.fault).to_string()));
    }
    for status in 0..4 {
        match read_answer(status, bytes.clone()) {
            Ok(place) => {
                if let Ok(Some(location)) = place.location() {
                    let (status, body) = write_answer(&Ok(Place::at(&place.kind, &location)));
                    let again = read_answer(status, body).and_then(|place| place.location());
                    assert_eq!(again, Ok(Some(location)), "a place reads back");
                }
            }
            // What an error says can be shown, and decides whether to try again.
            Err(error) => drop((error.to_string(), error.certainly_not_run(), error.name())),
        }
    }
}
