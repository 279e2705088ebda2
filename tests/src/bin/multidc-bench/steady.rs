//! Nothing stops and nothing is taken over while nothing fails, however far away everything is (G2, G4).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::ensure;
use futures::future::try_join_all;
use multidc_tests::{
    distance::Distance,
    node::NodeProcess,
    protocol::{Answer, Command, CountReport, Outcome},
};

use crate::{
    failover::FAR,
    fleet::{self, Fleet, Limits, Setup},
    machine, table,
};

const SOON: Duration = Duration::from_secs(120);

/// How long one round of asks takes: each thing once.
const ROUND: Duration = Duration::from_secs(20);

/// The one count that is no count: how late a tick was at most, in milliseconds, of the node where that was most.
const LATE: &str = "late_worst_ms";

/// How it is measured.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Options of steady and idle")]
pub(crate) struct Options {
    /// How long it is watched.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Datacenters.
    #[arg(long, default_value_t = 3)]
    pub(crate) dcs: usize,
    /// Nodes of each datacenter.
    #[arg(long, default_value_t = 10)]
    pub(crate) nodes: usize,
    /// Global names of each datacenter.
    #[arg(long, default_value_t = 10)]
    held: u32,
    /// How long nothing may have changed before it counts as settled, in seconds.
    #[arg(long, default_value_t = 30)]
    quiet_secs: u64,
    /// Without the round trips of 300 ms and the loss of 5 % (steady; idle has none).
    #[arg(long)]
    near: bool,
}

impl Options {
    pub(crate) fn length(&self) -> Duration {
        Duration::from_secs_f64(self.minutes * 60.0)
    }

    /// Starts the nodes and their names, and waits until nothing changes any more.
    pub(crate) async fn begin(&self, store: &str, distance: Distance, seed: u64) -> anyhow::Result<Site> {
        let places = (1..=self.dcs).flat_map(|dc| std::iter::repeat_n(dc, self.nodes)).collect();
        let store = fleet::store(store).await?;
        let limits = Limits::defaults();
        let fleet = Fleet::new(Setup { store, places, limits, distance, seed, extra: Vec::new() }).await?;
        let nodes = fleet.start_all().await?;
        try_join_all(nodes.iter().map(|node| {
            node.until("it knows all", SOON, |status| {
                status.ready && status.members == self.nodes && status.data_centers.len() == self.dcs
            })
        }))
        .await?;
        let mut names = Vec::new();
        for (node, n) in nodes.iter().take(self.dcs).flat_map(|node| (0..self.held).map(move |n| (node, n))) {
            // The first nodes are one of each datacenter.
            names.push((node, format!("held-{}-{n}", node.label.replace('/', "-"))));
        }
        try_join_all(names.iter().map(|(node, name)| fleet::spawn(node, name.clone()))).await?;
        let names = names.into_iter().map(|(_, name)| name).collect();
        let site = Site { fleet, nodes, names };
        site.settle(Duration::from_secs(self.quiet_secs)).await?;
        Ok(site)
    }
}

/// A system on which nothing happens.
pub(crate) struct Site {
    pub(crate) fleet: Fleet,
    pub(crate) nodes: Vec<NodeProcess>,
    names: Vec<String>,
}

/// What must not grow while nothing fails. Moves are among them: a system that has settled makes none.
const CHANGES: [&str; 9] = [
    "sessions",
    "lease_ends",
    "sessions_refused",
    "tombstones",
    "takeovers",
    "titles",
    "moves",
    "epoch_conflicts",
    "store_changes",
];

impl Site {
    /// Counts of all nodes together, and how late the latest tick of any was.
    pub(crate) async fn counts(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut sums = BTreeMap::new();
        for stats in try_join_all(self.nodes.iter().map(fleet::stats)).await? {
            for (name, count) in stats {
                let worst = name == LATE;
                let of_all: &mut u64 = sums.entry(name).or_default();
                *of_all = if worst { (*of_all).max(count) } else { *of_all + count };
            }
        }
        Ok(sums)
    }

    async fn changes(&self) -> anyhow::Result<Vec<u64>> {
        let counts = self.counts().await?;
        Ok(CHANGES.map(|name| counts.get(name).copied().unwrap_or_default()).to_vec())
    }

    async fn settle(&self, quiet: Duration) -> anyhow::Result<()> {
        let (mut last, mut since) = (self.changes().await?, Instant::now());
        let begun = Instant::now();
        while since.elapsed() < quiet {
            ensure!(begun.elapsed() < SOON * 5, "it does not settle: {CHANGES:?} {last:?}");
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = self.changes().await?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        println!("settled after {:.0} s: {CHANGES:?} {last:?}; {}", begun.elapsed().as_secs_f64(), machine::load());
        println!("so far: {:?}", self.counts().await?);
        Ok(())
    }
}

/// What was asked while nothing happened.
#[derive(Debug, Default)]
struct Asked {
    answered: u64,
    /// By name of the error.
    failed: BTreeMap<String, u64>,
    /// Epoch and process of each thing.
    owners: BTreeMap<String, (u64, u32)>,
    moved: Vec<String>,
}

impl Asked {
    fn note(&mut self, what: &str, report: &CountReport) {
        self.answered += 1;
        let now = (report.epoch, report.pid);
        if let Some(before) = self.owners.insert(what.to_owned(), now)
            && before != now
        {
            self.moved.push(format!("{what}: epoch and process {before:?}, then {now:?}"));
        }
    }
}

pub(crate) async fn run(options: &Options, store: &str, seed: u64) -> anyhow::Result<()> {
    let distance = if options.near { Distance::NEAR } else { FAR };
    let site = options.begin(store, distance, seed).await?;
    let before = site.counts().await?;
    let begun = Instant::now();
    let mut asked = Asked::default();
    let mut minute = 0;
    while begun.elapsed() < options.length() {
        ask_all(&site, &mut asked, ROUND.min(options.length())).await;
        let now = begun.elapsed().as_secs() / 60;
        if now > minute {
            minute = now;
            let grown = grown(&before, &site.counts().await?);
            let Asked { answered, failed, moved, .. } = &asked;
            println!("minute {now}: {grown:?}; {answered} answers, failed {failed:?}, {moved:?}; {}", machine::load());
        }
    }
    let after = site.counts().await?;
    report(options, store, &grown(&before, &after), &asked, after.get(LATE).copied().unwrap_or_default());
    Ok(())
}

fn report(options: &Options, store: &str, grown: &BTreeMap<String, u64>, asked: &Asked, late: u64) {
    let of = |name: &str| grown.get(name).copied().unwrap_or_default();
    let row =
        |what: &str, count: u64| vec![what.to_owned(), count.to_string(), format!("0 {}", table::verdict(count == 0))];
    let rows = [
        row("owners that stopped (leases ended, sessions refused)", of("lease_ends") + of("sessions_refused")),
        row("take-overs (tombstones, titles of others)", of("tombstones") + of("takeovers")),
        row("titles gained, hand-overs", of("titles") + of("moves")),
        row("answers from another owner or epoch", asked.moved.len() as u64),
        row("answers that say: not the owner", asked.failed.get("NotOwner").copied().unwrap_or_default()),
    ];
    let way = if options.near { "near" } else { "300 ms round trips and 5 % loss" };
    let title = format!(
        "{} x {} nodes on {store} for {} minutes, {way}, lease 10 s: nothing stops (G2, G4)",
        options.dcs, options.nodes, options.minutes
    );
    table::print(&title, &["what", "count", "goal"], &rows);
    println!("{} answers, failures {:?}; all that was counted: {grown:?}", asked.answered, asked.failed);
    println!("no node's tick of 100 ms was later than {late} ms since its start");
    println!("{}", machine::load());
}

fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let more = |(name, count): (&String, &u64)| {
        let more = count.saturating_sub(before.get(name).copied().unwrap_or_default());
        (more > 0).then(|| (name.clone(), more))
    };
    after.iter().filter_map(more).collect()
}

/// Each name and as many grains, once, from nodes in turn.
async fn ask_all(site: &Site, asked: &mut Asked, round: Duration) {
    let things = site.names.len() * 2;
    let pause = round / u32::try_from(things).unwrap_or(u32::MAX).max(1);
    for (n, name) in site.names.iter().enumerate() {
        let ask = Command::Count { name: name.clone(), op: String::new(), timeout_ms: 10_000 };
        let grain = Command::CountGrain { id: name.clone(), op: String::new(), timeout_ms: 10_000 };
        for (what, ask) in [(format!("counter/{name}"), ask), (format!("tally/{name}"), grain)] {
            let node = &site.nodes[(n * 7 + asked.answered as usize) % site.nodes.len()];
            let failure = match node.ask(ask).await {
                Ok(Ok(Answer::Counted(report))) if report.outcome == Outcome::Counted => {
                    asked.note(&what, &report);
                    None
                }
                Ok(Ok(other)) => Some(format!("{other:?}")),
                Ok(Err(failure)) => Some(failure.kind),
                Err(error) => Some(error.to_string()),
            };
            if let Some(failure) = failure {
                println!("{what} from {}: {failure}", node.label);
                *asked.failed.entry(failure).or_default() += 1;
            }
            tokio::time::sleep(pause).await;
        }
    }
}
