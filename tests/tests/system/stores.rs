//! The whole path on each real store, for longer than several leases.

use std::time::Duration;

use anyhow::ensure;
use multidc_tests::{protocol::Command, servers::Store};

use crate::world::{World, dc, epoch, failure, report, spawn_in};

async fn outlives_several_leases(store: Store) -> anyhow::Result<()> {
    let world = World::start(store, 2, 2).await?;
    let asker = &world.dc1[0];
    spawn_in(asker, "w", "dc-2").await?.map_err(|f| anyhow::anyhow!(f.text))?;
    let epochs = [epoch(asker, "dc-1").await?, epoch(asker, "dc-2").await?];
    let end = tokio::time::sleep(world.times.ttl * 4);
    tokio::pin!(end);
    let mut asked = 0;
    loop {
        tokio::select! {
            () = &mut end => break,
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
        ensure!(report(asker, "w").await?.dc == "dc-2");
        asker.must(Command::TellWorker { name: "w".into(), day: asked }).await?;
        asked += 1;
        for node in world.all() {
            let status = node.status().await?;
            ensure!(status.ready, "{} lost its readiness: {status:?}", node.label);
            for (name, epoch) in ["dc-1", "dc-2"].into_iter().zip(epochs) {
                let dc = dc(&status, name);
                let serves = dc.is_some_and(|dc| dc.routable == "placements" && dc.epoch == epoch);
                ensure!(serves, "{}: {name} is {dc:?}", node.label);
            }
        }
    }
    ensure!(asked >= 10, "only {asked} rounds");
    let missing = failure(spawn_in(asker, "x", "dc-9").await?)?;
    ensure!(missing.kind == "DataCenterRecordNotFound");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_outlives_several_leases_on_sqlite() -> anyhow::Result<()> {
    outlives_several_leases(Store::sqlite().await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_outlives_several_leases_on_nats() -> anyhow::Result<()> {
    outlives_several_leases(Store::nats(1).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_outlives_several_leases_on_etcd() -> anyhow::Result<()> {
    outlives_several_leases(Store::etcd(1).await?).await
}
