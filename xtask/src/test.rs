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
    if names_packages(args) {
        if args.iter().any(|arg| arg.ends_with("multidc-tests")) {
            // Whole-system tests start our programs; cargo would not build another package's.
            let mut programs = workspace.cargo();
            programs.args(["build", "--package", "multidc-tests", "--package", "dcctl", "--bins"]);
            protoc::supply(&mut programs)?;
            process::run(&mut programs)?;
        }
    } else {
        build(workspace)?;
        test.args(["--workspace", "--all-features", "--no-fail-fast"]);
    }
    prepare(&servers, &mut test)?;
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

/// What tests find in their environment: the servers' binaries, and protoc for their build.
pub(crate) fn prepare(servers: &Servers, command: &mut Command) -> Result<()> {
    servers.export(command);
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        // Most tests wait for leases of real servers, not for a core; those that start whole systems take turns.
        command.env("RUST_TEST_THREADS", "6");
    }
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
