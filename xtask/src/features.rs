//! `cargo xtask features`: what a build contains, and what it must not.
//!
//! - The facade contains a backend's client exactly if that backend's feature is on (`cargo tree`).
//! - Nothing but etcd needs protoc: no build script that runs it is in any other graph, and
//!   everything else is checked with none to be had.
//! - Each crate compiles alone, and the facade with each feature alone.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::process;
use crate::protoc;
use crate::workspace::{Package, Workspace};

const FACADE: &str = "multidc";
/// A backend's feature and the client that comes with it.
const BACKENDS: [(&str, &str); 3] = [("nats", "async-nats"), ("etcd", "etcd-client"), ("sqlite", "rusqlite")];
/// In the graph of whatever runs protoc when it is built.
const RUNS_PROTOC: &str = "prost-build";
/// The one third party that may.
const NEEDS_PROTOC: &str = "etcd-client";

/// Trees first, as they cost nothing; then the builds.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let Some(facade) = workspace.package(FACADE) else { bail!("{FACADE} is not a member") };
    let builds = builds(workspace, facade);
    for build in &builds {
        let graph = build.graph(workspace)?;
        let mut faults = protoc_faults(&graph);
        if build.package == FACADE {
            faults.extend(client_faults(&build.features, &graph));
        }
        if !faults.is_empty() {
            bail!("{}: {}", build.title(), faults.join("; "));
        }
        println!("features: {}: {} crates, none that does not belong", build.title(), graph.len());
    }
    for build in &builds {
        build.compile(workspace)?;
    }
    println!("features: {} builds, each compiles alone", builds.len());
    Ok(())
}

/// One way to build one crate.
struct Build {
    package: String,
    /// Without the default ones, which are listed like any other.
    features: Vec<String>,
    /// False: as its own manifest has it.
    chosen: bool,
}

/// Each member as it is, and the facade with none, each one and all features that are no backend's.
fn builds(workspace: &Workspace, facade: &Package) -> Vec<Build> {
    let alone = |package: &Package| Build { package: package.name.clone(), features: Vec::new(), chosen: false };
    let facade_with = |features: Vec<String>| Build { package: FACADE.into(), features, chosen: true };
    let features: Vec<String> = facade.features.iter().filter(|name| *name != "default").cloned().collect();
    let is_backend = |name: &String| BACKENDS.iter().any(|(feature, _)| feature == name);

    let mut builds: Vec<Build> =
        workspace.packages.iter().filter(|package| package.name != FACADE).map(alone).collect();
    builds.push(facade_with(Vec::new()));
    builds.extend(features.iter().map(|feature| facade_with(vec![feature.clone()])));
    builds.push(facade_with(features.into_iter().filter(|feature| !is_backend(feature)).collect()));
    builds
}

impl Build {
    fn title(&self) -> String {
        match (self.chosen, self.features.as_slice()) {
            (false, _) => self.package.clone(),
            (true, []) => format!("{} without features", self.package),
            (true, features) => format!("{} with {}", self.package, features.join(",")),
        }
    }

    fn args(&self) -> Vec<String> {
        let mut args = vec!["--package".into(), self.package.clone()];
        if self.chosen {
            args.extend(["--no-default-features".into(), "--features".into(), self.features.join(",")]);
        }
        args
    }

    /// The names of all crates that are compiled for it, tests left out.
    fn graph(&self, workspace: &Workspace) -> Result<BTreeSet<String>> {
        let mut tree = workspace.cargo();
        tree.arg("tree").args(self.args()).args(["--edges", "normal,build", "--prefix", "none", "--format", "{p}"]);
        let told = process::output(&mut tree, Duration::from_secs(120))?;
        Ok(names(&told))
    }

    /// `cargo check`, with a protoc only where etcd's client is among what is built.
    fn compile(&self, workspace: &Workspace) -> Result<()> {
        let mut check = workspace.cargo();
        check.args(["check", "--quiet"]).args(self.args());
        if self.graph(workspace)?.contains(NEEDS_PROTOC) {
            protoc::supply(&mut check)?;
        } else {
            protoc::withhold(&mut check);
        }
        process::run(&mut check)
    }
}

/// The first word of each line.
fn names(tree: &str) -> BTreeSet<String> {
    tree.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// A backend's client is there exactly if its feature is.
fn client_faults(features: &[String], graph: &BTreeSet<String>) -> Vec<String> {
    let fault =
        |(feature, client): &(&str, &str)| match (features.iter().any(|on| on == feature), graph.contains(*client)) {
            (false, true) => Some(format!("{client} is built although the feature {feature} is off")),
            (true, false) => Some(format!("{client} is missing although the feature {feature} is on")),
            _ => None,
        };
    BACKENDS.iter().filter_map(fault).collect()
}

/// What runs protoc is there only because of etcd's client.
fn protoc_faults(graph: &BTreeSet<String>) -> Vec<String> {
    if graph.contains(RUNS_PROTOC) && !graph.contains(NEEDS_PROTOC) {
        return vec![format!("{RUNS_PROTOC} is built without {NEEDS_PROTOC}: users would need protoc")];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_client_comes_exactly_with_its_feature() {
        assert_eq!(client_faults(&["nats".into()], &graph(&["async-nats", "tokio"])), [""; 0]);
        assert_eq!(
            client_faults(&["nats".into()], &graph(&["rusqlite"])),
            [
                "async-nats is missing although the feature nats is on",
                "rusqlite is built although the feature sqlite is off"
            ]
        );
    }

    #[test]
    fn only_etcd_may_bring_what_runs_protoc() {
        assert_eq!(protoc_faults(&graph(&["etcd-client", "prost-build"])), [""; 0]);
        assert_eq!(protoc_faults(&graph(&["prost"])), [""; 0]);
        assert_eq!(protoc_faults(&graph(&["prost-build"])).len(), 1);
    }

    #[test]
    fn a_tree_is_read_line_by_line() {
        assert_eq!(names("multidc v0.1.0 (/x)\ntokio v1.54.0\ntokio v1.54.0 (*)\n\n"), graph(&["multidc", "tokio"]));
    }
}
