//! One server as a child process, on ports and in a directory of its own: for demo and benchmarks.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use super::{Kind, Server, ready};
use crate::process::{self, Group};

/// What a start may take.
const START: Duration = Duration::from_secs(30);
/// How often etcd may lose the race for its ports.
const ATTEMPTS: usize = 5;

/// A running server; dropping it stops it and removes its data.
pub(crate) struct Local {
    /// `nats://ip:port` or `etcd://ip:port`.
    pub(crate) url: String,
    // Order matters: the process ends before its directory goes.
    _process: Group,
    _dir: TempDir,
}

impl Local {
    /// Starts it and waits until it answers a request.
    pub(crate) fn start(server: &Server) -> Result<Self> {
        match server.kind {
            Kind::Nats => Self::start_nats(server),
            Kind::Etcd => {
                let mut last = None;
                for _ in 0..ATTEMPTS {
                    match Self::start_etcd(server) {
                        Ok(local) => return Ok(local),
                        Err(error) if process::interrupted() => return Err(error),
                        Err(error) => last = Some(error),
                    }
                }
                Err(last.context("no attempt was made")?)
            }
        }
    }

    /// NATS chooses its port and writes it into a file.
    fn start_nats(server: &Server) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut command = process::command(&server.path);
        command.args(["--jetstream", "--addr", "127.0.0.1", "--port", "-1", "--store_dir"]);
        command.arg(dir.path()).arg("--ports_file_dir").arg(dir.path());
        let log = std::fs::File::create(dir.path().join("log"))?;
        let mut process = Group::spawn(command.stdout(Stdio::null()).stderr(log))?;
        let address = process::retry(START, || {
            still_runs(&mut process, &dir)?;
            nats_address(&dir)
        })?;
        Self::when_ready(server, "nats", address, process, dir)
    }

    /// etcd must be told its ports: two that are free now.
    fn start_etcd(server: &Server) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (client, peer) = (free_address()?, free_address()?);
        let mut command = process::command(&server.path);
        command.arg("--data-dir").arg(dir.path().join("data")).args([
            "--name=demo".to_owned(),
            format!("--listen-client-urls=http://{client}"),
            format!("--advertise-client-urls=http://{client}"),
            format!("--listen-peer-urls=http://{peer}"),
            format!("--initial-advertise-peer-urls=http://{peer}"),
            format!("--initial-cluster=demo=http://{peer}"),
            // One member: a short election only makes it start sooner, and grants short leases.
            "--heartbeat-interval=50".to_owned(),
            "--election-timeout=500".to_owned(),
        ]);
        let log = std::fs::File::create(dir.path().join("log"))?;
        let process = Group::spawn(command.stdout(Stdio::null()).stderr(log))?;
        Self::when_ready(server, "etcd", client, process, dir)
    }

    fn when_ready(server: &Server, scheme: &str, address: String, mut process: Group, dir: TempDir) -> Result<Self> {
        let version = process::retry(START, || {
            still_runs(&mut process, &dir)?;
            ready::ask(server.kind, &address)
        })?;
        let url = format!("{scheme}://{address}");
        eprintln!("servers: {} {version} answers at {url}", server.kind.program());
        Ok(Self { url, _process: process, _dir: dir })
    }
}

/// An error with the server's last words once it has ended.
fn still_runs(process: &mut Group, dir: &TempDir) -> Result<()> {
    if let Some(status) = process.ended()? {
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(5).collect();
        bail!("the server ended ({status}): {}", tail.join(" | "));
    }
    Ok(())
}

/// The client address out of `nats-server_<pid>.ports`.
fn nats_address(dir: &TempDir) -> Result<String> {
    for entry in std::fs::read_dir(dir.path())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "ports") {
            let ports: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
            let url = ports["nats"][0].as_str().context("no client address in the ports file")?;
            return Ok(url.trim_start_matches("nats://").to_owned());
        }
    }
    bail!("no ports file yet")
}

/// Bound and released: free a moment ago.
fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
