//! Start, readiness, events, shutdown.

use std::{future::IntoFuture, time::Duration};

use dc_actor::{Error, Event};
use dc_controlplane::ControlPlane;

use crate::{
    actors::{Busy, Note, Noted, Worker, WorkerArgs},
    world::{World, event, eventually, shut_down, soon, until_known},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_shutdown_hands_over_and_the_last_node_deregisters() {
    let world = World::new("d6");
    let mut all = world.start(["dc-1", "dc-2"], 2).await;
    let watcher = all[0][0].clone();
    let dc = all[1][0].data_center().id().clone();
    let leader = all[1].remove(0);
    assert_eq!(leader.leader(), Some(leader.node_id()));
    let worker = leader.spawn_on::<Worker>("goes", WorkerArgs::default()).await.expect("spawns");
    let name = worker.name().map(str::to_owned);
    assert_eq!(name.as_deref(), Some("goes"));
    leader.shutdown().await.expect("ends in good order");
    leader.shutdown().await.expect("a second time is fine");
    let refused = leader.spawn::<Worker>(WorkerArgs::default()).await;
    assert!(matches!(refused, Err(Error::ShuttingDown { .. })), "{refused:?}");

    // D2: the datacenter never leaves the others' tables, and the one that is left takes over.
    eventually("the successor advertises itself alone", || async {
        let known = watcher.data_centers();
        let entry = known.iter().find(|known| *known.id() == dc).expect("never unroutable");
        assert!(entry.takes_placements, "never unroutable");
        (entry.endpoints.len() == 1 && entry.endpoints[0].node == all[1][0].node_id()).then_some(())
    })
    .await;
    let spawned = watcher.spawn_on::<Worker>("goes", WorkerArgs::default()).in_data_center("dc-2").await;
    assert_eq!(spawned.expect("its name is free").node(), all[1][0].node_id());

    let last = all.remove(1).remove(0);
    last.shutdown().await.expect("ends in good order");
    assert!(world.plane().get(&dc).await.expect("read").is_none(), "deregistered");
    eventually("it leaves the table", || async { (watcher.data_centers().len() == 1).then_some(()) }).await;
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_actors_finish_what_is_in_their_mailboxes_and_late_ones_are_killed() {
    let world = World::new("d6-mailbox");
    let all = world.start(["dc-1", "dc-2"], 1).await;
    let here = &all[0][0];
    let worker = here.spawn_on::<Worker>("w", WorkerArgs::default()).in_data_center("dc-2").await.expect("spawns");
    let other = here.spawn_on::<Worker>("o", WorkerArgs::default()).in_data_center("dc-2").await.expect("spawns");
    let mut busy = worker.ask(Busy { ms: 300 }).into_future();
    assert!(futures::poll!(&mut busy).is_pending());
    worker.tell(Note(1)).await.expect("accepted");
    let mut noted = worker.ask(Noted).into_future();
    assert!(futures::poll!(&mut noted).is_pending());
    // What is sent later over the same connection has been answered: so the others have arrived.
    assert_eq!(other.ask(Noted).await, Ok(vec![]));
    let (ended, busy, noted) = tokio::join!(soon("shutdown", all[1][0].shutdown()), busy, noted);
    ended.expect("ends in good order");
    assert_eq!(busy, Ok(()), "it was finished");
    assert_eq!(noted, Ok(vec![1]), "and so was what came behind it");

    let hasty = world.describe("dc-3", &[]).shutdown_grace(Duration::from_millis(100)).start().await.expect("starts");
    let slow = hasty.spawn::<Worker>(WorkerArgs::default()).await.expect("spawns");
    let busy = tokio::spawn(slow.ask(Busy { ms: 60_000 }).timeout(Duration::from_secs(60)).into_future());
    eventually("it is busy", || async {
        let waits = slow.ask(Noted).timeout(Duration::from_millis(50)).await;
        waits.is_err().then_some(())
    })
    .await;
    let ended = soon("shutdown", hasty.shutdown()).await;
    assert!(matches!(ended, Err(Error::Timeout { .. })), "{ended:?}");
    let error = soon("the ask", busy).await.unwrap().unwrap_err();
    assert!(!error.certainly_not_run(), "{error}");
    shut_down(vec![vec![here.clone()]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_a_shutdown_goes_on_when_its_caller_gives_up_and_a_second_one_waits_for_it() {
    let world = World::new("d6-given-up");
    let mut all = world.start(["dc-1", "dc-2"], 1).await;
    let leaves = all.remove(1).remove(0);
    let dc = leaves.data_center().id().clone();
    let worker = leaves.spawn::<Worker>(WorkerArgs::default()).await.expect("spawns");
    let mut busy = worker.ask(Busy { ms: 300 }).into_future();
    assert!(futures::poll!(&mut busy).is_pending());
    {
        let mut given_up = Box::pin(leaves.shutdown());
        assert!(futures::poll!(&mut given_up).is_pending(), "the actor is busy");
    }
    soon("the second shutdown", leaves.shutdown()).await.expect("it waits for the first one");
    assert_eq!(leaves.actor_count(), 0, "every actor has ended");
    assert_eq!(soon("the ask", busy).await, Ok(()), "after what was in its mailbox");
    assert!(world.plane().get(&dc).await.expect("read").is_none(), "deregistered");
    let refused = leaves.spawn::<Worker>(WorkerArgs::default()).await;
    assert!(matches!(refused, Err(Error::ShuttingDown { .. })), "{refused:?}");
    // The last handle goes as well: there is nothing left to abort.
    drop(leaves);
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_last_handle_ends_everything() {
    let world = World::new("dropped");
    let mut all = world.start(["dc-1", "dc-2"], 1).await;
    let here = all[0][0].clone();
    let worker = here.spawn_on::<Worker>("w", WorkerArgs::default()).in_data_center("dc-2").await.expect("spawns");
    let plain = worker.clone();
    let second = all[1][0].clone();
    drop(all.remove(1));
    assert_eq!(worker.ask(Noted).await, Ok(vec![]), "one handle is left");
    drop(second);
    let gone = eventually("it is gone", || async { plain.ask(Noted).timeout(Duration::from_millis(500)).await.err() });
    gone.await;
    eventually("its record ends with its lease", || async { (here.data_centers().len() == 1).then_some(()) }).await;
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_tell_who_joins_leads_and_leaves() {
    let world = World::new("events");
    let first = world.describe("dc-1", &[]).start().await.expect("starts");
    let mut events = first.events();
    let second = world.describe("dc-1", &[&first]).start().await.expect("starts");
    event(&mut events, "a member", |event| match event {
        Event::Members { joined, members: 2, .. } if joined == [second.node_id()] => Some(()),
        _ => None,
    })
    .await;
    let other = world.describe("dc-2", &[]).start().await.expect("starts");
    let dc = other.data_center().id().clone();
    event(&mut events, "a datacenter", |event| match event {
        Event::DataCenterJoined { id, .. } if id == dc => Some(()),
        _ => None,
    })
    .await;
    until_known(&[vec![first.clone(), second.clone()], vec![other.clone()]]).await;

    let mut seen_by_second = second.events();
    other.shutdown().await.expect("ends");
    event(&mut events, "it leaves", |event| match event {
        Event::DataCenterLeft { id, .. } if id == dc => Some(()),
        _ => None,
    })
    .await;
    let leaves = first.node_id();
    first.shutdown().await.expect("ends");
    event(&mut seen_by_second, "the next one leads", |event| match event {
        Event::Leader { leader, me: true } if leader == Some(second.node_id()) => Some(()),
        _ => None,
    })
    .await;
    assert_eq!(second.leader(), Some(second.node_id()));
    assert!(second.members().iter().all(|member| member.node != leaves));
    shut_down(vec![vec![second]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_after_two_halves_meet_one_of_two_actors_with_one_name_remains() {
    let world = World::new("a2-heal");
    // Two nodes of one datacenter that have never met: which registration is older, the directory decides.
    let left = world.describe("dc-1", &[]).start().await.expect("starts");
    let right = world.describe("dc-1", &[]).start().await.expect("starts");
    let (mut left_events, mut right_events) = (left.events(), right.events());
    let mut twins = Vec::new();
    for (number, system) in [&left, &right].into_iter().enumerate() {
        let args = WorkerArgs { noted: vec![u32::try_from(number).unwrap()], ..WorkerArgs::default() };
        twins.push(system.spawn_on::<Worker>("twice", args).await.expect("nobody there knows of the other"));
    }
    let bridge = world.describe("dc-1", &[&left, &right]).start().await.expect("starts");
    let evicted = |event: Event| match event {
        Event::NameEvicted { name, kept_by } if name == "twice" => Some(kept_by),
        _ => None,
    };
    let kept_by = tokio::select! {
        kept_by = event(&mut left_events, "one is evicted", evicted) => kept_by,
        kept_by = event(&mut right_events, "one is evicted", evicted) => kept_by,
    };
    let (kept, lost): (Vec<_>, Vec<_>) = twins.into_iter().partition(|twin| twin.node() == kept_by);
    let (kept, lost) = (kept.first().expect("one is kept"), lost.first().expect("the other is not"));
    eventually("the other one is stopped", || async { lost.ask(Noted).await.err() }).await;
    for system in [&left, &right, &bridge] {
        eventually("all find the one that is left", || async {
            (system.actor_of::<Worker>("twice").await.as_ref() == Ok(kept)).then_some(())
        })
        .await;
    }
    assert!(kept.ask(Noted).await.is_ok());
    shut_down(vec![vec![bridge, right, left]]).await;
}
