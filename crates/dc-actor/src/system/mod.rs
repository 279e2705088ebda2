//! The actor system of one node: how it is described, started, used and shut down.
//!
//! Reading order: [`ActorSystem`], [`builder`] (what it is made of), [`start`] (in which order it comes up),
//! [`node`] (what the parts share), [`follow`] (what it tells), [`shutdown`].

mod actors;
mod builder;
mod drain;
mod follow;
mod node;
mod shutdown;
mod start;

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use dc_core::{DataCenter, DataCenterId, DataCenterSelector, DataCenterState, Endpoint, Member, NodeEndpoint, NodeId};
use dc_placement::Explanation;

pub(crate) use self::node::{Node, Options};
pub use self::{
    builder::{ActorSystemBuilder, ConfigError},
    drain::{Drain, DrainOptions, DrainOutcome, DrainProgress},
    start::StartError,
};
use crate::{
    error::Error,
    events::EventStream,
    grain::GrainRef,
    message::RemoteActor,
    spawn::{Spawn, SpawnOn},
};

/// The actor system of one node of one datacenter. Cheap to clone.
///
/// [`shutdown`](Self::shutdown) ends it in good order. When the last handle is dropped without that, everything is
/// aborted, and the log says so. What actors get from their context is no handle in this sense.
#[derive(Clone)]
pub struct ActorSystem {
    node: Arc<Node>,
    handle: Option<Arc<Handle>>,
}

/// Aborts everything when the last one is dropped.
struct Handle {
    node: Arc<Node>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.node.begin_end() {
            tracing::warn!(node = %self.node.label(), "the last handle of the system was dropped without shutdown(): aborting");
            self.node.abort();
        }
    }
}

impl ActorSystem {
    /// Starts the description of a system; nodes of different names refuse each other.
    pub fn builder(name: impl Into<String>) -> ActorSystemBuilder {
        ActorSystemBuilder::new(name.into())
    }

    pub(crate) fn with_handle(node: Arc<Node>) -> Self {
        let handle = Handle { node: node.clone() };
        Self { node, handle: Some(Arc::new(handle)) }
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// This node's id: another one at each start.
    pub fn node_id(&self) -> NodeId {
        self.node.id()
    }

    /// This node's datacenter.
    pub fn data_center(&self) -> &DataCenter {
        self.node.data_center()
    }

    /// Where others reach this node.
    pub fn endpoint(&self) -> &Endpoint {
        self.node.endpoint()
    }

    /// Starts an actor without a name on this node; its kind must be registered.
    ///
    /// ```no_run
    /// # use dc_actor::{ActorSystem, Error, RemoteActor};
    /// # #[derive(kameo::Actor, RemoteActor, serde::Serialize, serde::Deserialize)]
    /// # #[remote(crate = "dc_actor")] struct Worker { jobs: u32 }
    /// # async fn f(system: ActorSystem) -> Result<(), Error> {
    /// let worker = system.spawn::<Worker>(Worker { jobs: 0 }).await?;
    /// # Ok(()) }
    /// ```
    pub fn spawn<A>(&self, args: A::Args) -> Spawn<A>
    where
        A: RemoteActor,
        A::Args: serde::Serialize + serde::de::DeserializeOwned,
    {
        Spawn::new(self.clone(), args)
    }

    /// Starts an actor under a name that is unique in its datacenter (A2): on this node, unless
    /// [`in_data_center`](SpawnOn::in_data_center) or [`on_node`](SpawnOn::on_node) says otherwise.
    pub fn spawn_on<A>(&self, name: impl Into<String>, args: A::Args) -> SpawnOn<A>
    where
        A: RemoteActor,
        A::Args: serde::Serialize + serde::de::DeserializeOwned,
    {
        SpawnOn::new(self.clone(), name.into(), args)
    }

    /// Finds an actor by its name: in the own datacenter first, then among global names, then in all other datacenters
    /// at once (A2).
    /// The first hit wins and sticks: later calls on this node return the same actor while it lives.
    pub fn actor_of<A: RemoteActor>(&self, name: impl Into<String>) -> crate::lookup::ActorOf<A> {
        crate::lookup::ActorOf::new(self.clone(), name.into())
    }

    /// A grain by its identity: it becomes active somewhere when the first message reaches it. Its kind must be
    /// registered on this node as well: where the grain may live is a property of the kind.
    pub fn grain<A: RemoteActor>(&self, id: impl Into<String>) -> GrainRef<A> {
        GrainRef::new(self.node.clone(), id.into())
    }

    /// Explains where a spawn in a datacenter that matches would go now, and what rules others out (L4).
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where nothing could ever match the selector.
    pub fn explain(&self, selector: impl Into<DataCenterSelector>) -> Result<Explanation, Error> {
        crate::spawn::explain_placement(&self.node, &selector.into())
    }

    /// Reads the files of [`tls`](ActorSystemBuilder::tls) again now, which is also done by itself. True if they
    /// changed: links made from now on use the new ones, standing links are left alone. False without TLS.
    ///
    /// # Errors
    ///
    /// [`TlsError`](crate::TlsError): the new files cannot be used, and the old ones stay in use.
    #[cfg(feature = "tls")]
    pub async fn reload_tls(&self) -> Result<bool, crate::TlsError> {
        self.node.remoting().reload_tls().await
    }

    /// Whether this node is a member of its datacenter and its routing table has once been in step (D7).
    /// True on followers too; stays true through later outages of the control plane.
    pub fn data_center_ready(&self) -> bool {
        self.node.ready()
    }

    /// Waits until [`data_center_ready`](Self::data_center_ready) is true. Cancel-safe.
    pub async fn wait_ready(&self) {
        self.node.wait_ready().await;
    }

    /// Age of the routing table: time since it was last known to be in step. `None` before the first time.
    pub fn data_center_last_refresh(&self) -> Option<Duration> {
        self.node.table().last_refresh()
    }

    /// What happens on this node and in the routing table from now on.
    pub fn events(&self) -> EventStream {
        self.node.bus().subscribe()
    }

    /// Messages that could not be delivered since the start (A6).
    pub fn dead_letters(&self) -> u64 {
        self.node.bus().dead_letters()
    }

    /// Every datacenter that the routing table knows, by id.
    pub fn data_centers(&self) -> Vec<DataCenterInfo> {
        let mut all: Vec<_> = self.node.table().snapshot().iter().map(|entry| DataCenterInfo::of(entry)).collect();
        all.sort_by(|a, b| a.data_center.id().cmp(b.data_center.id()));
        all
    }

    /// Live members of this node's datacenter, oldest first: the first one leads.
    pub fn members(&self) -> Vec<Member> {
        self.node.view().members.clone()
    }

    /// The leader of this node's datacenter.
    pub fn leader(&self) -> Option<NodeId> {
        self.node.view().leader().map(|leader| leader.node)
    }

    /// Actors that run on this node.
    pub fn actor_count(&self) -> usize {
        self.node.actors().len()
    }

    /// Drains this datacenter: writes the intent, which stands until an operator changes it (P8). Placements go
    /// elsewhere, and each of its nodes hands over what it owns, one by one: actors with a [`Snapshot`](crate::Snapshot)
    /// take their state along, others start again from their arguments (G5). Actors and grains that are not global
    /// stay. `dcctl dc intent` does the same from anywhere.
    ///
    /// # Errors
    ///
    /// [`Error::OwnershipUnavailable`] where the intent could not be written: it may be, if the answer was lost.
    pub async fn drain(&self, options: DrainOptions) -> Result<Drain, Error> {
        Drain::begin(self.node.clone(), options).await
    }

    /// What has happened to this node's part in global ownership since the start, by name; empty where it has none.
    pub fn ownership_stats(&self) -> Vec<(&'static str, u64)> {
        self.node.try_global().map(|global| global.ownership.stats().pairs()).unwrap_or_default()
    }

    /// Ends this node's part of the system, in this order (D6): no new actors and no new grains; what it owns of global
    /// names and grains handed over, to this datacenter first, within the shutdown grace; leadership handed
    /// over (or, on the last node, the datacenter deregistered); actors stopped, after what is in their mailboxes;
    /// its session ended; links closed; the cluster left. A second call waits for the first one to come to its end, and succeeds. An actor
    /// must not wait for it: it would wait for its own end.
    ///
    /// Once begun it goes on to its end: dropping the future only stops waiting for it.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] where actors did not end in time and were killed; everything else was done all the same.
    /// [`Error::Other`] where a step panicked (the rest was aborted), or where the runtime ended before the shutdown.
    pub async fn shutdown(&self) -> Result<(), Error> {
        shutdown::run(&self.node).await
    }
}

impl fmt::Debug for ActorSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorSystem").field("node", &self.node.label()).field("handle", &self.handle.is_some()).finish()
    }
}

/// A bug on purpose, to show that a simulation finds it.
#[cfg(feature = "simulation")]
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// A global actor takes in work without looking at its title.
    NoTitle,
    /// What an owner sends is taken in whatever its epoch is.
    AnySender,
}

/// What the routing table knows of one datacenter.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DataCenterInfo {
    /// Name, region, zone, labels.
    pub data_center: DataCenter,
    /// The state that its leader wrote.
    pub state: DataCenterState,
    /// What its operator wants.
    pub intent: dc_core::IntentKind,
    /// The epoch of its record: how often that changed owners.
    pub epoch: dc_core::Epoch,
    /// Its nodes.
    pub endpoints: Vec<NodeEndpoint>,
    /// Whether it takes new actors.
    pub takes_placements: bool,
    /// Whether it takes lookups and messages.
    pub takes_traffic: bool,
}

impl DataCenterInfo {
    fn of(entry: &dc_core::snapshot::Entry) -> Self {
        Self {
            data_center: entry.data_center().clone(),
            state: entry.record().state,
            endpoints: entry.endpoints().to_vec(),
            intent: entry.wanted(),
            epoch: entry.record().epoch,
            takes_placements: entry.takes_placements(),
            takes_traffic: entry.takes_traffic(),
        }
    }

    /// Its identity.
    pub fn id(&self) -> &DataCenterId {
        self.data_center.id()
    }
}

/// The way from an actor to its system, without keeping that alive.
#[derive(Clone, Debug, Default)]
pub(crate) struct WeakSystem(Weak<Node>);

impl WeakSystem {
    pub(crate) fn new(node: Weak<Node>) -> Self {
        Self(node)
    }

    pub(crate) fn node(&self) -> Option<Arc<Node>> {
        self.0.upgrade()
    }

    /// The system, as actors see it: no handle whose end would abort anything.
    pub(crate) fn upgrade(&self) -> Option<ActorSystem> {
        self.node().map(|node| ActorSystem { node, handle: None })
    }
}
