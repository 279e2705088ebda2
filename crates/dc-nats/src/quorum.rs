//! Whether the store has its quorum, and how old the proof of that is (C4, C5).
//!
//! Knows what the leader of a replicated stream tells of its followers. Asks nobody.

use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::bucket::GRANULARITY;

/// How old the proof may be that the store has its quorum, for what is read to count.
///
/// Not older than the time for which the store itself may hold on to what has ended: so long after the end of a lease
/// a reader waits before it takes the absence of a renewal for death.
pub(crate) const PROOF_AGE: Duration = GRANULARITY;

/// How long ago the leader may last have heard from a replica that counts as there. They talk every second.
const REPLICA_SILENCE: Duration = PROOF_AGE;

/// A moment at which the store could take writes, and its last sequence then or later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quorum {
    pub(crate) at: Instant,
    pub(crate) last_sequence: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Replicas {
    /// Empty where there is none: then the word of whoever answers is worth nothing.
    #[serde(default)]
    leader: String,
    /// The leader's followers.
    #[serde(default)]
    replicas: Vec<Replica>,
}

#[derive(Debug, Deserialize)]
struct Replica {
    #[serde(default)]
    offline: bool,
    /// How long ago the leader heard from it, in nanoseconds; 0 where it never did, as one that is no leader says.
    #[serde(default)]
    active: u64,
}

impl Replicas {
    /// How long ago the leader, who answered, had heard from enough followers to take writes; `None` where that is too
    /// long, or it is no leader.
    pub(crate) fn majority_heard(&self) -> Option<Duration> {
        let heard = |replica: &&Replica| !replica.offline && replica.active > 0;
        let mut heard: Vec<_> = self.replicas.iter().filter(heard).map(|replica| replica.active).collect();
        heard.sort_unstable();
        // It counts itself.
        let needed = self.replicas.len().div_ceil(2);
        let last = match needed.checked_sub(1) {
            Some(last) => Duration::from_nanos(*heard.get(last)?),
            None => Duration::ZERO,
        };
        (!self.leader.is_empty() && last <= REPLICA_SILENCE).then_some(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c4_a_leader_without_a_majority_proves_nothing() {
        let group = |followers: &[(bool, u64)]| Replicas {
            leader: "n0".into(),
            replicas: followers.iter().map(|&(offline, ms)| Replica { offline, active: ms * 1_000_000 }).collect(),
        };
        let heard = |followers: &[(bool, u64)]| group(followers).majority_heard();
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(heard(&[]), ms(0), "a single replica");
        assert_eq!(heard(&[(false, 0), (false, 0)]), None, "one that never heard of the others");
        let mut leaderless = group(&[(false, 1), (false, 1)]);
        leaderless.leader.clear();
        assert_eq!(leaderless.majority_heard(), None, "no leader");
        assert_eq!(heard(&[(false, 60_000), (false, 900)]), ms(900), "two of three");
        assert_eq!(heard(&[(false, 700), (false, 900)]), ms(700), "three of three");
        assert_eq!(heard(&[(false, 2_001), (false, 60_000)]), None, "one of three");
        assert_eq!(heard(&[(true, 100), (true, 100)]), None, "one of three");
        assert_eq!(heard(&[(false, 2), (true, 1), (false, 1), (true, 1)]), ms(2), "three of five");
        assert_eq!(heard(&[(false, 1), (true, 1), (true, 1), (true, 1)]), None, "two of five");
        assert_eq!(heard(&[(true, 1)]), None, "one of two");
        assert_eq!(heard(&[(false, 1), (true, 1), (true, 1)]), None, "two of four");
    }
}
