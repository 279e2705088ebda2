//! One identity of a slot: where it is owned, and where it is to live.

use std::time::Instant;

use bytes::Bytes;
use dc_core::{DataCenterSelector, Epoch};

use crate::{
    error::OwnershipError,
    handle::{Command, Ownership},
    ids::{GroupId, Slot},
    order::Thing,
    session::Holder,
    title::Title,
};

impl Ownership {
    /// Who owns one identity (`kind/id`) of a slot, wherever it lives, as far as this node knows: its session is not
    /// known to be gone. Lock-free.
    pub fn grain_owner(&self, group: GroupId, slot: Slot, identity: &str) -> Option<(Holder, Epoch)> {
        self.shared.table.grain_owner(group, slot, identity)
    }

    /// The epoch under which one identity is known to be owned; its owner's session may be over. Lock-free.
    pub fn grain_epoch(&self, group: GroupId, slot: Slot, identity: &str) -> Option<Epoch> {
        self.shared.table.grain_epoch(group, slot, identity)
    }

    /// The epoch under which a slot is known to be owned; its owner's session may be over. Lock-free.
    pub fn slot_epoch(&self, group: GroupId, slot: Slot) -> Option<Epoch> {
        self.shared.table.slot_epoch(group, slot)
    }

    /// The title by which one identity of a slot may be active here, if there is one and it holds, and whether that is
    /// to this identity alone. `None` also while it is being handed over. Lock-free.
    pub fn grain_title(&self, group: GroupId, slot: Slot, identity: &str) -> Option<(Title, bool)> {
        self.shared.table.grain_title(group, slot, identity)
    }

    /// Whether an identity of a slot lives elsewhere than its slot, or is about to. Lock-free.
    pub fn is_overridden(&self, group: GroupId, slot: Slot, identity: &str) -> bool {
        self.shared.table.is_overridden(group, slot, identity)
    }

    /// Waits until an identity of a slot has an owner that lives as far as known, under another epoch than `not`.
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`OwnershipError::Timeout`] at `until`, on the clock of [`Parts`](crate::Parts).
    pub async fn await_grain(
        &self,
        group: GroupId,
        slot: Slot,
        identity: &str,
        not: Option<Epoch>,
        until: Instant,
    ) -> Result<(Holder, Epoch), OwnershipError> {
        let owner = || self.grain_owner(group, slot, identity).filter(|(_, epoch)| Some(*epoch) != not);
        self.wait(until, owner, || identity.to_owned()).await
    }

    /// Takes the state that came along for one grain (`kind/id`), if it, or its slot, was handed to this node under
    /// `epoch`.
    pub fn take_state(&self, group: GroupId, slot: Slot, identity: &str, epoch: Epoch) -> Option<Bytes> {
        let (owner, own) = self.shared.table.grain_entry(group, slot, identity)?;
        // State of a hand-over that did not come about must not be taken for this owner's.
        (owner.handed && owner.epoch == epoch).then_some(())?;
        let thing = if own { Thing::grain(group, identity) } else { Thing::Slot(group, slot) };
        self.shared.parcels.lock().take(&thing, identity, epoch)
    }

    /// Has one identity (`kind/id`) live where `to` says, whatever its slot does: a hand-over, of this identity alone,
    /// to a node there, which its owner carries out (this node must be the owner). Where it lives there already, it
    /// stays where it is. From then on it is owned like a slot that prefers `to`. Repeating it is safe. Dropped before
    /// its end, it goes on.
    ///
    /// # Errors
    ///
    /// [`OwnershipError::OwnedElsewhere`] where this node is not the owner; [`OwnershipError::NobodyThere`] and
    /// [`OwnershipError::NotAllowed`] where no node may have it there; [`OwnershipError::Full`] where too many of its
    /// document live elsewhere; [`OwnershipError::NotMoved`] where it was given up, and it stays; after three TTLs
    /// [`OwnershipError::Timeout`], where nothing was begun. [`OwnershipError::Unsettled`]: it may yet be done.
    pub async fn place(&self, group: GroupId, identity: &str, to: DataCenterSelector) -> Result<(), OwnershipError> {
        to.check()?;
        let thing = Thing::grain(group, identity);
        self.ask(|reply| Command::Place { thing, to, reply }).await
    }
}
