//! The whole path, on SQLite: spawn, find, tell, ask, grains, errors by name.

use anyhow::ensure;
use futures::future::try_join_all;
use multidc_tests::{
    eventually,
    protocol::{Command, Where},
    servers::Store,
};

use crate::world::{SOON, World, ask_worker, failure, follower, ledger, report, spawn_in};

#[tokio::test(flavor = "multi_thread")]
async fn a1_a_follower_spawns_across_and_every_node_finds_the_actor() -> anyhow::Result<()> {
    let world = World::start(Store::sqlite().await?, 2, 2).await?;
    let asker = &world.dc1[follower(&world.dc1).await?];
    spawn_in(asker, "w", "dc-2").await?.map_err(|f| anyhow::anyhow!(f.text))?;
    let first = report(asker, "w").await?;
    ensure!(first.dc == "dc-2");
    for node in world.all() {
        ensure!(report(node, "w").await? == first, "{} finds another", node.label);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_by_name_why_not() -> anyhow::Result<()> {
    let mut world = World::start(Store::sqlite().await?, 1, 1).await?;
    let odd = world.node("dc-1", 1, &[world.dc1[0].addr.clone()], &["--odd-kind"]).await?;
    world.dc1.push(odd);
    world.settled().await?;
    let node = &world.dc1[1];

    let unknown_dc = failure(spawn_in(node, "w", "dc-9").await?)?;
    ensure!(unknown_dc.kind == "DataCenterRecordNotFound" && unknown_dc.certainly_not_run, "{unknown_dc:?}");
    ensure!(unknown_dc.text.contains("dc-9") && unknown_dc.text.contains("dc-2"), "L1: {unknown_dc:?}");

    let at = Where::name("dc-2");
    let odd_kind = failure(node.ask(Command::SpawnUnknownKind { name: "odd".into(), at }).await?)?;
    ensure!(odd_kind.kind == "TypeNotRegistered" && odd_kind.certainly_not_run, "{odd_kind:?}");

    spawn_in(node, "w", "dc-2").await?.map_err(|f| anyhow::anyhow!(f.text))?;
    let taken = failure(spawn_in(node, "w", "dc-2").await?)?;
    ensure!(taken.kind == "NameTaken" && taken.certainly_not_run, "{taken:?}");

    let missing = failure(ask_worker(node, "nobody").await?)?;
    ensure!(missing.kind == "ActorNotFound" && missing.certainly_not_run, "{missing:?}");

    // A3: none of this harmed the link.
    report(node, "w").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a5_a_panic_across_datacenters_is_a_typed_error() -> anyhow::Result<()> {
    let world = World::start(Store::sqlite().await?, 1, 1).await?;
    spawn_in(&world.dc1[0], "w", "dc-2").await?.map_err(|f| anyhow::anyhow!(f.text))?;
    let panicked = failure(world.dc1[0].ask(Command::PanicWorker { name: "w".into() }).await?)?;
    ensure!(panicked.kind == "HandlerPanicked" && !panicked.certainly_not_run, "{panicked:?}");
    ensure!(panicked.text.contains("asked to"), "{panicked:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_tells_across_datacenters_arrive_once_and_in_order() -> anyhow::Result<()> {
    let world = World::start(Store::sqlite().await?, 1, 1).await?;
    let node = &world.dc1[0];
    spawn_in(node, "w", "dc-2").await?.map_err(|f| anyhow::anyhow!(f.text))?;
    node.must(Command::TellWorkerMany { name: "w".into(), from: 0, count: 20_000 }).await?;
    let days = eventually("all days", SOON, || async {
        let report = report(node, "w").await.map_err(|err| err.to_string())?;
        if report.days.len() >= 20_000 { Ok(report.days) } else { Err(format!("{} days", report.days.len())) }
    })
    .await?;
    ensure!(days.iter().copied().eq(0..20_000), "R1, R2: lost, doubled or out of order");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn g1_a_grain_hit_from_every_node_at_once_activates_once() -> anyhow::Result<()> {
    let world = World::start(Store::sqlite().await?, 3, 3).await?;
    for identity in ["user-1", "user-2", "user-3", "user-4"] {
        let reports = try_join_all(world.all().map(|node| ledger(node, identity, 20))).await?.concat();
        let first = &reports[0];
        ensure!(reports.iter().all(|r| r.activation == first.activation), "G1: several activations of {identity}");
        let mut items: Vec<u64> = reports.iter().map(|report| report.items).collect();
        items.sort_unstable();
        ensure!(items.iter().copied().eq(1..=120), "G1, R2: {identity}: {items:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn d6_a_graceful_end_leaves_no_record() -> anyhow::Result<()> {
    let mut world = World::start(Store::sqlite().await?, 2, 1).await?;
    for node in world.dc1.drain(..) {
        node.shutdown().await?;
    }
    let left = world.dcctl(&["--json", "dc", "list"]).await?;
    ensure!(!left.contains("\"dc-1\"") && left.contains("\"dc-2\""), "D6: {left}");
    Ok(())
}
