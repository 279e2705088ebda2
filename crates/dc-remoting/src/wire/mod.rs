//! What goes over a lane: the types of `proto/multidc/link/v1/link.proto`, and the stream's codec.
//!
//! The structs are written by hand so that no protoc is needed; a test compares them with the `.proto`.
#![allow(missing_docs, reason = "the `.proto` documents each field, and is what counts")]

mod codec;
mod fast;
mod handshake;
mod service;

use bytes::Bytes;

pub(crate) use codec::{FrameCodec, OutFrame};
#[cfg(feature = "fuzzing")]
pub(crate) use fast::Value;
pub(crate) use fast::{ChunkRef, CreditRef, EnvelopeRef, Fields, Malformed, ReplyRef, owned};
pub(crate) use handshake::{Grant, ReadHello, hello_frame, read_hello, read_welcome, welcome_frame};
pub(crate) use service::{PATH, SERVICE_NAME};

/// One gRPC message. Handled in the order of its fields.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Frame {
    #[prost(message, optional, tag = "1")]
    pub hello: Option<Hello>,
    #[prost(message, optional, tag = "2")]
    pub welcome: Option<Welcome>,
    #[prost(message, repeated, tag = "3")]
    pub symbols: Vec<SymbolDef>,
    #[prost(message, repeated, tag = "4")]
    pub chunks: Vec<Chunk>,
    #[prost(message, repeated, tag = "5")]
    pub envelopes: Vec<Envelope>,
    #[prost(message, repeated, tag = "6")]
    pub calls: Vec<Call>,
    #[prost(message, repeated, tag = "7")]
    pub replies: Vec<Reply>,
    #[prost(message, repeated, tag = "8")]
    pub credits: Vec<Credit>,
    #[prost(message, optional, tag = "9")]
    pub ping: Option<Ping>,
    #[prost(message, optional, tag = "10")]
    pub pong: Option<Ping>,
    #[prost(message, optional, tag = "11")]
    pub goodbye: Option<Goodbye>,
    #[prost(bool, tag = "12")]
    pub want_credits: bool,
}

/// The first frame of a lane, as it is read before anything is known of the peer: what else may stand in it is passed
/// over, as 4 MiB of empty envelopes would be a hundred times that once they are read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FirstFrame {
    #[prost(message, optional, tag = "1")]
    pub hello: Option<Hello>,
    #[prost(message, optional, tag = "2")]
    pub welcome: Option<Welcome>,
}

/// Which of a link's three streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum LaneKind {
    Unspecified = 0,
    Control = 1,
    User = 2,
    Bulk = 3,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Identity {
    #[prost(string, tag = "1")]
    pub system: String,
    #[prost(string, tag = "2")]
    pub data_center: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub node: Bytes,
    #[prost(string, tag = "4")]
    pub advertised: String,
    #[prost(bytes = "bytes", tag = "5")]
    pub store: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    #[prost(uint32, tag = "2")]
    pub oldest_protocol: u32,
    #[prost(message, optional, tag = "3")]
    pub identity: Option<Identity>,
    #[prost(bytes = "bytes", tag = "4")]
    pub link: Bytes,
    #[prost(enumeration = "LaneKind", tag = "5")]
    pub lane: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Welcome {
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    #[prost(message, optional, tag = "2")]
    pub identity: Option<Identity>,
    #[prost(uint64, tag = "3")]
    pub link_window: u64,
    #[prost(uint64, tag = "4")]
    pub max_payload: u64,
    #[prost(uint64, tag = "5")]
    pub max_call_body: u64,
    #[prost(uint32, tag = "6")]
    pub max_pairs: u32,
    #[prost(uint32, tag = "7")]
    pub max_symbols: u32,
}

/// `Symbol` of the `.proto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SymbolDef {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(string, tag = "2")]
    pub text: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Envelope {
    #[prost(fixed64, tag = "1")]
    pub correlation: u64,
    #[prost(uint32, tag = "2")]
    pub pair: u32,
    #[prost(uint64, tag = "3")]
    pub to: u64,
    #[prost(uint32, tag = "4")]
    pub kind: u32,
    #[prost(uint32, tag = "5")]
    pub message: u32,
    #[prost(uint64, tag = "6")]
    pub epoch: u64,
    #[prost(bytes = "bytes", tag = "7")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "8")]
    pub from: Bytes,
    #[prost(uint64, tag = "9")]
    pub left_us: u64,
    #[prost(bytes = "bytes", tag = "10")]
    pub payload: Bytes,
    #[prost(uint64, tag = "11")]
    pub total: u64,
    #[prost(uint32, tag = "12")]
    pub transfer: u32,
    #[prost(string, tag = "13")]
    pub kind_text: String,
    #[prost(string, tag = "14")]
    pub message_text: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Chunk {
    #[prost(uint32, tag = "1")]
    pub transfer: u32,
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Call {
    #[prost(fixed64, tag = "1")]
    pub correlation: u64,
    #[prost(uint32, tag = "2")]
    pub service: u32,
    #[prost(uint64, tag = "3")]
    pub left_us: u64,
    #[prost(bytes = "bytes", tag = "4")]
    pub body: Bytes,
}

/// How an ask or a call ended at its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Outcome {
    Answered = 0,
    NotRun = 1,
    Unanswered = 2,
    Expired = 3,
    TooLarge = 4,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Reply {
    #[prost(fixed64, tag = "1")]
    pub correlation: u64,
    #[prost(enumeration = "Outcome", tag = "2")]
    pub outcome: i32,
    #[prost(uint32, tag = "3")]
    pub status: u32,
    #[prost(bytes = "bytes", tag = "4")]
    pub body: Bytes,
    #[prost(uint64, tag = "5")]
    pub total: u64,
    #[prost(uint32, tag = "6")]
    pub transfer: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Credit {
    #[prost(uint32, tag = "1")]
    pub pair: u32,
    #[prost(uint32, tag = "2")]
    pub messages: u32,
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Ping {
    #[prost(uint64, tag = "1")]
    pub nonce: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Goodbye {
    #[prost(string, tag = "1")]
    pub why: String,
}
