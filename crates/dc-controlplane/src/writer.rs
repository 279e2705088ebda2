//! Who asks for a state, and what that makes of the request (P8, P9).

use dc_core::{DataCenterId, DataCenterRecord, DataCenterState, Intent, IntentKind, Invalid, NodeId, Version};

use crate::{Error, wall_ms};

/// Who asks for a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The record's owner, naming the version that it last saw.
    Owner {
        /// The leader's run.
        node: NodeId,
        /// The version it names (P2).
        seen: Version,
    },
    /// Anyone else: written as an intent.
    Operator {
        /// Who.
        by: String,
        /// Why.
        why: String,
    },
}

/// What became of a request for a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// The record is in that state, at this version.
    Moved(Version),
    /// An intent was written, at this version.
    Intended(Version),
}

/// What a backend must do to carry out [`set_state`](crate::ControlPlane::set_state).
#[derive(Clone, Debug, PartialEq)]
pub enum StatePlan {
    /// It is there already, at this version: write nothing.
    Nothing(Version),
    /// Write this record, if the store still holds `record.version`.
    Write(Box<DataCenterRecord>),
    /// Write this intent.
    Intend(Intent),
}

/// The one place that decides what a request for a state means (P8, P9, P2). Pure.
///
/// `stored` is the live record as read; a stale read is refused later, by the compare-and-set.
///
/// # Errors
///
/// [`Error::NotFound`] where an owner's record is gone, [`Error::Conflict`] where the owner named another
/// version, [`Error::IllegalTransition`], [`Error::Invalid`] for a state that no intent stands for.
pub fn plan_state(
    id: &DataCenterId,
    stored: Option<DataCenterRecord>,
    to: DataCenterState,
    by: Writer,
) -> Result<StatePlan, Error> {
    let (by, why) = match by {
        Writer::Owner { node, seen } => {
            let Some(mut record) = stored else {
                return Err(Error::NotFound { id: id.clone() });
            };
            if record.owner.node == node {
                if record.version != seen {
                    return Err(Error::Conflict {
                        id: id.clone(),
                        expected: Some(seen),
                        stored: Some(Box::new(record)),
                    });
                }
                let from = record.state;
                record.state = from.next(to).map_err(|source| Error::IllegalTransition { id: id.clone(), source })?;
                record.written_at_ms = wall_ms();
                let same = from == to;
                return Ok(if same { StatePlan::Nothing(seen) } else { StatePlan::Write(Box::new(record)) });
            }
            (node.to_string(), "asked for by a node that does not own the record".to_owned())
        }
        Writer::Operator { by, why } => (by, why),
    };
    let want = match to {
        DataCenterState::Active => IntentKind::Serve,
        DataCenterState::Draining => IntentKind::Drain,
        DataCenterState::Inactive => IntentKind::Out,
        other => {
            let rule = "an operator may ask for ACTIVE, DRAINING or INACTIVE";
            return Err(Invalid::new("state", other.as_str(), rule).into());
        }
    };
    let mut intent = Intent::new(want, by, why);
    intent.at_ms = wall_ms();
    intent.check()?;
    Ok(StatePlan::Intend(intent))
}
