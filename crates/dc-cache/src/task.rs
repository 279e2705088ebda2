//! The one task that keeps the table in step: list and watch, or polling.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use dc_controlplane::{ControlPlane, Error, Listing, Watch, WatchEvent};
use dc_core::SharedClock;
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{BoxStream, ReadyChunks},
};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    CacheOptions, RoutingTable,
    backoff::{Backoff, Jitter},
    core::{Core, ListTicket, Listed, Traits},
    log, measure,
};

/// The most watch events that go into one snapshot.
const BATCH: usize = 512;
/// Lists that are asked out of turn keep at least this distance.
const LEAST_BETWEEN_LISTS: Duration = Duration::from_millis(100);
/// After so many intervals in which the watch alone kept the table in step, it is listed all the same.
const LIST_EVERY: u32 = 6;

/// The running task. Dropping it ends the task at its next await; the table keeps its last view.
#[derive(Debug)]
pub struct CacheTask {
    stop: Option<oneshot::Sender<()>>,
    join: Option<JoinHandle<()>>,
}

impl CacheTask {
    /// Ends the task and waits until it has: afterwards the control plane is no longer asked.
    ///
    /// Dropped before its end, it aborts the task.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        if let Some(join) = &mut self.join {
            // It ends by itself; nobody else can abort it.
            let _ = join.await;
        }
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.join.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for CacheTask {
    fn drop(&mut self) {
        if let Some(join) = &self.join {
            join.abort();
        }
    }
}

/// Keeps `table` in step with `plane`: list and watch, or polling where there is no watch.
///
/// Needs a tokio runtime, whose time its waits are on; `clock` is what leases and ages are timed on. `seed`
/// determines every jitter. One task for each table.
pub fn keep_in_step(
    table: RoutingTable,
    plane: Arc<dyn ControlPlane>,
    options: CacheOptions,
    clock: SharedClock,
    seed: u64,
) -> CacheTask {
    let (stop, stopped) = oneshot::channel();
    let join = tokio::spawn(Driver::new(table, plane, options, clock, seed).run(stopped));
    CacheTask { stop: Some(stop), join: Some(join) }
}

enum Watching {
    /// Not wanted, or not supported: lists alone.
    Polling,
    /// To be opened at this instant.
    Closed(Instant),
    Opening(BoxFuture<'static, Result<Watch, Error>>),
    Open(ReadyChunks<BoxStream<'static, Result<WatchEvent, Error>>>),
}

enum Asking {
    /// To be asked at this instant.
    Idle(Instant),
    Asked(ListTicket, BoxFuture<'static, Result<Listing, Error>>),
}

/// What ended a wait.
enum Woken {
    Stop,
    Refresh,
    Listed(ListTicket, Result<Listing, Error>),
    Opened(Result<Watch, Error>),
    Watched(Option<Vec<Result<WatchEvent, Error>>>),
    Time,
}

struct Driver {
    table: RoutingTable,
    plane: Arc<dyn ControlPlane>,
    options: CacheOptions,
    clock: SharedClock,
    core: Core,
    jitter: Jitter,
    asking: Asking,
    watching: Watching,
    list_backoff: Backoff,
    watch_backoff: Backoff,
    last_list: Option<Instant>,
    /// When the newest list that was taken in was begun.
    taken_in: Option<Instant>,
    /// Somebody asked for a list while one was under way, which may be too old for that.
    again: bool,
    /// Intervals in a row that were left to the watch.
    left_to_watch: u32,
}

impl Driver {
    fn new(
        table: RoutingTable,
        plane: Arc<dyn ControlPlane>,
        options: CacheOptions,
        clock: SharedClock,
        seed: u64,
    ) -> Self {
        let traits = Traits::from(&plane.capabilities());
        let now = clock.now();
        Self {
            core: Core::new(options.max_cache_staleness(), traits),
            jitter: Jitter::new(seed, options.jitter_ratio()),
            asking: Asking::Idle(now),
            watching: if options.watch_enabled() { Watching::Closed(now) } else { Watching::Polling },
            list_backoff: Backoff::new(options.max_backoff()),
            watch_backoff: Backoff::new(options.max_backoff()),
            last_list: None,
            taken_in: None,
            again: false,
            left_to_watch: 0,
            table,
            plane,
            options,
            clock,
        }
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let capabilities = self.plane.capabilities();
        if capabilities.renewal_keeps_version && !capabilities.linearizable_reads {
            tracing::warn!(
                backend = capabilities.backend,
                "neither its lists nor its watch show that a record was renewed: each one expires here after its lease"
            );
        }
        loop {
            let now = self.clock.now();
            self.core.tick(now);
            self.begin_what_is_due(now);
            self.publish();
            match self.wait(&mut stopped).await {
                Woken::Stop => break,
                Woken::Refresh => self.list_now(),
                Woken::Listed(ticket, answer) => self.listed(ticket, answer),
                Woken::Opened(answer) => self.opened(answer),
                Woken::Watched(events) => self.watched(events),
                Woken::Time => {}
            }
        }
        self.table.set_watching(false);
    }

    fn begin_what_is_due(&mut self, now: Instant) {
        if self.core.take_rewatch() && !matches!(self.watching, Watching::Polling) {
            self.watching = Watching::Closed(now);
        }
        if matches!(self.watching, Watching::Closed(at) if at <= now) {
            let (plane, timeout) = (Arc::clone(&self.plane), self.options.request_timeout());
            let open = async move { plane.watch().await };
            self.watching = Watching::Opening(Box::pin(bounded(open, timeout, "watch", self.backend())));
        }
        let Asking::Idle(at) = &mut self.asking else { return };
        if self.core.list_wanted() && self.list_backoff.is_fresh() {
            let soonest = self.last_list.map_or(now, |last| last + LEAST_BETWEEN_LISTS);
            *at = (*at).min(soonest);
        }
        if *at > now {
            return;
        }
        if self.may_be_left_to_watch(now) {
            let wait = self.jitter.around(self.options.cache_refresh_interval());
            self.asking = Asking::Idle(now + wait);
            self.left_to_watch += 1;
            return;
        }
        let (plane, timeout) = (Arc::clone(&self.plane), self.options.request_timeout());
        let ticket = self.core.list_begun(now);
        self.last_list = Some(now);
        self.left_to_watch = 0;
        let list = async move { plane.list_all().await };
        self.asking = Asking::Asked(ticket, Box::pin(bounded(list, timeout, "list", self.backend())));
    }

    /// Whether the watch shows renewals and was in step within the last interval, so that a list would tell nothing new.
    fn may_be_left_to_watch(&self, now: Instant) -> bool {
        self.core.is_watching()
            && !self.core.list_wanted()
            && !self.plane.capabilities().renewal_keeps_version
            && self.left_to_watch + 1 < LIST_EVERY
            && self.core.last_proof().is_some_and(|proof| now - proof <= self.options.cache_refresh_interval())
    }

    fn backend(&self) -> &'static str {
        self.plane.capabilities().backend
    }

    fn publish(&mut self) {
        let changed = self.core.take_changed();
        if changed {
            self.table.publish(self.core.snapshot());
        }
        if let Some(begun) = self.taken_in {
            self.table.set_listed(begun);
        }
        if let Some(proof) = self.core.last_proof() {
            self.table.set_proof(proof);
        }
        measure::table(self.table.last_refresh(), changed.then(|| self.core.snapshot()));
        self.table.set_watching(self.core.is_watching());
        for event in self.core.take_events() {
            log::event(&event);
            measure::event(&event);
            self.table.tell(event);
        }
    }

    async fn wait(&mut self, stopped: &mut oneshot::Receiver<()>) -> Woken {
        let mut next = self.core.next_deadline();
        let mut sooner = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        if let Asking::Idle(at) = self.asking {
            sooner(at);
        }
        if let Watching::Closed(at) = self.watching {
            sooner(at);
        }
        let now = self.clock.now();
        // At least a millisecond, the timer's grain: a clock that stands a little behind it must not make us spin.
        let pause = next.map(|next| next.saturating_duration_since(now).max(Duration::from_millis(1)));
        let table = self.table.clone();
        let (asking, watching) = (&mut self.asking, &mut self.watching);
        tokio::select! {
            biased;
            _ = stopped => Woken::Stop,
            (ticket, answer) = answered(asking) => Woken::Listed(ticket, answer),
            woken = heard(watching) => woken,
            () = table.refresh_wanted() => Woken::Refresh,
            () = sleep(pause) => Woken::Time,
        }
    }

    fn list_now(&mut self) {
        // Not to be left to the watch: somebody asked for it.
        self.left_to_watch = LIST_EVERY;
        let now = self.clock.now();
        let soonest = self.last_list.map_or(now, |last| last + LEAST_BETWEEN_LISTS);
        match &mut self.asking {
            Asking::Idle(at) => *at = (*at).min(soonest),
            Asking::Asked(..) => self.again = true,
        }
    }

    fn listed(&mut self, ticket: ListTicket, answer: Result<Listing, Error>) {
        let now = self.clock.now();
        let wait = match answer {
            Ok(listing) => {
                let traits = Traits::from(&self.plane.capabilities());
                match self.core.listed(ticket, listing, traits, now) {
                    Listed::InStep => {
                        self.taken_in = Some(ticket.begun());
                        measure::request("list", "ok");
                        log::recovered("list", self.backend(), &self.list_backoff);
                        self.list_backoff.reset();
                        self.jitter.around(self.options.cache_refresh_interval())
                    }
                    Listed::Behind => {
                        measure::request("list", "behind");
                        tracing::debug!(backend = self.backend(), "a list is older than what was seen already");
                        self.jitter.around(self.list_backoff.next())
                    }
                }
            }
            Err(error) => {
                measure::request("list", "failed");
                log::failed("list", self.backend(), &self.list_backoff, &error);
                self.core.failed();
                self.jitter.around(self.list_backoff.next())
            }
        };
        self.asking = Asking::Idle(now + wait);
        if std::mem::take(&mut self.again) {
            self.list_now();
        }
    }

    fn opened(&mut self, answer: Result<Watch, Error>) {
        match answer {
            Ok(watch) => {
                measure::request("watch", "ok");
                self.core.watch_opened(self.clock.now());
                self.watching = Watching::Open(watch.ready_chunks(BATCH));
            }
            Err(error) => self.watch_failed(&error),
        }
    }

    fn watched(&mut self, events: Option<Vec<Result<WatchEvent, Error>>>) {
        let now = self.clock.now();
        let Some(events) = events else {
            tracing::debug!(backend = self.backend(), "the watch was closed; it is opened again");
            self.core.watch_ended();
            let wait = self.jitter.around(self.watch_backoff.next());
            self.watching = Watching::Closed(now + wait);
            return;
        };
        let proof = self.core.last_proof();
        for event in events {
            match event {
                Ok(event) => self.core.watched(event, now),
                Err(error) => {
                    self.core.watch_ended();
                    self.watch_failed(&error);
                    return;
                }
            }
        }
        if self.core.is_watching() {
            log::recovered("watch", self.backend(), &self.watch_backoff);
            self.watch_backoff.reset();
        }
        if self.core.last_proof() > proof && !self.list_backoff.is_fresh() {
            // The store is back: no need to sit out the pause between lists.
            self.list_backoff.reset();
            self.list_now();
        }
    }

    fn watch_failed(&mut self, error: &Error) {
        if let Error::WatchUnsupported { backend } = error {
            tracing::info!(backend, interval = ?self.options.cache_refresh_interval(), "no watch: the table is polled");
            self.watching = Watching::Polling;
            return;
        }
        measure::request("watch", "failed");
        log::failed("watch", self.backend(), &self.watch_backoff, error);
        self.core.failed();
        let wait = self.jitter.around(self.watch_backoff.next());
        self.watching = Watching::Closed(self.clock.now() + wait);
    }
}

/// `call`, cut off after `timeout`: the contract bounds each call, but a backend may be wrong about itself.
async fn bounded<T>(
    call: impl Future<Output = Result<T, Error>> + Send,
    timeout: Duration,
    operation: &'static str,
    backend: &'static str,
) -> Result<T, Error> {
    tokio::time::timeout(timeout, call).await.unwrap_or_else(|_| {
        let outcome = dc_controlplane::Outcome::Unchanged;
        Err(Error::Timeout { backend, operation, after: timeout, outcome })
    })
}

async fn answered(asking: &mut Asking) -> (ListTicket, Result<Listing, Error>) {
    match asking {
        Asking::Idle(_) => std::future::pending().await,
        Asking::Asked(ticket, answer) => {
            let ticket = *ticket;
            (ticket, answer.await)
        }
    }
}

async fn heard(watching: &mut Watching) -> Woken {
    match watching {
        Watching::Polling | Watching::Closed(_) => std::future::pending().await,
        Watching::Opening(answer) => Woken::Opened(answer.await),
        Watching::Open(watch) => Woken::Watched(watch.next().await),
    }
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}
