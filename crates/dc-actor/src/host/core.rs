//! What every actor's cell has, whatever its type: identity, gate, epoch, and whom to tell.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use dc_core::SharedClock;
use dc_ownership::{order::Thing, title::Title};
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
    /// A name in all datacenters.
    Global(Arc<str>),
}

/// What a global actor needs to work: the proof that it is the one in the world (G2).
#[derive(Clone, Debug)]
pub(crate) struct Owned {
    pub(crate) thing: Thing,
    pub(crate) title: Title,
    /// Stands on what it sends: by which ownership.
    pub(crate) mark: Bytes,
}

impl Owned {
    pub(crate) fn new(thing: Thing, title: Title) -> Self {
        let mark = crate::wire::sender_mark(&thing, title.epoch().0);
        Self { thing, title, mark }
    }
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
    /// Of a global actor; never changes: another epoch is another activation.
    pub(crate) owned: Option<Owned>,
    /// 1 at first, one higher after each restart.
    epoch: AtomicU64,
    born: Instant,
    /// Milliseconds from `born` to the end of the last message.
    last_done: AtomicU64,
    /// The outcome of `on_start`, once it is known.
    started: SetOnce<Result<(), Error>>,
    /// State that came along is not restored yet: it has not started before that.
    restoring: AtomicBool,
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
            owned: None,
            epoch: AtomicU64::new(1),
            born,
            last_done: AtomicU64::new(0),
            started: SetOnce::new(),
            restoring: AtomicBool::new(false),
            stopped: SetOnce::new(),
        }
    }

    /// Makes it a global one.
    pub(crate) fn owned_by(mut self, owned: Owned) -> Self {
        self.owned = Some(owned);
        self
    }

    /// Whether it may work, and what it did may leave (G2). For an actor that is not global this costs one branch.
    ///
    /// # Errors
    ///
    /// [`Error::NotOwner`], with `not_run` as given.
    pub(crate) fn check_owned(&self, not_run: bool) -> Result<(), Error> {
        if self.owned.is_some() { self.check_owned_at(self.now(), not_run) } else { Ok(()) }
    }

    /// As [`check_owned`](Self::check_owned), where the clock shows `now`: it is read once for all that is asked of it.
    pub(crate) fn check_owned_at(&self, now: Instant, not_run: bool) -> Result<(), Error> {
        match &self.owned {
            Some(owned) if owned.title.check_at(now).is_err() => {
                #[cfg(feature = "simulation")]
                if self.host.system.node().is_some_and(|node| node.plants(crate::system::Plant::NoTitle)) {
                    return Ok(());
                }
                Err(self.not_owner(owned.title.epoch().0, not_run))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Says that it is not the owner, and who is, as far as this node knows.
    pub(crate) fn not_owner(&self, epoch: u64, not_run: bool) -> Error {
        crate::measure::ownership("not_owner");
        let newer = self.owned.as_ref().and_then(|owned| {
            let node = self.host.system.node()?;
            node.newer_owner(&owned.thing, epoch)
        });
        Error::NotOwner { actor: self.label(), epoch, newer, not_run }
    }

    /// Somebody knows of a higher epoch than ours: our driver looks at the store.
    pub(crate) fn heard_of(&self, epoch: u64) {
        if let (Some(owned), Some(node)) = (&self.owned, self.host.system.node()) {
            node.heard_of(owned.thing.clone(), epoch);
        }
    }

    /// How the actor is called in errors, events and logs.
    pub(crate) fn label(&self) -> String {
        match &self.key {
            Key::Anonymous => format!("{} #{}", self.kind, self.number),
            Key::Name(name) => format!("{} {name:?}", self.kind),
            Key::Grain(id) => format!("{}/{id}", self.kind),
            Key::Global(name) => format!("{} {name:?} (global)", self.kind),
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
        self.leave_at(None);
    }

    /// As [`leave`](Self::leave), where the clock was read already.
    pub(crate) fn leave_at(&self, now: Option<Instant>) {
        if matches!(self.key, Key::Grain(_)) {
            let since = now.unwrap_or_else(|| self.now()).saturating_duration_since(self.born).as_millis();
            self.last_done.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        self.gate.leave();
    }

    /// How long nothing was done.
    pub(crate) fn idle(&self) -> Duration {
        let last = self.born + Duration::from_millis(self.last_done.load(Ordering::Relaxed));
        self.now().saturating_duration_since(last)
    }

    /// Why a message did not enter, or never ran.
    pub(crate) fn stopped_error(&self) -> Error {
        match &self.owned {
            // It is being handed over, or was: its messages are for the next owner.
            Some(owned) if self.gate.is_held() || owned.title.check().is_err() => {
                self.not_owner(owned.title.epoch().0, true)
            }
            Some(_) | None => Error::ActorStopped { actor: self.label() },
        }
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
        if !self.started.initialized() && !self.restoring.load(Ordering::Acquire) {
            self.set_started(Ok(()));
        }
    }

    /// It has started only once its state is restored.
    pub(crate) fn set_restoring(&self, restoring: bool) {
        self.restoring.store(restoring, Ordering::Release);
    }

    /// Whether `on_start` has succeeded once.
    pub(crate) fn has_started(&self) -> bool {
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

    /// Whether it has stopped for good.
    pub(crate) fn has_stopped(&self) -> bool {
        self.stopped.initialized()
    }

    /// Tells whoever watches it that it has ended, once it is out of the node's table and its name is free.
    pub(crate) fn tell_watchers(&self, failure: Option<&str>) {
        if let Some(node) = self.host.system.node() {
            node.watches().actor_ended(self.number, failure);
        }
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
