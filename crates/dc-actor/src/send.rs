//! Tell and ask: one message on its way to an actor or a grain, wherever that is.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use crate::{
    activation::Activation,
    codec::{Codec, to_bytes},
    error::{AskError, Error},
    grain::GrainRef,
    host::{Cell, Meant, Outcome, Port, Refusal},
    link,
    message::{Handles, RemoteActor, RemoteMessage},
    reference::{Ref, Route, Way},
    system::Node,
};

/// The longest that anything waits: a day. What is asked for beyond it is cut, so that no deadline overflows.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// Whom a message is for.
pub(crate) enum Target<A: RemoteActor> {
    /// One actor.
    Ref(Ref<A>),
    /// A grain, wherever it is active, or will be.
    Grain(GrainRef<A>),
}

/// A message that is about to be told. Awaiting it sends it.
#[must_use = "nothing is sent until it is awaited"]
pub struct Tell<A: RemoteActor, M> {
    target: Target<A>,
    message: M,
    timeout: Option<Duration>,
    sender: Option<Activation>,
}

/// A message that is about to be asked. Awaiting it sends it and waits for the answer.
#[must_use = "nothing is sent until it is awaited"]
pub struct Ask<A: RemoteActor, M> {
    target: Target<A>,
    message: M,
    timeout: Option<Duration>,
    sender: Option<Activation>,
}

impl<A: Handles<M>, M: RemoteMessage> Tell<A, M> {
    pub(crate) fn new(target: Target<A>, message: M) -> Self {
        Self { target, message, timeout: None, sender: Activation::current() }
    }

    /// Waits at most this long for room (a full mailbox, used-up credits) or for a grain to be found; then fails with
    /// [`Timeout`](Error::Timeout), which says whether the message may still run. Default: the system's `ask_timeout`.
    pub fn timeout(mut self, after: Duration) -> Self {
        self.timeout = Some(after.min(LONGEST_WAIT));
        self
    }
}

impl<A: Handles<M>, M: RemoteMessage> Ask<A, M> {
    pub(crate) fn new(target: Target<A>, message: M) -> Self {
        Self { target, message, timeout: None, sender: Activation::current() }
    }

    /// Waits at most this long for the answer. The time left travels with the message; past it no work is started
    /// for it (R4). Default: the system's `ask_timeout`.
    pub fn timeout(mut self, after: Duration) -> Self {
        self.timeout = Some(after.min(LONGEST_WAIT));
        self
    }
}

/// What `tell(..).await` waits for.
#[must_use = "futures do nothing unless awaited"]
pub struct TellFuture(BoxFuture<'static, Result<(), Error>>);

/// What `ask(..).await` waits for. Dropped before its end, the message may still run.
#[must_use = "futures do nothing unless awaited"]
pub struct AskFuture<T, E: fmt::Debug>(BoxFuture<'static, Result<T, AskError<E>>>);

impl Future for TellFuture {
    type Output = Result<(), Error>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<T, E: fmt::Debug> Future for AskFuture<T, E> {
    type Output = Result<T, AskError<E>>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<A: Handles<M>, M: RemoteMessage> IntoFuture for Tell<A, M> {
    type Output = Result<(), Error>;
    type IntoFuture = TellFuture;

    fn into_future(self) -> TellFuture {
        let Self { target, message, timeout, sender } = self;
        TellFuture(match target {
            Target::Ref(target) => Box::pin(async move {
                match target.route()? {
                    Route::Mobile(mobile) => mobile.tell_to(message, timeout, sender.as_ref()).await,
                    route => tell_by(route, &mut Payload::once(message), timeout, sender.as_ref()).await,
                }
            }),
            Target::Grain(grain) => {
                Box::pin(async move { grain.mobile().tell_to(message, timeout, sender.as_ref()).await })
            }
        })
    }
}

impl<A: Handles<M>, M: RemoteMessage> IntoFuture for Ask<A, M> {
    type Output = Result<<A as Handles<M>>::Ok, AskError<<A as Handles<M>>::Err>>;
    type IntoFuture = AskFuture<<A as Handles<M>>::Ok, <A as Handles<M>>::Err>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { target, message, timeout, sender } = self;
        AskFuture(match target {
            Target::Ref(target) => Box::pin(async move {
                match target.route()? {
                    Route::Mobile(mobile) => mobile.ask_of(message, timeout, sender.as_ref()).await,
                    route => ask_by(route, &mut Payload::once(message), timeout, sender.as_ref()).await,
                }
            }),
            Target::Grain(grain) => {
                Box::pin(async move { grain.mobile().ask_of(message, timeout, sender.as_ref()).await })
            }
        })
    }
}

/// A message as it is at hand: it is written once, and read back only if its target turns out to be here after all.
pub(crate) struct Payload<M> {
    form: Form<M>,
    /// Whether what is written is kept, to be sent again.
    keep: bool,
    /// Its answer came from the next owner of a global target.
    forwarded: bool,
}

enum Form<M> {
    /// In memory.
    Typed(M),
    /// Written.
    Encoded(Bytes),
    /// Sent: it is no longer ours.
    Spent,
}

impl<M: RemoteMessage> Payload<M> {
    /// A message that is sent once.
    fn once(message: M) -> Self {
        Self { form: Form::Typed(message), keep: false, forwarded: false }
    }

    /// A message that is sent again while it certainly did not run.
    pub(crate) fn again(message: M) -> Self {
        Self { form: Form::Typed(message), keep: true, forwarded: false }
    }

    fn bytes(&mut self) -> Result<Bytes, Error> {
        let bytes = match std::mem::replace(&mut self.form, Form::Spent) {
            Form::Typed(message) => to_bytes::<M::Codec, _>(&message).map_err(|err| codec_error::<M>(&err))?,
            Form::Encoded(bytes) => bytes,
            Form::Spent => return Err(spent::<M>()),
        };
        if self.keep {
            self.form = Form::Encoded(bytes.clone());
        }
        Ok(bytes)
    }

    /// Whether its answer came from another owner than the one that was asked, in a hand-over.
    pub(crate) fn was_forwarded(&self) -> bool {
        self.forwarded
    }

    /// Whether it was given away: then it may have run.
    pub(crate) fn is_spent(&self) -> bool {
        matches!(self.form, Form::Spent)
    }

    fn take(&mut self, node: &Node) -> Result<M, Error> {
        match std::mem::replace(&mut self.form, Form::Spent) {
            Form::Typed(message) => Ok(message),
            Form::Encoded(bytes) => {
                node.weak().while_reading(|| M::Codec::decode(bytes)).map_err(|err| codec_error::<M>(&err))
            }
            Form::Spent => Err(spent::<M>()),
        }
    }

    fn put_back(&mut self, message: M) {
        self.form = Form::Typed(message);
    }
}

fn codec_error<M: RemoteMessage>(err: &crate::codec::CodecError) -> Error {
    Error::Codec { what: format!("message {:?}", M::NAME), reason: err.to_string(), not_run: true }
}

/// Reached only by sending one payload twice, which no caller does.
fn spent<M: RemoteMessage>() -> Error {
    Error::Codec { what: format!("message {:?}", M::NAME), reason: "already sent".into(), not_run: false }
}

/// Tells by a known route. On an error that is certainly-not-run, `payload` is still there.
pub(crate) async fn tell_by<A, M>(
    route: &Route<A>,
    payload: &mut Payload<M>,
    timeout: Option<Duration>,
    sender: Option<&Activation>,
) -> Result<(), Error>
where
    A: Handles<M>,
    M: RemoteMessage,
{
    check_sender(sender)?;
    match route {
        // Whoever follows a moving target gives its present place.
        Route::Gone | Route::Mobile(_) => Err(Error::not_found(A::KIND)),
        Route::Here(cell) => {
            let node = node_of(cell)?;
            listed::<A, M>(cell)?;
            let after = timeout.unwrap_or(node.options().ask_timeout);
            let message = payload.take(&node)?;
            let send = cell.send(M::NAME, message, Port::Tell, None, Meant::Any);
            match tokio::time::timeout(after, send).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(refused)) => {
                    payload.put_back(refused.message);
                    Err(refused.error)
                }
                // Dropping the send took the message out of the queue for room.
                Err(_) => Err(Error::Timeout { to: cell.core().label(), after, not_run: true }),
            }
        }
        Route::There(way) => {
            way.node.lists::<A, M>()?;
            let after = timeout.unwrap_or(way.node.options().ask_timeout);
            let message = way.message::<M>(payload.bytes()?, sender);
            let pair = way.pair(sender);
            match tokio::time::timeout(after, pair.tell(message)).await {
                Ok(sent) => sent.map_err(|err| link::link_error(&err, &way.label::<A>())),
                Err(_) => Err(Error::Timeout { to: way.label::<A>(), after, not_run: true }),
            }
        }
    }
}

/// Asks by a known route. On an error that is certainly-not-run, `payload` may be sent again if it is not spent.
pub(crate) async fn ask_by<A, M>(
    route: &Route<A>,
    payload: &mut Payload<M>,
    timeout: Option<Duration>,
    sender: Option<&Activation>,
) -> Result<<A as Handles<M>>::Ok, AskError<<A as Handles<M>>::Err>>
where
    A: Handles<M>,
    M: RemoteMessage,
{
    check_sender(sender)?;
    match route {
        // As above.
        Route::Gone | Route::Mobile(_) => Err(AskError::Failed(Error::not_found(A::KIND))),
        Route::Here(cell) => {
            let node = node_of(cell)?;
            listed::<A, M>(cell)?;
            let after = timeout.unwrap_or(node.options().ask_timeout);
            let message = payload.take(&node)?;
            match ask_here(cell, message, after).await {
                Ok(answer) => answer,
                Err(refused) => {
                    payload.put_back(refused.message);
                    Err(AskError::Failed(refused.error))
                }
            }
        }
        Route::There(way) => {
            way.node.lists::<A, M>()?;
            let after = timeout.unwrap_or(way.node.options().ask_timeout);
            let message = way.message::<M>(payload.bytes()?, sender);
            let answer = match way.pair(sender).ask(message, after).await {
                Ok(answer) => {
                    payload.forwarded = answer.status & link::FORWARDED != 0;
                    let status = answer.status & !link::FORWARDED;
                    way.node.weak().while_reading(|| link::decode_answer::<A, M>(status, answer.body))
                }
                Err(err) => Err(AskError::Failed(link::link_error(&err, &way.label::<A>()))),
            };
            if let Err(AskError::Failed(Error::ActorNotFound { .. } | Error::ActorStopped { .. })) = &answer {
                // What is remembered of it leads nowhere: the next lookup asks again (A2).
                way.node.names().retain(|at| (at.node, at.actor, &at.dc) != (way.at.node, way.at.actor, &way.at.dc));
            }
            answer
        }
    }
}

/// A global actor sends only what it may still do (G2).
fn check_sender(sender: Option<&Activation>) -> Result<(), Error> {
    sender.map_or(Ok(()), |sender| sender.core().check_owned(true))
}

type Answer<A, M> = Result<<A as Handles<M>>::Ok, AskError<<A as Handles<M>>::Err>>;

async fn ask_here<A, M>(
    cell: &Arc<Cell<A>>,
    message: M,
    after: Duration,
) -> Result<Answer<A, M>, crate::host::Refused<M>>
where
    A: Handles<M>,
    M: RemoteMessage,
{
    let deadline = cell.core().now() + after;
    let (tx, rx) = oneshot::channel();
    let entered = AtomicBool::new(false);
    let asked = async {
        cell.send(M::NAME, message, Port::Local(tx), Some(deadline), Meant::Any).await?;
        entered.store(true, Ordering::Relaxed);
        let answer = match rx.await {
            Ok(Outcome::Answer(answer)) => Ok(answer),
            Ok(Outcome::NotRun { error, message }) => match message.downcast() {
                Ok(message) => return Err(crate::host::Refused { message: *message, error }),
                // It is the message that was sent, so it has its type.
                Err(_) => Err(error),
            },
            Ok(Outcome::Promised(promise)) => promise.answer().await,
            Ok(Outcome::Failed(error)) => Err(error),
            // The envelope answers in every case; were it lost, nobody could know whether it ran.
            Err(_) => Err(Error::NoAnswer { actor: cell.core().label(), reason: "the message was lost".into() }),
        };
        Ok(answer)
    };
    let answer = match tokio::time::timeout(after, asked).await {
        Ok(answer) => answer?,
        Err(_) => {
            // Still waiting for room, it was taken back.
            let not_run = !entered.load(Ordering::Relaxed);
            Err(Error::Timeout { to: cell.core().label(), after, not_run })
        }
    };
    Ok(match answer {
        Err(error) => Err(AskError::Failed(error)),
        Ok(answer) => <A as Handles<M>>::open(answer).map_err(|refusal| match refusal {
            Refusal::Handler(err) => AskError::Handler(err),
            Refusal::Forward(reason) => AskError::Failed(Error::NoAnswer { actor: cell.core().label(), reason }),
        }),
    })
}

fn listed<A, M>(cell: &Arc<Cell<A>>) -> Result<(), Error>
where
    A: Handles<M>,
    M: RemoteMessage,
{
    if cell.table().lists::<M>() { Ok(()) } else { Err(not_listed::<A, M>()) }
}

pub(crate) fn not_listed<A: RemoteActor, M: RemoteMessage>() -> Error {
    Error::MessageNotListed { kind: A::KIND.to_owned(), message: M::NAME.to_owned() }
}

fn node_of<A: RemoteActor>(cell: &Arc<Cell<A>>) -> Result<Arc<Node>, Error> {
    cell.core().host.system.node().ok_or_else(|| cell.core().stopped_error())
}

impl Way {
    fn message<M: RemoteMessage>(&self, payload: Bytes, sender: Option<&Activation>) -> dc_remoting::Message {
        dc_remoting::Message {
            to: self.at.actor,
            kind: self.kind.clone(),
            key: self.key.clone(),
            message: link::symbol::<M>(),
            epoch: self.epoch,
            from: sender.and_then(|sender| sender.core().owned.as_ref()).map_or_else(Bytes::new, |by| by.mark.clone()),
            payload,
        }
    }

    fn label<A: RemoteActor>(&self) -> String {
        format!("{} #{} on {} of {}", A::KIND, self.at.actor, self.at.node.short(), self.at.dc)
    }
}

impl<A: RemoteActor, M> fmt::Debug for Tell<A, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tell({})", A::KIND)
    }
}

impl<A: RemoteActor, M> fmt::Debug for Ask<A, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ask({})", A::KIND)
    }
}

impl fmt::Debug for TellFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TellFuture")
    }
}

impl<T, E: fmt::Debug> fmt::Debug for AskFuture<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AskFuture")
    }
}
