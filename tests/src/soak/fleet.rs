//! The processes of a run, and what is done to them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use futures::future::try_join_all;
use tokio::sync::mpsc;

use super::{
    chaos::{Act, Planned},
    control::{NodeSpec, Order, Said},
    node::TTL,
    options::Options,
    process::SoakNode,
    proxy::{Network, NodeProxy, Way},
    servers::{dcctl, rotate},
    watch::Watch,
};
use crate::{distance::Distance, proxy::Line, servers::Store};

/// How long a node may take to leave in order.
const LEAVE: Duration = Duration::from_secs(25);

/// All nodes of a run, each behind its proxy.
#[derive(Debug)]
pub struct Fleet {
    options: Options,
    seed: u64,
    watch: Arc<Watch>,
    network: Arc<Network>,
    proxies: Vec<NodeProxy>,
    listens: Vec<SocketAddr>,
    nodes: Vec<Option<SoakNode>>,
    runs: u32,
    rate: Option<f64>,
    dir: PathBuf,
    logs: PathBuf,
    heard: mpsc::UnboundedSender<(usize, u32, Said)>,
}

/// What a fleet needs to begin.
#[derive(Debug)]
pub struct Setup {
    /// The run's options.
    pub options: Options,
    /// The run's seed.
    pub seed: u64,
    /// Who watches.
    pub watch: Arc<Watch>,
    /// The network between the nodes.
    pub network: Arc<Network>,
    /// Where the nodes listen.
    pub listens: Vec<SocketAddr>,
    /// For nodes' own logs.
    pub dir: PathBuf,
    /// For records.
    pub logs: PathBuf,
    /// Where what nodes say goes.
    pub heard: mpsc::UnboundedSender<(usize, u32, Said)>,
}

/// Ports to listen on, outside of those that the system draws for connections: still free after a restart.
///
/// # Errors
///
/// None is free.
pub fn free_addresses(count: usize, mut draw: impl FnMut() -> u64) -> anyhow::Result<Vec<SocketAddr>> {
    let mut held = Vec::new();
    for _ in 0..1_000 {
        let address = SocketAddr::from(([127, 0, 0, 1], 12_000 + (draw() % 18_000) as u16));
        // Held until the last is known, so that none comes twice.
        if let (Ok(tcp), Ok(udp)) = (std::net::TcpListener::bind(address), std::net::UdpSocket::bind(address)) {
            held.push((address, tcp, udp));
        }
        if held.len() == count {
            return Ok(held.into_iter().map(|(address, ..)| address).collect());
        }
    }
    anyhow::bail!("no {count} free ports between 12000 and 30000")
}

impl Fleet {
    /// Starts every node: datacenters at once, the nodes of each one after the other.
    ///
    /// # Errors
    ///
    /// A node does not start.
    pub async fn start(setup: Setup, plane: &str) -> anyhow::Result<Self> {
        let Setup { options, seed, watch, network, listens, dir, logs, heard } = setup;
        let mut proxies = Vec::new();
        for slot in 0..listens.len() {
            proxies.push(NodeProxy::start(&network, slot).await.context("a proxy")?);
        }
        let nodes = (0..listens.len()).map(|_| None).collect();
        let rate = Some(0.0);
        let mut fleet =
            Self { options, seed, watch, network, proxies, listens, nodes, runs: 0, rate, dir, logs, heard };
        for number in 0..fleet.options.nodes {
            let specs: Vec<NodeSpec> =
                (0..fleet.options.dcs).map(|dc| fleet.spec(dc * fleet.options.nodes + number, plane)).collect();
            let started = try_join_all(specs.into_iter().map(|spec| fleet.launch(spec))).await?;
            for node in started {
                let slot = node.spec.slot;
                fleet.nodes[slot] = Some(node);
            }
        }
        Ok(fleet)
    }

    fn spec(&mut self, slot: usize, plane: &str) -> NodeSpec {
        self.runs += 1;
        let Options { nodes: per_dc, dcs, workers, targets, grains, tls, ref plant, .. } = self.options;
        let dc = slot / per_dc;
        let name = format!("dc-{}", dc + 1);
        let own = dc * per_dc..(dc + 1) * per_dc;
        let seeds = own.filter(|other| *other != slot).map(|other| self.proxies[other].addr.to_string());
        let file = |kind: &str| self.dir.join("certs").join(format!("{name}.{kind}"));
        let tls = tls.then(|| [self.dir.join("certs/ca.pem"), file("pem"), file("key")]);
        NodeSpec {
            run: self.runs,
            slot,
            per_dc,
            slots: per_dc * dcs,
            plane: plane.to_owned(),
            listen: self.listens[slot].to_string(),
            advertise: self.proxies[slot].addr.to_string(),
            seeds: seeds.collect(),
            logs: self.logs.clone(),
            seed: self.seed,
            workers,
            targets,
            grains,
            plant: plant.iter().find(|(_, at)| *at == slot).map(|(plant, _)| *plant),
            tls,
            dc: name,
        }
    }

    async fn launch(&self, spec: NodeSpec) -> anyhow::Result<SoakNode> {
        let (run, slot) = (spec.run, spec.slot);
        self.watch.born(run, slot);
        let on_pid = |pid| {
            self.network.set_pid(slot, pid);
            self.watch.has_pid(run, pid);
        };
        let node = SoakNode::start(spec, &self.dir, self.heard.clone(), on_pid).await?;
        self.watch.judge.lock().around.named(run, node.node);
        Ok(node)
    }

    /// A node that does not start is a violation; it is tried again later.
    async fn relaunch(&mut self, slot: usize, plane: &str) {
        let spec = self.spec(slot, plane);
        let run = spec.run;
        let launched = async {
            let mut node = self.launch(spec).await?;
            node.order(Order::Rate(self.share())).await?;
            anyhow::Ok(node)
        };
        match launched.await {
            Ok(node) => self.nodes[slot] = Some(node),
            Err(error) => {
                self.watch.ends(run);
                self.watch.wrong("start", format!("{error:#}"));
            }
        }
    }

    fn share(&self) -> Option<f64> {
        self.rate.map(|rate| rate / self.listens.len() as f64)
    }

    /// Tells all nodes how many messages a second they send together; `None`: as many as they can.
    ///
    /// # Errors
    ///
    /// A node is gone.
    pub async fn set_rate(&mut self, rate: Option<f64>) -> anyhow::Result<()> {
        self.rate = rate;
        let share = self.share();
        self.order(Order::Rate(share)).await
    }

    /// Tells all nodes something.
    ///
    /// # Errors
    ///
    /// A node is gone.
    pub async fn order(&mut self, order: Order) -> anyhow::Result<()> {
        for node in self.nodes.iter_mut().flatten() {
            node.order(order).await?;
        }
        Ok(())
    }

    /// Notes processes that ended though nobody ended them, and starts what is not there.
    pub async fn mend(&mut self, plane: &str) {
        self.look_for_dead();
        for slot in 0..self.nodes.len() {
            if self.nodes[slot].is_none() {
                self.relaunch(slot, plane).await;
            }
        }
    }

    fn look_for_dead(&mut self) {
        for place in &mut self.nodes {
            let Some((node, status)) = place.as_mut().and_then(|node| node.ended().map(|status| (node, status))) else {
                continue;
            };
            let (slot, run) = (node.spec.slot, node.spec.run);
            self.watch.ends(run);
            let log = self.dir.join(format!("node-{slot}.txt"));
            let last = last_lines(&log);
            self.watch.wrong("crash", format!("node {slot} ended by itself with {status}: {last}"));
            *place = None;
        }
    }

    /// Does something to the system, waits, and undoes it.
    ///
    /// # Errors
    ///
    /// It could not be done, or not be undone.
    pub async fn carry_out(&mut self, planned: &Planned, store: &mut Store) -> anyhow::Result<()> {
        self.watch.judge.lock().around.done();
        let done = self.act(planned, store).await.with_context(|| planned.act.to_string());
        self.watch.judge.lock().around.undone();
        done
    }

    async fn act(&mut self, planned: &Planned, store: &mut Store) -> anyhow::Result<()> {
        let lasts = planned.lasts;
        let wait = || tokio::time::sleep(lasts);
        let cut =
            |silent: bool| Way { line: if silent { Line::BlackHole } else { Line::Cut }, distance: Distance::NEAR };
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        match planned.act {
            Act::Kill { slot } => self.kill(slot, lasts, &store.url).await?,
            Act::KillLeader { dc } => match self.leader(dc) {
                // The one whose curves are as long as the run: it is paused beyond its lease instead.
                Some(slot) if self.options.setting().lasting(slot) => self.pause(slot, TTL + lasts).await?,
                Some(slot) => self.kill(slot, lasts, &store.url).await?,
                None => {}
            },
            Act::Leave { slot } => {
                if let Some(node) = self.nodes[slot].take() {
                    self.watch.ends(node.spec.run);
                    if let Err(error) = node.leave(LEAVE).await {
                        self.watch.wrong("D6", format!("{error:#}"));
                    }
                }
                wait().await;
                self.relaunch(slot, &store.url).await;
            }
            Act::Pause { slot } => self.pause(slot, lasts).await?,
            Act::Isolate { slot, silent } => {
                self.network.set(&[slot], &all, cut(silent));
                wait().await;
                self.network.open_all();
            }
            Act::CutDataCenters { dcs, silent } => {
                self.network.set(&self.places(dcs[0]), &self.places(dcs[1]), cut(silent));
                wait().await;
                self.network.open_all();
            }
            Act::Delay { dcs, by } => {
                let late = Way { line: Line::Open, distance: Distance::of(by) };
                self.network.set(&self.places(dcs[0]), &self.places(dcs[1]), late);
                wait().await;
                self.network.open_all();
            }
            Act::StoreRestart => {
                store.kill_all()?;
                wait().await;
                store.start_all().await?;
            }
            Act::StoreMember { server } => {
                let server = server % store.servers.len();
                store.servers[server].kill()?;
                wait().await;
                store.servers[server].start().await?;
            }
            Act::Drain { dc } => {
                let dc = format!("dc-{}", dc + 1);
                let set = |what: &'static str| {
                    let args = ["--control-plane", &store.url, "dc", "intent", "set", &dc, what, "--why", "soak"];
                    let args = args.map(str::to_owned);
                    async move { dcctl(&args.each_ref().map(String::as_str)).await }
                };
                set("drain").await?;
                wait().await;
                set("serve").await?;
            }
            Act::RotateCertificates => {
                rotate(&self.dir.join("certs"), self.options.dcs, Duration::from_secs(3)).await?;
            }
        }
        Ok(())
    }

    async fn kill(&mut self, slot: usize, down: Duration, plane: &str) -> anyhow::Result<()> {
        if let Some(node) = self.nodes[slot].take() {
            self.watch.ends(node.spec.run);
            node.kill().await?;
        }
        tokio::time::sleep(down).await;
        self.relaunch(slot, plane).await;
        Ok(())
    }

    async fn pause(&mut self, slot: usize, lasts: Duration) -> anyhow::Result<()> {
        if let Some(node) = &self.nodes[slot] {
            node.pause().await?;
            tokio::time::sleep(lasts).await;
            node.resume()?;
        }
        Ok(())
    }

    fn places(&self, dc: usize) -> Vec<usize> {
        (dc * self.options.nodes..(dc + 1) * self.options.nodes).collect()
    }

    fn leader(&self, dc: usize) -> Option<usize> {
        let heard = self.watch.heard.lock();
        let leads = |slot: &usize| heard.figures.get(slot).is_some_and(|(.., figures)| figures.leads);
        self.places(dc).into_iter().find(leads)
    }

    /// Shuts every node down in order, one datacenter after the other.
    ///
    /// # Errors
    ///
    /// A node does not leave in order.
    pub async fn leave(mut self) -> anyhow::Result<()> {
        for slot in 0..self.nodes.len() {
            if let Some(node) = self.nodes[slot].take() {
                self.watch.ends(node.spec.run);
                node.leave(LEAVE).await?;
            }
        }
        Ok(())
    }
}

fn last_lines(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.reverse();
    lines.join(" | ")
}
