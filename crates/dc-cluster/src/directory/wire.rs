//! What members ask each other about names, encoded by postcard.

use dc_core::NodeId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Entry;

/// A message with its sender's age clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Framed<T> {
    pub(crate) clock: u64,
    pub(crate) body: T,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Host to primary: register my entry. An age of 0 asks for a fresh one.
    Claim(Entry),
    /// Who holds this name? With `backup`, the backup may answer with a hit.
    Lookup { key: String, backup: bool },
    /// Host to primary: my entry is gone. `ran`: its request is remembered.
    Release { entry: Entry, ran: bool },
    /// Primary to backup: keep a copy.
    Replicate(Entry),
    /// Primary to backup: forget the copy.
    Forget { entry: Entry, ran: bool },
    /// What do you host of which I am primary or backup, in the view with this id? With `spent`, also
    /// which requests are done. Nothing, if its digest is this one; from `after` on, if that is given.
    Pull { view: u64, digest: Digest, after: Option<String>, spent: bool },
    /// Primary to host: your entry lost against an older one.
    Evict { lost: Entry, kept: Entry },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Response {
    /// The entry as it is registered.
    Granted(Entry),
    /// The same request has claimed the name before.
    Same(Entry),
    /// Another holds the name.
    Taken(Entry),
    /// The holder, if any.
    Found(Option<Entry>),
    /// In this node's view another one answers for the name.
    NotPrimary,
    /// Too much is waiting here; ask again.
    Busy,
    /// No room for more names.
    Full,
    /// Done, or nothing to do.
    Done,
    /// In this node's view the membership is another one.
    OtherView,
    /// What this host holds has the digest that was sent.
    Unchanged { spent: Vec<Entry> },
    /// What this host holds, up to `next`; without it, to the end.
    Page { entries: Vec<Entry>, next: Option<String>, spent: Vec<Entry> },
    /// The question breaks a rule.
    Refused,
}

/// A short summary of a set of entries, the same in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Digest {
    count: u64,
    sum: u64,
}

impl Digest {
    pub(crate) fn add(&mut self, entry: &Entry) {
        let id = super::rendezvous::mix(entry.actor)
            ^ super::rendezvous::mix(entry.request as u64 ^ (entry.request >> 64) as u64);
        let item = super::rendezvous::mix(super::rendezvous::hash(entry.key.as_bytes()) ^ id ^ entry.age);
        self.count += 1;
        self.sum = self.sum.wrapping_add(item);
    }
}

/// A short id of a membership: two nodes that compute the same see the same members in the same lives.
pub(crate) fn view_id(sorted: &[(NodeId, u64)]) -> u64 {
    use super::rendezvous::mix;
    let step = |id: u64, (node, life): &(NodeId, u64)| mix(mix(mix(id ^ node.0 as u64) ^ (node.0 >> 64) as u64) ^ life);
    sorted.iter().fold(sorted.len() as u64, step)
}

/// Encodes a message.
pub(crate) fn encode<T: Serialize>(message: &Framed<T>) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_stdvec(message)
}

/// Reads a message. Trailing bytes and names that break the rules are refused.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<Framed<T>> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Some(message),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(key: &str) -> Entry {
        Entry {
            key: key.into(),
            kind: "worker".into(),
            holder: NodeId(u128::MAX),
            endpoint: "node.example:1".parse().unwrap(),
            actor: 7,
            request: 9,
            age: 3,
        }
    }

    #[test]
    fn messages_read_back_as_written() {
        let bytes = encode(&Framed { clock: 5, body: Request::Claim(entry("a/x")) }).unwrap();
        assert_eq!(decode(&bytes), Some(Framed { clock: 5, body: Request::Claim(entry("a/x")) }));
        assert_eq!(decode::<Request>(&[bytes, vec![0]].concat()), None);
    }

    #[test]
    fn a_digest_depends_on_the_set_and_not_on_its_order() {
        let of = |keys: &[&str]| {
            let mut digest = Digest::default();
            keys.iter().for_each(|key| digest.add(&entry(key)));
            digest
        };
        assert_eq!(of(&["a", "b"]), of(&["b", "a"]));
        assert_ne!(of(&["a", "b"]), of(&["a", "c"]));
        assert_ne!(of(&["a", "a"]), of(&[]), "duplicates do not cancel");
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Response>(&bytes);
        }
    }
}
