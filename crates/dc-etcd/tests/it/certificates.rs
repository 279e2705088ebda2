//! Certificates, made for one test: good ones, expired and early ones, and those of a stranger's CA. dc-nats uses them too.

use std::path::PathBuf;

use dc_controlplane::config::TlsFiles;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

/// The common name in clients' certificates.
pub(crate) const CLIENT: &str = "node-1";

/// Two CAs, `ca` and `other-ca`, each with certificates for loopback: `server`, `client`, `expired-server`,
/// `expired-client`, `early-server` and `early-client`, which are not valid yet, and `elsewhere`, which is for another host.
pub(crate) struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    pub(crate) fn make() -> Self {
        let made = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        for ca in ["ca", "other-ca"] {
            let key = KeyPair::generate().expect("a key");
            let mut params = CertificateParams::new(vec![]).expect("no names");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, ca);
            let signed = params.self_signed(&key).expect("signed");
            made.write(&format!("{ca}.pem"), &pem("CERTIFICATE", signed.der()));
            let issuer = Issuer::new(params, key);
            for name in
                ["server", "client", "expired-server", "expired-client", "early-server", "early-client", "elsewhere"]
            {
                let names = match name {
                    "elsewhere" => vec!["elsewhere.example".to_owned()],
                    _ => vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
                };
                let mut params = CertificateParams::new(names).expect("legal names");
                params.distinguished_name = rcgen::DistinguishedName::new();
                params.distinguished_name.push(DnType::CommonName, CLIENT);
                if name.starts_with("expired") {
                    params.not_before = date_time_ymd(2020, 1, 1);
                    params.not_after = date_time_ymd(2020, 1, 2);
                }
                if name.starts_with("early") {
                    params.not_before = date_time_ymd(2120, 1, 1);
                    params.not_after = date_time_ymd(2121, 1, 1);
                }
                let key = KeyPair::generate().expect("a key");
                let signed = params.signed_by(&key, &issuer).expect("signed");
                made.write(&format!("{name}-by-{ca}.pem"), &pem("CERTIFICATE", signed.der()));
                made.write(&format!("{name}-by-{ca}.key"), &pem("PRIVATE KEY", &key.serialize_der()));
            }
        }
        made
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Trusting `ca`; showing the certificate `client`, if any, as in `client-by-ca`.
    pub(crate) fn files(&self, ca: &str, client: Option<&str>) -> TlsFiles {
        TlsFiles {
            ca: Some(self.path(&format!("{ca}.pem"))),
            certificate: client.map(|client| self.path(&format!("{client}.pem"))),
            key: client.map(|client| self.path(&format!("{client}.key"))),
        }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
    }
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
