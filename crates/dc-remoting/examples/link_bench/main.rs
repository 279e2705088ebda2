//! Throughput and latency of links against two floors measured in the same run: a raw framed-TCP loop and
//! a bare tonic stream. Client and server are two processes on loopback.
//!
//! `cargo run --release -p dc-remoting --example link_bench [seconds per figure] [name filter]`

mod bare_tonic;
mod link;
mod raw_tcp;

use std::{
    future::Future,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use dc_core::{Clock, SystemClock};
use parking_lot::Mutex;

/// What each transport can do.
pub(crate) trait Client: Clone + Send + Sync + 'static {
    fn ask(&self, payload: Bytes) -> impl Future<Output = Bytes> + Send;
    fn tell(&self, payload: Bytes) -> impl Future<Output = ()> + Send;
}

/// A one-byte ask of this value is answered with the number of tells so far.
pub(crate) const COUNT: u8 = 255;

struct Figure {
    rate: f64,
    p50: Duration,
}

async fn asks(client: &impl Client, in_flight: usize, size: usize, time: Duration) -> Figure {
    let payload = Bytes::from(vec![1u8; size]);
    let samples = Arc::new(Mutex::new(Vec::with_capacity(1 << 20)));
    let began = SystemClock.now();
    let mut tasks = Vec::new();
    for _ in 0..in_flight {
        let (client, payload, samples) = (client.clone(), payload.clone(), Arc::clone(&samples));
        tasks.push(tokio::spawn(async move {
            let mut own = Vec::with_capacity(1 << 14);
            let mut last = began;
            while last.saturating_duration_since(began) < time {
                client.ask(payload.clone()).await;
                let now = SystemClock.now();
                own.push(now - last);
                last = now;
            }
            samples.lock().append(&mut own);
        }));
    }
    for task in tasks {
        task.await.expect("asks");
    }
    let took = SystemClock.now() - began;
    let mut samples = std::mem::take(&mut *samples.lock());
    samples.sort_unstable();
    Figure { rate: samples.len() as f64 / took.as_secs_f64(), p50: samples[samples.len() / 2] }
}

async fn one_way(client: &impl Client, size: usize, time: Duration) -> f64 {
    let client = client.clone();
    tokio::spawn(async move { one_way_task(&client, size, time).await }).await.expect("tells")
}

async fn one_way_task(client: &impl Client, size: usize, time: Duration) -> f64 {
    let payload = Bytes::from(vec![1u8; size]);
    let count = |bytes: Bytes| u64::from_be_bytes(bytes[..8].try_into().expect("8 bytes"));
    let before = count(client.ask(Bytes::from_static(&[COUNT])).await);
    let began = SystemClock.now();
    let mut sent = 0u64;
    while SystemClock.now() - began < time {
        for _ in 0..256 {
            client.tell(payload.clone()).await;
        }
        sent += 256;
    }
    loop {
        let arrived = count(client.ask(Bytes::from_static(&[COUNT])).await) - before;
        if arrived >= sent {
            return sent as f64 / (SystemClock.now() - began).as_secs_f64();
        }
    }
}

/// p50 of a small ask beside a stream of 1 MiB asks.
async fn beside_large<C: Client>(client: &C, large: &C, time: Duration) -> Figure {
    let noise = tokio::spawn({
        let large = large.clone();
        async move {
            let payload = Bytes::from(vec![1u8; 1 << 20]);
            loop {
                large.ask(payload.clone()).await;
            }
        }
    });
    let figure = asks(client, 1, 64, time).await;
    noise.abort();
    figure
}

struct Server(std::process::Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    fn start(kind: &str) -> (Self, String) {
        let exe = std::env::current_exe().expect("own path");
        let mut child =
            Command::new(exe).args(["server", kind]).stdout(Stdio::piped()).spawn().expect("starts its server");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("the server's address");
        (Self(child), line.trim().to_owned())
    }

    /// Processor time that this process and the server have used, in seconds.
    fn cpu(&self) -> f64 {
        let ticks = |pid: &str| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // After the name, which ends with `)`: state is field 3, user and system time are 14 and 15.
            let rest = stat.rsplit(')').next().unwrap_or_default();
            rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>()
        };
        (ticks("self") + ticks(&self.0.id().to_string())) / 100.0
    }
}

/// What to measure, and how long.
struct Plan {
    time: Duration,
    filter: String,
    /// One transport only, for profiling.
    only: Option<String>,
}

impl Plan {
    fn wants(&self, name: &str) -> bool {
        name.contains(&self.filter)
    }
}

const SIZES: [(usize, usize); 8] =
    [(64, 1), (64, 64), (64, 512), (1024, 1), (1024, 64), (1024, 512), (65536, 1), (65536, 64)];

/// All figures of one transport, by name.
async fn measure(client: &impl Client, server: &Server, plan: &Plan) -> Vec<(String, f64)> {
    let mut figures = Vec::new();
    for (size, in_flight) in SIZES {
        let name = format!("ask {size} B x {in_flight}");
        if plan.wants(&name) {
            let before = server.cpu();
            let figure = asks(client, in_flight, size, plan.time).await;
            let cpu = (server.cpu() - before) / (figure.rate * plan.time.as_secs_f64()) * 1e6;
            figures.push((format!("{name}: /s"), figure.rate));
            figures.push((format!("{name}: p50 us"), us(figure.p50)));
            figures.push((format!("{name}: cpu us"), cpu));
        }
    }
    for size in [64, 1024, 65536] {
        let name = format!("one-way {size} B");
        if plan.wants(&name) {
            let before = server.cpu();
            let rate = one_way(client, size, plan.time).await;
            let cpu = (server.cpu() - before) / (rate * plan.time.as_secs_f64()) * 1e6;
            figures.push((format!("{name}: /s"), rate));
            figures.push((format!("{name}: cpu us"), cpu));
        }
    }
    figures
}

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "server") {
        match args[2].as_str() {
            "raw" => raw_tcp::serve().await,
            "tonic" => bare_tonic::serve().await,
            _ => link::serve().await,
        }
        return;
    }
    let seconds: f64 = args.get(1).and_then(|arg| arg.parse().ok()).unwrap_or(2.0);
    let plan = Plan {
        time: Duration::from_secs_f64(seconds),
        filter: args.get(2).cloned().unwrap_or_default(),
        only: args.get(3).cloned(),
    };
    let only = |name: &str| plan.only.as_deref().is_none_or(|only| only == name);
    let (mut raw_figures, mut bare_figures) = (Vec::new(), Vec::new());
    if only("raw") {
        let (server, address) = Server::start("raw");
        raw_figures = measure(&raw_tcp::connect(&address).await, &server, &plan).await;
    }
    if only("tonic") {
        let (server, address) = Server::start("tonic");
        bare_figures = measure(&bare_tonic::connect(&address).await, &server, &plan).await;
    }
    if !only("link") {
        for (name, figure) in raw_figures.iter().chain(&bare_figures) {
            println!("{name:<26} {figure:>12.2}");
        }
        return;
    }
    let (server, address) = Server::start("link");
    let (link, large) = link::connect(&address).await;
    let figures = measure(&link, &server, &plan).await;
    println!("{:<26} {:>12} {:>12} {:>12} {:>8} {:>8}", "", "raw TCP", "bare tonic", "link", "of raw", "of bare");
    for (n, (name, figure)) in figures.iter().enumerate() {
        let raw = raw_figures.get(n).map_or(f64::NAN, |(_, figure)| *figure);
        let bare = bare_figures.get(n).map_or(f64::NAN, |(_, figure)| *figure);
        println!("{name:<26} {raw:>12.2} {bare:>12.2} {figure:>12.2} {:>8.2} {:>8.2}", figure / raw, figure / bare);
    }
    if plan.wants("beside") {
        let idle = asks(&link, 1, 64, plan.time).await;
        let busy = beside_large(&link, &large, plan.time).await;
        let (idle, busy) = (us(idle.p50), us(busy.p50));
        println!("64 B ask beside 1 MiB asks: p50 {busy:.0} us, idle {idle:.0} us, ratio {:.2}", busy / idle);
    }
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
