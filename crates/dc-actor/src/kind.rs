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
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    codec::{Codec, Postcard, to_bytes},
    error::Error,
    host::{Actor, AnyCell, Birth, Cell, Core, Ended, RestartPolicy, start},
    link::{self, Incoming},
    message::{Handles, RemoteActor, RemoteMessage},
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
}

/// What [`KindBuilder`] and [`GrainBuilder`] have in common.
struct Listing<A: Actor> {
    table: Table<A>,
    wrong: Vec<ConfigError>,
}

impl<A: RemoteActor> Listing<A> {
    fn new() -> Self {
        let table =
            Table { by_name: HashMap::new(), by_type: HashSet::new(), mailbox: 64, restart: RestartPolicy::Never };
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
    options: GrainOptions,
}

type MakeArgs<A> = Arc<dyn Fn(&str) -> <A as Actor>::Args + Send + Sync>;

/// How the grains of a kind live.
#[derive(Clone, Debug)]
pub(crate) struct GrainOptions {
    pub(crate) idle: Duration,
    pub(crate) scope: GrainScope,
}

/// Where the grains of a kind live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GrainScope {
    /// Each datacenter has its own.
    PerDataCenter,
    /// One home for each identity, among the datacenters that match.
    OneHome(DataCenterSelector),
}

impl<A: RemoteActor> GrainBuilder<A> {
    pub(crate) fn new() -> Self {
        let options = GrainOptions { idle: IDLE, scope: GrainScope::OneHome(DataCenterSelector::default()) };
        Self { listing: Listing::new(), args: None, options }
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
        self.options.idle = after;
        self
    }

    /// Each datacenter has its own grain of an identity. The default is one home across all datacenters.
    #[must_use]
    pub fn per_data_center(mut self) -> Self {
        self.options.scope = GrainScope::PerDataCenter;
        self
    }

    /// The home of each identity is chosen among these datacenters only; the default is among all.
    #[must_use]
    pub fn home(mut self, among: impl Into<DataCenterSelector>) -> Self {
        let among = among.into();
        if let Err(invalid) = among.check() {
            self.listing.wrong.push(invalid.into());
        }
        self.options.scope = GrainScope::OneHome(among);
        self
    }

    pub(crate) fn finish(self, wrong: &mut Vec<ConfigError>) -> Option<GrainKind<A>> {
        wrong.extend(self.listing.wrong);
        let Some(args) = self.args else {
            wrong.push(ConfigError::MissingArgs { kind: A::KIND });
            return None;
        };
        Some(GrainKind { table: Arc::new(self.listing.table), args, options: self.options })
    }
}

/// A kind of actor, whatever its type: as spawns from other nodes see it.
pub(crate) trait AnyActorKind: Send + Sync {
    /// Reads the arguments and starts an actor.
    fn start(&self, core: Arc<Core>, args: Bytes, ended: Ended) -> Result<Arc<dyn AnyCell>, Error>;
    fn lists(&self, message: TypeId) -> bool;
    fn messages(&self) -> Vec<&'static str>;
    fn as_any(&self) -> &(dyn Any + Send + Sync);
}

/// A kind of grain, whatever its type.
pub(crate) trait AnyGrainKind: Send + Sync {
    fn lists(&self, message: TypeId) -> bool;
    fn messages(&self) -> Vec<&'static str>;
    fn options(&self) -> &GrainOptions;
    fn start(&self, core: Arc<Core>, id: &str, ended: Ended) -> Arc<dyn AnyCell>;
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
        Ok(self.birth(core, args, remake, ended))
    }

    fn birth(&self, core: Arc<Core>, args: A::Args, remake: Option<Bytes>, ended: Ended) -> Arc<dyn AnyCell> {
        let system = core.host.system.clone();
        let remake = remake
            .map(|bytes| -> crate::host::Remake<A> { Box::new(move || decode_args::<A>(&system, bytes.clone())) });
        start(Birth { core, table: self.table.clone(), args, remake, ended })
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
    fn start(&self, core: Arc<Core>, args: Bytes, ended: Ended) -> Result<Arc<dyn AnyCell>, Error> {
        let read = decode_args::<A>(&core.host.system, args.clone())?;
        let remake = matches!(self.table.restart, RestartPolicy::OnFailure { .. }).then_some(args);
        Ok(self.birth(core, read, remake, ended))
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

    fn start(&self, core: Arc<Core>, id: &str, ended: Ended) -> Arc<dyn AnyCell> {
        let args = (self.args)(id);
        start(Birth { core, table: self.table.clone(), args, remake: None, ended })
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
