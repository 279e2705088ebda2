//! Where things stand in etcd: `<namespace>/records/<id>` and the like, as [`codec`] names them.

use dc_controlplane::{
    Corrupt, HeldIntent, codec,
    ownership::{Document, DocumentKey},
};
use dc_core::{DataCenterId, DataCenterRecord, StoreId, Version};
use etcd_client::KeyValue;

/// Prefix of goodbyes: `gone/<id>`, written in the revision that deregisters and deleted with its lease.
const GONE: &str = "gone/";

/// Prefix of ownership documents: `~own/<key>`. It sorts behind everything else, so that what is not theirs is one range.
const DOCUMENTS: &str = "~own/";

/// The keys of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
}

/// What a key stands for.
#[derive(Debug, PartialEq)]
pub(crate) enum Place {
    Record(DataCenterId),
    Intent(DataCenterId),
    Gone(DataCenterId),
    Store,
    /// Written by a stranger.
    Foreign(Corrupt),
}

impl Keys {
    pub(crate) fn new(namespace: &str) -> Self {
        Self { prefix: format!("{namespace}/") }
    }

    pub(crate) fn record(&self, id: &DataCenterId) -> String {
        format!("{}{}{id}", self.prefix, codec::RECORDS)
    }

    pub(crate) fn intent(&self, id: &DataCenterId) -> String {
        format!("{}{}{id}", self.prefix, codec::INTENTS)
    }

    pub(crate) fn gone(&self, id: &DataCenterId) -> String {
        format!("{}{GONE}{id}", self.prefix)
    }

    pub(crate) fn store(&self) -> String {
        format!("{}{}", self.prefix, codec::STORE_ID)
    }

    /// The whole namespace but the documents: first key, and the first key beyond.
    pub(crate) fn range(&self) -> (Vec<u8>, Vec<u8>) {
        (self.prefix.clone().into_bytes(), format!("{}~", self.prefix).into_bytes())
    }

    pub(crate) fn document(&self, key: &DocumentKey) -> String {
        format!("{}{DOCUMENTS}{key}", self.prefix)
    }

    /// The documents under `prefix`: first key, and the first key beyond.
    pub(crate) fn documents(&self, prefix: &str) -> (Vec<u8>, Vec<u8>) {
        let start = format!("{}{DOCUMENTS}{prefix}", self.prefix).into_bytes();
        let mut end = start.clone();
        // A prefix is ASCII, and never empty here: what follows its last byte begins what lies beyond.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        (start, end)
    }

    /// The document key that `key` stands for, and what stands there.
    pub(crate) fn read_document(&self, store: StoreId, kv: &KeyValue) -> Result<Document, Corrupt> {
        let key = self.document_key(kv.key())?;
        let body = bytes::Bytes::copy_from_slice(kv.value());
        Ok(Document { key, version: version(store, kv), body })
    }

    pub(crate) fn document_key(&self, key: &[u8]) -> Result<DocumentKey, Corrupt> {
        let corrupt = |why: String| Corrupt { key: String::from_utf8_lossy(key).into_owned(), why };
        let text = std::str::from_utf8(key).map_err(|err| corrupt(err.to_string()))?;
        let rest = text.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix(DOCUMENTS));
        let rest = rest.ok_or_else(|| corrupt("is no document of this namespace".to_owned()))?;
        rest.parse().map_err(|err: dc_core::Invalid| corrupt(err.to_string()))
    }

    pub(crate) fn place(&self, key: &[u8]) -> Place {
        let shown = String::from_utf8_lossy(key).into_owned();
        let foreign = |why: &str| Place::Foreign(Corrupt { key: shown.clone(), why: why.to_owned() });
        let Some(rest) = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(&self.prefix)) else {
            return foreign("is not text of this namespace");
        };
        let id = |prefix: &str| codec::id_of_key(prefix, rest);
        let placed = match rest.split_once('/').map(|(first, _)| first) {
            Some("records") => id(codec::RECORDS).map(Place::Record),
            Some("intents") => id(codec::INTENTS).map(Place::Intent),
            Some("gone") => id(GONE).map(Place::Gone),
            _ if rest == codec::STORE_ID => Ok(Place::Store),
            _ => return foreign("is none of our keys"),
        };
        placed.unwrap_or_else(|err| foreign(&err.why))
    }
}

/// The version of what stands in `kv`.
pub(crate) fn version(store: StoreId, kv: &KeyValue) -> Version {
    Version::new(store, unsigned(kv.mod_revision()))
}

/// etcd's revisions are never negative.
pub(crate) fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

/// A revision to compare with; one that etcd cannot have given matches nothing.
pub(crate) fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

pub(crate) fn record(store: StoreId, id: &DataCenterId, kv: &KeyValue) -> Result<DataCenterRecord, Corrupt> {
    codec::decode_record(&String::from_utf8_lossy(kv.key()), id, kv.value(), version(store, kv))
}

pub(crate) fn intent(store: StoreId, id: DataCenterId, kv: &KeyValue) -> Result<HeldIntent, Corrupt> {
    let intent = codec::decode_intent(&String::from_utf8_lossy(kv.key()), kv.value())?;
    Ok(HeldIntent { id, intent, version: version(store, kv) })
}

pub(crate) fn store_id(kv: &KeyValue) -> Result<StoreId, Corrupt> {
    let corrupt = |why: String| Corrupt { key: String::from_utf8_lossy(kv.key()).into_owned(), why };
    let text = std::str::from_utf8(kv.value()).map_err(|err| corrupt(err.to_string()))?;
    text.parse().map_err(|err: dc_core::Invalid| corrupt(err.to_string()))
}

#[cfg(test)]
mod tests {
    use dc_core::DataCenter;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_key_reads_back_as_its_place() {
        let keys = Keys::new("ns");
        let id = DataCenter::new("dc 1").region("eu").build().unwrap().id().clone();
        assert_eq!(keys.place(keys.record(&id).as_bytes()), Place::Record(id.clone()));
        assert_eq!(keys.place(keys.intent(&id).as_bytes()), Place::Intent(id.clone()));
        assert_eq!(keys.place(keys.gone(&id).as_bytes()), Place::Gone(id));
        assert_eq!(keys.place(keys.store().as_bytes()), Place::Store);
    }

    #[test]
    fn strangers_keys_are_told_apart() {
        let keys = Keys::new("ns");
        for key in ["ns/other", "ns/records/", "ns/records/a b", "ns/meta/else", "ns2/records/dc", "ns/records"] {
            assert!(matches!(keys.place(key.as_bytes()), Place::Foreign(_)), "{key}");
        }
        assert!(matches!(keys.place(b"ns/records/\xff"), Place::Foreign(_)));
    }

    #[test]
    fn the_range_holds_the_namespace_and_no_other() {
        let (start, end) = Keys::new("ns").range();
        assert!(start.as_slice() <= &b"ns/meta/store"[..] && &b"ns/records/\xff"[..] < end.as_slice());
        for other in [&b"ns"[..], b"ns-2/records/a", b"ns2/records/a", b"nt/"] {
            assert!(other < start.as_slice() || other >= end.as_slice());
        }
    }

    proptest! {
        #[test]
        fn any_key_has_a_place(key in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Keys::new("ns").place(&key);
        }
    }
}
