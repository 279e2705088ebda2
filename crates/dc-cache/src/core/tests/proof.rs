//! C2 and C4: what proves that a record lives, and that the table is in step.

use super::*;

#[test]
fn c2_being_listed_renews_where_reads_are_linearizable() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.list(1, vec![record("a", 1)]);
    for _ in 0..10 {
        feed.pass(secs(25));
        assert_eq!(feed.list(1, vec![record("a", 1)]), Listed::InStep);
        assert_eq!(feed.seen("a"), Some(Seen::Live));
    }
    // The lease runs from when the list was asked, not from when it was answered.
    let ticket = feed.ask();
    feed.pass(secs(3));
    feed.answer(ticket, listing(1, vec![record("a", 1)]));
    assert_eq!(feed.get("a").unwrap().lease().left(feed.now()), Ok(TTL - secs(3)));
}

#[test]
fn c2_being_listed_proves_nothing_where_reads_may_be_stale() {
    let mut feed = Feed::new(STALE_READS);
    feed.list(5, vec![record("a", 1), record("b", 5)]);
    feed.pass(secs(20));
    feed.put(record("b", 6));
    feed.pass(secs(11));
    feed.list(6, vec![record("a", 1), record("b", 6)]);
    assert_eq!(feed.seen("a"), Some(Seen::Live), "C2: what it does not show may be as old as the lag");
    feed.pass(secs(1));
    assert!(feed.core.list_wanted(), "C2: the end of a lease asks the store");
    assert_eq!(feed.takes("a"), Routability::Placements, "C2: not before the store was heard from");
    feed.events();
    feed.list(6, vec![record("a", 1), record("b", 6)]);
    assert_eq!(feed.seen("a"), Some(Seen::Expired));
    assert_eq!(feed.takes("a"), Routability::Nothing);
    assert!(feed.events().contains(&TableEvent::Expired { id: dc("a") }));
    assert_eq!(feed.seen("b"), Some(Seen::Live), "a version not seen before is proof of life");
    // It was alive after all.
    feed.put(record("a", 7));
    assert_eq!(feed.takes("a"), Routability::Placements);
    assert_eq!(feed.events(), [TableEvent::Revived { id: dc("a") }]);
}

#[test]
fn c2_a_list_asked_before_the_end_of_a_lease_does_not_end_it() {
    let mut feed = Feed::new(STALE_READS);
    feed.list(5, vec![record("a", 1), record("b", 5)]);
    feed.pass(secs(29));
    let ticket = feed.ask();
    feed.pass(secs(2));
    feed.answer(ticket, listing(5, vec![record("a", 1), record("b", 5)]));
    assert_eq!(feed.seen("a"), Some(Seen::Live), "the store spoke of a time before the end");
}

#[test]
fn c2_a_watch_in_step_alone_ends_no_lease() {
    // Renewals keep the version: the watch cannot show them.
    let mut feed = Feed::new(LINEARIZABLE);
    feed.replay(1, vec![record("a", 1)]);
    feed.in_step_for(100);
    assert!(feed.core.list_wanted());
    assert_eq!(feed.takes("a"), Routability::Placements);
    feed.list(1, vec![record("a", 1)]);
    assert_eq!(feed.get("a").unwrap().lease().left(feed.now()), Ok(TTL));
}

#[test]
fn c2_silence_of_the_store_ends_no_lease() {
    let mut feed = Feed::new(STALE_READS);
    feed.list(1, vec![record("a", 1)]);
    feed.out_for(1_000);
    assert_eq!(feed.takes("a"), Routability::Placements);
}

#[test]
fn c2_what_a_list_lacks_leaves_before_its_lease_has_ended_here() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.list(1, vec![record("a", 1)]);
    feed.pass(secs(10));
    feed.list(2, vec![]);
    assert_eq!(feed.seen("a"), None);
}

#[test]
fn c4_a_list_and_a_watch_in_step_are_proof() {
    let mut feed = Feed::new(LINEARIZABLE);
    assert_eq!(feed.core.last_proof(), None);
    feed.list(1, vec![]);
    let listed = feed.now();
    assert_eq!(feed.core.last_proof(), Some(listed));
    feed.replay(1, vec![]);
    feed.pass(secs(5));
    feed.watch(WatchEvent::InStep);
    assert_eq!(feed.core.last_proof(), Some(listed + secs(5)));
}

#[test]
fn c4_an_idle_healthy_system_is_never_stale() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.replay(1, vec![]);
    feed.events();
    feed.in_step_for(3_600);
    assert_eq!(feed.events(), []);
}

#[test]
fn c4_an_open_silent_watch_is_no_proof() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.replay(1, vec![]);
    feed.events();
    feed.pass(TTL);
    assert_eq!(feed.events(), [], "as old as allowed is not stale");
    feed.pass(Duration::from_nanos(1));
    let events = feed.events();
    assert!(matches!(&events[..], [TableEvent::Stale { age }] if *age > TTL), "{events:?}");
    feed.pass(secs(100));
    assert_eq!(feed.events(), [], "told once");
    feed.watch(WatchEvent::InStep);
    assert_eq!(feed.events(), [TableEvent::Fresh]);
}

#[test]
fn c4_an_event_alone_is_no_proof() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.replay(1, vec![]);
    let proof = feed.core.last_proof();
    feed.pass(secs(5));
    feed.put(record("a", 2));
    assert_eq!(feed.core.last_proof(), proof);
}

#[test]
fn c4_a_watch_that_still_replays_is_no_proof() {
    let mut feed = Feed::new(LINEARIZABLE);
    let now = feed.now();
    feed.core.watch_opened(now);
    feed.put(record("a", 1));
    feed.watch(WatchEvent::InStep);
    assert_eq!(feed.core.last_proof(), None);
    assert!(!feed.core.is_watching());
    feed.watch(WatchEvent::ReplayDone { as_of: at(1) });
    assert_eq!(feed.core.last_proof(), Some(now));
    assert!(feed.core.is_watching());
}

#[test]
fn c4_a_list_older_than_what_was_delivered_is_no_proof() {
    let mut feed = Feed::new(STALE_READS);
    feed.replay(9, vec![record("a", 9)]);
    let proof = feed.core.last_proof();
    feed.pass(secs(5));
    assert_eq!(feed.list(4, vec![]), Listed::Behind);
    assert_eq!(feed.seen("a"), Some(Seen::Live));
    assert_eq!(feed.core.last_proof(), proof);
    assert!(feed.core.list_wanted());
}
