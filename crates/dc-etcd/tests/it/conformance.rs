//! The conformance suite on a single server and on three members.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex},
    time::Duration,
};

use dc_controlplane::conformance::Harness;
use dc_etcd::EtcdControlPlane;

use crate::{
    proxy::Proxy,
    rights,
    samples::{self, TIMEOUT, namespace},
    server::{Etcd, shared_cluster, shared_single},
};

/// What stands in the names of tests that stop, freeze, wipe or count: those have a server of their own, the
/// others share one. A test that is missing here panics at its first hook and says so.
const OWN: [&str; 10] =
    ["stopped", "restart", "outage", "frozen", "freeze", "wipe", "unanswered", "_cost", "one_request", "not_sent"];

/// A store: a namespace on a server.
pub(crate) struct Store {
    urls: Vec<String>,
    namespace: String,
    own: Option<Arc<Etcd>>,
    /// Those of the client that is cut off alone.
    link: Mutex<Vec<Proxy>>,
    /// Whether our user has the documented rights and no more.
    guarded: bool,
}

impl Store {
    fn own(&self) -> &Etcd {
        self.own.as_deref().expect("this test needs a server of its own: add a part of its name to `OWN`")
    }
}

/// The shortest lease that is granted as asked: 1 s by servers that are started here, 2 s by those with default timing.
fn ttl(servers_from: &str) -> Duration {
    Duration::from_secs(if std::env::var_os(servers_from).is_some() { 2 } else { 1 })
}

async fn open_at(store: &Store, urls: &[String]) -> EtcdControlPlane {
    let config = samples::builder(urls, &store.namespace);
    let config = if store.guarded { rights::as_node(config) } else { config };
    let config = config.build().expect("a legal configuration");
    EtcdControlPlane::connect(config).await.expect("connect")
}

fn address(url: &str) -> SocketAddr {
    let host = url.rsplit("//").next().expect("not empty");
    let mut found = host.to_socket_addrs().unwrap_or_else(|err| panic!("{url} must be host:port: {err}"));
    found.next().unwrap_or_else(|| panic!("{url} must be host:port"))
}

async fn open_cuttable(store: &Store) -> EtcdControlPlane {
    let link: Vec<_> = store.urls.iter().map(|url| Proxy::before(address(url))).collect();
    let urls: Vec<_> = link.iter().map(Proxy::url).collect();
    *store.link.lock().expect("no panic") = link;
    open_at(store, &urls).await
}

fn cut(store: &Store) {
    store.link.lock().expect("no panic").iter().for_each(Proxy::cut);
}

fn uncut(store: &Store) {
    store.link.lock().expect("no panic").iter().for_each(Proxy::forward);
}

async fn write_raw(store: &Store, key: &str, bytes: &[u8]) {
    // The documents of ownership sort behind everything else.
    let key = key.strip_prefix("own/").map_or_else(|| key.to_owned(), |document| format!("~own/{document}"));
    let key = format!("{}/{key}", store.namespace);
    let client = if store.guarded { rights::root(store.own()).await } else { samples::raw(&store.urls).await };
    client.kv_client().put(key, bytes, None).await.expect("put");
}

/// What every harness here does alike: real time, and a link of its own that can be cut.
macro_rules! common {
    () => {
        async fn open(&self, store: &Store) -> EtcdControlPlane {
            open_at(store, &store.urls).await
        }

        async fn open_cuttable(&self, store: &Store) -> EtcdControlPlane {
            open_cuttable(store).await
        }

        async fn cut(&self, store: &Store, _: &EtcdControlPlane) {
            cut(store);
        }

        async fn uncut(&self, store: &Store, _: &EtcdControlPlane) {
            uncut(store);
        }

        async fn advance(&self, by: Duration) {
            tokio::time::sleep(by).await;
        }

        fn request_timeout(&self) -> Duration {
            TIMEOUT
        }

        async fn write_raw(&self, store: &Store, key: &str, bytes: &[u8]) {
            write_raw(store, key, bytes).await;
        }
    };
}

/// One server: `MULTIDC_ETCD_URL`, else one that is started here.
pub(crate) struct Single;

impl Harness for Single {
    type Plane = EtcdControlPlane;
    type Store = Store;

    async fn fresh(&self) -> Store {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let own = OWN.iter().any(|part| test.contains(part)).then(|| Arc::new(Etcd::single()));
        let url = match &own {
            Some(own) => own.url(),
            None => std::env::var("MULTIDC_ETCD_URL").unwrap_or_else(|_| shared_single().url()),
        };
        Store { urls: vec![url], namespace: namespace(), own, link: Mutex::default(), guarded: false }
    }

    common!();

    fn ttl(&self) -> Duration {
        ttl("MULTIDC_ETCD_URL")
    }

    async fn requests(&self, store: &Store) -> u64 {
        store.own().requests().values().sum()
    }

    /// A transaction that checks, and a keepalive: sent together.
    fn requests_per_heartbeat(&self) -> u64 {
        2
    }

    async fn stop_store(&self, store: &Store) {
        store.own().kill();
    }

    async fn start_store(&self, store: &Store) {
        store.own().start();
    }

    async fn freeze_store(&self, store: &Store) {
        store.own().freeze();
    }

    async fn unfreeze_store(&self, store: &Store) {
        store.own().thaw();
    }

    async fn wipe_store(&self, store: &Store) {
        store.own().kill();
        store.own().wipe();
        store.own().start();
    }
}

/// A server of its own for each test, where our user has the documented rights and no more: of a node that acts for any
/// datacenter and sets intents, or of a node of one datacenter.
pub(crate) enum Guarded {
    ForRecords,
    ForDocuments,
}

impl Harness for Guarded {
    type Plane = EtcdControlPlane;
    type Store = Store;

    async fn fresh(&self) -> Store {
        let etcd = Etcd::single();
        match self {
            Self::ForRecords => rights::set_up(&etcd, rights::for_records).await,
            Self::ForDocuments => rights::set_up(&etcd, rights::for_documents).await,
        }
        let (urls, namespace) = (vec![etcd.url()], "multidc".to_owned());
        Store { urls, namespace, own: Some(Arc::new(etcd)), link: Mutex::default(), guarded: true }
    }

    common!();

    fn ttl(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// Three members: `MULTIDC_ETCD_CLUSTER_URLS`, separated by commas, else three that are started here.
pub(crate) struct Three;

impl Harness for Three {
    type Plane = EtcdControlPlane;
    type Store = Store;

    async fn fresh(&self) -> Store {
        let urls = match std::env::var("MULTIDC_ETCD_CLUSTER_URLS") {
            Ok(urls) => urls.split(',').map(|url| url.trim().to_owned()).collect(),
            Err(_) => shared_cluster().urls(),
        };
        Store { urls, namespace: namespace(), own: None, link: Mutex::default(), guarded: false }
    }

    common!();

    fn ttl(&self) -> Duration {
        ttl("MULTIDC_ETCD_CLUSTER_URLS")
    }
}

mod single {
    // skew: no tool here shifts one client's wall clock (the backend reads none).
    dc_controlplane::conformance_tests!(super::Single, without: [skew]);
}

mod guarded {
    // What the rights have no part in is left to `single`.
    dc_controlplane::conformance_tests!(super::Guarded::ForRecords, without: [requests, outage, freeze, wipe, skew]);
}

mod three_members {
    // outage, freeze, wipe: `faults` and `stores` do so to members of their own. requests: counted on a single server.
    dc_controlplane::conformance_tests!(super::Three, without: [requests, outage, freeze, wipe, skew]);
}
