//! One node's place in its datacenter: membership and directory together.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use dc_core::{DcView, Endpoint, SharedClock};
use dc_remoting::Remoting;
use tokio::{
    net::UdpSocket,
    sync::{broadcast, mpsc, oneshot, watch},
    task::AbortHandle,
    time::timeout,
};

use crate::{
    config::ClusterConfig,
    directory::Directory,
    discovery::resolve,
    events::ClusterEvent,
    membership::{
        core::{Core, Own},
        driver::{Command, Counters, Driver, GossipStats, discover},
        transport::DatagramTransport,
    },
    seal::Envelope,
};

/// Events that a slow listener may fall behind before it loses the oldest.
const EVENTS: usize = 1024;
/// Longest time that saying goodbye may take.
const LEAVE_WAIT: Duration = Duration::from_secs(1);

/// Why a node could not start its membership.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The UDP port of the same number as the links' is taken.
    #[error("cannot receive gossip on {address} (UDP)")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The advertised name has no address, and the node listens on a wildcard.
    #[error("{endpoint} does not resolve: set `gossip_advertise`, or advertise an address")]
    NoGossipAddress {
        /// The advertised endpoint.
        endpoint: Endpoint,
        /// What the resolver said.
        source: io::Error,
    },
}

/// This node's membership of its datacenter. Cheap to clone; when the last clone is
/// dropped the node falls silent, as if it had been killed.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    directory: Directory,
    view: watch::Receiver<Arc<DcView>>,
    events: broadcast::Sender<ClusterEvent>,
    commands: mpsc::Sender<Command>,
    counters: Arc<Counters>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cluster").field(&self.0.view.borrow()).finish()
    }
}

impl Cluster {
    /// Begins to gossip on the UDP port of the same number as `remoting`'s, and to look for others.
    ///
    /// Returns before this node has joined: see [`view`](Self::view). `seed` makes what is drawn at random replay.
    ///
    /// # Errors
    ///
    /// [`ClusterError`]: the port is taken, or there is no address that others could send gossip to. Seeds
    /// that do not answer or resolve are no error: they are tried for ever.
    pub async fn start(
        config: ClusterConfig,
        remoting: Remoting,
        clock: SharedClock,
        seed: u64,
    ) -> Result<Self, ClusterError> {
        let address = remoting.local_addr();
        let socket = UdpSocket::bind(address).await.map_err(|source| ClusterError::Bind { address, source })?;
        Self::start_on(config, remoting, Arc::new(socket), clock, seed).await
    }

    /// Like [`start`](Self::start), with a socket that is bound already (see
    /// [`bind_one_port`](dc_remoting::bind_one_port)) or another transport.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    pub async fn start_on(
        config: ClusterConfig,
        remoting: Remoting,
        transport: Arc<dyn DatagramTransport>,
        clock: SharedClock,
        seed: u64,
    ) -> Result<Self, ClusterError> {
        let local = remoting.local().clone();
        let addr = gossip_address(&config, &remoting).await?;
        let own = Own { node: local.node, addr, endpoint: local.advertised.clone() };
        let envelope = Envelope::new(&local.system, &local.dc, &config.keys);
        let expects_others = config.discovery.expects_others();
        let (timing, wait) = (config.timing, config.founding_wait);
        let core = Core::new(own, timing, wait, expects_others, envelope, seed, clock.now());
        tracing::info!(node = %local.node.short(), gossip = %addr, sealed = !config.keys.is_empty(), "gossip begins");

        let (view_sender, view) = watch::channel(Arc::new(core.view().clone()));
        let (events, _) = broadcast::channel(EVENTS);
        let (commands, commands_receiver) = mpsc::channel(4);
        let (found, seeds) = mpsc::channel(1);
        let counters = Arc::new(Counters::default());
        let directory = Directory::new(remoting, clock.clone(), view.clone(), events.clone(), config.max_names, seed);
        let driver = Driver {
            core,
            transport,
            clock,
            commands: commands_receiver,
            seeds,
            view: view_sender,
            events: events.clone(),
            counters: Arc::clone(&counters),
        };
        let tasks = vec![
            tokio::spawn(driver.run()).abort_handle(),
            tokio::spawn(discover(config.discovery, found, seed)).abort_handle(),
            tokio::spawn(directory.clone().run()).abort_handle(),
        ];
        Ok(Self(Arc::new(Inner { directory, view, events, commands, counters, tasks })))
    }

    /// What this node sees of its datacenter. Changes as members come and go.
    pub fn view(&self) -> watch::Receiver<Arc<DcView>> {
        self.0.view.clone()
    }

    /// The names of this datacenter.
    pub fn directory(&self) -> &Directory {
        &self.0.directory
    }

    /// What happens from now on. A listener that is slow loses the oldest events.
    pub fn events(&self) -> broadcast::Receiver<ClusterEvent> {
        self.0.events.subscribe()
    }

    /// Datagrams counted since the start.
    pub fn gossip_stats(&self) -> GossipStats {
        self.0.counters.snapshot()
    }

    /// Says goodbye to all members, who see it at once, and ends the gossip. Names held here are free for
    /// others from then on. Takes a second at most; a second call does nothing.
    pub async fn leave(&self) {
        self.0.directory.leave();
        let (done, heard) = oneshot::channel();
        if self.0.commands.send(Command::Leave(done)).await.is_ok() {
            // A task that has ended has nothing to say goodbye with.
            let _ = timeout(LEAVE_WAIT, heard).await;
        }
    }
}

/// Where others send this node gossip.
async fn gossip_address(config: &ClusterConfig, remoting: &Remoting) -> Result<SocketAddr, ClusterError> {
    if let Some(address) = config.gossip_advertise {
        return Ok(address);
    }
    let (endpoint, bound) = (&remoting.local().advertised, remoting.local_addr());
    let found = match resolve(endpoint).await {
        Ok(addresses) => {
            let same_family = addresses.iter().find(|address| address.is_ipv4() == bound.is_ipv4());
            same_family.or(addresses.first()).copied().ok_or_else(|| io::Error::other("no addresses"))
        }
        Err(err) => Err(err),
    };
    match found {
        Ok(address) => Ok(address),
        Err(err) if !bound.ip().is_unspecified() => {
            tracing::warn!(%err, %endpoint, %bound, "the advertised name does not resolve; gossip uses the bound address");
            Ok(bound)
        }
        Err(source) => Err(ClusterError::NoGossipAddress { endpoint: endpoint.clone(), source }),
    }
}
