//! How primaries and backups come by what hosts hold, and what they do about two holders of one name.
//!
//! On each change of membership every node asks every other for the entries of which
//! it is primary or backup now; a digest spares the answer where nothing differs. A
//! host answers only if it sees the same membership, so whoever has been answered by
//! all members knows every grant that an earlier primary may have made: later claims
//! come to the new one. Every ten seconds or so they ask again, which mends what a
//! lost message left behind.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use dc_core::NodeId;
use rand::RngExt;

use super::{
    Entry,
    core::{ATTEMPT, CallId, Core, Lives, Purpose, View},
    rendezvous::homes,
    serve::Slot,
    wire::{Digest, Request, Response, view_id},
};

/// How long misses and claims wait for a member that does not tell what it holds.
const SYNC_BOUND: Duration = Duration::from_secs(2);
/// Between two checks while nothing changes. Jittered.
const AUDIT: Duration = Duration::from_secs(10);
/// First wait before a member is asked again; doubles up to [`MAX_RETRY`].
const FIRST_RETRY: Duration = Duration::from_millis(10);
const MAX_RETRY: Duration = Duration::from_millis(160);
/// A grant may be on its way to its host for this long: until then the host's silence about it says nothing.
/// Past [`ATTEMPT`] a host accepts none; the rest is for clocks that differ in rate.
const IN_FLIGHT: Duration = Duration::from_secs(2);
/// Between two orders to give up a name.
const EVICT_RETRY: Duration = Duration::from_millis(200);
/// Views that are remembered since the last complete round.
const HISTORY: usize = 8;

/// Where the present round stands.
#[derive(Debug)]
pub(super) struct Sync {
    /// The membership of the last complete round.
    base: Option<Lives>,
    /// The memberships after it, the present one last.
    since: Vec<Lives>,
    peers: BTreeMap<NodeId, Peer>,
    started: Instant,
    complete: bool,
    audit_at: Option<Instant>,
}

#[derive(Debug)]
struct Peer {
    /// It has told, or was given up: its silence holds nothing up.
    told: bool,
    /// It has answered in this round or audit.
    answered: bool,
    call: Option<CallId>,
    asked_at: Instant,
    next_at: Instant,
    tries: u32,
    /// Keys of the pages so far.
    seen: BTreeSet<String>,
}

impl Peer {
    fn new(now: Instant) -> Self {
        let seen = BTreeSet::new();
        Self { told: false, answered: false, call: None, asked_at: now, next_at: now, tries: 0, seen }
    }
}

/// An order to a host to give up a name, until it is confirmed.
#[derive(Debug)]
pub(super) struct EvictJob {
    lost: Entry,
    kept: Entry,
    next_at: Instant,
    asked: bool,
}

impl EvictJob {
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.asked).then_some(self.next_at)
    }
}

impl Sync {
    pub(super) fn new(now: Instant) -> Self {
        let peers = BTreeMap::new();
        Self { base: None, since: Vec::new(), peers, started: now, complete: false, audit_at: None }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let asks = self.peers.values().filter(|peer| !peer.answered && peer.call.is_none()).map(|peer| peer.next_at);
        let bound = (!self.complete && !self.peers.is_empty()).then(|| self.started + SYNC_BOUND);
        asks.chain(bound).chain(self.audit_at).min()
    }

    fn told(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_none_or(|peer| peer.told)
    }
}

impl Core {
    /// The members, with their seniorities. `joined` is false until this node has met others or founded the cluster.
    pub(crate) fn set_view(&mut self, now: Instant, members: impl IntoIterator<Item = (NodeId, u64)>, joined: bool) {
        let lives: BTreeSet<(NodeId, u64)> = members.into_iter().collect();
        let lives: Lives = lives.into_iter().collect();
        if lives == self.view.lives && joined == self.view.joined {
            return;
        }
        self.view = View { id: view_id(&lives), lives, joined };
        let mut displaced = self.prune(now);
        let view = &self.view;
        self.evictions.retain(|(_, holder), _| view.has(*holder));
        self.begin_round(now);
        for entry in self.mine.values().cloned().collect::<Vec<_>>() {
            self.merge(now, entry);
        }
        displaced.append(&mut self.parked);
        for ask in displaced {
            self.serve(now, ask);
        }
        self.drive_waiting(now);
        self.run_sync(now);
    }

    /// Drops what this node does not answer for any more; returns the questions that waited on it.
    fn prune(&mut self, now: Instant) -> Vec<super::serve::Ask> {
        let stays = |slot: &Slot| {
            let (primary, backup) = self.homes(&slot.entry.key);
            let here = primary == Some(self.me) || (backup == Some(self.me) && slot.writing.is_none());
            let hosted =
                slot.entry.holder != self.me || slot.writing.is_some() || self.mine.contains_key(&slot.entry.key);
            here && hosted && self.view.has(slot.entry.holder)
        };
        let gone: Vec<String> =
            self.table.iter().filter(|(_, slot)| !stays(slot)).map(|(key, _)| key.clone()).collect();
        let mut waiters = Vec::new();
        for key in gone {
            if let Some(Slot { writing: Some(writing), .. }) = self.table.remove(&key) {
                self.reply(now, writing.origin, Response::NotPrimary);
                waiters.extend(writing.waiters);
            }
        }
        waiters
    }

    fn begin_round(&mut self, now: Instant) {
        let sync = &mut self.sync;
        sync.peers.clear();
        sync.audit_at = None;
        sync.started = now;
        sync.complete = false;
        if !self.view.joined {
            (sync.base, sync.since) = (None, Vec::new());
            return;
        }
        sync.since.push(self.view.lives.clone());
        // A node that was declared down meanwhile knows nothing of what others granted.
        let my_life = self.view.lives.iter().find(|(node, _)| *node == self.me);
        let same_life = sync.base.as_ref().is_some_and(|base| my_life.is_some_and(|life| base.contains(life)));
        if !same_life || sync.since.len() > HISTORY {
            (sync.base, sync.since) = (None, Vec::new());
        }
        let others = self.view.nodes().filter(|&node| node != self.me);
        sync.peers = others.map(|node| (node, Peer::new(now))).collect();
        self.finish_round_if_told(now);
    }

    /// Whether this node, the primary of `key`, knows of every holder.
    pub(super) fn settled(&self, key: &str) -> bool {
        if self.sync.complete {
            return true;
        }
        // It was the primary all along since a complete round: only members from after it can bring anything.
        let Some(base) = &self.sync.base else { return false };
        let primary_in = |lives: &Lives| homes(key, lives.iter().map(|(node, _)| *node)).0 == Some(self.me);
        let newcomers = || self.view.lives.iter().filter(|life| !base.contains(life));
        let newcomers_told = || newcomers().all(|(node, _)| self.sync.told(*node));
        primary_in(base) && self.sync.since.iter().all(primary_in) && newcomers_told()
    }

    pub(super) fn run_sync(&mut self, now: Instant) {
        if self.sync.audit_at.is_some_and(|at| at <= now) {
            self.sync.audit_at = Some(self.next_audit(now));
            for peer in self.sync.peers.values_mut() {
                (peer.answered, peer.next_at, peer.tries) = (false, now, 0);
            }
        }
        let due = |peer: &Peer| !peer.answered && peer.call.is_none() && peer.next_at <= now;
        let asked: Vec<NodeId> = self.sync.peers.iter().filter(|(_, peer)| due(peer)).map(|(node, _)| *node).collect();
        if !asked.is_empty() {
            let mut digests = self.digests();
            for node in asked {
                let digest = digests.remove(&node).unwrap_or_default();
                if let Some(peer) = self.sync.peers.get_mut(&node) {
                    peer.seen.clear();
                    peer.asked_at = now;
                }
                self.pull(now, node, digest, None);
            }
        }
        if !self.sync.complete && now >= self.sync.started + SYNC_BOUND {
            for (node, peer) in self.sync.peers.iter_mut().filter(|(_, peer)| !peer.told) {
                tracing::warn!(node = %node.short(), "does not tell what names it holds; going on without");
                peer.told = true;
            }
            self.finish_round_if_told(now);
            self.unpark(now);
        }
    }

    fn next_audit(&mut self, now: Instant) -> Instant {
        now + AUDIT.mul_f64(self.rng.random_range(0.75..1.25))
    }

    /// What is known of each host's entries here.
    fn digests(&self) -> HashMap<NodeId, Digest> {
        let mut digests: HashMap<NodeId, Digest> = HashMap::new();
        for slot in self.table.values().filter(|slot| slot.writing.is_none()) {
            digests.entry(slot.entry.holder).or_default().add(&slot.entry);
        }
        digests
    }

    fn pull(&mut self, now: Instant, node: NodeId, digest: Digest, after: Option<String>) {
        let spent = !self.sync.complete;
        let pull = Request::Pull { view: self.view.id, digest, after, spent };
        let call = self.call(now, node, pull, ATTEMPT, Purpose::Pull(node));
        if let Some(peer) = self.sync.peers.get_mut(&node) {
            peer.call = Some(call);
        }
    }

    /// `host` has answered the pull `call`.
    pub(super) fn on_page(&mut self, now: Instant, host: NodeId, call: CallId, answer: Option<Response>) {
        let Some(peer) = self.sync.peers.get_mut(&host).filter(|peer| peer.call == Some(call)) else { return };
        peer.call = None;
        let (entries, next, spent) = match answer {
            Some(Response::Unchanged { spent }) => (None, None, spent),
            Some(Response::Page { entries, next, spent }) => (Some(entries), next, spent),
            _ => {
                // Not reached, or it sees another membership yet.
                peer.next_at = now + (FIRST_RETRY * 2u32.saturating_pow(peer.tries.min(8))).min(MAX_RETRY);
                peer.tries += 1;
                return;
            }
        };
        let asked_at = peer.asked_at;
        let whole = entries.is_some() && next.is_none();
        for entry in entries.into_iter().flatten().filter(|entry| entry.holder == host && entry.check().is_ok()) {
            if let Some(peer) = self.sync.peers.get_mut(&host) {
                peer.seen.insert(entry.key.clone());
            }
            // What was granted after the question is newer than the answer.
            if self.table.get(&entry.key).is_none_or(|slot| slot.entry.holder != host || slot.since < asked_at) {
                self.merge(now, entry);
            }
        }
        for entry in spent {
            self.spent.add(now, entry);
        }
        if next.is_some() {
            return self.pull(now, host, Digest::default(), next);
        }
        let Some(peer) = self.sync.peers.get_mut(&host) else { return };
        (peer.told, peer.answered) = (true, true);
        let seen = std::mem::take(&mut peer.seen);
        let mut again: Option<Instant> = None;
        self.table.retain(|key, slot| {
            // A digest is of what was granted when it was sent.
            let confirmed = if whole { seen.contains(key) } else { slot.since < asked_at };
            if slot.entry.holder != host || (confirmed && slot.writing.is_none()) {
                return true;
            }
            let grown = slot.since + IN_FLIGHT;
            let stays = slot.writing.is_some() || grown >= asked_at;
            if stays {
                // Granted a moment ago, or to a host that has given up meanwhile: the next answer tells.
                let at = grown.max(now) + FIRST_RETRY;
                again = Some(again.map_or(at, |other| other.min(at)));
            }
            stays
        });
        if let Some(at) = again {
            (peer.answered, peer.next_at, peer.tries) = (false, at, 0);
        }
        self.finish_round_if_told(now);
        self.unpark(now);
        self.run_evictions(now);
    }

    fn finish_round_if_told(&mut self, now: Instant) {
        if !self.sync.complete && self.sync.peers.values().all(|peer| peer.told) {
            self.sync.complete = true;
            self.sync.base = Some(self.view.lives.clone());
            self.sync.since.clear();
            self.sync.audit_at = Some(self.next_audit(now));
        }
    }

    // -- two holders of one name ------------------------------------------------------------

    /// A host holds `entry`. Where another is known to, the older one is kept.
    pub(super) fn merge(&mut self, now: Instant, entry: Entry) {
        let (primary, backup) = self.homes(&entry.key);
        let here = primary == Some(self.me) || backup == Some(self.me);
        if !here || !self.view.has(entry.holder) {
            return;
        }
        let Some(slot) = self.table.get_mut(&entry.key) else {
            self.table.insert(entry.key.clone(), Slot::new(entry, now));
            return;
        };
        if slot.entry.holder == entry.holder {
            if slot.writing.is_none() {
                *slot = Slot { entry, since: slot.since, writing: None };
            }
            return;
        }
        let displaces = entry.outlives(&slot.entry);
        let not_granted = displaces.then(|| slot.writing.take()).flatten();
        let (lost, kept) = if displaces {
            (std::mem::replace(&mut slot.entry, entry.clone()), entry)
        } else {
            (entry, slot.entry.clone())
        };
        if let Some(writing) = not_granted {
            self.reply(now, writing.origin, Response::Taken(kept));
            for waiter in writing.waiters {
                self.serve(now, waiter);
            }
        } else if primary == Some(self.me) {
            let job = EvictJob { lost: lost.clone(), kept, next_at: now, asked: false };
            self.evictions.insert((lost.key, lost.holder), job);
        }
    }

    pub(super) fn run_evictions(&mut self, now: Instant) {
        let due = |job: &EvictJob| job.due().is_some_and(|at| at <= now);
        let keys: Vec<_> = self.evictions.iter().filter(|(_, job)| due(job)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            let Some(mut job) = self.evictions.remove(&key) else { continue };
            // The one kept must be real: its host has told what it holds.
            if !self.sync.told(job.kept.holder) {
                job.next_at = now + EVICT_RETRY;
                self.evictions.insert(key, job);
            } else if !self.table.get(&key.0).is_some_and(|slot| slot.entry.is(&job.kept)) {
                self.merge(now, job.lost);
            } else if job.lost.holder == self.me {
                self.give_up(now, self.me, job.lost, job.kept);
            } else {
                let order = Request::Evict { lost: job.lost.clone(), kept: job.kept.clone() };
                let why = Purpose::Evict { key: key.0.clone(), holder: key.1 };
                self.call(now, key.1, order, ATTEMPT, why);
                job.asked = true;
                self.evictions.insert(key, job);
            }
        }
    }

    pub(super) fn on_evict_answer(&mut self, now: Instant, key: String, holder: NodeId, answer: Option<Response>) {
        let id = (key, holder);
        match answer {
            Some(Response::Done) => _ = self.evictions.remove(&id),
            _ => {
                if let Some(job) = self.evictions.get_mut(&id) {
                    (job.asked, job.next_at) = (false, now + EVICT_RETRY);
                }
            }
        }
    }
}
