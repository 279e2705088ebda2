//! Starting an actor on this node: the claim of its name, the start itself, and what must not stay.
//!
//! Knows nothing of how the node was chosen.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dc_cluster::Claim;
use dc_core::{Endpoint, NodeId};

use super::{directory_error, entry_location};
use crate::{
    error::Error,
    host::{AnyCell, Core, Ended, Key},
    reference::Location,
    system::Node,
};

/// What became of a spawn on this node.
pub(super) enum Made {
    /// It runs here.
    Here(Location),
    /// An earlier try of the same request claimed the name for that node.
    Earlier { node: NodeId, endpoint: Endpoint, location: Location },
}

/// Whether a start happens: taken once, by the start itself or by the caller that waits no longer.
#[derive(Clone, Default)]
struct Turn(Arc<AtomicBool>);

impl Turn {
    /// True for the first one only.
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// Claims the name and starts the actor. Once it starts, it goes on to its end also if the caller is dropped or the
/// time is over.
pub(super) async fn here(
    node: &Arc<Node>,
    kind: &'static str,
    name: Option<&str>,
    request: u128,
    left: Duration,
    make: impl FnOnce(Arc<Core>, Ended) -> Result<Arc<dyn AnyCell>, Error> + Send + 'static,
) -> Result<Made, Error> {
    node.accepting()?;
    let (node, name, turn) = (node.clone(), name.map(str::to_owned), Turn::default());
    let work = tokio::spawn({
        let turn = turn.clone();
        async move { start_here(&node, kind, name, request, left, turn, make).await }
    });
    match tokio::time::timeout(left, work).await {
        Ok(done) => done.unwrap_or_else(|err| {
            Err(Error::StartFailed { kind: kind.to_owned(), reason: format!("making its arguments failed: {err}") })
        }),
        // Whoever has the turn decides: nothing will run, or it goes on.
        Err(_) => Err(start_timeout(kind, left, turn.take())),
    }
}

fn start_timeout(kind: &str, after: Duration, not_run: bool) -> Error {
    Error::Timeout { to: format!("the start of a {kind:?}"), after, not_run }
}

async fn start_here(
    node: &Arc<Node>,
    kind: &'static str,
    name: Option<String>,
    request: u128,
    left: Duration,
    turn: Turn,
    make: impl FnOnce(Arc<Core>, Ended) -> Result<Arc<dyn AnyCell>, Error>,
) -> Result<Made, Error> {
    let number = node.actors().number();
    if let Some(name) = &name
        && let Some(earlier) = claim(node, name, kind, number, request, left).await?
    {
        // It may have run already: the caller must not be told otherwise.
        turn.take();
        return started_earlier(node, &earlier).await;
    }
    let of_name = name.as_deref().map(name_key);
    let held = of_name.clone().map(|of_name| Held::new(node, of_name, number));
    node.accepting()?;
    if let (Some(name), true) = (&name, lost(node, of_name.as_deref(), number)) {
        return Err(Error::NameTaken { name: name.clone(), holder: "an older actor, after a partition".into() });
    }
    if !turn.take() {
        return Err(start_timeout(kind, left, true));
    }
    let key = name.as_deref().map_or(Key::Anonymous, |name| Key::Name(name.into()));
    let core = Arc::new(Core::new(number, kind, key, node.host()));
    let cell = make(core.clone(), ended(node, number, name.clone()))?;
    node.actors().insert(cell.clone());
    // From now on the actor's end releases its name.
    if let Some(held) = held {
        held.keep();
    }
    // It may have ended, and been removed, before it was inserted.
    if core.gate.is_closed() {
        node.actors().remove(number);
    }
    if let Some(reason) = must_not_stay(node, &core, of_name.as_deref()) {
        stop_again(node, cell).await;
        // Its `on_start` may have run, so that this must not read as certainly not run (R3).
        return Err(Error::StartFailed { kind: kind.to_owned(), reason: reason.into() });
    }
    if let Err(error) = core.wait_started().await {
        core.wait_stopped().await;
        return Err(error);
    }
    tracing::debug!(actor = %core.label(), node = %node.label(), "actor started");
    Ok(Made::Here(node.location(number)))
}

/// Whether the actor `number` holds its name, or identity, no longer.
pub(crate) fn lost(node: &Node, key: Option<&str>, number: u64) -> bool {
    key.is_some_and(|key| node.directory().hosted(key).is_none_or(|entry| entry.actor != number))
}

/// Why an actor that has just been put into the node's table must end at once. Its shutdown, or the eviction of its
/// name (A2), may have looked for it in the table before it was there: whoever comes second sees the other.
pub(crate) fn must_not_stay(node: &Node, core: &Core, key: Option<&str>) -> Option<&'static str> {
    if node.accepting().is_err() {
        return Some("its node is shutting down");
    }
    // One that has ended by itself has closed its gate before it let its name go.
    (lost(node, key, core.number) && !core.gate.is_closed()).then_some("it lost its name to an older actor")
}

/// Ends an actor that must not stay; where the node ends, only as long as shutdown grants.
pub(crate) async fn stop_again(node: &Node, cell: Arc<dyn AnyCell>) {
    tracing::info!(actor = %cell.core().label(), node = %node.label(), "stopping an actor that has just started");
    let stopped = tokio::time::timeout(node.options().shutdown_grace, cell.clone().stop()).await;
    if stopped.is_err() && node.accepting().is_err() {
        cell.kill();
    }
}

/// A claim that is taken back when this is dropped, whatever happens, unless it is kept: nothing ran under it, so a
/// repeated spawn must not be told that it did.
pub(crate) struct Held(Option<(Arc<Node>, String, u64)>);

impl Held {
    pub(crate) fn new(node: &Arc<Node>, key: String, number: u64) -> Self {
        Self(Some((node.clone(), key, number)))
    }

    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((node, key, number)) = self.0.take() {
            tokio::spawn(async move { node.directory().abandon(&key, number).await });
        }
    }
}

/// How often an earlier try that is about to make its actor is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What became of an earlier try of the same spawn; if it was for this node, once its actor has started.
async fn started_earlier(node: &Arc<Node>, entry: &dc_cluster::Entry) -> Result<Made, Error> {
    while entry.holder == node.id() {
        if let Some(cell) = node.actors().get(entry.actor) {
            cell.core().wait_started().await?;
            break;
        }
        if lost(node, Some(&entry.key), entry.actor) {
            let reason = "an earlier try of this spawn has ended, or failed to start".into();
            return Err(Error::StartFailed { kind: entry.kind.clone(), reason });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let location = entry_location(node, entry);
    Ok(Made::Earlier { node: entry.holder, endpoint: entry.endpoint.clone(), location })
}

/// Claims a name for an actor of this node. `Some` where the same request claimed it before.
async fn claim(
    node: &Arc<Node>,
    name: &str,
    kind: &'static str,
    number: u64,
    request: u128,
    left: Duration,
) -> Result<Option<dc_cluster::Entry>, Error> {
    let key = name_key(name);
    let claim = node.directory().claim(&key, kind, number, request, left).await;
    match claim.map_err(|err| directory_error(node, err))? {
        Claim::Granted(_) => Ok(None),
        Claim::Same(entry) => Ok(Some(entry)),
        Claim::Taken(entry) => {
            let holder = format!("a {:?} on {}", entry.kind, entry.holder.short());
            Err(Error::NameTaken { name: name.to_owned(), holder })
        }
    }
}

/// The key of a per-DC name in the directory.
pub(crate) fn name_key(name: &str) -> String {
    format!("a/{name}")
}

/// What is done when an actor has ended: it leaves the node's table, its name is free.
fn ended(node: &Arc<Node>, number: u64, name: Option<String>) -> Ended {
    let system = node.weak();
    Box::new(move |_failure| {
        Box::pin(async move {
            let Some(node) = system.node() else { return };
            node.actors().remove(number);
            if let Some(name) = name {
                node.directory().release(&name_key(&name), number).await;
            }
        })
    })
}
