//! Grains: virtual actors, by identity. A message to a grain is handled by one activation, and never broadcast (G1).
//!
//! A message goes to where the grain is; where that is, is found out first ([`locate`]): the home datacenter is
//! chosen by all nodes alike (rendezvous hashing over the routing table), the node inside it by the datacenter's
//! directory, where the activation's claim makes it the only one ([`activate`]). Locations are remembered until the
//! holder says that the grain is not there. When a grain goes to rest, what comes too late for it is passed on, or
//! its asker looks again ([`redirect`](redirect())): nothing is run twice, and nothing is run elsewhere because a
//! call failed.
//!
//! Reading order: [`GrainRef`], [`locate`], [`activate`], [`rest`], [`redirect`](redirect()), [`astray`].

mod activate;
mod astray;
mod locate;
mod redirect;
mod rest;

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use dc_core::{DataCenterId, DataCenterSelector, NodeId, SharedClock};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

pub(crate) use self::{
    activate::{Begun, asked_to_activate, begin, note_active, note_ended},
    astray::settle_doubts,
    locate::{NotFound, asked_to_locate, asked_to_peek, known, locate},
    redirect::{dead, label, passed_all, redirect},
    rest::put_to_rest,
};
use crate::{
    global::{Located, PlaceIn},
    host::AnyCell,
    message::{Handles, RemoteActor, RemoteMessage},
    mobile::{Mobile, What},
    reference::{Location, reading_for},
    send::{Ask, Target, Tell},
    system::Node,
};

/// A grain by its identity, active or not. Cheap to clone.
///
/// The first message that reaches it makes it active. Messages that are sent through one `GrainRef` and its clones,
/// or by one actor, arrive in the order sent while it stays active (R1).
pub struct GrainRef<A: RemoteActor> {
    inner: Arc<Inner<A>>,
}

struct Inner<A: RemoteActor> {
    id: Arc<str>,
    mobile: Mobile<A>,
}

impl<A: RemoteActor> GrainRef<A> {
    pub(crate) fn new(node: Arc<Node>, id: String) -> Self {
        let id: Arc<str> = id.into();
        Self { inner: Arc::new(Inner { mobile: Mobile::new(node, What::Grain(id.clone())), id }) }
    }

    /// The identity.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// Sends a message; `.await` ends when it was accepted for delivery, no more (A4).
    pub fn tell<M>(&self, message: M) -> Tell<A, M>
    where
        A: Handles<M>,
        M: RemoteMessage,
    {
        Tell::new(Target::Grain(self.clone()), message)
    }

    /// Sends a message; `.await` ends with the answer.
    pub fn ask<M>(&self, message: M) -> Ask<A, M>
    where
        A: Handles<M>,
        M: RemoteMessage,
    {
        Ask::new(Target::Grain(self.clone()), message)
    }

    /// Has this grain live in datacenters that match, whatever its slot does: one of their nodes takes it over from its
    /// owner, with its state if its kind has [`snapshots`](crate::GrainBuilder::snapshots), under a higher epoch.
    /// Messages that come meanwhile follow it in order (G5). It need not be active, and is not made so.
    ///
    /// From then on it is owned by itself, as its kind's policy says, with `to` as what it prefers: taken over when its
    /// node or datacenter is lost, moved by a drain, and taken back to `to` where failback is automatic. Where it lives
    /// there already, it stays. Asking again is safe; placing it again elsewhere is the way to take it away.
    ///
    /// ```no_run
    /// # use dc_actor::{ActorSystem, Error, RemoteActor};
    /// # use dc_core::Selector;
    /// # #[derive(kameo::Actor, RemoteActor, serde::Serialize, serde::Deserialize)]
    /// # #[remote(crate = "dc_actor")] struct Cart;
    /// # async fn f(system: ActorSystem) -> Result<(), Error> {
    /// system.grain::<Cart>("user-42").place_in(Selector::region("eu-west-1")).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// An [`Error`](crate::Error): `TypeNotRegistered` where its kind is not a global one of this node;
    /// `DataCenterRecordNotFound`, `DataCenterNotReady` and `DataCenterStaleRecords` as for a spawn;
    /// `DataCenterNotRoutable` also where the kind's policy keeps it out of all of them; `Unauthorized` where its
    /// owner's datacenter does not let this one take over the kind; `Overloaded` where too many grains live elsewhere
    /// than their slots; `OwnershipUnavailable` where the hand-over was given up, and it stays. Others as for messages:
    /// where [`certainly_not_run`](crate::Error::certainly_not_run) is false, it may be moved, or be moved yet.
    pub fn place_in(&self, to: impl Into<DataCenterSelector>) -> PlaceIn<A> {
        PlaceIn::new(self.clone(), to.into())
    }

    pub(crate) fn mobile(&self) -> &Mobile<A> {
        &self.inner.mobile
    }
}

/// The key of a grain: in the directory (with `g/` before it) and for the choice of its home.
pub(crate) fn identity(kind: &str, id: &str) -> String {
    format!("{kind}/{id}")
}

/// What a node knows of grains.
pub(crate) struct Grains {
    clock: SharedClock,
    /// Those that are active here, or about to be, by kind and identity.
    here: Mutex<HashMap<(&'static str, Arc<str>), Here>>,
    /// Where others are.
    elsewhere: Mutex<HashMap<(&'static str, Arc<str>), Located>>,
    /// Since when the set of datacenters that may be homes is as it is.
    homes_since: Mutex<Instant>,
    /// Activations, and datacenters that did not say whether they had the same.
    unanswered: Mutex<Vec<(u64, DataCenterId)>>,
    redirects: redirect::Redirects,
}

/// A grain of this node.
#[derive(Clone)]
enum Here {
    /// Somebody is making it active.
    Rising(Arc<tokio::sync::SetOnce<()>>),
    /// It is active, or going to rest (then its gate is closed).
    Active(Arc<dyn AnyCell>),
}

/// Locations remembered at most; beyond, all are forgotten and found again.
const MAX_LOCATIONS: usize = 262_144;

impl Grains {
    pub(crate) fn new(clock: SharedClock) -> Self {
        let homes_since = Mutex::new(clock.now());
        Self {
            clock,
            here: Mutex::default(),
            elsewhere: Mutex::default(),
            homes_since,
            unanswered: Mutex::default(),
            redirects: redirect::Redirects::default(),
        }
    }

    fn remembered(&self, kind: &'static str, id: &Arc<str>) -> Option<Located> {
        self.elsewhere.lock().get(&(kind, id.clone())).cloned()
    }

    fn remember(&self, kind: &'static str, id: &Arc<str>, at: &Located) {
        let mut elsewhere = self.elsewhere.lock();
        if elsewhere.len() >= MAX_LOCATIONS {
            elsewhere.clear();
        }
        elsewhere.insert((kind, id.clone()), at.clone());
    }

    pub(crate) fn forget(&self, kind: &'static str, id: &Arc<str>, at: &Location) {
        let mut elsewhere = self.elsewhere.lock();
        if elsewhere.get(&(kind, id.clone())).is_some_and(|found| found.at == *at) {
            elsewhere.remove(&(kind, id.clone()));
        }
    }

    fn forget_number(&self, kind: &'static str, id: &str, node: NodeId, actor: u64) {
        let key = (kind, Arc::from(id));
        let mut elsewhere = self.elsewhere.lock();
        if elsewhere.get(&key).is_some_and(|found| (found.at.node, found.at.actor) == (node, actor)) {
            elsewhere.remove(&key);
        }
    }

    /// Keeps only what `alive` still knows.
    pub(crate) fn retain(&self, alive: impl Fn(&Location) -> bool) {
        self.elsewhere.lock().retain(|_, found| alive(&found.at));
    }

    /// The set of datacenters that may be homes has changed.
    pub(crate) fn homes_changed(&self) {
        *self.homes_since.lock() = self.clock.now();
    }

    fn homes_since(&self) -> Instant {
        *self.homes_since.lock()
    }

    fn homes_stood_for(&self) -> Duration {
        self.clock.now().saturating_duration_since(self.homes_since())
    }
}

/// The grains that are active on this node.
fn active(node: &Node) -> Vec<Arc<dyn AnyCell>> {
    let here = node.grains().here.lock();
    here.values()
        .filter_map(|here| match here {
            Here::Active(cell) => Some(cell.clone()),
            Here::Rising(_) => None,
        })
        .collect()
}

/// A grain's identity on the wire.
#[derive(Serialize, Deserialize)]
struct WireGrain {
    kind: String,
    id: String,
}

impl<A: RemoteActor> Serialize for GrainRef<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        WireGrain { kind: A::KIND.to_owned(), id: self.inner.id.to_string() }.serialize(serializer)
    }
}

/// Reads inside messages, answers and arguments, and in actors; elsewhere there is no system to find the grain with:
/// send its identity, and take [`ActorSystem::grain`](crate::ActorSystem::grain).
impl<'de, A: RemoteActor> Deserialize<'de> for GrainRef<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let WireGrain { kind, id } = WireGrain::deserialize(deserializer)?;
        if kind != A::KIND {
            return Err(D::Error::custom(format!("a grain of kind {kind:?}, not {:?}", A::KIND)));
        }
        let node = reading_for().ok_or_else(|| D::Error::custom("a grain cannot be read outside of a system"))?;
        Ok(Self::new(node, id))
    }
}

impl<A: RemoteActor> Clone for GrainRef<A> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<A: RemoteActor> fmt::Display for GrainRef<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", A::KIND, self.inner.id)
    }
}

impl<A: RemoteActor> fmt::Debug for GrainRef<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GrainRef({self})")
    }
}
