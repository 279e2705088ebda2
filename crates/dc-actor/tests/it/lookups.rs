//! Finding actors by name.

use std::time::Duration;

use dc_actor::Error;
use dc_controlplane::{ControlPlane, Expected};
use dc_core::{DataCenter, DataCenterRecord, DataCenterState, Epoch, NodeEndpoint, NodeId, Owner, Version};

use crate::{
    actors::{Note, Noted, StopNow, Worker, WorkerArgs},
    world::{World, eventually, now, shut_down},
};

fn args(n: u32) -> WorkerArgs {
    WorkerArgs { noted: vec![n], ..WorkerArgs::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_every_node_finds_an_actor_wherever_it_lives() {
    let world = World::new("a1-lookup");
    let all = world.start(["dc-1", "dc-2", "dc-3"], 2).await;
    all[1][1].spawn_on::<Worker>("somewhere", args(1)).await.expect("spawns");
    for system in all.iter().flatten() {
        let found = system.actor_of::<Worker>("somewhere").await.expect("found");
        assert_eq!(found.data_center(), all[1][0].data_center().id());
        assert_eq!(found.ask(Noted).await, Ok(vec![1]));
    }
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_the_own_datacenter_comes_first_and_a_hit_sticks_while_its_actor_lives() {
    let world = World::new("a2-lookup");
    let all = world.start(["dc-1", "dc-2"], 2).await;
    let here = &all[0][0];
    let far = all[1][0].spawn_on::<Worker>("x", args(2)).await.expect("spawns");
    assert_eq!(here.actor_of::<Worker>("x").await.expect("found"), far);
    let near = all[0][1].spawn_on::<Worker>("x", args(1)).await.expect("spawns");
    assert_eq!(here.actor_of::<Worker>("x").await.expect("found"), far, "the first hit sticks");
    assert_eq!(all[0][1].actor_of::<Worker>("x").await.expect("found"), near, "own datacenter first");
    let narrowed = here.actor_of::<Worker>("x").in_data_center("dc-1").await;
    assert_eq!(narrowed.expect("found"), near);
    let nowhere = here.actor_of::<Worker>("x").in_data_center("dc-7").await;
    assert!(matches!(nowhere, Err(Error::ActorNotFound { .. })), "{nowhere:?}");

    // The far one ends; a tell that fails makes the holder say so, and the next lookup finds the near one.
    far.ask(StopNow).await.expect("stops");
    eventually("the lookup moves on", || async {
        here.actor_of::<Worker>("x").await.expect("found").tell(Note(9)).await.ok();
        (here.actor_of::<Worker>("x").await.expect("found") == near).then_some(())
    })
    .await;
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_an_ask_that_finds_its_actor_gone_makes_the_next_lookup_ask_again() {
    let world = World::new("a2-ask-gone");
    let all = world.start(["dc-1", "dc-2"], 1).await;
    let here = &all[0][0];
    let first = all[1][0].spawn_on::<Worker>("x", args(1)).await.expect("spawns");
    let found = here.actor_of::<Worker>("x").await.expect("found");
    // However long the wait that is allowed, no deadline overflows.
    assert_eq!(found.ask(Noted).timeout(Duration::MAX).await, Ok(vec![1]));
    first.ask(StopNow).await.expect("stops");
    // Only asks from here on: they are answered, or refused, and never leave a dead letter behind.
    eventually("the name is free", || async { all[1][0].spawn_on::<Worker>("x", args(2)).await.ok() }).await;
    eventually("the lookup moves on", || async {
        let again = here.actor_of::<Worker>("x").timeout(Duration::MAX).await.ok()?;
        again.ask(Noted).await.ok()
    })
    .await;
    shut_down(all).await;
}

/// A record of a datacenter whose one node takes connections and never says a word.
async fn mute_data_center(world: &World, state: DataCenterState) -> std::net::TcpListener {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint: dc_core::Endpoint = listener.local_addr().unwrap().into();
    let node = NodeId(99);
    let record = DataCenterRecord {
        data_center: DataCenter::new("dc-mute").build().unwrap(),
        endpoints: vec![NodeEndpoint::new(node, endpoint.clone())],
        state,
        ttl: Duration::from_secs(600),
        owner: Owner { node, endpoint },
        epoch: Epoch(1),
        handed_over: false,
        written_at_ms: 0,
        version: Version::new(world.store.id(), 1),
        unknown: serde_json::Map::default(),
    };
    world.plane().register(&record, Expected::Absent).await.expect("registered");
    listener
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mute_datacenter_delays_no_hit_and_a_miss_is_bounded() {
    let world = World::new("mute");
    let _mute = mute_data_center(&world, DataCenterState::Active).await;
    let all = world.start(["dc-1", "dc-2"], 1).await;
    let here = &all[0][0];
    eventually("the mute one is known", || async { (here.data_centers().len() == 3).then_some(()) }).await;
    all[1][0].spawn_on::<Worker>("there", args(1)).await.expect("spawns");
    let began = now();
    here.actor_of::<Worker>("there").await.expect("found");
    assert!(now() - began < Duration::from_millis(900), "a hit does not wait for the mute one");

    let began = now();
    let miss = here.actor_of::<Worker>("nowhere").timeout(Duration::from_secs(1)).await.unwrap_err();
    let took = now() - began;
    assert_eq!(miss, Error::ActorNotFound { actor: "nowhere".into(), unanswered: vec!["dc-mute".into()] });
    assert!(took < Duration::from_millis(2_500), "bounded: {took:?}");
    assert_eq!(here.dead_letters(), 0, "quiet");
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inactive_datacenters_are_not_asked() {
    let world = World::new("inactive");
    let _mute = mute_data_center(&world, DataCenterState::Inactive).await;
    let all = world.start(["dc-1", "dc-2"], 1).await;
    let here = &all[0][0];
    let miss = here.actor_of::<Worker>("nowhere").await.unwrap_err();
    assert_eq!(miss, Error::ActorNotFound { actor: "nowhere".into(), unanswered: vec![] });
    shut_down(all).await;
}
