//! Follows every message of a soak from what its sender and its target wrote down, and says what must not be.
//!
//! Knows nothing of processes and files: entries come in, in the order in which each process wrote them; what happened
//! around them it asks of a [`World`]. A message is looked at for [`WINDOW`] after it was sent and then forgotten, so
//! that an hour costs no more memory than a minute.
//!
//! | rule | what is a violation |
//! |---|---|
//! | R1 | a message handled after a later one of its stream by the same activation, with no link lost in between |
//! | R2 | a message handled twice, or more than [`LATE`] after it was sent |
//! | R3 | a message that certainly did not run, and ran; one that was acknowledged, and did not |
//! | A4 | an accepted tell never handled, though both nodes lived and their link stood; an answer by one who did not handle it |
//! | L3 | a spawn that starts two actors, out of A2's limit: while members disagree each side may have one |
//! | G1 | a message handled by two activations; two activations of a grain at work at once, out of the documented limits |
//! | G2 | two activations of a global grain or name at work at once, whatever was being done to the system |
//!
//! Reading order: [`Checker::take`], [`Checker::advance`], [`World`].

mod grains;
#[cfg(test)]
mod tests;
mod totals;
mod window;

use std::collections::{BTreeMap, HashMap, HashSet, hash_map};

pub use self::totals::{Distance, Times, Totals};
use self::{
    grains::{Grains, Overlap},
    window::{Slot, Window},
};
use super::{
    clock::SECOND,
    record::{Class, Entry, Outcome, What, run_of},
};

/// How long a message is looked at after it was sent.
pub const WINDOW: u64 = 45 * SECOND;

/// A message that is handled so long after it was sent was held by something that must not hold messages.
pub const LATE: u64 = 30 * SECOND;

/// How long a suspicion waits for what may explain it.
const PATIENCE: u64 = 3 * SECOND;

/// How long the link of an accepted tell must have stood, from before it was sent, for its loss to have no excuse.
const STOOD: [u64; 2] = [2 * SECOND, 10 * SECOND];

/// What happened around the messages.
pub trait World {
    /// The place of the process of this run.
    fn slot(&self, run: u32) -> Option<usize>;
    /// The datacenter of a place.
    fn dc(&self, slot: usize) -> usize;
    /// The run of the node with this id (its lower half).
    fn run_of_node(&self, node: u64) -> Option<u32>;
    /// Whether the process of this run lived beyond that time.
    fn lived_until(&self, run: u32, end_us: u64) -> bool;
    /// Whether a link from one place to the other began or ended in between.
    fn link_changed(&self, from: usize, to: usize, begin_us: u64, end_us: u64) -> bool;
    /// Whether members or tables differed at that time, or had differed shortly before (G2's limits).
    fn disturbed(&self, at_us: u64) -> bool;
    /// Whether nothing was done to the system at that time, nor shortly before.
    fn quiet(&self, at_us: u64) -> bool;
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// The guarantee.
    pub rule: String,
    /// What was seen.
    pub text: String,
    /// When, by [`super::clock`].
    pub at_us: u64,
}

/// Violations that are kept with their text; all are counted.
const KEPT: usize = 100;

#[derive(Debug)]
enum Suspicion {
    Overtaken {
        entry: Entry,
    },
    Twice {
        overlap: Overlap,
        entry: Entry,
    },
    /// A spawn that started a second actor, on another node.
    Again {
        entry: Entry,
    },
}

/// The checker.
#[derive(Debug, Default)]
pub struct Checker {
    streams: HashMap<u64, Window>,
    grains: Grains,
    suspicions: Vec<(u64, Suspicion)>,
    told_of: HashSet<[u64; 2]>,
    violations: Vec<Violation>,
    counts: BTreeMap<String, u64>,
    totals: Totals,
}

impl Checker {
    /// What the run came to so far.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The first violations, with their text.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// All violations, counted by guarantee.
    pub fn counts(&self) -> &BTreeMap<String, u64> {
        &self.counts
    }

    /// Messages that are being looked at.
    pub fn open(&self) -> usize {
        self.streams.values().map(Window::len).sum()
    }

    /// Notes a violation; also those that others than the checker saw.
    pub fn wrong(&mut self, rule: &str, text: String, at_us: u64) {
        *self.counts.entry(rule.to_owned()).or_default() += 1;
        if self.violations.len() < KEPT {
            self.violations.push(Violation { rule: rule.to_owned(), text, at_us });
        }
    }

    /// Takes one entry of a log.
    pub fn take(&mut self, entry: &Entry, world: &impl World) {
        match entry.what {
            What::Handled => self.handled(entry, world),
            What::Told(outcome, error) => self.told(entry, outcome, error, world),
        }
    }

    fn window(&mut self, entry: &Entry) -> &mut Window {
        match self.streams.entry(entry.stream) {
            hash_map::Entry::Occupied(window) => window.into_mut(),
            hash_map::Entry::Vacant(vacant) => vacant.insert(Window::new(entry.class, entry.seq)),
        }
    }

    fn handled(&mut self, entry: &Entry, world: &impl World) {
        *self.totals.handled.entry(entry.class).or_default() += 1;
        let who = describe(entry, world);
        let held = entry.at_us.saturating_sub(entry.sent_us);
        if held > LATE {
            self.wrong("R2", format!("{who} was handled {} s after it was sent", held / SECOND), entry.at_us);
        }
        let dc = world.slot(run_of(entry.activation)).map_or(0, |slot| world.dc(slot));
        let window = self.window(entry);
        let overtaken = window.overtaken(entry.activation, entry.seq);
        let Some(slot) = window.slot(entry.seq) else {
            return self.wrong("R2", format!("{who} was handled after it had been closed"), entry.at_us);
        };
        let before = std::mem::replace(&mut slot.handled_by, entry.activation);
        (slot.sent_us, slot.handled_us) = (entry.sent_us, entry.at_us);
        let told = slot.told;
        window.found(entry.activation, entry.sent_us);
        if before != 0 && entry.class == Class::Spawn && before != entry.activation {
            self.suspicions.push((entry.at_us, Suspicion::Again { entry: *entry }));
        } else if before != 0 {
            let rule = if before == entry.activation { "R2" } else { "G1" };
            let text = format!("{who} was handled twice: by {before:#x} and by {:#x}", entry.activation);
            self.wrong(rule, text, entry.at_us);
        } else if overtaken {
            self.suspicions.push((entry.at_us, Suspicion::Overtaken { entry: *entry }));
        }
        if matches!(told, Some((Outcome::NotRun, _))) {
            self.wrong("R3", format!("{who} certainly did not run, and ran"), entry.at_us);
        }
        if entry.grain > 0 {
            for overlap in self.grains.handled(entry, dc) {
                self.suspicions.push((entry.at_us, Suspicion::Twice { overlap, entry: *entry }));
            }
        }
    }

    fn told(&mut self, entry: &Entry, outcome: Outcome, error: u8, world: &impl World) {
        self.totals.note_told(outcome, error);
        let window = self.window(entry);
        let Some(slot) = window.slot(entry.seq) else { return };
        (slot.sent_us, slot.told_us) = (entry.sent_us, entry.at_us);
        slot.told = Some((outcome, entry.activation));
        let ran = slot.handled_by != 0;
        if outcome == Outcome::Acknowledged {
            window.answered(entry.activation, entry.at_us);
        }
        if outcome == Outcome::NotRun && ran {
            let who = describe(entry, world);
            self.wrong("R3", format!("{who} certainly did not run, and ran"), entry.at_us);
        }
        if outcome == Outcome::Acknowledged && entry.class != Class::Spawn {
            let slots = (world.slot(run_of(entry.stream)), world.slot(run_of(entry.activation)));
            if let (Some(from), Some(to)) = slots {
                let distance = match () {
                    () if from == to => Distance::Here,
                    () if world.dc(from) == world.dc(to) => Distance::Near,
                    () => Distance::Far,
                };
                let times = self.totals.times.entry((distance, world.quiet(entry.at_us))).or_default();
                times.add(entry.at_us.saturating_sub(entry.sent_us));
            }
        }
    }

    /// Looks at suspicions that have waited long enough, and closes and forgets messages that are old.
    pub fn advance(&mut self, now_us: u64, world: &impl World) {
        self.judge(now_us.saturating_sub(PATIENCE), world);
        self.close(now_us.saturating_sub(WINDOW), world);
        self.grains.forget(now_us);
    }

    /// Judges and closes everything: nothing more will come.
    pub fn finish(&mut self, world: &impl World) {
        self.judge(u64::MAX, world);
        self.close(u64::MAX, world);
    }

    fn judge(&mut self, before_us: u64, world: &impl World) {
        let (ripe, waiting) = std::mem::take(&mut self.suspicions).into_iter().partition(|(at, _)| *at < before_us);
        self.suspicions = waiting;
        let ripe: Vec<(u64, Suspicion)> = ripe;
        for (at_us, suspicion) in ripe {
            match suspicion {
                Suspicion::Overtaken { entry } => self.judge_order(&entry, world),
                Suspicion::Again { entry } if world.disturbed(entry.at_us) => self.totals.spawns_twice += 1,
                Suspicion::Again { entry } => {
                    self.wrong("L3", format!("{} started a second actor", describe(&entry, world)), at_us);
                }
                Suspicion::Twice { overlap, entry } if !entry.class.is_global() && world.disturbed(overlap.at_us) => {
                    self.totals.grains_twice += 1;
                }
                Suspicion::Twice { overlap, entry } => {
                    // Once for each two: they overlap with every message. What is global has no excuse.
                    if self.told_of.len() < 10_000 && self.told_of.insert(overlap.activations) {
                        let [a, b] = overlap.activations.map(|activation| place(activation, world));
                        let (kind, grain) = (entry.class.name(), entry.grain);
                        let text = format!("{kind} {grain} was active twice at once: {a} and {b}");
                        self.wrong(if entry.class.is_global() { "G2" } else { "G1" }, text, at_us);
                    }
                }
            }
        }
    }

    fn judge_order(&mut self, entry: &Entry, world: &impl World) {
        let slots = (world.slot(run_of(entry.stream)), world.slot(run_of(entry.activation)));
        let excused = match slots {
            (Some(from), Some(to)) if from != to => {
                world.link_changed(from, to, entry.sent_us.saturating_sub(SECOND), entry.at_us + SECOND)
            }
            _ => false,
        };
        // Until it has an answer from where a grain is now, a sender may take it for where it was: what it tells is passed
        // on from there, and what it asks comes back. So it is again once what it tells is handled elsewhere.
        let knew = self.streams.get(&entry.stream).is_some_and(|window| window.knew(entry.activation, entry.sent_us));
        // One whose home follows from who is a member may be looked for elsewhere, and back, while members differ.
        let astray = !entry.class.is_global() && world.disturbed(entry.at_us);
        if excused || (entry.class.moves() && (!knew || astray)) {
            self.totals.overtaken_across_links += 1;
        } else {
            let by = place(entry.activation, world);
            let around = self.streams.get(&entry.stream).map_or_else(String::new, |window| window.around(entry.seq));
            let (who, grain) = (describe(entry, world), entry.grain);
            let text = format!("{who} was handled by {by} after a later one of its stream (to {grain}: {around})");
            self.wrong("R1", text, entry.at_us);
        }
    }

    fn close(&mut self, before_us: u64, world: &impl World) {
        let mut streams = std::mem::take(&mut self.streams);
        streams.retain(|stream, window| {
            let class = window.class;
            window.close(before_us, |seq, slot| self.closed(*stream, seq, class, &slot, world));
            !window.is_empty()
        });
        self.streams = streams;
    }

    fn closed(&mut self, stream: u64, seq: u32, class: Class, slot: &Slot, world: &impl World) {
        let Some((outcome, receiver)) = slot.told else { return };
        let what = || format!("message {seq} of {} ({})", place(stream, world), class.name());
        match (outcome, slot.handled_by) {
            (Outcome::Acknowledged, 0) => {
                self.wrong("R3", format!("{} was acknowledged, and never ran", what()), slot.sent_us);
            }
            (Outcome::Acknowledged, by) if receiver != 0 && by != receiver => {
                let text = format!("{} was answered by {receiver:#x} and handled by {by:#x}", what());
                self.wrong("A4", text, slot.sent_us);
            }
            (Outcome::Acknowledged, _) => self.totals.confirmed += 1,
            (Outcome::NotRun, 0) => self.totals.refused_and_silent += 1,
            (Outcome::Accepted, 0) if class == Class::Actor && stood(stream, receiver, slot.sent_us, world) => {
                let text = format!("{}, an accepted tell, was lost though its link stood", what());
                self.wrong("A4", text, slot.sent_us);
            }
            (Outcome::Accepted, 0) => self.totals.tells_lost += 1,
            (Outcome::Accepted | Outcome::NotRun | Outcome::Unknown, _) => {}
        }
    }
}

/// Whether nothing happened that may lose an accepted tell to the node `receiver`.
fn stood(stream: u64, receiver: u64, sent_us: u64, world: &impl World) -> bool {
    let (from, to) = (run_of(stream), world.run_of_node(receiver));
    let (begin, end) = (sent_us.saturating_sub(STOOD[0]), sent_us + STOOD[1]);
    let Some(to) = to else { return false };
    let (Some(from_slot), Some(to_slot)) = (world.slot(from), world.slot(to)) else { return false };
    let linked = from_slot == to_slot || !world.link_changed(from_slot, to_slot, begin, end);
    linked && world.lived_until(from, end) && world.lived_until(to, end)
}

fn place(number: u64, world: &impl World) -> String {
    let slot = world.slot(run_of(number)).map_or("?".to_owned(), |slot| slot.to_string());
    format!("{number:#x} (node {slot})")
}

fn describe(entry: &Entry, world: &impl World) -> String {
    format!("message {} of {} ({})", entry.seq, place(entry.stream, world), entry.class.name())
}
