//! P12, P13: connecting, and credentials of every kind. `tls` has certificates, `rights` what an account needs.

use std::time::Duration;

use dc_controlplane::{ControlPlane, Error, Expected};
use dc_nats::{NatsConfig, NatsConfigBuilder, NatsControlPlane};
use nkeys::KeyPair;

use crate::support::{
    PATIENCE, identity,
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

/// Checks that each of `wrong` is refused at once, for ever, in words that name it and hold no secret, and that each of
/// `right` works.
async fn check_credentials(server: &Server, right: &[NatsConfigBuilder], wrong: &[(NatsConfigBuilder, &str)]) {
    for (n, builder) in right.iter().enumerate() {
        let plane = connect(builder.clone()).await.unwrap_or_else(|err| panic!("right credentials {n}: {err:?}"));
        plane.store().await.expect("store");
    }
    for (builder, which) in wrong {
        let (result, took) = timed(connect(builder.clone())).await;
        let err = refused(result);
        let named = matches!(&err, Error::Denied { why, .. } if why.contains(which));
        assert!(named && !err.is_retryable(), "{which}: {err:?}");
        assert!(took < Duration::from_secs(3), "{which}: {took:?}");
        let text = format!("{err} {err:?} {builder:?}");
        assert!(!text.contains("wrong-secret"), "{text}");
    }
    // What was refused is the credentials: the server is there, and answers.
    assert!(server.is_running());
}

#[tokio::test]
async fn tokens_and_passwords_are_checked() {
    let server = Server::start("authorization { token: right-secret }");
    let ours = || NatsConfig::builder(server.url());
    let in_url = server.url().replace("//", "//right-secret@");
    check_credentials(
        &server,
        &[ours().token("right-secret"), NatsConfig::builder(in_url)],
        &[
            (ours(), "a client without credentials"),
            (ours().token("wrong-secret"), "the token"),
            (ours().user_password("ann", "wrong-secret"), "user `ann`"),
        ],
    )
    .await;
    let server = Server::start("authorization { user: ann, password: right-secret }");
    let ours = || NatsConfig::builder(server.url());
    let in_url = server.url().replace("//", "//ann:right%2Dsecret@");
    check_credentials(
        &server,
        &[ours().user_password("ann", "right-secret"), NatsConfig::builder(in_url)],
        &[
            (ours(), "a client without credentials"),
            (ours().user_password("ann", "wrong-secret"), "user `ann`"),
            (ours().user_password("bob", "right-secret"), "user `bob`"),
        ],
    )
    .await;
}

#[tokio::test]
async fn nkeys_are_checked() {
    let (ann, bob) = (KeyPair::new_user(), KeyPair::new_user());
    let server = Server::start(&format!("authorization {{ users: [{{ nkey: {} }}] }}", ann.public_key()));
    let ours = || NatsConfig::builder(server.url());
    let seed = |pair: &KeyPair| pair.seed().expect("a new key has a seed");
    let wrong = [(ours(), "a client without credentials"), (ours().nkey(seed(&bob)), "the nkey")];
    check_credentials(&server, &[ours().nkey(seed(&ann))], &wrong).await;
}

#[tokio::test]
async fn credentials_files_are_checked() {
    let operator = identity::Operator::new();
    let server = Server::start(&operator.config());
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (user, everything) = (KeyPair::new_user(), serde_json::json!({}));
    let file = |name: &str, jwt: &str| identity::credentials_file(dir.path(), name, jwt, &user);
    let right = file("right.creds", &operator.user(&user, &everything));
    let forged = file("forged.creds", &identity::Operator::new().user(&user, &everything));
    let expired = file("expired.creds", &operator.user_until(&user, &everything, 1_700_000_001));
    let ours = || NatsConfig::builder(server.url());
    let wrong = [
        (ours(), "a client without credentials"),
        (ours().credentials_file(forged), "forged.creds"),
        (ours().credentials_file(expired), "expired.creds"),
    ];
    check_credentials(&server, &[ours().credentials_file(right)], &wrong).await;

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
