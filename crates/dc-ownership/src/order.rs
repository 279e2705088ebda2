//! What the owner's side is told to do with what it owns, and how it answers.

use bytes::Bytes;
use dc_core::Epoch;
use tokio::sync::oneshot;

use crate::{
    ids::{GroupId, SessionId, Slot},
    names::NameEntry,
    title::Title,
};

/// Where an owner can be reached.
pub use crate::session::Holder;

/// One thing that is owned.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Thing {
    /// All identities of a slot, but those that were placed elsewhere.
    Slot(GroupId, Slot),
    /// One identity (`kind/id`) of a slot that was placed elsewhere. In what is only looked up: this identity,
    /// wherever it is owned.
    Grain(GroupId, Slot, String),
    /// A global name.
    Name(String),
}

impl Thing {
    /// The identity (`kind/id`) of a placement group.
    pub fn grain(group: GroupId, identity: impl Into<String>) -> Self {
        let identity = identity.into();
        Self::Grain(group, Slot::of(&identity), identity)
    }

    /// The slot of a single identity.
    pub fn whole(&self) -> Option<Self> {
        match self {
            Self::Grain(group, slot, _) => Some(Self::Slot(*group, *slot)),
            Self::Slot(..) | Self::Name(_) => None,
        }
    }
}

/// What is to be done. Each that carries `done` waits for the answer, within the move's bound.
#[derive(Debug)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "short-lived, and the large one is the common one")]
pub enum Order {
    /// The session is lost: whatever runs under it must stop at once, without a reply or a message. A new session
    /// follows by itself, and owns nothing at first.
    SessionLost {
        /// Which.
        session: SessionId,
    },
    /// Another owner, with a higher epoch, was seen while this node held it: stop it at once.
    Lost {
        /// What.
        thing: Thing,
        /// The epoch under which it was held here.
        held: Epoch,
    },
    /// Hand it over: stop what runs of it, hold messages that arrive, and answer with the state that goes along.
    /// The title has ended by the time that the order arrives only if the order was dropped before.
    Quiesce {
        /// What.
        thing: Thing,
        /// Under which epoch it is held.
        epoch: Epoch,
        /// Who is to have it.
        to: Holder,
        /// The answer. Dropped, the move is given up and the owner stays.
        done: oneshot::Sender<Quiesced>,
    },
    /// The hand-over of what was quiesced is over: forward what was held to the new owner, or resume it here. Each
    /// `Quiesce` is followed by one of these, also where [`SessionLost`](Self::SessionLost) or [`Lost`](Self::Lost) came in
    /// between.
    Moved {
        /// What.
        thing: Thing,
        /// The new owner and its epoch; `None` where it stays here, under the same title, or, that title being lost,
        /// where it is not known who has it now.
        to: Option<(Holder, Epoch)>,
    },
    /// A name is owned here now, without a local caller having asked for it (failover, hand-over, failback): start
    /// its actor. Dropping `done` unanswered, or `Err`, releases the claim to the next candidate.
    Adopt {
        /// The name, with all that is needed to start it.
        entry: NameEntry,
        /// The proof.
        title: Title,
        /// State that came along, if it was handed over with one.
        state: Option<Bytes>,
        /// Whether it started.
        done: oneshot::Sender<Result<(), String>>,
    },
}

/// What runs no more, and what goes along.
#[derive(Debug, Default)]
pub struct Quiesced {
    /// State by identity: of grains by `kind/id`, of a name under its own name. Only what has a snapshot.
    pub state: Vec<(String, Bytes)>,
}
