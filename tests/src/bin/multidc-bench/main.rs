//! Benchmarks: each figure beside the floor measured in the same run, because
//! machines are shared and noisy. `cargo xtask bench` runs it in release mode.

#![expect(clippy::disallowed_methods, reason = "benchmarks read the real clock")]

// The same floors as the link's own benchmark measures against.
#[path = "../../../../crates/dc-remoting/examples/link_bench/bare_tonic.rs"]
mod bare_tonic;
mod drain;
mod failover;
mod fleet;
mod global;
mod idle;
mod lookup;
mod machine;
mod messages;
#[path = "../../../../crates/dc-remoting/examples/link_bench/raw_tcp.rs"]
mod raw_tcp;
mod requests;
mod routing;
mod serve;
mod spawn;
mod steady;
mod table;

use std::{future::Future, time::Duration};

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use multidc_tests::soak::clock::now_us;
use tokio::signal::unix::{SignalKind, signal};

/// What each transport can do.
pub(crate) trait Client: Clone + Send + Sync + 'static {
    fn ask(&self, payload: Bytes) -> impl Future<Output = Bytes> + Send;
    fn tell(&self, payload: Bytes) -> impl Future<Output = ()> + Send;
}

/// A one-byte ask of this value is answered with the number of tells so far.
pub(crate) const COUNT: u8 = 255;

/// Benchmarks of multidc; without names, all of them but those that take minutes.
#[derive(Debug, Parser)]
struct Args {
    /// Which ones.
    names: Vec<Bench>,
    /// How long each figure is measured, in milliseconds.
    #[arg(long, default_value_t = 1500)]
    millis: u64,
    /// Of `failover`, `steady`, `idle` and `drain`: sqlite, nats or etcd (three servers each). Of a served node: a URL.
    #[arg(long, default_value = "sqlite")]
    control_plane: String,
    /// What is lost on long ways follows from it. Drawn if not given.
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    failover: failover::Options,
    #[command(flatten)]
    steady: steady::Options,
    #[command(flatten)]
    drain: drain::Options,
    /// Be one end of a benchmark: used by the benchmark itself.
    #[arg(long, hide = true)]
    serve: Option<serve::Role>,
    /// Datacenter of a served node.
    #[arg(long, hide = true, default_value = "dc-2")]
    dc: String,
    /// Whom a served node joins.
    #[arg(long, hide = true)]
    join: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// One routing decision, at 3, 100 and 10,000 records.
    Routing,
    /// Ask between two processes, against raw TCP and bare tonic.
    Asks,
    /// Tell between two processes, against raw TCP and bare tonic.
    Tells,
    /// A small ask beside 1 MiB messages.
    Bulk,
    /// Spawn in another datacenter.
    Spawn,
    /// Look-up by name at 2, 8 and 32 endpoints.
    Lookup,
    /// Requests per heartbeat and list, counted at the server.
    Requests,
    /// A message to a global grain, against one to a grain of each datacenter.
    Global,
    /// From a datacenter's death to the first answer elsewhere; takes minutes, so only where it is named.
    Failover,
    /// Nothing stops and nothing is taken over while nothing fails; only where it is named.
    Steady,
    /// Requests per second of a system on which nothing happens, counted at the servers; only where it is named.
    Idle,
    /// A drain of many grains and names while clients go on; only where it is named.
    Drain,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(role) = args.serve {
        return serve::run(role, &args.control_plane, &args.dc, args.join.as_deref()).await;
    }
    let mut ended = signal(SignalKind::terminate())?;
    // What runs is dropped, and takes its processes and files along.
    tokio::select! {
        done = run(&args) => done,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        _ = ended.recv() => anyhow::bail!("told to end"),
    }
}

async fn run(args: &Args) -> anyhow::Result<()> {
    let wanted = |bench| args.names.is_empty() || args.names.contains(&bench);
    let time = Duration::from_millis(args.millis);
    if wanted(Bench::Routing) {
        routing::run(time)?;
    }
    let messages = [wanted(Bench::Asks), wanted(Bench::Tells), wanted(Bench::Bulk)];
    if messages.contains(&true) {
        messages::run(time, messages).await?;
    }
    if wanted(Bench::Spawn) {
        spawn::run(time).await?;
    }
    if wanted(Bench::Lookup) {
        lookup::run(time).await?;
    }
    if wanted(Bench::Requests) {
        requests::run().await?;
    }
    if wanted(Bench::Global) {
        global::run(time).await?;
    }
    let (store, seed) = (&args.control_plane, args.seed.unwrap_or_else(|| now_us() % 1_000_000));
    for name in &args.names {
        let seeded = || println!("{name:?} on {store}, seed {seed}; {}", machine::load());
        match name {
            Bench::Failover => {
                seeded();
                failover::run(&args.failover, store, seed).await?;
            }
            Bench::Steady => {
                seeded();
                steady::run(&args.steady, store, seed).await?;
            }
            Bench::Idle => {
                seeded();
                idle::run(&args.steady, store, seed).await?;
            }
            Bench::Drain => {
                seeded();
                drain::run(&args.drain, store, seed).await?;
            }
            _ => {}
        }
    }
    Ok(())
}
