//! Why something could not be owned, found or moved.

use std::time::Duration;

use dc_core::{DataCenterId, Invalid};

use crate::{names::NameEntry, order::Thing};

/// Why something could not be owned, found or moved. One variant per thing that a caller does differently.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnershipError {
    /// Somebody has the name. Certainly nothing was changed.
    #[error("the global name {name:?} is taken: owned in {} under epoch {}", holder.data_center, holder.epoch)]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        holder: Box<NameEntry>,
    },
    /// Nobody has the name.
    #[error("nobody has the global name {name:?}")]
    NoSuchName {
        /// The name.
        name: String,
    },
    /// What was declared does not allow it here, or there.
    #[error("{what} may not be owned in {data_center}: {why}")]
    NotAllowed {
        /// The name, or the slot.
        what: String,
        /// Where.
        data_center: DataCenterId,
        /// Which rule.
        why: String,
    },
    /// A value breaks a rule. Nothing was sent.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// This node has no session now: the store was not reached yet, or was away for too long. Try again.
    #[error("no session: the store has not answered within {waited:?}")]
    NoSession {
        /// How long was waited for one.
        waited: Duration,
    },
    /// The store failed, and certainly nothing was changed.
    #[error("the store failed")]
    Store(#[source] dc_controlplane::Error),
    /// The answer was lost: it may be owned now. If it is, it is let go again by this node; claim it again later.
    #[error("{what}: the store's answer was lost; the claim may have been made, and is then taken back")]
    OutcomeUnknown {
        /// The name.
        what: String,
    },
    /// What was waited for did not happen in time.
    #[error("{what} had no owner that lives within {waited:?}")]
    Timeout {
        /// The name, or the slot.
        what: String,
        /// How long was waited.
        waited: Duration,
    },
    /// Another node has declared the kind otherwise: served by both rules, one identity could be owned twice.
    #[error(
        "kind {kind:?} was declared otherwise by the node that used it first; declare it so everywhere, or remove its document {document:?} while no node serves it"
    )]
    PolicyConflict {
        /// The kind.
        kind: String,
        /// Where its declaration is stored.
        document: String,
    },
    /// It lives and is owned elsewhere: an operator's word moves only what waits.
    #[error("{thing:?} is owned in {data_center} by a session that lives; drain its owner instead")]
    OwnerLives {
        /// What.
        thing: Thing,
        /// Where its owner is.
        data_center: DataCenterId,
    },
    /// This node does not own it, and only its owner hands it over: ask there. Nothing was changed.
    #[error("{what} is not owned by this node")]
    OwnedElsewhere {
        /// What.
        what: String,
    },
    /// No node that takes things lives where it was asked to live. Nothing was changed.
    #[error("{what} was asked to live in {asked}, where no node lives that takes it")]
    NobodyThere {
        /// What.
        what: String,
        /// Where.
        asked: String,
    },
    /// So many identities of the same document live elsewhere than their slots that there is no room for another.
    /// Nothing was changed.
    #[error("{what}: too many identities of its document live elsewhere than their slots")]
    Full {
        /// What.
        what: String,
    },
    /// Its hand-over was not settled in time, or its owner's session was lost meanwhile: it may be done, or be done yet.
    /// Asking again is safe.
    #[error("it is not known whether {what} was handed over")]
    Unsettled {
        /// What.
        what: String,
    },
    /// The hand-over was given up; it stays where it was.
    #[error("{what} was not handed over: {why}")]
    NotMoved {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
    /// The next owner would have an epoch above [`Epoch::GREATEST`](dc_core::Epoch::GREATEST), and none comes twice.
    /// Nothing was changed, and nothing will be by asking again.
    #[error("no epoch is left for {what}: the next would be above {}", dc_core::Epoch::GREATEST)]
    NoEpochLeft {
        /// What.
        what: String,
    },
    /// Ownership has ended on this node.
    #[error("ownership was stopped on this node")]
    Stopped,
}
