//! When a figure counts as growing: the rule, and nothing else. Pure.
//!
//! A process warms up; then caches fill, chaos makes waves, allocators keep what a wave needed. A leak shows
//! through all of that: what is there *between* the waves goes up, and up again. So the rule looks at the last two
//! thirds of a process's life, in quiet times only, and asks for two things at once:
//!
//! 1. **It grew much.** The Theil-Sen slope (the median of the slopes between all pairs of samples, which up to 29 % of
//!    wild samples cannot move) times the length of what is looked at exceeds both [`Limit::least`] and
//!    [`Limit::share`] of the median.
//! 2. **It grew for good, and was growing throughout.** Cut in three, the lower quartile of each part lies above the
//!    upper quartile of the one before: a single step, however high, is no leak, nor is a wave that passes.

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Seconds since the process began.
    pub at: f64,
    /// The figure.
    pub value: f64,
    /// Whether nothing was being done to the system, nor had been shortly before.
    pub quiet: bool,
}

/// What a figure may grow by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// Growth below this is none, in the figure's unit.
    pub least: f64,
    /// Growth below this share of the median is none.
    pub share: f64,
}

impl Limit {
    /// For a process that lived only a short part of the run: as long as the waves of work are, so that two or three of
    /// them, one a little higher than the other, look like growth. What leaks in it and is slower than this leaks in those
    /// that lived longer, too.
    #[must_use]
    pub fn of_a_short_life(self) -> Self {
        Self { share: self.share.max(0.5), ..self }
    }
}

/// What is said of a curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// It does not grow; by how much it changed over what was looked at.
    Flat(f64),
    /// It grows, by this much over what was looked at.
    Grows(f64),
    /// The process did not live long enough to tell.
    TooShort,
}

/// Samples that a verdict needs, after the warm-up.
pub const LEAST_SAMPLES: usize = 18;

/// Applies the rule to the curve of one process, in order of time.
pub fn judge(curve: &[Point], limit: Limit) -> Verdict {
    let (Some(first), Some(last)) = (curve.first(), curve.last()) else { return Verdict::TooShort };
    let warm = first.at + (last.at - first.at) / 3.0;
    let late: Vec<Point> = curve.iter().copied().filter(|point| point.at >= warm).collect();
    let quiet: Vec<Point> = late.iter().copied().filter(|point| point.quiet).collect();
    // Under chaos without a pause, all samples have to do.
    let looked_at = if quiet.len() >= LEAST_SAMPLES { quiet } else { late };
    if looked_at.len() < LEAST_SAMPLES {
        return Verdict::TooShort;
    }
    let values = || looked_at.iter().map(|point| point.value).collect::<Vec<_>>();
    let length = looked_at[looked_at.len() - 1].at - looked_at[0].at;
    let growth = slope(&looked_at) * length;
    let much = growth > limit.least.max(limit.share * quantile(values(), 0.5));
    let mut parts = looked_at.chunks(looked_at.len().div_ceil(3)).map(|part| {
        let values: Vec<_> = part.iter().map(|point| point.value).collect();
        (quantile(values.clone(), 0.25), quantile(values, 0.75))
    });
    let mut upper = f64::NEG_INFINITY;
    let throughout = parts.all(|(low, high)| {
        let rises = low > upper;
        upper = high;
        rises
    });
    if much && throughout { Verdict::Grows(growth) } else { Verdict::Flat(growth) }
}

/// The Theil-Sen slope; of long curves, of about a thousand evenly spread samples.
fn slope(points: &[Point]) -> f64 {
    let every = points.len().div_ceil(1_000);
    let points: Vec<_> = points.iter().step_by(every).collect();
    let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
    for (n, a) in points.iter().enumerate() {
        slopes.extend(points[n + 1..].iter().filter(|b| b.at > a.at).map(|b| (b.value - a.value) / (b.at - a.at)));
    }
    if slopes.is_empty() { 0.0 } else { quantile(slopes, 0.5) }
}

fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const LIMIT: Limit = Limit { least: 8.0, share: 0.1 };

    /// An hour of samples; `noise` to both sides.
    fn hour(noise: u64, value: impl Fn(f64) -> f64) -> Vec<Point> {
        curve(3600, noise, value)
    }

    fn curve(seconds: u64, noise: u64, value: impl Fn(f64) -> f64) -> Vec<Point> {
        let mut rng = Rng::new(3);
        let point = |at: u64| {
            let noise = rng.range(0..2 * noise + 1) as f64 - noise as f64;
            let at = at as f64;
            Point { at, value: value(at) + noise, quiet: at as u64 % 20 >= 8 }
        };
        (0..seconds).map(point).collect()
    }

    fn grows(curve: &[Point]) -> bool {
        matches!(judge(curve, LIMIT), Verdict::Grows(_))
    }

    #[test]
    fn a_level_curve_is_flat_under_noise_spikes_and_waves() {
        assert!(!grows(&hour(0, |_| 60.0)));
        assert!(!grows(&hour(6, |_| 60.0)));
        let spikes = |at: f64| if at as u64 % 300 < 20 { 400.0 } else { 60.0 };
        assert!(!grows(&hour(3, spikes)), "each outage makes a wave that passes");
        assert!(!grows(&hour(3, |at| 60.0 + 20.0 * (at / 200.0).sin())));
        let in_chaos = |at: f64| if (at as u64) % 20 < 8 { 60.0 + at } else { 60.0 };
        assert!(!grows(&hour(3, in_chaos)), "what rises in chaos only is chaos");
    }

    #[test]
    fn warming_up_and_single_steps_are_no_leak() {
        assert!(!grows(&hour(2, |at| 60.0 + 80.0 * (at / 900.0).min(1.0))), "it warms up in the first third");
        assert!(!grows(&hour(2, |at| if at < 2400.0 { 60.0 } else { 90.0 })), "the allocator kept one wave's memory");
        assert!(!grows(&hour(2, |at| 60.0 + 20.0 * (1.0 - (-at / 500.0).exp()))), "a cache fills up");
        assert!(!grows(&hour(1, |at| 100.0 - at / 100.0)), "it shrinks");
    }

    #[test]
    fn leaks_show_through_noise_spikes_and_waves() {
        assert!(grows(&hour(0, |at| 60.0 + at / 100.0)));
        assert!(grows(&hour(4, |at| 60.0 + at / 150.0)));
        let waves = |at: f64| if at as u64 % 300 < 20 { 400.0 } else { 60.0 + at / 120.0 };
        assert!(grows(&hour(3, waves)));
        let steps = |at: f64| 60.0 + 3.0 * (at / 240.0).floor();
        assert!(grows(&hour(2, steps)), "each event leaves something behind");
        assert!(grows(&curve(60, 2, |at| 60.0 + at)), "a fast one shows within a minute");
    }

    #[test]
    fn growth_below_the_limit_is_none() {
        assert!(!grows(&hour(1, |at| 60.0 + at / 600.0)), "4 in 40 minutes, below the least");
        assert!(!grows(&hour(1, |at| 600.0 + at / 100.0)), "24 of 600 is less than a tenth");
    }

    #[test]
    fn waves_are_no_leak_in_a_life_that_is_no_longer_than_they_are() {
        let tasks = Limit { least: 60.0, share: 0.15 };
        // Starting, a cut that ends, and work that comes back: what a minute's life showed.
        let life: Vec<_> = curve(61, 4, |at| if at < 15.0 { 400.0 } else { 300.0 + (at - 15.0) * 2.5 });
        assert!(matches!(judge(&life, tasks), Verdict::Grows(_)), "by the rule for a long one");
        assert!(matches!(judge(&life, tasks.of_a_short_life()), Verdict::Flat(_)));
        let fast = curve(61, 4, |at| 300.0 + 40.0 * at);
        assert!(matches!(judge(&fast, tasks.of_a_short_life()), Verdict::Grows(_)), "a fast leak shows");
    }

    #[test]
    fn a_short_life_is_not_judged() {
        assert_eq!(judge(&curve(20, 0, |at| at), LIMIT), Verdict::TooShort);
        assert_eq!(judge(&[], LIMIT), Verdict::TooShort);
    }
}
