//! What a test may do to one client's calls.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::state::State;

/// A call of the contract, to count it or to make it fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// [`store`](crate::ControlPlane::store)
    Store,
    /// [`register`](crate::ControlPlane::register)
    Register,
    /// [`heartbeat`](crate::ControlPlane::heartbeat)
    Heartbeat,
    /// [`set_state`](crate::ControlPlane::set_state)
    SetState,
    /// [`set_intent`](crate::ControlPlane::set_intent)
    SetIntent,
    /// [`get`](crate::ControlPlane::get)
    Get,
    /// [`list_all`](crate::ControlPlane::list_all)
    List,
    /// [`watch`](crate::ControlPlane::watch)
    Watch,
    /// [`deregister`](crate::ControlPlane::deregister)
    Deregister,
    /// [`read`](crate::ownership::OwnershipStore::read)
    ReadDocument,
    /// [`compare_and_set`](crate::ownership::OwnershipStore::compare_and_set)
    CompareAndSet,
    /// [`remove`](crate::ownership::OwnershipStore::remove)
    RemoveDocument,
    /// [`list`](crate::ownership::OwnershipStore::list)
    ListDocuments,
    /// [`watch`](crate::ownership::OwnershipStore::watch)
    WatchDocuments,
}

impl Operation {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Register => "register",
            Self::Heartbeat => "heartbeat",
            Self::SetState => "set_state",
            Self::SetIntent => "set_intent",
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Deregister => "deregister",
            Self::ReadDocument => "read",
            Self::CompareAndSet => "compare_and_set",
            Self::RemoveDocument => "remove",
            Self::ListDocuments => "list",
            Self::WatchDocuments => "watch",
        }
    }

    /// Whether it may change the store, so that a lost answer leaves its outcome unknown.
    pub(super) fn writes(self) -> bool {
        match self {
            Self::Register | Self::Heartbeat | Self::SetState | Self::SetIntent | Self::Deregister => true,
            Self::CompareAndSet | Self::RemoveDocument => true,
            Self::Store | Self::Get | Self::List | Self::Watch => false,
            Self::ReadDocument | Self::ListDocuments | Self::WatchDocuments => false,
        }
    }
}

/// How a call is made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// At once, as unreachable; the store never sees it.
    Unreachable,
    /// After the request timeout; the store did what was asked, its answer is lost.
    AnswerLost,
    /// After the request timeout; the request was lost, and the store did nothing.
    RequestLost,
    /// At once; the store refuses the credentials.
    Denied,
}

/// What one client suffers.
#[derive(Default)]
pub(super) struct Faults {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    cut_off: bool,
    delay: Duration,
    stale: Option<Arc<State>>,
    scripted: Vec<Scripted>,
    calls: BTreeMap<Operation, u64>,
}

struct Scripted {
    operation: Operation,
    failure: Failure,
    left: usize,
}

/// What becomes of one call.
pub(super) struct Verdict {
    pub(super) failure: Option<Failure>,
    pub(super) delay: Duration,
}

impl Faults {
    /// Counts a call, and says what becomes of it.
    pub(super) fn judge(&self, operation: Operation) -> Verdict {
        let mut inner = self.inner.lock();
        *inner.calls.entry(operation).or_default() += 1;
        let cut_off = inner.cut_off.then_some(Failure::Unreachable);
        let failure = cut_off.or_else(|| {
            let scripted = inner.scripted.iter_mut().find(|s| s.operation == operation && s.left > 0)?;
            scripted.left -= 1;
            Some(scripted.failure)
        });
        inner.scripted.retain(|scripted| scripted.left > 0);
        Verdict { failure, delay: inner.delay }
    }

    pub(super) fn calls(&self, operation: Operation) -> u64 {
        self.inner.lock().calls.get(&operation).copied().unwrap_or(0)
    }

    pub(super) fn is_cut_off(&self) -> bool {
        self.inner.lock().cut_off
    }

    pub(super) fn set_cut_off(&self, cut_off: bool) {
        self.inner.lock().cut_off = cut_off;
    }

    pub(super) fn set_delay(&self, delay: Duration) {
        self.inner.lock().delay = delay;
    }

    /// What reads are to show, where they are made stale.
    pub(super) fn stale(&self) -> Option<Arc<State>> {
        self.inner.lock().stale.clone()
    }

    pub(super) fn set_stale(&self, stale: Option<Arc<State>>) {
        self.inner.lock().stale = stale;
    }

    pub(super) fn script(&self, operation: Operation, failure: Failure, times: usize) {
        self.inner.lock().scripted.push(Scripted { operation, failure, left: times });
    }
}
