//! This node's own session: opened, renewed, lost.

use std::time::{Duration, Instant};

use dc_controlplane::ownership::Keep;
use dc_core::{Epoch, Version};
use rand::RngExt;

use super::{Core, Effect, OrderOut, Outcome, Plant, Written, requests::Purpose, timers::Timer};
use crate::{
    documents::{SessionDocument, Unit},
    drain::DrainEnd,
    event::OwnershipEvent,
    ids::SessionId,
    policy::Strictness,
    session::Holder,
    title::Lease,
};

#[derive(Debug)]
pub(super) enum Own {
    None { retry_at: Instant },
    Opening(Opening),
    Open(Open),
}

/// A write of the session that was sent and not yet seen.
#[derive(Debug)]
struct Sent {
    nonce: u64,
    at: Instant,
    /// Claims that were known to be made when it was sent: it proves that they still stand.
    claims: u64,
}

#[derive(Debug)]
pub(super) struct Opening {
    id: SessionId,
    sent: Vec<Sent>,
    in_flight: bool,
    retry_at: Instant,
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) id: SessionId,
    pub(super) lease: Lease,
    /// When it was opened, or came back after its lease had ended.
    since: Instant,
    version: Version,
    n: u64,
    sent: Vec<Sent>,
    in_flight: bool,
    next: Instant,
    wanted: bool,
    /// The lease is over, and only what goes on without it (`Available`) is left; it may still be renewed.
    pub(super) limbo: bool,
}

impl Open {
    pub(super) fn may_claim(&self) -> bool {
        !self.limbo && self.lease.runs()
    }
}

impl Own {
    pub(super) fn open(&self) -> Option<&Open> {
        match self {
            Self::Open(open) => Some(open),
            Self::None { .. } | Self::Opening(_) => None,
        }
    }

    pub(super) fn id(&self) -> Option<SessionId> {
        match self {
            Self::None { .. } => None,
            Self::Opening(opening) => Some(opening.id),
            Self::Open(open) => Some(open.id),
        }
    }
}

impl Core {
    /// Opens or renews, if that is due.
    pub(super) fn run_own(&mut self, now: Instant) {
        match &mut self.own {
            Own::None { retry_at } if *retry_at > now => self.timers.at(*retry_at, Timer::Own),
            Own::None { .. } if self.stopping.is_some() => {}
            Own::None { .. } => {
                let id = SessionId(self.rng.random());
                self.own = Own::Opening(Opening { id, sent: Vec::new(), in_flight: false, retry_at: now });
                self.send_own(now);
            }
            Own::Opening(opening) if opening.in_flight => {}
            Own::Opening(opening) if opening.retry_at > now => self.timers.at(opening.retry_at, Timer::Own),
            Own::Opening(_) => self.send_own(now),
            Own::Open(open) => {
                if let Some(deadline) = open.lease.deadline()
                    && !open.limbo
                {
                    self.timers.at(deadline, Timer::Own);
                }
                if open.in_flight {
                } else if open.wanted || open.next <= now {
                    self.send_own(now);
                } else {
                    self.timers.at(open.next, Timer::Own);
                }
            }
        }
    }

    fn send_own(&mut self, now: Instant) {
        let nonce = self.nonce();
        let me = &self.me;
        let ttl_ms = u64::try_from(self.options.ttl().as_millis()).unwrap_or(u64::MAX);
        let mut document = SessionDocument::new(me.node, me.data_center.clone(), me.endpoint.clone(), ttl_ms);
        document.nonce = nonce;
        document.taking = self.takes();
        document.groups = self.groups.keys().copied().collect();
        document.floor = self.floor;
        let sent = Sent { nonce, at: now, claims: self.claims_seen };
        let (id, expected) = match &mut self.own {
            Own::None { .. } => return,
            Own::Opening(opening) => {
                opening.in_flight = true;
                opening.sent.push(sent);
                (opening.id, None)
            }
            Own::Open(open) => {
                open.in_flight = true;
                open.wanted = false;
                open.next = now + self.options.renew_every();
                document.n = open.n + 1;
                open.sent.push(sent);
                (open.id, Some(open.version))
            }
        };
        let keep = Keep::For(self.options.ttl() * 2);
        self.write(Unit::Session(id), expected, document.write(), keep, Purpose::Session(id));
    }

    /// This node's own session was seen in the store. Whatever shows it, its nonce says which write was accepted.
    pub(super) fn own_seen(&mut self, document: &SessionDocument, version: Version, now: Instant) {
        let ttl = self.options.ttl();
        let plant = self.plants(Plant::SkipMargin);
        let lasts = if plant { ttl } else { ttl - self.options.margin() };
        let counted_from = |sent: Instant| if plant { now } else { sent };
        match &mut self.own {
            Own::None { .. } => {}
            Own::Opening(opening) => {
                let id = opening.id;
                let Some(sent) = opening.sent.iter().find(|sent| sent.nonce == document.nonce) else { return };
                let deadline = counted_from(sent.at) + lasts;
                if deadline <= now {
                    // Too late to be of use, and too late to be forgotten: others must not wait for it.
                    self.over.insert(id);
                    self.timers.at(now, Timer::Unit(Unit::Session(id)));
                    self.own = Own::None { retry_at: now };
                    self.timers.at(now, Timer::Own);
                    return;
                }
                let lease = Lease::new(id, std::sync::Arc::clone(&self.clock), deadline);
                let next = sent.at + self.options.renew_every();
                let (in_flight, n) = (opening.in_flight, document.n);
                let (sent, wanted, limbo) = (Vec::new(), false, false);
                let (since, lease_here) = (now, lease.clone());
                self.own =
                    Own::Open(Open { id, lease: lease_here, since, version, n, sent, in_flight, next, wanted, limbo });
                self.stats.sessions += 1;
                let holder = Holder {
                    session: id,
                    node: self.me.node,
                    data_center: self.me.data_center.id().clone(),
                    endpoint: self.me.endpoint.clone(),
                };
                self.live_stale = true;
                self.out.effects.push(Effect::Present(Some((lease, holder))));
                self.event(OwnershipEvent::SessionOpened { session: id });
                self.given_while_opening(id, now);
                self.check_ready(now);
            }
            Own::Open(open) => {
                let Some(at) = open.sent.iter().position(|sent| sent.nonce == document.nonce) else {
                    self.lose_session("somebody else has written it", now);
                    return;
                };
                let claims = open.sent[at].claims;
                open.lease.renew(counted_from(open.sent[at].at) + lasts);
                open.sent.drain(..=at);
                open.version = version;
                open.n = document.n;
                self.stats.renewals += 1;
                if open.limbo && open.lease.runs() {
                    open.limbo = false;
                    open.since = now;
                    self.live_stale = true;
                    self.wake_all(now);
                }
                self.confirm(claims, now);
            }
        }
        self.timers.at(now, Timer::Own);
    }

    /// Others could see the session before this node knew that it is open, and may have given it something.
    fn given_while_opening(&mut self, id: SessionId, now: Instant) {
        let units: Vec<Unit> = self.named.get(&id).into_iter().flatten().cloned().collect();
        for unit in units {
            for (thing, owner) in self.entries_of(&unit) {
                if owner.session == id {
                    self.reconcile(&thing, Some(&owner), false, now);
                }
            }
        }
    }

    /// A write of the session was answered; what it showed was seen already.
    pub(super) fn own_written(&mut self, id: SessionId, answer: &Written, now: Instant) {
        if self.own.id() != Some(id) {
            return;
        }
        let retry_at = now + self.options.renew_every().mul_f64(self.rng.random_range(0.1..0.2));
        match &mut self.own {
            Own::None { .. } => {}
            Own::Opening(opening) => {
                opening.in_flight = false;
                opening.retry_at = retry_at;
                if matches!(answer, Written::Refused(_)) {
                    // Somebody else's tombstone, or garbage, under a fresh random id: take another.
                    self.own = Own::None { retry_at };
                }
            }
            Own::Open(open) => {
                open.in_flight = false;
                match answer {
                    Written::Refused(Some(_)) => {
                        // It was an own write whose answer was lost: anything else has ended the session.
                        self.stats.lost_answers += 1;
                        open.next = now;
                    }
                    Written::Refused(None) => self.lose_session("the store has it no more", now),
                    Written::Failed(Outcome::Unchanged | Outcome::Unknown) => {
                        open.next = open.next.min(retry_at);
                        if open.next <= now {
                            open.next = retry_at;
                        }
                    }
                    Written::Done(_) | Written::Read(_) => {}
                }
            }
        }
        self.timers.at(now, Timer::Own);
    }

    /// A renewal soon: something waits for it.
    pub(super) fn want_renewal(&mut self, now: Instant) {
        if let Own::Open(open) = &mut self.own {
            open.wanted = true;
            self.timers.at(now, Timer::Own);
        }
    }

    /// Ends what the lease has ended for. The first thing that is done at each instant.
    pub(super) fn check_lease(&mut self, now: Instant) {
        let Own::Open(open) = &mut self.own else { return };
        if open.limbo || open.lease.deadline().is_some_and(|deadline| now < deadline) {
            return;
        }
        self.stats.lease_ends += 1;
        let (id, lasting) = (open.id, self.holds.values().any(|hold| hold.strictness() == Some(Strictness::Available)));
        if !lasting {
            self.lose_session("its lease ended before it was renewed", now);
            return;
        }
        if let Own::Open(open) = &mut self.own {
            open.limbo = true;
        }
        self.live_stale = true;
        self.order(OrderOut::SessionLost { session: id });
        self.event(OwnershipEvent::SessionLost { session: id, why: "its lease ended before it was renewed" });
        self.end_strict(now);
        self.end_drain(DrainEnd::SessionLost);
        self.timers.at(now, Timer::Own);
    }

    /// The session is over: everything ends, and the next one begins.
    pub(super) fn lose_session(&mut self, why: &'static str, now: Instant) {
        let id = match std::mem::replace(&mut self.own, Own::None { retry_at: now }) {
            Own::None { retry_at } => {
                self.own = Own::None { retry_at };
                return;
            }
            Own::Opening(opening) => opening.id,
            Own::Open(open) => {
                open.lease.end();
                self.stats.sessions_refused += u64::from(!why.contains("lease"));
                self.order(OrderOut::SessionLost { session: open.id });
                self.event(OwnershipEvent::SessionLost { session: open.id, why });
                self.out.effects.push(Effect::Present(None));
                open.id
            }
        };
        self.end_all(now);
        self.end_drain(DrainEnd::SessionLost);
        self.live_stale = true;
        // It has ended here: nobody needs to wait for its silence.
        self.over.insert(id);
        self.timers.at(now, Timer::Unit(Unit::Session(id)));
        let wait = Duration::from_millis(5) + self.options.step().mul_f64(self.rng.random_range(0.0..0.2));
        self.own = Own::None { retry_at: now + wait };
        self.timers.at(now + wait, Timer::Own);
    }

    /// Since when claims wait until this node is told what is wanted of it: what was known while it had no session may be
    /// no longer so (P8).
    pub fn waits_since(&self) -> Option<Instant> {
        let open = self.own.open().filter(|_| self.heeds)?;
        self.told.is_none_or(|told| told < open.since).then_some(open.since)
    }

    /// A floor that somebody else knows.
    pub(super) fn raise_floor(&mut self, floor: Epoch, now: Instant) {
        if floor > self.floor {
            self.floor = floor;
            self.want_renewal(now);
        }
    }
}
