//! The line that the test file of a backend with ownership documents holds.

/// Expands to one `#[test]` for each claim of O1 to O7, as [`conformance_tests!`](crate::conformance_tests) does for
/// the control plane: the same [`Harness`](crate::conformance::Harness), the same hooks. The planes that it opens must
/// answer [`ownership`](crate::ControlPlane::ownership).
#[macro_export]
macro_rules! ownership_conformance_tests {
    ($harness:expr $(,)?) => {
        $crate::ownership_conformance_tests!($harness, without: []);
    };
    ($harness:expr, without: [$($left_out:ident),* $(,)?] $(,)?) => {
        const _: &[$crate::conformance::Hook] = &[$($crate::conformance::Hook::$left_out),*];
        $crate::__conformance_group!($harness; every; [];
            o1_documents_and_records_are_of_one_store,
            o1_each_write_of_a_document_has_a_higher_version,
            o1_document_versions_grow_across_removal,
            o1_document_versions_grow_across_clean_up,
            o1_documents_and_records_share_one_order,
            o2_a_stale_document_write_is_refused_and_told_what_is_stored,
            o2_creating_a_document_that_exists_is_refused,
            o2_updating_a_document_that_is_gone_is_refused,
            o2_a_stale_removal_is_refused,
            o2_a_document_version_of_another_store_is_refused,
            o2_a_dropped_document_write_lands_whole_or_not_at_all,
            o2_racing_document_writes_have_one_winner,
            o2_racing_document_creations_have_one_winner,
            o2_a_removal_that_races_with_a_write_has_one_winner,
            o2_a_counter_loses_no_increment,
            o2_documents_written_together_are_each_by_themselves,
            o2_racing_writes_of_many_documents_have_one_winner_each,
            o3_a_document_is_kept_for_its_time_and_then_cleaned_up,
            o3_documents_that_are_written_again_stay,
            o3_the_last_write_says_how_long,
            o3_what_was_cleaned_up_can_be_created_again,
            o5_an_empty_store_lists_no_documents,
            o5_the_list_shows_what_begins_so,
            o5_the_list_says_as_of_when_and_leaves_out_what_is_gone,
            o5_three_thousand_documents_are_listed,
            o5_records_and_documents_do_not_concern_each_other,
            o6_watches_of_records_and_documents_are_apart,
            o6_a_document_watch_replays_then_tells_changes,
            o6_an_empty_prefix_replays_to_its_end,
            o6_document_changes_come_in_order,
            o6_the_last_state_is_never_skipped,
            o6_a_document_removal_is_told_to_every_watcher,
            o6_a_clean_up_is_told,
            o6_a_watch_opened_amid_writes_misses_nothing,
            o6_more_than_a_thousand_documents_are_watched,
            o6_an_idle_document_watch_says_that_it_is_in_step,
            o7_the_largest_document_is_stored,
            o7_a_larger_document_is_refused,
            o7_odd_documents_are_told_apart,
        );
        $crate::__conformance_group!($harness; requests; [$($left_out)*];
            o5_three_thousand_documents_cost_few_requests,
            o7_a_larger_document_is_not_sent,
        );
        $crate::__conformance_group!($harness; raw; [$($left_out)*];
            o5_a_strangers_key_is_skipped_and_reported,
        );
        $crate::__conformance_group!($harness; outage; [$($left_out)*];
            o4_document_calls_end_in_time_while_the_store_is_stopped,
            o4_documents_outlive_a_restart,
        );
        $crate::__conformance_group!($harness; freeze; [$($left_out)*];
            o4_document_calls_end_in_time_while_the_store_is_frozen,
            o4_an_unanswered_document_write_is_found_by_repeating_it,
            o4_an_unanswered_creation_is_found_by_repeating_it,
            o6_no_step_is_claimed_of_documents_while_the_store_is_frozen,
        );
        $crate::__conformance_group!($harness; wipe; [$($left_out)*];
            o1_a_wiped_store_refuses_versions_of_before,
            o6_a_document_watch_does_not_miss_a_wipe,
        );
        $crate::__conformance_group!($harness; cut; [$($left_out)*];
            o2_an_owner_that_was_cut_off_is_refused,
            o4_document_calls_end_in_time_while_cut_off,
            o6_a_removal_while_cut_off_is_not_missed,
            o6_changes_while_cut_off_are_caught_up,
        );
    };
}
