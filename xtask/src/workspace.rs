//! The workspace as cargo sees it: root, target directory, members, the cargo to call.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process;

/// What `cargo metadata --no-deps` tells.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) packages: Vec<Package>,
}

/// One member.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) manifest: PathBuf,
    pub(crate) features: Vec<String>,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) targets: Vec<Target>,
}

/// One line of a member's manifest: normal, build or dev.
pub(crate) struct Dependency {
    pub(crate) name: String,
}

/// One thing a member builds.
pub(crate) struct Target {
    pub(crate) name: String,
    /// `lib`, `bin`, `test`, ..
    pub(crate) kind: String,
}

/// The cargo that runs us, without an own process group or a time limit.
///
/// It is not told of the package that cargo runs here: ring's build script takes a change of these variables for a
/// reason to build again, and all that needs TLS after it, whenever `cargo xtask` follows plain `cargo` or precedes it.
pub(crate) fn cargo() -> Command {
    let mut command = process::command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    command
}

impl Workspace {
    /// Reads the workspace that xtask belongs to.
    pub(crate) fn load() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
        let mut command = cargo();
        command.args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"]).arg(manifest);
        let text = process::output(&mut command, Duration::from_secs(120))?;
        Self::parse(&text).context("reading what `cargo metadata` printed")
    }

    fn parse(text: &str) -> Result<Self> {
        let metadata: Value = serde_json::from_str(text)?;
        Ok(Self {
            root: text_of(&metadata, "workspace_root")?.into(),
            target: text_of(&metadata, "target_directory")?.into(),
            packages: list_of(&metadata, "packages")?.iter().map(Package::parse).collect::<Result<_>>()?,
        })
    }

    /// The member of that name.
    pub(crate) fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }

    /// `cargo`, started in the workspace's root.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = cargo();
        command.current_dir(&self.root);
        command
    }
}

impl Package {
    fn parse(value: &Value) -> Result<Self> {
        let dependencies = list_of(value, "dependencies")?
            .iter()
            .map(|dependency| Ok(Dependency { name: text_of(dependency, "name")?.into() }))
            .collect::<Result<_>>()?;
        let targets = list_of(value, "targets")?
            .iter()
            .map(|target| {
                Ok(Target {
                    name: text_of(target, "name")?.into(),
                    kind: target["kind"][0].as_str().context("`kind` is missing")?.into(),
                })
            })
            .collect::<Result<_>>()?;
        let features = value["features"].as_object().context("`features` is missing")?.keys().cloned().collect();
        Ok(Self {
            name: text_of(value, "name")?.into(),
            manifest: text_of(value, "manifest_path")?.into(),
            features,
            dependencies,
            targets,
        })
    }

    /// Whether it has a binary of that name.
    pub(crate) fn has_bin(&self, name: &str) -> bool {
        self.targets.iter().any(|target| target.kind == "bin" && target.name == name)
    }
}

/// The text under `key`.
pub(crate) fn text_of<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key].as_str().with_context(|| format!("`{key}` is missing"))
}

/// The list under `key`.
pub(crate) fn list_of<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value[key].as_array().with_context(|| format!("`{key}` is missing"))
}
