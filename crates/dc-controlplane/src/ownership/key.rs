//! Keys of documents: what every store can hold as it is.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use dc_core::Invalid;

/// The key of a document: 1 to 900 of the characters `A-Z a-z 0-9 - _ = /`, without `/` at either end or twice in a row.
///
/// A store keeps it below a place of its own (`own/` before it, say), apart from the records of datacenters.
///
/// ```
/// use dc_controlplane::ownership::DocumentKey;
/// let key: DocumentKey = "s/00ff".parse()?;
/// assert_eq!(key.as_str(), "s/00ff");
/// assert!("s//x".parse::<DocumentKey>().is_err());
/// assert_eq!(DocumentKey::escaped("n", "Ledger 7/ü")?.as_str(), "n/Ledger=207=2F=C3=BC");
/// # Ok::<(), dc_core::Invalid>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentKey(Arc<str>);

/// The longest key, in bytes: names of 255 bytes, each escaped, and what stands before them.
const LONGEST: usize = 900;

impl DocumentKey {
    /// The key `under/text`, with every byte of `text` but `A-Z a-z 0-9 - _` written as `=` and two digits.
    ///
    /// # Errors
    ///
    /// [`Invalid`] where `under` is no key, or the whole is too long.
    pub fn escaped(under: &str, text: &str) -> Result<Self, Invalid> {
        use fmt::Write;
        let mut key = format!("{under}/");
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
                key.push(char::from(byte));
            } else {
                // Writing to a string does not fail.
                let _ = write!(key, "={byte:02X}");
            }
        }
        key.parse()
    }

    /// What [`escaped`](Self::escaped) made the part after `under/` of; `None` where it did not.
    pub fn unescape(&self, under: &str) -> Option<String> {
        let text = self.0.strip_prefix(under)?.strip_prefix('/')?.as_bytes();
        let mut bytes = Vec::with_capacity(text.len());
        let mut at = 0;
        while let Some(&byte) = text.get(at) {
            if byte == b'=' {
                let digits = std::str::from_utf8(text.get(at + 1..at + 3)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                at += 3;
            } else {
                bytes.push(byte);
                at += 1;
            }
        }
        String::from_utf8(bytes).ok()
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a key may hold this byte.
fn allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'=' | b'/')
}

/// Checks what [`list`](super::OwnershipStore::list) and [`watch`](super::OwnershipStore::watch) are asked for: how a
/// key may begin, or nothing for all keys. For those who write a backend.
///
/// # Errors
///
/// [`Invalid`], naming the prefix, where no key begins so.
pub fn check_prefix(prefix: &str) -> Result<(), Invalid> {
    let parts = prefix.strip_suffix('/').unwrap_or(prefix);
    let whole = prefix.is_empty() || parts.split('/').all(|part| !part.is_empty());
    if !whole || prefix.len() > LONGEST || !prefix.bytes().all(allowed) {
        return Err(Invalid::new("document prefix", prefix, "must be the beginning of a document key, or empty"));
    }
    Ok(())
}

impl FromStr for DocumentKey {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let whole = !text.is_empty() && text.len() <= LONGEST && text.bytes().all(allowed);
        if !whole || text.split('/').any(str::is_empty) {
            let rule = "must be 1 to 900 of A-Z a-z 0-9 - _ = /, with no empty part between slashes";
            return Err(Invalid::new("document key", text, rule));
        }
        Ok(Self(text.into()))
    }
}

/// Ordered, compared and hashed as the text is.
impl Borrow<str> for DocumentKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn o7_what_no_store_takes_is_refused() {
        for bad in ["", "/a", "a/", "a//b", "a.b", "a b", "ü", &"x".repeat(901)] {
            assert!(bad.parse::<DocumentKey>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn o5_a_prefix_is_how_a_key_may_begin() {
        for good in ["", "s", "s/", "n/Ledger=2", "a/b/c"] {
            assert!(check_prefix(good).is_ok(), "{good:?}");
        }
        for bad in ["/", "/a", "a//", "a//b", "*", "a.b", ">", "ü", &"x".repeat(901)] {
            assert!(check_prefix(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn o7_names_escape_without_collision(a in "\\PC{1,80}", b in "\\PC{1,80}") {
            let (key, other) = (DocumentKey::escaped("n", &a)?, DocumentKey::escaped("n", &b)?);
            let back = key.unescape("n");
            prop_assert_eq!(back.as_deref(), Some(a.as_str()));
            prop_assert_eq!(a == b, key == other);
        }
    }
}
