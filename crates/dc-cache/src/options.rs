//! How the table is kept in step.

use std::time::Duration;

use dc_controlplane::config::check_duration;
use dc_core::Invalid;

/// How the table is kept in step. Holding one proves that it is valid:
/// [`CacheOptionsBuilder::build`] is the only way in, besides the defaults.
///
/// ```
/// use std::time::Duration;
/// use dc_cache::CacheOptions;
/// let options = CacheOptions::builder().cache_refresh_interval(Duration::from_secs(2)).build()?;
/// assert_eq!(options.max_cache_staleness(), Duration::from_secs(30));
/// let err = CacheOptions::builder().jitter_ratio(0.6).build().unwrap_err();
/// assert_eq!(err.to_string(), "jitter_ratio \"0.6\": must be 0 to 0.5");
/// # Ok::<(), dc_core::Invalid>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CacheOptions {
    cache_refresh_interval: Duration,
    max_cache_staleness: Duration,
    request_timeout: Duration,
    jitter_ratio: f64,
    max_backoff: Duration,
    watch_enabled: bool,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self {
            cache_refresh_interval: Duration::from_secs(10),
            max_cache_staleness: Duration::from_secs(30),
            request_timeout: Duration::from_secs(5),
            jitter_ratio: 0.1,
            max_backoff: Duration::from_secs(30),
            watch_enabled: true,
        }
    }
}

impl CacheOptions {
    /// Starts from the defaults; set only what differs.
    pub fn builder() -> CacheOptionsBuilder {
        CacheOptionsBuilder(Self::default())
    }

    /// Time between lists, before jitter. Default 10 s.
    pub fn cache_refresh_interval(&self) -> Duration {
        self.cache_refresh_interval
    }

    /// Time since the last proof of being in step from which the table is stale (C4). Default 30 s.
    pub fn max_cache_staleness(&self) -> Duration {
        self.max_cache_staleness
    }

    /// How long one list, or the opening of a watch, may take. Default 5 s.
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// By how much waits differ at random, as a share of the wait, either way. Default 0.1.
    pub fn jitter_ratio(&self) -> f64 {
        self.jitter_ratio
    }

    /// The longest wait between attempts, before jitter. Default 30 s.
    pub fn max_backoff(&self) -> Duration {
        self.max_backoff
    }

    /// Whether to watch, where the backend supports it; else poll. Default true.
    pub fn watch_enabled(&self) -> bool {
        self.watch_enabled
    }
}

/// Options that are being described; [`build`](Self::build) checks them.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct CacheOptionsBuilder(CacheOptions);

impl CacheOptionsBuilder {
    /// Time between lists: 10 ms to 1 h. Default 10 s.
    pub fn cache_refresh_interval(mut self, interval: Duration) -> Self {
        self.0.cache_refresh_interval = interval;
        self
    }

    /// When the table is stale: longer than the refresh interval with its jitter, up to 24 h. Default 30 s.
    pub fn max_cache_staleness(mut self, age: Duration) -> Self {
        self.0.max_cache_staleness = age;
        self
    }

    /// How long one request may take: 10 ms to 5 min. Default 5 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.0.request_timeout = timeout;
        self
    }

    /// By how much waits differ at random: 0 to 0.5. Default 0.1.
    pub fn jitter_ratio(mut self, ratio: f64) -> Self {
        self.0.jitter_ratio = ratio;
        self
    }

    /// The longest wait between attempts: 10 ms to 1 h. Default 30 s.
    pub fn max_backoff(mut self, backoff: Duration) -> Self {
        self.0.max_backoff = backoff;
        self
    }

    /// Whether to watch, where the backend supports it. Default true.
    pub fn watch_enabled(mut self, enabled: bool) -> Self {
        self.0.watch_enabled = enabled;
        self
    }

    /// Checks each rule.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field, the value and the rule.
    pub fn build(self) -> Result<CacheOptions, Invalid> {
        const LEAST: Duration = Duration::from_millis(10);
        const HOUR: Duration = Duration::from_secs(3_600);
        let options = self.0;
        check_duration("cache_refresh_interval", options.cache_refresh_interval, LEAST, HOUR)?;
        check_duration("request_timeout", options.request_timeout, LEAST, Duration::from_secs(300))?;
        check_duration("max_backoff", options.max_backoff, LEAST, HOUR)?;
        if !(0.0..=0.5).contains(&options.jitter_ratio) {
            return Err(Invalid::new("jitter_ratio", options.jitter_ratio.to_string(), "must be 0 to 0.5"));
        }
        let longest = options.cache_refresh_interval.mul_f64(1.0 + options.jitter_ratio);
        let value = options.max_cache_staleness;
        if value <= longest || value > 24 * HOUR {
            let rule = format!(
                "must be longer than cache_refresh_interval with its jitter ({longest:?}), and at most 24 h: \
                 a table that is refreshed on time would be stale"
            );
            return Err(Invalid::new("max_cache_staleness", format!("{value:?}"), rule));
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(CacheOptions::builder().build(), Ok(CacheOptions::default()));
    }

    #[test]
    fn each_bad_field_is_refused_by_name() {
        let builder = CacheOptions::builder;
        let day = Duration::from_secs(86_401);
        for (options, field) in [
            (builder().cache_refresh_interval(Duration::ZERO), "cache_refresh_interval"),
            (builder().request_timeout(day), "request_timeout"),
            (builder().max_backoff(Duration::ZERO), "max_backoff"),
            (builder().jitter_ratio(-0.1), "jitter_ratio"),
            (builder().jitter_ratio(f64::NAN), "jitter_ratio"),
            (builder().max_cache_staleness(Duration::from_secs(11)), "max_cache_staleness"),
            (builder().max_cache_staleness(day), "max_cache_staleness"),
        ] {
            let err = options.build().expect_err(field);
            assert_eq!(err.field, field, "{err}");
        }
    }
}
