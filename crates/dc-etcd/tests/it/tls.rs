//! TLS: who the server is, who we are, and what is said where either is refused (P12).

use std::time::Duration;

use dc_controlplane::{ControlPlane, Error, TokioClock, config::TlsFiles};
use dc_core::Clock as _;
use dc_etcd::{EtcdConfigBuilder, EtcdControlPlane};
use etcd_client::{Certificate, Client, ConnectOptions, Identity, Permission, TlsOptions};

use crate::{
    certificates::{CLIENT, Certificates},
    samples::*,
    server::Etcd,
};

async fn connect(builder: EtcdConfigBuilder) -> Result<EtcdControlPlane, Error> {
    EtcdControlPlane::connect(builder.build().expect("a legal configuration")).await
}

/// A server that shows the certificate `name`; asks its clients for one if `mutual`.
fn server(certificates: &Certificates, name: &str, mutual: bool) -> Etcd {
    let arg = |option: &str, file: String| format!("--{option}={}", certificates.path(&file).display());
    let mut args = vec![arg("cert-file", format!("{name}.pem")), arg("key-file", format!("{name}.key"))];
    if mutual {
        args.push(arg("trusted-ca-file", "ca.pem".to_owned()));
        args.push("--client-cert-auth=true".to_owned());
    }
    Etcd::single_tls(&args)
}

/// Connecting to `etcd` with `tls` is refused, at once, and the error has `word`.
async fn is_refused(etcd: &Etcd, tls: Option<TlsFiles>, word: &str) {
    let mut builder = builder(&[etcd.url()], "t");
    if let Some(tls) = tls {
        builder = builder.tls(tls);
    }
    let start = TokioClock.now();
    let refused = connect(builder).await;
    let took = TokioClock.now() - start;
    match &refused {
        Err(err @ Error::Denied { why, .. }) if why.contains(word) => assert!(!err.is_retryable()),
        _ => panic!("P12: expected `{word}`, got {refused:?}"),
    }
    assert!(took < TIMEOUT, "P12: not tried for ever, but it took {took:?}");
}

#[tokio::test]
async fn p12_the_servers_certificate_is_checked_and_the_error_says_what_is_wrong() {
    let certificates = Certificates::make();
    let trusting = |ca| Some(certificates.files(ca, None));
    let etcd = server(&certificates, "server-by-ca", false);
    let plane = connect(builder(&[etcd.url()], "t").tls(certificates.files("ca", None))).await.expect("the right CA");
    registered(&plane, &record("dc-1", 60)).await;
    is_refused(&etcd, trusting("other-ca"), "no CA that we trust").await;
    is_refused(&etcd, None, "no CA that we trust").await;
    is_refused(&server(&certificates, "expired-server-by-ca", false), trusting("ca"), "has expired").await;
    is_refused(&server(&certificates, "early-server-by-ca", false), trusting("ca"), "not valid yet").await;
    is_refused(&server(&certificates, "elsewhere-by-ca", false), trusting("ca"), "another host").await;
}

#[tokio::test]
async fn p12_our_certificate_is_checked_and_the_error_says_what_is_wrong() {
    let certificates = Certificates::make();
    let etcd = server(&certificates, "server-by-ca", true);
    let tls = certificates.files("ca", Some("client-by-ca"));
    let plane = connect(builder(&[etcd.url()], "t").tls(tls)).await.expect("both are right");
    let held = registered(&plane, &record("dc-1", 60)).await;
    plane.heartbeat(&held).await.expect("heartbeat");
    let mut watch = plane.watch().await.expect("watch");
    replay(&mut watch).await;
    in_step(&mut watch).await;
    is_refused(&etcd, Some(certificates.files("ca", None)), "client certificate").await;
    is_refused(&etcd, Some(certificates.files("ca", Some("client-by-other-ca"))), "client certificate").await;
    for client in ["expired-client-by-ca", "early-client-by-ca"] {
        is_refused(&etcd, Some(certificates.files("ca", Some(client))), "expired, or is not valid yet").await;
    }
}

#[tokio::test]
async fn tls_towards_a_plain_server_is_told_as_such_and_the_other_way_round() {
    let certificates = Certificates::make();
    let etcd = Etcd::single();
    let https = etcd.url().replace("http://", "https://");
    let refused = connect(builder(&[https], "t").tls(certificates.files("ca", None))).await;
    assert!(matches!(&refused, Err(Error::Denied { why, .. }) if why.contains("does not speak TLS")), "{refused:?}");
    let etcd = server(&certificates, "server-by-ca", false);
    let plain = etcd.url().replace("https://", "http://");
    let refused = connect(builder(&[plain], "t")).await;
    assert!(matches!(&refused, Err(Error::Denied { why, .. }) if why.contains("use https")), "{refused:?}");
}

#[tokio::test]
async fn p12_one_member_with_a_bad_certificate_is_passed_over() {
    let certificates = Certificates::make();
    let good = server(&certificates, "server-by-ca", false);
    let bad = server(&certificates, "expired-server-by-ca", false);
    let tls = certificates.files("ca", None);
    let plane = connect(builder(&[bad.url(), good.url()], "t").tls(tls.clone())).await.expect("the second answers");
    registered(&plane, &record("dc-1", 60)).await;
    // The other one may come back: that is an outage, which is waited for.
    good.kill();
    let away = connect(builder(&[bad.url(), good.url()], "t").tls(tls.clone()).require_at_start(true)).await;
    assert!(matches!(&away, Err(err) if err.is_outage()), "{away:?}");
    connect(builder(&[bad.url(), good.url()], "t").tls(tls)).await.expect("P12: it keeps trying");
}

/// With `auth enable`, the common name of a client's certificate is its user.
#[tokio::test]
async fn a_certificate_can_stand_for_a_user_and_its_roles() {
    let certificates = Certificates::make();
    let etcd = server(&certificates, "server-by-ca", true);
    let read = |name: &str| std::fs::read(certificates.path(name)).expect("made above");
    let options = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(read("ca.pem")))
        .identity(Identity::from_pem(read("client-by-ca.pem"), read("client-by-ca.key")));
    let admin = Client::connect([etcd.url()], Some(ConnectOptions::new().with_tls(options))).await.expect("a client");
    let mut auth = admin.auth_client();
    auth.role_add("root").await.expect("role");
    auth.role_add("node").await.expect("role");
    auth.role_grant_permission("node", Permission::read_write("t/").with_prefix()).await.expect("grant");
    for (user, role) in [("root", "root"), (CLIENT, "node")] {
        auth.user_add(user, "unused", None).await.expect("user");
        auth.user_grant_role(user, role).await.expect("grant");
    }
    auth.auth_enable().await.expect("enable");
    let ours = |namespace: &str| builder(&[etcd.url()], namespace).tls(certificates.files("ca", Some("client-by-ca")));
    let plane = connect(ours("t")).await.expect("the certificate is enough");
    registered(&plane, &record("dc-1", 60)).await;
    let refused = connect(ours("other")).await;
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
}

#[tokio::test]
async fn tls_and_a_password_together() {
    let certificates = Certificates::make();
    let etcd = server(&certificates, "server-by-ca", false);
    let options = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(std::fs::read(certificates.path("ca.pem")).expect("made above")));
    let admin = Client::connect([etcd.url()], Some(ConnectOptions::new().with_tls(options))).await.expect("a client");
    let mut auth = admin.auth_client();
    auth.role_add("root").await.expect("role");
    auth.user_add("root", "right", None).await.expect("user");
    auth.user_grant_role("root", "root").await.expect("grant");
    auth.auth_enable().await.expect("enable");
    let ours = |password: &str| builder(&[etcd.url()], "t").tls(certificates.files("ca", None)).user("root", password);
    let plane = connect(ours("right")).await.expect("both are right");
    registered(&plane, &record("dc-1", 60)).await;
    let refused = connect(ours("s3cret")).await;
    assert!(matches!(&refused, Err(Error::Denied { why, .. }) if why.contains("password")), "{refused:?}");
}

#[tokio::test]
async fn p13_tls_files_that_cannot_be_used_are_named() {
    let certificates = Certificates::make();
    let bad = certificates.path("bad.pem");
    std::fs::write(&bad, "-----BEGIN CERTIFICATE-----\n!!\n").expect("written");
    let nowhere = || builder(&["https://127.0.0.1:1".to_owned()], "t").request_timeout(Duration::from_millis(500));
    let mut files = certificates.files("ca", Some("client-by-ca"));
    files.key = Some(bad);
    let refused = connect(nowhere().tls(files)).await;
    assert!(matches!(&refused, Err(Error::Invalid(invalid)) if invalid.field == "tls"), "{refused:?}");
    // A key of another certificate.
    let mut files = certificates.files("ca", Some("client-by-ca"));
    files.key = Some(certificates.path("server-by-ca.key"));
    let refused = connect(nowhere().tls(files)).await;
    assert!(matches!(&refused, Err(Error::Invalid(invalid)) if invalid.field == "tls"), "{refused:?}");
    // Half a client's identity.
    for (half, field) in [
        (TlsFiles { key: None, ..certificates.files("ca", Some("client-by-ca")) }, "tls certificate"),
        (TlsFiles { certificate: None, ..certificates.files("ca", Some("client-by-ca")) }, "tls key"),
    ] {
        let refused = nowhere().tls(half).build().expect_err("half-set");
        assert_eq!(refused.field, field);
    }
}
