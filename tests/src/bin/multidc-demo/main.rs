//! The demo: two datacenters of three nodes each, as real processes, on a real
//! control plane. Tells its story with a time on each line, and ends with an
//! error if any step is not as told.

mod global;

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use dc_core::{Clock, SystemClock};
use futures::future::join_all;
use multidc_tests::{
    eventually,
    ledger::Ledger,
    node::{NodeProcess, NodeSpec, Times, binary},
    protocol::{Answer, CartReport, Command, Failure, Where, WorkerReport},
};
use tokio::process::Command as Process;

/// Two datacenters, six processes, one story.
#[derive(Debug, Parser)]
struct Args {
    /// The control plane: sqlite:///path, nats://host:port, etcd://host:port. A SQLite file of its own by default.
    #[arg(long)]
    control_plane_url: Option<String>,
    /// All links over mutual TLS, with a CA made for this run.
    #[arg(long)]
    tls: bool,
    /// Leave everything running at the end, for playing, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// The leases, in milliseconds: how long a dead datacenter stays routable, and keeps what it owns.
    #[arg(long, default_value_t = 3000)]
    ttl_ms: u64,
}

const SOON: Duration = Duration::from_secs(15);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tokio::select! {
        told = Demo::tell(args) => told,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            bail!("interrupted; the nodes are stopped")
        }
    }
}

struct Demo {
    started: Instant,
    url: String,
    ttl: Duration,
    dc1: Vec<NodeProcess>,
    dc2: Vec<NodeProcess>,
    /// What the counters write to; it refuses lower epochs.
    log: Ledger,
    /// For each node: its ownership's lease, the log, where its certificates are.
    extra: Vec<String>,
    // Removes the SQLite file and the certificates at the end.
    _dir: tempfile::TempDir,
}

impl Demo {
    async fn tell(args: Args) -> anyhow::Result<()> {
        let keep = args.keep;
        let mut demo = Self::begin(args).await?;
        demo.follower_spawns_across().await?;
        demo.grain_activates_once().await?;
        demo.leader_is_killed().await?;
        demo.operator_drains().await?;
        if keep {
            return demo.play().await;
        }
        demo.datacenter_is_killed().await?;
        demo.one_owner_in_the_world().await?;
        demo.end().await
    }

    fn say(&self, line: impl AsRef<str>) {
        println!("{:>7.2}s  {}", (SystemClock.now() - self.started).as_secs_f64(), line.as_ref());
    }

    async fn begin(args: Args) -> anyhow::Result<Self> {
        let started = SystemClock.now();
        let dir = tempfile::tempdir()?;
        let sqlite = || format!("sqlite://{}", dir.path().join("demo.db").display());
        let url = args.control_plane_url.unwrap_or_else(sqlite);
        let ttl = Duration::from_millis(args.ttl_ms);
        let certs = dir.path().join("certs").display().to_string();
        let log = Ledger::start().await?;
        let extra = ["--own-ttl-ms", &args.ttl_ms.to_string(), "--log", &log.addr().to_string()].map(str::to_owned);
        let (dc1, dc2) = (Vec::new(), Vec::new());
        let mut demo = Self { started, url, ttl, dc1, dc2, log, extra: extra.to_vec(), _dir: dir };
        demo.say(format!("two datacenters of three nodes each, on {}", demo.url));
        if args.tls {
            let dcs = ["--dc", "us-east-1/dc-1", "--dc", "eu-west-1/dc-2"];
            demo.dcctl(&[&["certs", "dev", "--out", &certs, "--system", "demo"][..], &dcs].concat()).await?;
            demo.extra.extend(["--tls-dir".into(), certs]);
            demo.say("links are mutual TLS, with certificates of a CA made for this run");
        }
        let (dc1, dc2) =
            tokio::try_join!(demo.data_center("dc-1", "us-east-1"), demo.data_center("dc-2", "eu-west-1"))?;
        (demo.dc1, demo.dc2) = (dc1, dc2);
        // An earlier run on the same store may have left a word that stands (P8).
        for dc in ["us-east-1/dc-1", "eu-west-1/dc-2"] {
            demo.dcctl(&["dc", "intent", "set", dc, "serve", "--absent"]).await?;
        }
        for node in demo.all() {
            demo.ready(node).await?;
            demo.say(format!("{} is ready at {} (process {})", node.label, node.addr, node.pid()));
        }
        Ok(demo)
    }

    async fn ready(&self, node: &NodeProcess) -> anyhow::Result<()> {
        let ready = node.until("ready, and sees both datacenters", SOON, |status| {
            let both = status.data_centers.iter().filter(|dc| dc.routable == "placements" && dc.endpoints == 3);
            status.ready && status.members == 3 && both.count() == 2
        });
        ready.await.map(drop)
    }

    async fn data_center(&self, name: &str, region: &str) -> anyhow::Result<Vec<NodeProcess>> {
        let mut nodes: Vec<NodeProcess> = Vec::new();
        for n in 0..3 {
            let spec = NodeSpec {
                system: "demo".into(),
                dc: name.into(),
                region: Some(region.into()),
                plane: self.url.clone(),
                seeds: nodes.iter().map(|node| node.addr.clone()).collect(),
                times: Times { ttl: self.ttl, heartbeat: self.ttl / 4, refresh: self.ttl / 6 },
                extra: self.extra.clone(),
            };
            nodes.push(NodeProcess::start(&format!("{name}/{n}"), &spec).await?);
        }
        Ok(nodes)
    }

    fn all(&self) -> impl Iterator<Item = &NodeProcess> {
        self.dc1.iter().chain(&self.dc2)
    }

    async fn follower(nodes: &[NodeProcess]) -> anyhow::Result<usize> {
        for (n, node) in nodes.iter().enumerate() {
            if !node.status().await?.leads {
                return Ok(n);
            }
        }
        bail!("no follower")
    }

    async fn leader(nodes: &[NodeProcess]) -> anyhow::Result<usize> {
        for (n, node) in nodes.iter().enumerate() {
            if node.status().await?.leads {
                return Ok(n);
            }
        }
        bail!("no leader")
    }

    async fn ask_worker(node: &NodeProcess) -> anyhow::Result<Result<WorkerReport, Failure>> {
        let ask = Command::AskWorker { name: "analytics-worker".into(), timeout_ms: 2000 };
        Ok(match node.ask(ask).await? {
            Ok(Answer::Report(report)) => Ok(report),
            Ok(other) => bail!("not a report: {other:?}"),
            Err(failure) => Err(failure),
        })
    }

    async fn follower_spawns_across(&self) -> anyhow::Result<()> {
        let follower = &self.dc1[Self::follower(&self.dc1).await?];
        let name = "analytics-worker".to_owned();
        let at = Where { region: Some("eu-west-1".into()), ..Where::name("dc-2") };
        follower.must(Command::Spawn { name: name.clone(), at: Some(at) }).await?;
        self.say(format!("{}, a follower, spawned analytics-worker in dc-2", follower.label));
        follower.must(Command::TellWorker { name, day: 7 }).await?;
        let report = eventually("the told day", SOON, || async {
            match Self::ask_worker(follower).await {
                Ok(Ok(report)) if report.days == [7] => Ok(report),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
        ensure!(report.dc == "dc-2", "it runs in {}", report.dc);
        self.say(format!("told it day 7 and asked it: {report:?}"));
        for node in self.all() {
            let found = Self::ask_worker(node).await?;
            let Ok(found) = found else { bail!("{} does not find it: {found:?}", node.label) };
            ensure!(found == report, "{} found another: {found:?}", node.label);
        }
        self.say("found by name from all six nodes, the same one");
        Ok(())
    }

    async fn grain_activates_once(&self) -> anyhow::Result<()> {
        let ask = Command::AddToLedger { ledger: "user-42".into(), timeout_ms: 5000, times: 10 };
        let mut reports: Vec<CartReport> = Vec::new();
        for answer in join_all(self.all().map(|node| node.must(ask.clone()))).await {
            let Answer::Carts(carts) = answer? else { bail!("not a grain's report") };
            reports.extend(carts);
        }
        let first = &reports[0];
        ensure!(reports.iter().all(|r| r.activation == first.activation), "several activations: {reports:?}");
        let mut items: Vec<u64> = reports.iter().map(|report| report.items).collect();
        items.sort_unstable();
        ensure!(items == (1..=60).collect::<Vec<u64>>(), "not each exactly once: {items:?}");
        self.say(format!("grain user-42, hit by 60 asks from six nodes at once: one activation, in {}", first.dc));
        Ok(())
    }

    async fn leader_is_killed(&mut self) -> anyhow::Result<()> {
        // The worker must not be on the leader: killing a node kills its actors.
        let worker = Self::ask_worker(&self.dc1[0]).await?.map_err(|f| anyhow::anyhow!(f.text))?;
        let leader = Self::leader(&self.dc2).await?;
        if self.dc2[leader].pid() == worker.pid {
            self.say("analytics-worker happens to run on dc-2's leader; a second one is spawned elsewhere");
            return self.leader_is_killed_with_worker(leader).await;
        }
        let before = self.dc2_epoch().await?;
        let label = self.dc2[leader].label.clone();
        self.dc2.remove(leader).kill().await?;
        self.say(format!("killed {label}, dc-2's leader, with SIGKILL"));
        self.successor_adopts("analytics-worker", before).await
    }

    /// The leader's own actors die with it; those elsewhere go on.
    async fn leader_is_killed_with_worker(&mut self, leader: usize) -> anyhow::Result<()> {
        let other = (leader + 1) % self.dc2.len();
        self.dc2[other].must(Command::Spawn { name: "second-worker".into(), at: None }).await?;
        let before = self.dc2_epoch().await?;
        let label = self.dc2[leader].label.clone();
        self.dc2.remove(leader).kill().await?;
        self.say(format!("killed {label}, dc-2's leader, with SIGKILL"));
        self.successor_adopts("second-worker", before).await?;
        let respawned = eventually("analytics-worker to be spawned again", SOON, || async {
            let at = Some(Where::name("dc-2"));
            let ask = Command::Spawn { name: "analytics-worker".into(), at };
            self.dc1[0].must(ask).await.map_err(|err| err.to_string())
        });
        respawned.await?;
        self.say("analytics-worker died with its node and was spawned again");
        Ok(())
    }

    async fn dc2_epoch(&self) -> anyhow::Result<u64> {
        let status = self.dc1[0].status().await?;
        let dc2 = status.data_centers.iter().find(|dc| dc.id.ends_with("dc-2"));
        Ok(dc2.context("dc-2 is not known")?.epoch)
    }

    async fn successor_adopts(&self, worker: &str, before: u64) -> anyhow::Result<()> {
        let asker = &self.dc1[0];
        let (mut asked, mut epoch) = (0, before);
        let bound = SystemClock.now() + SOON;
        while epoch == before {
            let ask = Command::AskWorker { name: worker.into(), timeout_ms: 2000 };
            match asker.ask(ask).await? {
                Ok(_) => asked += 1,
                Err(failure) => bail!("an ask failed after the leader's death: {failure:?}"),
            }
            let status = asker.status().await?;
            let dc2 = status.data_centers.iter().find(|dc| dc.id.ends_with("dc-2"));
            let dc2 = dc2.context("D2: dc-2 left the table")?;
            ensure!(dc2.routable == "placements", "D2: dc-2 is not routable: {dc2:?}");
            epoch = dc2.epoch;
            let late = SystemClock.now() > bound;
            ensure!(!late, "no successor within {SOON:?}");
        }
        self.say(format!(
            "a successor adopted the record (epoch {before} -> {epoch}); {asked} asks went on meanwhile, none failed"
        ));
        Ok(())
    }

    async fn dcctl(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut process = Process::new(binary("dcctl")?);
        process.args(["--control-plane", &self.url]).args(args).stdin(Stdio::null());
        let output = process.output().await.context("running dcctl")?;
        ensure!(output.status.success(), "dcctl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    async fn operator_drains(&self) -> anyhow::Result<()> {
        self.dcctl(&["dc", "intent", "set", "eu-west-1/dc-2", "drain", "--why", "maintenance"]).await?;
        self.say("an operator said: dcctl dc intent set eu-west-1/dc-2 drain --why maintenance");
        let asker = &self.dc1[0];
        let drained = asker.until("sees dc-2 DRAINING", SOON, |status| {
            let dc2 = status.data_centers.iter().find(|dc| dc.id.ends_with("dc-2"));
            dc2.is_some_and(|dc| dc.state == "DRAINING" && dc.routable == "traffic")
        });
        drained.await?;
        let ask = Command::Spawn { name: "too-late".into(), at: Some(Where::name("dc-2")) };
        match asker.ask(ask).await? {
            Ok(_) => bail!("a spawn in a draining datacenter was accepted"),
            Err(failure) => {
                ensure!(failure.kind == "DataCenterNotRoutable" && failure.certainly_not_run, "{failure:?}");
                self.say(format!("a new spawn is refused: {}: {}", failure.kind, failure.text));
            }
        }
        let report = Self::ask_worker(asker).await?;
        let Ok(report) = report else { bail!("the worker does not answer while draining: {report:?}") };
        self.say(format!("analytics-worker still answers from {}", report.dc));
        println!("{}", self.dcctl(&["dc", "list"]).await?.trim_end());
        Ok(())
    }

    async fn datacenter_is_killed(&mut self) -> anyhow::Result<()> {
        for node in self.dc2.drain(..) {
            node.kill().await?;
        }
        let killed = SystemClock.now();
        self.say("killed dc-2 whole, with SIGKILL");
        for node in &self.dc1 {
            let bound = self.ttl + SOON;
            let gone = |status: &multidc_tests::protocol::Status| {
                let dc2 = status.data_centers.iter().find(|dc| dc.id.ends_with("dc-2"));
                dc2.is_none_or(|dc| dc.routable == "nothing")
            };
            node.until("dc-2 leaves routing", bound, gone).await?;
        }
        let took = SystemClock.now() - killed;
        ensure!(took < self.ttl + Duration::from_secs(3), "dc-2 stayed routable for {took:?}");
        self.say(format!("dc-2 left routing on all of dc-1 after {:.2} s (lease {:?})", took.as_secs_f64(), self.ttl));
        let failure = match Self::ask_worker(&self.dc1[0]).await? {
            Ok(report) => bail!("a dead actor answered: {report:?}"),
            Err(failure) => failure,
        };
        self.say(format!("its callers are told: {}: {}", failure.kind, failure.text));
        let ask = Command::Spawn { name: "nowhere".into(), at: Some(Where::name("dc-2")) };
        match self.dc1[0].ask(ask).await? {
            Ok(_) => bail!("a spawn in a dead datacenter was accepted"),
            Err(failure) => self.say(format!("a spawn there is refused: {}: {}", failure.kind, failure.text)),
        }
        Ok(())
    }

    async fn end(mut self) -> anyhow::Result<()> {
        for node in self.dc1.drain(..).chain(self.dc2.drain(..)) {
            node.shutdown().await?;
        }
        let left = self.dcctl(&["--json", "dc", "list"]).await?;
        let left: serde_json::Value = serde_json::from_str(&left)?;
        let records = left["data_centers"].as_array().context("no list of datacenters")?;
        for dc in ["us-east-1/dc-1", "eu-west-1/dc-2"] {
            ensure!(records.iter().all(|record| record["id"] != dc), "{dc} left its record behind: {left}");
        }
        self.say("both datacenters were shut down in order and removed their records; everything is stopped");
        Ok(())
    }

    async fn play(self) -> anyhow::Result<()> {
        let dcctl: PathBuf = binary("dcctl")?;
        self.say("left running, until Ctrl-C; to play:");
        println!("          {} --control-plane {} dc list", dcctl.display(), self.url);
        println!("          {} --control-plane {} dc watch", dcctl.display(), self.url);
        println!("          {} --control-plane {} dc intent set eu-west-1/dc-2 serve", dcctl.display(), self.url);
        std::future::pending().await
    }
}
