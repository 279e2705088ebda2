//! Opening a link: three connections, three handshakes, then its tasks.

use std::sync::{Arc, OnceLock, Weak, atomic::AtomicBool};

use bytes::Bytes;
use dc_core::Endpoint;
use futures::future::try_join3;
use tokio::sync::mpsc;
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint as Target},
};

use super::{
    Link, Out,
    link::{self, Lane},
    pending::Pending,
    reader,
    writer::{LaneStart, OutLane, OutStream},
};
use crate::{
    LinkError, PeerIdentity, RefusedBy, RemotingConfig, TlsRefusal,
    refusal::{TLS_ONLY, TOO_MANY, TOO_MANY_LINKS, TOO_MUCH_HELD},
    remoting::Shared,
    wire::{FrameCodec, Grant, LaneKind, PATH, hello_frame, read_welcome},
};

/// What the lanes of one link share before there is a link.
#[derive(Clone)]
struct Parts {
    pending: Arc<[Pending; 3]>,
    link: Arc<OnceLock<Weak<Link>>>,
    used: Arc<AtomicBool>,
}

struct Opened {
    queue: mpsc::UnboundedSender<Out>,
    writer: Arc<OutLane>,
    stream: Streaming<Bytes>,
    identity: PeerIdentity,
    grant: Grant,
    channel: Channel,
    #[cfg(feature = "tls")]
    term: Option<crate::renew::Term>,
}

/// Opens a link to whoever answers at `endpoint`.
///
/// # Errors
///
/// `Unreachable` or `Refused`. Cancel safe: connections that were opened are closed.
pub(crate) async fn dial(shared: &Arc<Shared>, endpoint: &Endpoint) -> Result<Arc<Link>, LinkError> {
    let number = shared.random_u128();
    let max_asks = shared.config.max_asks;
    let pending: Arc<[Pending; 3]> = Arc::new(std::array::from_fn(|_| Pending::new(max_asks)));
    let back: Arc<OnceLock<Weak<Link>>> = Arc::default();
    let limit = shared.config.connect_timeout + shared.config.handshake_timeout;
    let used = Arc::new(AtomicBool::new(true));
    let parts = Parts { pending: Arc::clone(&pending), link: Arc::clone(&back), used: Arc::clone(&used) };
    let open = |lane| open_lane(shared, endpoint, lane, number, parts.clone());
    let opened = tokio::time::timeout(limit, try_join3(open(Lane::Control), open(Lane::User), open(Lane::Bulk)))
        .await
        .map_err(|_| unreachable_at(endpoint, &format!("no handshake in {limit:?}")))?;
    let (control, user, bulk) = opened?;
    if control.identity.node != user.identity.node || control.identity.node != bulk.identity.node {
        return Err(unreachable_at(endpoint, "its lanes end at different nodes"));
    }
    let lanes = [control.queue, user.queue, bulk.queue];
    let writers = [control.writer, user.writer, bulk.writer];
    let opened = link::Opened {
        lanes,
        pending,
        writers,
        used,
        #[cfg(feature = "tls")]
        term: [control.term, user.term, bulk.term].into_iter().flatten().reduce(crate::renew::Term::min),
    };
    let link = Link::new(Arc::clone(shared), endpoint.clone(), control.identity, control.grant, opened);
    let link = Arc::new(link);
    // Set once, here.
    let _ = back.set(Arc::downgrade(&link));
    for (stream, channel) in
        [(control.stream, control.channel), (user.stream, user.channel), (bulk.stream, bulk.channel)]
    {
        let link = Arc::clone(&link);
        tokio::spawn(async move {
            reader::run(link, stream).await;
            drop(channel);
        });
    }
    Ok(link)
}

fn unreachable_at(endpoint: &Endpoint, why: &str) -> LinkError {
    LinkError::Unreachable { endpoint: endpoint.clone(), why: why.into() }
}

fn target(config: &RemotingConfig, endpoint: &Endpoint, lane: Lane) -> Result<Target, tonic::transport::Error> {
    // Only the control lane is quick to give up: on the others a ping may stand behind megabytes on a slow line.
    let patience = match lane {
        Lane::Control => config.keepalive_timeout,
        Lane::User | Lane::Bulk => config.keepalive_timeout * 5,
    };
    Ok(Target::from_shared(format!("http://{endpoint}"))?
        .connect_timeout(config.connect_timeout)
        .tcp_nodelay(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .max_frame_size(1 << 20)
        .http2_keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(patience)
        .keep_alive_while_idle(true))
}

async fn open_lane(
    shared: &Arc<Shared>,
    endpoint: &Endpoint,
    lane: Lane,
    number: u128,
    parts: Parts,
) -> Result<Opened, LinkError> {
    let config = &shared.config;
    let target = target(config, endpoint, lane).map_err(|err| unreachable_at(endpoint, &chain(&err)))?;
    let Connected {
        channel,
        #[cfg(feature = "tls")]
        certificate,
        #[cfg(feature = "tls")]
        term,
    } = connect(shared, endpoint, target).await?;
    let kind = match lane {
        Lane::Control => LaneKind::Control,
        Lane::User => LaneKind::User,
        Lane::Bulk => LaneKind::Bulk,
    };
    let local = shared.identity();
    let (queue, rx) = mpsc::unbounded_channel();
    let writer = Arc::new(OutLane::new(LaneStart {
        shared: Arc::clone(shared),
        endpoint: endpoint.clone(),
        lane,
        hello: hello_frame(&local, number, kind),
        queue: rx,
        pending: parts.pending,
        link: parts.link,
        used: parts.used,
    }));
    let shake = handshake(channel.clone(), OutStream(Arc::clone(&writer)));
    let (stream, welcome) = tokio::time::timeout(config.handshake_timeout, shake)
        .await
        .map_err(|_| unreachable_at(endpoint, &format!("no handshake in {:?}", config.handshake_timeout)))?
        .map_err(|status| refused_or_not(endpoint, &status))?;
    let (identity, grant) = read_welcome(&local, welcome)
        .map_err(|why| LinkError::Refused { endpoint: endpoint.clone(), why: why.into() })?;
    #[cfg(feature = "tls")]
    if let Some(certificate) = &certificate
        && let Err(why) = crate::tls::check_claims(&certificate.name, &identity)
    {
        return Err(LinkError::Tls { endpoint: endpoint.clone(), by: RefusedBy::ThisNode, why });
    }
    Ok(Opened {
        queue,
        writer,
        stream,
        identity,
        grant,
        channel,
        #[cfg(feature = "tls")]
        term,
    })
}

/// One connection, ready for a lane.
struct Connected {
    channel: Channel,
    /// What the peer showed, with TLS.
    #[cfg(feature = "tls")]
    certificate: Option<crate::tls::Certificate>,
    #[cfg(feature = "tls")]
    term: Option<crate::renew::Term>,
}

async fn connect(shared: &Shared, endpoint: &Endpoint, target: Target) -> Result<Connected, LinkError> {
    let config = &shared.config;
    #[cfg(feature = "tls")]
    if let Some(tls) = &shared.tls {
        let (io, own, certificate) = crate::tls::dial(tls, config, endpoint).await?;
        let term = Some(crate::renew::Term::new(own, certificate.validity));
        let channel = target.connect_with_connector(crate::network::Once::new(io)).await;
        let channel = channel.map_err(|err| unreachable_at(endpoint, &chain(&err)))?;
        return Ok(Connected { channel, certificate: Some(certificate), term });
    }
    let connecting = async {
        match &shared.network {
            None => target.connect().await.map_err(|err| chain(&err)),
            Some(network) => {
                let io = network.connect(endpoint).await.map_err(|err| err.to_string())?;
                target.connect_with_connector(crate::network::Once::new(io)).await.map_err(|err| chain(&err))
            }
        }
    };
    let channel = tokio::time::timeout(config.connect_timeout, connecting)
        .await
        .map_err(|_| unreachable_at(endpoint, &format!("no connection in {:?}", config.connect_timeout)))?
        .map_err(|why| refused_or_not(endpoint, &Status::unavailable(why)))?;
    Ok(Connected {
        channel,
        #[cfg(feature = "tls")]
        certificate: None,
        #[cfg(feature = "tls")]
        term: None,
    })
}

async fn handshake(channel: Channel, out: OutStream) -> Result<(Streaming<Bytes>, Bytes), Status> {
    let mut grpc = Grpc::new(channel).max_decoding_message_size(RemotingConfig::MAX_FRAME);
    grpc.ready().await.map_err(|err| Status::unavailable(chain(&err)))?;
    let response = grpc.streaming(Request::new(out), PathAndQuery::from_static(PATH), FrameCodec::new()).await?;
    let mut stream = response.into_inner();
    match stream.message().await? {
        Some(welcome) => Ok((stream, welcome)),
        None => Err(Status::unavailable("it closed the stream before its first frame")),
    }
}

fn refused_or_not(endpoint: &Endpoint, status: &Status) -> LinkError {
    let refused = |why| LinkError::Tls { endpoint: endpoint.clone(), by: RefusedBy::Peer, why };
    if chain(status).contains(TLS_ONLY) {
        return refused(TlsRefusal::TlsOnly);
    }
    let overloaded = |what| LinkError::Overloaded { endpoint: endpoint.clone(), what };
    if status.message() == TOO_MANY_LINKS {
        return overloaded("it takes no more links of this node");
    }
    if status.message() == TOO_MUCH_HELD {
        return overloaded("it still holds too much of what came over earlier links");
    }
    if chain(status).contains(TOO_MANY) {
        return overloaded("it has no place for another connection");
    }
    match status.code() {
        Code::ResourceExhausted => overloaded("it has no place for another connection"),
        // Only said of a certificate that does not agree with the hello.
        Code::Unauthenticated => refused(TlsRefusal::Failed { why: status.message().into() }),
        Code::FailedPrecondition | Code::PermissionDenied | Code::Unimplemented => {
            LinkError::Refused { endpoint: endpoint.clone(), why: status.message().into() }
        }
        _ => unreachable_at(endpoint, status.message()),
    }
}

/// An error and what caused it, on one line.
fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut source = err.source();
    while let Some(err) = source {
        let more = err.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = err.source();
    }
    text
}
