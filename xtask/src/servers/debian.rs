//! Servers out of Debian's packages, for machines whose own are too old or that have none.
//!
//! A private apt configuration (own state, cache and sources) downloads the package of a newer
//! suite, which is then unpacked, not installed: the system's apt and its packages stay as they
//! are. The mirror is the one that the system's apt uses.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Kind, Server};
use crate::process;

/// Where to look, best first. These servers need libc only, so a newer suite's run on older systems.
const SUITES: [&str; 3] = ["sid", "testing", "trixie"];
/// What one call of apt may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// Checks Debian's signatures; part of every Debian.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Downloads and unpacks the newest package that will do.
pub(super) fn fetch_server(kind: Kind, dir: &Path) -> Result<Server> {
    for tool in ["apt-get", "dpkg"] {
        process::on_path(tool).with_context(|| format!("no {tool} on PATH"))?;
    }
    std::fs::create_dir_all(dir)?;
    let mut failures = Vec::new();
    for mirror in mirrors()? {
        for suite in SUITES {
            eprintln!("fetching {} from Debian {suite} ..", kind.package());
            match fetch_from(kind, &mirror, suite, dir) {
                Ok(server) => return Ok(server),
                Err(error) if process::interrupted() => return Err(error),
                Err(error) => failures.push(format!("{suite} at {mirror}: {error:#}")),
            }
        }
    }
    bail!("{}", failures.join("; "))
}

/// The mirrors of the system's own apt, likely ones first.
fn mirrors() -> Result<Vec<String>> {
    let ask = |args: &[&str]| process::output(process::command("apt-get").args(args), PATIENCE);
    let mut mirrors = mirrors_in(&ask(&["indextargets", "--format", "$(SITE)"])?);
    if mirrors.is_empty() {
        // Where apt has no lists yet, as in fresh containers, it tells only what it would fetch.
        mirrors = mirrors_in(&ask(&["--print-uris", "update"])?);
    }
    if mirrors.is_empty() {
        bail!("apt-get names no mirror");
    }
    Ok(mirrors)
}

/// The addresses of archives in what apt printed, without those for security updates.
fn mirrors_in(told: &str) -> Vec<String> {
    let mut mirrors: Vec<String> = Vec::new();
    for word in told.lines().filter_map(|line| line.split_whitespace().next()) {
        let uri = word.trim_matches('\'');
        let site = uri.split_once("/dists/").map_or(uri, |(site, _)| site);
        if site.contains("://") && !site.contains("security") && !mirrors.iter().any(|known| known == site) {
            mirrors.push(site.to_owned());
        }
    }
    mirrors.sort_by_key(|site| !site.contains("debian"));
    mirrors
}

fn fetch_from(kind: Kind, mirror: &str, suite: &str, dir: &Path) -> Result<Server> {
    let scratch = tempfile::tempdir_in(dir)?;
    let config = private_apt(scratch.path(), mirror, suite)?;
    let apt = |tool: &str, args: &[&OsStr]| -> Result<String> {
        let mut command = process::command(tool);
        command.env("APT_CONFIG", &config).current_dir(scratch.path()).args(args);
        process::output(&mut command, PATIENCE)
    };
    apt("apt-get", &["update".as_ref()])?;
    apt("apt-get", &["download".as_ref(), kind.package().as_ref()])?;
    let package = std::fs::read_dir(scratch.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension() == Some(OsStr::new("deb")))
        .with_context(|| format!("apt-get left no {} package", kind.package()))?;
    let unpacked = scratch.path().join("unpacked");
    let mut unpack: Command = process::command("dpkg");
    process::output(unpack.arg("-x").arg(&package).arg(&unpacked), PATIENCE)?;
    let binary = ["usr/bin", "usr/sbin"]
        .iter()
        .map(|place| unpacked.join(place).join(kind.program()))
        .find(|path| path.exists())
        .with_context(|| format!("{} holds no {}", package.display(), kind.program()))?;
    super::keep(kind, &binary, dir, &format!("from Debian {suite}"))
}

/// Writes the configuration into `dir` and tells its path, for `APT_CONFIG`.
fn private_apt(dir: &Path, mirror: &str, suite: &str) -> Result<PathBuf> {
    for place in ["state/lists/partial", "cache/archives/partial", "none"] {
        std::fs::create_dir_all(dir.join(place))?;
    }
    std::fs::write(dir.join("state/status"), "")?;
    let signed = if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
    std::fs::write(dir.join("sources.list"), format!("deb {signed}{mirror} {suite} main\n"))?;
    let config = dir.join("apt.conf");
    let own = dir.display();
    // The last lines: no description texts, no application data, and as root no other user that
    // could not read our directory.
    let text = format!(
        "Dir::State \"{own}/state\";\nDir::State::status \"{own}/state/status\";\nDir::Cache \"{own}/cache\";\n\
         Dir::Etc::sourcelist \"{own}/sources.list\";\nDir::Etc::sourceparts \"{own}/none\";\n\
         Dir::Etc::preferences \"{own}/none/preferences\";\nDir::Etc::preferencesparts \"{own}/none\";\n\
         Acquire::Languages \"none\";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
         APT::Sandbox::User \"root\";\n"
    );
    std::fs::write(&config, text)?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_read_from_either_answer_of_apt() {
        let targets = "http://other.example/x\nhttp://mirror.example/debian\nhttp://mirror.example/debian-security\n";
        assert_eq!(mirrors_in(targets), ["http://mirror.example/debian", "http://other.example/x"]);
        let uris = "'http://mirror.example/debian/dists/bookworm/InRelease' mirror.example_InRelease 0 \n\
                    'http://mirror.example/debian/dists/bookworm-updates/InRelease' mirror.example_InRelease 0 \n";
        assert_eq!(mirrors_in(uris), ["http://mirror.example/debian"]);
        assert!(mirrors_in("Reading package lists...\n").is_empty());
    }

    #[test]
    fn the_systems_own_apt_is_left_alone() {
        let dir = tempfile::tempdir().expect("temp dir");
        let config = private_apt(dir.path(), "http://mirror.example/debian", "sid").expect("written");
        let text = std::fs::read_to_string(config).expect("readable");
        for place in
            ["Dir::State ", "Dir::State::status ", "Dir::Cache ", "Dir::Etc::sourcelist ", "Dir::Etc::sourceparts "]
        {
            let line = text.lines().find(|line| line.starts_with(place)).expect(place);
            assert!(line.contains(&dir.path().display().to_string()), "{line}");
        }
        let sources = std::fs::read_to_string(dir.path().join("sources.list")).expect("readable");
        assert!(sources.ends_with("http://mirror.example/debian sid main\n"), "{sources}");
    }
}
