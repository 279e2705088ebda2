//! What TLS costs: a handshake in full and resumed, and asks beside the same asks in the clear, all in one run.
//!
//! `cargo run --release -p dc-remoting --features tls --example tls_cost`. Both ends run in this process: the times of
//! handshakes are those of both ends together.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dc_core::{Clock, DataCenter, NodeId, SystemClock, SystemName};
use dc_remoting::{Incoming, Message, PeerIdentity, Receiver, Remoting, RemotingConfig, Services, TlsConfig};
use futures::future::join_all;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

type Failure = Box<dyn std::error::Error>;

const LINKS: usize = 300;
const ASKS: usize = 200_000;
const IN_FLIGHT: usize = 512;
const ROUNDS: usize = 3;

/// Answers each ask with its payload.
struct Echo;

impl Receiver for Echo {
    fn message(&self, _from: &Arc<PeerIdentity>, incoming: Incoming) {
        drop(incoming.accept);
        if let Some(reply) = incoming.reply {
            reply.send(0, incoming.message.payload);
        }
    }
}

fn now() -> Instant {
    SystemClock.now()
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", data_encoding::BASE64.encode(der))
}

/// A CA for this run, as PEM, and what issues certificates.
fn ca() -> Result<(String, Issuer<'static, KeyPair>), Failure> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let text = pem("CERTIFICATE", params.self_signed(&key)?.der());
    Ok((text, Issuer::new(params, key)))
}

fn tls(ca: &str, issuer: &Issuer<'static, KeyPair>, dc: &str) -> Result<TlsConfig, Failure> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(format!("multidc://bench/{dc}").as_str().try_into()?)];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok(TlsConfig::builder()
        .ca_pem(ca)
        .certificate_pem(pem("CERTIFICATE", certificate.der()))
        .key_pem(pem("PRIVATE KEY", &key.serialize_der()))
        .build()?)
}

async fn node(dc: &str, number: u128, tls: Option<TlsConfig>) -> Result<Remoting, Failure> {
    let id = DataCenter::new(dc).build()?.id().clone();
    let mut config = RemotingConfig::builder(SystemName::new("bench")?, id, NodeId(number));
    if let Some(tls) = tls {
        config = config.tls(tls);
    }
    let services = Services::new().receiver(Arc::new(Echo));
    Ok(Remoting::start(config.build()?, Arc::new(SystemClock), services).await?)
}

fn message(size: usize) -> Message {
    Message {
        to: 1,
        kind: "echo".into(),
        key: Bytes::new(),
        message: "ask".into(),
        epoch: 0,
        from: Bytes::new(),
        payload: vec![7; size].into(),
    }
}

/// Asks per second, with so many in flight.
async fn asks(from: &Remoting, to: &Remoting, size: usize, count: usize, in_flight: usize) -> Result<f64, Failure> {
    let peer = from.peer(to.local().advertised.clone());
    peer.connected(Duration::from_secs(5)).await?;
    let begun = now();
    let senders = (0..in_flight).map(|_| {
        let (pair, message) = (peer.pair(), message(size));
        async move {
            for _ in 0..count / in_flight {
                pair.ask(message.clone(), Duration::from_secs(30)).await?;
            }
            Ok::<_, dc_remoting::LinkError>(())
        }
    });
    for sent in join_all(senders).await {
        sent?;
    }
    Ok((count / in_flight * in_flight) as f64 / (now() - begun).as_secs_f64())
}

/// Milliseconds to make a link, the median of many: three connections at once, each with a handshake of its own.
async fn links(nodes: &[Remoting], to: &Remoting) -> Result<f64, Failure> {
    let mut times = Vec::new();
    for node in nodes {
        let begun = now();
        node.peer(to.local().advertised.clone()).connected(Duration::from_secs(5)).await?;
        times.push((now() - begun).as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Waits until each link of these nodes has ended for being idle.
async fn until_idle(nodes: &[Remoting], to: &Remoting) {
    for node in nodes {
        while node.peer(to.local().advertised.clone()).identity().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A node whose links end soon when nobody uses them.
async fn restless(number: u128, tls: Option<TlsConfig>) -> Result<Remoting, Failure> {
    let id = DataCenter::new("dc-1").build()?.id().clone();
    let mut config = RemotingConfig::builder(SystemName::new("bench")?, id, NodeId(number))
        .keepalive_interval(Duration::from_millis(500))
        .idle_timeout(Duration::from_millis(500));
    if let Some(tls) = tls {
        config = config.tls(tls);
    }
    Ok(Remoting::start(config.build()?, Arc::new(SystemClock), Services::new()).await?)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let (ca, issuer) = ca()?;
    let (one, two) = (tls(&ca, &issuer, "dc-1")?, tls(&ca, &issuer, "dc-2")?);
    let (plain, secret) = (node("dc-2", 1, None).await?, node("dc-2", 2, Some(two)).await?);

    let (mut open, mut closed) = (Vec::new(), Vec::new());
    for number in 0..LINKS as u128 {
        open.push(restless(1_000 + number, None).await?);
        closed.push(restless(10_000 + number, Some(one.clone())).await?);
    }
    println!("a link (three connections), median of {LINKS}, both ends in one process:");
    println!("  in the clear       {:.2} ms", links(&open, &plain).await?);
    println!("  TLS, in full       {:.2} ms", links(&closed, &secret).await?);
    until_idle(&closed, &secret).await;
    println!("  TLS, resumed       {:.2} ms", links(&closed, &secret).await?);
    drop((open, closed));

    let (in_clear, over_tls) = (node("dc-1", 3, None).await?, node("dc-1", 4, Some(one)).await?);
    for (size, count, in_flight) in [(64, ASKS, IN_FLIGHT), (64, ASKS / 20, 1), (64 << 10, ASKS / 20, 64)] {
        for round in 1..=ROUNDS {
            let clear = asks(&in_clear, &plain, size, count, in_flight).await?;
            let tls = asks(&over_tls, &secret, size, count, in_flight).await?;
            println!(
                "asks of {size} bytes, {in_flight} in flight, round {round}: {clear:.0}/s in the clear, {tls:.0}/s over TLS: {:.2}",
                tls / clear
            );
        }
    }
    Ok(())
}
