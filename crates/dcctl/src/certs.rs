//! `dcctl certs dev`: a throw-away CA, and a certificate for each datacenter, for trying TLS out.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use multidc::{CertificateName, DataCenterId, SystemName, wall_ms};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Certs {
    /// Make a throw-away CA and a certificate for each datacenter.
    ///
    /// Writes into DIR: `ca.pem`, which every node trusts, `ca.key`, which no node needs, and for each datacenter
    /// `<id>.pem` and `<id>.key` (`/` in the id becomes `_`). Nodes of one datacenter may share its certificate. Each
    /// names system and datacenter by a URI, `multidc://<system>/<datacenter id>`, and is good for both ends of a
    /// connection. This CA is for trying things out: it guards its key no better than a file can. In earnest, have your
    /// own CA issue such certificates, and replace the files before they expire: nodes read them again.
    #[command(after_help = "\
Use them in a node:
  ActorSystem::builder(\"app\")
      .tls(TlsConfig::builder()
          .ca_file(\"certs/ca.pem\")
          .certificate_file(\"certs/dc-1.pem\")
          .key_file(\"certs/dc-1.key\")
          .build()?)

Examples:
  dcctl certs dev --out certs --system app --dc dc-1 --dc dc-2
  dcctl certs dev --out certs --system app --dc eu-west-1/dc-1 --days 1 --force
  openssl x509 -in certs/dc-1.pem -noout -text    # what it says")]
    Dev(Dev),
}

#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Directory to write to; made if it is not there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Name of the actor system, as given to `ActorSystem::builder`.
    #[arg(long, value_name = "NAME")]
    system: String,
    /// A datacenter's id (`region/zone/name`, or just the name where it has neither); repeat for more.
    #[arg(long = "dc", value_name = "ID", required = true)]
    dcs: Vec<String>,
    /// How many days they are valid.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Replace files that are there. A new CA trusts none of the certificates that an earlier one issued.
    #[arg(long)]
    force: bool,
}

/// One file to be written.
struct File {
    path: PathBuf,
    text: String,
    secret: bool,
}

pub(crate) fn run(command: Certs, json: bool) -> anyhow::Result<()> {
    let Certs::Dev(dev) = command;
    let written = dev_certificates(&dev)?;
    if json {
        println!("{}", serde_json::json!({ "written": written, "days": dev.days }));
    } else {
        for path in written {
            println!("{}", path.display());
        }
        println!("valid for {} days; `ca.pem` for every node, each datacenter's two files for its nodes", dev.days);
    }
    Ok(())
}

fn dev_certificates(dev: &Dev) -> anyhow::Result<Vec<PathBuf>> {
    let system = SystemName::new(&dev.system)?;
    let mut dcs = dev.dcs.iter().map(|id| Ok(id.parse::<DataCenterId>()?)).collect::<anyhow::Result<Vec<_>>>()?;
    dcs.sort();
    dcs.dedup();

    let mut params = valid_for(dev.days);
    params.distinguished_name.push(DnType::CommonName, format!("throw-away CA of {system}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let ca = params.self_signed(&key)?;
    let mut files = Vec::from(pair(&dev.out, "ca", ca.der(), &key));
    let issuer = Issuer::new(params, key);
    for dc in dcs {
        let file = dc.as_str().replace('/', "_");
        let name = CertificateName { system: system.clone(), dc, node: None };
        let mut params = valid_for(dev.days);
        params.distinguished_name.push(DnType::CommonName, name.dc.as_str());
        params.subject_alt_names = vec![SanType::URI(name.to_string().as_str().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        files.extend(pair(&dev.out, &file, certificate.der(), &key));
    }
    write_all(&dev.out, &files, dev.force)?;
    Ok(files.into_iter().map(|file| file.path).collect())
}

/// From an hour ago, as clocks differ.
fn valid_for(days: u32) -> CertificateParams {
    let now = Duration::from_millis(wall_ms());
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.not_before = epoch + now.saturating_sub(Duration::from_secs(3_600));
    params.not_after = epoch + now + Duration::from_secs(u64::from(days) * 86_400);
    params
}

fn pair(dir: &Path, name: &str, certificate: &[u8], key: &KeyPair) -> [File; 2] {
    let file = |kind: &str, text, secret| File { path: dir.join(format!("{name}.{kind}")), text, secret };
    [file("pem", pem("CERTIFICATE", certificate), false), file("key", pem("PRIVATE KEY", &key.serialize_der()), true)]
}

fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for (at, char) in data_encoding::BASE64.encode(der).chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(char);
    }
    text + &format!("\n-----END {label}-----\n")
}

/// All or, where one is there already and may not be replaced, none.
fn write_all(dir: &Path, files: &[File], force: bool) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    if !force && let Some(there) = files.iter().find(|file| file.path.exists()) {
        bail!("{} is there already: --force replaces it, and all that belong to it", there.path.display());
    }
    for file in files {
        write(file).with_context(|| format!("cannot write {}", file.path.display()))?;
    }
    Ok(())
}

/// Whole or not at all: a node that reads it meanwhile sees the old one or the new one.
fn write(file: &File) -> anyhow::Result<()> {
    let fresh = PathBuf::from(format!("{}.new", file.path.display()));
    // What an interrupted run left behind would keep its mode.
    let _ = fs::remove_file(&fresh);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, if file.secret { 0o600 } else { 0o644 });
    #[cfg(not(unix))]
    let _ = file.secret;
    let mut out = options.open(&fresh)?;
    out.write_all(file.text.as_bytes())?;
    out.sync_all()?;
    fs::rename(fresh, &file.path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use multidc::TlsConfig;

    use super::*;

    fn dev(out: &Path, dcs: &[&str]) -> Dev {
        let dcs = dcs.iter().map(|&dc| dc.to_owned()).collect();
        Dev { out: out.to_owned(), system: "my app".into(), dcs, days: 1, force: false }
    }

    #[test]
    fn what_is_written_can_be_used_by_nodes() {
        let dir = tempfile::tempdir().expect("a directory");
        let out = dir.path().join("certs");
        let written = dev_certificates(&dev(&out, &["dc-1", "eu/az=20a/dc-2", "dc-1"])).expect("writes");
        let names: Vec<_> = written.iter().map(|path| path.file_name().expect("a file").to_string_lossy()).collect();
        assert_eq!(names, ["ca.pem", "ca.key", "dc-1.pem", "dc-1.key", "eu_az=20a_dc-2.pem", "eu_az=20a_dc-2.key"]);
        for dc in ["dc-1", "eu_az=20a_dc-2"] {
            TlsConfig::builder()
                .ca_file(out.join("ca.pem"))
                .certificate_file(out.join(format!("{dc}.pem")))
                .key_file(out.join(format!("{dc}.key")))
                .build()
                .expect("they belong together");
        }
    }

    #[cfg(unix)]
    #[test]
    fn keys_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        for path in dev_certificates(&dev(dir.path(), &["dc-1"])).expect("writes") {
            let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
            if path.extension().is_some_and(|kind| kind == "key") {
                assert_eq!(mode, 0o600, "{}", path.display());
            }
        }
    }

    #[test]
    fn files_are_replaced_by_force_only() {
        let dir = tempfile::tempdir().expect("a directory");
        dev_certificates(&dev(dir.path(), &["dc-1"])).expect("writes");
        let before = fs::read_to_string(dir.path().join("dc-1.pem")).expect("there");
        let refused = dev_certificates(&dev(dir.path(), &["dc-2", "dc-1"])).expect_err("there already").to_string();
        assert!(refused.contains("ca.pem") && refused.contains("--force"), "{refused}");
        assert!(!dir.path().join("dc-2.pem").exists(), "all or none");
        assert_eq!(fs::read_to_string(dir.path().join("dc-1.pem")).expect("there"), before);
        dev_certificates(&Dev { force: true, ..dev(dir.path(), &["dc-1"]) }).expect("forced");
        assert_ne!(fs::read_to_string(dir.path().join("dc-1.pem")).expect("there"), before);
        assert_eq!(fs::read_dir(dir.path()).expect("reads").count(), 4, "nothing is left behind");
    }

    #[test]
    fn bad_names_are_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().expect("a directory");
        for bad in ["", "dc 1", "../dc-1", "a/b/c/d"] {
            dev_certificates(&dev(dir.path(), &["dc-1", bad])).expect_err(bad);
        }
        let bad = Dev { system: String::new(), ..dev(dir.path(), &["dc-1"]) };
        dev_certificates(&bad).expect_err("no system");
        assert_eq!(fs::read_dir(dir.path()).expect("reads").count(), 0);
    }
}
