//! The codec that tonic drives: frames out as they were put together, frames in as their bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use super::Frame;
use crate::measure::Traffic;

/// A frame ready to be written: `head`, then `tail`, which is a payload that is not copied in between.
#[derive(Debug, Default)]
pub(crate) struct OutFrame {
    pub(crate) head: BytesMut,
    pub(crate) tail: Bytes,
}

impl From<Frame> for OutFrame {
    fn from(frame: Frame) -> Self {
        Self { head: BytesMut::from(&frame.encode_to_vec()[..]), tail: Bytes::new() }
    }
}

/// Frames to bytes; bytes stay bytes, as their reader looks at them in place.
#[derive(Clone)]
pub(crate) struct FrameCodec {
    traffic: Traffic,
}

impl FrameCodec {
    pub(crate) fn new() -> Self {
        Self { traffic: Traffic::new() }
    }
}

/// Start size and largest size of a write: small messages are packed up to it.
fn settings() -> BufferSettings {
    BufferSettings::new(16 << 10, 12 << 10)
}

impl Codec for FrameCodec {
    type Encode = OutFrame;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for FrameCodec {
    type Item = OutFrame;
    type Error = Status;

    fn encode(&mut self, frame: OutFrame, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        self.traffic.sent(frame.head.len() + frame.tail.len());
        buf.reserve(frame.head.len() + frame.tail.len());
        buf.put_slice(&frame.head);
        buf.put_slice(&frame.tail);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        settings()
    }
}

impl Decoder for FrameCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let len = buf.remaining();
        self.traffic.received(len);
        Ok(Some(buf.copy_to_bytes(len)))
    }

    fn buffer_settings(&self) -> BufferSettings {
        settings()
    }
}
