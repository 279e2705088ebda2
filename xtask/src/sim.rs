//! `cargo xtask sim`: ownership under simulated time, store, network and clocks: its core alone, or whole systems.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::process;
use crate::workspace::Workspace;

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many systems, each with a seed of its own. Default 1,000, of whole systems 100.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed; the others follow.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// The store loses data, too: wiped, or set back to what it was.
    #[arg(long, conflicts_with = "whole")]
    loses: bool,
    /// Whole systems: links, gossip, registrar, routing tables, driver and actors of six nodes, over a simulated network.
    #[arg(long)]
    whole: bool,
    /// Runs this seed of a whole system once more, and tells what happens in it.
    #[arg(long, requires = "whole", conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// A bug on purpose in a whole system: found, the task fails as it should. Which there are: `--plant help`.
    #[arg(long, requires = "whole")]
    plant: Option<String>,
}

/// One of the two programs.
struct Program {
    file: PathBuf,
    /// Between two lines of progress.
    slice: u64,
    more: Vec<String>,
    /// How a failure is seen again.
    replay: String,
}

/// Builds the simulation, optimised, and runs the seeds. A failure prints its seed and how to replay it.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let seeds = options.seeds.unwrap_or(if options.whole { 100 } else { 1_000 });
    let Some(end) = options.from.checked_add(seeds).filter(|_| seeds > 0) else {
        bail!("--seeds {seeds} --from {}: must be at least one seed, and below 2^64", options.from);
    };
    let program = build(workspace, options)?;
    if let Some(seed) = options.seed {
        let mut sim = process::command(&program.file);
        return process::run(sim.args(["--seed", &seed.to_string(), "--story"]).args(&program.more));
    }
    let mut from = options.from;
    while from < end {
        let seeds = program.slice.min(end - from);
        let mut sim = process::command(&program.file);
        sim.args(["--seeds", &seeds.to_string(), "--from", &from.to_string()]).args(&program.more);
        if let Err(error) = process::run(&mut sim) {
            bail!("{error:#}\nReplay the seed named above: `{}`", program.replay);
        }
        from += seeds;
        eprintln!("{} of {} seeds are well", from - options.from, end - options.from);
    }
    Ok(())
}

fn build(workspace: &Workspace, options: &Options) -> Result<Program> {
    let mut build = workspace.cargo();
    build.args(["build", "--release"]);
    if !options.whole {
        process::run(build.args(["--package", "dc-ownership", "--example", "sim"]))?;
        let loses = if options.loses { " --loses" } else { "" };
        return Ok(Program {
            file: workspace.target.join("release/examples/sim"),
            slice: 500,
            more: options.loses.then(|| "--loses".to_owned()).into_iter().collect(),
            replay: format!("cargo xtask sim --seeds 1 --from SEED{loses}"),
        });
    }
    process::run(build.args(["--package", "multidc-simulation", "--bins"]))?;
    let plant = options.plant.iter().flat_map(|plant| ["--plant".to_owned(), plant.clone()]);
    Ok(Program {
        file: workspace.target.join("release/multidc-sim"),
        slice: 50,
        more: plant.collect(),
        replay: "cargo xtask sim --whole --seed SEED".to_owned(),
    })
}
