//! Floor 2: one bidirectional tonic stream, one Protobuf message each way per ask; the server hands each to
//! another task and back.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::{
    StreamExt,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::{NamedService, StreamingService},
    transport::Endpoint,
};
use tonic_prost::ProstCodec;

use crate::{COUNT, Client, raw_tcp::Askers};

#[derive(Clone, PartialEq, prost::Message)]
struct Msg {
    #[prost(fixed64, tag = "1")]
    number: u64,
    #[prost(bytes = "bytes", tag = "2")]
    payload: Bytes,
}

type Out = (Bytes, Option<oneshot::Sender<Bytes>>);

#[derive(Clone)]
pub(crate) struct Bare(mpsc::Sender<Out>);

impl Client for Bare {
    async fn ask(&self, payload: Bytes) -> Bytes {
        let (tx, rx) = oneshot::channel();
        self.0.send((payload, Some(tx))).await.expect("open");
        rx.await.expect("answered")
    }

    async fn tell(&self, payload: Bytes) {
        self.0.send((payload, None)).await.expect("open");
    }
}

pub(crate) async fn connect(address: &str) -> Bare {
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .expect("legal")
        .tcp_nodelay(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .max_frame_size(1 << 20)
        .connect()
        .await
        .expect("connects");
    let (tx, rx) = mpsc::channel::<Out>(8192);
    let askers = Arc::new(Mutex::new(Askers::default()));
    let out = {
        let askers = Arc::clone(&askers);
        ReceiverStream::new(rx)
            .map(move |(payload, asker)| Msg { number: asker.map_or(0, |asker| askers.lock().insert(asker)), payload })
    };
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(4 << 20);
    grpc.ready().await.expect("ready");
    let path = http::uri::PathAndQuery::from_static("/bench.Bench/Stream");
    let codec = ProstCodec::<Msg, Msg>::default();
    let mut back = grpc.streaming(Request::new(out), path, codec).await.expect("opens").into_inner();
    tokio::spawn(async move {
        while let Ok(Some(msg)) = back.message().await {
            if let Some(asker) = askers.lock().remove(msg.number) {
                let _ = asker.send(msg.payload);
            }
        }
    });
    Bare(tx)
}

#[derive(Clone)]
struct Bench;

impl NamedService for Bench {
    const NAME: &'static str = "bench.Bench";
}

impl Service<http::Request<Body>> for Bench {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let codec = ProstCodec::<Msg, Msg>::default();
            let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(4 << 20);
            Ok(grpc.streaming(Bench, request).await)
        })
    }
}

type Back = Pin<Box<dyn tokio_stream::Stream<Item = Result<Msg, Status>> + Send>>;

impl StreamingService<Msg> for Bench {
    type Response = Msg;
    type ResponseStream = Back;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Back>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Msg>>) -> Self::Future {
        Box::pin(async move {
            let mut stream = request.into_inner();
            let (to_actor, mut actor) = mpsc::channel::<Msg>(8192);
            let (answers, back) = mpsc::channel(8192);
            tokio::spawn(async move {
                while let Ok(Some(msg)) = stream.message().await {
                    if to_actor.send(msg).await.is_err() {
                        return;
                    }
                }
            });
            tokio::spawn(async move {
                let mut tells = 0u64;
                while let Some(mut msg) = actor.recv().await {
                    match (msg.number, &msg.payload[..]) {
                        (0, _) => {
                            tells += 1;
                            continue;
                        }
                        (_, [COUNT]) => msg.payload = Bytes::copy_from_slice(&tells.to_be_bytes()),
                        _ => {}
                    }
                    if answers.send(Ok(msg)).await.is_err() {
                        return;
                    }
                }
            });
            Ok(Response::new(Box::pin(ReceiverStream::new(back)) as Back))
        })
    }
}

pub(crate) async fn serve() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    println!("{}", listener.local_addr().expect("bound"));
    let incoming = TcpListenerStream::new(listener).map(|io| io.inspect(|io| io.set_nodelay(true).expect("nodelay")));
    tonic::transport::Server::builder()
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .max_frame_size(1 << 20)
        .serve_with_incoming(Bench, incoming)
        .await
        .expect("serves");
}
