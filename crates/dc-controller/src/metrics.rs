//! What is counted, where the feature `metrics` is on; names and units stand in `docs/metrics.md`.

#[cfg(feature = "metrics")]
pub(crate) fn record(event: &crate::ControllerEvent) {
    use crate::ControllerEvent as E;
    match event {
        E::Renewed { took } => {
            metrics::counter!("multidc_heartbeats_total", "outcome" => "ok").increment(1);
            metrics::histogram!("multidc_heartbeat_seconds").record(took.as_secs_f64());
        }
        E::StoreFailed { operation, .. } => {
            if *operation == "heartbeat" {
                metrics::counter!("multidc_heartbeats_total", "outcome" => "failed").increment(1);
            }
            metrics::counter!("multidc_store_failures_total", "operation" => *operation).increment(1);
        }
        E::Registered { .. } | E::TookOver { .. } => metrics::counter!("multidc_takeovers_total").increment(1),
        E::SteppedDown { .. } => metrics::counter!("multidc_step_downs_total").increment(1),
        _ => {}
    }
}

#[cfg(feature = "metrics")]
pub(crate) fn lease_left(seconds: f64) {
    metrics::gauge!("multidc_lease_left_seconds").set(seconds);
}

#[cfg(not(feature = "metrics"))]
pub(crate) fn record(_event: &crate::ControllerEvent) {}

#[cfg(not(feature = "metrics"))]
pub(crate) fn lease_left(_seconds: f64) {}
