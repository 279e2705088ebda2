//! Runs many seeds of the simulation, and prints how to replay the one that fails:
//! `cargo xtask sim --seeds N --from S [--loses]`.

#[path = "../tests/simulation/mod.rs"]
mod simulation;

use std::process::ExitCode;

use simulation::{Config, Report, run};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |flag: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == flag);
        at.map_or(Some(default), |at| arguments.get(at + 1)?.parse().ok())
    };
    let (Some(seeds), Some(from)) = (number("--seeds", 100), number("--from", 0)) else {
        eprintln!("usage: sim [--seeds N] [--from S] [--loses]; N and S are numbers");
        return ExitCode::FAILURE;
    };
    let loses = arguments.iter().any(|argument| argument == "--loses");
    let mut all = Report::default();
    for seed in from..from + seeds {
        let report = run(Config { loses, ..Config::new(seed) });
        all.add(&report);
        if let Some(violation) = report.violation {
            let flag = if loses { " --loses" } else { "" };
            println!("{violation}\nreplay: cargo xtask sim --seeds 1 --from {seed}{flag}");
            return ExitCode::FAILURE;
        }
        if seeds == 1 {
            println!("seed {seed}: {} steps, trace {:016x}", report.steps, report.trace);
        }
    }
    println!("{seeds} seeds from {from}: well; {} steps; healed within {:?}", all.steps, all.healed_in);
    for (what, count) in all.stats.pairs().into_iter().chain(all.counts) {
        println!("{what:>28} {count}");
    }
    ExitCode::SUCCESS
}
