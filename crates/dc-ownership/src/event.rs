//! What happened: for people, for metrics, and for those who watch an owner.

use std::time::Duration;

use dc_core::{DataCenterId, Epoch};

use crate::{ids::SessionId, order::Thing, session::Holder};

/// What happened at this node, or was seen by it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OwnershipEvent {
    /// This node has a session.
    SessionOpened {
        /// Which.
        session: SessionId,
    },
    /// This node lost its session: what ran under it has ended.
    SessionLost {
        /// Which.
        session: SessionId,
        /// What was seen.
        why: &'static str,
    },
    /// A session was silent for its TTL, and this node has put a tombstone in its place.
    SessionBuried {
        /// Which.
        session: SessionId,
        /// Where it was, if it was ever seen.
        data_center: Option<DataCenterId>,
    },
    /// This node has taken over what a lost owner had.
    Takeover {
        /// What.
        thing: Thing,
        /// The new epoch.
        epoch: Epoch,
        /// From the last sign of life of the old owner's session to the title, where that was seen.
        took: Option<Duration>,
    },
    /// Equal epochs under two sessions, or a lower one after a higher: the store lost data. Refused.
    Conflict {
        /// What.
        thing: Thing,
        /// The epoch that is stored.
        epoch: Epoch,
        /// The session that is stored under it.
        session: SessionId,
        /// What was known before.
        known: (Epoch, SessionId),
    },
    /// The store is another one, or was set back: everything starts afresh, and nothing is claimed for one TTL. Ask
    /// the nodes that can be reached for their [`remembered_floor`](crate::Ownership::remembered_floor) now.
    StoreLost {
        /// What showed it.
        why: &'static str,
        /// New epochs of this node start above this.
        floor: Epoch,
    },
    /// A kind is declared otherwise than by the first node that used it. It is not served globally here.
    PolicyConflict {
        /// The kind.
        kind: String,
    },
    /// A document that this version cannot read. It is left alone.
    Unreadable {
        /// Its key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// The actor of a name that came to this node did not start here.
    NotAdopted {
        /// The name.
        name: String,
        /// What it said.
        why: String,
    },
    /// A thing has had the greatest epoch there is: no other owner can follow. Its present one goes on.
    NoEpochLeft {
        /// What.
        thing: Thing,
    },
    /// A floor above the greatest epoch is no floor. Nothing was changed.
    FloorRefused {
        /// What was to be the floor.
        floor: Epoch,
    },
    /// A hand-over was given up; the thing stays where it was.
    MoveFailed {
        /// What.
        thing: Thing,
        /// What went wrong.
        why: String,
    },
}

/// A change of owner, as seen by this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What.
    pub thing: Thing,
    /// The epoch known before; `None` where it was unknown or unowned.
    pub from: Option<Epoch>,
    /// Who has it now.
    pub to: Standing,
}

/// Who has a thing, as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This owner, whose session lives as far as known, under this epoch.
    Owned(Holder, Epoch),
    /// Still an owner in this datacenter, whose session is over, or was not seen yet.
    Ownerless(DataCenterId),
    /// Nobody is named any more: the owner let it go, or else its session was over, in this datacenter, and the thing
    /// ended with it.
    Free(Option<DataCenterId>),
}

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// What has happened since the start, counted.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl Stats {
            /// Names and counts, in a fixed order.
            pub fn pairs(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),+]
            }

            /// Adds another node's.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
            }
        }
    };
}

stats! {
    /// Sessions opened.
    sessions,
    /// Sessions whose lease ended before it was renewed.
    lease_ends,
    /// Sessions that others had ended, or the store had lost.
    sessions_refused,
    /// Renewals acknowledged.
    renewals,
    /// Tombstones put in place of silent sessions.
    tombstones,
    /// Tombstones refused: the session had shown a sign of life, or another was first.
    tombstones_refused,
    /// Titles gained over things that had an owner before.
    takeovers,
    /// Titles gained.
    titles,
    /// Writes refused because another was first.
    conflicts,
    /// Own writes recognised although their answer was lost.
    lost_answers,
    /// Documents that were older than what was known, and left out.
    stale_reads,
    /// Things handed over.
    moves,
    /// Hand-overs begun to nodes of the same datacenter that are to have the slot.
    rebalanced,
    /// Hand-overs given up.
    moves_failed,
    /// Drains aborted.
    drains_aborted,
    /// Times that the store was found to be another, or set back.
    store_changes,
    /// Equal or falling epochs that were seen and refused.
    epoch_conflicts,
    /// Names that other nodes were to start, and did not.
    not_adopted,
    /// Watches opened again.
    rewatches,
    /// Requests to the store.
    requests,
}
