//! Secrets appear in no log, no error and no `Debug`: not ours, not the client's.

use std::time::Duration;

use dc_controlplane::{ControlPlane, Expected};
use dc_nats::{NatsConfig, NatsConfigBuilder, NatsControlPlane};
use nkeys::KeyPair;

use crate::support::{
    capture::{Log, Shown, lines},
    certificates::Certificates,
    identity, record, refused,
    server::Server,
    within,
};

/// Connects with `builder`, works, is refused once more, and gathers all that can be seen of it.
async fn gather(shown: &mut Shown, builder: NatsConfigBuilder) {
    shown.debug("the builder", &builder);
    let config = builder.request_timeout(Duration::from_secs(2)).build().expect("a legal configuration");
    shown.debug("the configuration", &config);
    match within("connect", NatsControlPlane::connect(config)).await {
        Ok(plane) => {
            shown.debug("the plane", &plane);
            shown.debug("the capabilities", &plane.capabilities());
            let mine = record("dc-1", Duration::from_secs(60));
            match plane.register(&mine, Expected::Absent).await {
                Ok(_) => shown.error("a conflict", &refused(plane.register(&mine, Expected::Absent).await)),
                Err(err) => shown.error("a refused write", &err),
            }
        }
        Err(err) => shown.error("a refused connection", &err),
    }
}

#[tokio::test]
async fn p13_passwords_tokens_and_urls_are_never_shown() {
    let (log, guard) = Log::start();
    let mut shown = Shown::default();
    let server = Server::start("authorization { user: ann, password: s3cret-right }");
    let ours = || NatsConfig::builder(server.url());
    gather(&mut shown, ours().user_password("ann", "s3cret-right")).await;
    gather(&mut shown, ours().user_password("ann", "s3cret-wrong")).await;
    gather(&mut shown, ours().token("s3cret-token")).await;
    for userinfo in ["ann:s3cret-right@", "ann:s3cret-wrong@", "s3cret-token@"] {
        gather(&mut shown, NatsConfig::builder(server.url().replace("//", &format!("//{userinfo}")))).await;
    }
    let server = Server::start("authorization { token: s3cret-token }");
    gather(&mut shown, NatsConfig::builder(server.url()).token("s3cret-token")).await;
    for url in ["nats://ann:s3cret@h/x", "http://ann:s3cret@h", "nats://ann:s3cret@h:99999", "nats://ann:s3cret%zz@h"] {
        let builder = NatsConfig::builder(url);
        shown.debug("a bad builder", &builder);
        shown.error("a bad URL", &builder.build().expect_err("a bad URL"));
    }
    let twice = NatsConfig::builder("nats://ann:s3cret@h").token("s3cret");
    shown.error("two kinds", &twice.build().expect_err("two kinds of credentials"));
    drop(guard);
    assert!(log.text().contains("multidc"), "the log was captured");
    shown.log(&log);
    shown.has_none_of(&["s3cret".to_owned()]);
}

#[tokio::test]
async fn p13_seeds_and_credentials_files_are_never_shown() {
    let (log, guard) = Log::start();
    let mut shown = Shown::default();
    let (ann, bob) = (KeyPair::new_user(), KeyPair::new_user());
    let seed = |pair: &KeyPair| pair.seed().expect("a new key has a seed");
    let server = Server::start(&format!("authorization {{ users: [{{ nkey: {} }}] }}", ann.public_key()));
    gather(&mut shown, NatsConfig::builder(server.url()).nkey(seed(&ann))).await;
    gather(&mut shown, NatsConfig::builder(server.url()).nkey(seed(&bob))).await;
    let spoilt = seed(&ann).replace('A', "B");
    gather(&mut shown, NatsConfig::builder(server.url()).nkey(&spoilt)).await;
    let short = NatsConfig::builder(server.url()).nkey(&seed(&ann)[..40]).build();
    shown.error("half a seed", &short.expect_err("half a seed"));

    let operator = identity::Operator::new();
    let server = Server::start(&operator.config());
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str, jwt: &str| identity::credentials_file(dir.path(), name, jwt, &ann);
    let everything = serde_json::json!({});
    let right = file("right.creds", &operator.user(&ann, &everything));
    let wrong = file("wrong.creds", &identity::Operator::new().user(&ann, &everything));
    let cut = dir.path().join("cut.creds");
    let text = std::fs::read_to_string(&right).expect("made above");
    std::fs::write(&cut, &text[..text.len() - 60]).expect("a temporary file");
    for file in [&right, &wrong, &cut] {
        gather(&mut shown, NatsConfig::builder(server.url()).credentials_file(file)).await;
    }
    drop(guard);
    shown.log(&log);
    let mut secrets = vec![seed(&ann), seed(&bob), spoilt, seed(&ann)[..40].to_owned()];
    secrets.extend(lines(&right));
    secrets.extend(lines(&wrong));
    shown.has_none_of(&secrets);
}

#[tokio::test]
async fn p13_keys_are_never_shown() {
    let (log, guard) = Log::start();
    let mut shown = Shown::default();
    let certificates = Certificates::make();
    let file = |name: &str| certificates.path(name).display().to_string();
    let [cert, key, ca] = [file("server-by-ca.pem"), file("server-by-ca.key"), file("ca.pem")];
    let server =
        Server::start(&format!("tls {{ cert_file: {cert:?}, key_file: {key:?}, ca_file: {ca:?}, verify: true }}"));
    let mut files = certificates.files("ca", Some("client-by-ca"));
    gather(&mut shown, NatsConfig::builder(server.url()).tls(files.clone())).await;
    gather(&mut shown, NatsConfig::builder(server.url()).tls(certificates.files("other-ca", Some("client-by-ca"))))
        .await;
    // Another certificate's key, and a key where a certificate is to be.
    files.key = Some(certificates.path("client-by-other-ca.key"));
    gather(&mut shown, NatsConfig::builder(server.url()).tls(files.clone())).await;
    files.certificate = files.key.clone();
    gather(&mut shown, NatsConfig::builder(server.url()).tls(files.clone())).await;
    files.ca = files.key.clone();
    gather(&mut shown, NatsConfig::builder(server.url()).tls(files)).await;
    drop(guard);
    shown.log(&log);
    let mut secrets = lines(&certificates.path("client-by-ca.key"));
    secrets.extend(lines(&certificates.path("client-by-other-ca.key")));
    shown.has_none_of(&secrets);
}
