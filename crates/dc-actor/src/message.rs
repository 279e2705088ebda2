//! What makes an actor and a message known to other nodes: names and codecs, no behaviour.

use std::fmt;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    codec::{Codec, CodecError, Postcard, to_bytes},
    host::{Actor, Message, Reply},
};

/// An actor type that other nodes know by a wire name. Derive it: `#[derive(RemoteActor)]`.
///
/// It is an ordinary kameo actor besides.
pub trait RemoteActor: Actor {
    /// The kind: the type's name on the wire, the same in every build that talks to this one.
    const KIND: &'static str;
}

/// A message that can travel. Derive it: `#[derive(RemoteMessage)]`.
pub trait RemoteMessage: Sized + Send + 'static {
    /// The message type's name on the wire.
    const NAME: &'static str;
    /// How the message becomes bytes.
    type Codec: Codec<Self>;
    /// How the answer becomes bytes. A handler's error always travels by serde.
    type ReplyCodec: 'static;
}

/// Actors that handle `M`, where `M` and its answer can travel.
///
/// Never implemented by hand: every `A: RemoteActor + Message<M>` has it, if `M: RemoteMessage` can carry the
/// answer's `Ok` type by its reply codec, and the answer's error type by serde.
pub trait Handles<M: RemoteMessage>: RemoteActor + Message<M> {
    /// What an answer holds.
    type Ok: Send + 'static;
    /// The handler's own error.
    type Err: fmt::Debug + Send + 'static;

    #[doc(hidden)]
    fn encode_ok(ok: &Self::Ok) -> Result<Bytes, CodecError>;
    #[doc(hidden)]
    fn decode_ok(bytes: Bytes) -> Result<Self::Ok, CodecError>;
    #[doc(hidden)]
    fn encode_err(err: &Self::Err) -> Result<Bytes, CodecError>;
    #[doc(hidden)]
    fn decode_err(bytes: Bytes) -> Result<Self::Err, CodecError>;
    #[doc(hidden)]
    fn open(answer: crate::host::BoxAnswer) -> Result<Self::Ok, crate::host::Refusal<Self::Err>>;
}

impl<A, M> Handles<M> for A
where
    A: RemoteActor + Message<M>,
    M: RemoteMessage,
    M::ReplyCodec: Codec<<A::Reply as Reply>::Ok>,
    <A::Reply as Reply>::Error: Serialize + DeserializeOwned,
{
    type Ok = <A::Reply as Reply>::Ok;
    type Err = <A::Reply as Reply>::Error;

    fn encode_ok(ok: &Self::Ok) -> Result<Bytes, CodecError> {
        to_bytes::<M::ReplyCodec, _>(ok)
    }

    fn decode_ok(bytes: Bytes) -> Result<Self::Ok, CodecError> {
        M::ReplyCodec::decode(bytes)
    }

    fn encode_err(err: &Self::Err) -> Result<Bytes, CodecError> {
        to_bytes::<Postcard, _>(err)
    }

    fn decode_err(bytes: Bytes) -> Result<Self::Err, CodecError> {
        Postcard::decode(bytes)
    }

    fn open(answer: crate::host::BoxAnswer) -> Result<Self::Ok, crate::host::Refusal<Self::Err>> {
        crate::host::open_answer::<A, M>(answer)
    }
}
