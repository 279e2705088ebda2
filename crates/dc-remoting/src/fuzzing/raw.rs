//! Both ends of a lane as the fuzzer plays them: whatever bytes it likes, as frames of a real gRPC stream.

use std::{convert::Infallible, net::SocketAddr, pin::Pin, sync::Arc, task::Poll};

use bytes::{Buf, BufMut, Bytes};
use futures::future::BoxFuture;
use prost::Message;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{Service, http, http::uri::PathAndQuery, tokio_stream::Stream},
    server::{self, NamedService, StreamingService},
    transport::{Endpoint, Server},
};

use crate::wire::{Frame, LaneKind, PATH, SERVICE_NAME};

/// Bytes in, bytes out.
#[derive(Clone, Copy)]
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
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
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let len = buf.remaining();
        Ok(Some(buf.copy_to_bytes(len)))
    }
}

/// The dialling end of one lane.
pub(super) struct Dialled {
    pub(super) out: mpsc::UnboundedSender<Bytes>,
    pub(super) back: Streaming<Bytes>,
}

impl Dialled {
    /// Opens a lane with `hello` and waits for the welcome.
    pub(super) async fn open(to: SocketAddr, hello: Bytes) -> Result<Self, Status> {
        let unavailable = |err: tonic::transport::Error| Status::unavailable(err.to_string());
        let channel = Endpoint::from_shared(format!("http://{to}")).map_err(unavailable)?;
        let channel = channel.tcp_nodelay(true).connect().await.map_err(unavailable)?;
        let (out, rx) = mpsc::unbounded_channel();
        // Its receiver is here.
        let _ = out.send(hello);
        let mut grpc = Grpc::new(channel);
        grpc.ready().await.map_err(unavailable)?;
        let request = Request::new(UnboundedReceiverStream::new(rx));
        let response = grpc.streaming(request, PathAndQuery::from_static(PATH), BytesCodec).await?;
        let mut back = response.into_inner();
        match back.message().await? {
            Some(_welcome) => Ok(Self { out, back }),
            None => Err(Status::unavailable("no welcome")),
        }
    }
}

/// One lane that was opened to us, after its welcome.
pub(super) struct Taken {
    pub(super) lane: LaneKind,
    pub(super) out: mpsc::UnboundedSender<Bytes>,
    pub(super) frames: Streaming<Bytes>,
}

/// The end that is dialled: answers every hello with `welcome` and hands the lane over.
#[derive(Clone)]
pub(super) struct Answering {
    welcome: Bytes,
    lanes: mpsc::UnboundedSender<Taken>,
}

impl Answering {
    /// Serves until the runtime ends.
    pub(super) async fn start(welcome: Bytes) -> std::io::Result<(SocketAddr, mpsc::UnboundedReceiver<Taken>)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (lanes, taken) = mpsc::unbounded_channel();
        let serve = Server::builder().serve_with_incoming(Self { welcome, lanes }, TcpListenerStream::new(listener));
        tokio::spawn(serve);
        Ok((address, taken))
    }
}

impl NamedService for Answering {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for Answering {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let this = Arc::new(self.clone());
        Box::pin(async move { Ok(server::Grpc::new(BytesCodec).streaming(Take(this), request).await) })
    }
}

struct Take(Arc<Answering>);

impl StreamingService<Bytes> for Take {
    type Response = Bytes;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let this = Arc::clone(&self.0);
        Box::pin(async move {
            let mut frames = request.into_inner();
            let first = frames.message().await?.ok_or_else(|| Status::failed_precondition("no hello"))?;
            let hello = Frame::decode(first).ok().and_then(|frame| frame.hello);
            let lane = hello.ok_or_else(|| Status::failed_precondition("no hello"))?.lane();
            let (out, rx) = mpsc::unbounded_channel::<Bytes>();
            let _ = out.send(this.welcome.clone());
            let _ = this.lanes.send(Taken { lane, out, frames });
            let stream = futures::StreamExt::map(UnboundedReceiverStream::new(rx), Ok);
            Ok(Response::new(Box::pin(stream) as Self::ResponseStream))
        })
    }
}
