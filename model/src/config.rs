//! What is allowed to happen in a run of the checker, and the rules that are left out on purpose.

/// Nodes, each the only one of its datacenter.
pub const NODES: usize = 3;

/// One configuration: bounds, clocks, and which faults occur.
///
/// Times are in units of a true clock's tenth of a tick: per tick a node's clock advances by its `rate`, 10 being true.
#[derive(Clone, Debug)]
pub struct Config {
    /// A session's time to live, in units.
    pub ttl: u16,
    /// What the owner takes off it, in units.
    pub margin: u16,
    /// How far each node's clock advances in a tick: 9 to 11.
    pub rates: [u16; NODES],
    /// Nodes that do anything; the others stand still.
    pub active: [bool; NODES],
    /// Sessions that each node may open in its life, the first included.
    pub sessions: u8,
    /// Node 0 was restarted: its first session has its tombstone, its second is not open yet.
    pub restarted: bool,
    /// The highest epoch that is reached.
    pub epochs: u8,
    /// The highest version that is reached; `None`: no bound, since only order and equality of versions matter.
    pub versions: Option<u8>,
    /// Requests that may be under way after their sender has given them up.
    pub ghosts: usize,
    /// Nodes that may crash.
    pub crashes: u8,
    /// Documents of sessions that the store may drop, at any time, alive or not.
    pub drops: u8,
    /// Writes of others to the document that has the entry.
    pub bumps: u8,
    /// Owners may hand over.
    pub moves: bool,
    /// What is owned has state in memory that goes along in a move.
    pub memory: bool,
    /// Owners write to storage that compares epochs.
    pub storage: bool,
    /// Effects that are acknowledged at most.
    pub effects: u8,
    /// The thing is a name: it may be released and claimed again, and a new claim's epoch is its version.
    pub names: bool,
    /// The store may once come back as it was.
    pub rollback: bool,
    /// Titles ignore the lease.
    pub available: bool,
    /// The rule that is left out.
    pub plant: Option<Plant>,
}

/// A rule that is left out on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// The owner takes no margin off its lease.
    SkipMargin,
    /// The lease counts from the answer's arrival, not from before the renewal was sent.
    CountFromReceipt,
    /// Silence for a TTL suffices: no tombstone.
    NoTombstone,
    /// The session's document is not there: claim.
    TrustAbsence,
    /// Absence that was seen for a TTL, then a tombstone by compare-and-set on absence: claim at once.
    AbsenceProves,
    /// An unproved tombstone is taken for a proved one.
    UnprovedProves,
    /// A claim overwrites whatever is stored.
    UnversionedClaim,
    /// A hand-over keeps the epoch.
    EpochKept,
    /// After a hand-over whose answer was lost, a read that shows the old entry lets the owner go on.
    ResumeOnRead,
    /// Given up, a move leaves the owner under the epoch that it had, although state was offered for the next.
    ResumeSameEpoch,
    /// State that was offered late displaces what was offered for a higher epoch.
    LateOfferDisplaces,
    /// An entry of its own in an old read gives a node the title of what it gave up.
    OldEntryBelieved,
    /// A claim is served without a renewal after it.
    NoRenewalAfterClaim,
    /// A renewal that is refused by an older state of its own session goes on from that.
    OldRenewalRecognised,
    /// A release removes whatever is stored.
    UnversionedRelease,
    /// A name that is claimed again starts at epoch 1.
    EpochRestarts,
    /// Storage does not compare epochs.
    StorageIgnoresEpoch,
    /// An activation loads its state before it presents its epoch.
    LoadBeforePresent,
}

/// A configuration that is checked, and why.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// For people.
    pub name: &'static str,
    /// The configuration.
    pub config: Config,
}

impl Config {
    /// Take-over by silence only: node 0 owns and has a slow clock, the others' are fast.
    pub fn takeover() -> Self {
        Self {
            ttl: 20,
            margin: 4,
            rates: [9, 11, 11],
            active: [true, true, false],
            sessions: 1,
            restarted: false,
            epochs: 3,
            versions: None,
            ghosts: 1,
            crashes: 0,
            drops: 0,
            bumps: 0,
            moves: false,
            memory: false,
            storage: false,
            effects: 2,
            names: false,
            rollback: false,
            available: false,
            plant: None,
        }
    }

    /// All three nodes, two of which would take over.
    pub fn three_nodes() -> Self {
        Self { active: [true; NODES], ghosts: 0, epochs: 2, ..Self::takeover() }
    }

    /// A clock so fine that it tells whether the margin asked for is the least that does: 2/11 of the TTL is 10.
    pub fn fine_clock(margin: u16) -> Self {
        Self { ttl: 55, margin, epochs: 2, ghosts: 0, ..Self::takeover() }
    }

    /// The store drops a session that lives, or a tombstone.
    pub fn dropped() -> Self {
        Self { drops: 1, ghosts: 0, ..Self::takeover() }
    }

    /// The same, where a node has been restarted, and nodes that lose a session bury it themselves and open another.
    pub fn sessions() -> Self {
        Self { sessions: 2, restarted: true, drops: 1, ghosts: 0, ..Self::takeover() }
    }

    /// Planned moves, with lost and late answers.
    pub fn moves() -> Self {
        Self { moves: true, epochs: 2, ..Self::takeover() }
    }

    /// State in memory that goes along, or is lost with its node, but is never an old one.
    pub fn memory() -> Self {
        Self { moves: true, memory: true, effects: 1, ghosts: 0, epochs: 2, ..Self::takeover() }
    }

    /// The same, with a move that is given up and another after it.
    pub fn memory_again() -> Self {
        Self { epochs: 3, ..Self::memory() }
    }

    /// Owners that write to storage, late at times.
    pub fn storage() -> Self {
        Self { storage: true, ghosts: 0, ..Self::takeover() }
    }

    /// A name that is released and claimed again.
    pub fn names() -> Self {
        Self { names: true, epochs: 8, versions: Some(8), ..Self::takeover() }
    }

    /// The store comes back as it was some time ago.
    pub fn rollback() -> Self {
        Self { rollback: true, ghosts: 0, epochs: 2, ..Self::takeover() }
    }

    /// The same with this rule left out.
    pub fn without(self, plant: Plant) -> Self {
        Self { plant: Some(plant), ..self }
    }

    /// Whether this rule is left out.
    pub fn lacks(&self, plant: Plant) -> bool {
        self.plant == Some(plant)
    }

    /// For how many ticks since a renewal was sent `node` may act: none from this many on.
    pub fn lease_ticks(&self, node: usize) -> u8 {
        let margin = if self.lacks(Plant::SkipMargin) { 0 } else { self.margin };
        ticks(self.ttl - margin, self.rates[node])
    }

    /// After how many ticks of silence `node` may act on it.
    pub fn silence_ticks(&self, node: usize) -> u8 {
        ticks(self.ttl, self.rates[node])
    }

    /// No age above this makes a difference.
    pub fn oldest(&self) -> u8 {
        ticks(self.ttl, 9)
    }
}

/// How many whole ticks until a clock of this rate has advanced so far.
fn ticks(units: u16, rate: u16) -> u8 {
    u8::try_from(units.div_ceil(rate)).unwrap_or(u8::MAX)
}

/// What is checked in seconds, before each change.
pub fn small() -> Vec<Scenario> {
    vec![
        Scenario { name: "takeover", config: Config::takeover() },
        Scenario { name: "fine clock", config: Config::fine_clock(10) },
        Scenario { name: "dropped", config: Config::dropped() },
        Scenario { name: "moves", config: Config::moves() },
        Scenario { name: "memory", config: Config::memory() },
        Scenario { name: "storage", config: Config::storage() },
        Scenario { name: "names", config: Config::names() },
        Scenario { name: "rollback", config: Config::rollback() },
    ]
}

/// What is checked before a release, or when the protocol has changed: the same with wider bounds.
pub fn large() -> Vec<Scenario> {
    let three = |config: Config| Config { active: [true; NODES], ..config };
    let crash = |config: Config| Config { crashes: 1, ..config };
    vec![
        Scenario { name: "takeover, 3 nodes", config: Config::three_nodes() },
        Scenario { name: "takeover, 3 nodes, late", config: three(Config { epochs: 2, ..Config::takeover() }) },
        Scenario { name: "takeover, finest clock", config: Config { ttl: 110, ..Config::fine_clock(20) } },
        Scenario { name: "dropped and reopened", config: Config::sessions() },
        Scenario { name: "moves, crash, neighbour", config: crash(Config { bumps: 1, ..Config::moves() }) },
        Scenario { name: "moves, 3 nodes", config: three(Config { ghosts: 0, ..Config::moves() }) },
        Scenario { name: "memory, twice", config: Config::memory_again() },
        Scenario { name: "storage, late", config: Config { ghosts: 1, ..Config::storage() } },
        Scenario { name: "names, longer", config: Config { epochs: 9, versions: Some(9), ..Config::names() } },
        Scenario { name: "rollback, 3 nodes", config: three(Config::rollback()) },
    ]
}
