//! Whom a certificate is for: one URI among its subject alternative names.

use std::{fmt, str::FromStr};

use dc_core::{DataCenterId, Endpoint, Invalid, SystemName};

const SCHEME: &str = "multidc://";
const RULE: &str = "must be multidc://<system>/<datacenter id>, or the same with ?node=<host:port>";

/// Whom a certificate is for: a system, a datacenter of it, and one node of that where it is given.
///
/// As text it is the URI that the certificate holds among its subject alternative names:
/// `multidc://<system>/<datacenter id>`, with `?node=<host:port>` where it is for one node only, which is named by the
/// endpoint that it advertises (its id is drawn anew at each start). Letters, digits and `-._~` of the system and the
/// node stand for themselves, and so does `:` in the node; other bytes are written `%` and two upper-case hexadecimal
/// digits. A datacenter id is written as it is: `region/zone/name`, its own escapes included.
///
/// ```
/// use dc_remoting::CertificateName;
/// let name: CertificateName = "multidc://my%20shop/eu-west-1/dc-2?node=n1.example:7946".parse()?;
/// assert_eq!(name.system.as_str(), "my shop");
/// assert_eq!(name.dc.as_str(), "eu-west-1/dc-2");
/// assert_eq!(name.node.as_ref().map(ToString::to_string).as_deref(), Some("n1.example:7946"));
/// assert_eq!(name.to_string(), "multidc://my%20shop/eu-west-1/dc-2?node=n1.example:7946");
/// # Ok::<(), dc_core::Invalid>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateName {
    /// The actor system.
    pub system: SystemName,
    /// The datacenter.
    pub dc: DataCenterId,
    /// The one node, by the endpoint that it advertises; any of the datacenter where this is `None`.
    pub node: Option<Endpoint>,
}

impl CertificateName {
    /// Whether a URI claims to be such a name; others in a certificate mean nothing here.
    pub(crate) fn claims(uri: &str) -> bool {
        uri.get(..SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
    }
}

fn escape(text: &str, also: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    use fmt::Write;
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || also.contains(&byte) {
            f.write_char(char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

/// The text that `escaped` stands for, if it is escaped as [`escape`] does it and no other way.
fn unescape(escaped: &str, also: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first.is_ascii_alphanumeric() || b"-._~".contains(&first) || also.contains(&first) {
            bytes.push(first);
        } else if first == b'%' {
            let (digits, tail) = rest.split_at_checked(2)?;
            let digit = |d: u8| char::from(d).to_digit(16).filter(|_| !d.is_ascii_lowercase());
            // Two hexadecimal digits are less than 256.
            bytes.push((digit(digits[0])? * 16 + digit(digits[1])?) as u8);
            rest = tail;
        } else {
            return None;
        }
    }
    String::from_utf8(bytes).ok()
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        escape(self.system.as_str(), b"", f)?;
        write!(f, "/{}", self.dc)?;
        if let Some(node) = &self.node {
            f.write_str("?node=")?;
            escape(&node.to_string(), b":", f)?;
        }
        Ok(())
    }
}

impl FromStr for CertificateName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = || Invalid::new("certificate name", text, RULE);
        let rest = text.strip_prefix(SCHEME).ok_or_else(refuse)?;
        let (rest, node) = match rest.split_once("?node=") {
            Some((rest, node)) => (rest, Some(unescape(node, b":").ok_or_else(refuse)?)),
            None => (rest, None),
        };
        let (system, dc) = rest.split_once('/').ok_or_else(refuse)?;
        let system = unescape(system, b"").ok_or_else(refuse)?;
        let inner = |invalid: Invalid| Invalid::new("certificate name", text, invalid.to_string());
        let name = Self {
            system: SystemName::new(system).map_err(inner)?,
            dc: dc.parse().map_err(inner)?,
            node: node.map(|node| node.parse()).transpose().map_err(inner)?,
        };
        // One name, one text: what two readers could take for different names is refused.
        let canonical = name.to_string();
        if canonical != text {
            return Err(Invalid::new("certificate name", text, format!("must be written {canonical}")));
        }
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use dc_core::DataCenter;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_breaks_the_form_is_refused() {
        for bad in [
            "",
            "multidc://",
            "multidc://app",
            "multidc://app/",
            "multidc:///dc-1",
            "spiffe://app/dc-1",
            "multidc://a b/dc-1",
            "multidc://a%2/dc-1",
            "multidc://a%zz/dc-1",
            "multidc://a%2f/dc-1",
            "multidc://app/dc-1?node=",
            "multidc://app/dc-1?node=host",
            "multidc://app/dc-1?other=1",
            "multidc://app/dc-1/dc-2/dc-3/dc-4",
            "multidc://app/dc-1#x",
        ] {
            let err = bad.parse::<CertificateName>().expect_err(bad);
            assert_eq!(err.field, "certificate name", "{bad}");
        }
    }

    proptest! {
        #[test]
        fn r9_a_name_reads_back_as_it_was_and_in_one_way(
            system in "[ -~äß/%?#]{1,20}",
            name in "[a-z0-9 ._/=-]{1,12}",
            region in proptest::option::of("[a-z0-9 =/-]{1,9}"),
            port in proptest::option::of(1u16..),
        ) {
            let (Ok(system), Ok(dc)) = (SystemName::new(&system), {
                let dc = DataCenter::new(&name);
                match &region { Some(region) => dc.region(region), None => dc }.build()
            }) else { return Ok(()) };
            let node = port.map(|port| format!("[::1]:{port}").parse().expect("legal"));
            let name = CertificateName { system, dc: dc.id().clone(), node };
            let text = name.to_string();
            prop_assert!(text.is_ascii() && CertificateName::claims(&text), "{text}");
            let read: CertificateName = text.parse().expect("its own form");
            prop_assert_eq!(&read, &name);
            prop_assert_eq!(read.to_string(), text);
        }

        #[test]
        fn r8_any_text_is_refused_or_read_in_one_way(text in "(multidc://)?[ -~]{0,40}") {
            if let Ok(name) = text.parse::<CertificateName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
