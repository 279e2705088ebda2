//! What stores do.

use std::{sync::atomic::Ordering, time::Duration};

use dc_core::Epoch;
use dc_ownership::{OwnershipError, OwnershipEvent};

use crate::support::{TTL, World, name, spec, survivor, until};

#[tokio::test(start_paused = true)]
async fn g2_an_owner_cut_off_from_the_store_stops_before_another_takes_over_and_comes_back_with_nothing() {
    let world = World::new();
    let (a, b) = (world.node("us-1", &[]), world.node("eu-1", &[]));
    a.own.until_ready().await;
    b.own.until_ready().await;
    let title = a.own.claim(spec("x", &survivor())).await.expect("free");
    let lease = a.own.lease().expect("a session");
    a.plane.cut_off();
    until("another owner", 3 * TTL, || {
        let here = title.check().is_ok();
        let there = b.own.name_title("x").is_some();
        assert!(!(here && there), "two owners");
        there
    })
    .await;
    assert_eq!(a.log.lost_sessions.load(Ordering::SeqCst), 1);
    assert!(lease.has_ended());
    a.plane.reconnect();
    until("a new session", 2 * TTL, || a.own.lease().is_some()).await;
    tokio::time::sleep(TTL).await;
    assert!(a.own.name_title("x").is_none());
    assert_eq!(b.own.name_title("x").expect("still").epoch(), title.epoch().next());
}

#[tokio::test(start_paused = true)]
async fn g2_a_short_outage_of_the_store_stops_nobody() {
    let world = World::new();
    let (a, b) = (world.node("us-1", &[]), world.node("eu-1", &[]));
    a.own.until_ready().await;
    b.own.until_ready().await;
    let title = a.own.claim(spec("x", &survivor())).await.expect("free");
    for _ in 0..5 {
        world.store.stop();
        tokio::time::sleep(Duration::from_secs(3)).await;
        world.store.start();
        tokio::time::sleep(TTL).await;
        assert_eq!(title.check(), Ok(()));
    }
    assert_eq!(a.log.lost_sessions.load(Ordering::SeqCst), 0);
    assert_eq!(b.own.stats().takeovers, 0);
}

#[tokio::test(start_paused = true)]
async fn g3_a_wiped_store_starts_afresh_above_what_is_remembered() {
    let world = World::new();
    let (a, b) = (world.node("us-1", &[]), world.node("eu-1", &[]));
    a.own.until_ready().await;
    b.own.until_ready().await;
    let old = a.own.claim(spec("x", &survivor())).await.expect("free");
    let mut events = a.own.events();
    world.store.wipe();
    until("the owner stops", 2 * TTL, || old.check().is_err()).await;
    let mut lost = false;
    while let Ok(event) = events.try_recv() {
        lost |= matches!(event, OwnershipEvent::StoreLost { .. });
    }
    assert!(lost, "it is told");
    assert!(a.own.remembered_floor() >= old.epoch());
    until("both have noticed", 2 * TTL, || a.own.stats().store_changes == 1 && b.own.stats().store_changes == 1).await;
    let again = b.own.claim(spec("x", &survivor())).await;
    let again = match again {
        Ok(title) => title,
        // No claims for one TTL: the caller is told, and tries again.
        Err(_) => b.own.claim(spec("x", &survivor())).await.expect("free"),
    };
    assert!(again.epoch() > old.epoch(), "{:?} after {:?}", again.epoch(), old.epoch());
}

#[tokio::test(start_paused = true)]
async fn g3_a_store_that_was_set_back_is_noticed_and_nothing_is_owned_twice() {
    let world = World::new();
    let (a, b) = (world.node("us-1", &[]), world.node("eu-1", &[]));
    a.own.until_ready().await;
    b.own.until_ready().await;
    let before = world.store.checkpoint();
    tokio::time::sleep(TTL).await;
    let title = a.own.claim(spec("x", &survivor())).await.expect("free");
    world.store.roll_back(&before);
    until("it is noticed by both", 2 * TTL, || a.own.stats().store_changes >= 1 && b.own.stats().store_changes >= 1)
        .await;
    assert!(title.check().is_err());
    tokio::time::sleep(2 * TTL).await;
    let again = b.own.claim(spec("x", &survivor())).await.expect("its claim was lost");
    assert!(again.epoch() > title.epoch());
}

#[tokio::test(start_paused = true)]
async fn g4_what_a_store_that_was_set_back_gives_to_a_session_that_is_gone_is_claimed_again() {
    let world = World::new();
    let (a, b) = (world.node("us-1", &[]), world.node("eu-1", &[]));
    a.own.until_ready().await;
    b.own.until_ready().await;
    let first = a.own.claim(spec("x", &survivor())).await.expect("free");
    let before = world.store.checkpoint();
    world.kill(a);
    until("another owner", 3 * TTL, || b.own.name_title("x").is_some()).await;
    // By now the store does not keep the first session any more: set back, it shows an entry that names it, and no
    // document of it. That is settled at once, while nothing may be claimed yet.
    tokio::time::sleep(2 * TTL).await;
    world.store.roll_back(&before);
    until("it is noticed", 2 * TTL, || b.own.stats().store_changes == 1).await;
    assert!(b.own.name_title("x").is_none());
    let took = until("it is claimed again", 5 * TTL, || b.own.name_title("x").is_some()).await;
    assert!(took >= TTL, "nothing is claimed for a TTL: {took:?}");
    let again = b.own.name_title("x").expect("owned").epoch();
    assert!(again > first.epoch().next(), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn an_operators_floor_holds_for_every_node_that_shares_the_store() {
    let world = World::new();
    let (a, b) = (world.node("us-1", &[]), world.node("eu-1", &[]));
    a.own.until_ready().await;
    b.own.until_ready().await;
    a.own.set_floor(Epoch(1_000_000));
    until("it is passed on", TTL, || b.own.remembered_floor() >= Epoch(1_000_000)).await;
    let first = b.own.claim(spec("x", &survivor())).await.expect("free");
    assert!(first.epoch() > Epoch(1_000_000));
    b.own.release("x", first.epoch()).await.expect("ours");
    let second = a.own.claim(spec("x", &survivor())).await.expect("free");
    assert!(second.epoch() > first.epoch());
}

#[tokio::test(start_paused = true)]
async fn a_lost_watch_is_opened_again_and_nothing_is_missed() {
    let world = World::new();
    let (a, b) = (world.node("us-1", &[]), world.node("eu-1", &[]));
    a.own.until_ready().await;
    b.own.until_ready().await;
    for n in 0..20 {
        world.store.lose_watches("on purpose");
        let title = a.own.claim(spec(&format!("n{n}"), &survivor())).await.expect("free");
        if n % 2 == 0 {
            a.own.release(&format!("n{n}"), title.epoch()).await.expect("ours");
        }
    }
    until("the other one knows what there is", TTL, || {
        (0..20).all(|n| b.own.known(&format!("n{n}")).is_some() == (n % 2 == 1))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn g2_a_stale_reader_takes_nothing_from_a_live_owner() {
    let world = World::new();
    let (a, b) = (world.node("us-1", &[]), world.node("eu-1", &[]));
    a.own.until_ready().await;
    b.own.until_ready().await;
    let title = a.own.claim(spec("x", &survivor())).await.expect("free");
    until("it is known", TTL, || b.own.known("x").is_some()).await;
    // Watches replay, and reads answer, from this moment on as of this moment.
    b.plane.read_stale();
    world.store.lose_watches("on purpose");
    tokio::time::sleep(6 * TTL).await;
    assert_eq!(title.check(), Ok(()));
    assert_eq!(b.own.stats().takeovers, 0);
    b.plane.read_fresh();
}

#[tokio::test(start_paused = true)]
async fn g3_at_the_greatest_epoch_nothing_gets_another_owner_rather_than_an_epoch_twice() {
    let world = World::new();
    let (a, b) = (world.node("us-1", &[]), world.node("eu-1", &[]));
    a.own.until_ready().await;
    b.own.until_ready().await;
    let title = a.own.claim(spec("x", &survivor())).await.expect("free");
    let mut events = b.own.events();
    let before = b.own.remembered_floor();
    b.own.set_floor(Epoch(u64::MAX));
    b.own.set_floor(Epoch(Epoch::GREATEST.0 + 1));
    for _ in 0..2 {
        let refused = events.recv().await.expect("told");
        assert!(matches!(refused, OwnershipEvent::FloorRefused { .. }), "{refused:?}");
    }
    assert_eq!(b.own.remembered_floor(), before);
    b.own.set_floor(Epoch::GREATEST);
    until("it is passed on", TTL, || a.own.remembered_floor() == Epoch::GREATEST).await;
    for node in [&a, &b] {
        let refused = node.own.claim(spec("y", &survivor())).await;
        assert!(matches!(refused, Err(OwnershipError::NoEpochLeft { .. })), "{refused:?}");
    }
    assert!(title.check().is_ok(), "who owns something goes on");
    world.kill(a);
    let told = async {
        loop {
            if let OwnershipEvent::NoEpochLeft { thing } = events.recv().await.expect("told") {
                return thing;
            }
        }
    };
    let thing = tokio::time::timeout(5 * TTL, told).await.expect("told in time");
    assert_eq!(thing, name("x"));
    tokio::time::sleep(5 * TTL).await;
    assert!(b.own.name_title("x").is_none() && b.log.adopted.lock().is_empty());
}
