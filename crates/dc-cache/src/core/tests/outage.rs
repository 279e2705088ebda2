//! C5: outages of the store.

use super::*;

fn two(revision: u64) -> Vec<DataCenterRecord> {
    vec![record("a", revision), record("b", revision)]
}

#[test]
fn c5_the_last_good_view_stays_while_the_store_is_out() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.list(1, two(1));
    feed.out_for(10_000);
    assert_eq!((feed.takes("a"), feed.takes("b")), (Routability::Placements, Routability::Placements));
}

#[test]
fn c5_a_store_that_comes_back_empty_never_empties_the_world() {
    for traits in [LINEARIZABLE, STALE_READS] {
        let mut feed = Feed::new(traits);
        feed.list(1, two(1));
        feed.out_for(100);
        feed.events();
        feed.list(9, vec![]);
        for name in ["a", "b"] {
            assert_eq!(feed.takes(name), Routability::Traffic, "lookups and traffic, no placements");
        }
        assert!(feed.events().contains(&TableEvent::Grace { id: dc("a"), left: TTL }));
        // One registers again, the other does not.
        feed.pass(secs(10));
        feed.list(12, vec![record("a", 12)]);
        assert_eq!((feed.takes("a"), feed.seen("b")), (Routability::Placements, Some(Seen::Grace)));
        feed.pass(secs(19));
        feed.list(12, vec![record("a", 12)]);
        assert_eq!(feed.seen("b"), Some(Seen::Grace));
        feed.pass(secs(1) + traits.proof_lag);
        assert!(feed.core.list_wanted(), "C2: the end of a grace asks the store");
        assert_eq!(feed.seen("b"), Some(Seen::Grace), "C5: not before the store was heard from");
        feed.list(12, vec![record("a", 12)]);
        assert_eq!((feed.seen("a"), feed.seen("b")), (Some(Seen::Live), None), "one TTL, no more");
        assert!(feed.events().contains(&TableEvent::Left { id: dc("b"), why: Removal::Expired }));
    }
}

#[test]
fn c5_a_wiped_store_never_empties_the_world() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.list(7, two(7));
    feed.pass(secs(10));
    let ticket = feed.ask();
    // No outage was noticed: it was replaced between two lists.
    feed.answer(ticket, Listing { as_of: Version::new(OTHER, 0), ..listing(0, vec![]) });
    assert_eq!((feed.takes("a"), feed.takes("b")), (Routability::Traffic, Routability::Traffic));
}

#[test]
fn c5_expiry_events_after_an_outage_spare_too() {
    let mut feed = Feed::new(STALE_READS);
    feed.replay(1, two(1));
    feed.in_step_for(9);
    feed.out_for(60);
    feed.watch(removed("a", 2, Removal::Expired));
    feed.watch(removed("b", 3, Removal::Deregistered));
    assert_eq!(feed.takes("a"), Routability::Traffic);
    assert_eq!(feed.seen("b"), None, "explicitly deregistered goes at once");
}

#[test]
fn c5_a_watch_that_fell_silent_without_an_error_was_an_outage() {
    let mut feed = Feed::new(STALE_READS);
    feed.replay(1, two(1));
    feed.in_step_for(20);
    feed.pass(secs(60));
    feed.watch(removed("a", 2, Removal::Expired));
    assert_eq!(feed.takes("a"), Routability::Traffic);
}

#[test]
fn c5_a_death_while_the_store_is_well_gets_no_grace() {
    for traits in [LINEARIZABLE, STALE_READS] {
        let mut feed = Feed::new(traits);
        feed.replay(1, two(1));
        feed.in_step_for(30);
        feed.watch(removed("a", 2, Removal::Expired));
        assert_eq!(feed.seen("a"), None);
    }
    // Nor where there is no watch, and lists are far apart.
    let mut feed = Feed::new(LINEARIZABLE);
    for _ in 0..20 {
        feed.list(1, two(1));
        feed.pass(secs(25));
    }
    feed.list(2, vec![record("b", 1)]);
    assert_eq!(feed.seen("a"), None);
}

#[test]
fn c5_an_outage_shorter_than_a_heartbeat_interval_excuses_nobody() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.list(1, two(1));
    feed.out_for(9);
    feed.list(2, vec![record("b", 1)]);
    assert_eq!(feed.seen("a"), None);
}

#[test]
fn c5_an_outage_before_a_renewal_that_was_seen_excuses_nobody() {
    let mut feed = Feed::new(STALE_READS);
    feed.list(1, two(1));
    feed.out_for(60);
    feed.list(2, two(2));
    feed.pass(secs(10));
    feed.list(3, vec![record("b", 2)]);
    assert_eq!(feed.seen("a"), None);
}

#[test]
fn c5_where_renewals_are_not_seen_an_outage_excuses_for_a_lease() {
    let after = |listed_for: u64| {
        let mut feed = Feed::new(LINEARIZABLE);
        feed.list(1, two(1));
        feed.out_for(60);
        // The store comes back with it: its leader may not have reached the store yet.
        for _ in 0..listed_for {
            feed.list(1, two(1));
            feed.pass(secs(10));
        }
        feed.list(2, vec![record("b", 1)]);
        feed.seen("a")
    };
    assert_eq!([after(1), after(3), after(4)], [Some(Seen::Grace), Some(Seen::Grace), None]);
}

#[test]
fn c5_inactive_ones_go_at_once() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.list(1, vec![in_state("a", 1, DataCenterState::Inactive), in_state("b", 1, DataCenterState::Draining)]);
    feed.out_for(60);
    feed.list(2, vec![]);
    assert_eq!((feed.seen("a"), feed.seen("b")), (None, Some(Seen::Grace)));
}

#[test]
fn c5_a_deregistration_ends_a_grace() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.replay(1, two(1));
    feed.out_for(60);
    feed.list(2, vec![]);
    assert_eq!(feed.seen("a"), Some(Seen::Grace));
    feed.watch(removed("a", 3, Removal::Deregistered));
    assert_eq!((feed.seen("a"), feed.seen("b")), (None, Some(Seen::Grace)));
}

#[test]
fn c5_a_grace_starts_anew_when_the_store_goes_away_again() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.list(1, two(1));
    feed.out_for(60);
    feed.list(2, vec![]);
    feed.pass(secs(20));
    feed.out_for(100);
    assert_eq!(feed.takes("a"), Routability::Traffic, "no leader could register again");
    feed.list(2, vec![]);
    feed.pass(secs(29));
    feed.list(2, vec![]);
    assert_eq!(feed.takes("a"), Routability::Traffic);
    feed.pass(secs(1));
    feed.list(2, vec![]);
    assert_eq!(feed.seen("a"), None);
}

#[test]
fn c5_a_grace_does_not_end_while_the_store_is_silent() {
    for traits in [LINEARIZABLE, STALE_READS] {
        let mut feed = Feed::new(traits);
        feed.list(1, two(1));
        feed.out_for(60);
        feed.list(2, vec![]);
        // Nothing fails: the question is still on its way.
        feed.pass(secs(25));
        let ticket = feed.ask();
        feed.pass(secs(100));
        assert_eq!(feed.takes("a"), Routability::Traffic);
        feed.answer(ticket, listing(2, vec![]));
        assert_eq!(feed.takes("a"), Routability::Traffic, "the store spoke of a time before the end");
    }
}

#[test]
fn c5_a_late_event_does_not_end_a_grace() {
    let mut feed = Feed::new(LINEARIZABLE);
    feed.replay(5, vec![record("a", 5)]);
    feed.out_for(60);
    feed.watch(removed("a", 9, Removal::Expired));
    assert_eq!(feed.seen("a"), Some(Seen::Grace));
    feed.put(record("a", 7));
    assert_eq!(feed.seen("a"), Some(Seen::Grace), "older than its removal");
    feed.put(record("a", 10));
    assert_eq!(feed.takes("a"), Routability::Placements);
}

#[test]
fn c5_a_store_that_stands_still_expires_nobody() {
    // Leaders cannot write, and lists go on being answered, as old as they are.
    let mut feed = Feed::new(STALE_READS);
    feed.list(5, two(5));
    for _ in 0..4 {
        feed.pass(secs(10));
        feed.list(5, two(5));
    }
    assert_eq!((feed.takes("a"), feed.takes("b")), (Routability::Traffic, Routability::Traffic));
    assert!(!feed.events().iter().any(|event| matches!(event, TableEvent::Expired { .. } | TableEvent::Left { .. })));
}

#[test]
fn c2_c3_what_had_its_grace_and_is_still_listed_neither_leaves_nor_comes_back() {
    let mut feed = Feed::new(STALE_READS);
    feed.list(5, two(5));
    for _ in 0..8 {
        feed.pass(secs(10));
        feed.list(5, two(5));
    }
    assert_eq!((feed.seen("a"), feed.seen("b")), (Some(Seen::Expired), Some(Seen::Expired)));
    feed.events();
    for _ in 0..20 {
        feed.pass(secs(10));
        feed.list(5, two(5));
        feed.put(record("a", 5));
        assert_eq!((feed.takes("a"), feed.takes("b")), (Routability::Nothing, Routability::Nothing));
    }
    assert_eq!(feed.events(), [], "told once");
    // One renews, the other is removed.
    feed.list(6, vec![record("a", 6)]);
    assert_eq!((feed.takes("a"), feed.seen("b")), (Routability::Placements, None));
    let (revived, left) =
        (TableEvent::Revived { id: dc("a") }, TableEvent::Left { id: dc("b"), why: Removal::Unknown });
    assert_eq!(feed.events(), [revived, left]);
}

#[test]
fn c5_an_intent_holds_through_a_grace() {
    let mut feed = Feed::new(LINEARIZABLE);
    let ticket = feed.ask();
    let view = Listing { intents: vec![intent("a", 2, IntentKind::Out)], ..listing(2, vec![record("a", 1)]) };
    feed.answer(ticket, view);
    feed.out_for(60);
    let ticket = feed.ask();
    feed.answer(ticket, Listing { as_of: Version::new(OTHER, 1), ..listing(0, vec![]) });
    assert_eq!(feed.get("a").unwrap().wanted(), IntentKind::Out);
}
