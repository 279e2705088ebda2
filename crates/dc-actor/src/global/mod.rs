//! One in the world: global names and global grains, on what `dc-ownership` decides.
//!
//! Owns what a node does with what it owns: start under a title, stop at once when it is lost, hand over in good order,
//! and how a message finds the present owner. Must not know how ownership is decided.
//!
//! Reading order: [`Global`] (what a node has of it), [`standing`] (what runs under which title), [`names`], [`slots`],
//! [`orders`] (what the driver asks), [`moves`] (handing over), [`offers`] and [`landing`] (taking over in good order),
//! [`placing`].

mod floor;
mod heard;
mod intent;
mod landing;
mod moves;
mod names;
mod offers;
mod orders;
mod placing;
mod slots;
mod spawns;
mod standing;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use dc_core::{DataCenterId, Endpoint, Epoch, NodeId, SharedClock};
use dc_ownership::{
    Ownership, OwnershipError,
    ids::GroupId,
    order::{Holder, Thing},
};
use parking_lot::Mutex;

pub use self::placing::{PlaceIn, PlaceInFuture};
pub(crate) use self::{
    floor::{asked_for_floor, tell_events},
    heard::deliver,
    intent::follow_intent,
    landing::landed,
    moves::{Carrier, arrived_late},
    names::{Wanted, asked_to_find, locate as locate_name, spawn_here},
    offers::asked_to_take,
    orders::follow,
    placing::asked_to_place,
    slots::{asked_to_activate, locate as locate_grain},
    standing::Standing,
};
use crate::{
    error::{Error, NewOwner},
    grain::identity,
    reference::Location,
    system::Node,
};

/// What a node has of global ownership.
pub(crate) struct Global {
    pub(crate) ownership: Ownership,
    /// What `ownership` counts its waits on.
    clock: SharedClock,
    /// The placement groups of the kinds of global grains.
    groups: HashMap<&'static str, GroupId>,
    /// What runs here, and what is on its way out.
    standing: Standing,
    /// What is on its way in.
    landings: landing::Landings,
    /// Spawns of names that are under way.
    spawns: spawns::Spawns,
    /// Whose messages were taken in under epochs that are news here.
    heard: heard::Heard,
    /// Where names were found.
    found: Mutex<HashMap<String, (Location, u64, String)>>,
    /// The datacenter is to be drained, and this node has handed over what it had: what still comes, from nodes that have
    /// not heard of it yet, is handed on, and nothing starts for it.
    drained: AtomicBool,
}

/// A place, and under which epoch it is one; 0 where epochs play no part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) at: Location,
    pub(crate) epoch: u64,
}

impl From<Location> for Located {
    fn from(at: Location) -> Self {
        Self { at, epoch: 0 }
    }
}

/// How long a question waits here for what its asker may know before this node does: that it is the owner, or its title.
/// Longer than a watch lags. Whoever is told too early looks again.
const AHEAD: Duration = Duration::from_secs(5);

/// The longest time that any question for something global is worked on, however long its asker would wait.
const LONGEST_QUESTION: Duration = Duration::from_secs(60);

/// Names found at most; beyond, all are forgotten and found again.
const MAX_FOUND: usize = 65_536;

impl Global {
    /// `ttl`: of sessions.
    pub(crate) fn new(
        ownership: Ownership,
        clock: SharedClock,
        groups: HashMap<&'static str, GroupId>,
        ttl: Duration,
    ) -> Self {
        Self {
            ownership,
            clock,
            groups,
            standing: Standing::default(),
            landings: landing::Landings::default(),
            spawns: spawns::Spawns::default(),
            // A title ends a TTL after its renewal; what was sent under it is not on its way for longer.
            heard: heard::Heard::new(ttl * 3),
            found: Mutex::default(),
            drained: AtomicBool::new(false),
        }
    }

    /// Where the owner of `thing` is, as far as this node knows.
    fn owner(&self, thing: &Thing) -> Option<(Holder, Epoch)> {
        match thing {
            Thing::Slot(group, slot) => self.ownership.slot_owner(*group, *slot),
            Thing::Grain(group, slot, identity) => self.ownership.grain_owner(*group, *slot, identity),
            Thing::Name(name) => {
                let entry = self.ownership.known(name)?;
                Some((entry.holder?, entry.epoch))
            }
        }
    }

    /// The highest epoch of `thing` that this node knows of.
    fn epoch(&self, thing: &Thing) -> Option<u64> {
        match thing {
            Thing::Slot(group, slot) => self.ownership.slot_epoch(*group, *slot).map(|epoch| epoch.0),
            Thing::Grain(group, slot, identity) => {
                self.ownership.grain_epoch(*group, *slot, identity).map(|epoch| epoch.0)
            }
            Thing::Name(name) => self.ownership.name_epoch(name).map(|epoch| epoch.0),
        }
    }

    /// Whether anything that is owned runs here.
    fn owns_here(&self) -> bool {
        !self.standing.is_empty()
    }

    /// A moment on the clock of ownership.
    fn after(&self, left: Duration) -> std::time::Instant {
        self.clock.now() + left
    }

    /// A grain by its identity, if its kind is global: to look up who owns it, by itself or with its slot.
    pub(crate) fn grain(&self, kind: &str, id: &str) -> Option<Thing> {
        let group = self.groups.get(kind)?;
        Some(Thing::grain(*group, identity(kind, id)))
    }

    pub(crate) fn forget(&self, name: &str, at: &Location) {
        let mut found = self.found.lock();
        if found.get(name).is_some_and(|(known, ..)| known == at) {
            found.remove(name);
        }
    }

    fn remember(&self, name: &str, located: &Located, kind: &str) {
        let mut found = self.found.lock();
        if found.len() >= MAX_FOUND {
            found.clear();
        }
        found.insert(name.to_owned(), (located.at.clone(), located.epoch, kind.to_owned()));
    }
}

impl Node {
    /// What this node has of global ownership.
    ///
    /// # Errors
    ///
    /// [`Error::NoOwnership`], naming `what` was to be global.
    pub(crate) fn global(&self, what: impl FnOnce() -> String) -> Result<&Arc<Global>, Error> {
        self.try_global().ok_or_else(|| Error::NoOwnership { what: what() })
    }

    /// The owner of `thing` with a higher epoch than this one, if this node knows of one.
    pub(crate) fn newer_owner(&self, thing: &Thing, than: u64) -> Option<NewOwner> {
        let (holder, epoch) = self.try_global()?.owner(thing)?;
        (epoch.0 > than).then(|| new_owner(holder, epoch))
    }

    /// Whether this node knows that `thing` has had another owner after this epoch.
    pub(crate) fn knows_newer(&self, thing: &Thing, epoch: u64) -> bool {
        self.try_global().and_then(|global| global.epoch(thing)).is_some_and(|known| known > epoch)
    }

    /// Whether its owner under this epoch is known to have handed it over in good order.
    pub(crate) fn handed_over(&self, thing: &Thing, epoch: u64) -> bool {
        self.try_global().is_some_and(|global| global.ownership.handed_over(thing, Epoch(epoch)))
    }

    /// Somebody knows of a higher epoch of `thing` than what is served here.
    pub(crate) fn heard_of(&self, thing: Thing, epoch: u64) {
        if let Some(global) = self.try_global() {
            global.ownership.hint(thing, Epoch(epoch));
        }
    }

    /// Ends when a newer owner of `thing` is known, or after `at_most`.
    pub(crate) async fn await_newer(&self, thing: &Thing, epoch: u64, at_most: Duration) {
        let Some(global) = self.try_global() else { return };
        let until = global.after(at_most);
        // Either way it is looked at again.
        match thing {
            Thing::Slot(group, slot) => {
                let _ = global.ownership.await_slot(*group, *slot, Some(Epoch(epoch)), until).await;
            }
            Thing::Grain(group, slot, identity) => {
                let _ = global.ownership.await_grain(*group, *slot, identity, Some(Epoch(epoch)), until).await;
            }
            Thing::Name(name) => {
                let _ = global.ownership.await_name(name, Epoch(epoch), until).await;
            }
        }
    }
}

fn new_owner(holder: Holder, epoch: Epoch) -> NewOwner {
    NewOwner { epoch: epoch.0, data_center: holder.data_center, node: holder.node, endpoint: holder.endpoint }
}

/// Where the owner of something is asked about it.
#[derive(Clone, Debug)]
struct Owner {
    dc: DataCenterId,
    node: NodeId,
    endpoint: Endpoint,
    epoch: u64,
}

impl Owner {
    fn of(holder: Holder, epoch: Epoch) -> Self {
        Self { dc: holder.data_center, node: holder.node, endpoint: holder.endpoint, epoch: epoch.0 }
    }

    /// The one with the higher epoch of what this node knows and of what it was told.
    fn newest(known: Option<(Holder, Epoch)>, told: Option<&NewOwner>) -> Option<Self> {
        let known = known.map(|(holder, epoch)| Self::of(holder, epoch));
        let told = told.map(|told| Self {
            dc: told.data_center.clone(),
            node: told.node,
            endpoint: told.endpoint.clone(),
            epoch: told.epoch,
        });
        match (known, told) {
            (Some(known), Some(told)) => Some(if told.epoch > known.epoch { told } else { known }),
            (known, told) => known.or(told),
        }
    }

    fn label(&self) -> String {
        format!("{} of {}", self.node.short(), self.dc)
    }
}

/// An error of ownership as ours. Nothing ran in any case: actors start only with a title in hand. Whether what was asked
/// to be moved is moved is not always known.
pub(crate) fn ownership_error(what: &str, error: OwnershipError, after: Duration) -> Error {
    match error {
        OwnershipError::NameTaken { name, holder } => {
            let place = match &holder.holder {
                Some(held) => format!("a {:?} on {} of {}", holder.spec.kind, held.node.short(), held.data_center),
                None => format!("a {:?} of {}, whose node is not there", holder.spec.kind, holder.data_center),
            };
            Error::NameTaken { name, holder: format!("{place}, epoch {}", holder.epoch) }
        }
        OwnershipError::NotAllowed { what, data_center, why } => {
            Error::DataCenterNotRoutable { asked: what, reasons: vec![format!("{data_center}: {why}")] }
        }
        OwnershipError::NobodyThere { asked, .. } => {
            let reasons = vec![format!("no node lives there that takes {what}")];
            Error::DataCenterNotRoutable { asked, reasons }
        }
        OwnershipError::Full { what } => {
            Error::Overloaded { what: format!("{what}: the number of grains that live elsewhere than their slots") }
        }
        OwnershipError::Unsettled { .. } => Error::Other { text: error.to_string(), not_run: false },
        OwnershipError::Invalid(invalid) => invalid.into(),
        OwnershipError::Timeout { .. } => Error::Timeout { to: format!("the owner of {what}"), after, not_run: true },
        OwnershipError::Store(error) => {
            Error::OwnershipUnavailable { what: what.to_owned(), reason: format!("the store failed: {error}") }
        }
        error => Error::OwnershipUnavailable { what: what.to_owned(), reason: error.to_string() },
    }
}

/// How people are told of it.
pub(crate) fn label(thing: &Thing) -> String {
    match thing {
        Thing::Slot(group, slot) => format!("slot {slot} of group {:08x}", group.0 >> 96),
        Thing::Grain(_, _, identity) => identity.clone(),
        Thing::Name(name) => format!("the global name {name:?}"),
    }
}
