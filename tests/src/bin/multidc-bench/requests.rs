//! Requests per heartbeat and per list, counted at the server.

use std::time::Duration;

use anyhow::Context as _;
use dc_core::{DataCenter, DataCenterRecord, DataCenterState, Epoch, NodeEndpoint, NodeId, Owner, StoreId, Version};
use multidc::Expected;
use multidc_tests::servers::Store;

use crate::table;

const CALLS: u32 = 200;

pub(crate) async fn run() -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for store in [Store::nats(1).await?, Store::etcd(1).await?] {
        rows.push(on(&store).await?);
    }
    let head = ["store", "heartbeat", "list of 1 record", "list of 1,000 records"];
    table::print("Requests per call, counted at the server (P6, P7)", &head, &rows);
    Ok(())
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

/// Messages that NATS took in, or calls and keepalives that etcd took.
async fn requests(store: &Store) -> anyhow::Result<f64> {
    let server = store.servers.first().context("a server")?;
    if store.url.starts_with("nats") {
        let text = server.http_get("/varz").await?;
        let (_, json) = text.split_once("\r\n\r\n").context("a body")?;
        let varz: serde_json::Value = serde_json::from_str(json)?;
        return varz["in_msgs"].as_f64().context("in_msgs");
    }
    let text = server.http_get("/metrics").await?;
    let received = |line: &&str| {
        line.starts_with("grpc_server_msg_received_total")
            && ["\"Range\"", "\"Txn\"", "\"Put\"", "\"DeleteRange\"", "\"LeaseKeepAlive\"", "\"LeaseGrant\""]
                .iter()
                .any(|method| line.contains(method))
    };
    let counts = text.lines().filter(received).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(counts.sum())
}
