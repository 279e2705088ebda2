//! C3: order, late news, tombstones, other stores.

use super::*;
use crate::core::tombstones::Tombstones;

#[test]
fn c3_an_older_version_never_replaces_a_newer_one() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.replay(5, vec![record("a", 5)]);
    feed.put(record("a", 4));
    assert_eq!(feed.version("a"), Some(5));
    // A list that was asked before the change, and answered after it.
    let ticket = feed.ask();
    feed.put(record("a", 6));
    assert_eq!(feed.answer(ticket, listing(5, vec![record("a", 5)])), Listed::InStep);
    assert_eq!(feed.version("a"), Some(6));
}

#[test]
fn c3_a_list_does_not_remove_what_is_newer_than_it() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.replay(5, vec![]);
    let ticket = feed.ask();
    feed.put(record("a", 6));
    feed.answer(ticket, listing(5, vec![]));
    assert_eq!(feed.version("a"), Some(6));
}

#[test]
fn c3_a_deleted_record_does_not_come_back_through_a_late_event() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.replay(5, vec![record("a", 5)]);
    feed.watch(removed("a", 7, Removal::Deregistered));
    assert_eq!(feed.seen("a"), None);
    feed.put(record("a", 6));
    feed.put(record("a", 7));
    assert_eq!(feed.seen("a"), None);
    // Nor after the tombstone was dropped, since the table is complete as of then.
    feed.list(8, vec![]);
    assert_eq!(feed.core.tombstones.len(), 0);
    feed.put(record("a", 6));
    assert_eq!(feed.seen("a"), None);
    feed.put(record("a", 9));
    assert_eq!(feed.version("a"), Some(9));
}

#[test]
fn c3_a_late_list_does_not_bring_back_what_was_removed() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.replay(5, vec![record("a", 5)]);
    let ticket = feed.ask();
    feed.watch(removed("a", 6, Removal::Expired));
    feed.answer(ticket, listing(5, vec![record("a", 5)]));
    assert_eq!(feed.seen("a"), None);
}

#[test]
fn c3_what_was_told_dead_at_a_version_does_not_come_back_at_it() {
    // A watch that times leases itself names the version that it told before.
    let feed = |traits| {
        let mut feed = Feed::new(traits);
        feed.replay(5, vec![record("a", 4), record("b", 5)]);
        feed.watch(removed("a", 4, Removal::Expired));
        assert_eq!(feed.seen("a"), None);
        feed.events();
        feed
    };
    let mut stale = feed(STALE_READS);
    for revision in [5, 6, 9] {
        stale.pass(secs(1));
        stale.list(revision, vec![record("a", 4), record("b", 5)]);
        stale.put(record("a", 4));
        assert_eq!(stale.seen("a"), None, "C2: as of {revision}");
    }
    assert_eq!((stale.events(), stale.core.tombstones.len()), (vec![], 0), "without a trace that stays");
    stale.put(record("a", 10));
    assert_eq!(stale.takes("a"), Routability::Placements, "a version not seen before");
    // Where reads are linearizable the store knows better than a timer.
    let mut linearizable = feed(LINEARIZABLE);
    linearizable.list(5, vec![record("a", 4), record("b", 5)]);
    assert_eq!(linearizable.takes("a"), Routability::Placements);
}

#[test]
fn c3_what_one_list_lacked_is_back_with_the_next_though_nobody_wrote_meanwhile() {
    // Renewals do not raise the store's version.
    let mut feed = Feed::new(LINEARIZABLE);
    let both = || vec![record("a", 4), record("b", 5)];
    feed.list(5, both());
    feed.list(5, vec![record("b", 5)]);
    assert_eq!((feed.seen("a"), feed.core.tombstones.len()), (None, 0));
    feed.list(5, both());
    assert_eq!(feed.takes("a"), Routability::Placements);
}

#[test]
fn c3_a_late_removal_does_not_touch_a_newer_record() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.replay(5, vec![record("a", 5)]);
    feed.put(record("a", 8));
    feed.watch(removed("a", 6, Removal::Expired));
    assert_eq!(feed.version("a"), Some(8));
}

#[test]
fn c3_tombstones_are_bounded() {
    let mut feed = Feed::new(STALE_READS);
    feed.replay(1, vec![]);
    for number in 0..20_000_u64 {
        feed.watch(removed(&format!("dc-{number}"), 2 + number, Removal::Deregistered));
        if number + 1 == Tombstones::LIMIT as u64 {
            assert!(feed.core.list_wanted(), "a list is asked, which makes them superfluous");
        }
    }
    assert!(feed.core.tombstones.len() <= 16_384);
    feed.list(20_001, vec![]);
    assert_eq!(feed.core.tombstones.len(), 0);
}

#[test]
fn c3_a_replay_drops_what_it_does_not_show() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.replay(5, vec![record("a", 4), record("b", 5)]);
    feed.core.watch_ended();
    feed.replay(9, vec![record("b", 5), record("c", 8)]);
    assert_eq!((feed.seen("a"), feed.version("b"), feed.version("c")), (None, Some(5), Some(8)));
}

#[test]
fn c3_an_older_replay_drops_nothing_newer() {
    let mut feed = Feed::new(STALE_READS);
    feed.list(9, vec![record("a", 9)]);
    let proof = feed.core.last_proof();
    feed.pass(secs(1));
    feed.replay(7, vec![record("ghost", 3)]);
    assert_eq!((feed.version("a"), feed.seen("ghost")), (Some(9), None));
    assert_eq!(feed.core.last_proof(), proof);
    assert!(feed.core.list_wanted());
}

#[test]
fn c3_another_store_is_started_afresh_with() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.replay(50, vec![record("a", 40), record("b", 50)]);
    feed.events();
    feed.pass(secs(10));
    let ticket = feed.ask();
    let mut reborn = record("a", 2);
    reborn.version = Version::new(OTHER, 2);
    let view = Listing { as_of: Version::new(OTHER, 2), ..listing(0, vec![reborn]) };
    feed.answer(ticket, view);
    assert_eq!(feed.core.snapshot().store(), Some(OTHER));
    assert_eq!(feed.version("a"), Some(2), "versions of different stores have no order");
    assert_eq!(feed.seen("b"), Some(Seen::Grace), "C5: what the new store lacks is spared");
    assert!(feed.core.take_rewatch());
    assert!(!feed.core.take_rewatch());
    let events = feed.events();
    assert!(events.contains(&TableEvent::StoreChanged { from: STORE, to: OTHER }), "{events:?}");
    // Late news from the store that is no more.
    feed.put(record("b", 60));
    feed.watch(removed("a", 61, Removal::Deregistered));
    assert_eq!((feed.seen("b"), feed.version("a")), (Some(Seen::Grace), Some(2)));
    assert_eq!(feed.core.snapshot().store(), Some(OTHER));
}

#[test]
fn c3_versions_from_before_a_fresh_start_are_void() {
    // The next write to a store that was set back has a version that was seen before.
    let mut feed = Feed::new(LINEARIZABLE);
    feed.list(50, vec![record("a", 49), record("b", 50)]);
    feed.list(45, vec![]);
    feed.replay(45, vec![]);
    feed.put(record("a", 46));
    assert_eq!((feed.version("a"), feed.takes("a")), (Some(46), Routability::Placements));
    feed.pass(TTL);
    feed.watch(WatchEvent::InStep);
    assert_eq!(feed.seen("b"), None, "its grace is over");
    feed.put(record("b", 47));
    assert_eq!(feed.takes("b"), Routability::Placements);
    // So has the next write to another store.
    let mut feed = Feed::new(LINEARIZABLE);
    feed.list(50, vec![record("a", 49), record("b", 50)]);
    let ticket = feed.ask();
    feed.answer(ticket, Listing { as_of: Version::new(OTHER, 0), ..listing(0, vec![]) });
    let mut reborn = record("a", 1);
    reborn.version = Version::new(OTHER, 1);
    feed.put(reborn);
    assert_eq!((feed.version("a"), feed.takes("a")), (Some(1), Routability::Placements));
    feed.watch(WatchEvent::Removed { id: dc("b"), version: Version::new(OTHER, 2), why: Removal::Deregistered });
    assert_eq!(feed.seen("b"), None);
}

#[test]
fn c3_a_store_that_was_set_back_is_started_afresh_with() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.list(50, vec![record("a", 40), record("b", 50)]);
    feed.pass(secs(1));
    feed.events();
    feed.list(45, vec![record("a", 39)]);
    assert_eq!(feed.version("a"), Some(39));
    assert_eq!(feed.seen("b"), Some(Seen::Grace));
    assert!(feed.events().contains(&TableEvent::StoreChanged { from: STORE, to: STORE }));
}

#[test]
fn c3_where_reads_may_be_stale_a_store_counts_as_set_back_only_after_a_while() {
    let mut feed = Feed::new(STALE_READS);
    feed.list(50, vec![record("a", 40), record("b", 50)]);
    for _ in 0..4 {
        feed.pass(secs(10));
        assert_eq!(feed.list(45, vec![record("a", 40)]), Listed::Behind);
    }
    feed.pass(secs(1));
    assert_eq!(feed.list(45, vec![record("a", 39)]), Listed::InStep);
    assert_eq!((feed.version("a"), feed.seen("b")), (Some(39), Some(Seen::Grace)));
}
