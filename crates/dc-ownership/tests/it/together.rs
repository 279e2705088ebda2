//! Writes that are due at the same time go to the store together, and each has an outcome of its own.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use dc_controlplane::{
    Error, Expected, Outcome,
    ownership::{Document, DocumentKey, DocumentWatch, Documents, Keep, MAX_TOGETHER, OwnershipStore, Swap, Write},
};
use dc_core::{StoreId, Version};
use dc_ownership::{DrainEnd, DrainOptions};
use parking_lot::Mutex;

use crate::support::{Node, TTL, World, name, spec, survivor, until};

/// The in-memory store, and what was asked of it together.
#[derive(Debug)]
struct Between {
    store: Arc<dyn OwnershipStore>,
    asked: Arc<Mutex<Vec<Vec<Write>>>>,
    /// Of so many requests only every second write lands, and the answer is lost.
    lost: AtomicUsize,
}

#[async_trait]
impl OwnershipStore for Between {
    async fn store(&self) -> Result<StoreId, Error> {
        self.store.store().await
    }

    async fn read(&self, key: &DocumentKey) -> Result<Option<Document>, Error> {
        self.store.read(key).await
    }

    async fn compare_and_set(
        &self,
        key: &DocumentKey,
        expected: Expected,
        body: Bytes,
        keep: Keep,
    ) -> Result<Swap, Error> {
        self.store.compare_and_set(key, expected, body, keep).await
    }

    fn at_once(&self) -> usize {
        self.store.at_once()
    }

    async fn compare_and_set_all(&self, writes: Vec<Write>) -> Result<Vec<Swap>, Error> {
        self.asked.lock().push(writes.clone());
        let lost = self.lost.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if lost.is_err() {
            return self.store.compare_and_set_all(writes).await;
        }
        let landed = writes.into_iter().step_by(2).collect();
        self.store.compare_and_set_all(landed).await?;
        let (operation, after) = ("compare_and_set_all", Duration::from_secs(1));
        Err(Error::Timeout { backend: "this test", operation, after, outcome: Outcome::Unknown })
    }

    async fn remove(&self, key: &DocumentKey, version: Version) -> Result<Swap, Error> {
        self.store.remove(key, version).await
    }

    async fn list(&self, prefix: &str) -> Result<Documents, Error> {
        self.store.list(prefix).await
    }

    async fn watch(&self, prefix: &str) -> Result<DocumentWatch, Error> {
        self.store.watch(prefix).await
    }
}

/// A node that has 100 names, and one that has none; what the first asks of the store together.
async fn nodes(world: &World, args: usize) -> (Node, Node, Arc<Mutex<Vec<Vec<Write>>>>, Arc<Between>) {
    let asked = Arc::<Mutex<Vec<Vec<Write>>>>::default();
    let mut kept = None;
    let a = world.node_on(
        "us-1",
        &[],
        |options| options,
        |store| {
            let between = Arc::new(Between { store, asked: Arc::clone(&asked), lost: AtomicUsize::new(0) });
            kept = Some(Arc::clone(&between));
            between
        },
    );
    let b = world.node("us-1", &[]);
    a.own.until_ready().await;
    b.own.until_ready().await;
    for n in 0..100 {
        let mut spec = spec(&format!("n{n}"), &survivor());
        spec.args = Bytes::from(vec![b'x'; args]);
        a.own.claim(spec).await.expect("free");
    }
    asked.lock().clear();
    (a, b, asked, kept.expect("made just now"))
}

#[tokio::test(start_paused = true)]
async fn writes_that_are_due_together_go_to_the_store_together() {
    for args in [1, 48 * 1024] {
        let world = World::new();
        let (a, b, asked, between) = nodes(&world, args).await;
        let last = a.own.drain(DrainOptions::node()).done().await;
        assert_eq!((last.moved, last.failed, last.end), (100, 0, Some(DrainEnd::Done)));
        until("all started", TTL, || b.log.adopted.lock().len() == 100).await;
        let asked = asked.lock();
        assert!(!asked.is_empty(), "what quiesces at the same time is written at the same time");
        for writes in asked.iter() {
            let keys: BTreeSet<&DocumentKey> = writes.iter().map(|write| &write.key).collect();
            assert_eq!(keys.len(), writes.len(), "each document once");
            assert!(writes.len() > 1 && writes.len() <= between.at_once());
            assert!(keys.iter().all(|key| !key.as_str().starts_with("s/")), "a renewal waits for nothing: {keys:?}");
            assert!(writes.iter().map(|write| write.body.len()).sum::<usize>() <= MAX_TOGETHER);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g5_of_writes_that_went_together_each_is_settled_by_itself_when_the_answer_is_lost() {
    let world = World::new();
    let (a, b, asked, between) = nodes(&world, 1).await;
    let before = a.own.known("n0").expect("claimed").epoch;
    between.lost.store(3, Ordering::SeqCst);
    let mut drain = a.own.drain(DrainOptions::node());
    let done = tokio::time::timeout(10 * TTL, drain.done()).await.expect("it ends");
    assert_eq!((done.left, done.end), (0, Some(DrainEnd::Done)));
    assert!(asked.lock().len() >= 3, "some answers were lost");
    until("all started", TTL, || b.log.adopted.lock().len() == 100).await;
    for n in 0..100 {
        let of = format!("n{n}");
        assert!(a.own.name_title(&of).is_none() && b.own.name_title(&of).is_some(), "{of}: one owner");
        assert!(!a.log.lost.lock().contains(&name(&of)), "{of} was handed over, not lost");
    }
    assert!(b.own.known("n0").expect("owned").epoch > before);
}
