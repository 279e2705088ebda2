//! Which incarnation of the store we speak to, and whether it is still the same.
//!
//! The id stands under `meta/store`, written once by a transaction. Another id,
//! none, or a revision below one that was seen before the question was asked,
//! means another store: wiped, rolled back, or another one behind the same
//! address. A store that was rolled back holds the id of before; whoever notices
//! gives it a new one by compare-and-set.

use std::sync::atomic::{AtomicI64, Ordering};

use dc_controlplane::Error;
use dc_core::StoreId;
use etcd_client::{Compare, CompareOp, KeyValue, Txn, TxnOp, TxnOpResponse};
use parking_lot::RwLock;
use tracing::{info, warn};

use crate::{
    connect::{Call, Repeat, Servers},
    error,
    keys::{self, Keys},
};

/// What is known of the store.
#[derive(Debug, Default)]
pub(crate) struct Incarnation {
    state: RwLock<State>,
    /// The highest revision that was seen of the current incarnation.
    seen: AtomicI64,
}

#[derive(Debug, Default)]
struct State {
    current: Option<StoreId>,
    /// The last one, for the log.
    last: Option<StoreId>,
    /// Found rolled back under this id: it needs a new one.
    condemned: Option<StoreId>,
}

/// What was known when a question was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) store: StoreId,
    floor: i64,
}

impl Mark {
    /// The same, knowing that `revision` has been seen.
    pub(crate) fn having_seen(self, revision: i64) -> Self {
        Self { floor: self.floor.max(revision), ..self }
    }
}

impl Incarnation {
    pub(crate) fn current(&self) -> Option<StoreId> {
        self.state.read().current
    }

    /// To be taken before a question is sent, and given to [`saw`](Self::saw) with the answer.
    pub(crate) fn mark(&self) -> Option<Mark> {
        let store = self.current()?;
        Some(Mark { store, floor: self.seen.load(Ordering::SeqCst) })
    }

    /// Takes note of the revision that a linearizable answer shows. False: the store was rolled back.
    pub(crate) fn saw(&self, mark: Mark, revision: i64) -> bool {
        if revision >= mark.floor {
            self.seen.fetch_max(revision, Ordering::SeqCst);
            return true;
        }
        let mut state = self.state.write();
        if state.current == Some(mark.store) {
            warn!(store = %mark.store, revision, seen = mark.floor, "the store has lost revisions: it was rolled back");
            state.condemned = state.current.take();
        }
        false
    }

    /// The store was seen to hold another id than `mark`'s, or none.
    pub(crate) fn is_another(&self, mark: Mark) {
        let mut state = self.state.write();
        if state.current == Some(mark.store) {
            state.current = None;
        }
    }

    fn adopt(&self, store: StoreId, revision: i64) {
        let mut state = self.state.write();
        match state.last {
            Some(last) if last != store => warn!(%last, %store, "the store is another one than before"),
            Some(_) => {}
            None => info!(%store, "the store is known"),
        }
        self.seen.store(revision, Ordering::SeqCst);
        *state = State { current: Some(store), last: Some(store), condemned: None };
    }

    /// Reads the id; writes one where there is none, or where the store was rolled back. One request as a rule.
    pub(crate) async fn ensure(&self, servers: &Servers, keys: &Keys, call: &Call) -> Result<StoreId, Error> {
        let key = keys.store();
        let read = servers
            .send(call, Repeat::Harmless, |client| {
                let key = key.clone();
                async move { client.kv_client().get(key, None).await }
            })
            .await?;
        let revision = read.header().map_or(0, |header| header.revision());
        let condemned = self.state.read().condemned;
        let stored = match read.kvs().first() {
            Some(kv) => Some((keys::store_id(kv)?, kv)),
            None => None,
        };
        match stored {
            Some((store, _)) if Some(store) != condemned => {
                self.adopt(store, revision);
                Ok(store)
            }
            Some((store, kv)) => match replace(servers, call, &key, kv.mod_revision()).await {
                // Who may only read cannot do better.
                Err(Error::Denied { .. }) => {
                    self.adopt(store, revision);
                    Ok(store)
                }
                other => self.take(other?),
            },
            None => self.take(replace(servers, call, &key, 0).await?),
        }
    }

    fn take(&self, (store, revision): (StoreId, i64)) -> Result<StoreId, Error> {
        self.adopt(store, revision);
        Ok(store)
    }
}

/// Writes a new id if the key is still at `mod_revision` (0: absent); tells what stands there then.
async fn replace(servers: &Servers, call: &Call, key: &str, mod_revision: i64) -> Result<(StoreId, i64), Error> {
    let fresh = StoreId(rand::random());
    let txn = Txn::new()
        .when([Compare::mod_revision(key, CompareOp::Equal, mod_revision)])
        .and_then([TxnOp::put(key, fresh.to_string(), None)])
        .or_else([TxnOp::get(key, None)]);
    let answer = servers
        .send(call, Repeat::Harmless, |client| {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }
        })
        .await?;
    let revision = answer.header().map_or(0, |header| header.revision());
    if answer.succeeded() {
        return Ok((fresh, revision));
    }
    match first_got(&answer.op_responses(), 0) {
        Some(kv) => Ok((keys::store_id(kv)?, revision)),
        None => Err(error::malformed(call.operation, "the store's id vanished while it was written")),
    }
}

/// What the `index`th operation of a transaction read, where it was a read and found something.
pub(crate) fn first_got(responses: &[TxnOpResponse], index: usize) -> Option<&KeyValue> {
    match responses.get(index) {
        Some(TxnOpResponse::Get(got)) => got.kvs().first(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_below_one_seen_before_the_question_condemns_the_store() {
        let store = Incarnation::default();
        store.adopt(StoreId(1), 10);
        let early = store.mark().unwrap();
        assert!(store.saw(early, 20));
        // Asked before 20 was seen: an older answer proves nothing.
        assert!(store.saw(early, 15));
        let late = store.mark().unwrap();
        assert!(!store.saw(late, 19));
        assert_eq!(store.current(), None);
        store.adopt(StoreId(2), 19);
        // An answer to a question of before does not condemn the new one.
        assert!(!store.saw(late, 18));
        assert_eq!(store.current(), Some(StoreId(2)));
    }
}
