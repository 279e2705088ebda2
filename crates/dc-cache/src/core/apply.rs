//! What a list or an event changes (C3, C6).

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use dc_controlplane::{Corrupt, HeldIntent, Listing, Removal, codec};
use dc_core::{DataCenterId, DataCenterRecord, Entry, Intent, IntentKind, Lease, Seen, Version};

use super::{Core, ListTicket, Listed, Replay, Traits, life::lease_end};
use crate::TableEvent;

/// What cannot be decoded is remembered, so as not to be told again, up to so many keys.
const SKIPPED: usize = 1_024;

/// How a complete view of the store relates to the table.
enum Standing {
    /// Of the same incarnation, and not older than what was delivered.
    Later,
    /// Older than what was delivered, which reads that are not linearizable may be.
    Behind,
    /// Of another incarnation, or of one that was set back.
    Afresh,
}

impl Core {
    /// The answer to a list that was asked with `ticket`.
    pub fn listed(&mut self, ticket: ListTicket, listing: Listing, traits: Traits, now: Instant) -> Listed {
        self.traits = traits;
        self.contact.heard(now);
        let Listing { as_of, records, intents, skipped } = listing;
        let afresh = match self.standing(ticket, as_of, now) {
            Standing::Behind => {
                self.list_wanted = true;
                return Listed::Behind;
            }
            Standing::Later => false,
            Standing::Afresh => {
                self.start_afresh(as_of, now);
                true
            }
        };
        self.delivered(as_of, now);
        let Unreadable { records: mut seen, intents: mut said } = self.skip_all(skipped);
        for id in &said {
            self.hold_unreadable(id, as_of, afresh);
        }
        for held in intents {
            said.insert(held.id.clone());
            self.intend(held, afresh);
        }
        for record in records {
            seen.insert(record.id().clone());
            self.listed_record(record, as_of, ticket.begun, now);
        }
        self.expire_unreadable(&seen, ticket.begun, now);
        self.drop_missing(&seen, &said, as_of, afresh, now);
        self.completed(as_of);
        self.proved(ticket.begun, now);
        Listed::InStep
    }

    fn standing(&mut self, ticket: ListTicket, as_of: Version, now: Instant) -> Standing {
        let Some(store) = self.snapshot.store() else { return Standing::Later };
        if store != as_of.store {
            return Standing::Afresh;
        }
        let behind = ticket.high.is_some_and(|high| high.store == as_of.store && as_of.revision < high.revision);
        if !behind {
            self.behind_since = None;
            return Standing::Later;
        }
        if self.traits.linearizable_reads {
            return Standing::Afresh;
        }
        let since = *self.behind_since.get_or_insert(now);
        if now.saturating_duration_since(since) > self.contact.max_staleness() {
            return Standing::Afresh;
        }
        Standing::Behind
    }

    /// Another store, or one that was set back: versions that were seen mean nothing any more (C3).
    fn start_afresh(&mut self, as_of: Version, now: Instant) {
        let from = self.snapshot.store().unwrap_or(as_of.store);
        self.events.push(TableEvent::StoreChanged { from, to: as_of.store });
        self.snapshot.set_store(Some(as_of.store));
        self.void = self.snapshot.iter().map(|entry| entry.id().clone()).collect();
        self.tombstones.clear();
        self.complete = None;
        self.high = Some((as_of, now));
        self.behind_since = None;
        // The open watch, if there is one, replays the store that is no more.
        self.replay = None;
        self.watching = false;
        self.rewatch = true;
        self.dirty = true;
    }

    fn listed_record(&mut self, record: DataCenterRecord, as_of: Version, at: Instant, now: Instant) {
        let (id, version) = (record.id().clone(), record.version);
        if self.is_known_dead(&id, version, as_of) {
            return;
        }
        let Some(held) = self.snapshot.get(&id) else {
            self.join(record, at);
            return;
        };
        let held_version = held.record().version;
        if self.replaces(&id, version) {
            self.replace(record, at);
        } else if version == held_version {
            if self.traits.linearizable_reads {
                self.renew(&id, at);
            } else if self.was_over(lease_end(held), at) {
                self.expire(&id, now);
            }
        }
    }

    /// Whether a list as of `as_of` that contains `id` at `version` tells nothing but what is over already.
    ///
    /// Where reads are linearizable, being contained is proof of life unless a removal is newer than the record, or
    /// the list older than a view that lacked it. Where they may be stale only a version not seen before is (C2): what
    /// was removed or expired at this version, or was lacking in a view as new as it, stays gone (C3).
    fn is_known_dead(&self, id: &DataCenterId, version: Version, as_of: Version) -> bool {
        if !self.traits.linearizable_reads {
            return self.tombstones.covers(id, version) || self.is_late(id, version);
        }
        let outdated = self.complete.is_some_and(|complete| newer(complete, as_of));
        self.tombstones.is_after(id, version) || (outdated && self.is_late(id, version))
    }

    /// A record whose key holds garbage now is not there to be renewed; it goes when its lease has ended.
    fn expire_unreadable(&mut self, seen: &BTreeSet<DataCenterId>, at: Instant, now: Instant) {
        let unreadable = |id: &&DataCenterId| seen.contains(*id) && self.skipped.keys().any(|key| names(key, id));
        let ended: Vec<_> = self
            .snapshot
            .iter()
            .filter(|entry| !self.skipped.is_empty() && self.was_over(lease_end(entry), at))
            .map(|entry| entry.id())
            .filter(unreadable)
            .cloned()
            .collect();
        for id in ended {
            self.expire(&id, now);
        }
    }

    /// What a complete view of `as_of` lacks is gone, if it is not newer than the view (P6).
    fn drop_missing(
        &mut self,
        records: &BTreeSet<DataCenterId>,
        intents: &BTreeSet<DataCenterId>,
        as_of: Version,
        afresh: bool,
        now: Instant,
    ) {
        let old = |version: Version| afresh || !newer(version, as_of);
        let missing: Vec<_> = self
            .snapshot
            .iter()
            .filter(|entry| !records.contains(entry.id()))
            .filter(|entry| old(entry.record().version) || self.void.contains(entry.id()))
            .map(|entry| entry.id().clone())
            .collect();
        for id in missing {
            self.gone(&id, as_of, Removal::Unknown, afresh, now);
        }
        let unsaid: Vec<_> = self
            .intents
            .iter()
            .filter(|(id, (_, version))| !intents.contains(*id) && old(*version))
            .map(|(id, _)| id.clone())
            .collect();
        for id in unsaid {
            self.intents.remove(&id);
            // What is spared while the store has forgotten it keeps the stricter word.
            let spared = self.snapshot.get(&id).is_some_and(|entry| entry.seen() == Seen::Grace);
            if !spared {
                self.set_intent(&id, None);
            }
        }
    }

    /// A complete view was taken in. One of the same version counts anew: what it removed has left tombstones, which
    /// would outlive the next view that shows it, as renewals need not raise the version.
    fn completed(&mut self, as_of: Version) {
        if self.complete.is_none_or(|complete| !newer(complete, as_of)) {
            self.complete = Some(as_of);
            self.tombstones.complete(as_of);
        }
    }

    /// Whether `version` of a known datacenter takes the place of the one that is held.
    fn replaces(&self, id: &DataCenterId, version: Version) -> bool {
        self.void.contains(id) || self.snapshot.get(id).is_some_and(|held| newer(version, held.record().version))
    }

    /// Whether news of `id` at `version` is late: the last complete view, which is not older, lacked it.
    fn is_late(&self, id: &DataCenterId, version: Version) -> bool {
        let lacked = self.snapshot.get(id).is_none_or(|held| held.seen() == Seen::Grace);
        lacked && self.is_known_gone(version)
    }

    /// Whether `version` is not newer than the last complete view.
    fn is_known_gone(&self, version: Version) -> bool {
        self.complete.is_some_and(|complete| complete.store == version.store && !newer(version, complete))
    }

    pub(super) fn put(&mut self, record: DataCenterRecord, now: Instant) {
        let (id, version) = (record.id().clone(), record.version);
        if !self.delivered(version, now) {
            return;
        }
        if let Some(replay) = &mut self.replay {
            replay.records.insert(id.clone());
        }
        if self.tombstones.covers(&id, version) || self.is_late(&id, version) {
            return;
        }
        match self.snapshot.get(&id) {
            None => self.join(record, now),
            Some(_) if self.replaces(&id, version) => self.replace(record, now),
            Some(_) => {}
        }
    }

    pub(super) fn removed(&mut self, id: &DataCenterId, version: Version, why: Removal, now: Instant) {
        if !self.delivered(version, now) {
            return;
        }
        if let Some(replay) = &mut self.replay {
            replay.records.remove(id);
        }
        let late = self.snapshot.get(id).is_some_and(|held| newer(held.record().version, version));
        if late && !self.void.contains(id) {
            return;
        }
        self.gone(id, version, why, false, now);
    }

    pub(super) fn intended(&mut self, held: HeldIntent, now: Instant) {
        if !self.delivered(held.version, now) {
            return;
        }
        if let Some(replay) = &mut self.replay {
            replay.intents.insert(held.id.clone());
        }
        if self.intents.contains_key(&held.id) || !self.is_known_gone(held.version) {
            self.intend(held, false);
        }
    }

    pub(super) fn replayed(&mut self, as_of: Version, now: Instant) {
        let Some(Replay { begun, high, records, mut intents, unreadable }) = self.replay.take() else { return };
        if !self.delivered(as_of, now) {
            return;
        }
        for id in unreadable {
            self.hold_unreadable(&id, as_of, false);
            intents.insert(id);
        }
        self.watching = true;
        self.drop_missing(&records, &intents, as_of, false, now);
        self.completed(as_of);
        if high.is_some_and(|high| high.store == as_of.store && newer(high, as_of)) {
            // Older than what was delivered before it was opened: a list tells whether the store was set back.
            self.list_wanted = true;
        } else {
            self.proved(begun, now);
        }
    }

    fn intend(&mut self, held: HeldIntent, afresh: bool) {
        let HeldIntent { id, intent, version } = held;
        let late = self.intents.get(&id).is_some_and(|(_, seen)| !newer(version, *seen));
        if late && !afresh {
            return;
        }
        let intent = Arc::new(intent);
        self.intents.insert(id.clone(), (Arc::clone(&intent), version));
        self.set_intent(&id, Some((intent, version)));
    }

    /// There is a word of the operator's on `id` that cannot be read: the one that is known stands (P8). Where none is,
    /// it is taken for a drain, as an operator says something only to keep something away. Any that can be read is newer.
    fn hold_unreadable(&mut self, id: &DataCenterId, as_of: Version, afresh: bool) {
        let version = Version::new(as_of.store, 0);
        match self.intents.get_mut(id) {
            Some((_, held)) if afresh => *held = version,
            Some(_) => {}
            None => {
                let intent = Intent::new(IntentKind::Drain, "nobody", "the stored intent cannot be read");
                self.intend(HeldIntent { id: id.clone(), intent, version }, false);
            }
        }
    }

    fn set_intent(&mut self, id: &DataCenterId, intent: Option<(Arc<Intent>, Version)>) {
        let said = intent.as_ref().map(|(intent, _)| Arc::clone(intent));
        if let Some(entry) = self.snapshot.get(id) {
            let same = entry.intent() == said.as_ref();
            let changed = entry.with_intent(intent);
            self.write(changed);
            if same {
                return;
            }
        }
        self.events.push(TableEvent::IntentChanged { id: id.clone(), intent: said });
    }

    fn intent_of(&self, id: &DataCenterId) -> Option<(Arc<Intent>, Version)> {
        self.intents.get(id).cloned()
    }

    fn join(&mut self, record: DataCenterRecord, at: Instant) {
        let id = record.id().clone();
        self.tombstones.forget(&id);
        self.events.push(TableEvent::Joined { id: id.clone(), state: record.state });
        let lease = Lease::new(at, record.ttl);
        let intent = self.intent_of(&id);
        self.write(Entry::new(Arc::new(record), intent, lease, Seen::Live));
    }

    /// A version not seen before: proof of life (C2).
    fn replace(&mut self, record: DataCenterRecord, at: Instant) {
        let id = record.id().clone();
        let Some(held) = self.snapshot.get(&id).map(Arc::clone) else { return };
        self.tombstones.forget(&id);
        self.graces.remove(&id);
        self.void.remove(&id);
        if held.seen() != Seen::Live {
            self.events.push(TableEvent::Revived { id: id.clone() });
        }
        if held.record().state != record.state {
            let (from, to) = (held.record().state, record.state);
            self.events.push(TableEvent::StateChanged { id: id.clone(), from, to });
        }
        if held.record().endpoints != record.endpoints {
            self.events.push(TableEvent::EndpointsChanged { id: id.clone() });
        }
        let lease = Lease::new(held.lease().since().max(at), record.ttl);
        let intent = self.intent_of(&id);
        self.write(Entry::new(Arc::new(record), intent, lease, Seen::Live));
    }

    /// The watch came upon what cannot be decoded.
    pub(super) fn skipped(&mut self, corrupt: Corrupt) {
        // It is there, if unreadable.
        let intent = id_in(codec::INTENTS, &corrupt.key);
        if let Some(replay) = &mut self.replay {
            replay.records.extend(id_in(codec::RECORDS, &corrupt.key));
            replay.unreadable.extend(intent);
        } else if let (Some(id), Some(store)) = (intent, self.snapshot.store()) {
            self.hold_unreadable(&id, Version::new(store, 0), false);
        }
        self.skip(corrupt);
    }

    /// Reports what cannot be decoded, once for each cause.
    fn skip(&mut self, corrupt: Corrupt) {
        if self.skipped.get(&corrupt.key) != Some(&corrupt.why) {
            if self.skipped.len() < SKIPPED {
                self.skipped.insert(corrupt.key.clone(), corrupt.why.clone());
            }
            self.events.push(TableEvent::Skipped(corrupt));
        }
    }

    /// Takes note of all that a list could not decode; which known datacenters' records are among it, and whose intents.
    fn skip_all(&mut self, skipped: Vec<Corrupt>) -> Unreadable {
        let mut told = std::mem::take(&mut self.skipped);
        let mut unreadable = Unreadable::default();
        for corrupt in skipped {
            let known = |id: &DataCenterId| self.snapshot.get(id).is_some();
            unreadable.records.extend(id_in(codec::RECORDS, &corrupt.key).filter(known));
            unreadable.intents.extend(id_in(codec::INTENTS, &corrupt.key));
            // Told once, until it is mended or breaks in another way.
            if let Some(why) = told.remove(&corrupt.key) {
                self.skipped.insert(corrupt.key.clone(), why);
            }
            self.skip(corrupt);
        }
        unreadable
    }
}

/// The datacenters of which a list holds something that cannot be decoded.
#[derive(Default)]
struct Unreadable {
    records: BTreeSet<DataCenterId>,
    intents: BTreeSet<DataCenterId>,
}

/// Whether `a` is of `b`'s store and later.
fn newer(a: Version, b: Version) -> bool {
    a.store == b.store && a.revision > b.revision
}

/// The datacenter whose record or intent (by `prefix`) is stored under `key`, whatever the backend puts before it.
fn id_in(prefix: &str, key: &str) -> Option<DataCenterId> {
    // A region may be named like the other prefix: the first of the two tells what it is.
    let at = [codec::RECORDS, codec::INTENTS].into_iter().filter_map(|prefix| key.find(prefix)).min()?;
    codec::id_of_key(prefix, &key[at..]).ok()
}

fn names(key: &str, id: &DataCenterId) -> bool {
    id_in(codec::RECORDS, key).as_ref() == Some(id)
}
