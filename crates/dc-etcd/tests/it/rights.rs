//! What a role must allow, and what it cannot do then: with the very snippet of `docs/stores.md`.

use dc_controlplane::{
    ControlPlane, Error, Expected, WatchEvent, Writer,
    ownership::{Keep, Swap},
};
use dc_core::{DataCenterState, Intent, IntentKind};
use dc_etcd::{EtcdConfigBuilder, EtcdControlPlane};
use etcd_client::{Client, ConnectOptions, Permission};

use crate::{samples::*, server::Etcd};

const DOCS: &str = include_str!("../../../../docs/stores.md");

/// Runs the snippet, as `etcdctl` would: `edit` may make others of its lines.
pub(crate) async fn set_up(etcd: &Etcd, edit: impl Fn(&str) -> String) {
    let start = DOCS.find("# etcd-rights\n").expect("the snippet is in docs/stores.md");
    let mut auth = raw(&[etcd.url()]).await.auth_client();
    let snippet = DOCS[start..].split("```").next().expect("not empty");
    let lines: Vec<String> = snippet.lines().filter(|line| !line.starts_with('#')).map(edit).collect();
    for line in lines.iter().flat_map(|lines| lines.lines()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match &words[..] {
            ["etcdctl", "role", "add", role] => {
                auth.role_add(*role).await.expect("role");
            }
            ["etcdctl", "role", "grant-permission", role, grant @ ..] => {
                let permission = match grant {
                    ["--prefix=true", "read", key] => Permission::read(*key).with_prefix(),
                    ["--prefix=true", "readwrite", key] => Permission::read_write(*key).with_prefix(),
                    ["readwrite", key] => Permission::read_write(*key),
                    other => panic!("a grant that this test cannot read: {other:?}"),
                };
                auth.role_grant_permission(*role, permission).await.expect("grant");
            }
            ["etcdctl", "user", "add", user] => {
                let (name, password) = user.split_once(':').expect("name:password");
                auth.user_add(name, password, None).await.expect("user");
            }
            ["etcdctl", "user", "grant-role", user, role] => {
                auth.user_grant_role(*user, *role).await.expect("grant");
            }
            ["etcdctl", "auth", "enable"] => {
                auth.auth_enable().await.expect("enable");
            }
            [] => {}
            other => panic!("a line that this test cannot read: {other:?}"),
        }
    }
}

/// The documented credentials of a node of `eu/dc-1`.
pub(crate) fn as_node(builder: EtcdConfigBuilder) -> EtcdConfigBuilder {
    builder.user("dc-1", "change-me-1")
}

/// The datacenter of whose records the suite of the documents writes one, and an intent.
const SUITES: &str = "region=201/dc-1";

/// A node's rights for the suite of the ownership documents: those of a node of its datacenter, which sets intents of it.
pub(crate) fn for_documents(line: &str) -> String {
    assert!(DOCS.contains("`readwrite multidc/intents/<id>`"), "what is granted here is in docs/stores.md");
    let line = line.replace("eu/dc-1", SUITES);
    match line.contains("node readwrite multidc/records/") {
        true => format!("{line}\n{}", line.replace("/records/", "/intents/")),
        false => line,
    }
}

/// A node's rights for the suite of records and intents, which has many datacenters and one account: those of a node
/// that may act for any, and sets intents.
pub(crate) fn for_records(line: &str) -> String {
    let any = "the prefixes `multidc/records/` and `multidc/gone/`";
    assert!(DOCS.contains(any) && DOCS.contains("or that prefix for any"), "what is granted here is in docs/stores.md");
    let line = match line.strip_suffix("eu/dc-1") {
        Some(_) => line.replace("readwrite", "--prefix=true readwrite").replace("eu/dc-1", ""),
        None => line.to_owned(),
    };
    match line.contains("node --prefix=true readwrite multidc/records/") {
        true => format!("{line}\n{}", line.replace("/records/", "/intents/")),
        false => line,
    }
}

/// A client of etcd itself that may do everything.
pub(crate) async fn root(etcd: &Etcd) -> Client {
    client(etcd, "root", "change-me-0").await
}

fn as_operator(builder: EtcdConfigBuilder) -> EtcdConfigBuilder {
    builder.user("operator", "change-me-2")
}

async fn guarded() -> Etcd {
    let etcd = Etcd::single();
    set_up(&etcd, str::to_owned).await;
    etcd
}

async fn connect(builder: EtcdConfigBuilder) -> Result<EtcdControlPlane, Error> {
    within("connect", EtcdControlPlane::connect(builder.build().expect("a legal configuration"))).await
}

async fn both(etcd: &Etcd) -> (EtcdControlPlane, EtcdControlPlane) {
    let ours = || builder(&[etcd.url()], "multidc");
    let node = connect(as_node(ours())).await.expect("a node makes the store's id");
    (node, connect(as_operator(ours())).await.expect("an operator"))
}

/// A plain client with someone's credentials: what a thief has.
async fn client(etcd: &Etcd, user: &str, password: &str) -> Client {
    let options = ConnectOptions::new().with_user(user, password);
    Client::connect([etcd.url()], Some(options)).await.expect("a client")
}

#[track_caller]
fn is_denied<T: std::fmt::Debug>(what: &str, result: Result<T, Error>) {
    let err = result.expect_err(what);
    let named = matches!(&err, Error::Denied { why, .. } if why.contains("roles do not allow"));
    assert!(named && !err.is_retryable() && !err.outcome_unknown(), "{what}: {err:?}");
}

/// A record's whole life, and an intent's, with the documented rights and no more.
#[tokio::test]
async fn a_node_and_an_operator_can_do_their_work_with_the_documented_rights() {
    let etcd = guarded().await;
    let (node, operator) = both(&etcd).await;
    let (mut seen_by_node, mut seen_by_operator) =
        (node.watch().await.expect("watch"), operator.watch().await.expect("watch"));
    replay(&mut seen_by_node).await;
    replay(&mut seen_by_operator).await;

    let held = registered(&node, &record("dc-1", 60)).await;
    node.heartbeat(&held).await.expect("heartbeat");
    assert_eq!(operator.list_all().await.expect("list").records, std::slice::from_ref(&held));
    assert_eq!(operator.get(held.id()).await.expect("get"), Some(held.clone()));
    assert_eq!(change(&mut seen_by_operator).await, WatchEvent::Put(held.clone()));
    assert_eq!(change(&mut seen_by_node).await, WatchEvent::Put(held.clone()));

    let intent = Intent::new(IntentKind::Drain, "ann", "an upgrade");
    operator.set_intent(held.id(), &intent).await.expect("an intent");
    match change(&mut seen_by_node).await {
        WatchEvent::Intent(seen) => assert_eq!(seen.intent.want, IntentKind::Drain),
        other => panic!("{other:?}"),
    }
    let by = Writer::Operator { by: "ann".into(), why: "done".into() };
    operator.set_state(held.id(), DataCenterState::Active, by).await.expect("an intent by another name");
    in_step(&mut seen_by_node).await;
    in_step(&mut seen_by_operator).await;
    node.deregister(held.id(), held.version).await.expect("deregister");
    let why = removed(&mut seen_by_operator, held.id()).await;
    assert_eq!(why, dc_controlplane::Removal::Deregistered, "P10: the goodbye may be written");
}

#[tokio::test]
async fn an_operator_writes_neither_records_nor_documents_and_a_node_only_its_own_record() {
    let etcd = guarded().await;
    let (node, operator) = both(&etcd).await;
    let held = registered(&node, &record("dc-1", 60)).await;
    is_denied("register", operator.register(&record("dc-9", 60), Expected::Absent).await);
    is_denied("deregister", operator.deregister(held.id(), held.version).await);
    is_denied("another's record", node.register(&record("dc-2", 60), Expected::Absent).await);
    is_denied("an intent", node.set_intent(held.id(), &Intent::new(IntentKind::Out, "mallory", "")).await);
    let key = "n/x".parse().expect("legal");
    let claimed = |plane: &EtcdControlPlane| {
        let (documents, key) = (plane.ownership().expect("it has documents"), &key);
        async move { documents.compare_and_set(key, Expected::Absent, "x".into(), Keep::Forever).await }
    };
    is_denied("owning", claimed(&operator).await);
    assert!(matches!(claimed(&node).await, Ok(Swap::Done(_))), "a node may own");
    for as_whom in [as_node, as_operator] {
        is_denied("another namespace", connect(as_whom(builder(&[etcd.url()], "other"))).await);
    }
    assert_eq!(node.list_all().await.expect("list").records, [held], "nothing was changed");
}

#[tokio::test]
async fn a_stolen_node_password_opens_neither_other_keys_nor_the_administration() {
    let etcd = guarded().await;
    let (node, operator) = both(&etcd).await;
    let held = registered(&node, &record("dc-1", 60)).await;
    operator.set_intent(held.id(), &Intent::new(IntentKind::Drain, "ann", "")).await.expect("an intent");
    let thief = client(&etcd, "dc-1", "change-me-1").await;
    let mut kv = thief.kv_client();
    for key in [
        "multidc/records/eu/dc-2",
        "multidc/records/eu/dc-1/x",
        "multidc/gone/eu/dc-2",
        "multidc/intents/eu/dc-1",
        "other/key",
    ] {
        let refused = kv.put(key, "x", None).await;
        assert!(refused.is_err(), "{key} was written");
        assert!(kv.delete(key, None).await.is_err(), "{key} was deleted");
    }
    assert!(kv.get("other/key", None).await.is_err(), "read");
    assert!(thief.auth_client().role_add("mine").await.is_err(), "a role was made");
    assert!(thief.auth_client().auth_disable().await.is_err(), "authentication was switched off");
    assert!(thief.maintenance_client().snapshot().await.is_err(), "a snapshot was taken");
    // What is granted, so that the test itself is known to tell the difference.
    kv.put("multidc/~own/x", "x", None).await.expect("granted");
    assert_eq!(operator.list_all().await.expect("list").intents.len(), 1);
}

/// Said in `docs/stores.md`, for etcd 3.5.30.
#[tokio::test]
async fn a_thief_reaches_no_lease_of_others_but_may_grant_new_ones() {
    let etcd = guarded().await;
    let (node, _operator) = both(&etcd).await;
    let held = registered(&node, &record("dc-1", 60)).await;
    let thief = client(&etcd, "operator", "change-me-2").await;
    let stored = thief.kv_client().get(format!("multidc/records/{}", held.id()), None).await.expect("may read");
    let (mut leases, lease) = (thief.lease_client(), stored.kvs()[0].lease());
    assert!(leases.keep_alive(lease).await.is_err(), "a record was kept alive that others let die");
    assert!(leases.revoke(lease).await.is_err(), "another's record was ended");
    let revision = stored.header().expect("a header").revision();
    assert!(thief.kv_client().compact(revision, None).await.is_err(), "history was compacted away");
    leases.grant(3_600, None).await.expect("granted to all users: leases cost memory, and nothing bounds them");
    assert_eq!(node.list_all().await.expect("list").records, [held]);
}
