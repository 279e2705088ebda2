//! Secrets appear in no log, no error and no `Debug`: not ours, not the client's.

use dc_controlplane::{ControlPlane, Expected};
use dc_etcd::{EtcdConfig, EtcdConfigBuilder, EtcdControlPlane};

use crate::{
    capture::{Log, Shown, lines},
    certificates::Certificates,
    rights,
    samples::*,
    server::Etcd,
};

/// Connects with `builder`, works, is refused once more, and gathers all that can be seen of it.
async fn gather(shown: &mut Shown, builder: EtcdConfigBuilder) {
    shown.debug("the builder", &builder);
    let config = builder.build().expect("a legal configuration");
    shown.debug("the configuration", &config);
    match within("connect", EtcdControlPlane::connect(config)).await {
        Ok(plane) => {
            shown.debug("the plane", &plane);
            shown.debug("the capabilities", &plane.capabilities());
            let mine = record("dc-1", 60);
            match plane.register(&mine, Expected::Absent).await {
                Ok(_) => {
                    let conflict = plane.register(&mine, Expected::Absent).await.expect_err("a conflict");
                    shown.error("a conflict", &conflict);
                }
                Err(err) => shown.error("a refused write", &err),
            }
        }
        Err(err) => shown.error("a refused connection", &err),
    }
}

#[tokio::test]
async fn p13_passwords_are_never_shown() {
    let etcd = Etcd::single();
    rights::set_up(&etcd, |line| line.replace("change-me", "s3cret")).await;
    let (log, guard) = Log::start();
    let mut shown = Shown::default();
    let ours = || builder(&[etcd.url()], "multidc");
    for (user, password) in
        [("dc-1", "s3cret-1"), ("operator", "s3cret-2"), ("dc-1", "s3cret-wrong"), ("nobody", "s3cret-1")]
    {
        gather(&mut shown, ours().user(user, password)).await;
    }
    etcd.kill();
    gather(&mut shown, ours().user("dc-1", "s3cret-1")).await;
    for url in ["http://ann:s3cret@h", "etcd://ann:s3cret@h", "ann:s3cret@h:99999"] {
        let builder = EtcdConfig::builder([url]);
        shown.error("a bad URL", &builder.build().expect_err("a bad URL"));
    }
    drop(guard);
    assert!(log.text().contains("multidc"), "the log was captured");
    shown.log(&log);
    shown.has_none_of(&["s3cret".to_owned()]);
}

#[tokio::test]
async fn p13_keys_are_never_shown() {
    let certificates = Certificates::make();
    let etcd = certificates_server(&certificates);
    let (log, guard) = Log::start();
    let mut shown = Shown::default();
    let ours = || builder(&[etcd.url()], "t");
    let mut files = certificates.files("ca", Some("client-by-ca"));
    gather(&mut shown, ours().tls(files.clone())).await;
    gather(&mut shown, ours().tls(certificates.files("ca", Some("client-by-other-ca")))).await;
    gather(&mut shown, ours().tls(certificates.files("other-ca", Some("client-by-ca")))).await;
    // Another certificate's key, and a key where a certificate is to be.
    files.key = Some(certificates.path("client-by-other-ca.key"));
    gather(&mut shown, ours().tls(files.clone())).await;
    files.certificate = files.key.clone();
    gather(&mut shown, ours().tls(files.clone())).await;
    files.ca = files.key.clone();
    gather(&mut shown, ours().tls(files)).await;
    drop(guard);
    shown.log(&log);
    let mut secrets = lines(&certificates.path("client-by-ca.key"));
    secrets.extend(lines(&certificates.path("client-by-other-ca.key")));
    shown.has_none_of(&secrets);
}

fn certificates_server(certificates: &Certificates) -> Etcd {
    let arg = |name: &str, file: &str| format!("--{name}={}", certificates.path(file).display());
    Etcd::single_tls(&[
        arg("cert-file", "server-by-ca.pem"),
        arg("key-file", "server-by-ca.key"),
        arg("trusted-ca-file", "ca.pem"),
        "--client-cert-auth=true".to_owned(),
    ])
}
