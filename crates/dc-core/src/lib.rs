//! The vocabulary of multidc: datacenters (DCs), their records, states and
//! leases, selectors, and the routing snapshot. Pure data and pure functions.
//!
//! Owns what the other crates speak about, and every rule that needs neither a
//! clock of its own nor I/O: which names are legal, which state moves are legal
//! ([`DataCenterState::next`]), when a lease has ended ([`Lease`]), what a state
//! and an operator's intent allow together ([`routability`]). Must not know:
//! tokio, I/O, any control plane backend.
//!
//! Reading order: [`DataCenter`], [`DataCenterRecord`], [`DataCenterState`],
//! [`Intent`], [`Version`], [`Lease`], [`Selector`], [`DcView`].

mod clock;
mod data_center;
mod endpoint;
mod id;
mod intent;
mod invalid;
mod lease;
mod record;
mod selector;
mod state;
mod version;
mod view;

pub mod snapshot;

pub use clock::{Clock, ManualClock, SharedClock, SystemClock};
pub use data_center::{DataCenter, DataCenterBuilder, Labels};
pub use endpoint::{Endpoint, NodeEndpoint};
pub use id::{DataCenterId, NodeId, SystemName};
pub use intent::{Intent, IntentKind};
pub use invalid::Invalid;
pub use lease::{Expired, Lease};
pub use record::{DataCenterRecord, Owner};
pub use selector::{DataCenterSelector, Selector};
pub use snapshot::{Entry, Freshness, Seen, Snapshot};
pub use state::{DataCenterState, IllegalTransition, Routability, routability};
pub use version::{Epoch, StoreId, Version};
pub use view::{DcView, Member};
