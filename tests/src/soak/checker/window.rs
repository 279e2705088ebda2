//! The messages of one stream that are still looked at: two records of each, compared, and forgotten.

use std::collections::VecDeque;

use super::super::record::{Class, Outcome};

/// One message.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    /// When it was sent; 0: nothing is known of it yet.
    pub(super) sent_us: u64,
    /// What its sender was told, and who was said to have got it.
    pub(super) told: Option<(Outcome, u64)>,
    /// Who handled it; 0: nobody yet.
    pub(super) handled_by: u64,
    /// When it was handled, and when its sender was told of it; 0: not yet.
    pub(super) handled_us: u64,
    pub(super) told_us: u64,
}

/// How far an activation has come in a stream.
#[derive(Clone, Copy, Debug)]
struct Top {
    activation: u64,
    seq: u32,
}

/// A stream's open messages.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) class: Class,
    /// All below are closed.
    closed: u32,
    /// The number of the first slot.
    base: u32,
    slots: VecDeque<Slot>,
    tops: Vec<Top>,
    /// Where its target was found, in order of time.
    places: VecDeque<Place>,
}

/// Who has a target, as its sender sees it.
#[derive(Clone, Copy, Debug)]
struct Place {
    activation: u64,
    at_us: u64,
    /// Its sender was told so.
    answered: bool,
}

/// Activations whose progress is remembered, in each stream.
const TOPS: usize = 4;

/// How many messages before and after one are told with it.
const AROUND: u32 = 6;

/// Changes of who has its target that are remembered, in each stream.
const CHANGES: usize = 16;

/// Messages of one stream that are held at most; a stream that jumps further is broken.
const WIDEST: u32 = 1 << 20;

impl Window {
    pub(super) fn new(class: Class, seq: u32) -> Self {
        Self { class, closed: 0, base: seq, slots: VecDeque::new(), tops: Vec::new(), places: VecDeque::new() }
    }

    /// The message of this number; `None` if it was closed, or is no number that the stream could have come to.
    pub(super) fn slot(&mut self, seq: u32) -> Option<&mut Slot> {
        if seq < self.closed || seq.abs_diff(self.base) >= WIDEST {
            return None;
        }
        while seq < self.base {
            self.slots.push_front(Slot::default());
            self.base -= 1;
        }
        let at = (seq - self.base) as usize;
        if at >= self.slots.len() {
            self.slots.resize(at + 1, Slot::default());
        }
        self.slots.get_mut(at)
    }

    /// Notes that `activation` came to `seq`. True if it had come further already: the order was changed.
    pub(super) fn overtaken(&mut self, activation: u64, seq: u32) -> bool {
        if let Some(top) = self.tops.iter_mut().find(|top| top.activation == activation) {
            let overtaken = seq < top.seq;
            top.seq = top.seq.max(seq);
            return overtaken;
        }
        if self.tops.len() >= TOPS {
            self.tops.remove(0);
        }
        self.tops.push(Top { activation, seq });
        false
    }

    /// Notes that an ask was answered by `activation`: from here on the sender knows where its target is.
    pub(super) fn answered(&mut self, activation: u64, at_us: u64) {
        self.note(Place { activation, at_us, answered: true });
    }

    /// Notes that what was sent at `sent_us` was handled by `activation`: from here on the sender may have found its
    /// target there.
    pub(super) fn found(&mut self, activation: u64, sent_us: u64) {
        self.note(Place { activation, at_us: sent_us, answered: false });
    }

    fn note(&mut self, place: Place) {
        // The two files that this comes from are not read in one order.
        let index = self.places.partition_point(|other| other.at_us <= place.at_us);
        let before = index.checked_sub(1).and_then(|index| self.places.get(index));
        let known = |before: &Place| before.activation == place.activation && (before.answered || !place.answered);
        if before.is_some_and(known) {
            return;
        }
        self.places.insert(index, place);
        if self.places.len() > CHANGES {
            self.places.pop_front();
        }
    }

    /// Whether the sender knew, when it sent something at `sent_us`, that its target was `activation`: that one answered
    /// it last, and nothing that was sent since then was handled elsewhere.
    pub(super) fn knew(&self, activation: u64, sent_us: u64) -> bool {
        let before = self.places.iter().rev().skip_while(|place| place.at_us > sent_us);
        let mut there = before.take_while(|place| place.activation == activation);
        there.any(|place| place.answered)
    }

    /// What is known of the messages around this one, for people.
    pub(super) fn around(&self, seq: u32) -> String {
        let near = seq.saturating_sub(AROUND)..=seq + AROUND;
        let numbered =
            (self.base..).zip(&self.slots).filter(|(number, slot)| near.contains(number) && slot.sent_us > 0);
        let told = |slot: &Slot| match slot.told {
            Some((Outcome::Accepted, _)) => "tell",
            Some((Outcome::Acknowledged, _)) => "ask",
            Some((Outcome::NotRun, _)) => "not run",
            Some((Outcome::Unknown, _)) => "unknown",
            None => "?",
        };
        let after = |slot: &Slot, at_us: u64| match at_us.checked_sub(slot.sent_us) {
            Some(us) => format!("{us} us"),
            None => "-".to_owned(),
        };
        let lines = numbered.map(|(number, slot)| {
            let (handled, back) = (after(slot, slot.handled_us), after(slot, slot.told_us));
            let (by, sent) = (slot.handled_by, slot.sent_us);
            format!(
                "{number} ({}) sent at {sent} us, handled after {handled} by {by:#x}, over after {back}",
                told(slot)
            )
        });
        let places = self.places.iter().map(|Place { activation, at_us, answered }| {
            format!("{activation:#x} from {at_us} us on{}", if *answered { "" } else { " (no answer)" })
        });
        let lines: Vec<_> = lines.collect();
        format!("{}; found at {}", lines.join("; "), places.collect::<Vec<_>>().join(", "))
    }

    /// Closes what was sent before `before_us`, in order, and gives it to `closed`.
    pub(super) fn close(&mut self, before_us: u64, mut closed: impl FnMut(u32, Slot)) {
        // Numbers of which nothing was heard close with the next that was.
        let old = |slot: &Slot| slot.sent_us > 0 && slot.sent_us < before_us;
        let count = self.slots.iter().take_while(|slot| slot.sent_us == 0 || old(slot)).count();
        let count = self.slots.iter().take(count).rposition(old).map_or(0, |last| last + 1);
        for slot in self.slots.drain(..count) {
            if slot.sent_us > 0 {
                closed(self.base, slot);
            }
            self.base += 1;
        }
        if count > 0 {
            self.closed = self.base;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_close_in_order_and_stay_closed() {
        let mut window = Window::new(Class::Actor, 3);
        for (seq, sent) in [(3, 30), (1, 10), (2, 20), (5, 50)] {
            window.slot(seq).expect("open").sent_us = sent;
        }
        let mut closed = Vec::new();
        window.close(31, |seq, _| closed.push(seq));
        assert_eq!(closed, [1, 2, 3]);
        assert!(window.slot(3).is_none() && window.slot(4).is_some());
        window.close(100, |seq, _| closed.push(seq));
        assert_eq!(closed, [1, 2, 3, 5], "nothing was ever heard of 4");
        assert!(window.is_empty());
    }

    #[test]
    fn order_is_kept_for_each_activation() {
        let mut window = Window::new(Class::Actor, 1);
        assert!(!window.overtaken(7, 1) && !window.overtaken(7, 3) && !window.overtaken(8, 2));
        assert!(window.overtaken(7, 2));
        assert!(!window.overtaken(8, 4));
    }

    #[test]
    fn what_was_sent_after_an_answer_was_sent_by_one_who_knew() {
        let mut window = Window::new(Class::Vault, 1);
        window.answered(7, 20);
        window.answered(7, 30);
        assert!(!window.knew(7, 19) && window.knew(7, 20) && !window.knew(8, 50));
        // It goes elsewhere, and comes back.
        window.answered(8, 40);
        window.answered(7, 60);
        assert!(window.knew(7, 39) && window.knew(8, 50) && !window.knew(7, 50) && window.knew(7, 60));
        // What it sends at 70 and 90 is handled elsewhere, of which it hears nothing; read in any order.
        window.found(7, 80);
        window.found(9, 90);
        window.found(9, 70);
        assert!(window.knew(7, 69) && !window.knew(7, 75) && !window.knew(7, 85) && !window.knew(9, 95));
        window.answered(7, 100);
        window.found(7, 101);
        assert!(window.knew(7, 101));
    }
}
