//! What a message to a global grain costs, compared with one to a grain of the datacenter (goal: within 5 %).

use std::time::{Duration, Instant};

use multidc::{Handles, Infallible, prelude::*};
use multidc_tests::{
    counters::{Increment, Nearby, Tally},
    protocol::CountReport,
    servers::Store,
};

use crate::{
    machine,
    serve::{Far, Role, node},
    table,
};

/// Asks under way at once.
const IN_FLIGHT: usize = 64;

/// Turns that each kind has, so that what else the machine does meets both.
const TURNS: u32 = 8;

/// How much more an ask of a global grain may cost.
const GOAL: f64 = 1.05;

pub(crate) async fn run(time: Duration) -> anyhow::Result<()> {
    let rows = [compare(time, true).await?, compare(time, false).await?];
    let head = ["the grain is", "per DC", "global", "CPU of an ask: per DC", "global", "ratio of costs, goal 1.05"];
    table::print(&format!("Asks of a grain, {IN_FLIGHT} in flight, medians of {TURNS} turns each"), &head, &rows);
    println!("CPU: of all nodes together, which says more than rates on a busy machine; {}", machine::load());
    Ok(())
}

/// What was measured of one kind of grain.
#[derive(Default)]
struct Cost {
    rates: Vec<f64>,
    asks: u64,
    cpu: Duration,
}

impl Cost {
    fn rate(&mut self) -> f64 {
        self.rates.sort_by(f64::total_cmp);
        self.rates[self.rates.len() / 2]
    }

    fn each(&self) -> Duration {
        self.cpu.div_f64(self.asks.max(1) as f64)
    }
}

/// Grains on this node, or on another one. Who is there first has the slots: global grains do not move by themselves.
async fn compare(time: Duration, here: bool) -> anyhow::Result<Vec<String>> {
    let store = Store::sqlite().await?;
    let args = ["--control-plane", &store.url, "--dc", "dc-1"];
    let (system, far) = if here {
        let system = node(&store.url, "dc-1", None).await?;
        find::<Tally>(&system, here).await?;
        let seed = system.endpoint().to_string();
        let far = Far::start(Role::Node, &[&args[..], &["--join", &seed]].concat())?;
        (system, far)
    } else {
        let far = Far::start(Role::Node, &args)?;
        (node(&store.url, "dc-1", Some(&far.addr.to_string())).await?, far)
    };
    multidc_tests::eventually("two members", Duration::from_secs(20), || async {
        if system.members().len() == 2 { Ok(()) } else { Err(format!("{:?}", system.members())) }
    })
    .await?;
    let (nearby, global) = (find::<Nearby>(&system, here).await?, find::<Tally>(&system, here).await?);
    let pids = [std::process::id(), far.pid()];
    let (mut per_dc, mut in_world) = (Cost::default(), Cost::default());
    for _ in 0..TURNS {
        turn(&nearby, time / 4, &pids, &mut per_dc).await?;
        turn(&global, time / 4, &pids, &mut in_world).await?;
    }
    let place = if here { "on this node" } else { "on another node" };
    let (cheap, dear) = (per_dc.each(), in_world.each());
    let ratio = table::at_most(dear.as_secs_f64() / cheap.as_secs_f64(), GOAL);
    system.shutdown().await?;
    let rates = [table::rate(per_dc.rate()), table::rate(in_world.rate())];
    let micros = |time: Duration| format!("{:.2} us", time.as_secs_f64() * 1e6);
    Ok([vec![place.to_owned()], rates.to_vec(), vec![micros(cheap), micros(dear), ratio]].concat())
}

/// A grain that is active on this node, or on the other one.
async fn find<G>(system: &ActorSystem, here: bool) -> anyhow::Result<GrainRef<G>>
where
    G: Handles<Increment, Ok = CountReport, Err = Infallible>,
{
    for n in 0..1000 {
        let grain = system.grain::<G>(format!("{here}-{n}"));
        let ask = grain.ask(Increment { op: String::new() }).timeout(Duration::from_secs(20));
        let report = ask.await.map_err(|err| anyhow::anyhow!("{err}"))?;
        if (report.pid == std::process::id()) == here {
            return Ok(grain);
        }
    }
    anyhow::bail!("all grains are on one node")
}

/// Asks for this long.
async fn turn<G>(grain: &GrainRef<G>, time: Duration, pids: &[u32], cost: &mut Cost) -> anyhow::Result<()>
where
    G: Handles<Increment, Ok = CountReport, Err = Infallible>,
{
    let (start, before) = (Instant::now(), machine::cpu(pids)?);
    let mut asks = tokio::task::JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let grain = grain.clone();
        asks.spawn(async move {
            let mut done = 0_u64;
            while start.elapsed() < time {
                grain.ask(Increment { op: String::new() }).await.map_err(|err| err.to_string())?;
                done += 1;
            }
            Ok::<u64, String>(done)
        });
    }
    let mut all = 0;
    while let Some(done) = asks.join_next().await {
        all += done?.map_err(|err| anyhow::anyhow!(err))?;
    }
    cost.rates.push(all as f64 / start.elapsed().as_secs_f64());
    cost.asks += all;
    cost.cpu += machine::cpu(pids)? - before;
    Ok(())
}
