//! Real NATS and etcd servers for tests, demo and benchmarks.
//!
//! What everybody else gets is a pair of absolute paths, exported as `NATS_SERVER_BIN` and
//! `ETCD_BIN`; tests start their own servers from them. A server that cannot be had is a failure
//! that says what was tried and what would help, never a skipped test.
//!
//! Reading order: [`Kind`], [`Servers::acquire`], then where they come from: [`docker`], [`debian`].

pub(crate) mod debian;
pub(crate) mod docker;
pub(crate) mod local;
pub(crate) mod ready;
pub(crate) mod version;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::workspace::Workspace;
use version::Version;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nats,
    Etcd,
}

impl Kind {
    /// The program's file name.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Nats => "nats-server",
            Self::Etcd => "etcd",
        }
    }

    /// The variable under which its path goes to the tests, and may come from the user.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::Nats => "NATS_SERVER_BIN",
            Self::Etcd => "ETCD_BIN",
        }
    }

    /// The oldest version that will do: NATS has per-key TTL with markers since 2.11; etcd's
    /// oldest line still maintained is 3.5.
    pub(crate) fn least(self) -> Version {
        match self {
            Self::Nats => Version(2, 11, 0),
            Self::Etcd => Version(3, 5, 0),
        }
    }

    /// Debian's package of it.
    fn package(self) -> &'static str {
        match self {
            Self::Nats => "nats-server",
            Self::Etcd => "etcd-server",
        }
    }

    fn releases(self) -> &'static str {
        match self {
            Self::Nats => "https://github.com/nats-io/nats-server/releases",
            Self::Etcd => "https://github.com/etcd-io/etcd/releases",
        }
    }
}

/// A server's binary that has been run once, to tell its version.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) path: PathBuf,
    pub(crate) version: Version,
    /// Where it came from, for people.
    pub(crate) origin: String,
}

impl Server {
    /// Asks the binary at `path` for its version; refuses one that is too old.
    fn probe(kind: Kind, path: &Path, origin: impl Into<String>) -> Result<Self> {
        let path = path.canonicalize().with_context(|| format!("{} cannot be read", path.display()))?;
        let told = process::output(process::command(&path).arg("--version"), Duration::from_secs(20))?;
        let version = Version::find(&told)
            .with_context(|| format!("{} --version names no version: {:?}", path.display(), told.trim()))?;
        if version < kind.least() {
            bail!("{} is version {version}, too old: at least {} is needed", path.display(), kind.least());
        }
        Ok(Self { kind, path, version, origin: origin.into() })
    }
}

/// Both servers.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    pub(crate) nats: Server,
    pub(crate) etcd: Server,
}

impl Servers {
    /// The quickest that can be had: environment, `PATH`, those had before, Docker, fetched.
    pub(crate) fn acquire(workspace: &Workspace) -> Result<Self> {
        let dir = workspace.target.join("servers");
        Ok(Self { nats: acquire(Kind::Nats, &dir)?, etcd: acquire(Kind::Etcd, &dir)? })
    }

    /// Hands their paths to a child.
    pub(crate) fn export(&self, command: &mut Command) {
        for server in self.all() {
            command.env(server.kind.variable(), &server.path);
        }
    }

    /// Says on standard error which they are.
    pub(crate) fn announce(&self) {
        for server in self.all() {
            eprintln!(
                "servers: {} {} ({}) at {}",
                server.kind.program(),
                server.version,
                server.origin,
                server.path.display()
            );
        }
    }

    /// Prints shell lines, for `eval "$(cargo xtask servers)"`.
    pub(crate) fn print_exports(&self) {
        for server in self.all() {
            let quoted = server.path.to_string_lossy().replace('\'', r"'\''");
            println!("export {}='{quoted}'", server.kind.variable());
        }
    }

    fn all(&self) -> [&Server; 2] {
        [&self.nats, &self.etcd]
    }
}

/// One server by the first way that works; the error lists every way and what would help.
pub(crate) fn acquire(kind: Kind, dir: &Path) -> Result<Server> {
    if let Some(path) = std::env::var_os(kind.variable()) {
        // An explicit choice is taken or refused, never silently replaced.
        return Server::probe(kind, Path::new(&path), "from the environment")
            .with_context(|| format!("{} cannot be used", kind.variable()));
    }
    let mut tried = vec![format!("{} is not set", kind.variable())];
    let ways: [(&str, Way); 4] = [
        ("PATH", from_path),
        ("had before", from_cache),
        ("Docker", docker::extract_server),
        ("Debian packages", debian::fetch_server),
    ];
    for (name, way) in ways {
        match way(kind, dir) {
            Ok(server) => return Ok(server),
            Err(error) if process::interrupted() => return Err(error),
            Err(error) => {
                if name == "PATH" && process::on_path(kind.program()).is_some() {
                    eprintln!("servers: not the one on PATH: {error:#}");
                }
                tried.push(format!("{name}: {error:#}"));
            }
        }
    }
    bail!("{}", no_server(kind, &tried))
}

/// A binary without asking Docker: what an image is built from.
pub(crate) fn acquire_without_docker(kind: Kind, dir: &Path) -> Result<Server> {
    if std::env::var_os(kind.variable()).is_some() {
        return acquire(kind, dir);
    }
    from_path(kind, dir).or_else(|_| from_cache(kind, dir)).or_else(|_| debian::fetch_server(kind, dir))
}

type Way = fn(Kind, &Path) -> Result<Server>;

fn from_path(kind: Kind, _: &Path) -> Result<Server> {
    let path = process::on_path(kind.program()).with_context(|| format!("no {} there", kind.program()))?;
    Server::probe(kind, &path, "from PATH")
}

/// What [`keep`] kept.
fn from_cache(kind: Kind, dir: &Path) -> Result<Server> {
    let path = dir.join(kind.program());
    if !path.exists() {
        bail!("nothing");
    }
    let origin = std::fs::read_to_string(origin_file(kind, dir)).unwrap_or_else(|_| "unknown origin".into());
    Server::probe(kind, &path, format!("had before {}", origin.trim()))
}

/// Puts a binary where the next run finds it, in one step, as other runs may be looking.
fn keep(kind: Kind, found: &Path, dir: &Path, origin: &str) -> Result<Server> {
    let made = Server::probe(kind, found, origin)?;
    let path = dir.join(kind.program());
    std::fs::write(origin_file(kind, dir), origin)?;
    let fresh = dir.join(format!("{}.{}.new", kind.program(), std::process::id()));
    std::fs::copy(&made.path, &fresh)
        .and_then(|_| std::fs::rename(&fresh, &path))
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(Server { path: path.canonicalize()?, ..made })
}

fn origin_file(kind: Kind, dir: &Path) -> PathBuf {
    dir.join(format!("{}.origin", kind.program()))
}

fn no_server(kind: Kind, tried: &[String]) -> String {
    let (program, least, variable) = (kind.program(), kind.least(), kind.variable());
    format!(
        "no {program} of version {least} or later can be had. Tried:\n  - {}\nAny one of these helps:\n  \
         - download one from {} and set {variable}=/path/to/{program}, or put it on PATH\n  \
         - start a Docker engine that has, or can pull, the image {}\n  \
         - on Debian: make the package mirror of `apt-get indextargets` reachable",
        tried.join("\n  - "),
        kind.releases(),
        docker::pinned(kind),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that says it is of that version.
    fn fake(dir: &Path, program: &str, says: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = dir.join(program);
        std::fs::write(&path, format!("#!/bin/sh\necho '{says}'\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
        path
    }

    #[test]
    fn a_server_that_is_too_old_is_refused_with_both_versions() {
        let dir = tempfile::tempdir().expect("temp dir");
        let old = fake(dir.path(), "nats-server", "nats-server: v2.9.10");
        let error = Server::probe(Kind::Nats, &old, "").expect_err("2.9 is too old").to_string();
        assert!(error.contains("version 2.9.10, too old: at least 2.11.0"), "{error}");
    }

    #[test]
    fn a_server_once_had_is_found_again_with_its_origin() {
        let dir = tempfile::tempdir().expect("temp dir");
        let found = fake(dir.path(), "downloaded", "etcd Version: 3.5.30\nGit SHA: 1.2.3");
        assert!(from_cache(Kind::Etcd, dir.path()).is_err(), "nothing was had yet");
        keep(Kind::Etcd, &found, dir.path(), "from there").expect("kept");
        let again = from_cache(Kind::Etcd, dir.path()).expect("found again");
        assert_eq!((again.version, again.origin.as_str()), (Version(3, 5, 30), "had before from there"));
    }

    #[test]
    fn a_missing_server_names_what_was_tried_and_what_helps() {
        let text = no_server(Kind::Nats, &["PATH: no nats-server there".into()]);
        for part in ["PATH: no nats-server there", "NATS_SERVER_BIN=", "Docker", "2.11.0"] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }
}
