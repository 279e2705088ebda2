//! Figures, for people.

use std::time::Duration;

/// Rows under a title, columns as wide as their widest cell.
pub(crate) fn print(title: &str, head: &[&str], rows: &[Vec<String>]) {
    println!("\n## {title}\n");
    let mut all = vec![head.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>()];
    all.extend(rows.iter().cloned());
    let width = |n: usize| all.iter().map(|row| row[n].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for row in &all {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        println!("{}", cells.join("  "));
    }
}

/// A rate: `437 k/s`.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        r if r >= 1e6 => format!("{:.2} M/s", r / 1e6),
        r if r >= 1e3 => format!("{:.1} k/s", r / 1e3),
        r => format!("{r:.0} /s"),
    }
}

/// A time, in microseconds.
pub(crate) fn micros(time: Duration) -> String {
    format!("{:.0} us", time.as_secs_f64() * 1e6)
}

/// Whether a goal is met.
pub(crate) fn verdict(met: bool) -> &'static str {
    if met { "ok" } else { "MISSED" }
}

/// A ratio, and whether the goal is met.
pub(crate) fn at_least(ratio: f64, goal: f64) -> String {
    format!("{ratio:.2} {}", verdict(ratio >= goal))
}

/// A ratio, and whether it stays below the goal.
pub(crate) fn at_most(ratio: f64, goal: f64) -> String {
    format!("{ratio:.2} {}", verdict(ratio <= goal))
}

/// The given share of sorted samples.
pub(crate) fn percentile(samples: &mut [Duration], share: f64) -> Duration {
    samples.sort_unstable();
    let last = samples.len().saturating_sub(1);
    samples.get((last as f64 * share) as usize).copied().unwrap_or_default()
}
