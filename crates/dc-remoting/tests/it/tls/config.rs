//! What is refused when TLS is configured, or when links start.

use dc_core::SystemClock;
use dc_remoting::{Remoting, Services, StartError, TlsConfig, TlsError};

use super::certs::{Ca, VALID};
use crate::support::*;

#[test]
fn r9_half_set_tls_is_refused_by_the_name_of_what_is_missing() {
    let ca = Ca::new();
    let issued = ca.dc("dc-1");
    let (ca, certificate, key) = (&ca.pem[..], &issued.certificate[..], &issued.key[..]);
    let some = TlsConfig::builder;
    for (half, missing) in [
        (some(), "ca"),
        (some().ca_pem(ca), "certificate"),
        (some().ca_pem(ca).certificate_pem(certificate), "key"),
        (some().ca_pem(ca).key_pem(key), "certificate"),
        (some().certificate_pem(certificate).key_pem(key), "ca"),
    ] {
        let err = half.build().expect_err("half set");
        assert!(matches!(err, TlsError::Missing { field } if field == missing), "{err}");
        assert!(err.to_string().contains(&format!("`{missing}_file`")), "{err}");
    }
}

#[test]
fn r9_what_is_no_usable_pem_is_refused_by_name() {
    let ca = Ca::new();
    let (issued, another) = (ca.dc("dc-1"), ca.dc("dc-1"));
    let build = |ca: &str, certificate: &str, key: &str| {
        TlsConfig::builder().ca_pem(ca).certificate_pem(certificate).key_pem(key).build()
    };
    let whole = build(&ca.pem, &issued.certificate, &issued.key).expect("legal");
    let shown = format!("{whole:?}");
    assert!(!shown.contains("BEGIN") && !shown.contains("PRIVATE"), "secrets do not appear: {shown}");

    let broken = "-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n";
    for (field, parts) in [
        ("ca", ["", &issued.certificate, &issued.key]),
        ("ca", [broken, &issued.certificate, &issued.key]),
        ("ca", [&issued.key, &issued.certificate, &issued.key]),
        ("certificate", [&ca.pem, "garbage", &issued.key]),
        ("certificate", [&ca.pem, broken, &issued.key]),
        ("key", [&ca.pem, &issued.certificate, "garbage"]),
        ("key", [&ca.pem, &issued.certificate, &issued.certificate]),
    ] {
        let err = build(parts[0], parts[1], parts[2]).expect_err("no PEM");
        assert!(matches!(&err, TlsError::Malformed { field: found, .. } if *found == field), "{field}: {err:?}");
        assert!(!err.to_string().contains("PRIVATE KEY"), "secrets do not appear: {err}");
    }
    let err = build(&ca.pem, &issued.certificate, &another.key).expect_err("another's key");
    assert!(matches!(err, TlsError::KeyMismatch), "{err:?}");
    let nobody = ca.issue(&[], VALID);
    let err = build(&ca.pem, &nobody.certificate, &nobody.key).expect_err("names nobody");
    assert!(matches!(err, TlsError::Unusable(_)) && err.to_string().contains("multidc://"), "{err}");
}

#[test]
fn r9_a_file_that_cannot_be_read_is_named() {
    let err = TlsConfig::builder()
        .ca_file("/nowhere/ca.pem")
        .certificate_file("/nowhere/node.pem")
        .key_file("/nowhere/node.key")
        .build()
        .expect_err("not there");
    assert!(matches!(&err, TlsError::Unreadable { field: "ca", .. }), "{err:?}");
    assert!(err.to_string().contains("/nowhere/ca.pem"), "{err}");
    let every = TlsConfig::builder().reload_every(std::time::Duration::ZERO).build().expect_err("too often");
    assert!(matches!(&every, TlsError::Invalid(invalid) if invalid.field == "reload_every"), "{every:?}");
}

#[tokio::test]
async fn r9_a_certificate_for_another_node_does_not_start() {
    let ca = Ca::new();
    for uri in ["multidc://app/dc-2", "multidc://other/dc-1", "multidc://app/dc-1?node=127.0.0.1:1"] {
        let tls = ca.issue(&[uri], VALID).tls(&ca.pem);
        let config = config("dc-1").tls(tls).build().expect("legal");
        let started = Remoting::start(config, std::sync::Arc::new(SystemClock), Services::new()).await;
        let Err(StartError::Tls(err @ TlsError::NotThisNode { .. })) = started else { panic!("{uri}: it started") };
        assert!(err.to_string().contains(uri) && err.to_string().contains("multidc://app/dc-1?node="), "{err}");
    }
}

#[tokio::test]
async fn r9_a_certificate_for_this_very_node_is_taken() {
    let ca = Ca::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound").port();
    let tls = ca.issue(&[&format!("multidc://app/dc-2?node=127.0.0.1:{port}")], VALID).tls(&ca.pem);
    let there = Node::echo(config("dc-2").tls(tls).listen(([127, 0, 0, 1], port).into())).await;
    let here = Node::echo(ca.node("dc-1")).await;
    assert_eq!(body(here.remoting.peer(there.target()).pair().ask(message("x"), SOON).await), "x");
}
