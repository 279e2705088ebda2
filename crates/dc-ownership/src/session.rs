//! Sessions: who may own, and where its holder is.

use dc_core::{DataCenterId, Endpoint, NodeId};

use crate::ids::SessionId;

/// The node behind a session, and where to reach it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// The session.
    pub session: SessionId,
    /// The run of a node that opened it.
    pub node: NodeId,
    /// Its datacenter.
    pub data_center: DataCenterId,
    /// Where it takes links.
    pub endpoint: Endpoint,
}
