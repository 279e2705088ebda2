//! P13: capabilities are what the plane does.

use std::time::Duration;

use super::{Harness, ground::*};
use crate::{ControlPlane, Expected};

/// P13: the capabilities name the backend, and what they say of the watch and of time is usable.
pub async fn p13_capabilities_are_kept(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    plane.store().await.expect("store");
    let capabilities = plane.capabilities();
    assert!(!capabilities.backend.is_empty(), "P13: the backend has a name");
    assert!(!capabilities.expiry_events || capabilities.watch, "P13: expiry events without a watch reach nobody");
    let granularity = capabilities.expiry_granularity;
    assert!(granularity <= Duration::from_secs(30), "P13: a granularity of {granularity:?} is of no use");
    assert!(capabilities.replicas != Some(0), "P13: no copy is no store");
    for finding in &capabilities.findings {
        assert!(!finding.trim().is_empty(), "P13: each finding is a sentence");
    }
    assert_eq!(ground.watch(&plane).await.is_some(), capabilities.watch);
    assert!(format!("{plane:?}").len() < 10_000, "Debug is for logs");
}

/// P13: where reads are said to be linearizable, every read of every client shows the last write at once.
pub async fn p13_linearizable_reads_show_the_last_write(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    plane.store().await.expect("store");
    let linearizable = plane.capabilities().linearizable_reads;
    let mut record = create(&plane, &sample("dc-1")).await;
    for n in 0..20 {
        if linearizable {
            let read = reader.get(record.id()).await.expect("get").expect("P13: a stale get");
            assert_same("P13: a stale get", &read, &record);
            let listing = reader.list_all().await.expect("list");
            assert_eq!(listing.records, [record.clone()], "P13: a stale list");
            assert!(listing.as_of >= record.version, "P13: as of {}, not of {}", listing.as_of, record.version);
        } else {
            // Not promised: the write is to be seen at last.
            assert_same("P13", &ground.read(&reader, record.id(), record.version).await, &record);
        }
        record = write(&plane, &taken_over(&record, n), Expected::Version(record.version)).await;
    }
}
