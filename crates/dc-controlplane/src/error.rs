//! Why a control-plane call failed, and whether its write may have landed.

use std::{error::Error as StdError, time::Duration};

use dc_core::{DataCenterId, DataCenterRecord, IllegalTransition, Invalid, Version};

/// An error of the backend's own client.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a control-plane call failed.
///
/// One variant per thing that a caller does differently. `source` carries the
/// cause; `Display` does not repeat it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another writer won, or what was to be created exists (P2). Nothing was changed.
    #[error("{id}: {}", conflict(expected, stored))]
    Conflict {
        /// The record in question.
        id: DataCenterId,
        /// The version that the write named; `None` for "must not exist".
        expected: Option<Version>,
        /// What is stored; `None` where nothing is.
        stored: Option<Box<DataCenterRecord>>,
    },
    /// No live record of this id is stored. Nothing was changed.
    #[error("{id}: no such record")]
    NotFound {
        /// The record in question.
        id: DataCenterId,
    },
    /// A state move that P9 does not allow. Nothing was changed.
    #[error("{id}: {source}")]
    IllegalTransition {
        /// The record in question.
        id: DataCenterId,
        /// Both states.
        source: IllegalTransition,
    },
    /// An argument breaks a rule. Nothing was sent.
    #[error("refused before it was sent: {0}")]
    Invalid(#[from] Invalid),
    /// No answer in time.
    #[error("no answer from {backend} to {operation} in {after:?}{}", outcome_text(outcome))]
    Timeout {
        /// Which backend.
        backend: &'static str,
        /// Which call: `register`, `heartbeat`, ..
        operation: &'static str,
        /// How long was waited.
        after: Duration,
        /// Whether a write may have landed.
        outcome: Outcome,
    },
    /// The store cannot be reached, or went away during the call.
    #[error("{backend} is unreachable ({operation}){}", outcome_text(outcome))]
    Unreachable {
        /// Which backend.
        backend: &'static str,
        /// Which call.
        operation: &'static str,
        /// Whether a write may have landed.
        outcome: Outcome,
        /// The client's own error.
        source: BoxError,
    },
    /// The watch has, or may have, missed a removal: list again, compare, then watch (P5).
    #[error("the watch was lost: {why}; list again, then watch")]
    WatchLost {
        /// What happened.
        why: String,
    },
    /// This backend has no watch: poll.
    #[error("{backend} has no watch; poll instead")]
    WatchUnsupported {
        /// Which backend.
        backend: &'static str,
    },
    /// The store refused the credentials, or they do not allow this.
    #[error("{backend} refused: {why}")]
    Denied {
        /// Which backend.
        backend: &'static str,
        /// What was refused, without secrets.
        why: String,
    },
    /// The store's settings are unsafe, and strict mode was asked for (P13); or they cannot work at all.
    #[error("{backend} is set up unsafely: {}", findings.join("; "))]
    Unsafe {
        /// Which backend.
        backend: &'static str,
        /// One sentence for each setting.
        findings: Vec<String>,
    },
    /// What is stored cannot be decoded.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The plane was closed.
    #[error("the control plane was closed")]
    Closed,
    /// Anything else that the backend reports.
    #[error("{backend} failed ({operation}){}", outcome_text(outcome))]
    Backend {
        /// Which backend.
        backend: &'static str,
        /// Which call.
        operation: &'static str,
        /// Whether a write may have landed.
        outcome: Outcome,
        /// The client's own error.
        source: BoxError,
    },
}

/// Whether a failed call may have changed the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Certainly not.
    Unchanged,
    /// The answer was lost: the write may have landed, or may land later. Repeating it is safe (P2, P11).
    Unknown,
}

/// A key of the store whose content cannot be decoded. It is left out and reported; it fails nothing else (P6).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub struct Corrupt {
    /// The key, as the backend names it.
    pub key: String,
    /// What is wrong.
    pub why: String,
}

impl Error {
    /// Whether the identical call may succeed later.
    ///
    /// A timed-out write is retryable only because writes are fenced (P2).
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Unreachable { .. } | Self::Backend { .. } => true,
            Self::Conflict { .. }
            | Self::NotFound { .. }
            | Self::IllegalTransition { .. }
            | Self::Invalid(_)
            | Self::WatchLost { .. }
            | Self::WatchUnsupported { .. }
            | Self::Denied { .. }
            | Self::Unsafe { .. }
            | Self::Corrupt(_)
            | Self::Closed => false,
        }
    }

    /// Whether the write may have landed all the same: read before deciding, or repeat it (P11).
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Timeout { outcome, .. } | Self::Unreachable { outcome, .. } | Self::Backend { outcome, .. } => {
                *outcome == Outcome::Unknown
            }
            _ => false,
        }
    }

    /// Whether this says something of the store's health, rather than of the call.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Unreachable { .. } | Self::Backend { .. })
    }
}

fn conflict(expected: &Option<Version>, stored: &Option<Box<DataCenterRecord>>) -> String {
    let wanted = match expected {
        Some(version) => format!("expected version {version}"),
        None => "expected no record".to_owned(),
    };
    match stored {
        Some(record) => {
            format!("{wanted}, found {} of {} epoch {}", record.version, record.owner.node.short(), record.epoch)
        }
        None => format!("{wanted}, found none"),
    }
}

fn outcome_text(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Unchanged => "",
        Outcome::Unknown => "; the write may have landed",
    }
}
