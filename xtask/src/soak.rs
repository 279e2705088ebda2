//! `cargo xtask soak`: three datacenters of processes under load and chaos, followed message by message.
//!
//! The course of a run is `multidc-soak`'s (package `multidc-tests`), which starts the nodes and the store's servers. We
//! build it and `dcctl`, optimised, get the servers, and clean up whatever happens.

use anyhow::Result;

use crate::demo;
use crate::process;
use crate::protoc;
use crate::servers::Servers;
use crate::workspace::Workspace;

const SOAK: &str = "multidc-soak";

/// What a run is told; the rest goes to `multidc-soak` as it is.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long load and faults last, in minutes.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// What the datacenters meet on.
    #[arg(long, value_enum, default_value = "nats")]
    control_plane: demo::Plane,
    /// Seed of faults and load; drawn and printed if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Share of the measured peak that is sent.
    #[arg(long, default_value_t = 0.8)]
    load: f64,
    /// Page to write, with its curves in an SVG file beside it.
    #[arg(long, value_name = "PATH")]
    report: Option<std::path::PathBuf>,
    /// Build without optimisation: quicker to start, and slower.
    #[arg(long)]
    debug: bool,
    /// For `multidc-soak`: `cargo xtask soak -- --help`.
    #[arg(last = true)]
    args: Vec<String>,
}

/// Carries out a run; its exit code is ours.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    demo::require_bin(workspace, SOAK)?;
    let servers = Servers::acquire(workspace)?;
    servers.announce();
    let mut build = workspace.cargo();
    build.args(["build", "--package", "multidc-tests", "--package", "dcctl", "--bin", SOAK, "--bin", "dcctl"]);
    build.args((!options.debug).then_some("--release"));
    protoc::supply(&mut build)?;
    process::run(&mut build)?;

    let built = if options.debug { "debug" } else { "release" };
    let mut soak = process::command(workspace.target.join(built).join(SOAK));
    servers.export(&mut soak);
    soak.args(["--minutes", &options.minutes.to_string(), "--load", &options.load.to_string()]);
    soak.args(["--control-plane", options.control_plane.name()]);
    if let Some(seed) = options.seed {
        soak.args(["--seed", &seed.to_string()]);
    }
    if let Some(report) = &options.report {
        soak.arg("--report").arg(report);
    }
    demo::told(process::status(soak.args(&options.args))?, "the soak")
}
