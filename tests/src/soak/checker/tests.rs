//! Each rule is shown to be able to fail, and not to fail where there is an excuse.

use super::*;

/// Two nodes of one datacenter and one of another; runs are places plus 1.
#[derive(Default)]
struct Still {
    link_lost_us: Option<u64>,
    died: Option<(u32, u64)>,
    disturbed: bool,
}

impl World for Still {
    fn slot(&self, run: u32) -> Option<usize> {
        Some(run as usize - 1)
    }
    fn dc(&self, slot: usize) -> usize {
        slot / 2
    }
    fn run_of_node(&self, node: u64) -> Option<u32> {
        Some(node as u32)
    }
    fn lived_until(&self, run: u32, end_us: u64) -> bool {
        self.died.is_none_or(|(who, when)| who != run || when > end_us)
    }
    fn link_changed(&self, _: usize, _: usize, begin_us: u64, end_us: u64) -> bool {
        self.link_lost_us.is_some_and(|lost| (begin_us..=end_us).contains(&lost))
    }
    fn disturbed(&self, _: u64) -> bool {
        self.disturbed
    }
    fn quiet(&self, _: u64) -> bool {
        true
    }
}

const T0: u64 = 1_000 * SECOND;
/// A stream of run 1, and activations of runs 2 and 3.
const STREAM: u64 = 1 << 32 | 1;
const A: u64 = 2 << 32 | 1;
const B: u64 = 3 << 32 | 1;

fn handled(seq: u32, activation: u64) -> Entry {
    let sent_us = T0 + u64::from(seq) * 1_000;
    let (what, class) = (What::Handled, Class::Actor);
    Entry { what, class, stream: STREAM, seq, activation, sent_us, at_us: sent_us + 500, grain: 0 }
}

fn told(seq: u32, outcome: Outcome, activation: u64) -> Entry {
    let handled = handled(seq, activation);
    Entry { what: What::Told(outcome, 0), at_us: handled.at_us + 400, ..handled }
}

/// The guarantees that a run of these entries breaks.
fn broken(entries: &[Entry], world: &Still) -> Vec<String> {
    let mut checker = Checker::default();
    for entry in entries {
        checker.take(entry, world);
    }
    checker.finish(world);
    checker.counts().keys().cloned().collect()
}

#[test]
fn r1_r2_r3_a4_what_is_in_order_is_no_violation() {
    let mut entries = Vec::new();
    for seq in 1..50 {
        entries.extend([handled(seq, A), told(seq, Outcome::Acknowledged, A)]);
    }
    entries.extend([told(50, Outcome::NotRun, 0), told(51, Outcome::Unknown, 0), handled(52, A)]);
    entries.extend([told(52, Outcome::Unknown, 0), told(53, Outcome::Accepted, 2), handled(53, A)]);
    assert!(broken(&entries, &Still::default()).is_empty());
    // Logs of two processes may be read in any order.
    entries.sort_by_key(|entry| (matches!(entry.what, What::Handled), entry.seq));
    assert!(broken(&entries, &Still::default()).is_empty());
}

#[test]
fn r1_a_message_that_is_overtaken_is_found_unless_its_link_was_lost() {
    let entries = [handled(1, A), handled(3, A), handled(2, A)];
    assert_eq!(broken(&entries, &Still::default()), ["R1"]);
    let lost = Still { link_lost_us: Some(T0 + 2_500), ..Still::default() };
    assert!(broken(&entries, &lost).is_empty());
    let long_before = Still { link_lost_us: Some(T0 - 5 * SECOND), ..Still::default() };
    assert_eq!(broken(&entries, &long_before), ["R1"]);
    assert!(broken(&[handled(1, A), handled(3, A), handled(2, B)], &Still::default()).is_empty(), "two targets");
    // On one node there is no link that could be lost.
    let local = |seq| handled(seq, 1 << 32 | 9);
    assert_eq!(broken(&[local(2), local(1)], &lost), ["R1"]);
}

#[test]
fn r1_a_grains_messages_are_in_order_once_their_sender_had_an_answer() {
    let grain = |entry: Entry| Entry { class: Class::Ledger, grain: 5, ..entry };
    let (asked, answered) = (grain(handled(1, A)), grain(told(1, Outcome::Acknowledged, A)));
    let swapped = [grain(handled(4, A)), grain(handled(3, A))];
    assert!(broken(&swapped, &Still::default()).is_empty(), "one went by way of where the grain was");
    assert_eq!(broken(&[asked, answered, swapped[0], swapped[1]], &Still::default()), ["R1"]);
    assert_eq!(broken(&[asked, swapped[0], swapped[1], answered], &Still::default()), ["R1"], "read in another order");
    let disturbed = Still { disturbed: true, ..Still::default() };
    let entries = [asked, answered, swapped[0], swapped[1]];
    assert!(broken(&entries, &disturbed).is_empty(), "its home was another one in between");
    let global = entries.map(|entry| Entry { class: Class::Vault, ..entry });
    assert_eq!(broken(&global, &disturbed), ["R1"], "which does not follow from members");
    let late = Entry { at_us: swapped[1].sent_us + 1, ..answered };
    assert!(broken(&[asked, late, swapped[0], swapped[1]], &Still::default()).is_empty(), "sent before the answer");
}

#[test]
fn r2_a_message_that_is_handled_twice_is_found_also_much_later() {
    assert_eq!(broken(&[handled(1, A), handled(1, A)], &Still::default()), ["R2"]);
    let mut checker = Checker::default();
    let world = Still::default();
    for seq in 1..10 {
        checker.take(&handled(seq, A), &world);
        checker.take(&told(seq, Outcome::Acknowledged, A), &world);
    }
    checker.advance(T0 + WINDOW + SECOND, &world);
    assert_eq!(checker.open(), 0, "old messages are forgotten");
    let late = Entry { at_us: T0 + WINDOW + SECOND, ..handled(3, A) };
    checker.take(&late, &world);
    assert_eq!(checker.counts().get("R2"), Some(&1));
}

#[test]
fn r3_what_certainly_did_not_run_and_ran_is_found_in_both_orders() {
    assert_eq!(broken(&[handled(1, A), told(1, Outcome::NotRun, 0)], &Still::default()), ["R3"]);
    assert_eq!(broken(&[told(1, Outcome::NotRun, 0), handled(1, A)], &Still::default()), ["R3"]);
}

#[test]
fn r3_what_was_acknowledged_and_never_ran_is_found() {
    assert_eq!(broken(&[told(1, Outcome::Acknowledged, A)], &Still::default()), ["R3"]);
    let spawn = Entry { class: Class::Spawn, ..told(1, Outcome::Acknowledged, 0) };
    assert_eq!(broken(&[spawn], &Still::default()), ["R3"], "a spawn that succeeded started an actor");
    let started = Entry { class: Class::Spawn, ..handled(1, A) };
    assert!(broken(&[spawn, started], &Still::default()).is_empty());
    assert_eq!(broken(&[spawn, started, started], &Still::default()), ["R2"], "and only one");
}

#[test]
fn l3_a_spawn_that_starts_two_actors_is_found_unless_members_disagreed() {
    let started = |by| Entry { class: Class::Spawn, ..handled(1, by) };
    assert_eq!(broken(&[started(A), started(B)], &Still::default()), ["L3"]);
    assert!(broken(&[started(A), started(B)], &Still { disturbed: true, ..Still::default() }).is_empty());
}

#[test]
fn a4_an_answer_by_another_than_the_one_who_handled_it_is_found() {
    assert_eq!(broken(&[handled(1, A), told(1, Outcome::Acknowledged, B)], &Still::default()), ["A4"]);
}

#[test]
fn a4_a_tell_is_lost_only_with_its_link_or_a_node() {
    let entries = [told(1, Outcome::Accepted, 2)];
    assert_eq!(broken(&entries, &Still::default()), ["A4"]);
    let lost = Still { link_lost_us: Some(T0 + SECOND), ..Still::default() };
    assert!(broken(&entries, &lost).is_empty());
    for run in [1, 2] {
        let died = Still { died: Some((run, T0 + SECOND)), ..Still::default() };
        assert!(broken(&entries, &died).is_empty());
    }
}

#[test]
fn g1_two_activations_are_found() {
    assert_eq!(broken(&[handled(1, A), handled(1, B)], &Still::default()), ["G1"], "of one message");
    let grain = |seq, activation| Entry { class: Class::Ledger, grain: 5, ..handled(seq, activation) };
    let in_turn = [grain(1, A), grain(2, B), grain(3, A), grain(4, B)];
    assert_eq!(broken(&in_turn, &Still::default()), ["G1"]);
    assert!(broken(&in_turn, &Still { disturbed: true, ..Still::default() }).is_empty(), "within the limits of G2");
    assert!(broken(&[grain(1, A), grain(2, A), grain(3, B), grain(4, B)], &Still::default()).is_empty(), "it moved");
}

#[test]
fn g2_two_activations_of_what_is_global_are_found_whatever_is_done_to_the_system() {
    let disturbed = Still { disturbed: true, ..Still::default() };
    for class in [Class::Vault, Class::Deed] {
        let one = |seq, activation| Entry { class, grain: 5, ..handled(seq, activation) };
        assert_eq!(broken(&[one(1, A), one(2, B), one(3, A)], &disturbed), ["G2"]);
        assert_eq!(broken(&[one(1, A), one(2, 1 << 32 | 3), one(3, A)], &disturbed), ["G2"], "also in two datacenters");
        assert!(broken(&[one(1, A), one(2, A), one(3, B), one(4, B)], &disturbed).is_empty(), "it moved");
    }
}
