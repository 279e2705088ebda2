//! A `protoc` for etcd-client's build script, so that nobody has to install one.

use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// Names a protoc to `command` through `PROTOC`, unless the environment or `PATH` has one.
pub(crate) fn supply(command: &mut Command) -> Result<()> {
    if std::env::var_os("PROTOC").is_none() && process::on_path("protoc").is_none() {
        let path = protoc_bin_vendored::protoc_bin_path()
            .context("no protoc for this platform is at hand: install protobuf-compiler, or set PROTOC to a protoc")?;
        command.env("PROTOC", path);
    }
    Ok(())
}

/// Makes a build that runs protoc fail, whatever this machine has installed.
pub(crate) fn withhold(command: &mut Command) {
    command.env("PROTOC", "/nonexistent/protoc-is-not-needed-here");
}
