//! How a record's life ends here: leases (C2) and grace (C5).

use std::time::{Duration, Instant};

use dc_controlplane::Removal;
use dc_core::{DataCenterId, DataCenterState, Entry, Lease, Routability, Seen, Version, routability};

use super::Core;
use crate::TableEvent;

/// Leases and graces that end within so long of each other are looked at together.
const GRAIN: Duration = Duration::from_millis(20);

/// The time that a record is spared for, though the store shows no sign of its life (C5).
#[derive(Clone, Copy, Debug)]
pub(super) struct Grace {
    until: Instant,
    /// Whether the store still contains it, at the version that has no life left.
    still_listed: bool,
}

/// When the lease of `entry` ends on this reader's clock.
pub(super) fn lease_end(entry: &Entry) -> Instant {
    entry.lease().since() + entry.lease().ttl()
}

impl Core {
    /// Looks at every lease and grace: wants a list where one has ended, for only the store can tell what that means.
    pub(super) fn sweep(&mut self, now: Instant) {
        let mut next: Option<Instant> = None;
        let live = self.snapshot.iter().filter(|entry| entry.seen() == Seen::Live).map(|entry| lease_end(entry));
        for end in live.chain(self.graces.values().map(|grace| grace.until)) {
            let due = end + self.traits.proof_lag;
            if due <= now {
                // What has ended stays routable until the store was heard from (C2): ask it.
                self.list_wanted = true;
            } else if next.is_none_or(|next| due < next) {
                next = Some(due);
            }
        }
        self.next_sweep = next.map(|next| next.max(now + GRAIN));
    }

    /// Whether what ended at `end` was over when the store was heard from, as it is known to have been at `at`.
    pub(super) fn was_over(&self, end: Instant, at: Instant) -> bool {
        end + self.traits.proof_lag <= at
    }

    /// Ends the graces that were over when the store was heard from at `at`: it had the time to show a renewal.
    pub(super) fn end_graces(&mut self, at: Instant) {
        let over = self.graces.iter().filter(|(_, grace)| self.was_over(grace.until, at));
        let over: Vec<_> = over.map(|(id, grace)| (id.clone(), *grace)).collect();
        for (id, grace) in over {
            self.graces.remove(&id);
            if self.snapshot.get(&id).is_none_or(|entry| entry.seen() != Seen::Grace) {
                continue;
            }
            if grace.still_listed {
                // Known, so that what is read once more is not taken for a newcomer; it goes when the store lacks it.
                self.set_expired(&id);
            } else {
                self.drop_entry(&id, Removal::Expired);
            }
        }
    }

    /// The store is back from an outage: what is in grace has all of it still.
    pub(super) fn extend_graces(&mut self, now: Instant) {
        let Some(outage) = self.contact.outage_until(now) else { return };
        for (id, grace) in &mut self.graces {
            if let Some(entry) = self.snapshot.get(id).filter(|entry| outage >= entry.lease().ttl() / 3) {
                grace.until = now + entry.lease().ttl();
            }
        }
    }

    /// Removes `id` and says so.
    ///
    /// The tombstone that it leaves is at its own version: it was the last that was seen.
    pub(super) fn drop_entry(&mut self, id: &DataCenterId, why: Removal) {
        self.graces.remove(id);
        let void = self.void.remove(id);
        if let Some(entry) = self.snapshot.remove(id) {
            self.dirty = true;
            // A version from before a fresh start says nothing of those to come.
            if !void && self.tombstones.set(id, entry.record().version) {
                self.list_wanted = true;
            }
            self.events.push(TableEvent::Left { id: id.clone(), why });
        }
    }

    /// The store does not hold `id` any more, as of `version`.
    pub(super) fn gone(&mut self, id: &DataCenterId, version: Version, why: Removal, afresh: bool, now: Instant) {
        let Some(entry) = self.snapshot.get(id) else {
            self.list_wanted |= self.tombstones.set(id, version);
            return;
        };
        let said = why == Removal::Deregistered || entry.record().state == DataCenterState::Inactive;
        let spared = match entry.seen() {
            Seen::Grace => !said,
            Seen::Live => !said && (afresh || self.outage_excuses(entry, now)) && serves(entry),
            _ => false,
        };
        let in_grace = entry.seen() == Seen::Grace;
        self.list_wanted |= self.tombstones.set(id, version);
        match (spared, in_grace) {
            (true, true) => {
                if let Some(grace) = self.graces.get_mut(id) {
                    grace.still_listed = false;
                }
            }
            (true, false) => self.grant_grace(id, false, now),
            (false, _) => {
                let why = if in_grace && why == Removal::Unknown { Removal::Expired } else { why };
                self.drop_entry(id, why);
                self.tombstones.set(id, version);
            }
        }
    }

    /// Its lease has ended here and the store, heard from after that, showed no renewal (C2).
    pub(super) fn expire(&mut self, id: &DataCenterId, now: Instant) {
        let Some(entry) = self.snapshot.get(id).filter(|entry| entry.seen() == Seen::Live) else { return };
        // Renewals show as new versions, and none of any record was seen for a whole lease: it is
        // the store that stands still, or this reader's way to it.
        let standstill = !self.traits.renewal_keeps_version
            && self.high.is_some_and(|(_, rose)| now.saturating_duration_since(rose) >= entry.lease().ttl());
        if serves(entry) && (standstill || self.outage_excuses(entry, now)) {
            self.grant_grace(id, true, now);
            return;
        }
        self.set_expired(id);
    }

    fn set_expired(&mut self, id: &DataCenterId) {
        let Some(entry) = self.snapshot.get(id) else { return };
        let expired = entry.as_seen(Seen::Expired);
        self.write(expired);
        self.events.push(TableEvent::Expired { id: id.clone() });
    }

    /// Whether an outage may have kept its leader from renewing. The heartbeat interval is at most a third of the
    /// lease (D5): a shorter outage cost it one renewal of three at most.
    ///
    /// An outage before its last proof of life excuses nothing, where that proof was a renewal. Where renewals keep the
    /// version it may have been no more than what was left of the lease when the store came back, while the leader
    /// still waits before it tries again: there an outage counts for one lease after its end, which is what it has left.
    fn outage_excuses(&self, entry: &Entry, now: Instant) -> bool {
        let lease = entry.lease();
        let hidden = self.traits.renewal_keeps_version;
        let outage = self.contact.longest_outage(|end| end > lease.since() || (hidden && end + lease.ttl() >= now));
        outage.is_some_and(|outage| outage >= lease.ttl() / 3)
    }

    fn grant_grace(&mut self, id: &DataCenterId, still_listed: bool, now: Instant) {
        let Some(entry) = self.snapshot.get(id) else { return };
        let left = entry.lease().ttl();
        let spared = entry.as_seen(Seen::Grace);
        self.graces.insert(id.clone(), Grace { until: now + left, still_listed });
        self.sweep_by(now + left + self.traits.proof_lag);
        self.write(spared);
        self.events.push(TableEvent::Grace { id: id.clone(), left });
    }

    /// `id` was proved alive at `at`, at the version that is held.
    pub(super) fn renew(&mut self, id: &DataCenterId, at: Instant) {
        let Some(entry) = self.snapshot.get(id) else { return };
        let lease = Lease::new(entry.lease().since().max(at), entry.record().ttl);
        let revived = entry.seen() != Seen::Live;
        let renewed = entry.renewed(lease);
        if revived {
            self.graces.remove(id);
            self.tombstones.forget(id);
            self.events.push(TableEvent::Revived { id: id.clone() });
        }
        self.write(renewed);
    }
}

/// Whether there is anything to be spared: its state and intent let traffic through.
fn serves(entry: &Entry) -> bool {
    routability(entry.record().state, entry.wanted()) >= Routability::Traffic
}
