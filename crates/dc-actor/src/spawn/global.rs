//! Starting actors under global names.

use std::{future::IntoFuture, sync::Arc, time::Duration};

use bytes::Bytes;
use dc_core::{DataCenterSelector, NodeId};
use dc_ownership::policy::{Failback, Loss, OnLoss, Policy, Strictness};
use dc_placement::Strategy;
use serde::{Serialize, de::DeserializeOwned};
use tracing::Instrument;

use super::{Far, SpawnFuture, SpawnOn, Where, ask_spawn, body_of, check_name, endpoint_of, unknown_kind};
use crate::{
    error::Error,
    global::{Located, Wanted, spawn_here},
    host::Key,
    message::RemoteActor,
    reference::Ref,
    system::Node,
    wire::{Place, SpawnBody},
};

/// An actor that is about to start under a global name: unique in all datacenters, and one in the world (G2).
///
/// What is declared here is kept with the claim, so that another node can start the actor again: its kind, its
/// arguments (at most 64 KiB, kept where the store is), where it may live, and what it survives.
///
/// ```no_run
/// # use dc_actor::{ActorSystem, Error, Failback, Loss, RemoteActor};
/// # use dc_core::Selector;
/// # #[derive(kameo::Actor, RemoteActor, serde::Serialize, serde::Deserialize)]
/// # #[remote(crate = "dc_actor")] struct Ledger { sum: u32 }
/// # async fn f(system: ActorSystem) -> Result<(), Error> {
/// let ledger = system
///     .spawn_on::<Ledger>("ledger-7", Ledger { sum: 0 })
///     .global()
///     .survives(Loss::DataCenter)
///     .failover_to(Selector::region("eu-west-1"))
///     .failback(Failback::Manual)
///     .await?; // NameTaken names the holder
/// # Ok(()) }
/// ```
#[must_use = "nothing is started until it is awaited"]
pub struct SpawnGlobal<A: RemoteActor> {
    spawn: SpawnOn<A>,
    policy: Policy,
}

impl<A> SpawnGlobal<A>
where
    A: RemoteActor,
    A::Args: Serialize + DeserializeOwned,
{
    pub(super) fn new(spawn: SpawnOn<A>) -> Self {
        Self { spawn, policy: Policy::default() }
    }

    /// The greatest loss that it survives. Default [`Loss::Node`].
    pub fn survives(mut self, loss: Loss) -> Self {
        self.policy.survives = loss;
        self
    }

    /// What happens when such a loss has come. Default: it moves at once.
    pub fn on_loss(mut self, on_loss: OnLoss) -> Self {
        self.policy.on_loss = on_loss;
        self
    }

    /// Where it goes when its datacenter is lost, among those that it may live in. Default: anywhere among those.
    pub fn failover_to(mut self, among: impl Into<DataCenterSelector>) -> Self {
        self.policy.failover_to = Some(among.into());
        self
    }

    /// Where it may live at all (jurisdiction). Its arguments lie where the store lies, whatever is said here.
    pub fn within(mut self, among: impl Into<DataCenterSelector>) -> Self {
        self.policy.within = among.into();
        self
    }

    /// Where it lives by preference, among those that it may live in.
    pub fn prefer(mut self, among: impl Into<DataCenterSelector>) -> Self {
        self.policy.prefer = Some(among.into());
        self
    }

    /// Whether it goes back when a better place is there again. Default [`Failback::Manual`].
    pub fn failback(mut self, failback: Failback) -> Self {
        self.policy.failback = failback;
        self
    }

    /// What goes first while the store is away. Default [`Strictness::Strict`]; [`Strictness::Available`] gives up
    /// "one in the world".
    pub fn strictness(mut self, strictness: Strictness) -> Self {
        self.policy.strictness = strictness;
        self
    }

    /// Where it starts: in a datacenter that matches. Default: on this node, or, where it may not live here, in a
    /// datacenter where it may.
    pub fn in_data_center(mut self, selector: impl Into<DataCenterSelector>) -> Self {
        self.spawn = self.spawn.in_data_center(selector);
        self
    }

    /// Where it starts: on this very node.
    pub fn on_node(mut self, node: NodeId) -> Self {
        self.spawn = self.spawn.on_node(node);
        self
    }

    /// How the node is chosen where it starts. Default: the system's strategy.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.spawn = self.spawn.strategy(strategy);
        self
    }

    /// How long all tries together may take. Default: the system's `spawn_timeout`.
    pub fn timeout(mut self, after: Duration) -> Self {
        self.spawn = self.spawn.timeout(after);
        self
    }

    async fn run(self) -> Result<Ref<A>, Error> {
        let Self { spawn, policy } = self;
        check_name("name", &spawn.name)?;
        policy.check()?;
        let node = spawn.system.node().clone();
        node.global(|| format!("the name {:?}", spawn.name))?;
        let after = spawn.timeout.unwrap_or(node.options().spawn_timeout);
        let request: u128 = rand::random();
        let mut body = body_of::<A>(&spawn.name, request, &spawn.args)?;
        // Plain data: JSON takes it.
        body.policy = serde_json::to_vec(&policy).unwrap_or_default().into();
        let away = Where::DataCenter(policy.within.clone());
        let place = match &spawn.place {
            Where::Here if !policy.allows(node.data_center()) => &away,
            place => place,
        };
        let located = match place {
            Where::Here => self::here(&node, &body, request, after).await?,
            Where::Node(id) if *id == node.id() => self::here(&node, &body, request, after).await?,
            Where::Node(id) => {
                let (dc, endpoint) = endpoint_of(&node, *id)?;
                ask_spawn(&node, &dc, &endpoint, *id, &body, after).await?
            }
            Where::DataCenter(selector) => {
                selector.check()?;
                let strategy = spawn.strategy.unwrap_or(node.options().strategy);
                let until = node.clock().now() + after;
                Far { node: &node, selector, strategy, body, until, after }.run().await?
            }
        };
        Ok(Ref::at(&node, located, Key::Global(spawn.name.into())))
    }
}

impl<A> IntoFuture for SpawnGlobal<A>
where
    A: RemoteActor,
    A::Args: Serialize + DeserializeOwned,
{
    type Output = Result<Ref<A>, Error>;
    type IntoFuture = SpawnFuture<A>;

    fn into_future(self) -> SpawnFuture<A> {
        let span = tracing::debug_span!("spawn", kind = A::KIND, name = %self.spawn.name, global = true);
        SpawnFuture(Box::pin(self.run().instrument(span)))
    }
}

async fn here(node: &Arc<Node>, body: &SpawnBody, request: u128, left: Duration) -> Result<Located, Error> {
    let (kind, _) = node.kinds().actor(&body.kind).ok_or_else(|| unknown_kind(node, &body.kind))?;
    let policy: Policy = serde_json::from_slice(&body.policy).map_err(|err| Error::Codec {
        what: "a policy".into(),
        reason: err.to_string(),
        not_run: true,
    })?;
    let args: Bytes = body.args.clone();
    spawn_here(node, Wanted { kind, name: body.name.clone(), args, policy, request }, left).await
}

/// Answers a spawn of a global name for another node.
pub(super) async fn asked(node: &Arc<Node>, body: SpawnBody, request: u128, left: Duration) -> Result<Place, Error> {
    let located = here(node, &body, request, left).await?;
    Ok(Place { epoch: located.epoch, ..Place::at(&body.kind, &located.at) })
}

impl<A: RemoteActor> std::fmt::Debug for SpawnGlobal<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SpawnGlobal({} {:?})", A::KIND, self.spawn.name)
    }
}
