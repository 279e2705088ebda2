//! What things are called: sessions, placement groups, slots.

use std::{fmt, str::FromStr};

use dc_core::Invalid;
use serde::{Deserialize, Serialize};

/// A session: one stretch of one node's life in which it may own things. Random, never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u128);

impl SessionId {
    /// Its first digits, for people.
    pub fn short(self) -> String {
        format!("{:08x}", self.0 >> 96)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SessionId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        digits(text).map(Self).ok_or_else(|| Invalid::new("session id", text, "must be 32 hexadecimal digits"))
    }
}

/// A placement group: the kinds of grains that share a [`Policy`](crate::policy::Policy), and with it their slots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u128);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for GroupId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        digits(text).map(Self).ok_or_else(|| Invalid::new("group id", text, "must be 32 hexadecimal digits"))
    }
}

fn digits(text: &str) -> Option<u128> {
    let whole = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(text, 16).ok().filter(|_| whole)
}

macro_rules! as_text {
    ($($id:ty),+) => {$(
        impl Serialize for $id {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $id {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

as_text!(SessionId, GroupId);

/// Slots of each placement group. Part of the stored format: it never changes.
pub const SLOTS: u16 = 4_096;

/// Slots whose entries share one document. Part of the stored format.
pub const SLOTS_PER_DOCUMENT: u16 = 64;

/// One of the [`SLOTS`] shares of a placement group's identities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The slot of an identity (`kind/id`, say). The same on every node and in every version.
    pub fn of(identity: &str) -> Self {
        let hash = dc_core::snapshot::hash::mix(dc_core::snapshot::hash::fnv(identity.as_bytes()));
        // Below SLOTS by the remainder.
        Self((hash % u64::from(SLOTS)) as u16)
    }

    /// The slot of this number, below [`SLOTS`].
    pub fn new(number: u16) -> Option<Self> {
        (number < SLOTS).then_some(Self(number))
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOTS).map(Self)
    }

    /// Its number.
    pub fn number(self) -> u16 {
        self.0
    }

    /// The number of the document that has its entry.
    pub fn document(self) -> u16 {
        self.0 / SLOTS_PER_DOCUMENT
    }

    /// Its place there.
    pub fn place(self) -> u16 {
        self.0 % SLOTS_PER_DOCUMENT
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
