//! What is cut off: datacenters from each other (5), one from the store (6, 14), an answer from its writer (13).

use std::time::Duration;

use anyhow::ensure;
use multidc_tests::{
    eventually,
    ledger::{Verdict, Want},
    protocol::{Command, Where},
    proxy::{Line as Proxied, Proxy},
    servers::Store,
};

use super::rig::{BESIDES, Load, MARGIN, Rig, Site, TTL, Target, address, count, count_once, now};
use crate::world::SOON;

/// A line that a test opens (`true`) and cuts.
pub(super) type Line<'a> = &'a dyn Fn(bool) -> anyhow::Result<()>;

#[tokio::test(flavor = "multi_thread")]
async fn fault_5_g4_datacenters_cut_from_each_other_keep_what_they_own() -> anyhow::Result<()> {
    let store = Store::nats(1).await?;
    let (mut plans, mut proxies) = (Vec::new(), Vec::new());
    for dc in ["dc-1", "dc-2"] {
        // The port is free now, and the node's soon after.
        let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let proxy = Proxy::start(free).await?;
        let (listen, advertise) = (free.to_string(), proxy.addr().to_string());
        plans.push(Site::new(dc, 1).with(&["--listen", &listen, "--advertise", &advertise]));
        proxies.push(proxy);
    }
    let rig = Rig::start(store, plans).await?;
    let line = |open| {
        proxies.iter().for_each(|proxy| proxy.set(if open { Proxied::Open } else { Proxied::Cut }));
        Ok(())
    };
    fault_5(rig, &line, Duration::ZERO).await
}

/// Fault 5: two datacenters are cut from each other, and the store is reachable by both: nothing relocates. Where nobody
/// tells the nodes that a link is gone, they know so only after `silent`: until then a message may have gone out.
pub(super) async fn fault_5(rig: Rig, line: Line<'_>, silent: Duration) -> anyhow::Result<()> {
    let mine = rig.names("a", 3, "dc-1").await?;
    let theirs = rig.names("b", 3, "dc-2").await?;
    let load = Load::start(2, rig.all(), &[mine.clone(), theirs.clone()].concat());
    rig.served(&[mine.clone(), theirs.clone()].concat(), Duration::ZERO, SOON).await?;

    line(false)?;
    let (cut, began) = (rig.log.now(), now());
    let (here, there) = (rig.one("dc-1")?.clone(), rig.one("dc-2")?.clone());
    let mut n = 0;
    while now() - began < silent + TTL * 2 {
        n += 1;
        count(&here, &mine[0], &format!("here-{n}"), SOON).await?;
        count(&there, &theirs[0], &format!("there-{n}"), SOON).await?;
        for (node, target) in [(&here, &theirs[1]), (&there, &mine[1])] {
            let asked = now();
            let failed = count_once(node, target, &format!("across-{n}"), Duration::from_secs(1)).await?;
            let failed = failed.expect_err("the other side cannot be reached");
            ensure!(failed.certainly_not_run || asked - began < silent, "{failed:?} after {:?}", asked - began);
            let clear = ["Unreachable", "Timeout", "ActorNotFound"].contains(&failed.kind.as_str());
            ensure!(clear, "not a clear error: {failed:?}");
            ensure!(now() - asked < Duration::from_secs(2) + MARGIN, "it took {:?}", now() - asked);
        }
    }
    let moved = rig.opened_since(cut);
    ensure!(moved.is_empty(), "something relocated although both renew: {moved:?}");
    line(true)?;
    count(&here, &theirs[1], "healed-here", SOON).await?;
    count(&there, &mine[1], "healed-there", SOON).await?;
    let moved = rig.opened_since(cut);
    ensure!(moved.is_empty(), "something relocated when the cut healed: {moved:?}");
    let found = rig.check(load).await?;
    ensure!(found.refused.is_empty() && found.changes == 0, "{found}");
    Ok(())
}

async fn fault_6_by_proxy(store: Store, owner_rate: f64, heir_rate: f64) -> anyhow::Result<()> {
    let proxy = Proxy::start(address(&store)?).await?;
    let rate = |rate: f64| ["--clock-rate".to_owned(), rate.to_string()];
    let (heir, owner) = (rate(heir_rate), rate(owner_rate));
    let heir = Site::new("dc-1", 1).with(&[&heir[0], &heir[1]]);
    let owner = Site::new("dc-2", 1).with(&[&owner[0], &owner[1]]).through(&store, &proxy);
    let rig = Rig::start(store, vec![heir, owner]).await?;
    let line = |open| {
        proxy.set(if open { Proxied::Open } else { Proxied::BlackHole });
        Ok(())
    };
    fault_6(rig, &line, owner_rate, heir_rate).await
}

/// Fault 6: a datacenter is cut from the store only. What is strict stops there at the bound, before others have it.
/// Both are told by the log alone: when the old owner last wrote, or tried to, and when the new one began.
pub(super) async fn fault_6(rig: Rig, line: Line<'_>, owner_rate: f64, heir_rate: f64) -> anyhow::Result<()> {
    let all = rig.names("c", 4, "dc-2").await?;
    let load = Load::start(4, rig.all(), &all);
    rig.served(&all, Duration::ZERO, SOON).await?;

    line(false)?;
    let cut = rig.log.now();
    let took = rig.served_in("dc-1", &all, cut, TTL + SOON).await?;
    ensure!(took <= TTL.mul_f64(1.0 / heir_rate.min(1.0)) + BESIDES + MARGIN, "G4: only after {took:?}");
    let entries = rig.log.entries_since(cut);
    let by_old = || entries.iter().filter(|entry| entry.by.dc == "dc-2" && matches!(entry.want, Want::Add(_)));
    let first_new = entries.iter().find(|entry| entry.by.dc == "dc-1").map(|entry| entry.at - cut);
    let last_old = by_old().next_back().map(|entry| entry.at - cut);
    let goes_on = by_old().any(|entry| matches!(entry.verdict, Verdict::Accepted(_)));
    eprintln!("cut from the store, it wrote last after {last_old:?}; the other began after {first_new:?}");
    ensure!(goes_on, "it stopped at once, although its lease ran on");
    let bound = (TTL - TTL / 5).mul_f64(1.0 / owner_rate);
    ensure!(
        last_old.is_some_and(|last| last <= bound + TTL / 20),
        "G2: it wrote beyond its lease, {bound:?}: {last_old:?}"
    );
    ensure!(last_old < first_new, "G2: the owners overlap: {last_old:?}, {first_new:?}");

    line(true)?;
    let (healed, old) = (rig.log.now(), rig.one("dc-2")?.clone());
    let settled = eventually("the owner of before has a new session", SOON, || async {
        match Rig::stat(&old, "sessions").await {
            Ok(2..) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    settled.await?;
    for (n, target) in all.iter().enumerate() {
        let report = count(&old, target, &format!("healed-{n}"), SOON).await?;
        ensure!(report.dc == "dc-1", "it took something back by itself: {report:?}");
    }
    let moved = rig.opened_since(healed);
    ensure!(moved.is_empty(), "{moved:?}");
    let found = rig.check(load).await?;
    ensure!(found.changes == all.len(), "each changed hands once: {found}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_6_g2_cut_from_the_store_what_is_strict_stops_at_the_bound_on_nats() -> anyhow::Result<()> {
    fault_6_by_proxy(Store::nats(1).await?, 1.0, 1.0).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the full set: see the module"]
async fn full_fault_6_on_etcd() -> anyhow::Result<()> {
    fault_6_by_proxy(Store::etcd(1).await?, 1.0, 1.0).await
}

/// Fault 14: the owner's clock is slow by a tenth, the claimant's is fast by a tenth: only margins are used up.
#[tokio::test(flavor = "multi_thread")]
async fn fault_14_g3_a_slow_owner_and_a_fast_claimant_do_not_overlap() -> anyhow::Result<()> {
    fault_6_by_proxy(Store::etcd(1).await?, 0.9, 1.1).await
}

/// Fault 13: a claim is made, and its answer is lost. Whatever the claimant is told, the name has one owner.
async fn fault_13(store: Store) -> anyhow::Result<()> {
    let proxy = Proxy::start(address(&store)?).await?;
    let claimant = Site::new("dc-2", 1).through(&store, &proxy);
    let rig = Rig::start(store, vec![Site::new("dc-1", 1), claimant]).await?;
    let (other, claimant) = (rig.one("dc-1")?.clone(), rig.one("dc-2")?.clone());
    let load = Load::start(1, rig.all(), &[Target::Grain("beside".into())]);
    for n in 0..4 {
        let name = format!("c{n}");
        let target = Target::Name(name.clone());
        // Its way to the store is there (again), so that the next claim gets through.
        eventually("the claimant claims", SOON, || async {
            match claimant.ask(Command::SpawnCounter { name: format!("before-{n}"), at: None }).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(failure)) if failure.kind == "NameTaken" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
        proxy.set(Proxied::Unanswered);
        let spawn = tokio::spawn({
            let (claimant, name) = (claimant.clone(), name.clone());
            async move { claimant.ask(Command::SpawnCounter { name, at: None }).await }
        });
        // The claim has landed once others find the name, although its answer never comes.
        eventually("the claim lands", SOON, || async {
            match count_once(&other, &target, &format!("early-{n}"), Duration::from_millis(100)).await {
                // Nobody has it, or this node could not even look.
                Ok(Err(failure))
                    if failure.kind == "ActorNotFound"
                        || (failure.kind == "Timeout" && failure.text.contains("the global name")) =>
                {
                    Err(format!("{failure:?}"))
                }
                found => found.map(drop).map_err(|err| err.to_string()),
            }
        })
        .await?;
        proxy.set(Proxied::Cut);
        proxy.set(Proxied::Open);
        let spawned = spawn.await??;
        let again = || other.ask(Command::SpawnCounter { name: name.clone(), at: Some(Where::name("dc-1")) });
        let taken = eventually("the name has an owner", SOON, || async {
            match again().await {
                Ok(Ok(_)) => Ok(false),
                Ok(Err(failure)) if failure.kind == "NameTaken" => Ok(true),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
        ensure!(taken || spawned.is_err(), "a double claim: dc-2 was told that it has {name}, dc-1 as well");
        let here = count(&other, &target, &format!("here-{n}"), SOON).await?;
        let there = count(&claimant, &target, &format!("there-{n}"), SOON).await?;
        ensure!((here.pid, here.epoch) == (there.pid, there.epoch), "two owners: {here:?}, {there:?}");
        eprintln!("{name}: the claimant was told {spawned:?}; taken: {taken}; in {}", here.dc);
    }
    rig.check(load).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_13_a_lost_answer_to_a_claim_makes_no_second_owner_on_etcd() -> anyhow::Result<()> {
    fault_13(Store::etcd(1).await?).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the full set: see the module"]
async fn full_fault_13_on_nats() -> anyhow::Result<()> {
    fault_13(Store::nats(1).await?).await
}
