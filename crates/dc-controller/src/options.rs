//! Options of the controller, with their defaults and rules.

use std::time::Duration;

use dc_core::Invalid;

/// Time limits of record and routing table. Holding one proves that it is valid.
///
/// ```
/// use std::time::Duration;
/// use dc_controller::ControllerOptions;
/// let options = ControllerOptions::builder().lease_ttl(Duration::from_secs(9)).heartbeat_interval(Duration::from_secs(3)).build()?;
/// assert_eq!(options.lease_ttl(), Duration::from_secs(9));
/// let err = ControllerOptions::builder().lease_ttl(Duration::from_secs(20)).build().unwrap_err();
/// assert_eq!(err.field, "lease_ttl");
/// # Ok::<(), dc_core::Invalid>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ControllerOptions {
    lease_ttl: Duration,
    heartbeat_interval: Duration,
    cache_refresh_interval: Duration,
    max_cache_staleness: Duration,
    leader_check_interval: Duration,
    request_timeout: Duration,
    jitter_ratio: f64,
    max_backoff: Duration,
    watch_enabled: bool,
    fail_on_stale_cache: bool,
}

impl Default for ControllerOptions {
    /// The defaults: stated here and nowhere else.
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(30),
            heartbeat_interval: Duration::from_secs(10),
            cache_refresh_interval: Duration::from_secs(10),
            max_cache_staleness: Duration::from_secs(30),
            leader_check_interval: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
            jitter_ratio: 0.1,
            max_backoff: Duration::from_secs(30),
            watch_enabled: true,
            fail_on_stale_cache: true,
        }
    }
}

impl ControllerOptions {
    /// Starts from the defaults; set only what differs.
    pub fn builder() -> ControllerOptionsBuilder {
        ControllerOptionsBuilder(Self::default())
    }

    /// How long the record outlives its last renewal.
    pub fn lease_ttl(&self) -> Duration {
        self.lease_ttl
    }

    /// Time between two renewals.
    pub fn heartbeat_interval(&self) -> Duration {
        self.heartbeat_interval
    }

    /// Time between two lists of the control plane, beside the watch.
    pub fn cache_refresh_interval(&self) -> Duration {
        self.cache_refresh_interval
    }

    /// Age from which on the routing table counts as stale.
    pub fn max_cache_staleness(&self) -> Duration {
        self.max_cache_staleness
    }

    /// Time between two looks at membership and record.
    pub fn leader_check_interval(&self) -> Duration {
        self.leader_check_interval
    }

    /// Bound of one control-plane call.
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// Share by which intervals vary at random, 0 to 0.5.
    pub fn jitter_ratio(&self) -> f64 {
        self.jitter_ratio
    }

    /// Longest pause between two tries while the store is away.
    pub fn max_backoff(&self) -> Duration {
        self.max_backoff
    }

    /// Whether to watch where the backend can; else the table polls.
    pub fn watch_enabled(&self) -> bool {
        self.watch_enabled
    }

    /// Whether new placements fail while the table is stale (C5).
    pub fn fail_on_stale_cache(&self) -> bool {
        self.fail_on_stale_cache
    }
}

/// Options that are being set; [`build`](Self::build) is the only way on.
#[derive(Clone, Debug, Default)]
pub struct ControllerOptionsBuilder(ControllerOptions);

impl ControllerOptionsBuilder {
    /// How long the record outlives its last renewal. Default 30 s; at least 3 x `heartbeat_interval` (D5).
    #[must_use]
    pub fn lease_ttl(mut self, ttl: Duration) -> Self {
        self.0.lease_ttl = ttl;
        self
    }

    /// Time between two renewals. Default 10 s.
    #[must_use]
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.0.heartbeat_interval = interval;
        self
    }

    /// Time between two lists of the control plane. Default 10 s.
    #[must_use]
    pub fn cache_refresh_interval(mut self, interval: Duration) -> Self {
        self.0.cache_refresh_interval = interval;
        self
    }

    /// Age from which on the routing table is stale. Default 30 s; must exceed `cache_refresh_interval`.
    #[must_use]
    pub fn max_cache_staleness(mut self, age: Duration) -> Self {
        self.0.max_cache_staleness = age;
        self
    }

    /// Time between two looks at membership and record. Default 5 s.
    #[must_use]
    pub fn leader_check_interval(mut self, interval: Duration) -> Self {
        self.0.leader_check_interval = interval;
        self
    }

    /// Bound of one control-plane call. Default 5 s.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.0.request_timeout = timeout;
        self
    }

    /// Share by which intervals vary at random. Default 0.1; 0 to 0.5.
    #[must_use]
    pub fn jitter_ratio(mut self, ratio: f64) -> Self {
        self.0.jitter_ratio = ratio;
        self
    }

    /// Longest pause between two tries while the store is away. Default 30 s.
    #[must_use]
    pub fn max_backoff(mut self, pause: Duration) -> Self {
        self.0.max_backoff = pause;
        self
    }

    /// Whether to watch where the backend can. Default true.
    #[must_use]
    pub fn watch_enabled(mut self, enabled: bool) -> Self {
        self.0.watch_enabled = enabled;
        self
    }

    /// Whether new placements fail while the table is stale. Default true.
    #[must_use]
    pub fn fail_on_stale_cache(mut self, fail: bool) -> Self {
        self.0.fail_on_stale_cache = fail;
        self
    }

    /// Checks every rule.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field, the value and the rule.
    pub fn build(self) -> Result<ControllerOptions, Invalid> {
        let o = self.0;
        let day = Duration::from_secs(86_400);
        for (field, value) in [
            ("lease_ttl", o.lease_ttl),
            ("heartbeat_interval", o.heartbeat_interval),
            ("cache_refresh_interval", o.cache_refresh_interval),
            ("max_cache_staleness", o.max_cache_staleness),
            ("leader_check_interval", o.leader_check_interval),
            ("request_timeout", o.request_timeout),
            ("max_backoff", o.max_backoff),
        ] {
            if value < Duration::from_millis(10) || value > day {
                return Err(Invalid::new(field, format!("{value:?}"), "must be 10 ms to 24 h"));
            }
        }
        if !(0.0..=0.5).contains(&o.jitter_ratio) {
            return Err(Invalid::new("jitter_ratio", o.jitter_ratio.to_string(), "must be 0 to 0.5"));
        }
        if o.lease_ttl < o.heartbeat_interval * 3 {
            let rule = format!("must be at least 3 x heartbeat_interval ({:?})", o.heartbeat_interval);
            return Err(Invalid::new("lease_ttl", format!("{:?}", o.lease_ttl), rule));
        }
        if o.max_cache_staleness <= o.cache_refresh_interval {
            let rule = format!("must exceed cache_refresh_interval ({:?})", o.cache_refresh_interval);
            return Err(Invalid::new("max_cache_staleness", format!("{:?}", o.max_cache_staleness), rule));
        }
        // The rules of the table's task are its own.
        crate::controller::cache_options(&o)?;
        Ok(o)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d5_a_lease_below_three_heartbeats_is_refused() {
        let build = |ttl: u64| {
            let builder = ControllerOptions::builder().heartbeat_interval(Duration::from_secs(2));
            builder.lease_ttl(Duration::from_secs(ttl)).build()
        };
        assert!(build(6).is_ok());
        let err = build(5).unwrap_err();
        assert_eq!((err.field.as_str(), err.value.as_str()), ("lease_ttl", "5s"));
    }

    #[test]
    fn each_bad_option_is_refused_by_name() {
        let zero = Duration::ZERO;
        let b = ControllerOptions::builder;
        for (builder, field) in [
            (b().heartbeat_interval(zero), "heartbeat_interval"),
            (b().cache_refresh_interval(zero), "cache_refresh_interval"),
            (b().max_cache_staleness(Duration::from_secs(10)), "max_cache_staleness"),
            (b().leader_check_interval(zero), "leader_check_interval"),
            (b().request_timeout(zero), "request_timeout"),
            (b().max_backoff(zero), "max_backoff"),
            (b().jitter_ratio(0.6), "jitter_ratio"),
            (b().jitter_ratio(f64::NAN), "jitter_ratio"),
            (b().lease_ttl(Duration::from_secs(90_000)), "lease_ttl"),
        ] {
            assert_eq!(builder.build().expect_err(field).field, field);
        }
    }
}
