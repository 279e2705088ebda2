//! Real control-plane servers of a test's own: started, killed, frozen, cleaned up.
//!
//! Binaries come from `NATS_SERVER_BIN` and `ETCD_BIN`, or from PATH; `cargo
//! xtask test` sets both. A missing server is a failure, never a skipped test.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Semaphore, SemaphorePermit},
};

use crate::{eventually, launch::Launch, network::Place};

/// Finds a server's binary.
///
/// # Errors
///
/// Says how to get one.
pub fn server_binary(variable: &str, name: &str) -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        let path = PathBuf::from(path);
        anyhow::ensure!(path.is_file(), "{variable}={} is no file", path.display());
        return Ok(path);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "no {name}: run `cargo xtask test`, which gets one, or set {variable} (`eval \"$(cargo xtask servers)\"`)"
        )
    })
}

/// Stops a process with SIGSTOP and waits until every thread stands still.
///
/// # Errors
///
/// The operating system refused, or a thread runs on for 5 s.
pub async fn pause(pid: u32) -> anyhow::Result<()> {
    signal(pid, "STOP")?;
    eventually("process to stand still", Duration::from_secs(5), || async {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|err| err.to_string())?;
        for task in tasks {
            let path = task.map_err(|err| err.to_string())?.path().join("stat");
            let stat = std::fs::read_to_string(&path).map_err(|err| err.to_string())?;
            let state = stat.rsplit_once(") ").map_or("?", |(_, rest)| &rest[..1]);
            if !matches!(state, "T" | "t" | "Z" | "X") {
                return Err(format!("{} is in state {state}", path.display()));
            }
        }
        Ok(())
    })
    .await
}

/// Lets a process go on.
///
/// # Errors
///
/// The operating system refused.
pub fn resume(pid: u32) -> anyhow::Result<()> {
    signal(pid, "CONT")
}

pub(crate) fn signal(pid: u32, name: &str) -> anyhow::Result<()> {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status()?;
    anyhow::ensure!(status.success(), "kill -{name} {pid}: {status}");
    Ok(())
}

/// One server process, which can be started again on its data.
#[derive(Debug)]
pub struct Server {
    launch: Launch,
    binary: PathBuf,
    args: Vec<String>,
    ready: Ready,
    child: Option<Child>,
    log: PathBuf,
}

#[derive(Clone, Debug)]
struct Ready {
    addr: String,
    path: &'static str,
}

impl Server {
    /// Starts it and waits until it says that it is ready, at most 20 s.
    ///
    /// # Errors
    ///
    /// What it wrote to its log.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.launch()?;
        self.until_ready().await
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        let child = self
            .launch
            .command(&self.binary)
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.binary.display()))?;
        self.child = Some(child);
        Ok(())
    }

    async fn until_ready(&self) -> anyhow::Result<()> {
        let ready = &self.ready;
        let waited = eventually("server to be ready", Duration::from_secs(20), || async {
            let answer = http_get(&ready.addr, ready.path).await.map_err(|err| err.to_string())?;
            if answer.split(' ').nth(1) == Some("200") { Ok(()) } else { Err(answer) }
        })
        .await;
        waited.with_context(|| {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(10).map(|line| line.get(..200).unwrap_or(line)).collect();
            lines.join("\n")
        })
    }

    /// What its monitoring port answers.
    ///
    /// # Errors
    ///
    /// It cannot be reached.
    pub async fn http_get(&self, path: &str) -> anyhow::Result<String> {
        http_get(&self.ready.addr, path).await
    }

    /// Kills it with SIGKILL. What is dead already stays so.
    ///
    /// # Errors
    ///
    /// The operating system refused.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Freezes it.
    ///
    /// # Errors
    ///
    /// It does not run, or the operating system refused.
    pub async fn pause(&self) -> anyhow::Result<()> {
        pause(self.child.as_ref().context("not running")?.id()).await
    }

    /// Lets it go on.
    ///
    /// # Errors
    ///
    /// It does not run, or the operating system refused.
    pub fn resume(&self) -> anyhow::Result<()> {
        resume(self.child.as_ref().context("not running")?.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing can be done about a process that cannot be killed.
        let _ = self.kill();
    }
}

/// HTTP/1.0, so that the body comes as it is and ends with the connection.
async fn http_get(addr: &str, path: &str) -> anyhow::Result<String> {
    let talk = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    tokio::time::timeout(Duration::from_secs(2), talk).await?
}

/// The control plane of one test: a URL, and the servers behind it.
#[derive(Debug)]
pub struct Store {
    /// What nodes are given.
    pub url: String,
    /// The servers, in order.
    pub servers: Vec<Server>,
    dir: TempDir,
    _turn: SemaphorePermit<'static>,
}

/// Where the servers of a store run. By default as they are, on loopback.
#[derive(Clone, Debug)]
pub struct At {
    address: Ipv4Addr,
    launch: Launch,
}

impl Default for At {
    fn default() -> Self {
        Self { address: Ipv4Addr::LOCALHOST, launch: Launch::default() }
    }
}

impl From<&Place> for At {
    fn from(place: &Place) -> Self {
        Self { address: place.address(), launch: place.launch() }
    }
}

/// A test with a store is a test with many processes: two at once are enough for two cores, whatever number of
/// threads the test runner uses.
static TURNS: Semaphore = Semaphore::const_new(2);

async fn turn() -> anyhow::Result<SemaphorePermit<'static>> {
    Ok(TURNS.acquire().await?)
}

impl Store {
    /// A SQLite file of its own.
    ///
    /// # Errors
    ///
    /// No temporary directory can be made.
    pub async fn sqlite() -> anyhow::Result<Self> {
        let turn = turn().await?;
        let dir = tempfile::tempdir()?;
        let url = format!("sqlite://{}", dir.path().join("multidc.db").display());
        Ok(Self { url, servers: Vec::new(), dir, _turn: turn })
    }

    /// NATS with JetStream, `nodes` servers (1 or 3).
    ///
    /// # Errors
    ///
    /// No binary, or it does not start.
    pub async fn nats(nodes: usize) -> anyhow::Result<Self> {
        Self::nats_at(nodes, &At::default()).await
    }

    /// As [`nats`](Self::nats), with its servers there.
    ///
    /// # Errors
    ///
    /// As [`nats`](Self::nats).
    pub async fn nats_at(nodes: usize, at: &At) -> anyhow::Result<Self> {
        match Self::try_nats(nodes, at).await {
            // A port was taken meanwhile, most likely.
            Err(_) => Self::try_nats(nodes, at).await,
            started => started,
        }
    }

    async fn try_nats(nodes: usize, at: &At) -> anyhow::Result<Self> {
        let At { address, launch } = at;
        let binary = server_binary("NATS_SERVER_BIN", "nats-server")?;
        let turn = turn().await?;
        let dir = tempfile::tempdir()?;
        let ports: Vec<[u16; 3]> = ports(nodes)?;
        let routes: Vec<String> = ports.iter().map(|[_, _, route]| format!("nats-route://{address}:{route}")).collect();
        let mut servers = Vec::new();
        for (n, [client, monitor, route]) in ports.iter().enumerate() {
            let data = dir.path().join(format!("nats-{n}"));
            let mut args = vec![
                "-js".into(),
                format!("-a={address}"),
                format!("-p={client}"),
                format!("-m={monitor}"),
                format!("-sd={}", data.display()),
                format!("-n=n{n}"),
            ];
            if nodes > 1 {
                args.extend(["--cluster_name=multidc".into(), format!("--cluster=nats://{address}:{route}")]);
                // Clients go where they were told to, also where that is a proxy.
                args.extend([format!("--routes={}", routes.join(",")), "--no_advertise=true".into()]);
            }
            let ready = Ready { addr: format!("{address}:{monitor}"), path: "/healthz" };
            let log = dir.path().join(format!("nats-{n}.log"));
            servers.push(Server { launch: launch.clone(), binary: binary.clone(), args, ready, child: None, log });
        }
        let hosts: Vec<String> = ports.iter().map(|[client, ..]| format!("{address}:{client}")).collect();
        let query = if nodes > 1 { "?replicas=3" } else { "" };
        let url = format!("nats://{}{query}", hosts.join(","));
        Self { url, servers, dir, _turn: turn }.started().await
    }

    /// etcd, `nodes` members (1 or 3), with election times short enough for tests.
    ///
    /// # Errors
    ///
    /// No binary, or it does not start.
    pub async fn etcd(nodes: usize) -> anyhow::Result<Self> {
        Self::etcd_at(nodes, &At::default()).await
    }

    /// As [`etcd`](Self::etcd), with its servers there.
    ///
    /// # Errors
    ///
    /// As [`etcd`](Self::etcd).
    pub async fn etcd_at(nodes: usize, at: &At) -> anyhow::Result<Self> {
        match Self::try_etcd(nodes, at).await {
            // A port was taken meanwhile, most likely.
            Err(_) => Self::try_etcd(nodes, at).await,
            started => started,
        }
    }

    async fn try_etcd(nodes: usize, at: &At) -> anyhow::Result<Self> {
        let At { address, launch } = at;
        let binary = server_binary("ETCD_BIN", "etcd")?;
        let turn = turn().await?;
        let dir = tempfile::tempdir()?;
        let ports: Vec<[u16; 3]> = ports(nodes)?;
        let peers: Vec<String> =
            ports.iter().enumerate().map(|(n, [_, peer, _])| format!("n{n}=http://{address}:{peer}")).collect();
        let mut servers = Vec::new();
        for (n, [client, peer, _]) in ports.iter().enumerate() {
            let data = dir.path().join(format!("etcd-{n}"));
            let args = vec![
                format!("--name=n{n}"),
                format!("--data-dir={}", data.display()),
                format!("--listen-client-urls=http://{address}:{client}"),
                format!("--advertise-client-urls=http://{address}:{client}"),
                format!("--listen-peer-urls=http://{address}:{peer}"),
                format!("--initial-advertise-peer-urls=http://{address}:{peer}"),
                format!("--initial-cluster={}", peers.join(",")),
                format!("--initial-cluster-token=t{}", ports[0][1]),
                "--heartbeat-interval=50".into(),
                "--election-timeout=500".into(),
                "--log-level=warn".into(),
            ];
            let ready = Ready { addr: format!("{address}:{client}"), path: "/health" };
            let log = dir.path().join(format!("etcd-{n}.log"));
            servers.push(Server { launch: launch.clone(), binary: binary.clone(), args, ready, child: None, log });
        }
        let hosts: Vec<String> = ports.iter().map(|[client, ..]| format!("{address}:{client}")).collect();
        let url = format!("etcd://{}", hosts.join(","));
        Self { url, servers, dir, _turn: turn }.started().await
    }

    async fn started(mut self) -> anyhow::Result<Self> {
        self.start_all().await?;
        Ok(self)
    }

    /// Starts every server (again) on its data.
    ///
    /// # Errors
    ///
    /// One does not become ready.
    pub async fn start_all(&mut self) -> anyhow::Result<()> {
        for server in &mut self.servers {
            server.launch()?;
        }
        for server in &self.servers {
            server.until_ready().await?;
        }
        Ok(())
    }

    /// Kills every server.
    ///
    /// # Errors
    ///
    /// The operating system refused.
    pub fn kill_all(&mut self) -> anyhow::Result<()> {
        self.servers.iter_mut().try_for_each(Server::kill)
    }

    /// Where its servers listen, in their order.
    ///
    /// # Errors
    ///
    /// It has no servers.
    pub fn addresses(&self) -> anyhow::Result<Vec<SocketAddr>> {
        let (_, hosts, _) = self.parts()?;
        hosts.split(',').map(|host| host.parse().with_context(|| format!("{} has servers", self.url))).collect()
    }

    /// Its URL with others in the place of its servers: proxies.
    ///
    /// # Errors
    ///
    /// It has no servers.
    pub fn url_via(&self, instead: &[SocketAddr]) -> anyhow::Result<String> {
        let (scheme, _, query) = self.parts()?;
        let hosts: Vec<String> = instead.iter().map(SocketAddr::to_string).collect();
        Ok(format!("{scheme}://{}{query}", hosts.join(",")))
    }

    /// Scheme, hosts, and the query with its question mark.
    fn parts(&self) -> anyhow::Result<(&str, &str, &str)> {
        let (scheme, rest) = self.url.split_once("://").context("a URL")?;
        let (hosts, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
        Ok((scheme, hosts, query))
    }

    /// Which of its servers decides about writes now: the leader of etcd, or, in NATS, of the bucket's stream.
    ///
    /// # Errors
    ///
    /// It is between two leaders, or no server says who it is.
    pub async fn leader(&self) -> anyhow::Result<usize> {
        let nats = self.url.starts_with("nats");
        for (n, server) in self.servers.iter().enumerate() {
            let leads = if nats {
                let answer = server.http_get("/jsz?accounts=true&streams=true").await?;
                let (_, body) = answer.split_once("\r\n\r\n").context("a body")?;
                let jsz: serde_json::Value = serde_json::from_str(body)?;
                let accounts = jsz["account_details"].as_array().into_iter().flatten();
                let mut streams =
                    accounts.flat_map(|account| account["stream_detail"].as_array().into_iter().flatten());
                streams.any(|stream| stream["name"] == "KV_multidc" && stream["cluster"]["leader"] == format!("n{n}"))
            } else {
                let metrics = server.http_get("/metrics").await?;
                metrics.lines().any(|line| line == "etcd_server_is_leader 1")
            };
            if leads {
                return Ok(n);
            }
        }
        bail!("no server of {} leads", self.url)
    }

    /// Where the data lies.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }
}

/// Ports that are free at this moment. Another process may take one before its server binds it.
fn ports<const N: usize>(nodes: usize) -> anyhow::Result<Vec<[u16; N]>> {
    if nodes != 1 && nodes != 3 {
        bail!("a store has 1 or 3 servers, not {nodes}");
    }
    // All are held until the last is known, so that none comes twice.
    let mut held = Vec::new();
    let mut all = Vec::new();
    for _ in 0..nodes {
        let mut ports = [0; N];
        for port in &mut ports {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            *port = listener.local_addr()?.port();
            held.push(listener);
        }
        all.push(ports);
    }
    Ok(all)
}
