//! One datacenter in the snapshot.

use std::{sync::Arc, time::Duration};

use super::hash;
use crate::{
    DataCenter, DataCenterId, DataCenterRecord, Intent, IntentKind, Lease, NodeEndpoint, Routability, Version,
    routability,
};

/// What this reader holds of a record's life. Decided by whoever keeps the table in step (C2, C5), never by a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Seen {
    /// The store holds it, as far as this reader knows; also through an outage of the store.
    Live,
    /// The store came back from an outage without it: lookups and traffic go on, no placements (C5).
    Grace,
    /// Its lease ended and the store, heard from after that, showed no renewal: nothing is sent there (C2).
    Expired,
}

/// How far the table can be trusted at one moment (C4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The table has never been in step: it knows nothing yet.
    Never,
    /// In step this long ago, which is within the allowed staleness.
    Fresh {
        /// Time since the last proof.
        age: Duration,
    },
    /// In step this long ago, which is too long.
    Stale {
        /// Time since the last proof.
        age: Duration,
    },
}

/// One datacenter as one reader sees it. Immutable and shared; cloning the `Arc` round it is cheap.
#[derive(Clone, Debug)]
pub struct Entry {
    id: DataCenterId,
    home_hash: u64,
    routability: Routability,
    seen: Seen,
    weight: u64,
    record: Arc<DataCenterRecord>,
    intent: Option<(Arc<Intent>, Version)>,
    lease: Lease,
}

impl Entry {
    /// Puts together what is known of one datacenter. `intent`: the operator's word, and which write of the store it is.
    pub fn new(
        record: Arc<DataCenterRecord>,
        intent: Option<(Arc<Intent>, Version)>,
        lease: Lease,
        seen: Seen,
    ) -> Self {
        let want = intent.as_ref().map_or(IntentKind::Serve, |(intent, _)| intent.want);
        let by_word = routability(record.state, want);
        let routability = match seen {
            Seen::Live => by_word,
            Seen::Grace => by_word.min(Routability::Traffic),
            Seen::Expired => Routability::Nothing,
        };
        Self {
            id: record.id().clone(),
            home_hash: hash::data_center(record.id().as_str()),
            routability,
            seen,
            weight: record.endpoints.iter().map(|node| u64::from(node.weight)).sum(),
            record,
            intent,
            lease,
        }
    }

    /// The datacenter's identity.
    pub fn id(&self) -> &DataCenterId {
        &self.id
    }

    /// Name, region, zone, labels.
    pub fn data_center(&self) -> &DataCenter {
        &self.record.data_center
    }

    /// The record, as last seen.
    pub fn record(&self) -> &Arc<DataCenterRecord> {
        &self.record
    }

    /// The datacenter's nodes that take links; at least one.
    pub fn endpoints(&self) -> &[NodeEndpoint] {
        &self.record.endpoints
    }

    /// The sum of the endpoints' weights.
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// The operator's word, where one was given (P8).
    pub fn intent(&self) -> Option<&Arc<Intent>> {
        self.intent.as_ref().map(|(intent, _)| intent)
    }

    /// Which write of the store the operator's word is.
    pub fn intent_version(&self) -> Option<Version> {
        self.intent.as_ref().map(|(_, version)| *version)
    }

    /// What the operator wants; [`IntentKind::Serve`] where nobody said anything.
    pub fn wanted(&self) -> IntentKind {
        self.intent().map_or(IntentKind::Serve, |intent| intent.want)
    }

    /// The lease, as timed by this reader from the last proof of life. Its end alone
    /// stops nothing: see [`Seen`].
    pub fn lease(&self) -> Lease {
        self.lease
    }

    /// What this reader holds of the record's life.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// What may be sent there: state, intent and life taken together (C2, C5, C6).
    pub fn routability(&self) -> Routability {
        self.routability
    }

    /// Whether new actors may be placed there.
    pub fn takes_placements(&self) -> bool {
        self.routability >= Routability::Placements
    }

    /// Whether lookups and messages may be sent there; also whether it may be a home.
    pub fn takes_traffic(&self) -> bool {
        self.routability >= Routability::Traffic
    }

    /// The hash of the id for rendezvous hashing, see [`hash`].
    pub fn home_hash(&self) -> u64 {
        self.home_hash
    }

    /// The same datacenter, seen alive: its lease starts anew with `lease`.
    #[must_use]
    pub fn renewed(&self, lease: Lease) -> Self {
        if self.seen != Seen::Live {
            return Self::new(Arc::clone(&self.record), self.intent.clone(), lease, Seen::Live);
        }
        Self { lease, ..self.clone() }
    }

    /// Whether `other` differs in nothing but its lease.
    pub fn same_but_lease(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.record, &other.record)
            && self.seen == other.seen
            && match (&self.intent, &other.intent) {
                (Some((one, at)), Some((other, then))) => Arc::ptr_eq(one, other) && at == then,
                (None, None) => true,
                _ => false,
            }
    }

    /// The same datacenter under another standing.
    #[must_use]
    pub fn as_seen(&self, seen: Seen) -> Self {
        Self::new(Arc::clone(&self.record), self.intent.clone(), self.lease, seen)
    }

    /// The same datacenter under another word of the operator.
    #[must_use]
    pub fn with_intent(&self, intent: Option<(Arc<Intent>, Version)>) -> Self {
        Self::new(Arc::clone(&self.record), intent, self.lease, self.seen)
    }
}
