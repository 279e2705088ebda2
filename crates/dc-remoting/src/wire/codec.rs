//! The codec that tonic drives.

use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use super::Frame;

/// Frames to bytes and back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameCodec;

/// Start size and largest size of a write: small messages are packed up to it.
fn settings() -> BufferSettings {
    BufferSettings::new(16 << 10, 64 << 10)
}

impl Codec for FrameCodec {
    type Encode = Frame;
    type Decode = Frame;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for FrameCodec {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        frame.encode(buf).map_err(|err| Status::internal(err.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        settings()
    }
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Frame>, Status> {
        Frame::decode(buf).map(Some).map_err(|err| Status::data_loss(format!("malformed frame: {err}")))
    }

    fn buffer_settings(&self) -> BufferSettings {
        settings()
    }
}
