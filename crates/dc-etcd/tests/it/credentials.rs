//! Users, roles, tokens: `tls` has certificates, `rights` what a role needs.

use dc_controlplane::{ControlPlane, Error, Expected};
use dc_etcd::{EtcdConfigBuilder, EtcdControlPlane};
use etcd_client::{Client, ConnectOptions, Permission};

use crate::{
    samples::*,
    server::{Etcd, shared_single},
};

#[tokio::test]
async fn authentication_that_is_switched_on_later_finds_the_user_ready() {
    let ns = namespace();
    let etcd = Etcd::single();
    let plane = connect(as_user(&etcd, &ns, "writer", "writer")).await.expect("nobody asks for a password yet");
    let held = registered(&plane, &record("dc-1", 60)).await;
    let mut watch = plane.watch().await.expect("watch");
    replay(&mut watch).await;
    guard(&etcd, &ns).await;
    plane.heartbeat(&held).await.expect("heartbeat");
    let after = registered(&plane, &record("after", 60)).await;
    match change(&mut watch).await {
        dc_controlplane::WatchEvent::Put(found) => assert_eq!(found, after),
        other => panic!("{other:?}"),
    }
    in_step(&mut watch).await;
}

/// A server with users: root, `writer` (of `namespace`), `reader` (of it), `stranger` (of nothing). Password: name.
async fn guarded(namespace: &str) -> Etcd {
    let etcd = Etcd::single();
    guard(&etcd, namespace).await;
    etcd
}

async fn guard(etcd: &Etcd, namespace: &str) {
    let client = raw(&[etcd.url()]).await;
    let mut auth = client.auth_client();
    let prefix = format!("{namespace}/");
    let all = |permission: Permission| permission.with_prefix();
    auth.role_add("root").await.expect("role");
    for (role, permission) in [
        ("writer", all(Permission::read_write(prefix.clone()))),
        ("reader", all(Permission::read(prefix.clone()))),
        ("stranger", all(Permission::read_write("elsewhere/"))),
    ] {
        auth.role_add(role).await.expect("role");
        auth.role_grant_permission(role, permission).await.expect("grant");
    }
    for user in ["root", "writer", "reader", "stranger"] {
        auth.user_add(user, user, None).await.expect("user");
        auth.user_grant_role(user, user).await.expect("grant");
    }
    auth.auth_enable().await.expect("enable");
}

fn as_user(etcd: &Etcd, namespace: &str, user: &str, password: &str) -> EtcdConfigBuilder {
    builder(&[etcd.url()], namespace).user(user, password)
}

async fn connect(builder: EtcdConfigBuilder) -> Result<EtcdControlPlane, Error> {
    EtcdControlPlane::connect(builder.build().expect("a legal configuration")).await
}

#[tokio::test]
async fn p12_refused_credentials_fail_at_connect() {
    let ns = namespace();
    let etcd = guarded(&ns).await;
    for (what, builder, word) in [
        ("a wrong password", as_user(&etcd, &ns, "writer", "s3cret"), "password is wrong"),
        ("an unknown user", as_user(&etcd, &ns, "nobody", "s3cret"), "password is wrong"),
        ("no user", builder(&[etcd.url()], &ns), "none is set"),
        ("a user of other keys", as_user(&etcd, &ns, "stranger", "stranger"), "roles do not allow connect"),
    ] {
        let refused = connect(builder).await;
        assert!(matches!(&refused, Err(Error::Denied { why, .. }) if why.contains(word)), "{what}: {refused:?}");
        assert!(!format!("{refused:?}").contains("s3cret"), "the password is printed");
    }
}

#[tokio::test]
async fn a_reader_reads_and_watches_and_is_denied_to_write() {
    let ns = namespace();
    let etcd = guarded(&ns).await;
    let writer = connect(as_user(&etcd, &ns, "writer", "writer")).await.expect("writer");
    let held = registered(&writer, &record("dc-1", 60)).await;
    writer.heartbeat(&held).await.expect("heartbeat");
    let reader = connect(as_user(&etcd, &ns, "reader", "reader")).await.expect("reader");
    assert_eq!(writer.capabilities().replicas, Some(1), "P13: an ordinary user learns the number of members");
    assert_eq!(reader.list_all().await.expect("list").records, std::slice::from_ref(&held));
    assert_eq!(reader.get(held.id()).await.expect("get"), Some(held.clone()));
    let mut watch = reader.watch().await.expect("watch");
    replay(&mut watch).await;
    in_step(&mut watch).await;
    let refused = reader.register(&record("dc-2", 60), Expected::Absent).await;
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    let refused = reader.deregister(held.id(), held.version).await;
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    writer.deregister(held.id(), held.version).await.expect("deregister");
    removed(&mut watch, held.id()).await;
}

#[tokio::test]
async fn tokens_that_a_restart_or_a_new_role_made_void_are_renewed() {
    let ns = namespace();
    let etcd = guarded(&ns).await;
    let plane = connect(as_user(&etcd, &ns, "writer", "writer")).await.expect("writer");
    let held = registered(&plane, &record("before", 60)).await;
    let mut watch = plane.watch().await.expect("watch");
    replay(&mut watch).await;
    etcd.kill();
    etcd.start();
    let after = registered(&plane, &record("after", 60)).await;
    match change(&mut watch).await {
        dc_controlplane::WatchEvent::Put(found) => assert_eq!(found, after),
        other => panic!("{other:?}"),
    }
    // Each change of the rights makes older tokens void.
    let options = ConnectOptions::new().with_user("root", "root");
    let root = Client::connect([etcd.url()], Some(options)).await.expect("root");
    root.auth_client().role_add("newcomer").await.expect("role");
    plane.heartbeat(&held).await.expect("heartbeat");
    registered(&plane, &record("last", 60)).await;
    in_step(&mut watch).await;
}

#[tokio::test]
async fn rights_that_were_taken_away_end_calls_and_watches_with_denied() {
    let ns = namespace();
    let etcd = guarded(&ns).await;
    let plane = connect(as_user(&etcd, &ns, "reader", "reader").request_timeout(TIMEOUT)).await;
    // The id of the store is written by someone who may.
    assert!(matches!(plane, Err(Error::Denied { .. })), "an empty store gets its id from a writer: {plane:?}");
    connect(as_user(&etcd, &ns, "writer", "writer")).await.expect("writer");
    let plane = connect(as_user(&etcd, &ns, "reader", "reader")).await.expect("reader");
    let mut watch = plane.watch().await.expect("watch");
    replay(&mut watch).await;
    let options = ConnectOptions::new().with_user("root", "root");
    let root = Client::connect([etcd.url()], Some(options)).await.expect("root");
    root.auth_client().user_revoke_role("reader", "reader").await.expect("revoke");
    let refused = plane.list_all().await;
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    let ended = end(&mut watch).await;
    assert!(matches!(ended, Error::Denied { .. }), "{ended:?}");
}

#[tokio::test]
async fn a_user_on_a_server_without_authentication_is_a_finding() {
    let url = [shared_single().url()];
    let plane = connect(builder(&url, &namespace()).user("ann", "x")).await.expect("connect");
    let findings = plane.capabilities().findings;
    assert!(findings.iter().any(|finding| finding.contains("switched off")), "{findings:?}");
    registered(&plane, &record("dc-1", 60)).await;
}
