//! Tasks of this repository: `cargo xtask --help`.
//!
//! Uses no crate of ours, so that it runs on a tree that does not compile. Knows how to get
//! servers and tools; knows nothing of actors.
//!
//! Reading order: [`Task`], then the module of the task in question.

mod check;
mod demo;
mod deny;
mod dependencies;
mod features;
mod fuzz;
mod guarantees;
mod integration;
mod layers;
mod lint;
mod model;
mod msrv;
mod process;
mod protoc;
mod servers;
mod sim;
mod soak;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use servers::Servers;
use workspace::Workspace;

/// Tasks of this repository. Servers and tools that a task needs, it gets by itself.
///
/// First `demo`, to see what this is; then `test`, before and after a change; `check`, before
/// it is shown to others.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Two datacenters of three nodes each, as processes, tell what they can do.
    ///
    /// Exits non-zero if any step of the story is not as told.
    Demo {
        /// What the datacenters meet on; a server is started for the demo.
        #[arg(long, value_enum, default_value = "sqlite")]
        control_plane: demo::Plane,
        /// All links over mutual TLS, with a CA made for this run.
        #[arg(long)]
        tls: bool,
        /// Leave everything running after the story, until Ctrl-C.
        #[arg(long)]
        keep: bool,
        /// For the story itself.
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Run all tests against real servers: `cargo test` with servers and protoc at hand.
    ///
    /// Servers: NATS_SERVER_BIN / ETCD_BIN, else PATH, else Docker images, else Debian packages.
    /// Further words go to `cargo test`: `cargo xtask test -p dc-nats -- p2_`.
    Test {
        /// For `cargo test`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run the tests that need servers against NATS and etcd in Docker, single and clustered.
    ///
    /// Without a Docker engine each test starts its servers from binaries. NATS_IMAGE and
    /// ETCD_IMAGE name other images than the official ones pinned here.
    Integration {
        /// Where the servers run; by default in Docker if an engine answers.
        #[arg(long, value_enum)]
        servers: Option<integration::Place>,
        /// For each test program: `cargo xtask integration -- p2_ --nocapture`.
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Everything that a reviewer would refuse; the steps are tasks of their own, below.
    Check,
    /// Check that dependencies between our crates point down only.
    Layers,
    /// Check that each guarantee in docs/guarantees.md is borne by a test.
    Guarantees,
    /// Check that rust-version is stated once and is the highest of our dependencies.
    Msrv,
    /// Check format and clippy, warnings being errors.
    Lint,
    /// Check that the documentation builds without warnings.
    Docs,
    /// Check what each feature brings, that each crate compiles alone, and who needs protoc.
    Features,
    /// Check third parties: one door each, licenses, sources, duplicate versions.
    Deny {
        /// Only install cargo-deny, if it is not here.
        #[arg(long)]
        install: bool,
    },
    /// Check that docs/dependencies.md accounts for each third party that a manifest names.
    Dependencies,
    /// Check the ownership protocol of docs/ownership.md in every order of events, within bounds.
    ///
    /// Prints states, depth and time of each scenario. The same scenarios, and rules left out on purpose, are tests of
    /// `multidc-model`.
    Model {
        /// With wider bounds: minutes, and gigabytes of memory.
        #[arg(long)]
        large: bool,
    },
    /// Fuzz every decoder and the link, guided by coverage; prints executions and the size of the corpus.
    ///
    /// Which targets there are: `ls fuzz/fuzz_targets`. Without a name, all take turns. What is found new goes into
    /// fuzz/corpus/TARGET and is the start of the next run; an input that breaks something is saved, and how to see it
    /// again is told. The same targets run for seconds as ordinary tests: `cargo test -p multidc-fuzz-targets`.
    /// cargo-fuzz is installed if need be; the stable toolchain will do. docs/fuzzing.md has more.
    #[command(after_help = "Examples:\n  cargo xtask fuzz frames --minutes 1\n  cargo xtask fuzz --minutes 60")]
    Fuzz {
        /// Which target; all if none is named.
        target: Option<String>,
        /// How long each target runs.
        #[arg(long, default_value_t = 1.0)]
        minutes: f64,
        /// Write fuzz/seeds/ from today's encoders, and run nothing.
        #[arg(long, conflicts_with_all = ["target", "minutes"])]
        write_seeds: bool,
        /// Write the files of tests/wire/ that are not there yet, and run nothing. None is ever changed.
        #[arg(long, conflicts_with_all = ["target", "minutes", "write_seeds"])]
        write_wire: bool,
    },
    /// Get NATS and etcd and print where they are: `eval "$(cargo xtask servers)"`.
    ///
    /// After that, plain `cargo test -p dc-nats` finds its server.
    Servers,
    /// Run ownership under simulated time, and break what can break: its core alone, or whole systems.
    ///
    /// Three datacenters, a store that keeps its contract and nothing more, clocks that differ by 10 %; nodes crash and
    /// pause, answers get lost. Checked after each step: one owner, rising epochs, nothing acknowledged is lost by a
    /// move; and that everything has its owner again at the end. With `--whole` the nodes are real ones, with links, gossip,
    /// routing tables and actors, over a simulated network: slower by far, and closer to what runs. A small part of
    /// both are tests, of `dc-ownership` and `multidc-simulation`. docs/simulation.md has more.
    #[command(
        after_help = "Examples:\n  cargo xtask sim --seeds 10000\n  cargo xtask sim --seeds 1000 --loses\n  cargo xtask sim --seeds 1 --from 4711      # the same run, once more\n  cargo xtask sim --whole --seeds 200\n  cargo xtask sim --whole --seed 4711        # the same run, told as a story\n  cargo xtask sim --whole --plant skip-margin # a bug on purpose: it must be found"
    )]
    Sim(sim::Options),
    /// Hurt three datacenters of nine processes under load, and follow every message.
    ///
    /// Nodes are killed, paused and cut off, links cut and delayed, the store restarted, a datacenter drained,
    /// certificates rotated. Exits non-zero if a guarantee was seen broken, or if memory, files or tasks grow.
    Soak(soak::Options),
    /// Measure, each figure beside its floor from the same run; all, or those named.
    ///
    /// `failover`, `steady`, `idle` and `drain` only where they are named: they take minutes. docs/benchmarks.md has figures.
    #[command(
        after_help = "Examples:\n  cargo xtask bench asks tells\n  cargo xtask bench failover --runs 30 --control-plane etcd --fast\n  cargo xtask bench failover --runs 30 --control-plane nats --far\n  cargo xtask bench steady --minutes 30 --control-plane etcd\n  cargo xtask bench idle --minutes 2 --control-plane nats\n  cargo xtask bench drain --control-plane etcd"
    )]
    Bench {
        /// Which, all if none is named; and their options, as `bench -- --help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        names: Vec<String>,
    },
}

fn main() -> ExitCode {
    let Err(error) = run(Cli::parse().task) else { return ExitCode::SUCCESS };
    eprintln!("error: {error:#}");
    let code = match error.downcast_ref::<demo::Failed>() {
        _ if process::interrupted() => 130,
        Some(failed) => u8::try_from(failed.code).unwrap_or(1),
        None => 1,
    };
    ExitCode::from(code)
}

fn run(task: Task) -> Result<()> {
    process::watch_signals()?;
    let workspace = Workspace::load()?;
    match task {
        Task::Demo { control_plane, tls, keep, args } => demo::run(&workspace, control_plane, tls, keep, &args),
        Task::Test { args } => test::run(&workspace, &args),
        Task::Integration { servers, args } => integration::run(&workspace, servers, &args),
        Task::Check => check::run(&workspace),
        Task::Layers => layers::check(&workspace),
        Task::Guarantees => guarantees::check(&workspace),
        Task::Msrv => msrv::check(&workspace),
        Task::Lint => lint::check(&workspace),
        Task::Docs => lint::docs(&workspace),
        Task::Features => features::check(&workspace),
        Task::Deny { install: true } => deny::install(&workspace),
        Task::Deny { install: false } => deny::check(&workspace),
        Task::Dependencies => dependencies::check(&workspace),
        Task::Model { large } => model::run(&workspace, large),
        Task::Fuzz { target, minutes, write_seeds, write_wire } => {
            fuzz::run(&workspace, &fuzz::Fuzz { target, minutes, write_seeds, write_wire })
        }
        Task::Sim(options) => sim::run(&workspace, &options),
        Task::Soak(options) => soak::run(&workspace, &options),
        Task::Bench { names } => demo::bench(&workspace, &names),
        Task::Servers => {
            let servers = Servers::acquire(&workspace)?;
            servers.announce();
            servers.print_exports();
            Ok(())
        }
    }
}
