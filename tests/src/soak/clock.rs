//! One time for all processes of a machine: microseconds of its monotonic clock.

use rustix::time::{ClockId, clock_gettime};

/// A second of it.
pub const SECOND: u64 = 1_000_000;

/// Microseconds since the machine started; the same in every process of it.
pub fn now_us() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    // A monotonic clock is never negative.
    time.tv_sec.unsigned_abs() * SECOND + time.tv_nsec.unsigned_abs() / 1_000
}
