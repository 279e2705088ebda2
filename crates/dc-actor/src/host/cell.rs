//! The place of one actor: messages come here from this node and from links, whichever incarnation runs.

use std::{
    any::Any,
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;
use kameo::{Actor, actor::ActorRef, mailbox::Signal, message::Message};
use parking_lot::Mutex;
use tokio::sync::mpsc::error::TrySendError;

use super::{
    core::Core,
    envelope::{Envelope, Port},
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
}

impl<A: Actor> Cell<A> {
    pub(super) fn new(core: Arc<Core>, table: Arc<Table<A>>, first: ActorRef<A>) -> Self {
        Self {
            core,
            table,
            current: ArcSwapOption::from_pointee(first),
            backlog: AtomicBool::new(false),
            waiting: Mutex::default(),
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
        epoch: u64,
    ) -> Result<(), Refused<M>>
    where
        A: Message<M>,
        M: Send + 'static,
    {
        if !self.core.gate.enter() {
            return Err(Refused { message, error: self.core.stopped_error() });
        }
        let Some(current) = self.current() else {
            self.core.leave();
            return Err(Refused { message, error: self.core.stopped_error() });
        };
        let envelope = Envelope::new(self.core.clone(), name, message, port, deadline, epoch);
        let signal = envelope.into_signal(current.clone());
        // What the actor tells itself stays in order, also where earlier ones wait outside.
        if self.backlog.load(Ordering::Acquire) && Activation::is_current(&self.core) {
            self.queue(signal, None);
            return Ok(());
        }
        match current.mailbox_sender().try_send(signal) {
            Ok(()) => {}
            // Only the actor itself makes room, so it must not wait for room: the message queues outside.
            Err(TrySendError::Full(signal)) if Activation::is_current(&self.core) => self.queue(signal, None),
            // A closed mailbox drops the envelope, which reports to the port that it did not run.
            Err(TrySendError::Full(signal)) => drop(current.mailbox_sender().send(signal).await),
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
        let Some(entry) = self.table.find(incoming.message.message.as_str()) else {
            let error = Error::MessageNotListed {
                kind: self.core.kind.to_owned(),
                message: incoming.message.message.as_str().to_owned(),
            };
            link::refuse(incoming, &self.core, error);
            return Ok(());
        };
        if !self.core.gate.enter() {
            return Err(incoming);
        }
        entry(&self, incoming);
        Ok(())
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
