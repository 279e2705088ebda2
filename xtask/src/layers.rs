//! `cargo xtask layers`: dependencies between our crates point down, never sideways or up.

use anyhow::{Result, bail};

use crate::workspace::Workspace;

/// Bottom floor first; a crate may use only earlier floors. Every workspace member is listed.
/// Why each crate stands where it does: `docs/architecture.md`.
const LAYERS: &[&[&str]] = &[
    &["dc-core", "dc-macros"],
    &["dc-controlplane"],
    &["dc-nats", "dc-etcd", "dc-sqlite", "dc-cache", "dc-placement", "dc-remoting"],
    &["dc-cluster", "dc-controller", "dc-ownership"],
    &["dc-actor"],
    &["multidc", "multidc-ledger"],
    &[
        "dcctl",
        "multidc-tests",
        "multidc-simulation",
        "multidc-examples",
        "multidc-fuzz-targets",
        "multidc-model",
        "xtask",
    ],
];

/// Uses none of our crates, so that it runs on a tree that does not compile.
const STANDS_ALONE: &str = "xtask";

/// Checks the edges that the manifests state: normal, build and dev alike.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let members: Vec<&str> = workspace.packages.iter().map(|package| package.name.as_str()).collect();
    let edges: Vec<(&str, &str)> = workspace
        .packages
        .iter()
        .flat_map(|package| package.dependencies.iter().map(|to| (package.name.as_str(), to.name.as_str())))
        .filter(|(_, to)| members.contains(to))
        .collect();
    let mut faults = bad_members(LAYERS, &members);
    faults.extend(bad_edges(LAYERS, &edges));
    if !faults.is_empty() {
        bail!(
            "{}\nMove the code to the floor where it belongs, or, if the floors themselves have changed, \
             edit LAYERS in xtask/src/layers.rs together with docs/architecture.md.",
            faults.join("\n")
        );
    }
    println!("layers: {} crates, {} edges, all pointing down", members.len(), edges.len());
    Ok(())
}

/// Members without a floor, and floors without a member.
fn bad_members(layers: &[&[&str]], members: &[&str]) -> Vec<String> {
    let listed = layers.concat();
    let homeless = members.iter().filter(|name| !listed.contains(name)).map(|name| format!("{name} has no floor"));
    let absent = listed.iter().filter(|name| !members.contains(name)).map(|name| format!("{name} is not a member"));
    homeless.chain(absent).collect()
}

/// Each edge that does not point down.
fn bad_edges(layers: &[&[&str]], edges: &[(&str, &str)]) -> Vec<String> {
    let floor = |name| layers.iter().position(|crates| crates.contains(name));
    edges
        .iter()
        .filter(|(from, to)| *from == STANDS_ALONE || floor(to).is_none() || floor(from) <= floor(to))
        .map(|(from, to)| format!("{from} must not depend on {to}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUSE: &[&[&str]] = &[&["cellar"], &["left", "right"], &["roof", "xtask"]];

    #[test]
    fn edges_down_are_fine_also_over_several_floors() {
        assert_eq!(bad_edges(HOUSE, &[("left", "cellar"), ("roof", "cellar"), ("roof", "right")]), [""; 0]);
    }

    #[test]
    fn edges_sideways_up_and_to_oneself_are_refused() {
        assert_eq!(
            bad_edges(HOUSE, &[("left", "right"), ("cellar", "roof"), ("roof", "roof")]),
            ["left must not depend on right", "cellar must not depend on roof", "roof must not depend on roof"]
        );
    }

    #[test]
    fn a_crate_without_a_floor_may_neither_use_nor_be_used() {
        assert_eq!(
            bad_edges(HOUSE, &[("shed", "cellar"), ("roof", "shed")]),
            ["shed must not depend on cellar", "roof must not depend on shed"]
        );
        assert_eq!(
            bad_members(HOUSE, &["cellar", "left", "right", "roof", "shed"]),
            ["shed has no floor", "xtask is not a member"]
        );
    }

    #[test]
    fn xtask_uses_no_crate_of_ours() {
        assert_eq!(bad_edges(HOUSE, &[("xtask", "cellar")]), ["xtask must not depend on cellar"]);
    }

    #[test]
    fn this_workspace_keeps_its_floors() {
        check(&Workspace::load().expect("cargo metadata")).expect("floors");
    }
}
