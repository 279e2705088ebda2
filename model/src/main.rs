//! `cargo xtask model`: checks the protocol, and tells figures.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use multidc_model::{check, config};

/// Checks the ownership protocol in every order of events, within bounds.
#[derive(Parser)]
struct Args {
    /// With wider bounds: minutes, and gigabytes of memory.
    #[arg(long)]
    large: bool,
    /// Only scenarios whose names contain this.
    #[arg(long)]
    only: Option<String>,
    /// The most time for each.
    #[arg(long, default_value = "3600")]
    seconds: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let scenarios = if args.large { config::large() } else { config::small() };
    let wanted = |name: &str| args.only.as_deref().is_none_or(|only| name.contains(only));
    let mut good = true;
    println!("{:<28}{:>12}{:>8}{:>10}  result", "scenario", "states", "depth", "time");
    for scenario in scenarios.iter().filter(|scenario| wanted(scenario.name)) {
        let report = check::check(&scenario.config, Some(Duration::from_secs(args.seconds)));
        let result = match (report.good(), report.whole) {
            (true, _) => "holds, all states",
            (false, false) if report.broken.is_empty() => "holds so far: out of time",
            (false, _) => "FAILED",
        };
        good &= report.broken.is_empty() && (!report.whole || report.unseen.is_empty());
        let took = report.took.as_secs_f64();
        println!("{:<28}{:>12}{:>8}{took:>8.1} s  {result}", scenario.name, report.states, report.depth);
        for (property, steps) in &report.broken {
            println!("  broken: {property}");
            for step in steps {
                println!("    {step:?}");
            }
        }
        for property in &report.unseen {
            println!("  never seen: {property}");
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
