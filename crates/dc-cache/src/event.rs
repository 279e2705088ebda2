//! What happens to the table.

use std::{sync::Arc, time::Duration};

use dc_controlplane::{Corrupt, Removal};
use dc_core::{DataCenterId, DataCenterState, Intent, StoreId};

/// One change of the table, told after the snapshot that shows it was published.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum TableEvent {
    /// A datacenter that was not known, or had left, is there.
    Joined {
        /// Which.
        id: DataCenterId,
        /// Its state.
        state: DataCenterState,
    },
    /// A datacenter is gone from the table.
    Left {
        /// Which.
        id: DataCenterId,
        /// Why, where it can be told.
        why: Removal,
    },
    /// Its lease ended without a renewal: nothing is sent there until it renews (C2).
    Expired {
        /// Which.
        id: DataCenterId,
    },
    /// The store came back without it: lookups and traffic go on for this long, no placements (C5).
    Grace {
        /// Which.
        id: DataCenterId,
        /// How long, unless the store goes away again.
        left: Duration,
    },
    /// It is alive again after [`Expired`](Self::Expired) or [`Grace`](Self::Grace).
    Revived {
        /// Which.
        id: DataCenterId,
    },
    /// Its leader moved its state.
    StateChanged {
        /// Which.
        id: DataCenterId,
        /// Where it was.
        from: DataCenterState,
        /// Where it is.
        to: DataCenterState,
    },
    /// An operator changed the intent (P8); `None` where there is none any more.
    IntentChanged {
        /// Which; it need not be in the table.
        id: DataCenterId,
        /// The new word.
        intent: Option<Arc<Intent>>,
    },
    /// Its endpoints changed.
    EndpointsChanged {
        /// Which.
        id: DataCenterId,
    },
    /// The table has not been in step for longer than allowed (C4).
    Stale {
        /// Time since the last proof.
        age: Duration,
    },
    /// The table is in step: for the first time, or again.
    Fresh,
    /// The store is another one, or was set back: the table starts afresh from its view (C3).
    StoreChanged {
        /// The incarnation until now.
        from: StoreId,
        /// The incarnation from now on; the same where it was set back.
        to: StoreId,
    },
    /// Something in the store cannot be decoded; it is left out. Told once for each cause.
    Skipped(Corrupt),
}

impl TableEvent {
    /// The datacenter that this is about; `None` where it is about the whole table.
    pub fn id(&self) -> Option<&DataCenterId> {
        match self {
            Self::Joined { id, .. }
            | Self::Left { id, .. }
            | Self::Expired { id }
            | Self::Grace { id, .. }
            | Self::Revived { id }
            | Self::StateChanged { id, .. }
            | Self::IntentChanged { id, .. }
            | Self::EndpointsChanged { id } => Some(id),
            Self::Stale { .. } | Self::Fresh | Self::StoreChanged { .. } | Self::Skipped(_) => None,
        }
    }
}
