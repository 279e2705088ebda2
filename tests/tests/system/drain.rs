//! An operator's word, from the command line (P8, C6).

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use multidc_tests::{node::binary, servers::Store};
use tokio::io::AsyncBufReadExt;

use crate::world::{SOON, World, dc, failure, ledger, report, spawn_in};

#[tokio::test(flavor = "multi_thread")]
async fn p8_a_drain_by_dcctl_refuses_placements_and_survives_a_full_restart() -> anyhow::Result<()> {
    let mut world = World::start(Store::sqlite().await?, 1, 2).await?;
    spawn_in(&world.dc1[0], "w", "dc-2").await?.map_err(|f| anyhow::anyhow!(f.text))?;
    world.dcctl(&["dc", "intent", "set", "dc-2", "drain", "--why", "test", "--by", "me"]).await?;
    let draining = |status: &multidc_tests::protocol::Status| {
        dc(status, "dc-2").is_some_and(|dc| dc.state == "DRAINING" && dc.routable == "traffic")
    };
    for node in world.all() {
        node.until("dc-2 DRAINING", SOON, draining).await?;
    }
    let refused = failure(spawn_in(&world.dc1[0], "late", "dc-2").await?)?;
    ensure!(refused.kind == "DataCenterNotRoutable" && refused.certainly_not_run, "{refused:?}");
    ensure!(refused.text.contains("drain") && refused.text.contains("test"), "who and why: {refused:?}");
    ensure!(report(&world.dc1[0], "w").await?.dc == "dc-2", "C6: traffic goes on");

    // Fault 17 in small: members come and go, then the whole datacenter restarts.
    let seeds: Vec<String> = world.dc2.iter().map(|node| node.addr.clone()).collect();
    let joiner = world.node("dc-2", 2, &seeds, &[]).await?;
    world.dc2.push(joiner);
    try_join_all(world.all().map(|node| {
        node.until("the joiner is advertised, still DRAINING", SOON, |status| {
            draining(status) && dc(status, "dc-2").is_some_and(|dc| dc.endpoints == 3)
        })
    }))
    .await?;
    for node in world.dc2.drain(..) {
        node.kill().await?;
    }
    world.dc1[0].until("dc-2 gone", SOON, |s| dc(s, "dc-2").is_none_or(|dc| dc.routable == "nothing")).await?;
    world.dc2 = world.data_center("dc-2", 1, &[]).await?;
    for node in world.all() {
        node.until("dc-2 is back, DRAINING", SOON, draining).await?;
    }
    world.dcctl(&["dc", "intent", "set", "dc-2", "serve"]).await?;
    world.settled().await?;
    spawn_in(&world.dc1[0], "again", "dc-2").await?.map_err(|f| anyhow::anyhow!(f.text))?;
    Ok(())
}

type Lines = tokio::io::Lines<tokio::io::BufReader<tokio::process::ChildStdout>>;

/// Waits for a line that holds `what`.
async fn told(lines: &mut Lines, what: &str) -> anyhow::Result<()> {
    let found = async {
        while let Some(line) = lines.next_line().await? {
            if line.contains(what) {
                return Ok(());
            }
        }
        anyhow::bail!("the watch ended before it told {what}")
    };
    tokio::time::timeout(SOON, found).await.with_context(|| format!("not told: {what}"))?
}

/// `dcctl dc watch` and `get`, on a store with a watch and on one without.
async fn an_operator_watches(store: Store) -> anyhow::Result<()> {
    let world = World::start(store, 1, 0).await?;
    let mut process = tokio::process::Command::new(binary("dcctl")?);
    process.args(["--control-plane", &world.store.url, "--json", "dc", "watch"]);
    let mut watch = process.stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut lines = tokio::io::BufReader::new(watch.stdout.take().context("stdout is piped")?).lines();
    told(&mut lines, "\"id\":\"dc-1\"").await?;
    told(&mut lines, "replay_done").await?;
    world.dcctl(&["dc", "intent", "set", "dc-1", "drain", "--why", "seen"]).await?;
    told(&mut lines, "\"why\":\"seen\"").await?;
    let shown = world.dcctl(&["dc", "get", "dc-1"]).await?;
    ensure!(shown.contains("drain seen") && shown.contains(&world.dc1[0].addr), "{shown}");
    let unknown = world.dcctl(&["dc", "get", "dc-9"]).await.expect_err("there is no dc-9");
    ensure!(unknown.to_string().contains("known: dc-1"), "{unknown}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_watches_on_sqlite() -> anyhow::Result<()> {
    an_operator_watches(Store::sqlite().await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_watches_on_nats() -> anyhow::Result<()> {
    an_operator_watches(Store::nats(1).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_watches_on_etcd() -> anyhow::Result<()> {
    an_operator_watches(Store::etcd(1).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn g2_a_drain_does_not_double_an_active_grain() -> anyhow::Result<()> {
    let world = World::start(Store::sqlite().await?, 1, 1).await?;
    let mut homes = Vec::new();
    for n in 0..12 {
        homes.push(ledger(&world.dc1[0], &format!("l{n}"), 1).await?.remove(0));
    }
    ensure!(
        homes.iter().any(|h| h.dc == "dc-2") && homes.iter().any(|h| h.dc == "dc-1"),
        "one home for all: {homes:?}"
    );
    world.dcctl(&["dc", "intent", "set", "dc-2", "drain"]).await?;
    for node in world.all() {
        node.until("dc-2 DRAINING", SOON, |s| dc(s, "dc-2").is_some_and(|dc| dc.state == "DRAINING")).await?;
    }
    for (n, home) in homes.iter().enumerate() {
        for (asked, node) in world.all().enumerate() {
            let again = ledger(node, &format!("l{n}"), 1).await?.remove(0);
            ensure!(again.activation == home.activation, "G2: l{n} moved by a drain: {home:?} then {again:?}");
            ensure!(again.items == asked as u64 + 2, "G2: {again:?}");
        }
    }
    let fresh = ledger(&world.dc2[0], "fresh", 1).await?.remove(0);
    ensure!(fresh.dc == "dc-1", "G2: a draining datacenter took a new identity: {fresh:?}");
    Ok(())
}
