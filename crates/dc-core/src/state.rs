//! Lifecycle of a datacenter, and what it allows.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{IntentKind, Invalid};

/// Lifecycle of one datacenter, as its leader writes it (P8: the operator's
/// will is an [`Intent`](crate::Intent), kept apart).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "&'static str", from = "String")]
#[non_exhaustive]
pub enum DataCenterState {
    /// Known, not yet serving.
    Registered,
    /// Takes placements and traffic.
    Active,
    /// Takes no new placement; lookups and traffic go on.
    Draining,
    /// Takes nothing.
    Inactive,
    /// Written by a version that knows more states than this one: takes
    /// nothing, as the strictest reading of what it may mean.
    Unknown,
}

impl DataCenterState {
    /// The one place that decides which moves are legal (P9). Pure: no clock, no I/O.
    ///
    /// A move to where it is already is legal and changes nothing. Out of
    /// [`Unknown`](Self::Unknown) each move is legal: its owner is being replaced.
    ///
    /// # Errors
    ///
    /// [`IllegalTransition`] names both states.
    pub fn next(self, to: Self) -> Result<Self, IllegalTransition> {
        use DataCenterState::*;
        match (self, to) {
            (from, to) if from == to => Ok(to),
            (_, Unknown) => Err(IllegalTransition { from: self, to }),
            (Unknown, _) => Ok(to),
            (Registered, Active | Draining | Inactive) => Ok(to),
            (Active, Draining | Inactive) => Ok(to),
            (Draining, Active | Inactive) => Ok(to),
            (Inactive, Active) => Ok(to),
            (from, to) => Err(IllegalTransition { from, to }),
        }
    }

    /// As written in records: `REGISTERED`, `ACTIVE`, `DRAINING`, `INACTIVE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "REGISTERED",
            Self::Active => "ACTIVE",
            Self::Draining => "DRAINING",
            Self::Inactive => "INACTIVE",
            Self::Unknown => "UNKNOWN",
        }
    }
}

impl From<DataCenterState> for &'static str {
    fn from(state: DataCenterState) -> Self {
        state.as_str()
    }
}

impl From<String> for DataCenterState {
    /// What is not known reads as [`Unknown`](DataCenterState::Unknown) (fault 19: mixed versions).
    fn from(text: String) -> Self {
        text.parse().unwrap_or(Self::Unknown)
    }
}

impl FromStr for DataCenterState {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.to_ascii_uppercase().as_str() {
            "REGISTERED" => Ok(Self::Registered),
            "ACTIVE" => Ok(Self::Active),
            "DRAINING" => Ok(Self::Draining),
            "INACTIVE" => Ok(Self::Inactive),
            _ => Err(Invalid::new("state", text, "must be REGISTERED, ACTIVE, DRAINING or INACTIVE")),
        }
    }
}

impl fmt::Display for DataCenterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A move that P9 does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a datacenter cannot go from {from} to {to}")]
pub struct IllegalTransition {
    /// Where it is.
    pub from: DataCenterState,
    /// Where it was asked to go.
    pub to: DataCenterState,
}

/// What may be sent to a datacenter (C6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Routability {
    /// Nothing.
    Nothing,
    /// Lookups and messages, no new placement.
    Traffic,
    /// Placements and traffic.
    Placements,
}

/// What `state` and `intent` allow together: the stricter of the two (C6, P8).
///
/// ```
/// use dc_core::{DataCenterState, IntentKind, Routability, routability};
/// assert_eq!(routability(DataCenterState::Active, IntentKind::Serve), Routability::Placements);
/// assert_eq!(routability(DataCenterState::Active, IntentKind::Drain), Routability::Traffic);
/// assert_eq!(routability(DataCenterState::Registered, IntentKind::Drain), Routability::Nothing);
/// ```
pub fn routability(state: DataCenterState, intent: IntentKind) -> Routability {
    let by_state = match state {
        DataCenterState::Active => Routability::Placements,
        DataCenterState::Draining => Routability::Traffic,
        DataCenterState::Registered | DataCenterState::Inactive | DataCenterState::Unknown => Routability::Nothing,
    };
    let by_intent = match intent {
        IntentKind::Serve => Routability::Placements,
        // "out" drains first; the leader goes on to INACTIVE once nothing global is owned.
        IntentKind::Drain | IntentKind::Out => Routability::Traffic,
    };
    by_state.min(by_intent)
}

#[cfg(test)]
mod tests {
    use super::DataCenterState::*;
    use super::*;

    #[test]
    fn p9_only_legal_moves_succeed() {
        let all = [Registered, Active, Draining, Inactive];
        let legal = [
            (Registered, Active),
            (Registered, Draining),
            (Registered, Inactive),
            (Active, Draining),
            (Draining, Active),
            (Active, Inactive),
            (Draining, Inactive),
            (Inactive, Active),
        ];
        for from in all {
            for to in all {
                let want = from == to || legal.contains(&(from, to));
                assert_eq!(from.next(to).is_ok(), want, "P9: {from} -> {to}");
            }
        }
    }

    #[test]
    fn an_unknown_state_is_read_and_takes_nothing() {
        let state: DataCenterState = serde_json::from_str("\"QUARANTINED\"").unwrap();
        assert_eq!(state, Unknown);
        assert_eq!(routability(state, IntentKind::Serve), Routability::Nothing);
    }

    #[test]
    fn c6_the_stricter_of_state_and_intent_decides() {
        use IntentKind::*;
        for (state, intent, want) in [
            (Active, Serve, Routability::Placements),
            (Active, Drain, Routability::Traffic),
            (Active, Out, Routability::Traffic),
            (Draining, Serve, Routability::Traffic),
            (Registered, Serve, Routability::Nothing),
            (Inactive, Serve, Routability::Nothing),
        ] {
            assert_eq!(routability(state, intent), want, "C6: {state} and {intent}");
        }
    }
}
