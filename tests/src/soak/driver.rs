//! The course of a run: start, warm up, measure the peak, load and chaos, heal, roll-call, judgement, report.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use tokio::sync::mpsc;

use super::{
    chaos::Planned,
    clock::{SECOND, now_us},
    control::Order,
    flat::Verdict,
    fleet::{Fleet, Setup, free_addresses},
    options::Options,
    proxy::Network,
    report::{Done, Outcome, Report},
    sample::{Figure, Life},
    servers,
    watch::Watch,
};
use crate::{eventually, rng::Rng, servers::Store};

/// How long all nodes may take to see each other.
const SETTLE: Duration = Duration::from_secs(60);

/// How long messages that are under way at the end may take.
const RUN_OUT: Duration = Duration::from_secs(7);

/// A reading of the logs that takes longer than this means that the checker does not keep up.
const KEEPS_UP: u64 = 8 * SECOND;

/// Carries out a run and writes its report. True if nothing was found broken.
///
/// # Errors
///
/// The run could not be carried out.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    options.check()?;
    let seed = options.seed.unwrap_or_else(|| now_us() % 1_000_000);
    let dir = scratch()?;
    let outcome = drive(&options, seed, dir.path()).await;
    if let Some(keep) = &options.keep {
        keep_logs(dir.path(), keep)?;
    }
    let report = outcome.inspect_err(|_| println!("seed {seed}: the run could not be carried out"))?;
    report.print();
    if let Some(path) = &options.json {
        std::fs::write(path, report.json()?).with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &options.report {
        report.write(path).with_context(|| path.display().to_string())?;
        println!("report: {}", path.display());
    }
    Ok(report.clean())
}

/// In memory, where there is such a place: what is logged is read and removed at once.
fn scratch() -> std::io::Result<tempfile::TempDir> {
    let memory = std::path::Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("multidc-soak-").tempdir_in(place)
}

fn keep_logs(dir: &std::path::Path, keep: &std::path::Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(keep)?;
    for file in std::fs::read_dir(dir)?.flatten() {
        if file.path().extension().is_some_and(|kind| kind == "txt") {
            std::fs::copy(file.path(), keep.join(file.file_name()))?;
        }
    }
    Ok(())
}

/// A run that has begun.
struct Course<'a> {
    options: &'a Options,
    watch: Arc<Watch>,
    fleet: Fleet,
    store: Store,
}

async fn drive(options: &Options, seed: u64, dir: &std::path::Path) -> anyhow::Result<Report> {
    let places = options.dcs * options.nodes;
    println!(
        "seed {seed}: {} datacenters of {} nodes on {:?}, {}",
        options.dcs,
        options.nodes,
        options.control_plane,
        if options.tls { "links over TLS" } else { "links in plain text" }
    );
    let logs: PathBuf = dir.join("logs");
    std::fs::create_dir(&logs)?;
    if options.tls {
        servers::certificates(&dir.join("certs"), options.dcs).await?;
    }
    let store = servers::store(options.control_plane, options.store_servers).await?;
    let mut rng = Rng::new(now_us());
    let listens = free_addresses(places, || rng.draw())?;
    let network = Network::new(listens.clone());
    let (watch, reading) = Watch::begin(logs.clone(), options.nodes, network.clone());
    let (said, heard) = mpsc::unbounded_channel();
    let hearing = tokio::spawn(watch.clone().hear(heard));
    let sampling = tokio::spawn(sample(watch.clone()));
    let (plan, setup) = (
        options.setting().draw(seed),
        Setup {
            options: options.clone(),
            seed,
            watch: watch.clone(),
            network,
            listens,
            dir: dir.to_owned(),
            logs,
            heard: said,
        },
    );
    let fleet = Fleet::start(setup, &store.url).await?;
    let mut course = Course { options, watch: watch.clone(), fleet, store };
    course.settled(SETTLE).await?;
    println!("{:>6.0}s  {places} nodes are ready", watch.at());
    let peak = course.measure().await?;
    let rate = options.rate.unwrap_or(peak * options.load);
    course.fleet.set_rate(Some(rate)).await?;
    println!("{:>6.0}s  load: {rate:.0} messages a second; {} faults are planned", watch.at(), plan.len());
    let loaded_us = now_us();
    let done = course.chaos(&plan).await?;
    let length = now_us().saturating_sub(loaded_us) as f64 / SECOND as f64;
    course.roll_call().await?;
    course.end().await?;
    sampling.abort();
    watch.stop();
    tokio::task::spawn_blocking(move || reading.join())
        .await?
        .map_err(|_| anyhow::anyhow!("the reader of the logs panicked"))?
        .context("reading logs")?;
    hearing.abort();
    Ok(judge(&watch, Outcome { options: options.clone(), seed, peak, rate, length, done }))
}

async fn sample(watch: Arc<Watch>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    let (mut count, mut told) = (0_u64, 0);
    loop {
        every.tick().await;
        watch.sample();
        count += 1;
        if count.is_multiple_of(5) && watch.sampling.load(Ordering::Relaxed) {
            progress(&watch);
            told = tell_new(&watch, told);
        }
    }
}

/// Violations of one guarantee that are told when they are found; the report has more.
const SHOWN: usize = 3;

/// Tells what was found since the first `told`; how many there are now.
fn tell_new(watch: &Watch, told: usize) -> usize {
    let judge = watch.judge.lock();
    let found = judge.checker.violations();
    for (at, one) in found.iter().enumerate().skip(told) {
        if found[..at].iter().filter(|before| before.rule == one.rule).count() < SHOWN {
            println!("         {}: {}", one.rule, one.text);
        }
    }
    found.len()
}

fn progress(watch: &Watch) {
    let seconds = watch.seconds.lock();
    let last = &seconds[seconds.len().saturating_sub(5)..];
    let mean = |value: fn(&super::watch::Second) -> f64| last.iter().map(value).sum::<f64>() / last.len() as f64;
    let (handled, failed) = (mean(|second| second.handled as f64), mean(|second| second.failed as f64));
    let p99 = last.iter().map(|second| second.p99_ms).fold(0.0, f64::max);
    let violations: u64 = watch.judge.lock().checker.counts().values().sum();
    println!(
        "{:>6.0}s  {handled:>6.0}/s handled, {failed:>4.0}/s failed, p99 {p99:>5.0} ms, {} in all, violations: {violations}",
        watch.at(),
        watch.handled.load(Ordering::Relaxed),
    );
}

/// Applies the last rules, and puts everything together.
fn judge(watch: &Watch, outcome: Outcome) -> Report {
    let mut judge = watch.judge.lock();
    let super::watch::Judge { checker, around, slowest_us, .. } = &mut *judge;
    checker.finish(around);
    if *slowest_us > KEEPS_UP {
        let text =
            format!("one reading of the logs took {} s: the load is too high to be followed", *slowest_us / SECOND);
        checker.wrong("checker", text, now_us());
    }
    let judged: Vec<_> = {
        let lives = watch.lives.lock();
        let longest = lives.iter().map(Life::seconds).fold(0.0, f64::max);
        lives.iter().flat_map(|life| life.judge(longest)).collect()
    };
    for one in &judged {
        if let Verdict::Grows(by) = one.verdict {
            let text = format!(
                "{}: {} grew by {by:.0} in the last two thirds of {:.0} s (median {:.0})",
                one.who,
                one.figure.name(),
                one.seconds,
                one.median
            );
            checker.wrong(rule_of(one.figure), text, now_us());
        }
    }
    Report::new(watch, &judge.checker, outcome, judged)
}

fn rule_of(figure: Figure) -> &'static str {
    match figure {
        Figure::Memory => "memory",
        Figure::Files => "files",
        Figure::Tasks => "tasks",
        Figure::Actors => "actors",
    }
}

impl Course<'_> {
    /// Waits until every node is ready, knows its members, and sees every datacenter take placements.
    async fn settled(&mut self, bound: Duration) -> anyhow::Result<()> {
        let (watch, options) = (&self.watch, self.options);
        let waited = eventually("all nodes ready, each seeing all", bound, || async {
            let heard = watch.heard.lock();
            let waits = (0..options.dcs * options.nodes).find(|slot| {
                let ready = |(_, at, figures): &(u32, u64, super::control::Figures)| {
                    let fresh = now_us().saturating_sub(*at) < 3 * SECOND;
                    fresh && figures.ready && figures.members == options.nodes && figures.placeable == options.dcs
                };
                !heard.figures.get(slot).is_some_and(ready)
            });
            waits.map_or(Ok(()), |slot| Err(format!("node {slot}: {:?}", heard.figures.get(&slot))))
        });
        waited.await
    }

    /// What the system can do with this mix, in messages a second: everybody sends as fast as answers come.
    async fn measure(&mut self) -> anyhow::Result<f64> {
        if self.options.rate.is_some() {
            self.watch.sampling.store(true, Ordering::Relaxed);
            return Ok(0.0);
        }
        self.fleet.set_rate(None).await?;
        // Links, names and grains come up first.
        let warm = Duration::from_secs(self.options.peak_secs.div_ceil(3));
        tokio::time::sleep(warm).await;
        self.watch.sampling.store(true, Ordering::Relaxed);
        let (before, begun) = (self.watch.handled.load(Ordering::Relaxed), now_us());
        tokio::time::sleep(Duration::from_secs(self.options.peak_secs).saturating_sub(warm)).await;
        let handled = self.watch.handled.load(Ordering::Relaxed) - before;
        let peak = handled as f64 / (now_us() - begun) as f64 * SECOND as f64;
        println!("{:>6.0}s  peak of this mix: {peak:.0} messages a second", self.watch.at());
        ensure!(peak >= 1.0, "nothing was handled");
        Ok(peak)
    }

    async fn chaos(&mut self, plan: &[Planned]) -> anyhow::Result<Vec<Done>> {
        let begun = now_us();
        let mut done = Vec::new();
        for planned in plan {
            self.until(begun, planned.at).await;
            let at = self.watch.at();
            println!("{at:>6.0}s  {} for {:.1} s", planned.act, planned.lasts.as_secs_f64());
            let failed = self.failed();
            self.fleet.carry_out(planned, &mut self.store).await?;
            let (until, failed) = (self.watch.at(), self.failed() - failed);
            done.push(Done { act: planned.act.clone(), at, until, failed });
        }
        self.until(begun, self.options.length()).await;
        Ok(done)
    }

    fn failed(&self) -> u64 {
        let judge = self.watch.judge.lock();
        let [_, _, not_run, unknown] = judge.checker.totals().told;
        not_run + unknown
    }

    /// Waits until so long after the beginning of the chaos; meanwhile looks for nodes that died by themselves.
    async fn until(&mut self, begun_us: u64, at: Duration) {
        loop {
            self.fleet.mend(&self.store.url).await;
            let passed = Duration::from_micros(now_us() - begun_us);
            match at.checked_sub(passed) {
                None => return,
                Some(left) => tokio::time::sleep(left.min(Duration::from_millis(500))).await,
            }
        }
    }

    /// After the chaos every node must find every named actor, and be answered by it.
    async fn roll_call(&mut self) -> anyhow::Result<()> {
        self.fleet.mend(&self.store.url).await;
        if let Err(error) = self.settled(SETTLE).await {
            self.watch.wrong("healing", error.to_string());
        }
        self.fleet.order(Order::Roll).await?;
        let (watch, places) = (&self.watch, self.options.dcs * self.options.nodes);
        let all = eventually("every node's roll-call", Duration::from_secs(45), || async {
            let heard = watch.heard.lock().rolls.len();
            if heard == places { Ok(()) } else { Err(format!("{heard} of {places}")) }
        });
        all.await?;
        let rolls = std::mem::take(&mut watch.heard.lock().rolls);
        for (slot, (answered, missing)) in &rolls {
            if !missing.is_empty() {
                let text = format!("node {slot} reached {answered} named actors; not: {}", missing.join("; "));
                watch.wrong("healing", text);
            }
        }
        let answered: usize = rolls.values().map(|(answered, _)| answered).sum();
        println!(
            "{:>6.0}s  roll-call: {answered} of {} answered",
            watch.at(),
            places * places * (self.options.targets + 1)
        );
        Ok(())
    }

    /// Lets what is under way run out, and shuts everything down in order.
    async fn end(mut self) -> anyhow::Result<()> {
        self.fleet.set_rate(Some(0.0)).await?;
        tokio::time::sleep(RUN_OUT).await;
        self.watch.sampling.store(false, Ordering::Relaxed);
        if let Err(error) = self.fleet.leave().await {
            self.watch.wrong("D6", format!("{error:#}"));
        }
        if let Err(error) = self.store.kill_all() {
            bail!("the store does not end: {error}");
        }
        Ok(())
    }
}
