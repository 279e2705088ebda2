//! What else the machine does: others may use it at the same time, and figures must say so, or count CPU time.

use std::time::Duration;

use anyhow::Context as _;

/// The load averages of 1, 5 and 15 minutes, as the kernel tells them.
pub(crate) fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let words: Vec<&str> = text.split_ascii_whitespace().take(3).collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("load average {} on {cores} cores", words.join(" "))
}

/// What `/proc` counts CPU time in: hundredths of a second, on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// The CPU time that these processes have used so far, all threads together.
pub(crate) fn cpu(pids: &[u32]) -> anyhow::Result<Duration> {
    let of = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Behind the name, which may hold anything.
        let (_, rest) = stat.rsplit_once(')').context("a name")?;
        let mut ticks = rest.split_ascii_whitespace().skip(11).take(2).map(str::parse::<u32>);
        let (user, system) = (ticks.next().context("user time")??, ticks.next().context("system time")??);
        anyhow::Ok(TICK * (user + system))
    };
    pids.iter().map(of).sum()
}
