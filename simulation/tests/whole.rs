//! A slice of the simulation: what is here runs with all other tests. The long runs: `cargo xtask sim --whole --seeds N`.

use std::process::Command;

/// Runs the program; whether it found all well, and what it said.
fn sim(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_multidc-sim")).args(args).output().expect("the program runs");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), said)
}

#[test]
fn g2_the_same_seed_gives_the_same_run() {
    let (same, said) = sim(&["--seed", "3", "--twice"]);
    assert!(same, "{said}");
}

#[test]
fn g2_g3_g5_whatever_breaks_there_is_one_owner_nothing_is_lost_and_all_answers_again() {
    let (well, said) = sim(&["--seeds", "6", "--covered"]);
    assert!(well, "{said}");
}

/// How many seeds it may take to find a bug that is there on purpose. Seeds mean other runs when anything changes; the one
/// that is seldom found (no-tombstone) shows in 11 of 300.
const FINDS_WITHIN: u64 = 120;

fn finds(plant: &str) {
    let found = (0..FINDS_WITHIN).find_map(|seed| {
        let (well, said) = sim(&["--seed", &seed.to_string(), "--plant", plant]);
        (!well).then(|| said.lines().last().unwrap_or_default().to_owned()).map(|wrong| (seed, wrong))
    });
    let (seed, wrong) = found.unwrap_or_else(|| panic!("{plant} was not found within {FINDS_WITHIN} seeds"));
    assert!(wrong.starts_with("wrong"), "seed {seed} failed without a word of what is wrong: {wrong}");
    println!("{plant}: found by seed {seed}: {wrong}");
}

#[test]
fn g3_the_simulation_finds_a_lease_without_margin() {
    finds("skip-margin");
}

#[test]
fn g2_the_simulation_finds_a_take_over_without_a_tombstone() {
    finds("no-tombstone");
}

#[test]
fn g2_the_simulation_finds_a_start_after_a_lost_answer() {
    finds("start-unasked");
}

#[test]
fn g2_the_simulation_finds_an_actor_that_does_not_look_at_its_title() {
    finds("no-title");
}
