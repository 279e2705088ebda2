//! What the compiler's own tools refuse: format, clippy, documentation.

use anyhow::Result;

use crate::process;
use crate::protoc;
use crate::workspace::Workspace;

/// `cargo fmt --check` and clippy on everything, warnings being errors.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    process::run(workspace.cargo().args(["fmt", "--all", "--check"]))?;
    let mut clippy = workspace.cargo();
    clippy.args(["clippy", "--workspace", "--all-features", "--all-targets"]);
    protoc::supply(&mut clippy)?;
    process::run(clippy.args(["--", "-D", "warnings"]))
}

/// `cargo doc` on our crates, warnings (broken links among them) being errors.
pub(crate) fn docs(workspace: &Workspace) -> Result<()> {
    let mut doc = workspace.cargo();
    doc.args(["doc", "--workspace", "--all-features", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    protoc::supply(&mut doc)?;
    process::run(&mut doc)
}
