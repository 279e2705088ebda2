//! `cargo xtask integration`: the tests that need servers, against NATS and etcd in Docker.
//!
//! Contract with the tests. Set when servers are running already:
//!
//! | variable | example |
//! |---|---|
//! | `MULTIDC_NATS_URL` | `nats://127.0.0.1:49153` |
//! | `MULTIDC_NATS_CLUSTER_URLS` | three of them, with commas |
//! | `MULTIDC_ETCD_URL` | `http://127.0.0.1:49160` |
//! | `MULTIDC_ETCD_CLUSTER_URLS` | three of them, with commas |
//!
//! Tests then use a namespace of their own on them. Without them, and whenever they kill or
//! freeze servers, they start their own from `NATS_SERVER_BIN` and `ETCD_BIN`, which are always
//! set (with Docker: the binaries out of the same images).

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process;
use crate::protoc;
use crate::servers::docker::{self, Image};
use crate::servers::{Kind, Servers, ready};
use crate::test;
use crate::workspace::{Workspace, text_of};

/// Whose tests need servers.
const PACKAGES: [&str; 3] = ["dc-nats", "dc-etcd", "multidc-tests"];
/// What the servers may take until they answer.
const READY: Duration = Duration::from_secs(60);

/// Where the servers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Place {
    /// Containers of `tests/docker/compose.yaml`.
    Docker,
    /// Processes that each test starts from binaries.
    Bin,
}

/// Builds, starts the servers, runs the tests, stops the servers.
pub(crate) fn run(workspace: &Workspace, place: Option<Place>, args: &[String]) -> Result<()> {
    let place = choose(place)?;
    test::build(workspace)?;
    let tests = test_programs(workspace)?;
    match place {
        Place::Bin => {
            let servers = Servers::acquire(workspace)?;
            eprintln!("integration: each test starts its servers from binaries");
            servers.announce();
            run_all(&tests, &servers, &[], args)
        }
        Place::Docker => {
            let composed = Composed::start(workspace)?;
            let urls = composed.urls()?;
            run_all(&tests, &composed.servers, &urls, args)
        }
    }
}

/// The user's word, else Docker wherever an engine answers.
fn choose(place: Option<Place>) -> Result<Place> {
    match (place, docker::engine()) {
        (Some(Place::Docker), Err(error)) => {
            Err(error.context("--servers docker needs an engine; --servers bin does not"))
        }
        (Some(Place::Bin), _) => Ok(Place::Bin),
        (_, Ok(version)) => {
            eprintln!("integration: Docker engine {version}");
            Ok(Place::Docker)
        }
        (None, Err(error)) => {
            eprintln!("integration: {error:#}; using binaries");
            Ok(Place::Bin)
        }
    }
}

/// The running compose project; dropping it takes containers, networks and volumes away.
struct Composed {
    tool: Vec<&'static str>,
    project: String,
    file: PathBuf,
    images: [(Kind, Image); 2],
    servers: Servers,
}

impl Composed {
    fn start(workspace: &Workspace) -> Result<Self> {
        let dir = workspace.target.join("servers");
        let tool = compose_tool()?;
        let images = [(Kind::Nats, docker::image(Kind::Nats, &dir)?), (Kind::Etcd, docker::image(Kind::Etcd, &dir)?)];
        for (_, image) in &images {
            eprintln!("integration: image {} ({})", image.name, image.origin);
        }
        let from_images = dir.join("from-images");
        let servers = Servers {
            nats: docker::extract(Kind::Nats, &images[0].1, &from_images)?,
            etcd: docker::extract(Kind::Etcd, &images[1].1, &from_images)?,
        };
        let composed = Self {
            tool,
            project: format!("multidc-{}", std::process::id()),
            file: workspace.root.join("tests/docker/compose.yaml"),
            images,
            servers,
        };
        // From here on the drop cleans up, also what came up only in part.
        process::output(composed.compose().args(["up", "--detach"]), Duration::from_secs(120))?;
        Ok(composed)
    }

    fn compose(&self) -> Command {
        let mut command = process::command(self.tool[0]);
        command.args(&self.tool[1..]).args(["--project-name", &self.project, "--file"]).arg(&self.file);
        for (kind, image) in &self.images {
            command.env(docker::variable(*kind), &image.name);
        }
        command
    }

    /// Waits until every server answers real requests; tells where, by variable.
    fn urls(&self) -> Result<Vec<(&'static str, String)>> {
        let urls = self.wait_for_all();
        if urls.is_err() {
            let _ = process::status(self.compose().args(["logs", "--tail", "20"]));
        }
        urls
    }

    fn wait_for_all(&self) -> Result<Vec<(&'static str, String)>> {
        let start = process::now();
        let nats = self.wait_for(Kind::Nats, &["nats"])?;
        let cluster = self.wait_for(Kind::Nats, &["nats-1", "nats-2", "nats-3"])?;
        let etcd = self.wait_for(Kind::Etcd, &["etcd"])?;
        let members = self.wait_for(Kind::Etcd, &["etcd-1", "etcd-2", "etcd-3"])?;
        eprintln!("integration: all servers answer after {:.1} s", process::since(start).as_secs_f64());
        Ok(vec![
            ("MULTIDC_NATS_URL", nats),
            ("MULTIDC_NATS_CLUSTER_URLS", cluster),
            ("MULTIDC_ETCD_URL", etcd),
            ("MULTIDC_ETCD_CLUSTER_URLS", members),
        ])
    }

    /// Their URLs, once each of them answers.
    fn wait_for(&self, kind: Kind, services: &[&str]) -> Result<String> {
        let mut urls = Vec::new();
        for service in services {
            let (port, scheme) = match kind {
                Kind::Nats => ("4222", "nats"),
                Kind::Etcd => ("2379", "http"),
            };
            let told = process::output(self.compose().args(["port", service, port]), Duration::from_secs(20))?;
            let address = told.trim().to_owned();
            let version = process::retry(READY, || ready::ask(kind, &address))
                .with_context(|| format!("{service} at {address} does not answer"))?;
            eprintln!("integration: {service} {version} at {scheme}://{address}");
            urls.push(format!("{scheme}://{address}"));
        }
        Ok(urls.join(","))
    }
}

impl Drop for Composed {
    fn drop(&mut self) {
        use std::os::unix::process::CommandExt as _;
        eprintln!("integration: removing the containers");
        // Not by way of `process::run`, which gives up on Ctrl-C, nor in our process group, which
        // a second Ctrl-C at the terminal would reach.
        let mut down = self.compose();
        down.args(["down", "--volumes", "--timeout", "0"]).process_group(0).stdin(Stdio::null());
        match down.output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => eprintln!("`{}`: {}", process::shown(&down), String::from_utf8_lossy(&output.stderr)),
            Err(error) => eprintln!("`{}`: {error}", process::shown(&down)),
        }
    }
}

/// `docker compose` where that exists, else `docker-compose`.
fn compose_tool() -> Result<Vec<&'static str>> {
    for tool in [vec!["docker", "compose"], vec!["docker-compose"]] {
        let asked = process::output(process::command(tool[0]).args(&tool[1..]).arg("version"), Duration::from_secs(20));
        if asked.is_ok() {
            return Ok(tool);
        }
    }
    bail!("neither `docker compose` nor `docker-compose` is here: install one, or use `--servers bin`")
}

/// A built test target.
struct TestProgram {
    package: String,
    target: String,
    dir: PathBuf,
    path: PathBuf,
}

/// Asks cargo which programs the tests of [`PACKAGES`] are; with the flags of [`test::build`], so
/// that nothing is built for it (`cargo test -p` would choose other features of shared crates).
fn test_programs(workspace: &Workspace) -> Result<Vec<TestProgram>> {
    let mut cargo = workspace.cargo();
    cargo.args([
        "test",
        "--quiet",
        "--workspace",
        "--all-features",
        "--no-run",
        "--message-format",
        "json-render-diagnostics",
    ]);
    protoc::supply(&mut cargo)?;
    let told = process::output(&mut cargo, Duration::from_secs(1800))?;
    let mut programs = Vec::new();
    for line in told.lines().filter(|line| line.starts_with('{')) {
        let message: Value = serde_json::from_str(line).context("reading what cargo said")?;
        programs.extend(test_program(workspace, &message)?);
    }
    for package in PACKAGES {
        if !programs.iter().any(|program| program.package == package) {
            bail!("cargo built no test of {package}");
        }
    }
    Ok(programs)
}

fn test_program(workspace: &Workspace, message: &Value) -> Result<Option<TestProgram>> {
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return Ok(None);
    }
    let Some(path) = message["executable"].as_str() else { return Ok(None) };
    let manifest = PathBuf::from(text_of(message, "manifest_path")?);
    let owner = workspace.packages.iter().find(|package| package.manifest == manifest);
    let Some(package) = owner.filter(|package| PACKAGES.contains(&package.name.as_str())) else { return Ok(None) };
    Ok(Some(TestProgram {
        package: package.name.clone(),
        target: text_of(&message["target"], "name")?.to_owned(),
        dir: manifest.parent().context("a manifest lies in a directory")?.to_owned(),
        path: path.into(),
    }))
}

impl TestProgram {
    /// The program as `cargo test` would start it.
    fn command(&self, args: &[String]) -> Command {
        let mut command = process::command(&self.path);
        command.current_dir(&self.dir).args(args);
        command.env("CARGO_MANIFEST_DIR", &self.dir).env("CARGO_PKG_NAME", &self.package);
        command
    }

    /// How many of its tests `args` choose.
    fn count(&self, args: &[String]) -> Result<usize> {
        let mut list = self.command(args);
        let told = process::output(list.args(["--list", "--format", "terse"]), Duration::from_secs(60))?;
        Ok(told.lines().filter(|line| line.ends_with(": test")).count())
    }

    fn title(&self) -> String {
        format!("{} {}", self.package, self.target)
    }
}

/// Runs them one after the other, also after one has failed.
fn run_all(programs: &[TestProgram], servers: &Servers, urls: &[(&str, String)], args: &[String]) -> Result<()> {
    let mut tests = 0;
    let mut failed = Vec::new();
    for program in programs {
        let count = program.count(args)?;
        if count == 0 {
            continue;
        }
        tests += count;
        eprintln!("\n== {}: {count} tests", program.title());
        let mut command = program.command(args);
        command.envs(urls.iter().map(|(name, value)| (name, value)));
        test::prepare(servers, &mut command)?;
        if !process::status(&mut command)?.success() {
            failed.push(program.title());
        }
    }
    if tests == 0 {
        bail!("no test was run: nothing matches {args:?}");
    }
    if !failed.is_empty() {
        bail!("failed: {}; `cargo xtask integration -- <test name>` runs one test", failed.join(", "));
    }
    eprintln!("\nintegration: {tests} tests passed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn message(package: &Path, test: bool) -> Value {
        serde_json::json!({
            "reason": "compiler-artifact",
            "manifest_path": package,
            "target": { "name": "conformance" },
            "profile": { "test": test },
            "executable": "/target/debug/deps/conformance-1234",
        })
    }

    #[test]
    fn only_test_programs_of_the_chosen_packages_are_run() {
        let workspace = Workspace::load().expect("cargo metadata");
        let manifest = |name| &workspace.package(name).expect("a member").manifest;
        let read = |message| test_program(&workspace, &message).expect("readable");

        let found = read(message(manifest("dc-nats"), true)).expect("a test that needs servers");
        assert_eq!(found.title(), "dc-nats conformance");
        assert!(manifest("dc-nats").starts_with(&found.dir));
        assert!(read(message(manifest("dc-nats"), false)).is_none(), "a program, not a test");
        assert!(read(message(manifest("dc-core"), true)).is_none(), "needs no server");
        assert!(read(serde_json::json!({ "reason": "build-finished" })).is_none());
    }
}
