//! The one place that names metrics (feature `metrics`); without the feature every call is nothing.

/// Counts a message that was not handled, by the error's name.
pub(crate) fn dead_letter(reason: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::counter!("multidc_dead_letters_total", "reason" => reason).increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = reason;
}

/// Counts what was refused to a datacenter that may not do it here; `None` stands for all that nobody knows: what a
/// stranger calls itself makes no label.
pub(crate) fn unauthorized(data_center: Option<&dc_core::DataCenterId>) {
    #[cfg(feature = "metrics")]
    {
        let label = data_center.map_or_else(|| "unknown".to_owned(), ToString::to_string);
        metrics::counter!("multidc_unauthorized_total", "data_center" => label).increment(1);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = data_center;
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

/// Counts what happened to global ownership, by name.
pub(crate) fn ownership(event: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::counter!("multidc_ownership_events_total", "event" => event).increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = event;
}

/// Counts a routing decision: `chosen`, or the name of the refusal.
pub(crate) fn placement(outcome: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::counter!("multidc_placements_total", "outcome" => outcome).increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = outcome;
}

/// A bound was reached; `limit` is its name in the configuration.
pub(crate) fn limit(limit: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::counter!("multidc_limit_reached_total", "limit" => limit).increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = limit;
}

#[cfg(all(test, feature = "metrics"))]
mod tests {
    use std::sync::{Arc, Mutex};

    use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

    /// Remembers what is recorded, as name and labels.
    #[derive(Clone, Default)]
    struct Names(Arc<Mutex<Vec<String>>>);

    impl Names {
        fn note(&self, key: &Key) {
            let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
            self.0.lock().unwrap().push(format!("{}{{{}}}", key.name(), labels.join(",")));
        }
    }

    impl Recorder for Names {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            self.note(key);
            Counter::noop()
        }
        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            self.note(key);
            Gauge::noop()
        }
        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            self.note(key);
            Histogram::noop()
        }
    }

    #[test]
    fn metrics_have_the_documented_names_and_labels() {
        let names = Names::default();
        metrics::with_local_recorder(&names, || {
            super::dead_letter("ActorStopped");
            super::actors("worker", 1);
            super::activation("cart");
            super::placement("chosen");
            super::ownership("takeover");
            super::unauthorized(Some(&"dc-2".parse().unwrap()));
            super::limit("max_watches");
        });
        let recorded = names.0.lock().unwrap().clone();
        assert_eq!(
            recorded,
            [
                "multidc_dead_letters_total{reason=ActorStopped}",
                "multidc_actors{kind=worker}",
                "multidc_grain_activations_total{kind=cart}",
                "multidc_placements_total{outcome=chosen}",
                "multidc_ownership_events_total{event=takeover}",
                "multidc_unauthorized_total{data_center=dc-2}",
                "multidc_limit_reached_total{limit=max_watches}",
            ]
        );
    }
}
