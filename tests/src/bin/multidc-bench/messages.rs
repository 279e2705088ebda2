//! Tell and ask between two processes on loopback, as ratios to both floors.

use std::{
    net::SocketAddr,
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
    bare_tonic, raw_tcp,
    serve::{Count, Counted, Echo, EchoArgs, Far, Ping, Role, node},
    table,
};

const SIZES: [usize; 3] = [64, 1024, 64 * 1024];

pub(crate) async fn run(time: Duration) -> anyhow::Result<()> {
    let store = Store::sqlite().await?;
    let raw = Far::start(Role::RawTcp, &[])?;
    let tonic = Far::start(Role::BareTonic, &[])?;
    let _far = Far::start(Role::Node, &["--control-plane", &store.url])?;
    let system = node(&store.url, "dc-1", None).await?;
    let echo = spawn_far(&system, "echo").await?;

    asks(&echo, raw.addr, tonic.addr, time).await?;
    one_way(&echo, raw.addr, tonic.addr, time).await?;
    beside_bulk(&system, &echo, time).await?;
    system.shutdown().await?;
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

async fn asks(echo: &Ref<Echo>, raw: SocketAddr, tonic: SocketAddr, time: Duration) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for size in SIZES {
        for in_flight in [1, 64, 512] {
            // What is in flight fits the smallest window of the three: both floors send before they read.
            let in_flight = in_flight.min((2 << 20) / size);
            let (ours, mut our_times) = our_asks(echo, size, in_flight, time).await?;
            let (raw, mut raw_times) = raw_tcp::asks(raw, size, in_flight, time).await?;
            let (tonic, mut tonic_times) = bare_tonic::asks(tonic, size, in_flight, time).await?;
            let goals = if size == 64 && in_flight == 512 { (0.6, 0.8) } else { (0.0, 0.0) };
            let p50 = table::percentile(&mut our_times, 0.5);
            let raw_p50 = table::percentile(&mut raw_times, 0.5);
            let tonic_p50 = table::percentile(&mut tonic_times, 0.5);
            let p50_text = if in_flight == 1 {
                let ratio = p50.as_secs_f64() / raw_p50.as_secs_f64();
                let times = [p50, raw_p50, tonic_p50].map(table::micros).join(" / ");
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
                p50_text,
            ]);
        }
    }
    let head = ["payload", "in flight", "ask", "raw TCP", "bare tonic", "/ raw", "/ tonic", "p50 ours / raw / tonic"];
    table::print("Asks between two processes (goals at 64 B, 512: 0.6 raw, 0.8 tonic; p50 1.3 x raw)", &head, &rows);
    Ok(())
}

async fn our_asks(
    echo: &Ref<Echo>,
    size: usize,
    in_flight: usize,
    time: Duration,
) -> anyhow::Result<(f64, Vec<Duration>)> {
    let payload = Bytes::from(vec![7; size]);
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..in_flight {
        let (echo, payload) = (echo.clone(), payload.clone());
        tasks.spawn(async move {
            let (mut done, mut samples) = (0_u64, Vec::new());
            while start.elapsed() < time {
                let sent = Instant::now();
                echo.ask(Ping(payload.clone())).await.map_err(|err| anyhow::anyhow!("{err}"))?;
                done += 1;
                if in_flight == 1 {
                    samples.push(sent.elapsed());
                }
            }
            anyhow::Ok((done, samples))
        });
    }
    let (mut done, mut samples) = (0, Vec::new());
    while let Some(task) = tasks.join_next().await {
        let (asked, times) = task??;
        done += asked;
        samples.extend(times);
    }
    Ok((done as f64 / start.elapsed().as_secs_f64(), samples))
}

async fn one_way(echo: &Ref<Echo>, raw: SocketAddr, tonic: SocketAddr, time: Duration) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for size in SIZES {
        let ours = our_tells(echo, size, time).await?;
        let raw = raw_tcp::one_way(raw, size, time).await?;
        let tonic = bare_tonic::one_way(tonic, size, time).await?;
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

async fn our_tells(echo: &Ref<Echo>, size: usize, time: Duration) -> anyhow::Result<f64> {
    let payload = Bytes::from(vec![7; size]);
    let before = counted(echo).await?;
    let start = Instant::now();
    let mut sent = 0_u64;
    while start.elapsed() < time {
        for _ in 0..64 {
            echo.tell(Count(payload.clone())).await.map_err(|err| anyhow::anyhow!("{err}"))?;
            sent += 1;
        }
    }
    // In order behind the tells, so it is answered when they have been handled.
    let seen = counted(echo).await? - before;
    anyhow::ensure!(seen == sent, "told {sent}, counted {seen}");
    Ok(seen as f64 / start.elapsed().as_secs_f64())
}

async fn counted(echo: &Ref<Echo>) -> anyhow::Result<u64> {
    let ask = echo.ask(Counted).timeout(Duration::from_secs(60));
    ask.await.map_err(|err| anyhow::anyhow!("{err}"))
}

/// A small ask while another sender pushes 1 MiB messages over the same link.
async fn beside_bulk(system: &ActorSystem, echo: &Ref<Echo>, time: Duration) -> anyhow::Result<()> {
    let (_, mut idle) = our_asks(echo, 64, 1, time).await?;
    let bulk = spawn_far(system, "bulk").await?;
    let stop = Arc::new(AtomicBool::new(false));
    let pusher = tokio::spawn({
        let stop = stop.clone();
        async move {
            let payload = Bytes::from(vec![7; 1 << 20]);
            let mut pushed = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                bulk.tell(Count(payload.clone())).await.map_err(|err| anyhow::anyhow!("{err}"))?;
                pushed += 1;
            }
            anyhow::Ok(pushed)
        }
    });
    let (_, mut beside) = our_asks(echo, 64, 1, time).await?;
    stop.store(true, Ordering::Relaxed);
    let pushed = pusher.await.context("the pusher")??;
    let (idle, p50, p99) =
        (table::percentile(&mut idle, 0.5), table::percentile(&mut beside, 0.5), table::percentile(&mut beside, 0.99));
    let ratio = p50.as_secs_f64() / idle.as_secs_f64();
    let row = vec![
        table::micros(idle),
        table::micros(p50),
        table::micros(p99),
        format!("{:.2} GB/s", pushed as f64 * (1 << 20) as f64 / time.as_secs_f64() / 1e9),
        table::at_most(ratio, 3.0),
    ];
    let head = ["idle p50", "beside p50", "beside p99", "bulk", "beside / idle"];
    table::print("A 64 B ask beside 1 MiB messages (goal: at most 3 x its idle p50)", &head, &[row]);
    Ok(())
}
