//! Requests per heartbeat and per list, counted at the server.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use dc_controlplane::ownership::{DocumentKey, Keep, Swap};
use dc_core::{DataCenter, DataCenterRecord, DataCenterState, Epoch, NodeEndpoint, NodeId, Owner, StoreId, Version};
use futures::{StreamExt, TryStreamExt};
use multidc::Expected;
use multidc_tests::servers::{Server, Store};

use crate::{fleet, machine, table};

const CALLS: u32 = 200;

/// Documents in a long list of them, and how often they are listed.
const DOCUMENTS: usize = 10_000;
const LISTS: u32 = 20;

pub(crate) async fn run() -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for store in [Store::nats(1).await?, Store::etcd(1).await?] {
        rows.push(on(&store).await?);
    }
    let head = ["store", "heartbeat", "list of 1 record", "list of 1,000 records"];
    table::print("Requests per call, counted at the server (P6, P7)", &head, &rows);
    let mut rows = Vec::new();
    for name in ["nats", "etcd"] {
        rows.push(listing(&fleet::store(name).await?).await?);
    }
    let head = ["store", "lists", "time, p50", "worst", "requests"];
    table::print(&format!("A list of {DOCUMENTS} ownership documents, three servers (O5)"), &head, &rows);
    println!("each call may take 5 s, the default; {}", machine::load());
    Ok(())
}

/// How long a list of many ownership documents takes, and of how many requests it is made.
async fn listing(store: &Store) -> anyhow::Result<Vec<String>> {
    let plane = multidc::connect(&store.url).await?;
    let documents = plane.ownership().context("a store of ownership")?;
    // As large as what is stored of a name.
    let body = Bytes::from(vec![b'x'; 350]);
    let create = (0..DOCUMENTS).map(|n| {
        let (documents, body) = (documents.clone(), body.clone());
        async move {
            let key = DocumentKey::escaped("n", &format!("name-{n}"))?;
            let swap = documents.compare_and_set(&key, Expected::Absent, body, Keep::Forever).await?;
            anyhow::ensure!(matches!(swap, Swap::Done(_)), "{key:?}: {swap:?}");
            anyhow::Ok(())
        }
    });
    futures::stream::iter(create).buffer_unordered(64).try_collect::<Vec<()>>().await?;
    let before = client_requests(store).await?;
    let mut times = Vec::new();
    for _ in 0..LISTS {
        let start = Instant::now();
        let listed = documents.list("n/").await?.documents.len();
        times.push(start.elapsed());
        anyhow::ensure!(listed == DOCUMENTS, "{listed} documents");
    }
    let requests = (client_requests(store).await? - before) / f64::from(LISTS);
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    let (p50, worst) = (table::percentile(&mut times, 0.5), table::percentile(&mut times, 1.0));
    let name = plane.capabilities().backend.to_owned();
    Ok(vec![name, LISTS.to_string(), seconds(p50), seconds(worst), format!("{requests:.0}")])
}

fn record(n: usize) -> anyhow::Result<DataCenterRecord> {
    let (node, endpoint) = (NodeId(n as u128 + 1), "127.0.0.1:7946".parse::<dc_core::Endpoint>()?);
    Ok(DataCenterRecord {
        data_center: DataCenter::new(format!("dc-{n}")).build()?,
        endpoints: vec![NodeEndpoint::new(node, endpoint.clone())],
        state: DataCenterState::Active,
        ttl: Duration::from_secs(600),
        owner: Owner { node, endpoint },
        epoch: Epoch::FIRST,
        handed_over: false,
        written_at_ms: 0,
        version: Version::new(StoreId(0), 0),
        unknown: Default::default(),
    })
}

async fn on(store: &Store) -> anyhow::Result<Vec<String>> {
    let plane = multidc::connect(&store.url).await?;
    let mut first = record(0)?;
    first.version = plane.register(&first, Expected::Absent).await?;
    plane.list_all().await?;

    let before = requests(store).await?;
    for _ in 0..CALLS {
        first.version = plane.heartbeat(&first).await?;
    }
    let heartbeats = requests(store).await? - before;
    let before = requests(store).await?;
    for _ in 0..CALLS {
        plane.list_all().await?;
    }
    let lists = requests(store).await? - before;
    for n in 1..1000 {
        plane.register(&record(n)?, Expected::Absent).await?;
    }
    let before = requests(store).await?;
    for _ in 0..20 {
        let listing = plane.list_all().await?;
        anyhow::ensure!(listing.records.len() == 1000, "{} records", listing.records.len());
    }
    let long = requests(store).await? - before;
    let per = |count: f64, calls: u32| format!("{:.2}", count / f64::from(calls));
    let name = plane.capabilities().backend.to_owned();
    Ok(vec![name, per(heartbeats, CALLS), per(lists, CALLS), per(long, 20)])
}

/// Messages that the only server of NATS took in, or calls and keepalives that etcd took.
async fn requests(store: &Store) -> anyhow::Result<f64> {
    let server = store.servers.first().context("a server")?;
    if store.url.starts_with("nats") {
        return json(server, "/varz").await?["in_msgs"].as_f64().context("in_msgs");
    }
    etcd_calls(server).await
}

/// What all servers of a store took from clients: not what servers say to each other.
pub(crate) async fn client_requests(store: &Store) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for server in &store.servers {
        sum += if store.url.starts_with("nats") {
            // Of connections that stand; those of an idle system do.
            let connections = json(server, "/connz?limit=10000").await?;
            let connections = connections["connections"].as_array().context("connections")?;
            connections.iter().filter_map(|connection| connection["in_msgs"].as_f64()).sum()
        } else {
            etcd_calls(server).await?
        };
    }
    Ok(sum)
}

async fn json(server: &Server, path: &str) -> anyhow::Result<serde_json::Value> {
    let text = server.http_get(path).await?;
    let (_, json) = text.split_once("\r\n\r\n").context("a body")?;
    Ok(serde_json::from_str(json)?)
}

/// Calls and keepalives, and what is said on open watches.
async fn etcd_calls(server: &Server) -> anyhow::Result<f64> {
    let text = server.http_get("/metrics").await?;
    let received = |line: &&str| {
        line.starts_with("grpc_server_msg_received_total")
            && [
                "\"Range\"",
                "\"Txn\"",
                "\"Put\"",
                "\"DeleteRange\"",
                "\"LeaseKeepAlive\"",
                "\"LeaseGrant\"",
                "\"Watch\"",
            ]
            .iter()
            .any(|method| line.contains(method))
    };
    let counts = text.lines().filter(received).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(counts.sum())
}
