//! Grains: virtual actors, by identity. A message to a grain is handled by one activation, and never broadcast (G1).
//!
//! A message goes to where the grain is; where that is, is found out first ([`locate`]): the home datacenter is
//! chosen by all nodes alike (rendezvous hashing over the routing table), the node inside it by the datacenter's
//! directory, where the activation's claim makes it the only one ([`activate`]). Locations are remembered until the
//! holder says that the grain is not there. When a grain goes to rest, what comes too late for it is passed on, or
//! its asker looks again ([`redirect`](redirect())): nothing is run twice, and nothing is run elsewhere because a
//! call failed.
//!
//! Reading order: [`GrainRef`], [`locate`], [`activate`], [`rest`], [`redirect`](redirect()).

mod activate;
mod locate;
mod redirect;
mod rest;

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use dc_core::{NodeId, SharedClock};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

pub(crate) use self::{
    activate::asked_to_activate,
    locate::{asked_to_locate, asked_to_peek},
    redirect::redirect,
    rest::put_to_rest,
};
use crate::{
    activation::Activation,
    error::{AskError, Error},
    host::{AnyCell, Key},
    message::{Handles, RemoteActor, RemoteMessage},
    reference::{Location, Route, reading_for},
    send::{Ask, Payload, Target, Tell, ask_by, tell_by},
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
    node: Arc<Node>,
    id: Arc<str>,
    route: ArcSwapOption<Known<A>>,
    /// One at a time looks for the grain; the others wait, in order.
    looking: tokio::sync::Mutex<()>,
}

struct Known<A: RemoteActor> {
    at: Location,
    route: Route<A>,
}

impl<A: RemoteActor> GrainRef<A> {
    pub(crate) fn new(node: Arc<Node>, id: String) -> Self {
        let (route, looking) = (ArcSwapOption::empty(), tokio::sync::Mutex::new(()));
        Self { inner: Arc::new(Inner { node, id: id.into(), route, looking }) }
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

    async fn known(&self, until: Instant) -> Result<Arc<Known<A>>, locate::NotFound> {
        if let Some(known) = self.inner.route.load_full() {
            return Ok(known);
        }
        let node = &self.inner.node;
        let left = until.saturating_duration_since(node.clock().now());
        let found = tokio::time::timeout(left, self.look(until)).await;
        found.unwrap_or_else(|_| {
            Err(Error::Timeout { to: format!("the place of {self}"), after: left, not_run: true }.into())
        })
    }

    /// Looks for the grain, one message at a time. Cancel-safe: what it began goes on by itself.
    async fn look(&self, until: Instant) -> Result<Arc<Known<A>>, locate::NotFound> {
        let _turn = self.inner.looking.lock().await;
        if let Some(known) = self.inner.route.load_full() {
            return Ok(known);
        }
        let Inner { node, id, .. } = &*self.inner;
        let at = locate::locate(node, A::KIND, id, until).await?;
        let route = Route::find(node, &at, &Key::Grain(id.clone()));
        let known = Arc::new(Known { at, route });
        self.inner.route.store(Some(known.clone()));
        Ok(known)
    }

    fn forget(&self, known: &Arc<Known<A>>) {
        let Inner { node, id, route, .. } = &*self.inner;
        node.grains().forget(A::KIND, id, &known.at);
        route.rcu(|now| match now {
            Some(now) if Arc::ptr_eq(now, known) => None,
            other => other.clone(),
        });
    }

    pub(crate) async fn tell_to<M>(
        self,
        message: M,
        timeout: Option<Duration>,
        sender: Option<Activation>,
    ) -> Result<(), Error>
    where
        A: Handles<M>,
        M: RemoteMessage,
    {
        let node = &self.inner.node;
        node.lists::<A, M>()?;
        let mut payload = Payload::again(message);
        let mut tries = Tries::new(node, timeout);
        loop {
            let known = match self.known(tries.until).await {
                Ok(known) => known,
                Err(lost) => match tries.look_again(&lost).await {
                    Ok(()) => continue,
                    Err(()) => return Err(lost.error),
                },
            };
            let Err(error) = tell_by(&known.route, &mut payload, Some(tries.left()?), sender.as_ref()).await else {
                return Ok(());
            };
            self.not_there(&known, &error);
            if tries.again(&error).await.is_err() {
                return Err(error);
            }
        }
    }

    pub(crate) async fn ask_of<M>(
        self,
        message: M,
        timeout: Option<Duration>,
        sender: Option<Activation>,
    ) -> Result<<A as Handles<M>>::Ok, AskError<<A as Handles<M>>::Err>>
    where
        A: Handles<M>,
        M: RemoteMessage,
    {
        let node = &self.inner.node;
        node.lists::<A, M>()?;
        let mut payload = Payload::again(message);
        let mut tries = Tries::new(node, timeout);
        loop {
            let known = match self.known(tries.until).await {
                Ok(known) => known,
                Err(lost) => match tries.look_again(&lost).await {
                    Ok(()) => continue,
                    Err(()) => return Err(AskError::Failed(lost.error)),
                },
            };
            let left = tries.left().map_err(AskError::Failed)?;
            let error = match ask_by(&known.route, &mut payload, Some(left), sender.as_ref()).await {
                Err(AskError::Failed(error)) => error,
                answer => return answer,
            };
            self.not_there(&known, &error);
            if payload.is_spent() || tries.again(&error).await.is_err() {
                return Err(AskError::Failed(error));
            }
        }
    }

    /// Forgets where the grain was, if it is not there.
    fn not_there(&self, known: &Arc<Known<A>>, error: &Error) {
        if moved(error) {
            self.forget(known);
        }
    }
}

/// Errors that say: certainly not run, and the grain may be (or become) active elsewhere. What was queued behind a
/// failure is among them: for a grain, the next activation takes it.
fn moved(error: &Error) -> bool {
    matches!(
        error,
        Error::ActorNotFound { .. }
            | Error::ActorStopped { .. }
            | Error::Unreachable { .. }
            | Error::ShuttingDown { .. }
    )
}

/// How often, and how long, a message looks for its grain.
struct Tries<'a> {
    node: &'a Arc<Node>,
    after: Duration,
    until: Instant,
    made: u32,
}

impl<'a> Tries<'a> {
    /// With the waits between them, about a second and a half: enough for a dead node to be noticed in its datacenter.
    const MOST: u32 = 8;

    fn new(node: &'a Arc<Node>, timeout: Option<Duration>) -> Self {
        let after = timeout.unwrap_or(node.options().ask_timeout);
        Self { node, after, until: node.clock().now() + after, made: 0 }
    }

    fn left(&self) -> Result<Duration, Error> {
        let left = self.until.saturating_duration_since(self.node.clock().now());
        if left.is_zero() {
            return Err(Error::Timeout { to: "the grain".into(), after: self.after, not_run: true });
        }
        Ok(left)
    }

    /// As [`again`](Self::again), for a grain that was not found.
    async fn look_again(&mut self, lost: &locate::NotFound) -> Result<(), ()> {
        if lost.lasting { Err(()) } else { self.again(&lost.error).await }
    }

    /// Waits a little and allows another try, if the last one certainly did not run (R3) and there is time.
    async fn again(&mut self, error: &Error) -> Result<(), ()> {
        self.made += 1;
        let left = self.until.saturating_duration_since(self.node.clock().now());
        if !moved(error) || !error.certainly_not_run() || self.made >= Self::MOST || left.is_zero() {
            return Err(());
        }
        // The first time at once: going to rest is the common case.
        if self.made > 1 {
            let wait = Duration::from_millis(12 << self.made.min(6));
            let jitter = self.node.draw() % 50;
            tokio::time::sleep((wait + Duration::from_millis(jitter)).min(left)).await;
        }
        Ok(())
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
    elsewhere: Mutex<HashMap<(&'static str, Arc<str>), Location>>,
    /// Since when the set of datacenters that may be homes is as it is.
    homes_since: Mutex<Instant>,
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
            redirects: redirect::Redirects::default(),
        }
    }

    fn remembered(&self, kind: &'static str, id: &Arc<str>) -> Option<Location> {
        self.elsewhere.lock().get(&(kind, id.clone())).cloned()
    }

    fn remember(&self, kind: &'static str, id: &Arc<str>, at: &Location) {
        let mut elsewhere = self.elsewhere.lock();
        if elsewhere.len() >= MAX_LOCATIONS {
            elsewhere.clear();
        }
        elsewhere.insert((kind, id.clone()), at.clone());
    }

    fn forget(&self, kind: &'static str, id: &Arc<str>, at: &Location) {
        let mut elsewhere = self.elsewhere.lock();
        if elsewhere.get(&(kind, id.clone())) == Some(at) {
            elsewhere.remove(&(kind, id.clone()));
        }
    }

    fn forget_number(&self, kind: &'static str, id: &str, node: NodeId, actor: u64) {
        let key = (kind, Arc::from(id));
        let mut elsewhere = self.elsewhere.lock();
        if elsewhere.get(&key).is_some_and(|at| (at.node, at.actor) == (node, actor)) {
            elsewhere.remove(&key);
        }
    }

    /// The holder said that it is not there.
    pub(crate) fn forget_actor(&self, node: NodeId, actor: u64) {
        self.elsewhere.lock().retain(|_, at| (at.node, at.actor) != (node, actor));
    }

    /// Keeps only what `alive` still knows.
    pub(crate) fn retain(&self, alive: impl Fn(&Location) -> bool) {
        self.elsewhere.lock().retain(|_, at| alive(at));
    }

    /// The set of datacenters that may be homes has changed.
    pub(crate) fn homes_changed(&self) {
        *self.homes_since.lock() = self.clock.now();
    }

    fn homes_stood_for(&self) -> Duration {
        self.clock.now().saturating_duration_since(*self.homes_since.lock())
    }
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
