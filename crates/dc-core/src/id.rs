//! Identities: of a datacenter, of a node, of a system.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Invalid, invalid::check_name};

/// Identity of a datacenter, made of its name, region and zone.
///
/// Two different triples never share one id: each part is escaped (bytes other
/// than ASCII letters, digits and `-` become `=XX`), the parts are joined with
/// `/`, and their number says which are present: `name`, `region/name`,
/// `region/zone/name` (a zone without a region: `=/zone/name`). What results
/// holds only `A-Z a-z 0-9 - = /`, so it is a legal key on every backend
/// as it stands. Cheap to clone.
///
/// ```
/// use dc_core::{DataCenter, DataCenterId};
/// let dc = DataCenter::new("dc-1").region("us-east-1").zone("az a").build()?;
/// assert_eq!(dc.id().as_str(), "us-east-1/az=20a/dc-1");
/// assert_eq!("us-east-1/az=20a/dc-1".parse::<DataCenterId>()?, *dc.id());
/// # Ok::<(), dc_core::Invalid>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DataCenterId(Arc<str>);

impl DataCenterId {
    /// The longest id, in bytes: three parts of 63 bytes, all escaped, and two separators.
    pub const MAX_LEN: usize = 3 * 63 * 3 + 2;

    /// From parts that were checked already.
    pub(crate) fn from_parts(name: &str, region: Option<&str>, zone: Option<&str>) -> Self {
        let mut id = String::with_capacity(64);
        match (region, zone) {
            (None, None) => {}
            (Some(region), None) => {
                escape(region, &mut id);
                id.push('/');
            }
            (region, Some(zone)) => {
                match region {
                    Some(region) => escape(region, &mut id),
                    None => id.push('='),
                }
                id.push('/');
                escape(zone, &mut id);
                id.push('/');
            }
        }
        escape(name, &mut id);
        Self(id.into())
    }

    /// The id as text: a legal key on every backend.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, region and zone that this id was made of.
    pub fn parts(&self) -> (String, Option<String>, Option<String>) {
        // An id only ever holds what `split` accepts, so the fallback is never taken.
        split(&self.0).unwrap_or_else(|_| (self.0.to_string(), None, None))
    }
}

fn escape(part: &str, out: &mut String) {
    use fmt::Write;
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "={byte:02X}");
        }
    }
}

fn unescape(part: &str) -> Result<String, &'static str> {
    const RULE: &str = "escapes must be `=` and two upper-case hexadecimal digits, and only where needed";
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'=' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()).ok_or(RULE)?;
        let byte = u8::from_str_radix(hex, 16).map_err(|_| RULE)?;
        if byte.is_ascii_alphanumeric()
            || byte == b'-'
            || hex.bytes().any(|b| !b.is_ascii_digit() && !b.is_ascii_uppercase())
        {
            return Err(RULE);
        }
        bytes.push(byte);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| "escapes must form UTF-8")
}

type Parts = (String, Option<String>, Option<String>);

fn split(id: &str) -> Result<Parts, &'static str> {
    let parts: Vec<&str> = id.split('/').collect();
    match parts[..] {
        [name] => Ok((unescape(name)?, None, None)),
        [region, name] => Ok((unescape(name)?, Some(unescape(region)?), None)),
        ["=", zone, name] => Ok((unescape(name)?, None, Some(unescape(zone)?))),
        [region, zone, name] => Ok((unescape(name)?, Some(unescape(region)?), Some(unescape(zone)?))),
        _ => Err("must be `name`, `region/name` or `region/zone/name`"),
    }
}

impl FromStr for DataCenterId {
    type Err = Invalid;

    fn from_str(id: &str) -> Result<Self, Invalid> {
        let refuse = |rule: &str| Invalid::new("datacenter id", id, rule);
        if let Some(odd) = id.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '=' | '/')) {
            return Err(refuse(&format!("must hold only letters, digits, `-`, `=` and `/`, found {odd:?}")));
        }
        let (name, region, zone) = split(id).map_err(refuse)?;
        for (field, part) in [("name", Some(&name)), ("region", region.as_ref()), ("zone", zone.as_ref())] {
            if let Some(part) = part {
                check_name(field, part, 63).map_err(|err| refuse(&format!("{} {}", err.field, err.rule)))?;
            }
        }
        Ok(Self::from_parts(&name, region.as_deref(), zone.as_deref()))
    }
}

impl TryFrom<String> for DataCenterId {
    type Error = Invalid;
    fn try_from(id: String) -> Result<Self, Invalid> {
        id.parse()
    }
}

impl From<DataCenterId> for String {
    fn from(id: DataCenterId) -> Self {
        id.0.to_string()
    }
}

impl fmt::Display for DataCenterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DataCenterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One run of one node: drawn at random at each start, so that it is the node's
/// incarnation as well. Shown as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u128);

impl NodeId {
    /// The first eight digits: enough to tell nodes apart in a log.
    pub fn short(&self) -> String {
        format!("{:08x}", self.0 >> 96)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NodeId {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Invalid::new("node id", text, "must be 32 hexadecimal digits"));
        }
        u128::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| Invalid::new("node id", text, "must be 32 hexadecimal digits"))
    }
}

impl Serialize for NodeId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { self.0.serialize(s) }
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            let text = std::borrow::Cow::<str>::deserialize(d)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            u128::deserialize(d).map(Self)
        }
    }
}

/// Name of one actor system: nodes of different systems refuse each other.
///
/// 1 to 63 bytes, no control characters, no blank at either end. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SystemName(Arc<str>);

impl SystemName {
    /// Checks `name`.
    ///
    /// # Errors
    ///
    /// [`Invalid`] where it breaks the rule above.
    pub fn new(name: impl AsRef<str>) -> Result<Self, Invalid> {
        check_name("system name", name.as_ref(), 63)?;
        Ok(Self(name.as_ref().into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SystemName {
    type Error = Invalid;
    fn try_from(name: String) -> Result<Self, Invalid> {
        Self::new(name)
    }
}

impl From<SystemName> for String {
    fn from(name: SystemName) -> Self {
        name.0.to_string()
    }
}

impl fmt::Display for SystemName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::DataCenter;

    fn part() -> impl Strategy<Value = String> {
        "[a-zA-Z0-9 ./=_ä*>@-]{1,8}".prop_filter("trimmed", |s| s.trim() == s && !s.is_empty())
    }

    proptest! {
        #[test]
        fn two_datacenters_never_share_an_id(
            a in (part(), proptest::option::of(part()), proptest::option::of(part())),
            b in (part(), proptest::option::of(part()), proptest::option::of(part())),
        ) {
            let id = |(n, r, z): &Parts| DataCenterId::from_parts(n, r.as_deref(), z.as_deref());
            prop_assert_eq!(a == b, id(&a) == id(&b));
            prop_assert_eq!(id(&a).parts(), a.clone());
            let parsed: DataCenterId = id(&a).as_str().parse().unwrap();
            prop_assert_eq!(parsed, id(&a));
        }

        #[test]
        fn garbage_is_refused_or_round_trips(text in ".{0,40}") {
            if let Ok(id) = text.parse::<DataCenterId>() {
                prop_assert_eq!(id.as_str(), text);
            }
        }

        #[test]
        fn every_id_is_a_legal_key(a in (part(), proptest::option::of(part()), proptest::option::of(part()))) {
            let id = DataCenterId::from_parts(&a.0, a.1.as_deref(), a.2.as_deref());
            prop_assert!(id.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b"-/=".contains(&b)));
            prop_assert!(id.as_str().len() <= DataCenterId::MAX_LEN);
        }
    }

    #[test]
    fn a_name_that_holds_a_separator_is_not_a_region() {
        let tricky = DataCenter::new("eu/dc").build().unwrap();
        let plain = DataCenter::new("dc").region("eu").build().unwrap();
        assert_ne!(tricky.id(), plain.id());
    }

    #[test]
    fn node_ids_read_back() {
        let id = NodeId(0xabc);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("xyz".parse::<NodeId>().is_err());
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<NodeId>(&json).unwrap(), id);
    }
}
