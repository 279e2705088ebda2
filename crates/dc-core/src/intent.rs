//! What the operator wants of a datacenter (P8).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Invalid;

/// What an operator wants of a datacenter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "&'static str", from = "String")]
pub enum IntentKind {
    /// Serve; also what holds where nobody said anything.
    #[default]
    Serve,
    /// Take no new placement, keep answering; ends in, and stays, DRAINING.
    Drain,
    /// Drain, then INACTIVE once nothing global is owned.
    Out,
}

impl IntentKind {
    /// As written in stores and on the command line: `serve`, `drain`, `out`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Drain => "drain",
            Self::Out => "out",
        }
    }
}

impl From<IntentKind> for &'static str {
    fn from(kind: IntentKind) -> Self {
        kind.as_str()
    }
}

impl From<String> for IntentKind {
    /// A word of a later version reads as `drain`: no new work, nothing is cut off.
    fn from(text: String) -> Self {
        text.parse().unwrap_or(Self::Drain)
    }
}

impl FromStr for IntentKind {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.to_ascii_lowercase().as_str() {
            "serve" => Ok(Self::Serve),
            "drain" => Ok(Self::Drain),
            "out" => Ok(Self::Out),
            _ => Err(Invalid::new("intent", text, "must be serve, drain or out")),
        }
    }
}

impl fmt::Display for IntentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An operator's word on one datacenter: what, who, why, when. It has no lease
/// and stands until an operator changes it (P8).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// What is wanted.
    pub want: IntentKind,
    /// Who said so.
    #[serde(default)]
    pub by: String,
    /// Why, for the next person on call.
    #[serde(default)]
    pub why: String,
    /// When, by the writer's wall clock, in milliseconds since 1970: for people to read, compared with nothing.
    #[serde(default)]
    pub at_ms: u64,
}

impl Intent {
    /// An intent by `by`, with a reason; the time stays 0 until [`at_ms`](Self::at_ms) is set.
    pub fn new(want: IntentKind, by: impl Into<String>, why: impl Into<String>) -> Self {
        Self { want, by: by.into(), why: why.into(), at_ms: 0 }
    }

    /// Checks the texts: at most 255 and 1,000 bytes, no control characters.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field, the value and the rule.
    pub fn check(&self) -> Result<(), Invalid> {
        for (field, text, max) in [("intent by", &self.by, 255), ("intent why", &self.why, 1000)] {
            if text.len() > max || text.chars().any(char::is_control) {
                return Err(Invalid::new(
                    field,
                    text,
                    format!("must be at most {max} bytes without control characters"),
                ));
            }
        }
        Ok(())
    }
}
