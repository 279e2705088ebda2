//! What is done to the system, and when: drawn from a seed before the run begins. Pure.

use std::{fmt, time::Duration};

use crate::rng::Rng;

/// One thing that is done to the system, for a time, and then undone.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Act {
    /// SIGKILL; started again afterwards.
    Kill {
        /// Which node.
        slot: usize,
    },
    /// SIGKILL of whoever leads the datacenter by then; started again afterwards.
    KillLeader {
        /// Which datacenter, from 0.
        dc: usize,
    },
    /// Shut down in order; started again afterwards.
    Leave {
        /// Which node.
        slot: usize,
    },
    /// SIGSTOP, then SIGCONT.
    Pause {
        /// Which node.
        slot: usize,
    },
    /// Reached by nobody and reaching nobody, but the store.
    Isolate {
        /// Which node.
        slot: usize,
        /// Black-holed instead of reset.
        silent: bool,
    },
    /// Two datacenters are cut from each other.
    CutDataCenters {
        /// The two, from 0.
        dcs: [usize; 2],
        /// Black-holed instead of reset.
        silent: bool,
    },
    /// All between two datacenters takes longer.
    Delay {
        /// The two, from 0.
        dcs: [usize; 2],
        /// By this much, one way.
        by: Duration,
    },
    /// Every server of the store is killed; started again afterwards on its data.
    StoreRestart,
    /// One server of the store is killed; started again afterwards.
    StoreMember {
        /// Drawn; taken modulo their number.
        server: usize,
    },
    /// An operator drains a datacenter, and lets it serve again afterwards.
    Drain {
        /// Which, from 0.
        dc: usize,
    },
    /// Every node's certificate and the authority behind it are replaced, files only.
    RotateCertificates,
}

/// An act at its time.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Planned {
    /// When it begins, from the beginning of the chaos.
    pub at: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// What.
    pub act: Act,
}

/// What a schedule is drawn for.
#[derive(Clone, Debug)]
pub struct Setting {
    /// How long the chaos may last.
    pub length: Duration,
    /// Mean time from one beginning to the next.
    pub every: Duration,
    /// Datacenters.
    pub dcs: usize,
    /// Nodes of each.
    pub per_dc: usize,
    /// Whether the store has servers.
    pub servers: bool,
    /// Whether links use TLS.
    pub tls: bool,
}

impl Setting {
    /// The node of each datacenter but the last that is never ended: its curves are as long as the run.
    pub fn lasting(&self, slot: usize) -> bool {
        let other = self.dcs == 1 || slot / self.per_dc + 1 < self.dcs;
        other && self.per_dc > 1 && slot % self.per_dc == self.per_dc - 1
    }

    fn mortal(&self, rng: &mut Rng) -> usize {
        loop {
            let slot = rng.index(self.dcs * self.per_dc);
            if !self.lasting(slot) {
                return slot;
            }
        }
    }

    fn two_dcs(&self, rng: &mut Rng) -> [usize; 2] {
        let a = rng.index(self.dcs);
        let b = (a + 1 + rng.index(self.dcs - 1)) % self.dcs;
        [a.min(b), a.max(b)]
    }

    fn draw_act(&self, kind: usize, rng: &mut Rng) -> (Act, std::ops::Range<u64>) {
        let slot = rng.index(self.dcs * self.per_dc);
        let dc = rng.index(self.dcs);
        match kind {
            0 => (Act::Kill { slot: self.mortal(rng) }, 500..4_000),
            1 => (Act::Pause { slot }, 500..9_000),
            2 => (Act::CutDataCenters { dcs: self.two_dcs(rng), silent: rng.percent(50) }, 1_000..8_000),
            3 => {
                let by = Duration::from_millis(rng.range(5..150));
                (Act::Delay { dcs: self.two_dcs(rng), by }, 3_000..10_000)
            }
            4 => (Act::Drain { dc }, 3_000..8_000),
            5 => (Act::StoreRestart, 1_000..6_000),
            6 => (Act::RotateCertificates, 1..2),
            7 => (Act::KillLeader { dc }, 500..4_000),
            8 => (Act::Leave { slot: self.mortal(rng) }, 500..3_000),
            9 => (Act::Isolate { slot, silent: rng.percent(50) }, 1_000..7_000),
            _ => (Act::StoreMember { server: rng.index(3) }, 1_000..6_000),
        }
    }

    fn has(&self, kind: usize) -> bool {
        match kind {
            2 | 3 => self.dcs > 1,
            5 | 10 => self.servers,
            6 => self.tls,
            0 | 8 => self.per_dc > 1,
            _ => true,
        }
    }

    /// Draws the schedule. Kinds come in rounds, each once a round in a drawn order, so that also a short run meets
    /// many; acts do not overlap, and after each is time to heal.
    pub fn draw(&self, seed: u64) -> Vec<Planned> {
        let mut rng = Rng::new(seed);
        let mut planned = Vec::new();
        let mut at = self.every / 4;
        let mut round = Vec::new();
        loop {
            if round.is_empty() {
                round = (0..11).filter(|kind| self.has(*kind)).collect();
                // The first ones of the list are the ones that a short run should meet.
                let shuffled = if planned.is_empty() { 7.min(round.len()) } else { round.len() };
                for n in (1..shuffled).rev() {
                    round.swap(n, rng.index(n + 1));
                }
            }
            let (act, lasts) = self.draw_act(round.remove(0), &mut rng);
            let most = self.every.mul_f64(0.6).max(Duration::from_millis(lasts.start + 1));
            let lasts = Duration::from_millis(rng.range(lasts)).min(most);
            if at + lasts > self.length {
                return planned;
            }
            planned.push(Planned { at, lasts, act });
            let rest = self.every.saturating_sub(lasts).as_millis() as u64;
            at += lasts + Duration::from_millis(rng.range(rest / 2..rest * 3 / 2 + 1));
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = |silent: &bool| if *silent { "black-holed" } else { "reset" };
        match self {
            Self::Kill { slot } => write!(f, "node {slot} killed"),
            Self::KillLeader { dc } => write!(f, "leader of dc-{} killed", dc + 1),
            Self::Leave { slot } => write!(f, "node {slot} shut down in order"),
            Self::Pause { slot } => write!(f, "node {slot} paused"),
            Self::Isolate { slot, silent } => write!(f, "node {slot} isolated, {}", how(silent)),
            Self::CutDataCenters { dcs: [a, b], silent } => {
                write!(f, "dc-{} and dc-{} cut from each other, {}", a + 1, b + 1, how(silent))
            }
            Self::Delay { dcs: [a, b], by } => write!(f, "dc-{} and dc-{}: {by:?} later each way", a + 1, b + 1),
            Self::StoreRestart => f.write_str("store killed and restarted"),
            Self::StoreMember { .. } => f.write_str("one server of the store killed and restarted"),
            Self::Drain { dc } => write!(f, "dc-{} drained", dc + 1),
            Self::RotateCertificates => f.write_str("certificates and their authority rotated"),
        }
    }
}

impl Act {
    /// What it is called in tables, whomever it met.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "node killed",
            Self::KillLeader { .. } => "leader killed",
            Self::Leave { .. } => "node shut down in order",
            Self::Pause { .. } => "node paused",
            Self::Isolate { .. } => "node isolated",
            Self::CutDataCenters { .. } => "datacenters cut from each other",
            Self::Delay { .. } => "datacenters far from each other",
            Self::StoreRestart => "store restarted",
            Self::StoreMember { .. } => "one server of the store restarted",
            Self::Drain { .. } => "datacenter drained",
            Self::RotateCertificates => "certificates rotated",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn setting(minutes: u64) -> Setting {
        let (length, every) = (Duration::from_secs(minutes * 60), Duration::from_secs(15));
        Setting { length, every, dcs: 3, per_dc: 3, servers: true, tls: true }
    }

    #[test]
    fn a_seed_replays_and_another_differs() {
        assert_eq!(setting(10).draw(7), setting(10).draw(7));
        assert_ne!(setting(10).draw(7), setting(10).draw(8));
    }

    #[test]
    fn acts_do_not_overlap_end_in_time_and_are_of_all_kinds() {
        for seed in 0..50 {
            let (setting, planned) = (setting(10), setting(10).draw(seed));
            for two in planned.windows(2) {
                assert!(two[0].at + two[0].lasts <= two[1].at, "seed {seed}: {two:?}");
            }
            assert!(planned.iter().all(|planned| planned.at + planned.lasts <= setting.length), "seed {seed}");
            let kinds: HashSet<_> = planned.iter().map(|planned| planned.act.name()).collect();
            assert_eq!(kinds.len(), 11, "seed {seed}: {kinds:?}");
            let ends = |act: &Act, slot| matches!(*act, Act::Kill { slot: s } | Act::Leave { slot: s } if s == slot);
            let ended = |slot| planned.iter().any(|planned| ends(&planned.act, slot));
            assert!(!(0..9).any(|slot| setting.lasting(slot) && ended(slot)), "seed {seed}: a lasting node was ended");
        }
    }

    #[test]
    fn what_is_not_there_is_not_hurt() {
        let setting = Setting { servers: false, tls: false, ..setting(10) };
        let hurt = |act: &Act| matches!(act, Act::StoreRestart | Act::StoreMember { .. } | Act::RotateCertificates);
        assert!(!setting.draw(1).iter().any(|planned| hurt(&planned.act)));
    }
}
