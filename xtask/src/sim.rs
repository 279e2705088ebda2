//! `cargo xtask sim`: the production core of ownership under simulated time, store, network and clocks.

use anyhow::{Result, bail};

use crate::process;
use crate::workspace::Workspace;

/// Between two lines of progress.
const SLICE: u64 = 500;

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many systems, each with a seed of its own.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed; the others follow.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// The store loses data, too: wiped, or set back to what it was.
    #[arg(long)]
    loses: bool,
}

/// Builds the simulation, optimised, and runs the seeds. A failure prints its seed and how to replay it.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let Some(end) = options.from.checked_add(options.seeds).filter(|_| options.seeds > 0) else {
        bail!("--seeds {} --from {}: must be at least one seed, and below 2^64", options.seeds, options.from);
    };
    let mut build = workspace.cargo();
    process::run(build.args(["build", "--release", "--package", "dc-ownership", "--example", "sim"]))?;
    let program = workspace.target.join("release/examples/sim");
    let mut from = options.from;
    while from < end {
        let seeds = SLICE.min(end - from);
        let mut sim = process::command(&program);
        sim.args(["--seeds", &seeds.to_string(), "--from", &from.to_string()]);
        sim.args(options.loses.then_some("--loses"));
        if let Err(error) = process::run(&mut sim) {
            let loses = if options.loses { " --loses" } else { "" };
            bail!("{error:#}\nReplay the seed named above: `cargo xtask sim --seeds 1 --from SEED{loses}`");
        }
        from += seeds;
        eprintln!("{} of {} seeds are well", from - options.from, options.seeds);
    }
    Ok(())
}
