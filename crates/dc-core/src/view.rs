//! What a node sees of its own datacenter: who is a member, who leads.

use crate::{Endpoint, NodeEndpoint, NodeId};

/// One live member of this datacenter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The member's run.
    pub node: NodeId,
    /// Its age rank: the lowest (seniority, node) alive leads.
    pub seniority: u64,
    /// Where it takes links, as it advertises itself.
    pub endpoint: Endpoint,
}

impl Member {
    /// The member as a record lists it.
    pub fn node_endpoint(&self) -> NodeEndpoint {
        NodeEndpoint::new(self.node, self.endpoint.clone())
    }
}

/// Membership of one datacenter as one node sees it at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DcView {
    /// The node that sees this.
    pub me: NodeId,
    /// Whether `me` has joined (met another member, or founded the cluster).
    pub joined: bool,
    /// Live members, `me` included, by (seniority, node).
    pub members: Vec<Member>,
}

impl DcView {
    /// The leader: the oldest live member. Membership nominates; the record decides (D1).
    pub fn leader(&self) -> Option<&Member> {
        if !self.joined {
            return None;
        }
        self.members.iter().min_by_key(|member| (member.seniority, member.node))
    }

    /// Whether `me` is the nominee.
    pub fn i_lead(&self) -> bool {
        self.leader().is_some_and(|leader| leader.node == self.me)
    }

    /// The member with this id.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }
}
