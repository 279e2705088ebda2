//! The handle that every part of a node asks.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use bytes::Bytes;
use dc_controlplane::ownership::OwnershipStore;
use dc_core::{DataCenter, DataCenterId, DataCenterSelector, Endpoint, Epoch, NodeId, SharedClock};
use parking_lot::Mutex;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::{
    drain::{DrainHandle, DrainOptions, Progress},
    driver,
    error::OwnershipError,
    event::{Change, OwnershipEvent, Stats},
    ids::{GroupId, Slot},
    names::{NameEntry, NameSpec},
    options::OwnershipOptions,
    order::{Order, Thing},
    parcels::Parcels,
    policy::Policy,
    session::Holder,
    table::Table,
    title::{Lease, Title},
};

/// This node, as others are told of it.
#[derive(Clone, Debug)]
pub struct Me {
    /// This run of it.
    pub node: NodeId,
    /// Its datacenter.
    pub data_center: DataCenter,
    /// Where it takes links.
    pub endpoint: Endpoint,
}

/// Takes state from node to node: it does not go through the store.
#[async_trait]
pub trait Transfer: Send + Sync + 'static {
    /// Gives `state` to the node behind `to`, which passes it to its own [`Ownership::offered`]. Called after
    /// [`Quiesced`](crate::order::Quiesced), before the new owner is written down. Dropped at the move's bound.
    ///
    /// # Errors
    ///
    /// What to tell people. The hand-over is given up, and the thing stays.
    async fn offer(&self, to: &Holder, thing: &Thing, epoch: Epoch, state: Vec<(String, Bytes)>) -> Result<(), String>;
}

/// What [`Ownership::start`] needs.
#[derive(Clone)]
pub struct Parts {
    /// Where it is decided.
    pub store: Arc<dyn OwnershipStore>,
    /// This node.
    pub me: Me,
    /// The kinds of global grains that this node serves, by wire name, and what was declared of each.
    pub kinds: Vec<(String, Policy)>,
    /// Whether a datacenter takes placements, by the routing table.
    pub placeable: Arc<dyn Fn(&DataCenterId) -> bool + Send + Sync>,
    /// How state travels.
    pub transfer: Arc<dyn Transfer>,
    /// How it takes part.
    pub options: OwnershipOptions,
    /// What leases run on: a [`BootClock`](crate::BootClock) in production.
    pub clock: SharedClock,
    /// Of every random choice: ids, nonces, jitter. Random in production: a session's id must never repeat.
    pub seed: u64,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("me", &self.me).field("kinds", &self.kinds).finish_non_exhaustive()
    }
}

/// One owner in the world: this node's part in it. Cheap to clone. [`stop`](Self::stop) ends it; dropping the last
/// handle ends it too, as a crash would: others wait for its silence.
#[derive(Clone)]
pub struct Ownership {
    pub(crate) shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
}

pub(crate) struct Shared {
    pub(crate) store: Arc<dyn OwnershipStore>,
    pub(crate) clock: SharedClock,
    pub(crate) options: OwnershipOptions,
    pub(crate) table: Table,
    pub(crate) present: ArcSwapOption<(Lease, Holder)>,
    pub(crate) ready: watch::Sender<bool>,
    /// Counts what was published, so that waiters look again.
    pub(crate) generation: watch::Sender<u64>,
    /// The same count, for those who only compare it.
    pub(crate) turns: AtomicU64,
    pub(crate) parcels: Mutex<Parcels>,
    pub(crate) changes: broadcast::Sender<Change>,
    pub(crate) events: broadcast::Sender<OwnershipEvent>,
    pub(crate) stats: Mutex<Stats>,
    pub(crate) floor: AtomicU64,
    pub(crate) refused_kinds: Mutex<Vec<String>>,
    pub(crate) drains: AtomicU64,
    pub(crate) waits: watch::Sender<Option<Instant>>,
}

/// What the driver is asked.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "short-lived, and the large one is the common one")]
pub(crate) enum Command {
    Claim { spec: NameSpec, reply: oneshot::Sender<Result<Title, OwnershipError>> },
    Release { name: String, epoch: Epoch, reply: oneshot::Sender<Result<(), OwnershipError>> },
    NoteActor { name: String, epoch: Epoch, actor: u64 },
    Hint { thing: Thing, heard: Epoch },
    SetFloor(Epoch),
    SetTaking(bool),
    WaitToBeTold,
    Told(Instant),
    Drain { number: u64, options: DrainOptions, progress: watch::Sender<Progress> },
    AbortDrain { number: u64 },
    Relocate { thing: Thing, to: DataCenterSelector, reply: oneshot::Sender<Result<(), OwnershipError>> },
    Place { thing: Thing, to: DataCenterSelector, reply: oneshot::Sender<Result<(), OwnershipError>> },
    Stop { reply: oneshot::Sender<()> },
}

impl Shared {
    pub(crate) fn offered(&self, thing: Thing, epoch: Epoch, state: Vec<(String, Bytes)>) -> Result<(), String> {
        let (now, options) = (self.clock.now(), &self.options);
        // The write that follows may have to wait for the store.
        let keep = (options.move_timeout() * 2).max(options.ttl() * 12);
        // Held while the table is looked at: an owner who arrives in between finds what was put, and sorts it out.
        let mut parcels = self.parcels.lock();
        let known = match &thing {
            Thing::Slot(group, slot) => self.table.slot_epoch(*group, *slot),
            Thing::Grain(group, slot, identity) => self.table.grain_epoch(*group, *slot, identity),
            Thing::Name(name) => self.table.name_epoch(name),
        };
        if let Some(known) = known.filter(|known| *known >= epoch) {
            return Err(format!("it is owned under epoch {known} already, and this is for {epoch}"));
        }
        parcels.put(thing, epoch, state, now, keep, options.parcel_bytes())
    }
}

impl Ownership {
    /// Starts this node's part: it opens a session, watches, claims, renews, until it is stopped. Needs a
    /// tokio runtime.
    ///
    /// Never waits for the store: it works once the store comes. Whoever takes the orders must take them all the time;
    /// once the receiver is dropped, what comes here is treated as not started.
    pub fn start(parts: Parts) -> (Self, mpsc::UnboundedReceiver<Order>) {
        let (commands, commanded) = mpsc::unbounded_channel();
        let (orders, ordered) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            store: Arc::clone(&parts.store),
            clock: Arc::clone(&parts.clock),
            options: parts.options.clone(),
            table: Table::new(),
            present: ArcSwapOption::empty(),
            ready: watch::Sender::new(false),
            generation: watch::Sender::new(0),
            turns: AtomicU64::new(0),
            parcels: Mutex::default(),
            changes: broadcast::Sender::new(16_384),
            events: broadcast::Sender::new(4_096),
            stats: Mutex::default(),
            floor: AtomicU64::new(0),
            refused_kinds: Mutex::default(),
            drains: AtomicU64::new(0),
            waits: watch::Sender::new(None),
        });
        tokio::spawn(driver::run(parts, Arc::clone(&shared), commanded, orders));
        (Self { shared, commands }, ordered)
    }

    /// The lease of the present session; `None` while there is none.
    pub fn lease(&self) -> Option<Lease> {
        self.shared.present.load().as_ref().map(|present| present.0.clone())
    }

    /// The present session, as others see it.
    pub fn holder(&self) -> Option<Holder> {
        self.shared.present.load().as_ref().map(|present| present.1.clone())
    }

    /// Whether what is stored has been read once and a session was opened. It stays so through later outages.
    pub fn ready(&self) -> bool {
        *self.shared.ready.borrow()
    }

    /// Waits until [`ready`](Self::ready). Cancel safe.
    pub async fn until_ready(&self) {
        // The sender lives in the handle.
        let _ = self.shared.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// The placement group of one of this node's kinds.
    ///
    /// # Errors
    ///
    /// [`OwnershipError::PolicyConflict`] where the kind was declared otherwise by the node that used it first.
    pub fn check_kind(&self, kind: &str) -> Result<(), OwnershipError> {
        if self.shared.refused_kinds.lock().iter().any(|refused| refused == kind) {
            let document = crate::documents::kind_key(kind).map(|key| key.to_string())?;
            return Err(OwnershipError::PolicyConflict { kind: kind.to_owned(), document });
        }
        Ok(())
    }

    /// Who owns a slot, as far as this node knows: its session is not known to be gone. Lock-free.
    pub fn slot_owner(&self, group: GroupId, slot: Slot) -> Option<(Holder, Epoch)> {
        self.shared.table.slot_owner(group, slot)
    }

    /// The title to a slot, if this node's present session owns it, the claim has been confirmed, and it holds.
    /// Lock-free.
    pub fn slot_title(&self, group: GroupId, slot: Slot) -> Option<Title> {
        self.shared.table.slot_title(group, slot)
    }

    /// Waits until the slot has an owner that lives as far as known, under another epoch than `not`. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`OwnershipError::Timeout`] at `until`, on the clock of [`Parts`].
    pub async fn await_slot(
        &self,
        group: GroupId,
        slot: Slot,
        not: Option<Epoch>,
        until: Instant,
    ) -> Result<(Holder, Epoch), OwnershipError> {
        let owner = || self.slot_owner(group, slot).filter(|(_, epoch)| Some(*epoch) != not);
        self.wait(until, owner, || format!("slot {slot} of group {group}")).await
    }

    pub(crate) async fn wait<T>(
        &self,
        until: Instant,
        look: impl Fn() -> Option<T>,
        what: impl Fn() -> String,
    ) -> Result<T, OwnershipError> {
        let begun = self.shared.clock.now();
        let mut generation = self.shared.generation.subscribe();
        loop {
            generation.borrow_and_update();
            if let Some(found) = look() {
                return Ok(found);
            }
            let now = self.shared.clock.now();
            if now >= until {
                return Err(OwnershipError::Timeout { what: what(), waited: now - begun });
            }
            // Either way it is looked at again.
            let _ = tokio::time::timeout((until - now).max(Duration::from_millis(1)), generation.changed()).await;
        }
    }

    /// Claims a name by compare-and-set. The title is confirmed: the actor may start.
    ///
    /// Dropped before its end, a claim that was made is taken back.
    ///
    /// # Errors
    ///
    /// [`OwnershipError::NameTaken`] carries who has it. [`OwnershipError::NotAllowed`] where the policy keeps this
    /// datacenter out. [`OwnershipError::OutcomeUnknown`] where the answer was lost for good.
    pub async fn claim(&self, spec: NameSpec) -> Result<Title, OwnershipError> {
        spec.check()?;
        self.ask(|reply| Command::Claim { spec, reply }).await
    }

    /// Lets a name go: its actor stopped for good. Its title ends at once. Conditional on `epoch`; what is already
    /// gone, or owned by another, is Ok. Dropped before its end, it goes on.
    ///
    /// # Errors
    ///
    /// [`OwnershipError::NoSession`] where the session was lost meanwhile: the name is treated as a lost node's.
    pub async fn release(&self, name: &str, epoch: Epoch) -> Result<(), OwnershipError> {
        self.ask(|reply| Command::Release { name: name.to_owned(), epoch, reply }).await
    }

    /// Tells others the number of the actor that serves a name here, as part of its entry. Best effort.
    pub fn note_actor(&self, name: &str, epoch: Epoch, actor: u64) {
        // A driver that has ended tells nobody.
        let _ = self.commands.send(Command::NoteActor { name: name.to_owned(), epoch, actor });
    }

    /// Who has a name: from the local index, else one read at the store. `None`: nobody.
    ///
    /// # Errors
    ///
    /// [`OwnershipError::Store`] where the store had to be asked and did not answer.
    pub async fn look_up(&self, name: &str) -> Result<Option<NameEntry>, OwnershipError> {
        if let Some(known) = self.known(name) {
            return Ok(Some(known));
        }
        let key = crate::documents::name_key(name)?;
        let read = self.shared.store.read(&key);
        let read = tokio::time::timeout(self.shared.options.request_timeout(), read).await;
        let document = match read {
            Ok(answer) => answer.map_err(OwnershipError::Store)?,
            Err(_) => return Err(OwnershipError::Store(driver::late("read", self.shared.options.request_timeout()))),
        };
        let Some(document) = document else { return Ok(self.known(name)) };
        let row = crate::documents::NameDocument::read(&document)
            .map_err(|why| {
                let corrupt = dc_controlplane::Corrupt { key: document.key.to_string(), why };
                OwnershipError::Store(dc_controlplane::Error::Corrupt(corrupt))
            })?
            .row(document.version);
        // The store is ahead of what was shown here: the owner's session may be known a moment later. Where that is
        // over, it shows with the name.
        let seen = || {
            let shown = self.known(name).filter(|known| known.epoch >= row.owner.epoch);
            shown.or_else(|| Some(self.shared.table.entry(&row)).filter(|entry| entry.holder.is_some()))
        };
        let until = self.shared.clock.now() + self.shared.options.request_timeout();
        let entry = self.wait(until, seen, || format!("the global name {name:?}")).await;
        Ok(Some(entry.unwrap_or_else(|_| self.shared.table.entry(&row))))
    }

    /// Whether the owner of `thing` under `epoch` handed it over in good order to the one that is named now, as far as
    /// this node knows: what it answered was answered before. Lock-free for slots.
    pub fn handed_over(&self, thing: &Thing, epoch: Epoch) -> bool {
        self.shared.table.handed_over(thing, epoch)
    }

    /// Who has a name, as far as this node knows.
    pub fn known(&self, name: &str) -> Option<NameEntry> {
        self.shared.table.name(name)
    }

    /// The epoch under which a name is known to be owned; its owner's session may be over.
    pub fn name_epoch(&self, name: &str) -> Option<Epoch> {
        self.shared.table.name_epoch(name)
    }

    /// The title to a name, if it is owned here and holds.
    pub fn name_title(&self, name: &str) -> Option<Title> {
        self.shared.table.name_title(name)
    }

    /// Waits until the name has an owner above the epoch `not` that lives as far as known, or is gone (`None`).
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`OwnershipError::Timeout`] at `until`.
    pub async fn await_name(
        &self,
        name: &str,
        not: Epoch,
        until: Instant,
    ) -> Result<Option<NameEntry>, OwnershipError> {
        let look = || match self.known(name) {
            None => Some(None),
            Some(entry) => (entry.epoch > not && entry.holder.is_some()).then_some(Some(entry)),
        };
        self.wait(until, look, || format!("the global name {name:?}")).await
    }

    /// Somebody told of a higher epoch than the one that is held here: the stored entry is looked at now. Nothing is
    /// stopped by the word alone (A5).
    pub fn hint(&self, thing: Thing, heard: Epoch) {
        // A driver that has ended holds nothing.
        let _ = self.commands.send(Command::Hint { thing, heard });
    }

    /// The highest epoch that this node remembers of anything: what others ask for when the store lost data (G3).
    pub fn remembered_floor(&self) -> Epoch {
        Epoch(self.shared.floor.load(Ordering::Acquire))
    }

    /// New epochs start above `floor`: the highest that reachable nodes remember, or the operator's word. Never falls.
    pub fn set_floor(&self, floor: Epoch) {
        // A driver that has ended claims nothing.
        let _ = self.commands.send(Command::SetFloor(floor));
    }

    /// State of something that is being handed to this node, for the epoch that it will have. Kept until it was taken,
    /// for a bounded time until the hand-over is seen.
    ///
    /// # Errors
    ///
    /// What to tell the sender: there is no room, or it comes too late.
    pub fn offered(&self, thing: Thing, epoch: Epoch, state: Vec<(String, Bytes)>) -> Result<(), String> {
        self.shared.offered(thing, epoch, state)
    }

    /// Hands over all that this node owns. It takes nothing new from now on, until the drain is aborted or
    /// [`set_taking`](Self::set_taking) says so. A drain that is under way is replaced.
    pub fn drain(&self, options: DrainOptions) -> DrainHandle {
        let number = self.shared.drains.fetch_add(1, Ordering::Relaxed) + 1;
        let (progress, follow) = watch::channel(Progress::default());
        // A driver that has ended owns nothing: the sender is dropped, and the handle ends.
        let _ = self.commands.send(Command::Drain { number, options, progress });
        DrainHandle { number, progress: follow, commands: self.commands.clone() }
    }

    /// Whether this node takes things that have no owner. False where its datacenter is to be drained.
    pub fn set_taking(&self, taking: bool) {
        // A driver that has ended takes nothing.
        let _ = self.commands.send(Command::SetTaking(taking));
    }

    /// From now on this node waits with claims of things that have no owner until it is [`told`](Self::told) whether it is
    /// to take anything: after its start, and again with each session, as what was known before may be no longer so.
    /// Others reckon with it all the same, and leave it its part for a while.
    pub fn wait_to_be_told(&self) {
        // A driver that has ended claims nothing.
        let _ = self.commands.send(Command::WaitToBeTold);
    }

    /// What is wanted of this node is known as it was at `as_of`, of the clock that this was started with; where it is to
    /// take nothing, [`set_taking`](Self::set_taking) was called before. Ends the wait if it began no later.
    pub fn told(&self, as_of: Instant) {
        // As above.
        let _ = self.commands.send(Command::Told(as_of));
    }

    /// Since when this node waits to be told; `None` while it does not.
    pub fn waits(&self) -> watch::Receiver<Option<Instant>> {
        self.shared.waits.subscribe()
    }

    /// A count that grows after what is known of owners has changed. Who reads it before looking something up need not
    /// look again while it is the same.
    pub fn generation(&self) -> u64 {
        self.shared.turns.load(Ordering::Acquire)
    }

    /// Changes after what is known of owners has: for those who look again then.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.shared.generation.subscribe()
    }

    /// How many things the sessions of `dc` own, as far as known (P8 "out").
    pub fn owned_by(&self, dc: &DataCenterId) -> usize {
        self.shared.table.owned_by(dc)
    }

    /// An operator's word for what waits: it is claimed for a session that lives in one of `to`, once its owner's
    /// session is proved to be over.
    ///
    /// # Errors
    ///
    /// [`OwnershipError::OwnerLives`] where there is nothing to wait for; [`OwnershipError::NotAllowed`] where the
    /// policy keeps all of `to` out, or none of it lives; [`OwnershipError::Timeout`] after three TTLs.
    pub async fn relocate(&self, thing: Thing, to: DataCenterSelector) -> Result<(), OwnershipError> {
        self.ask(|reply| Command::Relocate { thing, to, reply }).await
    }

    /// Changes of owners. A receiver that falls behind is told so by its channel, and looks at what is known instead.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.shared.changes.subscribe()
    }

    /// What happens, for people and for those who must act on it.
    pub fn events(&self) -> broadcast::Receiver<OwnershipEvent> {
        self.shared.events.subscribe()
    }

    /// What has happened since the start.
    pub fn stats(&self) -> Stats {
        *self.shared.stats.lock()
    }

    /// Ends this node's part: all titles end, then its session is replaced by a tombstone (within one request's
    /// timeout), so that others may take over at once. Drain first where things are to be handed over.
    pub async fn stop(&self) {
        let (reply, stopped) = oneshot::channel();
        if self.commands.send(Command::Stop { reply }).is_ok() {
            // Dropped: it has ended already.
            let _ = stopped.await;
        }
    }

    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, OwnershipError>>) -> Command,
    ) -> Result<T, OwnershipError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| OwnershipError::Stopped)?;
        answer.await.unwrap_or(Err(OwnershipError::Stopped))
    }
}

impl fmt::Debug for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ownership").field("table", &self.shared.table).finish_non_exhaustive()
    }
}
