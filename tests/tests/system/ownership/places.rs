//! Real cuts between real addresses: each datacenter and the store in a network namespace of its own, packets dropped in
//! between (3, 5, 6, 18). Only in the full set: they need root, and programs that not every machine has.

use std::time::Duration;

use anyhow::ensure;
use multidc_tests::{
    eventually,
    ledger::Ledger,
    network::{Network, Place},
    servers::{At, Store},
};

use super::{
    cut,
    lost::{self, Away},
    moves::{self, Blow, Victim},
    rig::{Rig, Site},
};
use crate::world::SOON;

/// What a link may take to notice that the other side is silent: pings each second, 3 s for an answer, and a second for
/// what is asked at that moment.
const SILENT: Duration = Duration::from_secs(6);

#[derive(Clone, Copy, Debug)]
enum Kind {
    Nats,
    Etcd,
}

/// Two datacenters, and three servers of a store.
async fn apart(kind: Kind, nodes: usize) -> anyhow::Result<(Network, Rig)> {
    let network = Network::new(&["store", "dc-1", "dc-2"])?;
    let at = At::from(network.place("store")?);
    let store = match kind {
        Kind::Nats => Store::nats_at(3, &at).await?,
        Kind::Etcd => Store::etcd_at(3, &at).await?,
    };
    let log = Ledger::start_at(network.gateway()).await?;
    let sites = ["dc-1", "dc-2"].map(|dc| Site::new(dc, nodes).within(&network)).into_iter();
    let rig = Rig::start_with(store, log, sites.collect::<anyhow::Result<_>>()?).await?;
    Ok((network, rig))
}

async fn fault_3(kind: Kind) -> anyhow::Result<()> {
    let (network, rig) = apart(kind, 1).await?;
    lost::fault_3(rig, Away::CutOff(&network)).await
}

async fn fault_5(kind: Kind) -> anyhow::Result<()> {
    let (network, rig) = apart(kind, 2).await?;
    let line = |open| if open { network.heal("dc-1", "dc-2") } else { network.cut("dc-1", "dc-2") };
    cut::fault_5(rig, &line, SILENT).await
}

async fn fault_6(kind: Kind) -> anyhow::Result<()> {
    let (network, rig) = apart(kind, 1).await?;
    let line = |open| if open { network.heal("dc-2", "store") } else { network.cut("dc-2", "store") };
    cut::fault_6(rig, &line, 1.0, 1.0).await
}

async fn fault_18(kind: Kind) -> anyhow::Result<()> {
    const MOMENTS: [(Victim, f64); 6] = [
        (Victim::Owner, 0.0),
        (Victim::Receiver, 0.0),
        (Victim::Owner, 0.3),
        (Victim::Receiver, 0.3),
        (Victim::Owner, 0.9),
        (Victim::Receiver, 0.9),
    ];
    let (network, rig) = apart(kind, 1).await?;
    moves::fault_18(rig, Blow::CutOff(&network), &MOMENTS).await
}

macro_rules! on_both {
    ($run:ident, $nats:ident, $etcd:ident) => {
        #[tokio::test(flavor = "multi_thread")]
        #[ignore = "the full set: see the module"]
        async fn $nats() -> anyhow::Result<()> {
            $run(Kind::Nats).await
        }

        #[tokio::test(flavor = "multi_thread")]
        #[ignore = "the full set: see the module"]
        async fn $etcd() -> anyhow::Result<()> {
            $run(Kind::Etcd).await
        }
    };
}

on_both!(fault_3, full_fault_3_cut_off_on_nats, full_fault_3_cut_off_on_etcd);
on_both!(fault_5, full_fault_5_cut_on_nats, full_fault_5_cut_on_etcd);
on_both!(fault_6, full_fault_6_cut_on_nats, full_fault_6_cut_on_etcd);
on_both!(fault_18, full_fault_18_cut_off_on_nats, full_fault_18_cut_off_on_etcd);

/// What a connection from one place to an address comes to.
async fn connect(from: &Place, to: &str) -> anyhow::Result<&'static str> {
    let mut bash = tokio::process::Command::from(from.launch().command("timeout".as_ref()));
    let status = bash.args(["1", "bash", "-c", &format!("< /dev/tcp/{}", to.replace(':', "/"))]).status().await?;
    Ok(match status.code() {
        Some(0) => "connected",
        Some(124) => "silence",
        _ => "refused",
    })
}

/// What the faults above rest on: a cut is silent, concerns these two only and heals; at the end nothing is left.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the full set: see the module"]
async fn full_network_cuts_are_silent_and_nothing_is_left_behind() -> anyhow::Result<()> {
    let network = Network::new(&["store", "dc-1", "dc-2"])?;
    let store = Store::nats_at(1, &At::from(network.place("store")?)).await?;
    let (_, server) = store.url.split_once("://").expect("a URL");
    let from = async |dc| connect(network.place(dc)?, server).await;
    ensure!((from("dc-1").await?, from("dc-2").await?) == ("connected", "connected"));
    network.cut("dc-1", "store")?;
    ensure!((from("dc-1").await?, from("dc-2").await?) == ("silence", "connected"));
    store.servers[0].http_get("/healthz").await?;
    network.heal("dc-1", "store")?;
    network.cut_off("store")?;
    ensure!((from("dc-1").await?, from("dc-2").await?) == ("silence", "silence"));
    network.let_in("store")?;
    ensure!((from("dc-1").await?, from("dc-2").await?) == ("connected", "connected"));

    let mut sleeper = network.place("dc-1")?.launch().command("sleep".as_ref()).arg("600").spawn()?;
    let interface = format!("/sys/class/net/{}", network.interface());
    ensure!(std::path::Path::new(&interface).exists());
    drop(network);
    ensure!(!sleeper.wait()?.success(), "it was killed, not done");
    eventually("the interface goes with the namespaces", SOON, || async {
        if std::path::Path::new(&interface).exists() { Err("it is there".to_owned()) } else { Ok(()) }
    })
    .await
}
