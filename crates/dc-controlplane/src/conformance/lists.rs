//! P6: one question, and what the answer holds.

use std::collections::HashSet;

use dc_core::{DataCenterId, DataCenterRecord, DataCenterState, Intent, IntentKind};
use futures::{StreamExt, stream};

use super::{Harness, ground::*};
use crate::{ControlPlane, ControlPlaneExt, Expected, Listing, codec};

const STATES: [DataCenterState; 4] =
    [DataCenterState::Registered, DataCenterState::Active, DataCenterState::Draining, DataCenterState::Inactive];

/// Registers this many records, several at a time; returns the ids and the newest version.
async fn fill<P: ControlPlane>(plane: &P, count: usize) -> (HashSet<DataCenterId>, dc_core::Version) {
    let records = (0..count).map(|n| sample(&format!("dc-{n}")));
    let written: Vec<DataCenterRecord> = stream::iter(records)
        .map(|record| async move { create(plane, &record).await })
        .buffer_unordered(50)
        .collect()
        .await;
    let newest = written.iter().map(|record| record.version).max_by_key(|version| version.revision);
    let ids: HashSet<_> = written.iter().map(|record| record.id().clone()).collect();
    assert_eq!(ids.len(), count, "the samples have names of their own");
    (ids, newest.expect("at least one record"))
}

fn ids(listing: &Listing) -> HashSet<DataCenterId> {
    let ids: HashSet<_> = listing.records.iter().map(|record| record.id().clone()).collect();
    assert_eq!(ids.len(), listing.records.len(), "P6: a record is listed twice");
    ids
}

/// P6: an empty store lists nothing, and says as of when.
pub async fn p6_an_empty_store_lists_nothing(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let listing = plane.list_all().await.expect("list");
    assert!(listing.records.is_empty() && listing.intents.is_empty(), "P6: an empty store lists {listing:?}");
    assert!(listing.skipped.is_empty(), "P6: an empty store skips {:?}", listing.skipped);
    assert_eq!(listing.as_of.store, plane.store().await.expect("store"));
}

/// P6: the list of all holds records in every state, whole.
pub async fn p6_the_list_holds_every_state(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let mut written = Vec::new();
    for state in STATES {
        written.push(create(&plane, &DataCenterRecord { state, ..sample(state.as_str()) }).await);
    }
    let mut listing = ground.listed(&reader, written[3].version).await;
    listing.records.sort_by_key(|record| record.version.revision);
    assert_eq!(listing.records, written, "P6: every state is listed, whole");
}

/// P6: the active list holds ACTIVE and DRAINING records only.
pub async fn p6_list_active_leaves_out_what_is_not_routable(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let mut newest = no_version();
    for state in STATES {
        newest = create(&plane, &DataCenterRecord { state, ..sample(state.as_str()) }).await.version;
    }
    ground.listed(&plane, newest).await;
    let active = plane.list_active().await.expect("list");
    let wanted = HashSet::from([sample("ACTIVE").id().clone(), sample("DRAINING").id().clone()]);
    assert_eq!(ids(&active), wanted, "P6: what may be routed to");
}

/// P6: a list is as of a version that is not older than what it holds, and never goes back.
pub async fn p6_the_list_says_as_of_when(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let mut last = plane.list_all().await.expect("list").as_of;
    for n in 0..5 {
        let record = create(&plane, &sample(&format!("dc-{n}"))).await;
        plane.set_intent(record.id(), &Intent::new(IntentKind::Drain, "ann", "")).await.expect("set_intent");
        let listing = ground.listed(&plane, record.version).await;
        assert!(listing.as_of >= last, "P6: a list as of {} follows one as of {last}", listing.as_of);
        assert!(ids(&listing).contains(record.id()), "P6: as of {}, without {record:?}", listing.as_of);
        let newest =
            listing.records.iter().map(|record| record.version).chain(listing.intents.iter().map(|i| i.version));
        for version in newest {
            assert!(listing.as_of >= version, "P6: as of {}, holds {version}", listing.as_of);
        }
        last = listing.as_of;
    }
}

/// P6: more records than one page of any store are listed, each once.
pub async fn p6_eleven_hundred_records_are_listed(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (plane, reader) = (ground.plane().await, ground.plane().await);
    let (wanted, newest) = fill(&plane, 1_100).await;
    let listing = ground.listed(&reader, newest).await;
    assert_eq!(ids(&listing).len(), wanted.len(), "P6: 1,100 records are listed");
    assert_eq!(ids(&listing), wanted, "P6: the 1,100 records are those that were written");
    let Some((_, replay)) = ground.watch(&reader).await else { return };
    let shown = replay.iter().filter(|event| matches!(event, crate::WatchEvent::Put(_))).count();
    assert_eq!(shown, wanted.len(), "P5: a replay shows 1,100 records");
}

/// P6: what was deregistered is not listed, once the list is as of later.
pub async fn p6_the_list_leaves_out_the_deregistered(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let gone = create(&plane, &sample("gone")).await;
    let stays = create(&plane, &sample("stays")).await;
    plane.deregister(gone.id(), gone.version).await.expect("deregister");
    ground.gone(&plane, gone.id()).await;
    let listing = ground.listed(&plane, stays.version).await;
    assert_eq!(ids(&listing), HashSet::from([stays.id().clone()]));
    assert!(listing.skipped.is_empty(), "P6: traces of what is gone are no corruption: {:?}", listing.skipped);
}

/// P6: up to 1,000 records are listed by one request. Needs the hook `requests`.
pub async fn p6_one_request_lists_a_thousand_records(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let (wanted, newest) = fill(&plane, 1_000).await;
    ground.listed(&plane, newest).await;
    let before = ground.harness.requests(&ground.store).await;
    let listing = plane.list_all().await.expect("list");
    let cost = ground.harness.requests(&ground.store).await - before;
    assert_eq!(ids(&listing), wanted, "P6: 1,000 records are listed");
    assert_eq!(cost, 1, "P6: a list of 1,000 records costs one request");
}

/// P6: beyond 1,000 records the list costs a bounded number of pages, not a request per record. Needs the hook `requests`.
pub async fn p6_more_records_cost_few_requests(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let (wanted, newest) = fill(&plane, 1_100).await;
    ground.listed(&plane, newest).await;
    let before = ground.harness.requests(&ground.store).await;
    let listing = plane.list_all().await.expect("list");
    let cost = ground.harness.requests(&ground.store).await - before;
    assert_eq!(ids(&listing), wanted, "P6: 1,100 records are listed");
    assert!(cost <= 20, "P6: a list of 1,100 records costs {cost} requests");
}

/// P6: a record that cannot be decoded is left out and reported, and fails nothing else. Needs the hook `raw`.
pub async fn p6_a_corrupt_record_is_skipped_and_reported(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let good = create(&plane, &sample("good")).await;
    let other = codec::encode_record(&sample("other"));
    let documents: [(&str, &[u8]); 5] =
        [("empty", b""), ("binary", &[0xff, 0, 0xfe]), ("json", b"{}"), ("list", b"[1]"), ("of-another", &other)];
    for (id, bytes) in documents {
        ground.harness.write_raw(&ground.store, &format!("{}{id}", codec::RECORDS), bytes).await;
    }
    let listing = ground
        .until("all corrupt records to be reported", async || {
            let listing = plane.list_all().await.expect("P6: a corrupt record fails the list");
            (listing.skipped.len() >= documents.len()).then_some(listing)
        })
        .await;
    assert_eq!(ids(&listing), HashSet::from([good.id().clone()]), "P6: only what can be decoded is listed");
    assert_eq!(listing.skipped.len(), documents.len(), "P6: each is reported once: {:?}", listing.skipped);
    for (id, _) in documents {
        let named = listing.skipped.iter().any(|corrupt| corrupt.key.contains(id) && !corrupt.why.is_empty());
        assert!(named, "P6: the report names {id}: {:?}", listing.skipped);
    }
    let new = create(&plane, &sample("new")).await;
    let version = plane.register(&taken_over(&good, 2), Expected::Version(good.version)).await.expect("register");
    assert!(version > new.version, "P6: corrupt neighbours do not hinder writing");
}

/// P6: the same for an intent. Needs the hook `raw`.
pub async fn p6_a_corrupt_intent_is_skipped_and_reported(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let good = create(&plane, &sample("good")).await;
    ground.harness.write_raw(&ground.store, &format!("{}{}", codec::INTENTS, good.id()), b"drain, please").await;
    let listing = ground
        .until("the corrupt intent to be reported", async || {
            let listing = plane.list_all().await.expect("P6: a corrupt intent fails the list");
            (!listing.skipped.is_empty()).then_some(listing)
        })
        .await;
    assert!(listing.intents.is_empty(), "P6: found {:?}", listing.intents);
    assert_eq!(ids(&listing), HashSet::from([good.id().clone()]));
    plane.set_intent(good.id(), &Intent::new(IntentKind::Out, "ann", "")).await.expect("P8: the newest intent wins");
    ground
        .until("the new intent to replace the corrupt one", async || {
            let listing = plane.list_all().await.expect("list");
            (listing.skipped.is_empty() && listing.intents.len() == 1).then_some(())
        })
        .await;
}

/// P6: keys of strangers are ignored, or at most reported. Needs the hook `raw`.
pub async fn p6_foreign_keys_are_ignored(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let plane = ground.plane().await;
    let good = create(&plane, &sample("good")).await;
    let stray = codec::encode_record(&sample("stray"));
    for key in ["strangers/stray", "records", "recordsstray", "zzz"] {
        ground.harness.write_raw(&ground.store, key, &stray).await;
    }
    // A write after the strays, so that a list as of it has passed them.
    let after = create(&plane, &sample("after")).await;
    let listing = ground.listed(&plane, after.version).await;
    assert_eq!(ids(&listing), HashSet::from([good.id().clone(), after.id().clone()]), "P6: a foreign key is listed");
    assert_eq!(plane.get(sample("stray").id()).await.expect("get"), None);
}
