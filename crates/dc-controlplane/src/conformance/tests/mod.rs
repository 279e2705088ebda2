//! The suite against planes that are broken on purpose: each defect must be found by the check that bears its number.

mod bench;
mod ownership;
#[expect(unreachable_pub, reason = "in its own crate it is public")]
mod shelf;
#[expect(unreachable_pub, reason = "in its own crate it is public")]
mod shelf_documents;
mod shelf_harness;

use std::{
    panic::catch_unwind,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use dc_core::{DataCenterId, DataCenterRecord, DataCenterState, Intent, StoreId, Version};
use futures::{StreamExt, future::ready};

pub(crate) use bench::memory_hooks;

use self::bench::finds;
use super::{Harness, Skew};
use crate::{
    Capabilities, ControlPlane, Error, Expected, Listing, StateChange, TokioClock, Watch, WatchEvent, Writer,
    memory::{Checkpoint, MemoryControlPlane, MemoryOptions, MemoryStore},
};

/// What is wrong with a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    None,
    RepeatsVersions,
    StartsVersionsAgain,
    KeepsItsIdWhenWiped,
    TakesStaleWrites,
    TakesStaleGoodbyes,
    TakesStaleHeartbeats,
    HidesWhatIsStored,
    TakesAnyRecord,
    DropsUnknownFields,
    MixesNamesUp,
    EndsLeasesEarly,
    EndsLeasesLate,
    NeverTellsOfExpiry,
    RevivesTheDead,
    NeverEndsTheReplay,
    MissesRemovals,
    ReordersChanges,
    MissesAWipe,
    ListsAThousandAtMost,
    FailsOnCorruption,
    HidesCorruption,
    ListsAsOfNever,
    AsksTwice,
    RenewsByWriting,
    MovesTheStateForAnybody,
    ForgetsIntentsAtGoodbye,
    RenewsForOperators,
    AllowsAnyMove,
    RefusesToBeGoneTwice,
    NeverTimesOut,
    GivesUpForEver,
    TellsOutagesAsConflicts,
    ReadsStale,
    ClaimsAWatch,
    NeverInStep,
    AlwaysInStep,
    TrustsWallClocks,
}

/// A plane in memory with a defect.
#[derive(Clone, Debug)]
struct Broken {
    plane: MemoryControlPlane,
    empty: Checkpoint,
    defect: Defect,
    gave_up: Arc<AtomicBool>,
    /// How far its wall clock is off, in milliseconds.
    skew_ms: i64,
}

impl Broken {
    fn wall_ms(&self) -> u64 {
        crate::wall_ms().saturating_add_signed(self.skew_ms)
    }

    fn is(&self, defect: Defect) -> bool {
        self.defect == defect
    }

    async fn stored(&self, id: &DataCenterId) -> Result<Option<DataCenterRecord>, Error> {
        self.plane.get(id).await
    }

    /// What every call goes through on its way back.
    fn told<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        match answer {
            Err(err) if err.is_outage() => {
                self.gave_up.store(self.is(Defect::GivesUpForEver), Ordering::SeqCst);
                if self.is(Defect::TellsOutagesAsConflicts) { Err(Error::Closed) } else { Err(err) }
            }
            _ if self.gave_up.load(Ordering::SeqCst) => Err(Error::Closed),
            Err(Error::Conflict { id, expected, .. }) if self.is(Defect::HidesWhatIsStored) => {
                Err(Error::Conflict { id, expected, stored: None })
            }
            answer => answer,
        }
    }

    /// A record as this plane stores it.
    fn bent(&self, record: &DataCenterRecord) -> DataCenterRecord {
        let mut record = record.clone();
        match self.defect {
            Defect::EndsLeasesEarly => record.ttl /= 2,
            Defect::EndsLeasesLate => record.ttl *= 3,
            Defect::DropsUnknownFields => record.unknown.clear(),
            Defect::TrustsWallClocks => record.written_at_ms = self.wall_ms(),
            Defect::TakesAnyRecord if record.check().is_err() => {
                record.ttl = Duration::from_secs(1);
                record.endpoints = super::ground::sample("x").endpoints;
            }
            Defect::MixesNamesUp => {
                let name = record.data_center.name().to_ascii_lowercase();
                let mut builder = dc_core::DataCenter::new(name);
                if let Some(region) = record.data_center.region() {
                    builder = builder.region(region.to_ascii_lowercase());
                }
                if let Some(zone) = record.data_center.zone() {
                    builder = builder.zone(zone.to_ascii_lowercase());
                }
                record.data_center = builder.build().expect("still legal");
            }
            _ => {}
        }
        record
    }

    /// A record as this plane shows it.
    fn shown(&self, mut record: DataCenterRecord) -> DataCenterRecord {
        match self.defect {
            Defect::EndsLeasesEarly => record.ttl *= 2,
            Defect::EndsLeasesLate => record.ttl /= 3,
            _ => {}
        }
        record
    }
}

#[async_trait]
impl ControlPlane for Broken {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.plane.capabilities();
        capabilities.watch |= self.is(Defect::ClaimsAWatch);
        capabilities
    }

    async fn store(&self) -> Result<StoreId, Error> {
        self.told(self.plane.store().await)
    }

    async fn register(&self, record: &DataCenterRecord, expected: Expected) -> Result<Version, Error> {
        let record = self.bent(record);
        let mut expected = expected;
        if self.is(Defect::TakesStaleWrites) {
            let stored = self.stored(record.id()).await?;
            expected = stored.map_or(Expected::Absent, |stored| Expected::Version(stored.version));
        }
        let version = self.told(self.plane.register(&record, expected).await)?;
        match expected {
            Expected::Version(old) if self.is(Defect::RepeatsVersions) => Ok(old),
            _ => Ok(version),
        }
    }

    async fn heartbeat(&self, record: &DataCenterRecord) -> Result<Version, Error> {
        let record = self.bent(record);
        if self.is(Defect::AsksTwice) {
            self.stored(record.id()).await?;
        }
        if self.is(Defect::RenewsByWriting) {
            return self.told(self.plane.register(&record, Expected::Version(record.version)).await);
        }
        let mut seen = record.version;
        if self.is(Defect::TakesStaleHeartbeats) || self.is(Defect::RevivesTheDead) {
            match self.stored(record.id()).await? {
                Some(stored) => seen = stored.version,
                None => return self.plane.register(&record, Expected::Absent).await,
            }
        }
        self.told(self.plane.heartbeat(&DataCenterRecord { version: seen, ..record }).await)
    }

    async fn set_state(&self, id: &DataCenterId, to: DataCenterState, by: Writer) -> Result<StateChange, Error> {
        let meddles = [Defect::MovesTheStateForAnybody, Defect::AllowsAnyMove, Defect::RenewsForOperators];
        if meddles.contains(&self.defect)
            && let Some(stored) = self.stored(id).await?
        {
            let owner = matches!(&by, Writer::Owner { node, .. } if *node == stored.owner.node);
            let expected = Expected::Version(stored.version);
            if (self.is(Defect::MovesTheStateForAnybody) && !owner) || (self.is(Defect::AllowsAnyMove) && owner) {
                let moved = DataCenterRecord { state: to, ..stored };
                return Ok(StateChange::Moved(self.plane.register(&moved, expected).await?));
            }
            if self.is(Defect::RenewsForOperators) {
                self.plane.heartbeat(&stored).await?;
            }
        }
        self.told(self.plane.set_state(id, to, by).await)
    }

    async fn set_intent(&self, id: &DataCenterId, intent: &Intent) -> Result<Version, Error> {
        self.told(self.plane.set_intent(id, intent).await)
    }

    async fn get(&self, id: &DataCenterId) -> Result<Option<DataCenterRecord>, Error> {
        Ok(self.told(self.plane.get(id).await)?.map(|record| self.shown(record)))
    }

    async fn list_all(&self) -> Result<Listing, Error> {
        let mut listing = self.told(self.plane.list_all().await)?;
        listing.records = listing.records.into_iter().map(|record| self.shown(record)).collect();
        match self.defect {
            Defect::ListsAThousandAtMost => listing.records.truncate(1_000),
            Defect::FailsOnCorruption => {
                if let Some(corrupt) = listing.skipped.pop() {
                    return Err(corrupt.into());
                }
            }
            Defect::HidesCorruption => listing.skipped.clear(),
            Defect::ListsAsOfNever => listing.as_of.revision = 0,
            Defect::TrustsWallClocks => listing.records.retain(|record| {
                Duration::from_millis(record.written_at_ms) + record.ttl > Duration::from_millis(self.wall_ms())
            }),
            _ => {}
        }
        Ok(listing)
    }

    async fn watch(&self) -> Result<Watch, Error> {
        let watch = self.told(self.plane.watch().await)?;
        Ok(match self.defect {
            Defect::NeverEndsTheReplay => {
                watch.filter(|event| ready(!matches!(event, Ok(WatchEvent::ReplayDone { .. })))).boxed()
            }
            Defect::MissesRemovals => {
                watch.filter(|event| ready(!matches!(event, Ok(WatchEvent::Removed { .. })))).boxed()
            }
            Defect::MissesAWipe => {
                watch.take_while(|event| ready(event.is_ok())).chain(futures::stream::pending()).boxed()
            }
            Defect::NeverInStep => watch.filter(|event| ready(!matches!(event, Ok(WatchEvent::InStep)))).boxed(),
            Defect::AlwaysInStep => {
                let beats = futures::stream::unfold((), |()| async {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Some((Ok(WatchEvent::InStep), ()))
                });
                futures::stream::select(watch, beats).boxed()
            }
            Defect::ReordersChanges => {
                let quiet = watch.filter(|event| ready(!matches!(event, Ok(WatchEvent::InStep))));
                quiet.chunks(3).flat_map(|chunk| futures::stream::iter(chunk.into_iter().rev())).boxed()
            }
            _ => watch,
        })
    }

    async fn deregister(&self, id: &DataCenterId, version: Version) -> Result<(), Error> {
        let mut version = version;
        if self.is(Defect::TakesStaleGoodbyes) || self.is(Defect::RefusesToBeGoneTwice) {
            match self.stored(id).await? {
                Some(stored) => version = stored.version,
                None => return Err(Error::NotFound { id: id.clone() }),
            }
        }
        self.told(self.plane.deregister(id, version).await)?;
        if self.is(Defect::StartsVersionsAgain) {
            self.plane.memory_store().roll_back(&self.empty);
        }
        if self.is(Defect::ForgetsIntentsAtGoodbye) {
            self.plane.set_intent(id, &Intent::default()).await?;
        }
        Ok(())
    }
}

/// A driven clock and every hook, over a plane with this defect.
struct Bench(Defect);

impl Bench {
    fn with(defect: Defect) -> Self {
        tokio::time::pause();
        Self(defect)
    }

    fn client(&self, store: &MemoryStore, skew_ms: i64) -> Broken {
        let mut options = MemoryOptions { watch: self.0 != Defect::ClaimsAWatch, ..MemoryOptions::default() };
        if self.0 == Defect::NeverTimesOut {
            options.request_timeout = Duration::from_secs(1_000_000);
        }
        let plane = MemoryControlPlane::with(store, options);
        if self.0 == Defect::ReadsStale {
            plane.read_stale();
        }
        let empty = MemoryStore::with_id(Arc::new(TokioClock), store.id()).checkpoint();
        Broken { plane, empty, defect: self.0, gave_up: Arc::default(), skew_ms }
    }
}

impl Harness for Bench {
    type Plane = Broken;
    type Store = MemoryStore;

    memory_hooks!(Broken, |broken| broken.plane);

    async fn fresh(&self) -> MemoryStore {
        let store = MemoryStore::new(Arc::new(TokioClock));
        store.set_silent_expiry(self.0 == Defect::NeverTellsOfExpiry);
        store
    }

    async fn open(&self, store: &MemoryStore) -> Broken {
        self.client(store, 0)
    }

    async fn open_skewed(&self, store: &MemoryStore, skew: Skew) -> Broken {
        let ms = |by: Duration| i64::try_from(by.as_millis()).expect("a few hours");
        match skew {
            Skew::Ahead(by) => self.client(store, ms(by)),
            Skew::Behind(by) => self.client(store, -ms(by)),
        }
    }

    fn request_timeout(&self) -> Duration {
        Duration::from_secs(5)
    }

    async fn wipe_store(&self, store: &MemoryStore) {
        if self.0 == Defect::KeepsItsIdWhenWiped {
            store.roll_back(&MemoryStore::with_id(Arc::new(TokioClock), store.id()).checkpoint());
        } else {
            store.wipe();
        }
    }
}

finds! {
    p1_repeated_versions_are_found: p1_each_write_has_a_higher_version finds RepeatsVersions;
    p1_a_counter_that_starts_again_is_found: p1_versions_grow_across_deletion_and_creation finds StartsVersionsAgain;
    p1_a_wiped_store_under_its_old_id_is_found: p1_a_wiped_store_has_another_id finds KeepsItsIdWhenWiped;
    p2_stale_writes_are_found: p2_stale_write_is_refused finds TakesStaleWrites, HidesWhatIsStored;
    p2_creation_over_what_exists_is_found: p2_creating_what_exists_is_a_conflict finds TakesStaleWrites, HidesWhatIsStored;
    p2_a_race_with_two_winners_is_found: p2_racing_takeovers_have_one_winner finds TakesStaleWrites;
    p2_a_creation_with_two_winners_is_found: p2_racing_creations_have_one_winner finds TakesStaleWrites;
    p2_a_race_of_goodbyes_with_two_winners_is_found: p10_a_goodbye_that_races_with_a_takeover_removes_what_it_names_or_nothing finds TakesStaleGoodbyes, TakesStaleWrites;
    p2_unchecked_records_are_found: p2_a_record_without_endpoints_is_refused finds TakesAnyRecord;
    p2_unchecked_leases_are_found: p2_a_lease_out_of_bounds_is_refused finds TakesAnyRecord;
    p2_lost_fields_are_found: p2_unknown_fields_are_kept finds DropsUnknownFields;
    p2_mixed_up_names_are_found: p2_odd_names_are_told_apart finds MixesNamesUp;
    p3_leases_out_of_time_are_found: p3_a_lease_ends_in_time finds EndsLeasesEarly, EndsLeasesLate;
    p3_heartbeats_that_do_not_hold_are_found: p3_heartbeats_keep_a_record_alive finds EndsLeasesLate;
    p4_silent_expiry_is_found: p4_expiry_is_seen finds NeverTellsOfExpiry, MissesRemovals;
    p4_silent_expiry_in_an_outage_is_found: p4_expiry_during_an_outage_is_seen finds NeverTellsOfExpiry;
    p5_a_replay_without_an_end_is_found: p5_an_empty_store_replays_to_its_end finds NeverEndsTheReplay;
    p5_missed_removals_are_found: p5_a_removal_is_seen finds MissesRemovals;
    p5_disorder_is_found: p5_changes_come_in_order finds ReordersChanges;
    p5_a_missed_wipe_is_found: p5_a_watch_does_not_miss_a_wipe finds MissesAWipe;
    p3_trust_in_wall_clocks_is_found: p3_a_skewed_wall_clock_changes_nothing finds TrustsWallClocks, EndsLeasesLate;
    p5_a_watch_that_never_claims_to_be_in_step_is_found: p5_an_idle_watch_says_that_it_is_in_step finds NeverInStep;
    p5_a_watch_that_always_claims_to_be_in_step_is_found: p5_no_step_is_claimed_while_the_store_is_frozen finds AlwaysInStep;
    p5_a_removal_missed_in_a_cut_is_found: p5_a_removal_while_cut_off_is_not_missed finds MissesRemovals;
    p5_changes_lost_in_a_cut_are_found: p5_changes_while_cut_off_are_caught_up finds ReordersChanges;
    p4_an_expiry_missed_in_a_cut_is_found: p4_expiry_while_cut_off_is_seen finds NeverTellsOfExpiry;
    p11_endless_calls_in_a_cut_are_found: p11_calls_end_in_time_while_cut_off finds TellsOutagesAsConflicts, GivesUpForEver;
    p2_an_owner_that_is_not_fenced_is_found: p2_an_owner_that_was_cut_off_is_fenced finds TakesStaleWrites, TakesStaleHeartbeats;
    p6_a_cut_list_is_found: p6_eleven_hundred_records_are_listed finds ListsAThousandAtMost;
    p6_corruption_that_spreads_is_found: p6_a_corrupt_record_is_skipped_and_reported finds FailsOnCorruption, HidesCorruption;
    p6_lists_as_of_never_are_found: p6_the_list_says_as_of_when finds ListsAsOfNever;
    p7_dear_heartbeats_are_found: p7_a_heartbeat_costs_one_round_trip finds AsksTwice;
    p7_unfenced_heartbeats_are_found: p7_heartbeats_are_fenced finds TakesStaleHeartbeats;
    p7_revival_is_found: p7_a_heartbeat_after_expiry_is_not_found finds RevivesTheDead;
    p7_noisy_renewals_are_found: p7_renewals_wake_no_watcher finds RenewsByWriting;
    p8_operators_that_write_records_are_found: p8_an_operators_state_is_an_intent finds MovesTheStateForAnybody;
    p8_strangers_that_write_records_are_found: p8_a_strangers_state_is_an_intent finds MovesTheStateForAnybody;
    p8_lost_intents_are_found: p8_an_intent_survives_everything finds ForgetsIntentsAtGoodbye;
    p8_operators_that_renew_are_found: p8_an_intent_leaves_the_lease_alone finds RenewsForOperators;
    p9_illegal_moves_are_found: p9_only_legal_moves_succeed finds AllowsAnyMove;
    p10_late_goodbyes_are_found: p10_deregistering_another_version_is_refused finds TakesStaleGoodbyes;
    p10_a_goodbye_that_fails_twice_is_found: p10_what_is_gone_is_success finds RefusesToBeGoneTwice;
    p11_endless_calls_are_found: p11_calls_end_in_time_while_the_store_is_frozen finds NeverTimesOut;
    p11_outages_by_another_name_are_found: p11_calls_end_in_time_while_the_store_is_stopped finds TellsOutagesAsConflicts;
    p12_giving_up_is_found: p12_a_client_goes_on_after_a_restart finds GivesUpForEver;
    p13_stale_reads_are_found: p13_linearizable_reads_show_the_last_write finds ReadsStale;
    p13_a_watch_that_is_none_is_found: p13_capabilities_are_kept finds ClaimsAWatch;
}

/// A harness without hooks.
struct Bare;

impl Harness for Bare {
    type Plane = MemoryControlPlane;
    type Store = MemoryStore;

    async fn fresh(&self) -> MemoryStore {
        MemoryStore::new(Arc::new(TokioClock))
    }

    async fn open(&self, store: &MemoryStore) -> MemoryControlPlane {
        MemoryControlPlane::new(store)
    }

    async fn advance(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn request_timeout(&self) -> Duration {
        Duration::from_secs(1)
    }
}

#[test]
fn a_hook_that_is_not_offered_fails_its_tests_and_says_what_to_do() {
    let refused = catch_unwind(|| super::run(async { super::p6_foreign_keys_are_ignored(Bare).await }));
    let message = refused.expect_err("a missing hook passed").downcast::<String>().expect("a message");
    assert!(message.contains("without: [raw]"), "{message}");
}

#[test]
fn o1_a_plane_that_does_not_say_otherwise_has_no_documents() {
    super::run(async {
        let bench = Bench::with(Defect::None);
        assert!(bench.open(&bench.fresh().await).await.ownership().is_none());
    });
}

#[test]
fn the_backend_that_the_docs_show_is_the_one_that_is_tested() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/write-a-backend.md");
    let page = std::fs::read_to_string(path).expect("docs/write-a-backend.md");
    let shown: Vec<&str> = page.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let tested = [include_str!("shelf.rs"), include_str!("shelf_documents.rs"), include_str!("shelf_harness.rs")];
    assert_eq!(shown, tested, "copy the files into {path}");
}
