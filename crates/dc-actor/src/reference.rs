//! References to actors: where one is, and the way there.

use std::{
    cell::RefCell,
    fmt,
    hash::{Hash, Hasher},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use dc_core::{DataCenterId, Endpoint, NodeId};
use dc_remoting::{Pair, Peer, PeerTarget, Symbol};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    activation::Activation,
    error::Error,
    global::Located,
    host::{Cell, Key},
    link,
    message::{Handles, RemoteActor, RemoteMessage},
    mobile::{Mobile, What},
    send::{Ask, Target, Tell},
    system::{ActorSystem, Node, WeakSystem},
};

/// Where an actor is: the run of a node, and the actor's number there. Never reused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Location {
    pub(crate) dc: DataCenterId,
    pub(crate) node: NodeId,
    pub(crate) endpoint: Endpoint,
    pub(crate) actor: u64,
}

/// A reference to one actor, wherever it lives. Cheap to clone; can be sent inside messages and used at the other end.
///
/// It means this very actor: once the actor has stopped, sends fail with
/// [`ActorStopped`](Error::ActorStopped) or [`ActorNotFound`](Error::ActorNotFound), also if another has its name.
/// Messages that are sent through one reference and its clones, or by one actor, arrive in the order sent (R1).
pub struct Ref<A: RemoteActor> {
    inner: Arc<RefInner<A>>,
}

struct RefInner<A: RemoteActor> {
    /// Of a global one: where it was when this was made.
    at: Located,
    key: Key,
    route: OnceLock<Route<A>>,
}

/// The way to an actor.
pub(crate) enum Route<A: RemoteActor> {
    /// It lives on this node.
    Here(Arc<Cell<A>>),
    /// It lives on another node.
    There(Way),
    /// It lived on this node, and does no more.
    Gone,
    /// It is global: where it is now is found out as it moves.
    Mobile(Arc<Mobile<A>>),
}

/// The way to an actor on another node.
pub(crate) struct Way {
    pub(crate) node: Arc<Node>,
    pub(crate) at: Location,
    pub(crate) kind: Symbol,
    pub(crate) key: Bytes,
    /// The epoch that is known of a global target, else 0.
    pub(crate) epoch: u64,
    peer: Peer,
    pair: Pair,
}

impl Way {
    /// The ordered channel of `sender`: its own, or that of the reference (R1).
    pub(crate) fn pair(&self, sender: Option<&Activation>) -> Pair {
        match sender {
            Some(sender) => sender.pair(&self.at, || self.peer.pair()),
            None => self.pair.clone(),
        }
    }
}

impl<A: RemoteActor> Route<A> {
    pub(crate) fn find(node: &Arc<Node>, located: &Located, key: &Key) -> Self {
        match key {
            Key::Global(name) => {
                let what = What::Name(name.clone());
                Self::Mobile(Arc::new(Mobile::known_at(node.clone(), what, located.clone())))
            }
            Key::Anonymous | Key::Name(_) | Key::Grain(_) => Self::to(node, located, key),
        }
    }

    /// The way to this very place.
    pub(crate) fn to(node: &Arc<Node>, located: &Located, key: &Key) -> Self {
        let Located { at, epoch } = located;
        if at.node == node.id() {
            let cell = node.actors().get(at.actor).and_then(|cell| cell.into_any().downcast().ok());
            return cell.map_or(Self::Gone, Self::Here);
        }
        let target = PeerTarget { endpoint: at.endpoint.clone(), dc: Some(at.dc.clone()), node: Some(at.node) };
        let peer = node.remoting().peer(target);
        let pair = peer.pair();
        let key = match key {
            Key::Grain(id) | Key::Global(id) => Bytes::copy_from_slice(id.as_bytes()),
            Key::Anonymous | Key::Name(_) => Bytes::new(),
        };
        let (kind, epoch) = (link::kind_symbol::<A>(), *epoch);
        Self::There(Way { node: node.clone(), at: at.clone(), kind, key, epoch, peer, pair })
    }
}

impl<A: RemoteActor> Ref<A> {
    /// A reference to an actor of this node.
    pub(crate) fn local(cell: Arc<Cell<A>>) -> Option<Self> {
        let core = cell.core();
        let node = core.host.system.node()?;
        let epoch = core.owned.as_ref().map_or(0, |owned| owned.title.epoch().0);
        let (at, key) = (Located { at: node.location(core.number), epoch }, core.key.clone());
        let route = match &key {
            Key::Global(_) => Route::find(&node, &at, &key),
            Key::Anonymous | Key::Name(_) | Key::Grain(_) => Route::Here(cell),
        };
        Some(Self { inner: Arc::new(RefInner { at, key, route: OnceLock::from(route) }) })
    }

    /// A reference to the actor at `at`.
    pub(crate) fn at(node: &Arc<Node>, at: impl Into<Located>, key: Key) -> Self {
        let at = at.into();
        let route = OnceLock::from(Route::find(node, &at, &key));
        Self { inner: Arc::new(RefInner { at, key, route }) }
    }

    /// Sends a message; `.await` ends when it was accepted for delivery, no more (A4).
    pub fn tell<M>(&self, message: M) -> Tell<A, M>
    where
        A: Handles<M>,
        M: RemoteMessage,
    {
        Tell::new(Target::Ref(self.clone()), message)
    }

    /// Sends a message; `.await` ends with the answer.
    pub fn ask<M>(&self, message: M) -> Ask<A, M>
    where
        A: Handles<M>,
        M: RemoteMessage,
    {
        Ask::new(Target::Ref(self.clone()), message)
    }

    /// The datacenter where the actor lives; of a global one, where it lived when this reference was made.
    pub fn data_center(&self) -> &DataCenterId {
        &self.inner.at.at.dc
    }

    /// The node where the actor lives; of a global one, where it lived when this reference was made.
    pub fn node(&self) -> NodeId {
        self.inner.at.at.node
    }

    /// Whether it means whoever owns a global name: then messages follow it as it moves.
    pub fn is_global(&self) -> bool {
        matches!(self.inner.key, Key::Global(_))
    }

    /// Its name, per-DC or global, if it has one.
    pub fn name(&self) -> Option<&str> {
        match &self.inner.key {
            Key::Name(name) | Key::Global(name) => Some(name),
            Key::Anonymous | Key::Grain(_) => None,
        }
    }

    /// Where it is; of a global one: where it was when this was made.
    pub(crate) fn located(&self) -> &Located {
        &self.inner.at
    }

    pub(crate) fn key(&self) -> &Key {
        &self.inner.key
    }

    /// The way there; found at first use where the reference was read outside of a system.
    pub(crate) fn route(&self) -> Result<&Route<A>, Error> {
        if let Some(route) = self.inner.route.get() {
            return Ok(route);
        }
        let node = Activation::current().and_then(|here| here.core().host.system.node()).ok_or(Error::Unbound)?;
        Ok(self.inner.route.get_or_init(|| Route::find(&node, &self.inner.at, &self.inner.key)))
    }

    /// Binds a reference that was read outside of a system.
    pub(crate) fn bind(&self, node: &Arc<Node>) {
        self.inner.route.get_or_init(|| Route::find(node, &self.inner.at, &self.inner.key));
    }
}

impl<A: RemoteActor> Clone for Ref<A> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<A: RemoteActor> PartialEq for Ref<A> {
    fn eq(&self, other: &Self) -> bool {
        match (&self.inner.key, &other.inner.key) {
            // Wherever it is.
            (Key::Global(one), Key::Global(other)) => one == other,
            _ => self.inner.at == other.inner.at,
        }
    }
}

impl<A: RemoteActor> Eq for Ref<A> {}

impl<A: RemoteActor> Hash for Ref<A> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match &self.inner.key {
            Key::Global(name) => name.hash(state),
            Key::Anonymous | Key::Name(_) | Key::Grain(_) => self.inner.at.at.hash(state),
        }
    }
}

impl<A: RemoteActor> fmt::Display for Ref<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Location { dc, node, actor, .. } = &self.inner.at.at;
        match &self.inner.key {
            Key::Name(name) => write!(f, "{} {name:?} (#{actor} on {} of {dc})", A::KIND, node.short()),
            Key::Grain(id) => write!(f, "{}/{id} (#{actor} on {} of {dc})", A::KIND, node.short()),
            Key::Global(name) => write!(f, "{} {name:?} (global; #{actor} on {} of {dc})", A::KIND, node.short()),
            Key::Anonymous => write!(f, "{} #{actor} on {} of {dc}", A::KIND, node.short()),
        }
    }
}

impl<A: RemoteActor> fmt::Debug for Ref<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ref({self})")
    }
}

/// A reference on the wire.
#[derive(Serialize, Deserialize)]
struct WireRef {
    kind: String,
    at: Location,
    name: Option<String>,
    grain: Option<String>,
}

/// Stands before the epoch of a global one, in that of the two fields above which it has no use for: no name and no
/// identity begins so. Who knows nothing of epochs still reads a name, and finds the actor by its number.
const EPOCH: char = '\0';

/// An epoch in a field that would else be empty.
fn write_epoch(epoch: u64) -> Option<String> {
    (epoch != 0).then(|| format!("{EPOCH}{epoch}"))
}

fn read_epoch(field: Option<&String>) -> Option<u64> {
    field?.strip_prefix(EPOCH)?.parse().ok()
}

impl<A: RemoteActor> Serialize for Ref<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Located { at, epoch } = self.inner.at.clone();
        let (name, grain) = match &self.inner.key {
            Key::Anonymous => (None, None),
            Key::Name(name) => (Some(name.to_string()), None),
            Key::Global(name) => (Some(name.to_string()), write_epoch(epoch.max(1))),
            Key::Grain(id) => (write_epoch(epoch), Some(id.to_string())),
        };
        WireRef { kind: A::KIND.to_owned(), at, name, grain }.serialize(serializer)
    }
}

impl<'de, A: RemoteActor> Deserialize<'de> for Ref<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let WireRef { kind, at, name, grain } = WireRef::deserialize(deserializer)?;
        if kind != A::KIND {
            return Err(D::Error::custom(format!("a reference to a {kind:?}, not to a {:?}", A::KIND)));
        }
        let (of_name, of_grain) = (read_epoch(grain.as_ref()), read_epoch(name.as_ref()));
        let epoch = of_name.or(of_grain).unwrap_or_default();
        let key = match (name, grain) {
            (Some(name), Some(_)) if of_name.is_some() => Key::Global(name.into()),
            (Some(_), Some(id)) if of_grain.is_some() => Key::Grain(id.into()),
            (Some(name), _) => Key::Name(name.into()),
            (None, Some(id)) => Key::Grain(id.into()),
            (None, None) => Key::Anonymous,
        };
        let at = Located { at, epoch };
        let read = Self { inner: Arc::new(RefInner { at, key, route: OnceLock::new() }) };
        if let Some(node) = reading_for() {
            read.bind(&node);
        }
        Ok(read)
    }
}

thread_local! {
    /// The system for which this thread is reading a message just now.
    static READING: RefCell<Option<WeakSystem>> = const { RefCell::new(None) };
}

/// The system for which something is being read: that of the message, else that of the present actor.
pub(crate) fn reading_for() -> Option<Arc<Node>> {
    READING
        .with_borrow(|reading| reading.as_ref().and_then(WeakSystem::node))
        .or_else(|| Activation::current().and_then(|here| here.core().host.system.node()))
}

impl WeakSystem {
    /// Runs `read`, binding the references that it reads to this system.
    pub(crate) fn while_reading<T>(&self, read: impl FnOnce() -> T) -> T {
        let _back = Back(READING.replace(Some(self.clone())));
        read()
    }
}

/// Puts the former system back, also when reading panics.
struct Back(Option<WeakSystem>);

impl Drop for Back {
    fn drop(&mut self) {
        READING.set(self.0.take());
    }
}

impl ActorSystem {
    /// Binds a reference that was read outside of messages (from a file, say) to this system.
    pub fn bind<A: RemoteActor>(&self, reference: &Ref<A>) {
        reference.bind(self.node());
    }
}
