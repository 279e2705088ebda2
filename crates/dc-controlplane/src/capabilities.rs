//! What a backend says of itself (P13).

use std::time::Duration;

/// What a backend gives, as far as it can know; [`findings`](Self::findings) is the start-up audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The backend's name: `memory`, `nats`, `etcd`, `sqlite`, ..
    pub backend: &'static str,
    /// Whether [`watch`](crate::ControlPlane::watch) is supported; if not, readers poll.
    pub watch: bool,
    /// Whether the store itself tells of expiry; if not, the watcher's side times it (P4).
    pub expiry_events: bool,
    /// How much later than its TTL an unrenewed record may leave the list (P3).
    pub expiry_granularity: Duration,
    /// Whether a list shows every write that was accepted before it was asked (C2).
    pub linearizable_reads: bool,
    /// Whether a renewal that changes nothing keeps the version and wakes no watcher (P7).
    pub renewal_keeps_version: bool,
    /// Copies of the data that the store keeps, where it can be known.
    pub replicas: Option<u32>,
    /// When an accepted write is on disk, where it can be known.
    pub durability: Durability,
    /// Settings of the server that are unsafe for production, each a sentence; logged at start, refused in strict mode.
    pub findings: Vec<String>,
}

/// When an accepted write is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Before it is acknowledged.
    BeforeAck,
    /// Some time after it is acknowledged: a power loss may take it back.
    AfterAck,
    /// Never: the store lives in memory.
    Memory,
    /// Not visible to an ordinary account.
    Unknown,
}
