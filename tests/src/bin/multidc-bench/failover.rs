//! From the death of a datacenter to the first answer of what it owned, at its new owner (G4).

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use futures::future::try_join_all;
use multidc::{ControllerOptions, OwnershipOptions};
use multidc_tests::{
    eventually,
    node::{NodeProcess, NodeSpec, Times},
    protocol::{Answer, Command, Outcome},
    servers::Store,
};

use crate::table;

/// What a take-over may take besides the lease.
const BESIDES: Duration = Duration::from_secs(2);

/// What it may take with fast settings, on one machine.
const FAST: Duration = Duration::from_secs(3);

const SOON: Duration = Duration::from_secs(30);

const NAMES: u32 = 20;

/// How it is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) runs: u32,
    /// `sqlite`, `nats`, `etcd`: the latter with three servers.
    pub(crate) store: &'a str,
    /// Leases of 2 s, of the record and of what is owned.
    pub(crate) fast: bool,
}

pub(crate) async fn run(plan: Plan<'_>) -> anyhow::Result<()> {
    let store = match plan.store {
        "" | "sqlite" => Store::sqlite().await?,
        "nats" => Store::nats(3).await?,
        "etcd" => Store::etcd(3).await?,
        other => bail!("--control-plane {other:?}: must be sqlite, nats or etcd"),
    };
    let defaults = ControllerOptions::default();
    let (times, lease) = if plan.fast {
        let ms = Duration::from_millis;
        (Times { ttl: ms(2000), heartbeat: ms(500), refresh: ms(300) }, ms(2000))
    } else {
        let (ttl, heartbeat) = (defaults.lease_ttl(), defaults.heartbeat_interval());
        (Times { ttl, heartbeat, refresh: defaults.cache_refresh_interval() }, OwnershipOptions::default().ttl())
    };
    let rig = Rig { url: store.url.clone(), times, lease };
    let heir = rig.node("dc-1", &[]).await?;
    let second = rig.node("dc-1", std::slice::from_ref(&heir.addr)).await?;
    let (mut firsts, mut lasts) = (Vec::new(), Vec::new());
    for n in 0..plan.runs {
        let (first, last) = rig.once(&heir, &second, n).await?;
        println!("run {n}: the first after {:.2} s, the last after {:.2} s", first.as_secs_f64(), last.as_secs_f64());
        firsts.push(first);
        lasts.push(last);
    }
    let rule = if plan.fast { FAST } else { lease + BESIDES };
    let row = |what: String, samples: &mut Vec<Duration>| {
        let (p50, worst) = (table::percentile(samples, 0.5), table::percentile(samples, 1.0));
        let kept = if worst <= rule { "ok" } else { "MISSED" };
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        vec![what, samples.len().to_string(), seconds(p50), seconds(worst), format!("{} {kept}", seconds(rule))]
    };
    let rows = [row(format!("first of {NAMES} global names"), &mut firsts), row("last of them".to_owned(), &mut lasts)];
    let title = format!(
        "DC killed -> first successful ask at the new owner (G4), on {}, lease {lease:?}",
        if plan.store.is_empty() { "sqlite" } else { plan.store }
    );
    table::print(&title, &["what", "runs", "p50", "worst", "rule"], &rows);
    Ok(())
}

struct Rig {
    url: String,
    times: Times,
    lease: Duration,
}

impl Rig {
    async fn node(&self, dc: &str, seeds: &[String]) -> anyhow::Result<NodeProcess> {
        let spec = NodeSpec {
            system: "bench".into(),
            dc: dc.into(),
            region: None,
            plane: self.url.clone(),
            seeds: seeds.to_vec(),
            times: self.times,
            extra: [("--own-ttl-ms", self.lease), ("--stale-ms", self.times.refresh * 3)]
                .into_iter()
                .flat_map(|(flag, time)| [flag.to_owned(), time.as_millis().to_string()])
                .collect(),
        };
        NodeProcess::start(dc, &spec).await
    }

    /// Kills a datacenter that owns names; how long the first and the last of them took to answer elsewhere.
    async fn once(&self, heir: &NodeProcess, second: &NodeProcess, n: u32) -> anyhow::Result<(Duration, Duration)> {
        let doomed = self.node("dc-2", &[]).await?;
        doomed.until("ready", SOON, |status| status.ready).await?;
        let prefix = format!("run-{n}-");
        // On that very node: while the record of the killed one before it stands, others may not know of it.
        let spawn = |m: u32| {
            let (name, doomed) = (format!("{prefix}{m}"), &doomed);
            eventually("a name is spawned", SOON, move || {
                let spawn = Command::SpawnCounter { name: name.clone(), at: None };
                async move {
                    match doomed.ask(spawn).await {
                        Ok(Ok(_)) => Ok(()),
                        // A try whose answer was lost.
                        Ok(Err(failure)) if failure.kind == "NameTaken" => Ok(()),
                        other => Err(format!("{other:?}")),
                    }
                }
            })
        };
        try_join_all((0..NAMES).map(spawn)).await?;
        let ask = |m: u32| {
            let node = if m.is_multiple_of(2) { heir } else { second };
            let name = format!("{prefix}{m}");
            count(node, Command::Count { name, op: String::new(), timeout_ms: 1000 }, self.lease + SOON)
        };
        for dc in try_join_all((0..NAMES).map(ask)).await? {
            ensure!(dc == "dc-2", "a name is in {dc}");
        }
        doomed.kill().await?;
        let killed = Instant::now();
        let answers = try_join_all((0..NAMES).map(|m| async move {
            let dc = ask(m).await?;
            anyhow::Ok((dc, killed.elapsed()))
        }));
        let mut times = Vec::new();
        for (dc, time) in answers.await? {
            ensure!(dc == "dc-1", "answered from {dc}");
            times.push(time);
        }
        let (first, last) = (times.iter().min(), times.iter().max());
        Ok((first.copied().unwrap_or_default(), last.copied().unwrap_or_default()))
    }
}

/// One increment, asked again until there is an answer; tells where.
async fn count(node: &NodeProcess, ask: Command, bound: Duration) -> anyhow::Result<String> {
    eventually("an answer", bound, || async {
        match node.ask(ask.clone()).await {
            Ok(Ok(Answer::Counted(report))) if report.outcome == Outcome::Counted => Ok(report.dc),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}
