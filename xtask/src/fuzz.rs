//! `cargo xtask fuzz`: libFuzzer on every decoder and on the link, through cargo-fuzz.
//!
//! The targets are plain functions in `fuzz-targets/`, whose own tests run them for seconds on every
//! `cargo xtask test`; here they run guided by coverage, for as long as one likes. cargo-fuzz works with the one stable
//! toolchain: without a sanitizer it needs no unstable flag, and there is no `unsafe` of ours to sanitize.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::protoc;
use crate::servers::version::Version;
use crate::workspace::Workspace;

const PACKAGE: &str = "multidc-fuzz-targets";
/// What is installed where there is none.
const PINNED: Version = Version(0, 13, 2);
/// The oldest that was tried.
const LEAST: Version = Version(0, 13, 0);
/// The longest input, in bytes: some frames, or a conversation.
const MAX_LEN: u32 = 8192;

/// What to do.
pub(crate) struct Fuzz {
    /// All, if none is named.
    pub(crate) target: Option<String>,
    /// For each target.
    pub(crate) minutes: f64,
    /// Write the seeds instead.
    pub(crate) write_seeds: bool,
    /// Write the wire files instead.
    pub(crate) write_wire: bool,
}

/// Writes files, or builds and runs the fuzzers one after the other.
pub(crate) fn run(workspace: &Workspace, fuzz: &Fuzz) -> Result<()> {
    if fuzz.write_seeds {
        return files(workspace, "seeds");
    }
    if fuzz.write_wire {
        return files(workspace, "wire");
    }
    if !(fuzz.minutes > 0.0 && fuzz.minutes <= 24.0 * 60.0) {
        bail!("--minutes {}: must be above 0 and at most a day (1440)", fuzz.minutes);
    }
    let names = names(&workspace.root)?;
    let chosen: Vec<&String> = match &fuzz.target {
        None => names.iter().collect(),
        Some(name) => match names.iter().find(|known| *known == name) {
            Some(known) => vec![known],
            None => bail!("no target {name:?}; known: {}", names.join(", ")),
        },
    };
    let tool = find_or_install(workspace)?;
    let mut summary = Vec::new();
    for name in &chosen {
        cargo_fuzz(workspace, &tool, "build", name, &mut |_| {})?;
    }
    for name in chosen {
        summary.push(one(workspace, &tool, name, fuzz.minutes)?.to_string());
    }
    println!("{}\n{}", Told::HEAD, summary.join("\n"));
    Ok(())
}

/// The programs under `fuzz/fuzz_targets`.
fn names(root: &Path) -> Result<Vec<String>> {
    let directory = root.join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))? {
        if let Some(stem) = entry?.path().file_stem() {
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn files(workspace: &Workspace, what: &str) -> Result<()> {
    let mut command = workspace.cargo();
    command.args(["run", "--quiet", "--package", PACKAGE, "--", what]);
    protoc::supply(&mut command)?;
    process::run(&mut command)
}

/// `cargo fuzz`, without a sanitizer, built beside everything else.
fn cargo_fuzz(
    workspace: &Workspace,
    tool: &Path,
    task: &str,
    name: &str,
    more: &mut dyn FnMut(&mut Command),
) -> Result<()> {
    let mut command = process::command(tool);
    command.current_dir(workspace.root.join("fuzz"));
    // Called as cargo calls it.
    command.args(["fuzz", task, "--sanitizer", "none", "--target-dir"]).arg(workspace.target.join("fuzz")).arg(name);
    more(&mut command);
    protoc::supply(&mut command)?;
    process::run(&mut command)
}

/// Runs one target; its log goes to `target/fuzz-NAME.log`.
fn one(workspace: &Workspace, tool: &Path, name: &str, minutes: f64) -> Result<Told> {
    let fuzz = workspace.root.join("fuzz");
    let corpus = fuzz.join("corpus").join(name);
    fs::create_dir_all(&corpus)?;
    // The first directory takes what is found; seeds and regressions are read.
    let mut directories = vec![corpus.clone(), fuzz.join("seeds").join(name)];
    directories.extend(Some(fuzz.join("regressions").join(name)).filter(|path| path.is_dir()));
    let log = workspace.target.join(format!("fuzz-{name}.log"));
    let output = File::create(&log).with_context(|| log.display().to_string())?;
    eprintln!("{name}: {minutes} minutes; log: {}", log.display());
    let ran = cargo_fuzz(workspace, tool, "run", name, &mut |command| {
        command.args(&directories).arg("--");
        command.arg(format!("-max_total_time={}", (minutes * 60.0).ceil()));
        command.args([&format!("-max_len={MAX_LEN}"), "-timeout=60", "-rss_limit_mb=2048", "-print_final_stats=1"]);
        // Both streams hold what libFuzzer and a panic say.
        if let Ok(second) = output.try_clone() {
            command.stdout(second);
        }
        if let Ok(second) = output.try_clone() {
            command.stderr(second);
        }
    });
    let text = fs::read_to_string(&log).unwrap_or_default();
    if let Err(error) = ran {
        let panicked: Vec<_> = text.lines().filter(|line| line.contains("panicked at")).collect();
        bail!(
            "{name}: {error:#}\n{}\nThe input is under fuzz/artifacts/{name}/. To see it once more: \
             `cargo run -p {PACKAGE} -- run {name} FILE`. Once fixed, keep it: move it to fuzz/regressions/{name}/ \
             under a name that says what it was; the tests of {PACKAGE} run it from then on.",
            panicked.join("\n")
        );
    }
    Ok(Told {
        name: name.to_owned(),
        minutes,
        executions: stat(&text, "stat::number_of_executed_units:").unwrap_or(0),
        peak_mib: stat(&text, "stat::peak_rss_mb:").unwrap_or(0),
        corpus: fs::read_dir(&corpus)?.count(),
        coverage: coverage(&text).unwrap_or(0),
    })
}

/// What one run told.
struct Told {
    name: String,
    minutes: f64,
    executions: u64,
    corpus: usize,
    coverage: u64,
    peak_mib: u64,
}

impl Told {
    const HEAD: &str = "target       minutes   executions   corpus files   edges covered   peak MiB";
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, minutes, executions, corpus, coverage, peak_mib } = self;
        write!(f, "{name:<11}{minutes:>9}{executions:>13}{corpus:>15}{coverage:>16}{peak_mib:>11}")
    }
}

/// The number after `key`, where it stands last.
fn stat(log: &str, key: &str) -> Option<u64> {
    log.lines().rev().find_map(|line| line.strip_prefix(key))?.trim().parse().ok()
}

/// Edges covered, as the last line that tells it has it: `#123 pulse cov: 456 ft: 789 ..`.
fn coverage(log: &str) -> Option<u64> {
    log.lines().rev().find_map(|line| line.split_once(" cov: "))?.1.split_whitespace().next()?.parse().ok()
}

fn find_or_install(workspace: &Workspace) -> Result<PathBuf> {
    let tools = workspace.target.join("tools");
    let ours = tools.join("bin/cargo-fuzz");
    let found = process::on_path("cargo-fuzz").into_iter().chain([ours.clone()]).find(|path| is_usable(path));
    if let Some(path) = found {
        return Ok(path);
    }
    eprintln!("cargo-fuzz {LEAST} or later is not here: installing {PINNED} under {}", tools.display());
    let mut install = workspace.cargo();
    install.args(["install", "--locked", "cargo-fuzz", "--version", &PINNED.to_string(), "--root"]).arg(&tools);
    process::run(&mut install).context("install it by hand: `cargo install --locked cargo-fuzz`")?;
    Ok(ours)
}

fn is_usable(path: &Path) -> bool {
    process::output(process::command(path).arg("--version"), Duration::from_secs(20))
        .is_ok_and(|told| Version::find(&told).is_some_and(|version| version >= LEAST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
#2\tINITED cov: 12 ft: 13 corp: 1/1b
#1048576\tpulse  cov: 812 ft: 2000 corp: 300/9Kb lim: 4096
Done 1234567 runs in 61 second(s)
stat::number_of_executed_units: 1234567
stat::peak_rss_mb:              88
";

    #[test]
    fn what_libfuzzer_tells_is_read() {
        assert_eq!(stat(LOG, "stat::number_of_executed_units:"), Some(1_234_567));
        assert_eq!(stat(LOG, "stat::peak_rss_mb:"), Some(88));
        assert_eq!(coverage(LOG), Some(812));
        assert_eq!((stat("", "stat::x:"), coverage("no such line")), (None, None));
    }
}
