//! What a node process is asked over its standard input, and answers on its
//! standard output: one JSON document a line.

use serde::{Deserialize, Serialize};

/// A question to a node, with a number that its answer bears.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Question {
    /// Chosen by the asker.
    pub id: u64,
    /// What to do.
    pub ask: Command,
}

/// Where to look for a datacenter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Where {
    /// Its name.
    pub name: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// Its zone.
    pub zone: Option<String>,
}

impl Where {
    /// The datacenter of this name.
    pub fn name(name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..Self::default() }
    }
}

/// What a node can be asked to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Its readiness, members and table.
    Status,
    /// Spawn a worker in another datacenter, or here.
    Spawn {
        /// The worker's name.
        name: String,
        /// Where; `None`: on this node.
        at: Option<Where>,
    },
    /// Spawn an actor of a kind that only the asking node registered.
    SpawnUnknownKind {
        /// The actor's name.
        name: String,
        /// Where.
        at: Where,
    },
    /// Find a worker by name and ask it how far it is.
    AskWorker {
        /// The worker's name.
        name: String,
        /// The ask's bound, in milliseconds.
        timeout_ms: u64,
    },
    /// Find a worker by name and tell it to analyse a day.
    TellWorker {
        /// The worker's name.
        name: String,
        /// The day.
        day: u32,
    },
    /// Tell the worker all of these days in order, without waiting in between.
    TellWorkerMany {
        /// The worker's name.
        name: String,
        /// The first day.
        from: u32,
        /// How many.
        count: u32,
    },
    /// Make the worker panic.
    PanicWorker {
        /// The worker's name.
        name: String,
    },
    /// Add an item to a grain.
    AddToCart {
        /// The grain's identity.
        cart: String,
        /// The ask's bound, in milliseconds.
        timeout_ms: u64,
        /// How many asks at once.
        times: u32,
    },
    /// Add an item to a grain that has one home across datacenters.
    AddToLedger {
        /// The grain's identity.
        ledger: String,
        /// The ask's bound, in milliseconds.
        timeout_ms: u64,
        /// How many asks at once.
        times: u32,
    },
    /// Spawn a counter under a global name, which survives the loss of a datacenter.
    SpawnCounter {
        /// The global name.
        name: String,
        /// Where it starts; `None`: on this node.
        at: Option<Where>,
    },
    /// Spawn many counters under global names, `prefix` and a number each.
    SpawnCounters {
        /// What their names begin with.
        prefix: String,
        /// How many.
        count: u32,
        /// Where they start.
        at: Where,
    },
    /// Find a counter by its global name and make it count.
    Count {
        /// Its global name.
        name: String,
        /// The operation, as the log knows it.
        op: String,
        /// The bound of look-up and ask, each, in milliseconds.
        timeout_ms: u64,
    },
    /// Make a counter that is a global grain count.
    CountGrain {
        /// Its identity.
        id: String,
        /// The operation, as the log knows it.
        op: String,
        /// The ask's bound, in milliseconds.
        timeout_ms: u64,
    },
    /// Watch a worker, or a counter by its global name; what is told is event lines, `watch NAME: ..`.
    Watch {
        /// The name.
        name: String,
        /// Whether it is a global one.
        global: bool,
    },
    /// Drain the datacenter; each step of its progress is an event line. Answered when it has ended.
    Drain {
        /// Why.
        why: String,
    },
    /// What has happened to the node's part in global ownership.
    OwnershipStats,
    /// Its wall clock.
    WallClock,
    /// Leave in order.
    Shutdown,
}

/// A line that a node prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// It takes links now.
    Started {
        /// Where.
        addr: String,
        /// Its run.
        node: String,
    },
    /// Something happened in its system.
    Event {
        /// Shown for people.
        text: String,
    },
    /// The answer to a question.
    Answer {
        /// The question's number.
        id: u64,
        /// What came of it.
        result: Result<Answer, Failure>,
    },
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was done.
    Done,
    /// A worker's report.
    Report(WorkerReport),
    /// A grain's report, for each ask.
    Carts(Vec<CartReport>),
    /// The node's own state.
    Status(Status),
    /// What a counter answered.
    Counted(CountReport),
    /// How a drain ended: whether all has moved.
    Drained(bool),
    /// Names and counts.
    Stats(Vec<(String, u64)>),
    /// Seconds since 1970.
    WallClock(u64),
}

/// How a worker answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kameo::Reply)]
pub struct WorkerReport {
    /// The datacenter it runs in.
    pub dc: String,
    /// The process it runs in.
    pub pid: u32,
    /// Drawn at its start.
    pub activation: u64,
    /// The days it was told, in order of arrival.
    pub days: Vec<u32>,
}

/// How a grain answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kameo::Reply)]
pub struct CartReport {
    /// The datacenter it is active in.
    pub dc: String,
    /// The process it is active in.
    pub pid: u32,
    /// Drawn at its activation.
    pub activation: u64,
    /// Items it holds.
    pub items: u64,
}

/// How a counter answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kameo::Reply)]
pub struct CountReport {
    /// The datacenter it runs in.
    pub dc: String,
    /// The process it runs in.
    pub pid: u32,
    /// Drawn at its start.
    pub activation: u64,
    /// Its epoch: the fencing token.
    pub epoch: u64,
    /// How far it is.
    pub count: u64,
    /// What came of the increment.
    pub outcome: Outcome,
}

/// What came of an increment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is written.
    Counted,
    /// The log has refused it: there is a newer owner.
    Fenced,
    /// The log did not answer: it may be written.
    NoLog,
}

/// A node's own state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Whether it is ready.
    pub ready: bool,
    /// Age of its table in milliseconds.
    pub table_age_ms: Option<u64>,
    /// Live members of its datacenter.
    pub members: usize,
    /// Whether it leads its datacenter's membership.
    pub leads: bool,
    /// The datacenters that it knows.
    pub data_centers: Vec<KnownDc>,
}

/// A datacenter as a node knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnownDc {
    /// Its id.
    pub id: String,
    /// Its state.
    pub state: String,
    /// The operator's intent.
    pub intent: String,
    /// What may be sent there: `nothing`, `traffic`, `placements`.
    pub routable: String,
    /// How many endpoints it advertises.
    pub endpoints: usize,
    /// Its epoch.
    pub epoch: u64,
}

/// Why a question failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The error's name: `DataCenterNotReady`, ..
    pub kind: String,
    /// What it says.
    pub text: String,
    /// Whether the message certainly did not run.
    pub certainly_not_run: bool,
}
