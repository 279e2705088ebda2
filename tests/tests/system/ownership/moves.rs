//! Hand-overs under faults: a drain while members come and go (17), and a crash at any step of one (18).

use std::{sync::Arc, time::Duration};

use anyhow::{bail, ensure};
use multidc_tests::{
    network::Network,
    node::NodeProcess,
    protocol::{Answer, Command},
    servers::Store,
};

use super::{
    on_stores,
    rig::{Load, Rig, Site, TTL, Target},
};
use crate::world::SOON;

fn grains(count: u32) -> Vec<Target> {
    (0..count).map(|n| Target::Grain(format!("g{n}"))).collect()
}

fn drain(node: &Arc<NodeProcess>) -> tokio::task::JoinHandle<anyhow::Result<Answer>> {
    let node = node.clone();
    tokio::spawn(async move { node.must(Command::Drain { why: "a fault in the middle".into() }).await })
}

/// Waits until a drain has moved this part of what there was; tells how far it was then.
async fn moved(lines: &mut tokio::sync::broadcast::Receiver<String>, part: f64) -> anyhow::Result<String> {
    let mut last = "no progress".to_owned();
    let progress = async {
        loop {
            let Ok(line) = lines.recv().await else { bail!("the node says no more") };
            let numbers = line.strip_prefix("drain: ").and_then(|line| line.split_once(" moved, "));
            let Some((moved, left)) = numbers else { continue };
            let (moved, left): (f64, f64) = (moved.parse()?, left.trim_end_matches(" left").parse()?);
            last.clone_from(&line);
            if moved + left > 0.0 && moved >= part * (moved + left) {
                return Ok(line);
            }
        }
    };
    match tokio::time::timeout(SOON, progress).await {
        Ok(done) => done,
        Err(_) => bail!("not {part} of it within {SOON:?}: {last}"),
    }
}

/// Fault 17: a drain while members come and go: it completes. Undone in the middle, everything has one owner.
async fn fault_17(store: Store) -> anyhow::Result<()> {
    let mut rig = Rig::start(store, vec![Site::new("dc-1", 1), Site::new("dc-2", 2)]).await?;
    let all = [rig.names("c", 12, "dc-2").await?, grains(24)].concat();
    let load = Load::start(3, rig.all(), &all);
    rig.served(&all, Duration::ZERO, SOON).await?;

    let (drainer, leaver) = (rig.sites["dc-2"][0].clone(), rig.sites["dc-2"][1].clone());
    let mut lines = drainer.lines();
    let drained = drain(&drainer);
    let at = moved(&mut lines, 0.05).await?;
    leaver.kill_shared().await?;
    eprintln!("at {at}: {} was killed, another one comes", leaver.label);
    rig.add("dc-2").await?;
    load.ask(rig.all());
    let ended = drained.await??;
    ensure!(ended == Answer::Drained(true), "G5: the drain ended with {ended:?}");
    let done = rig.log.now();
    rig.served_in("dc-1", &all, done, SOON).await?;

    rig.dcctl(&["dc", "intent", "set", "dc-2", "serve"]).await?;
    rig.settled().await?;
    let drainer = rig.one("dc-1")?.clone();
    let mut lines = drainer.lines();
    let aborted = drain(&drainer);
    let at = moved(&mut lines, 0.0).await?;
    rig.dcctl(&["dc", "intent", "set", "dc-1", "serve"]).await?;
    let ended = aborted.await??;
    eprintln!("undone at {at}: {ended:?}");
    let undone = rig.log.now();
    rig.served(&all, undone, SOON).await?;
    rig.check(load).await.map(drop)
}

on_stores!(
    fault_17,
    fault_17_g5_a_drain_during_churn_completes_or_is_undone_on_sqlite on Store::sqlite(),
    full_fault_17_on_nats,
    full_fault_17_on_etcd
);

/// The datacenter that has written last of most targets, and the other one.
fn most_and_least(rig: &Rig, all: &[Target]) -> (&'static str, &'static str) {
    let heads = all.iter().filter_map(|target| rig.log.head(&target.identity()));
    let first = heads.filter(|(by, _)| by.dc == "dc-1").count();
    if first * 2 > all.len() { ("dc-1", "dc-2") } else { ("dc-2", "dc-1") }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Victim {
    Owner,
    Receiver,
}

/// What befalls it.
pub(super) enum Blow<'a> {
    /// It is killed, and another one comes in its place.
    Killed,
    /// It is cut from the store and from the other side beyond its lease.
    CutOff(&'a Network),
}

async fn fault_18_killed(store: Store, moments: &[(Victim, f64)]) -> anyhow::Result<()> {
    let rig = Rig::start(store, vec![Site::new("dc-1", 1), Site::new("dc-2", 1)]).await?;
    fault_18(rig, Blow::Killed, moments).await
}

/// Fault 18: the owner or the receiver is hit at a moment of a move: one of them has each thing afterwards, none both.
pub(super) async fn fault_18(mut rig: Rig, blow: Blow<'_>, moments: &[(Victim, f64)]) -> anyhow::Result<()> {
    let all = [rig.names("c", 12, "dc-2").await?, grains(24)].concat();
    let load = Load::start(3, rig.all(), &all);
    rig.served(&all, Duration::ZERO, SOON).await?;
    for (victim, part) in moments {
        let (from, to) = most_and_least(&rig, &all);
        let drainer = rig.one(from)?.clone();
        let mut lines = drainer.lines();
        let drained = drain(&drainer);
        let at = moved(&mut lines, *part).await?;
        let (hit, other) = match victim {
            Victim::Owner => (from, to),
            Victim::Receiver => (to, from),
        };
        eprintln!("moving from {from} to {to}, at {at}: the {victim:?} is hit");
        let began = rig.log.now();
        match &blow {
            Blow::Killed => {
                rig.kill(hit).await?;
                rig.add(hit).await?;
            }
            Blow::CutOff(network) => {
                network.cut_off(hit)?;
                load.ask(rig.alive(other).cloned().collect());
                match victim {
                    Victim::Owner => drop(rig.served_in(to, &all, began, TTL + SOON).await?),
                    // Who drains takes nothing back.
                    Victim::Receiver => tokio::time::sleep(TTL * 2).await,
                }
                network.let_in(hit)?;
            }
        }
        let over = rig.log.now();
        load.ask(rig.all());
        rig.served(&all, over, TTL * 2 + SOON).await?;
        drained.abort();
        rig.dcctl(&["dc", "intent", "set", from, "serve"]).await?;
        rig.settled().await?;
        // The drain may have come to its end before it was undone.
        rig.served(&all, rig.log.now(), SOON).await?;
    }
    let end = rig.log.now();
    rig.served(&all, end, SOON).await?;
    rig.check(load).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_18_g5_a_crash_in_the_middle_of_a_move_leaves_one_owner_on_sqlite() -> anyhow::Result<()> {
    fault_18_killed(Store::sqlite().await?, &[(Victim::Owner, 0.3), (Victim::Receiver, 0.3)]).await
}

const MOMENTS: [(Victim, f64); 10] = [
    (Victim::Owner, 0.0),
    (Victim::Receiver, 0.0),
    (Victim::Owner, 0.01),
    (Victim::Receiver, 0.01),
    (Victim::Owner, 0.3),
    (Victim::Receiver, 0.3),
    (Victim::Owner, 0.7),
    (Victim::Receiver, 0.7),
    (Victim::Owner, 0.99),
    (Victim::Receiver, 0.99),
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the full set: see the module"]
async fn full_fault_18_on_nats() -> anyhow::Result<()> {
    fault_18_killed(Store::nats(3).await?, &MOMENTS).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the full set: see the module"]
async fn full_fault_18_on_etcd() -> anyhow::Result<()> {
    fault_18_killed(Store::etcd(3).await?, &MOMENTS).await
}
