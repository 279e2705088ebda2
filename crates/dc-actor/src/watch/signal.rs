//! What one watch has not been told yet: at most one move, the newest, and one end.

use std::{
    collections::BTreeMap,
    sync::Arc,
    task::{Context, Poll},
};

use dc_core::{DataCenterId, NodeId};
use futures::task::AtomicWaker;
use parking_lot::Mutex;

use super::{ActorChange, EndReason};

/// Watches of one thing, by their numbers.
pub(super) type Signals = BTreeMap<u64, Arc<Signal>>;

/// From those who find out to the one who watches. Bounded: a newer move replaces an older one that was not read.
#[derive(Default)]
pub(super) struct Signal {
    state: Mutex<State>,
    waker: AtomicWaker,
}

#[derive(Default)]
struct State {
    /// The highest epoch that is known to who watches.
    epoch: u64,
    moved: Option<ActorChange>,
    ended: Option<EndReason>,
    /// Nothing more is taken in.
    over: bool,
}

impl Signal {
    /// Who watches knows of this epoch.
    pub(super) fn knows(&self, epoch: u64) {
        self.state.lock().epoch = epoch;
    }

    /// It is owned there; told if the epoch is a higher one.
    pub(super) fn moved(&self, data_center: &DataCenterId, node: NodeId, epoch: u64) {
        let mut state = self.state.lock();
        if state.over || epoch <= state.epoch {
            return;
        }
        state.epoch = epoch;
        state.moved = Some(ActorChange::Moved { data_center: data_center.clone(), node, epoch });
        drop(state);
        self.waker.wake();
    }

    /// It is gone; only the first reason counts.
    pub(super) fn end(&self, reason: EndReason) {
        let mut state = self.state.lock();
        if state.over {
            return;
        }
        (state.over, state.ended) = (true, Some(reason));
        drop(state);
        self.waker.wake();
    }

    /// Nothing more is told.
    pub(super) fn close(&self) {
        self.state.lock().over = true;
        self.waker.wake();
    }

    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Option<ActorChange>> {
        // Before the look: it is woken by whatever comes after.
        self.waker.register(cx.waker());
        let mut state = self.state.lock();
        if let Some(moved) = state.moved.take() {
            return Poll::Ready(Some(moved));
        }
        match state.ended.take() {
            Some(reason) => Poll::Ready(Some(ActorChange::Terminated { reason })),
            None if state.over => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker;

    use super::*;

    fn poll(signal: &Signal) -> Poll<Option<ActorChange>> {
        signal.poll(&Context::from_waker(&noop_waker()))
    }

    #[test]
    fn a7_the_newest_move_is_told_then_the_first_end_then_nothing() {
        let signal = Signal::default();
        let dc: DataCenterId = "dc-1".parse().unwrap();
        signal.knows(3);
        signal.moved(&dc, NodeId(1), 3);
        assert!(poll(&signal).is_pending(), "that is known");
        signal.moved(&dc, NodeId(2), 5);
        signal.moved(&dc, NodeId(1), 4);
        signal.end(EndReason::LetGo);
        signal.end(EndReason::NodeLost);
        signal.moved(&dc, NodeId(3), 6);
        let moved = ActorChange::Moved { data_center: dc, node: NodeId(2), epoch: 5 };
        assert_eq!(poll(&signal), Poll::Ready(Some(moved)));
        assert_eq!(poll(&signal), Poll::Ready(Some(ActorChange::Terminated { reason: EndReason::LetGo })));
        assert_eq!(poll(&signal), Poll::Ready(None));
        assert_eq!(poll(&signal), Poll::Ready(None));
    }

    #[test]
    fn a_closed_one_ends_without_a_reason() {
        let signal = Signal::default();
        signal.close();
        signal.end(EndReason::Stopped);
        assert_eq!(poll(&signal), Poll::Ready(None));
    }
}
