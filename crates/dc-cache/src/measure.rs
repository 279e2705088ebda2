//! The one place that names metrics (feature `metrics`); without the feature every call is nothing.

use std::time::Duration;

use dc_core::{Routability, Selector, Snapshot};

use crate::TableEvent;

/// The table's age, and how many datacenters take what.
pub(crate) fn table(age: Option<Duration>, snapshot: Option<&Snapshot>) {
    if !cfg!(feature = "metrics") {
        return;
    }
    if let Some(age) = age {
        gauge("multidc_table_age_seconds", "", "", age.as_secs_f64());
    }
    if let Some(snapshot) = snapshot {
        let any = Selector::any();
        let at_least = |class| snapshot.candidates(&any, class).len();
        let (all, traffic) = (at_least(Routability::Nothing), at_least(Routability::Traffic));
        let placements = at_least(Routability::Placements);
        for (takes, count) in
            [("placements", placements), ("traffic", traffic - placements), ("nothing", all - traffic)]
        {
            gauge("multidc_table_datacenters", "takes", takes, count as f64);
        }
    }
}

/// Counts an event of the table, by its name.
pub(crate) fn event(event: &TableEvent) {
    let name = match event {
        TableEvent::Joined { .. } => "joined",
        TableEvent::Left { .. } => "left",
        TableEvent::Expired { .. } => "expired",
        TableEvent::Grace { .. } => "grace",
        TableEvent::Revived { .. } => "revived",
        TableEvent::StateChanged { .. } => "state_changed",
        TableEvent::IntentChanged { .. } => "intent_changed",
        TableEvent::EndpointsChanged { .. } => "endpoints_changed",
        TableEvent::Stale { .. } => "stale",
        TableEvent::Fresh => "fresh",
        TableEvent::StoreChanged { .. } => "store_changed",
        TableEvent::Skipped(_) => "skipped",
    };
    count("multidc_table_events_total", "event", name);
}

/// Counts a request to the control plane: `list` or `watch`; `ok`, `behind` or `failed`.
pub(crate) fn request(operation: &'static str, outcome: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::counter!("multidc_table_requests_total", "operation" => operation, "outcome" => outcome).increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = (operation, outcome);
}

fn count(name: &'static str, label: &'static str, value: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::counter!(name, label => value).increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = (name, label, value);
}

fn gauge(name: &'static str, label: &'static str, value: &'static str, is: f64) {
    #[cfg(feature = "metrics")]
    if label.is_empty() {
        metrics::gauge!(name).set(is);
    } else {
        metrics::gauge!(name, label => value).set(is);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (name, label, value, is);
}
