//! Kinds: which types of actors a node can run, and which messages each takes.
//!
//! A kind's [`Table`] is consulted for every message, from this node and from links alike, so that an unlisted
//! message fails the same way everywhere (A3).

use std::{
    any::{Any, TypeId},
    collections::{HashMap, HashSet, hash_map::Entry},
    fmt,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use dc_core::DataCenterSelector;
use dc_ownership::policy::{Failback, Loss, OnLoss, Policy, Strictness};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    codec::{Codec, Postcard, to_bytes},
    error::Error,
    host::{Actor, AnyCell, Birth, Cell, Core, Ended, RestartPolicy, start},
    link::{self, Incoming},
    message::{Handles, RemoteActor, RemoteMessage},
    snapshot::{Snapshot, Snapshots},
    system::ConfigError,
};

/// Takes one message of a link into a cell whose gate it has entered.
type TakeIn<A> = fn(&Arc<Cell<A>>, Incoming);

/// What one kind of actor takes, and how it lives.
pub(crate) struct Table<A: Actor> {
    by_name: HashMap<&'static str, TakeIn<A>>,
    by_type: HashSet<TypeId>,
    mailbox: usize,
    restart: RestartPolicy,
    snapshots: Option<Snapshots<A>>,
}

impl<A: Actor> Table<A> {
    pub(crate) fn find(&self, message: &str) -> Option<TakeIn<A>> {
        self.by_name.get(message).copied()
    }

    pub(crate) fn lists<M: 'static>(&self) -> bool {
        self.by_type.contains(&TypeId::of::<M>())
    }

    pub(crate) fn mailbox(&self) -> usize {
        self.mailbox
    }

    pub(crate) fn restart(&self) -> RestartPolicy {
        self.restart
    }

    pub(crate) fn snapshots(&self) -> Option<Snapshots<A>> {
        self.snapshots
    }
}

/// What [`KindBuilder`] and [`GrainBuilder`] have in common.
struct Listing<A: Actor> {
    table: Table<A>,
    wrong: Vec<ConfigError>,
}

impl<A: RemoteActor> Listing<A> {
    fn new() -> Self {
        let table = Table {
            by_name: HashMap::new(),
            by_type: HashSet::new(),
            mailbox: 64,
            restart: RestartPolicy::Never,
            snapshots: None,
        };
        Self { table, wrong: Vec::new() }
    }

    fn handles<M>(&mut self)
    where
        A: Handles<M>,
        M: RemoteMessage,
    {
        if !self.table.by_type.insert(TypeId::of::<M>()) {
            return;
        }
        match self.table.by_name.entry(M::NAME) {
            Entry::Vacant(vacant) => drop(vacant.insert(link::take_in::<A, M>)),
            Entry::Occupied(_) => {
                self.wrong.push(ConfigError::DuplicateMessage { kind: A::KIND, message: M::NAME });
            }
        }
    }

    fn mailbox(&mut self, capacity: usize) {
        if capacity == 0 {
            self.wrong.push(ConfigError::invalid("mailbox", capacity, "must be at least 1"));
        }
        self.table.mailbox = capacity.max(1);
    }
}

/// Describes a kind of actor that this node can run: `.actor::<Worker>(|kind| kind.handles::<Analyse>())`.
pub struct KindBuilder<A: RemoteActor>(Listing<A>);

impl<A: RemoteActor> KindBuilder<A> {
    pub(crate) fn new() -> Self {
        Self(Listing::new())
    }

    /// Lists a message type: only what is listed is handled, wherever it comes from.
    #[must_use]
    pub fn handles<M>(mut self) -> Self
    where
        A: Handles<M>,
        M: RemoteMessage,
    {
        self.0.handles::<M>();
        self
    }

    /// Messages that wait at most before senders are held back. Default 64, at least 1.
    #[must_use]
    pub fn mailbox(mut self, capacity: usize) -> Self {
        self.0.mailbox(capacity);
        self
    }

    /// Global actors of this kind take their state along when they move in good order, see [`Snapshot`].
    #[must_use]
    pub fn snapshots(mut self) -> Self
    where
        A: Snapshot,
    {
        self.0.table.snapshots = Some(Snapshots::new());
        self
    }

    /// What happens when an actor of this kind fails. Default [`RestartPolicy::Never`].
    #[must_use]
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.0.table.restart = policy;
        self
    }

    pub(crate) fn finish(self, wrong: &mut Vec<ConfigError>) -> ActorKind<A> {
        wrong.extend(self.0.wrong);
        ActorKind { table: Arc::new(self.0.table) }
    }
}

/// The default of [`GrainBuilder::idle`].
const IDLE: Duration = Duration::from_secs(300);

/// Describes a kind of grain: `.grain::<Cart>(|kind| kind.args(CartArgs::new).handles::<AddItem>())`.
pub struct GrainBuilder<A: RemoteActor> {
    listing: Listing<A>,
    args: Option<MakeArgs<A>>,
    idle: Duration,
    scope: Scope,
    policy: Policy,
    /// What was declared that only global grains have.
    only_global: Option<&'static str>,
}

type MakeArgs<A> = Arc<dyn Fn(&str) -> <A as Actor>::Args + Send + Sync>;

/// How the grains of a kind live.
#[derive(Clone, Debug)]
pub(crate) struct GrainOptions {
    pub(crate) idle: Duration,
    pub(crate) scope: GrainScope,
}

/// In how many places a grain of one identity may be active.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope {
    /// Each datacenter has its own.
    PerDataCenter,
    /// One home across all datacenters, chosen by all nodes alike from their routing tables; while these differ it may
    /// be active in two (G2). The default.
    #[default]
    OneHome,
    /// One in the world, by proof of ownership (G2, G3). Needs a control plane that keeps ownership.
    Global,
}

/// Where the grains of a kind may live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Home(DataCenterSelector);

impl Home {
    /// In datacenters that match, and never elsewhere.
    pub fn within(among: impl Into<DataCenterSelector>) -> Self {
        Self(among.into())
    }
}

impl From<Home> for DataCenterSelector {
    fn from(home: Home) -> Self {
        home.0
    }
}

/// Where the grains of a kind live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GrainScope {
    /// Each datacenter has its own.
    PerDataCenter,
    /// One home for each identity, among the datacenters that match.
    OneHome(DataCenterSelector),
    /// One in the world.
    Global(Box<Policy>),
}

impl<A: RemoteActor> GrainBuilder<A> {
    pub(crate) fn new() -> Self {
        let (scope, policy) = (Scope::default(), Policy::default());
        Self { listing: Listing::new(), args: None, idle: IDLE, scope, policy, only_global: None }
    }

    /// How an identity becomes the arguments of `on_start`. Must be given.
    #[must_use]
    pub fn args(mut self, make: impl Fn(&str) -> A::Args + Send + Sync + 'static) -> Self {
        self.args = Some(Arc::new(make));
        self
    }

    /// Lists a message type: only what is listed is handled, wherever it comes from.
    #[must_use]
    pub fn handles<M>(mut self) -> Self
    where
        A: Handles<M>,
        M: RemoteMessage,
    {
        self.listing.handles::<M>();
        self
    }

    /// Messages that wait at most before senders are held back. Default 64, at least 1.
    #[must_use]
    pub fn mailbox(mut self, capacity: usize) -> Self {
        self.listing.mailbox(capacity);
        self
    }

    /// A grain that had nothing to do for this long goes to rest. Default 5 minutes; at least 10 ms.
    #[must_use]
    pub fn idle(mut self, after: Duration) -> Self {
        if after < Duration::from_millis(10) {
            self.listing.wrong.push(ConfigError::invalid("idle", format!("{after:?}"), "must be at least 10 ms"));
        }
        self.idle = after;
        self
    }

    /// Each datacenter has its own grain of an identity. The default is one home across all datacenters.
    #[must_use]
    pub fn per_data_center(mut self) -> Self {
        self.scope = Scope::PerDataCenter;
        self
    }

    /// The home of each identity is chosen among these datacenters only; the default is among all.
    #[must_use]
    pub fn home(mut self, among: impl Into<DataCenterSelector>) -> Self {
        let among = among.into();
        if let Err(invalid) = among.check() {
            self.listing.wrong.push(invalid.into());
        }
        self.policy.within = among;
        self
    }

    /// In how many places one identity may be active. Default [`Scope::OneHome`].
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// Of global grains: the greatest loss that they survive. Default [`Loss::Node`].
    #[must_use]
    pub fn survives(mut self, loss: Loss) -> Self {
        if loss == Loss::Nothing {
            let rule = "is not for grains: they are there for the next message, or they wait";
            self.listing.wrong.push(ConfigError::invalid("survives", "Loss::Nothing", rule));
        }
        self.policy.survives = loss;
        self.of_global("survives")
    }

    /// Of global grains: what happens then. Default: they move at once.
    #[must_use]
    pub fn on_loss(mut self, on_loss: OnLoss) -> Self {
        self.policy.on_loss = on_loss;
        self.of_global("on_loss")
    }

    /// Of global grains: where they go when their datacenter is lost, among those of [`home`](Self::home).
    #[must_use]
    pub fn failover_to(mut self, among: impl Into<DataCenterSelector>) -> Self {
        self.policy.failover_to = Some(among.into());
        self.of_global("failover_to")
    }

    /// Of global grains: where they live by preference, among those of [`home`](Self::home).
    #[must_use]
    pub fn prefer(mut self, among: impl Into<DataCenterSelector>) -> Self {
        self.policy.prefer = Some(among.into());
        self.of_global("prefer")
    }

    /// Of global grains: whether they go back. Default [`Failback::Manual`].
    #[must_use]
    pub fn failback(mut self, failback: Failback) -> Self {
        self.policy.failback = failback;
        self.of_global("failback")
    }

    /// Of global grains: what goes first while the store is away. Default [`Strictness::Strict`];
    /// [`Strictness::Available`] gives up "one in the world".
    #[must_use]
    pub fn strictness(mut self, strictness: Strictness) -> Self {
        self.policy.strictness = strictness;
        self.of_global("strictness")
    }

    /// Global grains of this kind take their state along when they move in good order, see [`Snapshot`].
    #[must_use]
    pub fn snapshots(mut self) -> Self
    where
        A: Snapshot,
    {
        self.listing.table.snapshots = Some(Snapshots::new());
        self
    }

    fn of_global(mut self, field: &'static str) -> Self {
        self.only_global = Some(field);
        self
    }

    pub(crate) fn finish(mut self, wrong: &mut Vec<ConfigError>) -> Option<GrainKind<A>> {
        wrong.append(&mut self.listing.wrong);
        if let (Some(field), true) = (self.only_global, self.scope != Scope::Global) {
            wrong.push(ConfigError::invalid(field, A::KIND, "is for global grains: add `.scope(Scope::Global)`"));
        }
        if let Err(invalid) = self.policy.check() {
            wrong.push(invalid.into());
        }
        let scope = match self.scope {
            Scope::PerDataCenter => GrainScope::PerDataCenter,
            Scope::OneHome => GrainScope::OneHome(self.policy.within),
            Scope::Global => GrainScope::Global(Box::new(self.policy)),
        };
        let options = GrainOptions { idle: self.idle, scope };
        let Some(args) = self.args else {
            wrong.push(ConfigError::MissingArgs { kind: A::KIND });
            return None;
        };
        Some(GrainKind { table: Arc::new(self.listing.table), args, options })
    }
}

/// A kind of actor, whatever its type: as spawns from other nodes see it.
pub(crate) trait AnyActorKind: Send + Sync {
    /// Reads the arguments and starts an actor.
    fn start(
        &self,
        core: Arc<Core>,
        args: Bytes,
        restore: Option<Bytes>,
        ended: Ended,
    ) -> Result<Arc<dyn AnyCell>, Error>;
    fn lists(&self, message: TypeId) -> bool;
    fn messages(&self) -> Vec<&'static str>;
    fn as_any(&self) -> &(dyn Any + Send + Sync);
}

/// A kind of grain, whatever its type.
pub(crate) trait AnyGrainKind: Send + Sync {
    fn lists(&self, message: TypeId) -> bool;
    fn messages(&self) -> Vec<&'static str>;
    fn options(&self) -> &GrainOptions;
    fn start(&self, core: Arc<Core>, id: &str, restore: Option<Bytes>, ended: Ended) -> Arc<dyn AnyCell>;
}

/// A registered kind of actor.
pub(crate) struct ActorKind<A: Actor> {
    table: Arc<Table<A>>,
}

impl<A> ActorKind<A>
where
    A: RemoteActor,
    A::Args: Serialize + DeserializeOwned,
{
    /// Starts an actor from arguments in memory; they are written down only if a restart may need them.
    pub(crate) fn start_with(&self, core: Arc<Core>, args: A::Args, ended: Ended) -> Result<Arc<dyn AnyCell>, Error> {
        let remake = match self.table.restart {
            RestartPolicy::Never => None,
            RestartPolicy::OnFailure { .. } => Some(encode_args::<A>(&args)?),
        };
        Ok(self.birth(core, args, None, remake, ended))
    }

    fn birth(
        &self,
        core: Arc<Core>,
        args: A::Args,
        restore: Option<Bytes>,
        remake: Option<Bytes>,
        ended: Ended,
    ) -> Arc<dyn AnyCell> {
        let system = core.host.system.clone();
        let remake = remake
            .map(|bytes| -> crate::host::Remake<A> { Box::new(move || decode_args::<A>(&system, bytes.clone())) });
        start(Birth { core, table: self.table.clone(), args, restore, remake, ended })
    }
}

/// Arguments as they travel with a spawn.
pub(crate) fn encode_args<A>(args: &A::Args) -> Result<Bytes, Error>
where
    A: RemoteActor,
    A::Args: Serialize + DeserializeOwned,
{
    to_bytes::<Postcard, _>(args).map_err(|err| args_error::<A>(&err))
}

fn decode_args<A>(system: &crate::system::WeakSystem, bytes: Bytes) -> Result<A::Args, Error>
where
    A: RemoteActor,
    A::Args: Serialize + DeserializeOwned,
{
    system.while_reading(|| Postcard::decode(bytes)).map_err(|err| args_error::<A>(&err))
}

fn args_error<A: RemoteActor>(err: &crate::codec::CodecError) -> Error {
    Error::Codec { what: format!("arguments of {:?}", A::KIND), reason: err.to_string(), not_run: true }
}

impl<A> AnyActorKind for ActorKind<A>
where
    A: RemoteActor,
    A::Args: Serialize + DeserializeOwned,
{
    fn start(
        &self,
        core: Arc<Core>,
        args: Bytes,
        restore: Option<Bytes>,
        ended: Ended,
    ) -> Result<Arc<dyn AnyCell>, Error> {
        let read = decode_args::<A>(&core.host.system, args.clone())?;
        let remake = matches!(self.table.restart, RestartPolicy::OnFailure { .. }).then_some(args);
        Ok(self.birth(core, read, restore, remake, ended))
    }

    fn lists(&self, message: TypeId) -> bool {
        self.table.by_type.contains(&message)
    }

    fn messages(&self) -> Vec<&'static str> {
        self.table.by_name.keys().copied().collect()
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }
}

/// A registered kind of grain.
pub(crate) struct GrainKind<A: Actor> {
    table: Arc<Table<A>>,
    args: MakeArgs<A>,
    options: GrainOptions,
}

impl<A: RemoteActor> AnyGrainKind for GrainKind<A> {
    fn lists(&self, message: TypeId) -> bool {
        self.table.by_type.contains(&message)
    }

    fn messages(&self) -> Vec<&'static str> {
        self.table.by_name.keys().copied().collect()
    }

    fn options(&self) -> &GrainOptions {
        &self.options
    }

    fn start(&self, core: Arc<Core>, id: &str, restore: Option<Bytes>, ended: Ended) -> Arc<dyn AnyCell> {
        let args = (self.args)(id);
        start(Birth { core, table: self.table.clone(), args, restore, remake: None, ended })
    }
}

/// All kinds that a node knows, by wire name.
#[derive(Default)]
pub(crate) struct Kinds {
    actors: HashMap<&'static str, Box<dyn AnyActorKind>>,
    grains: HashMap<&'static str, Box<dyn AnyGrainKind>>,
}

impl Kinds {
    /// Adds a kind of actor; false if the name is taken.
    pub(crate) fn add_actor<A>(&mut self, kind: ActorKind<A>) -> bool
    where
        A: RemoteActor,
        A::Args: Serialize + DeserializeOwned,
    {
        !self.grains.contains_key(A::KIND) && self.actors.insert(A::KIND, Box::new(kind)).is_none()
    }

    /// Adds a kind of grain; false if the name is taken.
    pub(crate) fn add_grain<A: RemoteActor>(&mut self, kind: GrainKind<A>) -> bool {
        !self.actors.contains_key(A::KIND) && self.grains.insert(A::KIND, Box::new(kind)).is_none()
    }

    /// The kind of this wire name, with the name as this program spells it.
    pub(crate) fn actor(&self, kind: &str) -> Option<(&'static str, &dyn AnyActorKind)> {
        self.actors.get_key_value(kind).map(|(name, kind)| (*name, &**kind))
    }

    /// The grain kind of this wire name.
    pub(crate) fn grain(&self, kind: &str) -> Option<(&'static str, &dyn AnyGrainKind)> {
        self.grains.get_key_value(kind).map(|(name, kind)| (*name, &**kind))
    }

    /// The wire names of all kinds and their messages, some more than once.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.actors.keys().chain(self.grains.keys()).copied().collect();
        names.extend(self.actors.values().flat_map(|kind| kind.messages()));
        names.extend(self.grains.values().flat_map(|kind| kind.messages()));
        names
    }

    /// The registered kinds of global grains, with what was declared of them.
    pub(crate) fn global_grains(&self) -> impl Iterator<Item = (&'static str, &Policy)> {
        self.grains.iter().filter_map(|(name, kind)| match &kind.options().scope {
            GrainScope::Global(policy) => Some((*name, &**policy)),
            GrainScope::PerDataCenter | GrainScope::OneHome(_) => None,
        })
    }

    /// How the registered kinds of grains live.
    pub(crate) fn grain_options(&self) -> impl Iterator<Item = &GrainOptions> {
        self.grains.values().map(|kind| kind.options())
    }

    /// Whether `A` takes messages of type `M`; `None` where this node does not know the kind.
    pub(crate) fn lists<A: RemoteActor, M: 'static>(&self) -> Option<bool> {
        let message = TypeId::of::<M>();
        let actor = self.actors.get(A::KIND).map(|kind| kind.lists(message));
        actor.or_else(|| self.grains.get(A::KIND).map(|kind| kind.lists(message)))
    }

    pub(crate) fn typed<A: RemoteActor>(&self) -> Option<&ActorKind<A>> {
        self.actors.get(A::KIND).and_then(|kind| kind.as_any().downcast_ref())
    }
}

impl fmt::Debug for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kinds").field("actors", &self.actors.keys()).field("grains", &self.grains.keys()).finish()
    }
}
