//! How often what happened: a simulation that never sees a take-over proves nothing.

use std::{collections::BTreeMap, sync::Arc};

use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::Mutex;

/// Counts by name; a handle.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Mutex<BTreeMap<String, u64>>>);

impl Counts {
    /// One more.
    pub fn add(&self, what: &str) {
        self.more(what, 1);
    }

    /// So many more.
    pub fn more(&self, what: &str, by: u64) {
        if by > 0 {
            *self.0.lock().entry(what.to_owned()).or_default() += by;
        }
    }

    /// All of them, by name.
    pub fn all(&self) -> BTreeMap<String, u64> {
        self.0.lock().clone()
    }
}

/// What must have happened in a row of runs, or they show nothing of it.
pub const MUST_HAPPEN: &[&str] = &[
    "activations",
    "acknowledged",
    "client acknowledged",
    "client Timeout",
    "crashes",
    "datacenter cut from the store",
    "datacenters cut",
    "datacenters lost",
    "drain As(Aborted)",
    "drain As(Drained)",
    "epochs",
    "event MoveFailed",
    "event SessionBuried",
    "event SessionLost",
    "event Takeover",
    "fenced by the log",
    "late effects",
    "links reset",
    "metric message_forwarded",
    "metric message_held",
    "metric not_owner",
    "mirrored",
    "names spawned",
    "own conflicts",
    "own lease_ends",
    "own lost_answers",
    "own moves",
    "own rebalanced",
    "own sessions_refused",
    "own stale_reads",
    "own takeovers",
    "own tombstones_refused",
    "pauses",
    "shutdowns ended",
    "state restored",
    "store answers lost",
    "store outages",
    "taken over from a lost datacenter",
    "taken over from a lost node",
    "watches broken",
];

/// Counts what production code counts of ownership, under the name that it gives it.
pub(crate) struct Measured(pub(crate) Counts);

struct Named(Counts, String);

impl CounterFn for Named {
    fn increment(&self, by: u64) {
        self.0.more(&self.1, by);
    }

    fn absolute(&self, _: u64) {}
}

impl Recorder for Measured {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        if key.name() != "multidc_ownership_events_total" {
            return Counter::noop();
        }
        let event = key.labels().next().map(|label| label.value()).unwrap_or_default();
        Counter::from_arc(Arc::new(Named(self.0.clone(), format!("metric {event}"))))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
