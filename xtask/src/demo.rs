//! `cargo xtask demo` and `cargo xtask bench`: our programs, with the servers they need.
//!
//! The story itself is told by `multidc-demo` (package `multidc-tests`), which starts the nodes.
//! We build it and `dcctl`, start the control plane's server, and clean up whatever happens.

use std::process::ExitStatus;

use anyhow::{Result, bail};

use crate::process;
use crate::protoc;
use crate::servers::local::Local;
use crate::servers::{self, Kind, Servers};
use crate::workspace::Workspace;

const PACKAGE: &str = "multidc-tests";
const DEMO: &str = "multidc-demo";
const BENCH: &str = "multidc-bench";

/// Which control plane the demo runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Plane {
    /// One file on this machine.
    Sqlite,
    /// A real nats-server, started for the demo.
    Nats,
    /// A real etcd, started for the demo.
    Etcd,
}

impl Plane {
    /// As our programs take it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Nats => "nats",
            Self::Etcd => "etcd",
        }
    }
}

/// Tells the story; its exit code is ours.
pub(crate) fn run(workspace: &Workspace, plane: Plane, tls: bool, keep: bool, args: &[String]) -> Result<()> {
    require_bin(workspace, DEMO)?;
    build(workspace, &["--package", "dcctl"])?;

    // Both live until the story has ended; the drops stop the server and remove the data.
    let dir = tempfile::tempdir()?;
    let server = match plane {
        Plane::Sqlite => None,
        Plane::Nats => Some(start(workspace, Kind::Nats)?),
        Plane::Etcd => Some(start(workspace, Kind::Etcd)?),
    };
    let url = match &server {
        Some(local) => local.url.clone(),
        None => format!("sqlite://{}", dir.path().join("control-plane.db").display()),
    };
    let mut demo = process::command(workspace.target.join("debug").join(DEMO));
    demo.args(["--control-plane-url", &url]).args(tls.then_some("--tls")).args(keep.then_some("--keep")).args(args);
    told(process::status(&mut demo)?, "the demo")
}

/// Runs the benchmarks, all or those named.
pub(crate) fn bench(workspace: &Workspace, names: &[String]) -> Result<()> {
    require_bin(workspace, BENCH)?;
    let servers = Servers::acquire(workspace)?;
    servers.announce();
    build(workspace, &["--release"])?;
    let mut bench = process::command(workspace.target.join("release").join(BENCH));
    servers.export(&mut bench);
    told(process::status(bench.args(names))?, "the benchmark")
}

/// Builds all programs of ours that demo and benchmarks start.
fn build(workspace: &Workspace, more: &[&str]) -> Result<()> {
    let mut build = workspace.cargo();
    build.args(["build", "--package", PACKAGE, "--all-features", "--bins"]).args(more);
    protoc::supply(&mut build)?;
    process::run(&mut build)
}

fn start(workspace: &Workspace, kind: Kind) -> Result<Local> {
    Local::start(&servers::acquire(kind, &workspace.target.join("servers"))?)
}

/// A failure carries the exit code on.
pub(crate) fn told(status: ExitStatus, what: &'static str) -> Result<()> {
    if !status.success() {
        bail!(Failed { what, code: status.code().unwrap_or(1) });
    }
    Ok(())
}

pub(crate) fn require_bin(workspace: &Workspace, name: &str) -> Result<()> {
    if !workspace.package(PACKAGE).is_some_and(|package| package.has_bin(name)) {
        bail!("{PACKAGE} has no program {name} (tests/src/bin/{name}.rs)");
    }
    Ok(())
}

/// A program of ours failed with that exit code, which becomes xtask's own.
#[derive(Debug)]
pub(crate) struct Failed {
    what: &'static str,
    pub(crate) code: i32,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} failed with exit code {}", self.what, self.code)
    }
}

impl std::error::Error for Failed {}
