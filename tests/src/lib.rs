//! Harness of the whole-system tests, the demo and the benchmarks: real node
//! processes, real control-plane servers, faults.
//!
//! Owns how they are started, spoken to, hurt and cleaned up. Knows of actors
//! only what [`actors`] defines. Waits are for events, with a bound.
//!
//! Reading order: [`node::NodeProcess`], [`protocol`], [`servers`], [`proxy`], [`network`].

pub mod actors;
pub mod clock;
pub mod counters;
pub mod distance;
pub mod launch;
pub mod ledger;
pub mod load;
pub mod network;
pub mod node;
pub mod protocol;
pub mod proxy;
pub mod rng;
pub mod servers;
pub mod soak;

use std::{future::Future, time::Duration};

/// Asks `probe` again and again until it gives something, at most for `bound`.
///
/// # Errors
///
/// Names `what` and the last answer, where the bound passed first.
pub async fn eventually<T, F>(what: &str, bound: Duration, mut probe: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = Result<T, String>>,
{
    let mut last = "never asked".to_owned();
    let wait = async {
        loop {
            match probe().await {
                Ok(found) => return found,
                Err(why) => last = why,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(bound, wait).await {
        Ok(found) => Ok(found),
        Err(_) => anyhow::bail!("{what}: not within {bound:?}; last: {last}"),
    }
}
