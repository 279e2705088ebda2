//! Errors by name.

use std::time::Duration;

use dc_actor::{ActorSystem, ConfigError, Error, StartError};
use dc_controlplane::ControlPlane;
use dc_core::{DataCenter, Intent, IntentKind, Selector};

use crate::{
    actors::{Note, Noted, Odd, Phoenix, Worker, WorkerArgs, worker},
    world::{World, eventually, now, shut_down, soon},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d4_with_the_store_away_a_datacenter_works_inside_and_is_not_ready() {
    let world = World::new("d4");
    world.store.stop();
    let began = now();
    let first = soon("start", world.describe("dc-1", &[]).start()).await.expect("starts all the same");
    assert!(now() - began >= Duration::from_secs(2), "it waits for request_timeout");
    let second = soon("start", world.describe("dc-1", &[&first]).start()).await.expect("starts all the same");
    assert!(!first.data_center_ready());
    assert_eq!(first.data_center_last_refresh(), None);

    first.spawn_on::<Worker>("inside", WorkerArgs { noted: vec![3], ..WorkerArgs::default() }).await.expect("spawns");
    let found = second.actor_of::<Worker>("inside").await.expect("found");
    assert_eq!(found.ask(Noted).await, Ok(vec![3]));
    let spawn = first.spawn_on::<Worker>("away", WorkerArgs::default()).in_data_center("dc-2").await;
    assert!(matches!(spawn, Err(Error::DataCenterNotReady { .. })), "{spawn:?}");
    assert!(spawn.unwrap_err().certainly_not_run());
    let grain = first.grain::<crate::actors::Cart>("x").ask(crate::actors::AddItem(1)).await;
    assert!(matches!(grain.unwrap_err().failure(), Some(Error::DataCenterNotReady { .. })));
    let local = second.grain::<crate::actors::LocalCart>("d4").ask(crate::actors::AddItem(1)).await;
    assert_eq!(local.expect("a per-DC grain needs no table").items, 1);

    world.store.start();
    soon("ready once the store is back", first.wait_ready()).await;
    soon("ready once the store is back", second.wait_ready()).await;
    shut_down(vec![vec![second, first]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_records_refuse_placements_and_known_actors_go_on() {
    let world = World::new("stale");
    let first = world.describe("dc-1", &[]).start().await.expect("starts");
    let second = world.describe("dc-2", &[]).start().await.expect("starts");
    let lenient = world.describe("dc-3", &[]).controller(|options| {
        options
            .lease_ttl(Duration::from_secs(3))
            .heartbeat_interval(Duration::from_millis(500))
            .cache_refresh_interval(Duration::from_millis(300))
            .max_cache_staleness(Duration::from_secs(2))
            .leader_check_interval(Duration::from_millis(200))
            .request_timeout(Duration::from_secs(2))
            .max_backoff(Duration::from_secs(1))
            .fail_on_stale_cache(false)
    });
    let lenient = lenient.start().await.expect("starts");
    let all = vec![vec![first], vec![second], vec![lenient]];
    crate::world::until_known(&all).await;
    let (first, lenient) = (&all[0][0], &all[2][0]);
    let known = first.spawn_on::<Worker>("known", WorkerArgs::default()).in_data_center("dc-2").await.expect("spawns");

    world.store.stop();
    let mut number = 0;
    let refused = eventually("the table is stale", || {
        number += 1;
        let spawn = first.spawn_on::<Worker>(format!("new-{number}"), WorkerArgs::default());
        let spawn = spawn.in_data_center("dc-2").timeout(Duration::from_secs(1));
        async move { spawn.await.err() }
    });
    let refused = refused.await;
    assert!(matches!(refused, Error::DataCenterStaleRecords { .. }), "{refused}");
    known.tell(Note(1)).await.expect("accepted");
    assert_eq!(known.ask(Noted).await, Ok(vec![1]), "C5: known actors go on");
    assert!(first.data_center_ready(), "D7: stays ready");
    let found = lenient.actor_of::<Worker>("known").await.expect("lookups go on");
    assert_eq!(found.ask(Noted).await, Ok(vec![1]));
    eventually("the lenient one is stale as well", || async {
        lenient.data_center_last_refresh().filter(|age| *age > Duration::from_secs(2))
    })
    .await;
    let placed = lenient.spawn_on::<Worker>("lenient", WorkerArgs::default()).in_data_center("dc-2").await;
    assert!(placed.is_ok(), "fail_on_stale_cache is off: {placed:?}");
    world.store.start();
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_datacenter_refuses_spawns_with_the_reason_and_goes_on_answering() {
    let world = World::new("drained");
    let all = world.start(["dc-1", "dc-2"], 2).await;
    let here = &all[0][1];
    let worker = here.spawn_on::<Worker>("old", WorkerArgs::default()).in_data_center("dc-2").await.expect("spawns");
    let intent = Intent::new(IntentKind::Drain, "ops", "kernel upgrade");
    world.plane().set_intent(all[1][0].data_center().id(), &intent).await.expect("written");
    let mut number = 0;
    let refused = eventually("the drain is known", || {
        number += 1;
        let spawn = here.spawn_on::<Worker>(format!("new-{number}"), WorkerArgs::default()).in_data_center("dc-2");
        async move { spawn.await.err() }
    })
    .await;
    let Error::DataCenterNotRoutable { reasons, .. } = &refused else { panic!("{refused}") };
    assert!(reasons.iter().any(|reason| reason.contains("dc-2")), "{reasons:?}");
    assert!(refused.certainly_not_run());
    assert_eq!(worker.ask(Noted).await, Ok(vec![]));
    assert!(all[0][0].actor_of::<Worker>("old").await.is_ok(), "C6: lookups go on");
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_named() {
    let world = World::new("names");
    let all = world.start(["dc-1", "dc-2"], 1).await;
    let here = &all[0][0];
    let asked = Selector::name("dc-2").region("nowhere");
    let refused = here.spawn_on::<Worker>("w", WorkerArgs::default()).in_data_center(asked).await.unwrap_err();
    let Error::DataCenterRecordNotFound { asked, known } = &refused else { panic!("{refused}") };
    assert!(asked.contains("nowhere"), "{asked}");
    assert_eq!(known, &["dc-1", "dc-2"]);

    let unknown = here.spawn::<Odd>(Odd).await.unwrap_err();
    assert!(matches!(&unknown, Error::TypeNotRegistered { kind, .. } if kind == "odd"), "{unknown}");
    let unknown = here.spawn_on::<Odd>("odd", Odd).in_data_center("dc-2").await.unwrap_err();
    assert!(matches!(&unknown, Error::TypeNotRegistered { kind, .. } if kind == "odd"), "{unknown}");

    let nobody = here.actor_of::<Worker>("nobody").await.unwrap_err();
    assert_eq!(nobody, Error::ActorNotFound { actor: "nobody".into(), unanswered: vec![] });
    here.spawn_on::<Worker>("w", WorkerArgs::default()).in_data_center("dc-2").await.expect("spawns");
    let wrong = here.actor_of::<Phoenix>("w").await.unwrap_err();
    assert_eq!(wrong, Error::WrongKind { name: "w".into(), expected: "phoenix".into(), found: "worker".into() });

    for name in ["", "a\nb", &"x".repeat(256)] {
        let refused = here.spawn_on::<Worker>(name, WorkerArgs::default()).await.unwrap_err();
        assert!(matches!(&refused, Error::Invalid { field, .. } if field == "name"), "{refused}");
        let refused = here.actor_of::<Worker>(name).await.unwrap_err();
        assert!(matches!(&refused, Error::Invalid { field, .. } if field == "name"), "{refused}");
    }
    let node = dc_core::NodeId(77);
    let nowhere = here.spawn_on::<Worker>("x", WorkerArgs::default()).on_node(node).await.unwrap_err();
    assert!(matches!(nowhere, Error::Unreachable { .. }), "{nowhere}");
    shut_down(all).await;
}

#[tokio::test]
async fn each_mistake_of_a_description_is_named() {
    let world = World::new("config");
    let err = world
        .bare("dc\n1", &[])
        .listen("nowhere")
        .advertise("10.0.0.1")
        .ask_timeout(Duration::ZERO)
        .controller(|options| options.lease_ttl(Duration::from_secs(1)))
        .actor::<Worker>(worker)
        .actor::<Worker>(|kind| kind.mailbox(0))
        .grain::<crate::actors::Cart>(|kind| kind.idle(Duration::ZERO))
        .start()
        .await
        .expect_err("refused");
    let StartError::Config(wrong) = &err else { panic!("{err}") };
    let fields: Vec<String> = wrong
        .iter()
        .map(|err| match err {
            ConfigError::Invalid(invalid) => invalid.field.clone(),
            ConfigError::DuplicateKind { kind } => format!("twice {kind}"),
            ConfigError::MissingArgs { kind } => format!("args of {kind}"),
            other => other.to_string(),
        })
        .collect();
    for field in
        ["name", "listen", "advertise", "ask_timeout", "lease_ttl", "twice worker", "mailbox", "idle", "args of cart"]
    {
        assert!(fields.iter().any(|found| found == field), "{field} is not among {fields:?}");
    }
    let err = ActorSystem::builder("x").start().await.expect_err("refused").to_string();
    assert!(err.contains("`data_center` must be given"), "{err}");
    assert!(err.contains("`control_plane` must be given"), "{err}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = world.bare("dc-1", &[]).listen(taken.local_addr().unwrap()).start().await;
    assert!(matches!(in_use, Err(StartError::Links(_))), "{in_use:?}");
    assert!(DataCenter::new("").build().is_err());
}
