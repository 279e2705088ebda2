//! Finding actors by their per-DC names.
//!
//! The own datacenter's directory first; then all other datacenters at once, one question each, asked of one of their
//! nodes (the directory there answers for the whole datacenter). The first hit wins and is remembered until its holder
//! says that it is gone, or its datacenter goes (A2). A miss is bounded in time and makes no noise.

use std::{
    collections::HashMap,
    fmt,
    future::IntoFuture,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use dc_core::{DataCenterId, DataCenterSelector, Freshness, NodeEndpoint, NodeId, Selector};
use dc_placement::{Request, choose};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use tracing::Instrument;

use crate::{
    error::Error,
    global::Located,
    grain::NotFound,
    host::Key,
    link,
    message::RemoteActor,
    reference::{Location, Ref},
    spawn::{check_name, directory_error, entry_location, name_key},
    system::{ActorSystem, Node},
    wire::{self, LookupBody, Place},
};

/// An actor that is about to be looked up.
#[must_use = "nothing is looked up until it is awaited"]
pub struct ActorOf<A: RemoteActor> {
    system: ActorSystem,
    name: String,
    among: Option<DataCenterSelector>,
    global: bool,
    timeout: Option<Duration>,
    kind: std::marker::PhantomData<fn() -> A>,
}

impl<A: RemoteActor> ActorOf<A> {
    pub(crate) fn new(system: ActorSystem, name: String) -> Self {
        Self { system, name, among: None, global: false, timeout: None, kind: std::marker::PhantomData }
    }

    /// Only in datacenters that match, which may be the own one.
    pub fn in_data_center(mut self, selector: impl Into<DataCenterSelector>) -> Self {
        self.among = Some(selector.into());
        self
    }

    /// Only among global names. [`ActorNotFound`](Error::ActorNotFound) then means that nobody has the name; where its
    /// owner cannot be reached, or is lost without a successor yet, that is what the error says
    /// ([`Unreachable`](Error::Unreachable)). A name that is handed over meanwhile is looked for where it goes, until the
    /// time is over.
    pub fn global(mut self) -> Self {
        self.global = true;
        self
    }

    /// How long to wait for other datacenters. Default: the system's `lookup_timeout`.
    pub fn timeout(mut self, after: Duration) -> Self {
        self.timeout = Some(after.min(crate::send::LONGEST_WAIT));
        self
    }
}

/// What `actor_of(..).await` waits for. Cancel-safe.
#[must_use = "futures do nothing unless awaited"]
pub struct ActorOfFuture<A: RemoteActor>(BoxFuture<'static, Result<Ref<A>, Error>>);

impl<A: RemoteActor> Future for ActorOfFuture<A> {
    type Output = Result<Ref<A>, Error>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<A: RemoteActor> IntoFuture for ActorOf<A> {
    type Output = Result<Ref<A>, Error>;
    type IntoFuture = ActorOfFuture<A>;

    fn into_future(self) -> ActorOfFuture<A> {
        let span = tracing::debug_span!("lookup", kind = A::KIND, name = %self.name);
        let found = async move {
            check_name("name", &self.name)?;
            if let Some(among) = &self.among {
                among.check()?;
            }
            let node = self.system.node();
            let hit = find(node, &self.name, self.among.as_ref(), self.global, self.timeout).await?;
            if hit.kind != A::KIND {
                let (name, found) = (self.name, hit.kind);
                return Err(Error::WrongKind { name, expected: A::KIND.to_owned(), found });
            }
            let name = self.name.into();
            let key = if hit.epoch == 0 { Key::Name(name) } else { Key::Global(name) };
            Ok(Ref::at(node, Located { at: hit.at, epoch: hit.epoch }, key))
        };
        ActorOfFuture(Box::pin(found.instrument(span)))
    }
}

/// An actor that was found.
#[derive(Clone, Debug)]
struct Hit {
    kind: String,
    at: Location,
    /// Of a global name; else 0.
    epoch: u64,
}

async fn find(
    node: &Arc<Node>,
    name: &str,
    among: Option<&DataCenterSelector>,
    only_global: bool,
    timeout: Option<Duration>,
) -> Result<Hit, Error> {
    let wanted = |id: &DataCenterId| match among {
        None => true,
        Some(_) if id == node.data_center().id() => among.is_none_or(|among| among.matches(node.data_center())),
        Some(among) => node.table().snapshot().get(id).is_some_and(|entry| among.matches(entry.data_center())),
    };
    let after = timeout.unwrap_or(node.options().lookup_timeout);
    if only_global {
        node.global(|| format!("the name {name:?}"))?;
        let hit = global_hit(node, name, &wanted, after).await?;
        return hit.ok_or_else(|| Error::not_found(name));
    }
    let mut unanswered = Vec::new();
    if let Some(hit) = node.names().get(name)
        && wanted(&hit.at.dc)
    {
        return Ok(hit);
    }
    if wanted(node.data_center().id()) {
        match own(node, name, after).await {
            Ok(Some(hit)) => return Ok(hit),
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(name, %error, "the own directory did not answer");
                unanswered.push(node.data_center().id().to_string());
            }
        }
    }
    match global_hit(node, name, &wanted, after).await {
        Ok(Some(hit)) => return Ok(hit),
        Ok(None) => {}
        // That cannot be known now: others are asked all the same.
        Err(error) => {
            tracing::debug!(name, %error, "whether a name is global is not known");
            unanswered.push(format!("global names ({error})"));
        }
    }
    match elsewhere(node, name, &wanted, after, &mut unanswered).await? {
        Some(hit) => {
            node.names().remember(name, hit.clone());
            Ok(hit)
        }
        None => Err(Error::ActorNotFound { actor: name.to_owned(), unanswered }),
    }
}

/// A global name, owned in a datacenter that is wanted; `None` where there is certainly none.
async fn global_hit(
    node: &Arc<Node>,
    name: &str,
    wanted: &impl Fn(&DataCenterId) -> bool,
    after: Duration,
) -> Result<Option<Hit>, Error> {
    if node.try_global().is_none() {
        return Ok(None);
    }
    match crate::mobile::find_name(node, name, after).await {
        Ok((found, kind)) => Ok(wanted(&found.at.dc).then_some(Hit { kind, at: found.at, epoch: found.epoch })),
        Err(NotFound { error: Error::ActorNotFound { .. }, lasting: true }) => Ok(None),
        Err(NotFound { error, .. }) => Err(error),
    }
}

async fn own(node: &Arc<Node>, name: &str, after: Duration) -> Result<Option<Hit>, Error> {
    let found = node.directory().lookup(&name_key(name), after).await;
    let entry = found.map_err(|err| directory_error(node, err))?;
    Ok(entry.map(|entry| Hit { at: entry_location(node, &entry), kind: entry.kind, epoch: 0 }))
}

/// Asks the other datacenters, all at once.
async fn elsewhere(
    node: &Arc<Node>,
    name: &str,
    wanted: &impl Fn(&DataCenterId) -> bool,
    after: Duration,
    unanswered: &mut Vec<String>,
) -> Result<Option<Hit>, Error> {
    let others: Vec<DataCenterId> = {
        let snapshot = node.table().snapshot();
        snapshot
            .homes()
            .map(|entry| entry.id())
            .filter(|id| *id != node.data_center().id() && wanted(id))
            .cloned()
            .collect()
    };
    if others.is_empty() {
        return match node.table().freshness(node.clock().now()) {
            // Nothing is known of others: that is not the same as knowing that they do not have it.
            Freshness::Never => Err(Error::DataCenterNotReady {
                reason: "the routing table has not been in step with the control plane yet".into(),
            }),
            Freshness::Fresh { .. } | Freshness::Stale { .. } => Ok(None),
        };
    }
    let body = wire::write(&LookupBody { name: name.to_owned() });
    let mut asked: FuturesUnordered<_> = others
        .into_iter()
        .map(|dc| {
            let body = body.clone();
            async move {
                let answer = ask_data_center(node, &dc, wire::LOOKUP, body, after).await;
                (dc, answer)
            }
        })
        .collect();
    let alone = asked.len() == 1;
    while let Some((dc, answer)) = asked.next().await {
        match answer.flatten().and_then(|place| Ok((place.location()?, place.kind))) {
            Ok((Some(at), kind)) => return Ok(Some(Hit { kind, at, epoch: 0 })),
            Ok((None, _)) => {}
            // There is nobody else who might have it.
            Err(error @ Error::Unauthorized { .. }) if alone => return Err(error),
            Err(error) => {
                tracing::debug!(name, %dc, %error, "a datacenter did not answer a lookup");
                unanswered.push(dc.to_string());
            }
        }
    }
    Ok(None)
}

/// Asks one node of a datacenter; another one only if that one does not answer, or cannot.
///
/// # Errors
///
/// The outer error: none of its nodes answered. The inner one: what a node answered.
pub(crate) async fn ask_data_center(
    node: &Arc<Node>,
    dc: &DataCenterId,
    service: dc_remoting::ServiceId,
    body: bytes::Bytes,
    after: Duration,
) -> Result<Result<Place, Error>, Error> {
    let until = node.clock().now() + after;
    let (mut next, mut more) = first_of(node, dc)?;
    let mut others: Option<Vec<NodeEndpoint>> = None;
    loop {
        let left = until.saturating_duration_since(node.clock().now());
        // A silent node must not use up the time that others could answer in.
        let share = if more { (left / 2).max(Duration::from_millis(100)).min(left) } else { left };
        let to = format!("{dc} at {}", next.endpoint);
        let answer = node.peer_of(dc, &next.endpoint, next.node).call_for_answer(service, body.clone(), share).await;
        // Questions change nothing, or claim under the directory's eyes: asking another node is safe.
        let last = match answer {
            Ok(answer) => match wire::read_answer(answer.status, answer.body) {
                Err(error @ (Error::ShuttingDown { .. } | Error::TypeNotRegistered { .. })) => Ok(Err(error)),
                answer => {
                    node.names().prefer(dc, next.node);
                    return Ok(answer);
                }
            },
            Err(err) => Err(link::link_error(&err, &to)),
        };
        let others = match &mut others {
            Some(others) => others,
            none => none.insert(others_of(node, dc, &next)?),
        };
        match others.pop() {
            Some(other) if until > node.clock().now() => (next, more) = (other, !others.is_empty()),
            Some(_) | None => return last,
        }
    }
}

/// Nodes of one datacenter that are asked at most, one after the other.
const ASKED: usize = 8;

/// The node of a datacenter to ask first: the one that answered last, else any; and whether there are others. Costs
/// the same however many it has.
fn first_of(node: &Arc<Node>, dc: &DataCenterId) -> Result<(NodeEndpoint, bool), Error> {
    let selector = Selector::id(dc.clone());
    let request = Request::traffic(&selector, node.table().freshness(node.clock().now()));
    let snapshot = node.table().snapshot();
    let choice = choose(&snapshot, &request, node.draw()).map_err(|refusal| crate::spawn::refused(&refusal))?;
    let preferred = node.names().preferred(dc);
    let known = preferred.and_then(|preferred| choice.entry().endpoints().iter().find(|other| other.node == preferred));
    let first = known.unwrap_or_else(|| choice.endpoint()).clone();
    Ok((first, choice.entry().endpoints().len() > 1))
}

/// The nodes to ask when the first one did not answer, the last of them first.
fn others_of(node: &Arc<Node>, dc: &DataCenterId, first: &NodeEndpoint) -> Result<Vec<NodeEndpoint>, Error> {
    let selector = Selector::id(dc.clone());
    let request = Request::traffic(&selector, node.table().freshness(node.clock().now()));
    let snapshot = node.table().snapshot();
    let choice = choose(&snapshot, &request, node.draw()).map_err(|refusal| crate::spawn::refused(&refusal))?;
    Ok(choice.endpoints().filter(|other| other.node != first.node).take(ASKED - 1).cloned().collect())
}

/// Answers a lookup of another datacenter: by this one's directory, no further.
pub(crate) async fn asked(node: &Arc<Node>, body: LookupBody, left: Duration) -> Result<Place, Error> {
    check_name("name", &body.name)?;
    Ok(own(node, &body.name, left).await?.map_or_else(Place::none, |hit| Place::at(&hit.kind, &hit.at)))
}

/// What was found in other datacenters, by name.
#[derive(Default)]
pub(crate) struct FoundNames {
    found: Mutex<HashMap<String, Hit>>,
    /// Which node of a datacenter answered last: its link stands.
    preferred: Mutex<HashMap<DataCenterId, NodeId>>,
}

/// Names remembered at most; beyond, all are forgotten and found again.
const MAX_NAMES: usize = 65_536;

impl FoundNames {
    fn get(&self, name: &str) -> Option<Hit> {
        self.found.lock().get(name).cloned()
    }

    fn remember(&self, name: &str, hit: Hit) {
        let mut found = self.found.lock();
        if found.len() >= MAX_NAMES {
            found.clear();
        }
        found.insert(name.to_owned(), hit);
    }

    /// Keeps only what `alive` still knows.
    pub(crate) fn retain(&self, alive: impl Fn(&Location) -> bool) {
        self.found.lock().retain(|_, hit| alive(&hit.at));
    }

    fn preferred(&self, dc: &DataCenterId) -> Option<NodeId> {
        self.preferred.lock().get(dc).copied()
    }

    fn prefer(&self, dc: &DataCenterId, node: NodeId) {
        let mut preferred = self.preferred.lock();
        if preferred.get(dc) != Some(&node) {
            preferred.insert(dc.clone(), node);
        }
    }
}

impl<A: RemoteActor> fmt::Debug for ActorOf<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActorOf({} {:?})", A::KIND, self.name)
    }
}

impl<A: RemoteActor> fmt::Debug for ActorOfFuture<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActorOfFuture({})", A::KIND)
    }
}
