//! Two datacenters of node processes on one store.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures::future::try_join_all;
use multidc_tests::{
    node::{NodeProcess, NodeSpec, Times, binary},
    protocol::{Answer, CartReport, Command, Failure, KnownDc, Status, Where, WorkerReport},
    servers::Store,
};

/// Long enough for whatever is waited for on two busy cores; nothing waits for its end.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) dc1: Vec<NodeProcess>,
    pub(crate) dc2: Vec<NodeProcess>,
    pub(crate) times: Times,
}

impl World {
    /// Two datacenters of these many nodes, all ready, each seeing both.
    pub(crate) async fn start(store: Store, dc1: usize, dc2: usize) -> anyhow::Result<Self> {
        Self::with(store, dc1, dc2, &[]).await
    }

    pub(crate) async fn with(store: Store, dc1: usize, dc2: usize, extra: &[&str]) -> anyhow::Result<Self> {
        let mut world = Self { store, dc1: Vec::new(), dc2: Vec::new(), times: Times::default() };
        (world.dc1, world.dc2) =
            tokio::try_join!(world.data_center("dc-1", dc1, extra), world.data_center("dc-2", dc2, extra))?;
        world.settled().await?;
        Ok(world)
    }

    pub(crate) async fn data_center(&self, name: &str, n: usize, extra: &[&str]) -> anyhow::Result<Vec<NodeProcess>> {
        let mut nodes: Vec<NodeProcess> = Vec::new();
        for _ in 0..n {
            let seeds: Vec<String> = nodes.iter().map(|node| node.addr.clone()).collect();
            nodes.push(self.node(name, nodes.len(), &seeds, extra).await?);
        }
        Ok(nodes)
    }

    pub(crate) async fn node(
        &self,
        dc: &str,
        number: usize,
        seeds: &[String],
        extra: &[&str],
    ) -> anyhow::Result<NodeProcess> {
        let spec = NodeSpec {
            system: "test".into(),
            dc: dc.into(),
            region: None,
            plane: self.store.url.clone(),
            seeds: seeds.to_vec(),
            times: self.times,
            extra: extra.iter().map(|arg| (*arg).to_owned()).collect(),
        };
        NodeProcess::start(&format!("{dc}/{number}"), &spec).await
    }

    /// Every node is ready, knows its members, and both datacenters take placements.
    pub(crate) async fn settled(&self) -> anyhow::Result<()> {
        let both = [(&self.dc1, self.dc1.len()), (&self.dc2, self.dc2.len())];
        let (n1, n2) = (self.dc1.len(), self.dc2.len());
        for (nodes, count) in both {
            let ready = |status: &Status| {
                let serves = |name: &str, nodes: usize| {
                    dc(status, name).is_some_and(|dc| dc.routable == "placements" && dc.endpoints == nodes)
                };
                status.ready
                    && status.members == count
                    && (n1 == 0 || serves("dc-1", n1))
                    && (n2 == 0 || serves("dc-2", n2))
            };
            try_join_all(nodes.iter().map(|node| node.until("settled", SOON, ready))).await?;
        }
        Ok(())
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &NodeProcess> {
        self.dc1.iter().chain(&self.dc2)
    }

    pub(crate) async fn dcctl(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut process = tokio::process::Command::new(binary("dcctl")?);
        process.args(["--control-plane", &self.store.url]).args(args).kill_on_drop(true);
        let output = process.output().await.context("running dcctl")?;
        ensure!(output.status.success(), "dcctl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// A datacenter as a node's status shows it.
pub(crate) fn dc<'a>(status: &'a Status, name: &str) -> Option<&'a KnownDc> {
    status.data_centers.iter().find(|dc| dc.id == name)
}

/// The epoch of a datacenter's record.
pub(crate) async fn epoch(node: &NodeProcess, name: &str) -> anyhow::Result<u64> {
    Ok(dc(&node.status().await?, name).context("not known")?.epoch)
}

/// The position of the node that leads its datacenter's membership.
pub(crate) async fn leader(nodes: &[NodeProcess]) -> anyhow::Result<usize> {
    for (n, node) in nodes.iter().enumerate() {
        if node.status().await?.leads {
            return Ok(n);
        }
    }
    bail!("nobody leads")
}

/// The position of a node that does not lead.
pub(crate) async fn follower(nodes: &[NodeProcess]) -> anyhow::Result<usize> {
    for (n, node) in nodes.iter().enumerate() {
        if !node.status().await?.leads {
            return Ok(n);
        }
    }
    bail!("nobody follows")
}

pub(crate) async fn spawn_in(node: &NodeProcess, name: &str, dc: &str) -> anyhow::Result<Result<Answer, Failure>> {
    node.ask(Command::Spawn { name: name.into(), at: Some(Where::name(dc)) }).await
}

pub(crate) async fn ask_worker(node: &NodeProcess, name: &str) -> anyhow::Result<Result<WorkerReport, Failure>> {
    let ask = Command::AskWorker { name: name.into(), timeout_ms: 3000 };
    Ok(match node.ask(ask).await? {
        Ok(Answer::Report(report)) => Ok(report),
        Ok(other) => bail!("not a report: {other:?}"),
        Err(failure) => Err(failure),
    })
}

pub(crate) async fn report(node: &NodeProcess, name: &str) -> anyhow::Result<WorkerReport> {
    ask_worker(node, name).await?.map_err(|f| anyhow::anyhow!("{}: {}: {}", node.label, f.kind, f.text))
}

pub(crate) async fn ledger(node: &NodeProcess, id: &str, times: u32) -> anyhow::Result<Vec<CartReport>> {
    match node.must(Command::AddToLedger { ledger: id.into(), timeout_ms: 10_000, times }).await? {
        Answer::Carts(carts) => Ok(carts),
        other => bail!("not a grain's report: {other:?}"),
    }
}

pub(crate) fn failure<T: std::fmt::Debug>(answer: Result<T, Failure>) -> anyhow::Result<Failure> {
    match answer {
        Ok(answer) => bail!("succeeded: {answer:?}"),
        Err(failure) => Ok(failure),
    }
}
