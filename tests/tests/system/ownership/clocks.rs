//! Wall clocks that are an hour off, and jump (14): they play no part in what is owned. Only in the full set: it needs
//! libfaketime.

use std::time::Duration;

use anyhow::{bail, ensure};
use multidc_tests::{
    clock::{WallClock, wall},
    eventually,
    launch::Launch,
    node::NodeProcess,
    protocol::{Answer, Command},
    servers::Store,
};

use super::rig::{BESIDES, Load, MARGIN, Rig, Site, TTL, Target};
use crate::world::SOON;

const HOUR: i64 = 3_600;

/// How far a node's wall clock is from this process's, in seconds.
async fn off(node: &NodeProcess) -> anyhow::Result<i64> {
    let Answer::WallClock(seconds) = node.must(Command::WallClock).await? else { bail!("no wall clock") };
    let here = wall().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    Ok(i64::try_from(seconds)? - i64::try_from(here)?)
}

/// Fault 14: the wall clock of a datacenter is an hour ahead and jumps to and fro. Nobody loses a lease, and nothing
/// changes owner. Nor does it hasten or hinder a take-over: that one by this datacenter comes within the time told.
async fn fault_14(store: Store) -> anyhow::Result<()> {
    let clock = WallClock::new()?;
    clock.set(HOUR)?;
    let wrong = Site { launch: clock.launch(Launch::default()), ..Site::new("dc-2", 1) };
    let rig = Rig::start(store, vec![Site::new("dc-1", 1), wrong]).await?;
    let (here, there) = (rig.names("a", 3, "dc-1").await?, rig.names("b", 3, "dc-2").await?);
    let grains: Vec<Target> = (0..6).map(|n| Target::Grain(format!("g{n}"))).collect();
    let all = [here.clone(), there, grains].concat();
    let load = Load::start(3, rig.all(), &all);
    rig.served(&all, Duration::ZERO, SOON).await?;
    let began = rig.log.now();
    let wrong = rig.one("dc-2")?.clone();
    for hours in [1, -1, 0, 25, 0, 1] {
        clock.set(hours * HOUR)?;
        eventually("its wall clock jumps", SOON, || async {
            let off = off(&wrong).await.map_err(|err| err.to_string())?;
            if (off - hours * HOUR).abs() <= 5 { Ok(()) } else { Err(format!("off by {off} s")) }
        })
        .await?;
        let jumped = rig.log.now();
        tokio::time::sleep(TTL).await;
        rig.served(&all, jumped, SOON).await?;
        rig.settled().await?;
    }
    let moved = rig.opened_since(began);
    ensure!(moved.is_empty(), "something changed hands: {moved:?}");
    for node in rig.all() {
        let (sessions, ends) = (Rig::stat(&node, "sessions").await?, Rig::stat(&node, "lease_ends").await?);
        ensure!((sessions, ends) == (1, 0), "{}: {sessions} sessions, {ends} leases that ended", node.label);
    }

    let killed = rig.log.now();
    rig.kill("dc-1").await?;
    let took = rig.served_in("dc-2", &here, killed, TTL + SOON).await?;
    // Renewals are a quarter of the lease apart.
    ensure!(took >= TTL * 7 / 10, "before the lease was over: after {took:?}");
    ensure!(took <= TTL + BESIDES + MARGIN, "G4: served elsewhere only after {took:?}");
    rig.check(load).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the full set: see the module"]
async fn full_fault_14_wall_clocks_on_nats() -> anyhow::Result<()> {
    fault_14(Store::nats(3).await?).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the full set: see the module"]
async fn full_fault_14_wall_clocks_on_etcd() -> anyhow::Result<()> {
    fault_14(Store::etcd(3).await?).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the full set: see the module"]
async fn full_fault_14_wall_clocks_on_sqlite() -> anyhow::Result<()> {
    fault_14(Store::sqlite().await?).await
}
