//! How a system is described; every rule is checked at `start()`.

use std::{collections::HashSet, convert::Infallible, fmt, net::SocketAddr, sync::Arc, time::Duration};

use dc_cluster::{ClusterConfig, ClusterConfigBuilder, DatagramTransport, Discovery, GossipKey, GossipTiming};
use dc_controller::{ControllerOptions, ControllerOptionsBuilder};
use dc_controlplane::{ControlPlane, TokioClock, ownership::OwnershipStore};
use dc_core::{DataCenter, Endpoint, Invalid, SharedClock, SystemName};
use dc_ownership::{BootClock, OwnershipOptions, OwnershipOptionsBuilder};
use dc_placement::Strategy;
use dc_remoting::{Network, RemotingConfig, RemotingConfigBuilder};
use serde::{Serialize, de::DeserializeOwned};

use super::{ActorSystem, Options, StartError, start};
use crate::{
    authority::{Authority, Guard},
    kind::{GrainBuilder, KindBuilder, Kinds},
    message::RemoteActor,
};

/// Why a description was refused. Every mistake is listed at once, see [`StartError::Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A field that breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Something that must be given was not.
    #[error("`{0}` must be given")]
    Missing(&'static str),
    /// Two kinds have one wire name.
    #[error("kind {kind:?} is registered twice: give one of the types another #[remote(name = \"..\")]")]
    DuplicateKind {
        /// The wire name.
        kind: &'static str,
    },
    /// Two message types of one kind have one wire name.
    #[error("kind {kind:?} lists two message types named {message:?}: give one another #[remote(name = \"..\")]")]
    DuplicateMessage {
        /// The kind's wire name.
        kind: &'static str,
        /// The message's wire name.
        message: &'static str,
    },
    /// A kind of grain is global, and the control plane keeps no ownership.
    #[error(
        "grain kind {kind:?} is global, and this control plane keeps no ownership: use one that does (memory, NATS, \
         etcd, SQLite), or another scope"
    )]
    NoOwnership {
        /// The kind's wire name.
        kind: &'static str,
    },
    /// A kind of grain does not say how an identity becomes arguments.
    #[error("grain kind {kind:?} needs `.args(..)`")]
    MissingArgs {
        /// The kind's wire name.
        kind: &'static str,
    },
}

impl ConfigError {
    pub(crate) fn invalid(field: &str, value: impl ToString, rule: &str) -> Self {
        Self::Invalid(Invalid::new(field, value.to_string(), rule))
    }
}

impl From<Infallible> for ConfigError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// The highest `max_watches`.
const MOST_WATCHES: usize = 1 << 24;

type Tune<B> = Option<Box<dyn FnOnce(B) -> B + Send>>;

/// A system that is being described; [`start`](Self::start) checks and starts it.
pub struct ActorSystemBuilder {
    name: String,
    data_center: Option<Result<DataCenter, ConfigError>>,
    plane: Option<Arc<dyn ControlPlane>>,
    listen: String,
    advertise: Option<String>,
    seeds: Vec<String>,
    discovery: Option<Arc<dyn Discovery>>,
    gossip_key: Option<GossipKey>,
    gossip: Option<GossipTiming>,
    controller: ControllerOptions,
    wrong: Vec<ConfigError>,
    kinds: Kinds,
    names: HashSet<&'static str>,
    options: Options,
    clock: Option<SharedClock>,
    ownership: OwnershipOptions,
    takes_part: bool,
    remoting: Tune<RemotingConfigBuilder>,
    cluster: Tune<ClusterConfigBuilder>,
    network: Option<OtherNetwork>,
    #[cfg(feature = "tls")]
    tls: Option<dc_remoting::TlsConfig>,
}

impl ActorSystemBuilder {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            data_center: None,
            plane: None,
            listen: "127.0.0.1:0".into(),
            advertise: None,
            seeds: Vec::new(),
            discovery: None,
            gossip_key: None,
            gossip: None,
            controller: ControllerOptions::default(),
            wrong: Vec::new(),
            kinds: Kinds::default(),
            names: HashSet::new(),
            options: Options::default(),
            clock: None,
            ownership: OwnershipOptions::default(),
            takes_part: true,
            remoting: None,
            cluster: None,
            network: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// This node's datacenter. Must be given.
    #[must_use]
    pub fn data_center<D>(mut self, data_center: D) -> Self
    where
        D: TryInto<DataCenter>,
        D::Error: Into<ConfigError>,
    {
        self.data_center = Some(data_center.try_into().map_err(Into::into));
        self
    }

    /// The control plane, shared by all datacenters. Must be given.
    #[must_use]
    pub fn control_plane(mut self, plane: impl ControlPlane) -> Self {
        self.plane = Some(Arc::new(plane));
        self
    }

    /// Address to take links (TCP) and gossip (UDP) on, `host:port`; port 0 draws a free one. Default `127.0.0.1:0`.
    #[must_use]
    pub fn listen(mut self, address: impl ToString) -> Self {
        self.listen = address.to_string();
        self
    }

    /// Where others reach this node, `host:port`. Default: the address it listens on, unless that is a wildcard.
    #[must_use]
    pub fn advertise(mut self, endpoint: impl ToString) -> Self {
        self.advertise = Some(endpoint.to_string());
        self
    }

    /// Other nodes of this datacenter to ask at start and again, `host:port` each. Default: none.
    #[must_use]
    pub fn seeds<S: ToString>(mut self, seeds: impl IntoIterator<Item = S>) -> Self {
        self.seeds = seeds.into_iter().map(|seed| seed.to_string()).collect();
        self
    }

    /// Another way to find the nodes of this datacenter. Replaces the seeds.
    #[must_use]
    pub fn discovery(mut self, discovery: impl Discovery) -> Self {
        self.discovery = Some(Arc::new(discovery));
        self
    }

    /// The key that encrypts and authenticates this datacenter's gossip. Default: none.
    #[must_use]
    pub fn gossip_key(mut self, key: GossipKey) -> Self {
        self.gossip_key = Some(key);
        self
    }

    /// How fast a silent node of this datacenter is noticed. Default [`GossipTiming::lan`].
    #[must_use]
    pub fn gossip_timing(mut self, timing: GossipTiming) -> Self {
        self.gossip = Some(timing);
        self
    }

    /// Lease, heartbeat and routing table: `.controller(|c| c.lease_ttl(..).heartbeat_interval(..))`.
    #[must_use]
    pub fn controller(mut self, tune: impl FnOnce(ControllerOptionsBuilder) -> ControllerOptionsBuilder) -> Self {
        match tune(ControllerOptions::builder()).build() {
            Ok(options) => self.controller = options,
            Err(invalid) => self.wrong.push(invalid.into()),
        }
        self
    }

    /// Registers a kind of actor that this node can run.
    #[must_use]
    pub fn actor<A>(mut self, describe: impl FnOnce(KindBuilder<A>) -> KindBuilder<A>) -> Self
    where
        A: RemoteActor,
        A::Args: Serialize + DeserializeOwned,
    {
        let kind = describe(KindBuilder::new()).finish(&mut self.wrong);
        self.note_kind::<A>();
        self.kinds.add_actor(kind);
        self
    }

    /// Registers a kind of grain that this node can run.
    #[must_use]
    pub fn grain<A: RemoteActor>(mut self, describe: impl FnOnce(GrainBuilder<A>) -> GrainBuilder<A>) -> Self {
        let kind = describe(GrainBuilder::new()).finish(&mut self.wrong);
        self.note_kind::<A>();
        if let Some(kind) = kind {
            self.kinds.add_grain(kind);
        }
        self
    }

    fn note_kind<A: RemoteActor>(&mut self) {
        if !self.names.insert(A::KIND) {
            self.wrong.push(ConfigError::DuplicateKind { kind: A::KIND });
        }
        if A::KIND.is_empty() || A::KIND.len() > 63 || A::KIND.chars().any(|c| c.is_control() || c == '/') {
            self.wrong.push(ConfigError::invalid(
                "kind",
                A::KIND,
                "must be 1 to 63 bytes without `/` and control characters",
            ));
        }
    }

    /// How long an ask waits for its answer, and a tell for room, unless it says otherwise. Default 5 s.
    #[must_use]
    pub fn ask_timeout(mut self, after: Duration) -> Self {
        self.options.ask_timeout = after;
        self
    }

    /// How long a spawn may take, all its tries together, unless it says otherwise. Default 10 s.
    #[must_use]
    pub fn spawn_timeout(mut self, after: Duration) -> Self {
        self.options.spawn_timeout = after;
        self
    }

    /// How long a lookup waits for other datacenters, unless it says otherwise. Default 2 s.
    #[must_use]
    pub fn lookup_timeout(mut self, after: Duration) -> Self {
        self.options.lookup_timeout = after;
        self
    }

    /// How long shutdown waits for actors to finish what is in their mailboxes before it kills them. Default 10 s.
    #[must_use]
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.options.shutdown_grace = grace;
        self
    }

    /// How many watches this node holds, and how many of its actors each other node may watch; beyond, a watch ends with
    /// [`EndReason::Refused`](crate::EndReason::Refused). Default 65,536.
    #[must_use]
    pub fn max_watches(mut self, max: usize) -> Self {
        self.options.max_watches = max;
        self
    }

    /// How a datacenter's node is chosen for spawns, unless a spawn says otherwise. Default [`Strategy::Random`].
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.options.strategy = strategy;
        self
    }

    /// What other datacenters may do here; who is not named may do nothing. Default: everybody may do anything.
    #[must_use]
    pub fn authority(mut self, authority: Authority) -> Self {
        self.options.guard = Some(Guard::new(authority));
        self
    }

    /// The clock by which leases, ages and deadlines are measured. Default: the runtime's; for leases of ownership one
    /// that goes on while the machine sleeps (G3).
    #[must_use]
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Leases, margins and pace of global ownership: `.ownership(|o| o.ttl(..))`.
    #[must_use]
    pub fn ownership(mut self, tune: impl FnOnce(OwnershipOptionsBuilder) -> OwnershipOptionsBuilder) -> Self {
        match tune(OwnershipOptions::builder()).build() {
            Ok(options) => self.ownership = options,
            Err(invalid) => self.wrong.push(invalid.into()),
        }
        self
    }

    /// This node takes no part in global ownership: it keeps no session at the store, owns nothing global, and finds
    /// nothing global. By default it takes part wherever its control plane keeps ownership.
    #[must_use]
    pub fn without_ownership(mut self) -> Self {
        self.takes_part = false;
        self
    }

    /// Mutual TLS on every link to and from this node, within its datacenter and beyond (R9). The certificate must be
    /// for this system and datacenter. Gossip within the datacenter is sealed by [`gossip_key`](Self::gossip_key).
    /// Default: none, and a warning where the node listens beyond the loopback.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: dc_remoting::TlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Carries links and gossip over something else than TCP and UDP: a simulated network. `gossip` sends and receives
    /// at the address of [`listen`](Self::listen). Nothing on it is encrypted; it excludes TLS. Default: none.
    #[must_use]
    pub fn network(mut self, links: impl Network, gossip: impl DatagramTransport) -> Self {
        self.network = Some(OtherNetwork { links: Arc::new(links), gossip: Arc::new(gossip) });
        self
    }

    /// Plants a bug on purpose, to show that a simulation finds it. Not an interface.
    #[cfg(feature = "simulation")]
    #[doc(hidden)]
    #[must_use]
    pub fn plant(mut self, plant: super::Plant) -> Self {
        self.options.plant = Some(plant);
        self
    }

    /// Limits and times of links.
    #[must_use]
    pub fn links(mut self, tune: impl FnOnce(RemotingConfigBuilder) -> RemotingConfigBuilder + Send + 'static) -> Self {
        self.remoting = Some(Box::new(tune));
        self
    }

    /// What else there is to membership: key rotation, founding wait, limits.
    #[must_use]
    pub fn cluster(mut self, tune: impl FnOnce(ClusterConfigBuilder) -> ClusterConfigBuilder + Send + 'static) -> Self {
        self.cluster = Some(Box::new(tune));
        self
    }

    /// Checks the description and starts the node: links, membership, the registrar, the routing table. Waits until
    /// the node is ready (D7), but no longer than `request_timeout`: with the control plane away the datacenter
    /// works inside, and joining the others is retried (D4).
    ///
    /// # Errors
    ///
    /// [`StartError`]. Nothing is left running.
    pub async fn start(self) -> Result<ActorSystem, StartError> {
        start::run(self.check().await?).await
    }

    async fn check(mut self) -> Result<Parts, StartError> {
        let mut wrong = std::mem::take(&mut self.wrong);
        let name = keep(SystemName::new(&self.name), &mut wrong);
        let data_center = match self.data_center.take() {
            Some(data_center) => keep(data_center, &mut wrong),
            None => keep(Err(ConfigError::Missing("data_center")), &mut wrong),
        };
        let plane = keep(self.plane.take().ok_or(ConfigError::Missing("control_plane")), &mut wrong);
        let listen = keep(resolve(&self.listen).await, &mut wrong);
        let advertise = self.advertise.take().map(|text| keep(endpoint("advertise", &text), &mut wrong));
        let seeds: Vec<_> = self.seeds.iter().filter_map(|text| keep(endpoint("seeds", text), &mut wrong)).collect();
        for (field, value) in [
            ("ask_timeout", self.options.ask_timeout),
            ("spawn_timeout", self.options.spawn_timeout),
            ("lookup_timeout", self.options.lookup_timeout),
        ] {
            if value.is_zero() || value > Duration::from_secs(86_400) {
                wrong.push(ConfigError::invalid(field, format!("{value:?}"), "must be above zero and at most a day"));
            }
        }
        if !(1..=MOST_WATCHES).contains(&self.options.max_watches) {
            let rule = format!("must be 1 to {MOST_WATCHES}");
            wrong.push(ConfigError::invalid("max_watches", self.options.max_watches, &rule));
        }
        let ownership = plane.as_ref().filter(|_| self.takes_part).and_then(|plane| plane.ownership());
        if plane.is_some() && ownership.is_none() {
            wrong.extend(self.kinds.global_grains().map(|(kind, _)| ConfigError::NoOwnership { kind }));
        }
        let cluster = keep(self.cluster_config(seeds), &mut wrong);
        self.options.fail_on_stale_cache = self.controller.fail_on_stale_cache();
        match (name, data_center, plane, listen, cluster) {
            (Some(name), Some(data_center), Some(plane), Some(listen), Some(cluster)) if wrong.is_empty() => {
                Ok(Parts {
                    name,
                    data_center,
                    plane,
                    listen,
                    advertise: advertise.flatten(),
                    cluster,
                    controller: self.controller,
                    kinds: self.kinds,
                    options: self.options,
                    owned: ownership.map(|store| OwnedParts {
                        store,
                        options: self.ownership,
                        clock: self.clock.clone().unwrap_or_else(|| Arc::new(BootClock::new())),
                    }),
                    clock: self.clock.unwrap_or_else(|| Arc::new(TokioClock)),
                    remoting: self.remoting,
                    network: self.network,
                    #[cfg(feature = "tls")]
                    tls: self.tls,
                })
            }
            _ => Err(StartError::Config(wrong)),
        }
    }

    fn cluster_config(&mut self, seeds: Vec<Endpoint>) -> Result<ClusterConfig, Invalid> {
        let mut config = ClusterConfig::builder();
        config = match self.discovery.take() {
            Some(discovery) => config.discovery(discovery),
            None => config.seeds(seeds),
        };
        if let Some(key) = self.gossip_key.take() {
            config = config.gossip_key(key);
        }
        if let Some(timing) = self.gossip.take() {
            config = config.timing(timing);
        }
        if let Some(tune) = self.cluster.take() {
            config = tune(config);
        }
        config.build()
    }
}

/// What takes the place of TCP and UDP.
pub(super) struct OtherNetwork {
    pub(super) links: Arc<dyn Network>,
    pub(super) gossip: Arc<dyn DatagramTransport>,
}

/// What global ownership is kept with.
pub(super) struct OwnedParts {
    pub(super) store: Arc<dyn OwnershipStore>,
    pub(super) options: OwnershipOptions,
    pub(super) clock: SharedClock,
}

/// A description that was found in order.
pub(super) struct Parts {
    pub(super) name: SystemName,
    pub(super) data_center: DataCenter,
    pub(super) plane: Arc<dyn ControlPlane>,
    pub(super) listen: SocketAddr,
    pub(super) advertise: Option<Endpoint>,
    pub(super) cluster: ClusterConfig,
    pub(super) controller: ControllerOptions,
    pub(super) kinds: Kinds,
    pub(super) options: Options,
    pub(super) clock: SharedClock,
    pub(super) owned: Option<OwnedParts>,
    pub(super) remoting: Tune<RemotingConfigBuilder>,
    pub(super) network: Option<OtherNetwork>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<dc_remoting::TlsConfig>,
}

impl Parts {
    pub(super) fn remoting_config(&mut self, node: dc_core::NodeId) -> Result<RemotingConfig, Invalid> {
        let mut config =
            RemotingConfig::builder(self.name.clone(), self.data_center.id().clone(), node).listen(self.listen);
        if let Some(endpoint) = self.advertise.clone() {
            config = config.advertise(endpoint);
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = self.tls.take() {
            config = config.tls(tls);
        }
        if let Some(tune) = self.remoting.take() {
            config = tune(config);
        }
        config.build()
    }
}

fn keep<T, E: Into<ConfigError>>(result: Result<T, E>, wrong: &mut Vec<ConfigError>) -> Option<T> {
    result.map_err(|err| wrong.push(err.into())).ok()
}

fn endpoint(field: &str, text: &str) -> Result<Endpoint, Invalid> {
    text.parse().map_err(|invalid: Invalid| Invalid::new(field, text, invalid.rule))
}

/// The address to listen on: a literal one, or the first that a host name stands for.
async fn resolve(text: &str) -> Result<SocketAddr, Invalid> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let refuse = |rule: &str| Invalid::new("listen", text, rule);
    let (host, port) = text.rsplit_once(':').ok_or_else(|| refuse("must be host:port"))?;
    let port: u16 = port.parse().map_err(|_| refuse("port must be 0 to 65535"))?;
    let mut found = tokio::net::lookup_host((host, port)).await.map_err(|_| refuse("does not resolve"))?;
    found.next().ok_or_else(|| refuse("does not resolve"))
}

impl fmt::Debug for ActorSystemBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorSystemBuilder")
            .field("name", &self.name)
            .field("data_center", &self.data_center)
            .field("listen", &self.listen)
            .field("advertise", &self.advertise)
            .field("seeds", &self.seeds)
            .field("kinds", &self.kinds)
            .finish_non_exhaustive()
    }
}
