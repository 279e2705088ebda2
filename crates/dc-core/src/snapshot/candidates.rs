//! What a selector may mean, without walking it.

use std::sync::Arc;

use super::{Entry, Snapshot, postings::Posting};
use crate::{DataCenterSelector, Routability};

/// The shortest indexed list that holds every match of a selector.
///
/// Random access by number, so that one can be drawn without listing them. All
/// take what was asked for; where the selector has more than one criterion
/// ([`is_exact`](Self::is_exact) is false), each must still be checked with
/// [`matches`](Self::matches); [`iter`](Self::iter) has done that.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'a> {
    snapshot: &'a Snapshot,
    /// What is left to check, where the index did not cover it all.
    rest: Option<&'a DataCenterSelector>,
    found: Found<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Found<'a> {
    One(&'a Arc<Entry>),
    /// Consecutive: placements, traffic only, nothing.
    Lists([&'a [u32]; 3]),
}

impl<'a> Candidates<'a> {
    /// How many entries the list holds; matches are at most as many.
    #[inline]
    pub fn len(&self) -> usize {
        match self.found {
            Found::One(_) => 1,
            Found::Lists(lists) => lists.iter().map(|list| list.len()).sum(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether each entry of the list is a match.
    pub fn is_exact(&self) -> bool {
        self.rest.is_none()
    }

    /// The entry of this number, a match or not.
    #[inline]
    pub fn get(&self, number: usize) -> Option<&'a Arc<Entry>> {
        match self.found {
            Found::One(entry) => (number == 0).then_some(entry),
            Found::Lists(lists) => {
                let mut at = number;
                for list in lists {
                    if let Some(&slot) = list.get(at) {
                        return self.snapshot.slots.get(slot);
                    }
                    at -= list.len();
                }
                None
            }
        }
    }

    /// Whether `entry`, taken from this list, is what the selector asks for.
    pub fn matches(&self, entry: &Entry) -> bool {
        self.rest.is_none_or(|selector| selector.matches(entry.data_center()))
    }

    /// The matches: by id, what takes placements first.
    pub fn iter(self) -> impl Iterator<Item = &'a Arc<Entry>> {
        (0..self.len()).filter_map(move |number| self.get(number)).filter(move |entry| self.matches(entry))
    }
}

impl Snapshot {
    pub(super) fn candidates_of<'a>(
        &'a self,
        selector: Option<&'a DataCenterSelector>,
        at_least: Routability,
    ) -> Candidates<'a> {
        let nothing = Candidates { snapshot: self, rest: None, found: Found::Lists([&[]; 3]) };
        let all = |rest| Candidates { snapshot: self, rest, found: Found::Lists(self.all.lists(at_least)) };
        let Some(selector) = selector else { return all(None) };
        if let Some(id) = &selector.id {
            let Some(entry) = self.get(id).filter(|entry| entry.routability() >= at_least) else { return nothing };
            let alone = selector.name.is_none()
                && selector.region.is_none()
                && selector.zone.is_none()
                && selector.labels.is_empty();
            let rest = (!alone).then_some(selector);
            return Candidates { snapshot: self, rest, found: Found::One(entry) };
        }
        let mut criteria = 0;
        let mut shortest: Option<&Posting> = None;
        // Whether nothing at all carries what one criterion asks for.
        let mut hopeless = false;
        let mut narrow = |posting: Option<&'a Posting>| {
            criteria += 1;
            match posting {
                None => hopeless = true,
                Some(posting) if shortest.is_none_or(|best| posting.len(at_least) < best.len(at_least)) => {
                    shortest = Some(posting);
                }
                Some(_) => {}
            }
        };
        if let Some(name) = &selector.name {
            narrow(self.by_name.get(name, ""));
        }
        if let Some(region) = &selector.region {
            narrow(self.by_region.get(region, ""));
        }
        if let Some(zone) = &selector.zone {
            narrow(self.by_zone.get(zone, ""));
        }
        for (key, value) in &selector.labels {
            narrow(self.by_label.get(key, value));
        }
        let rest = (criteria > 1).then_some(selector);
        match shortest {
            _ if hopeless => nothing,
            None => all(None),
            Some(posting) => Candidates { snapshot: self, rest, found: Found::Lists(posting.lists(at_least)) },
        }
    }
}
