//! [`ControlPlane`](dc_controlplane::ControlPlane) over NATS JetStream: one key-value bucket, server 2.11 or newer.
//!
//! Owns how records, intents and the store's id lie in a bucket, and how the
//! numbered guarantees are got out of JetStream. Must not know: other
//! backends, actors, the registrar's decisions, what a routing table does with
//! what it reads.
//!
//! # How the guarantees are kept
//!
//! - A [`Version`](dc_core::Version)'s revision is the stream sequence; its store is a random id that is written
//!   once, by compare-and-set, under `meta.store` (P1).
//! - Every write of a record is one publish that names the subject's last sequence (P2) and carries its lease
//!   as the message's own TTL, so that the bucket needs no `max_age` (P3). A heartbeat writes the record again
//!   (P7): NATS has no renewal, so each one gives a new version and wakes watchers.
//! - The server leaves a marker when a TTL ends; watchers see it. They also time leases themselves (P4).
//! - A list is one batched direct read ("multi last") of up to 1,024 keys, answered from one consistent moment;
//!   beyond that, keys are read shard by shard (P6). Direct reads are answered by any replica: they may lag, and
//!   say as of which sequence they are.
//! - A replica that is cut off from the others goes on answering reads and feeding watches. So where there are several,
//!   a list counts, and a watch is in step or ends a lease by its own timing, only with the word of a leader that is in
//!   touch with a majority: any accepted write, or one small request to the leader, at most 2 s old (C4, C5). On a
//!   replicated bucket a list so costs that request besides its own, sent together with it, unless this client had
//!   such a word within 2 s. A leader that has lost its majority steps down only after some 10 s, but tells how long
//!   it has not heard from the others, which is what counts.
//! - Markers live for `marker_ttl`; a watch that was away longer, or finds the store behind what it delivered,
//!   or another store, ends with `WatchLost` (P5).
//!
//! # Ownership documents
//!
//! They lie in the same bucket, under `own.`, and are counted by the same sequence (O1). A write is one publish that
//! names the subject's last sequence; one that is to be kept for a time carries that as its TTL (O3), so that a session
//! is renewed by one request, which goes over a connection of its own where that stands: nothing large is before it. A
//! refusal names a sequence only: what is stored is read after it, until the replica that
//! answers is as new (O2). A list is read by shards (O5). A watch is that of the records, with other subjects (O6).
//!
//! # What an account must be allowed
//!
//! `docs/stores.md` has the lists for nodes, operators and whoever makes the bucket, and the tests run with them: publish
//! to the API of the bucket's stream, to its consumers, and to the keys that are to be written; subscribe to an inbox.
//!
//! Reading order: [`NatsConfig`], `keys`, `connect` (the link), `wire` (requests), `quorum`, `bucket` (settings and
//! store id), `plane` (the contract), `watch`, `ownership` (the documents).

mod bucket;
mod config;
mod connect;
mod error;
mod keys;
mod lane;
mod ownership;
mod plane;
mod quorum;
mod watch;
mod wire;

pub use config::{NatsConfig, NatsConfigBuilder};
pub use plane::NatsControlPlane;
