//! The campaign: seeds are printed, and each replays alone with
//! `cargo run -p dc-ownership --example sim -- --seeds 1 --from S`.

mod simulation;

use dc_ownership::core::Plant;
use simulation::{Config, CrashAt, Report, Side, Step, run};

fn campaign(seeds: std::ops::Range<u64>, config: impl Fn(u64) -> Config) -> Report {
    let mut all = Report::default();
    for seed in seeds {
        let report = run(config(seed));
        assert_eq!(report.violation, None, "seed {seed}: see the example `sim`");
        all.add(&report);
    }
    all
}

#[test]
fn g2_the_same_seed_gives_the_same_run() {
    for seed in 0..3 {
        let (first, second) = (run(Config::new(seed)), run(Config::new(seed)));
        assert_eq!((first.trace, first.steps), (second.trace, second.steps), "seed {seed}");
    }
}

#[test]
fn g2_g3_whatever_breaks_nothing_is_owned_twice_and_everything_is_owned_again() {
    let all = campaign(0..200, Config::new);
    for what in [
        "takeovers",
        "tombstones",
        "tombstones_refused",
        "conflicts",
        "lost_answers",
        "moves",
        "moves_failed",
        "rebalanced",
        "state_moved",
        "placed",
        "overrides_made",
        "overrides_moved",
        "overrides_taken_over",
        "override_state_moved",
        "offers_late",
        "offers_refused",
        "drains_aborted",
        "drains_done",
        "stale_reads",
        "lease_ends",
        "sessions_refused",
        "not_adopted",
        "claims",
        "releases",
        "fenced",
        "work",
        "pauses",
        "crashes",
        "cuts",
        "outages",
    ] {
        assert!(all.count(what) > 0, "{what} never happened: {all:?}");
    }
}

#[test]
fn g3_a_store_that_loses_data_is_noticed_and_everything_is_owned_once_again() {
    let all = campaign(0..40, |seed| Config { loses: true, ..Config::new(seed) });
    assert!(all.count("losses") > 10 && all.count("store_changes") > 10, "{all:?}");
}

#[test]
fn g5_a_crash_at_any_step_of_a_move_loses_and_doubles_nothing() {
    for step in Step::ALL {
        for side in [Side::From, Side::To] {
            let all = campaign(0..2, |seed| Config { crash: Some(CrashAt { step, side }), ..Config::new(seed) });
            assert!(all.count("crashed_at_step") > 0, "{step:?} {side:?} hardly ever came: {all:?}");
            assert!(all.count("state_moved") > 0, "{step:?} {side:?}: {all:?}");
        }
    }
}

/// How many seeds the campaign may take to find a bug that is there on purpose.
const FINDS_WITHIN: u64 = 60;

fn finds(plant: Plant) {
    let found = (0..FINDS_WITHIN).find_map(|seed| {
        let report = run(Config { plant: Some(plant), ..Config::new(seed) });
        report.violation.map(|violation| (seed, violation))
    });
    let (seed, violation) = found.unwrap_or_else(|| panic!("{plant:?} was not found within {FINDS_WITHIN} seeds"));
    println!("{plant:?}: found by seed {seed}: {violation}");
}

#[test]
fn g3_the_simulation_finds_a_lease_without_margin() {
    finds(Plant::SkipMargin);
}

#[test]
fn g3_the_simulation_finds_an_epoch_that_is_ignored() {
    finds(Plant::IgnoreEpoch);
}

#[test]
fn g2_the_simulation_finds_a_take_over_without_a_tombstone() {
    finds(Plant::NoTombstone);
}

#[test]
fn g2_the_simulation_finds_a_late_delete() {
    finds(Plant::LateDelete);
}

#[test]
fn g2_the_simulation_finds_a_start_after_a_lost_answer() {
    finds(Plant::StartUnasked);
}

#[test]
fn g5_the_simulation_finds_an_owner_that_goes_on_after_an_unsettled_hand_over() {
    finds(Plant::ResumeUnsettled);
}

#[test]
fn g2_the_simulation_finds_an_identity_that_its_slot_goes_on_with() {
    finds(Plant::ServeParts);
}

#[test]
fn g5_the_simulation_finds_state_of_an_earlier_attempt() {
    finds(Plant::LateOffer);
}
