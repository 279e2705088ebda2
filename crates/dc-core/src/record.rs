//! The leased record of one datacenter.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{DataCenter, DataCenterId, DataCenterState, Endpoint, Epoch, Invalid, NodeEndpoint, NodeId, Version};

/// Who writes a record: the leader of its datacenter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The leader's run.
    pub node: NodeId,
    /// The address it advertises; a restart of the owner shows by it (D1).
    pub endpoint: Endpoint,
}

/// What the control plane holds of one datacenter. Written only by the DC's
/// leader, by compare-and-set on [`version`](Self::version).
#[derive(Clone, Debug, PartialEq)]
pub struct DataCenterRecord {
    /// Name, region, zone, labels; the id is made of them.
    pub data_center: DataCenter,
    /// The DC's nodes that take links; at least one.
    pub endpoints: Vec<NodeEndpoint>,
    /// The lifecycle state that the leader wrote.
    pub state: DataCenterState,
    /// The lease, as a duration: each observer times it on its own monotonic clock.
    pub ttl: Duration,
    /// The leader that wrote it.
    pub owner: Owner,
    /// Grows by one at each change of owner.
    pub epoch: Epoch,
    /// The owner has stopped and hands over: any nominee may take it at once.
    pub handed_over: bool,
    /// When it was written, by the writer's wall clock, in milliseconds since 1970: for people, compared with nothing.
    pub written_at_ms: u64,
    /// The stored version it was read at, or that a write is to name (P2).
    /// Not part of what is stored.
    pub version: Version,
    /// Fields written by a later version: kept and written back.
    pub unknown: serde_json::Map<String, serde_json::Value>,
}

impl DataCenterRecord {
    /// The most endpoints that a record may hold.
    pub const MAX_ENDPOINTS: usize = 4_096;

    /// The datacenter's identity.
    pub fn id(&self) -> &DataCenterId {
        self.data_center.id()
    }

    /// Checks what the types do not: endpoints and lease.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field, the value and the rule.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.endpoints.is_empty() || self.endpoints.len() > Self::MAX_ENDPOINTS {
            let rule = format!("must be 1 to {}", Self::MAX_ENDPOINTS);
            return Err(Invalid::new("endpoints", self.endpoints.len().to_string(), rule));
        }
        if self.ttl < Duration::from_millis(100) || self.ttl > Duration::from_secs(86_400) {
            return Err(Invalid::new("lease ttl", format!("{:?}", self.ttl), "must be 100 ms to 24 h"));
        }
        Ok(())
    }

    /// Whether two records say the same, whatever their versions and times.
    pub fn same_content(&self, other: &Self) -> bool {
        self.data_center == other.data_center
            && self.endpoints == other.endpoints
            && self.state == other.state
            && self.ttl == other.ttl
            && self.owner == other.owner
            && self.epoch == other.epoch
            && self.handed_over == other.handed_over
            && self.unknown == other.unknown
    }
}
