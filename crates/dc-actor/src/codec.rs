//! How messages and answers become bytes.
//!
//! A message names its codec as an associated type ([`RemoteMessage::Codec`](crate::RemoteMessage::Codec)):
//! [`Postcard`] for anything that serde can do (the default), [`Prost`] for protobuf messages, or one of the
//! user's own. The layers below never look into the bytes.

use std::cell::RefCell;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// Turns values of type `T` into bytes and back.
pub trait Codec<T>: 'static {
    /// Appends `value` to `out`.
    ///
    /// # Errors
    ///
    /// [`CodecError`] where the value cannot be written in this format.
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Reads a value from all of `bytes`, which come from the network: anything may stand there.
    ///
    /// # Errors
    ///
    /// [`CodecError`] where `bytes` are not one whole value.
    fn decode(bytes: Bytes) -> Result<T, CodecError>;
}

/// Why a value could not be written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CodecError(pub String);

/// Serde through postcard: compact, fast, not self-describing. Both ends must know the same type.
#[derive(Clone, Copy, Debug)]
pub enum Postcard {}

impl<T: Serialize + DeserializeOwned> Codec<T> for Postcard {
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        // Written in place: postcard appends to what it is given and hands it back.
        let buffer = std::mem::take(out);
        *out = postcard::to_extend(value, buffer).map_err(|err| CodecError(err.to_string()))?;
        Ok(())
    }

    fn decode(bytes: Bytes) -> Result<T, CodecError> {
        match postcard::take_from_bytes(&bytes) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => Err(CodecError(format!("{} bytes too many", rest.len()))),
            Err(err) => Err(CodecError(err.to_string())),
        }
    }
}

/// Protobuf through prost: messages may grow fields that older nodes pass over. `Bytes` fields are not copied.
#[derive(Clone, Copy, Debug)]
pub enum Prost {}

impl<T: prost::Message + Default> Codec<T> for Prost {
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        value.encode(out).map_err(|err| CodecError(err.to_string()))
    }

    fn decode(bytes: Bytes) -> Result<T, CodecError> {
        T::decode(bytes).map_err(|err| CodecError(err.to_string()))
    }
}

/// Values up to this size are written into a buffer of the thread and copied from there: one allocation of the right
/// size. Larger ones keep the buffer that they were written into.
const COPIED: usize = 4 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// `value` as bytes of its own.
pub(crate) fn to_bytes<C: Codec<T>, T>(value: &T) -> Result<Bytes, CodecError> {
    // Taken out while it is in use: writing a value may write another one.
    let mut out = SCRATCH.take();
    out.clear();
    let written = C::encode(value, &mut out);
    if out.len() > COPIED {
        return written.map(|()| out.into());
    }
    let bytes = written.map(|()| Bytes::copy_from_slice(&out));
    SCRATCH.set(out);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn postcard_refuses_trailing_bytes() {
        let err = <Postcard as Codec<u8>>::decode(Bytes::from_static(&[7, 8])).expect_err("one byte too many");
        assert_eq!(err.to_string(), "1 bytes too many");
    }

    #[test]
    fn postcard_appends_to_what_is_there() {
        let mut out = vec![9];
        Postcard::encode(&7u8, &mut out).unwrap();
        assert_eq!(out, [9, 7]);
    }

    #[test]
    fn values_of_any_size_are_written_one_after_the_other() {
        for size in [0, 10, COPIED - 2, COPIED, 3 * COPIED, 10] {
            let value = vec![7u8; size];
            let bytes = to_bytes::<Postcard, _>(&value).unwrap();
            assert_eq!(<Postcard as Codec<Vec<u8>>>::decode(bytes).unwrap(), value);
        }
    }

    proptest! {
        #[test]
        fn values_read_back_and_garbage_is_an_error(
            value: (u32, String, Vec<u64>),
            garbage: Vec<u8>,
        ) {
            let bytes = to_bytes::<Postcard, _>(&value).unwrap();
            prop_assert_eq!(<Postcard as Codec<(u32, String, Vec<u64>)>>::decode(bytes).unwrap(), value);
            // Either outcome is fine; what may not happen is a panic.
            let _ = <Postcard as Codec<(u32, String, Vec<u64>)>>::decode(garbage.clone().into());
            let _ = <Prost as Codec<String>>::decode(garbage.into());
        }
    }
}
