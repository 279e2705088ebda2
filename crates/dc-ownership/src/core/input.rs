//! What goes in.

use std::time::Instant;

use bytes::Bytes;
use dc_controlplane::{
    Expected,
    ownership::{Document, DocumentKey, Keep},
};
use dc_core::{DataCenterSelector, Epoch, Version};

use crate::{drain::DrainOptions, names::NameSpec, order::Thing};

/// Something happened.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "short-lived, and the large one is the common one")]
pub enum Input {
    /// A watch that belongs to this generation showed a document.
    Put {
        /// The generation.
        generation: u64,
        /// What.
        document: Document,
    },
    /// It showed that a document is gone.
    Gone {
        /// The generation.
        generation: u64,
        /// Which.
        key: DocumentKey,
        /// At or above the last version of it.
        version: Version,
    },
    /// The watch of prefix number `prefix` begins to show what is there.
    ReplayBegun {
        /// The generation.
        generation: u64,
        /// Of `s/ g/ n/ k/`, in this order.
        prefix: usize,
    },
    /// It has shown all that was there as of that version.
    ReplayDone {
        /// The generation.
        generation: u64,
        /// Of which prefix.
        prefix: usize,
        /// As of when.
        as_of: Version,
    },
    /// A request was answered, or not.
    Written {
        /// Of which request.
        request: u64,
        /// How.
        result: Written,
    },
    /// Something that was asked of the owner's side was answered.
    Answered {
        /// Of which token.
        token: u64,
        /// How.
        answer: Answer,
    },
    /// Somebody wants something.
    Asked {
        /// To name it by in the answer.
        op: u64,
        /// What.
        ask: Op,
    },
    /// More than one thing is known of an owner elsewhere.
    Hint {
        /// What.
        thing: Thing,
        /// The epoch that was heard.
        heard: Epoch,
    },
    /// New epochs start above this.
    SetFloor(Epoch),
    /// Whether this node takes what has no owner.
    SetTaking(bool),
    /// From now on this node waits with claims of what has no owner, until it is told what is wanted of it.
    WaitToBeTold,
    /// What is wanted of this node is known, as it was at this instant.
    Told(Instant),
    /// Hand over all.
    Drain {
        /// Its number.
        number: u64,
        /// How.
        options: DrainOptions,
    },
    /// Give that up.
    AbortDrain {
        /// Its number.
        number: u64,
    },
    /// The number of the actor that serves a name.
    NoteActor {
        /// The name.
        name: String,
        /// Under which epoch.
        epoch: Epoch,
        /// Its number.
        actor: u64,
    },
}

/// An operation with an answer.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "short-lived, and the large one is the common one")]
pub enum Op {
    /// Claim a name.
    Claim(NameSpec),
    /// Let a name go.
    Release(String, Epoch),
    /// Claim what waits for a session elsewhere.
    Relocate(Thing, DataCenterSelector),
    /// Have an identity live elsewhere than its slot.
    Place(Thing, DataCenterSelector),
    /// End this node's part.
    Stop,
}

/// What the owner's side answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To `Quiesce`: the state that goes along, or `None` where it was given up.
    Quiesced(Option<Vec<(String, Bytes)>>),
    /// To an offer of state.
    Offered(Result<(), String>),
    /// To `Adopt`.
    Adopted(Result<(), String>),
}

/// What became of a request.
#[derive(Clone, Debug)]
pub enum Written {
    /// Accepted; of a read: nothing is told by this.
    Done(Version),
    /// Refused: this is stored.
    Refused(Option<Document>),
    /// Read: this was there, then or earlier.
    Read(Option<Document>),
    /// No answer.
    Failed(Outcome),
}

/// Whether a write that failed may have landed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Certainly not.
    Unchanged,
    /// It may, now or later.
    Unknown,
}

/// What is asked of the store.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Read the document.
    Read,
    /// Write it by compare-and-set.
    Write {
        /// What must be stored.
        expected: Expected,
        /// What to store.
        body: Bytes,
        /// For how long.
        keep: Keep,
    },
    /// Remove it.
    Remove(Version),
}

/// A bug on purpose, to show that the simulation finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// The owner counts a whole TTL from the answer to its renewal.
    SkipMargin,
    /// A take-over keeps the epoch.
    IgnoreEpoch,
    /// What a silent session has is claimed without putting a tombstone in its place.
    NoTombstone,
    /// A release removes whatever is stored.
    LateDelete,
    /// A claim whose answer was lost is taken for accepted.
    StartUnasked,
    /// A hand-over whose answer was lost is taken for refused, and the owner goes on.
    ResumeUnsettled,
    /// Each attempt to hand over sends state for the same epoch, and what came last is taken for what counts.
    LateOffer,
    /// The owner of a slot goes on with an identity while it hands it over.
    ServeParts,
    /// A silent session of which nothing is stored is taken for one that has ended.
    AbsenceProves,
}
