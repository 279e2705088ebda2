//! The names of one datacenter: who holds which.
//!
//! Each name has a primary and a backup among the members, by rendezvous hashing.
//! A host claims a name at the primary, which has the backup keep a copy before it
//! answers. Hosts are the truth of what they hold: on each change of membership
//! primaries and backups ask all hosts for it, and a primary that is new to a name
//! answers "nobody holds it" only once they have answered. So any one node may be
//! lost. Two holders of one name can come about only while members disagree on who
//! is alive; the primary then keeps the older and has the younger one's host give
//! it up (A2).
//!
//! Knows nothing of gossip, actors or other datacenters.
//!
//! Reading order: [`Entry`], [`Directory`], `core` (the state machine), `serve`
//! (what a primary answers), `sync` (how primaries come by what hosts hold), `driver`.

use std::time::Duration;

use dc_core::{Endpoint, Invalid, NodeId};
use serde::{Deserialize, Serialize};

mod age;
pub(crate) mod core;
pub(crate) mod driver;
mod late;
pub(crate) mod rendezvous;
mod serve;
mod spent;
mod sync;
pub(crate) mod wire;

#[cfg(test)]
mod simulation;

pub use driver::Directory;

/// One registered name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The name: any string of 1 to 1,024 bytes.
    pub key: String,
    /// The kind of what holds it, at most 256 bytes.
    pub kind: String,
    /// The node on which the holder lives.
    pub holder: NodeId,
    /// Where that node takes links.
    pub endpoint: Endpoint,
    /// The holder's number on its node.
    pub actor: u64,
    /// The request that claimed the name; 0 for none.
    pub request: u128,
    /// When it was claimed, on a logical clock in milliseconds: lower is older.
    pub age: u64,
}

impl Entry {
    /// The longest key, in bytes.
    pub const MAX_KEY: usize = 1024;
    /// The longest kind, in bytes.
    pub const MAX_KIND: usize = 256;

    /// Whether both are the same registration.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.key == other.key && (self.holder, self.actor, self.request) == (other.holder, other.actor, other.request)
    }

    /// Whether this registration stays, should `other` hold the same name.
    pub(crate) fn outlives(&self, other: &Self) -> bool {
        (self.age, self.holder, self.actor) <= (other.age, other.holder, other.actor)
    }

    pub(crate) fn check(&self) -> Result<(), Invalid> {
        check_key(&self.key)?;
        if self.kind.len() > Self::MAX_KIND {
            return Err(Invalid::new("kind", &self.kind, "must be at most 256 bytes long"));
        }
        Ok(())
    }

    /// About how many bytes it takes on the wire.
    pub(crate) fn size(&self) -> usize {
        self.key.len() + self.kind.len() + self.endpoint.host().len() + 64
    }
}

pub(crate) fn check_key(key: &str) -> Result<(), Invalid> {
    if key.is_empty() || key.len() > Entry::MAX_KEY {
        return Err(Invalid::new("name", key, "must be 1 to 1,024 bytes long"));
    }
    Ok(())
}

/// What became of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// This node holds the name now.
    Granted(Entry),
    /// The same request claimed it before: this is what it claimed, whether or not it still runs (L3).
    Same(Entry),
    /// Another holds the name.
    Taken(Entry),
}

/// A registration of this node's that lost against an older one: stop its holder (A2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// What this node held, and holds no longer.
    pub lost: Entry,
    /// The older registration that stays.
    pub kept: Entry,
}

/// Why the directory gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// A key or kind breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// No answer in time: this node has not joined, or the members that answer for the name cannot be
    /// reached. A claim is taken back, should it have been registered.
    #[error("no answer about {key:?} in {after:?}")]
    Timeout {
        /// The name.
        key: String,
        /// The time that was given.
        after: Duration,
    },
    /// The member that answers for the name holds as many as it may.
    #[error("no room for {key:?}: its member holds as many names as it may")]
    Full {
        /// The name.
        key: String,
    },
    /// The member that answers for the name did not understand the question, or its answer was not understood.
    #[error("the member that answers for {key:?} speaks another version")]
    Protocol {
        /// The name.
        key: String,
    },
    /// This node is leaving.
    #[error("this node has left its datacenter")]
    Left,
}

impl DirectoryError {
    /// Whether the identical call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Full { .. } => true,
            Self::Invalid(_) | Self::Protocol { .. } | Self::Left => false,
        }
    }
}
