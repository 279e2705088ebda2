//! Global names: claimed before their actor starts, let go when it has stopped for good, found wherever they are.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dc_core::Epoch;
use dc_ownership::{
    OwnershipError,
    names::{NameEntry, NameSpec},
    order::Thing,
    policy::Policy,
    title::{NotOwner, Title},
};

use super::{AHEAD, Global, LONGEST_QUESTION, Located, Owner, ownership_error, spawns::Begun};
use crate::{
    error::{Error, NewOwner},
    grain::NotFound,
    host::{AnyCell, Core, Ended, Key, Owned},
    link,
    system::{Node, WeakSystem},
    wire::{self, FindBody, Place},
};

/// What a spawn asks to be global.
pub(crate) struct Wanted {
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    pub(crate) args: Bytes,
    pub(crate) policy: Policy,
    pub(crate) request: u128,
}

/// Claims the name for this node and starts its actor. Once it starts, it goes on to its end also if the caller is
/// dropped or the time is over. A try of the same spawn that comes meanwhile is told the same (L3).
pub(crate) async fn spawn_here(node: &Arc<Node>, wanted: Wanted, left: Duration) -> Result<Located, Error> {
    node.accepting()?;
    let what = format!("the global name {:?}", wanted.name);
    let global = node.global(|| what.clone())?.clone();
    let until = node.clock().now() + left;
    let (name, request) = (wanted.name.clone(), wanted.request);
    let spawning = global.spawns.join(&name, request, |begun| {
        let (node, global, what) = (node.clone(), global.clone(), what.clone());
        async move { claim_and_start(&node, &global, wanted, &what, until, begun).await }
    });
    // When all who wait have gone before it starts, the claim goes with them and is taken back: nothing ran under it.
    match tokio::time::timeout(left, spawning.outcome()).await {
        Ok(done) => done,
        Err(_) => Err(Error::Timeout { to: what, after: left, not_run: !spawning.has_begun() }),
    }
}

async fn claim_and_start(
    node: &Arc<Node>,
    global: &Global,
    wanted: Wanted,
    what: &str,
    until: Instant,
    begun: Begun,
) -> Result<Located, Error> {
    let left = || until.saturating_duration_since(node.clock().now());
    let spec = NameSpec {
        name: wanted.name.clone(),
        kind: wanted.kind.to_owned(),
        args: wanted.args.clone(),
        policy: wanted.policy.clone(),
    };
    let title = match global.ownership.claim(spec).await {
        Ok(title) => title,
        Err(OwnershipError::NameTaken { name, holder }) => {
            if let Some(located) = started_by(node, &holder, wanted.request, left()).await {
                return Ok(located);
            }
            return Err(ownership_error(what, OwnershipError::NameTaken { name, holder }, left()));
        }
        Err(error) => return Err(ownership_error(what, error, left())),
    };
    begun.now();
    let work = tokio::spawn({
        let node = node.clone();
        async move { start(&node, wanted, title).await }
    });
    work.await.unwrap_or_else(|err| Err(Error::Other { text: format!("{what}: {err}"), not_run: false }))
}

/// Where the actor is, if an earlier try of the same spawn has started it (L3).
async fn started_by(node: &Arc<Node>, entry: &NameEntry, request: u128, left: Duration) -> Option<Located> {
    let owner = Owner::of(entry.holder.clone()?, entry.epoch);
    let name = &entry.spec.name;
    if owner.node == node.id() {
        let (cell, of) = node.try_global()?.standing.of_name(&Thing::Name(name.clone()))?;
        cell.core().wait_started().await.ok()?;
        return (of == request).then(|| Located { at: node.location(cell.core().number), epoch: owner.epoch });
    }
    let body = FindBody {
        name: name.clone(),
        request: Bytes::copy_from_slice(&request.to_be_bytes()),
        epoch: owner.epoch,
        forwarded: false,
    };
    let place = ask(node, &owner, body, left).await.ok()?;
    place.same_request.then_some(())?;
    Some(Located { at: place.location().ok()??, epoch: place.epoch })
}

/// Starts the actor of a name under its title. Failing to, it lets the name go.
async fn start(node: &Arc<Node>, wanted: Wanted, title: Title) -> Result<Located, Error> {
    let release = Release { system: node.weak(), name: wanted.name.clone(), epoch: title.epoch() };
    let started = run(node, wanted, title, None).await;
    if started.is_err() {
        release.now().await;
    }
    started
}

async fn run(node: &Arc<Node>, wanted: Wanted, title: Title, state: Option<Bytes>) -> Result<Located, Error> {
    let Wanted { kind, name, args, policy: _, request } = wanted;
    let global = node.global(|| name.clone())?;
    let thing = Thing::Name(name.clone());
    node.accepting_owned()?;
    let _starting = global.standing.begin(&thing, &thing).map_err(|_| Error::not_found(&name))?;
    let unknown = || Error::TypeNotRegistered { kind: kind.to_owned(), node: node.label() };
    let (_, maker) = node.kinds().actor(kind).ok_or_else(unknown)?;
    let (number, epoch) = (node.actors().number(), title.epoch().0);
    let core = Core::new(number, kind, Key::Global(name.as_str().into()), node.host());
    let core = Arc::new(core.owned_by(Owned::new(thing.clone(), title.clone())));
    let cell = maker.start(core.clone(), args, state, ended(node, &thing, &core, title))?;
    node.actors().insert(cell.clone());
    global.standing.add(&thing, cell, request);
    let started = core.wait_started().await;
    if started.is_err() {
        core.wait_stopped().await;
    }
    // It may have ended, and been removed, before it was put there.
    if core.gate.is_closed() {
        gone(node, &thing, number);
    }
    started?;
    tracing::debug!(actor = %core.label(), epoch, node = %node.label(), "global actor started");
    Ok(Located { at: node.location(number), epoch })
}

fn gone(node: &Node, thing: &Thing, number: u64) {
    node.actors().remove(number);
    if let Some(global) = node.try_global() {
        global.standing.remove(thing, number);
    }
}

/// What is done when the actor of a name has ended: it has stopped for good, so its name is free, unless it only ended
/// here.
fn ended(node: &Arc<Node>, thing: &Thing, core: &Arc<Core>, title: Title) -> Ended {
    let (system, thing, core) = (node.weak(), thing.clone(), core.clone());
    Box::new(move |_failure| {
        Box::pin(async move {
            let Some(node) = system.node() else { return };
            gone(&node, &thing, core.number);
            // What never started is let go by whoever started it.
            if !core.has_started() {
                return;
            }
            let elsewhere = matches!(title.check(), Err(NotOwner::Moved { .. })) || title.lease().has_ended();
            // A node that ends leaves to others what it could not hand over: they do as was declared of it.
            if elsewhere || node.accepting().is_err() {
                return;
            }
            if let Thing::Name(name) = thing {
                Release { system: node.weak(), name, epoch: title.epoch() }.now().await;
            }
        })
    })
}

/// A name that is to be let go.
struct Release {
    system: WeakSystem,
    name: String,
    epoch: Epoch,
}

impl Release {
    /// How long the end of an actor waits for the store; after that it goes on by itself.
    const AT_ONCE: Duration = Duration::from_secs(2);

    /// Lets it go; while the store is away, again and again in the background.
    async fn now(self) {
        let work = tokio::spawn(async move {
            let mut wait = Duration::from_millis(50);
            loop {
                let Some(node) = self.system.node() else { return };
                let Some(global) = node.try_global().cloned() else { return };
                match global.ownership.release(&self.name, self.epoch).await {
                    // A session that is gone has nothing to let go.
                    Ok(()) | Err(OwnershipError::NoSession { .. } | OwnershipError::Stopped) => return,
                    Err(error) => tracing::debug!(name = %self.name, %error, "a name is not let go yet"),
                }
                drop(node);
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(5));
            }
        });
        // Either way it goes on.
        let _ = tokio::time::timeout(Self::AT_ONCE, work).await;
    }
}

/// Finds the actor of a global name.
pub(crate) async fn locate(
    node: &Arc<Node>,
    name: &str,
    until: Instant,
    told: Option<&NewOwner>,
) -> Result<(Located, String), NotFound> {
    let what = || format!("the global name {name:?}");
    let global = node.global(what)?.clone();
    let left = |node: &Node| until.saturating_duration_since(node.clock().now());
    let found = tokio::time::timeout(left(node), global.ownership.look_up(name)).await;
    let Ok(found) = found else {
        return Err(Error::Timeout { to: what(), after: left(node), not_run: true }.into());
    };
    let entry = found.map_err(|error| ownership_error(&what(), error, left(node)))?;
    let Some(entry) = entry else { return Err(NotFound { error: Error::not_found(name), lasting: true }) };
    let told = told.filter(|told| told.epoch > entry.epoch.0);
    if told.is_none()
        && let Some((at, epoch, kind)) = global.found.lock().get(name).cloned()
        && epoch == entry.epoch.0
    {
        return Ok((Located { at, epoch }, kind));
    }
    let known = entry.holder.clone().map(|holder| (holder, entry.epoch));
    let Some(owner) = Owner::newest(known, told) else {
        let error = Error::Unreachable { to: what(), reason: "its owner is lost, and has no successor yet".into() };
        return Err(error.into());
    };
    if owner.node == node.id() {
        let (cell, _) = here(node, &global, name, owner.epoch, until, false).await?;
        let epoch = cell.core().owned.as_ref().map(|owned| owned.title.epoch().0).unwrap_or_default();
        return Ok((Located { at: node.location(cell.core().number), epoch }, cell.core().kind.to_owned()));
    }
    let body = FindBody { name: name.to_owned(), request: Bytes::new(), epoch: owner.epoch, forwarded: false };
    let place = ask(node, &owner, body, left(node).min(Duration::from_secs(3))).await?;
    let at = place.location()?.ok_or_else(|| Error::not_found(name))?;
    let located = Located { at, epoch: place.epoch };
    global.remember(name, &located, &place.kind);
    Ok((located, place.kind))
}

/// Asks the owner where its actor is.
pub(super) async fn ask(node: &Arc<Node>, owner: &Owner, body: FindBody, left: Duration) -> Result<Place, Error> {
    let to = owner.label();
    let asked = node
        .peer_of(&owner.dc, &owner.endpoint, owner.node)
        .call_for_answer(wire::FIND, wire::write(&body), left)
        .await;
    match asked {
        Ok(answer) => wire::read_answer(answer.status, answer.body),
        Err(err) if err.certainly_not_run() => Err(link::link_error(&err, &to)),
        // A question changes nothing.
        Err(err) => Err(Error::Unreachable { to, reason: err.to_string() }),
    }
}

/// Answers a node that takes this one for the owner of a name.
pub(crate) async fn asked_to_find(node: &Arc<Node>, body: FindBody, left: Duration) -> Result<Place, Error> {
    let global = node.global(|| format!("the global name {:?}", body.name))?.clone();
    let thing = Thing::Name(body.name.clone());
    if body.epoch > global.epoch(&thing).unwrap_or_default() {
        node.heard_of(thing, body.epoch);
    }
    let left = left.min(LONGEST_QUESTION);
    let until = node.clock().now() + left;
    let found = here(node, &global, &body.name, body.epoch, until, body.forwarded);
    let late = |_| Error::Timeout { to: format!("the global name {:?}", body.name), after: left, not_run: true };
    let (cell, request) = tokio::time::timeout(left, found).await.map_err(late)??;
    let core = cell.core();
    let epoch = core.owned.as_ref().map(|owned| owned.title.epoch().0).unwrap_or_default();
    let same_request = request != 0 && body.request.as_ref() == request.to_be_bytes();
    Ok(Place { epoch, same_request, ..Place::at(core.kind, &node.location(core.number)) })
}

/// The actor of a name that this node owns, once it has started; under `asked` at least, if that comes soon.
async fn here(
    node: &Arc<Node>,
    global: &Global,
    name: &str,
    asked: u64,
    until: Instant,
    forwarded: bool,
) -> Result<(Arc<dyn AnyCell>, u128), Error> {
    let thing = Thing::Name(name.to_owned());
    let until = until.min(node.clock().now() + AHEAD);
    let mut news = global.ownership.news();
    loop {
        // Before the look: what changes after this is looked at again.
        news.mark_unchanged();
        let start = global.standing.next_start();
        if let Some(moving) = global.standing.moving(&thing) {
            moving.over.wait().await;
        }
        if let Some((cell, request)) = global.standing.of_name(&thing)
            && let Some(owned) = &cell.core().owned
            && owned.title.check().is_ok()
            && owned.title.epoch().0 >= asked
        {
            if !forwarded {
                global.after_landing(&thing, owned.title.epoch().0).await;
            }
            cell.core().wait_started().await?;
            return Ok((cell, request));
        }
        let known = global.ownership.known(name);
        let mine = known.as_ref().and_then(|entry| entry.holder.as_ref()).is_some_and(|held| held.node == node.id());
        // Who asks may be ahead: the hand-over to this node has not been seen here yet.
        let behind = known.as_ref().is_none_or(|entry| entry.epoch.0 < asked);
        let left = until.saturating_duration_since(node.clock().now());
        if !(mine || behind) || left.is_zero() {
            let epoch = known.as_ref().map_or(0, |entry| entry.epoch.0);
            let newer = known.filter(|_| !mine).and_then(|entry| Some(super::new_owner(entry.holder?, entry.epoch)));
            return Err(Error::NotOwner { actor: format!("the global name {name:?}"), epoch, newer, not_run: true });
        }
        // It is about to be adopted, or its title to be confirmed.
        let change = async {
            tokio::select! {
                _ = news.changed() => {}
                () = start => {}
            }
        };
        // An Err is the time that has passed.
        let _ = tokio::time::timeout(left, change).await;
    }
}

/// Starts the actor of a name that came to this node. Failing to, the driver lets the name go to the next candidate.
pub(super) async fn adopt(
    node: &Arc<Node>,
    kind: &'static str,
    spec: NameSpec,
    title: Title,
    state: Option<Bytes>,
) -> Result<(), Error> {
    let wanted = Wanted { kind, name: spec.name, args: spec.args, policy: spec.policy, request: 0 };
    run(node, wanted, title, state).await.map(drop)
}
