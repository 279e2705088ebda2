//! Writes seeds and wire files, and runs one input. Called by `cargo xtask fuzz`.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use multidc_fuzz_targets::{TARGETS, root, target, wire};

/// Writes seeds and wire files, and runs one input.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// The targets, each with what it claims.
    List,
    /// Write fuzz/seeds/ from today's encoders; files of other names stay.
    Seeds,
    /// Write the files of tests/wire/ that are not there yet. None is ever changed.
    Wire,
    /// Run one input, to see what was found.
    Run {
        /// A target's name.
        target: String,
        /// The input.
        file: PathBuf,
    },
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::List => TARGETS.iter().for_each(|target| println!("{:<10}  {}", target.name, target.about)),
        Task::Seeds => {
            for target in TARGETS {
                let directory = root().join("fuzz/seeds").join(target.name);
                fs::create_dir_all(&directory)?;
                let seeds = (target.seeds)();
                for (name, bytes) in &seeds {
                    fs::write(directory.join(name), bytes).with_context(|| directory.display().to_string())?;
                }
                println!("{}: {} seeds", target.name, seeds.len());
            }
        }
        Task::Wire => {
            let written = wire::write_files()?;
            println!("tests/wire/{}: {written} new files; those that were there are as they were", wire::VERSION);
        }
        Task::Run { target: name, file } => {
            let known = || TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(", ");
            let target = target(&name).with_context(|| format!("no target {name:?}; known: {}", known()))?;
            let input = fs::read(&file).with_context(|| file.display().to_string())?;
            (target.run)(&input);
            println!("{name}: {} bytes: fine", input.len());
        }
    }
    Ok(())
}
