//! What nodes ask each other about actors, over the control lane. Protobuf: fields may be added, unknown ones are
//! passed over. `docs/wire.md` describes the numbers.

use bytes::Bytes;
use dc_core::NodeId;
use dc_ownership::{
    ids::{GroupId, Slot},
    order::Thing,
};
use dc_remoting::{Message, ServiceId, Symbol};

use crate::{error::Error, link, reference::Location};

/// Start an actor on the node that is asked.
pub(crate) const SPAWN: ServiceId = ServiceId(16);
/// Who has this name in the datacenter that is asked.
pub(crate) const LOOKUP: ServiceId = ServiceId(17);
/// Where a grain is, asked of any node of its home; activates it where it is not active.
pub(crate) const LOCATE: ServiceId = ServiceId(18);
/// Activate a grain on the node that is asked, unless it is active elsewhere.
pub(crate) const ACTIVATE: ServiceId = ServiceId(19);
/// Whether a grain is active in the datacenter that is asked; activates nothing.
pub(crate) const PEEK: ServiceId = ServiceId(20);
/// Tells a sender that an actor is not there any more; the answer is empty.
pub(crate) const GONE: ServiceId = ServiceId(21);

/// Where an actor of a global name is, asked of the name's owner.
pub(crate) const FIND: ServiceId = ServiceId(22);
/// Make a global grain active, asked of its slot's owner.
pub(crate) const OWNED: ServiceId = ServiceId(23);
/// Takes state of something global that is about to be handed over.
pub(crate) const OFFER: ServiceId = ServiceId(24);
/// The highest epoch that the node which is asked remembers.
pub(crate) const FLOOR: ServiceId = ServiceId(25);
/// Changes which actors of the node that is asked the asker watches.
pub(crate) const WATCH: ServiceId = ServiceId(26);
/// Which of them have ended; answered as soon as there is one, or with none after a while.
pub(crate) const ENDED: ServiceId = ServiceId(27);
/// Have a global grain live in other datacenters than its slot, asked of its owner; the answer is empty.
pub(crate) const PLACE_IN: ServiceId = ServiceId(28);
/// The kind and type of the message that ends what is forwarded in a hand-over. No kind has a `/` in its name.
pub(crate) const LANDED: &str = "/landed";
/// The kind of the question whether all that came before it on its channel, for the target that it names, has been
/// passed on and taken in. Its message type is the target's kind.
pub(crate) const PASSED_ALL: &str = "/passed-all";

/// The sign that all that was sent before on the same channel has been taken in, once it is answered; and that it is
/// all of `key`, a [`ThingBody`], unless that is empty.
pub(crate) fn landed(key: Bytes, epoch: u64) -> Message {
    let sign = Symbol::from_static(LANDED);
    Message { to: 0, kind: sign.clone(), key, message: sign, epoch, from: Bytes::new(), payload: Bytes::new() }
}

/// Something that is owned: a slot of a placement group, one identity of a slot, or, if `name` is not empty, a name.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ThingBody {
    /// 16 bytes, big-endian.
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) group: Bytes,
    #[prost(uint32, tag = "2")]
    pub(crate) slot: u32,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    /// One identity of the slot, `kind/id`; empty for the slot.
    #[prost(string, tag = "4")]
    pub(crate) identity: String,
}

impl ThingBody {
    pub(crate) fn of(thing: &Thing) -> Self {
        let of_slot = |group: &GroupId, slot: &Slot| Self {
            group: Bytes::copy_from_slice(&group.0.to_be_bytes()),
            slot: slot.number().into(),
            ..Self::default()
        };
        match thing {
            Thing::Slot(group, slot) => of_slot(group, slot),
            Thing::Grain(group, slot, identity) => Self { identity: identity.clone(), ..of_slot(group, slot) },
            Thing::Name(name) => Self { name: name.clone(), ..Self::default() },
        }
    }

    pub(crate) fn thing(&self) -> Option<Thing> {
        if !self.name.is_empty() {
            return Some(Thing::Name(self.name.clone()));
        }
        let group: [u8; 16] = self.group.as_ref().try_into().ok()?;
        let (group, slot) = (GroupId(u128::from_be_bytes(group)), Slot::new(u16::try_from(self.slot).ok()?)?);
        if self.identity.is_empty() {
            return Some(Thing::Slot(group, slot));
        }
        // Of another slot it is nothing.
        (Slot::of(&self.identity) == slot).then(|| Thing::Grain(group, slot, self.identity.clone()))
    }
}

/// Who sends a message, where that is a global actor: by which ownership.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SenderBody {
    #[prost(message, tag = "1")]
    pub(crate) thing: Option<ThingBody>,
    #[prost(uint64, tag = "2")]
    pub(crate) epoch: u64,
    /// Another node passes it on.
    #[prost(bool, tag = "3")]
    pub(crate) passed_on: bool,
}

/// A [`SenderBody`], written.
pub(crate) fn sender_mark(thing: &Thing, epoch: u64) -> Bytes {
    write(&SenderBody { thing: Some(ThingBody::of(thing)), epoch, passed_on: false })
}

/// Marks a message as passed on, where its sender is no global actor: it is not passed on again.
pub(crate) const PASSED_ON: &[u8] = b"passed-on";

/// The mark of a message that is passed on, made of the one that it bore.
pub(crate) fn pass_on_mark(from: &Bytes) -> Bytes {
    match read::<SenderBody>("a sender", from.clone()) {
        Ok(sender) if sender.thing.is_some() => write(&SenderBody { passed_on: true, ..sender }),
        _ => Bytes::from_static(PASSED_ON),
    }
}

/// Whether such a mark says that it was passed on.
pub(crate) fn is_passed_on(from: &Bytes) -> bool {
    let marked = || read::<SenderBody>("a sender", from.clone()).is_ok_and(|sender| sender.passed_on);
    !from.is_empty() && (from.as_ref() == PASSED_ON || marked())
}

/// The body of [`FIND`].
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FindBody {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    /// The asker's own spawn of this name, 16 bytes; empty for none.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) request: Bytes,
    /// The epoch that the asker knows.
    #[prost(uint64, tag = "3")]
    pub(crate) epoch: u64,
    /// The asker is the former owner, and has messages to forward.
    #[prost(bool, tag = "4")]
    pub(crate) forwarded: bool,
}

/// The body of [`OFFER`].
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct OfferBody {
    #[prost(message, tag = "1")]
    pub(crate) thing: Option<ThingBody>,
    /// The epoch that the new owner will have.
    #[prost(uint64, tag = "2")]
    pub(crate) epoch: u64,
    /// From 0 on.
    #[prost(uint32, tag = "3")]
    pub(crate) part: u32,
    #[prost(bool, tag = "4")]
    pub(crate) last: bool,
    #[prost(message, repeated, tag = "5")]
    pub(crate) states: Vec<StateBody>,
}

/// The state of one actor.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StateBody {
    #[prost(string, tag = "1")]
    pub(crate) identity: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) state: Bytes,
}

/// The body of [`SPAWN`].
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SpawnBody {
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    /// Empty: an actor without a name.
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    /// 16 bytes, big-endian: the same in every repetition of one spawn (L3).
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) request: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) args: Bytes,
    /// Passed on by the node that was asked: not to be passed on again.
    #[prost(bool, tag = "5")]
    pub(crate) passed_on: bool,
    /// What is declared of a global name, as JSON; empty for a per-DC one.
    #[prost(bytes = "bytes", tag = "6")]
    pub(crate) policy: Bytes,
}

impl SpawnBody {
    pub(crate) fn request(&self) -> Result<u128, Error> {
        self.request
            .as_ref()
            .try_into()
            .map(u128::from_be_bytes)
            .map_err(|_| unreadable("a spawn", "request id of another length"))
    }
}

/// The body of [`LOOKUP`].
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LookupBody {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

/// The body of [`LOCATE`], [`ACTIVATE`], [`PEEK`] and [`OWNED`].
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct GrainBody {
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    #[prost(string, tag = "2")]
    pub(crate) id: String,
    /// Of a global grain: the epoch of its owner, as the asker knows it.
    #[prost(uint64, tag = "3")]
    pub(crate) epoch: u64,
    /// Of a global grain: the asker is the former owner, and has messages to forward.
    #[prost(bool, tag = "4")]
    pub(crate) forwarded: bool,
}

/// The body of [`PLACE_IN`].
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PlaceInBody {
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    #[prost(string, tag = "2")]
    pub(crate) id: String,
    /// Where it is to live: a selector, as JSON.
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) to: Bytes,
    /// The epoch of its owner, as the asker knows it.
    #[prost(uint64, tag = "4")]
    pub(crate) epoch: u64,
}

/// The body of [`GONE`].
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct GoneBody {
    #[prost(uint64, tag = "1")]
    pub(crate) actor: u64,
}

/// The body of [`WATCH`].
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WatchBody {
    /// Of the asker's run, from 1 on: a question of another round than the one that is known changes nothing.
    #[prost(uint64, tag = "1")]
    pub(crate) round: u64,
    /// This is a new round: what was watched before is void.
    #[prost(bool, tag = "2")]
    pub(crate) afresh: bool,
    #[prost(message, repeated, tag = "3")]
    pub(crate) watch: Vec<WatchedKind>,
    #[prost(uint64, repeated, tag = "4")]
    pub(crate) unwatch: Vec<u64>,
    /// Ends that the asker has taken note of.
    #[prost(uint64, repeated, tag = "5")]
    pub(crate) taken: Vec<u64>,
}

/// Actors of one kind that are to be watched.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WatchedKind {
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    #[prost(uint64, repeated, tag = "2")]
    pub(crate) actors: Vec<u64>,
}

/// The body of [`ENDED`].
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EndedBody {
    #[prost(uint64, tag = "1")]
    pub(crate) round: u64,
    /// As above.
    #[prost(uint64, repeated, tag = "2")]
    pub(crate) taken: Vec<u64>,
}

/// The answer to [`WATCH`] and [`ENDED`].
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Ends {
    /// The round is not known: the asker begins a new one.
    #[prost(bool, tag = "1")]
    pub(crate) unknown: bool,
    #[prost(message, repeated, tag = "2")]
    pub(crate) ended: Vec<End>,
}

impl Ends {
    pub(crate) fn unknown() -> Self {
        Self { unknown: true, ended: Vec::new() }
    }
}

/// The end of one actor, or of its watch.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct End {
    #[prost(uint64, tag = "1")]
    pub(crate) actor: u64,
    #[prost(enumeration = "How", tag = "2")]
    pub(crate) how: i32,
    /// Of a failure: what it said.
    #[prost(string, tag = "3")]
    pub(crate) why: String,
    /// Of a refusal: the error, as answers of status 2 have it.
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) fault: Bytes,
}

impl End {
    pub(crate) fn of(actor: u64, how: How) -> Self {
        Self { actor, how: how.into(), why: String::new(), fault: Bytes::new() }
    }

    pub(crate) fn refused(actor: u64, error: &Error) -> Self {
        Self { fault: link::write_fault(error).1, ..Self::of(actor, How::Refused) }
    }
}

/// How an actor, or its watch, has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum How {
    /// It is not there.
    Gone = 0,
    Stopped = 1,
    Failed = 2,
    /// It may not be watched, or there is no room.
    Refused = 3,
}

/// Reads an answer to [`WATCH`] or [`ENDED`].
pub(crate) fn read_ends(status: u32, body: Bytes) -> Result<Ends, Error> {
    if status == link::OK { read("ends", body) } else { Err(link::read_fault(body)) }
}

/// The answer to the questions above but those about watches.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Place {
    #[prost(enumeration = "Found", tag = "1")]
    pub(crate) found: i32,
    #[prost(string, tag = "2")]
    pub(crate) kind: String,
    #[prost(string, tag = "3")]
    pub(crate) data_center: String,
    /// 16 bytes, big-endian.
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) node: Bytes,
    #[prost(string, tag = "5")]
    pub(crate) endpoint: String,
    #[prost(uint64, tag = "6")]
    pub(crate) actor: u64,
    /// Under which epoch, if it is global.
    #[prost(uint64, tag = "7")]
    pub(crate) epoch: u64,
    /// The asker's own spawn has started it.
    #[prost(bool, tag = "8")]
    pub(crate) same_request: bool,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Found {
    /// Nothing.
    None = 0,
    /// An actor, at the place given.
    Actor = 1,
    /// Nothing, and this datacenter takes no new grains: ask the next one.
    AskNext = 2,
}

impl Place {
    pub(crate) fn none() -> Self {
        Self::default()
    }

    pub(crate) fn ask_next() -> Self {
        Self { found: Found::AskNext.into(), ..Self::default() }
    }

    pub(crate) fn at(kind: &str, location: &Location) -> Self {
        Self {
            found: Found::Actor.into(),
            kind: kind.to_owned(),
            data_center: location.dc.as_str().to_owned(),
            node: Bytes::copy_from_slice(&location.node.0.to_be_bytes()),
            endpoint: location.endpoint.to_string(),
            actor: location.actor,
            epoch: 0,
            same_request: false,
        }
    }

    /// The place, if it is one.
    pub(crate) fn location(&self) -> Result<Option<Location>, Error> {
        if self.found() != Found::Actor {
            return Ok(None);
        }
        let node: [u8; 16] =
            self.node.as_ref().try_into().map_err(|_| unreadable("a place", "node id of another length"))?;
        Ok(Some(Location {
            dc: self.data_center.parse()?,
            node: NodeId(u128::from_be_bytes(node)),
            endpoint: self.endpoint.parse()?,
            actor: self.actor,
        }))
    }
}

/// The longest name that is legal: of a kind, a message type, an actor, a grain.
pub(crate) const MAX_NAME: usize = 255;

/// The longest identity of a grain: `kind/id`.
const MAX_IDENTITY: usize = 2 * MAX_NAME + 1;

/// Actors in one question about watches at most, and ends in one answer.
pub(crate) const AT_ONCE: usize = 512;

/// Bytes of what an end says of a failure: 1,000 characters.
const MAX_WHY: usize = 4_000;

/// A body, and the bounds of what a peer may write in it: texts that are kept, shown or looked for, and lists that are
/// gone through. Arguments, state and policies are bounded by the size of a question, and read by who knows their form.
pub(crate) trait Body: prost::Message + Default {
    /// # Errors
    ///
    /// What is too long, without the text itself.
    fn check(&self) -> Result<(), String>;
}

/// Refuses a text of more than so many bytes.
fn short(what: &str, text: impl AsRef<[u8]>, most: usize) -> Result<(), String> {
    let bytes = text.as_ref().len();
    if bytes <= most { Ok(()) } else { Err(format!("a {what} of {bytes} bytes, at most {most} are legal")) }
}

/// Refuses a list of more than so many.
fn few(what: &str, number: usize, most: usize) -> Result<(), String> {
    if number <= most { Ok(()) } else { Err(format!("{number} {what}, at most {most} are legal")) }
}

impl Body for ThingBody {
    fn check(&self) -> Result<(), String> {
        short("group", &self.group, 16)?;
        short("name", &self.name, MAX_NAME)?;
        short("identity", &self.identity, MAX_IDENTITY)
    }
}

impl Body for SenderBody {
    fn check(&self) -> Result<(), String> {
        self.thing.as_ref().map_or(Ok(()), Body::check)
    }
}

impl Body for FindBody {
    fn check(&self) -> Result<(), String> {
        short("name", &self.name, MAX_NAME)?;
        short("request id", &self.request, 16)
    }
}

impl Body for OfferBody {
    fn check(&self) -> Result<(), String> {
        self.thing.as_ref().map_or(Ok(()), Body::check)?;
        self.states.iter().try_for_each(|state| short("identity", &state.identity, MAX_IDENTITY))
    }
}

impl Body for SpawnBody {
    fn check(&self) -> Result<(), String> {
        short("kind", &self.kind, MAX_NAME)?;
        short("name", &self.name, MAX_NAME)
    }
}

impl Body for LookupBody {
    fn check(&self) -> Result<(), String> {
        short("name", &self.name, MAX_NAME)
    }
}

impl Body for GrainBody {
    fn check(&self) -> Result<(), String> {
        short("kind", &self.kind, MAX_NAME)?;
        short("id", &self.id, MAX_NAME)
    }
}

impl Body for PlaceInBody {
    fn check(&self) -> Result<(), String> {
        short("kind", &self.kind, MAX_NAME)?;
        short("id", &self.id, MAX_NAME)
    }
}

impl Body for GoneBody {
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Body for WatchBody {
    fn check(&self) -> Result<(), String> {
        few("kinds to watch", self.watch.len(), AT_ONCE)?;
        self.watch.iter().try_for_each(|watched| short("kind", &watched.kind, MAX_NAME))?;
        few("actors to watch", self.watch.iter().map(|watched| watched.actors.len()).sum(), AT_ONCE)?;
        few("actors to watch no more", self.unwatch.len(), AT_ONCE)?;
        few("ends that were taken note of", self.taken.len(), AT_ONCE)
    }
}

impl Body for EndedBody {
    fn check(&self) -> Result<(), String> {
        few("ends that were taken note of", self.taken.len(), AT_ONCE)
    }
}

impl Body for Ends {
    fn check(&self) -> Result<(), String> {
        few("ends", self.ended.len(), AT_ONCE)?;
        self.ended.iter().try_for_each(|end| short("reason", &end.why, MAX_WHY))
    }
}

impl Body for Place {
    fn check(&self) -> Result<(), String> {
        short("kind", &self.kind, MAX_NAME)?;
        short("node id", &self.node, 16)
    }
}

/// Reads a body, within its bounds.
pub(crate) fn read<T: Body>(what: &str, body: Bytes) -> Result<T, Error> {
    let body = T::decode(body).map_err(|err| unreadable(what, &err.to_string()))?;
    body.check().map_err(|reason| unreadable(what, &reason))?;
    Ok(body)
}

/// Refuses a message that names what no legal name is, before anything else is done with it.
///
/// # Errors
///
/// [`Error::Codec`]: it certainly did not run.
pub(crate) fn check(message: &Message) -> Result<(), Error> {
    let names = || {
        short("kind", message.kind.as_str(), MAX_NAME)?;
        short("message type", message.message.as_str(), MAX_NAME)?;
        short("key", &message.key, MAX_NAME)
    };
    // The sign bears a body for its key, which is read within its own bounds.
    if message.kind.as_str() == LANDED { Ok(()) } else { names().map_err(|reason| unreadable("a message", &reason)) }
}

fn unreadable(what: &str, reason: &str) -> Error {
    Error::Codec { what: what.to_owned(), reason: reason.to_owned(), not_run: true }
}

/// Writes a body.
pub(crate) fn write<T: prost::Message>(body: &T) -> Bytes {
    body.encode_to_vec().into()
}

/// Writes an answer: a place, or an error.
pub(crate) fn write_answer(answer: &Result<Place, Error>) -> (u32, Bytes) {
    match answer {
        Ok(place) => (link::OK, write(place)),
        Err(error) => link::write_fault(error),
    }
}

/// Reads what [`write_answer`] wrote.
pub(crate) fn read_answer(status: u32, body: Bytes) -> Result<Place, Error> {
    if status == link::OK { read("a place", body) } else { Err(link::read_fault(body)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_place_reads_back() {
        let location = Location {
            dc: "eu/dc-1".parse().unwrap(),
            node: NodeId(7),
            endpoint: "10.0.0.1:7946".parse().unwrap(),
            actor: 9,
        };
        let (status, body) = write_answer(&Ok(Place::at("worker", &location)));
        let place = read_answer(status, body).unwrap();
        assert_eq!(place.kind, "worker");
        assert_eq!(place.location(), Ok(Some(location)));
        assert_eq!(Place::none().location(), Ok(None));
        assert_eq!(Place::ask_next().location(), Ok(None));
    }

    #[test]
    fn what_is_owned_reads_back_and_an_identity_of_another_slot_is_nothing() {
        let (group, slot) = (GroupId(9), Slot::new(7).unwrap());
        for thing in [Thing::Slot(group, slot), Thing::grain(group, "cart/7"), Thing::Name("ledger-7".into())] {
            assert_eq!(ThingBody::of(&thing).thing(), Some(thing));
        }
        let stray = ThingBody { identity: "cart/7".into(), ..ThingBody::of(&Thing::Slot(group, slot)) };
        assert_eq!(stray.thing(), None);
    }

    fn refused<T: Body + std::fmt::Debug>(body: &T) {
        let read = read::<T>("a body", write(body));
        let Err(Error::Codec { reason, not_run: true, .. }) = read else { panic!("{read:?}") };
        assert!(reason.contains("are legal") && reason.len() < 100, "{reason}");
    }

    #[test]
    fn r8_names_that_cannot_be_legal_are_refused_as_a_body_is_read() {
        let long = || "x".repeat(MAX_NAME + 1);
        refused(&SpawnBody { kind: long(), ..SpawnBody::default() });
        refused(&SpawnBody { name: long(), ..SpawnBody::default() });
        refused(&LookupBody { name: long() });
        refused(&FindBody { name: long(), ..FindBody::default() });
        refused(&GrainBody { kind: long(), ..GrainBody::default() });
        refused(&GrainBody { id: long(), ..GrainBody::default() });
        refused(&PlaceInBody { kind: long(), ..PlaceInBody::default() });
        refused(&PlaceInBody { id: long(), ..PlaceInBody::default() });
        let thing = || Some(ThingBody { identity: "x".repeat(MAX_IDENTITY + 1), ..ThingBody::default() });
        refused(&SenderBody { thing: thing(), ..SenderBody::default() });
        refused(&OfferBody { thing: thing(), ..OfferBody::default() });
        refused(&ThingBody { name: long(), ..ThingBody::default() });
        let state = StateBody { identity: "x".repeat(MAX_IDENTITY + 1), state: Bytes::new() };
        refused(&OfferBody { states: vec![state], ..OfferBody::default() });
        refused(&WatchBody { watch: vec![WatchedKind { kind: long(), actors: vec![] }], ..WatchBody::default() });
        refused(&Place { kind: long(), ..Place::default() });
        let longest = SpawnBody { kind: "x".repeat(MAX_NAME), name: "y".repeat(MAX_NAME), ..SpawnBody::default() };
        assert_eq!(read::<SpawnBody>("a spawn", write(&longest)), Ok(longest));
    }

    #[test]
    fn r8_a_message_that_names_what_cannot_be_legal_is_refused() {
        let message = |kind: &str, name: &str, key: usize| Message {
            to: 1,
            kind: kind.into(),
            key: vec![b'k'; key].into(),
            message: name.into(),
            epoch: 0,
            from: Bytes::new(),
            payload: Bytes::new(),
        };
        let long = "x".repeat(MAX_NAME + 1);
        assert_eq!(check(&message(&long[1..], &long[1..], MAX_NAME)), Ok(()));
        for wrong in [message(&long, "m", 0), message("k", &long, 0), message("k", "m", MAX_NAME + 1)] {
            let Err(Error::Codec { reason, not_run: true, .. }) = check(&wrong) else { panic!("{wrong:?}") };
            assert!(reason.len() < 100, "{reason}");
        }
    }

    #[test]
    fn r8_lists_about_watches_are_bounded_as_they_are_read() {
        let some = |number: usize| vec![7_u64; number];
        let kind = |actors| WatchedKind { kind: "worker".into(), actors };
        refused(&WatchBody { watch: vec![kind(some(AT_ONCE)), kind(some(1))], ..WatchBody::default() });
        refused(&WatchBody { watch: vec![kind(vec![]); AT_ONCE + 1], ..WatchBody::default() });
        refused(&WatchBody { unwatch: some(AT_ONCE + 1), ..WatchBody::default() });
        refused(&WatchBody { taken: some(AT_ONCE + 1), ..WatchBody::default() });
        refused(&EndedBody { round: 1, taken: some(AT_ONCE + 1) });
        refused(&Ends { unknown: false, ended: vec![End::of(7, How::Gone); AT_ONCE + 1] });
        refused(&Ends { unknown: false, ended: vec![End { why: "x".repeat(MAX_WHY + 1), ..End::of(7, How::Failed) }] });
        let (watch, unwatch, taken) = (vec![kind(some(AT_ONCE))], some(AT_ONCE), some(AT_ONCE));
        let most = WatchBody { round: 1, afresh: true, watch, unwatch, taken };
        assert_eq!(read::<WatchBody>("a watch", write(&most)), Ok(most));
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_or_a_body(garbage: Vec<u8>) {
            let bytes = Bytes::from(garbage);
            let _ = read::<SpawnBody>("x", bytes.clone());
            let _ = read::<GrainBody>("x", bytes.clone());
            let _ = read::<WatchBody>("x", bytes.clone());
            let _ = read_ends(0, bytes.clone());
            if let Ok(place) = read_answer(0, bytes) {
                let _ = place.location();
            }
        }
    }
}
