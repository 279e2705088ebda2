//! Leases: one for each accepted write of a record, and none left behind.
//!
//! Lease and version belong to each other: whoever names an old version can at
//! most renew a lease that no record has any more. The client chooses a lease's
//! id at random, so that a grant can be repeated, and a stored record shows
//! whether a lost write was ours.

use std::{collections::HashMap, sync::Weak, time::Duration};

use dc_controlplane::Error;
use dc_core::{DataCenterId, StoreId};
use etcd_client::LeaseGrantOptions;
use parking_lot::Mutex;
use tracing::debug;

use crate::{
    connect::{Call, Repeat},
    error,
    plane::Shared,
};

/// How many leases of lost writes are remembered for each record; older ones have long expired or soon will.
const DOUBTFUL: usize = 8;

/// Which leases we know of.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<HashMap<DataCenterId, Known>>);

#[derive(Debug, Default)]
struct Known {
    /// The record's lease, as last written or read by us.
    held: Option<Held>,
    /// Leases of writes whose answer was lost: a record may hang on them.
    doubtful: Vec<i64>,
}

/// A lease and the record that has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Held {
    pub(crate) store: StoreId,
    /// The record's `mod_revision`.
    pub(crate) revision: i64,
    /// 0 for none.
    pub(crate) lease: i64,
}

impl Leases {
    /// The lease of the record of `id` at `revision`, where it is known.
    pub(crate) fn of(&self, id: &DataCenterId, store: StoreId, revision: i64) -> Option<i64> {
        let known = self.0.lock();
        let held = known.get(id)?.held?;
        (held.store == store && held.revision == revision).then_some(held.lease)
    }

    /// The record of `id` was seen to stand as `now` says. Tells which leases of ours no record has any more.
    pub(crate) fn settle(&self, id: &DataCenterId, now: Held) -> Vec<i64> {
        let mut known = self.0.lock();
        let known = known.entry(id.clone()).or_default();
        let mut orphans = std::mem::take(&mut known.doubtful);
        match known.held.filter(|held| held.store == now.store) {
            // Seen by a call that was overtaken: the record has moved on since.
            Some(held) if held.revision > now.revision => {
                orphans.push(now.lease);
                orphans.retain(|orphan| *orphan != held.lease);
            }
            held => {
                orphans.extend(held.map(|held| held.lease));
                orphans.retain(|orphan| *orphan != now.lease);
                known.held = Some(now);
            }
        }
        orphans.retain(|orphan| *orphan != 0);
        orphans
    }

    /// No record of `id` stood at revision `as_of`. Tells which leases of ours are to be revoked.
    pub(crate) fn forget(&self, id: &DataCenterId, store: StoreId, as_of: i64) -> Vec<i64> {
        let mut all = self.0.lock();
        let newer = |held: Held| held.store == store && held.revision > as_of;
        if all.get(id).and_then(|known| known.held).is_some_and(newer) {
            return Vec::new();
        }
        let Some(known) = all.remove(id) else { return Vec::new() };
        let mut orphans = known.doubtful;
        orphans.extend(known.held.map(|held| held.lease).filter(|lease| *lease != 0));
        orphans
    }

    fn doubt(&self, id: &DataCenterId, lease: i64) {
        let mut known = self.0.lock();
        let doubtful = &mut known.entry(id.clone()).or_default().doubtful;
        if doubtful.len() == DOUBTFUL {
            doubtful.remove(0);
        }
        doubtful.push(lease);
    }
}

/// A lease that was or is being granted for one write. Dropped, also by a call that was given up, it is
/// revoked, unless the write may have landed.
pub(crate) struct Granted {
    shared: Weak<Shared>,
    id: DataCenterId,
    lease: i64,
    stage: Stage,
}

#[derive(PartialEq)]
enum Stage {
    /// No write has named it.
    Unused,
    /// A write that names it is on its way.
    Writing,
    /// A record has it, or it is known that none ever will and it is being revoked.
    Settled,
}

impl Granted {
    pub(crate) fn lease(&self) -> i64 {
        self.lease
    }

    /// From now on the record may hang on it.
    pub(crate) fn write_begins(&mut self) {
        self.stage = Stage::Writing;
    }

    /// The write was answered, and has not landed.
    pub(crate) fn write_refused(&mut self) {
        self.stage = Stage::Unused;
    }

    /// The record has it.
    pub(crate) fn settled(mut self) {
        self.stage = Stage::Settled;
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        match self.stage {
            Stage::Settled => {}
            Stage::Unused => revoke(&shared, vec![self.lease]),
            Stage::Writing => shared.leases.doubt(&self.id, self.lease),
        }
    }
}

/// Grants a lease for a write of the record of `id`. etcd counts whole seconds: `ttl` is rounded up.
pub(crate) async fn grant(
    shared: &std::sync::Arc<Shared>,
    call: &Call,
    id: &DataCenterId,
    ttl: Duration,
) -> Result<Granted, Error> {
    // Positive and not 0, which means none.
    let lease = rand::random_range(1..i64::MAX);
    let granted = Granted { shared: std::sync::Arc::downgrade(shared), id: id.clone(), lease, stage: Stage::Unused };
    let seconds = i64::try_from(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).unwrap_or(i64::MAX);
    let answer = shared
        .servers
        .send_raw(call, Repeat::Harmless, |client| async move {
            client.lease_client().grant(seconds, Some(LeaseGrantOptions::new().with_id(lease))).await
        })
        .await?;
    match answer {
        Ok(grant) => {
            let time = Duration::from_secs(u64::try_from(grant.ttl()).unwrap_or(0));
            shared.granted(Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX)), time);
            Ok(granted)
        }
        // An earlier attempt of ours has landed: the id is random.
        Err(err) if error::lease_exists(&err) => Ok(granted),
        Err(err) => Err(error::translate(call.operation, err, call.outcome())),
    }
}

/// Revokes leases in the background, as well as it can be done: what is missed expires by itself.
pub(crate) fn revoke(shared: &std::sync::Arc<Shared>, leases: Vec<i64>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    for lease in leases {
        let shared = std::sync::Arc::clone(shared);
        runtime.spawn(async move {
            let call = Call::new("revoke");
            let request = shared
                .servers
                .send_raw(&call, Repeat::Harmless, |client| async move { client.lease_client().revoke(lease).await });
            match shared.servers.bounded(&call, request).await {
                Ok(Ok(_)) => {}
                Ok(Err(err)) if error::no_such_lease(&err) => {}
                Ok(Err(err)) => debug!(lease, %err, "a lease was left to expire"),
                Err(err) => debug!(lease, %err, "a lease was left to expire"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use dc_core::DataCenter;

    use super::*;

    #[test]
    fn a_settled_record_orphans_all_other_leases_of_ours() {
        let id = DataCenter::new("dc").build().unwrap().id().clone();
        let store = StoreId(1);
        let held = |revision, lease| Held { store, revision, lease };
        let leases = Leases::default();
        assert_eq!(leases.settle(&id, held(5, 50)), [0_i64; 0]);
        leases.doubt(&id, 60);
        leases.doubt(&id, 70);
        assert_eq!(leases.of(&id, store, 5), Some(50));
        assert_eq!(leases.of(&id, store, 6), None);
        assert_eq!(leases.of(&id, StoreId(2), 5), None);
        // The record turns out to hang on 60, whose answer was lost.
        assert_eq!(leases.settle(&id, held(6, 60)), [70, 50]);
        assert_eq!(leases.forget(&id, store, 7), [60]);
        assert_eq!(leases.forget(&id, store, 7), [0_i64; 0]);
    }

    #[test]
    fn what_an_overtaken_call_saw_endangers_no_living_lease() {
        let id = DataCenter::new("dc").build().unwrap().id().clone();
        let store = StoreId(1);
        let leases = Leases::default();
        assert_eq!(leases.settle(&id, Held { store, revision: 9, lease: 90 }), [0_i64; 0]);
        assert_eq!(leases.settle(&id, Held { store, revision: 8, lease: 80 }), [80]);
        assert_eq!(leases.forget(&id, store, 8), [0_i64; 0]);
        assert_eq!(leases.of(&id, store, 9), Some(90));
        // Leases of another store are none of this one's business.
        assert_eq!(leases.settle(&id, Held { store: StoreId(2), revision: 1, lease: 10 }), [0_i64; 0]);
        assert_eq!(leases.of(&id, StoreId(2), 1), Some(10));
    }

    #[test]
    fn leases_in_doubt_are_bounded() {
        let id = DataCenter::new("dc").build().unwrap().id().clone();
        let leases = Leases::default();
        for lease in 1..100 {
            leases.doubt(&id, lease);
        }
        assert_eq!(leases.forget(&id, StoreId(1), 0).len(), DOUBTFUL);
    }
}
