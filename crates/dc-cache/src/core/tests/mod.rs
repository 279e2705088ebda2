//! The core under a driven clock. `Feed` is one reader; what the store does is written out in each test.

mod model;
mod order;
mod outage;
mod proof;
mod world;

use std::{sync::Arc, time::Duration, time::Instant};

use dc_controlplane::{Corrupt, HeldIntent, Listing, Removal, WatchEvent};
use dc_core::{
    Clock, DataCenter, DataCenterId, DataCenterRecord, DataCenterState, Entry, Epoch, Intent, IntentKind, ManualClock,
    NodeEndpoint, NodeId, Owner, Routability, Seen, StoreId, Version,
};

use super::{Core, ListTicket, Listed, Traits};
use crate::TableEvent;

pub(super) const TTL: Duration = Duration::from_secs(30);
pub(super) const STORE: StoreId = StoreId(1);
pub(super) const OTHER: StoreId = StoreId(2);
/// As etcd, SQLite and memory.
pub(super) const LINEARIZABLE: Traits =
    Traits { linearizable_reads: true, renewal_keeps_version: true, proof_lag: Duration::ZERO };
/// As NATS.
pub(super) const STALE_READS: Traits =
    Traits { linearizable_reads: false, renewal_keeps_version: false, proof_lag: Duration::from_secs(2) };

pub(super) fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

pub(super) fn dc(name: &str) -> DataCenterId {
    name.parse().unwrap()
}

pub(super) fn at(revision: u64) -> Version {
    Version::new(STORE, revision)
}

pub(super) fn record(name: &str, revision: u64) -> DataCenterRecord {
    let node = NodeId(7);
    let endpoint: dc_core::Endpoint = format!("{name}.example:7946").parse().unwrap();
    DataCenterRecord {
        data_center: DataCenter::new(name).build().unwrap(),
        endpoints: vec![NodeEndpoint::new(node, endpoint.clone())],
        state: DataCenterState::Active,
        ttl: TTL,
        owner: Owner { node, endpoint },
        epoch: Epoch::FIRST,
        handed_over: false,
        written_at_ms: 0,
        version: at(revision),
        unknown: serde_json::Map::new(),
    }
}

pub(super) fn in_state(name: &str, revision: u64, state: DataCenterState) -> DataCenterRecord {
    DataCenterRecord { state, ..record(name, revision) }
}

pub(super) fn intent(name: &str, revision: u64, want: IntentKind) -> HeldIntent {
    HeldIntent { id: dc(name), intent: Intent::new(want, "ops", "maintenance"), version: at(revision) }
}

pub(super) fn listing(revision: u64, records: Vec<DataCenterRecord>) -> Listing {
    Listing { as_of: at(revision), records, intents: Vec::new(), skipped: Vec::new() }
}

pub(super) fn removed(name: &str, revision: u64, why: Removal) -> WatchEvent {
    WatchEvent::Removed { id: dc(name), version: at(revision), why }
}

/// One reader and its clock.
pub(super) struct Feed {
    pub(super) clock: ManualClock,
    pub(super) core: Core,
    pub(super) traits: Traits,
}

impl Feed {
    pub(super) fn new(traits: Traits) -> Self {
        Self { clock: ManualClock::new(), core: Core::new(TTL, traits), traits }
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Lets time pass, ticking whenever the core asks for it.
    pub(super) fn pass(&mut self, by: Duration) {
        let end = self.now() + by;
        while let Some(at) = self.core.next_deadline().filter(|at| *at <= end) {
            self.clock.advance(at.saturating_duration_since(self.now()));
            let now = self.now();
            self.core.tick(now);
            assert!(self.core.next_deadline().is_none_or(|next| next > now), "a deadline that is never met");
        }
        self.clock.advance(end.saturating_duration_since(self.now()));
        self.core.tick(self.now());
    }

    pub(super) fn ask(&mut self) -> ListTicket {
        let now = self.now();
        self.core.list_begun(now)
    }

    pub(super) fn answer(&mut self, ticket: ListTicket, listing: Listing) -> Listed {
        let now = self.now();
        self.core.listed(ticket, listing, self.traits, now)
    }

    /// A list that is asked and answered at once.
    pub(super) fn list(&mut self, revision: u64, records: Vec<DataCenterRecord>) -> Listed {
        let ticket = self.ask();
        self.answer(ticket, listing(revision, records))
    }

    pub(super) fn watch(&mut self, event: WatchEvent) {
        let now = self.now();
        self.core.watched(event, now);
    }

    pub(super) fn put(&mut self, record: DataCenterRecord) {
        self.watch(WatchEvent::Put(record));
    }

    /// A watch that replays these.
    pub(super) fn replay(&mut self, revision: u64, records: Vec<DataCenterRecord>) {
        let now = self.now();
        self.core.watch_opened(now);
        for record in records {
            self.put(record);
        }
        self.watch(WatchEvent::ReplayDone { as_of: at(revision) });
    }

    /// Time passes, and every second the watch proves itself in step.
    pub(super) fn in_step_for(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.pass(secs(1));
            self.watch(WatchEvent::InStep);
        }
    }

    /// A request fails every second, for so long.
    pub(super) fn out_for(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.pass(secs(1));
            self.core.failed();
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Entry>> {
        self.core.snapshot().get(&dc(name)).cloned()
    }

    pub(super) fn seen(&self, name: &str) -> Option<Seen> {
        self.get(name).map(|entry| entry.seen())
    }

    pub(super) fn takes(&self, name: &str) -> Routability {
        self.get(name).map_or(Routability::Nothing, |entry| entry.routability())
    }

    pub(super) fn version(&self, name: &str) -> Option<u64> {
        self.get(name).map(|entry| entry.record().version.revision)
    }

    pub(super) fn events(&mut self) -> Vec<TableEvent> {
        self.core.take_events()
    }
}

#[test]
fn c6_state_and_intent_together_decide() {
    let mut feed = Feed::new(LINEARIZABLE);
    let ticket = feed.ask();
    let mut all = listing(
        9,
        vec![
            in_state("active", 1, DataCenterState::Active),
            in_state("drained", 2, DataCenterState::Active),
            in_state("draining", 3, DataCenterState::Draining),
            in_state("registered", 4, DataCenterState::Registered),
            in_state("inactive", 5, DataCenterState::Inactive),
        ],
    );
    all.intents.push(intent("drained", 6, IntentKind::Drain));
    feed.answer(ticket, all);
    for (name, want) in [
        ("active", Routability::Placements),
        ("drained", Routability::Traffic),
        ("draining", Routability::Traffic),
        ("registered", Routability::Nothing),
        ("inactive", Routability::Nothing),
    ] {
        assert_eq!(feed.takes(name), want, "C6: {name}");
    }
}

#[test]
fn c6_an_intent_acts_at_once_and_the_newest_wins() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.replay(5, vec![record("a", 5)]);
    feed.events();
    feed.watch(WatchEvent::Intent(intent("a", 7, IntentKind::Drain)));
    assert_eq!(feed.takes("a"), Routability::Traffic);
    assert!(matches!(&feed.events()[..], [TableEvent::IntentChanged { intent: Some(_), .. }]));
    // Late news of an older word.
    feed.watch(WatchEvent::Intent(intent("a", 6, IntentKind::Serve)));
    assert_eq!(feed.takes("a"), Routability::Traffic);
    // The leader's next write does not undo it (P8).
    feed.put(record("a", 8));
    assert_eq!(feed.takes("a"), Routability::Traffic);
    feed.watch(WatchEvent::Intent(intent("a", 9, IntentKind::Serve)));
    assert_eq!(feed.takes("a"), Routability::Placements);
}

#[test]
fn an_intent_for_a_datacenter_that_comes_later_holds_for_it() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.replay(1, vec![]);
    feed.watch(WatchEvent::Intent(intent("a", 2, IntentKind::Drain)));
    feed.put(record("a", 3));
    assert_eq!(feed.takes("a"), Routability::Traffic);
}

#[test]
fn each_change_is_told_once() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.list(1, vec![record("a", 1)]);
    let id = dc("a");
    assert_eq!(
        feed.events(),
        [TableEvent::Joined { id: id.clone(), state: DataCenterState::Active }, TableEvent::Fresh]
    );
    feed.list(1, vec![record("a", 1)]);
    assert_eq!(feed.events(), [], "a renewal is no news");
    let mut moved = in_state("a", 2, DataCenterState::Draining);
    moved.endpoints.push(NodeEndpoint::new(NodeId(9), "b.example:1".parse().unwrap()));
    feed.list(2, vec![moved]);
    let (from, to) = (DataCenterState::Active, DataCenterState::Draining);
    assert_eq!(
        feed.events(),
        [TableEvent::StateChanged { id: id.clone(), from, to }, TableEvent::EndpointsChanged { id: id.clone() }]
    );
    feed.list(3, vec![]);
    assert_eq!(feed.events(), [TableEvent::Left { id, why: Removal::Unknown }]);
}

#[test]
fn what_cannot_be_decoded_is_told_once_for_each_cause() {
    let mut feed = Feed::new(LINEARIZABLE);
    let corrupt = |why: &str| Corrupt { key: "records/x".to_owned(), why: why.to_owned() };
    let mut told = |why: &str| {
        let ticket = feed.ask();
        feed.answer(ticket, Listing { skipped: vec![corrupt(why)], ..listing(1, vec![]) });
        feed.events().into_iter().filter(|event| matches!(event, TableEvent::Skipped(_))).count()
    };
    assert_eq!([told("garbage"), told("garbage"), told("other"), told("garbage")], [1, 0, 1, 1]);
}

#[test]
fn a_record_that_turns_unreadable_stays_until_its_lease_ends() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.list(1, vec![record("a", 1), record("b", 1)]);
    let corrupt = Corrupt { key: "ns/records/a".to_owned(), why: "garbage".to_owned() };
    let with_garbage = |records| Listing { skipped: vec![corrupt.clone()], ..listing(2, records) };
    feed.pass(secs(20));
    let ticket = feed.ask();
    feed.answer(ticket, with_garbage(vec![record("b", 1)]));
    assert_eq!(feed.seen("a"), Some(Seen::Live));
    feed.pass(secs(11));
    let ticket = feed.ask();
    feed.answer(ticket, with_garbage(vec![record("b", 1)]));
    assert_eq!((feed.seen("a"), feed.seen("b")), (Some(Seen::Expired), Some(Seen::Live)));
}

fn unreadable_intent(name: &str) -> Corrupt {
    Corrupt { key: format!("5.9.intents/{name}"), why: "garbage".to_owned() }
}

#[test]
fn p8_an_intent_that_turns_unreadable_undoes_no_drain() {
    for traits in [LINEARIZABLE, STALE_READS] {
        let mut feed = Feed::new(traits);
        let ticket = feed.ask();
        feed.answer(
            ticket,
            Listing { intents: vec![intent("a", 2, IntentKind::Out)], ..listing(2, vec![record("a", 1)]) },
        );
        let garbage = || Listing { skipped: vec![unreadable_intent("a")], ..listing(3, vec![record("a", 1)]) };
        let ticket = feed.ask();
        feed.answer(ticket, garbage());
        assert_eq!(feed.get("a").unwrap().wanted(), IntentKind::Out, "in a list");
        feed.core.watch_opened(feed.now());
        feed.put(record("a", 1));
        feed.watch(WatchEvent::Skipped(unreadable_intent("a")));
        feed.watch(WatchEvent::ReplayDone { as_of: at(3) });
        assert_eq!(feed.get("a").unwrap().wanted(), IntentKind::Out, "in a replay");
        // Another store, in which it is unreadable too, and then mended.
        let (reborn, mended) = (Version::new(OTHER, 2), Version::new(OTHER, 3));
        let ticket = feed.ask();
        let theirs = DataCenterRecord { version: reborn, ..record("a", 0) };
        feed.answer(ticket, Listing { as_of: reborn, records: vec![theirs], ..garbage() });
        assert_eq!(feed.get("a").unwrap().wanted(), IntentKind::Out, "in another store");
        feed.watch(WatchEvent::Intent(HeldIntent { version: mended, ..intent("a", 0, IntentKind::Serve) }));
        assert_eq!(feed.takes("a"), Routability::Placements);
    }
}

#[test]
fn p8_an_unreadable_record_is_nobodys_intent_whatever_its_region_is_named() {
    let mut feed = Feed::new(LINEARIZABLE);
    let corrupt = Corrupt { key: "records/intents/a".to_owned(), why: "garbage".to_owned() };
    let ticket = feed.ask();
    feed.answer(ticket, Listing { skipped: vec![corrupt], ..listing(1, vec![record("a", 1)]) });
    assert_eq!(feed.takes("a"), Routability::Placements);
}

#[test]
fn p8_an_unreadable_intent_of_which_nothing_is_known_counts_as_a_drain() {
    let listed = |feed: &mut Feed| {
        let ticket = feed.ask();
        feed.answer(ticket, Listing { skipped: vec![unreadable_intent("a")], ..listing(3, vec![record("a", 1)]) });
    };
    let replayed = |feed: &mut Feed| {
        feed.core.watch_opened(feed.now());
        feed.watch(WatchEvent::Skipped(unreadable_intent("a")));
        feed.put(record("a", 1));
        feed.watch(WatchEvent::ReplayDone { as_of: at(3) });
    };
    let told = |feed: &mut Feed| {
        feed.replay(1, vec![record("a", 1)]);
        feed.watch(WatchEvent::Skipped(unreadable_intent("a")));
    };
    for learn in [&listed as &dyn Fn(&mut Feed), &replayed, &told] {
        let mut feed = Feed::new(LINEARIZABLE);
        learn(&mut feed);
        assert_eq!(feed.takes("a"), Routability::Traffic);
        // Written again, or taken away.
        feed.watch(WatchEvent::Intent(intent("a", 4, IntentKind::Serve)));
        assert_eq!(feed.takes("a"), Routability::Placements);
        let mut feed = Feed::new(LINEARIZABLE);
        learn(&mut feed);
        feed.list(4, vec![record("a", 1)]);
        assert_eq!(feed.takes("a"), Routability::Placements);
    }
}
