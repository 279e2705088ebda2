//! Two or more nodes in one process, linked over loopback sockets.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use dc_core::{DataCenter, NodeId, SystemClock, SystemName};
use dc_remoting::{
    Answer, Incoming, LinkError, LinkEvent, Message, Network, PeerIdentity, PeerTarget, Receiver, Remoting,
    RemotingConfig, RemotingConfigBuilder, ReplyTo, Service, ServiceId, Services, Undelivered,
};
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};

/// How long anything may take that should happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) fn system(name: &str) -> SystemName {
    SystemName::new(name).expect("legal")
}

static NODES: AtomicU64 = AtomicU64::new(1);

/// The defaults of the tests: a fresh node id, system `app`.
pub(crate) fn config(dc: &str) -> RemotingConfigBuilder {
    let node = NodeId(u128::from(NODES.fetch_add(1, Ordering::Relaxed)) << 96 | 1);
    let dc = DataCenter::new(dc).build().expect("legal");
    RemotingConfig::builder(system("app"), dc.id().clone(), node)
}

/// What a test's receiver does with each message.
type Handler = Box<dyn Fn(Incoming) + Send + Sync>;

/// A node with a receiver that the test scripts.
pub(crate) struct Node {
    pub(crate) remoting: Remoting,
    pub(crate) undelivered: Arc<Mutex<Vec<Undelivered>>>,
}

struct Scripted {
    handler: Handler,
    undelivered: Arc<Mutex<Vec<Undelivered>>>,
}

impl Receiver for Scripted {
    fn message(&self, _from: &Arc<PeerIdentity>, msg: Incoming) {
        (self.handler)(msg);
    }

    fn undelivered(&self, lost: Undelivered) {
        self.undelivered.lock().push(lost);
    }
}

/// Answers a call with its own body.
pub(crate) struct EchoService;

impl Service for EchoService {
    fn call(&self, _from: &Arc<PeerIdentity>, body: Bytes, _left: Duration, reply: ReplyTo) {
        reply.send(0, body);
    }
}

pub(crate) const ECHO: ServiceId = ServiceId(1);

fn scripted(handler: impl Fn(Incoming) + Send + Sync + 'static) -> (Services, Arc<Mutex<Vec<Undelivered>>>) {
    let undelivered = Arc::new(Mutex::new(Vec::new()));
    let receiver = Scripted { handler: Box::new(handler), undelivered: Arc::clone(&undelivered) };
    (Services::new().receiver(Arc::new(receiver)).service(ECHO, Arc::new(EchoService)), undelivered)
}

impl Node {
    pub(crate) async fn start(
        config: RemotingConfigBuilder,
        handler: impl Fn(Incoming) + Send + Sync + 'static,
    ) -> Self {
        let (services, undelivered) = scripted(handler);
        let config = config.build().expect("legal");
        let remoting = Remoting::start(config, Arc::new(SystemClock), services).await.expect("starts");
        Self { remoting, undelivered }
    }

    /// The same over another network than TCP.
    pub(crate) async fn start_over(
        network: impl Network,
        config: RemotingConfigBuilder,
        handler: impl Fn(Incoming) + Send + Sync + 'static,
    ) -> Self {
        let (services, undelivered) = scripted(handler);
        let config = config.build().expect("legal");
        let started = Remoting::start_over(Arc::new(network), config, Arc::new(SystemClock), services).await;
        Self { remoting: started.expect("starts"), undelivered }
    }

    /// A node that answers each ask with its payload and drops tells.
    pub(crate) async fn echo(config: RemotingConfigBuilder) -> Self {
        Self::start(config, echo).await
    }

    pub(crate) fn target(&self) -> PeerTarget {
        let local = self.remoting.local();
        PeerTarget { endpoint: local.advertised.clone(), dc: Some(local.dc.clone()), node: Some(local.node) }
    }
}

pub(crate) fn echo(incoming: Incoming) {
    drop(incoming.accept);
    if let Some(reply) = incoming.reply {
        reply.send(0, incoming.message.payload);
    }
}

/// A message with this payload.
pub(crate) fn message(payload: impl Into<Bytes>) -> Message {
    Message {
        to: 7,
        kind: "worker".into(),
        key: Bytes::new(),
        message: "work".into(),
        epoch: 1,
        from: Bytes::new(),
        payload: payload.into(),
    }
}

/// A message that carries `n` and is padded to `size` bytes.
pub(crate) fn numbered(n: u64, size: usize) -> Message {
    let mut payload = n.to_be_bytes().to_vec();
    payload.resize(size.max(8), 0);
    message(payload)
}

pub(crate) fn number(payload: &[u8]) -> u64 {
    u64::from_be_bytes(payload[..8].try_into().expect("at least 8 bytes"))
}

pub(crate) fn body(answer: Result<Answer, LinkError>) -> Bytes {
    answer.expect("answered").body
}

/// Waits until `holds` of what `watched` shows.
pub(crate) async fn until<T>(watched: &watch::Sender<T>, what: &str, holds: impl FnMut(&T) -> bool) {
    let mut seen = watched.subscribe();
    tokio::time::timeout(SOON, seen.wait_for(holds))
        .await
        .unwrap_or_else(|_| panic!("{what}: not in time"))
        .expect("open");
}

/// Polls until `holds`.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let polled = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, polled).await.unwrap_or_else(|_| panic!("{what}: not in time"));
}

/// Waits for the event that a connection was refused, for a reason that contains `part`.
pub(crate) async fn refused(events: &mut broadcast::Receiver<LinkEvent>, part: &str) {
    let waited = async {
        loop {
            if let LinkEvent::Refused { why, .. } = events.recv().await.expect("open")
                && why.contains(part)
            {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, waited).await.unwrap_or_else(|_| panic!("nothing was refused for {part:?}"));
}
