//! What every actor's cell has, whatever its type: identity, gate, epoch, and whom to tell.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dc_core::SharedClock;
use tokio::sync::SetOnce;

use super::gate::Gate;
use crate::{
    error::Error,
    events::{DeadLetter, EventBus},
    system::WeakSystem,
};

/// What actors are called besides their number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// Reachable by reference only.
    Anonymous,
    /// A per-DC name.
    Name(Arc<str>),
    /// A grain's identity.
    Grain(Arc<str>),
}

/// What an actor finds around itself: time, events, and the system.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) clock: SharedClock,
    pub(crate) bus: EventBus,
    pub(crate) system: WeakSystem,
}

/// The untyped part of a cell; shared by every message on its way in.
pub(crate) struct Core {
    pub(crate) number: u64,
    pub(crate) kind: &'static str,
    pub(crate) key: Key,
    pub(crate) host: Host,
    pub(crate) gate: Gate,
    /// 1 at first, one higher after each restart.
    epoch: AtomicU64,
    born: Instant,
    /// Milliseconds from `born` to the end of the last message.
    last_done: AtomicU64,
    /// The outcome of `on_start`, once it is known.
    started: SetOnce<Result<(), Error>>,
    /// Set once when the actor has stopped for good.
    stopped: SetOnce<()>,
}

impl Core {
    pub(crate) fn new(number: u64, kind: &'static str, key: Key, host: Host) -> Self {
        let born = host.clock.now();
        Self {
            number,
            kind,
            key,
            host,
            gate: Gate::default(),
            epoch: AtomicU64::new(1),
            born,
            last_done: AtomicU64::new(0),
            started: SetOnce::new(),
            stopped: SetOnce::new(),
        }
    }

    /// How the actor is called in errors, events and logs.
    pub(crate) fn label(&self) -> String {
        match &self.key {
            Key::Anonymous => format!("{} #{}", self.kind, self.number),
            Key::Name(name) => format!("{} {name:?}", self.kind),
            Key::Grain(id) => format!("{}/{id}", self.kind),
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(crate) fn next_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn now(&self) -> Instant {
        self.host.clock.now()
    }

    /// Counts a message out, and remembers when: idle grains are put to rest.
    pub(crate) fn leave(&self) {
        if matches!(self.key, Key::Grain(_)) {
            let since = self.now().saturating_duration_since(self.born).as_millis();
            self.last_done.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        self.gate.leave();
    }

    /// How long nothing was done.
    pub(crate) fn idle(&self) -> Duration {
        let last = self.born + Duration::from_millis(self.last_done.load(Ordering::Relaxed));
        self.now().saturating_duration_since(last)
    }

    pub(crate) fn stopped_error(&self) -> Error {
        Error::ActorStopped { actor: self.label() }
    }

    pub(crate) fn dead_letter(&self, message: &str, error: Error) {
        let letter =
            DeadLetter { target: self.label(), kind: self.kind.to_owned(), message: message.to_owned(), error };
        self.host.bus.dead_letter(letter);
    }

    /// The outcome of `on_start`; the first one stands.
    pub(crate) fn set_started(&self, outcome: Result<(), Error>) {
        let _ = self.started.set(outcome);
    }

    /// `on_start` has succeeded. Costs one load when that was known.
    pub(crate) fn mark_started(&self) {
        if !self.started.initialized() {
            self.set_started(Ok(()));
        }
    }

    /// Whether `on_start` has succeeded once.
    pub(super) fn has_started(&self) -> bool {
        matches!(self.started.get(), Some(Ok(())))
    }

    /// The outcome of `on_start`, when it is known. Cancel-safe.
    pub(crate) async fn wait_started(&self) -> Result<(), Error> {
        self.started.wait().await.clone()
    }

    /// The actor has stopped for good: nobody enters any more, and who waits is woken.
    pub(crate) fn set_stopped(&self) {
        self.gate.close();
        self.set_started(Err(self.stopped_error()));
        let _ = self.stopped.set(());
    }

    /// Ends when the actor has stopped for good. Cancel-safe.
    pub(crate) async fn wait_stopped(&self) {
        self.stopped.wait().await;
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label())
    }
}
