//! What there is at one moment: the store, the nodes, what is under way between them.

use crate::config::NODES;

/// A session: of node `id % NODES`, its `id / NODES`-th.
pub type Session = u8;
/// A version that the store gave.
pub type Version = u8;
/// A fencing token.
pub type Epoch = u8;
/// Ticks since something happened; stops where no more makes a difference.
pub type Age = u8;

/// All there is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The store.
    pub store: Store,
    /// The nodes.
    pub nodes: [Node; NODES],
    /// Requests under way, in an order that depends on nothing else.
    pub requests: Vec<Request>,
    /// State under way between nodes.
    pub offers: Vec<Offer>,
    /// What compares epochs.
    pub storage: Storage,
    /// Effects acknowledged to callers since the thing last started from nothing.
    pub acknowledged: u8,
    /// What the store may come back as.
    pub backup: Option<Box<Store>>,
    /// Since it did.
    pub rolled_back: Option<Age>,
    /// Faults that may still come.
    pub left: Left,
    /// What happened in the step that led here, where a property asks for it.
    pub note: Option<Note>,
}

/// Faults that may still come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    /// Crashes of nodes.
    pub crashes: u8,
    /// Documents that the store drops.
    pub drops: u8,
    /// Writes of neighbours.
    pub bumps: u8,
}

/// What the step before was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    /// A write whose answer was lost was known again.
    Recognised,
    /// Storage refused a lower epoch.
    Fenced,
}

/// The store: documents of sessions, and every state that the entry had, the last being the present one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    /// The highest version given.
    pub head: Version,
    /// By session.
    pub sessions: Vec<SessionDoc>,
    /// The entry's history, without what would tell nobody anything. Reads may give any of it.
    pub entries: Vec<Entry>,
    /// The last epoch under which it was owned, and by whom.
    pub highest: (Epoch, Session),
    /// Whether an owner ever got an epoch that was not above that of the one before.
    pub fell: bool,
}

/// A session's document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionDoc {
    /// Not there.
    Absent,
    /// Alive; its node sent this write so long ago (by the number in the document it knows which write it was).
    Alive {
        /// Its version.
        version: Version,
        /// Since it was sent.
        sent: Age,
    },
    /// Ended.
    Tombstone {
        /// Its version.
        version: Version,
        /// Whether it may be acted on at once.
        proved: bool,
    },
}

/// Who owns the thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// The document's version.
    pub version: Version,
    /// The session; `None`: a name that is free.
    pub owner: Option<Session>,
    /// Its epoch.
    pub epoch: Epoch,
    /// Whether the owner before it wrote it, with state offered.
    pub handed: bool,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its present session.
    pub session: Life,
    /// How many it has opened.
    pub opened: u8,
    /// What it believes to own.
    pub title: Title,
    /// Nothing at or below this is taken again by this session.
    pub given_up: Epoch,
    /// What it watches, in order to take over.
    pub watch: Option<Watch>,
    /// The session that it knows to be over for good.
    pub proof: Option<Session>,
    /// A piece of work that was started while the title held, and what it is about to write.
    pub work: Option<(Session, Epoch, u8)>,
    /// State in memory: what was loaded, or what exists only there.
    pub memory: Option<u8>,
    /// State that it was offered, and for which epoch.
    pub offered: Option<(Epoch, u8)>,
}

/// A node's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    /// None.
    None,
    /// Its creation was not answered yet.
    Opening(Session),
    /// Open.
    Open {
        /// Which.
        id: Session,
        /// The version last acknowledged.
        version: Version,
        /// Since that write was sent.
        sent: Age,
    },
    /// Over, as the node knows; all titles under it have ended.
    Lost(Session),
}

/// What a node believes to own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Title {
    /// Nothing.
    None,
    /// Claimed; a renewal above this version is to come before it is served.
    Claimed {
        /// Its epoch.
        epoch: Epoch,
        /// The claim's version.
        version: Version,
        /// Whether it was handed over with state.
        handed: bool,
    },
    /// Served while the lease runs.
    Held {
        /// Its epoch.
        epoch: Epoch,
    },
    /// Being handed over: not served.
    Moving {
        /// Its epoch.
        epoch: Epoch,
        /// To this session.
        to: Session,
        /// State was offered, or the entry's write was sent: no way back without a write.
        committed: bool,
        /// The receiver has the state.
        ready: bool,
    },
    /// Being released: not served.
    Releasing {
        /// Its epoch.
        epoch: Epoch,
    },
}

/// What a node has seen of another's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Watch {
    /// Which.
    pub session: Session,
    /// What it saw.
    pub seen: Seen,
    /// Since it got to know.
    pub age: Age,
}

/// What was seen of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seen {
    /// Alive at this version.
    Alive(Version),
    /// Not there.
    Absent,
    /// A tombstone that is not proved.
    Unproved,
}

/// A request to the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    /// Who sent it.
    pub node: usize,
    /// Whether the sender still waits for the answer.
    pub waited: bool,
    /// What it asks.
    pub ask: Ask,
    /// The answer, on its way; without it the request is.
    pub answer: Option<Answer>,
}

/// What is asked of the store. Each is a compare-and-set on one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ask {
    /// Creates a session.
    Open {
        /// Which.
        id: Session,
        /// Since it was sent.
        sent: Age,
    },
    /// Renews it.
    Renew {
        /// Which.
        id: Session,
        /// The version that is replaced.
        base: Version,
        /// Since it was sent.
        sent: Age,
    },
    /// Ends it.
    Bury {
        /// Which.
        id: Session,
        /// The version that is replaced; `None`: it must not be there.
        base: Option<Version>,
        /// What the tombstone says.
        proved: bool,
    },
    /// Writes the entry.
    Write {
        /// The version that is replaced; `None`: a name that must be free.
        base: Option<Version>,
        /// The new owner.
        owner: Option<Session>,
        /// Its epoch; 0: the version of this write.
        epoch: Epoch,
        /// To what end.
        why: Why,
    },
}

/// To what end an entry is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// To own it.
    Claim,
    /// To give it to another.
    HandOver,
    /// To keep what was to be handed over.
    Settle,
    /// To let a name go.
    Release,
}

/// What the store answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// Done, as this version.
    Accepted(Version),
    /// Refused; this is stored.
    HasSession(SessionDoc),
    /// Refused; this is stored.
    HasEntry(Entry),
}

/// State on its way to the node that is to own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offer {
    /// From.
    pub from: usize,
    /// The receiver's session.
    pub to: Session,
    /// For which epoch.
    pub epoch: Epoch,
    /// The state.
    pub memory: u8,
}

/// What compares epochs and keeps effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Storage {
    /// The highest epoch that it knows, and whose.
    pub fence: (Epoch, Session),
    /// The number kept.
    pub value: u8,
    /// How often it was raised by one, as callers were told.
    pub accepted: u8,
    /// Whether it ever took a lower epoch after a higher, or met one epoch under two sessions.
    pub wrong: bool,
}

/// Whose session that is.
pub fn node_of(session: Session) -> usize {
    usize::from(session) % NODES
}

impl Node {
    /// Its open session's id.
    pub fn open(&self) -> Option<Session> {
        match self.session {
            Life::Open { id, .. } => Some(id),
            _ => None,
        }
    }
}

impl SessionDoc {
    /// Its version, if it is there.
    pub fn version(self) -> Option<Version> {
        match self {
            Self::Absent => None,
            Self::Alive { version, .. } | Self::Tombstone { version, .. } => Some(version),
        }
    }
}

impl Store {
    /// The entry as it is.
    pub fn entry(&self) -> Entry {
        // There is one from the start, and none is ever taken out.
        self.entries[self.entries.len() - 1]
    }
}
