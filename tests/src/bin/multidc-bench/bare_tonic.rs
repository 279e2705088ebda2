//! The second floor: one bidirectional tonic stream. Each ask is handed to
//! another task and back, as an actor must.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, future::BoxFuture};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    server::{NamedService, StreamingService},
    transport::{Endpoint, Server},
};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
struct Blob {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(bool, tag = "2")]
    one_way: bool,
    #[prost(bytes = "bytes", tag = "3")]
    payload: Bytes,
}

const PATH: &str = "/bench.Echo/Stream";
const WINDOW: u32 = 8 << 20;
/// A message with this number asks how many came one way.
const COUNT: u64 = u64::MAX;

#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

type Answers = Pin<Box<dyn Stream<Item = Result<Blob, Status>> + Send>>;
type Handed = (Blob, oneshot::Sender<Blob>);

impl StreamingService<Blob> for Echo {
    type Response = Blob;
    type ResponseStream = Answers;
    type Future = BoxFuture<'static, Result<Response<Answers>, Status>>;

    fn call(&mut self, request: Request<Streaming<Blob>>) -> Self::Future {
        Box::pin(async move {
            let mut asks = request.into_inner();
            let (actor, mut mailbox) = mpsc::channel::<Handed>(1024);
            tokio::spawn(async move {
                while let Some((ask, reply)) = mailbox.recv().await {
                    // The asker may be gone.
                    let _ = reply.send(ask);
                }
            });
            let (answers, stream) = mpsc::channel(1024);
            tokio::spawn(async move {
                let mut seen = 0;
                while let Some(Ok(ask)) = asks.next().await {
                    if ask.id == COUNT {
                        let _ = answers.send(Ok(Blob { id: seen, ..Blob::default() })).await;
                        continue;
                    }
                    let one_way = ask.one_way;
                    let (reply, answer) = oneshot::channel();
                    if actor.send((ask, reply)).await.is_err() {
                        return;
                    }
                    if one_way {
                        seen += 1;
                        continue;
                    }
                    let answers = answers.clone();
                    tokio::spawn(async move {
                        if let Ok(answer) = answer.await {
                            let _ = answers.send(Ok(answer)).await;
                        }
                    });
                }
            });
            Ok(Response::new(Box::pin(ReceiverStream::new(stream)) as Answers))
        })
    }
}

impl tonic::codegen::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Blob, Blob>::default());
            Ok(grpc.streaming(Echo, request).await)
        })
    }
}

pub(crate) async fn serve() -> anyhow::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * 2)
        .max_frame_size(1 << 20)
        .add_service(Echo)
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    Ok(addr)
}

async fn open(addr: SocketAddr) -> anyhow::Result<(mpsc::Sender<Blob>, Streaming<Blob>)> {
    let channel = Endpoint::from_shared(format!("http://{addr}"))?
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * 2)
        .tcp_nodelay(true)
        .connect()
        .await?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await?;
    let (sender, outgoing) = mpsc::channel(1024);
    let codec = ProstCodec::<Blob, Blob>::default();
    let request = Request::new(ReceiverStream::new(outgoing));
    let answer = grpc.streaming(request, http::uri::PathAndQuery::from_static(PATH), codec).await?;
    Ok((sender, answer.into_inner()))
}

/// Asks a second with `in_flight` at once, and the times of single asks where one is in flight.
pub(crate) async fn asks(
    addr: SocketAddr,
    size: usize,
    in_flight: usize,
    time: Duration,
) -> anyhow::Result<(f64, Vec<Duration>)> {
    let (sender, mut answers) = open(addr).await?;
    let payload = Bytes::from(vec![7; size]);
    let mut samples = Vec::new();
    let start = Instant::now();
    let mut sent = Instant::now();
    for id in 0..in_flight as u64 {
        sender.send(Blob { id, one_way: false, payload: payload.clone() }).await?;
    }
    let mut done = 0_u64;
    while start.elapsed() < time {
        let Some(answer) = answers.next().await else { break };
        answer?;
        done += 1;
        if in_flight == 1 {
            samples.push(sent.elapsed());
            sent = Instant::now();
        }
        sender.send(Blob { id: done, one_way: false, payload: payload.clone() }).await?;
    }
    Ok((done as f64 / start.elapsed().as_secs_f64(), samples))
}

/// Messages a second, one way, counted when the far end has them.
pub(crate) async fn one_way(addr: SocketAddr, size: usize, time: Duration) -> anyhow::Result<f64> {
    let (sender, mut answers) = open(addr).await?;
    let payload = Bytes::from(vec![7; size]);
    let start = Instant::now();
    while start.elapsed() < time {
        for id in 0..64 {
            sender.send(Blob { id, one_way: true, payload: payload.clone() }).await?;
        }
    }
    sender.send(Blob { id: COUNT, ..Blob::default() }).await?;
    let seen = answers.next().await.transpose()?.map_or(0, |answer| answer.id);
    Ok(seen as f64 / start.elapsed().as_secs_f64())
}
