//! Where a grain is: which datacenter is its home, and which node there has it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dc_core::{DataCenterId, DataCenterSelector};

use super::{activate, identity};
use crate::{
    error::{Error, NewOwner},
    global::{self, Located},
    kind::GrainScope,
    link,
    lookup::ask_data_center,
    reference::Location,
    spawn::{check_name, directory_error, entry_location},
    system::Node,
    wire::{self, Found, GrainBody, Place},
};

/// The longest time that one question for a grain may take, so that another node can be asked.
const ONE_QUESTION: Duration = Duration::from_secs(3);

/// Why a grain was not found.
pub(crate) struct NotFound {
    pub(crate) error: Error,
    /// Looking again at once is of no use: no node of its home answers.
    pub(crate) lasting: bool,
}

impl From<Error> for NotFound {
    fn from(error: Error) -> Self {
        Self { error, lasting: false }
    }
}

impl From<dc_core::Invalid> for NotFound {
    fn from(invalid: dc_core::Invalid) -> Self {
        Error::from(invalid).into()
    }
}

/// Finds the grain, making it active if it is not.
pub(crate) async fn locate(
    node: &Arc<Node>,
    kind: &'static str,
    id: &Arc<str>,
    until: Instant,
    told: Option<&NewOwner>,
) -> Result<Located, NotFound> {
    check_name("grain id", id)?;
    if let Some(found) = node.grains().remembered(kind, id)
        && !is_over(node, kind, id, &found, told)
    {
        return Ok(found);
    }
    let left = until.saturating_duration_since(node.clock().now());
    let scope = node.kinds().grain(kind).map(|(_, kind)| kind.options().scope.clone());
    let Some(scope) = scope else {
        return Err(Error::TypeNotRegistered { kind: kind.to_owned(), node: node.label() }.into());
    };
    let found: Located = match scope {
        GrainScope::Global(_) => global::locate_grain(node, kind, id, until, told).await?,
        GrainScope::PerDataCenter => in_own(node, kind, id, left).await?.into(),
        GrainScope::OneHome(among) => at_home(node, kind, id, &among, left).await?.into(),
    };
    if found.at.node != node.id() {
        node.grains().remember(kind, id, &found);
    }
    Ok(found)
}

/// Whether what is remembered of a global grain is known to be of a former owner.
fn is_over(node: &Node, kind: &str, id: &str, found: &Located, told: Option<&NewOwner>) -> bool {
    if found.epoch == 0 {
        return false;
    }
    let newer = || node.try_global().and_then(|global| global.grain(kind, id));
    told.is_some_and(|told| told.epoch > found.epoch)
        || newer().is_some_and(|thing| node.knows_newer(&thing, found.epoch))
}

/// The home of an identity, among those that match: any that takes traffic; or any that takes placements, without
/// `except`.
pub(super) fn home_of(
    node: &Node,
    key: &str,
    among: &DataCenterSelector,
    except: Option<&DataCenterId>,
) -> Result<DataCenterId, Error> {
    if !node.table().ever_in_step() {
        let reason = "the routing table has not been in step with the control plane yet";
        return Err(Error::DataCenterNotReady { reason: reason.into() });
    }
    let snapshot = node.table().snapshot();
    let home = snapshot.home_where(key.as_bytes(), |entry| {
        among.matches(entry.data_center())
            && except.is_none_or(|except| entry.id() != except && entry.takes_placements())
    });
    home.map(|entry| entry.id().clone()).ok_or_else(|| Error::DataCenterRecordNotFound {
        asked: format!("a home for {key} ({among})"),
        known: snapshot.iter().map(|entry| entry.id().to_string()).collect(),
    })
}

/// Whether this datacenter is the home, as this node's table says.
pub(super) fn is_home(node: &Node, kind: &str, id: &str, among: &DataCenterSelector) -> bool {
    home_of(node, &identity(kind, id), among, None).is_ok_and(|home| home == *node.data_center().id())
}

/// Finds a grain that has one home across datacenters.
async fn at_home(
    node: &Arc<Node>,
    kind: &'static str,
    id: &Arc<str>,
    among: &DataCenterSelector,
    left: Duration,
) -> Result<Location, NotFound> {
    let key = identity(kind, id);
    let home = home_of(node, &key, among, None)?;
    let place = ask_home(node, &home, kind, id, left).await?;
    match (place.location()?, place.found()) {
        (Some(at), _) => Ok(at),
        // The home is draining and does not have it active.
        (None, Found::AskNext) => {
            let next = home_of(node, &key, among, Some(&home))?;
            let place = ask_home(node, &next, kind, id, left).await?;
            place.location()?.ok_or_else(|| no_home(&key, &next).into())
        }
        (None, _) => Err(no_home(&key, &home).into()),
    }
}

fn no_home(key: &str, home: &DataCenterId) -> Error {
    Error::DataCenterNotRoutable {
        asked: format!("a home for {key}"),
        reasons: vec![format!("{home} takes no grains")],
    }
}

async fn ask_home(
    node: &Arc<Node>,
    home: &DataCenterId,
    kind: &'static str,
    id: &Arc<str>,
    left: Duration,
) -> Result<Place, NotFound> {
    if home == node.data_center().id() {
        return Ok(as_home(node, kind, id, left).await?);
    }
    let body = wire::write(&GrainBody { kind: kind.to_owned(), id: id.to_string(), ..GrainBody::default() });
    match ask_data_center(node, home, wire::LOCATE, body, left).await {
        Ok(answer) => Ok(answer?),
        Err(error) => Err(NotFound { error: only_asked(error, home), lasting: true }),
    }
}

/// The error of a question as that of the message, which has not been sent: it certainly did not run.
fn only_asked(error: Error, home: &DataCenterId) -> Error {
    match error {
        Error::Timeout { to, after, .. } => Error::Timeout { to, after, not_run: true },
        error if error.certainly_not_run() => error,
        error => Error::Unreachable { to: home.to_string(), reason: error.to_string() },
    }
}

/// Answers for this datacenter, which is the home (as the asker sees it).
async fn as_home(node: &Arc<Node>, kind: &'static str, id: &Arc<str>, left: Duration) -> Result<Place, Error> {
    if !takes_grains(node) {
        let at = active_in_own(node, kind, id, left).await?;
        return Ok(at.map_or_else(Place::ask_next, |at| Place::at(kind, &at)));
    }
    in_own(node, kind, id, left).await.map(|at| Place::at(kind, &at))
}

/// Whether this datacenter takes new grains, as the routing table says; without a word of it, it does.
fn takes_grains(node: &Node) -> bool {
    node.table().snapshot().get(node.data_center().id()).is_none_or(|own| own.takes_placements())
}

/// Where the grain is active in this datacenter, if it is. Activates nothing.
async fn active_in_own(node: &Arc<Node>, kind: &str, id: &str, left: Duration) -> Result<Option<Location>, Error> {
    let key = activate::directory_key(kind, id);
    let entry = node.directory().lookup(&key, left.min(ONE_QUESTION)).await;
    Ok(entry.map_err(|err| directory_error(node, err))?.map(|entry| entry_location(node, &entry)))
}

/// Finds the grain in this datacenter, making it active on the member that the directory names.
async fn in_own(node: &Arc<Node>, kind: &'static str, id: &Arc<str>, left: Duration) -> Result<Location, Error> {
    let key = activate::directory_key(kind, id);
    let member = match node.directory().home(&key) {
        Some(member) if member.node != node.id() => member,
        Some(_) | None => return activate::activate(node, kind, id, left).await,
    };
    let body = wire::write(&GrainBody { kind: kind.to_owned(), id: id.to_string(), ..GrainBody::default() });
    let to = format!("{} at {}", member.node.short(), member.endpoint);
    let peer = node.peer_of(node.data_center().id(), &member.endpoint, member.node);
    let answer = peer.call_for_answer(wire::ACTIVATE, body, left.min(ONE_QUESTION)).await;
    let place = match answer {
        Ok(answer) => wire::read_answer(answer.status, answer.body),
        // An activation changes nothing that a second question could double: its claim is in the directory.
        Err(err) if err.certainly_not_run() => Err(link::link_error(&err, &to)),
        Err(err) => Err(Error::Unreachable { to, reason: err.to_string() }),
    };
    match place {
        Ok(place) => place.location()?.ok_or_else(|| Error::not_found(identity(kind, id))),
        // That member cannot run the kind, or ends, and this node can: the claim keeps it the only one.
        Err(Error::TypeNotRegistered { .. } | Error::ShuttingDown { .. }) => {
            activate::activate(node, kind, id, left).await
        }
        // It takes longer than one question may: another one waits for the same activation.
        Err(Error::Timeout { to, after, .. }) if left > ONE_QUESTION => {
            Err(Error::Unreachable { to, reason: format!("no answer in {after:?}") })
        }
        Err(error) => Err(error),
    }
}

/// Answers another datacenter for which this one is the home.
pub(crate) async fn asked_to_locate(node: &Arc<Node>, body: GrainBody, left: Duration) -> Result<Place, Error> {
    let (kind, id) = known(node, &body)?;
    as_home(node, kind, &id, left).await
}

/// Says whether the grain is active in this datacenter.
pub(crate) async fn asked_to_peek(node: &Arc<Node>, body: GrainBody, left: Duration) -> Result<Place, Error> {
    let at = active_in_own(node, &body.kind, &body.id, left).await?;
    Ok(at.map_or_else(Place::none, |at| Place::at(&body.kind, &at)))
}

/// The kind as this program spells it, and the identity, checked.
pub(crate) fn known(node: &Node, body: &GrainBody) -> Result<(&'static str, Arc<str>), Error> {
    check_name("grain id", &body.id)?;
    let (kind, _) = node
        .kinds()
        .grain(&body.kind)
        .ok_or_else(|| Error::TypeNotRegistered { kind: body.kind.clone(), node: node.label() })?;
    Ok((kind, body.id.as_str().into()))
}

/// Where else the grain could be active from the time before this datacenter was its home: the datacenters that
/// come next in the order of homes.
pub(super) fn former_homes(node: &Node, kind: &str, id: &str, among: &DataCenterSelector) -> Vec<DataCenterId> {
    let key = identity(kind, id);
    let snapshot = node.table().snapshot();
    let mut found = vec![node.data_center().id().clone()];
    while found.len() < 3 {
        let next = snapshot
            .home_where(key.as_bytes(), |entry| among.matches(entry.data_center()) && !found.contains(entry.id()));
        match next {
            Some(entry) => found.push(entry.id().clone()),
            None => break,
        }
    }
    found.split_off(1)
}
