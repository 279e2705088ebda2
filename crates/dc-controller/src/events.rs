//! What the registrar did, and why: for logs, events and metrics.

use std::time::{Duration, Instant};

use dc_core::{DataCenterId, DataCenterState, Epoch, Owner, Version};

/// Why a record may be taken over (D1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeOver {
    /// Its owner handed it over.
    HandedOver,
    /// Its owner was a member here and is dead.
    OwnerDead,
    /// It is this node's own, from before a restart: the same advertised address.
    OwnRestart,
    /// It did not change for its TTL on this node's clock.
    Silent,
}

/// One thing that the registrar did or met.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ControllerEvent {
    /// This node registered its datacenter, which had no record.
    Registered {
        /// The epoch it starts with.
        epoch: Epoch,
    },
    /// This node took the record over.
    TookOver {
        /// Who had it.
        from: Owner,
        /// The new epoch.
        epoch: Epoch,
        /// Why it could.
        why: TakeOver,
    },
    /// Another node owns the record now: this one writes no more.
    SteppedDown {
        /// The new owner; `None` where the record is gone.
        to: Option<Owner>,
        /// The epoch found, or the own one.
        epoch: Epoch,
    },
    /// The lease was renewed.
    Renewed {
        /// How long the store took.
        took: Duration,
    },
    /// A call failed; it is tried again.
    StoreFailed {
        /// `register`, `heartbeat`, ..
        operation: &'static str,
        /// What the store's client said.
        error: String,
        /// Time left of the lease, where one is held; zero when it has ended.
        lease_left: Option<Duration>,
    },
    /// The record lists other endpoints now.
    EndpointsAdvertised {
        /// How many.
        count: usize,
    },
    /// The record's state moved towards the operator's intent.
    StateMoved {
        /// Where it was.
        from: DataCenterState,
        /// Where it is.
        to: DataCenterState,
    },
    /// The record was handed over: any nominee may take it at once.
    HandedOver,
    /// The record was removed: this was the last node.
    Deregistered,
    /// The record is kept alive by nodes that are no members here: two clusters were given one name.
    DataCenterIdInUse {
        /// The id in question.
        id: DataCenterId,
        /// Who keeps it alive.
        by: Owner,
    },
}

/// What this node is to its datacenter's record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Some other node keeps the record, or none does yet.
    #[default]
    Follower,
    /// This node keeps it.
    Registrar,
}

/// The registrar's present state, for readiness, metrics and people.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RegistrarStatus {
    /// Who keeps the record.
    pub role: Role,
    /// The epoch held, or last seen.
    pub epoch: Option<Epoch>,
    /// The version held.
    pub version: Option<Version>,
    /// When the held lease ends, on this node's clock, if it is not renewed.
    pub lease_ends: Option<Instant>,
    /// The held record's state.
    pub state: Option<DataCenterState>,
    /// Set while strangers keep the record of this datacenter's id alive.
    pub id_in_use_by: Option<Owner>,
}
