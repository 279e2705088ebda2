//! Clients that count all the time, and what they were told: for the check of a [`ledger`](crate::ledger) afterwards.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{bail, ensure};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    ledger::Acknowledged,
    node::NodeProcess,
    protocol::{Answer, Command, Outcome},
};

/// What clients count with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A counter under a global name.
    Name(String),
    /// A counter that is a global grain.
    Grain(String),
}

impl Target {
    /// As the log knows it.
    pub fn identity(&self) -> String {
        match self {
            Self::Name(name) => format!("counter/{name}"),
            Self::Grain(id) => format!("tally/{id}"),
        }
    }

    /// The global name, if it is one.
    pub fn name(&self) -> Option<&String> {
        match self {
            Self::Name(name) => Some(name),
            Self::Grain(_) => None,
        }
    }

    /// The question that makes it count.
    pub fn ask(&self, op: String, timeout: Duration) -> Command {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        match self.clone() {
            Self::Name(name) => Command::Count { name, op, timeout_ms },
            Self::Grain(id) => Command::CountGrain { id, op, timeout_ms },
        }
    }
}

/// What clients were told.
#[derive(Debug, Default)]
pub struct Told {
    /// What was answered.
    pub acknowledged: Vec<Acknowledged>,
    /// By name of the error.
    pub failures: BTreeMap<String, usize>,
}

/// Clients that count all the time, each one increment after the other. They end with [`end`](Self::end), or when this
/// is dropped.
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    nodes: watch::Sender<Vec<Arc<NodeProcess>>>,
    clients: Vec<JoinHandle<anyhow::Result<Told>>>,
}

impl Load {
    /// Clients ask any of these nodes.
    pub fn start(clients: usize, nodes: Vec<Arc<NodeProcess>>, targets: &[Target]) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (nodes, known) = watch::channel(nodes);
        let client = |number| {
            let (stopped, known, targets) = (stopped.clone(), known.clone(), targets.to_vec());
            tokio::spawn(async move { counts(number, stopped, known, targets).await })
        };
        let clients = (0..clients).map(client).collect();
        Self { stop, nodes, clients }
    }

    /// From now on these nodes are asked.
    pub fn ask(&self, nodes: Vec<Arc<NodeProcess>>) {
        self.nodes.send_replace(nodes);
    }

    /// Ends the clients.
    ///
    /// # Errors
    ///
    /// A client was answered under an epoch below one that it had seen.
    pub async fn end(self) -> anyhow::Result<Told> {
        self.stop.send_replace(true);
        let mut all = Told::default();
        for client in self.clients {
            let told = client.await??;
            all.acknowledged.extend(told.acknowledged);
            for (name, count) in told.failures {
                *all.failures.entry(name).or_default() += count;
            }
        }
        Ok(all)
    }
}

async fn counts(
    client: usize,
    stopped: watch::Receiver<bool>,
    nodes: watch::Receiver<Vec<Arc<NodeProcess>>>,
    targets: Vec<Target>,
) -> anyhow::Result<Told> {
    let mut told = Told::default();
    let mut highest: BTreeMap<Target, u64> = BTreeMap::new();
    let mut number = 0_usize;
    while !*stopped.borrow() && stopped.has_changed().is_ok() {
        number += 1;
        // Two cores have to carry all of this.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let target = &targets[draw(client, number) % targets.len()];
        let node = {
            let nodes = nodes.borrow();
            let alive: Vec<_> = nodes.iter().filter(|node| !node.is_gone()).collect();
            alive.get(draw(number, client) % alive.len().max(1)).map(|node| (*node).clone())
        };
        let Some(node) = node else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let op = format!("{client}-{number}");
        // A paused node does not even answer that.
        let ask = node.ask(target.ask(op.clone(), Duration::from_secs(1)));
        let failure = match tokio::time::timeout(Duration::from_secs(3), ask).await {
            Ok(Ok(Ok(Answer::Counted(report)))) if report.outcome == Outcome::Counted => {
                let before = highest.insert(target.clone(), report.epoch);
                let falls = before.is_some_and(|before| before > report.epoch);
                ensure!(!falls, "a client was answered under epoch {before:?} and then {report:?}");
                told.acknowledged.push(Acknowledged {
                    op,
                    identity: target.identity(),
                    count: report.count,
                    epoch: report.epoch,
                });
                continue;
            }
            Ok(Ok(Ok(Answer::Counted(report)))) => format!("{:?}", report.outcome),
            Ok(Ok(Err(failure))) => failure.kind,
            Ok(Ok(Ok(other))) => bail!("not a count: {other:?}"),
            Ok(Err(_)) => "node gone".to_owned(),
            Err(_) => "node silent".to_owned(),
        };
        *told.failures.entry(failure).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(told)
}

/// A number that looks drawn, and is the same in every run.
fn draw(a: usize, b: usize) -> usize {
    let mut x = (a as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (b as u64).wrapping_add(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x >> 33) as usize
}
