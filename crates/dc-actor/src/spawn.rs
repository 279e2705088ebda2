//! Starting actors: here, on a node, or in a datacenter that is chosen for it.

mod global;
mod here;

use std::{
    fmt,
    future::IntoFuture,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use dc_core::{DataCenterId, DataCenterSelector, Endpoint, Invalid, NodeEndpoint, NodeId};
use dc_placement::{Chosen, Explanation, Refusal, Request, Signals, Strategy, choose, explain};
use futures::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};
use tracing::Instrument;

use crate::{
    error::Error,
    global::Located,
    host::Key,
    kind::encode_args,
    link, measure,
    message::RemoteActor,
    reference::{Location, Ref},
    system::{ActorSystem, Node},
    wire::{self, Place, SpawnBody},
};

pub use global::SpawnGlobal;
pub(crate) use here::{Held, lost, must_not_stay, name_key, stop_again};
use here::{Made, here};

/// How long the node that has an earlier try of a spawn may take to say whether its actor has started, before the
/// directory is asked again who has it.
const ASK_EARLIER: Duration = Duration::from_secs(1);

/// The pause before that.
const EARLIER_AGAIN: Duration = Duration::from_millis(100);

/// What `spawn(..).await` and `spawn_on(..).await` wait for. Dropped before its end, the actor may still start.
#[must_use = "futures do nothing unless awaited"]
pub struct SpawnFuture<A: RemoteActor>(BoxFuture<'static, Result<Ref<A>, Error>>);

impl<A: RemoteActor> Future for SpawnFuture<A> {
    type Output = Result<Ref<A>, Error>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<A: RemoteActor> fmt::Debug for SpawnFuture<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpawnFuture({})", A::KIND)
    }
}

/// An actor without a name that is about to start on this node.
#[must_use = "nothing is started until it is awaited"]
pub struct Spawn<A: RemoteActor> {
    system: ActorSystem,
    args: A::Args,
}

impl<A> Spawn<A>
where
    A: RemoteActor,
    A::Args: Serialize + DeserializeOwned,
{
    pub(crate) fn new(system: ActorSystem, args: A::Args) -> Self {
        Self { system, args }
    }
}

impl<A> IntoFuture for Spawn<A>
where
    A: RemoteActor,
    A::Args: Serialize + DeserializeOwned,
{
    type Output = Result<Ref<A>, Error>;
    type IntoFuture = SpawnFuture<A>;

    fn into_future(self) -> SpawnFuture<A> {
        let Self { system, args } = self;
        SpawnFuture(Box::pin(async move {
            let node = system.node().clone();
            let location = here_typed::<A>(&node, None, 0, args, node.options().spawn_timeout).await?;
            Ok(Ref::at(&node, location, Key::Anonymous))
        }))
    }
}

/// A named actor that is about to start.
#[must_use = "nothing is started until it is awaited"]
pub struct SpawnOn<A: RemoteActor> {
    system: ActorSystem,
    name: String,
    args: A::Args,
    place: Where,
    strategy: Option<Strategy>,
    timeout: Option<Duration>,
}

enum Where {
    Here,
    Node(NodeId),
    DataCenter(DataCenterSelector),
}

impl<A> SpawnOn<A>
where
    A: RemoteActor,
    A::Args: Serialize + DeserializeOwned,
{
    pub(crate) fn new(system: ActorSystem, name: String, args: A::Args) -> Self {
        Self { system, name, args, place: Where::Here, strategy: None, timeout: None }
    }

    /// In a datacenter that matches, which may be the own one; on which of its nodes, the strategy decides (L1, L2).
    /// A dead node there does not fail the spawn while another one lives (L3).
    pub fn in_data_center(mut self, selector: impl Into<DataCenterSelector>) -> Self {
        self.place = Where::DataCenter(selector.into());
        self
    }

    /// On this very node, of whatever datacenter.
    pub fn on_node(mut self, node: NodeId) -> Self {
        self.place = Where::Node(node);
        self
    }

    /// Under a name that is unique in all datacenters: one in the world (G2). It starts where this spawn would have,
    /// and lives where what is declared of it allows.
    pub fn global(self) -> SpawnGlobal<A> {
        SpawnGlobal::new(self)
    }

    /// How the node is chosen. Default: the system's strategy.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = Some(strategy);
        self
    }

    /// How long all tries together may take. Default: the system's `spawn_timeout`.
    pub fn timeout(mut self, after: Duration) -> Self {
        self.timeout = Some(after);
        self
    }
}

impl<A> IntoFuture for SpawnOn<A>
where
    A: RemoteActor,
    A::Args: Serialize + DeserializeOwned,
{
    type Output = Result<Ref<A>, Error>;
    type IntoFuture = SpawnFuture<A>;

    fn into_future(self) -> SpawnFuture<A> {
        let span = tracing::debug_span!("spawn", kind = A::KIND, name = %self.name);
        SpawnFuture(Box::pin(self.run().instrument(span)))
    }
}

impl<A> SpawnOn<A>
where
    A: RemoteActor,
    A::Args: Serialize + DeserializeOwned,
{
    async fn run(self) -> Result<Ref<A>, Error> {
        check_name("name", &self.name)?;
        let node = self.system.node().clone();
        let after = self.timeout.unwrap_or(node.options().spawn_timeout);
        let request: u128 = rand::random();
        let location: Located = match &self.place {
            Where::Here => here_typed::<A>(&node, Some(&self.name), request, self.args, after).await?.into(),
            Where::Node(id) if *id == node.id() => {
                here_typed::<A>(&node, Some(&self.name), request, self.args, after).await?.into()
            }
            Where::Node(id) => {
                let (dc, endpoint) = endpoint_of(&node, *id)?;
                let body = body_of::<A>(&self.name, request, &self.args)?;
                ask_spawn(&node, &dc, &endpoint, *id, &body, after).await?
            }
            Where::DataCenter(selector) => {
                selector.check()?;
                let body = body_of::<A>(&self.name, request, &self.args)?;
                let strategy = self.strategy.unwrap_or(node.options().strategy);
                Far { node: &node, selector, strategy, body, until: node.clock().now() + after, after }.run().await?
            }
        };
        Ok(Ref::at(&node, location, Key::Name(self.name.into())))
    }
}

/// Names of actors and identities of grains: 1 to 255 bytes, no control characters.
pub(crate) fn check_name(field: &str, name: &str) -> Result<(), Invalid> {
    let rule = if name.is_empty() || name.len() > wire::MAX_NAME {
        "must be 1 to 255 bytes"
    } else if name.chars().any(char::is_control) {
        "must not hold control characters"
    } else {
        return Ok(());
    };
    Err(Invalid::new(field, name, rule))
}

fn body_of<A>(name: &str, request: u128, args: &A::Args) -> Result<SpawnBody, Error>
where
    A: RemoteActor,
    A::Args: Serialize + DeserializeOwned,
{
    Ok(SpawnBody {
        kind: A::KIND.to_owned(),
        name: name.to_owned(),
        request: Bytes::copy_from_slice(&request.to_be_bytes()),
        args: encode_args::<A>(args)?,
        passed_on: false,
        policy: Bytes::new(),
    })
}

/// Where a node takes links, as far as this node knows.
fn endpoint_of(node: &Node, id: NodeId) -> Result<(DataCenterId, Endpoint), Error> {
    if let Some(member) = node.view().member(id) {
        return Ok((node.data_center().id().clone(), member.endpoint.clone()));
    }
    let snapshot = node.table().snapshot();
    let mut all =
        snapshot.iter().flat_map(|entry| entry.endpoints().iter().map(move |endpoint| (entry.id(), endpoint)));
    all.find(|(_, endpoint)| endpoint.node == id)
        .map(|(dc, known)| (dc.clone(), known.endpoint.clone()))
        .ok_or_else(|| Error::Unreachable { to: format!("node {id}"), reason: "no datacenter lists this node".into() })
}

/// A spawn in a datacenter that is to be chosen.
struct Far<'a> {
    node: &'a Arc<Node>,
    selector: &'a DataCenterSelector,
    strategy: Strategy,
    body: SpawnBody,
    until: Instant,
    after: Duration,
}

impl Far<'_> {
    /// Tries endpoint after endpoint, of the chosen datacenter first. Repeating is safe: the request id is kept by
    /// the datacenter's directory (L3). Another datacenter is tried only while nothing may have run.
    async fn run(&self) -> Result<Located, Error> {
        let mut tried: Vec<Endpoint> = Vec::new();
        let mut failed = Failed { last: None, global: !self.body.policy.is_empty() };
        loop {
            let chosen = match self.choose(&tried) {
                Ok(chosen) => chosen,
                Err(refusal) => return Err(failed.last.unwrap_or_else(|| refused(&refusal))),
            };
            let nodes: Vec<NodeEndpoint> = chosen.endpoints().cloned().collect();
            for (number, target) in nodes.iter().enumerate() {
                let Some(share) = self.share(nodes.len() - number) else {
                    return Err(failed.last.unwrap_or_else(|| self.timed_out()));
                };
                tried.push(target.endpoint.clone());
                let error = match self.ask(chosen.entry().id(), target, share).await {
                    Ok(location) => return Ok(location),
                    Err(error) => error,
                };
                let again = tries_elsewhere(&error);
                tracing::info!(name = %self.body.name, node = %target.node.short(), endpoint = %target.endpoint, %error, again, "spawn failed on a node");
                if !again {
                    return Err(failed.with_final(error));
                }
                failed.add(error);
            }
            if let Some(unsure) = failed.take_unsure() {
                // Something may have started in that datacenter: its directory knows, others do not.
                return Err(unsure);
            }
        }
    }

    fn choose(&self, tried: &[Endpoint]) -> Result<Chosen, Refusal> {
        let node = self.node;
        let signals = LinkSignals { node };
        let request = Request::placement(self.selector, node.table().freshness(node.clock().now()))
            .strategy(self.strategy)
            .fail_on_stale_cache(node.options().fail_on_stale_cache)
            .exclude(tried)
            .signals(&signals);
        let snapshot = node.table().snapshot();
        let choice = choose(&snapshot, &request, node.draw());
        measure::placement(choice.as_ref().map_or_else(refusal_name, |_| "chosen"));
        let choice = choice?;
        if let Some(age) = choice.stale() {
            tracing::warn!(?age, dc = %choice.entry().id(), "placing an actor by a stale routing table");
        }
        Ok(choice.detach())
    }

    /// The time that one try may take: the time left, shared so that a silent node does not use it all up.
    fn share(&self, nodes_left: usize) -> Option<Duration> {
        let left = self.until.saturating_duration_since(self.node.clock().now());
        let share = if nodes_left > 1 { left / 2 } else { left };
        (!left.is_zero()).then(|| share.max(Duration::from_millis(100)).min(left))
    }

    async fn ask(&self, dc: &DataCenterId, target: &NodeEndpoint, share: Duration) -> Result<Located, Error> {
        if target.node == self.node.id() {
            let place = asked(self.node, self.body.clone(), share).await?;
            return located(&place, &self.body.name);
        }
        ask_spawn(self.node, dc, &target.endpoint, target.node, &self.body, share).await
    }

    /// The time was over before anything was tried.
    fn timed_out(&self) -> Error {
        Error::Timeout { to: format!("spawn of {:?}", self.body.name), after: self.after, not_run: true }
    }
}

/// What the tries of one spawn failed with: once one of them may have run, a later one that certainly did not must
/// not hide it (R3).
#[derive(Default)]
struct Failed {
    last: Option<Error>,
    /// Of a global name, which an earlier try may have claimed.
    global: bool,
}

impl Failed {
    /// Whether one of the tries may have run.
    fn unsure(&self) -> bool {
        self.last.as_ref().is_some_and(|last| !last.certainly_not_run())
    }

    fn add(&mut self, error: Error) {
        if !(self.unsure() && error.certainly_not_run()) {
            self.last = Some(error);
        }
    }

    /// The error of the spawn where no other node is tried after `error`.
    fn with_final(mut self, error: Error) -> Error {
        // A per-DC name that another actor holds was not claimed by any of the tries: the directory remembers them.
        if matches!(error, Error::NameTaken { .. }) && !self.global {
            return error;
        }
        self.add(error.clone());
        self.last.unwrap_or(error)
    }

    fn take_unsure(&mut self) -> Option<Error> {
        if self.unsure() { self.last.take() } else { None }
    }
}

/// The placement of a spawn, as it would be now, with its reasons.
pub(crate) fn explain_placement(node: &Node, selector: &DataCenterSelector) -> Result<Explanation, Error> {
    selector.check()?;
    let signals = LinkSignals { node };
    let now = node.clock().now();
    let request = Request::placement(selector, node.table().freshness(now))
        .strategy(node.options().strategy)
        .fail_on_stale_cache(node.options().fail_on_stale_cache)
        .signals(&signals);
    Ok(explain(&node.table().snapshot(), now, &request, node.draw()))
}

/// Whether what is placed where `selector` says finds a place, as a spawn would.
pub(crate) fn may_place(node: &Node, selector: &DataCenterSelector) -> Result<(), Error> {
    let request = Request::placement(selector, node.table().freshness(node.clock().now()))
        .fail_on_stale_cache(node.options().fail_on_stale_cache);
    let snapshot = node.table().snapshot();
    let chosen = choose(&snapshot, &request, node.draw());
    chosen.map(drop).map_err(|refusal| refused(&refusal))
}

/// Whether another node may do what this one did not. Repeating what may have run is safe here, see [`Far::run`].
fn tries_elsewhere(error: &Error) -> bool {
    matches!(
        error,
        Error::Unreachable { .. }
            | Error::Lost { .. }
            | Error::Timeout { .. }
            | Error::NoAnswer { .. }
            | Error::Overloaded { .. }
            | Error::ShuttingDown { .. }
            | Error::TypeNotRegistered { .. }
    )
}

async fn ask_spawn(
    node: &Arc<Node>,
    dc: &DataCenterId,
    endpoint: &Endpoint,
    id: NodeId,
    body: &SpawnBody,
    after: Duration,
) -> Result<Located, Error> {
    let to = format!("node {} at {endpoint}", id.short());
    let answer = node.peer_of(dc, endpoint, id).call_for_answer(wire::SPAWN, wire::write(body), after).await;
    let answer = answer.map_err(|err| link::link_error(&err, &to))?;
    located(&wire::read_answer(answer.status, answer.body)?, &body.name)
}

fn located(place: &Place, name: &str) -> Result<Located, Error> {
    let at = place.location()?.ok_or_else(|| Error::not_found(name))?;
    Ok(Located { at, epoch: place.epoch })
}

/// A placement's refusal as ours.
pub(crate) fn refused(refusal: &Refusal) -> Error {
    let reasons = |ruled_out: &[dc_placement::RuledOut]| ruled_out.iter().map(ToString::to_string).collect();
    match refusal {
        Refusal::NotReady => Error::DataCenterNotReady { reason: refusal.to_string() },
        Refusal::Stale { age } => Error::DataCenterStaleRecords { age: Some(*age) },
        Refusal::NotFound { selector, known, .. } => Error::DataCenterRecordNotFound {
            asked: selector.to_string(),
            known: known.iter().map(ToString::to_string).collect(),
        },
        Refusal::NotPlaceable { selector, ruled_out, .. } | Refusal::NoEndpoints { selector, ruled_out, .. } => {
            Error::DataCenterNotRoutable { asked: selector.to_string(), reasons: reasons(ruled_out) }
        }
        other => Error::Other { text: other.to_string(), not_run: true },
    }
}

fn refusal_name(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NotReady => "not_ready",
        Refusal::Stale { .. } => "stale",
        Refusal::NotFound { .. } => "not_found",
        Refusal::NotPlaceable { .. } => "not_placeable",
        Refusal::NoEndpoints { .. } => "no_endpoints",
        _ => "other",
    }
}

/// What this node's links know of others.
struct LinkSignals<'a> {
    node: &'a Node,
}

impl Signals for LinkSignals<'_> {
    fn rtt(&self, node: &NodeEndpoint) -> Option<Duration> {
        if node.node == self.node.id() {
            return Some(Duration::ZERO);
        }
        self.node.peer(&node.endpoint, node.node).rtt()
    }

    fn load(&self, node: &NodeEndpoint) -> Option<u64> {
        let in_flight = self.node.peer(&node.endpoint, node.node).in_flight();
        u64::try_from(in_flight).ok()
    }
}

/// Answers a spawn of another node (or of this one, by way of placement).
pub(crate) async fn asked(node: &Arc<Node>, body: SpawnBody, left: Duration) -> Result<Place, Error> {
    let request = body.request()?;
    let name = (!body.name.is_empty()).then_some(body.name.as_str());
    if let Some(name) = name {
        check_name("name", name)?;
    }
    if !body.policy.is_empty() {
        return global::asked(node, body, request, left).await;
    }
    let (kind, _) = node.kinds().actor(&body.kind).ok_or_else(|| unknown_kind(node, &body.kind))?;
    let until = node.clock().now() + left;
    let (mut left, mut unsure) = (left, None);
    loop {
        let made = here(node, kind, name, request, left, {
            let (node, kind, args) = (node.clone(), body.kind.clone(), body.args.clone());
            move |core, ended| {
                let (_, maker) = node.kinds().actor(&kind).ok_or_else(|| unknown_kind(&node, &kind))?;
                maker.start(core, args, None, ended)
            }
        });
        let made = match (made.await, unsure) {
            (Ok(made), _) => made,
            // Of this try.
            (Err(error), Some(unsure)) if error.certainly_not_run() => return Err(unsure),
            (Err(error), _) => return Err(error),
        };
        let (holder, endpoint) = match made {
            Made::Here(location) => return Ok(Place::at(kind, &location)),
            Made::Earlier { node: id, location, .. } if id == node.id() => return Ok(Place::at(kind, &location)),
            Made::Earlier { node: id, endpoint, .. } => (id, endpoint),
        };
        let silent = || {
            let reason =
                format!("node {} at {endpoint} does not say whether an earlier try started it", holder.short());
            Error::NoAnswer { actor: body.name.clone(), reason }
        };
        if body.passed_on {
            return Err(silent());
        }
        // That node knows whether the actor has started. If it is dead, its datacenter's directory lets go of the name.
        left = until.saturating_duration_since(node.clock().now());
        let again = SpawnBody { passed_on: true, ..body.clone() };
        let asked = ask_spawn(node, node.data_center().id(), &endpoint, holder, &again, left.min(ASK_EARLIER));
        let error = match asked.await {
            Ok(found) => return Ok(Place::at(kind, &found.at)),
            Err(failed @ Error::StartFailed { .. }) => return Err(failed),
            // What certainly did not run is the question. The earlier try may have.
            Err(error) if error.certainly_not_run() => silent(),
            Err(error) => error,
        };
        left = until.saturating_duration_since(node.clock().now());
        if left <= EARLIER_AGAIN {
            return Err(error);
        }
        tokio::time::sleep(EARLIER_AGAIN).await;
        (left, unsure) = (left - EARLIER_AGAIN, Some(error));
    }
}

fn unknown_kind(node: &Node, kind: &str) -> Error {
    Error::TypeNotRegistered { kind: kind.to_owned(), node: node.label() }
}

async fn here_typed<A>(
    node: &Arc<Node>,
    name: Option<&str>,
    request: u128,
    args: A::Args,
    left: Duration,
) -> Result<Location, Error>
where
    A: RemoteActor,
    A::Args: Serialize + DeserializeOwned,
{
    if node.kinds().typed::<A>().is_none() {
        return Err(unknown_kind(node, A::KIND));
    }
    let made = here(node, A::KIND, name, request, left, {
        let node = node.clone();
        move |core, ended| {
            let kind = node.kinds().typed::<A>().ok_or_else(|| unknown_kind(&node, A::KIND))?;
            kind.start_with(core, args, ended)
        }
    });
    match made.await? {
        Made::Here(location) | Made::Earlier { location, .. } => Ok(location),
    }
}

/// Where the holder of an entry of this datacenter's directory is.
pub(crate) fn entry_location(node: &Node, entry: &dc_cluster::Entry) -> Location {
    Location {
        dc: node.data_center().id().clone(),
        node: entry.holder,
        endpoint: entry.endpoint.clone(),
        actor: entry.actor,
    }
}

/// A directory's error as ours: a claim that failed is taken back, so nothing ran.
pub(crate) fn directory_error(node: &Node, error: dc_cluster::DirectoryError) -> Error {
    use dc_cluster::DirectoryError as Failed;
    match error {
        Failed::Invalid(invalid) => invalid.into(),
        Failed::Timeout { key, after } => {
            Error::Timeout { to: format!("the directory about {key:?}"), after, not_run: true }
        }
        Failed::Full { .. } => Error::Overloaded { what: error.to_string() },
        Failed::Left => Error::ShuttingDown { node: node.label() },
        other => Error::Other { text: other.to_string(), not_run: true },
    }
}

impl<A: RemoteActor> fmt::Debug for Spawn<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spawn({})", A::KIND)
    }
}

impl<A: RemoteActor> fmt::Debug for SpawnOn<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpawnOn({} {:?})", A::KIND, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r3_a_spawn_that_may_have_run_is_never_reported_as_certainly_not_run() {
        let lost = Error::Lost { to: "a".into() };
        let dead = Error::Unreachable { to: "b".into(), reason: "dead".into() };
        let missing = Error::Invalid { field: "name".into(), value: "x".into(), rule: "is bad".into() };
        let taken = Error::NameTaken { name: "n".into(), holder: "another".into() };

        let mut failed = Failed::default();
        failed.add(dead.clone());
        assert!(!failed.unsure());
        failed.add(lost.clone());
        failed.add(dead.clone());
        assert_eq!(failed.last, Some(lost.clone()));
        assert_eq!(failed.take_unsure(), Some(lost.clone()));

        let unsure = || Failed { last: Some(lost.clone()), global: false };
        assert_eq!(unsure().with_final(missing.clone()), lost);
        assert_eq!(unsure().with_final(taken.clone()), taken, "then none of the tries had it");
        let global = Failed { last: Some(lost.clone()), global: true };
        assert_eq!(global.with_final(taken.clone()), lost, "an earlier try may be the one that has it");
        assert_eq!(Failed { last: Some(dead), global: false }.with_final(missing.clone()), missing);
        assert_eq!(Failed::default().with_final(missing.clone()), missing);
    }
}
