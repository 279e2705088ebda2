//! Users, roles, tokens, and TLS.

use dc_controlplane::{ControlPlane, Error, Expected, config::TlsFiles};
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
    for (what, builder) in [
        ("a wrong password", as_user(&etcd, &ns, "writer", "wrong")),
        ("an unknown user", as_user(&etcd, &ns, "nobody", "writer")),
        ("no user", builder(&[etcd.url()], &ns)),
        ("a user of other keys", as_user(&etcd, &ns, "stranger", "stranger")),
    ] {
        let refused = connect(builder).await;
        assert!(matches!(refused, Err(Error::Denied { .. })), "{what}: {refused:?}");
        assert!(!format!("{refused:?}").contains("wrong"), "the password is printed");
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

/// DER as PEM (RFC 7468); rcgen's own would bring a second version of base64 into the tree.
fn pem(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----");
    for (n, group) in der.chunks(3).enumerate() {
        if n % 16 == 0 {
            text.push('\n');
        }
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            let padding = digit > group.len();
            let index = (bits >> (18 - 6 * digit)) as usize & 63;
            text.push(if padding { '=' } else { char::from(DIGITS[index]) });
        }
    }
    format!("{text}\n-----END {label}-----\n")
}

/// A CA, and certificates by it for the server and a client.
struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    fn make() -> Self {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let dir = tempfile::tempdir().expect("a temporary directory");
        let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).expect("written");
        for ca in ["ca", "other-ca"] {
            let key = KeyPair::generate().expect("a key");
            let mut params = CertificateParams::new(vec![]).expect("no names");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, ca);
            write(&format!("{ca}.pem"), pem("CERTIFICATE", params.self_signed(&key).expect("signed").der()));
            let issuer = Issuer::new(params, key);
            for name in ["server", "client"] {
                let key = KeyPair::generate().expect("a key");
                let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
                let params = CertificateParams::new(names).expect("legal names");
                let signed = params.signed_by(&key, &issuer).expect("signed");
                write(&format!("{name}-by-{ca}.pem"), pem("CERTIFICATE", signed.der()));
                write(&format!("{name}-by-{ca}.key"), pem("PRIVATE KEY", &key.serialize_der()));
            }
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// A server that asks its clients for a certificate.
    fn server(&self) -> Etcd {
        let arg = |name: &str, file: &str| format!("--{name}={}", self.path(file).display());
        Etcd::single_tls(&[
            arg("cert-file", "server-by-ca.pem"),
            arg("key-file", "server-by-ca.key"),
            arg("trusted-ca-file", "ca.pem"),
            "--client-cert-auth=true".to_owned(),
        ])
    }

    fn files(&self, ca: &str, client: Option<&str>) -> TlsFiles {
        TlsFiles {
            ca: Some(self.path(&format!("{ca}.pem"))),
            certificate: client.map(|by| self.path(&format!("client-by-{by}.pem"))),
            key: client.map(|by| self.path(&format!("client-by-{by}.key"))),
        }
    }
}

#[tokio::test]
async fn tls_needs_the_right_ca_and_the_right_certificate() {
    let certificates = Certificates::make();
    let etcd = certificates.server();
    let urls = [etcd.url()];
    let builder = || builder(&urls, "t").require_at_start(true);
    let plane = connect(builder().tls(certificates.files("ca", Some("ca")))).await.expect("both are right");
    let held = registered(&plane, &record("dc-1", 60)).await;
    plane.heartbeat(&held).await.expect("heartbeat");
    let mut watch = plane.watch().await.expect("watch");
    replay(&mut watch).await;
    in_step(&mut watch).await;
    for (what, builder) in [
        ("a server of another CA", builder().tls(certificates.files("other-ca", Some("ca")))),
        ("a certificate of another CA", builder().tls(certificates.files("ca", Some("other-ca")))),
        ("no certificate", builder().tls(certificates.files("ca", None))),
        ("the platform's roots", builder()),
    ] {
        let refused = connect(builder).await;
        assert!(matches!(&refused, Err(err) if err.is_outage()), "{what}: {refused:?}");
    }
}

#[tokio::test]
async fn tls_files_that_are_no_pem_are_named() {
    let certificates = Certificates::make();
    let bad = certificates.path("bad.pem");
    std::fs::write(&bad, "-----BEGIN CERTIFICATE-----\n!!\n").expect("written");
    let mut files = certificates.files("ca", Some("ca"));
    files.key = Some(bad);
    let refused = connect(builder(&["https://127.0.0.1:1".to_owned()], "t").tls(files)).await;
    assert!(matches!(&refused, Err(Error::Invalid(invalid)) if invalid.field == "tls"), "{refused:?}");
}
