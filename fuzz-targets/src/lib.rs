//! What the fuzzers run, as plain functions from bytes: every decoder, and the state machines behind them.
//!
//! One function serves two: cargo-fuzz (`fuzz/`, coverage-guided, for hours) and the property tests of this crate
//! (`tests/properties.rs`, seconds, stable toolchain, in CI). Knows the insides of crates through their feature
//! `fuzzing`; nothing depends on it. `docs/fuzzing.md` tells how to run both.
//!
//! Reading order: [`TARGETS`], [`config`], [`records`], [`mutate`], [`wire`].

pub mod config;
pub mod mutate;
pub mod records;
pub mod seeds;
pub mod wire;

use std::path::PathBuf;

/// One thing to fuzz.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of the program under `fuzz/fuzz_targets`, and of the directories with its seeds and inputs.
    pub name: &'static str,
    /// What it claims.
    pub about: &'static str,
    /// Takes any bytes; panics where a claim does not hold.
    pub run: fn(&[u8]),
    /// Inputs worth starting from, by name.
    pub seeds: fn() -> Vec<(String, Vec<u8>)>,
}

/// Everything that is fuzzed. A new decoder gets a line here, a program in `fuzz/fuzz_targets` and its seeds.
pub const TARGETS: &[Target] = &[
    Target {
        name: "frames",
        about: "link frames: read in place and by prost alike, or refused",
        run: dc_remoting::fuzzing::frame,
        seeds: seeds::frames,
    },
    Target {
        name: "handshake",
        about: "hello and welcome: refused with a reason, or an identity that reads back",
        run: dc_remoting::fuzzing::handshake,
        seeds: seeds::frames,
    },
    Target {
        name: "link",
        about: "frames in any order, over any lane, from either side: the link closes or goes on, the node is well",
        run: dc_remoting::fuzzing::link,
        seeds: seeds::links,
    },
    Target {
        name: "gossip",
        about: "gossip datagrams: foreign ones are dropped for the right reason, members' ones keep the view sound",
        run: dc_cluster::fuzzing::gossip,
        seeds: dc_cluster::fuzzing::gossip_seeds,
    },
    Target {
        name: "directory",
        about: "questions and answers about names: one answer for each question, names bounded",
        run: dc_cluster::fuzzing::directory,
        seeds: dc_cluster::fuzzing::directory_seeds,
    },
    Target {
        name: "records",
        about: "what others stored: corrupt, or a valid record that is written back with all it holds",
        run: records::records,
        seeds: seeds::records,
    },
    Target {
        name: "config",
        about: "names, endpoints, selectors, labels and URLs: refused by field, or read back; no secret is shown",
        run: config::config,
        seeds: config::seeds,
    },
    Target {
        name: "payloads",
        about: "actor bodies, faults, references, messages: an error, or a value that reads back",
        run: dc_actor::fuzzing::payload,
        seeds: seeds::payloads,
    },
    Target {
        name: "ownership",
        about: "documents of ownership, alone and shown to a node: refused, or read back; the node goes on",
        run: dc_ownership::fuzzing::ownership,
        seeds: dc_ownership::fuzzing::scripts,
    },
];

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// The directory of the repository.
pub fn root() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), ".."].iter().collect()
}

/// The files of a directory with their content, by name. None where there is no such directory.
///
/// # Panics
///
/// Where one cannot be read.
pub fn files_in(directory: PathBuf) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(&directory) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("a readable directory").path();
            let content = std::fs::read(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
            (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), content)
        })
        .collect();
    files.sort();
    files
}

/// Inputs of a target that are kept: its seeds, then what was once found with it.
pub fn kept(target: &Target) -> Vec<(String, Vec<u8>)> {
    let fuzz = root().join("fuzz");
    let mut inputs = files_in(fuzz.join("seeds").join(target.name));
    inputs.extend(files_in(fuzz.join("regressions").join(target.name)));
    inputs
}
