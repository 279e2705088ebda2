//! What an error of etcd or its client says of a request, and how it is told.
//!
//! etcd's texts are those of its `rpctypes` (api/v3rpc/rpctypes/error.go). The
//! gRPC library is not a dependency of ours, so codes are compared as numbers.

use std::error::Error as StdError;

use dc_controlplane::{Error, Outcome};
use dc_core::Invalid;
use etcd_client::Error as ClientError;

use crate::BACKEND;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// No server has acted on it, nor will.
    NotSent,
    /// No server has acted on it: the client has to authenticate anew.
    StaleToken,
    /// A server answered that it cannot be done.
    Refused,
    /// The credentials were refused, or do not allow it.
    Denied,
    /// The answer was lost, or says nothing of the outcome.
    Lost,
}

// Codes of gRPC (google.rpc.Code).
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const ALREADY_EXISTS: i32 = 6;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNIMPLEMENTED: i32 = 12;
const UNAVAILABLE: i32 = 14;
const UNAUTHENTICATED: i32 = 16;

pub(crate) fn fate(err: &ClientError) -> Fate {
    match err {
        err if no_such_lease(err) => Fate::Refused,
        ClientError::GRpcStatus(status) => {
            let never_left = status.source().is_some_and(never_connected);
            fate_of(i32::from(status.code()), status.message(), never_left)
        }
        ClientError::EndpointError(_) => Fate::NotSent,
        // The client gives transport errors only where it is built: TLS files that cannot be used.
        ClientError::TransportError(_)
        | ClientError::InvalidArgs(_)
        | ClientError::InvalidUri(_)
        | ClientError::InvalidMetadataValue(_) => Fate::Refused,
        _ => Fate::Lost,
    }
}

/// The text and code of an answer decide; `never_left` is the client's own word that there was no connection.
fn fate_of(code: i32, message: &str, never_left: bool) -> Fate {
    match code {
        UNAVAILABLE if never_left || message.contains("etcdserver: no leader") => Fate::NotSent,
        INVALID_ARGUMENT if message.contains("revision of auth store is old") => Fate::StaleToken,
        UNAUTHENTICATED => Fate::StaleToken,
        INVALID_ARGUMENT if message.contains("authentication failed") || message.contains("user name is empty") => {
            Fate::Denied
        }
        PERMISSION_DENIED => Fate::Denied,
        INVALID_ARGUMENT | NOT_FOUND | ALREADY_EXISTS | RESOURCE_EXHAUSTED | FAILED_PRECONDITION | OUT_OF_RANGE
        | UNIMPLEMENTED => Fate::Refused,
        _ => Fate::Lost,
    }
}

/// Whether a connection error stands in the chain. The type is the gRPC library's own, hence by its name.
fn never_connected(err: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(err);
    while let Some(err) = next {
        if format!("{err:?}").contains("ConnectError") {
            return true;
        }
        next = err.source();
    }
    false
}

/// Whether a lease that was named does not exist.
pub(crate) fn no_such_lease(err: &ClientError) -> bool {
    match err {
        ClientError::GRpcStatus(status) => status.message().contains("requested lease not found"),
        // An expired lease answers a keepalive with TTL 0, which the client reports so.
        ClientError::LeaseKeepAliveError(why) => why.contains("lease not found"),
        _ => false,
    }
}

/// Whether a lease that was to be granted exists: an earlier attempt has landed.
pub(crate) fn lease_exists(err: &ClientError) -> bool {
    matches!(err, ClientError::GRpcStatus(status) if status.message().contains("lease already exists"))
}

/// Whether etcd's authentication is switched off although a user was given.
pub(crate) fn authentication_is_off(err: &ClientError) -> bool {
    matches!(err, ClientError::GRpcStatus(status) if status.message().contains("authentication is not enabled"))
}

/// Whether the request named no user, where one is asked for.
pub(crate) fn nobody(err: &ClientError) -> bool {
    matches!(err, ClientError::GRpcStatus(status) if status.message().contains("user name is empty"))
}

/// Whether a revision that was asked for has been compacted.
pub(crate) fn compacted(err: &ClientError) -> bool {
    matches!(err, ClientError::GRpcStatus(status) if status.message().contains("revision has been compacted"))
}

/// As the contract tells it.
pub(crate) fn translate(operation: &'static str, err: ClientError, outcome: Outcome) -> Error {
    if let ClientError::TransportError(cause) = &err {
        let cause = cause.source().map_or_else(|| cause.to_string(), |deeper| deeper.to_string());
        return Invalid::new("tls", cause, "must be PEM files with usable certificates and a matching key").into();
    }
    match fate(&err) {
        Fate::Denied => {
            let words = match &err {
                ClientError::GRpcStatus(status) => status.message().to_owned(),
                other => other.to_string(),
            };
            Error::Denied { backend: BACKEND, why: why_denied(operation, &words) }
        }
        Fate::Refused => Error::Backend { backend: BACKEND, operation, outcome, source: Box::new(err) },
        Fate::NotSent | Fate::StaleToken | Fate::Lost => {
            Error::Unreachable { backend: BACKEND, operation, outcome, source: Box::new(err) }
        }
    }
}

/// Which of the credentials was refused, as far as etcd's `words` tell.
fn why_denied(operation: &str, words: &str) -> String {
    match words {
        words if words.contains("authentication failed") => format!("the user or its password is wrong ({words})"),
        words if words.contains("user name is empty") => {
            format!("it asks for a user and a password, and none is set ({words})")
        }
        words if words.contains("permission denied") => format!("the user's roles do not allow {operation} ({words})"),
        words => words.to_owned(),
    }
}

/// For an answer without the part that the protocol says it has.
pub(crate) fn malformed(operation: &'static str, what: &str) -> Error {
    Error::Backend { backend: BACKEND, operation, outcome: Outcome::Unknown, source: what.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_landed_is_told_from_what_has_not() {
        for (code, message, never_left, want) in [
            (UNAVAILABLE, "tcp connect error", true, Fate::NotSent),
            (UNAVAILABLE, "etcdserver: no leader", false, Fate::NotSent),
            (UNAVAILABLE, "etcdserver: leader changed", false, Fate::Lost),
            (UNAVAILABLE, "etcdserver: request timed out", false, Fate::Lost),
            (1, "Timeout expired", false, Fate::Lost),
            (4, "", false, Fate::Lost),
            (13, "h2 protocol error", false, Fate::Lost),
            (UNAUTHENTICATED, "etcdserver: invalid auth token", false, Fate::StaleToken),
            (INVALID_ARGUMENT, "etcdserver: revision of auth store is old", false, Fate::StaleToken),
            (INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password", false, Fate::Denied),
            (INVALID_ARGUMENT, "etcdserver: user name is empty", false, Fate::Denied),
            (PERMISSION_DENIED, "etcdserver: permission denied", false, Fate::Denied),
            (NOT_FOUND, "etcdserver: requested lease not found", false, Fate::Refused),
            (RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", false, Fate::Refused),
        ] {
            assert_eq!(fate_of(code, message, never_left), want, "{code} {message}");
        }
    }
}
