//! Between dc-remoting and the actors: what a status means, how errors travel, how a message of a link enters a cell.

use std::sync::Arc;

use bytes::Bytes;
pub(crate) use dc_remoting::{Accept, Incoming, ReplyTo};
use dc_remoting::{LinkError, Symbol};
use prost::Message as _;

use crate::{
    codec::Codec,
    error::{AskError, Error},
    host::{BoxAnswer, Cell, Core, Envelope, LinkPort, Meant, Port, Refusal},
    message::{Handles, RemoteActor, RemoteMessage},
};

/// The answer's status: the body is the handler's `Ok`.
pub(crate) const OK: u32 = 0;
/// The answer's status: the body is the handler's error.
const HANDLER: u32 = 1;
/// The answer's status: the body is a [`Fault`].
const FAULT: u32 = 2;
/// Added to the status of an answer that came from the next owner of a global target: its epoch is not the one that
/// was asked.
pub(crate) const FORWARDED: u32 = 16;

/// An [`Error`] on the wire. A node that does not know the variant still learns the text and whether anything ran.
#[derive(Clone, PartialEq, prost::Message)]
struct Fault {
    #[prost(bool, tag = "1")]
    not_run: bool,
    #[prost(string, tag = "2")]
    text: String,
    /// The error itself, by postcard.
    #[prost(bytes = "vec", tag = "3")]
    detail: Vec<u8>,
}

/// Writes an error as status and body.
pub(crate) fn write_fault(error: &Error) -> (u32, Bytes) {
    // An error holds strings, numbers and durations only: postcard writes them all. Were it ever to fail, the text
    // still reads back.
    let detail = postcard::to_allocvec(error).unwrap_or_default();
    let fault = Fault { not_run: error.certainly_not_run(), text: error.to_string(), detail };
    (FAULT, fault.encode_to_vec().into())
}

/// Reads what [`write_fault`] wrote, on whatever version.
pub(crate) fn read_fault(body: Bytes) -> Error {
    match Fault::decode(body) {
        Ok(fault) => {
            postcard::from_bytes(&fault.detail).unwrap_or(Error::Other { text: fault.text, not_run: fault.not_run })
        }
        Err(err) => Error::Other { text: format!("an unreadable error ({err})"), not_run: false },
    }
}

/// Answers an ask with an error.
pub(crate) fn reply_error(reply: ReplyTo, error: &Error) {
    if let Error::Timeout { not_run: true, .. } = error {
        return reply.expired();
    }
    let (status, body) = write_fault(error);
    reply.send(status, body);
}

/// Refuses a message that came over a link: to its asker, or as a dead letter of `core`.
pub(crate) fn refuse(incoming: Incoming, core: &Core, error: Error) {
    match incoming.reply {
        Some(reply) => reply_error(reply, &error),
        None => core.dead_letter(incoming.message.message.as_str(), error),
    }
}

/// Takes one message of type `M` into a cell whose gate it has entered.
pub(crate) fn take_in<A, M>(cell: &Arc<Cell<A>>, mut incoming: Incoming)
where
    A: Handles<M>,
    M: RemoteMessage,
{
    let core = cell.core();
    let payload = std::mem::take(&mut incoming.message.payload);
    let message = match core.host.system.while_reading(|| M::Codec::decode(payload)) {
        Ok(message) => message,
        Err(err) => {
            core.leave();
            let what = format!("message {:?} for {}", M::NAME, core.label());
            return refuse(incoming, core, Error::Codec { what, reason: err.to_string(), not_run: true });
        }
    };
    let deadline = incoming.left.map(|left| core.now() + left);
    let port = match incoming.reply {
        None => Port::Tell,
        Some(reply) => Port::Link(LinkPort { reply, encode: encode_answer::<A, M> }),
    };
    let meant = match (&core.owned, incoming.message.epoch) {
        (Some(_), epoch) => Meant::Owned(epoch),
        (None, 0) => Meant::Any,
        (None, epoch) => Meant::Incarnation(epoch),
    };
    let envelope = Envelope::new(core.clone(), M::NAME, message, port, deadline, meant);
    cell.enqueue(envelope, incoming.accept);
}

/// An answer as it travels back.
fn encode_answer<A, M>(answer: BoxAnswer) -> (u32, Bytes)
where
    A: Handles<M>,
    M: RemoteMessage,
{
    let (status, body) = match <A as Handles<M>>::open(answer) {
        Ok(ok) => (OK, <A as Handles<M>>::encode_ok(&ok)),
        Err(Refusal::Handler(err)) => (HANDLER, <A as Handles<M>>::encode_err(&err)),
        Err(Refusal::Forward(reason)) => {
            return write_fault(&Error::NoAnswer { actor: A::KIND.to_owned(), reason });
        }
    };
    match body {
        Ok(body) => (status, body),
        Err(err) => write_fault(&answer_error::<M>(&err)),
    }
}

/// Reads an answer that came back over a link.
pub(crate) fn decode_answer<A, M>(
    status: u32,
    body: Bytes,
) -> Result<<A as Handles<M>>::Ok, AskError<<A as Handles<M>>::Err>>
where
    A: Handles<M>,
    M: RemoteMessage,
{
    let unreadable = |err| AskError::Failed(answer_error::<M>(&err));
    match status {
        OK => <A as Handles<M>>::decode_ok(body).map_err(unreadable),
        HANDLER => Err(<A as Handles<M>>::decode_err(body).map_or_else(unreadable, AskError::Handler)),
        FAULT => Err(AskError::Failed(read_fault(body))),
        other => {
            let text = format!("an answer of unknown status {other}");
            Err(AskError::Failed(Error::Other { text, not_run: false }))
        }
    }
}

fn answer_error<M: RemoteMessage>(err: &crate::codec::CodecError) -> Error {
    Error::Codec { what: format!("the answer to {:?}", M::NAME), reason: err.to_string(), not_run: false }
}

/// A link's error as ours. `to` is who was meant.
pub(crate) fn link_error(error: &LinkError, to: &str) -> Error {
    let to = to.to_owned();
    match error {
        LinkError::Timeout { after, may_have_run, .. } => Error::Timeout { to, after: *after, not_run: !may_have_run },
        LinkError::Lost { .. } => Error::Lost { to },
        LinkError::Unanswered { .. } => Error::NoAnswer { actor: to, reason: "the node dropped the message".into() },
        LinkError::Overloaded { what, .. } => Error::Overloaded { what: format!("{to} ({what})") },
        LinkError::TooLarge { size, max, may_have_run: false, .. } => Error::TooLarge { size: *size, limit: *max },
        err if err.certainly_not_run() => Error::Unreachable { to, reason: err.to_string() },
        err => Error::Other { text: format!("{to}: {err}"), not_run: false },
    }
}

/// The wire name of a message type as a symbol.
pub(crate) const fn symbol<M: RemoteMessage>() -> Symbol {
    Symbol::from_static(M::NAME)
}

/// The wire name of a kind as a symbol.
pub(crate) const fn kind_symbol<A: RemoteActor>() -> Symbol {
    Symbol::from_static(A::KIND)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn r3_errors_travel_by_name() {
        let error = Error::Timeout { to: "x".into(), after: Duration::from_secs(2), not_run: true };
        let (status, body) = write_fault(&error);
        assert_eq!(status, FAULT);
        assert_eq!(read_fault(body), error);
    }

    #[test]
    fn an_error_of_a_newer_node_keeps_its_text_and_whether_it_ran() {
        let fault = Fault { not_run: true, text: "the moon is full".into(), detail: vec![250, 1] };
        let read = read_fault(fault.encode_to_vec().into());
        assert_eq!(read, Error::Other { text: "the moon is full".into(), not_run: true });
    }

    proptest! {
        #[test]
        fn garbage_reads_as_an_error_that_may_have_run(garbage: Vec<u8>) {
            // Whatever it is, reading it must not panic.
            let _ = read_fault(garbage.into());
        }
    }
}
