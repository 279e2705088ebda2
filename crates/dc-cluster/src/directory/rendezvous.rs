//! Which member answers for a name: rendezvous hashing, the same on every node and in every version.

use dc_core::NodeId;

/// A well-mixed hash of `key`. Part of the wire: all members must compute the same.
pub(crate) fn hash(key: &[u8]) -> u64 {
    // FNV-1a, then mixed: FNV alone leaves the high bits of short keys alike.
    let fnv = key.iter().fold(0xcbf2_9ce4_8422_2325, |h: u64, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    mix(fnv)
}

/// The finaliser of splitmix64.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The two members that weigh most for `key`: the primary and, unless there is only one member, the backup.
pub(crate) fn homes(key: &str, nodes: impl IntoIterator<Item = NodeId>) -> (Option<NodeId>, Option<NodeId>) {
    let key = hash(key.as_bytes());
    let (mut first, mut second) = (None, None);
    for node in nodes {
        let weight = Some((mix(key ^ mix(node.0 as u64) ^ mix((node.0 >> 64) as u64).rotate_left(1)), node));
        if weight > first {
            (first, second) = (weight, first);
        } else if weight > second {
            second = weight;
        }
    }
    (first.map(|(_, node)| node), second.map(|(_, node)| node))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hash_is_fixed_for_ever() {
        // Members of different versions must agree: these values never change.
        assert_eq!(hash(b""), 0xc381_7c01_6ba4_ff30);
        assert_eq!(homes("a/worker", [1, 2, 3].map(NodeId)), (Some(NodeId(1)), Some(NodeId(2))));
    }

    #[test]
    fn names_spread_evenly() {
        let nodes: Vec<_> = (0..10u128).map(|n| NodeId(n << 64 | n)).collect();
        let mut counts = vec![0usize; 10];
        for n in 0..10_000 {
            let (primary, _) = homes(&format!("a/{n}"), nodes.iter().copied());
            counts[nodes.iter().position(|&node| Some(node) == primary).unwrap()] += 1;
        }
        assert!(counts.iter().all(|&count| (850..1150).contains(&count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn a_leaving_member_moves_only_its_own_names(key in ".{1,20}", n in 2u128..10, gone in 0u128..10) {
            let nodes: Vec<_> = (0..n).map(NodeId).collect();
            let left: Vec<_> = nodes.iter().copied().filter(|node| node.0 != gone).collect();
            let (primary, backup) = homes(&key, nodes.iter().copied());
            let (then, _) = homes(&key, left.iter().copied());
            prop_assert_ne!(primary, backup);
            // The backup is who takes over.
            prop_assert_eq!(then, if primary == Some(NodeId(gone)) { backup } else { primary });
        }

        #[test]
        fn order_does_not_matter(key in ".{1,20}", mut ids in proptest::collection::vec(any::<u128>(), 1..8)) {
            ids.dedup();
            let forward = homes(&key, ids.iter().copied().map(NodeId));
            prop_assert_eq!(forward, homes(&key, ids.iter().rev().copied().map(NodeId)));
        }
    }
}
