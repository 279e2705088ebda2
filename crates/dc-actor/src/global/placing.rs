//! Having one global grain live in other datacenters than its slot: asked of its owner, who hands it over.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use dc_core::{DataCenterSelector, Epoch};
use dc_ownership::policy::Policy;
use futures::future::BoxFuture;
use tracing::Instrument;

use super::{Owner, new_owner, ownership_error, slots::Identity};
use crate::{
    error::{Error, NewOwner},
    grain::{self, GrainRef},
    kind::GrainScope,
    link,
    message::RemoteActor,
    send::LONGEST_WAIT,
    spawn::{check_name, may_place},
    system::Node,
    wire::{self, Place, PlaceInBody},
};

/// The least time between two questions for the same grain.
const PAUSE: Duration = Duration::from_millis(50);

/// A global grain that is about to be placed in other datacenters than its slot, see [`GrainRef::place_in`].
#[must_use = "nothing is moved until it is awaited"]
pub struct PlaceIn<A: RemoteActor> {
    grain: GrainRef<A>,
    to: DataCenterSelector,
    timeout: Option<Duration>,
}

/// What `place_in(..).await` waits for. Dropped before its end, the grain may still be moved.
#[must_use = "futures do nothing unless awaited"]
pub struct PlaceInFuture(BoxFuture<'static, Result<(), Error>>);

impl Future for PlaceInFuture {
    type Output = Result<(), Error>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<A: RemoteActor> PlaceIn<A> {
    pub(crate) fn new(grain: GrainRef<A>, to: DataCenterSelector) -> Self {
        Self { grain, to, timeout: None }
    }

    /// How long all of it may take: finding its owner, the end of what it has begun, the hand-over. Default: the system's
    /// `spawn_timeout`.
    pub fn timeout(mut self, after: Duration) -> Self {
        self.timeout = Some(after.min(LONGEST_WAIT));
        self
    }
}

impl<A: RemoteActor> IntoFuture for PlaceIn<A> {
    type Output = Result<(), Error>;
    type IntoFuture = PlaceInFuture;

    fn into_future(self) -> PlaceInFuture {
        let Self { grain, to, timeout } = self;
        let span = tracing::debug_span!("place_in", %grain, %to);
        let placing = async move {
            let node = grain.mobile().node();
            place(node, A::KIND, grain.id(), &to, timeout.unwrap_or(node.options().spawn_timeout)).await
        };
        PlaceInFuture(Box::pin(placing.instrument(span)))
    }
}

async fn place(
    node: &Arc<Node>,
    kind: &'static str,
    id: &str,
    to: &DataCenterSelector,
    after: Duration,
) -> Result<(), Error> {
    check_name("grain id", id)?;
    to.check()?;
    let grain = Identity::of(node, kind, id)?;
    check_policy(node, kind, to)?;
    may_place(node, to)?;
    let until = node.clock().now() + after;
    let (mut told, mut unsure) = (None::<NewOwner>, None::<Error>);
    loop {
        let left = until.saturating_duration_since(node.clock().now());
        if left.is_zero() {
            let late = Error::Timeout { to: format!("the owner of {}", grain.text), after, not_run: true };
            return Err(unsure.unwrap_or(late));
        }
        let asked = match grain.find(told.as_ref(), left).await {
            Ok(owner) if owner.node == node.id() => here(node, &grain, to, left).await,
            Ok(owner) => ask(node, &owner, kind, id, to, left).await,
            Err(error) => Err(error),
        };
        let Err(error) = asked else { return Ok(()) };
        if !error.certainly_not_run() {
            unsure = Some(error.clone());
        }
        if !asks_again(&error) {
            // An earlier question may have moved it, or move it yet.
            return Err(unsure.unwrap_or(error));
        }
        if let Error::NotOwner { newer: Some(newer), .. } = error {
            told = Some(newer);
        }
        tokio::time::sleep((PAUSE + Duration::from_millis(node.draw() % 50)).min(left)).await;
    }
}

/// Asking again, the same node or its successor, is safe: where it is there already, nothing is moved.
fn asks_again(error: &Error) -> bool {
    matches!(
        error,
        Error::NotOwner { .. }
            | Error::Unreachable { .. }
            | Error::Lost { .. }
            | Error::NoAnswer { .. }
            | Error::ShuttingDown { .. }
    )
}

/// Refuses what its kind's policy does not allow in any datacenter that is meant.
fn check_policy(node: &Node, kind: &str, to: &DataCenterSelector) -> Result<(), Error> {
    let Some(policy) = policy(node, kind) else { return Ok(()) };
    let snapshot = node.table().snapshot();
    let meant: Vec<_> = snapshot.iter().filter(|entry| to.matches(entry.data_center())).collect();
    if meant.is_empty() || meant.iter().any(|entry| policy.allows(entry.data_center())) {
        return Ok(());
    }
    let reason = |dc: &dyn fmt::Display| format!("{dc}: the policy of {kind:?} keeps it within {}", policy.within);
    let reasons = meant.iter().map(|entry| reason(entry.id())).collect();
    Err(Error::DataCenterNotRoutable { asked: to.to_string(), reasons })
}

fn policy(node: &Node, kind: &str) -> Option<Policy> {
    match &node.kinds().grain(kind)?.1.options().scope {
        GrainScope::Global(policy) => Some((**policy).clone()),
        GrainScope::PerDataCenter | GrainScope::OneHome(_) => None,
    }
}

async fn ask(
    node: &Arc<Node>,
    owner: &Owner,
    kind: &str,
    id: &str,
    to: &DataCenterSelector,
    left: Duration,
) -> Result<(), Error> {
    let body = PlaceInBody {
        kind: kind.to_owned(),
        id: id.to_owned(),
        // Plain data: JSON takes it.
        to: serde_json::to_vec(to).unwrap_or_default().into(),
        epoch: owner.epoch,
    };
    let peer = node.peer_of(&owner.dc, &owner.endpoint, owner.node);
    match peer.call_for_answer(wire::PLACE_IN, wire::write(&body), left).await {
        Ok(answer) => wire::read_answer(answer.status, answer.body).map(drop),
        Err(error) => Err(link::link_error(&error, &owner.label())),
    }
}

/// Has the owner, this node, hand it over.
async fn here(node: &Node, grain: &Identity<'_>, to: &DataCenterSelector, left: Duration) -> Result<(), Error> {
    let placed = grain.global.ownership.place(grain.group, &grain.text, to.clone());
    match tokio::time::timeout(left, placed).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(dc_ownership::OwnershipError::OwnedElsewhere { what })) => {
            let owner = grain.owner();
            let epoch = owner.as_ref().map_or(0, |(_, epoch)| epoch.0);
            let newer = owner.filter(|(holder, _)| holder.node != node.id());
            let newer = newer.map(|(holder, epoch)| new_owner(holder, epoch));
            Err(Error::NotOwner { actor: what, epoch, newer, not_run: true })
        }
        Ok(Err(error)) => Err(ownership_error(&grain.text, error, left)),
        Err(_) => Err(Error::Timeout { to: format!("the hand-over of {}", grain.text), after: left, not_run: false }),
    }
}

/// Answers a node that takes this one for the owner.
pub(crate) async fn asked_to_place(node: &Arc<Node>, body: PlaceInBody, left: Duration) -> Result<Place, Error> {
    let of = wire::GrainBody { kind: body.kind, id: body.id, ..wire::GrainBody::default() };
    let (kind, id) = grain::known(node, &of)?;
    let to: DataCenterSelector = serde_json::from_slice(&body.to).map_err(|err| Error::Codec {
        what: "a selector".into(),
        reason: err.to_string(),
        not_run: true,
    })?;
    let grain = Identity::of(node, kind, &id)?;
    grain.hear_of(node, Epoch(body.epoch));
    here(node, &grain, &to, left).await.map(|()| Place::none())
}

impl<A: RemoteActor> fmt::Debug for PlaceIn<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlaceIn({} in {})", self.grain, self.to)
    }
}

impl fmt::Debug for PlaceInFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlaceInFuture")
    }
}
