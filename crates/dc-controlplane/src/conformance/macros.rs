//! The one line that a backend's test file holds.

/// Expands to one `#[test]` for each claim of the suite, so that no failure hides another.
///
/// The expression makes a [`Harness`](crate::conformance::Harness); it is evaluated once per test, inside the
/// test's tokio runtime. `without: [..]` leaves out the tests of hooks that the harness cannot offer; a name that
/// is no hook does not compile.
#[macro_export]
macro_rules! conformance_tests {
    ($harness:expr $(,)?) => {
        $crate::conformance_tests!($harness, without: []);
    };
    ($harness:expr, without: [$($left_out:ident),* $(,)?] $(,)?) => {
        const _: &[$crate::conformance::Hook] = &[$($crate::conformance::Hook::$left_out),*];
        $crate::__conformance_group!($harness; every; [];
            p1_each_write_has_a_higher_version,
            p1_versions_grow_across_deletion_and_creation,
            p1_versions_grow_across_expiry_and_creation,
            p1_two_clients_see_one_store_id,
            p1_another_store_has_another_id,
            p2_stale_write_is_refused,
            p2_stale_owner_cannot_move_the_state,
            p2_creating_what_exists_is_a_conflict,
            p2_updating_what_is_not_there_is_a_conflict,
            p2_version_of_another_store_is_refused,
            p2_racing_takeovers_have_one_winner,
            p2_racing_creations_have_one_winner,
            p2_a_renewal_that_races_with_a_takeover_never_undoes_it,
            p2_the_largest_record_is_stored,
            p2_a_record_without_endpoints_is_refused,
            p2_a_lease_out_of_bounds_is_refused,
            p2_a_record_reads_back_as_written,
            p2_odd_names_are_told_apart,
            p2_unknown_fields_are_kept,
            p2_get_of_an_unknown_id_is_none,
            p3_a_lease_ends_in_time,
            p3_an_update_starts_the_lease_anew,
            p3_heartbeats_keep_a_record_alive,
            p3_wall_clock_times_in_records_change_nothing,
            p3_an_expired_record_can_be_created_again,
            p3_a_shortened_lease_holds,
            p4_expiry_is_seen,
            p4_expiry_after_heartbeats_is_seen,
            p4_expiry_of_several_is_seen,
            p5_an_empty_store_replays_to_its_end,
            p5_the_replay_shows_what_is_there,
            p5_the_replay_leaves_out_what_is_gone,
            p5_changes_come_in_order,
            p5_a_removal_is_seen,
            p5_a_quick_return_is_not_lost,
            p5_several_watchers_see_the_same,
            p5_a_dropped_watch_ends_alone,
            p5_an_idle_watch_says_that_it_is_in_step,
            p6_an_empty_store_lists_nothing,
            p6_the_list_holds_every_state,
            p6_list_active_leaves_out_what_is_not_routable,
            p6_the_list_says_as_of_when,
            p6_eleven_hundred_records_are_listed,
            p6_the_list_leaves_out_the_deregistered,
            p7_heartbeats_are_fenced,
            p7_a_heartbeat_without_a_record_is_not_found,
            p7_a_heartbeat_after_expiry_is_not_found,
            p7_renewals_wake_no_watcher,
            p7_a_renewed_record_can_be_written,
            p8_an_operators_state_is_an_intent,
            p8_a_strangers_state_is_an_intent,
            p8_an_intent_needs_no_record,
            p8_the_newest_intent_wins,
            p8_an_intent_survives_everything,
            p8_an_intent_leaves_the_lease_alone,
            p8_intents_reach_watchers,
            p8_a_malformed_intent_is_refused,
            p9_only_legal_moves_succeed,
            p9_a_move_to_the_same_state_changes_nothing,
            p9_an_owner_without_a_record_is_not_found,
            p10_deregister_removes_the_named_version,
            p10_deregistering_another_version_is_refused,
            p10_what_is_gone_is_success,
            p10_a_goodbye_that_races_with_a_takeover_removes_what_it_names_or_nothing,
            p11_a_dropped_call_harms_nothing,
            p13_capabilities_are_kept,
            p13_linearizable_reads_show_the_last_write,
        );
        $crate::__conformance_group!($harness; requests; [$($left_out)*];
            p6_one_request_lists_a_thousand_records,
            p6_more_records_cost_few_requests,
            p7_a_heartbeat_costs_one_round_trip,
        );
        $crate::__conformance_group!($harness; raw; [$($left_out)*];
            p6_a_corrupt_record_is_skipped_and_reported,
            p6_a_corrupt_intent_is_skipped_and_reported,
            p6_foreign_keys_are_ignored,
            p5_a_corrupt_record_reaches_watchers_as_skipped,
            p2_fields_and_states_of_a_later_version_are_read,
        );
        $crate::__conformance_group!($harness; outage; [$($left_out)*];
            p11_calls_end_in_time_while_the_store_is_stopped,
            p12_a_client_goes_on_after_a_restart,
            p12_a_client_opens_while_the_store_is_stopped,
            p12_an_outage_longer_than_the_lease_is_survived,
            p5_a_watch_outlives_a_restart_or_says_so,
            p4_expiry_during_an_outage_is_seen,
        );
        $crate::__conformance_group!($harness; freeze; [$($left_out)*];
            p11_calls_end_in_time_while_the_store_is_frozen,
            p11_repeating_an_unanswered_write_is_safe,
            p12_a_client_goes_on_after_a_freeze,
            p5_no_step_is_claimed_while_the_store_is_frozen,
        );
        $crate::__conformance_group!($harness; wipe; [$($left_out)*];
            p1_a_wiped_store_has_another_id,
            p5_a_watch_does_not_miss_a_wipe,
        );
        $crate::__conformance_group!($harness; cut; [$($left_out)*];
            p5_a_removal_while_cut_off_is_not_missed,
            p5_changes_while_cut_off_are_caught_up,
            p4_expiry_while_cut_off_is_seen,
            p11_calls_end_in_time_while_cut_off,
            p2_an_owner_that_was_cut_off_is_fenced,
        );
        $crate::__conformance_group!($harness; skew; [$($left_out)*];
            p3_a_skewed_wall_clock_changes_nothing,
        );
    };
}

/// One group of [`conformance_tests!`](crate::conformance_tests): nothing if its hook is left out.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_group {
    ($harness:expr; requests; [requests $($rest:ident)*]; $($test:ident),* $(,)?) => {};
    ($harness:expr; raw; [raw $($rest:ident)*]; $($test:ident),* $(,)?) => {};
    ($harness:expr; outage; [outage $($rest:ident)*]; $($test:ident),* $(,)?) => {};
    ($harness:expr; freeze; [freeze $($rest:ident)*]; $($test:ident),* $(,)?) => {};
    ($harness:expr; wipe; [wipe $($rest:ident)*]; $($test:ident),* $(,)?) => {};
    ($harness:expr; cut; [cut $($rest:ident)*]; $($test:ident),* $(,)?) => {};
    ($harness:expr; skew; [skew $($rest:ident)*]; $($test:ident),* $(,)?) => {};
    ($harness:expr; $hook:ident; [$other:ident $($rest:ident)*]; $($test:ident),* $(,)?) => {
        $crate::__conformance_group!($harness; $hook; [$($rest)*]; $($test),*);
    };
    ($harness:expr; $hook:ident; []; $($test:ident),* $(,)?) => {
        $(
            #[test]
            fn $test() {
                $crate::conformance::run(async { $crate::conformance::$test($harness).await });
            }
        )*
    };
}
