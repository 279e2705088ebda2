//! `cargo xtask model`: the ownership protocol, checked in every order of events.

use anyhow::Result;

use crate::process;
use crate::workspace::Workspace;

/// Runs the checker of `model/`; it prints states, depth and time of each scenario.
pub(crate) fn run(workspace: &Workspace, large: bool) -> Result<()> {
    let mut checker = workspace.cargo();
    // Optimised in every profile, by the workspace's manifest.
    checker.args(["run", "--package", "multidc-model", "--"]);
    if large {
        checker.arg("--large");
    }
    process::run(&mut checker)
}
