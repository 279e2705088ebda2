//! Why a choice came out as it did (L4).

use std::{
    fmt,
    time::{Duration, Instant},
};

use dc_core::{DataCenterId, Expired, Freshness, NodeEndpoint, Routability, Snapshot};

use crate::{Purpose, Reason, Refusal, Request, Strategy, choose};

/// What was considered, what was ruled out and why, and what came of it.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What was asked, as text.
    pub selector: String,
    /// What was to be sent.
    pub purpose: Purpose,
    /// How one node was chosen.
    pub strategy: Strategy,
    /// How far the table could be trusted.
    pub freshness: Freshness,
    /// How many datacenters are known.
    pub known: usize,
    /// How many match the selector, whatever they take.
    pub matching: usize,
    /// Those that match; the first [`Explanation::LISTED`] where there are many.
    pub considered: Vec<Considered>,
    /// The datacenter and its endpoints in the order to try, or the refusal: what [`choose`] answers.
    pub outcome: Result<(DataCenterId, Vec<NodeEndpoint>), Refusal>,
}

/// One datacenter that matches.
#[derive(Clone, Debug, PartialEq)]
pub struct Considered {
    /// Which.
    pub id: DataCenterId,
    /// What was decided of it.
    pub verdict: Verdict,
    /// What is left of its lease on this reader's clock. Its end alone rules nothing out (C2).
    pub lease_left: Result<Duration, Expired>,
}

/// What was decided of a datacenter that matches.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It was chosen.
    Chosen,
    /// It would do; the strategy chose another.
    Eligible,
    /// It was ruled out.
    RuledOut(Reason),
}

impl Explanation {
    /// The most datacenters that an explanation lists.
    pub const LISTED: usize = 100;
}

/// Explains what [`choose`] answers for the same inputs (L4). Walks the matches and allocates: for people, not for the hot path.
pub fn explain(snapshot: &Snapshot, now: Instant, request: &Request<'_>, seed: u64) -> Explanation {
    let outcome = choose(snapshot, request, seed)
        .map(|choice| (choice.entry().id().clone(), choice.endpoints().cloned().collect::<Vec<_>>()));
    let needs = request.purpose.needs();
    let mut considered = Vec::new();
    let mut matching = 0;
    for entry in snapshot.candidates(request.selector, Routability::Nothing).iter() {
        matching += 1;
        let chosen = outcome.as_ref().is_ok_and(|(id, _)| id == entry.id());
        if considered.len() >= Explanation::LISTED && !chosen {
            continue;
        }
        let verdict = if chosen {
            Verdict::Chosen
        } else if let Some(reason) = Reason::against(entry, needs) {
            Verdict::RuledOut(reason)
        } else if !entry.endpoints().iter().any(|node| request.admits(node)) {
            Verdict::RuledOut(Reason::NoEndpoints(entry.endpoints().len()))
        } else {
            Verdict::Eligible
        };
        considered.push(Considered { id: entry.id().clone(), verdict, lease_left: entry.lease().left(now) });
    }
    Explanation {
        selector: request.selector.to_string(),
        purpose: request.purpose,
        strategy: request.strategy,
        freshness: request.freshness,
        known: snapshot.len(),
        matching,
        considered,
        outcome,
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} for {}, {}", self.purpose, self.selector, self.strategy)?;
        match self.freshness {
            Freshness::Never => writeln!(f, "table: never in step")?,
            Freshness::Fresh { age } => writeln!(f, "table: in step {age:?} ago")?,
            Freshness::Stale { age } => writeln!(f, "table: stale, in step {age:?} ago")?,
        }
        writeln!(f, "{} of {} datacenters match", self.matching, self.known)?;
        for one in &self.considered {
            match &one.verdict {
                Verdict::Chosen => write!(f, "  {}: chosen", one.id)?,
                Verdict::Eligible => write!(f, "  {}: would do", one.id)?,
                Verdict::RuledOut(reason) => write!(f, "  {}: ruled out, {reason}", one.id)?,
            }
            match one.lease_left {
                Ok(left) => writeln!(f, "; lease left {left:?}")?,
                Err(Expired) => writeln!(f, "; lease ended here")?,
            }
        }
        if self.matching > self.considered.len() {
            writeln!(f, "  and {} more", self.matching - self.considered.len())?;
        }
        match &self.outcome {
            Ok((id, endpoints)) => {
                let order: Vec<String> = endpoints.iter().map(|node| node.endpoint.to_string()).collect();
                write!(f, "chosen: {id}, to be tried in this order: {}", order.join(", "))
            }
            Err(refusal) => write!(f, "refused: {refusal}"),
        }
    }
}
