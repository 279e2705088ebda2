//! Global grains: which node owns an identity's slot, and making it active there.
//!
//! No store is asked: the slot's owner is known from what the node watches, and its title is the claim.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dc_ownership::{
    ids::{GroupId, Slot},
    order::Thing,
    title::Title,
};
use tracing::Instrument;

use super::{Global, Located, Owner, ownership_error};
use crate::{
    error::{Error, NewOwner},
    events::Event,
    grain::{self, Begun, NotFound, identity},
    host::{Core, Ended, Key, Owned},
    link, measure,
    system::Node,
    wire::{self, GrainBody, Place},
};

/// The longest time that one question for a grain may take, so that another owner can be asked.
const ONE_QUESTION: Duration = Duration::from_secs(3);

/// How often a title that is about to be confirmed is looked for.
const CONFIRMED: Duration = Duration::from_millis(10);

/// Finds the owner of a global grain, and makes the grain active there if it is not.
pub(crate) async fn locate(
    node: &Arc<Node>,
    kind: &'static str,
    id: &Arc<str>,
    until: Instant,
    told: Option<&NewOwner>,
) -> Result<Located, NotFound> {
    let (global, group, slot) = place(node, kind, id)?;
    let left = |node: &Node| until.saturating_duration_since(node.clock().now());
    let mut owner = Owner::newest(global.ownership.slot_owner(group, slot), told);
    if owner.is_none() {
        let (found, left) = (identity(kind, id), left(node));
        let waited = global.ownership.await_slot(group, slot, None, global.after(left)).await;
        let (holder, epoch) = waited.map_err(|error| ownership_error(&found, error, left))?;
        owner = Some(Owner::of(holder, epoch));
    }
    let Some(owner) = owner else { return Err(Error::not_found(identity(kind, id)).into()) };
    if owner.node == node.id() {
        return Ok(activate(node, kind, id, owner.epoch, left(node), false).await?);
    }
    let body = GrainBody { kind: kind.to_owned(), id: id.to_string(), epoch: owner.epoch, forwarded: false };
    Ok(ask(node, &owner, body, left(node).min(ONE_QUESTION)).await?)
}

/// Asks the owner to make it active.
pub(super) async fn ask(node: &Arc<Node>, owner: &Owner, body: GrainBody, left: Duration) -> Result<Located, Error> {
    let (what, to) = (identity(&body.kind, &body.id), owner.label());
    let asked = node
        .peer_of(&owner.dc, &owner.endpoint, owner.node)
        .call_for_answer(wire::OWNED, wire::write(&body), left)
        .await;
    let place = match asked {
        Ok(answer) => wire::read_answer(answer.status, answer.body)?,
        // An activation changes nothing that a second question could double: its slot's title is the claim.
        Err(err) if err.certainly_not_run() => return Err(link::link_error(&err, &to)),
        Err(err) => return Err(Error::Unreachable { to, reason: err.to_string() }),
    };
    let at = place.location()?.ok_or_else(|| Error::not_found(what))?;
    Ok(Located { at, epoch: place.epoch })
}

/// Answers a node that takes this one for the owner.
pub(crate) async fn asked_to_activate(node: &Arc<Node>, body: GrainBody, left: Duration) -> Result<Place, Error> {
    let (kind, id) = grain::known(node, &body)?;
    let (_, group, slot) = place(node, kind, &id)?;
    let thing = Thing::Slot(group, slot);
    if body.epoch > node.try_global().and_then(|global| global.epoch(&thing)).unwrap_or_default() {
        node.heard_of(thing, body.epoch);
    }
    let found = activate(node, kind, &id, body.epoch, left, body.forwarded).await?;
    Ok(Place { epoch: found.epoch, ..Place::at(kind, &found.at) })
}

fn place<'a>(node: &'a Arc<Node>, kind: &str, id: &str) -> Result<(&'a Arc<Global>, GroupId, Slot), Error> {
    let what = || format!("grain kind {kind:?}");
    let global = node.global(what)?;
    global.ownership.check_kind(kind).map_err(|error| ownership_error(&what(), error, Duration::ZERO))?;
    match global.slot_of(kind, id) {
        Some(Thing::Slot(group, slot)) => Ok((global, group, slot)),
        Some(Thing::Name(_)) | None => Err(Error::TypeNotRegistered { kind: kind.to_owned(), node: node.label() }),
    }
}

/// Makes the grain active here, under the title to its slot; many callers at once make it so once. Goes on to its end
/// also if the caller is dropped or the time is over.
pub(super) async fn activate(
    node: &Arc<Node>,
    kind: &'static str,
    id: &Arc<str>,
    asked: u64,
    left: Duration,
    forwarded: bool,
) -> Result<Located, Error> {
    let work = {
        let (node, id) = (node.clone(), id.clone());
        let span = tracing::debug_span!("activate", kind, id = %id);
        async move { activate_here(&node, kind, &id, asked, left, forwarded).await }.instrument(span)
    };
    let timed_out = || Error::Timeout { to: identity(kind, id), after: left, not_run: true };
    let Ok(done) = tokio::time::timeout(left, tokio::spawn(work)).await else { return Err(timed_out()) };
    done.unwrap_or_else(|err| {
        let reason = format!("making its arguments failed: {err}");
        Err(Error::StartFailed { kind: kind.to_owned(), reason })
    })
}

async fn activate_here(
    node: &Arc<Node>,
    kind: &'static str,
    id: &Arc<str>,
    asked: u64,
    left: Duration,
    forwarded: bool,
) -> Result<Located, Error> {
    let (global, group, slot) = place(node, kind, id)?;
    let thing = Thing::Slot(group, slot);
    let until = node.clock().now() + left;
    loop {
        if let Some(moving) = global.standing.moving(&thing) {
            moving.over.wait().await;
        }
        let title = title(node, global, (group, slot), asked, &identity(kind, id), until).await?;
        if !forwarded {
            global.after_landing(&thing, title.epoch().0).await;
        }
        let rising = match grain::begin(node, kind, id) {
            Begun::Mine(rising) => rising,
            Begun::Active(cell) => match &cell.core().owned {
                Some(owned) if owned.title.epoch() == title.epoch() && !cell.core().gate.is_held() => {
                    return Ok(Located { at: node.location(cell.core().number), epoch: title.epoch().0 });
                }
                Some(owned) if owned.title.epoch() == title.epoch() => {
                    // It is being handed over: the move is looked at again.
                    tokio::task::yield_now().await;
                    continue;
                }
                // Of an ownership that is over: it ends before another one begins here.
                Some(_) | None => {
                    cell.kill();
                    cell.core().wait_stopped().await;
                    continue;
                }
            },
            Begun::Wait(wait) => {
                wait.await;
                continue;
            }
        };
        let Ok(_starting) = global.standing.begin(&thing) else { continue };
        let outcome = start(node, global, &thing, title, kind, id).await;
        drop(rising);
        return outcome;
    }
}

/// The title to a slot of this node, under `asked` at least; waits a little where it is about to be confirmed.
async fn title(
    node: &Arc<Node>,
    global: &Global,
    (group, slot): (GroupId, Slot),
    asked: u64,
    what: &str,
    until: Instant,
) -> Result<Title, Error> {
    loop {
        if let Some(title) = global.ownership.slot_title(group, slot).filter(|title| title.epoch().0 >= asked) {
            return Ok(title);
        }
        let owner = global.ownership.slot_owner(group, slot);
        let (mine, epoch) = match &owner {
            Some((holder, epoch)) => (holder.node == node.id(), epoch.0),
            None => (false, 0),
        };
        // Who asks may be ahead: the hand-over to this node has not been seen here yet.
        if !(mine || epoch < asked) || node.clock().now() >= until {
            let newer = owner.filter(|_| !mine).map(|(holder, epoch)| super::new_owner(holder, epoch));
            return Err(Error::NotOwner { actor: what.to_owned(), epoch, newer, not_run: true });
        }
        tokio::time::sleep(CONFIRMED).await;
    }
}

async fn start(
    node: &Arc<Node>,
    global: &Global,
    thing: &Thing,
    title: Title,
    kind: &'static str,
    id: &Arc<str>,
) -> Result<Located, Error> {
    node.accepting_owned()?;
    let Some((_, maker)) = node.kinds().grain(kind) else {
        return Err(Error::TypeNotRegistered { kind: kind.to_owned(), node: node.label() });
    };
    let (number, epoch) = (node.actors().number(), title.epoch());
    let Thing::Slot(group, slot) = thing else { return Err(Error::not_found(identity(kind, id))) };
    let state = global.ownership.take_state(*group, *slot, &identity(kind, id), epoch);
    let core = Core::new(number, kind, Key::Grain(id.clone()), node.host());
    let core = Arc::new(core.owned_by(Owned::new(thing.clone(), title)));
    let cell = maker.start(core.clone(), id, state, ended(node, thing, kind, id, number));
    node.actors().insert(cell.clone());
    global.standing.add(thing, cell.clone(), 0);
    if let Err(error) = core.wait_started().await {
        core.wait_stopped().await;
        gone(node, thing, number);
        return Err(error);
    }
    if !grain::note_active(node, kind, id, cell) {
        core.wait_stopped().await;
        gone(node, thing, number);
        return Err(Error::not_found(core.label()));
    }
    // It may have ended, and been removed, before it was put there.
    if core.gate.is_closed() {
        gone(node, thing, number);
    }
    measure::activation(kind);
    tracing::debug!(grain = %core.label(), %epoch, node = %node.label(), "global grain active");
    node.bus().tell(Event::GrainActivated { kind, id: id.to_string() });
    Ok(Located { at: node.location(number), epoch: epoch.0 })
}

fn gone(node: &Node, thing: &Thing, number: u64) {
    node.actors().remove(number);
    if let Some(global) = node.try_global() {
        global.standing.remove(thing, number);
    }
}

fn ended(node: &Arc<Node>, thing: &Thing, kind: &'static str, id: &Arc<str>, number: u64) -> Ended {
    let (system, id, thing) = (node.weak(), id.clone(), thing.clone());
    Box::new(move |_failure| {
        Box::pin(async move {
            let Some(node) = system.node() else { return };
            gone(&node, &thing, number);
            grain::note_ended(&node, kind, &id, number);
        })
    })
}
