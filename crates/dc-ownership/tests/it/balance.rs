//! Slots go to the nodes that are to have them.

use std::time::Duration;

use bytes::Bytes;
use dc_ownership::{
    DrainOptions,
    ids::{SLOTS, Slot},
    order::Thing,
    policy::{Failback, Policy},
};

use crate::support::{Node, TTL, World, now, survivor, until};

const ALL: usize = SLOTS as usize;

async fn first(world: &World, policy: &Policy, per_second: u32) -> Node {
    let first =
        world.node_with("us-1", &[("cart", policy.clone())], |options| options.rebalance_per_second(per_second));
    until("it owns all", 2 * TTL, || first.owned_slots(policy.group()) == ALL).await;
    first
}

#[tokio::test(start_paused = true)]
async fn g5_a_node_that_joins_gets_its_share_of_its_datacenter_with_state_and_at_a_bounded_rate() {
    let world = World::new();
    let (policy, group) = (survivor(), survivor().group());
    let first = first(&world, &policy, 100).await;
    for slot in Slot::all() {
        let state = vec![("cart/1".to_owned(), Bytes::copy_from_slice(&slot.number().to_be_bytes()))];
        first.log.state.lock().insert(Thing::Slot(group, slot), state);
    }
    let kinds = [("cart", policy.clone())];
    let (far, second) = (world.node("eu-1", &kinds), world.node("us-1", &kinds));
    far.own.until_ready().await;
    second.own.until_ready().await;
    let joined = now();
    let waited = until("something comes", 3 * TTL, || second.owned_slots(group) > 0).await;
    assert!(waited >= TTL / 2, "nodes that come and go get nothing: {waited:?}");
    let both = || first.owned_slots(group) + second.owned_slots(group) == ALL;
    until("its share", 6 * TTL, || second.owned_slots(group) > ALL / 3 && both()).await;
    tokio::time::sleep(2 * TTL).await;
    let share = second.owned_slots(group);
    let rate = share as f64 / (now() - joined - waited).as_secs_f64();
    assert!(rate < 130.0, "{rate} per second");
    assert!(both() && far.owned_slots(group) == 0, "across datacenters only where the policy says so");
    assert_eq!(first.own.stats().rebalanced, share as u64);
    assert_eq!((first.own.stats().moves, second.own.stats().rebalanced), (share as u64, 0), "nothing to and fro");
    for slot in Slot::all() {
        let Some(title) = second.own.slot_title(group, slot) else { continue };
        let state = second.own.take_state(group, slot, "cart/1", title.epoch());
        assert_eq!(state.as_deref(), Some(&slot.number().to_be_bytes()[..]));
    }
}

#[tokio::test(start_paused = true)]
async fn g5_a_node_that_drains_gets_nothing_and_gives_nothing_back_by_itself() {
    let world = World::new();
    let (policy, group) = (survivor(), survivor().group());
    let first = first(&world, &policy, 1_000).await;
    let second = world.node("us-1", &[("cart", policy)]);
    second.own.set_taking(false);
    second.own.until_ready().await;
    tokio::time::sleep(5 * TTL).await;
    assert_eq!((first.owned_slots(group), second.owned_slots(group)), (ALL, 0));
    second.own.set_taking(true);
    until("it takes", 5 * TTL, || second.owned_slots(group) > ALL / 3).await;
    second.own.drain(DrainOptions::node()).done().await;
    tokio::time::sleep(5 * TTL).await;
    assert_eq!((first.owned_slots(group), second.owned_slots(group)), (ALL, 0), "a drain does not undo itself");
}

#[tokio::test(start_paused = true)]
async fn p8_a_node_that_waits_to_be_told_claims_nothing_and_is_left_its_part_for_a_while() {
    let world = World::new();
    let (policy, group) = (survivor(), survivor().group());
    let kinds = [("cart", policy)];
    let (waits, other) = (world.node("us-1", &kinds), world.node("eu-1", &kinds));
    waits.own.wait_to_be_told();
    waits.own.until_ready().await;
    until("the other begins", TTL, || other.owned_slots(group) > 0).await;
    assert_eq!(waits.owned_slots(group), 0, "it claims nothing");
    waits.own.told(now());
    until("all are owned", 2 * TTL, || waits.owned_slots(group) + other.owned_slots(group) == ALL).await;
    assert!(waits.owned_slots(group) > ALL / 3, "{} of {ALL} were left to it", waits.owned_slots(group));
}

/// Found by the simulation of whole systems: what a node knew before it lost its session said nothing of a drain since.
#[tokio::test(start_paused = true)]
async fn p8_a_node_with_a_new_session_claims_nothing_before_it_is_told_anew() {
    let world = World::new();
    let (policy, group) = (survivor(), survivor().group());
    let node = world.node("us-1", &[("cart", policy)]);
    node.own.wait_to_be_told();
    let waits = node.own.waits();
    node.own.until_ready().await;
    until("it waits", TTL, || waits.borrow().is_some()).await;
    node.own.told(now());
    until("it owns all", 2 * TTL, || node.owned_slots(group) == ALL).await;
    node.plane.cut_off();
    until("its session is over", 2 * TTL, || node.owned_slots(group) == 0).await;
    node.plane.reconnect();
    let before = now();
    until("a new session", 2 * TTL, || node.own.lease().is_some()).await;
    node.own.told(before);
    tokio::time::sleep(3 * TTL).await;
    assert_eq!(node.owned_slots(group), 0, "that was known before");
    let since = waits.borrow().expect("it waits");
    assert!(since > before);
    node.own.told(since);
    until("it owns all", 2 * TTL, || node.owned_slots(group) == ALL).await;
}

#[tokio::test(start_paused = true)]
async fn g4_slots_go_to_a_datacenter_that_joins_only_where_failback_is_automatic() {
    let world = World::new();
    let policy = Policy { failback: Failback::Automatic, ..survivor() };
    let group = policy.group();
    let first = first(&world, &policy, 1_000).await;
    let far = world.node("eu-1", &[("cart", policy)]);
    far.own.until_ready().await;
    until("its share", 6 * TTL, || far.owned_slots(group) > ALL / 3).await;
    let both = || first.owned_slots(group) + far.owned_slots(group) == ALL;
    until("one owner each", TTL, both).await;
}

#[tokio::test(start_paused = true)]
async fn slots_stay_where_they_are_if_told_so() {
    let world = World::new();
    let (policy, group) = (survivor(), survivor().group());
    let first = first(&world, &policy, 0).await;
    let second = world.node("us-1", &[("cart", policy)]);
    second.own.until_ready().await;
    tokio::time::sleep(6 * TTL + Duration::from_secs(1)).await;
    assert_eq!(first.owned_slots(group), ALL);
}
