//! Datacenters of node processes on one store: all near each other, or each far from the others and from the store.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use futures::{StreamExt, TryStreamExt, future::try_join_all};
use multidc::{ControllerOptions, OwnershipOptions};
use multidc_tests::{
    distance::Distance,
    eventually,
    launch::Launch,
    node::{NodeProcess, NodeSpec, Times},
    protocol::{Answer, Command},
    proxy::{Line, Proxy},
    rng::Rng,
    servers::Store,
    soak::{
        clock::now_us,
        fleet::free_addresses,
        proxy::{Network, NodeProxy, Way},
    },
};

const SOON: Duration = Duration::from_secs(60);

/// Nodes that start at the same time: two cores have to carry it.
const AT_ONCE: usize = 4;

/// The store of that name, three servers where it has servers.
pub(crate) async fn store(name: &str) -> anyhow::Result<Store> {
    match name {
        "sqlite" => Store::sqlite().await,
        "nats" => Store::nats(3).await,
        "etcd" => Store::etcd(3).await,
        other => bail!("--control-plane {other:?}: must be sqlite, nats or etcd"),
    }
}

/// Time limits of nodes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) times: Times,
    /// Of what is owned.
    pub(crate) lease: Duration,
}

impl Limits {
    /// The library's.
    pub(crate) fn defaults() -> Self {
        let options = ControllerOptions::default();
        let times = Times {
            ttl: options.lease_ttl(),
            heartbeat: options.heartbeat_interval(),
            refresh: options.cache_refresh_interval(),
        };
        Self { times, lease: OwnershipOptions::default().ttl() }
    }

    /// Leases of 2 s, of the record and of what is owned.
    pub(crate) fn fast() -> Self {
        let ms = Duration::from_millis;
        Self { times: Times { ttl: ms(2000), heartbeat: ms(500), refresh: ms(300) }, lease: ms(2000) }
    }
}

/// What a fleet is to be.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) store: Store,
    /// The datacenter of each place: 1 for `dc-1`.
    pub(crate) places: Vec<usize>,
    pub(crate) limits: Limits,
    /// From datacenter to datacenter, and from each node to the store.
    pub(crate) distance: Distance,
    /// Of what is lost on the way.
    pub(crate) seed: u64,
    /// Further arguments of each node.
    pub(crate) extra: Vec<String>,
}

/// Where nodes can be started.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) store: Store,
    places: Vec<usize>,
    limits: Limits,
    extra: Vec<String>,
    listens: Vec<SocketAddr>,
    ways: Option<Ways>,
}

/// What is between nodes that are far from each other.
#[derive(Debug)]
struct Ways {
    network: Arc<Network>,
    nodes: Vec<NodeProxy>,
    /// To the store's servers, of each place.
    stores: Vec<Vec<Proxy>>,
}

impl Fleet {
    pub(crate) async fn new(setup: Setup) -> anyhow::Result<Self> {
        let Setup { store, places, limits, distance, seed, extra } = setup;
        let mut ports = Rng::new(now_us());
        let listens = free_addresses(places.len(), || ports.draw())?;
        let ways = if distance == Distance::NEAR {
            None
        } else {
            Some(Ways::new(&store, &places, &listens, distance, seed).await?)
        };
        Ok(Self { store, places, limits, extra, listens, ways })
    }

    /// Starts the node of a place; it knows the nodes of those other places.
    pub(crate) async fn start(&self, place: usize, seeds: &[usize]) -> anyhow::Result<NodeProcess> {
        let dc = format!("dc-{}", self.places[place]);
        let Limits { times, lease } = self.limits;
        let mut extra = self.extra.clone();
        for (flag, time) in [("--own-ttl-ms", lease), ("--stale-ms", times.refresh * 3)] {
            extra.extend([flag.to_owned(), time.as_millis().to_string()]);
        }
        let (listen, advertise) = (self.listens[place].to_string(), self.address(place).to_string());
        extra.extend(["--listen".to_owned(), listen, "--advertise".to_owned(), advertise]);
        let plane = match &self.ways {
            Some(ways) => {
                let proxies: Vec<SocketAddr> = ways.stores[place].iter().map(Proxy::addr).collect();
                self.store.url_via(&proxies)?
            }
            None => self.store.url.clone(),
        };
        let seeds = seeds.iter().map(|seed| self.address(*seed).to_string()).collect();
        let spec = NodeSpec { system: "bench".into(), dc: dc.clone(), region: None, plane, seeds, times, extra };
        let known = |pid| {
            if let Some(ways) = &self.ways {
                ways.network.set_pid(place, pid);
            }
        };
        NodeProcess::launched_as(&format!("{dc}/{place}"), &spec, &Launch::default(), known).await
    }

    /// Starts a node at every place: the first of each datacenter, and then the others.
    pub(crate) async fn start_all(&self) -> anyhow::Result<Vec<NodeProcess>> {
        let first = |place: usize| self.places.iter().position(|dc| *dc == self.places[place]).unwrap_or(place);
        let all = 0..self.places.len();
        let founders: Vec<usize> = all.clone().filter(|place| first(*place) == *place).collect();
        let mut nodes = try_join_all(founders.iter().map(|place| self.start(*place, &[]))).await?;
        println!("{} nodes run, the first of each datacenter", nodes.len());
        let others = all.filter(|place| first(*place) != *place).map(|place| async move {
            let seeds = [first(place)];
            self.start(place, &seeds).await
        });
        nodes.extend(futures::stream::iter(others).buffered(AT_ONCE).try_collect::<Vec<_>>().await?);
        println!("{} nodes run", nodes.len());
        Ok(nodes)
    }

    fn address(&self, place: usize) -> SocketAddr {
        self.ways.as_ref().map_or(self.listens[place], |ways| ways.nodes[place].addr)
    }
}

impl Ways {
    async fn new(
        store: &Store,
        places: &[usize],
        listens: &[SocketAddr],
        distance: Distance,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let mut seeds = Rng::new(seed);
        let network = Network::with_seed(listens.to_vec(), seeds.draw());
        let of = |dc| places.iter().enumerate().filter(move |(_, of)| **of == dc).map(|(place, _)| place).collect();
        for dc in places {
            let (here, there): (Vec<usize>, Vec<usize>) = (of(*dc), (0..places.len()).collect());
            network.set(&here, &there, Way { line: Line::Open, distance });
        }
        for dc in places {
            let here: Vec<usize> = of(*dc);
            network.set(&here, &here, Way { line: Line::Open, distance: Distance::NEAR });
        }
        let (mut nodes, mut stores) = (Vec::new(), Vec::new());
        let servers = store.addresses().context("only a store with servers can be far away")?;
        for place in 0..places.len() {
            nodes.push(NodeProxy::start(&network, place).await?);
            let mut proxies = Vec::new();
            for server in &servers {
                proxies.push(Proxy::far(*server, distance, seeds.draw()).await?);
            }
            stores.push(proxies);
        }
        Ok(Self { network, nodes, stores })
    }
}

/// Spawns a counter under a global name on that node.
pub(crate) async fn spawn(node: &NodeProcess, name: String) -> anyhow::Result<()> {
    eventually("a name is spawned", SOON, || async {
        match node.ask(Command::SpawnCounter { name: name.clone(), at: None }).await {
            Ok(Ok(_)) => Ok(()),
            // A try whose answer was lost.
            Ok(Err(failure)) if failure.kind == "NameTaken" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

/// What has happened to a node's part in ownership.
pub(crate) async fn stats(node: &NodeProcess) -> anyhow::Result<Vec<(String, u64)>> {
    match node.must(Command::OwnershipStats).await? {
        Answer::Stats(stats) => Ok(stats),
        other => bail!("{}: not counts: {other:?}", node.label),
    }
}
