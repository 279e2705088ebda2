//! Where actors are started.

use std::{future::IntoFuture, sync::Arc, time::Duration};

use bytes::Bytes;
use dc_actor::{Error, Ref};
use dc_controlplane::TokioClock;
use dc_core::{DataCenter, NodeId, Selector, SystemName};
use dc_placement::Strategy;
use dc_remoting::{PeerTarget, Remoting, RemotingConfig, ServiceId, Services};
use prost::Message as _;

use crate::{
    actors::{Note, Noted, Start, Worker, WorkerArgs},
    world::{World, now, shut_down, soon},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_every_node_spawns_in_another_datacenter_and_asks() {
    let world = World::new("a1-spawn");
    let all = world.start(["dc-1", "dc-2"], 3).await;
    for (number, system) in all.iter().flatten().enumerate() {
        let other = if system.data_center().name() == "dc-1" { "dc-2" } else { "dc-1" };
        let name = format!("worker-{number}");
        let spawn = system.spawn_on::<Worker>(&name, WorkerArgs::default()).in_data_center(Selector::name(other));
        let worker: Ref<Worker> = soon("spawn", spawn.into_future()).await.expect("spawns");
        assert_eq!(worker.data_center().parts().0, other);
        worker.tell(Note(7)).await.expect("accepted");
        assert_eq!(worker.ask(Noted).await.expect("answers"), [7]);
        assert!(system.data_center_ready());
        assert!(system.data_center_last_refresh().is_some_and(|age| age < Duration::from_secs(2)));
    }
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_selector_may_mean_the_own_datacenter_and_strategies_choose_the_node() {
    let world = World::new("own");
    let all = world.start(["dc-1", "dc-2"], 2).await;
    let here = &all[0][0];
    let mut nodes = std::collections::HashSet::new();
    for number in 0..4 {
        let spawn = here.spawn_on::<Worker>(format!("w{number}"), WorkerArgs::default());
        let worker = spawn.in_data_center("dc-1").strategy(Strategy::Random).await.expect("spawns");
        assert_eq!(worker.data_center(), here.data_center().id());
        nodes.insert(worker.node());
    }
    let near = here.spawn_on::<Worker>("near", WorkerArgs::default()).in_data_center("dc-1");
    let near = near.strategy(Strategy::Nearest).await.expect("spawns");
    assert_eq!(near.node(), here.node_id(), "nothing is nearer than itself");
    let plain = here.spawn_on::<Worker>("plain", WorkerArgs::default()).await.expect("spawns");
    assert_eq!(plain.node(), here.node_id());
    assert!(nodes.iter().all(|node| all[0].iter().any(|system| system.node_id() == *node)));
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_dead_endpoint_does_not_fail_a_spawn() {
    let world = World::new("l3");
    let mut all = world.start(["dc-1", "dc-2"], 3).await;
    let dead = all[1].pop().expect("three nodes");
    let gone = dead.node_id();
    // A reference outlives its system, which ends all the same.
    let held = dead.spawn::<Worker>(WorkerArgs::default()).await.expect("spawns");
    // Its record goes on listing it for a while: dropped without a goodbye, as a crash would.
    drop(dead);
    let here = &all[0][0];
    for number in 0..20 {
        let spawn = here.spawn_on::<Worker>(format!("w{number}"), WorkerArgs::default()).in_data_center("dc-2");
        let worker = soon("spawn", spawn.into_future()).await.expect("spawns on a living node");
        assert_ne!(worker.node(), gone);
        assert_eq!(worker.ask(Noted).await, Ok(vec![]));
    }
    crate::world::eventually("its neighbours notice", || async { (all[1][0].members().len() == 2).then_some(()) })
        .await;
    assert!(held.ask(Noted).await.is_err());
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l4_a_placement_explains_itself() {
    let world = World::new("l4");
    let all = world.start(["dc-1", "dc-2"], 1).await;
    let explained = all[0][0].explain("dc-2").expect("a selector that can match").to_string();
    assert!(explained.contains("dc-2: chosen"), "{explained}");
    let explained = all[0][0].explain("dc-9").expect("a selector that can match").to_string();
    assert!(explained.contains("refused"), "{explained}");
    assert!(all[0][0].explain("").is_err());
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reference_is_handed_out_only_after_on_start() {
    let world = World::new("slow-start");
    let all = world.start(["dc-1", "dc-2"], 1).await;
    let began = now();
    let args = WorkerArgs { start: Start::Slow(300), ..WorkerArgs::default() };
    all[0][0].spawn_on::<Worker>("slow", args).in_data_center("dc-2").await.expect("spawns");
    assert!(now() - began >= Duration::from_millis(300));

    let args = WorkerArgs { start: Start::Fails, ..WorkerArgs::default() };
    let failed = all[0][0].spawn_on::<Worker>("fails", args).in_data_center("dc-2").await;
    assert!(matches!(&failed, Err(Error::StartFailed { reason, .. }) if reason.contains("told to fail")), "{failed:?}");
    let again = all[0][0].spawn_on::<Worker>("fails", WorkerArgs::default()).in_data_center("dc-2").await;
    assert!(again.is_ok(), "its name is free: {again:?}");
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_a_name_is_taken_once_in_a_datacenter_and_free_when_its_actor_has_ended() {
    let world = World::new("a2");
    let all = world.start(["dc-1", "dc-2"], 2).await;
    let (here, neighbour, far) = (&all[0][0], &all[0][1], &all[1][0]);
    let spawns = (0..10).map(|number| {
        let system = if number % 2 == 0 { here } else { neighbour };
        system.spawn_on::<Worker>("only-one", WorkerArgs::default()).into_future()
    });
    let results = soon("all spawns", futures::future::join_all(spawns)).await;
    let (ok, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(ok.len(), 1, "{refused:?}");
    assert!(refused.iter().all(|result| matches!(result, Err(Error::NameTaken { name, .. }) if name == "only-one")));

    let elsewhere = far.spawn_on::<Worker>("only-one", WorkerArgs::default()).await;
    assert!(elsewhere.is_ok(), "a per-DC name: {elsewhere:?}");

    let first = here.actor_of::<Worker>("only-one").await.expect("found");
    first.ask(crate::actors::StopNow).await.expect("stops");
    crate::world::eventually("the name is free", || async {
        neighbour.spawn_on::<Worker>("only-one", WorkerArgs::default()).await.ok()
    })
    .await;
    shut_down(all).await;
}

/// The body of a spawn, as `docs/wire.md` describes it.
#[derive(Clone, PartialEq, prost::Message)]
struct SpawnBody {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "bytes", tag = "3")]
    request: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    args: Bytes,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_repeated_spawn_is_not_a_second_run() {
    let world = World::new("l3-repeat");
    let all = world.start(["dc-1"], 3).await;
    let stranger = DataCenter::new("dc-9").build().unwrap();
    let config = RemotingConfig::builder(SystemName::new("l3-repeat").unwrap(), stranger.id().clone(), NodeId(9));
    let clock = Arc::new(TokioClock);
    let links = Remoting::start(config.build().unwrap(), clock, Services::new()).await.expect("starts");
    let args = postcard::to_allocvec(&WorkerArgs::default()).unwrap();
    let body = SpawnBody {
        kind: "worker".into(),
        name: "once".into(),
        request: Bytes::from_static(&[7; 16]),
        args: args.into(),
    };
    let body = Bytes::from(body.encode_to_vec());
    let mut places = Vec::new();
    for system in all.iter().flatten().chain(all.iter().flatten()) {
        let peer = links.peer(PeerTarget::node(system.endpoint().clone(), system.node_id()));
        let asked = peer.call_for_answer(ServiceId(16), body.clone(), Duration::from_secs(5)).await;
        let answer = asked.expect("answers");
        assert_eq!(answer.status, 0, "{:?}", answer.body);
        places.push(answer.body);
    }
    places.dedup();
    assert_eq!(places.len(), 1, "one and the same place");
    assert_eq!(all[0].iter().map(dc_actor::ActorSystem::actor_count).sum::<usize>(), 1, "one actor");
    links.shutdown(Duration::ZERO).await;
    shut_down(all).await;
}
