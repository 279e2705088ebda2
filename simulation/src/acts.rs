//! What is done to the world while things break, and the end of that.

use std::sync::{Arc, atomic::Ordering};

use dc_controlplane::memory::MemoryControlPlane;
use multidc::{ControlPlane, DataCenterState, DrainOptions, DrainOutcome, IntentKind};
use parking_lot::Mutex;
use rand::RngExt;

use crate::{
    count::Measured,
    net::Place,
    world::{Config, DATACENTERS, LOG, MS, NODES, Report, SECOND, STORE, World, places_of},
};

/// How long the world may take to come up.
const BOOT: u64 = 30 * SECOND;
/// How long things break.
const FAULTS: u64 = 60 * SECOND;
/// Within this time after the last fault everything answers again, and every drain has ended.
const CALM: u64 = 60 * SECOND;

/// Something that is planned.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Do something, and plan the next.
    Next,
    Boot(Place),
    Resume(Place),
    Join(Vec<(Place, Place)>),
    StoreAgain,
    AnswersAgain,
    Serve(&'static str),
    /// A node that shuts down must have ended by now.
    Gone(Place, Arc<Mutex<bool>>),
}

/// What is told of a drain at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Its end.
    As(DrainOutcome),
    /// Nothing is known of it: the store did not answer. It may have begun.
    Unknown,
}

/// A drain that was begun.
pub(crate) struct Draining {
    dc: Arc<str>,
    /// The node that tells of it.
    place: Place,
    run: u32,
    outcome: Arc<Mutex<Option<Ended>>>,
    told: bool,
    undone: bool,
}

impl World {
    fn plan(&mut self, after: u64, act: Act) {
        self.serial += 1;
        self.acts.insert((self.now + after, self.serial), act);
    }

    fn due(&mut self) -> Option<Act> {
        let (at, _) = self.acts.first_key_value()?.0;
        if *at > self.now {
            return None;
        }
        self.acts.pop_first().map(|(_, act)| act)
    }

    /// Does what is due.
    fn act(&mut self) -> std::io::Result<()> {
        while let Some(act) = self.due() {
            match act {
                Act::Next => {
                    self.something();
                    let after = self.rng.random_range(200 * MS..2 * SECOND);
                    self.plan(after, Act::Next);
                }
                Act::Boot(place) => self.boot(place)?,
                Act::Resume(place) => {
                    if let Some(node) = self.nodes.get_mut(&place) {
                        node.paused = false;
                    }
                }
                Act::Join(ways) => self.join(&ways),
                Act::StoreAgain => {
                    self.store().start();
                    self.store().unfreeze();
                }
                Act::AnswersAgain => self.faults.lose_answers.store(5, Ordering::SeqCst),
                Act::Serve(dc) => self.intend(dc, IntentKind::Serve),
                Act::Gone(place, ended) => self.gone(place, &ended),
            }
        }
        Ok(())
    }

    fn join(&mut self, ways: &[(Place, Place)]) {
        for (from, to) in ways {
            self.shared.net.set_cut(*from, *to, false);
        }
        self.story(|| format!("joined again: {} ways", ways.len()));
    }

    fn count(&self, what: &str) {
        self.shared.counts.add(what);
    }

    fn alive(&self) -> Vec<Place> {
        self.nodes.keys().copied().collect()
    }

    fn something(&mut self) {
        let place = self.rng.random_range(0..NODES);
        let dc = DATACENTERS[self.rng.random_range(0..DATACENTERS.len())].0;
        match self.rng.random_range(0..100) {
            0..12 => self.crash(place),
            12..15 => self.lose_data_center(dc),
            15..20 => self.shut_down(place),
            20..32 => self.pause(place),
            32..40 => self.cut_data_centers(),
            40..50 => self.cut_from_store(place),
            50..55 => self.cut_data_center_from_store(dc),
            55..60 => self.store_away(),
            60..66 => self.reset(place),
            66..71 => {
                self.count("watches broken");
                self.faults.break_watches();
            }
            71..80 => self.lose_answers(),
            80..92 => self.drain(dc),
            92..96 => self.cut_from_log(place),
            _ => {}
        }
    }

    fn crash(&mut self, place: Place) {
        let silent = self.rng.random_bool(0.5);
        if self.stop(place, silent) {
            self.count("crashes");
            let after = self.rng.random_range(500 * MS..15 * SECOND);
            self.plan(after, Act::Boot(place));
        }
    }

    /// Whether there was a node.
    fn stop(&mut self, place: Place, silent: bool) -> bool {
        self.gather(place);
        let Some(node) = self.nodes.remove(&place) else { return false };
        self.story(|| format!("node {place} crashes, silent: {silent}"));
        self.shared.net.stop(place, silent);
        let alone = places_of(&node.dc).iter().all(|place| !self.nodes.contains_key(place));
        self.shared.check.crashed(node.run, alone);
        node.crash();
        true
    }

    fn lose_data_center(&mut self, dc: &'static str) {
        self.count("datacenters lost");
        let after = self.rng.random_range(10 * SECOND..25 * SECOND);
        for place in places_of(dc) {
            self.stop(place, true);
            self.plan(after, Act::Boot(place));
        }
    }

    fn shut_down(&mut self, place: Place) {
        let Some(node) = self.nodes.get(&place).filter(|node| !node.paused) else { return };
        let Some(system) = node.system() else { return };
        self.count("shutdowns");
        self.story(|| format!("node {place} shuts down"));
        let ended = Arc::new(Mutex::new(false));
        let done = ended.clone();
        node.spawn(async move {
            // An error says that actors were killed: it has ended all the same.
            let _ = system.shutdown().await;
            *done.lock() = true;
        });
        self.plan(10 * MS, Act::Gone(place, ended));
    }

    fn gone(&mut self, place: Place, ended: &Arc<Mutex<bool>>) {
        if !self.nodes.contains_key(&place) {
            return;
        }
        if !*ended.lock() {
            return self.plan(50 * MS, Act::Gone(place, ended.clone()));
        }
        self.story(|| format!("node {place} has ended"));
        self.count("shutdowns ended");
        self.stop(place, false);
        let after = self.rng.random_range(500 * MS..10 * SECOND);
        self.plan(after, Act::Boot(place));
    }

    fn pause(&mut self, place: Place) {
        let Some(node) = self.nodes.get_mut(&place).filter(|node| !node.paused) else { return };
        node.paused = true;
        self.count("pauses");
        let after = self.rng.random_range(200 * MS..12 * SECOND);
        self.story(|| format!("node {place} stands still for {:.3} s", after as f64 / 1e6));
        self.plan(after, Act::Resume(place));
    }

    fn cut(&mut self, ways: Vec<(Place, Place)>, what: &str) {
        for (from, to) in &ways {
            self.shared.net.set_cut(*from, *to, true);
        }
        self.count(what);
        let after = self.rng.random_range(500 * MS..15 * SECOND);
        self.story(|| format!("{what}: {ways:?} for {:.3} s", after as f64 / 1e6));
        self.plan(after, Act::Join(ways));
    }

    fn both_or_one(&mut self, one: &[Place], other: &[Place]) -> Vec<(Place, Place)> {
        let pairs = one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b)));
        let back = |pairs: Vec<(Place, Place)>| pairs.into_iter().map(|(a, b)| (b, a)).collect::<Vec<_>>();
        let there: Vec<_> = pairs.collect();
        match self.rng.random_range(0..4) {
            0 => there,
            1 => back(there),
            _ => there.iter().copied().chain(back(there.clone())).collect(),
        }
    }

    fn cut_data_centers(&mut self) {
        let one = self.rng.random_range(0..DATACENTERS.len());
        let other = (one + 1) % DATACENTERS.len();
        let ways = self.both_or_one(&places_of(DATACENTERS[one].0), &places_of(DATACENTERS[other].0));
        self.cut(ways, "datacenters cut");
    }

    fn cut_from_store(&mut self, place: Place) {
        let ways = self.both_or_one(&[place], &[STORE]);
        self.cut(ways, "cut from the store");
    }

    fn cut_data_center_from_store(&mut self, dc: &str) {
        let ways = self.both_or_one(&places_of(dc), &[STORE]);
        self.cut(ways, "datacenter cut from the store");
    }

    fn cut_from_log(&mut self, place: Place) {
        let ways = self.both_or_one(&[place], &[LOG]);
        self.cut(ways, "cut from the log");
    }

    fn store_away(&mut self) {
        let frozen = self.rng.random_bool(0.5);
        let after = self.rng.random_range(500 * MS..9 * SECOND);
        self.count("store outages");
        self.story(|| format!("the store is away for {:.3} s, frozen: {frozen}", after as f64 / 1e6));
        if frozen {
            self.store().freeze();
        } else {
            self.store().stop();
        }
        self.plan(after, Act::StoreAgain);
    }

    fn reset(&mut self, place: Place) {
        self.count("links reset");
        for other in self.alive() {
            self.shared.net.reset(place, other);
        }
    }

    fn lose_answers(&mut self) {
        self.count("answers being lost");
        self.faults.lose_answers.store(250, Ordering::SeqCst);
        let after = self.rng.random_range(SECOND..8 * SECOND);
        self.plan(after, Act::AnswersAgain);
    }

    /// Drains a datacenter, if none is drained: from inside, or as an operator does from anywhere.
    fn drain(&mut self, dc: &'static str) {
        let drained = self.intents.values().any(|intent| *intent != IntentKind::Serve);
        if drained || self.unwritten.load(Ordering::SeqCst) > 0 {
            return;
        }
        let alive = places_of(dc).into_iter().find(|place| self.nodes.get(place).is_some_and(|node| !node.paused));
        let Some((place, system)) = alive.and_then(|place| Some((place, self.nodes.get(&place)?.system()?))) else {
            return;
        };
        self.count("drains begun");
        self.story(|| format!("{dc} is to be drained, says node {place}"));
        let name: Arc<str> = dc.into();
        self.intents.insert(name.clone(), IntentKind::Drain);
        let outcome = Arc::new(Mutex::new(None));
        let (done, counts) = (outcome.clone(), self.shared.counts.clone());
        if let Some(node) = self.nodes.get(&place) {
            node.spawn(async move {
                let ended = match system.drain(DrainOptions::default().why("simulated")).await {
                    Ok(mut drain) => Ended::As(drain.outcome().await),
                    Err(_) => Ended::Unknown,
                };
                counts.add(&format!("drain {ended:?}"));
                *done.lock() = Some(ended);
            });
            let run = node.run.number;
            self.drains.push(Draining { dc: name, place, run, outcome, told: false, undone: false });
        }
        let undo = self.rng.random_range(500 * MS..30 * SECOND);
        self.plan(undo, Act::Serve(dc));
    }

    /// Writes what an operator wants, straight at the store.
    fn intend(&mut self, dc: &'static str, want: IntentKind) {
        let intent = dc_intent(want);
        self.shared.check.set_drained(&dc.into(), None);
        self.story(|| format!("{dc}: {want}"));
        self.intents.insert(dc.into(), want);
        if self.followed.remove(&Arc::from(dc)) == Some(true) {
            self.behind.insert(dc.into());
        }
        for drain in self.drains.iter_mut().filter(|drain| *drain.dc == *dc) {
            drain.undone = true;
        }
        let plane = MemoryControlPlane::new(self.store());
        let id = dc.parse();
        self.unwritten.fetch_add(1, Ordering::SeqCst);
        let unwritten = self.unwritten.clone();
        self.on_store(async move {
            if let Ok(id) = id {
                // A store that is away is asked again until it is not.
                while plane.set_intent(&id, &intent).await.is_err() {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
            unwritten.fetch_sub(1, Ordering::SeqCst);
        });
    }

    /// Whether the node that tells of a drain still can.
    fn is_open(&self, drain: &Draining) -> bool {
        self.nodes.get(&drain.place).is_some_and(|node| node.run.number == drain.run) && drain.outcome.lock().is_none()
    }

    /// A drain never undoes itself: what operators want stays written, the record follows it, and what has drained
    /// stays empty.
    pub(crate) fn check_intents(&mut self) {
        let mut ended = Vec::new();
        for drain in &mut self.drains {
            if !drain.told && !drain.undone && *drain.outcome.lock() == Some(Ended::As(DrainOutcome::Drained)) {
                drain.told = true;
                ended.push(drain.dc.clone());
            }
            if !drain.told && !drain.undone && *drain.outcome.lock() == Some(Ended::As(DrainOutcome::Aborted)) {
                drain.told = true;
                self.shared.check.wrong(format!("the drain of {} was undone, and nobody did", drain.dc));
            }
        }
        for dc in ended {
            self.story(|| format!("{dc} has drained"));
            self.shared.check.set_drained(&dc, Some(self.now));
        }
        if !self.behind.is_empty()
            && let Some(stored) = self.stored()
        {
            let active = stored.records.iter().filter(|record| record.state == DataCenterState::Active);
            active.for_each(|record| _ = self.behind.remove(record.id().as_str()));
        }
        let drains = |(dc, want): (&Arc<str>, &IntentKind)| (*want == IntentKind::Drain).then(|| dc.clone());
        let Some(dc) = self.intents.iter().find_map(drains) else { return };
        let Some(stored) = self.stored() else { return };
        let intent = stored.intents.iter().find(|held| held.id.as_str() == &*dc);
        if intent.is_none_or(|held| held.intent.want != IntentKind::Drain) {
            if self.followed.contains_key(&dc) {
                self.shared.check.wrong(format!("P8: {dc} was to be drained, and the store says {intent:?}"));
            }
            return;
        }
        let Some(record) = stored.records.iter().find(|record| record.id().as_str() == &*dc) else { return };
        let followed = self.followed.entry(dc.clone()).or_default();
        if *followed && record.state == DataCenterState::Active {
            self.shared.check.wrong(format!("P8: the record of {dc}, which is drained, is active again"));
        }
        *followed |= record.state == DataCenterState::Draining && !self.behind.contains(&dc);
    }

    fn heal(&mut self) -> std::io::Result<()> {
        self.story(|| "faults are over".to_owned());
        self.acts.retain(|_, act| matches!(act, Act::Gone(..) | Act::Serve(_)));
        let places: Vec<Place> = (0..NODES).chain([STORE, LOG]).collect();
        for from in &places {
            for to in &places {
                self.shared.net.set_cut(*from, *to, false);
            }
        }
        self.store().start();
        self.store().unfreeze();
        self.faults.lose_answers.store(0, Ordering::SeqCst);
        for place in 0..NODES {
            if let Some(node) = self.nodes.get_mut(&place) {
                node.paused = false;
            }
            self.boot(place)?;
        }
        self.told.calm();
        Ok(())
    }

    /// What is still missing before everything is well; `None` once it is.
    fn missing(&self) -> Option<String> {
        for place in 0..NODES {
            let Some(node) = self.nodes.get(&place) else { return Some(format!("node {place} is not there")) };
            let Some(system) = node.system() else { return Some(format!("node {place} has not started")) };
            if !node.within(|| system.data_center_ready()) {
                return Some(format!("node {place} is not ready"));
            }
            for target in self.targets.iter() {
                if !self.told.answered(place, target) {
                    return Some(format!("{} does not answer the client of node {place}", target.identity()));
                }
            }
        }
        let drains = self.drains.iter().find(|drain| self.is_open(drain));
        drains.map(|drain| format!("the drain of {} has not ended at node {}", drain.dc, drain.place))
    }

    fn over(&self) -> bool {
        self.shared.check.found().is_some()
    }

    /// Every node is there and ready.
    fn is_up(&self) -> bool {
        (0..NODES).all(|place| {
            let system = self.nodes.get(&place).and_then(|node| Some((node, node.system()?)));
            system.is_some_and(|(node, system)| node.within(|| system.data_center_ready()))
        })
    }

    fn run(&mut self) -> std::io::Result<()> {
        for place in 0..NODES {
            let after = self.rng.random_range(0..SECOND);
            self.plan(after, Act::Boot(place));
        }
        while !self.is_up() && !self.over() {
            self.act()?;
            self.step();
            if self.now > BOOT {
                self.shared.check.wrong(format!("the world is not up after {} s", BOOT / SECOND));
            }
        }
        self.faults.lose_answers.store(5, Ordering::SeqCst);
        let after = self.rng.random_range(SECOND..5 * SECOND);
        self.plan(after, Act::Next);
        let end = self.now + FAULTS;
        while self.now < end && !self.over() {
            self.act()?;
            self.step();
        }
        self.heal()?;
        let calm = self.now;
        while !self.over() {
            self.act()?;
            self.step();
            let Some(missing) = self.missing() else { break };
            if self.now > calm + CALM {
                self.shared.check.wrong(format!("not well {} s after the last fault: {missing}", CALM / SECOND));
            }
        }
        self.shared.counts.more("calm ms", (self.now - calm) / MS);
        self.check_log();
        Ok(())
    }

    /// No acknowledged effect is lost, none is doubled, no epoch falls.
    fn check_log(&self) {
        let acknowledged = self.told.acknowledged();
        let checked = multidc_ledger::check(self.shared.log.lock().entries(), &acknowledged);
        match checked {
            Ok(found) => {
                self.shared.counts.more("effects", found.written as u64);
                self.shared.counts.more("acknowledged", found.acknowledged as u64);
                self.shared.counts.more("epochs", found.changes as u64);
            }
            Err(error) => self.shared.check.wrong(format!("the log: {error:#}")),
        }
    }
}

fn dc_intent(want: IntentKind) -> multidc::Intent {
    multidc::Intent::new(want, "simulation", "")
}

/// Runs one world to its end.
///
/// # Errors
///
/// A runtime could not be made.
pub fn run(config: Config) -> std::io::Result<Report> {
    let mut world = World::new(config)?;
    let measured = Measured(world.shared.counts.clone());
    metrics::with_local_recorder(&measured, || world.run())?;
    Ok(world.report())
}
