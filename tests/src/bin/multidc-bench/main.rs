//! Benchmarks: each figure beside the floor measured in the same run, because
//! machines are shared and noisy. `cargo xtask bench` runs it in release mode.

#![expect(clippy::disallowed_methods, reason = "benchmarks read the real clock")]

// The same floors as the link's own benchmark measures against.
#[path = "../../../../crates/dc-remoting/examples/link_bench/bare_tonic.rs"]
mod bare_tonic;
mod failover;
mod global;
mod lookup;
mod messages;
#[path = "../../../../crates/dc-remoting/examples/link_bench/raw_tcp.rs"]
mod raw_tcp;
mod requests;
mod routing;
mod serve;
mod spawn;
mod table;

use std::{future::Future, time::Duration};

use bytes::Bytes;
use clap::{Parser, ValueEnum};

/// What each transport can do.
pub(crate) trait Client: Clone + Send + Sync + 'static {
    fn ask(&self, payload: Bytes) -> impl Future<Output = Bytes> + Send;
    fn tell(&self, payload: Bytes) -> impl Future<Output = ()> + Send;
}

/// A one-byte ask of this value is answered with the number of tells so far.
pub(crate) const COUNT: u8 = 255;

/// Benchmarks of multidc; without names, all of them.
#[derive(Debug, Parser)]
struct Args {
    /// Which ones.
    names: Vec<Bench>,
    /// How long each figure is measured, in milliseconds.
    #[arg(long, default_value_t = 1500)]
    millis: u64,
    /// Be one end of a benchmark: used by the benchmark itself.
    #[arg(long, hide = true)]
    serve: Option<serve::Role>,
    /// Of `failover`: sqlite (the default), nats or etcd (three servers each). Of a served node: a URL.
    #[arg(long, default_value = "")]
    control_plane: String,
    /// Of `failover`: how many times a datacenter is killed.
    #[arg(long, default_value_t = 10)]
    runs: u32,
    /// Of `failover`: with leases of 2 s instead of the defaults.
    #[arg(long)]
    fast: bool,
    /// Datacenter of a served node.
    #[arg(long, hide = true, default_value = "dc-2")]
    dc: String,
    /// Seed of a served node.
    #[arg(long, hide = true)]
    seed: Option<String>,
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
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(role) = args.serve {
        return serve::run(role, &args.control_plane, &args.dc, args.seed.as_deref()).await;
    }
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
    if args.names.contains(&Bench::Failover) {
        failover::run(failover::Plan { runs: args.runs, store: &args.control_plane, fast: args.fast }).await?;
    }
    Ok(())
}
