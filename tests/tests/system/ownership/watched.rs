//! What those are told who watch what is killed (A7).

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use multidc_tests::{node::NodeProcess, protocol::Command, servers::Store};
use tokio::sync::mpsc;

use super::{
    on_stores,
    rig::{BESIDES, MARGIN, Rig, Site, TTL, now},
};
use crate::world::SOON;

/// What membership takes for dead after at most this (`GossipTiming::lan`).
const SUSPICION: Duration = Duration::from_millis(1_500);

/// What a node prints of its watches, by name.
struct Told {
    lines: mpsc::UnboundedReceiver<String>,
    kept: Vec<String>,
}

impl Told {
    /// Reads all the time: a loss of thousands of slots is thousands of lines.
    fn by(node: &NodeProcess) -> Self {
        let (mut all, (watched, lines)) = (node.lines(), mpsc::unbounded_channel());
        tokio::spawn(async move {
            while let Ok(line) = all.recv().await {
                if let Some(line) = line.strip_prefix("watch ") {
                    // Nobody asks any more: fine.
                    let _ = watched.send(line.to_owned());
                }
            }
        });
        Self { lines, kept: Vec::new() }
    }

    /// What is told of `name` next, and how long after `began`.
    async fn of(&mut self, name: &str, began: Instant) -> anyhow::Result<(String, Duration)> {
        let prefix = format!("{name}: ");
        let next = async {
            loop {
                if let Some(at) = self.kept.iter().position(|line| line.starts_with(&prefix)) {
                    return anyhow::Ok(self.kept.remove(at));
                }
                self.kept.push(self.lines.recv().await.context("the watcher says no more")?);
            }
        };
        let change = tokio::time::timeout(SOON, next).await.with_context(|| format!("nothing is told of {name}"))??;
        let took = now() - began;
        eprintln!("{change} after {took:?}");
        Ok((change, took))
    }
}

/// Nodes, then a whole datacenter, are killed: each watcher is told within the time that is promised, and of a global
/// name where it is now.
async fn killed(store: Store) -> anyhow::Result<()> {
    let rig = Rig::start(store, vec![Site::new("dc-1", 2), Site::new("dc-2", 2)]).await?;
    let (watcher, beside) = (rig.sites["dc-1"][0].clone(), rig.sites["dc-1"][1].clone());
    let (last, first) = (rig.sites["dc-2"][0].clone(), rig.sites["dc-2"][1].clone());
    for (node, name) in [(&beside, "beside"), (&first, "first"), (&last, "last"), (&watcher, "own")] {
        node.must(Command::Spawn { name: name.into(), at: None }).await?;
    }
    last.must(Command::SpawnCounter { name: "everywhere".into(), at: None }).await?;
    let mut watch = Told::by(&watcher);
    for (name, global) in [("beside", false), ("first", false), ("last", false), ("own", false), ("everywhere", true)] {
        watcher.must(Command::Watch { name: name.into(), global }).await?;
    }
    let began = now();
    beside.kill_shared().await?;
    let (change, took) = watch.of("beside", began).await?;
    ensure!(change.contains("NodeLost"), "{change}");
    ensure!(took <= SUSPICION + MARGIN, "a node of the own datacenter: only after {took:?}");

    let began = now();
    first.kill_shared().await?;
    let (change, took) = watch.of("first", began).await?;
    ensure!(change.contains("NodeLost"), "its datacenter goes on: {change}");
    ensure!(took <= SUSPICION + BESIDES + MARGIN, "a node of another datacenter: only after {took:?}");

    let began = now();
    last.kill_shared().await?;
    let (change, took) = watch.of("last", began).await?;
    ensure!(change.contains("DataCenterLost"), "{change}");
    // The records of these tests have the same lease.
    ensure!(took <= TTL + BESIDES + MARGIN, "a datacenter: only after {took:?}");
    let (change, took) = watch.of("everywhere", began).await?;
    ensure!(change.contains("Moved") && change.contains("dc-1"), "{change}");
    ensure!(took <= TTL + BESIDES + MARGIN, "a global name: only after {took:?}");

    // What is nearest lives on, and nothing was told of it by now.
    let began = now();
    let panics = watcher.ask(Command::PanicWorker { name: "own".into() }).await?;
    ensure!(panics.is_err(), "it was to panic");
    let (change, _) = watch.of("own", began).await?;
    ensure!(change.contains("Failed"), "{change}");
    Ok(())
}

on_stores!(
    killed,
    a7_killed_nodes_and_datacenters_are_told_in_time_and_global_names_where_they_are_on_sqlite on Store::sqlite(),
    full_a7_on_nats,
    full_a7_on_etcd
);
