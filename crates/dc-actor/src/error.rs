//! Why an operation of the actor system failed, by name; each error says whether the message may have run (R3).

use std::{fmt, time::Duration};

use dc_core::{DataCenterId, Endpoint, Invalid, NodeId};
use serde::{Deserialize, Serialize};

use crate::text::{TEXT, cut};

/// Why a spawn, a lookup or a message failed.
///
/// The same names here, on another node and in another datacenter: errors travel.
/// [`certainly_not_run`](Self::certainly_not_run) tells what may safely be tried again.
#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Error {
    /// This node has not yet joined its datacenter, or its routing table has never been in step (D7).
    #[error("this node is not ready for other datacenters: {reason}")]
    DataCenterNotReady {
        /// What is missing.
        reason: String,
    },
    /// The routing table is older than allowed and `fail_on_stale_cache` is set (C5).
    #[error("the records of other datacenters are stale: last in step {} ago", Ago(*age))]
    DataCenterStaleRecords {
        /// Time since the table was last known to be in step.
        age: Option<Duration>,
    },
    /// No datacenter is what was asked for (L1).
    #[error("no datacenter matches {asked}; known: {}", List(known))]
    DataCenterRecordNotFound {
        /// The selector.
        asked: String,
        /// The datacenters that are known.
        known: Vec<String>,
    },
    /// Datacenters match, but none takes what was asked of it; the reasons say why (L4).
    #[error("no datacenter that matches {asked} takes this: {}", List(reasons))]
    DataCenterNotRoutable {
        /// The selector.
        asked: String,
        /// One reason for each datacenter or endpoint that was ruled out.
        reasons: Vec<String>,
    },
    /// The node does not know this kind of actor (A3).
    #[error("kind {kind:?} is not registered on {node}")]
    TypeNotRegistered {
        /// The kind's wire name.
        kind: String,
        /// The node that was asked.
        node: String,
    },
    /// The kind does not list this message type (A3).
    #[error("kind {kind:?} does not list message {message:?}")]
    MessageNotListed {
        /// The kind's wire name.
        kind: String,
        /// The message's wire name.
        message: String,
    },
    /// The name is held by another actor of that datacenter (A2).
    #[error("name {name:?} is taken: held by {holder}")]
    NameTaken {
        /// The name.
        name: String,
        /// Who holds it.
        holder: String,
    },
    /// The name is held by an actor of another kind.
    #[error("{name:?} is a {found:?}, not a {expected:?}")]
    WrongKind {
        /// The name.
        name: String,
        /// The kind that was asked for.
        expected: String,
        /// The kind that it is.
        found: String,
    },
    /// Nobody answers to this name or reference.
    #[error("no such actor: {actor}{}", Unanswered(unanswered))]
    ActorNotFound {
        /// The name or reference.
        actor: String,
        /// Datacenters that were asked and did not answer in time.
        unanswered: Vec<String>,
    },
    /// The actor has stopped, or stopped before it came to this message: the message did not run.
    #[error("{actor} has stopped")]
    ActorStopped {
        /// The actor.
        actor: String,
    },
    /// The handler panicked while it ran this message (A5).
    #[error("{actor} panicked: {panic}")]
    HandlerPanicked {
        /// The actor.
        actor: String,
        /// The panic's text.
        panic: String,
    },
    /// The handler began and never answered: the actor was killed, or its promised answer was dropped.
    #[error("{actor} did not answer: {reason}")]
    NoAnswer {
        /// The actor.
        actor: String,
        /// What is known of why.
        reason: String,
    },
    /// The actor's own start failed (`on_start` returned an error or panicked).
    #[error("a {kind:?} failed to start: {reason}")]
    StartFailed {
        /// The kind's wire name.
        kind: String,
        /// What `on_start` said.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer from {to} in {after:?}")]
    Timeout {
        /// Who was asked.
        to: String,
        /// How long was waited.
        after: Duration,
        /// Whether it is certain that nothing ran.
        not_run: bool,
    },
    /// The peer could not be reached: nothing was sent.
    #[error("{to} is unreachable: {reason}")]
    Unreachable {
        /// Who was to be reached.
        to: String,
        /// What is known of why.
        reason: String,
    },
    /// The link broke while the message was under way.
    #[error("the link to {to} broke while the message was under way")]
    Lost {
        /// Who was asked.
        to: String,
    },
    /// A bound was hit: try later.
    #[error("{what} is overloaded")]
    Overloaded {
        /// Which bound.
        what: String,
    },
    /// The message is larger than links carry.
    #[error("{size} bytes exceed the limit of {limit}")]
    TooLarge {
        /// Size of the message.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// A message, an answer or arguments could not be written or read.
    #[error("{what}: {reason}")]
    Codec {
        /// What was written or read.
        what: String,
        /// What the codec said.
        reason: String,
        /// Whether it is certain that nothing ran (false where an answer could not be read).
        not_run: bool,
    },
    /// The message was meant for another epoch of the target.
    #[error("{actor} is in epoch {current}, the message was for epoch {sent}")]
    StaleEpoch {
        /// The actor.
        actor: String,
        /// The epoch that the message names.
        sent: u64,
        /// The target's epoch.
        current: u64,
    },
    /// The node is shutting down and takes no new work.
    #[error("{node} is shutting down")]
    ShuttingDown {
        /// The node.
        node: String,
    },
    /// A reference that was read outside of an actor system, and used outside of an actor.
    #[error("the reference belongs to no system: pass it through `ActorSystem::bind`")]
    Unbound,
    /// A name, id or selector that breaks a rule.
    #[error("{field} {value:?} {rule}")]
    Invalid {
        /// What it was for.
        field: String,
        /// What was given.
        value: String,
        /// The rule that it breaks.
        rule: String,
    },
    /// An error that only a newer node knows by name.
    #[error("{text}")]
    Other {
        /// What the node said.
        text: String,
        /// Whether it is certain that nothing ran.
        not_run: bool,
    },
    // Errors travel by the number of their variant: new ones go to the end.
    /// The datacenter that was asked does not allow this to ours, see [`Authority`](crate::Authority).
    #[error("{by} does not allow {data_center} to {what}")]
    Unauthorized {
        /// Who wanted it.
        data_center: String,
        /// What was refused.
        what: String,
        /// The node that refused.
        by: String,
    },
    /// A global actor, or grain, is not owned there (any more): it was handed over, taken over, or its node cannot
    /// renew its lease (G2). Also from its own side: what it sends after that does not leave.
    #[error("{actor} is not owned there under epoch {epoch}{}", Newer(newer))]
    NotOwner {
        /// The actor.
        actor: String,
        /// The epoch that the message, or the former owner, names; 0 for none.
        epoch: u64,
        /// The owner with a higher epoch, if it is known there.
        newer: Option<NewOwner>,
        /// Whether it is certain that nothing ran (false where the handler had begun while it was owned).
        not_run: bool,
    },
    /// Something global was asked for, and the control plane keeps no ownership.
    #[error(
        "{what} is global, and this control plane keeps no ownership: use one that does (memory, NATS, etcd, SQLite), \
         or ask for it per datacenter"
    )]
    NoOwnership {
        /// What was asked for.
        what: String,
    },
    /// The store that decides about ownership did not do what was asked: nothing was started.
    #[error("ownership of {what}: {reason}")]
    OwnershipUnavailable {
        /// What was to be owned, or looked up.
        what: String,
        /// What the store, or the way there, said.
        reason: String,
    },
}

/// Items of a list that a shortened error keeps.
const LISTED: usize = 32;

/// Who owns something global now, as far as the one who says so knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewOwner {
    /// Its epoch.
    pub epoch: u64,
    /// Its datacenter.
    pub data_center: DataCenterId,
    /// Its node.
    pub node: NodeId,
    /// Where that takes links.
    pub endpoint: Endpoint,
}

impl Error {
    /// Whether it is certain that no handler ran (R3). False means: it may have run, once.
    pub fn certainly_not_run(&self) -> bool {
        match self {
            // No `_`: each new variant must choose.
            Self::DataCenterNotReady { .. }
            | Self::DataCenterStaleRecords { .. }
            | Self::DataCenterRecordNotFound { .. }
            | Self::DataCenterNotRoutable { .. }
            | Self::TypeNotRegistered { .. }
            | Self::MessageNotListed { .. }
            | Self::NameTaken { .. }
            | Self::WrongKind { .. }
            | Self::ActorNotFound { .. }
            | Self::ActorStopped { .. }
            | Self::Unreachable { .. }
            | Self::Overloaded { .. }
            | Self::TooLarge { .. }
            | Self::StaleEpoch { .. }
            | Self::ShuttingDown { .. }
            | Self::Unbound
            | Self::NoOwnership { .. }
            | Self::OwnershipUnavailable { .. }
            | Self::Unauthorized { .. }
            | Self::Invalid { .. } => true,
            Self::HandlerPanicked { .. } | Self::NoAnswer { .. } | Self::StartFailed { .. } | Self::Lost { .. } => {
                false
            }
            Self::Timeout { not_run, .. }
            | Self::Codec { not_run, .. }
            | Self::Other { not_run, .. }
            | Self::NotOwner { not_run, .. } => *not_run,
        }
    }

    /// The variant's name: a stable label for logs, metrics and dead letters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::DataCenterNotReady { .. } => "DataCenterNotReady",
            Self::DataCenterStaleRecords { .. } => "DataCenterStaleRecords",
            Self::DataCenterRecordNotFound { .. } => "DataCenterRecordNotFound",
            Self::DataCenterNotRoutable { .. } => "DataCenterNotRoutable",
            Self::TypeNotRegistered { .. } => "TypeNotRegistered",
            Self::MessageNotListed { .. } => "MessageNotListed",
            Self::NameTaken { .. } => "NameTaken",
            Self::WrongKind { .. } => "WrongKind",
            Self::ActorNotFound { .. } => "ActorNotFound",
            Self::ActorStopped { .. } => "ActorStopped",
            Self::HandlerPanicked { .. } => "HandlerPanicked",
            Self::NoAnswer { .. } => "NoAnswer",
            Self::StartFailed { .. } => "StartFailed",
            Self::Timeout { .. } => "Timeout",
            Self::Unreachable { .. } => "Unreachable",
            Self::Lost { .. } => "Lost",
            Self::Overloaded { .. } => "Overloaded",
            Self::TooLarge { .. } => "TooLarge",
            Self::Codec { .. } => "Codec",
            Self::StaleEpoch { .. } => "StaleEpoch",
            Self::ShuttingDown { .. } => "ShuttingDown",
            Self::Unbound => "Unbound",
            Self::Invalid { .. } => "Invalid",
            Self::Other { .. } => "Other",
            Self::NotOwner { .. } => "NotOwner",
            Self::NoOwnership { .. } => "NoOwnership",
            Self::OwnershipUnavailable { .. } => "OwnershipUnavailable",
            Self::Unauthorized { .. } => "Unauthorized",
        }
    }

    /// The same, with texts of a bounded length: what is kept may hold what a peer has sent.
    pub(crate) fn shortened(mut self) -> Self {
        self.texts().into_iter().for_each(|text| cut(text, TEXT));
        self
    }

    fn texts(&mut self) -> Vec<&mut String> {
        match self {
            // No `_`: each new variant must choose.
            Self::DataCenterStaleRecords { .. } | Self::TooLarge { .. } | Self::Unbound => Vec::new(),
            Self::DataCenterNotReady { reason: text }
            | Self::ActorStopped { actor: text }
            | Self::Lost { to: text }
            | Self::Overloaded { what: text }
            | Self::ShuttingDown { node: text }
            | Self::NoOwnership { what: text }
            | Self::Timeout { to: text, .. }
            | Self::StaleEpoch { actor: text, .. }
            | Self::NotOwner { actor: text, .. }
            | Self::Other { text, .. } => vec![text],
            Self::TypeNotRegistered { kind: one, node: other }
            | Self::MessageNotListed { kind: one, message: other }
            | Self::NameTaken { name: one, holder: other }
            | Self::HandlerPanicked { actor: one, panic: other }
            | Self::NoAnswer { actor: one, reason: other }
            | Self::StartFailed { kind: one, reason: other }
            | Self::Unreachable { to: one, reason: other }
            | Self::Codec { what: one, reason: other, .. }
            | Self::OwnershipUnavailable { what: one, reason: other } => vec![one, other],
            Self::WrongKind { name, expected, found } => vec![name, expected, found],
            Self::Invalid { field, value, rule } => vec![field, value, rule],
            Self::Unauthorized { data_center, what, by } => vec![data_center, what, by],
            Self::DataCenterRecordNotFound { asked: one, known: more }
            | Self::DataCenterNotRoutable { asked: one, reasons: more }
            | Self::ActorNotFound { actor: one, unanswered: more } => {
                more.truncate(LISTED);
                more.iter_mut().chain([one]).collect()
            }
        }
    }

    pub(crate) fn not_found(actor: impl Into<String>) -> Self {
        Self::ActorNotFound { actor: actor.into(), unanswered: Vec::new() }
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid { field: invalid.field, value: invalid.value, rule: invalid.rule }
    }
}

/// Why an ask has no answer: the handler said so, or the message's way there or back failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AskError<E: fmt::Debug> {
    /// What the handler returned as its error.
    #[error("the handler returned {0:?}")]
    Handler(E),
    /// No answer came of it.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl<E: fmt::Debug> AskError<E> {
    /// Whether it is certain that no handler ran (R3).
    pub fn certainly_not_run(&self) -> bool {
        match self {
            Self::Handler(_) => false,
            Self::Failed(err) => err.certainly_not_run(),
        }
    }

    /// The failure, unless it is the handler's own error.
    pub fn failure(&self) -> Option<&Error> {
        match self {
            Self::Handler(_) => None,
            Self::Failed(err) => Some(err),
        }
    }
}

struct Ago(Option<Duration>);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(age) => write!(f, "{age:.1?}"),
            None => f.write_str("an unknown time"),
        }
    }
}

struct List<'a>(&'a [String]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("none") } else { f.write_str(&self.0.join(", ")) }
    }
}

struct Newer<'a>(&'a Option<NewOwner>);

impl fmt::Display for Newer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => Ok(()),
            Some(NewOwner { epoch, data_center, node, .. }) => {
                write!(f, "; epoch {epoch} is on {} of {data_center}", node.short())
            }
        }
    }
}

struct Unanswered<'a>(&'a [String]);

impl fmt::Display for Unanswered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " (no answer from {})", self.0.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_what_is_asked_and_what_is_known() {
        let err =
            Error::DataCenterRecordNotFound { asked: "name=dc-9".into(), known: vec!["dc-1".into(), "dc-2".into()] };
        assert_eq!(err.to_string(), "no datacenter matches name=dc-9; known: dc-1, dc-2");
        let err = Error::ActorNotFound { actor: "x".into(), unanswered: vec!["dc-2".into()] };
        assert_eq!(err.to_string(), "no such actor: x (no answer from dc-2)");
    }

    #[test]
    fn r3_only_what_began_may_have_run() {
        assert!(Error::ActorStopped { actor: "a".into() }.certainly_not_run());
        assert!(!Error::HandlerPanicked { actor: "a".into(), panic: "p".into() }.certainly_not_run());
        assert!(!AskError::Handler(7).certainly_not_run());
    }
}
