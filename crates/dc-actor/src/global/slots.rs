//! Global grains: which node owns an identity's slot, and making it active there.
//!
//! No store is asked: the slot's owner is known from what the node watches, and its title is the claim.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use dc_core::Epoch;
use dc_ownership::{
    ids::{GroupId, Slot},
    order::{Holder, Thing},
    title::Title,
};
use tracing::Instrument;

use super::{AHEAD, Global, LONGEST_QUESTION, Located, Owner, ownership_error};
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

/// A global grain, by what it is owned as.
pub(super) struct Identity<'a> {
    pub(super) global: &'a Arc<Global>,
    pub(super) group: GroupId,
    slot: Slot,
    pub(super) text: String,
}

impl<'a> Identity<'a> {
    /// # Errors
    ///
    /// The kind is not global, or not served here.
    pub(super) fn of(node: &'a Arc<Node>, kind: &str, id: &str) -> Result<Self, Error> {
        let what = || format!("grain kind {kind:?}");
        let global = node.global(what)?;
        global.ownership.check_kind(kind).map_err(|error| ownership_error(&what(), error, Duration::ZERO))?;
        match global.grain(kind, id) {
            Some(Thing::Grain(group, slot, text)) => Ok(Self { global, group, slot, text }),
            Some(Thing::Slot(..) | Thing::Name(_)) | None => {
                Err(Error::TypeNotRegistered { kind: kind.to_owned(), node: node.label() })
            }
        }
    }

    /// Itself.
    fn alone(&self) -> Thing {
        Thing::Grain(self.group, self.slot, self.text.clone())
    }

    /// Somebody knows it under this epoch.
    pub(super) fn hear_of(&self, node: &Node, epoch: Epoch) {
        if epoch > self.global.ownership.grain_epoch(self.group, self.slot, &self.text).unwrap_or_default() {
            node.heard_of(self.alone(), epoch.0);
        }
    }

    pub(super) fn owner(&self) -> Option<(Holder, Epoch)> {
        self.global.ownership.grain_owner(self.group, self.slot, &self.text)
    }

    fn title(&self) -> Option<(Title, bool)> {
        self.global.ownership.grain_title(self.group, self.slot, &self.text)
    }

    fn is_alone(&self) -> bool {
        self.global.ownership.is_overridden(self.group, self.slot, &self.text)
    }

    /// The newest owner of what this node knows and was told; waits for one where there is none.
    pub(super) async fn find(&self, told: Option<&NewOwner>, left: Duration) -> Result<Owner, Error> {
        if let Some(owner) = Owner::newest(self.owner(), told) {
            return Ok(owner);
        }
        let until = self.global.after(left);
        let waited = self.global.ownership.await_grain(self.group, self.slot, &self.text, None, until).await;
        let (holder, epoch) = waited.map_err(|error| ownership_error(&self.text, error, left))?;
        Ok(Owner::of(holder, epoch))
    }
}

/// Finds the owner of a global grain, and makes the grain active there if it is not.
pub(crate) async fn locate(
    node: &Arc<Node>,
    kind: &'static str,
    id: &Arc<str>,
    until: Instant,
    told: Option<&NewOwner>,
) -> Result<Located, NotFound> {
    let grain = Identity::of(node, kind, id)?;
    let left = |node: &Node| until.saturating_duration_since(node.clock().now());
    let owner = grain.find(told, left(node)).await?;
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
    Identity::of(node, kind, &id)?.hear_of(node, Epoch(body.epoch));
    let found = activate(node, kind, &id, body.epoch, left.min(LONGEST_QUESTION), body.forwarded).await?;
    Ok(Place { epoch: found.epoch, ..Place::at(kind, &found.at) })
}

/// Makes the grain active here, under the title to it or to its slot; many callers at once make it so once. Goes on to
/// its end also if the caller is dropped or the time is over.
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
    let grain = Identity::of(node, kind, id)?;
    let (global, alone) = (grain.global, grain.alone());
    let until = node.clock().now() + left;
    loop {
        if let Some(moving) = global.standing.moving_of(&alone) {
            moving.over.wait().await;
        }
        let (title, is_alone) = title(node, &grain, asked, until).await?;
        let thing = if is_alone { alone.clone() } else { Thing::Slot(grain.group, grain.slot) };
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
        let Ok(_starting) = global.standing.begin(&thing, &alone) else { continue };
        // From here on no hand-over of it passes this start by; one that was done before shows.
        if grain.is_alone() != is_alone || title.check().is_err() {
            continue;
        }
        let outcome = start(node, &grain, &thing, &title, kind, id).await;
        drop(rising);
        return outcome;
    }
}

/// The title to a grain, or its slot, of this node, under `asked` at least, and whether it is to the grain alone;
/// waits a little where it is about to be confirmed.
async fn title(node: &Arc<Node>, grain: &Identity<'_>, asked: u64, until: Instant) -> Result<(Title, bool), Error> {
    let until = until.min(node.clock().now() + AHEAD);
    let mut news = grain.global.ownership.news();
    loop {
        // Before the look: what changes after this is looked at again.
        news.mark_unchanged();
        if let Some(found) = grain.title().filter(|(title, _)| title.epoch().0 >= asked) {
            return Ok(found);
        }
        let owner = grain.owner();
        let (mine, epoch) = match &owner {
            Some((holder, epoch)) => (holder.node == node.id(), epoch.0),
            None => (false, 0),
        };
        // Who asks may be ahead: the hand-over to this node has not been seen here yet.
        let left = until.saturating_duration_since(node.clock().now());
        if !(mine || epoch < asked) || left.is_zero() {
            let newer = owner.filter(|_| !mine).map(|(holder, epoch)| super::new_owner(holder, epoch));
            return Err(Error::NotOwner { actor: grain.text.clone(), epoch, newer, not_run: true });
        }
        // An Err is the time that has passed.
        let _ = tokio::time::timeout(left, news.changed()).await;
    }
}

/// Starts it under `title`, which is to `thing`: the grain itself, or its slot.
async fn start(
    node: &Arc<Node>,
    grain: &Identity<'_>,
    thing: &Thing,
    title: &Title,
    kind: &'static str,
    id: &Arc<str>,
) -> Result<Located, Error> {
    node.accepting_owned()?;
    if grain.global.drained.load(Ordering::Acquire) {
        let reason = "its owner's datacenter has drained, and hands it on".to_owned();
        return Err(Error::OwnershipUnavailable { what: identity(kind, id), reason });
    }
    let Some((_, maker)) = node.kinds().grain(kind) else {
        return Err(Error::TypeNotRegistered { kind: kind.to_owned(), node: node.label() });
    };
    let (number, epoch, alone) = (node.actors().number(), title.epoch(), grain.alone());
    let state = grain.global.ownership.take_state(grain.group, grain.slot, &grain.text, epoch);
    let core = Core::new(number, kind, Key::Grain(id.clone()), node.host());
    // A title of its own: it may be handed over without its slot.
    let core = Arc::new(core.owned_by(Owned::new(alone.clone(), title.part())));
    let cell = maker.start(core.clone(), id, state, ended(node, &alone, kind, id, number));
    node.actors().insert(cell.clone());
    grain.global.standing.add(thing, cell.clone(), 0);
    if let Err(error) = core.wait_started().await {
        core.wait_stopped().await;
        gone(node, &alone, number);
        return Err(error);
    }
    if !grain::note_active(node, kind, id, cell) {
        core.wait_stopped().await;
        gone(node, &alone, number);
        return Err(Error::not_found(core.label()));
    }
    // It may have ended, and been removed, before it was put there.
    if core.gate.is_closed() {
        gone(node, &alone, number);
    }
    measure::activation(kind);
    tracing::debug!(grain = %core.label(), %epoch, node = %node.label(), "global grain active");
    node.bus().tell(Event::GrainActivated { kind, id: id.to_string() });
    Ok(Located { at: node.location(number), epoch: epoch.0 })
}

fn gone(node: &Node, what: &Thing, number: u64) {
    node.actors().remove(number);
    if let Some(global) = node.try_global() {
        global.standing.remove(what, number);
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
