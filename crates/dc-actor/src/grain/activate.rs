//! Making a grain active on this node: at most once in the datacenter, by a claim in its directory.

use std::{sync::Arc, time::Duration};

use dc_cluster::Claim;
use dc_core::DataCenterId;
use futures::future::join_all;
use tracing::Instrument;

use super::{Here, identity, locate};
use crate::{
    error::Error,
    events::Event,
    host::{AnyCell, Core, Ended, Key},
    kind::GrainScope,
    lookup::ask_data_center,
    measure,
    reference::Location,
    spawn::{Held, directory_error, entry_location, lost, must_not_stay, stop_again},
    system::Node,
    wire::{self, GrainBody, Place},
};

/// How long a former home may take to say whether it has a grain active.
const FORMER_HOME: Duration = Duration::from_secs(1);

/// The key of a grain in the datacenter's directory.
pub(super) fn directory_key(kind: &str, id: &str) -> String {
    format!("g/{}", identity(kind, id))
}

/// Answers a node of this datacenter that takes this one for the place of the grain. Others ask for a grain, and its
/// datacenter decides where it is: in another one, or on another node, it could be active twice.
pub(crate) async fn asked_to_activate(
    node: &Arc<Node>,
    who: &DataCenterId,
    body: GrainBody,
    left: Duration,
) -> Result<Place, Error> {
    if who != node.data_center().id() {
        return Err(node.unauthorized(who, format!("choose the node of a {:?}", body.kind)));
    }
    let (kind, id) = locate::known(node, &body)?;
    activate(node, kind, &id, left).await.map(|at| Place::at(kind, &at))
}

/// Makes the grain active here, unless it is active elsewhere; many callers at once make it so once.
/// Goes on to its end also if the caller is dropped or the time is over.
pub(super) async fn activate(
    node: &Arc<Node>,
    kind: &'static str,
    id: &Arc<str>,
    left: Duration,
) -> Result<Location, Error> {
    let until = node.clock().now() + left;
    let timed_out = || Error::Timeout { to: identity(kind, id), after: left, not_run: true };
    loop {
        let left = until.saturating_duration_since(node.clock().now());
        let rising = match begin(node, kind, id) {
            Begun::Mine(rising) => rising,
            Begun::Active(cell) => return Ok(node.location(cell.core().number)),
            Begun::Wait(wait) => {
                if tokio::time::timeout(left, wait).await.is_err() {
                    return Err(timed_out());
                }
                continue;
            }
        };
        let (node, id) = (node.clone(), id.clone());
        let span = tracing::debug_span!("activate", kind, id = %id);
        let work = async move {
            let outcome = raise(&node, kind, &id, left).await;
            drop(rising);
            outcome
        };
        let work = tokio::spawn(work.instrument(span));
        let Ok(done) = tokio::time::timeout(left, work).await else { return Err(timed_out()) };
        return done.unwrap_or_else(|err| {
            let reason = format!("making its arguments failed: {err}");
            Err(Error::StartFailed { kind: kind.to_owned(), reason })
        });
    }
}

pub(crate) enum Begun {
    Mine(Rising),
    Active(Arc<dyn AnyCell>),
    Wait(futures::future::BoxFuture<'static, ()>),
}

/// A place in the node's table that is held while a grain is made active.
pub(crate) struct Rising {
    key: (&'static str, Arc<str>),
    done: Arc<tokio::sync::SetOnce<()>>,
    grains: std::sync::Weak<Node>,
}

impl Drop for Rising {
    fn drop(&mut self) {
        if let Some(node) = self.grains.upgrade() {
            let mut here = node.grains().here.lock();
            if matches!(here.get(&self.key), Some(Here::Rising(done)) if Arc::ptr_eq(done, &self.done)) {
                here.remove(&self.key);
            }
        }
        let _ = self.done.set(());
    }
}

/// Takes the place of a grain in this node's table, unless somebody has it.
pub(crate) fn begin(node: &Arc<Node>, kind: &'static str, id: &Arc<str>) -> Begun {
    let key = (kind, id.clone());
    let mut here = node.grains().here.lock();
    match here.get(&key).cloned() {
        Some(Here::Active(cell)) if !cell.core().gate.is_closed() => Begun::Active(cell),
        // It is going to rest: wait until it has.
        Some(Here::Active(cell)) => Begun::Wait(Box::pin(async move { cell.core().wait_stopped().await })),
        Some(Here::Rising(done)) => Begun::Wait(Box::pin(async move {
            done.wait().await;
        })),
        None => {
            let done = Arc::new(tokio::sync::SetOnce::new());
            here.insert(key.clone(), Here::Rising(done.clone()));
            Begun::Mine(Rising { key, done, grains: Arc::downgrade(node) })
        }
    }
}

/// Claims the identity, makes sure that no former home has it, and starts the actor.
async fn raise(node: &Arc<Node>, kind: &'static str, id: &Arc<str>, left: Duration) -> Result<Location, Error> {
    node.accepting()?;
    let key = directory_key(kind, id);
    let number = node.actors().number();
    // No request id: an activation is not a spawn that may be repeated, and must not fill the memory of those (L3).
    let claim = node.directory().claim(&key, kind, number, 0, left).await;
    match claim.map_err(|err| directory_error(node, err))? {
        Claim::Granted(_) => {}
        Claim::Same(entry) | Claim::Taken(entry) => {
            if entry.holder == node.id() && node.actors().get(entry.actor).is_none() {
                // Our own claim, of an activation that is over: its release was lost.
                node.directory().release(&key, entry.actor).await;
                return Err(Error::not_found(identity(kind, id)));
            }
            return Ok(entry_location(node, &entry));
        }
    }
    let held = Held::new(node, key, number);
    let unanswered = match from_former_home(node, kind, id).await? {
        FormerHomes::Has(at) => return Ok(at),
        FormerHomes::None => Vec::new(),
        FormerHomes::Unanswered(by) => by,
    };
    let started = start(node, kind, id, number, held).await?;
    // Asked on until they answer.
    node.grains().unanswered.lock().extend(unanswered.into_iter().map(|dc| (number, dc)));
    Ok(started)
}

/// What former homes say of a grain.
enum FormerHomes {
    None,
    Has(Location),
    /// These do not answer, and have had no reason to have it for long.
    Unanswered(Vec<DataCenterId>),
}

/// A datacenter that joins takes an identity only after its old activation has gone to rest (G2): asks those that
/// would be its home without this one, whether they have it.
async fn from_former_home(node: &Arc<Node>, kind: &'static str, id: &Arc<str>) -> Result<FormerHomes, Error> {
    let Some((_, known)) = node.kinds().grain(kind) else { return Ok(FormerHomes::None) };
    let GrainScope::OneHome(among) = &known.options().scope else { return Ok(FormerHomes::None) };
    let idle = known.options().idle;
    let body = wire::write(&GrainBody { kind: kind.to_owned(), id: id.to_string(), ..GrainBody::default() });
    let homes = locate::former_homes(node, kind, id, among);
    let asked = homes.iter().map(|dc| ask_data_center(node, dc, wire::PEEK, body.clone(), FORMER_HOME));
    let mut failed = Vec::new();
    for (dc, answer) in homes.iter().zip(join_all(asked).await) {
        match answer.flatten().and_then(|place| place.location()) {
            Ok(Some(at)) => {
                tracing::info!(grain = %identity(kind, id), %dc, "still active at its former home");
                return Ok(FormerHomes::Has(at));
            }
            Ok(None) => {}
            Err(error) => failed.push((dc, error)),
        }
    }
    let Some((dc, error)) = failed.last() else { return Ok(FormerHomes::None) };
    // Homes that have stood longer than grains rest unused leave nothing behind elsewhere, but what is in use there. Its
    // home has it whenever it likes.
    if node.grains().homes_stood_for() < idle || !locate::is_home(node, kind, id, among) {
        let asked = format!("a home for {}", identity(kind, id));
        let reason = format!("{dc} may have it active from before the homes changed, and does not answer: {error}");
        return Err(Error::DataCenterNotRoutable { asked, reasons: vec![reason] });
    }
    tracing::warn!(grain = %identity(kind, id), %dc, %error, "a former home does not answer; making the grain active all the same");
    Ok(FormerHomes::Unanswered(failed.into_iter().map(|(dc, _)| dc.clone()).collect()))
}

async fn start(
    node: &Arc<Node>,
    kind: &'static str,
    id: &Arc<str>,
    number: u64,
    held: Held,
) -> Result<Location, Error> {
    let Some((_, maker)) = node.kinds().grain(kind) else {
        return Err(Error::TypeNotRegistered { kind: kind.to_owned(), node: node.label() });
    };
    let key = directory_key(kind, id);
    node.accepting()?;
    if lost(node, Some(&key), number) {
        return Err(Error::not_found(identity(kind, id)));
    }
    let core = Arc::new(Core::new(number, kind, Key::Grain(id.clone()), node.host()));
    let cell = maker.start(core.clone(), id, None, ended(node, kind, id, number));
    node.actors().insert(cell.clone());
    // From now on its end releases its identity.
    held.keep();
    if must_not_stay(node, &core, Some(&key)).is_some() {
        stop_again(node, cell).await;
        node.accepting()?;
        return Err(Error::not_found(core.label()));
    }
    if let Err(error) = core.wait_started().await {
        core.wait_stopped().await;
        // It may have ended, and been removed, before it was inserted.
        node.actors().remove(number);
        return Err(error);
    }
    if !note_active(node, kind, id, cell) {
        // It has ended already, or is about to.
        core.wait_stopped().await;
        node.actors().remove(number);
        return Err(Error::not_found(core.label()));
    }
    measure::activation(kind);
    tracing::debug!(grain = %core.label(), node = %node.label(), "grain active");
    node.bus().tell(Event::GrainActivated { kind, id: id.to_string() });
    Ok(node.location(number))
}

/// Puts it among the grains that are active here, unless it is ending.
pub(crate) fn note_active(node: &Arc<Node>, kind: &'static str, id: &Arc<str>, cell: Arc<dyn AnyCell>) -> bool {
    let mut here = node.grains().here.lock();
    let active = !cell.core().gate.is_closed();
    if active {
        here.insert((kind, id.clone()), Here::Active(cell));
    }
    active
}

/// What is done when an activation has ended: the identity is free for another one.
fn ended(node: &Arc<Node>, kind: &'static str, id: &Arc<str>, number: u64) -> Ended {
    let (system, id) = (node.weak(), id.clone());
    Box::new(move |_failure| {
        Box::pin(async move {
            let Some(node) = system.node() else { return };
            node.directory().release(&directory_key(kind, &id), number).await;
            node.actors().remove(number);
            note_ended(&node, kind, &id, number);
        })
    })
}

/// Takes an activation that has ended out of the node's table.
pub(crate) fn note_ended(node: &Node, kind: &'static str, id: &Arc<str>, number: u64) {
    let key = (kind, id.clone());
    let mut here = node.grains().here.lock();
    if matches!(here.get(&key), Some(Here::Active(cell)) if cell.core().number == number) {
        here.remove(&key);
        drop(here);
        node.bus().tell(Event::GrainPassivated { kind, id: id.to_string() });
    }
}
