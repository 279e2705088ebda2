//! Configurations, records, and waiting with a bound.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use dc_controlplane::{ControlPlane, Error, Removal, Watch, WatchEvent};
use dc_core::{
    DataCenter, DataCenterId, DataCenterRecord, DataCenterState, Epoch, NodeEndpoint, NodeId, Owner, StoreId, Version,
};
use dc_etcd::{EtcdConfig, EtcdConfigBuilder, EtcdControlPlane};
use futures::StreamExt;

/// How long is waited for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The request timeout of these tests.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

/// A namespace that no other test has.
pub(crate) fn namespace() -> String {
    // Shown where the test fails. Another test may have set it up.
    let _ = tracing_subscriber::fmt().with_env_filter("dc_etcd=debug").with_test_writer().try_init();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn builder(urls: &[String], namespace: &str) -> EtcdConfigBuilder {
    EtcdConfig::builder(urls.iter().cloned()).namespace(namespace).request_timeout(TIMEOUT)
}

pub(crate) async fn plane(urls: &[String], namespace: &str) -> EtcdControlPlane {
    let config = builder(urls, namespace).require_at_start(true).build().expect("a legal configuration");
    EtcdControlPlane::connect(config).await.expect("connect")
}

/// An ACTIVE record of a datacenter of this name, with this TTL in seconds.
pub(crate) fn record(name: &str, ttl: u64) -> DataCenterRecord {
    let endpoint: dc_core::Endpoint = "node-1.example:7946".parse().expect("a legal sample");
    DataCenterRecord {
        data_center: DataCenter::new(name).region("eu").build().expect("a legal sample"),
        endpoints: vec![NodeEndpoint::new(NodeId(1), endpoint.clone())],
        state: DataCenterState::Active,
        ttl: Duration::from_secs(ttl),
        owner: Owner { node: NodeId(1), endpoint },
        epoch: Epoch::FIRST,
        handed_over: false,
        written_at_ms: 0,
        version: Version::new(StoreId(0), 0),
        unknown: serde_json::Map::new(),
    }
}

/// Awaits `future`, no longer than the patience of these tests.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for: {what}"),
    }
}

/// Asks until `check` has an answer.
pub(crate) async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Registers `record`, again and again while the store is away; finds its own lost write.
pub(crate) async fn registered(plane: &EtcdControlPlane, record: &DataCenterRecord) -> DataCenterRecord {
    until("a registration", async || match plane.register(record, dc_controlplane::Expected::Absent).await {
        Ok(version) => Some(DataCenterRecord { version, ..record.clone() }),
        Err(Error::Conflict { stored: Some(stored), .. }) if stored.same_content(record) => Some(*stored),
        Err(err) if err.is_outage() => None,
        Err(err) => panic!("{err:?}"),
    })
    .await
}

/// The next event; the watch must not have ended.
pub(crate) async fn next(watch: &mut Watch) -> WatchEvent {
    find("an event", watch, Some).await
}

/// The first event that `pick` takes; others are passed over.
async fn find<T>(what: &str, watch: &mut Watch, mut pick: impl FnMut(WatchEvent) -> Option<T>) -> T {
    within(what, async {
        loop {
            let event = watch.next().await.expect("the watch ended").expect("the watch failed");
            if let Some(found) = pick(event) {
                return found;
            }
        }
    })
    .await
}

/// Everything up to the end of the replay.
pub(crate) async fn replay(watch: &mut Watch) -> Vec<WatchEvent> {
    let mut seen = Vec::new();
    find("the end of the replay", watch, |event| match event {
        WatchEvent::ReplayDone { .. } => Some(()),
        event => {
            seen.push(event);
            None
        }
    })
    .await;
    seen
}

/// The next event but `InStep`.
pub(crate) async fn change(watch: &mut Watch) -> WatchEvent {
    find("a change", watch, |event| (event != WatchEvent::InStep).then_some(event)).await
}

/// Waits for `InStep`; other events are passed over.
pub(crate) async fn in_step(watch: &mut Watch) {
    find("the watch to be in step", watch, |event| (event == WatchEvent::InStep).then_some(())).await;
}

/// Waits for the removal of `id`.
pub(crate) async fn removed(watch: &mut Watch, id: &DataCenterId) -> Removal {
    let what = format!("the removal of {id}");
    find(&what, watch, |event| match event {
        WatchEvent::Removed { id: gone, why, .. } if gone == *id => Some(why),
        _ => None,
    })
    .await
}

/// Waits until the watch ends, and tells with which error.
pub(crate) async fn end(watch: &mut Watch) -> Error {
    within("the end of the watch", async {
        loop {
            if let Err(err) = watch.next().await.expect("the watch ended without an error") {
                return err;
            }
        }
    })
    .await
}

/// A client of etcd itself, for what only a stranger or an operator does.
pub(crate) async fn raw(urls: &[String]) -> etcd_client::Client {
    etcd_client::Client::connect(urls, None).await.expect("a client")
}

/// How many leases the store has.
pub(crate) async fn leases(client: &etcd_client::Client) -> usize {
    client.lease_client().leases().await.expect("leases").leases().len()
}
