//! The simulated network: connections and datagrams between nodes, and whatever else takes its time to arrive.
//!
//! Owns what is under way: everything that goes from one [`Place`] to another waits here until it is due, and is held or
//! lost where the way is cut. Knows nothing of what it carries.

mod node;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    task::Waker,
};

use bytes::Bytes;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::{Notify, mpsc};

pub use self::node::{NodeNet, Stream};
use crate::trace::Trace;

/// Where something runs: nodes count from 0; the store and the log have places of their own.
pub type Place = usize;

/// One run of whoever is at a place: what was sent by an earlier one, or to it, finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    /// Where.
    pub place: Place,
    /// Which one, counted from 1.
    pub number: u32,
}

type Job = Box<dyn FnOnce() + Send>;

/// What travels in order behind what went before.
enum Load {
    Bytes(Bytes),
    /// Nothing more comes.
    End,
    Job(Job),
}

/// One direction of a connection, or of a watch.
struct Flow {
    from: Run,
    to: Run,
    /// Under way, in order, with the time of arrival.
    queue: VecDeque<(u64, Load)>,
    last: u64,
    /// Arrived, and not read yet.
    arrived: VecDeque<Bytes>,
    ended: bool,
    broken: bool,
    reader_gone: bool,
    bytes: usize,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

type FlowId = u64;

enum Due {
    Flow(FlowId),
    Job { from: Run, to: Run, job: Job },
}

struct Socket {
    run: Run,
    waiting: mpsc::UnboundedSender<(Stream, SocketAddr)>,
}

struct Mailbox {
    run: Run,
    datagrams: VecDeque<(Bytes, SocketAddr)>,
    notify: Arc<Notify>,
}

struct State {
    now: u64,
    rng: StdRng,
    /// The present run of each place; none where nobody runs.
    runs: BTreeMap<Place, Run>,
    /// Places that do not even answer that nobody is there: their machine is gone.
    silent: BTreeSet<Place>,
    /// Ways on which nothing arrives, each in one direction.
    cut: BTreeSet<(Place, Place)>,
    /// The shortest and longest time on each way, in microseconds.
    latency: BTreeMap<(Place, Place), (u64, u64)>,
    due: BTreeMap<(u64, u64), Due>,
    serial: u64,
    flows: BTreeMap<FlowId, Flow>,
    /// Flows that wait for their way to be there again.
    held: BTreeSet<FlowId>,
    sockets: BTreeMap<SocketAddr, Socket>,
    boxes: BTreeMap<SocketAddr, Mailbox>,
}

/// The network; a handle.
#[derive(Clone)]
pub struct Net {
    state: Arc<Mutex<State>>,
    trace: Trace,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Net")
    }
}

/// The address of a place.
pub fn address(place: Place) -> SocketAddr {
    let host = u8::try_from(place + 1).unwrap_or(u8::MAX);
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)), 7946)
}

impl State {
    fn delay(&mut self, from: Place, to: Place) -> u64 {
        let (least, most) = self.latency.get(&(from, to)).copied().unwrap_or((500, 2_000));
        self.rng.random_range(least..=most)
    }

    fn plan(&mut self, at: u64, due: Due) {
        self.serial += 1;
        self.due.insert((at, self.serial), due);
    }

    fn alive(&self, run: Run) -> bool {
        self.runs.get(&run.place) == Some(&run)
    }

    fn is_cut(&self, from: Run, to: Run) -> bool {
        self.cut.contains(&(from.place, to.place))
    }

    fn send(&mut self, id: FlowId, load: Load) {
        let Some((from, to)) = self.flows.get(&id).map(|flow| (flow.from, flow.to)) else { return };
        if !self.alive(from) {
            return;
        }
        let arrives = self.now + self.delay(from.place, to.place);
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let at = arrives.max(flow.last);
        flow.last = at;
        if let Load::Bytes(bytes) = &load {
            flow.bytes += bytes.len();
        }
        flow.queue.push_back((at, load));
        self.plan(at, Due::Flow(id));
    }

    /// The connection ends in an error at the reading end of this flow, and at the writing end.
    fn break_flow(&mut self, id: FlowId) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.broken = true;
            flow.queue.clear();
            for waker in [flow.reader.take(), flow.writer.take()].into_iter().flatten() {
                waker.wake();
            }
        }
    }

    /// Sends again, in order, what was held on these ways.
    fn release(&mut self, which: impl Fn(Run, Run) -> bool) {
        let now = self.now;
        for id in std::mem::take(&mut self.held) {
            let Some(flow) = self.flows.get(&id) else { continue };
            if which(flow.from, flow.to) {
                for _ in 0..flow.queue.len() {
                    self.plan(now + 1, Due::Flow(id));
                }
            } else {
                self.held.insert(id);
            }
        }
    }

    fn new_flow(&mut self, from: Run, to: Run) -> FlowId {
        self.serial += 1;
        let id = self.serial;
        let flow = Flow {
            from,
            to,
            queue: VecDeque::new(),
            last: 0,
            arrived: VecDeque::new(),
            ended: false,
            broken: false,
            reader_gone: false,
            bytes: 0,
            reader: None,
            writer: None,
        };
        self.flows.insert(id, flow);
        id
    }
}

/// What is to be done outside of the lock.
enum Arrived {
    Nothing,
    Job(Job),
    Lost(Job),
}

impl Net {
    /// A network without places.
    pub fn new(seed: u64, trace: Trace) -> Self {
        let state = State {
            now: 0,
            rng: StdRng::seed_from_u64(seed),
            runs: BTreeMap::new(),
            silent: BTreeSet::new(),
            cut: BTreeSet::new(),
            latency: BTreeMap::new(),
            due: BTreeMap::new(),
            serial: 0,
            flows: BTreeMap::new(),
            held: BTreeSet::new(),
            sockets: BTreeMap::new(),
            boxes: BTreeMap::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), trace }
    }

    /// Microseconds since the start.
    pub fn now(&self) -> u64 {
        self.state.lock().now
    }

    /// How long something takes from one place to the other, in microseconds, at least and at most.
    pub fn set_latency(&self, from: Place, to: Place, least: u64, most: u64) {
        self.state.lock().latency.insert((from, to), (least, most));
    }

    /// Somebody runs at the place from now on.
    pub fn start(&self, run: Run) {
        let mut state = self.state.lock();
        state.runs.insert(run.place, run);
        if state.silent.remove(&run.place) {
            // Who still sends to the one before is told now that it is gone.
            state.release(|_, to| to.place == run.place);
        }
    }

    /// Nobody runs there any more. A place that is `silent` does not answer; another one refuses connections.
    pub fn stop(&self, place: Place, silent: bool) {
        let mut state = self.state.lock();
        let Some(run) = state.runs.remove(&place) else { return };
        if silent {
            state.silent.insert(place);
        }
        state.sockets.retain(|_, socket| socket.run != run);
        state.boxes.retain(|_, boxed| boxed.run != run);
        // What is under way from there arrives; who sends there later is told, or is not.
        let ended: Vec<FlowId> =
            state.flows.iter().filter(|(_, flow)| flow.from == run || flow.to == run).map(|(id, _)| *id).collect();
        for id in ended {
            let Some(flow) = state.flows.get_mut(&id) else { continue };
            flow.reader_gone |= flow.to == run;
            if !silent && flow.from == run {
                let at = flow.last.max(state.now + 1_000);
                if let Some(flow) = state.flows.get_mut(&id) {
                    flow.last = at;
                    flow.queue.push_back((at, Load::End));
                }
                state.plan(at, Due::Flow(id));
            }
        }
    }

    /// Cuts a way, or joins it again; each direction is a way of its own.
    pub fn set_cut(&self, from: Place, to: Place, cut: bool) {
        let mut state = self.state.lock();
        if cut {
            state.cut.insert((from, to));
            return;
        }
        state.cut.remove(&(from, to));
        state.release(|of, at| (of.place, at.place) == (from, to));
    }

    /// Whether nothing arrives on that way.
    pub fn is_cut(&self, from: Place, to: Place) -> bool {
        self.state.lock().cut.contains(&(from, to))
    }

    /// Breaks every connection between two places.
    pub fn reset(&self, one: Place, other: Place) {
        let mut state = self.state.lock();
        let ids: Vec<FlowId> = state
            .flows
            .iter()
            .filter(|(_, flow)| {
                let ends = (flow.from.place, flow.to.place);
                ends == (one, other) || ends == (other, one)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            state.break_flow(id);
        }
    }

    /// Carries `job` from one run to the other, where it is done. Lost where the way is cut, or nobody is there.
    pub fn send(&self, from: Run, to: Run, job: impl FnOnce() + Send + 'static) {
        let mut state = self.state.lock();
        let after = state.delay(from.place, to.place);
        self.send_in(&mut state, from, to, after, Box::new(job));
    }

    /// The same, so much later than now.
    pub fn send_after(&self, from: Run, to: Run, after: u64, job: impl FnOnce() + Send + 'static) {
        self.send_in(&mut self.state.lock(), from, to, after, Box::new(job));
    }

    fn send_in(&self, state: &mut State, from: Run, to: Run, after: u64, job: Job) {
        if state.alive(from) {
            let at = state.now + after;
            state.plan(at, Due::Job { from, to, job });
        }
    }

    /// The run at a place; where there is none, one that nobody ever is.
    pub fn run_at(&self, place: Place) -> Run {
        self.state.lock().runs.get(&place).copied().unwrap_or(Run { place, number: 0 })
    }

    /// A way on which jobs keep their order, and wait while it is cut.
    pub fn ordered(&self, from: Run, to: Run) -> Ordered {
        let id = self.state.lock().new_flow(from, to);
        Ordered { net: self.clone(), id }
    }

    /// Lets everything arrive that is due at `now`, and does what it brings.
    pub fn arrive(&self, now: u64) {
        self.state.lock().now = now;
        loop {
            let due = {
                let mut state = self.state.lock();
                match state.due.first_key_value() {
                    Some(((at, _), _)) if *at <= now => state.due.pop_first(),
                    _ => None,
                }
            };
            let Some((_, due)) = due else { return };
            let arrived = match due {
                Due::Job { from, to, job } => {
                    let state = self.state.lock();
                    if state.alive(to) && !state.is_cut(from, to) { Arrived::Job(job) } else { Arrived::Lost(job) }
                }
                Due::Flow(id) => self.flow_arrives(id, now),
            };
            match arrived {
                Arrived::Job(job) => job(),
                // Dropped here, outside of the lock.
                Arrived::Lost(job) => drop(job),
                Arrived::Nothing => {}
            }
        }
    }

    fn flow_arrives(&self, id: FlowId, now: u64) -> Arrived {
        let mut state = self.state.lock();
        let Some(flow) = state.flows.get(&id) else { return Arrived::Nothing };
        let (from, to) = (flow.from, flow.to);
        if flow.queue.front().is_none_or(|(at, _)| *at > now) {
            return Arrived::Nothing;
        }
        if state.is_cut(from, to) || state.silent.contains(&to.place) {
            state.held.insert(id);
            return Arrived::Nothing;
        }
        let alive = state.alive(to);
        let Some(flow) = state.flows.get_mut(&id) else { return Arrived::Nothing };
        let Some((_, load)) = flow.queue.pop_front() else { return Arrived::Nothing };
        if !alive || flow.reader_gone {
            // Nobody reads there: the writer is told.
            state.break_flow(id);
            return match load {
                Load::Job(job) => Arrived::Lost(job),
                _ => Arrived::Nothing,
            };
        }
        match load {
            Load::Bytes(bytes) => {
                self.trace.event(|| format!("{now} {}>{} {} bytes", from.place, to.place, bytes.len()));
                flow.arrived.push_back(bytes);
            }
            Load::End => flow.ended = true,
            Load::Job(job) => return Arrived::Job(job),
        }
        if let Some(waker) = flow.reader.take() {
            waker.wake();
        }
        Arrived::Nothing
    }
}

/// Jobs that keep their order.
pub struct Ordered {
    net: Net,
    id: FlowId,
}

impl Ordered {
    /// Carries `job` behind those before it.
    pub fn send(&self, job: impl FnOnce() + Send + 'static) {
        self.net.state.lock().send(self.id, Load::Job(Box::new(job)));
    }

    /// Whether it was broken, from either end.
    pub fn is_broken(&self) -> bool {
        self.net.state.lock().flows.get(&self.id).is_none_or(|flow| flow.broken)
    }
}

impl Drop for Ordered {
    fn drop(&mut self) {
        let gone = self.net.state.lock().flows.remove(&self.id);
        drop(gone);
    }
}
