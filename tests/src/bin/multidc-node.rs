//! One node of the whole-system tests and the demo. It is asked over standard
//! input, answers on standard output, logs to standard error, and ends when its
//! standard input does.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, UNIX_EPOCH},
};

use anyhow::Context as _;
use clap::Parser;
use dc_core::{Clock, SystemClock};
use futures::{StreamExt, TryStreamExt};
use multidc::{DrainOptions, DrainOutcome, Infallible, Loss, Scope, TlsConfig, prelude::*};
use multidc_tests::{
    actors::{AddItem, Analyse, Cart, CartArgs, Ledger, PanicNow, Progress, Worker, WorkerArgs, here},
    clock::{RateClock, wall},
    counters::{Counter, CounterArgs, Increment, Nearby, Tally, log_at},
    protocol::{Answer, CartReport, Command, Failure, KnownDc, Line, Question, Status, Where},
};
use serde::{Deserialize, Serialize};

/// One node of the demo and the whole-system tests.
#[derive(Debug, Parser)]
struct Args {
    /// The system's name.
    #[arg(long)]
    system: String,
    /// The datacenter's name.
    #[arg(long)]
    dc: String,
    /// The datacenter's region.
    #[arg(long)]
    region: Option<String>,
    /// The control plane: sqlite:///path, nats://host:port, etcd://host:port.
    #[arg(long)]
    control_plane: String,
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// A node of the same datacenter; may be given several times.
    #[arg(long = "seed")]
    seeds: Vec<String>,
    /// The record's lease, in milliseconds.
    #[arg(long, default_value_t = 3000)]
    ttl_ms: u64,
    /// Time between two renewals, in milliseconds.
    #[arg(long, default_value_t = 800)]
    heartbeat_ms: u64,
    /// Time between two lists of the control plane, in milliseconds.
    #[arg(long, default_value_t = 500)]
    refresh_ms: u64,
    /// Age from which on the table is stale, in milliseconds.
    #[arg(long, default_value_t = 5000)]
    stale_ms: u64,
    /// The lease of what is owned globally, in milliseconds; by default the library's.
    #[arg(long)]
    own_ttl_ms: Option<u64>,
    /// How many names of lost owners the node claims in a second; by default the library's.
    #[arg(long)]
    claims_per_second: Option<u32>,
    /// The log that global counters write to; without it they count in memory.
    #[arg(long)]
    log: Option<SocketAddr>,
    /// Where others reach this node, if not where it listens.
    #[arg(long)]
    advertise: Option<String>,
    /// How fast the node's clock runs: 1.1 gains an hour in ten.
    #[arg(long, default_value_t = 1.0)]
    clock_rate: f64,
    /// Links over TLS, with `ca.pem`, `<datacenter id>.pem` and `.key` of this directory: see `dcctl certs dev`.
    #[arg(long, value_name = "DIR")]
    tls_dir: Option<std::path::PathBuf>,
    /// Register a kind that other nodes do not know.
    #[arg(long)]
    odd_kind: bool,
    /// Go on placing while the table is stale.
    #[arg(long)]
    lenient: bool,
}

/// A kind that no other node knows.
#[derive(Clone, Debug, Serialize, Deserialize, Actor, RemoteActor)]
#[remote(name = "only-here")]
struct OnlyHere;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MULTIDC_NODE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    let args = Args::parse();
    here(&args.dc);
    if let Some(log) = args.log {
        log_at(log);
    }
    let system = start(&args).await?;
    let addr = system.endpoint().to_string();
    print(&Line::Started { addr, node: system.node_id().to_string() });
    tokio::spawn(print_events(system.clone()));
    tokio::spawn(tick());
    serve(system).await
}

/// The most that a tick of 100 ms was late, in milliseconds: how long a busy machine kept this process from running.
static LATE_MS: AtomicU64 = AtomicU64::new(0);

async fn tick() {
    const TICK: Duration = Duration::from_millis(100);
    loop {
        let begun = SystemClock.now();
        tokio::time::sleep(TICK).await;
        let late = SystemClock.now().saturating_duration_since(begun + TICK);
        let late = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
        LATE_MS.fetch_max(late, Ordering::Relaxed);
        if late > 250 {
            tracing::debug!(late, "a tick was late, in milliseconds");
        }
    }
}

async fn start(args: &Args) -> anyhow::Result<ActorSystem> {
    let mut dc = DataCenter::new(&args.dc);
    if let Some(region) = &args.region {
        dc = dc.region(region);
    }
    let dc = dc.build()?;
    let times = |options: ControllerOptionsBuilder| {
        options
            .lease_ttl(Duration::from_millis(args.ttl_ms))
            .heartbeat_interval(Duration::from_millis(args.heartbeat_ms))
            .cache_refresh_interval(Duration::from_millis(args.refresh_ms))
            .max_cache_staleness(Duration::from_millis(args.stale_ms))
            .leader_check_interval(Duration::from_millis(args.heartbeat_ms))
            .request_timeout(Duration::from_secs(2))
            .max_backoff(Duration::from_secs(2))
            .fail_on_stale_cache(!args.lenient)
    };
    let plane = multidc::connect(&args.control_plane).await.context("the control plane")?;
    let tls = args.tls_dir.as_deref().map(|dir| certificates(dir, &dc)).transpose().context("certificates")?;
    let mut builder = ActorSystem::builder(&args.system)
        .data_center(dc)
        .control_plane(plane)
        .controller(times)
        .listen(args.listen)
        .seeds(args.seeds.clone())
        .actor::<Worker>(|kind| kind.handles::<Analyse>().handles::<Progress>().handles::<PanicNow>())
        .grain::<Cart>(|kind| kind.args(|_| CartArgs::default()).per_data_center().handles::<AddItem>())
        .grain::<Ledger>(|kind| kind.args(|_| CartArgs::default()).handles::<AddItem>())
        .actor::<Counter>(|kind| kind.handles::<Increment>().snapshots())
        .grain::<Nearby>(|kind| kind.args(counter).per_data_center().handles::<Increment>())
        .grain::<Tally>(|kind| {
            let kind = kind.args(counter).scope(Scope::Global).survives(Loss::DataCenter);
            kind.handles::<Increment>().snapshots()
        })
        .ownership(|mut options| {
            if let Some(ttl) = args.own_ttl_ms {
                options = options.ttl(Duration::from_millis(ttl));
            }
            if let Some(claims) = args.claims_per_second {
                options = options.claims_per_second(claims);
            }
            options
        });
    if let Some(endpoint) = &args.advertise {
        builder = builder.advertise(endpoint);
    }
    if args.clock_rate != 1.0 {
        builder = builder.clock(std::sync::Arc::new(RateClock::new(args.clock_rate)));
    }
    if let Some(tls) = tls {
        builder = builder.tls(tls);
    }
    if args.odd_kind {
        builder = builder.actor::<OnlyHere>(|kind| kind);
    }
    Ok(builder.start().await?)
}

fn counter(id: &str) -> CounterArgs {
    CounterArgs { id: id.to_owned() }
}

fn certificates(dir: &std::path::Path, dc: &DataCenter) -> anyhow::Result<TlsConfig> {
    let file = dc.id().as_str().replace('/', "_");
    Ok(TlsConfig::builder()
        .ca_file(dir.join("ca.pem"))
        .certificate_file(dir.join(format!("{file}.pem")))
        .key_file(dir.join(format!("{file}.key")))
        .reload_every(Duration::from_secs(1))
        .build()?)
}

async fn print_events(system: ActorSystem) {
    let mut events = system.events();
    drop(system);
    while let Some(event) = events.next().await {
        print(&Line::Event { text: format!("{event:?}") });
    }
}

async fn print_watch(name: String, mut watch: ActorWatch) {
    while let Some(change) = watch.next().await {
        print(&Line::Event { text: format!("watch {name}: {change:?}") });
    }
}

/// One line at a time, whole.
fn print(line: &Line) {
    use std::io::Write;
    if let Ok(mut text) = serde_json::to_vec(line) {
        text.push(b'\n');
        // Whoever read it is gone, and so will this process be.
        let _ = std::io::stdout().lock().write_all(&text);
    }
}

/// The lines of standard input; they end when whoever started this process is gone.
fn questions() -> tokio::sync::mpsc::Receiver<String> {
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

async fn serve(system: ActorSystem) -> anyhow::Result<()> {
    let mut lines = questions();
    while let Some(line) = lines.recv().await {
        let question: Question = serde_json::from_str(&line).with_context(|| line.clone())?;
        if matches!(question.ask, Command::Shutdown) {
            system.shutdown().await?;
            print(&Line::Answer { id: question.id, result: Ok(Answer::Done) });
            return Ok(());
        }
        let system = system.clone();
        tokio::spawn(async move {
            let result = answer(&system, question.ask).await.map_err(|error| Failure {
                kind: error.name().to_owned(),
                text: error.to_string(),
                certainly_not_run: error.certainly_not_run(),
            });
            print(&Line::Answer { id: question.id, result });
        });
    }
    // Whoever started this process is gone.
    Ok(())
}

/// None of these actors' handlers returns an error of its own.
fn failed(error: AskError<Infallible>) -> Error {
    match error {
        AskError::Failed(error) => error,
        AskError::Handler(never) => match never {},
    }
}

async fn answer(system: &ActorSystem, ask: Command) -> Result<Answer, Error> {
    match ask {
        Command::Status => Ok(Answer::Status(status(system))),
        Command::Shutdown => Ok(Answer::Done),
        Command::Spawn { name, at } => {
            match at {
                None => drop(system.spawn_on::<Worker>(&name, WorkerArgs::default()).await?),
                Some(at) => {
                    let at = selector(at);
                    drop(system.spawn_on::<Worker>(&name, WorkerArgs::default()).in_data_center(at).await?);
                }
            }
            Ok(Answer::Done)
        }
        Command::SpawnUnknownKind { name, at } => {
            system.spawn_on::<OnlyHere>(&name, OnlyHere).in_data_center(selector(at)).await?;
            Ok(Answer::Done)
        }
        Command::AskWorker { name, timeout_ms } => {
            let worker = system.actor_of::<Worker>(&name).await?;
            let report = worker.ask(Progress).timeout(Duration::from_millis(timeout_ms)).await.map_err(failed)?;
            Ok(Answer::Report(report))
        }
        Command::TellWorker { name, day } => {
            system.actor_of::<Worker>(&name).await?.tell(Analyse { day }).await?;
            Ok(Answer::Done)
        }
        Command::TellWorkerMany { name, from, count } => {
            let worker = system.actor_of::<Worker>(&name).await?;
            for day in from..from + count {
                worker.tell(Analyse { day }).await?;
            }
            Ok(Answer::Done)
        }
        Command::PanicWorker { name } => {
            system.actor_of::<Worker>(&name).await?.ask(PanicNow).await.map_err(failed)?;
            Ok(Answer::Done)
        }
        Command::AddToCart { cart, timeout_ms, times } => add::<Cart>(system, &cart, timeout_ms, times).await,
        Command::AddToLedger { ledger, timeout_ms, times } => add::<Ledger>(system, &ledger, timeout_ms, times).await,
        Command::SpawnCounter { name, at } => {
            let spawn = system.spawn_on::<Counter>(&name, counter(&name)).global().survives(Loss::DataCenter);
            match at {
                None => drop(spawn.await?),
                Some(at) => drop(spawn.in_data_center(selector(at)).await?),
            }
            Ok(Answer::Done)
        }
        Command::SpawnCounters { prefix, count, at } => spawn_counters(system, &prefix, count, selector(at)).await,
        Command::Count { name, op, timeout_ms } => {
            let timeout = Duration::from_millis(timeout_ms);
            let found = system.actor_of::<Counter>(&name).global().timeout(timeout).await?;
            Ok(Answer::Counted(found.ask(Increment { op }).timeout(timeout).await.map_err(failed)?))
        }
        Command::CountGrain { id, op, timeout_ms } => {
            let ask = system.grain::<Tally>(&id).ask(Increment { op });
            Ok(Answer::Counted(ask.timeout(Duration::from_millis(timeout_ms)).await.map_err(failed)?))
        }
        Command::Watch { name, global } => {
            let watch = match global {
                true => system.watch(&system.actor_of::<Counter>(&name).global().await?),
                false => system.watch(&system.actor_of::<Worker>(&name).await?),
            };
            tokio::spawn(print_watch(name, watch));
            Ok(Answer::Done)
        }
        Command::Drain { why } => {
            let mut drain = system.drain(DrainOptions::default().why(why)).await?;
            while let Some(progress) = drain.next().await {
                print(&Line::Event { text: format!("drain: {} moved, {} left", progress.moved, progress.left) });
            }
            Ok(Answer::Drained(drain.outcome().await == DrainOutcome::Drained))
        }
        Command::OwnershipStats => {
            let stats =
                system.ownership_stats().into_iter().chain([("late_worst_ms", LATE_MS.load(Ordering::Relaxed))]);
            Ok(Answer::Stats(stats.map(|(name, count)| (name.to_owned(), count)).collect()))
        }
        Command::WallClock => {
            let since = wall().duration_since(UNIX_EPOCH).unwrap_or_default();
            Ok(Answer::WallClock(since.as_secs()))
        }
    }
}

/// Many at once, in turns: a store takes only so many writes.
async fn spawn_counters(
    system: &ActorSystem,
    prefix: &str,
    count: u32,
    at: DataCenterSelector,
) -> Result<Answer, Error> {
    let spawns = (0..count).map(|n| {
        let (name, at) = (format!("{prefix}{n}"), at.clone());
        async move {
            for _ in 0..10 {
                let spawn = system.spawn_on::<Counter>(&name, counter(&name)).global().survives(Loss::DataCenter);
                match spawn.in_data_center(at.clone()).await {
                    // The store was slow: nothing has started.
                    Err(Error::OwnershipUnavailable { .. }) => {}
                    other => return other.map(drop),
                }
            }
            Err(Error::Overloaded { what: format!("the store, with {name}") })
        }
    });
    futures::stream::iter(spawns).buffer_unordered(32).try_collect::<Vec<()>>().await?;
    Ok(Answer::Done)
}

async fn add<G>(system: &ActorSystem, id: &str, timeout_ms: u64, times: u32) -> Result<Answer, Error>
where
    G: Handles<AddItem, Ok = CartReport, Err = Infallible>,
{
    let grain = system.grain::<G>(id);
    let mut asks = tokio::task::JoinSet::new();
    for _ in 0..times {
        let grain = grain.clone();
        asks.spawn(async move { grain.ask(AddItem).timeout(Duration::from_millis(timeout_ms)).await });
    }
    let mut carts = Vec::new();
    while let Some(done) = asks.join_next().await {
        // An ask neither panics nor is aborted.
        carts.push(done.expect("asks end").map_err(failed)?);
    }
    Ok(Answer::Carts(carts))
}

fn selector(at: Where) -> DataCenterSelector {
    DataCenterSelector { name: at.name, region: at.region, zone: at.zone, ..Selector::any() }
}

fn status(system: &ActorSystem) -> Status {
    Status {
        ready: system.data_center_ready(),
        table_age_ms: system.data_center_last_refresh().map(|age| age.as_millis() as u64),
        leads: system.leader() == Some(system.node_id()),
        members: system.members().len(),
        data_centers: system
            .data_centers()
            .into_iter()
            .map(|dc| KnownDc {
                id: dc.id().to_string(),
                state: dc.state.to_string(),
                intent: dc.intent.to_string(),
                routable: match (dc.takes_placements, dc.takes_traffic) {
                    (true, _) => "placements".to_owned(),
                    (false, true) => "traffic".to_owned(),
                    (false, false) => "nothing".to_owned(),
                },
                endpoints: dc.endpoints.len(),
                epoch: dc.epoch.0,
            })
            .collect(),
    }
}
