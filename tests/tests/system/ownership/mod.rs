//! One owner in the world, with real processes and real faults: counters write to a log that fences, while clients
//! count all the time; afterwards the log is checked (no lower epoch after a higher one, no acknowledged increment
//! lost, no epoch in two processes).
//!
//! The quick set runs with all tests, on small stores. The full set is the same faults on three servers of NATS and of
//! etcd: `cargo xtask test -p multidc-tests --test system -- --ignored full_`.
//!
//! Real cuts ([`places`]) and wall clocks that jump ([`clocks`]) are in the full set only: they need root, `ip` and `nft`,
//! and libfaketime. Where these are missing the full set fails, and says how to get them.
//!
//! Reading order: [`rig`], then a fault: [`lost`], [`cut`], [`stores`], [`moves`], [`places`], [`clocks`]. What
//! those are told who watch: [`watched`].

mod clocks;
mod cut;
mod lost;
mod moves;
mod places;
mod rig;
mod stores;
mod watched;

/// The test of a fault on one store in the quick set, and on three servers of NATS and of etcd in the full one.
macro_rules! on_stores {
    ($run:path, $quick:ident on $store:expr, $nats:ident, $etcd:ident) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn $quick() -> anyhow::Result<()> {
            $run($store.await?).await
        }

        #[tokio::test(flavor = "multi_thread")]
        #[ignore = "the full set: see the module"]
        async fn $nats() -> anyhow::Result<()> {
            $run(multidc_tests::servers::Store::nats(3).await?).await
        }

        #[tokio::test(flavor = "multi_thread")]
        #[ignore = "the full set: see the module"]
        async fn $etcd() -> anyhow::Result<()> {
            $run(multidc_tests::servers::Store::etcd(3).await?).await
        }
    };
}

use on_stores;
