//! The format of what is stored: JSON documents, the same on every backend.
//!
//! Tolerant on reading (unknown fields are kept and written back, an unknown
//! state reads as [`DataCenterState::Unknown`]), strict on what matters: the
//! document must be of the datacenter that its key names, and every name, label
//! and endpoint must be valid.

use std::time::Duration;

use dc_core::{
    DataCenter, DataCenterId, DataCenterRecord, DataCenterState, Epoch, Intent, NodeEndpoint, Owner, Version,
};
use serde::{Deserialize, Serialize};

use crate::Corrupt;

/// Prefix of the keys that hold records: `records/<id>`.
pub const RECORDS: &str = "records/";
/// Prefix of the keys that hold intents: `intents/<id>`.
pub const INTENTS: &str = "intents/";
/// Prefix of the keys that hold the documents of [`ownership`](crate::ownership): `own/<key>`.
pub const DOCUMENTS: &str = "own/";
/// The key that holds the store's id: 32 hexadecimal digits.
pub const STORE_ID: &str = "meta/store";

#[derive(Serialize, Deserialize)]
struct RecordDoc {
    data_center: DataCenter,
    endpoints: Vec<NodeEndpoint>,
    state: DataCenterState,
    ttl_ms: u64,
    owner: Owner,
    epoch: Epoch,
    #[serde(default)]
    handed_over: bool,
    #[serde(default)]
    written_at_ms: u64,
    #[serde(flatten)]
    unknown: serde_json::Map<String, serde_json::Value>,
}

/// A record as its JSON document. The version is not part of it.
pub fn encode_record(record: &DataCenterRecord) -> Vec<u8> {
    let doc = RecordDoc {
        data_center: record.data_center.clone(),
        endpoints: record.endpoints.clone(),
        state: record.state,
        ttl_ms: u64::try_from(record.ttl.as_millis()).unwrap_or(u64::MAX),
        owner: record.owner.clone(),
        epoch: record.epoch,
        handed_over: record.handed_over,
        written_at_ms: record.written_at_ms,
        unknown: record.unknown.clone(),
    };
    // Every field serializes to JSON: strings, numbers, and maps with string keys.
    serde_json::to_vec(&doc).unwrap_or_default()
}

/// Reads the document of `id`, stored under `key` at `version`.
///
/// # Errors
///
/// [`Corrupt`], where it is no valid record of that datacenter.
pub fn decode_record(
    key: &str,
    id: &DataCenterId,
    document: &[u8],
    version: Version,
) -> Result<DataCenterRecord, Corrupt> {
    let corrupt = |why: String| Corrupt { key: key.to_owned(), why };
    let doc: RecordDoc = serde_json::from_slice(document).map_err(|err| corrupt(err.to_string()))?;
    let record = DataCenterRecord {
        data_center: doc.data_center,
        endpoints: doc.endpoints,
        state: doc.state,
        ttl: Duration::from_millis(doc.ttl_ms),
        owner: doc.owner,
        epoch: doc.epoch,
        handed_over: doc.handed_over,
        written_at_ms: doc.written_at_ms,
        version,
        unknown: doc.unknown,
    };
    if record.id() != id {
        return Err(corrupt(format!("holds the record of {}", record.id())));
    }
    record.check().map_err(|err| corrupt(err.to_string()))?;
    Ok(record)
}

/// An intent as its JSON document.
pub fn encode_intent(intent: &Intent) -> Vec<u8> {
    // Strings and numbers only.
    serde_json::to_vec(intent).unwrap_or_default()
}

/// Reads the intent stored under `key`.
///
/// # Errors
///
/// [`Corrupt`], where it is no intent.
pub fn decode_intent(key: &str, document: &[u8]) -> Result<Intent, Corrupt> {
    serde_json::from_slice(document).map_err(|err| Corrupt { key: key.to_owned(), why: err.to_string() })
}

/// The datacenter that a key names, below `prefix`.
///
/// # Errors
///
/// [`Corrupt`] where the rest of the key is no id: written by a stranger.
pub fn id_of_key(prefix: &str, key: &str) -> Result<DataCenterId, Corrupt> {
    let corrupt = |why: String| Corrupt { key: key.to_owned(), why };
    let id = key.strip_prefix(prefix).ok_or_else(|| corrupt(format!("not below {prefix}")))?;
    id.parse().map_err(|err: dc_core::Invalid| corrupt(err.to_string()))
}

#[cfg(test)]
mod tests {
    use dc_core::{NodeId, StoreId};
    use proptest::prelude::*;

    use super::*;

    fn sample() -> DataCenterRecord {
        let node = NodeId(7);
        let endpoint: dc_core::Endpoint = "n1.example:7946".parse().unwrap();
        DataCenterRecord {
            data_center: DataCenter::new("dc-1").region("eu").label("tier", "edge").build().unwrap(),
            endpoints: vec![NodeEndpoint::new(node, endpoint.clone())],
            state: DataCenterState::Active,
            ttl: Duration::from_secs(30),
            owner: Owner { node, endpoint },
            epoch: Epoch(3),
            handed_over: false,
            written_at_ms: 5,
            version: Version::new(StoreId(1), 9),
            unknown: serde_json::Map::new(),
        }
    }

    #[test]
    fn a_record_reads_back_as_written() {
        let record = sample();
        let read = decode_record("k", record.id(), &encode_record(&record), record.version);
        assert_eq!(read, Ok(record));
    }

    #[test]
    fn unknown_fields_are_kept_and_unknown_states_read() {
        let mut doc: serde_json::Value = serde_json::from_slice(&encode_record(&sample())).unwrap();
        doc["future"] = serde_json::json!({"a": [1]});
        doc["state"] = "QUARANTINED".into();
        let record = decode_record("k", sample().id(), doc.to_string().as_bytes(), sample().version).unwrap();
        assert_eq!(record.state, DataCenterState::Unknown);
        let again: serde_json::Value = serde_json::from_slice(&encode_record(&record)).unwrap();
        assert_eq!(again["future"], doc["future"]);
    }

    #[test]
    fn a_record_under_anothers_key_is_corrupt() {
        let other = DataCenter::new("dc-2").build().unwrap();
        let err = decode_record("records/dc-2", other.id(), &encode_record(&sample()), sample().version).unwrap_err();
        assert!(err.why.contains("eu/dc-1"), "{err}");
    }

    #[test]
    fn a_malformed_endpoint_or_label_is_corrupt() {
        for (at, bad) in [
            ("endpoints", serde_json::json!([])),
            ("ttl_ms", 0.into()),
            ("data_center", serde_json::json!({"name": ""})),
        ] {
            let mut doc: serde_json::Value = serde_json::from_slice(&encode_record(&sample())).unwrap();
            doc[at] = bad;
            assert!(decode_record("k", sample().id(), doc.to_string().as_bytes(), sample().version).is_err(), "{at}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_record("k", sample().id(), &bytes, sample().version);
            let _ = decode_intent("k", &bytes);
        }
    }
}
