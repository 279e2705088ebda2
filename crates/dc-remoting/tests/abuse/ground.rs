//! A node, an honest peer that asks it, and what both see while it is abused.

use std::{fmt, sync::atomic::Ordering, time::Duration};

use dc_core::{Clock, SystemClock};
use dc_remoting::{LinkEvent, Pair, RemotingConfigBuilder};
use tokio::sync::Mutex;

use crate::{
    attacks::{Attack, Running},
    support::*,
};

/// One at a time: the process's memory is looked at.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Asks that a phase has at least.
const LEAST: usize = 200;

/// How long asks took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// What an attack did to others.
pub(crate) struct Seen {
    pub(crate) attack: Attack,
    pub(crate) quiet: Took,
    pub(crate) during: Took,
    pub(crate) after: Took,
    /// Resident memory of the process before, at most during, and after, in bytes, where the system tells.
    pub(crate) resident: Option<(u64, u64, u64)>,
    /// What the attack did, in its own units.
    pub(crate) strikes: usize,
}

pub(crate) const HEAD: &str = "| attack | p50 quiet, during, after | p99 quiet, during, after | resident MiB before, during, after | strikes |\n\
     |---|---|---|---|---|";

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |took: Duration| took.as_micros();
        let row = |of: fn(&Took) -> Duration| {
            format!("{}, {}, {} µs", us(of(&self.quiet)), us(of(&self.during)), us(of(&self.after)))
        };
        let resident = self.resident.map_or("-".to_owned(), |(before, during, after)| {
            format!("{}, {}, {}", before >> 20, during >> 20, after >> 20)
        });
        let (p50, p99) = (row(|took| took.p50), row(|took| took.p99));
        write!(f, "| {:?} | {p50} | {p99} | {resident} | {} |", self.attack, self.strikes)
    }
}

/// Resident memory of this process in bytes.
fn resident() -> Option<u64> {
    const PAGE: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split(' ').nth(1)?.parse::<u64>().ok()? * PAGE)
}

/// Asks one after the other for so long, and at least [`LEAST`] times. Also gives the most memory seen.
async fn asks(pair: &Pair, during: Duration) -> (Took, Option<u64>) {
    let begun = SystemClock.now();
    let (mut times, mut most) = (Vec::new(), None);
    while times.len() < LEAST || SystemClock.now() - begun < during {
        let asked = SystemClock.now();
        body(pair.ask(numbered(1, 64), SOON).await);
        times.push(SystemClock.now() - asked);
        if times.len() % 50 == 0 {
            most = most.max(resident());
        }
    }
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    (Took { p50: at(50), p99: at(99) }, most.max(resident()))
}

/// The node that is abused. Whoever is silent is given up soon, so that what that frees is seen.
fn victim(attack: Attack) -> RemotingConfigBuilder {
    #[cfg(feature = "tls")]
    if attack == Attack::SlowTlsHandshakes {
        return tune(crate::attacks::ca().node("dc-2"));
    }
    let _ = attack;
    tune(config("dc-2"))
}

fn honest(attack: Attack) -> RemotingConfigBuilder {
    #[cfg(feature = "tls")]
    if attack == Attack::SlowTlsHandshakes {
        return crate::attacks::ca().node("dc-1");
    }
    let _ = attack;
    config("dc-1")
}

fn tune(config: RemotingConfigBuilder) -> RemotingConfigBuilder {
    let (interval, timeout) = (Duration::from_millis(500), Duration::from_millis(1_500));
    config.keepalive_interval(interval).keepalive_timeout(timeout).handshake_timeout(Duration::from_secs(2))
}

/// Asks while nothing happens, while `attack` goes on, and after; sees that the honest link stands all the time, that a
/// new peer is let in meanwhile, and that everything is freed in the end.
pub(crate) async fn observe(attack: Attack, lasting: Duration) -> Seen {
    let _alone = ALONE.lock().await;
    let there = Node::echo(victim(attack)).await;
    let here = Node::echo(honest(attack)).await;
    let mut events = here.remoting.events();
    let peer = here.remoting.peer(there.target());
    let pair = peer.pair();
    body(pair.ask(numbered(0, 64), SOON).await);
    let alone = there.remoting.taken();
    let (quiet, before) = asks(&pair, lasting / 2).await;
    let running = Running::start(attack, there.remoting.local_addr());
    eventually("the attack to begin", || running.strikes.load(Ordering::SeqCst) > 0).await;
    let (during, most) = asks(&pair, lasting).await;
    let newcomer = Node::echo(honest(attack)).await;
    body(newcomer.remoting.peer(there.target()).pair().ask(numbered(2, 64), SOON).await);
    drop(newcomer);
    let strikes = running.stop();
    eventually("all that the attack took to be freed", || there.remoting.taken() == alone).await;
    let (after, left) = asks(&pair, lasting / 2).await;
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, LinkEvent::PeerDown { .. }), "R6: the honest link was lost: {event:?}");
    }
    let resident = before.zip(most).zip(left).map(|((before, most), left)| (before, most, left));
    Seen { attack, quiet, during, after, resident, strikes }
}
