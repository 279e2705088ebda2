//! What the driver says to its nodes and hears from them: one JSON document a line, over standard input and output.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a node is told at its start, as its only argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeSpec {
    /// The number of this process among all that the driver started.
    pub run: u32,
    /// Its place: the same after a restart.
    pub slot: usize,
    /// Nodes of each datacenter: places count through them.
    pub per_dc: usize,
    /// Places in all.
    pub slots: usize,
    /// Its datacenter.
    pub dc: String,
    /// The control plane's URL.
    pub plane: String,
    /// Where it listens.
    pub listen: String,
    /// Where others reach it: the proxy before it.
    pub advertise: String,
    /// The other nodes of its datacenter, through their proxies.
    pub seeds: Vec<String>,
    /// Where logs are written.
    pub logs: PathBuf,
    /// Seed of its draws.
    pub seed: u64,
    /// Tasks that send.
    pub workers: usize,
    /// Named targets of each node.
    pub targets: usize,
    /// Identities of each kind of grain.
    pub grains: u32,
    /// Certificate authority, certificate and key, where links use TLS.
    pub tls: Option<[PathBuf; 3]>,
    /// A fault that is planted in this node, to see that it is found.
    pub plant: Option<Plant>,
}

/// Faults of a node that a run must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Plant {
    /// Handles one message of a hundred twice.
    Twice,
    /// Acknowledges one ask of a hundred without handling it.
    Lose,
    /// Takes one tell of a hundred and never handles it.
    Drop,
    /// Handles one tell of a hundred after the message that follows it.
    Reorder,
    /// Says of one acknowledged ask of a hundred that it certainly did not run.
    Lie,
    /// Handles one grain's message of ten in a second activation.
    Split,
    /// Keeps 1 MiB every second.
    Memory,
    /// Opens ten files every second.
    Files,
    /// Starts a hundred tasks every second that never end.
    Tasks,
}

/// What a node is told while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Messages a second; infinity (`null`): as many as it can; 0: none.
    Rate(Option<f64>),
    /// Ask every named target of the system once, and tell how many answered.
    Roll,
    /// Leave in order, and end.
    Leave,
}

/// What a node says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// It takes links; the lower half of its id.
    Started {
        /// Its id, lower half.
        node: u64,
    },
    /// Its own figures, each second.
    Figures(Figures),
    /// Something in its system changed: members, leader, datacenters, staleness.
    Change {
        /// When, by [`super::clock`].
        at_us: u64,
        /// What, for people.
        text: String,
    },
    /// Something that must never be seen was seen.
    Wrong {
        /// The guarantee.
        rule: String,
        /// What was seen.
        text: String,
    },
    /// The answer to [`Order::Roll`].
    Rolled {
        /// How many answered.
        answered: usize,
        /// Those that did not, and why.
        missing: Vec<String>,
    },
}

/// What a node knows of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Whether it is ready (D7).
    pub ready: bool,
    /// Tasks of its runtime that have not ended.
    pub tasks: usize,
    /// Actors that run on it.
    pub actors: usize,
    /// Live members of its datacenter.
    pub members: usize,
    /// Datacenters in its table that take placements.
    pub placeable: usize,
    /// Whether it leads its datacenter's membership.
    pub leads: bool,
    /// Dead letters since its start.
    pub dead_letters: u64,
    /// Look-ups since its start.
    pub lookups: u64,
    /// Look-ups that found nothing, or failed.
    pub lookups_failed: u64,
}

/// The names of errors, as numbers in logs; the last one stands for all others.
pub const ERRORS: &[&str] = &[
    "",
    "DataCenterNotReady",
    "DataCenterStaleRecords",
    "DataCenterRecordNotFound",
    "DataCenterNotRoutable",
    "TypeNotRegistered",
    "MessageNotListed",
    "NameTaken",
    "ActorNotFound",
    "ActorStopped",
    "HandlerPanicked",
    "NoAnswer",
    "StartFailed",
    "Timeout",
    "Unreachable",
    "Lost",
    "Overloaded",
    "ShuttingDown",
    "StaleEpoch",
    "Codec",
    "Unauthorized",
    "(another)",
];

/// The number of an error's name in [`ERRORS`].
pub fn error_number(name: &str) -> u8 {
    let last = ERRORS.len() - 1;
    // There are fewer than 256.
    ERRORS.iter().position(|known| *known == name).unwrap_or(last) as u8
}
