//! What comes out of kameo's reply channel, typed again.

use kameo::{
    error::{BoxSendError, SendError},
    message::{BoxReply, Message},
    reply::Reply,
};

/// What a handler left in the reply channel.
pub struct BoxAnswer(pub(super) Result<BoxReply, BoxSendError>);

/// Why there is no `Ok` in it.
#[derive(Debug)]
pub enum Refusal<E> {
    /// The handler's own error.
    Handler(E),
    /// The message was forwarded to an actor that could not take it.
    Forward(String),
}

/// A typed answer, or the reason why there is none.
type Answered<T, E> = Result<T, Refusal<E>>;

type Ok<A, M> = <<A as Message<M>>::Reply as Reply>::Ok;
type Err<A, M> = <<A as Message<M>>::Reply as Reply>::Error;

/// Opens an answer as kameo does it itself.
pub(crate) fn open_answer<A, M>(answer: BoxAnswer) -> Answered<Ok<A, M>, Err<A, M>>
where
    A: Message<M>,
    M: Send + 'static,
{
    match answer.0 {
        Ok(reply) => Ok(<A::Reply as Reply>::downcast_ok(reply)),
        Err(err) => Err(match <A::Reply as Reply>::downcast_err::<M>(err) {
            SendError::HandlerError(err) => Refusal::Handler(err),
            SendError::ActorNotRunning(_) => Refusal::Forward("the actor it was forwarded to is not running".into()),
            SendError::ActorStopped => Refusal::Forward("the actor it was forwarded to has stopped".into()),
            SendError::ActorRestarting(_) => Refusal::Forward("the actor it was forwarded to is restarting".into()),
            SendError::MailboxFull(_) => Refusal::Forward("the mailbox it was forwarded to is full".into()),
            SendError::Timeout(_) => Refusal::Forward("the actor it was forwarded to did not answer in time".into()),
        }),
    }
}
