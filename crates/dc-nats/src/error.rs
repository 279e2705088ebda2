//! From NATS's refusals to the contract's errors.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dc_controlplane::{BoxError, Error, Outcome};
use serde::Deserialize;

/// The backend's name in errors and capabilities.
pub(crate) const BACKEND: &str = "nats";

/// JetStream's refusal of a request. The request changed nothing.
#[derive(Clone, Debug, Deserialize, thiserror::Error)]
#[error("{description} (code {code}, error {err_code})")]
pub(crate) struct ApiError {
    #[serde(default)]
    pub(crate) code: u16,
    #[serde(default)]
    pub(crate) err_code: u32,
    #[serde(default)]
    pub(crate) description: String,
}

impl ApiError {
    const STREAM_NOT_FOUND: u32 = 10_059;
    const STREAM_NAME_IN_USE: u32 = 10_058;
    const WRONG_LAST_SEQUENCE: u32 = 10_071;
    /// The same, where another write is in flight: the server does not say which sequence.
    const WRONG_LAST_SEQUENCE_IN_FLIGHT: u32 = 10_164;
    /// No leader, too few servers, no room on those that answer: a cluster that is still coming up says so.
    const NOT_YET: [u32; 4] = [10_008, 10_005, 10_023, 10_041];

    pub(crate) fn is_not_found(&self) -> bool {
        self.err_code == Self::STREAM_NOT_FOUND
    }

    pub(crate) fn is_name_in_use(&self) -> bool {
        self.err_code == Self::STREAM_NAME_IN_USE
    }

    /// Whether the same request may succeed a moment later.
    pub(crate) fn is_temporary(&self) -> bool {
        self.code == 503 || Self::NOT_YET.contains(&self.err_code)
    }

    /// Whether a compare-and-set was refused, and the sequence that is stored, where it was told.
    pub(crate) fn wrong_last(&self) -> Option<Option<u64>> {
        match self.err_code {
            Self::WRONG_LAST_SEQUENCE => Some(self.description.rsplit(' ').next().and_then(|n| n.parse().ok())),
            Self::WRONG_LAST_SEQUENCE_IN_FLIGHT => Some(None),
            _ => None,
        }
    }
}

/// Why a request got no useful answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Nothing listens on the subject. Nothing was changed.
    #[error("nothing answers: no leader, no JetStream, or no bucket")]
    NoResponders,
    /// The server refused. Nothing was changed.
    #[error(transparent)]
    Api(ApiError),
    /// More keys than one batched read answers for.
    #[error("more keys than a batched read answers for")]
    TooMany,
    /// The answer did not come, or what was to be read went away meanwhile: ask once more.
    #[error("no answer yet")]
    Again,
    /// Not worth another try.
    #[error(transparent)]
    Final(#[from] Error),
}

/// One call of the contract: what it is, how long it may take, and what became of it so far.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) operation: &'static str,
    pub(crate) limit: Duration,
    sent: AtomicBool,
    trouble: Mutex<Option<BoxError>>,
}

impl Call {
    pub(crate) fn new(operation: &'static str, limit: Duration) -> Self {
        Self { operation, limit, sent: AtomicBool::new(false), trouble: Mutex::new(None) }
    }

    /// A write is on its way: from now on a missing answer leaves the outcome open.
    pub(crate) fn write_sent(&self) {
        self.sent.store(true, Ordering::Relaxed);
    }

    /// The write was answered: it is known what became of it.
    pub(crate) fn write_answered(&self) {
        self.sent.store(false, Ordering::Relaxed);
    }

    pub(crate) fn outcome(&self) -> Outcome {
        if self.sent.load(Ordering::Relaxed) { Outcome::Unknown } else { Outcome::Unchanged }
    }

    /// Keeps why the last try failed, for the error should time run out.
    pub(crate) fn note(&self, trouble: impl Into<BoxError>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble.into());
    }

    pub(crate) fn take_trouble(&self) -> Option<BoxError> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The server, or our own client, failed in a way that the contract has no name for.
    pub(crate) fn backend(&self, source: impl Into<BoxError>) -> Error {
        Error::Backend { backend: BACKEND, operation: self.operation, outcome: self.outcome(), source: source.into() }
    }
}

/// The store works, but cannot serve us as it is set up.
pub(crate) fn cannot_work(findings: Vec<String>) -> Error {
    Error::Unsafe { backend: BACKEND, findings }
}

/// Credentials were refused, or do not allow what was tried.
pub(crate) fn denied(why: impl Into<String>) -> Error {
    Error::Denied { backend: BACKEND, why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(err_code: u32, description: &str) -> ApiError {
        ApiError { code: 400, err_code, description: description.into() }
    }

    #[test]
    fn a_refused_compare_and_set_names_the_sequence_where_the_server_does() {
        assert_eq!(api(10_071, "wrong last sequence: 42").wrong_last(), Some(Some(42)));
        assert_eq!(api(10_164, "wrong last sequence").wrong_last(), Some(None));
        assert_eq!(api(10_059, "stream not found").wrong_last(), None);
    }

    #[test]
    fn an_answered_write_has_a_known_outcome() {
        let call = Call::new("register", Duration::from_secs(1));
        assert_eq!(call.outcome(), Outcome::Unchanged);
        call.write_sent();
        assert_eq!(call.outcome(), Outcome::Unknown);
        call.write_answered();
        assert_eq!(call.outcome(), Outcome::Unchanged);
    }
}
