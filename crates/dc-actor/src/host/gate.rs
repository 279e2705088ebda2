//! Counts the messages of one actor that are accepted and not yet done, and closes without a gap.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

const CLOSED: usize = 1 << (usize::BITS - 1);

/// Open: anyone may enter. Closed: nobody any more, for ever.
///
/// Because entering and closing are one atomic step each, an actor that closes while [`close_if_idle`](Self::close_if_idle)
/// finds it empty has no message left anywhere: none in the mailbox, none on the way into it.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    inside: AtomicUsize,
    closing: Notify,
}

impl Gate {
    /// Counts a message in; false if the gate is closed.
    pub(crate) fn enter(&self) -> bool {
        if self.inside.fetch_add(1, Ordering::AcqRel) & CLOSED == 0 {
            return true;
        }
        self.inside.fetch_sub(1, Ordering::AcqRel);
        false
    }

    /// Counts a message out. Returns how many are left.
    pub(crate) fn leave(&self) -> usize {
        (self.inside.fetch_sub(1, Ordering::AcqRel) & !CLOSED) - 1
    }

    /// Closes if nothing is inside.
    pub(crate) fn close_if_idle(&self) -> bool {
        let closed = self.inside.compare_exchange(0, CLOSED, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if closed {
            self.closing.notify_waiters();
        }
        closed
    }

    /// Closes whatever is inside. False if it was closed before.
    pub(crate) fn close(&self) -> bool {
        let first = self.inside.fetch_or(CLOSED, Ordering::AcqRel) & CLOSED == 0;
        if first {
            self.closing.notify_waiters();
        }
        first
    }

    /// Ends when the gate is closed. Cancel-safe.
    pub(crate) async fn closed(&self) {
        // Made before the look: it hears of every closing from here on.
        let closing = self.closing.notified();
        if !self.is_closed() {
            closing.await;
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.inside.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Messages inside: waiting or running.
    #[cfg(test)]
    pub(crate) fn inside(&self) -> usize {
        self.inside.load(Ordering::Acquire) & !CLOSED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closes_only_when_idle_and_then_for_ever() {
        let gate = Gate::default();
        assert!(gate.enter());
        assert!(!gate.close_if_idle());
        assert_eq!(gate.leave(), 0);
        assert!(gate.close_if_idle());
        assert!(!gate.enter());
        assert_eq!(gate.inside(), 0);
        assert!(!gate.close(), "was closed before");
    }
}
