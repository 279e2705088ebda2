//! P13: what the servers and an existing bucket are set up like.

use std::time::Duration;

use dc_controlplane::{ControlPlane, Durability, Error, Expected};
use dc_nats::{NatsConfig, NatsConfigBuilder, NatsControlPlane};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

use crate::support::{
    admin, at, record, refused,
    server::{Cluster, Server},
    until,
};

fn config(server: &Server) -> NatsConfigBuilder {
    NatsConfig::builder(server.url()).request_timeout(Duration::from_secs(3))
}

async fn connect(builder: NatsConfigBuilder) -> Result<NatsControlPlane, Error> {
    NatsControlPlane::connect(builder.build().expect("a legal configuration")).await
}

#[track_caller]
fn findings(result: Result<NatsControlPlane, Error>) -> Vec<String> {
    match refused(result) {
        Error::Unsafe { findings, .. } => findings,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn p13_a_bucket_that_cannot_work_is_refused() {
    let server = Server::start("");
    let client = admin::client(&server.url()).await;
    admin::make_bucket(&client, "aging", json!({"max_age": 60_000_000_000_u64})).await;
    let found = findings(connect(config(&server).bucket("aging")).await);
    assert!(found.iter().any(|finding| finding.contains("max_age 60s")), "{found:?}");
    admin::make_bucket(&client, "history", json!({"max_msgs_per_subject": 5})).await;
    let found = findings(connect(config(&server).bucket("history")).await);
    assert!(found.iter().any(|finding| finding.contains("history 5")), "{found:?}");
    // Nothing was changed by the refusal.
    assert_eq!(admin::bucket(&client, "history").await["config"]["max_msgs_per_subject"], 5);
}

#[tokio::test]
async fn more_replicas_than_servers_are_refused_at_once() {
    let server = Server::start("");
    let found = findings(connect(config(&server).replicas(3)).await);
    assert!(found.iter().any(|finding| finding.contains("replicas > 1")), "{found:?}");
}

#[tokio::test]
async fn p13_a_bucket_without_leases_is_mended_and_what_else_it_is_set_to_is_kept() {
    let server = Server::start("");
    let client = admin::client(&server.url()).await;
    admin::make_bucket(&client, "plain", json!({"description": "ours", "compression": "s2"})).await;
    let plane = connect(config(&server).bucket("plain")).await.expect("mended");
    let after = admin::bucket(&client, "plain").await["config"].clone();
    assert_eq!((&after["allow_msg_ttl"], &after["description"]), (&json!(true), &json!("ours")), "{after}");
    assert_eq!(after["compression"], "s2", "{after}");
    let brief = record("brief", Duration::from_secs(1));
    plane.register(&brief, Expected::Absent).await.expect("register");
    until("the lease to end", async || plane.get(brief.id()).await.expect("get").is_none().then_some(())).await;
}

#[tokio::test]
async fn p13_settings_that_differ_are_reported_and_strict_mode_refuses_them() {
    let server = Server::start("");
    let client = admin::client(&server.url()).await;
    let markers = json!({"storage": "memory", "allow_msg_ttl": true, "subject_delete_marker_ttl": 5_000_000_000_u64});
    admin::make_bucket(&client, "odd", markers).await;
    let plane = connect(config(&server).bucket("odd").replicas(3)).await.expect("usable");
    let capabilities = plane.capabilities();
    assert_eq!((capabilities.replicas, capabilities.durability), (Some(1), Durability::Memory));
    for word in ["markers for 5s", "1 replicas, not 3", "in memory", "sync_interval"] {
        let found = &capabilities.findings;
        assert!(found.iter().any(|finding| finding.contains(word)), "{word}: {found:?}");
    }
    let found = findings(connect(config(&server).bucket("odd").strict(true)).await);
    assert!(found.len() >= 4, "{found:?}");
}

#[tokio::test]
async fn p13_strict_mode_asks_for_three_replicas_and_a_word_on_fsync() {
    let cluster = Cluster::start();
    let ours = || NatsConfig::builder(cluster.urls()).replicas(3).strict(true).request_timeout(Duration::from_secs(10));
    let found = findings(connect(ours()).await);
    assert!(matches!(&found[..], [one] if one.contains("sync_interval")), "{found:?}");
    let plane = connect(ours().fsync_always(true)).await.expect("safe");
    let capabilities = plane.capabilities();
    assert_eq!((capabilities.replicas, capabilities.durability), (Some(3), Durability::BeforeAck));
    assert!(capabilities.findings.is_empty() && !capabilities.linearizable_reads, "{capabilities:?}");
    let found = findings(connect(ours().fsync_always(true).bucket("one").replicas(1)).await);
    assert!(found.iter().any(|finding| finding.contains("1 replica")), "{found:?}");
    let left = admin::bucket(&admin::client(&cluster.urls()).await, "one").await;
    assert_eq!(left["error"]["err_code"], 10_059, "what is refused is not made: {left}");
}

/// What a server of `version` says, as far as a client sees it before anything is asked of JetStream.
async fn greet_as(version: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let info = json!({"server_id": "X", "version": version, "max_payload": 1_048_576, "headers": true});
                client.write_all(format!("INFO {info}\r\n").as_bytes()).await?;
                let (read, mut write) = client.split();
                let mut lines = BufReader::new(read).lines();
                while let Some(line) = lines.next_line().await? {
                    if line.starts_with("PING") {
                        write.write_all(b"PONG\r\n").await?;
                    }
                }
                std::io::Result::Ok(())
            });
        }
    });
    format!("nats://{address}")
}

#[tokio::test]
async fn a_server_that_is_too_old_is_refused_with_its_version() {
    for version in ["2.9.15", "2.10.27"] {
        let found = findings(connect(NatsConfig::builder(greet_as(version).await)).await);
        assert!(found[0].contains(version) && found[0].contains("2.11"), "{found:?}");
    }
}

#[tokio::test]
async fn a_bucket_that_others_use_is_left_in_peace() {
    let server = Server::start("");
    let one = connect(config(&server).bucket("one")).await.expect("connected");
    let two = connect(config(&server).bucket("two")).await.expect("connected");
    let mine = record("dc-1", Duration::from_secs(60));
    let held = at(&mine, one.register(&mine, Expected::Absent).await.expect("register"));
    assert_eq!(two.get(mine.id()).await.expect("get"), None);
    assert_ne!(one.store().await.expect("store"), two.store().await.expect("store"));
    assert_eq!(one.list_all().await.expect("list").records, [held]);
}
