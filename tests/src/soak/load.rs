//! What a node sends: bursts of tells and asks, in order and without waiting in between, to named actors and grains of
//! the whole system; look-ups; spawns. Each sender writes down what it was told of each message.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use dc_core::{Clock, SystemClock};
use futures::{FutureExt, future::join_all};
use multidc::{Infallible, prelude::*};
use tokio::sync::watch;

use super::{
    actors::{Ack, Brief, BriefArgs, Cart, Deed, Here, Ledger, Put, Target, Vault},
    clock::now_us,
    control::{NodeSpec, Plant, Said, error_number},
    record::{Class, Entry, Outcome, What},
};
use crate::rng::Rng;

/// Longest wait for an answer, or for room.
const PATIENCE: Duration = Duration::from_secs(5);

/// The name of a target.
pub(crate) fn target_name(slot: usize, number: usize) -> String {
    format!("t-{slot}-{number}")
}

/// The name of the global actor that this place sees to.
pub(crate) fn deed_name(slot: usize) -> String {
    format!("d-{slot}")
}

/// Counts of one node.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) lookups: AtomicU64,
    pub(crate) lookups_failed: AtomicU64,
}

/// What all senders of a node share.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) system: ActorSystem,
    pub(crate) spec: NodeSpec,
    pub(crate) here: &'static Here,
    pub(crate) rate: watch::Receiver<f64>,
    pub(crate) counts: Counts,
    pub(crate) say: fn(&Said),
}

/// A way to a target, and the messages that went there.
struct Line<R> {
    to: R,
    /// What a tell's entry names as its receiver: the node, where that is known.
    receiver: u64,
    class: Class,
    stream: u64,
    seq: u32,
}

/// One sender.
pub(crate) struct Sender {
    load: Arc<Load>,
    rng: Rng,
    rate: watch::Receiver<f64>,
    due: Instant,
    targets: HashMap<usize, Line<Ref<Target>>>,
    carts: HashMap<u32, Line<GrainRef<Cart>>>,
    ledgers: HashMap<u32, Line<GrainRef<Ledger>>>,
    vaults: HashMap<u32, Line<GrainRef<Vault>>>,
    deeds: HashMap<usize, Line<Ref<Deed>>>,
    pad: Bytes,
}

impl Sender {
    pub(crate) fn new(load: &Arc<Load>, number: u64) -> Self {
        let seed = load.spec.seed ^ (u64::from(load.spec.run) << 32) ^ number;
        Self {
            load: load.clone(),
            rng: Rng::new(seed),
            rate: load.rate.clone(),
            due: SystemClock.now(),
            targets: HashMap::new(),
            carts: HashMap::new(),
            ledgers: HashMap::new(),
            vaults: HashMap::new(),
            deeds: HashMap::new(),
            pad: Bytes::from(vec![7; 100_000]),
        }
    }

    /// Sends until the process ends.
    pub(crate) async fn run(mut self) {
        loop {
            let sent = match self.rng.range(0..1000) {
                0..720 => self.send_to_target().await,
                720..930 => self.send_to_grain().await,
                930..960 => self.send_to_deed().await,
                960..992 => self.look_up().await,
                _ => self.spawn().await,
            };
            self.pace(sent).await;
        }
    }

    /// Waits until the next burst is due.
    async fn pace(&mut self, sent: u32) {
        loop {
            let rate = *self.rate.borrow_and_update();
            if rate.is_infinite() {
                // Senders that never wait for anything let others run.
                return tokio::task::yield_now().await;
            }
            if rate <= 0.0 {
                if self.rate.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                self.due = SystemClock.now();
                continue;
            }
            let now = SystemClock.now();
            let share = rate / self.load.spec.workers as f64;
            // What could not be sent in time is not made up for: there is no flood after an outage.
            self.due = self.due.max(now) + Duration::from_secs_f64(f64::from(sent.max(1)) / share);
            tokio::select! {
                () = tokio::time::sleep(self.due - now) => {}
                _ = self.rate.changed() => {}
            }
            return;
        }
    }

    fn pad(&mut self) -> Bytes {
        // The largest goes over the bulk lane.
        let size = match self.rng.range(0..1000) {
            0..900 => self.rng.range(0..64),
            900..997 => self.rng.range(64..4_096),
            _ => self.rng.range(70_000..100_000),
        };
        self.pad.slice(..size as usize)
    }

    async fn send_to_target(&mut self) -> u32 {
        let spec = &self.load.spec;
        let number = self.rng.index(spec.slots * spec.targets);
        if !self.targets.contains_key(&number) {
            let name = target_name(number / spec.targets, number % spec.targets);
            match self.find(&name, Class::Actor).await {
                Some(line) => drop(self.targets.insert(number, line)),
                None => return 1,
            }
        }
        let count = self.rng.range(1..9);
        let puts = self.puts(count);
        // Put there above, if it was not there before.
        let line = self.targets.get_mut(&number).expect("found");
        let well = burst(&self.load, line, number as u32, puts, |to, put| to.tell(put), |to, put| to.ask(put)).await;
        if !well {
            self.targets.remove(&number);
        }
        count as u32
    }

    /// `count` messages, each a tell or an ask.
    fn puts(&mut self, count: u64) -> Vec<Put> {
        let put = |sender: &mut Self| {
            let (tell, pad) = (sender.rng.percent(60), sender.pad());
            Put { stream: 0, seq: 0, sent_us: 0, tell, last: false, pad }
        };
        (0..count).map(|_| put(self)).collect()
    }

    async fn send_to_grain(&mut self) -> u32 {
        let grain = 1 + self.rng.range(0..u64::from(self.load.spec.grains)) as u32;
        let count = self.rng.range(1..5);
        let puts = self.puts(count);
        let load = &self.load;
        match self.rng.range(0..3) {
            0 => {
                let new = || Line::new(load, load.system.grain::<Cart>(grain.to_string()), 0, Class::Cart);
                let line = self.carts.entry(grain).or_insert_with(new);
                burst(load, line, grain, puts, |to, put| to.tell(put), |to, put| to.ask(put)).await;
            }
            1 => {
                let new = || Line::new(load, load.system.grain::<Ledger>(grain.to_string()), 0, Class::Ledger);
                let line = self.ledgers.entry(grain).or_insert_with(new);
                burst(load, line, grain, puts, |to, put| to.tell(put), |to, put| to.ask(put)).await;
            }
            _ => {
                let new = || Line::new(load, load.system.grain::<Vault>(grain.to_string()), 0, Class::Vault);
                let line = self.vaults.entry(grain).or_insert_with(new);
                burst(load, line, grain, puts, |to, put| to.tell(put), |to, put| to.ask(put)).await;
            }
        }
        count as u32
    }

    async fn send_to_deed(&mut self) -> u32 {
        let slot = self.rng.index(self.load.spec.slots);
        if !self.deeds.contains_key(&slot) {
            match self.find(&deed_name(slot), Class::Deed).await {
                Some(line) => drop(self.deeds.insert(slot, line)),
                None => return 1,
            }
        }
        let count = self.rng.range(1..5);
        let puts = self.puts(count);
        // Put there above, if it was not there before. It follows its actor, so it is kept when something fails.
        let line = self.deeds.get_mut(&slot).expect("found");
        let number = slot as u32 + 1;
        burst(&self.load, line, number, puts, |to, put| to.tell(put), |to, put| to.ask(put)).await;
        count as u32
    }

    async fn find<A: RemoteActor>(&self, name: &str, class: Class) -> Option<Line<Ref<A>>> {
        let counts = &self.load.counts;
        counts.lookups.fetch_add(1, Ordering::Relaxed);
        match self.load.system.actor_of::<A>(name).await {
            Ok(found) => {
                let node = found.node().0 as u64;
                Some(Line::new(&self.load, found, node, class))
            }
            Err(_) => {
                counts.lookups_failed.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    async fn look_up(&mut self) -> u32 {
        let spec = &self.load.spec;
        let number = self.rng.index(spec.slots * spec.targets);
        let name = target_name(number / spec.targets, number % spec.targets);
        if let Some(mut line) = self.find::<Target>(&name, Class::Actor).await {
            let puts = self.puts(1);
            burst(&self.load, &mut line, number as u32, puts, |to, put| to.tell(put), |to, put| to.ask(put)).await;
        }
        2
    }

    /// Spawns an actor in some datacenter, asks it once, and lets it stop.
    async fn spawn(&mut self) -> u32 {
        let load = &self.load;
        let stream = load.here.number();
        let dc = 1 + self.rng.index(load.spec.slots / load.spec.per_dc);
        let sent_us = now_us();
        let name = format!("b-{stream:x}");
        let spawn = load.system.spawn_on::<Brief>(name, BriefArgs { stream, sent_us });
        let spawned = spawn.in_data_center(Selector::name(format!("dc-{dc}"))).await;
        let told = |outcome, error| {
            let (class, activation, at_us) = (Class::Spawn, 0, now_us());
            let what = What::Told(outcome, error);
            load.here.write(&Entry { what, class, stream, seq: 1, activation, sent_us, at_us, grain: 0 });
        };
        match spawned {
            Ok(brief) => {
                told(Outcome::Acknowledged, 0);
                let node = brief.node().0 as u64;
                let mut line = Line::new(load, brief, node, Class::Actor);
                let put = Put { stream: 0, seq: 0, sent_us: 0, tell: false, last: true, pad: Bytes::new() };
                burst(load, &mut line, 0, vec![put], |to, put| to.tell(put), |to, put| to.ask(put)).await;
            }
            Err(error) if error.certainly_not_run() => told(Outcome::NotRun, error_number(error.name())),
            Err(error) => told(Outcome::Unknown, error_number(error.name())),
        }
        2
    }
}

impl<R> Line<R> {
    fn new(load: &Load, to: R, receiver: u64, class: Class) -> Self {
        Self { to, receiver, class, stream: load.here.number(), seq: 0 }
    }
}

/// Sends all of them in this order, none waiting for another, and writes down what came of each. False if any failed.
async fn burst<R, A>(
    load: &Load,
    line: &mut Line<R>,
    number: u32,
    puts: Vec<Put>,
    tell: impl Fn(&R, Put) -> multidc::Tell<A, Put>,
    ask: impl Fn(&R, Put) -> multidc::Ask<A, Put>,
) -> bool
where
    A: Handles<Put, Ok = Ack, Err = Infallible>,
{
    let (class, stream, receiver) = (line.class, line.stream, line.receiver);
    let grain = if class == Class::Actor { 0 } else { number };
    let sent: Vec<_> = puts
        .into_iter()
        .map(|put| {
            line.seq += 1;
            let (seq, sent_us) = (line.seq, now_us());
            let put = Put { stream, seq, sent_us, ..put };
            let sending = if put.tell {
                let told = tell(&line.to, put).timeout(PATIENCE).into_future();
                told.map(|told| told.map(|()| None)).left_future()
            } else {
                let asked = ask(&line.to, put).timeout(PATIENCE).into_future();
                asked.map(|asked| asked.map(Some).map_err(failed)).right_future()
            };
            sending.map(move |result| {
                let mut well = true;
                let (outcome, error, activation) = match result {
                    Ok(Some(ack)) => {
                        check_target(load, &ack, number);
                        let lie = load.here.strikes(Plant::Lie, 100);
                        (if lie { Outcome::NotRun } else { Outcome::Acknowledged }, 0, ack.activation)
                    }
                    Ok(None) => (Outcome::Accepted, 0, receiver),
                    Err(error) => {
                        well = false;
                        let not_run = error.certainly_not_run();
                        let outcome = if not_run { Outcome::NotRun } else { Outcome::Unknown };
                        (outcome, error_number(error.name()), 0)
                    }
                };
                let what = What::Told(outcome, error);
                load.here.write(&Entry { what, class, stream, seq, activation, sent_us, at_us: now_us(), grain });
                well
            })
        })
        .collect();
    join_all(sent).await.into_iter().all(|well| well)
}

/// A look-up by name must lead to the actor of that name (A2), a grain's identity to that grain.
fn check_target(load: &Load, ack: &Ack, number: u32) {
    if ack.target != number {
        let text = format!("a message for number {number} was answered by number {}", ack.target);
        (load.say)(&Said::Wrong { rule: "A2".into(), text });
    }
}

/// None of these actors' handlers returns an error of its own.
fn failed(error: AskError<Infallible>) -> Error {
    match error {
        AskError::Failed(error) => error,
        AskError::Handler(never) => match never {},
    }
}

/// Asks every named target and every global one once, again and again until it answers, each at most for `bound`.
pub(crate) async fn roll(load: &Arc<Load>, bound: Duration) -> (usize, Vec<String>) {
    let spec = &load.spec;
    let names = (0..spec.slots).flat_map(|slot| (0..spec.targets).map(move |number| (slot, number)));
    let targets = names.map(|(slot, number)| {
        let position = (slot * spec.targets + number) as u32;
        reach::<Target>(load, target_name(slot, number), position, Class::Actor, bound).left_future()
    });
    let deeds = (0..spec.slots)
        .map(|slot| reach::<Deed>(load, deed_name(slot), slot as u32 + 1, Class::Deed, bound).right_future());
    let results = join_all(targets.chain(deeds)).await;
    let missing: Vec<_> = results.iter().filter_map(|result| result.as_ref().err().cloned()).collect();
    (results.len() - missing.len(), missing)
}

/// Looks up a name and asks who answers to it, until that succeeds.
async fn reach<A>(load: &Arc<Load>, name: String, number: u32, class: Class, bound: Duration) -> Result<(), String>
where
    A: Handles<Put, Ok = Ack, Err = Infallible>,
{
    let found = crate::eventually(&name, bound, || async {
        let found = load.system.actor_of::<A>(name.as_str()).await.map_err(|error| error.to_string())?;
        let mut line = Line::new(load, found, 0, class);
        let put = Put { stream: 0, seq: 0, sent_us: 0, tell: false, last: false, pad: Bytes::new() };
        let well = burst(load, &mut line, number, vec![put], |to, put| to.tell(put), |to, put| to.ask(put)).await;
        if well { Ok(()) } else { Err("the ask failed".to_owned()) }
    });
    found.await.map_err(|error| error.to_string())
}
