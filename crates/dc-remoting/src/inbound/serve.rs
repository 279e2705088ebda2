//! The gRPC service: a lane's first frame decides whether it is taken.

use std::{
    collections::hash_map::Entry,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::sync::mpsc;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::{Grpc, NamedService, StreamingService},
};

use super::{InLane, InLink, accept::Conn, reader, slot, writer::BackStream};
use crate::{
    RemotingConfig,
    refusal::{TOO_MANY_LINKS, TOO_MUCH_HELD},
    remoting::Shared,
    wire::{FrameCodec, OutFrame, PATH, ReadHello, SERVICE_NAME, read_hello, welcome_frame},
};

/// Serves the one method of `multidc.link.v1.Link`.
#[derive(Clone)]
pub(crate) struct LinkService {
    shared: Arc<Shared>,
}

impl LinkService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl NamedService for LinkService {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for LinkService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let conn = request.extensions().get::<Arc<Conn>>().cloned();
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let Some(conn) = conn else {
                return Ok(Status::internal("no connection").into_http());
            };
            if request.uri().path() != PATH {
                let why = format!("it asks for {:?}, which is not served here", request.uri().path());
                conn.refuse(&why);
                conn.close_soon();
                return Ok(Status::unimplemented(why).into_http());
            }
            let mut grpc = Grpc::new(FrameCodec::new()).max_decoding_message_size(RemotingConfig::MAX_FRAME);
            Ok(grpc.streaming(TakeLane { shared, conn }, request).await)
        })
    }
}

struct TakeLane {
    shared: Arc<Shared>,
    conn: Arc<Conn>,
}

impl StreamingService<Bytes> for TakeLane {
    type Response = OutFrame;
    type ResponseStream = BackStream;
    type Future = Pin<Box<dyn Future<Output = Result<Response<BackStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (shared, conn) = (Arc::clone(&self.shared), Arc::clone(&self.conn));
        Box::pin(async move {
            let taken = take(&shared, &conn, request.into_inner()).await;
            if let Err(status) = &taken {
                conn.refuse(status.message());
                conn.close_soon();
            }
            taken.map(Response::new)
        })
    }
}

/// The link that a lane belongs to, and whether it is the first of it.
fn link_of(shared: &Arc<Shared>, conn: &Conn, hello: &ReadHello) -> Result<(Arc<InLink>, bool), Status> {
    let mut inbound = shared.inbound.lock();
    let peer = hello.identity.key();
    let links = inbound.keys().filter(|(of, _)| *of == peer).count();
    match inbound.entry((peer, hello.link)) {
        Entry::Occupied(entry) => Ok((Arc::clone(entry.get()), false)),
        Entry::Vacant(_) if shared.lingering.is_too_much(&hello.identity, &shared.config) => {
            conn.refuse_for("link_window", TOO_MUCH_HELD);
            Err(Status::resource_exhausted(TOO_MUCH_HELD))
        }
        Entry::Vacant(_) if links >= shared.config.max_links_per_peer => {
            conn.refuse_for("max_links_per_peer", TOO_MANY_LINKS);
            Err(Status::resource_exhausted(TOO_MANY_LINKS))
        }
        Entry::Vacant(entry) => {
            let link = Arc::new(InLink::new(Arc::clone(shared), hello.link, hello.identity.clone()));
            Ok((Arc::clone(entry.insert(link)), true))
        }
    }
}

/// Reads the hello and opens the lane. The connection's own time limit bounds the wait for it.
async fn take(shared: &Arc<Shared>, conn: &Arc<Conn>, mut stream: Streaming<Bytes>) -> Result<BackStream, Status> {
    if conn.taken.swap(true, Ordering::AcqRel) {
        return Err(Status::failed_precondition("it opens a second lane on one connection"));
    }
    let first = match stream.message().await {
        Ok(Some(frame)) => frame,
        Ok(None) => return Err(Status::failed_precondition("it ended before its first frame")),
        Err(status) => return Err(Status::invalid_argument(format!("its first frame: {}", status.message()))),
    };
    let local = shared.identity();
    let hello = read_hello(&local, first).map_err(Status::failed_precondition)?;
    if shared.draining.is_cancelled() {
        return Err(Status::failed_precondition("this node is shutting down"));
    }
    #[cfg(feature = "tls")]
    if let Some(certificate) = conn.certificate.get()
        && let Err(why) = crate::tls::check_claims(&certificate.name, &hello.identity)
    {
        let said = why.to_string();
        conn.refuse_tls(crate::RefusedBy::ThisNode, why);
        return Err(Status::unauthenticated(said));
    }
    let protocol = hello.identity.protocol;
    let (link, fresh) = link_of(shared, conn, &hello)?;
    let (back, rx) = mpsc::unbounded_channel();
    let lane = Arc::new(InLane::new(Arc::clone(&link), hello.lane, back));
    let earlier = link.lanes.lock()[slot(hello.lane)].replace(Arc::clone(&lane));
    if let Some(earlier) = earlier {
        link.close("one lane was opened twice");
        earlier.owe_nothing();
        return Err(Status::failed_precondition("it opens one lane twice"));
    }
    if link.closed.is_cancelled() {
        link.close("closed while a lane was opened");
        return Err(Status::failed_precondition("the link was closed meanwhile"));
    }
    if !conn.handshake_done() {
        link.close("its connection had to make room for another");
        return Err(Status::resource_exhausted("its place went to another connection"));
    }
    #[cfg(feature = "tls")]
    if let Some(certificate) = conn.certificate.get() {
        tokio::spawn(crate::renew::end_with(certificate.validity, Arc::clone(&link)));
    }
    if fresh {
        tracing::info!(peer = ?link.identity, from = %conn.remote, "link taken");
        shared.check_store(&link.identity);
        shared.kick(&link.identity.advertised);
        tokio::spawn(watch_completion(Arc::clone(&link)));
    }
    tokio::spawn(reader::run(Arc::clone(&lane), stream, Arc::clone(conn)));
    Ok(BackStream::new(lane, rx, welcome_frame(&local, protocol, &shared.config)))
}

/// A link whose other lanes do not come is closed.
async fn watch_completion(link: Arc<InLink>) {
    let limit = link.shared.config.handshake_timeout;
    tokio::select! {
        () = link.closed.cancelled() => {}
        () = tokio::time::sleep(limit) => {
            if !link.is_complete() {
                crate::measure::limit("handshake_timeout");
                link.close("its other lanes did not come in time");
            }
        }
    }
}
