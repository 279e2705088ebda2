//! Servers, a counting proxy, and small helpers.

pub(crate) mod admin;
#[path = "../../../../dc-etcd/tests/it/capture.rs"]
pub(crate) mod capture;
#[path = "../../../../dc-etcd/tests/it/certificates.rs"]
pub(crate) mod certificates;
pub(crate) mod identity;
pub(crate) mod proxy;
pub(crate) mod server;

use std::{fmt::Debug, time::Duration};

use dc_controlplane::{ControlPlane, Error, TokioClock, Watch, WatchEvent};
use dc_core::{
    Clock, DataCenter, DataCenterRecord, DataCenterState, Epoch, NodeEndpoint, NodeId, Owner, StoreId, Version,
};
use futures::StreamExt;

/// How long tests wait for what must come. A cluster that lost its leader takes 4 to 8 s.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Awaits `future`, but not for ever.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for: {what}"),
    }
}

/// Asks until there is an answer, but not for ever.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// How long `work` took.
pub(crate) async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let start = TokioClock.now();
    let value = work.await;
    (value, TokioClock.now() - start)
}

/// A record as its leader, node `node`, would write it.
pub(crate) fn record(name: &str, ttl: Duration) -> DataCenterRecord {
    let node = NodeId(7);
    let endpoint: dc_core::Endpoint = "n1.example:7946".parse().expect("a legal endpoint");
    DataCenterRecord {
        data_center: DataCenter::new(name).region("eu").build().expect("a legal datacenter"),
        endpoints: vec![NodeEndpoint::new(node, endpoint.clone())],
        state: DataCenterState::Active,
        ttl,
        owner: Owner { node, endpoint },
        epoch: Epoch::FIRST,
        handed_over: false,
        written_at_ms: 0,
        version: Version::new(StoreId(0), 0),
        unknown: serde_json::Map::new(),
    }
}

/// `record` at `version`.
pub(crate) fn at(record: &DataCenterRecord, version: Version) -> DataCenterRecord {
    DataCenterRecord { version, ..record.clone() }
}

/// The next event that `pick` takes; others are passed over. Panics where the watch ends first.
pub(crate) async fn find<T>(watch: &mut Watch, what: &str, mut pick: impl FnMut(WatchEvent) -> Option<T>) -> T {
    within(what, async {
        loop {
            match watch.next().await {
                Some(Ok(event)) => {
                    if let Some(found) = pick(event) {
                        return found;
                    }
                }
                other => panic!("the watch ended with {other:?} before: {what}"),
            }
        }
    })
    .await
}

/// Everything up to the end of the replay.
pub(crate) async fn replay(watch: &mut Watch) -> Version {
    find(watch, "the end of the replay", |event| match event {
        WatchEvent::ReplayDone { as_of } => Some(as_of),
        _ => None,
    })
    .await
}

/// Writes `record` until the store takes it, over outages and lost answers.
pub(crate) async fn register_at_last<P: ControlPlane>(plane: &P, record: &DataCenterRecord) -> DataCenterRecord {
    until("a registration", async || match plane.register(record, dc_controlplane::Expected::Absent).await {
        Ok(version) => Some(at(record, version)),
        Err(Error::Conflict { stored: Some(stored), .. }) if stored.same_content(record) => Some(*stored),
        Err(err) if err.is_outage() => None,
        Err(err) => panic!("registering: {err:?}"),
    })
    .await
}

/// The error, which must be there.
#[track_caller]
pub(crate) fn refused<T: Debug>(result: Result<T, Error>) -> Error {
    result.expect_err("must be refused")
}
