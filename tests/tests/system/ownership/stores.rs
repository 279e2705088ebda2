//! Stores that fail while things are owned: without a quorum (8), wiped, set back (9).

use std::{path::PathBuf, time::Duration};

use anyhow::ensure;
use multidc_tests::{eventually, ledger::Want, protocol::Command, servers::Store};

use super::{
    on_stores,
    rig::{Load, Rig, Site, TTL, Target},
};
use crate::world::SOON;

/// Fault 8: the store loses its quorum. No ownership changes; what is known is served to the bound, and again when the
/// store is back.
async fn fault_8(store: Store) -> anyhow::Result<()> {
    let mut rig = Rig::start(store, vec![Site::new("dc-1", 1), Site::new("dc-2", 1)]).await?;
    let grains: Vec<Target> = (0..6).map(|n| Target::Grain(format!("g{n}"))).collect();
    let all = [rig.names("a", 3, "dc-1").await?, rig.names("b", 3, "dc-2").await?, grains].concat();
    let load = Load::start(4, rig.all(), &all);
    rig.served(&all, Duration::ZERO, SOON).await?;

    let lost = rig.log.now();
    // Of three, two; of one, that.
    for server in rig.store.servers.iter_mut().rev().take(2) {
        server.kill()?;
    }
    let down = rig.log.now();
    tokio::time::sleep(TTL * 2).await;
    let entries = rig.log.entries_since(lost);
    let adds = || entries.iter().filter(|entry| matches!(entry.want, Want::Add(_)));
    let last = adds().next_back().map(|entry| entry.at);
    eprintln!("without the store, the last increment came after {:?} (lease {TTL:?})", last.map(|last| last - lost));
    // Renewals are TTL / 4 apart, and the margin is 22 %: half of the lease is left at least.
    ensure!(last.is_some_and(|last| last > lost + TTL / 2), "known actors were to go on for a while: {last:?}");
    ensure!(last.is_some_and(|last| last < down + TTL - TTL / 10), "G2: written beyond the lease: {last:?}, {down:?}");
    let changed = rig.opened_since(lost);
    ensure!(changed.is_empty(), "ownership changed without the store: {changed:?}");

    rig.store.start_all().await?;
    let back = rig.log.now();
    rig.served(&all, back, SOON * 2).await?;
    rig.check(load).await.map(drop)
}

on_stores!(
    fault_8,
    fault_8_g2_without_the_store_nothing_changes_owners_on_nats on Store::nats(1),
    full_fault_8_on_nats,
    full_fault_8_on_etcd
);

/// The directories in which a store's servers keep their data.
fn data(store: &Store) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(store.dir())?.collect::<Result<Vec<_>, _>>()?;
    let dirs: Vec<_> = entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    ensure!(!dirs.is_empty(), "no data in {}", store.dir().display());
    Ok(dirs)
}

/// What was lost is served again, under epochs that the log takes, once the nodes have noticed.
async fn comes_back(rig: &Rig, names: u32, all: &[Target]) -> anyhow::Result<()> {
    let back = rig.log.now();
    for node in rig.all() {
        eventually("it notices that the store lost data", SOON * 2, || async {
            match Rig::stat(&node, "store_changes").await {
                Ok(1..) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
    }
    // A name is gone with its document: whoever wants it spawns it again.
    for n in 0..names {
        eventually("a name has an owner again", SOON * 2, || async {
            let spawn = Command::SpawnCounter { name: format!("c{n}"), at: None };
            match rig.all()[0].ask(spawn).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(failure)) if failure.kind == "NameTaken" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
    }
    rig.served(all, back, SOON * 2).await
}

/// Fault 9: the store is wiped.
async fn fault_9_wiped(store: Store) -> anyhow::Result<()> {
    let mut rig = Rig::start(store, vec![Site::new("dc-1", 1), Site::new("dc-2", 1)]).await?;
    let grains: Vec<Target> = (0..6).map(|n| Target::Grain(format!("g{n}"))).collect();
    let all = [rig.names("c", 3, "dc-2").await?, grains].concat();
    let load = Load::start(3, rig.all(), &all);
    rig.served(&all, Duration::ZERO, SOON).await?;
    rig.store.kill_all()?;
    for dir in data(&rig.store)? {
        std::fs::remove_dir_all(dir)?;
    }
    rig.store.start_all().await?;
    comes_back(&rig, 3, &all).await?;
    rig.check(load).await.map(drop)
}

on_stores!(
    fault_9_wiped,
    fault_9_g3_a_wiped_store_is_noticed_and_epochs_go_on_on_nats on Store::nats(1),
    full_fault_9_wiped_on_nats,
    full_fault_9_wiped_on_etcd
);

/// Fault 9: the store is set back to before a take-over.
async fn fault_9_set_back(store: Store) -> anyhow::Result<()> {
    let mut rig = Rig::start(store, vec![Site::new("dc-1", 1), Site::new("dc-2", 1)]).await?;
    let grains: Vec<Target> = (0..6).map(|n| Target::Grain(format!("g{n}"))).collect();
    let all = [rig.names("c", 3, "dc-2").await?, grains].concat();
    let load = Load::start(3, rig.all(), &all);
    rig.served(&all, Duration::ZERO, SOON).await?;
    rig.store.kill_all()?;
    let kept = tempfile::tempdir()?;
    for dir in data(&rig.store)? {
        let status = std::process::Command::new("cp").arg("-a").arg(&dir).arg(kept.path()).status()?;
        ensure!(status.success(), "cp: {status}");
    }
    rig.store.start_all().await?;
    rig.served(&all, rig.log.now(), SOON * 2).await?;
    let killed = rig.log.now();
    rig.kill("dc-2").await?;
    rig.served_in("dc-1", &all, killed, TTL + SOON).await?;

    rig.store.kill_all()?;
    for dir in data(&rig.store)? {
        std::fs::remove_dir_all(&dir)?;
        let name = dir.file_name().unwrap_or_default();
        let status = std::process::Command::new("cp").arg("-a").arg(kept.path().join(name)).arg(&dir).status()?;
        ensure!(status.success(), "cp: {status}");
    }
    rig.store.start_all().await?;
    comes_back(&rig, 3, &all).await?;
    rig.check(load).await.map(drop)
}

on_stores!(
    fault_9_set_back,
    fault_9_g3_a_store_that_was_set_back_is_noticed_and_epochs_go_on_on_etcd on Store::etcd(1),
    full_fault_9_set_back_on_nats,
    full_fault_9_set_back_on_etcd
);
