//! R5, R6, R8 under abuse: while somebody misuses a node's port, others' asks go on as before, memory stays bounded, and
//! everything is freed when the abuser has gone.
//!
//! A program of its own, one test at a time: it looks at the memory of the whole process. `--ignored` measures.

#[cfg(feature = "tls")]
#[allow(dead_code, reason = "shared with other tests")]
#[path = "../it/tls/certs.rs"]
mod certs;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "../it/proxy.rs"]
mod proxy;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "../it/raw.rs"]
mod raw;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "../it/support.rs"]
mod support;

mod attacks;
mod ground;

use std::time::Duration;

use attacks::Attack;
use ground::{Seen, observe};

/// How much longer the median ask may take while the node is abused, at most. Both ends and the abuser share one machine.
const RATIO: f64 = 15.0;

const MIB: u64 = 1 << 20;

/// Runs the attack for a moment and holds others' asks, memory and what is left over to what was promised.
async fn stands(attack: Attack, most_memory: u64) {
    let seen = observe(attack, Duration::from_millis(600)).await;
    println!("{seen}");
    let Seen { quiet, during, resident, strikes, .. } = seen;
    assert!(strikes > 0, "{attack:?} did nothing");
    let ratio = during.p50.as_secs_f64() / quiet.p50.as_secs_f64();
    assert!(ratio < RATIO, "R6: the median ask took {ratio:.1} times as long: {:?}, {:?}", quiet.p50, during.p50);
    if let Some((before, during, _)) = resident {
        let grown = during.saturating_sub(before);
        assert!(grown < most_memory, "R5: {} MiB more", grown / MIB);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r8_slow_handshakes_hold_up_nobody() {
    stands(Attack::SlowHandshakes, 64 * MIB).await;
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r8_slow_tls_handshakes_hold_up_nobody() {
    stands(Attack::SlowTlsHandshakes, 64 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r8_half_open_links_hold_up_nobody() {
    stands(Attack::HalfOpen, 64 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r6_a_storm_of_resets_holds_up_nobody() {
    stands(Attack::Resets, 64 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r5_peers_that_never_read_hold_up_nobody() {
    // Four links, each with up to 64 MiB of answers.
    stands(Attack::NeverReads, 4 * 64 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r5_frame_headers_alone_take_no_memory() {
    stands(Attack::HeadersOnly, 64 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r8_thousands_of_connections_hold_up_nobody() {
    stands(Attack::Connections, 128 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures for a minute: see docs/limits.md"]
async fn measure_abuse() {
    println!("{}", ground::HEAD);
    for attack in Attack::ALL {
        println!("{}", observe(*attack, Duration::from_secs(5)).await);
    }
}
