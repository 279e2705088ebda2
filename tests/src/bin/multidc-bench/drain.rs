//! How long a drain takes while clients go on, and that nothing that was acknowledged is lost by it (G5).

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use dc_controlplane::ownership::{DocumentKey, Keep, OwnershipStore, Swap};
use futures::{StreamExt, TryStreamExt};
use multidc::{Expected, Version};
use multidc_tests::{
    distance::Distance,
    ledger::{Acknowledged, Ledger},
    load::{Load, Target},
    node::NodeProcess,
    protocol::{Answer, Command, CountReport, Outcome},
};

use crate::{
    fleet::{self, Fleet, Limits, Setup},
    machine, table,
};

/// How long the grains may take.
const GRAINS: Duration = Duration::from_secs(10);

/// How much longer than as many writes the names may take.
const NAMES: f64 = 1.5;

const SOON: Duration = Duration::from_secs(60);

/// The most that a drain is waited for.
const BOUND: Duration = Duration::from_secs(300);

/// Writes under way at once, as many as a node has by default.
const IN_FLIGHT: usize = 64;

/// How it is measured.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Options of drain")]
pub(crate) struct Options {
    /// How many global grains are active in the datacenter that is drained; 0: none of that.
    #[arg(long, default_value_t = 10_000)]
    grains: u32,
    /// How many global names it owns; 0: none of that.
    #[arg(long = "names", default_value_t = 10_000)]
    owned_names: u32,
    /// Nodes of each of the two datacenters.
    #[arg(long, default_value_t = 1)]
    per_dc: usize,
    /// Clients that go on asking, each one increment after the other.
    #[arg(long, default_value_t = 8)]
    clients: usize,
}

pub(crate) async fn run(options: &Options, store: &str, seed: u64) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    if options.grains > 0 {
        let targets = (0..options.grains).map(|n| Target::Grain(format!("g{n}"))).collect();
        let done = drain(options, store, seed, targets).await?;
        let rule = format!("10 s {}", table::verdict(done.took <= GRAINS));
        rows.push(done.row(format!("{} grains", options.grains), rule));
    }
    if options.owned_names > 0 {
        let targets = (0..options.owned_names).map(|n| Target::Name(format!("n{n}"))).collect();
        let done = drain(options, store, seed, targets).await?;
        let ratio = done.took.as_secs_f64() / done.writes.as_secs_f64();
        rows.push(done.row(format!("{} names", options.owned_names), table::at_most(ratio, NAMES)));
    }
    let title = format!("Drain of one of two datacenters of {} node(s), on {store}, clients going on", options.per_dc);
    let head = ["of", "took", "as many writes", "goal: 10 s, 1.5 writes", "acknowledged", "lost", "clients' failures"];
    table::print(&title, &head, &rows);
    println!("writes: compare-and-sets, {IN_FLIGHT} under way at once, before and after; {}", machine::load());
    Ok(())
}

/// What came of one drain.
struct Done {
    took: Duration,
    /// As many compare-and-sets.
    writes: Duration,
    acknowledged: usize,
    failures: BTreeMap<String, usize>,
}

impl Done {
    fn row(&self, what: String, rule: String) -> Vec<String> {
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        // The log's check fails the run where anything is lost.
        let failures = format!("{:?}", self.failures);
        let (took, writes) = (seconds(self.took), seconds(self.writes));
        vec![what, took, writes, rule, self.acknowledged.to_string(), "0".into(), failures]
    }
}

async fn drain(options: &Options, store: &str, seed: u64, targets: Vec<Target>) -> anyhow::Result<Done> {
    let store = fleet::store(store).await?;
    let log = Ledger::start().await?;
    let nodes = options.per_dc;
    let places = [vec![2; nodes], vec![1; nodes]].concat();
    let extra = vec!["--log".to_owned(), log.addr().to_string()];
    let (limits, distance) = (Limits::defaults(), Distance::NEAR);
    let fleet = Fleet::new(Setup { store, places, limits, distance, seed, extra }).await?;
    // Who is there first has the slots: grains need them in dc-2, names move alone.
    let names = targets.iter().all(|target| target.name().is_some());
    let mut heirs = Vec::new();
    if names {
        heirs = start(&fleet, nodes..nodes * 2).await?;
    }
    let drained = start(&fleet, 0..nodes).await?;
    let mut acknowledged = fill(&drained, &targets).await?;
    println!("{} things are in dc-2; {}", targets.len(), machine::load());
    if !names {
        heirs = start(&fleet, nodes..nodes * 2).await?;
    }
    let count = targets.len();
    let before = writes(&fleet, "before", count).await?;
    println!("{count} writes took {:.2} s", before.as_secs_f64());
    let load = Load::start(options.clients, [&drained[..], &heirs].concat(), &targets);
    let began = Instant::now();
    let why = "it is measured".to_owned();
    match drained[0].ask_within(Command::Drain { why }, BOUND).await? {
        Ok(Answer::Drained(true)) => {}
        other => bail!("the drain ended with {other:?}"),
    }
    let took = began.elapsed();
    println!("the drain took {:.2} s; {}", took.as_secs_f64(), machine::load());
    let told = load.end().await?;
    let after = writes(&fleet, "after", count).await?;
    println!("{count} writes took {:.2} s", after.as_secs_f64());
    acknowledged.extend(told.acknowledged);
    acknowledged.extend(count_each(&heirs, &targets, "end", "dc-1").await?);
    let found = log.check(&acknowledged)?;
    println!("the log is in order: {found}");
    Ok(Done { took, writes: (before + after) / 2, acknowledged: acknowledged.len(), failures: told.failures })
}

/// Starts a datacenter's nodes, and waits until each has its part of what there is.
async fn start(fleet: &Fleet, places: Range<usize>) -> anyhow::Result<Vec<Arc<NodeProcess>>> {
    let mut nodes = Vec::new();
    for place in places.clone() {
        let seeds: &[usize] = if place == places.start { &[] } else { &[places.start] };
        let node = fleet.start(place, seeds).await?;
        node.until("ready", SOON, |status| status.ready).await?;
        nodes.push(Arc::new(node));
    }
    let first = Target::Grain("first".into());
    count_until(&nodes[0], &first, &format!("first-{}", places.start)).await?;
    Ok(nodes)
}

/// Makes everything exist there, and count once.
async fn fill(nodes: &[Arc<NodeProcess>], targets: &[Target]) -> anyhow::Result<Vec<Acknowledged>> {
    // Names are spawned; grains are there when they are asked.
    let names: Vec<&String> = targets.iter().filter_map(Target::name).collect();
    let spawned = names.iter().enumerate().map(|(n, name)| fleet::spawn(&nodes[n % nodes.len()], (*name).clone()));
    let spawned = futures::stream::iter(spawned);
    spawned.buffer_unordered(IN_FLIGHT).try_collect::<Vec<()>>().await?;
    count_each(nodes, targets, "fill", "dc-2").await
}

/// One increment of each, asked until it is answered; all must be in `dc`.
async fn count_each(
    nodes: &[Arc<NodeProcess>],
    targets: &[Target],
    what: &str,
    dc: &str,
) -> anyhow::Result<Vec<Acknowledged>> {
    let counts = futures::stream::iter(targets.iter().enumerate().map(|(n, target)| {
        let node = &nodes[n % nodes.len()];
        async move {
            let (op, report) = count_until(node, target, &format!("{what}-{n}")).await?;
            ensure!(report.dc == dc, "{target:?} is in {}, not in {dc}", report.dc);
            Ok(Acknowledged { op, identity: target.identity(), count: report.count, epoch: report.epoch })
        }
    }));
    counts.buffer_unordered(IN_FLIGHT * 2).try_collect().await
}

/// One increment, asked until it is answered; tells as which operation.
async fn count_until(node: &NodeProcess, target: &Target, what: &str) -> anyhow::Result<(String, CountReport)> {
    let mut tries = 0;
    loop {
        // What may have run is not asked again under the same name.
        let op = format!("{what}-{tries}");
        tries += 1;
        match node.ask(target.ask(op.clone(), Duration::from_secs(10))).await? {
            Ok(Answer::Counted(report)) if report.outcome == Outcome::Counted => return Ok((op, report)),
            other if tries == 20 => bail!("{target:?} does not count: {other:?}"),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// How long so many compare-and-sets take, each on a document of its own.
async fn writes(fleet: &Fleet, under: &str, count: usize) -> anyhow::Result<Duration> {
    let plane = multidc::connect(&fleet.store.url).await?;
    let store = plane.ownership().context("a store of ownership")?;
    // As large as what is stored of a name.
    let body = Bytes::from(vec![b'x'; 350]);
    let key = |n: usize| DocumentKey::escaped(under, &n.to_string());
    let keys = (0..count).map(key).collect::<Result<Vec<_>, _>>()?;
    let write = |key: &DocumentKey, expected: Expected| {
        let (store, key, body) = (store.clone(), key.clone(), body.clone());
        async move { accepted(&*store, &key, expected, body).await }
    };
    let create = keys.iter().map(|key| write(key, Expected::Absent));
    let versions: Vec<Version> = futures::stream::iter(create).buffered(IN_FLIGHT).try_collect().await?;
    let start = Instant::now();
    let change = keys.iter().zip(versions).map(|(key, version)| write(key, Expected::Version(version)));
    futures::stream::iter(change).buffer_unordered(IN_FLIGHT).try_collect::<Vec<Version>>().await?;
    Ok(start.elapsed())
}

async fn accepted(
    store: &dyn OwnershipStore,
    key: &DocumentKey,
    expected: Expected,
    body: Bytes,
) -> anyhow::Result<Version> {
    match store.compare_and_set(key, expected, body, Keep::Forever).await? {
        Swap::Done(version) => Ok(version),
        refused => bail!("{key:?}: {refused:?}"),
    }
}
