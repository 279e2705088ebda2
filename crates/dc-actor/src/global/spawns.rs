//! Spawns of global names that are under way on this node: tries of one spawn wait for one outcome (L3).

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use parking_lot::Mutex;

use super::Located;
use crate::error::Error;

type Outcome = Result<Located, Error>;

type Key = (String, u128);

/// By name and request. Each goes on as long as somebody waits for it.
#[derive(Default)]
pub(super) struct Spawns(Arc<Mutex<HashMap<Key, Known>>>);

struct Known {
    outcome: WeakShared<BoxFuture<'static, Outcome>>,
    begun: Begun,
}

/// Whether an actor may have started.
#[derive(Clone, Debug, Default)]
pub(super) struct Begun(Arc<AtomicBool>);

impl Begun {
    pub(super) fn now(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A spawn that somebody waits for.
pub(super) struct Spawning {
    outcome: Shared<BoxFuture<'static, Outcome>>,
    begun: Begun,
}

impl Spawning {
    /// What comes of it, for all who wait.
    pub(super) async fn outcome(&self) -> Outcome {
        self.outcome.clone().await
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.0.load(Ordering::SeqCst)
    }
}

impl Spawns {
    /// The spawn of this request that is under way; else the one that `start` makes.
    pub(super) fn join<F>(&self, name: &str, request: u128, start: impl FnOnce(Begun) -> F) -> Spawning
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let key = (name.to_owned(), request);
        let mut known = self.0.lock();
        if let Some(known) = known.get(&key)
            && let Some(outcome) = known.outcome.upgrade()
        {
            return Spawning { outcome, begun: known.begun.clone() };
        }
        let begun = Begun::default();
        let over = Over { spawns: self.0.clone(), key: key.clone(), begun: begun.clone() };
        let work = start(begun.clone());
        let outcome = async move {
            let _over = over;
            work.await
        };
        let outcome = outcome.boxed().shared();
        // Just made, it is not over.
        if let Some(weak) = outcome.downgrade() {
            known.insert(key, Known { outcome: weak, begun: begun.clone() });
        }
        Spawning { outcome, begun }
    }
}

/// Dropped when a spawn is over, or was given up.
struct Over {
    spawns: Arc<Mutex<HashMap<Key, Known>>>,
    key: Key,
    begun: Begun,
}

impl Drop for Over {
    fn drop(&mut self) {
        let mut known = self.spawns.lock();
        // Another one may have begun under the same key meanwhile.
        if known.get(&self.key).is_some_and(|known| Arc::ptr_eq(&known.begun.0, &self.begun.0)) {
            known.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(text: &str) -> Outcome {
        Err(Error::Other { text: text.into(), not_run: true })
    }

    #[tokio::test]
    async fn l3_tries_of_one_spawn_have_one_outcome_and_other_spawns_their_own() {
        let spawns = Spawns::default();
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let first = spawns.join("n", 1, |begun| async move {
            begun.now();
            let _ = gone.await;
            failed("first")
        });
        let again = spawns.join("n", 1, |_| async { failed("a second one of the same request") });
        let other = spawns.join("n", 2, |_| async { failed("another request") });
        assert_eq!(other.outcome().await, failed("another request"));
        assert!(!other.has_begun());
        go.send(()).expect("it waits");
        assert_eq!(tokio::join!(first.outcome(), again.outcome()), (failed("first"), failed("first")));
        assert!(again.has_begun());
        assert!(spawns.0.lock().is_empty(), "what is over is forgotten");
    }

    #[tokio::test]
    async fn a_spawn_that_nobody_waits_for_is_given_up_and_can_be_begun_anew() {
        let spawns = Spawns::default();
        let (kept, dropped) = tokio::sync::oneshot::channel::<()>();
        let first = spawns.join("n", 1, |_| async move {
            let _kept = kept;
            std::future::pending().await
        });
        assert!(first.outcome().now_or_never().is_none());
        drop(first);
        assert!(dropped.await.is_err(), "what it held is gone");
        let again = spawns.join("n", 1, |_| async { failed("again") });
        assert_eq!(again.outcome().await, failed("again"));
    }
}
