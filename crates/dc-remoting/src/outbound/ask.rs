//! One asker waiting for one answer, and the exact moment when its message leaves.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;

use crate::{Answer, LinkError};

const QUEUED: u8 = 0;
const WRITTEN: u8 = 1;
const CANCELLED: u8 = 2;

struct Cell {
    /// Queued, then either written or cancelled: whichever comes first decides (R3).
    state: AtomicU8,
    waker: AtomicWaker,
    result: Mutex<Option<Result<Answer, LinkError>>>,
}

/// The link's half: answers exactly once, also when it is dropped.
pub(crate) struct Ask {
    cell: Option<Arc<Cell>>,
    pub(crate) deadline: Instant,
}

/// The asker's half.
pub(crate) struct Waiting(Arc<Cell>);

pub(crate) fn ask_pair(deadline: Instant) -> (Ask, Waiting) {
    let cell = Arc::new(Cell { state: AtomicU8::new(QUEUED), waker: AtomicWaker::new(), result: Mutex::new(None) });
    (Ask { cell: Some(Arc::clone(&cell)), deadline }, Waiting(cell))
}

impl Ask {
    /// Marks the message as leaving. False if the asker gave up before: then it must not leave.
    pub(crate) fn leave(&self) -> bool {
        self.cell.as_ref().is_some_and(|cell| {
            cell.state.compare_exchange(QUEUED, WRITTEN, Ordering::AcqRel, Ordering::Acquire).is_ok()
        })
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.cell.as_ref().is_none_or(|cell| Arc::strong_count(cell) == 1)
    }

    pub(crate) fn finish(mut self, result: Result<Answer, LinkError>) {
        self.set(result);
    }

    fn set(&mut self, result: Result<Answer, LinkError>) {
        if let Some(cell) = self.cell.take() {
            *cell.result.lock() = Some(result);
            cell.waker.wake();
        }
    }
}

impl Drop for Ask {
    fn drop(&mut self) {
        // Every path finishes it with the right reason; this is the net.
        self.set(Err(LinkError::Closed));
    }
}

impl Waiting {
    /// Gives up. True if the message had not left, and now never will.
    pub(crate) fn cancel(&self) -> bool {
        self.0.state.compare_exchange(QUEUED, CANCELLED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The answer, if it is there.
    pub(crate) fn take(&self) -> Option<Result<Answer, LinkError>> {
        self.0.result.lock().take()
    }
}

impl Future for &Waiting {
    type Output = Result<Answer, LinkError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = self.take() {
            return Poll::Ready(result);
        }
        self.0.waker.register(cx.waker());
        self.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.cancel();
    }
}
