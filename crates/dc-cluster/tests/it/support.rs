//! Nodes, a network that can be cut, and waiting with a bound.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use dc_cluster::{Cluster, ClusterConfig, ClusterConfigBuilder, ClusterEvent, DatagramTransport, GossipTiming};
use dc_core::{DataCenter, DcView, Endpoint, NodeId, SharedClock, SystemClock, SystemName};
use dc_remoting::{Remoting, RemotingConfig, Services, bind_one_port};
use parking_lot::Mutex;
use tokio::{net::UdpSocket, sync::broadcast, time::timeout};

/// Bound of everything that is waited for. Far above what it takes, as tests share slow machines.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

/// Cuts gossip between groups of nodes. Links stay, but nobody calls who is not a member.
#[derive(Debug, Default, Clone)]
pub(crate) struct Network(Arc<Mutex<HashMap<u16, u32>>>);

impl Network {
    /// Puts nodes into `group`; groups do not hear each other.
    pub(crate) fn cut(&self, nodes: &[&Node], group: u32) {
        self.0.lock().extend(nodes.iter().map(|node| (node.addr.port(), group)));
    }

    pub(crate) fn heal(&self) {
        self.0.lock().clear();
    }
}

#[derive(Debug)]
struct Cuttable {
    socket: UdpSocket,
    port: u16,
    network: Network,
}

#[async_trait]
impl DatagramTransport for Cuttable {
    async fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        let cut = {
            let groups = self.network.0.lock();
            groups.get(&self.port) != groups.get(&to.port())
        };
        if cut { Ok(()) } else { self.socket.send_to(datagram, to).await.map(drop) }
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.socket.recv_from(buffer).await
    }
}

/// What a node is started with.
pub(crate) struct Plan {
    pub(crate) system: &'static str,
    pub(crate) dc: &'static str,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise_host: Option<&'static str>,
    pub(crate) network: Network,
    pub(crate) config: ClusterConfigBuilder,
}

impl Plan {
    pub(crate) fn new(seeds: &[Endpoint]) -> Self {
        // Patient with machines that are busy with other tests: what is asserted is what follows, not how soon.
        let timing = GossipTiming { suspicion: Duration::from_secs(2), ..GossipTiming::lan() };
        let config = ClusterConfig::builder().seeds(seeds.iter().cloned()).timing(timing);
        let config = config.founding_wait(Duration::from_millis(300));
        Self {
            system: "app",
            dc: "dc-1",
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise_host: None,
            network: Network::default(),
            config,
        }
    }

    pub(crate) fn on(mut self, network: &Network) -> Self {
        self.network = network.clone();
        self
    }

    pub(crate) async fn start(self) -> Node {
        static STARTED: AtomicU32 = AtomicU32::new(1);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let (listener, socket) = free_port(self.listen).await;
        let addr = listener.local_addr().unwrap();
        let dc = DataCenter::new(self.dc).build().unwrap();
        let node = NodeId(u128::from(number) << 96 | u128::from(std::process::id()));
        let mut config = RemotingConfig::builder(SystemName::new(self.system).unwrap(), dc.id().clone(), node);
        config = config.listen(addr);
        if let Some(host) = self.advertise_host {
            config = config.advertise(format!("{host}:{}", addr.port()).parse().unwrap());
        }
        let clock: SharedClock = Arc::new(SystemClock);
        let remoting =
            Remoting::start_on(listener, config.build().unwrap(), clock.clone(), Services::new()).expect("links");
        let transport = Arc::new(Cuttable { socket, port: addr.port(), network: self.network });
        let cluster =
            Cluster::start_on(self.config.build().unwrap(), remoting.clone(), transport, clock, number.into())
                .await
                .expect("membership");
        let events = cluster.events();
        Node { node, addr, cluster, remoting, events }
    }
}

/// Binds `listen`, which a node that was just killed may not have let go of yet.
async fn free_port(listen: SocketAddr) -> (tokio::net::TcpListener, UdpSocket) {
    let bind = async {
        loop {
            match bind_one_port(listen).await {
                Ok(bound) => return bound,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    timeout(BOUND, bind).await.expect("the port becomes free")
}

pub(crate) struct Node {
    pub(crate) node: NodeId,
    pub(crate) addr: SocketAddr,
    pub(crate) cluster: Cluster,
    pub(crate) remoting: Remoting,
    pub(crate) events: broadcast::Receiver<ClusterEvent>,
}

impl Node {
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.addr.into()
    }

    pub(crate) fn view(&self) -> Arc<DcView> {
        self.cluster.view().borrow().clone()
    }

    /// Waits until the view is as wished.
    pub(crate) async fn sees(&self, what: &str, wish: impl FnMut(&Arc<DcView>) -> bool) -> Arc<DcView> {
        let mut view = self.cluster.view();
        match timeout(BOUND, view.wait_for(wish)).await {
            Ok(seen) => seen.expect("membership runs").clone(),
            Err(_) => panic!("{what}: not within {BOUND:?}, but {:?}", self.view()),
        }
    }

    /// Waits for an event.
    pub(crate) async fn hears(&mut self, what: &str, wish: impl Fn(&ClusterEvent) -> bool) -> ClusterEvent {
        let wait = async {
            loop {
                let event = self.events.recv().await.expect("events come");
                if wish(&event) {
                    return event;
                }
            }
        };
        timeout(BOUND, wait).await.unwrap_or_else(|_| panic!("{what}: not heard within {BOUND:?}"))
    }

    /// Ends as a killed process does: no word to anybody.
    pub(crate) fn kill(self) -> (NodeId, SocketAddr) {
        (self.node, self.addr)
    }
}

/// Waits until exactly these nodes see each other and one leader; says who leads.
pub(crate) async fn agree(nodes: &[&Node]) -> NodeId {
    let mut ids: Vec<NodeId> = nodes.iter().map(|node| node.node).collect();
    ids.sort_unstable();
    let complete = |view: &Arc<DcView>| {
        let mut seen: Vec<NodeId> = view.members.iter().map(|member| member.node).collect();
        seen.sort_unstable();
        view.joined && seen == ids
    };
    let wait = async {
        loop {
            for node in nodes {
                node.sees("all members", complete).await;
            }
            let views: Vec<_> = nodes.iter().map(|node| node.view()).collect();
            // While one waited for the last, the first may have changed its mind.
            if views.iter().all(&complete) && views.iter().all(|view| view.members == views[0].members) {
                return views[0].leader().expect("somebody leads").node;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, wait).await.unwrap_or_else(|_| {
        let views: Vec<_> = nodes.iter().map(|node| node.view()).collect();
        panic!("no agreement within {BOUND:?}: {views:?}")
    })
}

/// `n` nodes on one network that agree on each other, the oldest first.
pub(crate) async fn cluster(n: usize, network: &Network) -> Vec<Node> {
    cluster_with(n, |seeds| Plan::new(seeds).on(network)).await
}

/// The same with another plan.
pub(crate) async fn cluster_with(n: usize, plan: impl Fn(&[Endpoint]) -> Plan) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for _ in 0..n {
        let seeds: Vec<Endpoint> = nodes.iter().map(Node::endpoint).collect();
        nodes.push(plan(&seeds).start().await);
        agree(&nodes.iter().collect::<Vec<_>>()).await;
    }
    nodes
}
