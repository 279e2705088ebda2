//! How an actor starts, is restarted, and ends.

use std::{fmt, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use kameo::{
    Actor,
    actor::{ActorRef, PreparedActor},
    error::{ActorStopReason, PanicError},
    mailbox::{self, Signal},
};

use super::{
    cell::{AnyCell, Cell},
    core::Core,
    envelope::panic_text,
};
use crate::{activation::Activation, error::Error, events::Event, kind::Table};

/// What happens when an actor fails: its handler or a hook panics, or a tell's handler returns an error.
///
/// A restarted actor is a fresh one, made of the same arguments, under the same identity: references stay good,
/// its state is gone. Messages that were queued behind the failure are reported as not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RestartPolicy {
    /// It stays stopped (the default), and its name is free again.
    #[default]
    Never,
    /// It is started again.
    OnFailure {
        /// At most this many times ..
        max: u32,
        /// .. in any stretch of this length; beyond, it stays stopped.
        within: Duration,
        /// Wait before each new start; doubled with each restart within the stretch.
        backoff: Duration,
    },
}

/// Makes the arguments of a fresh incarnation.
pub(crate) type Remake<A> = Box<dyn Fn() -> Result<<A as Actor>::Args, Error> + Send>;

/// Told once, when the actor has ended for good: the reason, if it failed.
pub(crate) type Ended = Box<dyn FnOnce(Option<String>) -> BoxFuture<'static, ()> + Send>;

/// All that an actor is made of.
pub(crate) struct Birth<A: Actor> {
    pub(crate) core: Arc<Core>,
    pub(crate) table: Arc<Table<A>>,
    pub(crate) args: A::Args,
    /// State that came along: it starts with it.
    pub(crate) restore: Option<Bytes>,
    /// Without it the actor is never restarted.
    pub(crate) remake: Option<Remake<A>>,
    pub(crate) ended: Ended,
}

/// Starts an actor on a task of its own. Messages may be sent at once: they wait for `on_start`, whose outcome
/// [`Core::wait_started`] tells.
pub(crate) fn start<A: Actor>(birth: Birth<A>) -> Arc<Cell<A>> {
    let Birth { core, table, args, restore, remake, ended } = birth;
    let prepared = prepare(&table);
    if let Some(state) = restore {
        restore_first(&core, &table, &prepared, state);
    }
    let cell = Arc::new(Cell::new(core.clone(), table, prepared.actor_ref().clone()));
    let activation = Activation::new(core, cell.clone().into_any());
    let life = Life { cell: cell.clone(), remake, restarts: Vec::new() };
    let place = cell.clone();
    tokio::spawn(activation.scope(async move {
        crate::measure::actors(place.core().kind, 1);
        // kameo catches the panics of handlers and hooks, but not those of the actor's `Drop`.
        let failure = match AssertUnwindSafe(life.run(prepared, args)).catch_unwind().await {
            Ok(failure) => failure,
            Err(payload) => Some(panic_text(&*payload)),
        };
        end(&place, failure, ended).await;
    }));
    cell
}

/// Puts the state that came along in front of all messages: it has started only when that is restored.
fn restore_first<A: Actor>(core: &Arc<Core>, table: &Table<A>, prepared: &PreparedActor<A>, state: Bytes) {
    let Some(snapshots) = table.snapshots() else {
        tracing::warn!(actor = %core.label(), "state came along, and this build's kind takes none: starting without it");
        return;
    };
    core.set_restoring(true);
    let (actor_ref, of) = (prepared.actor_ref().clone(), core.clone());
    let signal = Signal::Callback {
        actor_ref: actor_ref.clone(),
        callback: Box::new(move |actor, ctx| {
            Box::pin(async move {
                let restored = (snapshots.restore)(actor, of.host.system.clone(), state);
                let restored = AssertUnwindSafe(restored).catch_unwind().await;
                match restored.unwrap_or_else(|payload| Err(panic_text(&*payload))) {
                    Ok(()) => {
                        of.set_restoring(false);
                        of.mark_started();
                    }
                    Err(reason) => {
                        let reason = format!("its state could not be restored: {reason}");
                        of.set_started(Err(Error::StartFailed { kind: of.kind.to_owned(), reason }));
                        ctx.stop();
                    }
                }
            })
        }),
    };
    // The mailbox is fresh, and holds one message at least.
    if actor_ref.mailbox_sender().try_send(signal).is_err() {
        core.set_restoring(false);
    }
}

async fn end<A: Actor>(cell: &Cell<A>, failure: Option<String>, ended: Ended) {
    let core = cell.core();
    core.gate.close();
    cell.set_current(None);
    crate::measure::actors(core.kind, -1);
    if let Some(reason) = &failure {
        tracing::warn!(actor = %core.label(), reason, "actor failed and stays stopped");
        core.host.bus.tell(Event::ActorFailed { actor: core.label(), reason: reason.clone() });
    }
    ended(failure.clone()).await;
    core.set_stopped();
    core.tell_watchers(failure.as_deref());
}

fn prepare<A: Actor>(table: &Table<A>) -> PreparedActor<A> {
    PreparedActor::new(mailbox::bounded(table.mailbox()))
}

struct Life<A: Actor> {
    cell: Arc<Cell<A>>,
    remake: Option<Remake<A>>,
    restarts: Vec<std::time::Instant>,
}

impl<A: Actor> Life<A> {
    /// Incarnation after incarnation, until one ends without failing or must not be followed by another. The reason,
    /// if the last one failed.
    async fn run(mut self, first: PreparedActor<A>, args: A::Args) -> Option<String> {
        let (mut prepared, mut args) = (first, args);
        loop {
            let reason = self.incarnation(prepared, args).await?;
            let Some(wait) = self.next_restart() else { return Some(reason) };
            tracing::warn!(actor = %self.cell.core().label(), %reason, ?wait, "actor failed: restarting it");
            // From now on messages gather for the next incarnation.
            prepared = prepare(self.cell.table());
            self.cell.core().next_epoch();
            self.cell.set_current(Some(prepared.actor_ref().clone()));
            // Whoever stops or kills it meanwhile does not wait for an incarnation that only starts to end: what has
            // gathered did not run, and says so.
            tokio::select! {
                biased;
                () = self.cell.core().gate.closed() => return None,
                () = tokio::time::sleep(wait) => {}
            }
            args = match self.remake.as_ref().map(|remake| remake()) {
                Some(Ok(args)) => args,
                Some(Err(err)) => return Some(err.to_string()),
                None => return Some(reason),
            };
        }
    }

    /// Runs one incarnation to its end. The reason, if it failed.
    async fn incarnation(&mut self, prepared: PreparedActor<A>, args: A::Args) -> Option<String> {
        // Whatever has passed since its start was decided, a pause of the machine for one: nothing of it runs under a
        // title that is over. What has gathered did not run, and says so.
        if let Err(error) = self.cell.core().check_owned(true) {
            self.cell.core().set_started(Err(error));
            self.remake = None;
            return None;
        }
        let actor_ref = prepared.actor_ref().clone();
        let run = prepared.run(args);
        tokio::pin!(run);
        let ended = tokio::select! {
            biased;
            ended = &mut run => ended,
            () = actor_ref.wait_for_startup() => {
                self.tell_started(&actor_ref);
                run.await
            }
        };
        // kameo gives the actor back if and only if its `on_start` succeeded. Its other sign, the start-up result, is
        // never set where the mailbox was full when `on_start` ended.
        if ended.is_ok() {
            self.cell.core().mark_started();
        }
        let failure = failure(ended);
        let core = self.cell.core();
        // An actor whose first start failed is not tried again: its maker is told.
        if !core.has_started() {
            let reason = failure.clone().unwrap_or_else(|| "it stopped while it started".into());
            core.set_started(Err(Error::StartFailed { kind: core.kind.to_owned(), reason }));
            self.remake = None;
        }
        failure
    }

    fn tell_started(&self, actor_ref: &ActorRef<A>) {
        if actor_ref.with_startup_result(|result| result.is_ok()).unwrap_or(false) {
            self.cell.core().mark_started();
        }
    }

    /// How long to wait before the next incarnation, if there is to be one.
    fn next_restart(&mut self) -> Option<Duration> {
        let RestartPolicy::OnFailure { max, within, backoff } = self.cell.table().restart() else { return None };
        self.remake.as_ref()?;
        if self.cell.core().gate.is_closed() {
            return None;
        }
        let now = self.cell.core().now();
        self.restarts.retain(|&at| now.saturating_duration_since(at) < within);
        if self.restarts.len() >= max as usize {
            return None;
        }
        let doublings = u32::try_from(self.restarts.len()).unwrap_or(u32::MAX).min(10);
        self.restarts.push(now);
        Some(backoff.saturating_mul(1 << doublings))
    }
}

/// Why an incarnation failed, if it did.
fn failure<A: Actor>(ended: Result<(A, ActorStopReason), PanicError>) -> Option<String> {
    match ended {
        Ok((_, ActorStopReason::Normal | ActorStopReason::Killed | ActorStopReason::SupervisorRestart)) => None,
        Ok((_, ActorStopReason::Panicked(err))) | Err(err) => Some(panic_reason(&err)),
        Ok((_, ActorStopReason::LinkDied { id, reason })) => Some(format!("linked actor {id} died: {reason:?}")),
    }
}

fn panic_reason(err: &PanicError) -> String {
    err.with_str(str::to_owned).unwrap_or_else(|| err.to_string())
}

impl<A: Actor> fmt::Debug for Birth<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)
    }
}
