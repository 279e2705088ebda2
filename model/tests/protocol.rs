//! The protocol as the page has it holds in every order of events, within these bounds; and what should occur does.

use multidc_model::{Config, check};

fn holds(config: &Config) {
    let report = check::check(config, None);
    println!("{} states, depth {}, {:?}", report.states, report.depth, report.took);
    assert!(report.good(), "{report:?}");
}

#[test]
fn g2_one_owner_through_pauses_lost_answers_and_clock_rates() {
    holds(&Config::takeover());
}

#[test]
fn g2_a_margin_of_two_elevenths_is_enough() {
    holds(&Config::fine_clock(10));
}

#[test]
fn g2_one_owner_where_the_store_drops_a_session_that_lives() {
    holds(&Config::dropped());
}

#[test]
fn g3_a_late_owner_is_refused_by_storage_and_nothing_acknowledged_is_lost() {
    holds(&Config::storage());
}

#[test]
fn g3_a_name_released_and_claimed_again_has_a_higher_epoch() {
    holds(&Config::names());
}

#[test]
fn g5_a_move_leaves_one_owner_at_each_crash_point() {
    holds(&Config::moves());
}

#[test]
fn g5_state_that_comes_along_is_the_newest() {
    holds(&Config::memory());
}

#[test]
fn after_a_rollback_owners_are_one_again_within_a_lease() {
    holds(&Config::rollback());
}

#[test]
fn available_serves_twice_and_its_storage_still_sees_epochs_rise() {
    let config = Config { available: true, ..Config::storage() };
    let report = check::check(&config, None);
    let broken: Vec<_> = report.broken.iter().map(|(property, _)| *property).collect();
    assert_eq!(broken, [check::ONE_TITLE], "{report:?}");
}
