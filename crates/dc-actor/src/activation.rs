//! Which actor is running on this task.

use std::{any::Any, collections::HashMap, fmt, future::Future, sync::Arc};

use dc_core::{Epoch, NodeId};
use dc_ownership::title::Title;
use dc_remoting::Pair;
use parking_lot::Mutex;

use crate::{
    host::{Core, Key},
    message::RemoteActor,
    reference::{Location, Ref},
    system::ActorSystem,
};

tokio::task_local! {
    static CURRENT: Activation;
}

/// The actor that runs on the present task, for places that have no [`Context`](crate::Context): `on_start`,
/// `on_stop`, and functions that handlers call.
///
/// It is bound to the actor's own task: tasks that the actor spawns do not have it.
#[derive(Clone)]
pub struct Activation(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    cell: Arc<dyn Any + Send + Sync>,
    pairs: Mutex<HashMap<(NodeId, u64), Pair>>,
}

/// Ordered channels that one actor keeps at most. Beyond, it starts over: only messages that are under way at that
/// moment may then be overtaken.
const MAX_PAIRS: usize = 8_192;

impl Activation {
    pub(crate) fn new(core: Arc<Core>, cell: Arc<dyn Any + Send + Sync>) -> Self {
        Self(Arc::new(Inner { core, cell, pairs: Mutex::default() }))
    }

    /// This actor's ordered channel to the actor at `to` (R1): the same whichever reference it sends through.
    pub(crate) fn pair(&self, to: &Location, make: impl FnOnce() -> Pair) -> Pair {
        let mut pairs = self.0.pairs.lock();
        if pairs.len() >= MAX_PAIRS {
            pairs.clear();
        }
        pairs.entry((to.node, to.actor)).or_insert_with(make).clone()
    }

    /// The actor that runs on this task, if it was started by an [`ActorSystem`].
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// The system that the actor lives in.
    pub fn system(&self) -> Option<ActorSystem> {
        self.0.core.host.system.upgrade()
    }

    /// The actor itself, as others refer to it; `None` if `A` is not its type.
    pub fn this<A: RemoteActor>(&self) -> Option<Ref<A>> {
        let cell = self.0.cell.clone().downcast().ok()?;
        Ref::local(cell)
    }

    /// Its name, per-DC or global, if it has one.
    pub fn name(&self) -> Option<&str> {
        match &self.0.core.key {
            Key::Name(name) | Key::Global(name) => Some(name),
            Key::Anonymous | Key::Grain(_) => None,
        }
    }

    /// The grain's identity, if it is one.
    pub fn grain_id(&self) -> Option<&str> {
        match &self.0.core.key {
            Key::Grain(id) => Some(id),
            Key::Anonymous | Key::Name(_) | Key::Global(_) => None,
        }
    }

    /// By which proof it works, if it is global (G2). There from `on_start` on: an activation presents its epoch to
    /// its storage before it loads its state from there.
    pub fn ownership(&self) -> Option<OwnershipView> {
        self.0.core.owned.as_ref().map(|owned| OwnershipView(owned.title.clone()))
    }

    /// 1 in the first incarnation, one higher after each restart.
    pub fn epoch(&self) -> u64 {
        self.0.core.epoch()
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    pub(crate) fn cell<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0.cell.clone().downcast().ok()
    }

    /// Whether the actor of `core` runs on this task.
    pub(crate) fn is_current(core: &Arc<Core>) -> bool {
        CURRENT.try_with(|current| Arc::ptr_eq(&current.0.core, core)).unwrap_or(false)
    }

    pub(crate) fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }
}

/// The proof by which a global actor works, as it sees it.
#[derive(Clone, Debug)]
pub struct OwnershipView(Title);

impl OwnershipView {
    /// The epoch of this ownership: the fencing token. It never falls or repeats while the store keeps its data (G3).
    /// A storage that refuses a lower epoch than the highest it has seen is written by one owner at a time.
    pub fn epoch(&self) -> Epoch {
        self.0.epoch()
    }

    /// Whether it holds at this moment. Checked anyway before each handler starts and before what it did leaves;
    /// of use within long handlers, before something that cannot be taken back.
    pub fn holds(&self) -> bool {
        self.0.check().is_ok()
    }
}

impl fmt::Debug for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.core.fmt(f)
    }
}
