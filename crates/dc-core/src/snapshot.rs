//! The routing snapshot.

/// An immutable view of all known datacenters.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {}
