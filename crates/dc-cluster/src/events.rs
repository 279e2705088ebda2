//! What happens to a datacenter's membership and names, for logs and the layers above.

use dc_core::{DcView, Member, NodeId};

use crate::directory::Eviction;

/// Something that this node saw happen in its datacenter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClusterEvent {
    /// This node has joined: it met another member, or founded the cluster.
    Joined,
    /// Another node is a live member now.
    MemberUp(Member),
    /// A member left or was declared down.
    MemberDown(Member),
    /// Another member leads now, as this node sees it.
    LeaderChanged {
        /// Who led before; `None` when this node had not joined.
        from: Option<NodeId>,
        /// Who leads now.
        to: NodeId,
    },
    /// This node had been declared down and came back as the youngest. Its actors live on.
    Rejoined {
        /// Its new seniority.
        seniority: u64,
    },
    /// A name of this node's lost against an older registration after a heal (A2).
    NameEvicted(Box<Eviction>),
}

/// The events that lead from one view to the next.
pub(crate) fn between(old: &DcView, new: &DcView) -> Vec<ClusterEvent> {
    let mut events = Vec::new();
    if new.joined && !old.joined {
        events.push(ClusterEvent::Joined);
    }
    let others = |view: &DcView| view.members.iter().filter(|m| m.node != view.me).cloned().collect::<Vec<_>>();
    let gone = others(old).into_iter().filter(|member| new.member(member.node).is_none());
    events.extend(gone.map(ClusterEvent::MemberDown));
    let fresh = others(new).into_iter().filter(|member| old.member(member.node).is_none());
    events.extend(fresh.map(ClusterEvent::MemberUp));
    let (from, to) = (old.leader().map(|m| m.node), new.leader().map(|m| m.node));
    if let Some(to) = to.filter(|_| from != to) {
        events.push(ClusterEvent::LeaderChanged { from, to });
    }
    events
}
