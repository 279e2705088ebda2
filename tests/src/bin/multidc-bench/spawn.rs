//! Spawn in another datacenter: one round trip between the DCs, at most two inside one, and little more.

use std::time::{Duration, Instant};

use bytes::Bytes;
use multidc::prelude::*;
use multidc_tests::servers::Store;

use crate::{
    messages::spawn_far,
    serve::{Echo, EchoArgs, Far, Ping, Role, node},
    table,
};

pub(crate) async fn run(time: Duration) -> anyhow::Result<()> {
    let store = Store::sqlite().await?;
    let far = Far::start(Role::Node, &["--control-plane", &store.url])?;
    let seed = far.addr.to_string();
    let _second = Far::start(Role::Node, &["--control-plane", &store.url, "--join", &seed])?;
    let system = node(&store.url, "dc-1", None).await?;
    let echo = spawn_far(&system, "echo").await?;

    let mut round_trips = Vec::new();
    let mut spawns = Vec::new();
    let start = Instant::now();
    let mut n = 0_u64;
    while start.elapsed() < time {
        n += 1;
        let sent = Instant::now();
        echo.ask(Ping(Bytes::from_static(b"x"))).await.map_err(|err| anyhow::anyhow!("{err}"))?;
        round_trips.push(sent.elapsed());
        let sent = Instant::now();
        let spawn =
            system.spawn_on::<Echo>(&format!("e{n}"), EchoArgs::default()).in_data_center(Selector::name("dc-2"));
        spawn.await.map_err(|err| anyhow::anyhow!("{err}"))?;
        spawns.push(sent.elapsed());
    }
    let rtt = table::percentile(&mut round_trips, 0.5);
    let (p50, p99) = (table::percentile(&mut spawns, 0.5), table::percentile(&mut spawns, 0.99));
    let goal = rtt * 3 + Duration::from_micros(200);
    let row = vec![
        n.to_string(),
        table::micros(rtt),
        table::micros(p50),
        table::micros(p99),
        format!("{} {}", table::micros(goal), if p50 <= goal { "ok" } else { "MISSED" }),
    ];
    let head = ["spawns", "round trip p50", "spawn p50", "spawn p99", "goal for p50: 3 round trips + 200 us"];
    table::print("Spawn in another datacenter of two nodes", &head, &[row]);
    system.shutdown().await?;
    Ok(())
}
