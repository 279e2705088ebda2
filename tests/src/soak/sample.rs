//! What each process uses, each second: memory and files from the operating system, the rest from the node itself.

use std::collections::BTreeMap;

use super::{
    checker::WINDOW,
    clock::SECOND,
    control::Figures,
    flat::{Limit, Point, Verdict, judge},
};

/// What is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Resident memory, in MiB.
    Memory,
    /// Open file descriptors.
    Files,
    /// Tasks of the runtime that have not ended.
    Tasks,
    /// Actors.
    Actors,
}

impl Figure {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Memory, Self::Files, Self::Tasks, Self::Actors];

    /// How it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory (RSS), MiB",
            Self::Files => "file descriptors",
            Self::Tasks => "tasks",
            Self::Actors => "actors",
        }
    }

    /// By how much it may grow over the last two thirds of a process's life.
    pub fn limit(self) -> Limit {
        match self {
            Self::Memory => Limit { least: 8.0, share: 0.1 },
            Self::Files => Limit { least: 16.0, share: 0.1 },
            Self::Tasks => Limit { least: 60.0, share: 0.15 },
            Self::Actors => Limit { least: 60.0, share: 0.25 },
        }
    }
}

/// How long the driver's readers take, beyond the checker's window, until they forget as much as they take; in seconds.
const FORGETS: f64 = 15.0;

/// A life is short below this share of the longest one.
const SHORT: f64 = 0.1;

/// The curves of one process.
#[derive(Clone, Debug)]
pub struct Life {
    /// Its place; the driver has none.
    pub slot: Option<usize>,
    /// Its run.
    pub run: u32,
    /// The figures, in order of time, each with the run's second.
    pub curves: BTreeMap<Figure, Vec<Point>>,
    /// Messages that it has to hold, as its memory was sampled; of the driver only.
    pub held: Vec<Point>,
}

/// What was said of one curve.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Whose.
    pub who: String,
    /// Which figure.
    pub figure: Figure,
    /// What.
    pub verdict: Verdict,
    /// Seconds that the process was watched.
    pub seconds: f64,
    /// The figure's median over that time.
    pub median: f64,
    /// Its highest.
    pub most: f64,
}

impl Life {
    /// A process that begins.
    pub fn new(slot: Option<usize>, run: u32) -> Self {
        Self { slot, run, curves: BTreeMap::new(), held: Vec::new() }
    }

    /// Adds a sample.
    pub fn add(&mut self, figure: Figure, at: f64, value: f64, quiet: bool) {
        self.curves.entry(figure).or_default().push(Point { at, value, quiet });
    }

    /// Adds how many messages it has to hold.
    pub fn add_held(&mut self, at: f64, messages: usize, quiet: bool) {
        self.held.push(Point { at, value: messages as f64, quiet });
    }

    /// Adds what the operating system says of the process; nothing if it is gone.
    pub fn add_system(&mut self, pid: u32, at: f64, quiet: bool) {
        if let Some(memory) = memory_mib(pid) {
            self.add(Figure::Memory, at, memory, quiet);
        }
        if let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) {
            self.add(Figure::Files, at, files.count() as f64, quiet);
        }
    }

    /// Adds what the node says of itself.
    pub fn add_figures(&mut self, figures: &Figures, at: f64, quiet: bool) {
        self.add(Figure::Tasks, at, figures.tasks as f64, quiet);
        self.add(Figure::Actors, at, figures.actors as f64, quiet);
    }

    /// How it is called.
    pub fn who(&self) -> String {
        self.slot.map_or("driver".to_owned(), |slot| format!("node {slot}, run {}", self.run))
    }

    /// How long it was watched, in seconds.
    pub fn seconds(&self) -> f64 {
        let lengths = self.curves.values().map(|curve| span(curve));
        lengths.fold(0.0, f64::max)
    }

    /// Applies the rule to each curve; `longest`: the longest life of the run, in seconds. The driver's curves begin once
    /// it forgets what it followed first, and its memory grows only if it does for each message that it holds, too: it
    /// holds those of a fixed time, which are more when the machine does more.
    pub fn judge(&self, longest: f64) -> Vec<Judged> {
        let is_short = self.seconds() < longest * SHORT;
        let fills = if self.slot.is_none() { (WINDOW / SECOND) as f64 + FORGETS } else { 0.0 };
        let full = |curve: &[Point]| curve.iter().position(|point| point.at >= curve[0].at + fills);
        let judged = self.curves.iter().map(|(figure, curve)| {
            let mut values: Vec<_> = curve.iter().map(|point| point.value).collect();
            values.sort_by(f64::total_cmp);
            let limit = figure.limit();
            let limit = if is_short { limit.of_a_short_life() } else { limit };
            let mut verdict = full(curve).map_or(Verdict::TooShort, |from| judge(&curve[from..], limit));
            if *figure == Figure::Memory && matches!(verdict, Verdict::Grows(_)) && !self.held.is_empty() {
                let held_alike = self.as_if_held_alike(curve);
                verdict = full(&held_alike).map_or(verdict, |from| judge(&held_alike[from..], limit));
            }
            Judged {
                who: self.who(),
                figure: *figure,
                verdict,
                seconds: span(curve),
                median: values[values.len() / 2],
                most: values[values.len() - 1],
            }
        });
        judged.collect()
    }

    /// The curve as it would be if as many messages had been held at all times, and each took its share of the whole.
    fn as_if_held_alike(&self, curve: &[Point]) -> Vec<Point> {
        let mut counts: Vec<_> = self.held.iter().map(|held| held.value).collect();
        counts.sort_by(f64::total_cmp);
        let median = counts[counts.len() / 2];
        let mut held = self.held.iter().peekable();
        let scaled = curve.iter().filter_map(|point| {
            while held.next_if(|held| held.at < point.at).is_some() {}
            let held = held.peek().filter(|held| held.at == point.at && held.value > 0.0)?;
            Some(Point { value: point.value * median / held.value, ..*point })
        });
        scaled.collect()
    }
}

/// From the first sample to the last, in seconds.
fn span(curve: &[Point]) -> f64 {
    curve.last().map_or(0.0, |last| last.at - curve[0].at)
}

/// Resident memory of a process, in MiB.
fn memory_mib(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A minute of filling up, at this rate, then level.
    fn verdict(slot: Option<usize>, seconds: u32) -> Verdict {
        let mut life = Life::new(slot, 1);
        for at in 0..seconds {
            life.add(Figure::Memory, f64::from(at), 40.0 + f64::from(at.min(60)), true);
        }
        life.judge(0.0)[0].verdict
    }

    #[test]
    fn the_drivers_windows_fill_first_and_nobody_elses() {
        assert_eq!(verdict(None, 65), Verdict::TooShort);
        assert!(matches!(verdict(None, 180), Verdict::Flat(_)), "it is level once they are full");
        assert!(matches!(verdict(Some(1), 60), Verdict::Grows(_)), "a node has none");
    }

    #[test]
    fn a_short_life_in_a_long_run_may_grow_by_more() {
        let mut life = Life::new(Some(4), 5);
        for at in 0..61_u32 {
            life.add(Figure::Tasks, f64::from(at), 300.0 + 3.0 * f64::from(at), true);
        }
        let verdict = |longest| life.judge(longest)[0].verdict;
        assert!(matches!(verdict(600.0), Verdict::Grows(_)), "a tenth of the run");
        assert!(matches!(verdict(3_615.0), Verdict::Flat(_)));
    }

    /// The driver of five minutes; what it holds and its memory, by the second.
    fn driver(held: impl Fn(u32) -> u32, memory: impl Fn(u32) -> f64) -> Verdict {
        let mut life = Life::new(None, 1);
        for at in 0..300 {
            life.add(Figure::Memory, f64::from(at), memory(at), true);
            life.add_held(f64::from(at), held(at) as usize, true);
        }
        life.judge(0.0)[0].verdict
    }

    #[test]
    fn a_driver_that_holds_more_messages_may_take_more() {
        let held = |at| 1_000_000 + 2_500 * at;
        let memory = |at| 30.0 + f64::from(held(at)) / 8_000.0;
        assert!(matches!(driver(held, memory), Verdict::Flat(_)));
        let leaks = |at| memory(at) + f64::from(at);
        assert!(matches!(driver(held, leaks), Verdict::Grows(_)), "more than they take");
        assert!(matches!(driver(|_| 1_000_000, memory), Verdict::Grows(_)), "what it holds does not grow");
        assert!(matches!(driver(|at| 2_000_000 - 2_500 * at, |_| 150.0), Verdict::Flat(_)), "memory is kept");
    }

    #[test]
    fn a_driver_that_goes_on_growing_is_told() {
        let mut life = Life::new(None, 1);
        for at in 0..300_u32 {
            life.add(Figure::Memory, f64::from(at), 40.0 + f64::from(at), true);
        }
        assert!(matches!(life.judge(0.0)[0].verdict, Verdict::Grows(_)));
    }
}
