//! Order of writes: store, version, epoch.

use std::{cmp::Ordering, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Invalid;

/// One incarnation of a store: a random id, written once when the store is
/// first used (P1). Shown as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub u128);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for StoreId {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        match u128::from_str_radix(text, 16) {
            Ok(id) if digits => Ok(Self(id)),
            _ => Err(Invalid::new("store id", text, "must be 32 hexadecimal digits")),
        }
    }
}

impl Serialize for StoreId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { self.0.serialize(s) }
    }
}

impl<'de> Deserialize<'de> for StoreId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            let text = std::borrow::Cow::<str>::deserialize(d)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            u128::deserialize(d).map(Self)
        }
    }
}

/// Version of a record: every accepted change has a higher one, within one
/// store incarnation (P1). Versions of different stores have no order.
///
/// ```
/// use dc_core::{StoreId, Version};
/// let (a, b) = (StoreId(1), StoreId(2));
/// assert!(Version::new(a, 8) > Version::new(a, 7));
/// assert_eq!(Version::new(a, 8).partial_cmp(&Version::new(b, 7)), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version {
    /// The store that gave it.
    pub store: StoreId,
    /// The revision: etcd's `mod_revision`, JetStream's stream sequence, a counter elsewhere.
    pub revision: u64,
}

impl Version {
    /// The version `revision` of `store`.
    pub fn new(store: StoreId, revision: u64) -> Self {
        Self { store, revision }
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self.store == other.store).then(|| self.revision.cmp(&other.revision))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:08x}", self.revision, self.store.0 >> 96)
    }
}

/// Fencing number of an ownership: grows by one at each change of owner and never falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of a first owner.
    pub const FIRST: Self = Self(1);

    /// The greatest epoch of anything that is owned: what readers of JSON in any language keep exactly.
    pub const GREATEST: Self = Self((1 << 53) - 1);

    /// The epoch so many changes of owner later; `None` beyond [`GREATEST`](Self::GREATEST), so that none comes twice.
    ///
    /// ```
    /// use dc_core::Epoch;
    /// assert_eq!(Epoch::FIRST.after(2), Some(Epoch(3)));
    /// assert_eq!(Epoch::GREATEST.after(1), None);
    /// assert_eq!(Epoch(u64::MAX).after(0), None);
    /// ```
    #[must_use]
    pub fn after(self, changes: u64) -> Option<Self> {
        self.0.checked_add(changes).map(Self).filter(|epoch| *epoch <= Self::GREATEST)
    }

    /// The next epoch of a record of a datacenter; at the end of `u64` it stays there. What is owned has
    /// [`after`](Self::after).
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
