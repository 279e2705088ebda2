//! Tell and ask between two processes on loopback, as ratios to both floors.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use multidc::prelude::*;
use multidc_tests::{eventually, servers::Store};

use crate::{
    COUNT, Client, bare_tonic, raw_tcp,
    serve::{Count, Counted, Echo, EchoArgs, Far, Ping, Role, node},
    table,
};

const SIZES: [usize; 3] = [64, 1024, 64 * 1024];

/// An actor, as the floors are spoken to.
#[derive(Clone)]
struct Ours(Ref<Echo>);

impl Client for Ours {
    async fn ask(&self, payload: Bytes) -> Bytes {
        if payload[..] == [COUNT] {
            let counted = self.0.ask(Counted).timeout(Duration::from_secs(60)).await.expect("counted");
            return Bytes::copy_from_slice(&counted.to_be_bytes());
        }
        self.0.ask(Ping(payload)).await.expect("answered").0
    }

    async fn tell(&self, payload: Bytes) {
        self.0.tell(Count(payload)).await.expect("told");
    }
}

/// Asks, tells, and asks beside bulk: each if wanted.
pub(crate) async fn run(time: Duration, [wants_asks, wants_tells, wants_bulk]: [bool; 3]) -> anyhow::Result<()> {
    let store = Store::sqlite().await?;
    let raw_far = Far::start(Role::RawTcp, &[])?;
    let tonic_far = Far::start(Role::BareTonic, &[])?;
    let _far = Far::start(Role::Node, &["--control-plane", &store.url])?;
    let system = node(&store.url, "dc-1", None).await?;
    let ours = Ours(spawn_far(&system, "echo").await?);
    let raw = raw_tcp::connect(&raw_far.addr.to_string()).await;
    let tonic = bare_tonic::connect(&tonic_far.addr.to_string()).await;

    if wants_asks {
        compare_asks(&ours, &raw, &tonic, time).await?;
    }
    if wants_tells {
        compare_tells(&ours, &raw, &tonic, time).await?;
    }
    if wants_bulk {
        beside_bulk(&system, &ours, time).await?;
    }
    system.shutdown().await?;
    Ok(())
}

async fn compare_asks(
    ours: &impl Client,
    raw: &impl Client,
    tonic: &impl Client,
    time: Duration,
) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for size in SIZES {
        for in_flight in [1, 64, 512] {
            let (ours, our_p50) = asks(ours, size, in_flight, time).await?;
            let (raw, raw_p50) = asks(raw, size, in_flight, time).await?;
            let (tonic, tonic_p50) = asks(tonic, size, in_flight, time).await?;
            let goals = if size == 64 && in_flight == 512 { (0.6, 0.8) } else { (0.0, 0.0) };
            let p50 = if in_flight == 1 {
                let ratio = our_p50.as_secs_f64() / raw_p50.as_secs_f64();
                let times = [our_p50, raw_p50, tonic_p50].map(table::micros).join(" / ");
                format!("{times}, {} x raw", table::at_most(ratio, if size == 64 { 1.3 } else { f64::MAX }))
            } else {
                String::new()
            };
            rows.push(vec![
                format!("{size} B"),
                in_flight.to_string(),
                table::rate(ours),
                table::rate(raw),
                table::rate(tonic),
                table::at_least(ours / raw, goals.0),
                table::at_least(ours / tonic, goals.1),
                p50,
            ]);
        }
    }
    let head = ["payload", "in flight", "ask", "raw TCP", "bare tonic", "/ raw", "/ tonic", "p50 ours / raw / tonic"];
    table::print("Asks between two processes (goals at 64 B, 512: 0.6 raw, 0.8 tonic; p50 1.3 x raw)", &head, &rows);
    Ok(())
}

async fn compare_tells(
    ours: &impl Client,
    raw: &impl Client,
    tonic: &impl Client,
    time: Duration,
) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for size in SIZES {
        let ours = one_way(ours, size, time).await?;
        let (raw, tonic) = (one_way(raw, size, time).await?, one_way(tonic, size, time).await?);
        let goals = if size == 64 { (0.45, 0.85) } else { (0.0, 0.0) };
        rows.push(vec![
            format!("{size} B"),
            table::rate(ours),
            table::rate(raw),
            table::rate(tonic),
            table::at_least(ours / raw, goals.0),
            table::at_least(ours / tonic, goals.1),
        ]);
    }
    let head = ["payload", "tell", "raw TCP", "bare tonic", "/ raw", "/ tonic"];
    table::print("One way, counted at the receiver (goals at 64 B: 0.45 raw, 0.85 tonic)", &head, &rows);
    Ok(())
}

/// An echo in dc-2, once that serves.
pub(crate) async fn spawn_far(system: &ActorSystem, name: &str) -> anyhow::Result<Ref<Echo>> {
    eventually("an echo in dc-2", Duration::from_secs(20), || async {
        let spawn = system.spawn_on::<Echo>(name, EchoArgs::default()).in_data_center(Selector::name("dc-2"));
        spawn.await.map_err(|err| err.to_string())
    })
    .await
}

async fn asks(client: &impl Client, size: usize, in_flight: usize, time: Duration) -> anyhow::Result<(f64, Duration)> {
    let payload = Bytes::from(vec![7; size]);
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..in_flight {
        let (client, payload) = (client.clone(), payload.clone());
        tasks.spawn(async move {
            let mut samples = Vec::new();
            let mut last = Instant::now();
            while last.saturating_duration_since(start) < time {
                client.ask(payload.clone()).await;
                let now = Instant::now();
                samples.push(now - last);
                last = now;
            }
            samples
        });
    }
    let mut samples = Vec::new();
    while let Some(task) = tasks.join_next().await {
        samples.extend(task?);
    }
    let rate = samples.len() as f64 / start.elapsed().as_secs_f64();
    Ok((rate, table::percentile(&mut samples, 0.5)))
}

async fn counted(client: &impl Client) -> anyhow::Result<u64> {
    let answer = client.ask(Bytes::from_static(&[COUNT])).await;
    Ok(u64::from_be_bytes(answer.get(..8).context("eight bytes")?.try_into()?))
}

async fn one_way(client: &impl Client, size: usize, time: Duration) -> anyhow::Result<f64> {
    let client = client.clone();
    let sender = async move {
        let payload = Bytes::from(vec![7; size]);
        let before = counted(&client).await?;
        let start = Instant::now();
        let mut sent = 0_u64;
        while start.elapsed() < time {
            for _ in 0..256 {
                client.tell(payload.clone()).await;
            }
            sent += 256;
        }
        while counted(&client).await? - before < sent {}
        anyhow::Ok(sent as f64 / start.elapsed().as_secs_f64())
    };
    tokio::spawn(sender).await?
}

/// A small ask while another sender pushes 1 MiB messages over the same link.
async fn beside_bulk(system: &ActorSystem, ours: &Ours, time: Duration) -> anyhow::Result<()> {
    let (_, idle) = asks(ours, 64, 1, time).await?;
    let bulk = Ours(spawn_far(system, "bulk").await?);
    let stop = Arc::new(AtomicBool::new(false));
    let pusher = tokio::spawn({
        let stop = stop.clone();
        async move {
            let payload = Bytes::from(vec![7; 1 << 20]);
            let mut pushed = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                bulk.tell(payload.clone()).await;
                pushed += 1;
            }
            pushed
        }
    });
    let (_, beside) = asks(ours, 64, 1, time).await?;
    stop.store(true, Ordering::Relaxed);
    let pushed = pusher.await.context("the pusher")?;
    let ratio = beside.as_secs_f64() / idle.as_secs_f64();
    let row = vec![
        table::micros(idle),
        table::micros(beside),
        format!("{:.2} GB/s", pushed as f64 * (1 << 20) as f64 / time.as_secs_f64() / 1e9),
        table::at_most(ratio, 3.0),
    ];
    let head = ["idle p50", "beside p50", "bulk", "beside / idle"];
    table::print("A 64 B ask beside 1 MiB messages (goal: at most 3 x its idle p50)", &head, &[row]);
    Ok(())
}
