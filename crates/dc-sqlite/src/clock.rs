//! The clock that leases are timed on: one that all processes of this machine share.
//!
//! The wall clock will not do: it jumps. `Instant` will not do: it means nothing to another process, and it stands
//! still while the machine is suspended. Linux has what is needed: `CLOCK_BOOTTIME` counts from the boot of the
//! kernel, goes on through suspension, is set by nobody and is the same in all processes and containers (outside of
//! time namespaces, which nobody uses by accident). It starts again at each boot, so a moment is named together with
//! the boot's id (`/proc/sys/kernel/random/boot_id`).
//!
//! A lease from another boot has ended: every process that could have renewed it is gone, and this machine's
//! processes register again. So a reboot frees all records at once, however long it took.
//!
//! On other systems, or without `/proc`, the wall clock serves instead, and the plane reports that as a finding
//! (P13): a clock that jumps ahead by more than a TTL then ends leases early, one that is set back prolongs them.

use std::{fmt, sync::Arc, time::Duration};

/// A moment that all processes of this machine agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineTime {
    /// Which boot of the machine.
    pub boot: Arc<str>,
    /// The time since that boot.
    pub since_boot: Duration,
}

/// The clock that leases are timed on. Tests pass one of their own.
pub trait MachineClock: fmt::Debug + Send + Sync + 'static {
    /// The present moment. Never goes back within one boot.
    fn now(&self) -> MachineTime;

    /// What is wrong with this clock, as a sentence for people; `None` where nothing is.
    fn finding(&self) -> Option<String> {
        None
    }
}

/// This machine's clock: boot time on Linux, else the wall clock (see the finding).
#[derive(Clone, Debug)]
pub struct BootClock {
    /// `None` where there is no boot clock.
    boot: Option<Arc<str>>,
}

impl BootClock {
    /// Asks the kernel which boot this is.
    pub fn new() -> Self {
        Self { boot: boot_id() }
    }
}

impl Default for BootClock {
    fn default() -> Self {
        Self::new()
    }
}

impl MachineClock for BootClock {
    fn now(&self) -> MachineTime {
        match (&self.boot, boot_time()) {
            (Some(boot), Some(since_boot)) => MachineTime { boot: boot.clone(), since_boot },
            _ => {
                let since_boot = Duration::from_millis(dc_controlplane::wall_ms());
                MachineTime { boot: "wall clock".into(), since_boot }
            }
        }
    }

    fn finding(&self) -> Option<String> {
        self.boot.is_none().then(|| {
            "leases are timed on the wall clock, as this system has no boot clock that processes share: \
             a clock that jumps ends or prolongs leases"
                .to_owned()
        })
    }
}

#[cfg(target_os = "linux")]
fn boot_id() -> Option<Arc<str>> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = id.trim();
    (!id.is_empty()).then(|| id.into())
}

#[cfg(target_os = "linux")]
fn boot_time() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

#[cfg(not(target_os = "linux"))]
fn boot_id() -> Option<Arc<str>> {
    None
}

#[cfg(not(target_os = "linux"))]
fn boot_time() -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_of_one_boot_agree_and_go_on() {
        let (one, two) = (BootClock::new(), BootClock::new());
        let (first, second, third) = (one.now(), two.now(), one.now());
        assert_eq!((&first.boot, &second.boot), (&second.boot, &third.boot));
        assert!(first.since_boot <= second.since_boot && second.since_boot <= third.since_boot);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn p3_on_linux_no_wall_clock_is_used() {
        let clock = BootClock::new();
        assert_eq!(clock.finding(), None);
        // A machine that has been up for as long as the wall clock counts would have booted in 1970.
        assert!(clock.now().since_boot < Duration::from_millis(dc_controlplane::wall_ms()) / 2);
    }
}
