//! The routing table: published snapshots of the control plane, kept in step by one task.
//!
//! Owns C1 to C6: what this node believes of all datacenters (DCs), for how long, and how
//! far it can be trusted. A pure [`Core`](core::Core) decides; [`keep_in_step`]
//! feeds it and publishes what it says in a [`RoutingTable`]. Must not know:
//! any backend by name (it asks [`Capabilities`](dc_controlplane::Capabilities)), actors, links.
//!
//! # How life and death are told
//!
//! A record is taken in when a list or the watch shows it. It stops being routable when
//!
//! - the store says so: the watch tells its removal, or a list (or a watch's replay) that is not older than the
//!   record lacks it; or
//! - its lease has ended on this reader's clock, *and* a list that was asked after that end shows no renewal (C2).
//!   So at the end of a lease a list is asked out of turn; until it is answered, the record stays.
//!
//! The lease starts anew at each version not seen before. Where reads are
//! linearizable, being in a list is proof of life too, as of the moment the list
//! was asked. Backends differ in what else there is to go by:
//!
//! | renewals | lists | what keeps a living DC here | who tells that one died |
//! |---|---|---|---|
//! | change the version (NATS) | may be old | each renewal, through the watch (polling: through lists) | the watch; if it is silent, the lease's end and a list after it |
//! | keep the version (etcd, SQLite, memory) | linearizable | each list, one per `cache_refresh_interval` | the watch at once; without one, the next list |
//!
//! In the second row the watch shows no renewals, so its being in step cannot
//! prove the *absence* of one: an end of lease is never concluded from the watch
//! alone, only from a list. While the watch is in step its silence does say that nothing was removed, which is
//! why such a table is fresh (C4) although no record has been heard of since the last list. In the first row
//! lists tell nothing that the watch has not told, so while it proves itself in step within each interval only
//! every sixth interval is listed. A backend with neither (old lists, invisible renewals) gives no proof of life at
//! all; its records expire here one lease after their last change, and a warning says so.
//!
//! Where lists may be old, being listed is no proof of life, and the lack of a renewal is proof of death only from the
//! backend's `expiry_granularity` after the end of the lease: until then the store itself may hold on to the record,
//! and the answer may be as old. If no record at all was renewed for a whole lease, it is rather the store that stands
//! still: the record has its grace (below) first. What is dead at a version stays dead, however often it is read, until
//! the store shows another.
//!
//! # Outages
//!
//! An outage is a time without proof of contact in which a request failed, the watch
//! broke, or silence lasted three times longer than lately usual. Meanwhile
//! nothing is removed (C5). What the store then no longer holds, and what
//! lost its lease, gets one more TTL of lookups and traffic ([`Seen::Grace`](dc_core::Seen::Grace)), if the outage
//! since its last proof of life was at least a third of its TTL: the heartbeat interval is at most that (D5), so a
//! shorter one cannot be why it died. A grace ends, as a lease does, only once the store was heard from after its
//! end. INACTIVE and deregistered ones go at once. If the store goes away again, the grace starts anew when it is
//! back. A store of another id, or one that was set back, is taken as an outage for everything: the table starts
//! afresh from its view, and what it lacks is in grace. Where reads are not linearizable, a list that is older than
//! what was delivered may just be late; it counts as set back once no newer one has come for `max_cache_staleness`.
//!
//! # Order
//!
//! An older version never replaces a newer one (C3). Removals leave tombstones,
//! and each list or replay leaves the mark "complete as of": a late event about
//! a record that is not in the table and not newer than that mark is ignored, which is why
//! tombstones older than the mark can be forgotten, and their number stays bounded.
//!
//! Reading order: [`RoutingTable`], [`TableEvent`], [`core::Core`], [`keep_in_step`], [`CacheOptions`].

mod backoff;
pub mod core;
mod event;
mod log;
mod measure;
mod options;
mod table;
mod task;

pub use event::TableEvent;
pub use options::{CacheOptions, CacheOptionsBuilder};
pub use table::RoutingTable;
pub use task::{CacheTask, keep_in_step};
