//! Why nothing was chosen.

use std::{fmt, time::Duration};

use dc_core::{
    DataCenterId, DataCenterSelector, DataCenterState, Entry, Freshness, Intent, IntentKind, Routability, Seen,
    Snapshot, routability,
};

use crate::{Purpose, Request};

/// Why nothing was chosen. Lists are bounded by [`Refusal::LISTED`]; the totals are exact.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The table has never been in step with the control plane: nothing is known yet.
    #[error("the routing table has not been in step with the control plane yet")]
    NotReady,
    /// The table is stale, and `fail_on_stale_cache` holds (C5).
    #[error("the routing table was last in step {age:?} ago: too stale for placements")]
    Stale {
        /// Time since the last proof.
        age: Duration,
    },
    /// No datacenter matches (L1).
    #[error("no datacenter matches {selector}; {}", known_text(known, *total))]
    NotFound {
        /// What was asked.
        selector: Box<DataCenterSelector>,
        /// Datacenters that are known, by id; the first ones where there are many.
        known: Vec<DataCenterId>,
        /// How many are known.
        total: usize,
    },
    /// Datacenters match, but none of them takes this now (C6).
    #[error("no datacenter that matches {selector} takes {purpose}: {}", ruled_text(ruled_out, *total))]
    NotPlaceable {
        /// What was asked.
        selector: Box<DataCenterSelector>,
        /// What was to be sent.
        purpose: Purpose,
        /// Which match, and what stands in the way; the first ones where there are many.
        ruled_out: Vec<RuledOut>,
        /// How many match.
        total: usize,
    },
    /// Datacenters take it, but each of their endpoints was excluded (or has no weight).
    #[error("no endpoint is left to try for {selector}: {}", ruled_text(ruled_out, *total))]
    NoEndpoints {
        /// What was asked.
        selector: Box<DataCenterSelector>,
        /// Which datacenters; the first ones where there are many.
        ruled_out: Vec<RuledOut>,
        /// How many.
        total: usize,
    },
}

/// A datacenter that was ruled out.
#[derive(Clone, Debug, PartialEq)]
pub struct RuledOut {
    /// Which.
    pub id: DataCenterId,
    /// Why.
    pub reason: Reason,
}

/// Why a datacenter was ruled out.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// Its leader wrote a state that does not take this.
    State(DataCenterState),
    /// An operator wants it drained or out (P8): who, why.
    Intent(Intent),
    /// The store came back from an outage without it: no placements until it has registered again (C5).
    Grace,
    /// Its lease ended without a renewal (C2).
    Expired,
    /// None of its endpoints is left: how many there are.
    NoEndpoints(usize),
}

impl Refusal {
    /// The most datacenters that a refusal lists.
    pub const LISTED: usize = 16;
}

impl Reason {
    /// What keeps `entry` from taking what needs `needs`; `None` where nothing does.
    pub(crate) fn against(entry: &Entry, needs: Routability) -> Option<Self> {
        if entry.routability() >= needs {
            return None;
        }
        if entry.seen() == Seen::Expired {
            return Some(Self::Expired);
        }
        // Who wanted it and why tells more than the state that follows from it.
        if let Some(intent) = entry.intent().filter(|intent| routability(DataCenterState::Active, intent.want) < needs)
        {
            return Some(Self::Intent((**intent).clone()));
        }
        let state = entry.record().state;
        let by_state = routability(state, IntentKind::Serve) < needs;
        Some(if by_state { Self::State(state) } else { Self::Grace })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(state) => write!(f, "is {state}"),
            Self::Intent(intent) => {
                let by = if intent.by.is_empty() { "an operator" } else { &intent.by };
                write!(f, "{by} wants it to {}", if intent.want == IntentKind::Out { "go out" } else { "drain" })?;
                if intent.why.is_empty() { Ok(()) } else { write!(f, " ({})", intent.why) }
            }
            Self::Grace => f.write_str("has not registered again since the control plane's outage"),
            Self::Expired => f.write_str("has not renewed its lease"),
            Self::NoEndpoints(count) => write!(f, "none of its {count} endpoints is left"),
        }
    }
}

impl fmt::Display for RuledOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id, self.reason)
    }
}

fn known_text(known: &[DataCenterId], total: usize) -> String {
    if known.is_empty() {
        return "none is known".to_owned();
    }
    let names: Vec<&str> = known.iter().map(DataCenterId::as_str).collect();
    format!("known: {}{}", names.join(", "), more(known.len(), total))
}

fn ruled_text(ruled_out: &[RuledOut], total: usize) -> String {
    let texts: Vec<String> = ruled_out.iter().map(RuledOut::to_string).collect();
    format!("{}{}", texts.join("; "), more(ruled_out.len(), total))
}

fn more(shown: usize, total: usize) -> String {
    if total > shown { format!(" and {} more", total - shown) } else { String::new() }
}

/// Refuses what the table's age does not allow, before anything is looked at.
pub(crate) fn check_freshness(request: &Request<'_>) -> Result<Option<Duration>, Refusal> {
    match (request.freshness, request.purpose) {
        (Freshness::Never, _) => Err(Refusal::NotReady),
        (Freshness::Stale { age }, Purpose::Placement) if request.fail_on_stale_cache => Err(Refusal::Stale { age }),
        (Freshness::Stale { age }, _) => Ok(Some(age)),
        (Freshness::Fresh { .. }, _) => Ok(None),
    }
}

/// Finds out why nothing was usable. Walks the matches: not on the hot path.
#[cold]
pub(crate) fn refuse(snapshot: &Snapshot, request: &Request<'_>) -> Refusal {
    let needs = request.purpose.needs();
    let selector = || Box::new(request.selector.clone());
    let matching = snapshot.candidates(request.selector, Routability::Nothing);
    let (mut ruled_out, mut exhausted) = (Vec::new(), Vec::new());
    let (mut total, mut willing) = (0, 0);
    for entry in matching.iter() {
        total += 1;
        let id = entry.id().clone();
        match Reason::against(entry, needs) {
            Some(reason) if ruled_out.len() < Refusal::LISTED => ruled_out.push(RuledOut { id, reason }),
            Some(_) => {}
            None => {
                willing += 1;
                if exhausted.len() < Refusal::LISTED {
                    exhausted.push(RuledOut { id, reason: Reason::NoEndpoints(entry.endpoints().len()) });
                }
            }
        }
    }
    if total == 0 {
        let mut known: Vec<_> = snapshot.iter().map(|entry| entry.id().clone()).collect();
        known.sort();
        known.truncate(Refusal::LISTED);
        return Refusal::NotFound { selector: selector(), known, total: snapshot.len() };
    }
    if willing > 0 {
        return Refusal::NoEndpoints { selector: selector(), ruled_out: exhausted, total: willing };
    }
    Refusal::NotPlaceable { selector: selector(), purpose: request.purpose, ruled_out, total }
}
