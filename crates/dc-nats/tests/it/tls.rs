//! TLS: who the server is, who we are, and what is said where either is refused (P12).

use std::time::Duration;

use dc_controlplane::{ControlPlane, Error, Expected, config::TlsFiles};
use dc_nats::{NatsConfig, NatsConfigBuilder, NatsControlPlane};
use nkeys::KeyPair;

use crate::support::{
    at,
    certificates::{CLIENT, Certificates},
    identity, record, refused, replay,
    server::Server,
    timed, within,
};

async fn connect(builder: NatsConfigBuilder) -> Result<NatsControlPlane, Error> {
    let config = builder.request_timeout(Duration::from_secs(3)).build().expect("a legal configuration");
    within("connect", NatsControlPlane::connect(config)).await
}

/// A server that shows the certificate `name`, with `client` said of its clients' certificates, and further lines.
fn server(certificates: &Certificates, name: &str, client: &str, further: &str) -> Server {
    let [cert, key, ca] = [format!("{name}.pem"), format!("{name}.key"), "ca.pem".to_owned()]
        .map(|file| certificates.path(&file).display().to_string());
    Server::start(&format!("tls {{ cert_file: {cert:?}, key_file: {key:?}, ca_file: {ca:?}, {client} }}\n{further}"))
}

const MUTUAL: &str = "verify: true";

/// Connecting to `server` with `tls` is refused, at once, and the error has `word`.
async fn is_refused(server: &Server, tls: TlsFiles, word: &str) {
    let (result, took) = timed(connect(NatsConfig::builder(server.url()).tls(tls))).await;
    let err = refused(result);
    let named = matches!(&err, Error::Denied { why, .. } if why.contains(word));
    assert!(named && !err.is_retryable(), "P12: expected `{word}`, got {err:?}");
    assert!(took < Duration::from_secs(3), "P12: not tried for ever, but it took {took:?}");
}

/// A record's whole life.
async fn works(plane: &NatsControlPlane) {
    let mut watch = plane.watch().await.expect("watch");
    replay(&mut watch).await;
    let mine = record("dc-1", Duration::from_secs(60));
    let mine = at(&mine, plane.register(&mine, Expected::Absent).await.expect("register"));
    let mine = at(&mine, plane.heartbeat(&mine).await.expect("heartbeat"));
    assert_eq!(plane.list_all().await.expect("list").records, std::slice::from_ref(&mine));
    plane.deregister(mine.id(), mine.version).await.expect("deregister");
}

#[tokio::test]
async fn p12_the_servers_certificate_is_checked_and_the_error_says_what_is_wrong() {
    let certificates = Certificates::make();
    let trusting = |ca| certificates.files(ca, None);
    let good = server(&certificates, "server-by-ca", "", "");
    let plane = connect(NatsConfig::builder(good.url()).tls(trusting("ca"))).await.expect("the right CA");
    works(&plane).await;
    is_refused(&good, trusting("other-ca"), "no CA that we trust").await;
    is_refused(&good, TlsFiles::default(), "no CA that we trust").await;
    is_refused(&server(&certificates, "expired-server-by-ca", "", ""), trusting("ca"), "has expired").await;
    is_refused(&server(&certificates, "early-server-by-ca", "", ""), trusting("ca"), "not valid yet").await;
    is_refused(&server(&certificates, "elsewhere-by-ca", "", ""), trusting("ca"), "another host").await;
    is_refused(&Server::start(""), trusting("ca"), "TLS").await;
    // A server that asks for TLS gets it unasked; the platform's roots do not know this one.
    let err = refused(connect(NatsConfig::builder(good.url())).await);
    assert!(matches!(&err, Error::Denied { why, .. } if why.contains("tls ca")), "{err:?}");
}

#[tokio::test]
async fn tls_for_one_server_is_tls_for_all() {
    let plain = Server::start("");
    let urls = format!("tls://127.0.0.1:9,{}", plain.address());
    let err = refused(connect(NatsConfig::builder(urls).token("s3cret").require_at_start(true)).await);
    assert!(matches!(err, Error::Denied { .. } | Error::Unreachable { .. }), "{err:?}");
}

#[tokio::test]
async fn p12_our_certificate_is_checked_and_the_error_says_what_is_wrong() {
    let certificates = Certificates::make();
    let mutual = server(&certificates, "server-by-ca", MUTUAL, "");
    let ours = NatsConfig::builder(mutual.url().replace("nats://", "tls://"));
    let plane = connect(ours.tls(certificates.files("ca", Some("client-by-ca")))).await.expect("both are right");
    works(&plane).await;
    is_refused(&mutual, certificates.files("ca", None), "client certificate").await;
    is_refused(&mutual, certificates.files("ca", Some("client-by-other-ca")), "client certificate").await;
    for client in ["expired-client-by-ca", "early-client-by-ca"] {
        is_refused(&mutual, certificates.files("ca", Some(client)), "expired, or is not valid yet").await;
    }
}

/// `verify_and_map`: the name in a client's certificate is its user.
#[tokio::test]
async fn a_certificate_can_stand_for_a_user() {
    let certificates = Certificates::make();
    let tls = || certificates.files("ca", Some("client-by-ca"));
    let known = format!("authorization {{ users: [{{ user: \"CN={CLIENT}\" }}] }}");
    let server_ = server(&certificates, "server-by-ca", "verify_and_map: true", &known);
    works(&connect(NatsConfig::builder(server_.url()).tls(tls())).await.expect("the certificate is enough")).await;
    let stranger = "authorization { users: [{ user: \"CN=someone-else\" }] }";
    let server_ = server(&certificates, "server-by-ca", "verify_and_map: true", stranger);
    is_refused(&server_, tls(), "the client certificate").await;
}

#[tokio::test]
async fn mutual_tls_goes_with_every_kind_of_credentials() {
    let certificates = Certificates::make();
    let user = KeyPair::new_user();
    let seed = user.seed().expect("a new key has a seed");
    let operator = identity::Operator::new();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let token = operator.user(&user, &serde_json::json!({}));
    let file = identity::credentials_file(dir.path(), "node.creds", &token, &user);
    let none = NatsConfig::builder;
    let nkey = format!("authorization {{ users: [{{ nkey: {} }}] }}", user.public_key());
    type With = Box<dyn Fn(NatsConfigBuilder) -> NatsConfigBuilder>;
    let kinds: [(&str, String, With); 4] = [
        ("the token", "authorization { token: right }".into(), Box::new(|config| config.token("right"))),
        (
            "a password",
            "authorization { user: ann, password: right }".into(),
            Box::new(|config| config.user_password("ann", "right")),
        ),
        ("an nkey", nkey, Box::new(move |config| config.nkey(&seed))),
        ("a credentials file", operator.config(), Box::new(move |config| config.credentials_file(&file))),
    ];
    for (what, config, with) in kinds {
        let server = server(&certificates, "server-by-ca", MUTUAL, &config);
        let tls = certificates.files("ca", Some("client-by-ca"));
        let plane = connect(with(none(server.url())).tls(tls.clone())).await;
        works(&plane.unwrap_or_else(|err| panic!("{what}: {err:?}"))).await;
        let err = refused(connect(none(server.url()).tls(tls)).await);
        assert!(matches!(err, Error::Denied { .. }), "a certificate alone, without {what}: {err:?}");
    }
}

#[tokio::test]
async fn p13_tls_files_that_cannot_be_used_are_named() {
    let certificates = Certificates::make();
    let server = server(&certificates, "server-by-ca", MUTUAL, "");
    let garbage = certificates.path("garbage.pem");
    std::fs::write(&garbage, "-----BEGIN CERTIFICATE-----\n!!\n").expect("written");
    let good = || certificates.files("ca", Some("client-by-ca"));
    for (what, files) in [
        ("a key that is none", TlsFiles { key: Some(garbage.clone()), ..good() }),
        ("another certificate's key", TlsFiles { key: Some(certificates.path("server-by-ca.key")), ..good() }),
        ("a CA that is none", TlsFiles { ca: Some(garbage), ..good() }),
    ] {
        let err = refused(connect(NatsConfig::builder(server.url()).tls(files)).await);
        assert!(matches!(&err, Error::Invalid(invalid) if invalid.field == "tls"), "{what}: {err:?}");
    }
    for (half, field) in
        [(TlsFiles { key: None, ..good() }, "tls certificate"), (TlsFiles { certificate: None, ..good() }, "tls key")]
    {
        let err = NatsConfig::builder(server.url()).tls(half).build().expect_err("half-set");
        assert_eq!(err.field, field);
    }
}
