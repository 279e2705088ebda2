//! A connection of its own for what has to be written in time.
//!
//! What answers, lists and watches bring comes over one connection, in order: where much is written, or a part of it is
//! lost on the way, a renewal would wait behind all of that for longer than its lease. So writes of what is to be kept
//! for a time only, which is what somebody renews, go over a second one. Owns the choice between the two; knows
//! nothing of what is written.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use dc_controlplane::Error;
use tokio::sync::OnceCell;

use crate::{bucket::Bucket, error::Call, plane::Inner};

/// The second connection, opened when it is first wanted.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    bucket: OnceCell<Bucket>,
    opening: AtomicBool,
    /// Whether the last write over it got no answer: the next one goes over the first connection.
    unanswered: AtomicBool,
}

/// Where one write goes, and what becomes of it.
pub(crate) struct Turn<'i> {
    bucket: &'i Bucket,
    lane: Option<&'i Lane>,
    answered: bool,
}

/// Over the second connection where that stands and answers; else over the first.
///
/// A write that was not answered is not repeated here (O4): who repeats it finds the other way.
pub(crate) fn turn(inner: &Arc<Inner>) -> Turn<'_> {
    let lane = &inner.lane;
    let first = Turn { bucket: &inner.bucket, lane: None, answered: true };
    let Some(bucket) = lane.bucket.get() else {
        open(inner);
        return first;
    };
    if lane.unanswered.swap(false, Ordering::Relaxed) || !bucket.wire.link.is_connected() {
        return first;
    }
    Turn { bucket, lane: Some(lane), answered: false }
}

/// In the background: nobody waits for it.
fn open(inner: &Arc<Inner>) {
    if inner.lane.opening.swap(true, Ordering::Relaxed) {
        return;
    }
    let inner = Arc::clone(inner);
    tokio::spawn(async move {
        let opened = async {
            let bucket = inner.bucket.through_another_link().await?;
            // The first write finds it looked at.
            let call = inner.call("connect");
            bucket.wire.bounded(&call, bucket.ready(&call)).await?;
            Ok::<_, Error>(bucket)
        };
        match opened.await {
            Ok(bucket) => _ = inner.lane.bucket.set(bucket),
            Err(error) => {
                tracing::debug!(%error, "no second connection yet");
                inner.lane.opening.store(false, Ordering::Relaxed);
            }
        }
    });
}

impl<'i> Turn<'i> {
    pub(crate) fn bucket(&self) -> &'i Bucket {
        self.bucket
    }

    /// As [`Wire::bounded`](crate::wire::Wire::bounded), and takes note of whether there was an answer.
    pub(crate) async fn bounded<T>(
        mut self,
        call: &Call,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let done = self.bucket.wire.bounded(call, work).await;
        self.answered = !matches!(&done, Err(error) if error.is_outage());
        done
    }
}

impl Drop for Turn<'_> {
    /// Also of a write that its caller gave up.
    fn drop(&mut self) {
        if let Some(lane) = self.lane
            && !self.answered
        {
            lane.unanswered.store(true, Ordering::Relaxed);
        }
    }
}
