//! A message on its way through a mailbox, and what becomes of it if it never runs.

use std::{any::Any, fmt, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use bytes::Bytes;
use futures::FutureExt;
use kameo::{
    error::BoxSendError,
    mailbox::Signal,
    message::{BoxMessage, BoxReply, Context, Message},
};
use tokio::sync::oneshot;

use super::{answer::BoxAnswer, core::Core};
use crate::{error::Error, link::ReplyTo};

type KameoReply = oneshot::Receiver<Result<BoxReply, BoxSendError>>;

/// What an asker on this node gets.
pub(crate) enum Outcome {
    /// The handler answered.
    Answer(BoxAnswer),
    /// The handler promised an answer: it comes here.
    Promised(Promise),
    /// It did not run, or did not end.
    Failed(Error),
    /// It certainly did not run: here it is again.
    NotRun { error: Error, message: Box<dyn Any + Send> },
}

/// An answer that a handler delegated to somebody else.
pub(crate) struct Promise {
    rx: KameoReply,
    core: Arc<Core>,
}

impl Promise {
    /// The answer when it comes. Cancel-safe.
    pub(crate) async fn answer(self) -> Result<BoxAnswer, Error> {
        match self.rx.await {
            // Given in time, or not at all (G2).
            Ok(answer) => self.core.check_owned(false).map(|()| BoxAnswer(answer)),
            Err(_) => Err(promise_broken(&self.core)),
        }
    }
}

fn promise_broken(core: &Core) -> Error {
    Error::NoAnswer { actor: core.label(), reason: "the promised answer was dropped".into() }
}

/// For which life of its target a message is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meant {
    /// Any.
    Any,
    /// This incarnation, between two restarts.
    Incarnation(u64),
    /// The ownership of this epoch.
    Owned(u64),
}

/// Where an answer goes.
pub(crate) enum Port {
    /// Nowhere: a tell.
    Tell,
    /// To an asker on this node.
    Local(oneshot::Sender<Outcome>),
    /// To an asker at the other end of a link.
    Link(LinkPort),
}

/// An asker at the other end of a link.
pub(crate) struct LinkPort {
    pub(crate) reply: ReplyTo,
    /// Writes the answer as status and body; known where the message's type is.
    pub(crate) encode: fn(BoxAnswer) -> (u32, Bytes),
}

impl Port {
    fn fail(self, core: &Core, message: &'static str, error: Error) {
        match self {
            Self::Tell => core.dead_letter(message, error),
            Self::Local(tx) => {
                if let Err(Outcome::Failed(error)) = tx.send(Outcome::Failed(error)) {
                    core.dead_letter(message, error);
                }
            }
            Self::Link(port) => crate::link::reply_error(port.reply, &error),
        }
    }

    fn answer(self, rx: Option<KameoReply>, core: &Arc<Core>) {
        let (port, mut rx) = match (self, rx) {
            (Self::Tell, _) | (_, None) => return,
            (port, Some(rx)) => (port, rx),
        };
        match (port, rx.try_recv()) {
            (Self::Tell, _) => {}
            (Self::Local(tx), Ok(answer)) => drop(tx.send(Outcome::Answer(BoxAnswer(answer)))),
            (Self::Link(port), Ok(answer)) => port.answer(Ok(BoxAnswer(answer))),
            (Self::Local(tx), Err(oneshot::error::TryRecvError::Empty)) => {
                let promise = Promise { rx, core: core.clone() };
                drop(tx.send(Outcome::Promised(promise)));
            }
            (Self::Link(port), Err(oneshot::error::TryRecvError::Empty)) => {
                let promise = Promise { rx, core: core.clone() };
                tokio::spawn(async move { port.answer(promise.answer().await) });
            }
            (Self::Local(tx), Err(oneshot::error::TryRecvError::Closed)) => {
                drop(tx.send(Outcome::Failed(promise_broken(core))));
            }
            (Self::Link(port), Err(oneshot::error::TryRecvError::Closed)) => port.answer(Err(promise_broken(core))),
        }
    }
}

impl LinkPort {
    fn answer(self, answer: Result<BoxAnswer, Error>) {
        match answer {
            Ok(answer) => {
                let (status, body) = (self.encode)(answer);
                self.reply.send(status, body);
            }
            Err(error) => crate::link::reply_error(self.reply, &error),
        }
    }
}

/// The part of an envelope that reports, whatever happens to the message.
struct Guard {
    core: Arc<Core>,
    port: Option<Port>,
    name: &'static str,
    began: bool,
    /// When its handler had ended, where somebody has looked.
    ended: Option<Instant>,
}

impl Guard {
    /// Whether what its handler did may leave (G2).
    fn still_owned(&mut self) -> Result<(), Error> {
        if self.core.owned.is_none() {
            return Ok(());
        }
        let now = *self.ended.insert(self.core.now());
        self.core.check_owned_at(now, false)
    }

    fn fail(&mut self, error: Error) {
        if let Some(port) = self.port.take() {
            port.fail(&self.core, self.name, error);
        }
    }
}

impl Guard {
    /// An asker is told (A5). A tell was delivered, so it is no dead letter: the actor's failure is its own event.
    fn panicked(&mut self, panic: String) {
        match self.port.take() {
            None | Some(Port::Tell) => {}
            Some(port) => port.fail(&self.core, self.name, Error::HandlerPanicked { actor: self.core.label(), panic }),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.port.is_some() {
            let error = if self.began {
                Error::NoAnswer { actor: self.core.label(), reason: "it was stopped while it ran the message".into() }
            } else {
                self.core.stopped_error()
            };
            self.fail(error);
        }
        self.core.leave_at(self.ended);
    }
}

/// One message that entered the gate of its target. Dropped unrun, it reports "certainly did not run", and hands the
/// message back to an asker of this node.
pub(crate) struct Envelope<M: Send + 'static> {
    message: Option<M>,
    guard: Guard,
    deadline: Option<Instant>,
    meant: Meant,
}

impl<M: Send + 'static> Envelope<M> {
    /// Wraps `message`, for which the gate of `core` was entered.
    pub(crate) fn new(
        core: Arc<Core>,
        name: &'static str,
        message: M,
        port: Port,
        deadline: Option<Instant>,
        meant: Meant,
    ) -> Self {
        let guard = Guard { core, port: Some(port), name, began: false, ended: None };
        Self { message: Some(message), guard, deadline, meant }
    }

    /// As kameo carries it.
    pub(crate) fn into_signal<A: Message<M>>(self, actor_ref: kameo::actor::ActorRef<A>) -> Signal<A> {
        Signal::Callback { actor_ref, callback: Box::new(move |actor, ctx| Box::pin(self.run(actor, ctx))) }
    }

    async fn run<A: Message<M>>(mut self, actor: &mut A, ctx: &mut Context<A, ()>) {
        // A message runs only after `on_start` has succeeded; kameo's own sign of it may be queued behind, or missing
        // where the mailbox was full.
        self.guard.core.mark_started();
        if let Some(error) = refusal(&self.guard.core, self.deadline, self.meant) {
            self.guard.fail(error);
            return;
        }
        let Some(message) = self.message.take() else { return };
        let mut this = self;
        let guard = &mut this.guard;
        let (tx, rx) = match guard.port {
            Some(Port::Tell) | None => (None, None),
            Some(_) => {
                let (tx, rx) = oneshot::channel();
                (Some(tx), Some(rx))
            }
        };
        guard.began = true;
        let mut stop = false;
        let message: BoxMessage<A> = Box::new(message);
        let actor_ref = ctx.actor_ref().clone();
        let handled = AssertUnwindSafe(actor.on_message(message, actor_ref, tx, &mut stop)).catch_unwind().await;
        if stop {
            ctx.stop();
        }
        match handled {
            Ok(Ok(())) => {
                if let Some(port) = guard.port.take() {
                    match (guard.still_owned(), &port) {
                        (Ok(()), _) | (Err(_), Port::Tell) => port.answer(rx, &guard.core),
                        // It ran, and nobody is to hear of it (G2).
                        (Err(error), _) => port.fail(&guard.core, guard.name, error),
                    }
                }
            }
            // As in kameo: an error that nobody waits for stops the actor. The panic is how a callback says so.
            Ok(Err(err)) => {
                let text = format!("a handler returned {err:?}");
                guard.panicked(text.clone());
                drop(this);
                std::panic::resume_unwind(Box::new(text));
            }
            Err(payload) => {
                guard.panicked(panic_text(&*payload));
                drop(this);
                std::panic::resume_unwind(payload);
            }
        }
    }
}

/// Why this message is not to be run any more, if so (R4, G2).
fn refusal(core: &Core, deadline: Option<Instant>, meant: Meant) -> Option<Error> {
    if deadline.is_some() || core.owned.is_some() {
        let now = core.now();
        if let Some(after) = deadline.and_then(|deadline| now.checked_duration_since(deadline)) {
            return Some(Error::Timeout { to: core.label(), after, not_run: true });
        }
        if let Err(error) = core.check_owned_at(now, true) {
            return Some(error);
        }
    }
    let (sent, current) = match (meant, &core.owned) {
        (Meant::Any, _) => return None,
        (Meant::Incarnation(sent), _) => (sent, core.epoch()),
        (Meant::Owned(sent), Some(owned)) => (sent, owned.title.epoch().0),
        (Meant::Owned(sent), None) => return Some(core.not_owner(sent, true)),
    };
    if sent > current && matches!(meant, Meant::Owned(_)) {
        // Either the sender is ahead of us, or wrong: the store decides, and until then nothing of it is served.
        core.heard_of(sent);
        return Some(core.not_owner(sent, true));
    }
    (sent != current).then(|| {
        if matches!(meant, Meant::Owned(_)) {
            crate::measure::ownership("stale_epoch");
        }
        Error::StaleEpoch { actor: core.label(), sent, current }
    })
}

/// The text of a panic.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without text".to_owned())
}

impl<M: Send + 'static> Drop for Envelope<M> {
    fn drop(&mut self) {
        let Some(message) = self.message.take() else { return };
        if let Some(port) = self.guard.port.take_if(|port| matches!(port, Port::Local(_)))
            && let Port::Local(tx) = port
        {
            let error = self.guard.core.stopped_error();
            drop(tx.send(Outcome::NotRun { error, message: Box::new(message) }));
        }
    }
}

impl<M: Send + 'static> fmt::Debug for Envelope<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:?}", self.guard.name, self.guard.core)
    }
}
