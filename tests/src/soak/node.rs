//! One node of a soak as a process: the system, its targets, its senders. Ends when its standard input does.

use std::{io::Write, sync::Arc, sync::atomic::Ordering, time::Duration};

use anyhow::Context as _;
use multidc::prelude::*;
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::sync::watch;

use super::{
    actors::{Brief, Cart, Deed, Here, Ledger, Number, Put, Target, Vault},
    clock::now_us,
    control::{Figures, NodeSpec, Order, Plant, Said},
    load::{Counts, Load, Sender, deed_name, roll, target_name},
    record::LogWriter,
};

/// The lease of a datacenter's record.
pub const TTL: Duration = Duration::from_secs(6);

/// Time between two lists of the control plane: how long tables may differ.
pub const REFRESH: Duration = Duration::from_secs(1);

/// How often certificates are read again.
const RELOAD: Duration = Duration::from_secs(1);

/// How long a target waits for its name, which may still be that of its predecessor.
const NAME_PATIENCE: Duration = Duration::from_secs(60);

/// How long after the chaos an actor may take to answer.
const ROLL_PATIENCE: Duration = Duration::from_secs(20);

/// Runs a node until it is told to leave, or whoever started it is gone.
///
/// # Errors
///
/// The system does not start, the log cannot be written, or an order cannot be read.
pub async fn run(spec: NodeSpec) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("PR_SET_PDEATHSIG")?;
    let log = LogWriter::create(&spec.logs, spec.run).context("the log")?;
    let here = Here::begin(spec.run, log, spec.plant);
    let system = start(&spec).await?;
    say(&Said::Started { node: system.node_id().0 as u64 });
    tokio::spawn(tell_changes(system.clone()));
    for number in 0..spec.targets {
        tokio::spawn(keep_target(system.clone(), spec.slot, number, spec.targets));
    }
    tokio::spawn(keep_deed(system.clone(), spec.slot));
    let (rates, rate) = watch::channel(0.0);
    let workers = spec.workers as u64;
    let plant = spec.plant;
    let load = Arc::new(Load { system: system.clone(), spec, here, rate, counts: Counts::default(), say });
    for number in 0..workers {
        tokio::spawn(Sender::new(&load, number).run());
    }
    tokio::spawn(tell_figures(load.clone(), plant));
    obey(load, &rates).await
}

async fn obey(load: Arc<Load>, rates: &watch::Sender<f64>) -> anyhow::Result<()> {
    let mut orders = orders();
    while let Some(order) = orders.recv().await {
        match serde_json::from_str(&order).with_context(|| order.clone())? {
            Order::Rate(rate) => drop(rates.send_replace(rate.unwrap_or(f64::INFINITY))),
            Order::Roll => drop(tokio::spawn(answer_roll(load.clone()))),
            Order::Leave => {
                // An error says that actors did not end in time and were killed; all else was done.
                if let Err(error) = load.system.shutdown().await {
                    tracing::warn!(%error, "leaving");
                }
                return Ok(());
            }
        }
    }
    // Whoever started this process is gone.
    Ok(())
}

async fn answer_roll(load: Arc<Load>) {
    let (answered, missing) = roll(&load, ROLL_PATIENCE).await;
    say(&Said::Rolled { answered, missing });
}

async fn start(spec: &NodeSpec) -> anyhow::Result<ActorSystem> {
    let plane = multidc::connect(&spec.plane).await.context("the control plane")?;
    let times = |options: ControllerOptionsBuilder| {
        options
            .lease_ttl(TTL)
            .heartbeat_interval(TTL / 4)
            .cache_refresh_interval(REFRESH)
            .max_cache_staleness(TTL * 2)
            .leader_check_interval(Duration::from_secs(1))
            .request_timeout(Duration::from_secs(2))
            .max_backoff(Duration::from_secs(2))
    };
    let number = |id: &str| Number(id.parse().unwrap_or(0));
    let builder = ActorSystem::builder("soak")
        .data_center(DataCenter::new(&spec.dc))
        .control_plane(plane)
        .controller(times)
        .listen(&spec.listen)
        .advertise(&spec.advertise)
        .seeds(spec.seeds.clone())
        .actor::<Target>(|kind| kind.handles::<Put>())
        .actor::<Brief>(|kind| kind.handles::<Put>())
        .grain::<Cart>(|kind| kind.args(number).per_data_center().idle(IDLE).handles::<Put>())
        .grain::<Ledger>(|kind| kind.args(number).idle(IDLE).handles::<Put>())
        .grain::<Vault>(|kind| {
            let kind = kind.args(number).scope(Scope::Global).survives(Loss::DataCenter);
            kind.idle(IDLE).handles::<Put>()
        })
        .actor::<Deed>(|kind| kind.handles::<Put>())
        .ownership(|options| options.ttl(TTL));
    let builder = match &spec.tls {
        None => builder,
        Some([authority, certificate, key]) => {
            let tls = multidc::TlsConfig::builder().ca_file(authority).certificate_file(certificate).key_file(key);
            builder.tls(tls.reload_every(RELOAD).build().context("TLS")?)
        }
    };
    Ok(builder.start().await?)
}

/// Grains that nobody asked for this long go to rest: often enough for many to do so, and to come back.
const IDLE: Duration = Duration::from_secs(2);

/// Starts a named target; after a restart its name is free once the old node was noticed to be dead.
async fn keep_target(system: ActorSystem, slot: usize, number: usize, targets: usize) {
    let name = target_name(slot, number);
    let position = (slot * targets + number) as u32;
    let spawned = crate::eventually(&name, NAME_PATIENCE, || async {
        system.spawn_on::<Target>(&name, Number(position)).await.map_err(|error| error.to_string())
    });
    if let Err(error) = spawned.await {
        say(&Said::Wrong { rule: "A2".into(), text: format!("{name} never got its name: {error}") });
    }
}

/// Starts the global actor of this place, unless it lives already: it outlives its node.
async fn keep_deed(system: ActorSystem, slot: usize) {
    let name = deed_name(slot);
    let spawned = crate::eventually(&name, NAME_PATIENCE, || async {
        let spawn = system.spawn_on::<Deed>(&name, Number(slot as u32 + 1)).global();
        match spawn.survives(Loss::DataCenter).await {
            Ok(_) | Err(Error::NameTaken { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    });
    if let Err(error) = spawned.await {
        say(&Said::Wrong { rule: "A2".into(), text: format!("{name} was never claimed: {error}") });
    }
}

async fn tell_changes(system: ActorSystem) {
    let mut events = system.events();
    drop(system);
    while let Some(event) = events.next().await {
        let changes = !matches!(
            event,
            Event::DeadLetter(_)
                | Event::GrainActivated { .. }
                | Event::GrainPassivated { .. }
                | Event::Ownership(_)
                | Event::GlobalMoved { .. }
                | Event::Missed(_)
        );
        if changes {
            say(&Said::Change { at_us: now_us(), text: format!("{event:?}") });
        }
    }
}

async fn tell_figures(load: Arc<Load>, plant: Option<Plant>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    let mut kept: (Vec<Vec<u8>>, Vec<std::fs::File>) = Default::default();
    loop {
        every.tick().await;
        let system = &load.system;
        say(&Said::Figures(Figures {
            ready: system.data_center_ready(),
            tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
            actors: system.actor_count(),
            members: system.members().len(),
            placeable: system.data_centers().iter().filter(|dc| dc.takes_placements).count(),
            leads: system.leader() == Some(system.node_id()),
            dead_letters: system.dead_letters(),
            lookups: load.counts.lookups.load(Ordering::Relaxed),
            lookups_failed: load.counts.lookups_failed.load(Ordering::Relaxed),
        }));
        match plant {
            Some(Plant::Memory) => kept.0.push(vec![1; 1 << 20]),
            Some(Plant::Files) => kept.1.extend((0..10).filter_map(|_| std::fs::File::open("/dev/null").ok())),
            Some(Plant::Tasks) => (0..100).for_each(|_| drop(tokio::spawn(std::future::pending::<()>()))),
            _ => {}
        }
    }
}

/// One line at a time, whole.
fn say(said: &Said) {
    if let Ok(mut text) = serde_json::to_vec(said) {
        text.push(b'\n');
        // Whoever read it is gone, and so will this process be.
        let _ = std::io::stdout().lock().write_all(&text);
    }
}

/// The lines of standard input; they end when whoever started this process is gone.
fn orders() -> tokio::sync::mpsc::Receiver<String> {
    let (lines, received) = tokio::sync::mpsc::channel(64);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    received
}
