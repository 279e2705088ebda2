//! One node's process as the driver sees it.

use std::{
    fs::File,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
};

use super::control::{NodeSpec, Order, Said};

/// How long a node may take to start on a loaded machine.
const START: Duration = Duration::from_secs(45);

/// A running node. Dropping it kills the process.
#[derive(Debug)]
pub struct SoakNode {
    /// What it was started with.
    pub spec: NodeSpec,
    /// Lower half of its id.
    pub node: u64,
    /// The process's number.
    pub pid: u32,
    child: Child,
    stdin: ChildStdin,
}

impl SoakNode {
    /// Starts this very program as a node and waits until it takes links. What it says later comes through `heard`,
    /// with its place; its log is appended to a file in `dir`.
    ///
    /// # Errors
    ///
    /// It does not start within 45 s; names its log.
    pub async fn start(
        spec: NodeSpec,
        dir: &Path,
        heard: mpsc::UnboundedSender<(usize, u32, Said)>,
        on_pid: impl FnOnce(u32),
    ) -> anyhow::Result<Self> {
        let log = dir.join(format!("node-{}.txt", spec.slot));
        let stderr = File::options().create(true).append(true).open(&log)?;
        let mut process = Command::new(std::env::current_exe()?);
        process.args(["node", &serde_json::to_string(&spec)?]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = process.stderr(stderr).kill_on_drop(true).spawn().context("starting a node")?;
        let pid = child.id().context("it has a number while it was not waited for")?;
        on_pid(pid);
        let stdin = child.stdin.take().context("stdin is piped")?;
        let mut lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
        let started = async {
            while let Some(line) = lines.next_line().await? {
                match serde_json::from_str(&line)? {
                    Said::Started { node } => return Ok(node),
                    said => drop(heard.send((spec.slot, spec.run, said))),
                }
            }
            bail!("it ended")
        };
        let started = tokio::time::timeout(START, started).await.unwrap_or_else(|_| bail!("not within {START:?}"));
        let node = started.with_context(|| format!("{} {}; its log: {}", spec.dc, spec.slot, log.display()))?;
        let (slot, run) = (spec.slot, spec.run);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(said) = serde_json::from_str(&line) {
                    // Nobody listens once the run is over.
                    let _ = heard.send((slot, run, said));
                }
            }
        });
        Ok(Self { spec, node, pid, child, stdin })
    }

    /// Tells it something.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub async fn order(&mut self, order: Order) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(&order)?;
        line.push(b'\n');
        self.stdin.write_all(&line).await.with_context(|| format!("{} {} is gone", self.spec.dc, self.spec.slot))
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills it with SIGKILL and waits for its end.
    ///
    /// # Errors
    ///
    /// The operating system refused.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("SIGKILL")
    }

    /// Tells it to leave in order and waits for its end.
    ///
    /// # Errors
    ///
    /// It does not end within `bound`, or with an error.
    pub async fn leave(mut self, bound: Duration) -> anyhow::Result<()> {
        self.order(Order::Leave).await?;
        let ended = tokio::time::timeout(bound, self.child.wait()).await;
        let status = ended.with_context(|| format!("{} {} does not leave", self.spec.dc, self.spec.slot))??;
        anyhow::ensure!(status.success(), "{} {} left with {status}", self.spec.dc, self.spec.slot);
        Ok(())
    }

    /// Stops it with SIGSTOP and waits until every thread stands still.
    ///
    /// # Errors
    ///
    /// The operating system refused.
    pub async fn pause(&self) -> anyhow::Result<()> {
        crate::servers::pause(self.pid).await
    }

    /// Lets it go on.
    ///
    /// # Errors
    ///
    /// The operating system refused.
    pub fn resume(&self) -> anyhow::Result<()> {
        crate::servers::resume(self.pid)
    }
}
