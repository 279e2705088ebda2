//! The task that carries out the registrar's decisions, and the life of the routing table's task.

use std::{future::Future, sync::Arc, time::Instant};

use dc_cache::{CacheTask, RoutingTable, TableEvent};
use dc_controlplane::{ControlPlane, Error, Expected, Outcome, codec, wall_ms};
use dc_core::{DataCenter, DataCenterRecord, DcView, IntentKind, Owner, SharedClock, Version};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    task::JoinHandle,
};
use tracing::{debug, error, info, warn};

use crate::{
    ControllerEvent, ControllerOptions, RegistrarStatus, metrics,
    registrar::{LastWrite, Registrar, Step, Write},
};

/// Events that a slow reader may fall behind.
const EVENT_BACKLOG: usize = 256;

/// What a controller is made of.
#[derive(Debug)]
pub struct Parts {
    /// The control plane.
    pub plane: Arc<dyn ControlPlane>,
    /// This node's datacenter.
    pub data_center: DataCenter,
    /// This node, as the record would name it.
    pub me: Owner,
    /// Time limits.
    pub options: ControllerOptions,
    /// Membership of this datacenter, as this node sees it.
    pub view: watch::Receiver<Arc<DcView>>,
    /// The routing table that is to be kept in step.
    pub table: RoutingTable,
    /// Monotonic time.
    pub clock: SharedClock,
    /// Seed of all jitter.
    pub seed: u64,
}

/// How to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goodbye {
    /// Hand the record over; the last node removes it (D2, D6).
    HandOver,
    /// Leave the record to its lease, as a crash would.
    Abandon,
}

/// The controller of one node; every node runs one, only the record's owner writes.
///
/// Dropping it stops its tasks without a goodbye: the record is left to its lease.
#[derive(Debug)]
pub struct Controller {
    events: broadcast::Sender<ControllerEvent>,
    status: watch::Receiver<RegistrarStatus>,
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
    cache: Option<CacheTask>,
}

#[derive(Debug)]
enum Command {
    Stop(Goodbye, oneshot::Sender<()>),
    OwnsGlobal(bool),
}

impl Controller {
    /// Starts the table's task and the registrar. Never waits for the store (D4).
    ///
    /// # Errors
    ///
    /// [`Invalid`](dc_core::Invalid) where options of the table's task break a rule.
    pub fn start(parts: Parts) -> Result<Self, dc_core::Invalid> {
        let cache_options = cache_options(&parts.options)?;
        let cache = dc_cache::keep_in_step(
            parts.table.clone(),
            parts.plane.clone(),
            cache_options,
            parts.clock.clone(),
            parts.seed,
        );
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let (status_tx, status) = watch::channel(RegistrarStatus::default());
        let (commands, commands_rx) = mpsc::channel(8);
        let driver = Driver::new(parts, events.clone(), status_tx);
        let task = tokio::spawn(driver.run(commands_rx));
        Ok(Self { events, status, commands, task, cache: Some(cache) })
    }

    /// What the registrar does from now on; a reader more than 256 events behind skips the oldest.
    pub fn events(&self) -> broadcast::Receiver<ControllerEvent> {
        self.events.subscribe()
    }

    /// The registrar's present state.
    pub fn status(&self) -> watch::Receiver<RegistrarStatus> {
        self.status.clone()
    }

    /// Whether this datacenter still owns anything global: an intent of "out" ends INACTIVE only when not (P8).
    pub async fn set_owns_global(&self, owns: bool) {
        self.owns_global().set(owns).await;
    }

    /// A way to say the same from a task of its own.
    pub fn owns_global(&self) -> OwnsGlobal {
        OwnsGlobal(self.commands.clone())
    }

    /// Writes the goodbye, within one request timeout, and stops both tasks. Dropped before its end, it is an abandon.
    pub async fn stop(mut self, how: Goodbye) {
        let (done, stopped) = oneshot::channel();
        if self.commands.send(Command::Stop(how, done)).await.is_ok() {
            let _ = stopped.await;
        }
        if let Some(cache) = self.cache.take() {
            cache.stop().await;
        }
    }
}

/// Tells the registrar whether its datacenter owns anything global (P8). Cheap to clone; of no effect once the
/// controller has stopped.
#[derive(Clone, Debug)]
pub struct OwnsGlobal(mpsc::Sender<Command>);

impl OwnsGlobal {
    /// Says so. Waits only while the registrar is behind with what it was told.
    pub async fn set(&self, owns: bool) {
        // A controller that has stopped has said goodbye.
        let _ = self.0.send(Command::OwnsGlobal(owns)).await;
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn cache_options(options: &ControllerOptions) -> Result<dc_cache::CacheOptions, dc_core::Invalid> {
    dc_cache::CacheOptions::builder()
        .cache_refresh_interval(options.cache_refresh_interval())
        .max_cache_staleness(options.max_cache_staleness())
        .request_timeout(options.request_timeout())
        .jitter_ratio(options.jitter_ratio())
        .max_backoff(options.max_backoff())
        .watch_enabled(options.watch_enabled())
        .build()
}

/// What the store showed of the own record.
enum Read {
    Record(Box<DataCenterRecord>),
    AbsentAsOf(Version),
}

struct Driver {
    plane: Arc<dyn ControlPlane>,
    data_center: DataCenter,
    options: ControllerOptions,
    view: watch::Receiver<Arc<DcView>>,
    table: RoutingTable,
    clock: SharedClock,
    rng: SmallRng,
    registrar: Registrar,
    intent_known: bool,
    events: broadcast::Sender<ControllerEvent>,
    status: watch::Sender<RegistrarStatus>,
}

impl Driver {
    fn new(parts: Parts, events: broadcast::Sender<ControllerEvent>, status: watch::Sender<RegistrarStatus>) -> Self {
        let Parts { plane, data_center, me, options, view, table, clock, seed } = parts;
        let first_view = DcView::clone(&view.borrow());
        let registrar = Registrar::new(options.clone(), data_center.clone(), me, first_view, clock.now());
        Self {
            plane,
            data_center,
            options,
            view,
            table,
            clock,
            rng: SmallRng::seed_from_u64(seed ^ 0x7265_6769),
            registrar,
            intent_known: false,
            events,
            status,
        }
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut table_events = self.table.events();
        self.view.mark_changed();
        let mut view_ended = false;
        loop {
            self.read_intent();
            let step = self.registrar.next(self.clock.now());
            let wake = match step {
                Step::WaitUntil(instant) => instant,
                step => {
                    self.carry_out(step).await;
                    self.publish();
                    self.clock.now()
                }
            };
            // A stop is never kept waiting by a store that fails at once.
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(Command::Stop(how, done)) => {
                        self.leave(how).await;
                        self.publish();
                        let _ = done.send(());
                        return;
                    }
                    Some(Command::OwnsGlobal(owns)) => self.registrar.set_owns_global(owns),
                    None => return,
                },
                changed = self.view.changed(), if !view_ended => {
                    if changed.is_err() {
                        error!(dc = %self.data_center.id(), "membership has ended: going on with the members last seen");
                        view_ended = true;
                        continue;
                    }
                    let view = DcView::clone(&self.view.borrow_and_update());
                    self.registrar.on_view(view, self.clock.now());
                }
                event = table_events.recv() => self.on_table_event(event),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    fn on_table_event(&mut self, event: Result<TableEvent, broadcast::error::RecvError>) {
        // An event about no datacenter, or events missed, may concern this one.
        let concerns_us = event.map_or(true, |event| event.id().is_none_or(|id| id == self.data_center.id()));
        if concerns_us {
            self.registrar.look_now(self.clock.now());
        }
    }

    /// Takes the operator's intent from the routing table, once that shows this datacenter.
    fn read_intent(&mut self) {
        // Before the table is in step, a record may be there and its intent still on the way.
        if !self.table.ever_in_step() {
            return;
        }
        if let Some(entry) = self.table.snapshot().get(self.data_center.id()) {
            let version = entry.intent_version();
            self.registrar.on_intent_shown(version.map(|version| (entry.wanted(), version)));
            self.registrar.on_table(entry.record());
        }
    }

    async fn carry_out(&mut self, step: Step) {
        let sent = self.clock.now();
        self.registrar.set_renewal_keeps_version(self.plane.capabilities().renewal_keeps_version);
        match step {
            Step::WaitUntil(_) => {}
            Step::Read => {
                let answer = self.read().await;
                let now = self.clock.now();
                match answer {
                    Ok(Read::Record(record)) => self.registrar.on_read(*record, now),
                    Ok(Read::AbsentAsOf(version)) => self.registrar.on_absent(version, now),
                    Err(error) => self.registrar.on_read_failed(error, now),
                }
            }
            Step::Write(mut write) => {
                write.record.written_at_ms = wall_ms();
                let answer = self.write(&write).await;
                self.registrar.on_written(*write, answer, sent, self.clock.now());
            }
            Step::Heartbeat(record) => {
                let call = self.plane.heartbeat(&record);
                let answer = self.bounded("heartbeat", call).await;
                let pause = self.jittered(self.options.heartbeat_interval());
                self.registrar.on_heartbeat(answer, sent, self.clock.now(), pause);
            }
        }
    }

    /// The own record, in one list together with the intent, and with the version as of which there is none: whoever
    /// becomes the owner knows what the operator wants by then, and a drained DC never goes back to ACTIVE (P8).
    async fn read(&mut self) -> Result<Read, Error> {
        let id = self.data_center.id().clone();
        let listing = self.bounded("list_all", self.plane.list_all()).await?;
        let intent = listing.intents.iter().find(|held| held.id == id).map(|held| held.intent.want);
        let unreadable = |key: &str| key.contains(codec::INTENTS.trim_end_matches('/')) && key.ends_with(id.as_str());
        if listing.skipped.iter().any(|corrupt| unreadable(&corrupt.key)) {
            // Somebody said something that cannot be read: take no placements, cut nothing off (P8).
            if !self.intent_known {
                self.registrar.on_intent(IntentKind::Drain, listing.as_of);
            }
        } else {
            self.registrar.on_intent(intent.unwrap_or_default(), listing.as_of);
        }
        self.intent_known = true;
        let record = listing.records.into_iter().find(|record| *record.id() == id);
        Ok(record.map_or(Read::AbsentAsOf(listing.as_of), |record| Read::Record(Box::new(record))))
    }

    async fn write(&self, write: &Write) -> Result<Version, Error> {
        self.bounded("register", self.plane.register(&write.record, write.expected)).await
    }

    /// P11 bounds each call at the backend; this bound holds also where a backend does not.
    async fn bounded<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let after = self.options.request_timeout();
        let backend = self.plane.capabilities().backend;
        tokio::time::timeout(after, call).await.unwrap_or(Err(Error::Timeout {
            backend,
            operation,
            after,
            outcome: Outcome::Unknown,
        }))
    }

    fn jittered(&mut self, interval: std::time::Duration) -> std::time::Duration {
        // Only ever sooner: D5's margin is not to be used up by jitter.
        let ratio = self.options.jitter_ratio();
        interval.mul_f64(1.0 - ratio * self.rng.random::<f64>())
    }

    async fn leave(&mut self, how: Goodbye) {
        if how == Goodbye::Abandon {
            return;
        }
        let view = DcView::clone(&self.view.borrow_and_update());
        self.registrar.on_view(view, self.clock.now());
        let mut last = self.registrar.goodbye();
        if last.is_none() && self.registrar.is_last() {
            // A write of its own whose answer was lost, or a record that was handed to nobody.
            self.carry_out(Step::Read).await;
            let orphaned = self.registrar.orphaned(self.clock.now());
            last = self.registrar.goodbye().or(orphaned.map(LastWrite::Deregister));
        }
        match last {
            Some(LastWrite::HandOver(record)) => self.hand_over(&record).await,
            Some(LastWrite::Deregister(version)) => self.deregister(version).await,
            None => {}
        }
        self.registrar.released();
    }

    async fn hand_over(&self, record: &DataCenterRecord) {
        let expected = Expected::Version(record.version);
        match self.bounded("register", self.plane.register(record, expected)).await {
            Ok(_) => self.tell(ControllerEvent::HandedOver),
            Err(error) => warn!(%error, "the record was not handed over; a successor waits for this node's death"),
        }
    }

    async fn deregister(&self, version: Version) {
        let id = self.data_center.id();
        match self.bounded("deregister", self.plane.deregister(id, version)).await {
            Ok(()) => self.tell(ControllerEvent::Deregistered),
            Err(error) => warn!(%error, "the record was not removed; it leaves with its lease"),
        }
    }

    fn publish(&mut self) {
        for event in self.registrar.take_events() {
            self.tell(event);
        }
        let status = self.registrar.status();
        metrics::lease_left(lease_left(&status, self.clock.now()));
        self.status.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
    }

    fn tell(&self, event: ControllerEvent) {
        metrics::record(&event);
        let dc = self.data_center.id();
        match &event {
            ControllerEvent::Renewed { took } => debug!(%dc, ?took, "lease renewed"),
            ControllerEvent::Registered { epoch } => info!(%dc, %epoch, "registered the datacenter"),
            ControllerEvent::TookOver { from, epoch, why } => {
                info!(%dc, %epoch, from = %from.node, ?why, "took the record over");
            }
            ControllerEvent::SteppedDown { to, epoch } => {
                let to = to.as_ref().map(|owner| owner.node.to_string());
                warn!(%dc, %epoch, ?to, "stepped down: another node owns the record");
            }
            ControllerEvent::StoreFailed { operation, error, lease_left } => {
                warn!(%dc, operation, error, ?lease_left, "the control plane failed; trying again");
            }
            ControllerEvent::EndpointsAdvertised { count } => info!(%dc, count, "advertised the members' endpoints"),
            ControllerEvent::StateMoved { from, to } => info!(%dc, %from, %to, "state moved towards the intent"),
            ControllerEvent::HandedOver => info!(%dc, "handed the record over"),
            ControllerEvent::Deregistered => info!(%dc, "removed the record: this was the last node"),
            ControllerEvent::DataCenterIdInUse { id, by } => {
                error!(%id, by = %by.endpoint, "another cluster uses this datacenter's name: rename one of the two");
            }
        }
        // No reader is no error.
        let _ = self.events.send(event);
    }
}

fn lease_left(status: &RegistrarStatus, now: Instant) -> f64 {
    status.lease_ends.map_or(0.0, |end| end.saturating_duration_since(now).as_secs_f64())
}
