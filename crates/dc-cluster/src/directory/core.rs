//! The directory without I/O: operations, questions and answers go in; calls, answers and outcomes come out.
//!
//! This file holds the state and the asking side; `serve` the answering side, `sync` the keeping in step.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use dc_core::{Endpoint, NodeId};
use rand::{SeedableRng, rngs::StdRng};

use super::{
    Claim, DirectoryError, Entry, Eviction,
    age::AgeClock,
    late::Released,
    rendezvous::homes,
    serve::{Ask, Origin, Slot},
    spent::Spent,
    sync::{EvictJob, Sync},
    wire::{Framed, Request, Response},
};

/// Longest wait for one answer before the question is put again.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(1);
/// The same for lookups, which go to the backup next.
const LOOKUP_ATTEMPT: Duration = Duration::from_millis(500);
/// First wait before a question is put again; doubles up to [`MAX_RETRY`].
const FIRST_RETRY: Duration = Duration::from_millis(10);
const MAX_RETRY: Duration = Duration::from_millis(320);
/// How long a release is tried on; past it the primary learns of it when it next asks this host.
const RELEASE_FOR: Duration = Duration::from_secs(30);

/// Number of an operation of this node's.
pub(crate) type OpId = u64;
/// Number of a call to another member.
pub(crate) type CallId = u64;
/// The caller's mark on a question that another member put.
pub(crate) type Token = u64;

/// What the core wants done. Drained after every input.
#[derive(Debug)]
pub(crate) enum Action {
    /// Ask another member; report the answer with `on_answer`.
    Call { id: CallId, to: NodeId, request: Framed<Request>, timeout: Duration },
    /// Answer a question of another member.
    Reply { token: Token, response: Framed<Response> },
    /// An operation of this node's has ended.
    Done { op: OpId, outcome: Outcome },
    /// A registration of this node's is lost.
    Evicted(Eviction),
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Claim(Claim),
    Lookup(Option<Entry>),
    Released,
    Failed(DirectoryError),
}

/// Why a call brought no answer. Whether it ran does not matter: every request may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// Not reached, or not in time.
    Unreachable,
    /// An answer that cannot be read.
    Garbage,
}

#[derive(Debug)]
enum Want {
    Claim(Entry),
    Lookup(String),
    Release { entry: Entry, ran: bool },
}

impl Want {
    fn key(&self) -> &str {
        match self {
            Self::Claim(entry) | Self::Release { entry, .. } => &entry.key,
            Self::Lookup(key) => key,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// For a retry, or for joining.
    Waiting,
    /// Being answered by this node itself.
    Serving,
    /// For another member's answer.
    Calling(CallId),
    /// Behind another claim of this node's for the same key.
    Queued,
}

#[derive(Debug)]
struct Op {
    want: Want,
    stage: Stage,
    deadline: Instant,
    tries: u32,
    /// Whether a member may have registered the claim.
    sent: bool,
    /// Whom the call under way asks.
    asked: Option<NodeId>,
    /// Members that were asked and gave no answer: they may register the claim yet.
    silent: BTreeSet<NodeId>,
    /// Whether the backup is to be asked next.
    to_backup: bool,
}

/// Whose answer a call brings.
#[derive(Debug)]
pub(super) enum Purpose {
    Op(OpId),
    Replicate(Entry),
    Pull(NodeId),
    Evict {
        key: String,
        holder: NodeId,
    },
    /// Nobody waits for it.
    Forget,
}

/// The members, sorted, each with its seniority: a node that was away comes back under another one.
pub(super) type Lives = Arc<[(NodeId, u64)]>;

/// The members, as this node's directory sees them.
#[derive(Debug)]
pub(super) struct View {
    pub(super) id: u64,
    pub(super) lives: Lives,
    pub(super) joined: bool,
}

impl View {
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.lives.iter().map(|(node, _)| *node)
    }

    pub(super) fn has(&self, node: NodeId) -> bool {
        self.nodes().any(|member| member == node)
    }
}

/// One node's part of the directory.
pub(crate) struct Core {
    pub(super) me: NodeId,
    pub(super) endpoint: Endpoint,
    pub(super) max_names: usize,
    pub(super) rng: StdRng,
    pub(super) view: View,
    /// What this node hosts: the truth of it.
    pub(super) mine: BTreeMap<String, Entry>,
    /// What this node answers for, as primary or backup.
    pub(super) table: BTreeMap<String, Slot>,
    pub(super) spent: Spent,
    pub(super) released: Released,
    pub(super) clock: AgeClock,
    pub(super) parked: Vec<Ask>,
    pub(super) sync: Sync,
    pub(super) evictions: BTreeMap<(String, NodeId), EvictJob>,
    ops: HashMap<OpId, Op>,
    /// The claim that is under way for a key, and those behind it.
    claiming: HashMap<String, (OpId, VecDeque<OpId>)>,
    retries: BinaryHeap<Reverse<(Instant, OpId)>>,
    /// Each with the time after which its answer counts as none: then a host accepts no grant, and may say so.
    pub(super) calls: HashMap<CallId, (Purpose, Instant)>,
    next_id: u64,
    pub(super) out: Vec<Action>,
}

impl Core {
    /// A node that has not joined: operations wait.
    pub(crate) fn new(me: NodeId, endpoint: Endpoint, max_names: usize, seed: u64, now: Instant) -> Self {
        Self {
            me,
            endpoint,
            max_names,
            rng: StdRng::seed_from_u64(seed ^ me.0 as u64),
            view: View { id: 0, lives: Arc::new([]), joined: false },
            mine: BTreeMap::new(),
            table: BTreeMap::new(),
            spent: Spent::default(),
            released: Released::default(),
            clock: AgeClock::new(now),
            parked: Vec::new(),
            sync: Sync::new(now),
            evictions: BTreeMap::new(),
            ops: HashMap::new(),
            claiming: HashMap::new(),
            retries: BinaryHeap::new(),
            calls: HashMap::new(),
            next_id: 0,
            out: Vec::new(),
        }
    }

    /// What there is to do since the last call.
    pub(crate) fn take_actions(&mut self) -> Vec<Action> {
        mem::take(&mut self.out)
    }

    /// When [`on_time`](Self::on_time) must be called at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let retry = self.retries.peek().map(|Reverse((at, _))| *at);
        let evict = self.evictions.values().filter_map(EvictJob::due).min();
        [retry, evict, self.sync.deadline()].into_iter().flatten().min()
    }

    /// What this node hosts under `key`.
    pub(crate) fn hosted(&self, key: &str) -> Option<&Entry> {
        self.mine.get(key)
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn hosts(&self) -> &BTreeMap<String, Entry> {
        &self.mine
    }

    /// The primary and the backup of `key` in the present view.
    pub(super) fn homes(&self, key: &str) -> (Option<NodeId>, Option<NodeId>) {
        homes(key, self.view.nodes())
    }

    // -- operations of this node ----------------------------------------------------------

    /// Claims `key` for this node. Ends with [`Action::Done`], unless cancelled.
    pub(crate) fn claim(
        &mut self,
        now: Instant,
        (key, kind): (&str, &str),
        actor: u64,
        request: u128,
        deadline: Instant,
    ) -> OpId {
        let entry = Entry {
            key: key.into(),
            kind: kind.into(),
            holder: self.me,
            endpoint: self.endpoint.clone(),
            actor,
            request,
            age: 0,
        };
        let id = self.add_op(Want::Claim(entry), deadline);
        match self.claiming.get_mut(key) {
            Some((_, queue)) => {
                queue.push_back(id);
                self.set_stage(id, Stage::Queued);
            }
            None => {
                self.claiming.insert(key.into(), (id, VecDeque::new()));
                self.drive(now, id);
            }
        }
        id
    }

    /// Looks up who holds `key`. Ends with [`Action::Done`], unless cancelled.
    pub(crate) fn lookup(&mut self, now: Instant, key: &str, deadline: Instant) -> OpId {
        let id = self.add_op(Want::Lookup(key.into()), deadline);
        self.drive(now, id);
        id
    }

    /// Gives up `key`, if `actor` of this node holds it. With `ran`, its request is remembered (L3).
    pub(crate) fn release(&mut self, now: Instant, key: &str, actor: u64, ran: bool) -> Option<OpId> {
        let entry = self.mine.get(key).filter(|entry| entry.actor == actor)?.clone();
        self.mine.remove(key);
        // A copy that this node keeps as backup goes with it.
        if self.table.get(key).is_some_and(|slot| slot.entry.is(&entry)) {
            self.table.remove(key);
        }
        if ran {
            self.spent.add(now, entry.clone());
        }
        Some(self.take_back(now, entry, ran))
    }

    /// Nobody waits for `op` any more. A claim that may have been registered is taken back.
    pub(crate) fn cancel(&mut self, now: Instant, op: OpId) {
        let Some(ended) = self.ops.remove(&op) else { return };
        if let Want::Claim(entry) = ended.want {
            if ended.sent {
                self.take_back_at(now, &entry, ended.silent.into_iter().chain(ended.asked));
                self.take_back(now, entry.clone(), false);
            }
            self.claim_ended(now, &entry.key, op);
        }
    }

    pub(super) fn take_back(&mut self, now: Instant, entry: Entry, ran: bool) -> OpId {
        let id = self.add_op(Want::Release { entry, ran }, now + RELEASE_FOR);
        self.drive(now, id);
        id
    }

    /// Takes a claim back where it may be registered late: at members that did not answer it, and are no
    /// primaries any more. Told once: what reaches them at all comes after the claim, or marks it as late.
    fn take_back_at(&mut self, now: Instant, entry: &Entry, members: impl Iterator<Item = NodeId>) {
        let (primary, _) = self.homes(&entry.key);
        let others: BTreeSet<NodeId> = members.filter(|&node| node != self.me && Some(node) != primary).collect();
        for node in others {
            let release = Request::Release { entry: entry.clone(), ran: false };
            self.call(now, node, release, ATTEMPT, Purpose::Forget);
        }
    }

    fn add_op(&mut self, want: Want, deadline: Instant) -> OpId {
        let id = self.fresh_id();
        let op = Op {
            want,
            stage: Stage::Waiting,
            deadline,
            tries: 0,
            sent: false,
            asked: None,
            silent: BTreeSet::new(),
            to_backup: false,
        };
        self.ops.insert(id, op);
        id
    }

    pub(super) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn set_stage(&mut self, id: OpId, stage: Stage) {
        if let Some(op) = self.ops.get_mut(&id) {
            op.stage = stage;
        }
    }

    /// Puts the question of `id` to whoever answers for its key now.
    fn drive(&mut self, now: Instant, id: OpId) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.stage = Stage::Waiting;
        if now >= op.deadline && matches!(op.want, Want::Release { .. }) {
            return self.finish(now, id, Outcome::Released);
        }
        if let Some(entry) = self.mine.get(op.want.key()) {
            let entry = entry.clone();
            match &op.want {
                Want::Claim(claimed) => {
                    let answer = hosted_already(claimed, entry);
                    return self.finish(now, id, Outcome::Claim(answer));
                }
                Want::Lookup(_) => return self.finish(now, id, Outcome::Lookup(Some(entry))),
                Want::Release { .. } => {}
            }
        }
        if let Want::Claim(claimed) = &op.want
            && let Some(done) = self.spent.get(&claimed.key, claimed.request)
        {
            let same = Claim::Same(done.clone());
            return self.finish(now, id, Outcome::Claim(same));
        }
        if !self.view.joined || now >= op.deadline {
            return;
        }
        let (Some(primary), backup) = homes(op.want.key(), self.view.nodes()) else { return };
        let mut target = primary;
        let request = match &op.want {
            Want::Claim(entry) => Request::Claim(entry.clone()),
            Want::Release { entry, ran } => Request::Release { entry: entry.clone(), ran: *ran },
            Want::Lookup(key) => {
                target = backup.filter(|_| op.to_backup).unwrap_or(primary);
                Request::Lookup { key: key.clone(), backup: target != primary }
            }
        };
        op.sent = true;
        op.asked = Some(target);
        if target == self.me {
            op.stage = Stage::Serving;
            let (origin, deadline) = (Origin::Local(id), op.deadline);
            let Framed { clock: reading, body: request } = self.frame(now, request);
            return self.serve(now, Ask { from: self.me, origin, deadline, reading, request });
        }
        let longest = if matches!(op.want, Want::Lookup(_)) { LOOKUP_ATTEMPT } else { ATTEMPT };
        let timeout = op.deadline.saturating_duration_since(now).min(longest);
        let call = self.call(now, target, request, timeout, Purpose::Op(id));
        self.set_stage(id, Stage::Calling(call));
    }

    pub(super) fn call(&mut self, now: Instant, to: NodeId, body: Request, timeout: Duration, why: Purpose) -> CallId {
        let id = self.fresh_id();
        self.calls.insert(id, (why, now + timeout));
        let request = self.frame(now, body);
        self.out.push(Action::Call { id, to, request, timeout });
        id
    }

    fn frame(&mut self, now: Instant, body: Request) -> Framed<Request> {
        // Above the reading of all that was asked before: see `late`.
        let above = matches!(body, Request::Release { .. } | Request::Forget { .. });
        let clock = if above { self.clock.next(now) } else { self.clock.read(now) };
        Framed { clock, body }
    }

    fn finish(&mut self, now: Instant, id: OpId, outcome: Outcome) {
        let Some(op) = self.ops.remove(&id) else { return };
        let granted = matches!(outcome, Outcome::Claim(Claim::Granted(_)));
        self.out.push(Action::Done { op: id, outcome });
        if let Want::Claim(entry) = op.want {
            if !granted && !op.silent.is_empty() {
                self.take_back_at(now, &entry, op.silent.into_iter());
                self.take_back(now, entry.clone(), false);
            }
            self.claim_ended(now, &entry.key, id);
        }
    }

    /// Lets the next claim of this node's for `key` go on.
    fn claim_ended(&mut self, now: Instant, key: &str, id: OpId) {
        let Some((active, queue)) = self.claiming.get_mut(key) else { return };
        if *active != id {
            return queue.retain(|queued| *queued != id);
        }
        match queue.pop_front() {
            Some(next) => {
                *active = next;
                self.drive(now, next);
            }
            None => _ = self.claiming.remove(key),
        }
    }

    // -- answers --------------------------------------------------------------------------

    /// The call `id` has ended.
    pub(crate) fn on_answer(&mut self, now: Instant, id: CallId, answer: Result<Framed<Response>, NoAnswer>) {
        let Some((purpose, until)) = self.calls.remove(&id) else { return };
        let answer = answer.and_then(|framed| {
            self.clock.observe(now, framed.clock);
            if now > until { Err(NoAnswer::Unreachable) } else { Ok(framed.body) }
        });
        match purpose {
            Purpose::Op(op) => {
                if self.ops.get(&op).is_some_and(|op| op.stage == Stage::Calling(id)) {
                    self.answer_op(now, op, answer);
                }
            }
            Purpose::Replicate(entry) => {
                if answer.is_err() {
                    tracing::debug!(key = %entry.key, "the backup keeps no copy yet: its host and the primary do");
                }
                self.written(now, &entry);
            }
            Purpose::Pull(host) => self.on_page(now, host, id, answer.ok()),
            Purpose::Evict { key, holder } => self.on_evict_answer(now, key, holder, answer.ok()),
            Purpose::Forget => {}
        }
    }

    pub(super) fn answer_op(&mut self, now: Instant, id: OpId, answer: Result<Response, NoAnswer>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let outcome = match (&mut op.want, answer) {
            (Want::Claim(claimed), Ok(Response::Granted(entry))) => {
                if entry.is(claimed) {
                    let (primary, _) = homes(&entry.key, self.view.nodes());
                    if op.asked != primary {
                        // The membership changed meanwhile: the new primary must agree, under the age given.
                        claimed.age = entry.age;
                        return self.drive(now, id);
                    }
                    self.mine.insert(entry.key.clone(), entry.clone());
                    Outcome::Claim(Claim::Granted(entry))
                } else {
                    self.protocol(id)
                }
            }
            (Want::Claim(_), Ok(Response::Same(entry))) => Outcome::Claim(Claim::Same(entry)),
            (Want::Claim(_), Ok(Response::Taken(entry))) => Outcome::Claim(Claim::Taken(entry)),
            (Want::Claim(entry), Ok(Response::Full)) => {
                Outcome::Failed(DirectoryError::Full { key: entry.key.clone() })
            }
            // What this node does not host, it does not hold: a release is on its way.
            (Want::Lookup(_), Ok(Response::Found(found))) => Outcome::Lookup(found.filter(|e| e.holder != self.me)),
            (Want::Release { .. }, Ok(Response::Done)) => Outcome::Released,
            (_, answer @ (Ok(Response::NotPrimary | Response::Busy) | Err(NoAnswer::Unreachable))) => {
                if answer.is_err() {
                    op.silent.extend(op.asked);
                }
                return self.again(now, id);
            }
            (_, Ok(_) | Err(NoAnswer::Garbage)) => {
                // Whatever it says, it may have registered the claim.
                op.silent.extend(op.asked);
                self.protocol(id)
            }
        };
        self.finish(now, id, outcome);
    }

    fn protocol(&self, id: OpId) -> Outcome {
        let key = self.ops.get(&id).map(|op| op.want.key().to_owned()).unwrap_or_default();
        Outcome::Failed(DirectoryError::Protocol { key })
    }

    /// Puts the question of `id` again after a while, or when the view changes.
    fn again(&mut self, now: Instant, id: OpId) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.stage = Stage::Waiting;
        // A lookup alternates between primary and backup.
        op.to_backup = !op.to_backup;
        let wait = if op.to_backup && matches!(op.want, Want::Lookup(_)) {
            Duration::ZERO
        } else {
            (FIRST_RETRY * 2u32.saturating_pow(op.tries.min(10))).min(MAX_RETRY)
        };
        op.tries += 1;
        self.retries.push(Reverse((now + wait, id)));
    }

    /// Runs what is due.
    pub(crate) fn on_time(&mut self, now: Instant) {
        while let Some(&Reverse((at, id))) = self.retries.peek()
            && at <= now
        {
            self.retries.pop();
            if self.ops.get(&id).is_some_and(|op| op.stage == Stage::Waiting) {
                self.drive(now, id);
            }
        }
        self.run_sync(now);
        self.run_evictions(now);
    }

    /// Drives what waits: the view has changed.
    pub(super) fn drive_waiting(&mut self, now: Instant) {
        let waiting = self.ops.iter().filter(|(_, op)| op.stage == Stage::Waiting).map(|(id, _)| *id);
        let mut waiting: Vec<OpId> = waiting.collect();
        waiting.sort_unstable();
        for id in waiting {
            self.drive(now, id);
        }
    }
}

/// A claim of this node's for what it hosts itself.
fn hosted_already(claimed: &Entry, hosted: Entry) -> Claim {
    if hosted.is(claimed) {
        Claim::Granted(hosted)
    } else if claimed.request != 0 && hosted.request == claimed.request {
        Claim::Same(hosted)
    } else {
        Claim::Taken(hosted)
    }
}
