//! The runtime's clock. The only module of this crate that reads a real clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use dc_core::Clock;

/// tokio's clock: paused time and simulation move it together with all waiting.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioClock;

impl Clock for TokioClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock module")]
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

/// Wall-clock time in milliseconds since 1970: for people to read, never to compare.
#[expect(clippy::disallowed_methods, reason = "this is the clock module")]
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
