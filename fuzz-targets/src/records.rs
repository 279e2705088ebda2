//! Records and intents as others stored them: strangers, later versions, whoever has the store's password.

use std::time::Duration;

use dc_controlplane::codec::{RECORDS, decode_intent, decode_record, encode_intent, encode_record, id_of_key};
use dc_core::{
    DataCenter, DataCenterId, DataCenterRecord, DataCenterState, Epoch, Intent, IntentKind, NodeEndpoint, NodeId,
    Owner, StoreId, Version,
};

/// The record that the samples are made of.
pub fn sample(state: DataCenterState) -> DataCenterRecord {
    // All of it is legal.
    let endpoint: dc_core::Endpoint = "node-1.dc-1.example:7946".parse().expect("legal");
    let data_center = DataCenter::new("dc-1").region("eu-west-1").zone("az-a").label("tier", "edge");
    DataCenterRecord {
        data_center: data_center.build().expect("legal"),
        endpoints: vec![
            NodeEndpoint::new(NodeId(7), endpoint.clone()),
            NodeEndpoint::new(NodeId(8), "10.0.0.2:7946".parse().expect("legal")),
        ],
        state,
        ttl: Duration::from_secs(30),
        owner: Owner { node: NodeId(7), endpoint },
        epoch: Epoch(3),
        handed_over: state == DataCenterState::Draining,
        written_at_ms: 1_700_000_000_000,
        version: Version::new(StoreId(1), 9),
        unknown: serde_json::Map::new(),
    }
}

/// The intent that the samples are made of.
pub fn sample_intent(want: IntentKind) -> Intent {
    Intent { at_ms: 1_700_000_000_000, ..Intent::new(want, "operator", "maintenance of the rack") }
}

/// A document of every kind, as this build writes it: a name for each.
pub fn samples() -> Vec<(&'static str, Vec<u8>)> {
    use DataCenterState::{Active, Draining, Inactive, Registered};
    let mut samples: Vec<_> =
        [("record-registered", Registered), ("record-active", Active), ("record-draining", Draining)]
            .into_iter()
            .chain([("record-inactive", Inactive)])
            .map(|(name, state)| (name, encode_record(&sample(state))))
            .collect();
    for (name, want) in
        [("intent-serve", IntentKind::Serve), ("intent-drain", IntentKind::Drain), ("intent-out", IntentKind::Out)]
    {
        samples.push((name, encode_intent(&sample_intent(want))));
    }
    samples
}

/// Documents of versions that are not there yet: more fields, another state, another wish.
pub fn of_later_versions() -> Vec<(&'static str, Vec<u8>)> {
    let record = encode_record(&sample(DataCenterState::Active));
    let mut document: serde_json::Value = serde_json::from_slice(&record).expect("ours");
    document["state"] = "QUARANTINED".into();
    document["quota"] = serde_json::json!({"spawns": 7, "kinds": ["a", {"b": null}]});
    let intent = encode_intent(&sample_intent(IntentKind::Serve));
    let mut wish: serde_json::Value = serde_json::from_slice(&intent).expect("ours");
    wish["want"] = "evacuate".into();
    wish["ticket"] = "OPS-1".into();
    vec![("later-record", document.to_string().into_bytes()), ("later-intent", wish.to_string().into_bytes())]
}

/// The id that a document itself names, so that more of it is looked at.
fn own_id(document: &[u8]) -> Option<DataCenterId> {
    let value: serde_json::Value = serde_json::from_slice(document).ok()?;
    let dc: DataCenter = serde_json::from_value(value.get("data_center")?.clone()).ok()?;
    Some(dc.id().clone())
}

/// Any bytes as a stored document, and as a key: corrupt, or valid, and written back with all it holds.
///
/// # Panics
///
/// Where it is not.
pub fn records(bytes: &[u8]) {
    let version = Version::new(StoreId(1), 9);
    let id = own_id(bytes).unwrap_or_else(|| sample(DataCenterState::Active).id().clone());
    match decode_record("records/x", &id, bytes, version) {
        Ok(record) => {
            assert_eq!(record.id(), &id);
            assert!(record.check().is_ok() && !record.endpoints.is_empty());
            let again = decode_record("records/x", &id, &encode_record(&record), version);
            assert_eq!(again.as_ref(), Ok(&record), "a record is written back with all it holds");
        }
        Err(corrupt) => assert!(!corrupt.why.is_empty()),
    }
    if let Ok(intent) = decode_intent("intents/x", bytes) {
        assert_eq!(decode_intent("intents/x", &encode_intent(&intent)), Ok(intent), "an intent reads back");
    }
    let key = format!("{RECORDS}{}", String::from_utf8_lossy(bytes));
    if let Ok(id) = id_of_key(RECORDS, &key) {
        assert_eq!(format!("{RECORDS}{id}"), key, "one key for one datacenter");
    }
}
