//! The task that feeds the [`Core`]: a socket, a timer, the seeds.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dc_core::{DcView, SharedClock};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::sleep,
};

use super::{core::Core, transport::DatagramTransport};
use crate::{
    discovery::Discovery,
    events::{ClusterEvent, between},
    seal::Dropped,
};

/// Larger than any datagram of ours, so that a longer one is seen to be too long.
const BUFFER: usize = 2048;
/// First and longest wait between two questions to discovery.
const DISCOVERY_WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Datagrams counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GossipStats {
    /// Sent.
    pub sent: u64,
    /// Received and taken.
    pub received: u64,
    /// Not for us: another protocol, wire version, system or datacenter.
    pub dropped_strangers: u64,
    /// Sealed with a key that we do not hold, or not sealed though we hold one.
    pub dropped_keys: u64,
    /// Ours and authentic, but not readable, or from more members than can be kept.
    pub dropped_malformed: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
    strangers: AtomicU64,
    keys: AtomicU64,
    malformed: AtomicU64,
}

impl Counters {
    pub(crate) fn snapshot(&self) -> GossipStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GossipStats {
            sent: read(&self.sent),
            received: read(&self.received),
            dropped_strangers: read(&self.strangers),
            dropped_keys: read(&self.keys),
            dropped_malformed: read(&self.malformed),
        }
    }

    fn count_drop(&self, from: SocketAddr, why: Dropped) {
        let (counter, reason) = match why {
            Dropped::Garbage | Dropped::Version | Dropped::Stranger => (&self.strangers, "stranger"),
            Dropped::Key => (&self.keys, "key"),
            Dropped::Malformed | Dropped::TooMany => (&self.malformed, "malformed"),
        };
        #[cfg(feature = "metrics")]
        metrics::counter!("multidc_gossip_dropped_total", "reason" => reason).increment(1);
        #[cfg(not(feature = "metrics"))]
        let _ = reason;
        let count = counter.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            // Said at 1, 2, 4, .. so that a stream of them does not fill the log.
            tracing::warn!(%from, ?why, count, "gossip datagram dropped");
        }
    }
}

/// Asks of the driver's task.
pub(crate) enum Command {
    /// Say goodbye, then end.
    Leave(oneshot::Sender<()>),
}

/// What the driver's task works with.
pub(crate) struct Driver {
    pub(crate) core: Core,
    pub(crate) transport: Arc<dyn DatagramTransport>,
    pub(crate) clock: SharedClock,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) seeds: mpsc::Receiver<Vec<SocketAddr>>,
    pub(crate) view: watch::Sender<Arc<DcView>>,
    pub(crate) events: broadcast::Sender<ClusterEvent>,
    pub(crate) counters: Arc<Counters>,
}

impl Driver {
    /// Runs until the node leaves or the task is dropped.
    pub(crate) async fn run(mut self) {
        let mut buffer = [0; BUFFER];
        let mut seeds_open = true;
        loop {
            let now = self.clock.now();
            self.core.on_time(now);
            self.flush().await;
            let left = self.core.deadline().map(|at| at.saturating_duration_since(now));
            tokio::select! {
                received = self.transport.recv_from(&mut buffer) => match received {
                    Ok((length, from)) => self.take(from, &buffer[..length]),
                    Err(err) => {
                        // Sockets report others' unreachability here; never spin on a lasting failure.
                        tracing::debug!(%err, "gossip socket");
                        sleep(Duration::from_millis(10)).await;
                    }
                },
                () = sleep(left.unwrap_or(Duration::from_secs(1))) => {}
                found = self.seeds.recv(), if seeds_open => match found {
                    Some(addresses) => self.core.on_seeds(self.clock.now(), addresses),
                    None => seeds_open = false,
                },
                command = self.commands.recv() => match command {
                    Some(Command::Leave(done)) => {
                        self.core.leave();
                        self.flush().await;
                        // Nobody may be waiting any more.
                        let _ = done.send(());
                        return;
                    }
                    None => return,
                },
            }
        }
    }

    fn take(&mut self, from: SocketAddr, datagram: &[u8]) {
        match self.core.on_datagram(self.clock.now(), from, datagram) {
            Ok(()) => _ = self.counters.received.fetch_add(1, Ordering::Relaxed),
            Err(why) => self.counters.count_drop(from, why),
        }
    }

    async fn flush(&mut self) {
        let output = self.core.take_output();
        if let Some(seniority) = output.rejoined {
            // Without a receiver there is nobody to tell.
            let _ = self.events.send(ClusterEvent::Rejoined { seniority });
        }
        if let Some(view) = output.view {
            self.publish(view);
        }
        for (to, datagram) in output.send {
            match self.transport.send_to(&datagram, to).await {
                Ok(()) => _ = self.counters.sent.fetch_add(1, Ordering::Relaxed),
                Err(err) => tracing::debug!(%err, %to, "gossip datagram not sent"),
            }
        }
    }

    fn publish(&self, view: DcView) {
        let old = self.view.borrow().clone();
        let events = between(&old, &view);
        tracing::info!(members = view.members.len(), leader = ?view.leader().map(|m| m.node.short()), "members changed");
        self.view.send_replace(Arc::new(view));
        for event in events {
            tracing::debug!(?event, "membership event");
            let _ = self.events.send(event);
        }
    }
}

/// Asks discovery again and again, for ever: quickly while it fails or while it is young, then every 10 s.
pub(crate) async fn discover(discovery: Arc<dyn Discovery>, found: mpsc::Sender<Vec<SocketAddr>>, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut wait, longest) = DISCOVERY_WAITS;
    let mut failing = false;
    loop {
        match discovery.addresses().await {
            Ok(addresses) => {
                if found.send(addresses).await.is_err() {
                    return;
                }
                failing = false;
            }
            Err(err) if !failing => {
                failing = true;
                tracing::warn!(%err, ?discovery, "seeds cannot be resolved; trying on");
            }
            Err(_) => {}
        }
        sleep(wait.mul_f64(rng.random_range(0.75..1.25))).await;
        wait = (wait * 2).min(longest);
    }
}
