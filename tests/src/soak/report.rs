//! What is told of a run: on the screen, as a page with curves, as JSON.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use super::{
    chaos::Act,
    checker::{Checker, Distance, Totals, Violation},
    control::Figures,
    flat::Verdict,
    options::Options,
    record::Class,
    sample::{Figure, Judged, Life},
    svg::{Panel, draw},
    watch::{Second, Watch},
};

/// Something that was done to the system.
#[derive(Clone, Debug)]
pub struct Done {
    /// What.
    pub act: Act,
    /// From when, in seconds of the run.
    pub at: f64,
    /// Until when.
    pub until: f64,
    /// Messages that failed meanwhile.
    pub failed: u64,
}

/// What a run was, beside what was seen of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its options.
    pub options: Options,
    /// Its seed.
    pub seed: u64,
    /// The peak, in messages a second; 0: not measured.
    pub peak: f64,
    /// The load.
    pub rate: f64,
    /// How long load and chaos lasted, in seconds.
    pub length: f64,
    /// What was done.
    pub done: Vec<Done>,
}

/// All that is told.
#[derive(Clone, Debug)]
pub struct Report {
    outcome: Outcome,
    totals: Totals,
    counts: BTreeMap<String, u64>,
    violations: Vec<Violation>,
    judged: Vec<Judged>,
    lives: Vec<Life>,
    seconds: Vec<Second>,
    figures: Figures,
    changes: u64,
    began_us: u64,
}

impl Report {
    pub(super) fn new(watch: &Watch, checker: &Checker, outcome: Outcome, judged: Vec<Judged>) -> Self {
        let heard = watch.heard.lock();
        Self {
            outcome,
            totals: checker.totals().clone(),
            counts: checker.counts().clone(),
            violations: checker.violations().to_vec(),
            judged,
            lives: watch.lives.lock().clone(),
            seconds: watch.seconds.lock().clone(),
            figures: heard.before,
            changes: heard.changes,
            began_us: watch.began_us,
        }
    }

    /// Whether nothing was found broken.
    pub fn clean(&self) -> bool {
        self.counts.is_empty()
    }

    /// Says what came of it.
    pub fn print(&self) {
        println!("{}", self.verdict());
        for violation in self.violations.iter().take(20) {
            println!("  {}", self.line(violation));
        }
    }

    fn verdict(&self) -> String {
        let messages = self.totals.handled_in_all();
        if self.clean() {
            return format!("no violation: {messages} messages followed, {} faults", self.outcome.done.len());
        }
        let counts: Vec<String> = self.counts.iter().map(|(rule, count)| format!("{rule}: {count}")).collect();
        format!("VIOLATIONS: {} (seed {}, {messages} messages)", counts.join(", "), self.outcome.seed)
    }

    fn line(&self, violation: &Violation) -> String {
        let at = violation.at_us.saturating_sub(self.began_us) as f64 / 1e6;
        format!("{at:.1} s: {}: {}", violation.rule, violation.text)
    }

    /// For programs.
    ///
    /// # Errors
    ///
    /// None that a run can lead to.
    pub fn json(&self) -> serde_json::Result<String> {
        let [acknowledged, accepted, not_run, unknown] = self.totals.told;
        serde_json::to_string_pretty(&serde_json::json!({
            "clean": self.clean(),
            "seed": self.outcome.seed,
            "seconds": self.outcome.length,
            "peak_per_second": self.outcome.peak,
            "load_per_second": self.outcome.rate,
            "handled": self.totals.handled_in_all(),
            "acknowledged": acknowledged,
            "confirmed": self.totals.confirmed,
            "accepted_tells": accepted,
            "certainly_not_run": not_run,
            "refused_and_silent": self.totals.refused_and_silent,
            "may_have_run": unknown,
            "errors": self.totals.errors,
            "faults": self.outcome.done.iter().map(|done| done.act.name()).collect::<Vec<_>>(),
            "violation_counts": self.counts,
            "violations": self.violations.iter().map(|violation| self.line(violation)).collect::<Vec<_>>(),
        }))
    }

    /// Writes the page, and its curves in an SVG file beside it.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let curves = path.with_extension("svg");
        let name = curves.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        std::fs::write(&curves, self.curves())?;
        std::fs::write(path, self.page(&name))
    }

    fn page(&self, curves: &str) -> String {
        let mut page = String::from(HEAD);
        self.what_ran(&mut page);
        self.messages(&mut page);
        self.latencies(&mut page);
        self.faults(&mut page);
        self.growth(&mut page);
        let _ = write!(
            page,
            "\n## Curves\n\nShaded: something was done to the system. Restarted nodes begin new curves.\n\n\
             ![Throughput, latency, memory, file descriptors, tasks and actors over the run]({curves})\n"
        );
        page
    }

    fn what_ran(&self, page: &mut String) {
        let Outcome { options, seed, peak, rate, length, done } = &self.outcome;
        let peak = if *peak > 0.0 {
            format!("{peak:.0} messages/s, measured in the same run; load {rate:.0}/s ({:.0} %)", rate / peak * 100.0)
        } else {
            format!("not measured; load {rate:.0} messages/s")
        };
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let store = match options.control_plane {
            super::options::Plane::Sqlite => "SQLite, one file".to_owned(),
            plane => format!("{plane:?}, {} server(s)", options.store_servers),
        };
        let _ = write!(
            page,
            "\n## The run that is reported here\n\n| | |\n|---|---|\n\
             | result | **{}** |\n\
             | length | {:.1} min of load and faults |\n\
             | seed | {seed} |\n\
             | system | {} datacenters x {} nodes, one process each; {} senders a node; {profile} build, {cores} cores for \
             nodes, store, proxies and checker together |\n\
             | store | {store} |\n\
             | links | {}, each through a proxy |\n\
             | peak of this mix | {peak} |\n\
             | faults | {} |\n",
            self.verdict(),
            length / 60.0,
            options.dcs,
            options.nodes,
            options.workers,
            if options.tls { "mutual TLS" } else { "plain text" },
            done.len(),
        );
        if !self.violations.is_empty() {
            page.push_str("\n### Violations\n\n");
            for violation in &self.violations {
                let _ = writeln!(page, "- {}", self.line(violation));
            }
        }
    }

    fn messages(&self, page: &mut String) {
        let totals = &self.totals;
        let [acknowledged, accepted, not_run, unknown] = totals.told;
        let _ = write!(page, "\n## Messages\n\n| | |\n|---|---|\n");
        for class in Class::ALL {
            let count = totals.handled.get(&class).copied().unwrap_or(0);
            let _ = writeln!(page, "| handled: {} | {count} |", class.name());
        }
        let rows = [
            ("asks and spawns acknowledged", acknowledged),
            ("of these, handled exactly once by the one who answered", totals.confirmed),
            ("tells accepted", accepted),
            ("accepted tells lost with their link or node (allowed, A4)", totals.tells_lost),
            ("reported as certainly not run", not_run),
            ("of these, never handled", totals.refused_and_silent),
            ("reported as may have run", unknown),
            ("overtaken across a lost link or a grain's move (allowed, R1)", totals.overtaken_across_links),
            ("messages at which a grain was active twice within G2's limits (allowed)", totals.grains_twice),
            ("spawns that started an actor on each side while members disagreed (allowed, A2)", totals.spawns_twice),
            ("look-ups", self.figures.lookups),
            ("look-ups that found nothing or failed", self.figures.lookups_failed),
            ("dead letters", self.figures.dead_letters),
            ("changes of members, leaders and datacenters that nodes told of", self.changes),
        ];
        for (what, count) in rows {
            let _ = writeln!(page, "| {what} | {count} |");
        }
        if !totals.errors.is_empty() {
            let errors: Vec<String> = totals.errors.iter().map(|(name, count)| format!("`{name}` {count}")).collect();
            let _ = writeln!(page, "\nFailures by name: {}.", errors.join(", "));
        }
    }

    fn latencies(&self, page: &mut String) {
        page.push_str("\n## Asks that were answered: milliseconds\n\n");
        page.push_str(
            "Under load all the time; \"faults\" is while something is done to the system and until it has healed.\n\n",
        );
        page.push_str("| between | when | asks | p50 | p99 | p99.9 |\n|---|---|---|---|---|---|\n");
        for ((distance, quiet), times) in self.totals.times.iter().rev() {
            let between = match distance {
                Distance::Here => "actors of one node",
                Distance::Near => "nodes of one datacenter",
                Distance::Far => "datacenters",
            };
            let ms = |share| times.quantile(share) / 1000.0;
            let _ = writeln!(
                page,
                "| {between} | {} | {} | {:.1} | {:.1} | {:.1} |",
                if *quiet { "quiet" } else { "faults" },
                times.count(),
                ms(0.5),
                ms(0.99),
                ms(0.999)
            );
        }
    }

    fn faults(&self, page: &mut String) {
        let mut kinds: BTreeMap<&str, (u64, f64, u64)> = BTreeMap::new();
        for done in &self.outcome.done {
            let kind = kinds.entry(done.act.name()).or_default();
            *kind = (kind.0 + 1, kind.1 + done.until - done.at, kind.2 + done.failed);
        }
        page.push_str(
            "\n## Faults\n\n| what | times | seconds in all | messages that failed meanwhile |\n|---|---|---|---|\n",
        );
        for (name, (times, seconds, failed)) in kinds {
            let _ = writeln!(page, "| {name} | {times} | {seconds:.0} | {failed} |");
        }
    }

    fn growth(&self, page: &mut String) {
        page.push_str(
            "\n## Growth\n\nOver the last two thirds of each process's life, quiet times only. Shown are the processes that \
             lived longest.\n\n| process | seconds | figure | median | most | change | judged |\n|---|---|---|---|---|---|---|\n",
        );
        let mut judged: Vec<&Judged> = self.judged.iter().filter(|one| one.verdict != Verdict::TooShort).collect();
        let short = self.judged.len() - judged.len();
        judged.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let grows = |one: &&Judged| matches!(one.verdict, Verdict::Grows(_));
        let shown = judged.iter().filter(|one| grows(one)).chain(judged.iter().filter(|one| !grows(one)).take(24));
        for one in shown {
            let (change, verdict) = match one.verdict {
                Verdict::Flat(by) => (by, "flat"),
                Verdict::Grows(by) => (by, "**grows**"),
                Verdict::TooShort => (0.0, "too short"),
            };
            let _ = writeln!(
                page,
                "| {} | {:.0} | {} | {:.0} | {:.0} | {change:+.1} | {verdict} |",
                one.who,
                one.seconds,
                one.figure.name(),
                one.median,
                one.most
            );
        }
        let _ = writeln!(page, "\n{} curves judged; {short} of lives too short to tell.", judged.len());
    }

    fn curves(&self) -> String {
        let (begin, end) = match (self.seconds.first(), self.seconds.last()) {
            (Some(first), Some(last)) => (first.at, last.at),
            _ => (0.0, 1.0),
        };
        let of_run = |title: &str, value: fn(&Second) -> f64| Panel {
            title: title.into(),
            curves: vec![(title.into(), self.seconds.iter().map(|second| (second.at, value(second))).collect())],
        };
        let mut panels = vec![
            of_run("messages handled a second", |second| second.handled as f64),
            of_run("messages failed a second", |second| second.failed as f64),
            of_run("asks: p99 of each second, ms", |second| second.p99_ms),
        ];
        for figure in Figure::ALL {
            let curves = self.lives.iter().filter_map(|life| {
                let points = life.curves.get(&figure)?.iter().map(|point| (point.at, point.value)).collect();
                Some((life.who(), points))
            });
            panels.push(Panel { title: format!("{}, each process", figure.name()), curves: curves.collect() });
        }
        panels.push(of_run("messages that the checker holds", |second| second.open as f64));
        let bands: Vec<_> = self.outcome.done.iter().map(|done| (done.at, done.until, done.act.to_string())).collect();
        draw(&panels, &bands, begin, end)
    }
}

const HEAD: &str = "\
# Soak and chaos

Made by `cargo xtask soak --report docs/soak.md`; do not edit.

```console
$ cargo xtask soak --minutes 60                        # NATS with three servers, TLS, 80 % of the peak measured first
$ cargo xtask soak --minutes 5 --control-plane etcd    # or sqlite; --seed replays a schedule; -- --help for the rest
```

## What it does

Every node is a process of its own. Senders on all nodes tell, ask, look up and spawn, in bursts that do not wait for one
another, to named actors and to grains of all datacenters, among them global names and grains, of which there is one in the
world and which start elsewhere when their node is lost; payloads are 0 bytes to 100 kB, so that both lanes carry them.
First everybody sends as fast as answers come: the peak of this mix on this machine. Then a share of it is sent while a
schedule, drawn from the seed beforehand, kills and restarts nodes and leaders, shuts them down in order, pauses them,
isolates them, cuts and black-holes and delays what is between datacenters, restarts the store and single servers of it,
drains and undrains datacenters, and rotates certificates together with their authority. Links (TCP) and gossip (UDP) of each
node pass a proxy that knows who dials, so that any pair can be cut without privileges. One node of each datacenter but the
last is never ended: its curves are as long as the run. At the end every node must reach every named actor.

Senders and targets write down each message, with one system call, before they go on: what a killed process acknowledged is
in its file. The checker compares both sides of each message for 45 s and then forgets it:

| guarantee | violation |
|---|---|
| R1 | a message handled after a later one of its stream by the same activation, unless a link between the two nodes began or ended in between (the proxies see that), or the sender did not know of that activation: another one gave it the last answer, or has handled since what it told (what it asks elsewhere comes back, and is sent again), or it is a grain whose home follows from members, and those differed |
| R2 | a message, or the start of a spawned actor, handled twice, or more than 30 s after it was sent |
| R3 | reported as certainly not run, and ran; acknowledged, and never ran |
| A4 | an accepted tell that was never handled though both processes lived and their link stood; an answer by another activation than the one that handled the message |
| L3 | a spawn that starts two actors, later than 11 s after the last fault or change of members (while members disagree, each side may have one: A2) |
| G1 | one message handled by two activations; two activations of a grain at work at once, later than 11 s after the last fault or change of members or tables |
| G2 | two activations of a global grain or name at work at once, at any time, whatever is being done to the system |
| A2, D6, healing | a name that leads to another actor, or never becomes free; a node that does not leave in order; a node or name that is not reached after the faults |
| memory, files, tasks, actors | a curve that grows: over the last two thirds of the process's life, in quiet times, its Theil-Sen slope exceeds both a least and a share of the median (memory 8 MiB and 10 %, files 16 and 10 %, tasks 60 and 15 %, actors 60 and 25 %; half of the median in a process that lived less than a tenth as long as the longest: waves of work are as long as that), and each third lies above the one before; the driver's memory also for each message that its checker holds |
| crash | a node that ends by itself |

That it can fail is tested: `tests/tests/system/soak.rs` plants faults in nodes (messages handled twice, lost, dropped,
reordered, wrongly refused, a second activation; memory, files and tasks that are kept) and expects each to be found.
";
