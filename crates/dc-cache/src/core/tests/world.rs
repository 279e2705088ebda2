//! C2 and C5 in random worlds: leaders that renew, die and register again, a store that loses its quorum (and so goes
//! away, though lists are answered for a moment longer where they may be stale), comes back (as it was, with
//! everything expired, or wiped), and one reader. A second a step.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A leader renews every 10 s, and tries again after 1 s, 2 s, .. 8 s.
const HEARTBEAT: u64 = 10;
const REFRESH: u64 = 10;

#[derive(Clone, Debug)]
struct Plan {
    traits: Traits,
    watch: bool,
    /// When each leader dies, if it does.
    deaths: Vec<Option<u64>>,
    /// How long the store is up, how long it is out then, and whether it comes back wiped.
    store: Vec<(u64, u64, bool)>,
}

fn plan() -> impl Strategy<Value = Plan> {
    (
        prop_oneof![Just(LINEARIZABLE), Just(STALE_READS)],
        any::<bool>(),
        proptest::collection::vec(proptest::option::weighted(0.4, 20..400_u64), 1..5),
        proptest::collection::vec((40..200_u64, 1..200_u64, proptest::bool::weighted(0.3)), 0..4),
    )
        .prop_map(|(traits, watch, deaths, store)| Plan { traits, watch, deaths, store })
}

struct Leader {
    name: String,
    dies: Option<u64>,
    next: u64,
    failures: u32,
    version: Option<Version>,
}

struct Held {
    version: Version,
    ends: u64,
}

struct World {
    plan: Plan,
    feed: Feed,
    leaders: Vec<Leader>,
    store: StoreId,
    revision: u64,
    records: BTreeMap<String, Held>,
    /// Events that the watch has not delivered yet.
    pending: Vec<WatchEvent>,
    next_list: u64,
    failures: u32,
    watching: bool,
}

impl World {
    fn new(plan: Plan) -> Self {
        let leaders = plan.deaths.iter().enumerate().map(|(number, dies)| Leader {
            name: format!("dc-{number}"),
            dies: *dies,
            next: number as u64,
            failures: 0,
            version: None,
        });
        Self {
            leaders: leaders.collect(),
            feed: Feed::new(plan.traits),
            plan,
            store: STORE,
            revision: 0,
            records: BTreeMap::new(),
            pending: Vec::new(),
            next_list: 0,
            failures: 0,
            watching: false,
        }
    }

    fn bump(&mut self) -> Version {
        self.revision += 1;
        Version::new(self.store, self.revision)
    }

    fn record(&self, name: &str, version: Version) -> DataCenterRecord {
        DataCenterRecord { version, ..record(name, 0) }
    }

    fn expire(&mut self, now: u64) {
        let ended: Vec<String> =
            self.records.iter().filter(|(_, held)| held.ends <= now).map(|(name, _)| name.clone()).collect();
        for name in ended {
            self.records.remove(&name);
            let version = self.bump();
            self.pending.push(WatchEvent::Removed { id: dc(&name), version, why: Removal::Expired });
        }
    }

    fn lead(&mut self, now: u64, up: bool) {
        let due: Vec<usize> = (0..self.leaders.len())
            .filter(|&number| self.leaders[number].dies.is_none_or(|dies| now < dies))
            .filter(|&number| self.leaders[number].next <= now)
            .collect();
        for number in due {
            if !up {
                let leader = &mut self.leaders[number];
                leader.next = now + (1 << leader.failures.min(3));
                leader.failures += 1;
                continue;
            }
            let name = self.leaders[number].name.clone();
            let held = self.records.get(&name).map(|held| held.version);
            let keeps = self.plan.traits.renewal_keeps_version;
            let version = match held {
                Some(version) if Some(version) == self.leaders[number].version && keeps => version,
                _ => {
                    let version = self.bump();
                    self.pending.push(WatchEvent::Put(self.record(&name, version)));
                    version
                }
            };
            self.records.insert(name, Held { version, ends: now + TTL.as_secs() });
            let leader = &mut self.leaders[number];
            (leader.version, leader.next, leader.failures) = (Some(version), now + HEARTBEAT, 0);
        }
    }

    fn view(&self) -> Listing {
        let records = self.records.iter().map(|(name, held)| self.record(name, held.version)).collect();
        Listing { as_of: Version::new(self.store, self.revision), ..listing(0, records) }
    }

    /// `answers` is whether lists are answered: for a while after the quorum was lost, too.
    fn read(&mut self, now: u64, up: bool, answers: bool) {
        if up && self.plan.watch {
            let rewatch = self.feed.core.take_rewatch();
            if !self.watching || rewatch {
                self.watching = true;
                self.pending.clear();
                let begun = self.feed.now();
                self.feed.core.watch_opened(begun);
                let view = self.view();
                view.records.into_iter().for_each(|record| self.feed.put(record));
                self.feed.watch(WatchEvent::ReplayDone { as_of: view.as_of });
            }
            for event in std::mem::take(&mut self.pending) {
                self.feed.watch(event);
            }
            self.feed.watch(WatchEvent::InStep);
        }
        if self.next_list > now && !(self.feed.core.list_wanted() && self.failures == 0) {
            return;
        }
        let ticket = self.feed.ask();
        if answers {
            self.feed.answer(ticket, self.view());
            (self.next_list, self.failures) = (now + REFRESH, 0);
        } else {
            self.feed.core.failed();
            self.next_list = now + (1 << self.failures.min(4));
            self.failures += 1;
        }
    }

    /// The store comes back with other data under another id.
    fn wipe(&mut self) {
        self.store = StoreId(self.store.0 + 1);
        self.revision = 0;
        self.records.clear();
        self.pending.clear();
        if self.watching {
            self.feed.core.watch_ended();
            self.watching = false;
        }
    }
}

/// Runs `plan` to its end, and holds the guarantees against what the reader shows at each second.
fn live_through(plan: &Plan) -> Result<(), TestCaseError> {
    let mut world = World::new(plan.clone());
    let mut ends = Vec::new();
    let mut at = 0;
    for (up, out, wiped) in &plan.store {
        ends.push((at + up, at + up + out, *wiped));
        at += up + out;
    }
    let last = (at + 200).max(500 + 200);
    let mut well_since = 0;
    let mut good = Vec::new();
    for now in 0..last {
        let up = !ends.iter().any(|(from, to, _)| (*from..*to).contains(&now));
        if ends.iter().any(|(_, to, wiped)| *to == now && *wiped) {
            world.wipe();
        }
        well_since = if up { well_since.min(now) } else { now + 1 };
        // Removals need a quorum as much as renewals.
        if up {
            world.expire(now);
        }
        world.lead(now, up);
        let lag = plan.traits.proof_lag.as_secs();
        let lost = ends.iter().find(|(from, to, _)| (*from..*to).contains(&now)).map(|(from, ..)| *from);
        world.read(now, up, lost.is_none_or(|from| now < from + lag));
        world.feed.pass(secs(1));
        let view: Vec<_> = world.leaders.iter().map(|leader| world.feed.takes(&leader.name)).collect();
        if lost.is_none() {
            good = view;
        } else {
            for (leader, (good, takes)) in world.leaders.iter().zip(good.iter().zip(view)) {
                let lived = leader.dies.is_none_or(|dies| lost.is_some_and(|from| from <= dies));
                prop_assert!(!lived || takes == *good, "C5: {} at {} s: {:?}", leader.name, now, takes);
            }
        }
        for leader in &world.leaders {
            let takes = world.feed.takes(&leader.name);
            let known = leader.version.is_some() && now >= 2 * REFRESH + 5;
            if known && leader.dies.is_none_or(|dies| now < dies) {
                prop_assert!(
                    takes >= Routability::Traffic,
                    "C5: {} is alive at {} s: {:?}",
                    leader.name,
                    now,
                    world.feed.get(&leader.name)
                );
            }
            // Up to a lease in the store, one more here, a grace, and the waits between lists.
            let long = 3 * TTL.as_secs() + 3 * REFRESH;
            if leader.dies.is_some_and(|dies| now > dies + long) && now > well_since + long {
                prop_assert_eq!(takes, Routability::Nothing, "C2: {} is dead at {} s", leader.name, now);
            }
            // The store was well for long before, and a live leader takes placements.
            if known && leader.dies.is_none_or(|dies| now < dies) && now > well_since + 2 * REFRESH + 20 {
                prop_assert_eq!(takes, Routability::Placements, "{} at {} s", leader.name, now);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn c2_c5_the_living_are_always_routable_and_the_dead_leave(plan in plan()) {
        live_through(&plan)?;
    }
}

#[test]
fn c5_a_record_that_outlives_the_outage_but_not_its_leaders_wait_is_spared() {
    // Out from 679 s to 697 s: the record ends at 700 s, and its leader tries again at 703 s.
    let store = vec![(134, 102, false), (174, 137, false), (132, 18, false)];
    for watch in [true, false] {
        let plan = Plan { traits: LINEARIZABLE, watch, deaths: vec![None; 3], store: store.clone() };
        live_through(&plan).unwrap();
    }
}
