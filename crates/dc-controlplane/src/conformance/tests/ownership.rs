//! The suite of O1 to O7 against stores of documents that are broken on purpose.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use dc_core::{DataCenterId, DataCenterRecord, DataCenterState, Intent, StoreId, Version};
use futures::{StreamExt, future::ready, stream};

use super::bench::{finds, memory_hooks};
use crate::{
    Capabilities, ControlPlane, Error, Expected, Listing, StateChange, TokioClock, Watch, Writer,
    conformance::Harness,
    memory::{MemoryControlPlane, MemoryOwnership, MemoryStore},
    ownership::{Document, DocumentEvent, DocumentKey, DocumentWatch, Documents, Keep, OwnershipStore, Swap},
};

/// What is wrong with the documents of a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    None,
    RepeatsVersions,
    CountsEachKeyApart,
    CountsAnewAfterRemoval,
    TakesStaleWrites,
    TakesVersionsOfOtherStores,
    TakesStaleRemovals,
    TellsNothing,
    TellsWhatItReadBefore,
    KeepsForEver,
    KeepsTooShort,
    KeepsAsAtFirst,
    NeverTimesOut,
    ClaimsThatNothingLanded,
    RepeatsLostWrites,
    ListsAThousandAtMost,
    ListsByWholeParts,
    ListsAsOfNever,
    ReadsEachListed,
    HidesStrangers,
    MissesRemovals,
    MissesTheLast,
    ReordersChanges,
    NeverEndsTheReplay,
    TellsEverything,
    MissesAWipe,
    NeverInStep,
    AlwaysInStep,
    CutsBodies,
    TakesAnySize,
    MixesKeysUp,
}

/// A plane in memory whose documents have a defect.
#[derive(Clone, Debug)]
struct Holed {
    plane: MemoryControlPlane,
    defect: Defect,
    /// What was read last, by key.
    read: Arc<Mutex<HashMap<DocumentKey, Option<Document>>>>,
}

impl Holed {
    fn inner(&self) -> MemoryOwnership {
        MemoryOwnership::new(&self.plane)
    }

    fn is(&self, defect: Defect) -> bool {
        self.defect == defect
    }

    fn key(&self, key: &DocumentKey) -> DocumentKey {
        match self.defect {
            Defect::MixesKeysUp => key.as_str().to_ascii_lowercase().parse().expect("still legal"),
            _ => key.clone(),
        }
    }

    fn version(&self, version: Version) -> Version {
        match self.defect {
            Defect::RepeatsVersions => Version::new(version.store, 1),
            _ => version,
        }
    }

    /// What a refusal tells.
    fn told(&self, key: &DocumentKey, stored: Option<Document>) -> Option<Document> {
        match self.defect {
            Defect::TellsNothing => None,
            Defect::TellsWhatItReadBefore => {
                let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
                read.get(key).cloned().unwrap_or(stored)
            }
            _ => stored,
        }
    }

    async fn stored(&self, key: &DocumentKey) -> Result<Option<Document>, Error> {
        self.inner().read(key).await
    }
}

#[async_trait]
impl OwnershipStore for Holed {
    async fn store(&self) -> Result<StoreId, Error> {
        OwnershipStore::store(&self.inner()).await
    }

    async fn read(&self, key: &DocumentKey) -> Result<Option<Document>, Error> {
        self.stored(&self.key(key)).await
    }

    async fn compare_and_set(
        &self,
        key: &DocumentKey,
        expected: Expected,
        body: Bytes,
        keep: Keep,
    ) -> Result<Swap, Error> {
        let (at, mut expected, mut body, mut keep) = (self.key(key), expected, body, keep);
        let stored = if self.is(Defect::TakesStaleWrites) { self.stored(&at).await? } else { None };
        match (self.defect, expected) {
            (Defect::TakesStaleWrites, _) => {
                expected = stored.map_or(Expected::Absent, |stored| Expected::Version(stored.version));
            }
            (Defect::TakesVersionsOfOtherStores, Expected::Version(version)) => {
                expected = Expected::Version(Version::new(self.plane.memory_store().id(), version.revision));
            }
            (Defect::KeepsForEver, _) => keep = Keep::Forever,
            (Defect::KeepsTooShort, _) => {
                if let Keep::For(long) = keep {
                    keep = Keep::For(long / 2);
                }
            }
            (Defect::KeepsAsAtFirst, Expected::Version(_)) => keep = Keep::Forever,
            (Defect::CutsBodies, _) => body.truncate(64 * 1024),
            (Defect::TakesAnySize, _) => body.truncate(crate::ownership::MAX_DOCUMENT),
            _ => {}
        }
        let inner = self.inner();
        let mut swap = inner.compare_and_set(&at, expected, body.clone(), keep).await;
        if self.is(Defect::NeverTimesOut) && swap.is_err() {
            return std::future::pending().await;
        }
        if self.is(Defect::RepeatsLostWrites) {
            while swap.is_err() {
                tokio::time::sleep(Duration::from_secs(1)).await;
                swap = inner.compare_and_set(&at, expected, body.clone(), keep).await;
            }
        }
        match swap {
            Ok(Swap::Done(version)) => {
                let stored = Document { key: at.clone(), body, version };
                self.read.lock().unwrap_or_else(PoisonError::into_inner).entry(at).or_insert(Some(stored));
                if self.is(Defect::CountsEachKeyApart) && expected == Expected::Absent {
                    return Ok(Swap::Done(Version::new(version.store, 1)));
                }
                Ok(Swap::Done(self.version(version)))
            }
            Ok(Swap::Refused(stored)) => Ok(Swap::Refused(self.told(&at, stored))),
            Err(Error::Timeout { backend, operation, after, .. }) if self.is(Defect::ClaimsThatNothingLanded) => {
                Err(Error::Timeout { backend, operation, after, outcome: crate::Outcome::Unchanged })
            }
            Err(err) => Err(err),
        }
    }

    async fn remove(&self, key: &DocumentKey, version: Version) -> Result<Swap, Error> {
        let (key, mut version) = (self.key(key), version);
        if self.is(Defect::TakesStaleRemovals)
            && let Some(stored) = self.stored(&key).await?
        {
            version = stored.version;
        }
        match self.inner().remove(&key, version).await? {
            Swap::Done(removed) if self.is(Defect::CountsAnewAfterRemoval) => {
                let store = self.plane.memory_store();
                store.roll_back(&MemoryStore::with_id(Arc::new(TokioClock), store.id()).checkpoint());
                Ok(Swap::Done(removed))
            }
            Swap::Done(removed) => Ok(Swap::Done(self.version(removed))),
            Swap::Refused(stored) => Ok(Swap::Refused(self.told(&key, stored))),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Documents, Error> {
        let asked = match self.defect {
            Defect::ListsByWholeParts => prefix.rsplit_once('/').map_or("", |(parts, _)| parts),
            _ => prefix,
        };
        let mut listed = self.inner().list(asked).await?;
        match self.defect {
            Defect::ListsAThousandAtMost => listed.documents.truncate(1_000),
            Defect::ListsAsOfNever => listed.as_of.revision = 0,
            Defect::HidesStrangers => listed.skipped.clear(),
            Defect::ReadsEachListed => {
                for document in &listed.documents {
                    self.stored(&document.key).await?;
                }
            }
            _ => {}
        }
        Ok(listed)
    }

    async fn watch(&self, prefix: &str) -> Result<DocumentWatch, Error> {
        let asked = if self.is(Defect::TellsEverything) { "" } else { prefix };
        let watch = self.inner().watch(asked).await?;
        Ok(match self.defect {
            Defect::MissesRemovals => {
                watch.filter(|event| ready(!matches!(event, Ok(DocumentEvent::Removed { .. })))).boxed()
            }
            Defect::NeverEndsTheReplay => {
                watch.filter(|event| ready(!matches!(event, Ok(DocumentEvent::ReplayDone { .. })))).boxed()
            }
            Defect::NeverInStep => watch.filter(|event| ready(!matches!(event, Ok(DocumentEvent::InStep)))).boxed(),
            Defect::MissesAWipe => watch.take_while(|event| ready(event.is_ok())).chain(stream::pending()).boxed(),
            Defect::AlwaysInStep => {
                let beats = stream::unfold((), |()| async {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Some((Ok(DocumentEvent::InStep), ()))
                });
                stream::select(watch, beats).boxed()
            }
            // Each second change of a key is taken for one that will be overwritten.
            Defect::MissesTheLast => {
                let mut seen = 0;
                let told = watch.filter(move |event| {
                    let change = matches!(event, Ok(DocumentEvent::Put(_)));
                    seen += usize::from(change);
                    ready(!change || seen % 2 == 1)
                });
                told.boxed()
            }
            Defect::ReordersChanges => {
                let quiet = watch.filter(|event| ready(!matches!(event, Ok(DocumentEvent::InStep))));
                quiet.chunks(3).flat_map(|chunk| stream::iter(chunk.into_iter().rev())).boxed()
            }
            _ => watch,
        })
    }
}

#[async_trait]
impl ControlPlane for Holed {
    fn capabilities(&self) -> Capabilities {
        self.plane.capabilities()
    }
    async fn store(&self) -> Result<StoreId, Error> {
        ControlPlane::store(&self.plane).await
    }
    async fn register(&self, record: &DataCenterRecord, expected: Expected) -> Result<Version, Error> {
        self.plane.register(record, expected).await
    }
    async fn heartbeat(&self, record: &DataCenterRecord) -> Result<Version, Error> {
        self.plane.heartbeat(record).await
    }
    async fn set_state(&self, id: &DataCenterId, to: DataCenterState, by: Writer) -> Result<StateChange, Error> {
        self.plane.set_state(id, to, by).await
    }
    async fn set_intent(&self, id: &DataCenterId, intent: &Intent) -> Result<Version, Error> {
        self.plane.set_intent(id, intent).await
    }
    async fn get(&self, id: &DataCenterId) -> Result<Option<DataCenterRecord>, Error> {
        self.plane.get(id).await
    }
    async fn list_all(&self) -> Result<Listing, Error> {
        self.plane.list_all().await
    }
    async fn watch(&self) -> Result<Watch, Error> {
        ControlPlane::watch(&self.plane).await
    }
    async fn deregister(&self, id: &DataCenterId, version: Version) -> Result<(), Error> {
        self.plane.deregister(id, version).await
    }
    fn ownership(&self) -> Option<Arc<dyn OwnershipStore>> {
        Some(Arc::new(self.clone()))
    }
}

/// A driven clock and every hook, over documents with this defect.
struct Bench(Defect);

impl Bench {
    fn with(defect: Defect) -> Self {
        tokio::time::pause();
        Self(defect)
    }
}

impl Harness for Bench {
    type Plane = Holed;
    type Store = MemoryStore;

    memory_hooks!(Holed, |holed| holed.plane);

    async fn fresh(&self) -> MemoryStore {
        MemoryStore::new(Arc::new(TokioClock))
    }

    async fn open(&self, store: &MemoryStore) -> Holed {
        Holed { plane: MemoryControlPlane::new(store), defect: self.0, read: Arc::default() }
    }

    fn request_timeout(&self) -> Duration {
        Duration::from_secs(5)
    }

    async fn wipe_store(&self, store: &MemoryStore) {
        store.wipe();
    }
}

finds! {
    o1_repeated_versions_are_found: o1_each_write_of_a_document_has_a_higher_version finds RepeatsVersions;
    o1_a_count_for_each_key_is_found: o1_documents_and_records_share_one_order finds CountsEachKeyApart, RepeatsVersions;
    o1_a_count_that_starts_again_is_found: o1_document_versions_grow_across_removal finds CountsAnewAfterRemoval;
    o2_stale_writes_are_found: o2_a_stale_document_write_is_refused_and_told_what_is_stored finds TakesStaleWrites;
    o2_refusals_that_tell_nothing_are_found: o2_a_stale_document_write_is_refused_and_told_what_is_stored finds TellsNothing;
    o2_refusals_that_tell_old_news_are_found: o2_a_stale_document_write_is_refused_and_told_what_is_stored finds TellsWhatItReadBefore;
    o2_creation_over_what_exists_is_found: o2_creating_a_document_that_exists_is_refused finds TakesStaleWrites, TellsNothing;
    o2_updates_of_what_is_gone_are_found: o2_updating_a_document_that_is_gone_is_refused finds TakesStaleWrites;
    o2_stale_removals_are_found: o2_a_stale_removal_is_refused finds TakesStaleRemovals;
    o2_versions_of_other_stores_are_found: o2_a_document_version_of_another_store_is_refused finds TakesVersionsOfOtherStores;
    o2_a_race_with_two_winners_is_found: o2_racing_document_writes_have_one_winner finds TakesStaleWrites, TellsWhatItReadBefore;
    o2_a_creation_with_two_winners_is_found: o2_racing_document_creations_have_one_winner finds TakesStaleWrites, TellsNothing;
    o2_a_removal_that_wins_too_is_found: o2_a_removal_that_races_with_a_write_has_one_winner finds TakesStaleRemovals, TakesStaleWrites;
    o2_lost_increments_are_found: o2_a_counter_loses_no_increment finds TakesStaleWrites, TellsNothing;
    o2_stale_writes_among_others_are_found: o2_documents_written_together_are_each_by_themselves finds TakesStaleWrites, TellsNothing;
    o2_races_of_many_with_two_winners_are_found: o2_racing_writes_of_many_documents_have_one_winner_each finds TakesStaleWrites, TellsWhatItReadBefore;
    o2_an_owner_that_is_not_refused_is_found: o2_an_owner_that_was_cut_off_is_refused finds TakesStaleWrites, TellsWhatItReadBefore;
    o3_what_is_not_kept_in_time_is_found: o3_a_document_is_kept_for_its_time_and_then_cleaned_up finds KeepsForEver, KeepsTooShort;
    o3_rewritten_documents_that_go_are_found: o3_documents_that_are_written_again_stay finds KeepsTooShort, KeepsAsAtFirst;
    o3_writes_that_do_not_say_anew_are_found: o3_the_last_write_says_how_long finds KeepsAsAtFirst, KeepsForEver;
    o4_endless_calls_are_found: o4_document_calls_end_in_time_while_the_store_is_frozen finds NeverTimesOut, RepeatsLostWrites;
    o4_endless_calls_in_a_cut_are_found: o4_document_calls_end_in_time_while_cut_off finds NeverTimesOut;
    o4_a_lost_write_told_as_not_landed_is_found: o4_an_unanswered_document_write_is_found_by_repeating_it finds ClaimsThatNothingLanded;
    o4_a_lost_creation_told_as_not_landed_is_found: o4_an_unanswered_creation_is_found_by_repeating_it finds ClaimsThatNothingLanded;
    o5_a_cut_list_is_found: o5_three_thousand_documents_are_listed finds ListsAThousandAtMost;
    o5_a_list_of_other_prefixes_is_found: o5_the_list_shows_what_begins_so finds ListsByWholeParts, MixesKeysUp;
    o5_lists_as_of_never_are_found: o5_the_list_says_as_of_when_and_leaves_out_what_is_gone finds ListsAsOfNever, KeepsForEver;
    o5_dear_lists_are_found: o5_three_thousand_documents_cost_few_requests finds ReadsEachListed;
    o5_hidden_strangers_are_found: o5_a_strangers_key_is_skipped_and_reported finds HidesStrangers;
    o6_missed_removals_are_found: o6_a_document_removal_is_told_to_every_watcher finds MissesRemovals;
    o6_missed_clean_ups_are_found: o6_a_clean_up_is_told finds MissesRemovals, KeepsForEver;
    o6_a_missed_last_state_is_found: o6_the_last_state_is_never_skipped finds MissesTheLast, MissesRemovals;
    o6_disorder_is_found: o6_document_changes_come_in_order finds ReordersChanges, MissesTheLast;
    o6_a_replay_without_an_end_is_found: o6_an_empty_prefix_replays_to_its_end finds NeverEndsTheReplay, TellsEverything;
    o6_writes_missed_while_opening_are_found: o6_a_watch_opened_amid_writes_misses_nothing finds MissesTheLast;
    o6_changes_missed_among_many_are_found: o6_more_than_a_thousand_documents_are_watched finds MissesTheLast, MissesRemovals;
    o6_a_removal_missed_in_a_cut_is_found: o6_a_removal_while_cut_off_is_not_missed finds MissesRemovals;
    o6_changes_lost_in_a_cut_are_found: o6_changes_while_cut_off_are_caught_up finds ReordersChanges;
    o6_a_missed_wipe_is_found: o6_a_document_watch_does_not_miss_a_wipe finds MissesAWipe;
    o6_a_watch_that_is_never_in_step_is_found: o6_an_idle_document_watch_says_that_it_is_in_step finds NeverInStep;
    o6_a_watch_that_is_always_in_step_is_found: o6_no_step_is_claimed_of_documents_while_the_store_is_frozen finds AlwaysInStep;
    o7_cut_bodies_are_found: o7_the_largest_document_is_stored finds CutsBodies;
    o7_bodies_of_any_size_are_found: o7_a_larger_document_is_refused finds TakesAnySize, CutsBodies;
    o7_large_bodies_that_are_sent_are_found: o7_a_larger_document_is_not_sent finds TakesAnySize;
    o7_mixed_up_keys_are_found: o7_odd_documents_are_told_apart finds MixesKeysUp;
}
