//! `cargo xtask deny`: one door per third-party crate, licenses, sources, duplicate versions.
//!
//! The rules stand in `deny.toml`. Advisories need a network and are left to the outside workflow.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process;
use crate::servers::version::Version;
use crate::workspace::Workspace;

/// What is installed where there is none.
const PINNED: Version = Version(0, 20, 2);
/// The oldest that reads our `deny.toml`.
const LEAST: Version = Version(0, 18, 0);

/// Runs cargo-deny without a network, installing it first if need be.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let deny = find_or_install(workspace)?;
    // Offline it reads the sources of every platform's crates, also of those not built here.
    process::run(workspace.cargo().args(["fetch", "--quiet"]))?;
    let mut command = process::command(deny);
    command.current_dir(&workspace.root);
    process::run(command.args(["--offline", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"]))
}

/// Installs cargo-deny, if it is not here.
pub(crate) fn install(workspace: &Workspace) -> Result<()> {
    find_or_install(workspace).map(drop)
}

fn find_or_install(workspace: &Workspace) -> Result<PathBuf> {
    let tools = workspace.target.join("tools");
    let ours = tools.join("bin/cargo-deny");
    let found = process::on_path("cargo-deny").into_iter().chain([ours.clone()]).find(|path| is_usable(path));
    if let Some(path) = found {
        return Ok(path);
    }
    eprintln!("cargo-deny {LEAST} or later is not here: installing {PINNED} under {}", tools.display());
    let mut install = workspace.cargo();
    install
        .args(["install", "--locked", "cargo-deny", "--version", &PINNED.to_string(), "--root"])
        .arg(&tools)
        // It runs for a second per check: building it fast matters more than fast code.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    process::run(&mut install).context("install it by hand: `cargo install --locked cargo-deny`")?;
    Ok(ours)
}

fn is_usable(path: &Path) -> bool {
    process::output(process::command(path).arg("--version"), Duration::from_secs(20))
        .is_ok_and(|told| Version::find(&told).is_some_and(|version| version >= LEAST))
}
