//! P12, P13: connecting, credentials, TLS.

use std::{path::PathBuf, time::Duration};

use dc_controlplane::{ControlPlane, Error, Expected, WatchEvent, config::TlsFiles};
use dc_nats::{NatsConfig, NatsConfigBuilder, NatsControlPlane};
use nkeys::KeyPair;

use crate::support::{
    PATIENCE, find,
    proxy::{Mode, Proxy},
    record, refused,
    server::Server,
    timed, until, within,
};

async fn connect(builder: NatsConfigBuilder) -> Result<NatsControlPlane, Error> {
    let config = builder.request_timeout(Duration::from_secs(3)).build().expect("a legal configuration");
    within("connect", NatsControlPlane::connect(config)).await
}

/// Nothing listens there.
const NOWHERE: &str = "nats://127.0.0.1:9";

#[tokio::test]
async fn every_server_is_tried() {
    let server = Server::start("");
    let urls = format!("{NOWHERE},nats://no-such-host.invalid:4222,{}", server.url());
    let plane = connect(NatsConfig::builder(urls).require_at_start(true)).await.expect("the third answers");
    plane.store().await.expect("store");
}

#[tokio::test]
async fn p12_an_unreachable_store_is_an_error_at_start_only_if_it_is_required() {
    let (plane, took) = timed(connect(NatsConfig::builder(NOWHERE))).await;
    let plane = plane.expect("P12: it keeps trying");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let (err, took) = timed(plane.store()).await;
    let err = refused(err);
    assert!(matches!(err, Error::Unreachable { .. }) && err.is_retryable(), "{err:?}");
    assert!(took < Duration::from_secs(5), "P11: {took:?}");
    assert!(!err.outcome_unknown(), "nothing was sent");

    let (err, took) = timed(connect(NatsConfig::builder(NOWHERE).require_at_start(true))).await;
    let err = refused(err);
    assert!(matches!(err, Error::Unreachable { operation: "connect", .. }), "{err:?}");
    assert!(took >= Duration::from_secs(3), "a server may come up within the timeout, but it took {took:?}");
}

#[tokio::test]
async fn a_required_server_may_come_up_within_the_timeout() {
    let mut server = Server::start("");
    let url = server.url();
    server.kill();
    let (connected, ()) = tokio::join!(connect(NatsConfig::builder(url).require_at_start(true)), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.start_again();
    });
    connected.expect("it came up").store().await.expect("store");
}

#[tokio::test]
async fn a_server_without_jetstream_is_told_as_such() {
    // Settings that come later win: no store directory, no JetStream.
    let server = Server::start("jetstream: disabled");
    let err = refused(connect(NatsConfig::builder(server.url()).require_at_start(true)).await);
    let cause = std::error::Error::source(&err).map(ToString::to_string).unwrap_or_default();
    assert!(cause.contains("JetStream"), "{err:?}");
    assert!(err.is_outage(), "a cluster that is coming up says the same: {err:?}");
}

/// Checks that `wrong` is refused at once, for ever, without its secret in the words, and that `right` works.
async fn check_credentials(server: &Server, right: &[NatsConfigBuilder], wrong: &[NatsConfigBuilder]) {
    for (n, builder) in right.iter().enumerate() {
        let plane = connect(builder.clone()).await.unwrap_or_else(|err| panic!("right credentials {n}: {err:?}"));
        plane.store().await.expect("store");
    }
    for (n, builder) in wrong.iter().enumerate() {
        let (result, took) = timed(connect(builder.clone())).await;
        let err = refused(result);
        assert!(matches!(err, Error::Denied { .. }) && !err.is_retryable(), "wrong credentials {n}: {err:?}");
        assert!(took < Duration::from_secs(3), "wrong credentials {n}: {took:?}");
        let text = format!("{err} {err:?} {builder:?}");
        assert!(!text.contains("wrong-secret"), "{text}");
    }
    drop(server.url());
}

#[tokio::test]
async fn tokens_and_passwords_are_checked() {
    let server = Server::start("authorization { token: right-secret }");
    let ours = || NatsConfig::builder(server.url());
    let in_url = server.url().replace("//", "//right-secret@");
    check_credentials(
        &server,
        &[ours().token("right-secret"), NatsConfig::builder(in_url)],
        &[ours(), ours().token("wrong-secret"), ours().user_password("ann", "wrong-secret")],
    )
    .await;
    let server = Server::start("authorization { user: ann, password: right-secret }");
    let ours = || NatsConfig::builder(server.url());
    let in_url = server.url().replace("//", "//ann:right%2Dsecret@");
    check_credentials(
        &server,
        &[ours().user_password("ann", "right-secret"), NatsConfig::builder(in_url)],
        &[ours(), ours().user_password("ann", "wrong-secret"), ours().user_password("bob", "right-secret")],
    )
    .await;
}

#[tokio::test]
async fn nkeys_are_checked() {
    let (ann, bob) = (KeyPair::new_user(), KeyPair::new_user());
    let server = Server::start(&format!("authorization {{ users: [{{ nkey: {} }}] }}", ann.public_key()));
    let ours = || NatsConfig::builder(server.url());
    let seed = |pair: &KeyPair| pair.seed().expect("a new key has a seed");
    check_credentials(&server, &[ours().nkey(seed(&ann))], &[ours(), ours().nkey(seed(&bob))]).await;
}

/// A NATS token: a JWT that `by` signed.
fn jwt(by: &KeyPair, name: &str, subject: &str, nats: serde_json::Value) -> String {
    let encode = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let claims = serde_json::json!({
        "jti": name, "iat": 1_700_000_000, "iss": by.public_key(), "name": name, "sub": subject, "nats": nats,
    });
    let head = encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let body = format!("{head}.{}", encode(claims.to_string().as_bytes()));
    let signature = by.sign(body.as_bytes()).expect("a key pair with its seed");
    format!("{body}.{}", encode(&signature))
}

fn credentials_file(dir: &std::path::Path, name: &str, token: &str, user: &KeyPair) -> PathBuf {
    let path = dir.join(name);
    let seed = user.seed().expect("a new key has a seed");
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    std::fs::write(&path, text).expect("a temporary file");
    path
}

#[tokio::test]
async fn credentials_files_are_checked() {
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let unlimited = serde_json::json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_operator =
        jwt(&operator, "op", &operator.public_key(), serde_json::json!({"type": "operator", "version": 2}));
    let of_account = jwt(
        &operator,
        "app",
        &account.public_key(),
        serde_json::json!({"type": "account", "version": 2, "limits": unlimited}),
    );
    let user_claims = || serde_json::json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}});
    let system = KeyPair::new_account();
    let of_system = jwt(
        &operator,
        "sys",
        &system.public_key(),
        serde_json::json!({"type": "account", "version": 2, "limits": {"subs": -1, "data": -1, "payload": -1, "conn": -1}}),
    );
    let of_user = jwt(&account, "node", &user.public_key(), user_claims());
    let server = Server::start(&format!(
        "operator: {of_operator}\nsystem_account: {1}\nresolver: MEMORY\n\
         resolver_preload: {{ {0}: {of_account}\n{1}: {of_system} }}",
        account.public_key(),
        system.public_key()
    ));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let stranger = KeyPair::new_account();
    let forged = jwt(&stranger, "node", &user.public_key(), user_claims());
    let right = credentials_file(dir.path(), "right.creds", &of_user, &user);
    let wrong = credentials_file(dir.path(), "wrong.creds", &forged, &user);
    let ours = || NatsConfig::builder(server.url());
    check_credentials(&server, &[ours().credentials_file(right)], &[ours(), ours().credentials_file(wrong)]).await;

    std::fs::write(dir.path().join("not.creds"), "hello").expect("a temporary file");
    let err = refused(connect(ours().credentials_file(dir.path().join("not.creds"))).await);
    assert!(matches!(&err, Error::Invalid(invalid) if invalid.field == "credentials file"), "{err:?}");
}

#[tokio::test]
async fn an_account_that_may_not_use_the_bucket_is_told_so_at_once() {
    let server = Server::start(
        "authorization { users: [
            { user: ann, password: x }
            { user: bob, password: x, permissions: { publish: { deny: [\"$KV.>\"] } } }
            { user: eve, password: x, permissions: { publish: { deny: [\"$JS.API.>\"] } } }
        ] }",
    );
    let ours = |user: &str| NatsConfig::builder(server.url()).user_password(user, "x");
    let ann = connect(ours("ann")).await.expect("ann may");
    ann.store().await.expect("store");
    let bob = connect(ours("bob")).await.expect("bob may read");
    let mine = record("dc-1", Duration::from_secs(60));
    let (denied, took) = timed(bob.register(&mine, Expected::Absent)).await;
    let denied = refused(denied);
    assert!(matches!(&denied, Error::Denied { why, .. } if why.contains("$KV.multidc")), "{denied:?}");
    assert!(took < Duration::from_secs(1) && !denied.is_retryable(), "{took:?}");
    assert_eq!(bob.list_all().await.expect("bob may read").records.len(), 0);
    let denied = refused(connect(ours("eve")).await);
    assert!(matches!(denied, Error::Denied { .. }), "{denied:?}");
}

/// What the crate's header says is all that is needed.
#[tokio::test]
async fn an_account_with_just_the_documented_permissions_can_do_everything() {
    let server = Server::start(
        "authorization { users: [
            { user: admin, password: x }
            { user: node, password: x, permissions: {
                publish: [\"$KV.multidc.>\", \"$JS.API.STREAM.INFO.KV_multidc\", \"$JS.API.DIRECT.GET.KV_multidc\",
                          \"$JS.API.CONSUMER.*.KV_multidc.>\", \"$JS.FC.KV_multidc.>\"]
                subscribe: \"_INBOX.>\"
            } }
        ] }",
    );
    let ours = |user: &str| NatsConfig::builder(server.url()).user_password(user, "x");
    connect(ours("admin")).await.expect("the bucket is made");
    let node = connect(ours("node")).await.expect("connected");
    let mut watch = node.watch().await.expect("watch");
    let mut mine = record("dc-1", Duration::from_secs(60));
    mine.version = node.register(&mine, Expected::Absent).await.expect("register");
    mine.version = node.heartbeat(&mine).await.expect("heartbeat");
    assert_eq!(node.get(mine.id()).await.expect("get"), Some(mine.clone()));
    assert_eq!(node.list_all().await.expect("list").records, [mine.clone()]);
    // More than the server pushes without asking whether we keep up.
    for n in 0..400 {
        let mut other = record(&format!("dc-{n}"), Duration::from_secs(60));
        other.unknown.insert("padding".into(), "x".repeat(5_000).into());
        let _ = node.register(&other, Expected::Absent).await;
    }
    find(&mut watch, "the last record", |event| match event {
        WatchEvent::Put(found) => (found.id().as_str() == "eu/dc-399").then_some(()),
        _ => None,
    })
    .await;
    let stored = node.get(mine.id()).await.expect("get").expect("dc-1");
    node.deregister(stored.id(), stored.version).await.expect("deregister");
}

#[tokio::test]
async fn p12_credentials_that_are_refused_for_a_while_are_tried_again() {
    let mut server = Server::start("authorization { token: one }");
    let plane = connect(NatsConfig::builder(server.url()).token("one")).await.expect("connected");
    server.kill();
    server.configure("authorization { token: two }");
    server.start_again();
    until("the refusal to be told", async || matches!(plane.list_all().await, Err(Error::Denied { .. })).then_some(()))
        .await;
    server.kill();
    server.configure("authorization { token: one }");
    server.start_again();
    until("the credentials to be taken again", async || plane.list_all().await.ok()).await;
}

fn tls_file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

fn tls_server(verify: bool) -> Server {
    let [cert, key, ca] = ["server.pem", "server.key", "ca.pem"].map(tls_file);
    Server::start(&format!("tls {{ cert_file: {cert:?}, key_file: {key:?}, ca_file: {ca:?}, verify: {verify} }}"))
}

fn trusting(ca: &str) -> TlsFiles {
    TlsFiles { ca: Some(tls_file(ca)), ..TlsFiles::default() }
}

#[tokio::test]
async fn tls_checks_who_the_server_is() {
    let server = tls_server(false);
    let ours = || NatsConfig::builder(server.url());
    let plane = connect(ours().tls(trusting("ca.pem"))).await.expect("the right CA");
    plane.store().await.expect("store");
    let (err, took) = timed(connect(ours().tls(trusting("other-ca.pem")))).await;
    let err = refused(err);
    assert!(matches!(err, Error::Denied { .. }), "{err:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    // The files are there, but they are no certificates.
    let err = refused(connect(ours().tls(trusting("README.md"))).await);
    assert!(matches!(err, Error::Denied { .. } | Error::Invalid(_)), "{err:?}");
}

#[tokio::test]
async fn tls_shows_who_we_are() {
    let server = tls_server(true);
    let ours = || NatsConfig::builder(server.url().replace("nats://", "tls://"));
    let client =
        TlsFiles { certificate: Some(tls_file("client.pem")), key: Some(tls_file("client.key")), ..trusting("ca.pem") };
    let plane = connect(ours().tls(client)).await.expect("a certificate that the server trusts");
    plane.store().await.expect("store");
    let err = refused(connect(ours().tls(trusting("ca.pem")).require_at_start(true)).await);
    assert!(matches!(err, Error::Denied { .. }), "{err:?}");
}

#[tokio::test]
async fn p12_reconnecting_goes_on_for_as_long_as_it_takes() {
    let server = Server::start("");
    let proxy = Proxy::start(server.address()).await;
    let plane = connect(NatsConfig::builder(proxy.url())).await.expect("connected");
    let store = plane.store().await.expect("store");
    for _ in 0..3 {
        proxy.set(Mode::Cut);
        let err = refused(plane.list_all().await);
        assert!(err.is_outage(), "{err:?}");
        proxy.set(Mode::Open);
        let (listing, took) = timed(until("a list", async || plane.list_all().await.ok())).await;
        assert_eq!(listing.as_of.store, store);
        assert!(took < PATIENCE / 4, "P12: the pause between tries has a cap, but it took {took:?}");
    }
}
