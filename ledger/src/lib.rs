//! A log that fences: what global counters write to, shared by all nodes of a test.
//!
//! Owns who may write what, in one order, and the check of it afterwards. It refuses whatever bears a lower epoch than
//! the highest that it has seen of an identity, and the same epoch from another process. Knows nothing of the library,
//! and nothing of how nodes reach it.
//!
//! Reading order: [`Log`], [`check`].

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use anyhow::{bail, ensure};
use serde::{Deserialize, Serialize};

/// Who writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// What is owned: `counter/x`.
    pub identity: String,
    /// The epoch under which it is owned: the fencing token.
    pub epoch: u64,
    /// Drawn at the activation.
    pub activation: u64,
    /// The process, for the session: a process has one at a time.
    pub pid: u32,
    /// The datacenter.
    pub dc: String,
}

/// What a writer wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Want {
    /// To present its epoch, and to load the count.
    Open,
    /// To say which count came along with a move.
    Restored(u64),
    /// To add one, for this operation.
    Add(String),
}

/// What the log answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Written; the count is now this.
    Accepted(u64),
    /// Not written.
    Refused(Reason),
}

/// Why something was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A higher epoch was seen: the writer is fenced.
    LowerEpoch,
    /// This epoch is another process's: it must never come to that.
    SameEpoch,
    /// A later activation of this process has this epoch.
    OldActivation,
    /// Its epoch was not presented.
    NotOpened,
}

/// One line of the log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Since the start of the log.
    pub at: Duration,
    /// Who.
    pub by: By,
    /// What.
    pub want: Want,
    /// What came of it.
    pub verdict: Verdict,
}

/// The log: judges what is asked of it, and keeps every line.
#[derive(Debug, Default)]
pub struct Log {
    entries: Vec<Entry>,
    heads: HashMap<String, Head>,
}

#[derive(Debug)]
struct Head {
    by: By,
    count: u64,
}

impl Log {
    /// Asks it for something, `at` that time since its start; the line is kept.
    pub fn ask(&mut self, at: Duration, by: By, want: Want) -> Verdict {
        let verdict = self.judge(&by, &want);
        self.entries.push(Entry { at, by, want, verdict: verdict.clone() });
        verdict
    }

    /// All that was asked of it, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What was asked of it later than that, in order.
    pub fn entries_since(&self, since: Duration) -> &[Entry] {
        &self.entries[self.entries.partition_point(|entry| entry.at <= since)..]
    }

    /// The highest epoch of an identity, who has it, and the count.
    pub fn head(&self, identity: &str) -> Option<(By, u64)> {
        self.heads.get(identity).map(|head| (head.by.clone(), head.count))
    }

    fn judge(&mut self, by: &By, want: &Want) -> Verdict {
        let opens = *want == Want::Open;
        let Some(head) = self.heads.get_mut(&by.identity) else {
            if !opens {
                return Verdict::Refused(Reason::NotOpened);
            }
            self.heads.insert(by.identity.clone(), Head { by: by.clone(), count: 0 });
            return Verdict::Accepted(0);
        };
        let reason = if by.epoch < head.by.epoch {
            Reason::LowerEpoch
        } else if by.epoch == head.by.epoch && by.pid != head.by.pid {
            Reason::SameEpoch
        } else if opens {
            head.by = by.clone();
            return Verdict::Accepted(head.count);
        } else if by.epoch > head.by.epoch {
            Reason::NotOpened
        } else if by.activation != head.by.activation {
            Reason::OldActivation
        } else {
            if let Want::Add(_) = want {
                head.count += 1;
            }
            return Verdict::Accepted(head.count);
        };
        Verdict::Refused(reason)
    }
}

/// What a client was told of one increment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The operation.
    pub op: String,
    /// Of which identity.
    pub identity: String,
    /// The count that was answered.
    pub count: u64,
    /// The epoch that was answered.
    pub epoch: u64,
}

/// What a log holds that was found to be in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Increments written.
    pub written: usize,
    /// Increments that clients know of.
    pub acknowledged: usize,
    /// Times that the epoch of an identity rose.
    pub changes: usize,
    /// What was refused, by reason.
    pub refused: BTreeMap<Reason, usize>,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { written, acknowledged, changes, refused } = self;
        write!(f, "{written} increments, {acknowledged} acknowledged, {changes} changes of epoch, refused: {refused:?}")
    }
}

/// Goes through a log again, by rules of its own: no lower epoch after a higher one, no epoch in two processes, no
/// operation twice, no acknowledged increment lost or answered with another count, no state that came along stale.
///
/// # Errors
///
/// The first line that breaks one of them.
pub fn check(entries: &[Entry], acknowledged: &[Acknowledged]) -> anyhow::Result<Found> {
    let mut found = Found { acknowledged: acknowledged.len(), ..Found::default() };
    let mut highest: HashMap<&str, (u64, u32)> = HashMap::new();
    let mut counts: HashMap<&str, u64> = HashMap::new();
    let mut written: HashMap<(&str, &str), (u64, u64)> = HashMap::new();
    for entry in entries {
        let by = &entry.by;
        let count = match &entry.verdict {
            Verdict::Refused(Reason::SameEpoch) => bail!("one epoch in two processes: {entry:?}"),
            Verdict::Refused(reason) => {
                *found.refused.entry(*reason).or_default() += 1;
                continue;
            }
            Verdict::Accepted(count) => *count,
        };
        match highest.get(by.identity.as_str()).copied() {
            Some((epoch, _)) if by.epoch < epoch => bail!("a lower epoch than {epoch}: {entry:?}"),
            Some((epoch, pid)) if by.epoch == epoch && by.pid != pid => bail!("epoch of process {pid}: {entry:?}"),
            Some((epoch, _)) if by.epoch > epoch => found.changes += 1,
            Some(_) | None => {}
        }
        highest.insert(&by.identity, (by.epoch, by.pid));
        let known = counts.entry(&by.identity).or_default();
        match &entry.want {
            Want::Open => ensure!(count == *known, "opened with another count than {known}: {entry:?}"),
            Want::Restored(state) => ensure!(state == known, "the state that came along is not {known}: {entry:?}"),
            Want::Add(op) => {
                *known += 1;
                ensure!(count == *known, "counted past {known}: {entry:?}");
                found.written += 1;
                let twice = written.insert((&by.identity, op), (count, by.epoch));
                ensure!(twice.is_none(), "an operation ran twice: {entry:?}");
            }
        }
    }
    let mut told = HashSet::new();
    for ack in acknowledged {
        ensure!(told.insert(&ack.op), "acknowledged twice: {ack:?}");
        match written.get(&(ack.identity.as_str(), ack.op.as_str())) {
            None => bail!("an acknowledged increment is lost: {ack:?}"),
            Some(at) => ensure!(*at == (ack.count, ack.epoch), "written as {at:?}, acknowledged as {ack:?}"),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(epoch: u64, pid: u32) -> By {
        By { identity: "counter/x".into(), epoch, activation: u64::from(pid), pid, dc: "dc-1".into() }
    }

    fn entry(epoch: u64, pid: u32, want: Want, count: u64) -> Entry {
        Entry { at: Duration::ZERO, by: by(epoch, pid), want, verdict: Verdict::Accepted(count) }
    }

    fn add(op: &str) -> Want {
        Want::Add(op.into())
    }

    fn ack(op: &str, count: u64, epoch: u64) -> Acknowledged {
        Acknowledged { op: op.into(), identity: "counter/x".into(), count, epoch }
    }

    #[test]
    fn g2_a_log_in_order_is_in_order() {
        let log = [
            entry(1, 1, Want::Open, 0),
            entry(1, 1, add("a"), 1),
            Entry { verdict: Verdict::Refused(Reason::LowerEpoch), ..entry(0, 2, add("b"), 0) },
            entry(2, 2, Want::Open, 1),
            entry(2, 2, Want::Restored(1), 1),
            entry(2, 2, add("c"), 2),
        ];
        let found = check(&log, &[ack("a", 1, 1), ack("c", 2, 2)]).expect("in order");
        assert_eq!((found.written, found.acknowledged, found.changes), (2, 2, 1));
        assert_eq!(found.refused[&Reason::LowerEpoch], 1);
    }

    #[test]
    fn g2_the_check_finds_what_is_out_of_order() {
        let open = |epoch, pid| entry(epoch, pid, Want::Open, 0);
        let refused = Entry { verdict: Verdict::Refused(Reason::SameEpoch), ..open(1, 2) };
        for (log, acks, what) in [
            (vec![open(2, 1), open(1, 2)], vec![], "a lower epoch"),
            (vec![open(1, 1), open(1, 2)], vec![], "epoch of process"),
            (vec![open(1, 1), refused], vec![], "one epoch in two processes"),
            (vec![open(1, 1), entry(1, 1, add("a"), 1)], vec![ack("b", 1, 1)], "is lost"),
            (vec![open(1, 1), entry(1, 1, add("a"), 1)], vec![ack("a", 2, 1)], "written as"),
            (vec![open(1, 1), entry(1, 1, add("a"), 1), entry(1, 1, add("a"), 2)], vec![], "ran twice"),
            (vec![open(1, 1), entry(1, 1, add("a"), 1), open(2, 2)], vec![], "opened with another count"),
            (vec![open(1, 1), entry(1, 1, add("a"), 1), entry(1, 1, Want::Restored(0), 1)], vec![], "came along"),
            (vec![open(1, 1), entry(1, 1, add("a"), 2)], vec![], "counted past"),
        ] {
            let error = check(&log, &acks).expect_err(what).to_string();
            assert!(error.contains(what), "{what}: {error}");
        }
    }
}
