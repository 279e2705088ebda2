//! Follows all documents by one watch, and begins again whenever it ends.

use std::{sync::Arc, time::Duration};

use dc_controlplane::{
    Error,
    ownership::{DocumentEvent, OwnershipStore},
};
use futures::StreamExt;
use tokio::sync::mpsc;

use crate::{core::Input, documents::PREFIXES};

const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Passes on what the watch shows, until nobody listens.
pub(crate) async fn follow(
    store: Arc<dyn OwnershipStore>,
    generation: u64,
    timeout: Duration,
    seen: mpsc::Sender<Input>,
) {
    let mut wait = FIRST_WAIT;
    loop {
        match once(&*store, generation, timeout, &seen, &mut wait).await {
            Ok(()) if seen.is_closed() => return,
            Ok(()) => tracing::debug!("the watch ended; it is opened again"),
            Err(error) => tracing::debug!(%error, "the watch failed; it is opened again"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

async fn once(
    store: &dyn OwnershipStore,
    generation: u64,
    timeout: Duration,
    seen: &mpsc::Sender<Input>,
    wait: &mut Duration,
) -> Result<(), Error> {
    // One of all documents: each watch costs its store requests of its own, also while nothing happens.
    let opened = tokio::time::timeout(timeout, store.watch("")).await;
    let mut watch = opened.unwrap_or_else(|_| Err(crate::driver::late("watch", timeout)))?;
    let begun = (0..PREFIXES.len()).map(|prefix| Input::ReplayBegun { generation, prefix }).collect();
    let mut told = tell(seen, begun).await;
    while told && let Some(event) = watch.next().await {
        let inputs = match event? {
            DocumentEvent::Put(document) => vec![Input::Put { generation, document }],
            DocumentEvent::Removed { key, version } => vec![Input::Gone { generation, key, version }],
            DocumentEvent::ReplayDone { as_of } => {
                *wait = FIRST_WAIT;
                (0..PREFIXES.len()).map(|prefix| Input::ReplayDone { generation, prefix, as_of }).collect()
            }
            // It says that nothing was missed, which the contract says of every watch that goes on.
            _ => continue,
        };
        told = tell(seen, inputs).await;
    }
    Ok(())
}

/// Whether anybody listens.
async fn tell(seen: &mpsc::Sender<Input>, inputs: Vec<Input>) -> bool {
    for input in inputs {
        if seen.send(input).await.is_err() {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use dc_controlplane::{
        ControlPlane, Expected, TokioClock,
        memory::{MemoryControlPlane, MemoryStore},
        ownership::{Keep, Swap},
    };

    use super::*;

    #[tokio::test]
    async fn one_watch_replays_all_prefixes_and_tells_the_end_of_each() {
        let plane = MemoryControlPlane::new(&MemoryStore::new(Arc::new(TokioClock)));
        let store = plane.ownership().expect("documents");
        for prefix in PREFIXES {
            let (key, body) = (format!("{prefix}a").parse().expect("legal"), Bytes::from_static(b"x"));
            let written = store.compare_and_set(&key, Expected::Absent, body, Keep::Forever).await;
            assert!(matches!(written, Ok(Swap::Done(_))), "{written:?}");
        }
        let (seen, mut showing) = mpsc::channel(64);
        let following = tokio::spawn(follow(store, 7, Duration::from_secs(10), seen));
        let (mut begun, mut shown, mut done) = (Vec::new(), 0, Vec::new());
        while done.len() < PREFIXES.len() {
            match showing.recv().await.expect("it follows") {
                Input::ReplayBegun { generation: 7, prefix } if shown == 0 => begun.push(prefix),
                Input::Put { generation: 7, .. } if done.is_empty() => shown += 1,
                Input::ReplayDone { generation: 7, prefix, .. } => done.push(prefix),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((begun, shown, done), (vec![0, 1, 2, 3], PREFIXES.len(), vec![0, 1, 2, 3]));
        following.abort();
    }
}
