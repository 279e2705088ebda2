//! What an account must be allowed, and what it cannot do then: with the very snippet of `docs/stores.md`.

use std::time::Duration;

use async_nats::{Client, ConnectOptions, HeaderMap};
use dc_controlplane::{
    ControlPlane, Error, Expected, WatchEvent, Writer, codec,
    ownership::{Keep, Swap},
};
use dc_core::{DataCenterState, Intent, IntentKind};
use dc_nats::{NatsConfig, NatsConfigBuilder, NatsControlPlane};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::support::{admin, at, find, record, refused, replay, server::Server, timed, within};

const DOCS: &str = include_str!("../../../../docs/stores.md");

/// The snippet: `setup`, `dc-1` (nodes of eu/dc-1) and `operator`. Clients without credentials may do everything, for
/// the tests' own use.
fn snippet() -> String {
    let start = DOCS.find("# nats-rights\n").expect("the snippet is in docs/stores.md");
    let config = DOCS[start..].split("```").next().expect("not empty");
    let all = "{ user: all, password: x, permissions: { publish: \">\", subscribe: \">\" } }";
    format!("{}\nno_auth_user: all", config.replacen("users: [", &format!("users: [\n{all}"), 1))
}

/// The snippet with these in place of the right to write the one record; each is one that the page tells of.
fn with(rights: &[&str]) -> String {
    let one = "\"$KV.multidc.*.*.records.eu/dc-1\"";
    let config = snippet().replace(one, &rights.join(", "));
    assert!(!config.contains(one), "the grant is in the snippet");
    config
}

/// The datacenter of whose records the suite of the documents writes one, and an intent.
const SUITES: &str = "region=201/dc-1";

/// A node's rights for the suite of the ownership documents: those of a node of its datacenter, which sets intents of it.
pub(crate) fn for_documents() -> String {
    assert!(DOCS.contains("`\"$KV.multidc.*.*.intents.<id>\"`"), "what is granted here is in docs/stores.md");
    with(
        &["records", "intents"]
            .map(|kind| format!("\"$KV.multidc.*.*.{kind}.{SUITES}\""))
            .each_ref()
            .map(String::as_str),
    )
}

/// A node's rights for the suite of records and intents, which has many datacenters and one account: those of a node
/// that may act for any, and sets intents.
pub(crate) fn for_records() -> String {
    let any = ["\"$KV.multidc.*.*.records.*\"", "\"$KV.multidc.*.*.intents.*\""];
    assert!(any.iter().all(|grant| DOCS.contains(grant)), "what is granted here is in docs/stores.md");
    with(&any)
}

/// The documented credentials of a node.
pub(crate) fn as_node(config: NatsConfigBuilder) -> NatsConfigBuilder {
    config.user_password("dc-1", "change-me-1").inbox_prefix("_INBOX_dc-1")
}

/// The documented credentials of whoever makes the bucket.
pub(crate) fn as_setup(config: NatsConfigBuilder) -> NatsConfigBuilder {
    config.user_password("setup", "change-me-0").inbox_prefix("_INBOX_setup")
}

struct Guarded {
    server: Server,
}

impl Guarded {
    fn start() -> Self {
        Self { server: Server::start(&snippet()) }
    }

    fn config(&self) -> NatsConfigBuilder {
        NatsConfig::builder(self.server.url()).request_timeout(Duration::from_secs(3))
    }

    fn operator_config(&self) -> NatsConfigBuilder {
        self.config().user_password("operator", "change-me-2").inbox_prefix("_INBOX_operator")
    }

    async fn connect(&self, config: NatsConfigBuilder) -> Result<NatsControlPlane, Error> {
        within("connect", NatsControlPlane::connect(config.build().expect("a legal configuration"))).await
    }

    async fn setup(&self) -> NatsControlPlane {
        self.connect(as_setup(self.config())).await.expect("the bucket is made")
    }

    async fn node(&self) -> NatsControlPlane {
        self.connect(as_node(self.config())).await.expect("a node")
    }

    async fn operator(&self) -> NatsControlPlane {
        self.connect(self.operator_config()).await.expect("an operator")
    }

    /// A plain client with a node's credentials: what a thief has.
    async fn thief(&self) -> Client {
        let options = ConnectOptions::with_user_and_password("dc-1".into(), "change-me-1".into());
        options.custom_inbox_prefix("_INBOX_dc-1").connect(self.server.url()).await.expect("a client")
    }
}

#[track_caller]
fn is_denied<T: std::fmt::Debug>(what: &str, result: Result<T, Error>, word: &str) {
    let err = refused(result);
    let named = matches!(&err, Error::Denied { why, .. } if why.contains(word));
    assert!(named && !err.is_retryable() && !err.outcome_unknown(), "{what}: {err:?}");
}

#[tokio::test]
async fn p12_without_a_bucket_a_node_is_told_what_it_may_not_do() {
    let guarded = Guarded::start();
    let (connected, took) = timed(guarded.connect(as_node(guarded.config()))).await;
    is_denied("making the bucket", connected, "$JS.API.STREAM.CREATE.KV_multidc");
    assert!(took < Duration::from_secs(3), "{took:?}");
    let inbox = guarded.connect(as_node(guarded.config()).inbox_prefix("_INBOX")).await;
    is_denied("another's inbox", inbox, "_INBOX.");
}

/// A record's whole life, and an intent's, with the documented rights and no more.
#[tokio::test]
async fn a_node_and_an_operator_can_do_their_work_with_the_documented_rights() {
    let guarded = Guarded::start();
    guarded.setup().await;
    let (node, operator) = (guarded.node().await, guarded.operator().await);
    let mut seen_by_node = node.watch().await.expect("watch");
    let mut seen_by_operator = operator.watch().await.expect("watch");
    replay(&mut seen_by_node).await;
    replay(&mut seen_by_operator).await;

    let mine = record("dc-1", Duration::from_secs(60));
    let mine = at(&mine, node.register(&mine, Expected::Absent).await.expect("register"));
    let mine = at(&mine, node.heartbeat(&mine).await.expect("heartbeat"));
    assert_eq!(operator.list_all().await.expect("list").records, std::slice::from_ref(&mine));
    assert_eq!(operator.get(mine.id()).await.expect("get"), Some(mine.clone()));
    find(&mut seen_by_operator, "the record", |event| matches!(event, WatchEvent::Put(_)).then_some(())).await;

    let intent = Intent::new(IntentKind::Drain, "ann", "an upgrade");
    let written = operator.set_intent(mine.id(), &intent).await.expect("an intent");
    let held = find(&mut seen_by_node, "the intent", |event| match event {
        WatchEvent::Intent(held) => Some(held),
        _ => None,
    })
    .await;
    assert_eq!((held.version, held.intent.want), (written, IntentKind::Drain));
    let by = Writer::Operator { by: "ann".into(), why: "an upgrade".into() };
    operator.set_state(mine.id(), DataCenterState::Active, by).await.expect("an intent by another name");

    // More than the server pushes without asking whether we keep up: flow control is answered.
    let client = admin::client(&guarded.server.url()).await;
    for n in 0..400 {
        let mut other = record(&format!("other-{n}"), Duration::from_secs(60));
        other.unknown.insert("padding".into(), "x".repeat(5_000).into());
        let key = format!("{}{}", codec::RECORDS, other.id());
        admin::put(&client, "multidc", &key, &codec::encode_record(&other)).await;
    }
    find(&mut seen_by_node, "the last record", |event| match event {
        WatchEvent::Put(found) => (found.id().as_str() == "eu/other-399").then_some(()),
        _ => None,
    })
    .await;
    assert_eq!(node.list_all().await.expect("list").records.len(), 401);
    node.deregister(mine.id(), mine.version).await.expect("deregister");
    drop((seen_by_node, seen_by_operator));
}

#[tokio::test]
async fn an_operator_writes_no_records_and_a_node_only_its_own() {
    let guarded = Guarded::start();
    guarded.setup().await;
    let (node, operator) = (guarded.node().await, guarded.operator().await);
    let mine = record("dc-1", Duration::from_secs(60));
    let mine = at(&mine, node.register(&mine, Expected::Absent).await.expect("register"));

    is_denied("register", operator.register(&record("dc-9", mine.ttl), Expected::Absent).await, "records.eu/dc-9");
    is_denied("heartbeat", operator.heartbeat(&mine).await, "records.eu/dc-1");
    is_denied("deregister", operator.deregister(mine.id(), mine.version).await, "records.eu/dc-1");
    let other = record("dc-2", Duration::from_secs(60));
    is_denied("another's record", node.register(&other, Expected::Absent).await, "records.eu/dc-2");
    let intent = Intent::new(IntentKind::Out, "mallory", "");
    is_denied("an intent", node.set_intent(mine.id(), &intent).await, "intents.eu/dc-1");
    for config in [as_node(guarded.config()), guarded.operator_config()] {
        is_denied("another bucket", guarded.connect(config.bucket("other")).await, "KV_other");
    }
    assert_eq!(node.list_all().await.expect("list").records, [mine], "nothing was changed");
}

/// Asks for what no account needs; true where an answer came.
async fn answered(thief: &Client, subject: &str, body: Value) -> bool {
    let asked = thief.request(subject.to_owned(), body.to_string().into());
    // A refusal comes beside the request, which is never answered.
    matches!(tokio::time::timeout(Duration::from_millis(500), asked).await, Ok(Ok(_)))
}

/// An ownership document written by `plane`.
async fn claimed(plane: &NatsControlPlane) -> Result<Swap, Error> {
    let documents = plane.ownership().expect("it has documents");
    let key = "n/x".parse().expect("legal");
    documents.compare_and_set(&key, Expected::Absent, "x".into(), Keep::Forever).await
}

#[tokio::test]
async fn an_operator_owns_nothing_and_setup_writes_neither_records_nor_intents_nor_takes_the_bucket_away() {
    let guarded = Guarded::start();
    let setup = guarded.setup().await;
    let (node, operator) = (guarded.node().await, guarded.operator().await);
    is_denied("owning", claimed(&operator).await, ".n.x");
    is_denied("owning", claimed(&setup).await, ".n.x");
    let mine = record("dc-1", Duration::from_secs(60));
    is_denied("a record", setup.register(&mine, Expected::Absent).await, "records.eu/dc-1");
    let intent = Intent::new(IntentKind::Out, "mallory", "");
    is_denied("an intent", setup.set_intent(mine.id(), &intent).await, "intents.eu/dc-1");
    let options = ConnectOptions::with_user_and_password("setup".into(), "change-me-0".into());
    let thief = options.custom_inbox_prefix("_INBOX_setup").connect(guarded.server.url()).await.expect("a client");
    assert!(answered(&thief, "$JS.API.STREAM.INFO.KV_multidc", json!({})).await, "the test itself: this is granted");
    for subject in ["$JS.API.STREAM.DELETE.KV_multidc", "$JS.API.STREAM.PURGE.KV_multidc"] {
        assert!(!answered(&thief, subject, json!({})).await, "{subject} was answered");
    }
    assert!(matches!(claimed(&node).await, Ok(Swap::Done(_))), "a node may own");
}

#[tokio::test]
async fn a_stolen_node_password_opens_neither_streams_nor_other_keys_nor_others_answers() {
    let guarded = Guarded::start();
    guarded.setup().await;
    let client = admin::client(&guarded.server.url()).await;
    admin::make_bucket(&client, "other", json!({})).await;
    let thief = guarded.thief().await;
    assert!(answered(&thief, "$JS.API.STREAM.INFO.KV_multidc", json!({})).await, "the test itself: this is granted");
    for subject in [
        "$JS.API.STREAM.DELETE.KV_multidc",
        "$JS.API.STREAM.PURGE.KV_multidc",
        "$JS.API.STREAM.MSG.DELETE.KV_multidc",
        "$JS.API.STREAM.UPDATE.KV_multidc",
        "$JS.API.STREAM.CREATE.mine",
        "$JS.API.STREAM.NAMES",
        "$JS.API.CONSUMER.NAMES.KV_multidc",
        "$JS.API.INFO",
        "$JS.API.DIRECT.GET.KV_other",
        "$JS.API.CONSUMER.CREATE.KV_other.mine",
        "$KV.multidc.5.9.intents.eu/dc-1",
        "$KV.multidc.0.0.records.eu/dc-2",
        "$KV.other.key",
    ] {
        assert!(!answered(&thief, subject, json!({})).await, "{subject} was answered");
    }
    // Others' answers are not heard: the server refuses the subscription.
    let mut ears = thief.subscribe("_INBOX_operator.>").await.expect("sent");
    let operator = guarded.operator().await;
    operator.list_all().await.expect("answers went to the operator");
    let heard = tokio::time::timeout(Duration::from_millis(300), ears.next()).await;
    assert!(!matches!(heard, Ok(Some(_))), "{heard:?}");
}

/// Said in `docs/stores.md`: NATS checks subjects, not headers, and one header empties the bucket.
#[tokio::test]
async fn what_nats_cannot_keep_from_a_thief_is_as_the_docs_say() {
    let guarded = Guarded::start();
    guarded.setup().await;
    let operator = guarded.operator().await;
    let id = record("dc-1", Duration::from_secs(60)).id().clone();
    operator.set_intent(&id, &Intent::new(IntentKind::Drain, "ann", "")).await.expect("an intent");
    let before = operator.store().await.expect("store");
    let mut watch = operator.watch().await.expect("watch");
    replay(&mut watch).await;

    // What may be read can be sent to where its reader may not write.
    let thief = guarded.thief().await;
    let mut elsewhere = admin::client(&guarded.server.url()).await.subscribe("elsewhere").await.expect("subscribed");
    let config = json!({"name": "mine", "deliver_subject": "elsewhere", "deliver_policy": "all", "ack_policy": "none"});
    let consumer = json!({"stream_name": "KV_multidc", "config": config});
    assert!(answered(&thief, "$JS.API.CONSUMER.CREATE.KV_multidc.mine", consumer).await, "a consumer is granted");
    within("a delivery", elsewhere.next()).await.expect("delivered");

    let mut headers = HeaderMap::new();
    headers.insert("Nats-Rollup", "all");
    let subject = format!("$KV.multidc.{}", admin::place("records/eu/dc-1"));
    let answer = thief.request_with_headers(subject, headers, "x".into()).await.expect("an answer");
    let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    assert!(answer["error"].is_null(), "NATS has learnt to refuse it: say so in docs/stores.md: {answer}");

    // The intents are gone, and the store's id with them: an operator may not write another, and says so.
    is_denied("the store's id", operator.list_all().await, "meta.store");
    // The next node does: it is another store then, which all notice (P1), and nothing of the old one is taken for new.
    let after = guarded.node().await.store().await.expect("store");
    assert_ne!(after, before);
    let listing = operator.list_all().await.expect("list");
    assert_eq!((listing.as_of.store, listing.intents.len()), (after, 0));
    let ended = within("the end of the watch", async {
        loop {
            if let Err(err) = watch.next().await.expect("it ends with an error") {
                return err;
            }
        }
    });
    assert!(matches!(ended.await, Error::WatchLost { .. }), "P5");
}

/// Why that header cannot be forbidden: the servers want it for the traces of removals.
#[tokio::test]
async fn rollups_cannot_be_switched_off_where_removals_leave_traces() {
    let server = Server::start("");
    let client = admin::client(&server.url()).await;
    let settings = json!({
        "name": "KV_b", "subjects": ["$KV.b.>"], "storage": "file", "max_msgs_per_subject": 1, "allow_msg_ttl": true,
        "subject_delete_marker_ttl": 60_000_000_000_u64, "allow_rollup_hdrs": false,
    });
    let made = admin::api(&client, "STREAM.CREATE.KV_b", settings).await;
    let refused = !made["error"].is_null();
    assert!(refused || made["config"]["allow_rollup_hdrs"] == true, "it can be: do so, and say so in the docs: {made}");
}
