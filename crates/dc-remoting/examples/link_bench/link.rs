//! What is measured: a link, with one receiving task that stands for an actor.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dc_core::{DataCenter, NodeId, SystemClock, SystemName};
use dc_remoting::{Incoming, Message, Pair, PeerIdentity, Receiver, Remoting, RemotingConfig, Services, Symbol};
use tokio::sync::mpsc;

use crate::{COUNT, Client};

pub(crate) struct Link {
    pair: Pair,
    kind: Symbol,
    message: Symbol,
    _remoting: Remoting,
}

impl Link {
    fn message(&self, payload: Bytes) -> Message {
        Message {
            to: 1,
            kind: self.kind.clone(),
            key: Bytes::new(),
            message: self.message.clone(),
            epoch: 1,
            from: Bytes::new(),
            payload,
        }
    }
}

impl Clone for Link {
    /// Another sender over the same link.
    fn clone(&self) -> Self {
        let Self { pair, kind, message, _remoting } = self;
        let (kind, message, _remoting) = (kind.clone(), message.clone(), _remoting.clone());
        Self { pair: pair.peer().pair(), kind, message, _remoting }
    }
}

impl Client for Link {
    async fn ask(&self, payload: Bytes) -> Bytes {
        self.pair.ask(self.message(payload), Duration::from_secs(30)).await.expect("answered").body
    }

    async fn tell(&self, payload: Bytes) {
        self.pair.tell(self.message(payload)).await.expect("queued");
    }
}

fn config(node: u128) -> RemotingConfig {
    let dc = DataCenter::new("bench").build().expect("legal");
    RemotingConfig::builder(SystemName::new("bench").expect("legal"), dc.id().clone(), NodeId(node))
        .build()
        .expect("legal")
}

pub(crate) async fn connect(address: &str) -> (Link, Link) {
    let remoting = Remoting::start(config(1), Arc::new(SystemClock), Services::new()).await.expect("starts");
    let peer = remoting.peer(dc_remoting::PeerTarget::at(address.parse().expect("legal")));
    peer.connected(Duration::from_secs(5)).await.expect("connects");
    let link = |pair| Link {
        pair,
        kind: Symbol::from_static("worker"),
        message: Symbol::from_static("work"),
        _remoting: remoting.clone(),
    };
    (link(peer.pair()), link(peer.pair()))
}

struct ToActor(mpsc::UnboundedSender<Incoming>);

impl Receiver for ToActor {
    fn message(&self, _from: &Arc<PeerIdentity>, msg: Incoming) {
        let _ = self.0.send(msg);
    }
}

pub(crate) async fn serve() {
    let (tx, mut rx) = mpsc::unbounded_channel::<Incoming>();
    let services = Services::new().receiver(Arc::new(ToActor(tx)));
    services.know(["worker", "work"]);
    let remoting = Remoting::start(config(2), Arc::new(SystemClock), services).await.expect("starts");
    println!("{}", remoting.local_addr());
    // A task of its own, as an actor is: what runs in `main` runs on a thread apart from the workers.
    let actor = tokio::spawn(async move {
        let mut tells = 0u64;
        while let Some(Incoming { message, accept, reply, .. }) = rx.recv().await {
            drop(accept);
            match reply {
                None => tells += 1,
                Some(reply) if message.payload[..] == [COUNT] => {
                    reply.send(0, Bytes::copy_from_slice(&tells.to_be_bytes()));
                }
                Some(reply) => reply.send(0, message.payload),
            }
        }
    });
    actor.await.expect("runs for ever");
}
