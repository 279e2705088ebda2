//! The contract.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use dc_core::{DataCenterId, DataCenterRecord, DataCenterState, Intent, StoreId, Version};
use futures::stream::BoxStream;

use crate::{Capabilities, Corrupt, Error, StateChange, Writer, ownership::OwnershipStore};

/// Shared registry of datacenters; backends are NATS, etcd, SQLite, memory, or yours.
///
/// One handle serves all tasks of a process; a call may be dropped at any time
/// (a dropped write may still land, as after a timeout).
///
/// # Guarantees
///
/// Each number has at least one check in `conformance`.
///
/// - **P1 Versioned.** Every accepted write that changes the record returns a [`Version`] higher than any
///   earlier one of that record, also after delete and re-creation, within one store incarnation.
/// - **P2 Fenced.** A write that names another version than the stored one fails with [`Error::Conflict`],
///   which carries what is stored, and changes nothing. Creating what exists is a conflict too.
/// - **P3 Leased.** A record that is not renewed leaves the lists no earlier than its TTL and no later than
///   its TTL + [`Capabilities::expiry_granularity`]. Clients' wall clocks play no part.
/// - **P4 Expiry is seen.** A watcher learns that a record expired, also where the store stays silent about it.
/// - **P5 No silent gap.** A watch replays what is there, marks the end of the replay, then yields changes in
///   version order. It may skip states that were overwritten meanwhile, never a removal, or it ends with
///   [`Error::WatchLost`]. [`Error::WatchUnsupported`] is legal and means polling.
/// - **P6 One question.** [`list_all`](Self::list_all) costs one request up to 1,000 records, a bounded number
///   of pages beyond, and says as of which store version it is. What cannot be decoded is left out and reported.
/// - **P7 One answer time.** [`heartbeat`](Self::heartbeat) costs one round trip and is fenced. A renewal that
///   changes nothing may keep the version and wakes no watcher where the backend allows it.
/// - **P8 The operator's word stands.** An [`Intent`] is kept apart from the record and has no lease; it
///   survives everything but another intent. [`set_state`](Self::set_state) by anyone but the record's owner
///   is written as an intent and never touches the record or its lease.
/// - **P9 Legal moves.** [`DataCenterState::next`] decides; any other move is [`Error::IllegalTransition`].
/// - **P10 Conditional goodbye.** [`deregister`](Self::deregister) removes the named version or fails; what is
///   already gone is success.
/// - **P11 Bounded.** Each call ends within the configured timeout. A write whose answer was lost ends with an
///   error that says so ([`Error::outcome_unknown`]); repeating it is safe.
/// - **P12 Keeps trying.** The client reconnects with jittered backoff, for ever. Connecting fails only on bad
///   configuration or refused credentials (or when `require_at_start` is set and no server answers in time).
/// - **P13 Honest.** [`capabilities`](Self::capabilities) says what the backend gives; unsafe server settings
///   are warned about at start, and refused in strict mode.
///
/// Not promised: order between datacenters, agreement between clocks, or that a read shows the latest write
/// (see [`Capabilities::linearizable_reads`]). Decide by compare-and-set only, never on a read.
#[async_trait]
pub trait ControlPlane: fmt::Debug + Send + Sync + 'static {
    /// What this backend gives (P13). Cheap; as of the last contact with the store.
    fn capabilities(&self) -> Capabilities;

    /// The store's incarnation (P1). One request at first, then remembered until the store is found to be another.
    async fn store(&self) -> Result<StoreId, Error>;

    /// Writes the whole record and starts its lease anew, if the store holds what `expected` says (P1, P2).
    ///
    /// `record.version` is not looked at. Takes [`DataCenterRecord::check`]ed records only, else
    /// [`Error::Invalid`] before anything is sent. State moves are not judged here: that is the registrar's task.
    async fn register(&self, record: &DataCenterRecord, expected: Expected) -> Result<Version, Error>;

    /// Renews the lease of `record` if the store holds `record.version` (P7, P2); the content is the stored one.
    ///
    /// Returns the version that the next write is to name.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] where it has expired or was removed: register again.
    /// [`Error::Conflict`] where another version is stored.
    async fn heartbeat(&self, record: &DataCenterRecord) -> Result<Version, Error>;

    /// Moves the record of `id` to `to`, or writes an intent, as `by` says (P8, P9).
    ///
    /// Backends read the record, ask [`plan_state`](crate::plan_state), and carry out its answer.
    async fn set_state(&self, id: &DataCenterId, to: DataCenterState, by: Writer) -> Result<StateChange, Error>;

    /// Writes the operator's intent for `id`; the newest wins. The datacenter need not exist (P8).
    ///
    /// [`Intent::check`]ed before it is sent.
    async fn set_intent(&self, id: &DataCenterId, intent: &Intent) -> Result<Version, Error>;

    /// The live record of `id`; `None` where there is none. May be stale (see [`Capabilities::linearizable_reads`]).
    async fn get(&self, id: &DataCenterId) -> Result<Option<DataCenterRecord>, Error>;

    /// Every live record, whatever its state, and every intent (P3, P6).
    async fn list_all(&self) -> Result<Listing, Error>;

    /// What is there, then what changes (P4, P5). Dropping the stream ends the watch.
    async fn watch(&self) -> Result<Watch, Error>;

    /// Removes the record of `id` if the store holds `version` (P10). Intents stay (P8).
    async fn deregister(&self, id: &DataCenterId, version: Version) -> Result<(), Error>;

    /// The documents by which ownership in the world is decided, on the same store. `None`, the default: this backend
    /// does not have them, and whoever asks for global actors is told so at start.
    fn ownership(&self) -> Option<Arc<dyn OwnershipStore>> {
        None
    }
}

/// What must be stored for a write to be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// No live record of that id.
    Absent,
    /// Exactly this version.
    Version(Version),
}

impl Expected {
    /// The version, where one is expected.
    pub fn version(self) -> Option<Version> {
        match self {
            Self::Absent => None,
            Self::Version(version) => Some(version),
        }
    }
}

/// An intent as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldIntent {
    /// The datacenter it is about.
    pub id: DataCenterId,
    /// The operator's word.
    pub intent: Intent,
    /// Its version; the newest wins.
    pub version: Version,
}

/// Everything that a store holds, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing {
    /// The store's version that this list is as of. A record's absence counts only if this is not older than the record (P6).
    pub as_of: Version,
    /// Live records, in no particular order.
    pub records: Vec<DataCenterRecord>,
    /// Intents, in no particular order.
    pub intents: Vec<HeldIntent>,
    /// What could not be decoded.
    pub skipped: Vec<Corrupt>,
}

/// A stream of [`WatchEvent`]s. After an error it ends.
pub type Watch = BoxStream<'static, Result<WatchEvent, Error>>;

/// One step of a watch.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum WatchEvent {
    /// A record was written; during the replay: is there.
    Put(DataCenterRecord),
    /// A record is gone.
    Removed {
        /// Whose.
        id: DataCenterId,
        /// The version of the removal: higher than the record's. Where a client-side timer found it, that of the record.
        version: Version,
        /// Why, where it can be told.
        why: Removal,
    },
    /// An intent was written; during the replay: is there.
    Intent(HeldIntent),
    /// The replay is over: what came before is all there was as of this version.
    ReplayDone {
        /// The store's version at that moment.
        as_of: Version,
    },
    /// The server showed contact with its quorum: nothing was missed up to now (C4).
    InStep,
    /// Something that cannot be decoded was written; it is left out.
    Skipped(Corrupt),
}

/// Why a record is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Its lease ended.
    Expired,
    /// Its leader removed it.
    Deregistered,
    /// The store does not tell.
    Unknown,
}

/// What callers want beyond what backends must write.
#[async_trait]
pub trait ControlPlaneExt: ControlPlane {
    /// Live records whose state is ACTIVE or DRAINING: what may be routed to. One request, as [`ControlPlane::list_all`].
    async fn list_active(&self) -> Result<Listing, Error> {
        let mut listing = self.list_all().await?;
        listing.records.retain(|r| matches!(r.state, DataCenterState::Active | DataCenterState::Draining));
        Ok(listing)
    }
}

impl<P: ControlPlane + ?Sized> ControlPlaneExt for P {}

macro_rules! forward {
    ($($pointer:ty),+) => {$(
        #[async_trait]
        impl<P: ControlPlane + ?Sized> ControlPlane for $pointer {
            fn capabilities(&self) -> Capabilities {
                (**self).capabilities()
            }
            async fn store(&self) -> Result<StoreId, Error> {
                (**self).store().await
            }
            async fn register(&self, record: &DataCenterRecord, expected: Expected) -> Result<Version, Error> {
                (**self).register(record, expected).await
            }
            async fn heartbeat(&self, record: &DataCenterRecord) -> Result<Version, Error> {
                (**self).heartbeat(record).await
            }
            async fn set_state(&self, id: &DataCenterId, to: DataCenterState, by: Writer) -> Result<StateChange, Error> {
                (**self).set_state(id, to, by).await
            }
            async fn set_intent(&self, id: &DataCenterId, intent: &Intent) -> Result<Version, Error> {
                (**self).set_intent(id, intent).await
            }
            async fn get(&self, id: &DataCenterId) -> Result<Option<DataCenterRecord>, Error> {
                (**self).get(id).await
            }
            async fn list_all(&self) -> Result<Listing, Error> {
                (**self).list_all().await
            }
            async fn watch(&self) -> Result<Watch, Error> {
                (**self).watch().await
            }
            async fn deregister(&self, id: &DataCenterId, version: Version) -> Result<(), Error> {
                (**self).deregister(id, version).await
            }
            fn ownership(&self) -> Option<Arc<dyn OwnershipStore>> {
                (**self).ownership()
            }
        }
    )+};
}

forward!(Arc<P>, Box<P>);
