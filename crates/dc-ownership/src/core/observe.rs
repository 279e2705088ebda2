//! Sessions of others, as they are seen.

use std::time::{Duration, Instant};

use dc_core::Version;

use super::{Core, Effect, timers::Timer};
use crate::{
    documents::{SessionDocument, Unit},
    event::{Change, Standing},
    ids::SessionId,
    options::MAX_TTL,
    session::Holder,
};

/// A session, as seen.
#[derive(Debug)]
pub(super) struct Seen {
    id: SessionId,
    /// `None` where the store has, or shows, nothing of it.
    pub(super) version: Option<Version>,
    /// What it said last.
    pub(super) document: Option<SessionDocument>,
    /// Its TTL, as it or an entry that names it has told; 0 where none has.
    ttl_ms: u64,
    /// On this node's clock, when it was last seen to change; vanishing is a change.
    pub(super) since: Instant,
    /// When a tombstone of it was first seen here, proved or not.
    pub(super) grave: Option<Instant>,
    /// When it was known here to be over: its tombstone is proved, or a TTL has passed since it was seen.
    pub(super) buried: Option<Instant>,
    /// When it last showed a sign of life.
    pub(super) alive: Option<Instant>,
    pub(super) silent: bool,
    pub(super) burying: bool,
    pub(super) retry_at: Instant,
    pub(super) failures: u32,
}

impl Seen {
    fn absent(id: SessionId, now: Instant) -> Self {
        Self {
            id,
            version: None,
            document: None,
            ttl_ms: 0,
            since: now,
            grave: None,
            buried: None,
            alive: None,
            silent: false,
            burying: false,
            retry_at: now,
            failures: 0,
        }
    }

    /// Where it is, unless it is known to be gone.
    pub(super) fn holder(&self) -> Option<Holder> {
        let document = self.document.as_ref().filter(|_| self.version.is_some() && self.grave.is_none())?;
        Some(Holder {
            session: self.id,
            node: document.node,
            data_center: document.dc.id().clone(),
            endpoint: document.endpoint.clone(),
        })
    }

    /// Whether a tombstone of it was seen, or it is known to be over otherwise.
    pub(super) fn is_over(&self) -> bool {
        self.grave.is_some() || self.buried.is_some()
    }

    /// How long it may be silent, and its lease run on.
    pub(super) fn ttl(&self) -> Duration {
        // No node has a longer one, whatever an entry says.
        if self.ttl_ms > 0 { Duration::from_millis(self.ttl_ms).min(MAX_TTL) } else { MAX_TTL }
    }
}

impl Core {
    pub(super) fn session_seen(&mut self, id: SessionId, document: SessionDocument, version: Version, now: Instant) {
        self.raise_floor(document.floor, now);
        self.longest_ttl_ms = self.longest_ttl_ms.max(document.ttl_ms);
        let mine = self.own.id() == Some(id);
        let seen = self.sessions.entry(id).or_insert_with(|| Seen::absent(id, now));
        if seen.grave.is_some() {
            // A tombstone is never replaced: the store was set back, and its version will show it.
            return;
        }
        let before = seen.document.as_ref().map(|before| (before.taking, before.groups.len()));
        let news = before != Some((document.taking, document.groups.len())) || seen.version.is_none() || seen.silent;
        let ttl = Duration::from_millis(document.ttl_ms);
        seen.version = Some(version);
        seen.since = now;
        seen.alive = Some(now);
        seen.silent = false;
        seen.failures = 0;
        seen.ttl_ms = document.ttl_ms;
        seen.document = Some(document.clone());
        if news {
            self.live_stale = true;
            self.out.dirty_sessions = true;
            self.wake_orphans(now);
        }
        if mine {
            self.own_seen(&document, version, now);
        } else {
            self.timers.at(now + ttl, Timer::Unit(Unit::Session(id)));
        }
    }

    /// What is stored of a session cannot be read: a later version's, or garbage. Whoever writes it lives as long as it
    /// changes, and it is buried by the version that was watched, as any other.
    pub(super) fn session_unreadable(&mut self, id: SessionId, version: Version, now: Instant) {
        let seen = self.sessions.entry(id).or_insert_with(|| Seen::absent(id, now));
        if seen.grave.is_some() {
            return;
        }
        seen.version = Some(version);
        seen.document = None;
        seen.since = now;
        seen.silent = false;
        seen.failures = 0;
        self.timers.at(now + seen.ttl(), Timer::Unit(Unit::Session(id)));
        self.live_stale = true;
        self.out.dirty_sessions = true;
        if self.own.id() == Some(id) {
            self.lose_session("others have written over it what cannot be read", now);
        }
    }

    pub(super) fn session_buried(&mut self, id: SessionId, proved: bool, version: Version, now: Instant) {
        let mine = self.own.id() == Some(id);
        let seen = self.sessions.entry(id).or_insert_with(|| Seen::absent(id, now));
        seen.version = Some(version);
        seen.since = now;
        let first = seen.grave.is_none();
        seen.grave.get_or_insert(now);
        if proved {
            seen.buried.get_or_insert(now);
        }
        self.timers.at(now, Timer::Unit(Unit::Session(id)));
        self.over.remove(&id);
        self.live_stale = true;
        self.out.dirty_sessions = true;
        if first {
            self.tell_ownerless(id);
        }
        if mine {
            self.lose_session("others have put a tombstone in its place", now);
            self.over.remove(&id);
        }
        for unit in self.named.get(&id).into_iter().flatten() {
            self.timers.at(now, Timer::Unit(unit.clone()));
        }
        self.finish_stop(id);
    }

    pub(super) fn session_gone(&mut self, id: SessionId, now: Instant) {
        if self.own.id() == Some(id) {
            self.lose_session("the store has it no more", now);
        }
        self.over.remove(&id);
        self.finish_stop(id);
        let Some(seen) = self.sessions.get_mut(&id) else { return };
        if seen.version.take().is_none() {
            return;
        }
        seen.since = now;
        seen.grave = None;
        seen.buried = None;
        self.live_stale = true;
        self.out.dirty_sessions = true;
        self.timers.at(now, Timer::Unit(Unit::Session(id)));
    }

    /// An entry names a session: it is watched from now on, whether the store has it or not.
    pub(super) fn name_session(&mut self, id: SessionId, ttl_ms: u64, unit: &Unit, now: Instant) {
        self.longest_ttl_ms = self.longest_ttl_ms.max(ttl_ms);
        self.named.entry(id).or_default().insert(unit.clone());
        let known = self.sessions.contains_key(&id);
        let seen = self.sessions.entry(id).or_insert_with(|| Seen::absent(id, now));
        let told = seen.document.is_none() && ttl_ms > seen.ttl_ms;
        if told {
            seen.ttl_ms = ttl_ms;
        }
        // What its tombstone was to be waited for was too long, as long as nothing was known of it.
        if !known || told {
            self.timers.at(now, Timer::Unit(Unit::Session(id)));
        }
    }

    pub(super) fn unname_session(&mut self, id: SessionId, unit: &Unit) {
        if let Some(units) = self.named.get_mut(&id) {
            units.remove(unit);
            if units.is_empty() {
                self.named.remove(&id);
                if self.sessions.get(&id).is_some_and(|seen| seen.version.is_none()) {
                    self.sessions.remove(&id);
                }
            }
        }
    }

    /// A session's TTL in milliseconds, to be told beside it; 0 where it is not known.
    pub(super) fn ttl_of(&self, id: SessionId) -> u64 {
        if self.own.id() == Some(id) {
            return u64::try_from(self.options.ttl().as_millis()).unwrap_or(u64::MAX);
        }
        self.sessions.get(&id).map_or(0, |seen| seen.ttl_ms)
    }

    /// Whether a session's tombstone was seen, and when.
    pub(super) fn buried_at(&self, id: SessionId) -> Option<Instant> {
        self.sessions.get(&id)?.buried
    }

    fn tell_ownerless(&mut self, id: SessionId) {
        let units: Vec<Unit> = self.named.get(&id).into_iter().flatten().cloned().collect();
        for unit in units {
            for (thing, owner) in self.entries_of(&unit) {
                if owner.session == id {
                    let to = Standing::Ownerless(owner.data_center.clone());
                    self.out.effects.push(Effect::Changed(Change { thing, from: Some(owner.epoch), to }));
                }
            }
        }
    }

    pub(super) fn wake_orphans(&mut self, now: Instant) {
        for unit in &self.orphans {
            self.timers.at(now, Timer::Unit(unit.clone()));
        }
    }

    /// Looks at everything again: this node may claim from now on.
    pub(super) fn wake_all(&mut self, now: Instant) {
        let groups = self.slots.keys().map(|(group, number)| Unit::Slots(*group, *number));
        let names = self.names.keys().map(|name| Unit::Name(name.clone()));
        let sessions = self.sessions.keys().map(|id| Unit::Session(*id));
        let kinds = self.kinds.keys().map(|kind| Unit::Kind(kind.clone()));
        for unit in groups.chain(names).chain(sessions).chain(kinds) {
            self.timers.at(now, Timer::Unit(unit));
        }
    }
}
