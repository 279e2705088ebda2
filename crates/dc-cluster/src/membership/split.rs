//! When two nodes that lost each other meet again: who comes back under a new seniority.
//!
//! A member that was declared down cannot take it back, and after a partition each
//! side has declared the other down. If both came back anew, the leader of both
//! sides would change; so one side stays as it is and the other joins it. Pure.

use serde::{Deserialize, Serialize};

use crate::identity::Rank;

/// What one node knows of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Seen {
    /// A live member.
    Alive,
    /// Nothing, or only an earlier life.
    Unknown,
    /// Declared down, or superseded by a later life at the same address.
    Down,
}

/// How a node stands: the side that it is on, and itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// Live members on its side, itself included.
    pub(crate) size: u32,
    /// The oldest of them.
    pub(crate) leader: Rank,
    /// Itself.
    pub(crate) me: Rank,
}

impl Standing {
    /// Whether this side stays: the larger, then the one with the older leader, then the older node.
    fn outweighs(&self, other: &Self) -> bool {
        (other.size, self.leader, self.me) < (self.size, other.leader, other.me)
    }
}

/// Who has to come back under a new seniority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nobody: one cluster.
    Same,
    /// This node.
    IYield,
    /// The other node.
    TheyYield,
}

/// The one place that decides it. Both nodes reach the same verdict from the same facts.
///
/// A node that still counts on the other, but is down to it, was away (paused, or
/// cut off for a moment): it yields, whatever its rank, so that leadership does
/// not go back and forth. Where both sides gave the other up, or never met, weight decides.
pub(crate) fn decide(mine: &Standing, theirs: &Standing, i_see_them: Seen, they_see_me: Seen) -> Verdict {
    match (i_see_them, they_see_me) {
        (Seen::Alive, Seen::Down) => Verdict::IYield,
        (Seen::Down, Seen::Alive) => Verdict::TheyYield,
        (Seen::Alive, _) | (_, Seen::Alive) => Verdict::Same,
        (Seen::Unknown, Seen::Unknown) if mine.leader == theirs.leader => Verdict::Same,
        _ if mine.outweighs(theirs) => Verdict::TheyYield,
        _ => Verdict::IYield,
    }
}

#[cfg(test)]
mod tests {
    use dc_core::NodeId;
    use proptest::prelude::*;

    use super::*;

    fn rank() -> impl Strategy<Value = Rank> {
        (1u64..5, (1u128..5).prop_map(NodeId))
    }

    fn standing() -> impl Strategy<Value = Standing> {
        (1u32..4, rank(), rank()).prop_map(|(size, leader, me)| Standing { size, leader, me })
    }

    fn seen() -> impl Strategy<Value = Seen> {
        prop_oneof![Just(Seen::Alive), Just(Seen::Unknown), Just(Seen::Down)]
    }

    proptest! {
        #[test]
        fn both_nodes_reach_the_same_verdict(a in standing(), b in standing(), a_sees in seen(), b_sees in seen()) {
            prop_assume!(a.me != b.me);
            let mirrored = match decide(&b, &a, b_sees, a_sees) {
                Verdict::Same => Verdict::Same,
                Verdict::IYield => Verdict::TheyYield,
                Verdict::TheyYield => Verdict::IYield,
            };
            prop_assert_eq!(decide(&a, &b, a_sees, b_sees), mirrored);
        }

        #[test]
        fn a_node_that_is_down_to_the_other_never_stays_unresolved(a in standing(), b in standing(), sees in seen()) {
            prop_assume!(a.me != b.me);
            prop_assert_ne!(decide(&a, &b, sees, Seen::Down), Verdict::Same);
        }
    }

    #[test]
    fn a_paused_leader_yields_to_those_it_still_counts_on() {
        let paused = Standing { size: 3, leader: (1, NodeId(1)), me: (1, NodeId(1)) };
        let others = Standing { size: 2, leader: (2, NodeId(2)), me: (2, NodeId(2)) };
        assert_eq!(decide(&paused, &others, Seen::Alive, Seen::Down), Verdict::IYield);
    }

    #[test]
    fn the_larger_side_of_a_healed_partition_keeps_its_leader() {
        let alone = Standing { size: 1, leader: (1, NodeId(1)), me: (1, NodeId(1)) };
        let others = Standing { size: 2, leader: (2, NodeId(2)), me: (3, NodeId(3)) };
        assert_eq!(decide(&alone, &others, Seen::Down, Seen::Down), Verdict::IYield);
        assert_eq!(decide(&others, &alone, Seen::Down, Seen::Down), Verdict::TheyYield);
    }
}
