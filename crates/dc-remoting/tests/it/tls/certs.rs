//! CAs and certificates made for one test.

use std::{path::Path, time::Duration};

use dc_remoting::{RemotingConfigBuilder, TlsConfig};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::UnixTime;

use crate::support::config;

/// A certificate authority.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// From when to when a certificate is valid, in seconds from now.
pub(crate) type Valid = (i64, i64);

pub(crate) const VALID: Valid = (-60, 3_600);
pub(crate) const EXPIRED: Valid = (-3_600, -60);
pub(crate) const FUTURE: Valid = (3_600, 7_200);

fn pem(label: &str, der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    // Base64 is ASCII.
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "CA of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let pem = pem("CERTIFICATE", certificate.der());
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate with these URIs.
    pub(crate) fn issue(&self, uris: &[&str], valid: Valid) -> Issued {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("ascii"))).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let from_now = |seconds: i64| {
            let at = UnixTime::now().as_secs().checked_add_signed(seconds).expect("after 1970");
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(at)
        };
        (params.not_before, params.not_after) = (from_now(valid.0), from_now(valid.1));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued { certificate: pem("CERTIFICATE", certificate.der()), key: pem("PRIVATE KEY", &key.serialize_der()) }
    }

    /// A valid certificate of system `app` for this datacenter.
    pub(crate) fn dc(&self, dc: &str) -> Issued {
        self.issue(&[&format!("multidc://app/{dc}")], VALID)
    }

    /// A node of `dc` with a valid certificate of this CA.
    pub(crate) fn node(&self, dc: &str) -> RemotingConfigBuilder {
        config(dc).tls(self.dc(dc).tls(&self.pem))
    }
}

impl Issued {
    /// With these CAs, from memory.
    pub(crate) fn tls(&self, ca: &str) -> TlsConfig {
        TlsConfig::builder()
            .ca_pem(ca)
            .certificate_pem(self.certificate.as_str())
            .key_pem(self.key.as_str())
            .build()
            .expect("legal")
    }

    /// Writes the three files.
    pub(crate) fn write(&self, dir: &Path, ca: &str) {
        // Replaced one after the other, as an operator's tool does it.
        for (name, text) in [("ca.pem", ca), ("node.pem", &self.certificate), ("node.key", &self.key)] {
            let fresh = dir.join(format!("{name}.new"));
            std::fs::write(&fresh, text).expect("writes");
            std::fs::rename(fresh, dir.join(name)).expect("renames");
        }
    }
}

/// The three files of `dir`, looked at often.
pub(crate) fn files(dir: &Path) -> TlsConfig {
    TlsConfig::builder()
        .ca_file(dir.join("ca.pem"))
        .certificate_file(dir.join("node.pem"))
        .key_file(dir.join("node.key"))
        .reload_every(Duration::from_millis(20))
        .build()
        .expect("legal")
}
