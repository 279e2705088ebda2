//! `cargo xtask demo` and `cargo xtask bench`: our programs, with the servers they need.
//!
//! The story itself is told by `multidc-demo` (package `multidc-tests`), which starts the nodes.
//! We build it and `dcctl`, start the control plane's server, and clean up whatever happens.

use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{self, Group};
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

/// Tells the story; its exit code is ours.
pub(crate) fn run(workspace: &Workspace, plane: Plane, keep: bool, args: &[String]) -> Result<()> {
    let mut build = workspace.cargo();
    // The same flags as for the tests, so that after them nothing is built anew.
    build.args(["build", "--package", PACKAGE, "--package", "dcctl", "--all-features", "--bins"]);
    protoc::supply(&mut build)?;
    require_bin(workspace, DEMO)?;
    process::run(&mut build)?;

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
    let bin = workspace.target.join("debug");
    let mut demo = process::command(bin.join(DEMO));
    demo.args(["--control-plane-url", &url]).args(keep.then_some("--keep")).args(args);
    demo.env("MULTIDC_BIN_DIR", &bin).env("DCCTL_BIN", bin.join("dcctl"));
    let status = process::status(&mut demo)?;
    if !status.success() {
        bail!(Failed { what: "the demo", code: status.code().unwrap_or(1) });
    }
    Ok(())
}

fn start(workspace: &Workspace, kind: Kind) -> Result<Local> {
    Local::start(&servers::acquire(kind, &workspace.target.join("servers"))?)
}

/// Runs the benchmarks, all or those named.
pub(crate) fn bench(workspace: &Workspace, names: &[String]) -> Result<()> {
    require_bin(workspace, BENCH)?;
    let servers = Servers::acquire(workspace)?;
    servers.announce();
    let mut bench: Command = workspace.cargo();
    bench.args(["run", "--release", "--all-features", "--package", PACKAGE, "--bin", BENCH, "--"]).args(names);
    servers.export(&mut bench);
    protoc::supply(&mut bench)?;
    eprintln!("$ {}", process::shown(&bench));
    let status = Group::spawn(&mut bench)?.wait(None)?;
    if !status.success() {
        bail!(Failed { what: "the benchmark", code: status.code().unwrap_or(1) });
    }
    Ok(())
}

fn require_bin(workspace: &Workspace, name: &str) -> Result<()> {
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
