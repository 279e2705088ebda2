//! The registrar's decisions against a small store with compare-and-set, on a driven clock.

use std::{collections::BTreeMap, time::Duration};

use dc_controller::{
    ControllerEvent, ControllerOptions, Role, TakeOver,
    registrar::{LastWrite, Registrar, Step},
};
use dc_controlplane::{Error, Expected, Outcome};
use dc_core::{
    Clock, DataCenter, DataCenterRecord, DataCenterState, DcView, Epoch, IntentKind, ManualClock, Member, NodeId,
    Owner, StoreId, Version,
};
use proptest::prelude::*;

const STORE: StoreId = StoreId(1);

/// One key with compare-and-set and a lease.
struct Store {
    clock: ManualClock,
    record: Option<DataCenterRecord>,
    renewed: std::time::Instant,
    revision: u64,
    /// Who wrote under which epoch: more than one writer an epoch breaks D1.
    writers: BTreeMap<Epoch, NodeId>,
}

impl Store {
    fn new(clock: &ManualClock) -> Self {
        Self { clock: clock.clone(), record: None, renewed: clock.now(), revision: 0, writers: BTreeMap::new() }
    }

    fn live(&mut self) -> Option<DataCenterRecord> {
        let age = self.clock.now() - self.renewed;
        self.record = self.record.take().filter(|record| age < record.ttl);
        self.record.clone()
    }

    fn write(&mut self, record: &DataCenterRecord, expected: Expected) -> Result<Version, Error> {
        let stored = self.live();
        if stored.as_ref().map(|record| record.version) != expected.version() {
            let (id, expected) = (record.id().clone(), expected.version());
            return Err(Error::Conflict { id, expected, stored: stored.map(Box::new) });
        }
        self.revision += 1;
        let version = Version::new(STORE, self.revision);
        self.record = Some(DataCenterRecord { version, ..record.clone() });
        self.renewed = self.clock.now();
        let writer = *self.writers.entry(record.epoch).or_insert(record.owner.node);
        assert_eq!(writer, record.owner.node, "D1: two writers in epoch {}", record.epoch);
        Ok(version)
    }

    fn heartbeat(&mut self, record: &DataCenterRecord) -> Result<Version, Error> {
        if self.live().is_none() {
            return Err(Error::NotFound { id: record.id().clone() });
        }
        self.write(record, Expected::Version(record.version))
    }
}

fn dc() -> DataCenter {
    DataCenter::new("dc-1").build().unwrap()
}

fn member(n: u128) -> Member {
    Member { node: NodeId(n), seniority: n as u64, endpoint: format!("10.0.0.{n}:7946").parse().unwrap() }
}

fn view(me: u128, members: &[u128]) -> DcView {
    DcView { me: NodeId(me), joined: true, members: members.iter().map(|n| member(*n)).collect() }
}

struct Node {
    n: u128,
    registrar: Registrar,
    events: Vec<ControllerEvent>,
}

/// What happens to a call on its way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Works,
    /// The store cannot be reached: nothing happens.
    Refused,
    /// The write lands, its answer is lost.
    AnswerLost,
}

impl Node {
    fn new(n: u128, members: &[u128], clock: &ManualClock) -> Self {
        let me = Owner { node: NodeId(n), endpoint: member(n).endpoint };
        Self::with_owner(n, me, members, clock)
    }

    fn with_owner(n: u128, me: Owner, members: &[u128], clock: &ManualClock) -> Self {
        let registrar = Registrar::new(ControllerOptions::default(), dc(), me, view(n, members), clock.now());
        Self { n, registrar, events: Vec::new() }
    }

    fn sees(&mut self, members: &[u128], clock: &ManualClock) {
        self.registrar.on_view(view(self.n, members), clock.now());
    }

    /// One step; false when there is nothing to do now.
    fn step(&mut self, store: &mut Store, fate: Fate) -> bool {
        let now = store.clock.now();
        let step = self.registrar.next(now);
        let busy = !matches!(step, Step::WaitUntil(_));
        let unknown =
            || Error::Timeout { backend: "test", operation: "write", after: Duration::ZERO, outcome: Outcome::Unknown };
        match step {
            Step::WaitUntil(_) => {}
            Step::Read if fate == Fate::Works => match store.live() {
                Some(record) => self.registrar.on_read(record, now),
                None => self.registrar.on_absent(Version::new(STORE, store.revision), now),
            },
            Step::Read => self.registrar.on_read_failed(unknown(), now),
            Step::Write(write) => {
                let answer = match fate {
                    Fate::Works => store.write(&write.record, write.expected),
                    Fate::Refused => Err(unknown()),
                    Fate::AnswerLost => store.write(&write.record, write.expected).and(Err(unknown())),
                };
                self.registrar.on_written(*write, answer, now, now);
            }
            Step::Heartbeat(record) => {
                let answer = match fate {
                    Fate::Works => store.heartbeat(&record),
                    Fate::Refused => Err(unknown()),
                    Fate::AnswerLost => store.heartbeat(&record).and(Err(unknown())),
                };
                self.registrar.on_heartbeat(answer, now, now, ControllerOptions::default().heartbeat_interval());
            }
        }
        self.events.extend(self.registrar.take_events());
        busy
    }

    fn settle(&mut self, store: &mut Store) {
        for _ in 0..50 {
            if !self.step(store, Fate::Works) {
                return;
            }
        }
        panic!("node {} never rests", self.n);
    }

    fn owns(&self) -> bool {
        self.registrar.status().role == Role::Registrar
    }

    fn took_over(&self) -> Option<TakeOver> {
        self.events.iter().rev().find_map(|event| match event {
            ControllerEvent::TookOver { why, .. } => Some(*why),
            _ => None,
        })
    }
}

/// A registered, ACTIVE datacenter whose owner is node 1 of 1, 2.
fn registered(clock: &ManualClock) -> (Store, Node) {
    let mut store = Store::new(clock);
    let mut owner = Node::new(1, &[1, 2], clock);
    owner.settle(&mut store);
    assert_eq!(store.live().unwrap().state, DataCenterState::Active);
    (store, owner)
}

#[test]
fn the_nominee_registers_and_goes_active_and_no_one_else_does() {
    let clock = ManualClock::new();
    let (mut store, owner) = registered(&clock);
    assert!(owner.owns());
    let mut follower = Node::new(2, &[1, 2], &clock);
    follower.settle(&mut store);
    assert!(!follower.owns());
    assert_eq!(store.live().unwrap().endpoints.len(), 2);
}

#[test]
fn d1_the_owner_stays_registrar_while_it_lives() {
    let clock = ManualClock::new();
    let (mut store, mut owner) = registered(&clock);
    // An older node appears and is the nominee now.
    let mut nominee = Node::new(0, &[0, 1, 2], &clock);
    owner.sees(&[0, 1, 2], &clock);
    for _ in 0..10 {
        owner.settle(&mut store);
        nominee.settle(&mut store);
        clock.advance(Duration::from_secs(5));
    }
    assert!(owner.owns() && !nominee.owns(), "D1");
    assert_eq!(store.live().unwrap().epoch, Epoch::FIRST);
}

#[test]
fn d1_a_member_that_died_is_replaced_at_once() {
    let clock = ManualClock::new();
    let (mut store, _dead) = registered(&clock);
    let mut successor = Node::new(2, &[1, 2], &clock);
    successor.settle(&mut store);
    successor.sees(&[2], &clock);
    successor.settle(&mut store);
    assert_eq!(successor.took_over(), Some(TakeOver::OwnerDead), "D1");
    assert_eq!(store.live().unwrap().epoch, Epoch(2));
}

#[test]
fn d2_a_change_of_owner_keeps_the_state() {
    let clock = ManualClock::new();
    let (mut store, _dead) = registered(&clock);
    let mut successor = Node::new(2, &[1, 2], &clock);
    successor.sees(&[2], &clock);
    for _ in 0..20 {
        let busy = successor.step(&mut store, Fate::Works);
        assert_eq!(store.live().unwrap().state, DataCenterState::Active, "D2: hidden by a change of leader");
        if !busy {
            break;
        }
    }
    assert!(successor.owns());
}

#[test]
fn d1_a_record_handed_over_is_taken_at_once() {
    let clock = ManualClock::new();
    let (mut store, owner) = registered(&clock);
    let Some(LastWrite::HandOver(record)) = owner.registrar.goodbye() else { panic!("no hand-over") };
    assert!(record.endpoints.iter().all(|endpoint| endpoint.node != NodeId(1)), "the leaver is still advertised");
    store.write(&record, Expected::Version(record.version)).unwrap();
    // Even a node that never saw the owner as a member.
    let mut successor = Node::new(2, &[2], &clock);
    successor.settle(&mut store);
    assert_eq!(successor.took_over(), Some(TakeOver::HandedOver), "D1");
}

#[test]
fn d2_only_the_last_node_deregisters() {
    let clock = ManualClock::new();
    let (mut store, mut owner) = registered(&clock);
    assert!(matches!(owner.registrar.goodbye(), Some(LastWrite::HandOver(_))));
    owner.sees(&[1], &clock);
    owner.settle(&mut store);
    assert!(matches!(owner.registrar.goodbye(), Some(LastWrite::Deregister(_))));
    assert_eq!(Node::new(2, &[1, 2], &clock).registrar.goodbye(), None, "a follower has nothing to remove");
}

#[test]
fn d1_the_owners_own_restart_takes_over_at_once() {
    let clock = ManualClock::new();
    let (mut store, _before) = registered(&clock);
    let me = Owner { node: NodeId(9), endpoint: member(1).endpoint };
    let mut restarted = Node::with_owner(9, me, &[9], &clock);
    restarted.settle(&mut store);
    assert_eq!(restarted.took_over(), Some(TakeOver::OwnRestart), "D1");
}

#[test]
fn d1_a_strangers_record_is_taken_only_after_a_ttl_of_silence() {
    let clock = ManualClock::new();
    let (mut store, _stranger) = registered(&clock);
    let ttl = store.live().unwrap().ttl;
    let mut nominee = Node::new(7, &[7], &clock);
    let started = clock.now();
    while !nominee.owns() {
        nominee.settle(&mut store);
        // The store's own expiry plays no part here.
        store.renewed = clock.now();
        clock.advance(Duration::from_secs(1));
        assert!(clock.now() - started < ttl * 2, "never took over");
    }
    assert_eq!(nominee.took_over(), Some(TakeOver::Silent), "D1");
    assert!(clock.now() - started >= ttl, "D1: took over after {:?}", clock.now() - started);
}

#[test]
fn d1_a_record_kept_alive_by_strangers_is_never_taken_and_reported() {
    let clock = ManualClock::new();
    let (mut store, mut stranger) = registered(&clock);
    let mut nominee = Node::new(7, &[7], &clock);
    for _ in 0..200 {
        stranger.settle(&mut store);
        nominee.settle(&mut store);
        clock.advance(Duration::from_secs(1));
    }
    assert!(stranger.owns() && !nominee.owns(), "D1");
    let told = nominee.events.iter().filter(|e| matches!(e, ControllerEvent::DataCenterIdInUse { .. })).count();
    assert_eq!(told, 1, "told once: {:?}", nominee.events);
    assert_eq!(nominee.registrar.status().id_in_use_by.map(|owner| owner.node), Some(NodeId(1)));
}

#[test]
fn d1_a_fenced_node_steps_down_and_does_not_alternate() {
    let clock = ManualClock::new();
    let (mut store, mut paused) = registered(&clock);
    let mut successor = Node::new(2, &[1, 2], &clock);
    successor.settle(&mut store);
    successor.sees(&[2], &clock);
    successor.settle(&mut store);
    // The old owner resumes; it is the older member again in everybody's view.
    paused.sees(&[1, 2], &clock);
    successor.sees(&[1, 2], &clock);
    for _ in 0..100 {
        clock.advance(Duration::from_secs(1));
        paused.settle(&mut store);
        successor.settle(&mut store);
    }
    assert!(successor.owns() && !paused.owns(), "D1");
    assert_eq!(store.live().unwrap().epoch, Epoch(2), "D1: they alternate");
    // It saw its successor as a member; all the same only silence brings it back.
    paused.sees(&[1], &clock);
    paused.settle(&mut store);
    assert!(!paused.owns(), "D1: a fenced node came back without silence");
    clock.advance(Duration::from_secs(31));
    paused.settle(&mut store);
    assert!(paused.owns());
}

#[test]
fn d1_ones_own_lost_write_is_adopted() {
    let clock = ManualClock::new();
    let mut store = Store::new(&clock);
    let mut owner = Node::new(1, &[1], &clock);
    owner.step(&mut store, Fate::Works);
    owner.step(&mut store, Fate::AnswerLost);
    assert!(store.live().is_some() && !owner.owns());
    clock.advance(Duration::from_secs(6));
    owner.settle(&mut store);
    assert!(owner.owns());
    assert_eq!(store.live().unwrap().epoch, Epoch::FIRST, "D1: the own write was taken for another's");
    // The same for a renewal.
    clock.advance(Duration::from_secs(10));
    owner.step(&mut store, Fate::AnswerLost);
    clock.advance(Duration::from_secs(6));
    owner.settle(&mut store);
    assert!(owner.owns() && owner.events.iter().all(|e| !matches!(e, ControllerEvent::SteppedDown { .. })));
}

#[test]
fn d3_endpoints_follow_membership_and_an_empty_list_keeps_the_old_one() {
    let clock = ManualClock::new();
    let (mut store, mut owner) = registered(&clock);
    for members in [&[1, 2, 3][..], &[1, 3][..]] {
        owner.sees(members, &clock);
        owner.settle(&mut store);
        let nodes: Vec<u128> = store.live().unwrap().endpoints.iter().map(|endpoint| endpoint.node.0).collect();
        assert_eq!(nodes, members, "D3");
    }
    owner.sees(&[], &clock);
    owner.settle(&mut store);
    assert_eq!(store.live().unwrap().endpoints.len(), 2, "D3");
}

#[test]
fn p8_the_state_follows_the_intent_and_stays_there() {
    let clock = ManualClock::new();
    let (mut store, mut owner) = registered(&clock);
    owner.registrar.on_intent(IntentKind::Drain, Version::new(STORE, 1));
    for members in [&[1, 2][..], &[1, 2, 3][..], &[1][..]] {
        owner.sees(members, &clock);
        owner.settle(&mut store);
        clock.advance(Duration::from_secs(11));
        owner.settle(&mut store);
        assert_eq!(store.live().unwrap().state, DataCenterState::Draining, "P8: undone by churn or heartbeat");
    }
    owner.registrar.set_owns_global(true);
    owner.registrar.on_intent(IntentKind::Out, Version::new(STORE, 2));
    owner.settle(&mut store);
    assert_eq!(store.live().unwrap().state, DataCenterState::Draining, "P8: out while something global is owned");
    owner.registrar.set_owns_global(false);
    owner.settle(&mut store);
    assert_eq!(store.live().unwrap().state, DataCenterState::Inactive, "P8");
    owner.registrar.on_intent(IntentKind::Serve, Version::new(STORE, 3));
    owner.settle(&mut store);
    assert_eq!(store.live().unwrap().state, DataCenterState::Active);
}

#[test]
fn p8_a_table_that_is_behind_undoes_no_drain() {
    let clock = ManualClock::new();
    let (mut store, mut owner) = registered(&clock);
    let version = |revision| Version::new(STORE, revision);
    let mut state_after = |owner: &mut Node| {
        owner.settle(&mut store);
        store.live().map(|record| record.state)
    };
    owner.registrar.on_intent(IntentKind::Drain, version(7));
    owner.registrar.on_intent_shown(None);
    assert_eq!(state_after(&mut owner), Some(DataCenterState::Draining), "P8: the table shows no intent yet");
    owner.registrar.on_intent_shown(Some((IntentKind::Serve, version(5))));
    assert_eq!(state_after(&mut owner), Some(DataCenterState::Draining), "P8: the table shows an older intent");
    owner.registrar.on_intent_shown(Some((IntentKind::Serve, Version::new(StoreId(9), 80))));
    assert_eq!(state_after(&mut owner), Some(DataCenterState::Draining), "P8: an intent of another store");
    owner.registrar.on_intent_shown(Some((IntentKind::Serve, version(8))));
    assert_eq!(state_after(&mut owner), Some(DataCenterState::Active), "P8: a newer intent");
}

#[test]
fn d2_a_record_that_expired_comes_back_as_it_was_under_a_higher_epoch() {
    let clock = ManualClock::new();
    let (mut store, mut owner) = registered(&clock);
    clock.advance(Duration::from_secs(60));
    while !owner.owns() || store.live().is_none() {
        owner.step(&mut store, Fate::Works);
        let state = store.live().map(|record| record.state);
        assert!(matches!(state, None | Some(DataCenterState::Active)), "D2: it comes back as {state:?}");
    }
    assert!(store.live().expect("registered again").epoch > Epoch::FIRST);
}

#[test]
fn d4_a_store_that_is_away_is_tried_again_with_growing_pauses() {
    let clock = ManualClock::new();
    let (mut store, mut owner) = registered(&clock);
    clock.advance(Duration::from_secs(10));
    let mut tries = 0;
    for _ in 0..120 {
        tries += u32::from(owner.step(&mut store, Fate::Refused));
        clock.advance(Duration::from_secs(1));
    }
    assert!((10..40).contains(&tries), "D4: {tries} tries in two minutes");
    clock.advance(Duration::from_secs(10));
    owner.settle(&mut store);
    assert!(owner.owns(), "D4: renewals were not taken up");
}

#[test]
fn d2_a_node_that_never_read_the_record_registers_it_as_the_table_shows_it() {
    let clock = ManualClock::new();
    let (mut store, _dead) = registered(&clock);
    let shown = store.live().unwrap();
    let mut successor = Node::new(2, &[1, 2], &clock);
    successor.registrar.on_table(&shown);
    clock.advance(Duration::from_secs(60));
    successor.sees(&[2], &clock);
    while store.live().is_none() {
        assert!(successor.step(&mut store, Fate::Works), "it never registers");
    }
    let record = store.live().unwrap();
    assert_eq!(record.state, DataCenterState::Active, "D2: hidden by a new leader");
    assert!(record.epoch > shown.epoch, "D1");
}

#[test]
fn d2_an_owner_that_handed_over_is_no_nominee_while_it_is_still_a_member() {
    let clock = ManualClock::new();
    let (mut store, owner) = registered(&clock);
    let Some(LastWrite::HandOver(record)) = owner.registrar.goodbye() else { panic!("no hand-over") };
    store.write(&record, Expected::Version(record.version)).unwrap();
    let mut successor = Node::new(2, &[1, 2], &clock);
    successor.settle(&mut store);
    assert!(!successor.owns(), "the table does not show it yet");
    successor.registrar.on_table(&store.live().unwrap());
    successor.settle(&mut store);
    assert_eq!(successor.took_over(), Some(TakeOver::HandedOver), "D2: nobody renews until the leader is gone");
}

#[test]
fn d2_a_change_that_is_refused_does_not_keep_the_lease_from_being_renewed() {
    let clock = ManualClock::new();
    let (mut store, mut owner) = registered(&clock);
    owner.sees(&[1, 2, 3], &clock);
    for _ in 0..120 {
        let now = clock.now();
        match owner.registrar.next(now) {
            Step::Write(write) => {
                let refused = Error::Backend {
                    backend: "test",
                    operation: "register",
                    outcome: Outcome::Unchanged,
                    source: "no space".into(),
                };
                owner.registrar.on_written(*write, Err(refused), now, now);
            }
            Step::Heartbeat(record) => {
                let answer = store.heartbeat(&record);
                let pause = ControllerOptions::default().heartbeat_interval();
                owner.registrar.on_heartbeat(answer, now, now, pause);
            }
            Step::Read | Step::WaitUntil(_) => {}
        }
        clock.advance(Duration::from_secs(1));
        assert!(store.live().is_some(), "D2: expired though renewals work");
    }
}

#[test]
fn d1_an_unchanged_version_is_no_silence_where_renewals_keep_it() {
    let clock = ManualClock::new();
    let (mut store, _owner) = registered(&clock);
    let mut nominee = Node::new(7, &[7], &clock);
    nominee.registrar.set_renewal_keeps_version(true);
    nominee.settle(&mut store);
    clock.advance(Duration::from_secs(60));
    store.renewed = clock.now();
    // Woken before it has read again.
    let step = nominee.registrar.next(clock.now());
    assert_eq!(step, Step::Read);
    nominee.registrar.on_read(store.live().unwrap(), clock.now());
    assert!(matches!(nominee.registrar.next(clock.now()), Step::WaitUntil(_)), "D1: took a living owner's record");
}

#[test]
fn d1_an_absence_is_not_used_again_after_a_failure() {
    let clock = ManualClock::new();
    let mut store = Store::new(&clock);
    let mut late = Node::new(2, &[2], &clock);
    late.step(&mut store, Fate::Works);
    late.step(&mut store, Fate::Refused);
    // Meanwhile another nominee registers, and leaves as the last of its view.
    let mut other = Node::new(1, &[1], &clock);
    other.settle(&mut store);
    store.record = None;
    clock.advance(Duration::from_secs(2));
    // The store asserts one writer an epoch.
    late.settle(&mut store);
    assert!(late.owns() && store.live().unwrap().epoch > Epoch(1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Three nodes, any views, pauses, lost calls: `Store::write` asserts one writer an epoch; once all is
    /// well one node owns the record and stays its owner.
    #[test]
    fn d1_one_writer_an_epoch_whatever_happens(
        script in proptest::collection::vec((0usize..3, 0u8..8, 0u64..12), 1..80),
    ) {
        let clock = ManualClock::new();
        let mut store = Store::new(&clock);
        let mut nodes: Vec<_> = (1..=3).map(|n| Node::new(n, &[1, 2, 3], &clock)).collect();
        for (who, what, seconds) in script {
            let n = who as u128 + 1;
            match what {
                0 => nodes[who].sees(&[n], &clock),
                1 => nodes[who].sees(&[1, 2, 3], &clock),
                2 => { nodes[who].step(&mut store, Fate::AnswerLost); }
                3 => { nodes[who].step(&mut store, Fate::Refused); }
                4 => clock.advance(Duration::from_secs(seconds)),
                _ => { nodes[who].step(&mut store, Fate::Works); }
            }
        }
        for node in &mut nodes {
            node.sees(&[1, 2, 3], &clock);
        }
        let mut epochs = Vec::new();
        for _ in 0..180 {
            clock.advance(Duration::from_secs(1));
            for node in &mut nodes {
                for _ in 0..3 { node.step(&mut store, Fate::Works); }
            }
            epochs.push(store.live().map(|record| record.epoch));
        }
        prop_assert_eq!(nodes.iter().filter(|node| node.owns()).count(), 1, "no owner, or several");
        let last = epochs[179];
        prop_assert!(epochs[90..].iter().all(|epoch| *epoch == last), "D1: ownership never settles: {:?}", epochs);
    }
}
