//! The one place that names link metrics (feature `metrics`, see `docs/metrics.md`); without it nothing is recorded.

use crate::outbound::Link;

/// Bytes of one stream, both ways: counted by the frame. Handles are made once a stream.
#[derive(Clone)]
pub(crate) struct Traffic {
    #[cfg(feature = "metrics")]
    sent: metrics::Counter,
    #[cfg(feature = "metrics")]
    received: metrics::Counter,
}

impl Traffic {
    pub(crate) fn new() -> Self {
        Self {
            #[cfg(feature = "metrics")]
            sent: metrics::counter!("multidc_link_sent_bytes_total"),
            #[cfg(feature = "metrics")]
            received: metrics::counter!("multidc_link_received_bytes_total"),
        }
    }

    pub(crate) fn sent(&self, bytes: usize) {
        #[cfg(feature = "metrics")]
        self.sent.increment(bytes as u64);
        #[cfg(not(feature = "metrics"))]
        let _ = bytes;
    }

    pub(crate) fn received(&self, bytes: usize) {
        #[cfg(feature = "metrics")]
        self.received.increment(bytes as u64);
        #[cfg(not(feature = "metrics"))]
        let _ = bytes;
    }
}

/// A connection was refused or cut off.
pub(crate) fn refused(reason: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::counter!("multidc_link_refused_total", "reason" => reason).increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = reason;
}

/// A bound was reached; `limit` is its name in the configuration, or in `docs/limits.md`.
pub(crate) fn limit(limit: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::counter!("multidc_limit_reached_total", "limit" => limit).increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = limit;
}

/// The state of a link, sampled at each pong.
pub(crate) fn sample(link: &Link) {
    #[cfg(feature = "metrics")]
    {
        let peer = link.endpoint.to_string();
        let rtt = link.rtt().unwrap_or_default().as_secs_f64();
        metrics::gauge!("multidc_link_rtt_seconds", "peer" => peer.clone()).set(rtt);
        metrics::gauge!("multidc_link_in_flight", "peer" => peer.clone()).set(link.unanswered() as f64);
        let credits = link.window.available_permits();
        metrics::gauge!("multidc_link_credits_bytes", "peer" => peer).set(credits as f64);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = link;
}
