//! What a message to a global grain costs, compared with one to a grain of the datacenter (goal: within 5 %).

use std::time::{Duration, Instant};

use multidc::{Handles, Infallible, prelude::*};
use multidc_tests::{
    counters::{Increment, Nearby, Tally},
    protocol::CountReport,
    servers::Store,
};

use crate::{
    serve::{Far, Role, node},
    table,
};

/// Asks under way at once.
const IN_FLIGHT: usize = 64;

/// Turns that each kind has, so that what else the machine does meets both.
const TURNS: u32 = 8;

pub(crate) async fn run(time: Duration) -> anyhow::Result<()> {
    let rows = [compare(time, true).await?, compare(time, false).await?];
    let head = ["the grain is", "per DC", "global", "ratio, goal 0.95"];
    table::print(&format!("Asks of a grain, {IN_FLIGHT} in flight, medians of {TURNS} turns each"), &head, &rows);
    Ok(())
}

/// Grains on this node, or on another one. Who is there first has the slots: global grains do not move by themselves.
async fn compare(time: Duration, here: bool) -> anyhow::Result<Vec<String>> {
    let store = Store::sqlite().await?;
    let far = ["--control-plane", &store.url, "--dc", "dc-1"];
    let (system, _far) = if here {
        let system = node(&store.url, "dc-1", None).await?;
        find::<Tally>(&system, here).await?;
        let seed = system.endpoint().to_string();
        let far = Far::start(Role::Node, &[&far[..], &["--seed", &seed]].concat())?;
        (system, far)
    } else {
        let far = Far::start(Role::Node, &far)?;
        (node(&store.url, "dc-1", Some(&far.addr.to_string())).await?, far)
    };
    multidc_tests::eventually("two members", Duration::from_secs(20), || async {
        if system.members().len() == 2 { Ok(()) } else { Err(format!("{:?}", system.members())) }
    })
    .await?;
    let (nearby, global) = (find::<Nearby>(&system, here).await?, find::<Tally>(&system, here).await?);
    let (mut per_dc, mut in_world) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        per_dc.push(rate(&nearby, time / 4).await?);
        in_world.push(rate(&global, time / 4).await?);
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let (per_dc, in_world) = (median(&mut per_dc), median(&mut in_world));
    let place = if here { "on this node" } else { "on another node" };
    let ratio = table::at_least(in_world / per_dc, 0.95);
    system.shutdown().await?;
    Ok(vec![place.to_owned(), table::rate(per_dc), table::rate(in_world), ratio])
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

async fn rate<G>(grain: &GrainRef<G>, time: Duration) -> anyhow::Result<f64>
where
    G: Handles<Increment, Ok = CountReport, Err = Infallible>,
{
    let start = Instant::now();
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
    Ok(all as f64 / start.elapsed().as_secs_f64())
}
