//! Membership without I/O: datagrams, timers and addresses go in; datagrams and views come out.
//!
//! Owns joining, leaving, coming back after being declared down, and what a
//! [`DcView`] says. foca owns the probing and the spreading of news; it never
//! sees a datagram from a node that is down to it, as who has to give way then
//! is [`decide`]d here.

use std::{
    collections::{BTreeSet, BinaryHeap, HashMap, VecDeque},
    mem,
    net::SocketAddr,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use dc_core::{DcView, Endpoint, Member, NodeId};
use foca::{AccumulatingRuntime, Foca, NoCustomBroadcast, OwnedNotification, PostcardCodec, State, Timer};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IteratorRandom};

use super::{
    split::{Seen, Standing, Verdict, decide},
    wire::{Packet, Tell, decode},
};
use crate::{
    config::GossipTiming,
    identity::{Identity, Rank, next_seniority},
    seal::{Dropped, Envelope},
};

/// Largest datagram, in bytes.
pub(crate) const MAX_DATAGRAM: usize = 1400;
/// How long a view waits for the endpoints of members that have a DNS name.
const NAMES_WAIT: Duration = Duration::from_millis(150);
/// Lost members and seeds asked per round, at most.
const CONTACTS_PER_ROUND: usize = 8;
/// Addresses of members from before the last rejoin that are still tried.
const ACQUAINTANCES: usize = 128;
/// Members, live and down, that are kept; gossip of further ones is dropped.
const MAX_KNOWN: usize = 4096;
/// Exchanges of standings between two nodes before they wait for the next contact.
const MAX_HOPS: u8 = 4;

/// This node, as it presents itself.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) node: NodeId,
    pub(crate) addr: SocketAddr,
    pub(crate) endpoint: Endpoint,
}

impl Own {
    fn identity(&self, seniority: u64) -> Identity {
        let named = self.endpoint != Endpoint::from(self.addr);
        Identity { addr: self.addr, seniority, node: self.node, named }
    }
}

/// What the core wants done. Drained after every input.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Datagrams to send, in order.
    pub(crate) send: Vec<(SocketAddr, Vec<u8>)>,
    /// The view, where it changed.
    pub(crate) view: Option<DcView>,
    /// The new seniority, where this node came back after it had been declared down.
    pub(crate) rejoined: Option<u64>,
}

#[derive(Debug)]
enum Phase {
    /// Asking for the highest seniority. No identity yet.
    Founding {
        until: Instant,
        limit: Instant,
        rival_at: Option<Instant>,
    },
    /// An identity, but nobody has fed us members yet; past `until` alone is joined too.
    Joining {
        until: Instant,
    },
    Joined,
    Left,
}

#[derive(Debug, PartialEq, Eq)]
enum Due {
    Foca { generation: u64, timer: Timer<Identity> },
    Contact,
    Founding,
    Joining,
    Names,
}

/// A timer; ordered so that the earliest, and among equals the first set, is the greatest.
#[derive(Debug, PartialEq, Eq)]
struct Timed {
    at: Instant,
    number: u64,
    due: Due,
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

type Swim = Foca<Identity, PostcardCodec, StdRng, NoCustomBroadcast>;

/// One node's membership.
pub(crate) struct Core {
    own: Own,
    timing: GossipTiming,
    founding_wait: Duration,
    envelope: Envelope,
    rng: StdRng,
    /// Marks our questions, so that an answer to nobody is ignored.
    nonce: u64,
    foca: Option<Swim>,
    runtime: AccumulatingRuntime<Identity>,
    /// Which foca instance a timer belongs to.
    generation: u64,
    phase: Phase,
    /// The highest seniority ever seen or given.
    highest: u64,
    seeds: Vec<SocketAddr>,
    acquaintances: VecDeque<SocketAddr>,
    contact_wait: Duration,
    timers: BinaryHeap<Timed>,
    timers_set: u64,
    endpoints: HashMap<NodeId, Endpoint>,
    /// Since when a view is held back for want of endpoints.
    names_since: Option<Instant>,
    /// When they are asked for again.
    names_at: Option<Instant>,
    published: DcView,
    out: Output,
}

impl Core {
    /// A node that begins to ask its seeds as soon as it is told of any.
    pub(crate) fn new(
        own: Own,
        timing: GossipTiming,
        founding_wait: Duration,
        expects_others: bool,
        envelope: Envelope,
        seed: u64,
        now: Instant,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ own.node.0 as u64);
        let me = Member { node: own.node, seniority: u64::MAX, endpoint: own.endpoint.clone() };
        let mut core = Self {
            published: DcView { me: own.node, joined: false, members: vec![me] },
            nonce: rng.random(),
            own,
            timing,
            founding_wait,
            envelope,
            rng,
            foca: None,
            runtime: AccumulatingRuntime::new(),
            generation: 0,
            phase: Phase::Founding { until: now + founding_wait, limit: now + founding_wait * 4, rival_at: None },
            highest: 0,
            seeds: Vec::new(),
            acquaintances: VecDeque::new(),
            contact_wait: Duration::ZERO,
            timers: BinaryHeap::new(),
            timers_set: 0,
            endpoints: HashMap::new(),
            names_since: None,
            names_at: None,
            out: Output::default(),
        };
        core.contact_wait = core.first_contact_wait();
        core.set(now, Due::Contact);
        if expects_others {
            core.set(now + founding_wait, Due::Founding);
        } else {
            core.found(now);
        }
        core
    }

    /// The view as it was last published.
    pub(crate) fn view(&self) -> &DcView {
        &self.published
    }

    /// What there is to do since the last call.
    pub(crate) fn take_output(&mut self) -> Output {
        mem::take(&mut self.out)
    }

    /// When [`on_time`](Self::on_time) must be called at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.peek().map(|timed| timed.at)
    }

    /// Discovery has found these addresses; they replace the earlier ones.
    pub(crate) fn on_seeds(&mut self, now: Instant, addresses: Vec<SocketAddr>) {
        let new = addresses.iter().any(|addr| !self.seeds.contains(addr));
        self.seeds = addresses;
        if new && !matches!(self.phase, Phase::Left) {
            self.contact(now);
        }
    }

    /// Runs what is due.
    pub(crate) fn on_time(&mut self, now: Instant) {
        while self.timers.peek().is_some_and(|timed| timed.at <= now) {
            let Some(timed) = self.timers.pop() else { break };
            match timed.due {
                _ if matches!(self.phase, Phase::Left) => {}
                Due::Foca { generation, timer } if generation == self.generation => {
                    self.with_foca(now, |foca, runtime| foca.handle_timer(timer, runtime));
                }
                Due::Foca { .. } => {}
                Due::Contact => {
                    self.contact(now);
                    let wait = self.contact_wait.mul_f64(self.rng.random_range(0.75..1.25));
                    self.set(now + wait, Due::Contact);
                    if !matches!(self.phase, Phase::Founding { .. }) {
                        self.contact_wait = (self.contact_wait * 2).min(self.timing.contact_period);
                    }
                }
                Due::Founding => self.founding_due(now),
                Due::Joining | Due::Names => self.refresh(now),
            }
        }
    }

    /// A datagram came from `from`.
    ///
    /// # Errors
    ///
    /// Why it was dropped.
    pub(crate) fn on_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> Result<(), Dropped> {
        let body = self.envelope.open(datagram)?;
        let packet = decode(&body).ok_or(Dropped::Malformed)?;
        if matches!(self.phase, Phase::Left) {
            return Ok(());
        }
        match packet {
            Packet::Foca(bytes) => return self.on_foca(now, bytes),
            Packet::Ask { nonce, node, from: asker } => self.on_ask(from, nonce, node, asker),
            Packet::Tell(tell) => self.on_tell(now, tell),
            Packet::Founding { nonce, node } => self.on_rival(now, nonce, node),
            Packet::Who => {
                let iam = Packet::Iam { node: self.own.node, endpoint: self.own.endpoint.clone() };
                self.send(from, &iam);
            }
            Packet::Iam { node, endpoint } => self.on_iam(now, node, endpoint),
            Packet::Leave(identity) if self.seen(&identity) == Seen::Alive => {
                let down = foca::Member::down(identity);
                self.with_foca(now, |foca, runtime| foca.apply_many(std::iter::once(down), true, runtime));
            }
            Packet::Leave(_) => {}
            Packet::Rally(address) => self.on_rally(address),
        }
        Ok(())
    }

    /// Says goodbye to every member. Nothing is handled after it.
    pub(crate) fn leave(&mut self) {
        if let (Some(me), false) = (self.me(), matches!(self.phase, Phase::Left)) {
            // Twice: it is not answered, and what is lost costs the suspicion time.
            for _ in 0..2 {
                for address in self.alive_addresses() {
                    self.send(address, &Packet::Leave(me));
                }
            }
        }
        self.phase = Phase::Left;
    }

    // -- founding and joining ---------------------------------------------------------

    fn first_contact_wait(&self) -> Duration {
        (self.founding_wait / 5).clamp(Duration::from_millis(5), Duration::from_millis(200))
    }

    fn founding_due(&mut self, now: Instant) {
        let Phase::Founding { until, limit, rival_at } = self.phase else { return };
        if now < until {
            return;
        }
        let rival_is_fresh = rival_at.is_some_and(|at| now.saturating_duration_since(at) < self.founding_wait);
        if rival_is_fresh && now < limit {
            // Another founder with a lower node id answers: it founds, we join it.
            self.set(now + self.first_contact_wait(), Due::Founding);
        } else {
            self.found(now);
        }
    }

    /// Nobody answered: this node is the first.
    fn found(&mut self, now: Instant) {
        tracing::info!(node = %self.own.node.short(), "nobody answered: founding the datacenter's cluster");
        self.become_member(now, next_seniority(self.highest));
        self.phase = Phase::Joined;
        self.refresh(now);
    }

    /// Takes a new identity, with a foca that knows nobody.
    fn become_member(&mut self, now: Instant, seniority: u64) {
        self.highest = self.highest.max(seniority);
        self.generation += 1;
        self.runtime = AccumulatingRuntime::new();
        let room = MAX_DATAGRAM.saturating_sub(self.envelope.overhead() + Packet::FOCA_OVERHEAD);
        let config = self.timing.foca(NonZeroUsize::new(room).unwrap_or(NonZeroUsize::MIN));
        let rng = StdRng::seed_from_u64(self.rng.random());
        self.foca = Some(Foca::new(self.own.identity(seniority), config, rng, PostcardCodec));
        self.phase = Phase::Joining { until: now + self.founding_wait };
        self.set(now + self.founding_wait, Due::Joining);
    }

    fn on_rival(&mut self, now: Instant, nonce: u64, node: NodeId) {
        if nonce == self.nonce
            && node < self.own.node
            && let Phase::Founding { rival_at, .. } = &mut self.phase
        {
            *rival_at = Some(now);
        }
    }

    /// Asks seeds and lost members that are not live members here.
    fn contact(&mut self, _now: Instant) {
        let alive: BTreeSet<SocketAddr> = self.alive_addresses().into_iter().chain([self.own.addr]).collect();
        self.acquaintances.retain(|address| !alive.contains(address));
        let seeds = self.seeds.iter().filter(|address| !alive.contains(address)).copied();
        let mut asked: BTreeSet<SocketAddr> = seeds.sample(&mut self.rng, CONTACTS_PER_ROUND).into_iter().collect();
        let down = self.foca.iter().flat_map(|foca| foca.iter_membership_state());
        let down = down.filter(|member| member.state() == State::Down).map(|member| member.id().addr);
        let lost = down.chain(self.acquaintances.iter().copied()).filter(|address| !alive.contains(address));
        asked.extend(lost.sample(&mut self.rng, 2));
        for address in asked {
            self.ask(address);
        }
    }

    fn ask(&mut self, address: SocketAddr) {
        let ask = Packet::Ask { nonce: self.nonce, node: self.own.node, from: self.me() };
        self.send(address, &ask);
    }

    // -- our own questions ------------------------------------------------------------

    fn on_ask(&mut self, from: SocketAddr, nonce: u64, node: NodeId, asker: Option<Identity>) {
        if node == self.own.node {
            return;
        }
        match self.me() {
            Some(me) if matches!(self.phase, Phase::Joined) => {
                let highest = self.highest;
                if asker.is_none() {
                    // The asker takes the next seniority: the next asker takes the one after.
                    self.highest = next_seniority(highest);
                }
                let you = asker.as_ref().map_or(Seen::Unknown, |asker| self.seen(asker));
                let tell = Tell { highest, ..self.tell(me, asker, you, nonce, 0) };
                self.send(from, &Packet::Tell(tell));
            }
            _ => self.send(from, &Packet::Founding { nonce, node: self.own.node }),
        }
    }

    fn tell(&self, me: Identity, to: Option<Identity>, you: Seen, nonce: u64, hops: u8) -> Tell {
        let endpoint = self.own.endpoint.clone();
        Tell { nonce, hops, to, from: me, endpoint, highest: self.highest, you, standing: self.standing(me) }
    }

    fn on_tell(&mut self, now: Instant, tell: Tell) {
        if tell.from.addr == self.own.addr {
            return;
        }
        let asked = tell.nonce == self.nonce;
        if asked {
            self.highest = self.highest.max(tell.highest).max(tell.from.seniority);
        }
        let Some(me) = self.me() else {
            if asked && tell.to.is_none() {
                self.learn(&tell);
                self.become_member(now, next_seniority(self.highest));
                self.announce(now, tell.from);
            }
            return;
        };
        if tell.to != Some(me) {
            return;
        }
        let they = self.seen(&tell.from);
        if matches!(self.phase, Phase::Joining { .. }) && tell.you != Seen::Down {
            // Our announce, or its answer, was lost.
            self.learn(&tell);
            return self.announce(now, tell.from);
        }
        match decide(&self.standing(me), &tell.standing, they, tell.you) {
            Verdict::Same => {
                if they != Seen::Alive || tell.you != Seen::Alive {
                    self.learn(&tell);
                    self.announce(now, tell.from);
                }
            }
            Verdict::IYield if asked => self.rejoin(now, &tell),
            // Who comes back needs the highest seniority, and takes it only from an answer.
            Verdict::IYield => self.ask(tell.from.addr),
            Verdict::TheyYield if tell.hops < MAX_HOPS => {
                let word = self.tell(me, Some(tell.from), they, 0, tell.hops + 1);
                self.send(tell.from.addr, &Packet::Tell(word));
            }
            Verdict::TheyYield => {}
        }
    }

    /// Comes back under a new seniority on the side of `tell.from`.
    fn rejoin(&mut self, now: Instant, tell: &Tell) {
        let left_behind = self.alive_addresses();
        for &address in left_behind.iter().take(64) {
            self.send(address, &Packet::Rally(tell.from.addr));
        }
        self.reborn(now);
        self.learn(tell);
        self.announce(now, tell.from);
        tracing::info!(seniority = self.highest, via = %tell.from.addr, "rejoining after having been declared down");
    }

    /// A new identity. What the old one knew is kept as addresses to try.
    fn reborn(&mut self, now: Instant) {
        let known: Vec<SocketAddr> =
            self.foca.iter().flat_map(|foca| foca.iter_membership_state()).map(|m| m.id().addr).collect();
        for address in known {
            if !self.acquaintances.contains(&address) {
                self.acquaintances.push_back(address);
            }
        }
        let surplus = self.acquaintances.len().saturating_sub(ACQUAINTANCES);
        self.acquaintances.drain(..surplus);
        self.contact_wait = self.first_contact_wait();
        self.become_member(now, next_seniority(self.highest));
        self.out.rejoined = Some(self.highest);
    }

    fn announce(&mut self, now: Instant, to: Identity) {
        self.with_foca(now, |foca, runtime| foca.announce(to, runtime));
    }

    fn learn(&mut self, tell: &Tell) {
        self.endpoints.insert(tell.from.node, tell.endpoint.clone());
    }

    fn on_iam(&mut self, now: Instant, node: NodeId, endpoint: Endpoint) {
        if self.alive().any(|member| member.node == node && member.named) {
            self.endpoints.insert(node, endpoint);
            self.refresh(now);
        }
    }

    fn on_rally(&mut self, address: SocketAddr) {
        let alive = address == self.own.addr || self.alive().any(|member| member.addr == address);
        if !alive && self.me().is_some() {
            self.ask(address);
        }
    }

    // -- foca -------------------------------------------------------------------------

    fn on_foca(&mut self, now: Instant, bytes: &[u8]) -> Result<(), Dropped> {
        let Some(me) = self.me() else { return Ok(()) };
        let (header, _) = postcard::take_from_bytes::<foca::Header<Identity>>(bytes).map_err(|_| Dropped::Malformed)?;
        let source = header.src;
        if source.addr == me.addr {
            return Ok(());
        }
        self.highest = self.highest.max(source.seniority);
        let seen = self.seen(&source);
        let known = self.foca.as_ref().map_or(0, |foca| foca.iter_membership_state().len());
        if seen == Seen::Unknown && known >= MAX_KNOWN {
            return Err(Dropped::TooMany);
        }
        let meant_for_me = header.dst == me || header.message == foca::Message::Announce;
        if seen == Seen::Down || !meant_for_me {
            // It is down to us, or knows an earlier life of ours: compare notes.
            let word = self.tell(me, Some(source), seen, 0, 0);
            self.send(source.addr, &Packet::Tell(word));
            return Ok(());
        }
        self.with_foca(now, |foca, runtime| foca.handle_data(bytes, runtime));
        Ok(())
    }

    /// Runs one step of foca and carries out what it asks for.
    fn with_foca(
        &mut self,
        now: Instant,
        step: impl FnOnce(&mut Swim, &mut AccumulatingRuntime<Identity>) -> Result<(), foca::Error>,
    ) {
        let Some(foca) = &mut self.foca else { return };
        if let Err(err) = step(foca, &mut self.runtime) {
            tracing::debug!(%err, "gossip step refused");
        }
        while let Some((to, bytes)) = self.runtime.to_send() {
            self.send(to.addr, &Packet::Foca(&bytes));
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.set(now + after, Due::Foca { generation: self.generation, timer });
        }
        let (mut changed, mut defunct) = (false, false);
        while let Some(notification) = self.runtime.to_notify() {
            changed = true;
            defunct |= matches!(notification, OwnedNotification::Defunct);
        }
        if defunct {
            // A live member spreads that we are down: come back as the youngest.
            let to = self.alive().next();
            self.note_seniorities();
            self.reborn(now);
            if let Some(to) = to {
                self.announce(now, to);
            }
            self.contact(now);
        }
        if changed {
            self.note_seniorities();
            self.refresh(now);
        }
    }

    fn note_seniorities(&mut self) {
        let known = self.foca.iter().flat_map(|foca| foca.iter_membership_state());
        self.highest = known.map(|member| member.id().seniority).fold(self.highest, u64::max);
    }

    fn me(&self) -> Option<Identity> {
        self.foca.as_ref().map(|foca| *foca.identity())
    }

    fn alive(&self) -> impl Iterator<Item = Identity> + '_ {
        self.foca.iter().flat_map(|foca| foca.iter_members()).map(|member| *member.id())
    }

    fn alive_addresses(&self) -> Vec<SocketAddr> {
        self.alive().map(|member| member.addr).collect()
    }

    /// What `identity` is to this node.
    fn seen(&self, identity: &Identity) -> Seen {
        let mut known = self.foca.iter().flat_map(|foca| foca.iter_membership_state());
        match known.find(|member| member.id().addr == identity.addr) {
            None => Seen::Unknown,
            Some(member) if member.id() == identity && member.state() == State::Down => Seen::Down,
            Some(member) if member.id() == identity => Seen::Alive,
            Some(member) if member.id().rank() > identity.rank() => Seen::Down,
            Some(_) => Seen::Unknown,
        }
    }

    fn standing(&self, me: Identity) -> Standing {
        let ranks = || self.alive().map(|member| member.rank()).chain([me.rank()]);
        let leader: Rank = ranks().min().unwrap_or(me.rank());
        Standing { size: u32::try_from(ranks().count()).unwrap_or(u32::MAX), leader, me: me.rank() }
    }

    // -- the view ---------------------------------------------------------------------

    /// Publishes the view, where it has changed and may be shown.
    fn refresh(&mut self, now: Instant) {
        let Some(me) = self.me() else { return };
        let company = self.alive().next().is_some();
        match self.phase {
            Phase::Joining { until } if company || now >= until => self.phase = Phase::Joined,
            // Until the first members answer, the view from before stays.
            Phase::Joining { .. } | Phase::Founding { .. } | Phase::Left => return,
            Phase::Joined => {}
        }
        let mut members: Vec<Identity> = self.alive().chain([me]).collect();
        members.sort_by_key(Identity::rank);
        let unnamed: Vec<SocketAddr> = members.iter().filter(|m| self.must_ask(m)).map(|m| m.addr).collect();
        let lost_one = self.published.members.iter().any(|old| !members.iter().any(|m| m.node == old.node));
        if unnamed.is_empty() {
            self.names_since = None;
        } else {
            let since = *self.names_since.get_or_insert(now);
            let waiting = now < since + NAMES_WAIT;
            self.ask_names(now, &unnamed, waiting);
            if waiting && !lost_one {
                return;
            }
        }
        self.endpoints.retain(|node, _| members.iter().any(|member| member.node == *node));
        let members = members.iter().map(|member| self.describe(member)).collect();
        let view = DcView { me: me.node, joined: true, members };
        if view != self.published {
            self.published = view.clone();
            self.out.view = Some(view);
        }
    }

    /// Asks members for their endpoints: soon again while a view waits for them, then at leisure.
    fn ask_names(&mut self, now: Instant, unnamed: &[SocketAddr], waiting: bool) {
        for &address in unnamed {
            self.send(address, &Packet::Who);
        }
        if self.names_at.is_none_or(|at| at <= now) {
            let at = now + if waiting { NAMES_WAIT / 3 } else { self.timing.contact_period };
            self.names_at = Some(at);
            self.set(at, Due::Names);
        }
    }

    fn must_ask(&self, member: &Identity) -> bool {
        member.named && member.node != self.own.node && !self.endpoints.contains_key(&member.node)
    }

    fn describe(&self, member: &Identity) -> Member {
        let endpoint = match self.endpoints.get(&member.node) {
            _ if member.node == self.own.node => self.own.endpoint.clone(),
            Some(endpoint) if member.named => endpoint.clone(),
            _ => Endpoint::from(member.addr),
        };
        Member { node: member.node, seniority: member.seniority, endpoint }
    }

    // -- small things -----------------------------------------------------------------

    fn set(&mut self, at: Instant, due: Due) {
        self.timers_set += 1;
        self.timers.push(Timed { at, number: self.timers_set, due });
    }

    fn send(&mut self, to: SocketAddr, packet: &Packet<'_>) {
        match packet.encode() {
            Ok(body) => self.out.send.push((to, self.envelope.close(&body))),
            Err(err) => tracing::error!(%err, "cannot encode a gossip packet"),
        }
    }
}
