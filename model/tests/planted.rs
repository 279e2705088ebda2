//! Each rule left out on purpose is found out: a schedule in which something breaks. A model that misses one proves
//! nothing about it.

use multidc_model::{
    Config,
    Plant::{self, *},
    check::{self, EPOCHS_RISE, FENCED, NEWEST_STATE, NOTHING_LOST, ONE_TITLE, STORED},
};

/// Leaves the rule out, and wants this to break, by more than a step or two.
fn breaks(config: Config, plant: Plant, property: &'static str) {
    let report = check::find(&config.without(plant), property);
    let found = report.broken.iter().find(|(broken, _)| *broken == property);
    let Some((_, steps)) = found else { panic!("{plant:?} breaks nothing of {property:?}: {report:?}") };
    assert!(steps.len() > 3, "{plant:?}: {steps:?}");
    println!("{plant:?}: {} states, {} steps, {:?}", report.states, steps.len(), report.took);
}

#[test]
fn a_lease_without_margin() {
    breaks(Config::takeover(), SkipMargin, ONE_TITLE);
}

#[test]
fn a_margin_of_less_than_two_elevenths() {
    let report = check::find(&Config::fine_clock(9), ONE_TITLE);
    assert!(report.broken.iter().any(|(property, _)| *property == ONE_TITLE), "{report:?}");
}

#[test]
fn a_lease_counted_from_the_answer() {
    breaks(Config::takeover(), CountFromReceipt, ONE_TITLE);
}

#[test]
fn a_claim_without_a_tombstone() {
    breaks(Config::takeover(), NoTombstone, ONE_TITLE);
}

#[test]
fn a_claim_that_overwrites() {
    breaks(Config::three_nodes(), UnversionedClaim, ONE_TITLE);
}

#[test]
fn absence_taken_for_an_end() {
    breaks(Config::dropped(), TrustAbsence, ONE_TITLE);
}

#[test]
fn absence_watched_for_a_ttl_taken_for_an_end() {
    breaks(Config::sessions(), AbsenceProves, STORED);
}

#[test]
fn a_tombstone_without_proof_taken_for_one_with() {
    breaks(Config::dropped(), UnprovedProves, ONE_TITLE);
}

#[test]
fn a_hand_over_under_the_same_epoch() {
    breaks(Config::moves(), EpochKept, EPOCHS_RISE);
}

#[test]
fn a_read_that_settles_a_lost_hand_over() {
    breaks(Config::moves(), ResumeOnRead, ONE_TITLE);
}

#[test]
fn an_old_entry_that_gives_a_title_back() {
    breaks(Config::moves(), OldEntryBelieved, ONE_TITLE);
}

#[test]
fn a_move_given_up_under_the_same_epoch() {
    breaks(Config::memory_again(), ResumeSameEpoch, NEWEST_STATE);
}

#[test]
fn a_late_offer_that_displaces_a_newer_one() {
    breaks(Config::memory_again(), LateOfferDisplaces, NEWEST_STATE);
}

#[test]
fn a_claim_served_without_a_renewal() {
    breaks(Config::rollback(), NoRenewalAfterClaim, ONE_TITLE);
}

#[test]
fn a_session_that_goes_on_from_an_older_state_of_itself() {
    breaks(Config::rollback(), OldRenewalRecognised, ONE_TITLE);
}

#[test]
fn a_release_that_removes_whatever_is_there() {
    breaks(Config::names(), UnversionedRelease, STORED);
}

#[test]
fn a_name_that_starts_again_at_its_first_epoch() {
    breaks(Config::names(), EpochRestarts, EPOCHS_RISE);
}

#[test]
fn storage_that_compares_nothing() {
    breaks(Config::storage(), StorageIgnoresEpoch, FENCED);
}

#[test]
fn state_loaded_before_the_epoch_is_presented() {
    breaks(Config::storage(), LoadBeforePresent, NOTHING_LOST);
}
