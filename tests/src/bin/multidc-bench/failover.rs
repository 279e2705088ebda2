//! From the death of a datacenter to the first answer of what it owned, at its new owner (G4).

use std::time::{Duration, Instant};

use anyhow::ensure;
use futures::future::try_join_all;
use multidc_tests::{
    distance::Distance,
    eventually,
    node::NodeProcess,
    protocol::{Answer, Command, Outcome},
};

use crate::{
    fleet::{self, Fleet, Limits, Setup},
    machine, table,
};

/// What a take-over may take besides the lease.
const BESIDES: Duration = Duration::from_secs(2);

/// The same, where everything is far away.
const BESIDES_FAR: Duration = Duration::from_secs(3);

/// What it may take with fast settings, on one machine.
const FAST: Duration = Duration::from_secs(3);

/// Far away: round trips of 300 ms, and 5 % lost.
pub(crate) const FAR: Distance = Distance { one_way: Duration::from_millis(150), lost_per_mille: 50 };

const SOON: Duration = Duration::from_secs(60);

/// How it is measured.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Options of failover")]
pub(crate) struct Options {
    /// How many times a datacenter is killed.
    #[arg(long, default_value_t = 10)]
    runs: u32,
    /// How many global names it owns each time.
    #[arg(long, default_value_t = 20)]
    owned: u32,
    /// Leases of 2 s instead of the defaults.
    #[arg(long)]
    fast: bool,
    /// 300 ms round trips and 5 % loss from each node to the store and between datacenters.
    #[arg(long)]
    far: bool,
    /// The server that leads the store dies together with the datacenter.
    #[arg(long)]
    with_store_leader: bool,
}

impl Options {
    /// What the goal allows; `None` where the goal says nothing.
    fn rule(&self, lease: Duration) -> Option<Duration> {
        match self {
            Self { with_store_leader: true, .. } | Self { fast: true, far: true, .. } => None,
            Self { fast: true, .. } => Some(FAST),
            Self { far: true, .. } => Some(lease + BESIDES_FAR),
            _ => Some(lease + BESIDES),
        }
    }
}

pub(crate) async fn run(options: &Options, store: &str, seed: u64) -> anyhow::Result<()> {
    let limits = if options.fast { Limits::fast() } else { Limits::defaults() };
    let distance = if options.far { FAR } else { Distance::NEAR };
    let mut places = vec![1, 1];
    places.extend((0..options.runs).map(|_| 2));
    let store_name = store;
    let store = fleet::store(store).await?;
    let fleet = Fleet::new(Setup { store, places, limits, distance, seed, extra: Vec::new() }).await?;
    let heir = fleet.start(0, &[]).await?;
    let second = fleet.start(1, &[0]).await?;
    let mut rig = Rig { fleet, heir, second, lease: limits.lease, owned: options.owned };
    let (mut firsts, mut lasts) = (Vec::new(), Vec::new());
    for n in 0..options.runs {
        let (first, last) = rig.once(n, options.with_store_leader).await?;
        let (load, seconds) = (machine::load(), Duration::as_secs_f64);
        println!("run {n}: the first after {:.2} s, the last after {:.2} s; {load}", seconds(&first), seconds(&last));
        firsts.push(first);
        lasts.push(last);
    }
    let rule = options.rule(limits.lease);
    let rows = [
        row(format!("first of {} global names", options.owned), &mut firsts, rule),
        row("last of them".to_owned(), &mut lasts, rule),
    ];
    let with = if options.with_store_leader { ", the store's leader killed with it" } else { "" };
    let way = if options.far { ", 300 ms round trips and 5 % loss" } else { "" };
    let lease = limits.lease;
    let title =
        format!("DC killed -> first successful ask at the new owner (G4), on {store_name}, lease {lease:?}{way}{with}");
    table::print(&title, &["what", "runs", "p50", "worst", "rule"], &rows);
    println!("{}", machine::load());
    Ok(())
}

fn row(what: String, samples: &mut [Duration], rule: Option<Duration>) -> Vec<String> {
    let (p50, worst) = (table::percentile(samples, 0.5), table::percentile(samples, 1.0));
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    let rule = match rule {
        Some(rule) => format!("{} {}", seconds(rule), table::verdict(worst <= rule)),
        None => "-".to_owned(),
    };
    vec![what, samples.len().to_string(), seconds(p50), seconds(worst), rule]
}

struct Rig {
    fleet: Fleet,
    heir: NodeProcess,
    second: NodeProcess,
    lease: Duration,
    owned: u32,
}

impl Rig {
    /// Kills a datacenter that owns names; how long the first and the last of them took to answer elsewhere.
    async fn once(&mut self, n: u32, with_store_leader: bool) -> anyhow::Result<(Duration, Duration)> {
        let doomed = self.fleet.start(2 + n as usize, &[]).await?;
        doomed.until("ready", SOON, |status| status.ready).await?;
        // On that very node: while the record of the killed one before it stands, others may not know of it.
        try_join_all((0..self.owned).map(|m| fleet::spawn(&doomed, format!("run-{n}-{m}")))).await?;
        for dc in try_join_all((0..self.owned).map(|m| self.ask(n, m))).await? {
            ensure!(dc == "dc-2", "a name is in {dc}");
        }
        let mut leader = None;
        if with_store_leader {
            let found = eventually("a leader", SOON, || async {
                self.fleet.store.leader().await.map_err(|error| format!("{error:#}"))
            });
            leader = Some(found.await?);
        }
        if let Some(leader) = leader {
            self.fleet.store.servers[leader].kill()?;
        }
        doomed.kill().await?;
        let killed = Instant::now();
        let rig = &*self;
        let answers = try_join_all((0..rig.owned).map(|m| async move {
            let dc = rig.ask(n, m).await?;
            anyhow::Ok((dc, killed.elapsed()))
        }));
        let mut times = Vec::new();
        for (dc, time) in answers.await? {
            ensure!(dc == "dc-1", "answered from {dc}");
            times.push(time);
        }
        if let Some(leader) = leader {
            self.fleet.store.servers[leader].start().await?;
        }
        let (first, last) = (times.iter().min(), times.iter().max());
        Ok((first.copied().unwrap_or_default(), last.copied().unwrap_or_default()))
    }

    /// One increment of a name, asked again until there is an answer; tells where.
    async fn ask(&self, n: u32, m: u32) -> anyhow::Result<String> {
        let node = if m.is_multiple_of(2) { &self.heir } else { &self.second };
        let ask = Command::Count { name: format!("run-{n}-{m}"), op: String::new(), timeout_ms: 1000 };
        eventually("an answer", self.lease + SOON, || async {
            match node.ask(ask.clone()).await {
                Ok(Ok(Answer::Counted(report))) if report.outcome == Outcome::Counted => Ok(report.dc),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }
}
