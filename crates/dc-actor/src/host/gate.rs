//! Counts the messages of one actor that are accepted and not yet done, and closes without a gap.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

const CLOSED: usize = 1 << (usize::BITS - 1);
const HELD: usize = 1 << (usize::BITS - 2);
const COUNT: usize = HELD - 1;

/// Open: anyone may enter. Held: nobody, until it is released. Closed: nobody any more, for ever.
///
/// Because entering and closing are one atomic step each, an actor that closes while [`close_if_idle`](Self::close_if_idle)
/// finds it empty has no message left anywhere: none in the mailbox, none on the way into it.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    inside: AtomicUsize,
    closing: Notify,
    /// Woken when the last one leaves while the gate is held.
    empty: Notify,
}

impl Gate {
    /// Counts a message in; false if the gate is closed or held.
    pub(crate) fn enter(&self) -> bool {
        self.enter_unless(CLOSED | HELD)
    }

    /// Counts a message in that belongs to work inside; false if the gate is closed.
    pub(crate) fn enter_held(&self) -> bool {
        self.enter_unless(CLOSED)
    }

    fn enter_unless(&self, shut: usize) -> bool {
        if self.inside.fetch_add(1, Ordering::AcqRel) & shut == 0 {
            return true;
        }
        self.leave();
        false
    }

    /// Counts a message out. Returns how many are left.
    pub(crate) fn leave(&self) -> usize {
        let before = self.inside.fetch_sub(1, Ordering::AcqRel);
        let left = (before & COUNT) - 1;
        if left == 0 && before & HELD != 0 {
            self.empty.notify_waiters();
        }
        left
    }

    /// Lets nobody in until [`release`](Self::release); what is inside goes on. False if the gate is closed.
    pub(crate) fn hold(&self) -> bool {
        self.inside.fetch_or(HELD, Ordering::AcqRel) & CLOSED == 0
    }

    /// Lets them in again, unless it is closed.
    pub(crate) fn release(&self) {
        self.inside.fetch_and(!HELD, Ordering::AcqRel);
    }

    pub(crate) fn is_held(&self) -> bool {
        self.inside.load(Ordering::Acquire) & HELD != 0
    }

    /// Ends when a held gate has nothing inside. Cancel-safe.
    pub(crate) async fn emptied(&self) {
        loop {
            // Made before the look: it hears of every leaving from here on.
            let empty = self.empty.notified();
            if self.inside.load(Ordering::Acquire) & COUNT == 0 {
                return;
            }
            empty.await;
        }
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
        self.inside.load(Ordering::Acquire) & COUNT
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

    #[tokio::test]
    async fn a_held_gate_lets_work_inside_finish_and_opens_again() {
        let gate = Gate::default();
        assert!(gate.enter() && gate.hold());
        assert!(!gate.enter(), "held");
        assert!(gate.enter_held(), "what belongs to work inside");
        let mut emptied = Box::pin(gate.emptied());
        assert!(futures::poll!(&mut emptied).is_pending());
        gate.leave();
        assert!(futures::poll!(&mut emptied).is_pending());
        gate.leave();
        emptied.await;
        assert!(!gate.close_if_idle(), "somebody decides about it");
        gate.release();
        assert!(gate.enter() && !gate.is_closed());
        assert!(gate.close() && !gate.hold() && !gate.enter_held());
    }
}
