//! Slots of grains.

use std::time::Duration;

use bytes::Bytes;
use dc_core::Selector;
use dc_ownership::{
    DrainEnd, DrainOptions, OwnershipError,
    ids::{SLOTS, Slot},
    order::Thing,
    policy::{OnLoss, Policy},
};

use crate::support::{Node, TTL, World, now, survivor, until};

const ALL: usize = SLOTS as usize;

async fn shared(world: &World, dcs: &[&str], policy: &Policy) -> Vec<Node> {
    let nodes: Vec<Node> = dcs.iter().map(|dc| world.node(dc, &[("cart", policy.clone())])).collect();
    for node in &nodes {
        node.own.until_ready().await;
    }
    let all = || nodes.iter().map(|node| node.owned_slots(policy.group())).sum::<usize>() == ALL;
    until("every slot has an owner", 2 * TTL, all).await;
    nodes
}

#[tokio::test(start_paused = true)]
async fn g2_nodes_that_start_together_share_the_slots_and_every_slot_has_one_owner() {
    let world = World::new();
    let policy = survivor();
    let nodes = shared(&world, &["us-1", "us-1", "eu-1", "ap-1"], &policy).await;
    for node in &nodes {
        let owned = node.owned_slots(policy.group());
        assert!(owned > ALL / 20, "{} of {ALL} in {}", owned, node.dc.name());
    }
    let group = policy.group();
    until("all agree", TTL, || {
        Slot::all().all(|slot| {
            let first = nodes[0].own.slot_owner(group, slot);
            first.is_some() && nodes.iter().all(|node| node.own.slot_owner(group, slot) == first)
        })
    })
    .await;
    let (holder, epoch) = nodes[0].own.slot_owner(group, Slot::of("cart/7")).expect("owned");
    let owner = nodes.iter().find(|node| node.own.holder().as_ref() == Some(&holder)).expect("one of them");
    assert_eq!(owner.own.slot_title(group, Slot::of("cart/7")).expect("held").epoch(), epoch);
    let counted: usize =
        ["us-1", "eu-1", "ap-1"].map(|dc| nodes[0].own.owned_by(crate::support::dc(dc).id())).into_iter().sum();
    assert_eq!(counted, ALL);
}

#[tokio::test(start_paused = true)]
async fn g4_the_slots_of_a_lost_datacenter_are_owned_elsewhere_under_higher_epochs() {
    let world = World::new();
    let policy = survivor();
    let mut nodes = shared(&world, &["us-1", "us-1", "eu-1"], &policy).await;
    let group = policy.group();
    let lost: Vec<_> = Slot::all().filter_map(|slot| Some((slot, nodes[2].own.slot_title(group, slot)?))).collect();
    assert!(!lost.is_empty());
    world.kill(nodes.pop().expect("three"));
    let all = || nodes.iter().map(|node| node.owned_slots(group)).sum::<usize>() == ALL;
    let took = until("all are owned again", 3 * TTL, all).await;
    assert!(took <= TTL + Duration::from_secs(2), "took {took:?}");
    for (slot, old) in lost {
        assert!(old.check().is_err());
        let new = nodes.iter().find_map(|node| node.own.slot_title(group, slot)).expect("owned");
        assert_eq!(new.epoch(), old.epoch().next());
    }
}

#[tokio::test(start_paused = true)]
async fn g4_slots_stay_within_their_jurisdiction_and_prefer_where_they_are_told_to() {
    let world = World::new();
    let policy = Policy { within: Selector::region("us"), prefer: Some(Selector::name("us-1")), ..survivor() };
    let nodes = shared(&world, &["us-1", "us-2", "eu-1"], &policy).await;
    let owned: Vec<usize> = nodes.iter().map(|node| node.owned_slots(policy.group())).collect();
    assert_eq!(owned, [ALL, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn g4_slots_that_wait_for_their_datacenter_wait() {
    let world = World::new();
    let policy = Policy { on_loss: OnLoss::Wait, ..survivor() };
    let mut nodes = shared(&world, &["us-1", "eu-1"], &policy).await;
    let group = policy.group();
    let before = nodes[0].owned_slots(group);
    world.kill(nodes.pop().expect("two"));
    tokio::time::sleep(4 * TTL).await;
    assert_eq!(nodes[0].owned_slots(group), before);
    let back = world.node("eu-1", &[("cart", policy.clone())]);
    until("they are back", 3 * TTL, || back.owned_slots(group) == ALL - before).await;
}

#[tokio::test(start_paused = true)]
async fn g5_a_drained_datacenter_hands_its_slots_over_with_state_that_was_never_asked_for() {
    let world = World::new();
    let policy = survivor();
    let nodes = shared(&world, &["us-1", "eu-1", "eu-1"], &policy).await;
    let group = policy.group();
    let slot = Slot::all().find(|slot| nodes[0].own.slot_title(group, *slot).is_some()).expect("it has some");
    let state = vec![("cart/1".to_owned(), Bytes::from_static(b"7"))];
    nodes[0].log.state.lock().insert(Thing::Slot(group, slot), state);
    let begun = now();
    let mut drain = nodes[0].own.drain(DrainOptions::data_center());
    let end = drain.done().await;
    assert_eq!((end.left, end.end), (0, Some(DrainEnd::Done)));
    let all = || nodes[1..].iter().map(|node| node.owned_slots(group)).sum::<usize>() == ALL;
    until("the others own all", TTL, all).await;
    assert!(now() - begun < Duration::from_secs(5), "{:?}", now() - begun);
    let (first, other) = if nodes[1].own.slot_title(group, slot).is_some() { (1, 2) } else { (2, 1) };
    // It goes on once more before anybody took its state.
    nodes[first].own.drain(DrainOptions::node()).done().await;
    until("it moved again", TTL, || nodes[other].own.slot_title(group, slot).is_some()).await;
    let epoch = nodes[other].own.slot_title(group, slot).expect("just seen").epoch();
    let state = |at: usize| nodes[at].own.take_state(group, slot, "cart/1", epoch);
    assert_eq!(state(other).as_deref(), Some(&b"7"[..]));
    assert_eq!(state(other), None, "once");
    assert_eq!(nodes[0].owned_slots(group), 0, "a drain does not undo itself");
}

#[tokio::test(start_paused = true)]
async fn g5_an_aborted_drain_leaves_everything_with_one_owner_and_takes_again() {
    let world = World::new();
    let policy = survivor();
    let nodes = shared(&world, &["us-1", "eu-1"], &policy).await;
    let group = policy.group();
    nodes[0].plane.delay(Duration::from_millis(50));
    let mut drain = nodes[0].own.drain(DrainOptions { at_once: Some(16), ..DrainOptions::data_center() });
    while drain.progress().moved < 20 {
        drain.next().await;
    }
    drain.abort();
    let end = drain.done().await;
    assert_eq!(end.end, Some(DrainEnd::Aborted));
    assert!(end.left > 0 && end.moved >= 20, "{end:?}");
    until("one owner each", TTL, || {
        Slot::all().all(|slot| nodes.iter().filter(|node| node.own.slot_title(group, slot).is_some()).count() == 1)
    })
    .await;
    let kept = nodes[0].owned_slots(group);
    assert_eq!(kept, end.left);
    nodes[0].plane.delay(Duration::ZERO);
    nodes[1].own.drain(DrainOptions::data_center()).done().await;
    until("it takes again", TTL, || nodes[0].owned_slots(group) == ALL).await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_declared_otherwise_elsewhere_is_not_served() {
    let world = World::new();
    let nodes = shared(&world, &["us-1"], &survivor()).await;
    let other = Policy { on_loss: OnLoss::Wait, ..survivor() };
    let odd = world.node("eu-1", &[("cart", other.clone())]);
    odd.own.until_ready().await;
    until("it knows", TTL, || odd.own.check_kind("cart").is_err()).await;
    let answer = odd.own.check_kind("cart");
    assert!(matches!(answer, Err(OwnershipError::PolicyConflict { .. })), "{answer:?}");
    tokio::time::sleep(TTL).await;
    assert_eq!(odd.owned_slots(other.group()), 0);
    assert_eq!(nodes[0].owned_slots(survivor().group()), ALL);
    nodes[0].own.check_kind("cart").expect("the first one's");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_slot_ends_with_its_owner_or_in_time() {
    let world = World::new();
    let policy = survivor();
    let a = world.node("us-1", &[("cart", policy.clone())]);
    let (group, slot) = (policy.group(), Slot::of("cart/1"));
    let (holder, epoch) = a.own.await_slot(group, slot, None, now() + 2 * TTL).await.expect("it comes");
    assert_eq!(Some(holder), a.own.holder());
    let begun = now();
    let late = a.own.await_slot(group, slot, Some(epoch), now() + TTL).await;
    assert!(matches!(late, Err(OwnershipError::Timeout { .. })), "{late:?}");
    assert!(now() - begun >= TTL);
}
