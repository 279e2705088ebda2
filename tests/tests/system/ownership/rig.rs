//! Datacenters whose nodes own counters, the log that these write to, and clients that count all the time.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use dc_core::{Clock, SystemClock};
use futures::future::try_join_all;
pub(super) use multidc_tests::load::{Load, Target};
use multidc_tests::{
    eventually,
    launch::Launch,
    ledger::{Found, Ledger, Verdict, Want},
    network::Network,
    node::{NodeProcess, NodeSpec, Times, binary},
    protocol::{Answer, Command, CountReport, Failure, Outcome, Status, Where},
    proxy::Proxy,
    servers::Store,
};

use crate::world::{SOON, dc};

/// The lease of what is owned.
pub(super) const TTL: Duration = Duration::from_secs(3);

/// What a take-over may take besides the lease.
pub(super) const BESIDES: Duration = Duration::from_secs(2);

/// What a loaded machine may add to a bound that the system promises.
pub(super) const MARGIN: Duration = Duration::from_secs(3);

pub(super) fn now() -> Instant {
    SystemClock.now()
}

/// How a datacenter's nodes are started.
#[derive(Clone, Debug, Default)]
pub(super) struct Site {
    pub(super) dc: &'static str,
    pub(super) nodes: usize,
    /// The store as these nodes reach it; else directly.
    pub(super) plane: Option<String>,
    pub(super) extra: Vec<String>,
    pub(super) launch: Launch,
}

impl Site {
    pub(super) fn new(dc: &'static str, nodes: usize) -> Self {
        Self { dc, nodes, ..Self::default() }
    }

    pub(super) fn through(mut self, store: &Store, proxy: &Proxy) -> Self {
        self.plane = Some(via(&store.url, proxy));
        self
    }

    /// In the place of a network that has the datacenter's name.
    pub(super) fn within(mut self, network: &Network) -> anyhow::Result<Self> {
        let place = network.place(self.dc)?;
        self.launch = place.launch();
        Ok(self.with(&["--listen", &format!("{}:0", place.address())]))
    }

    pub(super) fn with(mut self, extra: &[&str]) -> Self {
        self.extra.extend(extra.iter().map(|arg| (*arg).to_owned()));
        self
    }
}

/// A store's URL with a proxy in the place of its (only) server.
fn via(url: &str, proxy: &Proxy) -> String {
    let (scheme, _) = url.split_once("://").unwrap_or((url, ""));
    format!("{scheme}://{}", proxy.addr())
}

/// Where the only server of a store listens.
pub(super) fn address(store: &Store) -> anyhow::Result<std::net::SocketAddr> {
    let (_, rest) = store.url.split_once("://").context("a URL")?;
    rest.parse().with_context(|| format!("{} has one server", store.url))
}

pub(super) struct Rig {
    pub(super) store: Store,
    pub(super) log: Ledger,
    pub(super) sites: BTreeMap<&'static str, Vec<Arc<NodeProcess>>>,
    plans: BTreeMap<&'static str, Site>,
    started: usize,
}

impl Rig {
    /// Starts the datacenters and waits until all know all.
    pub(super) async fn start(store: Store, plans: Vec<Site>) -> anyhow::Result<Self> {
        Self::start_with(store, Ledger::start().await?, plans).await
    }

    /// As [`start`](Self::start), with a log that they reach.
    pub(super) async fn start_with(store: Store, log: Ledger, plans: Vec<Site>) -> anyhow::Result<Self> {
        let plans: BTreeMap<_, _> = plans.into_iter().map(|plan| (plan.dc, plan)).collect();
        let mut rig = Self { store, log, sites: BTreeMap::new(), plans: plans.clone(), started: 0 };
        for (dc, plan) in plans {
            for _ in 0..plan.nodes {
                rig.add(dc).await?;
            }
        }
        rig.settled().await?;
        Ok(rig)
    }

    /// One more node in a datacenter.
    pub(super) async fn add(&mut self, dc: &'static str) -> anyhow::Result<Arc<NodeProcess>> {
        let plan = self.plans.get(dc).context("a planned datacenter")?;
        let ttl = TTL.as_millis().to_string();
        let mut extra = ["--own-ttl-ms", &ttl, "--log", &self.log.addr().to_string()].map(str::to_owned).to_vec();
        extra.extend(plan.extra.iter().cloned());
        let spec = NodeSpec {
            system: "test".into(),
            dc: dc.into(),
            region: None,
            plane: plan.plane.clone().unwrap_or_else(|| self.store.url.clone()),
            seeds: self.alive(dc).map(|node| node.addr.clone()).collect(),
            times: Times::default(),
            extra,
        };
        let label = format!("{dc}/{}", self.started);
        let node = Arc::new(NodeProcess::launched(&label, &spec, &plan.launch).await?);
        self.started += 1;
        self.sites.entry(dc).or_default().push(node.clone());
        Ok(node)
    }

    pub(super) fn alive(&self, dc: &str) -> impl Iterator<Item = &Arc<NodeProcess>> {
        self.sites.get(dc).into_iter().flatten().filter(|node| !node.is_gone())
    }

    pub(super) fn one(&self, dc: &str) -> anyhow::Result<&Arc<NodeProcess>> {
        self.alive(dc).next().with_context(|| format!("no node of {dc} lives"))
    }

    pub(super) fn all(&self) -> Vec<Arc<NodeProcess>> {
        self.sites.values().flatten().filter(|node| !node.is_gone()).cloned().collect()
    }

    pub(super) async fn kill(&self, dc: &str) -> anyhow::Result<()> {
        let nodes: Vec<_> = self.alive(dc).cloned().collect();
        try_join_all(nodes.iter().map(|node| node.kill_shared())).await.map(drop)
    }

    /// Every live node knows every live node, and every datacenter takes placements.
    pub(super) async fn settled(&self) -> anyhow::Result<()> {
        let counts: Vec<(&str, usize)> = self.sites.keys().map(|dc| (*dc, self.alive(dc).count())).collect();
        let serves = |status: &Status| {
            counts.iter().filter(|(_, nodes)| *nodes > 0).all(|(name, nodes)| {
                dc(status, name).is_some_and(|dc| dc.routable == "placements" && dc.endpoints == *nodes)
            })
        };
        let nodes = self.all();
        let ready = nodes.iter().map(|node| node.until("settled", SOON, |status| status.ready && serves(status)));
        try_join_all(ready).await.map(drop)
    }

    /// Spawns counters under global names, `prefix` and a number each.
    pub(super) async fn names(&self, prefix: &str, count: u32, dc: &str) -> anyhow::Result<Vec<Target>> {
        let spawn = Command::SpawnCounters { prefix: prefix.into(), count, at: Where::name(dc) };
        self.one(dc)?.must(spawn).await?;
        Ok((0..count).map(|n| Target::Name(format!("{prefix}{n}"))).collect())
    }

    pub(super) async fn dcctl(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut process = tokio::process::Command::new(binary("dcctl")?);
        process.args(["--control-plane", &self.store.url]).args(args).kill_on_drop(true);
        let output = process.output().await.context("running dcctl")?;
        ensure!(output.status.success(), "dcctl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Waits until an increment of each target, asked for after `since`, is written by a node of `dc`.
    pub(super) async fn served_in(
        &self,
        dc: &str,
        targets: &[Target],
        since: Duration,
        bound: Duration,
    ) -> anyhow::Result<Duration> {
        eventually(&format!("all served in {dc}"), bound, || async {
            let entries = self.log.entries_since(since);
            let mut last = since;
            for target in targets {
                let identity = target.identity();
                let added = entries.iter().find(|entry| {
                    let by = &entry.by;
                    by.identity == identity
                        && by.dc == dc
                        && matches!((&entry.want, &entry.verdict), (Want::Add(_), Verdict::Accepted(_)))
                });
                let Some(added) = added else {
                    return Err(format!("{identity} is not; {:?}", self.log.head(&identity)));
                };
                last = last.max(added.at);
            }
            Ok(last - since)
        })
        .await
    }

    /// Waits until an increment of each target, wherever, is written after `since`.
    pub(super) async fn served(&self, targets: &[Target], since: Duration, bound: Duration) -> anyhow::Result<()> {
        eventually("all served", bound, || async {
            let entries = self.log.entries_since(since);
            let missing = targets.iter().map(Target::identity).find(|identity| {
                let written = |want: &Want| matches!(want, Want::Add(_));
                !entries.iter().any(|entry| {
                    entry.by.identity == *identity
                        && written(&entry.want)
                        && matches!(entry.verdict, Verdict::Accepted(_))
                })
            });
            missing.map_or(Ok(()), |identity| Err(format!("{identity} is not; {:?}", self.log.head(&identity))))
        })
        .await
    }

    /// How many of its titles' changes the log has seen since then: epochs presented.
    pub(super) fn opened_since(&self, since: Duration) -> Vec<String> {
        let entries = self.log.entries_since(since).into_iter();
        let opened = entries.filter(|entry| entry.want == Want::Open);
        opened.map(|entry| format!("{entry:?}")).collect()
    }

    /// A count of the node's part in ownership.
    pub(super) async fn stat(node: &NodeProcess, name: &str) -> anyhow::Result<u64> {
        let Answer::Stats(stats) = node.must(Command::OwnershipStats).await? else { bail!("not stats") };
        let found = stats.into_iter().find(|(stat, _)| stat == name);
        Ok(found.with_context(|| format!("no count {name}"))?.1)
    }

    /// Ends the clients and checks the log against what they were told.
    pub(super) async fn check(&self, load: Load) -> anyhow::Result<Found> {
        let told = load.end().await?;
        let found = self.log.check(&told.acknowledged)?;
        eprintln!("{found}; failures: {:?}", told.failures);
        ensure!(!told.acknowledged.is_empty(), "no client counted anything");
        Ok(found)
    }
}

/// One increment, tried until it is written: what certainly did not run is asked again.
pub(super) async fn count(
    node: &NodeProcess,
    target: &Target,
    op: &str,
    bound: Duration,
) -> anyhow::Result<CountReport> {
    eventually(&format!("{} counts with {target:?}", node.label), bound, || async {
        match node.ask(target.ask(op.to_owned(), Duration::from_secs(1))).await {
            Ok(Ok(Answer::Counted(report))) if report.outcome == Outcome::Counted => Ok(report),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

/// One increment, asked once.
pub(super) async fn count_once(
    node: &NodeProcess,
    target: &Target,
    op: &str,
    timeout: Duration,
) -> anyhow::Result<Result<CountReport, Failure>> {
    match node.ask(target.ask(op.to_owned(), timeout)).await? {
        Ok(Answer::Counted(report)) => Ok(Ok(report)),
        Ok(other) => bail!("not a count: {other:?}"),
        Err(failure) => Ok(Err(failure)),
    }
}
