//! What the backends' configurations share: secrets, TLS files, checked durations.

use std::{fmt, path::PathBuf, time::Duration};

use dc_core::Invalid;

/// A secret; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `secret` from being printed by accident.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the one who must send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// TLS towards a store: what to trust, and who we are. PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The CA to trust; the platform's roots where left out.
    pub ca: Option<PathBuf>,
    /// Our certificate chain; needs `key`.
    pub certificate: Option<PathBuf>,
    /// Our private key; needs `certificate`.
    pub key: Option<PathBuf>,
}

impl TlsFiles {
    /// Refuses half-set client certificates and files that are not there.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field, the path and the rule.
    pub fn check(&self) -> Result<(), Invalid> {
        match (&self.certificate, &self.key) {
            (Some(path), None) => {
                return Err(Invalid::new("tls certificate", path.to_string_lossy(), "needs `tls key` as well"));
            }
            (None, Some(path)) => {
                return Err(Invalid::new("tls key", path.to_string_lossy(), "needs `tls certificate` as well"));
            }
            _ => {}
        }
        for (field, path) in [("tls ca", &self.ca), ("tls certificate", &self.certificate), ("tls key", &self.key)] {
            if let Some(path) = path.as_ref().filter(|path| !path.is_file()) {
                return Err(Invalid::new(field, path.to_string_lossy(), "must be a readable file"));
            }
        }
        Ok(())
    }
}

/// Checks a duration: `min` to `max`, both included.
///
/// # Errors
///
/// [`Invalid`] names the field, the value and the rule.
pub fn check_duration(field: &str, value: Duration, min: Duration, max: Duration) -> Result<(), Invalid> {
    if value < min || value > max {
        return Err(Invalid::new(field, format!("{value:?}"), format!("must be {min:?} to {max:?}")));
    }
    Ok(())
}

/// Checks a bucket or namespace: 1 to 63 of `A-Z a-z 0-9 _ -`, legal on every backend.
///
/// # Errors
///
/// [`Invalid`] names the field, the value and the rule.
pub fn check_namespace(field: &str, value: &str) -> Result<(), Invalid> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if value.is_empty() || value.len() > 63 || !value.bytes().all(legal) {
        return Err(Invalid::new(field, value, "must be 1 to 63 letters, digits, `_` or `-`"));
    }
    Ok(())
}

/// Undoes the `%`-escapes of a URL's user or password; `None` where one is not two hexadecimal digits, or the result no
/// text.
pub fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok())?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}
