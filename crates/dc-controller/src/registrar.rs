//! Who may write the record, and what to write next: decisions without I/O.
//!
//! Membership nominates, the record decides (D1): its owner stays registrar
//! while it lives, also when another node leads. The driver asks
//! [`Registrar::next`] what to do, does it, and feeds the answer back.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use dc_controlplane::{Error, Expected};
use dc_core::{
    DataCenter, DataCenterRecord, DataCenterState, DcView, Epoch, IntentKind, NodeEndpoint, NodeId, Owner, StoreId,
    Version,
};

use crate::{ControllerEvent, ControllerOptions, RegistrarStatus, Role, TakeOver};

/// Runs of members that are remembered, to tell a dead member from a stranger.
const MEMBERS_REMEMBERED: usize = 10_000;

/// What the driver is to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing until then, unless something changes.
    WaitUntil(Instant),
    /// Read the record and call [`Registrar::on_read`].
    Read,
    /// Write this record and call [`Registrar::on_written`].
    Write(Box<Write>),
    /// Renew this record and call [`Registrar::on_heartbeat`].
    Heartbeat(Box<DataCenterRecord>),
}

/// A write to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// What to write.
    pub record: DataCenterRecord,
    /// What must be stored for it to be accepted.
    pub expected: Expected,
    /// What it is for.
    pub cause: Cause,
}

/// What a write is for.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// The datacenter has no record.
    Create,
    /// The record's owner is gone.
    TakeOver {
        /// Who had it.
        from: Owner,
        /// Why it may be taken.
        why: TakeOver,
    },
    /// Endpoints, state or metadata changed.
    Update,
}

/// What was last read of a record that another node owns.
#[derive(Clone, Debug)]
struct Observed {
    record: DataCenterRecord,
    /// When this version was first seen, on this node's clock.
    since: Instant,
    /// How often its version was seen to change under this owner.
    changes: u32,
    /// When this owner's record was first seen.
    first_seen: Instant,
}

/// The record that this node owns.
#[derive(Clone, Debug)]
struct Held {
    record: DataCenterRecord,
    /// When the last accepted write was sent.
    renewed: Instant,
}

/// The registrar of one node.
#[derive(Debug)]
pub struct Registrar {
    options: ControllerOptions,
    data_center: DataCenter,
    me: Owner,
    /// Whether a renewal keeps the version: then only absence proves silence.
    renewal_keeps_version: bool,
    view: DcView,
    members_seen: HashSet<NodeId>,
    held: Option<Held>,
    observed: Option<Observed>,
    /// The store's version as of which there was no record.
    absent: Option<Version>,
    /// Epochs below this may have been used by records that are gone: the version at which ours was created.
    floor: Epoch,
    fenced: bool,
    /// It owned the record until that expired: it may register again, also where another node leads now.
    was_owner: bool,
    /// An owner that handed over and is still a member: it is no nominee any more.
    leaving: Option<NodeId>,
    highest_epoch: Epoch,
    /// The state that the record was last seen in.
    last_state: Option<DataCenterState>,
    intent: IntentKind,
    /// As of which version of the store that was what it said.
    intent_as_of: Option<Version>,
    owns_global: bool,
    next_heartbeat: Instant,
    next_read: Instant,
    retry_at: Option<Instant>,
    failures: u32,
    in_use_by: Option<Owner>,
    last_endpoints: Vec<NodeEndpoint>,
    events: Vec<ControllerEvent>,
}

impl Registrar {
    /// A registrar that has seen nothing yet.
    pub fn new(options: ControllerOptions, data_center: DataCenter, me: Owner, view: DcView, now: Instant) -> Self {
        let mut registrar = Self {
            options,
            data_center,
            me,
            renewal_keeps_version: false,
            view: DcView { joined: false, members: Vec::new(), ..view },
            members_seen: HashSet::new(),
            held: None,
            observed: None,
            absent: None,
            floor: Epoch(0),
            fenced: false,
            was_owner: false,
            leaving: None,
            highest_epoch: Epoch(0),
            last_state: None,
            intent: IntentKind::Serve,
            intent_as_of: None,
            owns_global: false,
            next_heartbeat: now,
            next_read: now,
            retry_at: None,
            failures: 0,
            in_use_by: None,
            last_endpoints: Vec::new(),
            events: Vec::new(),
        };
        registrar.on_view(view, now);
        registrar
    }

    /// Whether the backend renews without changing the version ([`Capabilities`](dc_controlplane::Capabilities)).
    pub fn set_renewal_keeps_version(&mut self, keeps: bool) {
        self.renewal_keeps_version = keeps;
    }

    /// Membership changed.
    pub fn on_view(&mut self, view: DcView, now: Instant) {
        if self.members_seen.len() > MEMBERS_REMEMBERED {
            // Years of churn: forget the oldest runs; what they owned is taken over by silence instead.
            self.members_seen.clear();
        }
        self.members_seen.extend(view.members.iter().map(|member| member.node));
        let endpoints: Vec<_> = view.members.iter().map(dc_core::Member::node_endpoint).collect();
        if !endpoints.is_empty() {
            self.last_endpoints = endpoints;
            self.last_endpoints.truncate(DataCenterRecord::MAX_ENDPOINTS);
        }
        self.view = view;
        self.next_read = now;
        self.retry_soon(now);
    }

    /// The operator's intent, as this node listed it: what stood in the store as of that version.
    pub fn on_intent(&mut self, intent: IntentKind, as_of: Version) {
        self.intent = intent;
        self.intent_as_of = Some(as_of);
    }

    /// The operator's intent, as the routing table shows it. A table may be behind what was listed, and show an older
    /// intent, or none yet: that undoes nothing (P8).
    pub fn on_intent_shown(&mut self, shown: Option<(IntentKind, Version)>) {
        match (shown, self.intent_as_of) {
            (Some((intent, version)), None) => self.on_intent(intent, version),
            (Some((intent, version)), Some(as_of)) if version > as_of => self.on_intent(intent, version),
            (None, None) => self.intent = IntentKind::Serve,
            (Some(_) | None, Some(_)) => {}
        }
    }

    /// The own record, as the routing table shows it: what a node that never read it knows of its state (D2).
    pub fn on_table(&mut self, record: &DataCenterRecord) {
        self.highest_epoch = self.highest_epoch.max(record.epoch);
        self.leaving = record.handed_over.then_some(record.owner.node);
        if self.held.is_none() {
            self.last_state = Some(record.state);
        }
    }

    /// Whether this datacenter still owns anything global: "out" waits for it (P8).
    pub fn set_owns_global(&mut self, owns: bool) {
        self.owns_global = owns;
    }

    /// Something about the own record was seen to change elsewhere: look at once.
    pub fn look_now(&mut self, now: Instant) {
        if self.held.is_none() {
            self.next_read = now;
            self.retry_soon(now);
        }
    }

    /// Something happened that may mean that the store is back: the pause need not be waited for.
    fn retry_soon(&mut self, now: Instant) {
        let soon = now + self.options.heartbeat_interval() / 10;
        self.retry_at = self.retry_at.map(|at| at.min(soon));
    }

    /// Whether this node is to write the record if nobody does: the oldest member that is not about to leave.
    fn is_nominee(&self) -> bool {
        let staying = self.view.members.iter().filter(|member| Some(member.node) != self.leaving);
        let oldest = staying.min_by_key(|member| (member.seniority, member.node));
        self.view.joined && oldest.is_some_and(|member| member.node == self.me.node)
    }

    /// What to do at `now`.
    pub fn next(&mut self, now: Instant) -> Step {
        if let Some(retry_at) = self.retry_at {
            if now < retry_at {
                return Step::WaitUntil(retry_at);
            }
            self.retry_at = None;
        }
        if let Some(held) = &self.held {
            return self.next_as_owner(held, now);
        }
        if !self.is_nominee() && !self.was_owner {
            return Step::WaitUntil(now + self.options.leader_check_interval());
        }
        if now >= self.next_read {
            return Step::Read;
        }
        self.claim(now).map_or(Step::WaitUntil(self.next_read), |write| Step::Write(Box::new(write)))
    }

    fn next_as_owner(&self, held: &Held, now: Instant) -> Step {
        let desired = self.desired(&held.record);
        let differs = !desired.same_content(&held.record);
        // A change that is refused again and again must not keep the lease from being renewed.
        if now >= self.next_heartbeat && (!differs || self.failures > 0) {
            return Step::Heartbeat(Box::new(held.record.clone()));
        }
        if differs {
            let expected = Expected::Version(held.record.version);
            return Step::Write(Box::new(Write { record: desired, expected, cause: Cause::Update }));
        }
        Step::WaitUntil(self.next_heartbeat)
    }

    /// The record as it should be, one legal state move at a time.
    fn desired(&self, held: &DataCenterRecord) -> DataCenterRecord {
        let mut record = held.clone();
        record.data_center = self.data_center.clone();
        record.ttl = self.options.lease_ttl();
        record.owner = self.me.clone();
        record.handed_over = false;
        record.epoch = held.epoch.max(self.floor);
        record.state = self.towards_intent(held.state);
        if !self.last_endpoints.is_empty() {
            record.endpoints = self.last_endpoints.clone();
        }
        record
    }

    fn towards_intent(&self, state: DataCenterState) -> DataCenterState {
        next_state(state, self.intent, self.owns_global)
    }

    /// As nominee: the write that would make this node the owner, if it may (D1).
    fn claim(&self, now: Instant) -> Option<Write> {
        let Some(observed) = &self.observed else {
            return self.absent.map(|as_of| Write {
                record: self.fresh(as_of),
                expected: Expected::Absent,
                cause: Cause::Create,
            });
        };
        let why = self.may_take(observed, now)?;
        let mut record = self.desired(&observed.record);
        record.epoch = observed.record.epoch.max(self.highest_epoch).next();
        // D2: the state is kept, so that a change of leader hides nothing; a state nobody here knows starts anew.
        if observed.record.state == DataCenterState::Unknown {
            record.state = DataCenterState::Registered;
        }
        let cause = Cause::TakeOver { from: observed.record.owner.clone(), why };
        Some(Write { record, expected: Expected::Version(observed.record.version), cause })
    }

    fn may_take(&self, observed: &Observed, now: Instant) -> Option<TakeOver> {
        let owner = &observed.record.owner;
        if observed.record.handed_over {
            return Some(TakeOver::HandedOver);
        }
        // Where a renewal keeps the version, an unchanged one says nothing: there, the record's absence is the silence.
        let unchanged = now.saturating_duration_since(observed.since);
        if !self.renewal_keeps_version && unchanged >= observed.record.ttl {
            return Some(TakeOver::Silent);
        }
        if self.fenced || self.view.member(owner.node).is_some() {
            return None;
        }
        if owner.endpoint == self.me.endpoint {
            return Some(TakeOver::OwnRestart);
        }
        self.members_seen.contains(&owner.node).then_some(TakeOver::OwnerDead)
    }

    /// A first record. No record outlives its store's versions, and each epoch is at most the version of the write
    /// that began it; so an epoch above the store's present version was never used, whoever used the others.
    fn fresh(&self, as_of: Version) -> DataCenterRecord {
        DataCenterRecord {
            data_center: self.data_center.clone(),
            endpoints: if self.last_endpoints.is_empty() {
                vec![NodeEndpoint::new(self.me.node, self.me.endpoint.clone())]
            } else {
                self.last_endpoints.clone()
            },
            // D2: what expired while the store was away comes back as it was, without hiding for a moment.
            state: self.last_state.map_or(DataCenterState::Registered, |state| self.towards_intent(state)),
            ttl: self.options.lease_ttl(),
            owner: self.me.clone(),
            epoch: self.highest_epoch.max(Epoch(as_of.revision)).next(),
            handed_over: false,
            written_at_ms: 0,
            version: Version::new(StoreId(0), 0),
            unknown: Default::default(),
        }
    }

    /// There is no record, as of this version of the store.
    pub fn on_absent(&mut self, as_of: Version, now: Instant) {
        self.succeeded();
        self.next_read = now + self.options.leader_check_interval();
        self.absent = Some(as_of);
        self.observed = None;
        self.in_use_by = None;
    }

    /// The record as the store showed it.
    pub fn on_read(&mut self, record: DataCenterRecord, now: Instant) {
        self.succeeded();
        self.next_read = now + self.options.leader_check_interval();
        self.absent = None;
        self.last_state = Some(record.state);
        self.highest_epoch = self.highest_epoch.max(record.epoch);
        if record.owner.node == self.me.node && !record.handed_over {
            // Our own write, whose answer was lost.
            self.hold(record, now);
            return;
        }
        self.observe(record, now);
    }

    fn observe(&mut self, record: DataCenterRecord, now: Instant) {
        self.was_owner = false;
        let stranger = !self.members_seen.contains(&record.owner.node) && record.owner.endpoint != self.me.endpoint;
        let (since, changes, first_seen) = match &self.observed {
            Some(seen) if seen.record.owner.node != record.owner.node => (now, 0, now),
            // There, presence is the proof of life: the store removes what is not renewed.
            Some(seen) if self.renewal_keeps_version => (now, seen.changes, seen.first_seen),
            Some(seen) if seen.record.version == record.version => (seen.since, seen.changes, seen.first_seen),
            Some(seen) => (now, seen.changes + 1, seen.first_seen),
            None => (now, 0, now),
        };
        let outlived = now.saturating_duration_since(first_seen) > record.ttl * 2;
        let alive = changes >= 2 || (self.renewal_keeps_version && outlived);
        if stranger && alive && !record.handed_over && self.in_use_by.as_ref() != Some(&record.owner) {
            self.in_use_by = Some(record.owner.clone());
            self.events.push(ControllerEvent::DataCenterIdInUse {
                id: self.data_center.id().clone(),
                by: record.owner.clone(),
            });
        } else if !stranger {
            self.in_use_by = None;
        }
        self.observed = Some(Observed { record, since, changes, first_seen });
    }

    fn hold(&mut self, record: DataCenterRecord, renewed: Instant) {
        self.last_state = Some(record.state);
        self.highest_epoch = self.highest_epoch.max(record.epoch);
        self.observed = None;
        self.absent = None;
        self.was_owner = false;
        self.fenced = false;
        self.in_use_by = None;
        self.held = Some(Held { record, renewed });
    }

    /// What became of a write that was sent at `sent`.
    pub fn on_written(&mut self, write: Write, answer: Result<Version, Error>, sent: Instant, now: Instant) {
        match answer {
            Ok(version) => {
                self.succeeded();
                let before = self.held.take();
                self.report(&write, before.as_ref().map(|held| &held.record));
                if write.cause == Cause::Create {
                    // Where the read was stale, the version that the write got tells more.
                    self.floor = Epoch(version.revision);
                }
                let mut record = write.record;
                record.version = version;
                self.hold(record, sent);
                self.next_heartbeat = now + self.options.heartbeat_interval();
            }
            Err(error) => self.failed("register", error, now),
        }
    }

    fn report(&mut self, write: &Write, before: Option<&DataCenterRecord>) {
        let epoch = write.record.epoch;
        match &write.cause {
            Cause::Create => self.events.push(ControllerEvent::Registered { epoch }),
            Cause::TakeOver { from, why } => {
                self.events.push(ControllerEvent::TookOver { from: from.clone(), epoch, why: *why });
            }
            Cause::Update => {}
        }
        let Some(before) = before else { return };
        if before.endpoints != write.record.endpoints {
            self.events.push(ControllerEvent::EndpointsAdvertised { count: write.record.endpoints.len() });
        }
        if before.state != write.record.state {
            self.events.push(ControllerEvent::StateMoved { from: before.state, to: write.record.state });
        }
    }

    /// What became of a renewal that was sent at `sent`. `jitter` is the pause until the next.
    pub fn on_heartbeat(&mut self, answer: Result<Version, Error>, sent: Instant, now: Instant, pause: Duration) {
        match answer {
            Ok(version) => {
                self.succeeded();
                self.next_heartbeat = now + pause;
                if let Some(held) = &mut self.held {
                    held.record.version = version;
                    held.renewed = sent;
                }
                self.events.push(ControllerEvent::Renewed { took: now.saturating_duration_since(sent) });
            }
            Err(error) => self.failed("heartbeat", error, now),
        }
    }

    /// A read failed.
    pub fn on_read_failed(&mut self, error: Error, now: Instant) {
        self.failed("get", error, now);
    }

    fn failed(&mut self, operation: &'static str, error: Error, now: Instant) {
        match error {
            Error::Conflict { stored, .. } => self.lost(stored.map(|record| *record), now),
            Error::NotFound { .. } => self.lost(None, now),
            error => {
                let lease_left = self.held.as_ref().map(|held| {
                    let lease = dc_core::Lease::new(held.renewed, held.record.ttl);
                    lease.left(now).unwrap_or_default()
                });
                self.events.push(ControllerEvent::StoreFailed { operation, error: error.to_string(), lease_left });
                self.failures = self.failures.saturating_add(1);
                // An absence that was read before is no ground for a later write (D1).
                self.absent = None;
                self.next_read = now;
                self.retry_at = Some(now + self.backoff());
            }
        }
    }

    /// The store holds something else than this node named.
    fn lost(&mut self, stored: Option<DataCenterRecord>, now: Instant) {
        self.succeeded();
        let held = self.held.take();
        match stored {
            Some(stored) if stored.owner.node == self.me.node && !stored.handed_over => {
                // One's own lost write: take the version and go on.
                let renewed = held.map_or(now, |held| held.renewed);
                self.hold(stored, renewed);
                self.next_heartbeat = now;
            }
            Some(stored) => {
                if held.is_some() {
                    self.fenced = true;
                    self.events
                        .push(ControllerEvent::SteppedDown { to: Some(stored.owner.clone()), epoch: stored.epoch });
                }
                self.highest_epoch = self.highest_epoch.max(stored.epoch);
                self.observe(stored, now);
                self.next_read = now + self.options.leader_check_interval();
            }
            None => {
                // Expired or removed while this node was away. It registers again, under a higher epoch, unless
                // another does first.
                if let Some(held) = held {
                    self.highest_epoch = self.highest_epoch.max(held.record.epoch);
                    self.was_owner = true;
                }
                self.observed = None;
                self.absent = None;
                self.next_read = now;
            }
        }
    }

    fn succeeded(&mut self) {
        self.failures = 0;
        self.retry_at = None;
    }

    /// Doubles from a tenth of a heartbeat up to the heartbeat interval while a lease is held (renewals must not
    /// wait), up to `max_backoff`, but at most a third of the lease, otherwise: others spare an expired record for one lease.
    fn backoff(&self) -> Duration {
        let base = self.options.heartbeat_interval() / 10;
        let cap = match self.held {
            Some(_) => self.options.heartbeat_interval(),
            None => self.options.max_backoff().min(self.options.lease_ttl() / 3),
        };
        base.saturating_mul(1 << self.failures.min(16).saturating_sub(1)).min(cap)
    }

    /// What to write on the way out; `None` where this node owns nothing. The last node removes the record.
    pub fn goodbye(&self) -> Option<LastWrite> {
        let held = self.held.as_ref()?;
        let others: Vec<_> = self.view.members.iter().filter(|m| m.node != self.me.node).collect();
        if others.is_empty() {
            return Some(LastWrite::Deregister(held.record.version));
        }
        let mut record = held.record.clone();
        record.endpoints = others.into_iter().map(dc_core::Member::node_endpoint).collect();
        record.handed_over = true;
        Some(LastWrite::HandOver(Box::new(record)))
    }

    /// Whether this node is the only member left.
    pub fn is_last(&self) -> bool {
        self.view.joined && self.view.members.iter().all(|member| member.node == self.me.node)
    }

    /// The version to remove on the way out by a last node that owns nothing itself, but could take the record over
    /// now: its owner handed it to nodes that left before they took it (D2, D6).
    pub fn orphaned(&self, now: Instant) -> Option<Version> {
        let observed = self.observed.as_ref().filter(|_| self.is_last())?;
        self.may_take(observed, now).map(|_| observed.record.version)
    }

    /// The record is no longer ours to write.
    pub fn released(&mut self) {
        self.held = None;
    }

    /// Takes what happened since the last call.
    pub fn take_events(&mut self) -> Vec<ControllerEvent> {
        std::mem::take(&mut self.events)
    }

    /// The present state.
    pub fn status(&self) -> RegistrarStatus {
        let held = self.held.as_ref();
        RegistrarStatus {
            role: if held.is_some() { Role::Registrar } else { Role::Follower },
            epoch: held.map(|h| h.record.epoch).or_else(|| self.observed.as_ref().map(|o| o.record.epoch)),
            version: held.map(|h| h.record.version),
            lease_ends: held.map(|h| h.renewed + h.record.ttl),
            state: held.map(|h| h.record.state),
            id_in_use_by: self.in_use_by.clone(),
        }
    }
}

/// The last thing that a stopping owner writes.
#[derive(Clone, Debug, PartialEq)]
pub enum LastWrite {
    /// Hand the record over: write this, if `record.version` is stored.
    HandOver(Box<DataCenterRecord>),
    /// Remove the record, if this version is stored.
    Deregister(Version),
}

/// The next state on the way to what the operator wants; the moves are P9's.
///
/// ```
/// use dc_controller::registrar::next_state;
/// use dc_core::{DataCenterState::*, IntentKind};
/// assert_eq!(next_state(Registered, IntentKind::Serve, false), Active);
/// assert_eq!(next_state(Registered, IntentKind::Drain, false), Draining);
/// assert_eq!(next_state(Active, IntentKind::Out, true), Draining);
/// assert_eq!(next_state(Draining, IntentKind::Out, true), Draining);
/// assert_eq!(next_state(Draining, IntentKind::Out, false), Inactive);
/// assert_eq!(next_state(Inactive, IntentKind::Drain, false), Active);
/// ```
pub fn next_state(at: DataCenterState, intent: IntentKind, owns_global: bool) -> DataCenterState {
    use DataCenterState::*;
    match (at, intent) {
        (_, IntentKind::Serve) => Active,
        // INACTIVE leads only to ACTIVE; the intent already keeps placements away meanwhile (C6).
        (Inactive, IntentKind::Drain) => Active,
        (_, IntentKind::Drain) => Draining,
        (Inactive, IntentKind::Out) => Inactive,
        (Draining, IntentKind::Out) if !owns_global => Inactive,
        (_, IntentKind::Out) => Draining,
    }
}
