//! Faults with real processes; `docs/faults.md` lists them.

use std::time::{Duration, Instant};

use anyhow::ensure;
use dc_core::{Clock, SystemClock};
use multidc_tests::{
    eventually,
    protocol::{Command, Status, Where},
    servers::Store,
};

use crate::world::{SOON, World, ask_worker, dc, epoch, failure, leader, report, spawn_in};

/// What a loaded machine may add to a bound that the system promises.
const MARGIN: Duration = Duration::from_secs(3);

fn now() -> Instant {
    SystemClock.now()
}

/// Fault 1: a datacenter is killed.
async fn fault_1(store: Store) -> anyhow::Result<()> {
    let mut world = World::start(store, 2, 2).await?;
    spawn_in(&world.dc1[0], "w", "dc-2").await?.map_err(|f| anyhow::anyhow!(f.text))?;
    report(&world.dc1[0], "w").await?;
    for node in world.dc2.drain(..) {
        node.kill().await?;
    }
    let killed = now();
    for node in &world.dc1 {
        let gone = |status: &Status| dc(status, "dc-2").is_none_or(|dc| dc.routable == "nothing");
        node.until("dc-2 leaves routing", world.times.ttl + SOON, gone).await?;
    }
    let took = now() - killed;
    // etcd grants leases no shorter than its election allows; NATS counts whole seconds.
    ensure!(took < world.times.ttl + Duration::from_secs(1) + MARGIN, "C2: dead for {took:?} and still routable");
    for node in &world.dc1 {
        let lost = failure(ask_worker(node, "w").await?)?;
        ensure!(["Unreachable", "ActorNotFound"].contains(&&*lost.kind), "{lost:?}");
        let refused = failure(spawn_in(node, "x", "dc-2").await?)?;
        ensure!(["DataCenterNotRoutable", "DataCenterRecordNotFound"].contains(&&*refused.kind), "{refused:?}");
        ensure!(node.status().await?.ready, "D7: one datacenter's death took readiness from another");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_1_a_killed_datacenter_leaves_routing_on_sqlite() -> anyhow::Result<()> {
    fault_1(Store::sqlite().await?).await
}

/// Fault 12 as well: NATS may stay silent about it; the table's own timer evicts.
#[tokio::test(flavor = "multi_thread")]
async fn fault_1_and_12_a_killed_datacenter_leaves_routing_on_nats() -> anyhow::Result<()> {
    fault_1(Store::nats(1).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_1_a_killed_datacenter_leaves_routing_on_etcd() -> anyhow::Result<()> {
    fault_1(Store::etcd(1).await?).await
}

/// Fault 2: the leader of a datacenter is killed.
async fn fault_2(store: Store) -> anyhow::Result<()> {
    let mut world = World::start(store, 1, 3).await?;
    let old = leader(&world.dc2).await?;
    let other = (old + 1) % 3;
    world.dc2[other].must(Command::Spawn { name: "w".into(), at: None }).await?;
    report(&world.dc1[0], "w").await?;
    let before = epoch(&world.dc1[0], "dc-2").await?;
    world.dc2.remove(old).kill().await?;
    let killed = now();
    let asker = &world.dc1[0];
    loop {
        report(asker, "w").await?;
        let status = asker.status().await?;
        let dc2 = dc(&status, "dc-2");
        let Some(dc2) = dc2.filter(|dc| dc.routable == "placements") else {
            anyhow::bail!("D2: a gap in routing: {dc2:?} after {:?}", (now() - killed));
        };
        // On for longer than a lease after the successor took over.
        if dc2.epoch > before && (now() - killed) > world.times.ttl * 2 {
            ensure!(dc2.endpoints == 2, "D3: the dead leader is still advertised");
            break;
        }
        ensure!((now() - killed) < SOON, "no successor: {dc2:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_2_d2_a_killed_leader_leaves_no_routing_gap_on_nats() -> anyhow::Result<()> {
    fault_2(Store::nats(1).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_2_d2_a_killed_leader_leaves_no_routing_gap_on_etcd() -> anyhow::Result<()> {
    fault_2(Store::etcd(1).await?).await
}

/// Fault 4: two leaders in one datacenter. The old one is frozen, replaced, and goes on believing that it leads.
async fn fault_4(store: Store) -> anyhow::Result<()> {
    let world = World::start(store, 1, 3).await?;
    let old = leader(&world.dc2).await?;
    let before = epoch(&world.dc1[0], "dc-2").await?;
    world.dc2[old].pause().await?;
    let taken =
        |status: &Status| dc(status, "dc-2").is_some_and(|dc| dc.epoch == before + 1 && dc.routable == "placements");
    world.dc1[0].until("a successor", SOON, taken).await?;
    let mut log = world.dc2[old].lines();
    world.dc2[old].resume()?;
    let stepped = async {
        while let Ok(line) = log.recv().await {
            if line.contains("stepped down") {
                return true;
            }
        }
        false
    };
    ensure!(tokio::time::timeout(SOON, stepped).await?, "D1: the old leader never stepped down");
    let end = now() + world.times.ttl * 2;
    while now() < end {
        let status = world.dc1[0].status().await?;
        let dc2 = dc(&status, "dc-2");
        let still = dc2.is_some_and(|dc| dc.epoch == before + 1 && dc.routable == "placements");
        ensure!(still, "D1: they alternate: {dc2:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_4_d1_of_two_leaders_one_steps_down_on_nats() -> anyhow::Result<()> {
    fault_4(Store::nats(1).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_4_d1_of_two_leaders_one_steps_down_on_etcd() -> anyhow::Result<()> {
    fault_4(Store::etcd(1).await?).await
}

/// Fault 8: the store loses its quorum.
async fn fault_8(store: Store) -> anyhow::Result<()> {
    let mut world = World::start(store, 2, 2).await?;
    spawn_in(&world.dc1[0], "w", "dc-2").await?.map_err(|f| anyhow::anyhow!(f.text))?;
    let first = report(&world.dc1[0], "w").await?;
    world.store.servers[1].kill()?;
    world.store.servers[2].kill()?;
    let lost = now();
    // Known actors answer throughout; after a while new placements are refused as stale.
    let refused = eventually("placements refused as stale", SOON, || async {
        report(&world.dc1[0], "w").await.map_err(|err| err.to_string())?;
        match spawn_in(&world.dc1[0], &format!("x{:?}", (now() - lost)), "dc-2").await {
            Ok(Err(failure)) if failure.kind == "DataCenterStaleRecords" => Ok(failure),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    ensure!(refused.certainly_not_run, "C5: {refused:?}");
    while (now() - lost) < world.times.ttl * 3 {
        for node in &world.dc1 {
            ensure!(report(node, "w").await? == first, "C5: traffic stopped with the store");
            let status = node.status().await?;
            ensure!(status.ready, "D7: the store's outage took readiness away");
            for name in ["dc-1", "dc-2"] {
                let kept = dc(&status, name).is_some_and(|dc| dc.routable == "placements" && dc.endpoints == 2);
                ensure!(kept, "C5: {name} changed for {} without a quorum: {status:?}", node.label);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.store.start_all().await?;
    let again = eventually("placements after the store is back", SOON * 2, || async {
        ensure_ok(report(&world.dc1[0], "w").await.map(|now| now == first))?;
        match spawn_in(&world.dc1[0], "back", "dc-2").await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(failure)) if failure.kind == "NameTaken" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    again.await?;
    Ok(())
}

fn ensure_ok(same: anyhow::Result<bool>) -> Result<(), String> {
    match same {
        Ok(true) => Ok(()),
        Ok(false) => Err("another actor answered".into()),
        Err(error) => Err(error.to_string()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_8_c5_a_lost_quorum_keeps_traffic_going_on_nats() -> anyhow::Result<()> {
    fault_8(Store::nats(3).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_8_c5_a_lost_quorum_keeps_traffic_going_on_etcd() -> anyhow::Result<()> {
    fault_8(Store::etcd(3).await?).await
}

/// C5, lenient: with `fail_on_stale_cache` off, placements go on while the store is away.
#[tokio::test(flavor = "multi_thread")]
async fn c5_a_lenient_node_places_on_a_stale_table() -> anyhow::Result<()> {
    let mut world = World::with(Store::etcd(1).await?, 1, 1, &["--lenient", "--stale-ms", "1000"]).await?;
    world.store.kill_all()?;
    world.dc1[0].until("stale", SOON, |status| status.table_age_ms.is_some_and(|age| age > 2000)).await?;
    spawn_in(&world.dc1[0], "w", "dc-2").await?.map_err(|f| anyhow::anyhow!("{}: {}", f.kind, f.text))?;
    report(&world.dc1[0], "w").await?;
    Ok(())
}

/// Fault 11: the watch is dropped (the server restarts) or compacted while a node is frozen; meanwhile a
/// datacenter goes. No ghost may stay.
#[tokio::test(flavor = "multi_thread")]
async fn fault_11_a_compacted_watch_leaves_no_ghost_on_etcd() -> anyhow::Result<()> {
    let mut world = World::start(Store::etcd(1).await?, 2, 1).await?;
    let frozen = world.dc1.remove(1);
    frozen.pause().await?;
    for node in world.dc2.drain(..) {
        node.shutdown().await?;
    }
    world.dc1[0].until("dc-2 gone", SOON, |status| dc(status, "dc-2").is_none()).await?;
    compact(&world).await?;
    frozen.resume()?;
    frozen.until("no ghost", SOON, |s| dc(s, "dc-2").is_none_or(|dc| dc.routable == "nothing")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_11_a_dropped_watch_leaves_no_ghost_on_nats() -> anyhow::Result<()> {
    let mut world = World::start(Store::nats(1).await?, 1, 1).await?;
    world.store.kill_all()?;
    for node in world.dc2.drain(..) {
        node.kill().await?;
    }
    world.store.start_all().await?;
    let gone = |status: &Status| dc(status, "dc-2").is_none_or(|dc| dc.routable == "nothing");
    world.dc1[0].until("no ghost", world.times.ttl * 2 + SOON, gone).await?;
    world.dc1[0]
        .until("dc-1 serves again", SOON, |s| dc(s, "dc-1").is_some_and(|dc| dc.routable == "placements"))
        .await?;
    Ok(())
}

/// Compacts etcd at its present revision, over its JSON gateway.
async fn compact(world: &World) -> anyhow::Result<()> {
    let base = world.store.url.replace("etcd://", "");
    let status = post(&base, "/v3/maintenance/status", "{}").await?;
    let revision = status["header"]["revision"].as_str().unwrap_or_default().to_owned();
    ensure!(!revision.is_empty(), "no revision in {status}");
    let body = format!("{{\"revision\": \"{revision}\", \"physical\": true}}");
    let done = post(&base, "/v3/kv/compaction", &body).await?;
    ensure!(done["header"].is_object(), "not compacted: {done}");
    Ok(())
}

async fn post(addr: &str, path: &str, body: &str) -> anyhow::Result<serde_json::Value> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(addr).await?;
    let head = format!("POST {path} HTTP/1.0\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, json) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok(serde_json::from_str(json)?)
}

/// A selector that names a region finds the datacenter; the exact zone need not be repeated.
#[tokio::test(flavor = "multi_thread")]
async fn l1_a_selector_leaves_out_what_it_does_not_care_for() -> anyhow::Result<()> {
    let mut world = World::start(Store::sqlite().await?, 1, 0).await?;
    let far = world.node("dc-2", 0, &[], &["--region", "eu-west-1"]).await?;
    let seen = |s: &Status| s.data_centers.iter().any(|dc| dc.id == "eu-west-1/dc-2" && dc.routable == "placements");
    world.dc1[0].until("dc-2 serves", SOON, seen).await?;
    world.dc2.push(far);
    let at = Where { region: Some("eu-west-1".into()), ..Where::default() };
    world.dc1[0].must(Command::Spawn { name: "w".into(), at: Some(at) }).await?;
    ensure!(report(&world.dc1[0], "w").await?.dc == "dc-2", "L1");
    Ok(())
}

/// Readiness comes once the table has been in step, and stays through the store's outages.
#[tokio::test(flavor = "multi_thread")]
async fn d7_readiness_needs_the_store_once_and_then_no_more() -> anyhow::Result<()> {
    let mut world = World::start(Store::etcd(1).await?, 1, 0).await?;
    world.store.kill_all()?;
    let seeds = [world.dc1[0].addr.clone()];
    let late = world.node("dc-1", 1, &seeds, &[]).await?;
    let inside = late.until("a member", SOON, |status| status.members == 2).await?;
    ensure!(!inside.ready, "D7: ready without ever having seen the store");
    // D4: inside its datacenter it works all the same.
    late.must(Command::Spawn { name: "inside".into(), at: None }).await?;
    report(&world.dc1[0], "inside").await?;
    let old = world.dc1[0].until("stale", SOON, |s| s.table_age_ms.is_some_and(|age| age > 6000)).await?;
    ensure!(old.ready, "D7: the outage took readiness away");
    world.store.start_all().await?;
    late.until("ready", SOON, |status| status.ready).await?;
    Ok(())
}
