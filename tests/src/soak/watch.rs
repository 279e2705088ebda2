//! What is seen of a run while it goes on: logs that are checked, samples that are taken, what nodes say.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{
    checker::{Checker, Times, World},
    clock::{SECOND, now_us},
    control::{Figures, Said},
    proxy::Network,
    record::{Entry, LogReader, Outcome, What},
    sample::{Figure, Life},
    world::Around,
};

/// How often logs are read.
const READ: Duration = Duration::from_millis(100);

/// One second of the run.
#[derive(Clone, Debug, Default)]
pub struct Second {
    /// Seconds since the run began.
    pub at: f64,
    /// Messages handled.
    pub handled: u64,
    /// Messages that failed.
    pub failed: u64,
    /// 99th percentile of asks that were answered, in milliseconds.
    pub p99_ms: f64,
    /// Messages that are being looked at.
    pub open: usize,
}

/// The checker and what it asks.
#[derive(Debug)]
pub struct Judge {
    /// The checker.
    pub checker: Checker,
    /// What happened around the messages.
    pub around: Around,
    readers: Vec<LogReader>,
    recent: Second,
    times: Times,
    /// Longest time from one reading of the logs to the end of the next, in microseconds.
    pub slowest_us: u64,
}

/// What nodes said last.
#[derive(Debug, Default)]
pub struct Heard {
    /// Of each place: the run, when, and what.
    pub figures: BTreeMap<usize, (u32, u64, Figures)>,
    /// Answers to the roll-call, by place.
    pub rolls: BTreeMap<usize, (usize, Vec<String>)>,
    /// Changes that nodes told of.
    pub changes: u64,
    /// Dead letters and look-ups of processes that are gone.
    pub before: Figures,
}

/// All of it, shared by the tasks of the driver.
#[derive(Debug)]
pub struct Watch {
    /// When the run began.
    pub began_us: u64,
    /// The judge.
    pub judge: Mutex<Judge>,
    /// What was heard.
    pub heard: Mutex<Heard>,
    /// Every process's curves.
    pub lives: Mutex<Vec<Life>>,
    /// The run, second by second.
    pub seconds: Mutex<Vec<Second>>,
    /// Processes to sample: their number in the system, by run.
    pub pids: Mutex<BTreeMap<u32, u32>>,
    /// Messages handled so far.
    pub handled: AtomicU64,
    /// Samples are taken.
    pub sampling: AtomicBool,
    logs: PathBuf,
    stop: AtomicBool,
}

impl Watch {
    /// Begins to watch: logs are read by a thread of its own until [`stop`](Self::stop).
    pub fn begin(logs: PathBuf, per_dc: usize, network: Arc<Network>) -> (Arc<Self>, JoinHandle<std::io::Result<()>>) {
        let judge = Judge {
            checker: Checker::default(),
            around: Around::new(per_dc, network),
            readers: Vec::new(),
            recent: Second::default(),
            times: Times::default(),
            slowest_us: 0,
        };
        let watch = Arc::new(Self {
            began_us: now_us(),
            judge: Mutex::new(judge),
            heard: Mutex::default(),
            lives: Mutex::new(vec![Life::new(None, 0)]),
            seconds: Mutex::default(),
            pids: Mutex::default(),
            handled: AtomicU64::new(0),
            sampling: AtomicBool::new(false),
            logs,
            stop: AtomicBool::new(false),
        });
        let reading = watch.clone();
        (watch, std::thread::spawn(move || reading.read_logs()))
    }

    /// Seconds since the run began.
    pub fn at(&self) -> f64 {
        now_us().saturating_sub(self.began_us) as f64 / SECOND as f64
    }

    /// Ends the reading of logs, after one last time.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// A process begins.
    pub fn born(&self, run: u32, slot: usize) {
        let mut judge = self.judge.lock();
        judge.around.born(run, slot);
        judge.readers.push(LogReader::follow(&self.logs, run));
        drop(judge);
        self.lives.lock().push(Life::new(Some(slot), run));
    }

    /// Its number in the system is known.
    pub fn has_pid(&self, run: u32, pid: u32) {
        self.pids.lock().insert(run, pid);
    }

    /// A process is about to end.
    pub fn ends(&self, run: u32) {
        self.judge.lock().around.ends(run);
        self.pids.lock().remove(&run);
        let mut heard = self.heard.lock();
        let last = heard.figures.values().find(|(of, ..)| *of == run).map(|(.., figures)| *figures);
        if let Some(last) = last {
            heard.before.dead_letters += last.dead_letters;
            heard.before.lookups += last.lookups;
            heard.before.lookups_failed += last.lookups_failed;
            heard.figures.retain(|_, (of, ..)| *of != run);
        }
    }

    fn read_logs(&self) -> std::io::Result<()> {
        loop {
            let last = self.stop.load(Ordering::Relaxed);
            let begun = now_us();
            {
                let mut judge = self.judge.lock();
                let Judge { checker, around, readers, recent, times, .. } = &mut *judge;
                for reader in readers.iter_mut() {
                    reader.read(|entry| {
                        checker.take(&entry, around);
                        recent.note(&entry, times);
                    })?;
                }
                checker.advance(now_us(), around);
                judge.slowest_us = judge.slowest_us.max(now_us() - begun);
                self.handled.store(judge.checker.totals().handled_in_all(), Ordering::Relaxed);
                if last {
                    return Ok(());
                }
            }
            std::thread::sleep(READ);
        }
    }

    /// Takes the samples of one second.
    pub fn sample(&self) {
        let at = self.at();
        let second = {
            let mut judge = self.judge.lock();
            let times = std::mem::take(&mut judge.times);
            let open = judge.checker.open();
            let recent = std::mem::take(&mut judge.recent);
            Second { at, open, p99_ms: times.quantile(0.99) / 1000.0, ..recent }
        };
        let held = second.open;
        self.seconds.lock().push(second);
        if !self.sampling.load(Ordering::Relaxed) {
            return;
        }
        let quiet = self.judge.lock().around.quiet(now_us());
        let pids = self.pids.lock().clone();
        let mut lives = self.lives.lock();
        for life in lives.iter_mut() {
            match life.slot {
                None => {
                    life.add_system(std::process::id(), at, quiet);
                    life.add_held(at, held, quiet);
                }
                Some(_) => {
                    if let Some(pid) = pids.get(&life.run) {
                        life.add_system(*pid, at, quiet);
                    }
                }
            }
        }
    }

    /// Takes in what nodes say, until all of them are gone.
    pub async fn hear(self: Arc<Self>, mut said: mpsc::UnboundedReceiver<(usize, u32, Said)>) {
        while let Some((slot, run, said)) = said.recv().await {
            match said {
                Said::Started { .. } => {}
                Said::Figures(figures) => {
                    let quiet = self.judge.lock().around.quiet(now_us());
                    if self.sampling.load(Ordering::Relaxed)
                        && let Some(life) =
                            self.lives.lock().iter_mut().find(|life| life.run == run && life.slot.is_some())
                    {
                        life.add_figures(&figures, self.at(), quiet);
                    }
                    if self.pids.lock().contains_key(&run) {
                        self.heard.lock().figures.insert(slot, (run, now_us(), figures));
                    }
                }
                Said::Change { at_us, .. } => {
                    self.judge.lock().around.changed(at_us);
                    self.heard.lock().changes += 1;
                }
                Said::Wrong { rule, text } => self.wrong(&rule, format!("node {slot}: {text}")),
                Said::Rolled { answered, missing } => {
                    self.heard.lock().rolls.insert(slot, (answered, missing));
                }
            }
        }
    }

    /// Notes a violation that the driver or a node saw.
    pub fn wrong(&self, rule: &str, text: String) {
        self.judge.lock().checker.wrong(rule, text, now_us());
    }

    /// Highest figure of this kind among all processes, now and then.
    pub fn most(&self, figure: Figure) -> f64 {
        let lives = self.lives.lock();
        let values = lives.iter().filter_map(|life| life.curves.get(&figure)).flatten().map(|point| point.value);
        values.fold(0.0, f64::max)
    }
}

impl Second {
    fn note(&mut self, entry: &Entry, times: &mut Times) {
        match entry.what {
            What::Handled => self.handled += 1,
            What::Told(Outcome::Acknowledged, _) => times.add(entry.at_us.saturating_sub(entry.sent_us)),
            What::Told(Outcome::Accepted, _) => {}
            What::Told(Outcome::NotRun | Outcome::Unknown, _) => self.failed += 1,
        }
    }
}
