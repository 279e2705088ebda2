//! A clock that goes on while the machine sleeps. The only module of this crate that reads a real clock.

#[cfg(target_os = "linux")]
use std::time::Duration;
use std::time::Instant;

use dc_core::Clock;

/// `CLOCK_BOOTTIME` where there is one (Linux), else the monotonic clock.
///
/// Leases run on it: [`Instant::now`] stands still while the machine is suspended, and an owner that slept past its
/// lease would wake up and believe that it still owns (G3).
#[derive(Clone, Copy, Debug)]
pub struct BootClock {
    start: Instant,
    #[cfg(target_os = "linux")]
    booted: Duration,
}

impl BootClock {
    /// The clock. Instants of two of them can be compared only up to the time that the machine slept in between:
    /// use one for a node.
    #[expect(clippy::disallowed_methods, reason = "this is the clock module")]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            #[cfg(target_os = "linux")]
            booted: since_boot(),
        }
    }
}

impl Default for BootClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for BootClock {
    #[cfg(target_os = "linux")]
    fn now(&self) -> Instant {
        self.start + since_boot().saturating_sub(self.booted)
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::disallowed_methods, reason = "this is the clock module")]
    fn now(&self) -> Instant {
        Instant::now().max(self.start)
    }
}

#[cfg(target_os = "linux")]
fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    // Neither is negative: this clock starts at 0.
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g3_the_lease_clock_goes_on_with_boot_time() {
        use dc_core::SystemClock;
        let (clock, system) = (BootClock::new(), SystemClock);
        let (before, awake) = (clock.now(), system.now());
        while system.now() - awake < std::time::Duration::from_millis(20) {
            std::thread::yield_now();
        }
        let (after, awake) = (clock.now(), system.now() - awake);
        // Whoever sleeps in between makes it longer, never shorter.
        assert!(after - before + std::time::Duration::from_millis(5) >= awake);
        let readings: Vec<Instant> = (0..1_000).map(|_| clock.now()).collect();
        assert!(readings.is_sorted(), "it never goes back");
    }
}
