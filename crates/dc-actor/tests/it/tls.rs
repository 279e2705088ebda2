//! R9: whole systems over TLS: nodes of one CA talk, others do not, and certificates are replaced under way.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use dc_actor::{ActorSystem, Event, TlsConfig};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

use crate::{actors::*, world::*};

/// A certificate authority.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", data_encoding::BASE64.encode(der))
}

/// As operators' tools do it: whole files, one after the other.
fn write(dir: &Path, name: &str, text: &str) {
    let fresh = dir.join(format!("{name}.new"));
    std::fs::write(&fresh, text).expect("writes");
    std::fs::rename(fresh, dir.join(name)).expect("renames");
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { issuer: Issuer::new(params, key), pem: pem("CERTIFICATE", certificate.der()) }
    }

    /// Writes a fresh certificate for a node of `dc`, with these CAs to trust.
    fn write(&self, dir: &Path, system: &str, dc: &str, trusted: &str) {
        let mut params = CertificateParams::default();
        let uri = format!("multidc://{system}/{dc}");
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().expect("ascii"))];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        write(dir, "ca.pem", trusted);
        write(dir, "node.pem", &pem("CERTIFICATE", certificate.der()));
        write(dir, "node.key", &pem("PRIVATE KEY", &key.serialize_der()));
    }
}

fn files(dir: &Path) -> TlsConfig {
    TlsConfig::builder()
        .ca_file(dir.join("ca.pem"))
        .certificate_file(dir.join("node.pem"))
        .key_file(dir.join("node.key"))
        .reload_every(Duration::from_millis(50))
        .build()
        .expect("legal")
}

async fn replaced(systems: &[&ActorSystem]) {
    for system in systems {
        eventually("the whole set is there", || async { system.reload_tls().await.ok() }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r9_systems_talk_over_tls_and_ca_and_certificates_are_replaced_under_a_stream_of_asks() {
    let world = World::new("secret");
    let (old, new) = (Ca::new("old CA"), Ca::new("new CA"));
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().expect("a directory")).collect();
    let dcs = ["dc-1", "dc-2", "dc-2"];
    for (dir, dc) in dirs.iter().zip(dcs) {
        old.write(dir.path(), "secret", dc, &old.pem);
    }
    let start = async |index: usize, seeds: &[&ActorSystem]| {
        world.describe(dcs[index], seeds).tls(files(dirs[index].path())).start().await.expect("starts")
    };
    let here = start(0, &[]).await;
    let there = start(1, &[]).await;
    let beside = start(2, &[&there]).await;
    until_known(&[vec![here.clone()], vec![there.clone(), beside.clone()]]).await;

    let spawned = here.spawn_on::<Worker>("worker", WorkerArgs::default()).in_data_center("dc-2").await;
    let worker = spawned.expect("spawns over TLS");
    let mut events = there.events();
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let stream = {
        let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
        tokio::spawn(async move {
            let mut last = 0;
            while !stop.load(Ordering::Relaxed) {
                last += 1;
                worker.ask(Note(last)).await.expect("R9: an ask failed");
                asked.fetch_add(1, Ordering::Relaxed);
            }
            last
        })
    };
    let both = format!("{}{}", old.pem, new.pem);
    for (ca, trusted) in [(&old, &both), (&new, &both), (&new, &new.pem)] {
        for (dir, dc) in dirs.iter().zip(dcs) {
            ca.write(dir.path(), "secret", dc, trusted);
        }
        replaced(&[&here, &there, &beside]).await;
        event(&mut events, "told of the new certificates", |event| {
            matches!(event, Event::CertificatesReplaced { .. }).then_some(())
        })
        .await;
        let before = asked.load(Ordering::Relaxed);
        eventually("asks go on", || async {
            (asked.load(Ordering::Relaxed) > before + 10 || stream.is_finished()).then_some(())
        })
        .await;
    }
    // A node that comes now shakes hands with the new set only.
    let late = world.describe("dc-3", &[]);
    let dir = tempfile::tempdir().expect("a directory");
    new.write(dir.path(), "secret", "dc-3", &new.pem);
    let late = late.tls(files(dir.path())).start().await.expect("starts");
    let found = eventually("found from a new node", || async { late.actor_of::<Worker>("worker").await.ok() }).await;
    stop.store(true, Ordering::Relaxed);
    let last = stream.await.expect("R9: no ask failed");
    let noted = found.ask(Noted).await.expect("answered");
    assert!(noted.iter().copied().eq(1..=last), "each once, in order: {last} asked, {} noted", noted.len());
    for system in [late, here, beside, there] {
        system.shutdown().await.expect("ends");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r9_a_system_without_the_right_certificate_is_kept_out_and_both_are_told() {
    let world = World::new("secret");
    let (ours, theirs) = (Ca::new("ours"), Ca::new("theirs"));
    let dirs: Vec<_> = (0..2).map(|_| tempfile::tempdir().expect("a directory")).collect();
    ours.write(dirs[0].path(), "secret", "dc-1", &ours.pem);
    theirs.write(dirs[1].path(), "secret", "dc-2", &theirs.pem);
    let here = world.describe("dc-1", &[]).tls(files(dirs[0].path())).start().await.expect("starts");
    let there = world.describe("dc-2", &[]).tls(files(dirs[1].path())).start().await.expect("starts");
    let (mut of_here, mut of_there) = (here.events(), there.events());
    eventually("dc-2 is known", || async {
        here.data_centers().iter().any(|dc| dc.id().as_str() == "dc-2" && dc.takes_placements).then_some(())
    })
    .await;
    let spawned = here.spawn_on::<Worker>("worker", WorkerArgs::default()).in_data_center("dc-2").await;
    let refused = spawned.expect_err("R9: kept out");
    assert!(refused.certainly_not_run(), "{refused:?}");
    for events in [&mut of_here, &mut of_there] {
        let why = event(events, "told of the refusal", |event| match event {
            Event::LinkRefused { why, .. } => Some(why),
            _ => None,
        });
        let why = why.await;
        assert!(why.contains("signed by no CA of the bundle"), "{why}");
    }
    // Nor does one start with a certificate of another datacenter.
    let wrong = world.describe("dc-9", &[]).tls(files(dirs[0].path())).start().await.expect_err("R9: refused");
    assert!(wrong.to_string().contains("is for multidc://secret/dc-1"), "{wrong}");
    for system in [here, there] {
        system.shutdown().await.expect("ends");
    }
}
