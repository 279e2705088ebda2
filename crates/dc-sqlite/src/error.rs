//! SQLite's errors in the contract's words.

use std::{io, path::Path, time::Duration};

use dc_controlplane::{Error, Outcome};
use rusqlite::{ErrorCode, ffi};

use crate::BACKEND;

/// Why a transaction failed, before it is known which call it served.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An answer of the contract: a conflict, not found, ..
    Answer(Error),
    /// SQLite's own error.
    Sqlite(rusqlite::Error),
    /// The file system's own error.
    Io(io::Error),
    /// Somebody else held the lock all the time.
    Busy,
    /// The file is not one that we may use.
    Foreign(String),
}

impl From<Error> for Failure {
    fn from(answer: Error) -> Self {
        Self::Answer(answer)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(err: rusqlite::Error) -> Self {
        match err.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            _ => Self::Sqlite(err),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(err: io::Error) -> Self {
        Self::Io(err)
    }
}

impl Failure {
    /// Whether the connection is to be opened anew: the file under it has moved, or cannot be read.
    pub(crate) fn spoils_the_connection(&self) -> bool {
        match self {
            Self::Answer(_) | Self::Busy => false,
            Self::Sqlite(_) | Self::Io(_) | Self::Foreign(_) => true,
        }
    }

    /// The contract's word for it. `outcome`: whether what was asked may have been done all the same.
    pub(crate) fn into_error(self, operation: &'static str, after: Duration, path: &Path, outcome: Outcome) -> Error {
        let backend = BACKEND;
        match self {
            Self::Answer(answer) => answer,
            // A transaction that did not get its lock has changed nothing.
            Self::Busy => Error::Timeout { backend, operation, after, outcome: Outcome::Unchanged },
            Self::Foreign(finding) => Error::Unsafe { backend, findings: vec![finding] },
            Self::Io(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                Error::Denied { backend, why: format!("{}: {source}", path.display()) }
            }
            Self::Io(source) => Error::Unreachable { backend, operation, outcome, source: source.into() },
            Self::Sqlite(source) => sqlite(source, operation, path, outcome),
        }
    }
}

fn sqlite(source: rusqlite::Error, operation: &'static str, path: &Path, outcome: Outcome) -> Error {
    let backend = BACKEND;
    let moved = matches!(&source, rusqlite::Error::SqliteFailure(failure, _)
        if failure.extended_code == ffi::SQLITE_READONLY_DBMOVED);
    match source.sqlite_error_code() {
        _ if moved => Error::Unreachable { backend, operation, outcome, source: source.into() },
        Some(ErrorCode::CannotOpen) => Error::Unreachable { backend, operation, outcome, source: source.into() },
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            Error::Denied { backend, why: format!("{}: {source}", path.display()) }
        }
        Some(ErrorCode::NotADatabase) => {
            Error::Unsafe { backend, findings: vec![format!("{} is not a SQLite database", path.display())] }
        }
        _ => Error::Backend { backend, operation, outcome, source: source.into() },
    }
}
