//! Look-up by name, hit and miss, at 2, 8 and 32 endpoints of the other datacenter.

use std::time::{Duration, Instant};

use multidc_tests::{eventually, servers::Store};

use crate::{
    messages::spawn_far,
    serve::{Echo, node},
    table,
};

pub(crate) async fn run(time: Duration) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for endpoints in [2_usize, 8, 32] {
        rows.push(at(endpoints, time).await?);
    }
    let head = ["endpoints", "cached hit p50", "first hit p50", "miss p50"];
    table::print("Look-up by name in another datacenter (goal: flat)", &head, &rows);
    Ok(())
}

/// The other datacenter's nodes run in this process, each with sockets of its own.
async fn at(endpoints: usize, time: Duration) -> anyhow::Result<Vec<String>> {
    let store = Store::sqlite().await?;
    let first = node(&store.url, "dc-2", None).await?;
    let seed = first.endpoint().to_string();
    let mut far = vec![first];
    for _ in 1..endpoints {
        far.push(node(&store.url, "dc-2", Some(&seed)).await?);
    }
    let system = node(&store.url, "dc-1", None).await?;
    eventually("all endpoints", Duration::from_secs(60), || async {
        let seen = system.data_centers().into_iter().find(|dc| dc.id().as_str() == "dc-2").map(|dc| dc.endpoints.len());
        if seen == Some(endpoints) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await?;
    let names = 200;
    for n in 0..names {
        spawn_far(&system, &format!("e{n}")).await?;
    }
    // A node that has seen none of them.
    let asker = node(&store.url, "dc-1", Some(&system.endpoint().to_string())).await?;
    eventually("dc-2 in the asker's table", Duration::from_secs(60), || async {
        asker.actor_of::<Echo>("e0").await.map_err(|err| err.to_string())
    })
    .await?;
    let mut hits = Vec::new();
    for n in 1..names {
        let sent = Instant::now();
        asker.actor_of::<Echo>(&format!("e{n}")).await.map_err(|err| anyhow::anyhow!("{err}"))?;
        hits.push(sent.elapsed());
    }
    let (mut cached, mut misses) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while start.elapsed() < time {
        let sent = Instant::now();
        asker.actor_of::<Echo>("e7").await.map_err(|err| anyhow::anyhow!("{err}"))?;
        cached.push(sent.elapsed());
        let sent = Instant::now();
        let miss = asker.actor_of::<Echo>(&format!("nobody-{}", misses.len())).await;
        anyhow::ensure!(miss.is_err(), "found nobody");
        misses.push(sent.elapsed());
    }
    let row = vec![
        endpoints.to_string(),
        table::micros(table::percentile(&mut cached, 0.5)),
        table::micros(table::percentile(&mut hits, 0.5)),
        table::micros(table::percentile(&mut misses, 0.5)),
    ];
    for node in far.into_iter().chain([system, asker]) {
        drop(node);
    }
    Ok(row)
}
