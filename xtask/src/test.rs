//! `cargo xtask test`: cargo's own test runner with everything in reach that the tests need.

use std::process::Command;

use anyhow::Result;

use crate::process;
use crate::protoc;
use crate::servers::Servers;
use crate::workspace::Workspace;

/// Runs `cargo test`, on the whole workspace unless `args` name packages.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<()> {
    let servers = Servers::acquire(workspace)?;
    servers.announce();
    let mut test = workspace.cargo();
    test.arg("test");
    if !names_packages(args) {
        build(workspace)?;
        test.args(["--workspace", "--all-features"]);
    }
    prepare(workspace, &servers, &mut test)?;
    process::run(test.args(args))
}

/// Builds whatever the tests run, programs included, with the flags that every other task uses
/// too, so that nothing is built twice.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let mut build = workspace.cargo();
    build.args(["build", "--workspace", "--all-features", "--lib", "--bins", "--tests", "--examples"]);
    protoc::supply(&mut build)?;
    process::run(&mut build)
}

/// What tests find in their environment: the servers' binaries and where our programs are.
pub(crate) fn prepare(workspace: &Workspace, servers: &Servers, command: &mut Command) -> Result<()> {
    servers.export(command);
    command.env("MULTIDC_BIN_DIR", workspace.target.join("debug"));
    protoc::supply(command)
}

/// Whether the user chose packages, so that "all" is not meant.
fn names_packages(args: &[String]) -> bool {
    args.iter()
        .take_while(|arg| *arg != "--")
        .any(|arg| arg.starts_with("--package") || arg.starts_with("-p") || arg == "--workspace")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(args: &[&str]) -> bool {
        names_packages(&args.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn the_whole_workspace_is_meant_unless_packages_are_named() {
        assert!(chosen(&["-p", "dc-nats"]) && chosen(&["--package=dc-nats", "--", "p2"]) && chosen(&["-pdc-nats"]));
        assert!(!chosen(&[]) && !chosen(&["p2_"]) && !chosen(&["--", "-p"]));
    }
}
