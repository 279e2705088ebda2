//! The contract's suite, on one server and on a cluster of three.

use std::{
    net::SocketAddr,
    sync::{Mutex, OnceLock},
    thread,
    time::Duration,
};

use dc_controlplane::conformance::Harness;
use dc_nats::{NatsConfig, NatsConfigBuilder, NatsControlPlane};

use crate::{
    rights,
    support::{
        admin,
        proxy::{Mode, Proxy},
        server::{Cluster, Server},
    },
};

/// The servers that a harness takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Servers {
    /// `MULTIDC_NATS_URL`, else one of its own for each test.
    Single,
    /// `MULTIDC_NATS_CLUSTER_URLS`, else three that all tests share.
    Cluster,
    /// One of its own for each test, where our account has the documented rights of a node that acts for any datacenter
    /// and sets intents, and no more.
    Guarded,
    /// The same, with the documented rights of a node of one datacenter.
    GuardedDocuments,
}

pub(crate) struct NatsHarness(pub(crate) Servers);

/// A bucket, behind proxies that count.
pub(crate) struct Store {
    /// A server of the test's own: it can be killed and frozen. Others are only cut off.
    own: Option<Mutex<Server>>,
    proxies: Vec<Proxy>,
    /// Those of the client that is cut off alone.
    link: Mutex<Vec<Proxy>>,
    /// The servers themselves.
    direct: String,
    bucket: String,
    replicas: u32,
}

impl Servers {
    fn guarded(self) -> bool {
        matches!(self, Self::Guarded | Self::GuardedDocuments)
    }
}

impl NatsHarness {
    fn request_timeout_of(servers: Servers) -> Duration {
        match servers {
            Servers::Single | Servers::Guarded | Servers::GuardedDocuments => Duration::from_millis(1_000),
            Servers::Cluster => Duration::from_millis(1_500),
        }
    }

    async fn open_through(&self, store: &Store, urls: Vec<String>) -> NatsControlPlane {
        let config = self.config(urls.join(","), store);
        let config = if self.0.guarded() { rights::as_node(config) } else { config };
        NatsControlPlane::connect(config.build().expect("a legal configuration"))
            .await
            .expect("P12: connecting fails on bad configuration only")
    }

    fn config(&self, urls: String, store: &Store) -> NatsConfigBuilder {
        NatsConfig::builder(urls).bucket(&store.bucket).replicas(store.replicas).request_timeout(self.request_timeout())
    }

    /// Makes the bucket where our account may not.
    async fn set_up(&self, store: &Store) {
        if self.0.guarded() {
            let config = rights::as_setup(self.config(store.direct.clone(), store));
            let made = NatsControlPlane::connect(config.build().expect("a legal configuration")).await;
            made.expect("a bucket and its id");
        }
    }

    /// The servers' URLs, and the server where it is the test's own.
    fn servers(&self) -> (String, Option<Mutex<Server>>) {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        let given = match self.0 {
            Servers::Single => "MULTIDC_NATS_URL",
            Servers::Cluster => "MULTIDC_NATS_CLUSTER_URLS",
            Servers::Guarded | Servers::GuardedDocuments => {
                let rights = if self.0 == Servers::Guarded { rights::for_records() } else { rights::for_documents() };
                let server = Server::start(&rights);
                return (server.url(), Some(Mutex::new(server)));
            }
        };
        match (std::env::var(given), self.0) {
            (Ok(urls), _) => (urls, None),
            (Err(_), Servers::Single) => {
                let server = Server::start("");
                (server.url(), Some(Mutex::new(server)))
            }
            (Err(_), _) => (CLUSTER.get_or_init(Cluster::start).urls(), None),
        }
    }
}

fn address(url: &str) -> SocketAddr {
    use std::net::ToSocketAddrs;
    let host = url.trim().rsplit("//").next().expect("not empty");
    let mut found = host.to_socket_addrs().unwrap_or_else(|err| panic!("{url} must be host:port: {err}"));
    found.next().unwrap_or_else(|| panic!("{url} must be host:port"))
}

impl Harness for NatsHarness {
    type Plane = NatsControlPlane;
    type Store = Store;

    async fn fresh(&self) -> Store {
        let (direct, own) = self.servers();
        let mut proxies = Vec::new();
        for url in direct.split(',') {
            proxies.push(Proxy::start(address(url)).await);
        }
        let client = admin::client(&direct).await;
        let bucket = match self.0 {
            // The one that is in the rights.
            servers if servers.guarded() => "multidc".to_owned(),
            _ => format!("test-{}", client.new_inbox().rsplit('.').next().expect("a token")),
        };
        let replicas = if self.0 == Servers::Cluster { 3 } else { 1 };
        let store = Store { own, proxies, link: Mutex::default(), direct, bucket, replicas };
        self.set_up(&store).await;
        store
    }

    async fn open(&self, store: &Store) -> NatsControlPlane {
        self.open_through(store, store.proxies.iter().map(Proxy::url).collect()).await
    }

    async fn open_cuttable(&self, store: &Store) -> NatsControlPlane {
        let mut link = Vec::new();
        for url in store.direct.split(',') {
            link.push(Proxy::start(address(url)).await);
        }
        let urls = link.iter().map(Proxy::url).collect();
        *store.link.lock().expect("no panic") = link;
        self.open_through(store, urls).await
    }

    async fn cut(&self, store: &Store, _: &NatsControlPlane) {
        store.link.lock().expect("no panic").iter().for_each(|proxy| proxy.set(Mode::Cut));
    }

    async fn uncut(&self, store: &Store, _: &NatsControlPlane) {
        store.link.lock().expect("no panic").iter().for_each(|proxy| proxy.set(Mode::Open));
    }

    async fn advance(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn request_timeout(&self) -> Duration {
        Self::request_timeout_of(self.0)
    }

    async fn requests(&self, store: &Store) -> u64 {
        store.proxies.iter().map(Proxy::requests).sum()
    }

    async fn write_raw(&self, store: &Store, key: &str, bytes: &[u8]) {
        admin::put(&admin::client(&store.direct).await, &store.bucket, key, bytes).await;
    }

    async fn stop_store(&self, store: &Store) {
        match &store.own {
            Some(server) => server.lock().expect("no panic").kill(),
            None => store.proxies.iter().for_each(|proxy| proxy.set(Mode::Cut)),
        }
    }

    async fn start_store(&self, store: &Store) {
        match &store.own {
            Some(server) => server.lock().expect("no panic").start_again(),
            None => store.proxies.iter().for_each(|proxy| proxy.set(Mode::Open)),
        }
    }

    async fn freeze_store(&self, store: &Store) {
        match &store.own {
            Some(server) => server.lock().expect("no panic").freeze(),
            None => store.proxies.iter().for_each(|proxy| proxy.set(Mode::Frozen)),
        }
    }

    async fn unfreeze_store(&self, store: &Store) {
        match &store.own {
            Some(server) => server.lock().expect("no panic").unfreeze(),
            None => store.proxies.iter().for_each(|proxy| proxy.set(Mode::Open)),
        }
    }

    async fn wipe_store(&self, store: &Store) {
        admin::delete_bucket(&admin::client(&store.direct).await, &store.bucket).await;
        self.set_up(store).await;
    }
}

impl Drop for Store {
    /// Shared servers are to be left as they were found: a bucket of three replicas costs them work for ever.
    fn drop(&mut self) {
        if self.own.is_some() {
            return;
        }
        let (direct, bucket) = (self.direct.clone(), self.bucket.clone());
        let cleaning = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let deleting = async { admin::delete_bucket(&admin::client(&direct).await, &bucket).await };
                // Best effort: the test has its verdict already.
                let _ = tokio::time::timeout(Duration::from_secs(5), deleting).await;
            });
        });
        let _ = cleaning.join();
    }
}

mod single {
    use super::*;

    // A client's wall clock is read for `written_at_ms` only, which `p3_wall_clock_times_in_records_change_nothing` covers.
    dc_controlplane::conformance_tests!(NatsHarness(Servers::Single), without: [skew]);
}

mod guarded {
    use super::*;

    dc_controlplane::conformance_tests!(NatsHarness(Servers::Guarded), without: [skew]);
}

mod cluster {
    use super::*;

    dc_controlplane::conformance_tests!(NatsHarness(Servers::Cluster), without: [skew]);
}
