//! A dialler that says what the test wants, byte for byte where needed.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes};
use dc_remoting::proto::{Envelope, Frame, Hello, Identity, LaneKind};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::Endpoint,
};

/// Frames in, any bytes out.
#[derive(Clone, Copy, Default)]
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
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

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.put(item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Frame;
    type Error = Status;
    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Frame>, Status> {
        Frame::decode(buf).map(Some).map_err(|err| Status::internal(err.to_string()))
    }
}

/// One lane of a hand-made link.
pub(crate) struct RawLane {
    out: mpsc::UnboundedSender<Bytes>,
    pub(crate) back: Streaming<Frame>,
}

impl RawLane {
    /// Opens a stream whose first frame is `first`.
    pub(crate) async fn open(to: SocketAddr, path: &'static str, first: Bytes) -> Result<Self, Status> {
        let channel = Endpoint::from_shared(format!("http://{to}"))
            .expect("legal")
            .connect()
            .await
            .map_err(|err| Status::unavailable(err.to_string()))?;
        let (out, rx) = mpsc::unbounded_channel();
        out.send(first).expect("open");
        let mut grpc = Grpc::new(channel);
        grpc.ready().await.map_err(|err| Status::unavailable(err.to_string()))?;
        let path = PathAndQuery::from_static(path);
        let response = grpc.streaming(Request::new(UnboundedReceiverStream::new(rx)), path, BytesCodec).await?;
        Ok(Self { out, back: response.into_inner() })
    }

    /// Opens a lane with a legal hello.
    pub(crate) async fn lane(to: SocketAddr, link: u128, lane: LaneKind) -> Self {
        let mut opened = Self::open(to, LANE, hello(link, lane).encode_to_vec().into()).await.expect("welcome");
        let welcome = opened.back.message().await.expect("welcome").expect("welcome");
        assert!(welcome.welcome.is_some());
        opened
    }

    /// All three lanes: control, user, bulk.
    pub(crate) async fn link(to: SocketAddr, link: u128) -> [Self; 3] {
        [
            Self::lane(to, link, LaneKind::Control).await,
            Self::lane(to, link, LaneKind::User).await,
            Self::lane(to, link, LaneKind::Bulk).await,
        ]
    }

    pub(crate) fn send(&self, frame: &Frame) {
        self.send_bytes(frame.encode_to_vec().into());
    }

    pub(crate) fn send_bytes(&self, bytes: Bytes) {
        // A lane that was closed takes nothing: the test looks at why it was.
        let _ = self.out.send(bytes);
    }

    /// Reads until the far side ends the lane. The reason that it gave, if any.
    pub(crate) async fn ended(&mut self) -> String {
        let mut why = String::new();
        loop {
            match self.back.message().await {
                Ok(Some(frame)) => {
                    if let Some(goodbye) = frame.goodbye {
                        why = goodbye.why;
                    }
                }
                Ok(None) => return why,
                Err(status) if why.is_empty() => return status.message().to_owned(),
                Err(_) => return why,
            }
        }
    }
}

pub(crate) const LANE: &str = "/multidc.link.v1.Link/Lane";

/// A legal hello of system `app`.
pub(crate) fn hello(link: u128, lane: LaneKind) -> Frame {
    let identity = Identity {
        system: "app".into(),
        data_center: "raw".into(),
        node: Bytes::copy_from_slice(&77u128.to_be_bytes()),
        advertised: "127.0.0.1:9".into(),
        store: Bytes::new(),
    };
    let hello = Hello {
        protocol: 1,
        oldest_protocol: 1,
        identity: Some(identity),
        link: Bytes::copy_from_slice(&link.to_be_bytes()),
        lane: lane.into(),
    };
    Frame { hello: Some(hello), ..Frame::default() }
}

/// A tell with names in the clear.
pub(crate) fn tell(payload: impl Into<Bytes>) -> Envelope {
    Envelope {
        to: 7,
        kind_text: "worker".into(),
        message_text: "work".into(),
        payload: payload.into(),
        ..Envelope::default()
    }
}

pub(crate) fn envelopes(envelopes: Vec<Envelope>) -> Frame {
    Frame { envelopes, ..Frame::default() }
}
