//! Versions of servers and tools.

use std::fmt;

/// Major, minor, patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32, pub(crate) u32);

impl Version {
    /// The first thing in `text` that looks like a version: two or three numbers with dots.
    pub(crate) fn find(text: &str) -> Option<Self> {
        text.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| {
            let mut numbers = word.trim_matches('.').split('.').map(|number| number.parse().ok());
            let (major, minor) = (numbers.next()??, numbers.next()??);
            let patch = match numbers.next() {
                None => 0,
                Some(patch) => patch?,
            };
            numbers.next().is_none().then_some(Self(major, minor, patch))
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_version_in_a_text_is_found() {
        for (text, version) in [
            ("nats-server: v2.15.1", Some(Version(2, 15, 1))),
            ("etcd Version: 3.5.30\nGo Version: go1.26.4", Some(Version(3, 5, 30))),
            ("cargo-deny 0.20.2", Some(Version(0, 20, 2))),
            ("1.89", Some(Version(1, 89, 0))),
            ("nats-server: v2.12.0-preview.1", Some(Version(2, 12, 0))),
            ("10.0.0.1 2.3", Some(Version(2, 3, 0))),
            ("no version.", None),
        ] {
            assert_eq!(Version::find(text), version, "{text}");
        }
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(Version(2, 9, 10) < Version(2, 11, 0));
        assert!(Version(1, 89, 0) > Version(1, 85, 1));
    }
}
