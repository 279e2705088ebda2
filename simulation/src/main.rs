//! `multidc-sim`: runs simulated worlds, each in a process of its own, so that nothing of one is left in the next.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, ExitCode, Stdio},
};

use anyhow::{Context as _, bail};
use clap::Parser;
use multidc_simulation::{Config, MUST_HAPPEN, Plant, Report, run, seeded, trace::Keep};

/// Whole systems under a simulated network, store and time: three datacenters of two nodes, and what breaks them.
///
/// A seed decides everything, and gives the same run again. Exits with 1 if something that must hold did not; the seed is
/// printed. `docs/simulation.md` says what is in it.
#[derive(Parser)]
#[command(
    name = "multidc-sim",
    after_help = "Examples:\n  multidc-sim --seeds 1000\n  multidc-sim --seed 4711 --story   # one run, told\n  \
                  multidc-sim --seed 4711 --twice   # the same twice: the first difference, if there is one\n  \
                  multidc-sim --plant no-tombstone --seeds 30"
)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// The first; the others follow.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only this seed, in this process.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Prints what happens, for people.
    #[arg(long, requires = "seed")]
    story: bool,
    /// Prints everything that happens, each arrival of bytes included.
    #[arg(long, requires = "seed", conflicts_with = "story")]
    trace: bool,
    /// Runs the seed twice and compares everything that happens.
    #[arg(long, requires = "seed", conflicts_with_all = ["story", "trace"])]
    twice: bool,
    /// A bug on purpose, to see that it is found.
    #[arg(long, value_enum)]
    plant: Option<Plant>,
    /// How many run at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Fails unless everything that faults must reach has happened at least once.
    #[arg(long)]
    covered: bool,
}

fn main() -> ExitCode {
    match go(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn go(args: &Args) -> anyhow::Result<bool> {
    if let Ok(filter) = std::env::var("MULTIDC_SIM_LOG") {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .without_time()
            .with_ansi(false)
            .with_writer(std::io::stderr)
            .init();
    }
    match args.seed {
        Some(seed) if args.twice => twice(args, seed),
        Some(seed) => one(args, seed),
        None => many(args),
    }
}

/// One world, in this process.
fn one(args: &Args, seed: u64) -> anyhow::Result<bool> {
    let keep = match (args.trace, args.story) {
        (true, _) => Keep::All,
        (_, true) => Keep::Story,
        _ => Keep::Nothing,
    };
    let config = Config { seed, plant: args.plant, keep };
    // A thread of its own: nothing has drawn from its randomness before.
    let world = std::thread::spawn(move || {
        seeded::begin(seed);
        if !seeded::holds() {
            bail!("this program's randomness does not come from the seed: is it built for Linux with glibc or musl?");
        }
        Ok(run(config)?)
    });
    let Ok(report) = world.join() else { bail!("seed {seed}: the world panicked, see above") };
    let report = report?;
    for (name, count) in &report.counts {
        println!("count\t{count}\t{name}");
    }
    let Report { trace: (hash, lines), time, .. } = report;
    println!("trace\t{hash:016x}\t{lines}\t{time}");
    if let Some(wrong) = &report.wrong {
        println!("wrong\t{wrong}");
    }
    Ok(report.wrong.is_none())
}

/// A process that runs one seed.
fn start(args: &Args, seed: u64, more: &[&str]) -> anyhow::Result<Child> {
    let mut command = Command::new(std::env::current_exe().context("this program's file")?);
    command.args(["--seed", &seed.to_string()]).args(more).stdin(Stdio::null()).stdout(Stdio::piped());
    if let Some(plant) = args.plant.and_then(|plant| clap::ValueEnum::to_possible_value(&plant)) {
        command.args(["--plant", plant.get_name()]);
    }
    command.spawn().context("running a seed")
}

/// What one seed has printed.
#[derive(Default)]
struct Told {
    counts: BTreeMap<String, u64>,
    time: u64,
    wrong: Option<String>,
    ended: bool,
}

fn read(child: Child) -> anyhow::Result<Told> {
    let output = child.wait_with_output()?;
    let mut told = Told::default();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let parts: Vec<&str> = line.splitn(4, '\t').collect();
        match parts[..] {
            ["count", count, name] => *told.counts.entry(name.to_owned()).or_default() += count.parse::<u64>()?,
            ["trace", _, _, time] => (told.time, told.ended) = (time.parse()?, true),
            ["wrong", wrong] => told.wrong = Some(wrong.to_owned()),
            _ => {}
        }
    }
    if !told.ended {
        told.wrong = Some(format!("it ended with {}", output.status));
    }
    Ok(told)
}

/// Many worlds, some at once; what they have counted, together.
fn many(args: &Args) -> anyhow::Result<bool> {
    let Some(end) = args.from.checked_add(args.seeds).filter(|_| args.seeds > 0 && args.jobs > 0) else {
        bail!("--seeds {} --from {} --jobs {}: at least one of each", args.seeds, args.from, args.jobs);
    };
    let (mut counts, mut time, mut failed) = (BTreeMap::<String, u64>::new(), 0, Vec::new());
    let mut running = std::collections::VecDeque::new();
    let mut next = args.from;
    while next < end || !running.is_empty() {
        while next < end && running.len() < args.jobs {
            running.push_back((next, start(args, next, &[])?));
            next += 1;
        }
        let Some((seed, child)) = running.pop_front() else { break };
        let told = read(child)?;
        for (name, count) in told.counts {
            *counts.entry(name).or_default() += count;
        }
        time += told.time;
        if let Some(wrong) = told.wrong {
            println!("seed {seed}: {wrong}");
            failed.push(seed);
        }
    }
    for (name, count) in &counts {
        println!("{count:>10} {name}");
    }
    println!("{} seeds, {} s of simulated time, wrong: {failed:?}", args.seeds, time / 1_000_000);
    let missing: Vec<_> = MUST_HAPPEN.iter().filter(|name| !counts.contains_key(**name)).collect();
    if args.covered && !missing.is_empty() {
        println!("never happened, so that nothing is shown of it: {missing:?}");
        return Ok(false);
    }
    if let Some(seed) = failed.first() {
        println!("to see one of them again: multidc-sim --seed {seed} --story");
    }
    Ok(failed.is_empty())
}

/// The same seed in two processes, line by line.
fn twice(args: &Args, seed: u64) -> anyhow::Result<bool> {
    let mut children = [start(args, seed, &["--trace"])?, start(args, seed, &["--trace"])?];
    let mut lines = Vec::new();
    for child in &mut children {
        lines.push(BufReader::new(child.stdout.take().context("piped")?).lines());
    }
    let (mut number, mut same) = (0_u64, true);
    loop {
        let (one, other) = (lines[0].next().transpose()?, lines[1].next().transpose()?);
        number += 1;
        if one != other {
            let show = |line: Option<String>| line.unwrap_or_else(|| "(it has ended)".to_owned());
            writeln!(std::io::stdout(), "line {number} differs:\n  {}\n  {}", show(one), show(other))?;
            same = false;
            break;
        }
        if one.is_none() {
            println!("seed {seed}: the same {} lines twice", number - 1);
            break;
        }
    }
    // Who writes on finds nobody to read it.
    drop(lines);
    for mut child in children {
        child.wait()?;
    }
    Ok(same)
}
