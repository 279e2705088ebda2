//! Silent sessions, and the tombstones that are put in their places: steps (1) and (2) of a take-over.

use std::time::{Duration, Instant};

use dc_controlplane::ownership::Keep;
use dc_core::{DataCenterId, snapshot::hash};

use super::{Core, Plant, Written, requests::Purpose, timers::Timer};
use crate::{
    documents::{Unit, bare_tombstone},
    event::OwnershipEvent,
    ids::SessionId,
};

/// How long a tombstone stays. Entries may name its session for longer: then it is absent, and step (1) begins again.
const TOMBSTONE: Duration = Duration::from_secs(24 * 3_600);

impl Core {
    /// Looks whether a session is over, and buries it if it is.
    pub(super) fn look_at_session(&mut self, id: SessionId, now: Instant) {
        if self.own.id() == Some(id) {
            return;
        }
        if self.over.contains(&id) {
            self.bury_own(id, now);
            return;
        }
        let trusts = self.plants(Plant::AbsenceProves);
        let Some(seen) = self.sessions.get_mut(&id) else { return };
        if seen.buried.is_some() {
            return;
        }
        if let Some(grave) = seen.grave {
            // Put there on absence, it ends all renewals, and not the lease: that is over a TTL later.
            let over = if trusts { grave } else { grave + seen.ttl() };
            if now < over {
                self.timers.at(over, Timer::Unit(Unit::Session(id)));
                return;
            }
            seen.buried = Some(now);
            for unit in self.named.get(&id).into_iter().flatten() {
                self.timers.at(now, Timer::Unit(unit.clone()));
            }
            return;
        }
        // (1) a full TTL on this node's clock without a change. Absence cannot be watched: it is settled at once.
        let absent = seen.version.is_none();
        let silent_at = if absent { seen.since } else { seen.since + seen.ttl() };
        if now < silent_at {
            self.timers.at(silent_at, Timer::Unit(Unit::Session(id)));
            return;
        }
        if !seen.silent {
            seen.silent = true;
            self.live_stale = true;
            self.wake_orphans(now);
        }
        let Some(entry_since) = self.last_named(id) else {
            // Nothing names it: its own document goes by itself.
            return;
        };
        if !self.may_claim(now) {
            return;
        }
        let rank = self.rank_to_bury(id, now);
        let Some(seen) = self.sessions.get_mut(&id) else { return };
        let unchanged = if absent { silent_at } else { entry_since + seen.ttl() };
        let due = silent_at.max(unchanged).max(seen.retry_at) + self.options.step() * rank;
        if now < due {
            self.timers.at(due, Timer::Unit(Unit::Session(id)));
            return;
        }
        if seen.burying {
            return;
        }
        seen.burying = true;
        if self.plant == Some(Plant::NoTombstone) {
            seen.buried = Some(now);
            for unit in self.named.get(&id).into_iter().flatten() {
                self.timers.at(now, Timer::Unit(unit.clone()));
            }
            return;
        }
        // (2) by compare-and-set on exactly the version that was watched, or on absence.
        self.put_tombstone(id);
    }

    fn put_tombstone(&mut self, id: SessionId) {
        let nonce = self.nonce();
        let seen = self.sessions.get(&id);
        let version = seen.and_then(|seen| seen.version);
        let body = match seen.and_then(|seen| seen.document.clone()) {
            Some(mut document) => {
                document.tombstone = true;
                document.proved = version.is_some();
                document.nonce = nonce;
                document.write()
            }
            None => bare_tombstone(nonce),
        };
        self.write(Unit::Session(id), version, body, Keep::For(TOMBSTONE), Purpose::Bury(id));
    }

    /// A session of this node that has ended here needs no silence: nothing runs under it any more.
    fn bury_own(&mut self, id: SessionId, now: Instant) {
        let Some(seen) = self.sessions.get_mut(&id) else {
            // It was never seen in the store, so nothing names it.
            self.over.remove(&id);
            self.finish_stop(id);
            return;
        };
        if seen.grave.is_some() || seen.version.is_none() {
            self.over.remove(&id);
            self.finish_stop(id);
        } else if seen.retry_at > now {
            let at = seen.retry_at;
            self.timers.at(at, Timer::Unit(Unit::Session(id)));
        } else if !seen.burying {
            seen.burying = true;
            self.put_tombstone(id);
        }
    }

    /// An attempt to put a tombstone was answered; what it showed was seen already.
    pub(super) fn bury_written(&mut self, id: SessionId, answer: &Written, now: Instant) {
        let failures = self.sessions.get(&id).map_or(0, |seen| seen.failures) + 1;
        let pause = self.pause(answer, failures);
        let Some(seen) = self.sessions.get_mut(&id) else { return };
        seen.burying = false;
        if !matches!(answer, Written::Done(_)) {
            seen.failures = failures;
            seen.retry_at = now + pause;
        }
        match answer {
            Written::Done(_) => {
                self.stats.tombstones += 1;
                let data_center = seen.document.as_ref().map(|document| document.dc.id().clone());
                self.event(OwnershipEvent::SessionBuried { session: id, data_center });
            }
            Written::Refused(_) => self.stats.tombstones_refused += 1,
            Written::Failed(_) | Written::Read(_) => {}
        }
        self.timers.at(now, Timer::Unit(Unit::Session(id)));
    }

    /// When an entry that names the session changed last; `None` where none does.
    fn last_named(&self, id: SessionId) -> Option<Instant> {
        let units = self.named.get(&id)?;
        units.iter().filter_map(|unit| self.named_since(unit, id)).max()
    }

    /// How many others bury it before this node does: those of its own datacenter first.
    fn rank_to_bury(&mut self, id: SessionId, now: Instant) -> u32 {
        self.refresh_live(now);
        let home: Option<DataCenterId> =
            self.sessions.get(&id).and_then(|seen| seen.document.as_ref()).map(|document| document.dc.id().clone());
        let order = |live: &super::rank::Live| {
            let near = home.as_ref().is_some_and(|home| live.data_center.id() == home);
            (!near, hash::score(live.hash, hash::mix(id.0 as u64)), live.id)
        };
        let own = self.own.id();
        let Some(mine) = self.live.iter().find(|live| Some(live.id) == own).map(order) else { return 8 };
        let before = self.live.iter().filter(|live| order(live) < mine).count();
        u32::try_from(before.min(16)).unwrap_or(16)
    }
}
