//! Which datacenter.

use std::sync::Arc;

use dc_core::{Entry, Snapshot, snapshot::Candidates};

use crate::{
    Choice, Refusal, Request, Strategy,
    endpoints::{best_key, first_endpoint},
    refusal::{check_freshness, refuse},
    rng::Rng,
};

/// The most datacenters that one decision compares by distance, load or weight.
pub const COMPARED: usize = 16;

/// Draws before the matches are walked: only selectors of several criteria, and excluded endpoints, make a draw fail.
const DRAWS: usize = 24;

/// Chooses a datacenter and its first endpoint (L1, L2). Pure: the same inputs and seed give the same choice.
///
/// Takes constant time for a selector of one criterion; one of several walks,
/// at worst, the shortest index that applies. Allocates nothing, unless it refuses.
///
/// # Errors
///
/// [`Refusal`], with its reasons.
pub fn choose<'a>(snapshot: &'a Snapshot, request: &Request<'a>, seed: u64) -> Result<Choice<'a>, Refusal> {
    let stale = check_freshness(request)?;
    let candidates = snapshot.candidates(request.selector, request.purpose.needs());
    match pick(candidates, request, seed) {
        Some((entry, first, turn)) => Ok(Choice::new(entry, first, turn, stale, *request)),
        None => Err(refuse(snapshot, request)),
    }
}

/// The entry, the number of its first endpoint, and the seed of the order in which the others follow.
type Picked<'a> = (&'a Arc<Entry>, usize, u64);

fn pick<'a>(candidates: Candidates<'a>, request: &Request<'_>, seed: u64) -> Option<Picked<'a>> {
    let count = candidates.len();
    if count == 0 {
        return None;
    }
    if request.strategy == Strategy::RoundRobin {
        return in_turn(candidates, request, seed);
    }
    let mut rng = Rng::new(seed);
    let entry = match request.strategy {
        Strategy::Nearest | Strategy::LeastLoaded => best_of(candidates, request, &mut rng, seed),
        Strategy::Weighted => by_weight(candidates, request, &mut rng),
        Strategy::Random | Strategy::RoundRobin => None,
    };
    let entry = entry.or_else(|| at_random(candidates, request, &mut rng))?;
    let turn = rng.next();
    let first = first_endpoint(entry, request, turn)?;
    Some((entry, first, turn))
}

fn usable(candidates: &Candidates<'_>, request: &Request<'_>, entry: &Entry) -> bool {
    candidates.matches(entry)
        && match request.strategy {
            Strategy::Weighted => entry.weight() > 0,
            _ => true,
        }
        && (request.exclude.is_empty() || entry.endpoints().iter().any(|node| request.admits(node)))
}

/// Each usable candidate equally likely.
fn at_random<'a>(candidates: Candidates<'a>, request: &Request<'_>, rng: &mut Rng) -> Option<&'a Arc<Entry>> {
    for _ in 0..DRAWS {
        let entry = candidates.get(rng.index(candidates.len()))?;
        if usable(&candidates, request, entry) {
            return Some(entry);
        }
    }
    let (mut chosen, mut seen) = (None, 0);
    for entry in candidates.iter().filter(|entry| usable(&candidates, request, entry)) {
        seen += 1;
        if rng.below(seen) == 0 {
            chosen = Some(entry);
        }
    }
    chosen
}

/// Datacenters in turn, and in each its endpoints in turn: `seed` counts.
fn in_turn<'a>(candidates: Candidates<'a>, request: &Request<'_>, seed: u64) -> Option<Picked<'a>> {
    let count = candidates.len();
    let start = (seed % count as u64) as usize;
    let turn = seed / count as u64;
    (0..count)
        .filter_map(|step| candidates.get((start + step) % count))
        .find(|entry| usable(&candidates, request, entry))
        .and_then(|entry| Some((entry, first_endpoint(entry, request, turn)?, turn)))
}

/// All candidates where they are few, else as many as are compared, drawn with repetition.
fn some<'a>(candidates: Candidates<'a>, rng: &mut Rng) -> impl Iterator<Item = &'a Arc<Entry>> {
    let count = candidates.len();
    (0..count.min(COMPARED))
        .filter_map(move |number| candidates.get(if count <= COMPARED { number } else { rng.index(count) }))
}

fn best_of<'a>(candidates: Candidates<'a>, request: &Request<'_>, rng: &mut Rng, seed: u64) -> Option<&'a Arc<Entry>> {
    some(candidates, rng)
        .enumerate()
        .filter(|(_, entry)| usable(&candidates, request, entry))
        .filter_map(|(number, entry)| Some((best_key(entry, request)?, crate::rng::rank(seed, number), entry)))
        .min_by_key(|(key, rank, _)| (*key, *rank))
        .map(|(_, _, entry)| entry)
}

fn by_weight<'a>(candidates: Candidates<'a>, request: &Request<'_>, rng: &mut Rng) -> Option<&'a Arc<Entry>> {
    let (mut chosen, mut total) = (None, 0_u64);
    let mut draws = Rng::new(rng.next());
    for entry in some(candidates, rng).filter(|entry| usable(&candidates, request, entry)) {
        total += entry.weight();
        if draws.below(total) < entry.weight() {
            chosen = Some(entry);
        }
    }
    chosen
}
