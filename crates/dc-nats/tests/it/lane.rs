//! What is renewed does not wait behind what else a connection carries.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dc_controlplane::{
    ControlPlane, Expected,
    ownership::{DocumentKey, Keep, OwnershipStore, Swap},
};
use dc_core::Version;
use dc_nats::{NatsConfig, NatsControlPlane};

use crate::support::{
    proxy::{Mode, Proxy},
    server::Server,
    until, within,
};

/// The connections, in the order in which they are made.
const FIRST: usize = 0;
const SECOND: usize = 1;

struct Ground {
    _server: Server,
    proxy: Proxy,
    _plane: NatsControlPlane,
    documents: Arc<dyn OwnershipStore>,
    session: DocumentKey,
}

impl Ground {
    /// A session, as of the version that comes along, whose renewals go over the second connection by now.
    async fn new() -> (Self, Version) {
        let server = Server::start("");
        let proxy = Proxy::start(server.address()).await;
        let config = NatsConfig::builder(proxy.url()).request_timeout(Duration::from_secs(60)).build().expect("legal");
        let plane = NatsControlPlane::connect(config).await.expect("connected");
        let documents = plane.ownership().expect("documents");
        let session = "s/a".parse().expect("legal");
        let ground = Self { _server: server, proxy, _plane: plane, documents, session };
        let mut version = ground.write(Expected::Absent).await;
        until("a renewal over the second connection", async || {
            let before = ground.proxy.requests_of(FIRST);
            version = ground.write(Expected::Version(version)).await;
            (ground.proxy.requests_of(FIRST) == before).then_some(())
        })
        .await;
        assert!(ground.proxy.requests_of(SECOND) > 0);
        (ground, version)
    }

    async fn write(&self, expected: Expected) -> Version {
        let keep = Keep::For(Duration::from_secs(600));
        let written = self.documents.compare_and_set(&self.session, expected, Bytes::from_static(b"alive"), keep);
        match within("a write", written).await.expect("a write") {
            Swap::Done(version) => version,
            Swap::Refused(document) => panic!("refused: {document:?}"),
        }
    }
}

#[tokio::test]
async fn o4_a_renewal_does_not_wait_for_what_stands_before_it_on_another_connection() {
    let (ground, version) = Ground::new().await;
    ground.proxy.set(Mode::FrozenOne(FIRST));
    let before = ground.proxy.requests_of(FIRST);
    let version = ground.write(Expected::Version(version)).await;
    ground.write(Expected::Version(version)).await;
    assert_eq!(ground.proxy.requests_of(FIRST), before);
}

#[tokio::test]
async fn o4_a_renewal_that_is_not_answered_is_repeated_over_the_other_connection() {
    let (ground, version) = Ground::new().await;
    ground.proxy.set(Mode::FrozenOne(SECOND));
    let given_up = tokio::time::timeout(Duration::from_millis(100), ground.write(Expected::Version(version))).await;
    assert!(given_up.is_err(), "the second connection is frozen");
    let repeated = ground.write(Expected::Version(version)).await;
    // The first try arrives after all, and is refused: nobody is told of it.
    ground.proxy.set(Mode::Open);
    let stored = within("a read", ground.documents.read(&ground.session)).await.expect("a read");
    assert_eq!(stored.map(|document| document.version), Some(repeated));
    ground.write(Expected::Version(repeated)).await;
}
