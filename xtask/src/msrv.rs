//! `cargo xtask msrv`: the least Rust version is stated once, and is the highest that our
//! dependencies state. That everything builds with it, the outside workflow shows.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process;
use crate::servers::version::Version;
use crate::workspace::{Workspace, list_of, text_of};

/// Compares what the root manifest states with what the dependencies do.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let root = std::fs::read_to_string(workspace.root.join("Cargo.toml"))?;
    let stated = stated(&root).context("Cargo.toml states no rust-version under [workspace.package]")?;
    for package in &workspace.packages {
        inherits(&package.manifest)?;
    }
    let mut metadata = workspace.cargo();
    metadata.args(["metadata", "--all-features", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&process::output(&mut metadata, Duration::from_secs(300))?)?;
    let (highest, who) = highest(list_of(&metadata, "packages")?)?;
    if highest != stated {
        bail!(
            "Cargo.toml states rust-version {stated}, but the highest of the dependencies is {highest} ({}). \
             State that one, or choose another version of the dependency.",
            who.join(", ")
        );
    }
    println!("msrv: {stated}, as {} asks", who.join(", "));
    Ok(())
}

/// The one `rust-version = ".."` of the root manifest.
fn stated(manifest: &str) -> Option<Version> {
    let mut lines = manifest.lines().filter_map(|line| line.strip_prefix("rust-version"));
    let version = lines.next().and_then(Version::find);
    lines.next().is_none().then_some(version)?
}

/// A member takes it from the workspace.
fn inherits(manifest: &Path) -> Result<()> {
    let text = std::fs::read_to_string(manifest)?;
    if !text.lines().any(|line| line.trim() == "rust-version.workspace = true") {
        bail!("{}: write `rust-version.workspace = true`; the version is stated once", manifest.display());
    }
    Ok(())
}

/// The highest version that third parties state, and who does.
fn highest(packages: &[Value]) -> Result<(Version, Vec<String>)> {
    let mut highest = (Version(1, 0, 0), Vec::new());
    for package in packages.iter().filter(|package| !package["source"].is_null()) {
        let Some(version) = package["rust_version"].as_str().and_then(Version::find) else { continue };
        if version > highest.0 {
            highest = (version, Vec::new());
        }
        if version == highest.0 {
            highest.1.push(text_of(package, "name")?.to_owned());
        }
    }
    Ok(highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_counts_and_ours_do_not() {
        let packages = serde_json::json!([
            { "name": "a", "source": "registry", "rust_version": "1.85" },
            { "name": "b", "source": "registry", "rust_version": "1.89.0" },
            { "name": "c", "source": "registry", "rust_version": null },
            { "name": "ours", "source": null, "rust_version": "1.99" },
        ]);
        let (version, who) = highest(packages.as_array().expect("a list")).expect("readable");
        assert_eq!((version, who), (Version(1, 89, 0), vec!["b".to_owned()]));
    }

    #[test]
    fn it_is_stated_exactly_once() {
        assert_eq!(stated("[workspace.package]\nrust-version = \"1.89\"\n"), Some(Version(1, 89, 0)));
        assert_eq!(stated("rust-version = \"1.89\"\nrust-version = \"1.90\"\n"), None);
        assert_eq!(stated(""), None);
    }
}
