//! What the parts of a running system share.

use std::{
    fmt,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use dc_cache::RoutingTable;
use dc_cluster::{Cluster, Directory};
use dc_controller::{Controller, OwnsGlobal};
use dc_controlplane::ControlPlane;
use dc_core::{DataCenter, DataCenterId, DcView, Endpoint, NodeId, SharedClock};
use dc_placement::Strategy;
use dc_remoting::{Peer, PeerTarget, Remoting};
use parking_lot::Mutex;
use tokio::{sync::watch, task::AbortHandle};

use super::{WeakSystem, actors::Actors};
use crate::{
    authority::Guard,
    error::Error,
    events::EventBus,
    global::Global,
    grain::Grains,
    host::Host,
    kind::Kinds,
    lookup::FoundNames,
    message::{RemoteActor, RemoteMessage},
    reference::Location,
    watch::Watches,
};

/// Times and choices; the defaults are stated here and nowhere else.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) ask_timeout: Duration,
    pub(crate) spawn_timeout: Duration,
    pub(crate) lookup_timeout: Duration,
    pub(crate) shutdown_grace: Duration,
    pub(crate) strategy: Strategy,
    pub(crate) fail_on_stale_cache: bool,
    pub(crate) max_watches: usize,
    /// Without it, other datacenters may do anything.
    pub(crate) guard: Option<Arc<Guard>>,
    /// A bug on purpose.
    #[cfg(feature = "simulation")]
    pub(crate) plant: Option<super::Plant>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ask_timeout: Duration::from_secs(5),
            spawn_timeout: Duration::from_secs(10),
            lookup_timeout: Duration::from_secs(2),
            shutdown_grace: Duration::from_secs(10),
            strategy: Strategy::Random,
            fail_on_stale_cache: true,
            max_watches: 65_536,
            guard: None,
            #[cfg(feature = "simulation")]
            plant: None,
        }
    }
}

/// What a node is made of when its parts have started.
pub(crate) struct Made {
    pub(crate) plane: Arc<dyn ControlPlane>,
    pub(crate) data_center: DataCenter,
    pub(crate) id: NodeId,
    pub(crate) endpoint: Endpoint,
    pub(crate) options: Options,
    pub(crate) clock: SharedClock,
    pub(crate) kinds: Kinds,
    pub(crate) remoting: Remoting,
    pub(crate) cluster: Cluster,
    pub(crate) table: RoutingTable,
    pub(crate) controller: Controller,
    pub(crate) seed: u64,
}

/// A running node.
pub(crate) struct Node {
    this: Weak<Self>,
    plane: Arc<dyn ControlPlane>,
    data_center: DataCenter,
    id: NodeId,
    endpoint: Endpoint,
    options: Options,
    clock: SharedClock,
    bus: EventBus,
    kinds: Kinds,
    actors: Actors,
    grains: Grains,
    names: FoundNames,
    watches: Watches,
    global: OnceLock<Arc<Global>>,
    remoting: Remoting,
    /// Dropped, this node falls silent.
    cluster: Mutex<Option<Cluster>>,
    directory: Directory,
    view: watch::Receiver<Arc<DcView>>,
    table: RoutingTable,
    controller: Mutex<Option<Controller>>,
    ready: watch::Sender<bool>,
    /// New actors and grains are taken.
    accepting: AtomicBool,
    /// Shutdown or abort has begun.
    ending: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
    draws: AtomicU64,
}

impl Node {
    pub(crate) fn new(made: Made) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            plane: made.plane,
            data_center: made.data_center,
            id: made.id,
            endpoint: made.endpoint,
            options: made.options,
            grains: Grains::new(made.clock.clone()),
            global: OnceLock::new(),
            clock: made.clock,
            bus: EventBus::new(),
            kinds: made.kinds,
            actors: Actors::new(),
            names: FoundNames::default(),
            watches: Watches::new(),
            remoting: made.remoting,
            view: made.cluster.view(),
            directory: made.cluster.directory().clone(),
            cluster: Mutex::new(Some(made.cluster)),
            table: made.table,
            controller: Mutex::new(Some(made.controller)),
            ready: watch::Sender::new(false),
            accepting: AtomicBool::new(true),
            ending: AtomicBool::new(false),
            tasks: Mutex::default(),
            draws: AtomicU64::new(made.seed),
        })
    }

    pub(crate) fn weak(&self) -> WeakSystem {
        WeakSystem::new(self.this.clone())
    }

    pub(crate) fn id(&self) -> NodeId {
        self.id
    }

    pub(crate) fn data_center(&self) -> &DataCenter {
        &self.data_center
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn clock(&self) -> &SharedClock {
        &self.clock
    }

    pub(crate) fn bus(&self) -> &EventBus {
        &self.bus
    }

    pub(crate) fn kinds(&self) -> &Kinds {
        &self.kinds
    }

    pub(crate) fn actors(&self) -> &Actors {
        &self.actors
    }

    pub(crate) fn grains(&self) -> &Grains {
        &self.grains
    }

    pub(crate) fn names(&self) -> &FoundNames {
        &self.names
    }

    pub(crate) fn watches(&self) -> &Watches {
        &self.watches
    }

    pub(crate) fn remoting(&self) -> &Remoting {
        &self.remoting
    }

    pub(crate) fn take_cluster(&self) -> Option<Cluster> {
        self.cluster.lock().take()
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    pub(crate) fn table(&self) -> &RoutingTable {
        &self.table
    }

    pub(crate) fn view(&self) -> Arc<DcView> {
        self.view.borrow().clone()
    }

    pub(crate) fn views(&self) -> watch::Receiver<Arc<DcView>> {
        self.view.clone()
    }

    pub(crate) fn host(&self) -> Host {
        Host { clock: self.clock.clone(), bus: self.bus.clone(), system: self.weak() }
    }

    /// How the node is called in errors and logs.
    pub(crate) fn label(&self) -> String {
        format!("{} of {}", self.id.short(), self.data_center.id())
    }

    /// Where an actor of this node is.
    pub(crate) fn location(&self, actor: u64) -> Location {
        Location { dc: self.data_center.id().clone(), node: self.id, endpoint: self.endpoint.clone(), actor }
    }

    pub(crate) fn plane(&self) -> &Arc<dyn ControlPlane> {
        &self.plane
    }

    /// The way to tell the registrar what its datacenter owns; `None` once the node ends.
    pub(crate) fn owns_global(&self) -> Option<OwnsGlobal> {
        self.controller.lock().as_ref().map(Controller::owns_global)
    }

    /// Whether this bug was planted, to show that a simulation finds it.
    #[cfg(feature = "simulation")]
    pub(crate) fn plants(&self, plant: super::Plant) -> bool {
        self.options.plant == Some(plant)
    }

    /// What this node has of global ownership, if the control plane keeps any.
    pub(crate) fn try_global(&self) -> Option<&Arc<Global>> {
        self.global.get()
    }

    pub(crate) fn set_global(&self, global: Arc<Global>) {
        // Set once, at the start.
        let _ = self.global.set(global);
    }

    /// Whether what this node owns may still start here: also while it hands over what it has.
    ///
    /// # Errors
    ///
    /// [`Error::ShuttingDown`].
    pub(crate) fn accepting_owned(&self) -> Result<(), Error> {
        self.accepting()
    }

    pub(crate) fn forget_global(&self, name: &str, at: &Location) {
        if let Some(global) = self.try_global() {
            global.forget(name, at);
        }
    }

    /// The peer at `endpoint`, which must be `node` of `dc`. What a record says of where nodes are is proved by
    /// certificates only if its datacenter is asked for too.
    pub(crate) fn peer_of(&self, dc: &DataCenterId, endpoint: &Endpoint, node: NodeId) -> Peer {
        self.remoting.peer(PeerTarget { endpoint: endpoint.clone(), dc: Some(dc.clone()), node: Some(node) })
    }

    /// The peer at `endpoint`, which must be `node`.
    pub(crate) fn peer(&self, endpoint: &Endpoint, node: NodeId) -> Peer {
        self.remoting.peer(PeerTarget::node(endpoint.clone(), node))
    }

    /// A number that no other call gets: seeds placement and backoff.
    pub(crate) fn draw(&self) -> u64 {
        dc_core::snapshot::hash::mix(self.draws.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed))
    }

    /// Refuses a message that this node knows its target does not list; what it does not know, the target decides.
    pub(crate) fn lists<A: RemoteActor, M: RemoteMessage>(&self) -> Result<(), Error> {
        match self.kinds.lists::<A, M>() {
            Some(false) => Err(crate::send::not_listed::<A, M>()),
            Some(true) | None => Ok(()),
        }
    }

    /// Whether new actors are taken.
    ///
    /// # Errors
    ///
    /// [`Error::ShuttingDown`].
    pub(crate) fn accepting(&self) -> Result<(), Error> {
        if self.accepting.load(Ordering::Acquire) { Ok(()) } else { Err(Error::ShuttingDown { node: self.label() }) }
    }

    pub(crate) fn stop_accepting(&self) {
        self.accepting.store(false, Ordering::Release);
    }

    pub(crate) fn ready(&self) -> bool {
        *self.ready.borrow()
    }

    pub(crate) fn set_ready(&self) -> bool {
        self.ready.send_if_modified(|ready| !std::mem::replace(ready, true))
    }

    pub(crate) async fn wait_ready(&self) {
        // The sender lives as long as `self`.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    pub(crate) fn take_controller(&self) -> Option<Controller> {
        self.controller.lock().take()
    }

    /// Runs `task` until it ends or the node does.
    pub(crate) fn keep(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().push(tokio::spawn(task).abort_handle());
    }

    /// True for the first caller only: it ends the node.
    pub(crate) fn begin_end(&self) -> bool {
        !self.ending.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn stop_tasks(&self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }

    /// Ends everything at once, as far as that can be done without waiting.
    pub(crate) fn abort(&self) {
        self.stop_accepting();
        self.stop_tasks();
        drop(self.take_controller());
        self.watches.close();
        for cell in self.actors.all() {
            cell.kill();
        }
        // References may outlive the system, and this node with them: what others see of it ends here.
        drop(self.take_cluster());
        let (remoting, global) = (self.remoting.clone(), self.try_global().cloned());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { remoting.shutdown(Duration::ZERO).await });
            // All titles end at once; others may take over as soon as the store knows.
            runtime.spawn(async move {
                if let Some(global) = global {
                    global.ownership.stop().await;
                }
            });
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label())
    }
}
