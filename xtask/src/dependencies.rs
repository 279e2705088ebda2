//! `cargo xtask dependencies`: every third party that a manifest of ours names is accounted for.
//!
//! `docs/dependencies.md` has one row for each: who uses it, why it and not another. A row that nobody needs any more
//! is told, and no fault: manifests and page need not change in one commit.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

const LIST: &str = "docs/dependencies.md";
/// Named by `fuzz/Cargo.toml`, a workspace of its own.
const OUTSIDE: [&str; 1] = ["libfuzzer-sys"];

/// Compares the page with the manifests: normal, build and dev dependencies alike.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let list = std::fs::read_to_string(workspace.root.join(LIST)).with_context(|| format!("{LIST} cannot be read"))?;
    let ours: BTreeSet<&str> = workspace.packages.iter().map(|package| package.name.as_str()).collect();
    let mut used: BTreeSet<&str> = OUTSIDE.into();
    for dependency in workspace.packages.iter().flat_map(|package| &package.dependencies) {
        used.insert(&dependency.name);
    }
    let used: BTreeSet<&str> = used.difference(&ours).copied().collect();
    let (faults, idle) = compare(&used, &listed(&list));
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    idle.iter().for_each(|name| println!("dependencies: no manifest names {name} any more: take its row out"));
    println!("dependencies: {} third parties, each accounted for in {LIST}", used.len());
    Ok(())
}

/// The names of the rows: lines that begin with "| `name` |".
fn listed(list: &str) -> BTreeSet<&str> {
    list.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once("` |")?.0)).collect()
}

/// What is used and not listed, told as faults; what is listed and not used, by name.
fn compare(used: &BTreeSet<&str>, listed: &BTreeSet<&str>) -> (Vec<String>, Vec<String>) {
    let missing = used.difference(listed).map(|name| {
        format!("{name} is used and not accounted for: add a row to {LIST}: who uses it, why it and not another")
    });
    (missing.collect(), listed.difference(used).map(ToString::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_other_lines_are_not() {
        let page = "| crate | used by | why |\n|---|---|---|\n| `tokio` | all | the runtime |\n`not` a row\n";
        assert_eq!(listed(page), ["tokio"].into());
    }

    #[test]
    fn what_is_missing_and_what_is_idle_is_named() {
        assert_eq!(compare(&["a", "b"].into(), &["a", "b"].into()), (vec![], vec![]));
        let (missing, idle) = compare(&["a", "b"].into(), &["b", "c"].into());
        assert!(missing.len() == 1 && missing[0].starts_with("a is used"), "{missing:?}");
        assert_eq!(idle, ["c"]);
    }

    #[test]
    fn this_workspace_accounts_for_every_third_party() {
        check(&Workspace::load().expect("cargo metadata")).expect("dependencies");
    }
}
