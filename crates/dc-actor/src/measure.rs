//! The one place that names metrics (feature `metrics`); without the feature every call is nothing.

/// Counts a message that was not handled, by the error's name.
pub(crate) fn dead_letter(reason: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::counter!("multidc_dead_letters_total", "reason" => reason).increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = reason;
}

/// Counts an actor that started (`+1`) or stopped (`-1`), by kind.
pub(crate) fn actors(kind: &'static str, by: i8) {
    #[cfg(feature = "metrics")]
    metrics::gauge!("multidc_actors", "kind" => kind).increment(f64::from(by));
    #[cfg(not(feature = "metrics"))]
    let _ = (kind, by);
}

/// Counts a grain that became active, by kind.
pub(crate) fn activation(kind: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::counter!("multidc_grain_activations_total", "kind" => kind).increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = kind;
}

/// Counts a routing decision: `chosen`, or the name of the refusal.
pub(crate) fn placement(outcome: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::counter!("multidc_placements_total", "outcome" => outcome).increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = outcome;
}
