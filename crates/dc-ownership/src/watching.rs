//! Follows what is under one prefix, and begins again whenever the watch ends.

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

/// Passes on what the watch of prefix number `prefix` shows, until nobody listens.
pub(crate) async fn follow(
    store: Arc<dyn OwnershipStore>,
    prefix: usize,
    generation: u64,
    timeout: Duration,
    seen: mpsc::Sender<Input>,
) {
    let mut wait = FIRST_WAIT;
    loop {
        match once(&*store, prefix, generation, timeout, &seen, &mut wait).await {
            Ok(()) if seen.is_closed() => return,
            Ok(()) => tracing::debug!(prefix = PREFIXES[prefix], "the watch ended; it is opened again"),
            Err(error) => tracing::debug!(prefix = PREFIXES[prefix], %error, "the watch failed; it is opened again"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

async fn once(
    store: &dyn OwnershipStore,
    prefix: usize,
    generation: u64,
    timeout: Duration,
    seen: &mpsc::Sender<Input>,
    wait: &mut Duration,
) -> Result<(), Error> {
    let opened = tokio::time::timeout(timeout, store.watch(PREFIXES[prefix])).await;
    let mut watch = opened.unwrap_or_else(|_| Err(crate::driver::late("watch", timeout)))?;
    let mut told = seen.send(Input::ReplayBegun { generation, prefix }).await;
    while told.is_ok()
        && let Some(event) = watch.next().await
    {
        let input = match event? {
            DocumentEvent::Put(document) => Input::Put { generation, document },
            DocumentEvent::Removed { key, version } => Input::Gone { generation, key, version },
            DocumentEvent::ReplayDone { as_of } => {
                *wait = FIRST_WAIT;
                Input::ReplayDone { generation, prefix, as_of }
            }
            // It says that nothing was missed, which the contract says of every watch that goes on.
            _ => continue,
        };
        told = seen.send(input).await;
    }
    Ok(())
}
