//! Inputs for the property tests: any bytes, and seeds that were changed here and there.

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// The longest input that is made.
const LONGEST: usize = 4096;

/// Values at which lengths, counts and numbers change their meaning.
const EDGES: [u8; 8] = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, b'/'];

/// The input of that number in the run with that seed: always the same for the same `seeds`.
pub fn input(seeds: &[Vec<u8>], seed: u64, number: u64) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut bytes = match seeds.choose(&mut rng) {
        Some(seed) if rng.random_range(0..16) > 0 => seed.clone(),
        _ => {
            let len = rng.random_range(0..200);
            (0..len).map(|_| rng.random()).collect()
        }
    };
    for _ in 0..rng.random_range(1..=6) {
        change(&mut bytes, seeds, &mut rng);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &mut StdRng) {
    let at = rng.random_range(0..=bytes.len());
    let len = rng.random_range(0..=(bytes.len() - at).min(32));
    match rng.random_range(0..8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        1 if at < bytes.len() => bytes[at] = rng.random(),
        2 if at < bytes.len() => bytes[at] = EDGES[rng.random_range(0..EDGES.len())],
        3 => bytes.insert(at, rng.random()),
        4 => drop(bytes.drain(at..at + len)),
        5 => {
            let part = bytes[at..at + len].to_vec();
            let to = rng.random_range(0..=bytes.len());
            bytes.splice(to..to, part);
        }
        6 => bytes.truncate(at),
        _ => {
            if let Some(other) = seeds.choose(rng) {
                let from = rng.random_range(0..=other.len());
                bytes.splice(at..at + len, other[from..].iter().copied());
            }
        }
    }
}
