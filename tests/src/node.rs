//! One node of the system as a process of its own.

use std::{
    collections::HashMap,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command as Process},
    sync::{Mutex as AsyncMutex, broadcast, oneshot, watch},
};

use crate::{
    eventually,
    launch::Launch,
    protocol::{Answer, Command, Failure, Line, Question, Status},
};

/// How to start a node.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// The system's name.
    pub system: String,
    /// Its datacenter's name.
    pub dc: String,
    /// Its datacenter's region.
    pub region: Option<String>,
    /// The control plane's URL.
    pub plane: String,
    /// Addresses of nodes of the same datacenter.
    pub seeds: Vec<String>,
    /// Lease, heartbeat and refresh.
    pub times: Times,
    /// Further arguments.
    pub extra: Vec<String>,
}

/// Time limits of a node, short enough for tests.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The record's lease.
    pub ttl: Duration,
    /// Between two renewals.
    pub heartbeat: Duration,
    /// Between two lists.
    pub refresh: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(3), heartbeat: Duration::from_millis(800), refresh: Duration::from_millis(500) }
    }
}

/// How long a node may take to start: over long ways, many round trips.
const START: Duration = Duration::from_secs(30);

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Answer, Failure>>>>>;

/// A running node. Dropping it kills the process.
#[derive(Debug)]
pub struct NodeProcess {
    /// A short name for messages: `dc-1/0`.
    pub label: String,
    /// Where it takes links.
    pub addr: String,
    /// Its run.
    pub node: String,
    child: Child,
    stdin: AsyncMutex<ChildStdin>,
    next: AtomicU64,
    waiting: Waiting,
    lines: broadcast::Sender<String>,
    gone: watch::Receiver<bool>,
}

/// The node binary: beside the running one, or in its parent (tests run in `deps`).
///
/// # Errors
///
/// Says how to build it.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe()?;
    let mut dir = me.parent();
    while let Some(at) = dir {
        let path = at.join(name);
        if path.is_file() {
            return Ok(path);
        }
        dir = at.parent().filter(|at| at.ends_with("debug") || at.ends_with("release"));
    }
    bail!("no {name} near {}: run `cargo build -p multidc-tests -p dcctl` first", me.display())
}

impl NodeProcess {
    /// Starts a node and waits until it takes links, at most 30 s.
    ///
    /// # Errors
    ///
    /// What went wrong, with the process's last words on standard error.
    pub async fn start(label: &str, spec: &NodeSpec) -> anyhow::Result<Self> {
        Self::launched(label, spec, &Launch::default()).await
    }

    /// As [`start`](Self::start), with something before and around the process.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn launched(label: &str, spec: &NodeSpec, launch: &Launch) -> anyhow::Result<Self> {
        Self::launched_as(label, spec, launch, |_| {}).await
    }

    /// As [`launched`](Self::launched); the process's number is told before it can do anything.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn launched_as(
        label: &str,
        spec: &NodeSpec,
        launch: &Launch,
        on_pid: impl FnOnce(u32),
    ) -> anyhow::Result<Self> {
        let mut process = Process::from(launch.command(&binary("multidc-node")?));
        process.args(["--system", &spec.system, "--dc", &spec.dc, "--control-plane", &spec.plane]);
        if let Some(region) = &spec.region {
            process.args(["--region", region]);
        }
        for seed in &spec.seeds {
            process.args(["--seed", seed]);
        }
        for (flag, time) in [
            ("--ttl-ms", spec.times.ttl),
            ("--heartbeat-ms", spec.times.heartbeat),
            ("--refresh-ms", spec.times.refresh),
        ] {
            process.args([flag, &time.as_millis().to_string()]);
        }
        process.args(&spec.extra).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        if std::env::var_os("MULTIDC_NODE_LOG").is_none() {
            process.stderr(Stdio::piped());
        }
        let mut child = process.spawn().context("starting multidc-node")?;
        child.id().map(on_pid);
        let (lines, mut first) = broadcast::channel(1024);
        let waiting: Waiting = Arc::default();
        let (gone_tx, gone) = watch::channel(false);
        let (started_tx, started) = oneshot::channel();
        let stdout = child.stdout.take().context("stdout is piped")?;
        let stdin = AsyncMutex::new(child.stdin.take().context("stdin is piped")?);
        tokio::spawn(read_lines(BufReader::new(stdout), waiting.clone(), lines.clone(), started_tx, gone_tx));
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(keep_lines(BufReader::new(stderr), lines.clone()));
        }
        let Ok(Ok((addr, node))) = tokio::time::timeout(START, started).await else {
            let mut said = Vec::new();
            while let Ok(line) = first.try_recv() {
                said.push(line);
            }
            bail!("{label} did not start within {START:?}; it said:\n{}", said.join("\n"));
        };
        let label = label.to_owned();
        Ok(Self { label, addr, node, child, stdin, next: AtomicU64::new(1), waiting, lines, gone })
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Asks the node, at most 30 s; the inner result is the system's answer.
    ///
    /// # Errors
    ///
    /// The process is gone, or does not answer.
    pub async fn ask(&self, ask: Command) -> anyhow::Result<Result<Answer, Failure>> {
        self.ask_within(ask, Duration::from_secs(30)).await
    }

    /// As [`ask`](Self::ask), with another bound.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub async fn ask_within(&self, ask: Command, bound: Duration) -> anyhow::Result<Result<Answer, Failure>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().expect("no panic while held").insert(id, answer);
        let mut line = serde_json::to_string(&Question { id, ask: ask.clone() })?;
        line.push('\n');
        let mut gone = self.gone.clone();
        let talk = async {
            self.stdin.lock().await.write_all(line.as_bytes()).await?;
            anyhow::Ok(answered.await?)
        };
        tokio::select! {
            talked = tokio::time::timeout(bound, talk) => {
                talked.with_context(|| format!("{} does not answer {ask:?}", self.label))?
            }
            _ = gone.wait_for(|gone| *gone) => bail!("{} is gone", self.label),
        }
    }

    /// Asks the node; anything but success is an error.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask), and the system's own errors.
    pub async fn must(&self, ask: Command) -> anyhow::Result<Answer> {
        match self.ask(ask.clone()).await? {
            Ok(answer) => Ok(answer),
            Err(failure) => bail!("{}: {ask:?} failed: {}: {}", self.label, failure.kind, failure.text),
        }
    }

    /// The node's own state.
    ///
    /// # Errors
    ///
    /// As [`must`](Self::must).
    pub async fn status(&self) -> anyhow::Result<Status> {
        match self.must(Command::Status).await? {
            Answer::Status(status) => Ok(status),
            other => bail!("{}: not a status: {other:?}", self.label),
        }
    }

    /// Waits until the node's state satisfies `want`.
    ///
    /// # Errors
    ///
    /// Names `what` and the last state, where `bound` passed first.
    pub async fn until(&self, what: &str, bound: Duration, want: impl Fn(&Status) -> bool) -> anyhow::Result<Status> {
        eventually(&format!("{}: {what}", self.label), bound, || async {
            let status = self.status().await.map_err(|err| err.to_string())?;
            if want(&status) { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await
    }

    /// Lines that the process prints from now on: its log and events.
    pub fn lines(&self) -> broadcast::Receiver<String> {
        self.lines.subscribe()
    }

    /// Kills it with SIGKILL and waits for its end.
    ///
    /// # Errors
    ///
    /// The operating system refused.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("SIGKILL")
    }

    /// Kills it with SIGKILL, where others still refer to it, and waits for its end, at most 5 s.
    ///
    /// # Errors
    ///
    /// The operating system refused.
    pub async fn kill_shared(&self) -> anyhow::Result<()> {
        crate::servers::signal(self.pid(), "KILL")?;
        let mut gone = self.gone.clone();
        let ended = tokio::time::timeout(Duration::from_secs(5), gone.wait_for(|gone| *gone)).await;
        ended.map(drop).with_context(|| format!("{} does not die", self.label))
    }

    /// Whether its process has ended.
    pub fn is_gone(&self) -> bool {
        *self.gone.borrow()
    }

    /// Asks it to leave in order and waits for its end, at most 20 s.
    ///
    /// # Errors
    ///
    /// It did not end, or ended with an error.
    pub async fn shutdown(mut self) -> anyhow::Result<()> {
        // It may be gone before its answer is read.
        let _ = self.ask(Command::Shutdown).await;
        let status = tokio::time::timeout(Duration::from_secs(20), self.child.wait())
            .await
            .with_context(|| format!("{} does not end", self.label))??;
        anyhow::ensure!(status.success(), "{} ended with {status}", self.label);
        Ok(())
    }

    /// Stops it with SIGSTOP and waits until every thread stands still.
    ///
    /// # Errors
    ///
    /// The operating system refused.
    pub async fn pause(&self) -> anyhow::Result<()> {
        crate::servers::pause(self.pid()).await
    }

    /// Lets it go on after [`pause`](Self::pause).
    ///
    /// # Errors
    ///
    /// The operating system refused.
    pub fn resume(&self) -> anyhow::Result<()> {
        crate::servers::resume(self.pid())
    }
}

async fn read_lines(
    mut stdout: BufReader<tokio::process::ChildStdout>,
    waiting: Waiting,
    lines: broadcast::Sender<String>,
    started: oneshot::Sender<(String, String)>,
    gone: watch::Sender<bool>,
) {
    let mut started = Some(started);
    let mut line = String::new();
    while stdout.read_line(&mut line).await.is_ok_and(|read| read > 0) {
        match serde_json::from_str::<Line>(&line) {
            Ok(Line::Started { addr, node }) => {
                if let Some(started) = started.take() {
                    let _ = started.send((addr, node));
                }
            }
            Ok(Line::Answer { id, result }) => {
                if let Some(waiting) = waiting.lock().expect("no panic while held").remove(&id) {
                    let _ = waiting.send(result);
                }
            }
            Ok(Line::Event { text }) => drop(lines.send(text)),
            Err(_) => drop(lines.send(line.trim_end().to_owned())),
        }
        line.clear();
    }
    let _ = gone.send(true);
}

async fn keep_lines(mut stderr: BufReader<tokio::process::ChildStderr>, lines: broadcast::Sender<String>) {
    let mut line = String::new();
    while stderr.read_line(&mut line).await.is_ok_and(|read| read > 0) {
        let _ = lines.send(line.trim_end().to_owned());
        line.clear();
    }
}
