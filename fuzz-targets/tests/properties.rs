//! The fuzz targets on the stable toolchain: everything that is kept, then as many changed inputs as fit into a few
//! seconds. A failure prints what replays it.
//!
//! `MULTIDC_FUZZ_SEED` (a number) repeats a run; `MULTIDC_FUZZ_SECONDS` gives each target more time.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use dc_core::{Clock, SystemClock};
use multidc_fuzz_targets::{TARGETS, Target, kept, mutate, root, target};

/// How long each target is given.
const SECONDS: u64 = 2;

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text:?}: must be a number")))
}

/// Runs one input; what it did wrong is told together with where the input is.
fn run(target: &Target, bytes: &[u8], which: &str) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).is_err() {
        let file = root().join("target").join(format!("fuzz-{}.input", target.name));
        let saved = fs::create_dir_all(root().join("target")).and_then(|()| fs::write(&file, bytes));
        panic!(
            "{}: {which} breaks it ({} bytes, {saved:?}); once more: cargo run -p multidc-fuzz-targets -- run {} {}",
            target.name,
            bytes.len(),
            target.name,
            file.display()
        );
    }
}

fn holds(name: &str) {
    let target = target(name).expect("a target");
    let kept = kept(target);
    assert!(!kept.is_empty(), "{name}: no seeds in fuzz/seeds; `cargo xtask fuzz --write-seeds` writes them");
    for (file, bytes) in &kept {
        run(target, bytes, file);
    }
    let seeds: Vec<Vec<u8>> = kept.into_iter().map(|(_, bytes)| bytes).collect();
    let clock = SystemClock;
    // Any number does: it is told. The time that the process has run differs from run to run.
    let seed = from_environment("MULTIDC_FUZZ_SEED").unwrap_or_else(rand::random);
    let limit = Duration::from_secs(from_environment("MULTIDC_FUZZ_SECONDS").unwrap_or(SECONDS));
    println!("{name}: MULTIDC_FUZZ_SEED={seed}");
    let start = clock.now();
    let mut number = 0;
    while clock.now().duration_since(start) < limit {
        let bytes = mutate::input(&seeds, seed, number);
        run(target, &bytes, &format!("input {number} of MULTIDC_FUZZ_SEED={seed}"));
        number += 1;
    }
    println!("{name}: {} kept inputs and {number} changed ones, {limit:?}", seeds.len());
    assert!(number > 0, "{name}: not one input in {limit:?}");
}

#[test]
fn r8_frames_are_read_alike_or_refused() {
    holds("frames");
}

#[test]
fn r8_first_frames_are_read_or_refused_with_a_reason() {
    holds("handshake");
}

#[test]
fn r8_no_order_of_frames_from_either_side_harms_a_node() {
    let before = resident();
    holds("link");
    let grown = resident().saturating_sub(before);
    // A run holds one link, whose window is 64 MiB: what stays behind is far less.
    assert!(grown < 256 << 20, "R8: memory grew by {grown} bytes over the run");
}

/// Bytes that this process has in memory; 0 where the system does not tell.
fn resident() -> usize {
    let told = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    told.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

#[test]
fn gossip_of_strangers_is_dropped_and_members_gossip_keeps_the_view_sound() {
    holds("gossip");
}

#[test]
fn directory_questions_get_one_answer_each() {
    holds("directory");
}

#[test]
fn p6_stored_documents_are_corrupt_or_kept_whole() {
    holds("records");
}

#[test]
fn settings_are_refused_by_field_or_read_back_and_show_no_secret() {
    holds("config");
}

#[test]
fn r8_bodies_about_actors_are_refused_or_read_back() {
    holds("payloads");
}

#[test]
fn g3_no_document_of_strangers_stops_a_node() {
    holds("ownership");
}

/// Every target has its program for cargo-fuzz, its seeds, and its test here.
#[test]
fn every_target_is_fuzzed_and_tested() {
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).expect("fuzz/Cargo.toml");
    let tests = fs::read_to_string(root().join("fuzz-targets/tests/properties.rs")).expect("this file");
    for target in TARGETS {
        let name = target.name;
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}: no [[bin]] in fuzz/Cargo.toml");
        let program = fs::read_to_string(root().join(format!("fuzz/fuzz_targets/{name}.rs"))).expect("its program");
        assert!(program.contains(&format!("target(\"{name}\")")), "{name}: its program runs another target");
        assert!(tests.contains(&format!("holds(\"{name}\")")), "{name}: no test");
    }
}
