//! The place of one actor: messages come here from this node and from links, whichever incarnation runs.

use std::{
    any::Any,
    collections::VecDeque,
    fmt,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use kameo::{Actor, actor::ActorRef, mailbox::Signal, message::Message};
use parking_lot::Mutex;
use tokio::sync::{mpsc::error::TrySendError, oneshot};

use super::{
    core::Core,
    envelope::{Envelope, Meant, Port, panic_text},
    gate::Gate,
};
use crate::{
    activation::Activation,
    error::Error,
    kind::Table,
    link::{self, Accept, Incoming},
};

/// What the node's table of actors holds: a cell, whatever its type.
pub(crate) trait AnyCell: Send + Sync + fmt::Debug {
    /// The untyped part.
    fn core(&self) -> &Arc<Core>;

    /// Takes a message from a link. Never blocks; what does not fit waits outside, with its credits.
    ///
    /// # Errors
    ///
    /// Hands the message back untouched if the actor takes nothing any more.
    #[expect(clippy::result_large_err, reason = "moved back once in a while; a box would cost every message")]
    fn deliver(self: Arc<Self>, incoming: Incoming) -> Result<(), Incoming>;

    /// Lets the actor end after what is in its mailbox; later messages are refused. One that waits for its
    /// restart ends at once, and what has gathered for it does not run. The future ends when the actor has.
    fn stop(self: Arc<Self>) -> BoxFuture<'static, ()>;

    /// Ends the actor now, in the middle of a message if need be.
    fn kill(&self);

    /// As [`deliver`](Self::deliver), also while the gate is held.
    ///
    /// # Errors
    ///
    /// As there.
    #[expect(clippy::result_large_err, reason = "as above")]
    fn deliver_held(self: Arc<Self>, incoming: Incoming) -> Result<(), Incoming> {
        self.deliver(incoming)
    }

    /// The actor's state, after what is in its mailbox; `None` if its kind takes none along.
    fn snapshot(self: Arc<Self>) -> BoxFuture<'static, Result<Option<Bytes>, String>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// For typed references.
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// A message that did not enter: handed back, with the reason.
pub(crate) struct Refused<M> {
    pub(crate) message: M,
    pub(crate) error: Error,
}

/// The cell of one actor of type `A`.
pub(crate) struct Cell<A: Actor> {
    core: Arc<Core>,
    table: Arc<Table<A>>,
    /// The running incarnation; the next one while it restarts.
    current: ArcSwapOption<ActorRef<A>>,
    /// Whether `waiting` is in use: then messages from links queue up behind it, so that order is kept.
    backlog: AtomicBool,
    waiting: Mutex<VecDeque<(Signal<A>, Option<Accept>)>>,
    /// Senders of this node that wait for room, and their order: whoever comes while some do waits behind them. A full
    /// mailbox may have room for a newcomer before the first of them has seen that there is room for it.
    crowd: AtomicUsize,
    turns: tokio::sync::Mutex<()>,
}

/// A sender in the crowd, until it is dropped.
struct InCrowd<'a>(&'a AtomicUsize);

impl<'a> InCrowd<'a> {
    fn new(crowd: &'a AtomicUsize) -> Self {
        crowd.fetch_add(1, Ordering::AcqRel);
        Self(crowd)
    }
}

impl Drop for InCrowd<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<A: Actor> Cell<A> {
    pub(super) fn new(core: Arc<Core>, table: Arc<Table<A>>, first: ActorRef<A>) -> Self {
        Self {
            core,
            table,
            current: ArcSwapOption::from_pointee(first),
            backlog: AtomicBool::new(false),
            waiting: Mutex::default(),
            crowd: AtomicUsize::new(0),
            turns: tokio::sync::Mutex::new(()),
        }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn table(&self) -> &Arc<Table<A>> {
        &self.table
    }

    pub(super) fn set_current(&self, next: Option<ActorRef<A>>) {
        self.current.store(next.map(Arc::new));
    }

    fn current(&self) -> Option<ActorRef<A>> {
        self.current.load().as_ref().map(|current| ActorRef::clone(current))
    }

    /// Puts a message of this node into the mailbox; waits while it is full. Cancel-safe: a dropped call sends nothing
    /// or leaves the message in the mailbox.
    ///
    /// # Errors
    ///
    /// Hands the message back if the actor takes nothing any more, with the port unused.
    pub(crate) async fn send<M>(
        self: &Arc<Self>,
        name: &'static str,
        message: M,
        port: Port,
        deadline: Option<Instant>,
        meant: Meant,
    ) -> Result<(), Refused<M>>
    where
        A: Message<M>,
        M: Send + 'static,
    {
        let gate = &self.core.gate;
        // What an actor tells itself belongs to the work that a held gate lets finish.
        let inside = gate.enter() || (gate.is_held() && Activation::is_current(&self.core) && gate.enter_held());
        if !inside {
            return Err(Refused { message, error: self.core.stopped_error() });
        }
        self.send_inside(name, message, port, deadline, meant).await
    }

    /// As [`send`](Self::send), for a message whose place inside the gate is already counted: it takes that over.
    pub(crate) async fn send_inside<M>(
        self: &Arc<Self>,
        name: &'static str,
        message: M,
        port: Port,
        deadline: Option<Instant>,
        meant: Meant,
    ) -> Result<(), Refused<M>>
    where
        A: Message<M>,
        M: Send + 'static,
    {
        let Some(current) = self.current() else {
            self.core.leave();
            return Err(Refused { message, error: self.core.stopped_error() });
        };
        let envelope = Envelope::new(self.core.clone(), name, message, port, deadline, meant);
        let signal = envelope.into_signal(current.clone());
        // What the actor tells itself stays in order, also where earlier ones wait outside.
        if self.backlog.load(Ordering::Acquire) && Activation::is_current(&self.core) {
            self.queue(signal, None);
            return Ok(());
        }
        let mailbox = current.mailbox_sender();
        let sent = match self.crowd.load(Ordering::Acquire) {
            0 => mailbox.try_send(signal),
            _ => Err(TrySendError::Full(signal)),
        };
        match sent {
            Ok(()) => {}
            // Only the actor itself makes room, so it must not wait for room: the message queues outside.
            Err(TrySendError::Full(signal)) if Activation::is_current(&self.core) => self.queue(signal, None),
            Err(TrySendError::Full(signal)) => {
                // In the order in which they came here (R1). Dropped, it leaves the crowd, and its message is not sent.
                let _in_crowd = InCrowd::new(&self.crowd);
                let _turn = self.turns.lock().await;
                // A closed mailbox drops the envelope, which reports to the port that it did not run.
                drop(mailbox.send(signal).await);
            }
            Err(TrySendError::Closed(signal)) => drop(signal),
        }
        Ok(())
    }

    /// Puts a message of a link into the mailbox, or behind those that wait for room.
    pub(crate) fn enqueue<M>(self: &Arc<Self>, envelope: Envelope<M>, accept: Accept)
    where
        A: Message<M>,
        M: Send + 'static,
    {
        // Without an incarnation there is no mailbox: the dropped envelope says that it did not run.
        let Some(current) = self.current() else { return };
        let mut signal = envelope.into_signal(current.clone());
        if !self.backlog.load(Ordering::Acquire) {
            match current.mailbox_sender().try_send(signal) {
                Ok(()) => return drop(accept),
                Err(TrySendError::Closed(signal)) => return drop(signal),
                Err(TrySendError::Full(back)) => signal = back,
            }
        }
        self.queue(signal, Some(accept));
    }

    #[expect(clippy::result_large_err, reason = "as in the trait")]
    fn take_in(self: &Arc<Self>, incoming: Incoming, enter: fn(&Gate) -> bool) -> Result<(), Incoming> {
        let Some(entry) = self.table.find(incoming.message.message.as_str()) else {
            let error = Error::MessageNotListed {
                kind: self.core.kind.to_owned(),
                message: incoming.message.message.as_str().to_owned(),
            };
            link::refuse(incoming, &self.core, error);
            return Ok(());
        };
        if !enter(&self.core.gate) {
            return Err(incoming);
        }
        entry(self, incoming);
        Ok(())
    }

    fn queue(self: &Arc<Self>, signal: Signal<A>, accept: Option<Accept>) {
        let mut waiting = self.waiting.lock();
        waiting.push_back((signal, accept));
        if !self.backlog.swap(true, Ordering::AcqRel) {
            tokio::spawn(self.clone().forward());
        }
    }

    /// Moves what waits into the mailbox, in order, until nothing waits.
    async fn forward(self: Arc<Self>) {
        loop {
            let (signal, accept) = {
                let mut waiting = self.waiting.lock();
                match waiting.pop_front() {
                    Some(next) => next,
                    None => {
                        // Under the lock: whoever queues after this starts a new forwarder.
                        self.backlog.store(false, Ordering::Release);
                        return;
                    }
                }
            };
            // The incarnation may have changed since the message was wrapped: it goes to the present one.
            if let (Some(current), Signal::Callback { callback, .. }) = (self.current(), signal) {
                let signal = Signal::Callback { actor_ref: current.clone(), callback };
                drop(current.mailbox_sender().send(signal).await);
            }
            drop(accept);
        }
    }
}

impl<A: Actor> AnyCell for Cell<A> {
    fn core(&self) -> &Arc<Core> {
        &self.core
    }

    fn deliver(self: Arc<Self>, incoming: Incoming) -> Result<(), Incoming> {
        self.take_in(incoming, Gate::enter)
    }

    fn deliver_held(self: Arc<Self>, incoming: Incoming) -> Result<(), Incoming> {
        self.take_in(incoming, Gate::enter_held)
    }

    fn snapshot(self: Arc<Self>) -> BoxFuture<'static, Result<Option<Bytes>, String>> {
        let Some(snapshots) = self.table.snapshots() else { return Box::pin(std::future::ready(Ok(None))) };
        Box::pin(async move {
            let stopped = || format!("{} has stopped", self.core.label());
            let current = self.current().ok_or_else(stopped)?;
            let (tx, rx) = oneshot::channel();
            let callback: Signal<A> = Signal::Callback {
                actor_ref: current.clone(),
                callback: Box::new(move |actor, _| {
                    Box::pin(async move {
                        let taken = AssertUnwindSafe((snapshots.take)(actor)).catch_unwind().await;
                        let taken = taken.unwrap_or_else(|payload| Err(panic_text(&*payload)));
                        // Nobody waits any more: the move was given up.
                        let _ = tx.send(taken);
                    })
                }),
            };
            if current.mailbox_sender().send(callback).await.is_err() {
                return Err(stopped());
            }
            rx.await.map_err(|_| stopped())?.map(Some)
        })
    }

    fn stop(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.core.gate.close();
            if let Some(current) = self.current() {
                // An error means that it has stopped already.
                let _ = current.stop_gracefully().await;
            }
            self.core.wait_stopped().await;
        })
    }

    fn kill(&self) {
        self.core.gate.close();
        if let Some(current) = self.current() {
            current.kill();
        }
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl<A: Actor> fmt::Debug for Cell<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)
    }
}
