//! Single identities that live elsewhere than their slots.

use std::time::Duration;

use bytes::Bytes;
use dc_core::{DataCenterSelector, Selector};
use dc_ownership::{
    DrainEnd, DrainOptions, OwnershipError,
    ids::{GroupId, SLOTS, Slot},
    order::Thing,
    policy::{Failback, Policy},
    title::Title,
};

use crate::support::{Node, TTL, World, dc, survivor, until};

const ALL: usize = SLOTS as usize;
const ID: &str = "cart/7";

/// Nodes of which the first owns all slots.
async fn first_owns(world: &World, dcs: &[&str], policy: &Policy) -> Vec<Node> {
    let node = |dc: &&str| world.node(dc, &[("cart", policy.clone())]);
    let mut nodes: Vec<Node> = dcs[..1].iter().map(node).collect();
    until("it owns all", 2 * TTL, || nodes[0].owned_slots(policy.group()) == ALL).await;
    nodes.extend(dcs[1..].iter().map(node));
    for node in &nodes {
        node.own.until_ready().await;
    }
    nodes
}

fn title(node: &Node, group: GroupId) -> Option<(Title, bool)> {
    node.own.grain_title(group, Slot::of(ID), ID)
}

/// Places the identity, once the node that is asked has heard of the others.
async fn place(node: &Node, group: GroupId, to: impl Into<DataCenterSelector>) -> Result<(), OwnershipError> {
    let to = to.into();
    for _ in 0..100 {
        match node.own.place(group, ID, to.clone()).await {
            Err(OwnershipError::NobodyThere { .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
            answer => return answer,
        }
    }
    node.own.place(group, ID, to).await
}

/// One of them has a title to it alone, and it is the only one that has any.
async fn lives_at(nodes: &[Node], at: usize, group: GroupId) -> Title {
    until("it is there", 3 * TTL, || title(&nodes[at], group).is_some_and(|(_, alone)| alone)).await;
    let with: Vec<bool> = nodes.iter().map(|node| title(node, group).is_some()).collect();
    assert_eq!(with.iter().filter(|with| **with).count(), 1, "{with:?}");
    title(&nodes[at], group).expect("just seen").0
}

#[tokio::test(start_paused = true)]
async fn g3_g5_a_placed_identity_goes_with_its_state_under_a_higher_epoch_and_its_slot_stays() {
    let world = World::new();
    let (policy, group) = (survivor(), survivor().group());
    let nodes = first_owns(&world, &["us-1", "eu-1", "ap-1"], &policy).await;
    let before = title(&nodes[0], group).expect("it owns all");
    assert!(!before.1, "with its slot");
    let state = vec![(ID.to_owned(), Bytes::from_static(b"7"))];
    nodes[0].log.state.lock().insert(Thing::grain(group, ID), state);
    place(&nodes[0], group, "eu-1").await.expect("it may live there");
    let after = lives_at(&nodes, 1, group).await;
    assert!(after.epoch() > before.0.epoch(), "{after:?}");
    let take = || nodes[1].own.take_state(group, Slot::of(ID), ID, after.epoch());
    assert_eq!((take().as_deref(), take()), (Some(&b"7"[..]), None), "once");
    assert_eq!(before.0.check(), Ok(()), "its slot stays");
    assert_eq!(nodes[0].owned_slots(group), ALL);
    assert_eq!(nodes[0].log.moved.lock()[..], [(Thing::grain(group, ID), true)]);
    for node in &nodes {
        until("all know", TTL, || node.own.grain_epoch(group, Slot::of(ID), ID) == Some(after.epoch())).await;
        assert_eq!(node.own.grain_owner(group, Slot::of(ID), ID).map(|(at, _)| at), nodes[1].own.holder());
        assert!(node.own.is_overridden(group, Slot::of(ID), ID));
        assert_eq!((node.own.owned_by(dc("us-1").id()), node.own.owned_by(dc("eu-1").id())), (ALL, 1));
    }
    // Again is no change, and not for others to say.
    nodes[1].own.place(group, ID, Selector::name("eu-1")).await.expect("it is there");
    assert_eq!(lives_at(&nodes, 1, group).await.epoch(), after.epoch());
    let elsewhere = nodes[0].own.place(group, ID, Selector::name("eu-1")).await;
    assert!(matches!(elsewhere, Err(OwnershipError::OwnedElsewhere { .. })), "{elsewhere:?}");
    // And on from there.
    place(&nodes[1], group, "ap-1").await.expect("it may live there");
    assert!(lives_at(&nodes, 2, group).await.epoch() > after.epoch());
}

#[tokio::test(start_paused = true)]
async fn g4_a_placed_identity_outlives_the_owner_of_its_slot_and_is_taken_over_when_its_own_is_lost() {
    let world = World::new();
    let policy = Policy { failback: Failback::Automatic, prefer: Some(Selector::name("us-1")), ..survivor() };
    let group = policy.group();
    let mut nodes = first_owns(&world, &["us-1", "eu-1", "us-1"], &policy).await;
    place(&nodes[0], group, "eu-1").await.expect("it may live there");
    let there = lives_at(&nodes, 1, group).await;
    // The owner of its slot is lost.
    world.kill(nodes.remove(0));
    until("the slots have an owner", 3 * TTL, || nodes[1].owned_slots(group) == ALL).await;
    assert_eq!(there.check(), Ok(()), "it stays");
    assert_eq!(lives_at(&nodes, 0, group).await.epoch(), there.epoch());
    // Then its own.
    world.kill(nodes.remove(0));
    let saved = lives_at(&nodes, 0, group).await;
    assert!(saved.epoch() > there.epoch());
    // And it goes back to where it was asked to live, its slot does not follow.
    nodes.push(world.node("eu-1", &[("cart", policy.clone())]));
    assert!(lives_at(&nodes, 1, group).await.epoch() > saved.epoch());
    assert_eq!(nodes[0].owned_slots(group), ALL);
}

#[tokio::test(start_paused = true)]
async fn g5_a_drain_moves_a_placed_identity_and_what_stays_where_it_is_stays_there_when_its_slot_goes() {
    let world = World::new();
    let (policy, group) = (survivor(), survivor().group());
    let nodes = first_owns(&world, &["us-1", "eu-1"], &policy).await;
    let before = title(&nodes[0], group).expect("it owns all").0;
    let state = vec![(ID.to_owned(), Bytes::from_static(b"7"))];
    nodes[0].log.state.lock().insert(Thing::grain(group, ID), state.clone());
    // To where it is: it is an own thing from now on, with its state.
    place(&nodes[0], group, "us-1").await.expect("it is there");
    let alone = lives_at(&nodes, 0, group).await;
    assert!(alone.epoch() > before.epoch());
    let taken = nodes[0].own.take_state(group, Slot::of(ID), ID, alone.epoch());
    assert_eq!(taken.as_deref(), Some(&b"7"[..]));
    // Only what was asked for changes: it may live in any of these, and does in one.
    let region: DataCenterSelector = Selector::region("us");
    nodes[0].own.place(group, ID, region).await.expect("it is there");
    assert_eq!(lives_at(&nodes, 0, group).await.epoch(), alone.epoch());
    // State that nobody took goes along once more.
    let mut drain = nodes[0].own.drain(DrainOptions::data_center());
    let end = drain.done().await;
    assert_eq!((end.left, end.end), (0, Some(DrainEnd::Done)));
    let moved = lives_at(&nodes, 1, group).await;
    assert!(moved.epoch() > alone.epoch());
    let taken = nodes[1].own.take_state(group, Slot::of(ID), ID, moved.epoch());
    assert_eq!(taken.as_deref(), Some(&b"7"[..]));
    // Its slot goes on without it.
    nodes[0].own.set_taking(true);
    place(&nodes[1], group, "eu-1").await.expect("it is there");
    let stays = lives_at(&nodes, 1, group).await;
    assert_eq!(stays.epoch(), moved.epoch());
    assert!(nodes[1].own.slot_title(group, Slot::of(ID)).is_some());
}

#[tokio::test(start_paused = true)]
async fn g4_an_identity_is_placed_only_where_its_policy_allows_and_somebody_lives() {
    let world = World::new();
    let policy = Policy { within: Selector::region("us"), ..survivor() };
    let group = policy.group();
    let nodes = first_owns(&world, &["us-1", "us-2", "eu-1"], &policy).await;
    place(&nodes[0], group, "us-2").await.expect("it may live there");
    let there = lives_at(&nodes, 1, group).await;
    let answer = place(&nodes[1], group, "eu-1").await;
    assert!(matches!(answer, Err(OwnershipError::NotAllowed { .. })), "{answer:?}");
    let answer = nodes[1].own.place(group, ID, Selector::name("nowhere")).await;
    assert!(matches!(answer, Err(OwnershipError::NobodyThere { .. })), "{answer:?}");
    let answer = nodes[0].own.place(GroupId(1), ID, Selector::any()).await;
    assert!(matches!(answer, Err(OwnershipError::NotAllowed { .. })), "{answer:?}");
    let answer = nodes[0].own.place(group, ID, Selector::name("a\u{7}b")).await;
    assert!(matches!(answer, Err(OwnershipError::Invalid(_))), "{answer:?}");
    assert_eq!(lives_at(&nodes, 1, group).await.epoch(), there.epoch(), "nothing has moved");
}

#[tokio::test(start_paused = true)]
async fn so_many_identities_of_a_document_live_elsewhere_and_no_more() {
    let world = World::new();
    let (policy, group) = (survivor(), survivor().group());
    let nodes = first_owns(&world, &["us-1", "eu-1"], &policy).await;
    place(&nodes[0], group, "eu-1").await.expect("the first");
    let of_document = |id: &String| Slot::of(id).document() == Slot::of(ID).document();
    let more: Vec<String> = (1_000..).map(|id| format!("cart/{id}")).filter(of_document).take(70).collect();
    let placed = more.iter().map(|id| nodes[0].own.place(group, id, Selector::name("eu-1")));
    let answers = futures::future::join_all(placed).await;
    let full = |answer: &&Result<(), OwnershipError>| matches!(answer, Err(OwnershipError::Full { .. }));
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 63, "{answers:?}");
    assert_eq!(answers.iter().filter(full).count(), 7, "{answers:?}");
    let owned = |node: &Node| more.iter().filter(|id| node.own.grain_title(group, Slot::of(id), id).is_some()).count();
    until("each has one owner", TTL, || (owned(&nodes[0]), owned(&nodes[1])) == (7, 63)).await;
}
