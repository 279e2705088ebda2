//! C3 against a model: a store that writes, and a reader that hears of it late, twice and out of order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Write(u8),
    Remove(u8),
    /// The oldest event that is on its way arrives.
    Deliver,
    /// An event that was delivered already arrives again.
    Repeat(u8),
    Ask,
    Answer,
    /// The watch breaks and is opened again: what was on its way is lost, the replay is as of now.
    Rewatch,
    Pass(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..5_u8).prop_map(Step::Write),
        2 => (0..5_u8).prop_map(Step::Remove),
        6 => Just(Step::Deliver),
        2 => any::<u8>().prop_map(Step::Repeat),
        2 => Just(Step::Ask),
        2 => Just(Step::Answer),
        1 => Just(Step::Rewatch),
        1 => (0..9_u8).prop_map(Step::Pass),
    ]
}

#[derive(Default)]
struct Store {
    revision: u64,
    records: BTreeMap<String, u64>,
    /// Name, revision, and whether it is a removal; from `sent` on they are on their way.
    log: Vec<(String, u64, bool)>,
    sent: usize,
}

impl Store {
    fn view(&self) -> Listing {
        listing(self.revision, self.records.iter().map(|(name, revision)| record(name, *revision)).collect())
    }

    fn event(&self, number: usize) -> Option<WatchEvent> {
        let (name, revision, gone) = self.log.get(number)?;
        Some(if *gone {
            removed(name, *revision, Removal::Deregistered)
        } else {
            WatchEvent::Put(record(name, *revision))
        })
    }
}

struct Run {
    store: Store,
    feed: Feed,
    asked: Option<(ListTicket, Listing)>,
    highest: BTreeMap<String, u64>,
}

impl Run {
    fn act(&mut self, step: Step) {
        let Self { store, feed, asked, .. } = self;
        match step {
            Step::Write(number) => {
                store.revision += 1;
                let name = format!("dc-{number}");
                store.records.insert(name.clone(), store.revision);
                store.log.push((name, store.revision, false));
            }
            Step::Remove(number) => {
                let name = format!("dc-{number}");
                if store.records.remove(&name).is_some() {
                    store.revision += 1;
                    store.log.push((name, store.revision, true));
                }
            }
            Step::Deliver => {
                if let Some(event) = store.event(store.sent) {
                    store.sent += 1;
                    feed.watch(event);
                }
            }
            Step::Repeat(number) if store.sent > 0 => {
                feed.watch(store.event(usize::from(number) % store.sent).unwrap());
            }
            Step::Repeat(_) => {}
            Step::Ask => *asked = Some((feed.ask(), store.view())),
            Step::Answer => {
                if let Some((ticket, view)) = asked.take() {
                    assert_eq!(feed.answer(ticket, view), Listed::InStep);
                }
            }
            Step::Rewatch => {
                feed.core.watch_ended();
                let view = store.view();
                feed.replay(view.as_of.revision, view.records);
                store.sent = store.log.len();
            }
            Step::Pass(seconds) => feed.pass(secs(u64::from(seconds))),
        }
    }

    fn check(&mut self) {
        for entry in self.feed.core.snapshot().iter().filter(|entry| entry.seen() != Seen::Grace) {
            let (name, revision) = (entry.data_center().name().to_owned(), entry.record().version.revision);
            // A record that is shown was written, and was not removed at a version that the reader knows of.
            assert!(self.store.log.contains(&(name.clone(), revision, false)));
            let known_removal = self.highest.get(&name).copied().unwrap_or(0);
            assert!(revision > known_removal, "C3: {name}@{revision} came back after its removal at {known_removal}");
        }
        for (name, revision, gone) in &self.store.log[..self.store.sent] {
            if *gone {
                let known = self.highest.entry(name.clone()).or_default();
                *known = (*known).max(*revision);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn c3_whatever_order_news_arrives_in_the_table_ends_at_the_stores_view(
        steps in proptest::collection::vec(step(), 0..80),
        linearizable in any::<bool>(),
    ) {
        let feed = Feed::new(if linearizable { LINEARIZABLE } else { STALE_READS });
        let mut run = Run { store: Store::default(), feed, asked: None, highest: BTreeMap::new() };
        run.feed.replay(0, vec![]);
        let mut shown: BTreeMap<String, u64> = BTreeMap::new();
        for step in steps {
            run.act(step);
            run.check();
            for entry in run.feed.core.snapshot().iter() {
                let (name, revision) = (entry.data_center().name().to_owned(), entry.record().version.revision);
                let before = shown.insert(name.clone(), revision).unwrap_or(0);
                prop_assert!(revision >= before, "C3: {} went from {} back to {}", name, before, revision);
            }
        }
        let ticket = run.feed.ask();
        let view = run.store.view();
        run.feed.answer(ticket, view);
        for (name, revision) in &run.store.records {
            prop_assert_eq!(run.feed.version(name), Some(*revision), "{} is in the store", name);
        }
        for entry in run.feed.core.snapshot().iter() {
            // A watch that broke after a long silence was an outage, which excuses (C5).
            let held = run.store.records.contains_key(entry.data_center().name());
            prop_assert!(held || entry.seen() == Seen::Grace, "{} is not in the store", entry.id());
        }
    }
}
