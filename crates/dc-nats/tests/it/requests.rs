//! What operations cost, counted on the wire, and what lists hold.

use std::{collections::HashSet, time::Duration};

use dc_controlplane::{ControlPlane, Error, Expected, StateChange, Writer};
use dc_core::{DataCenterState, Intent, IntentKind};
use dc_nats::{NatsConfig, NatsControlPlane};
use futures::{StreamExt, stream};

use crate::support::{admin, at, proxy::Proxy, record, refused, server::Server, until};

const LONG: Duration = Duration::from_secs(600);

struct Counted {
    _server: Server,
    direct: String,
    proxy: Proxy,
    plane: NatsControlPlane,
}

async fn counted() -> Counted {
    let server = Server::start("");
    let proxy = Proxy::start(server.address()).await;
    let config = NatsConfig::builder(proxy.url()).build().expect("legal");
    let plane = NatsControlPlane::connect(config).await.expect("connected");
    Counted { direct: server.url(), _server: server, proxy, plane }
}

impl Counted {
    /// What `work` costs.
    async fn cost<T>(&self, work: impl Future<Output = T>) -> (T, u64) {
        let before = self.proxy.requests();
        let value = work.await;
        (value, self.proxy.requests() - before)
    }
}

#[tokio::test]
async fn p7_each_operation_costs_what_the_docs_say() {
    let ground = counted().await;
    let plane = &ground.plane;
    let mut held = record("dc-1", LONG);
    let (version, cost) = ground.cost(plane.register(&held, Expected::Absent)).await;
    assert_eq!(cost, 1, "creating");
    held.version = version.expect("register");
    for _ in 0..3 {
        let (version, cost) = ground.cost(plane.heartbeat(&held)).await;
        assert_eq!(cost, 1, "P7: a heartbeat");
        held.version = version.expect("heartbeat");
    }
    let (found, cost) = ground.cost(plane.get(held.id())).await;
    assert_eq!((found.expect("get").map(|found| found.version), cost), (Some(held.version), 1), "reading");
    let by = Writer::Owner { node: held.owner.node, seen: held.version };
    let (moved, cost) = ground.cost(plane.set_state(held.id(), DataCenterState::Draining, by)).await;
    assert_eq!(cost, 2, "an owner's move: a read and a write");
    let Ok(StateChange::Moved(version)) = moved else { panic!("{moved:?}") };
    let by = Writer::Operator { by: "ann".into(), why: "new rack".into() };
    let (intended, cost) = ground.cost(plane.set_state(held.id(), DataCenterState::Draining, by)).await;
    assert!(matches!(intended, Ok(StateChange::Intended(_))) && cost == 1, "an intent: {intended:?} for {cost}");
    let stale = Expected::Version(held.version);
    let (lost, cost) = ground.cost(plane.register(&held, stale)).await;
    assert!(
        matches!(lost, Err(Error::Conflict { stored: Some(_), .. })) && cost == 2,
        "a conflict: {lost:?} for {cost}"
    );
    let (gone, cost) = ground.cost(plane.deregister(held.id(), version)).await;
    assert_eq!((gone.is_ok(), cost), (true, 1), "removing");
    let (again, cost) = ground.cost(plane.register(&held, Expected::Absent)).await;
    assert!(again.is_ok() && cost == 3, "creating in place of a tombstone: {again:?} for {cost}");
    let (listing, cost) = ground.cost(plane.list_all()).await;
    assert_eq!((listing.expect("list").records.len(), cost), (1, 1), "P6: listing");
}

#[tokio::test]
async fn p6_five_thousand_keys_are_listed_in_a_bounded_number_of_pages() {
    let ground = counted().await;
    let plane = &ground.plane;
    let word = Intent::new(IntentKind::Drain, "ann", "new rack");
    let writes = stream::iter(0..3_000).map(|n| {
        let (mine, word) = (record(&format!("dc-{n}"), LONG), &word);
        async move {
            plane.register(&mine, Expected::Absent).await.expect("register");
            if n < 2_000 {
                plane.set_intent(mine.id(), word).await.expect("set_intent");
            }
        }
    });
    writes.buffer_unordered(100).collect::<Vec<_>>().await;
    plane.list_all().await.expect("the first list finds out how many pages it takes");
    let (listing, cost) = ground.cost(plane.list_all()).await;
    let listing = listing.expect("list");
    let ids: HashSet<_> = listing.records.iter().map(|record| record.id().clone()).collect();
    assert_eq!((ids.len(), listing.records.len(), listing.intents.len()), (3_000, 3_000, 2_000));
    assert!(cost <= 16, "P6: 5,000 keys for {cost} requests");
    assert!(listing.as_of.revision >= 5_001, "as of {}", listing.as_of);

    // Most of them go: lists become cheap again.
    for shard in "123456789abcdef".chars() {
        let purge = serde_json::json!({"filter": format!("$KV.multidc.{shard}.>")});
        admin::api(&admin::client(&ground.direct).await, "STREAM.PURGE.KV_multidc", purge).await;
    }
    until("lists of one request", async || {
        let (listing, cost) = ground.cost(plane.list_all()).await;
        assert!(listing.expect("list").records.len() < 600);
        (cost == 1).then_some(())
    })
    .await;
}

/// A list is from one moment: records that are being renewed, and others that expire, never make one vanish.
#[tokio::test]
async fn p6_a_list_amid_writes_misses_nothing() {
    let ground = counted().await;
    let plane = &ground.plane;
    let fleet = 60;
    let mut held = Vec::new();
    for n in 0..fleet {
        let mine = record(&format!("dc-{n}"), LONG);
        held.push(at(&mine, plane.register(&mine, Expected::Absent).await.expect("register")));
        let brief = record(&format!("brief-{n}"), Duration::from_secs(1));
        plane.register(&brief, Expected::Absent).await.expect("register");
    }
    let beats = async {
        for _ in 0..8 {
            for mine in &mut held {
                mine.version = plane.heartbeat(mine).await.expect("heartbeat");
            }
        }
    };
    let mut lists = 0;
    let mut beats = std::pin::pin!(beats);
    loop {
        let listing = tokio::select! {
            () = &mut beats => break,
            listing = plane.list_all() => listing.expect("list"),
        };
        let there = listing.records.iter().filter(|record| record.id().as_str().starts_with("eu/dc-")).count();
        assert_eq!(there, fleet, "P6: list {lists} as of {} misses records that are alive", listing.as_of);
        lists += 1;
    }
    assert!(lists > 10, "only {lists} lists were made meanwhile");
}

#[tokio::test]
async fn a_corrupt_record_is_not_overwritten_but_told() {
    let ground = counted().await;
    let plane = &ground.plane;
    let mine = record("dc-1", LONG);
    let client = admin::client(&ground.direct).await;
    admin::put(&client, "multidc", &format!("records/{}", mine.id()), b"{\"format\": \"of the future\"}").await;
    let err = refused(plane.register(&mine, Expected::Absent).await);
    assert!(matches!(&err, Error::Corrupt(corrupt) if corrupt.key.contains("dc-1")), "{err:?}");
    let err = refused(plane.get(mine.id()).await);
    assert!(matches!(err, Error::Corrupt(_)), "{err:?}");
}
