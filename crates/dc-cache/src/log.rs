//! What an operator is told.

use dc_controlplane::Error;

use crate::{TableEvent, backoff::Backoff};

/// One line for each event of the table.
pub(crate) fn event(event: &TableEvent) {
    match event {
        TableEvent::Joined { id, state } => tracing::info!(dc = %id, %state, "datacenter joined"),
        TableEvent::Left { id, why } => tracing::info!(dc = %id, ?why, "datacenter left"),
        TableEvent::Expired { id } => {
            tracing::warn!(dc = %id, "its lease ended without a renewal: nothing is routed there");
        }
        TableEvent::Grace { id, left } => {
            tracing::warn!(dc = %id, ?left, "the control plane came back without it: traffic goes on, no placements");
        }
        TableEvent::Revived { id } => tracing::info!(dc = %id, "datacenter is alive again"),
        TableEvent::StateChanged { id, from, to } => tracing::info!(dc = %id, %from, %to, "state changed"),
        TableEvent::IntentChanged { id, intent: Some(intent) } => {
            tracing::info!(dc = %id, want = %intent.want, by = intent.by, why = intent.why, "intent changed");
        }
        TableEvent::IntentChanged { id, intent: None } => tracing::info!(dc = %id, "intent is gone"),
        TableEvent::EndpointsChanged { id } => tracing::debug!(dc = %id, "endpoints changed"),
        TableEvent::Stale { age } => tracing::warn!(?age, "the routing table is stale"),
        TableEvent::Fresh => tracing::info!("the routing table is in step"),
        TableEvent::StoreChanged { from, to } if from == to => {
            tracing::warn!(store = %to, "the control plane's store was set back: the routing table starts afresh");
        }
        TableEvent::StoreChanged { from, to } => {
            tracing::warn!(%from, %to, "the control plane's store is another one: the routing table starts afresh");
        }
        TableEvent::Skipped(corrupt) => {
            tracing::warn!(key = corrupt.key, why = corrupt.why, "left out: it cannot be decoded");
        }
    }
}

/// A request failed: a warning at first, then quietly, since the table says when it turns stale.
pub(crate) fn failed(operation: &'static str, backend: &'static str, backoff: &Backoff, error: &Error) {
    let source = std::error::Error::source(error).map(ToString::to_string);
    if backoff.is_fresh() {
        tracing::warn!(backend, operation, %error, source, "the control plane failed; trying again");
    } else {
        let failures = backoff.failures();
        tracing::debug!(backend, operation, failures, %error, source, "the control plane failed again");
    }
}

/// A request worked, after failures.
pub(crate) fn recovered(operation: &'static str, backend: &'static str, backoff: &Backoff) {
    if !backoff.is_fresh() {
        tracing::info!(backend, operation, failures = backoff.failures(), "the control plane answers again");
    }
}
