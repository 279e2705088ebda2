//! Tasks of this repository: `cargo xtask --help`.
//!
//! Uses no crate of ours, so that it runs on a tree that does not compile. Knows how to get
//! servers and tools; knows nothing of actors.
//!
//! Reading order: [`Task`], then the module of the task in question.

mod layers;
mod process;
mod protoc;
mod servers;
mod test;
mod workspace;

use clap::{Parser, Subcommand};

use servers::Servers;
use workspace::Workspace;

/// Tasks of this repository. Servers and tools that a task needs, it gets by itself.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run all tests against real servers: `cargo test` with servers and protoc at hand.
    ///
    /// Servers: NATS_SERVER_BIN / ETCD_BIN, else PATH, else Docker images, else Debian packages.
    /// Further words go to `cargo test`: `cargo xtask test -p dc-nats -- p2_`.
    Test {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Get NATS and etcd and print where they are: `eval "$(cargo xtask servers)"`.
    ///
    /// After that, plain `cargo test -p dc-nats` finds its server.
    Servers,
    /// Check that dependencies between our crates point down only.
    Layers,
}

fn main() -> anyhow::Result<()> {
    process::watch_signals()?;
    let cli = Cli::parse();
    let workspace = Workspace::load()?;
    match cli.task {
        Task::Test { args } => test::run(&workspace, &args),
        Task::Servers => {
            let servers = Servers::acquire(&workspace)?;
            servers.announce();
            servers.print_exports();
            Ok(())
        }
        Task::Layers => layers::check(&workspace),
    }
}
