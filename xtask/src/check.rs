//! `cargo xtask check`: everything that a reviewer would refuse, cheapest first.

use anyhow::{Result, bail};

use crate::process;
use crate::workspace::Workspace;
use crate::{deny, dependencies, features, guarantees, layers, lint, msrv};

type Step = fn(&Workspace) -> Result<()>;

const STEPS: [(&str, Step); 8] = [
    ("layers", layers::check),
    ("guarantees", guarantees::check),
    ("msrv", msrv::check),
    ("dependencies", dependencies::check),
    ("lint", lint::check),
    ("docs", lint::docs),
    ("features", features::check),
    ("deny", deny::check),
];

/// Runs every step, also after one has failed, and sums up.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut summary = Vec::new();
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        eprintln!("\n== {name}");
        let start = process::now();
        let result = step(workspace);
        let took = process::since(start).as_secs_f64();
        if process::interrupted() {
            return result;
        }
        summary.push(format!("{name:<14}{took:>7.1} s  {}", if result.is_ok() { "ok" } else { "FAILED" }));
        if let Err(error) = result {
            eprintln!("{name}: {error:#}");
            failed.push(name);
        }
    }
    eprintln!("\n{}", summary.join("\n"));
    if !failed.is_empty() {
        bail!("failed: {}; each runs alone too: `cargo xtask {}`", failed.join(", "), failed[0]);
    }
    Ok(())
}
