//! What one datacenter may do at another.

use dc_actor::{AskError, Authority, Error, Event, Rights};
use dc_controlplane::TokioClock;
use dc_core::Clock;

use crate::{
    actors::{AddItem, Cart, Note, Noted, Worker, WorkerArgs},
    world::{World, event, shut_down, soon, until_known},
};

/// A world of two datacenters: dc-2 may do at dc-1 what `rights` says; the other way round, everything.
async fn two(name: &str, rights: Rights) -> Vec<Vec<dc_actor::ActorSystem>> {
    let world = World::new(name);
    let authority = Authority::deny_by_default().allow("dc-2", rights).expect("good rights");
    let first = world.describe("dc-1", &[]).authority(authority).start().await.expect("starts");
    let second = world.describe("dc-2", &[]).start().await.expect("starts");
    let all = vec![vec![first], vec![second]];
    until_known(&all).await;
    all
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, Error>, what: &str) {
    let error = outcome.expect_err(what);
    assert!(matches!(&error, Error::Unauthorized { data_center, .. } if data_center == "dc-2"), "{what}: {error}");
    assert!(error.to_string().contains(what), "{error}");
    assert!(error.certainly_not_run());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_allowed_is_refused_by_name_and_does_not_run() {
    let all = two("deny", Rights::none()).await;
    let (first, second) = (&all[0][0], &all[1][0]);
    let worker = first.spawn_on::<Worker>("w", WorkerArgs::default()).await.expect("the own node may");
    let mut events = first.events();

    let spawn = second.spawn_on::<Worker>("x", WorkerArgs::default()).in_data_center("dc-1").await;
    refused(spawn, "start actors of kind \"worker\"");
    let found = second.actor_of::<Worker>("w").in_data_center("dc-1").await;
    refused(found, "look up names");
    // A reference that came another way: what it is sent is refused unread.
    let bytes = postcard::to_allocvec(&worker).expect("a reference can be written");
    let far: dc_actor::Ref<Worker> = postcard::from_bytes(&bytes).expect("and read");
    second.bind(&far);
    match far.ask(Noted).await {
        Err(AskError::Failed(error)) => refused::<()>(Err(error), "send \"Noted\" to kind \"worker\""),
        other => panic!("{other:?}"),
    }
    far.tell(Note(7)).await.expect("accepted by the link");
    let letter = event(&mut events, "the tell is a dead letter where it was refused", |event| match event {
        Event::DeadLetter(letter) => Some(letter),
        _ => None,
    });
    let letter = letter.await;
    assert!(matches!(letter.error, Error::Unauthorized { .. }), "{letter}");
    assert_eq!(worker.ask(Noted).await, Ok(vec![]), "nothing ran");
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_allowed_works_and_nothing_beside_it() {
    let rights = Rights::none().look_up().spawn::<Worker>().call_message::<Worker, Noted>();
    let all = two("allow", rights).await;
    let (first, second) = (&all[0][0], &all[1][0]);
    let mut events = first.events();
    let args = WorkerArgs { noted: vec![4], ..WorkerArgs::default() };
    let worker = second.spawn_on::<Worker>("x", args).in_data_center("dc-1").await.expect("may be started");
    assert_eq!(worker.ask(Noted).await, Ok(vec![4]));
    let found = second.actor_of::<Worker>("x").in_data_center("dc-1").await.expect("may be looked up");
    assert_eq!(found.data_center().as_str(), "dc-1");
    found.tell(Note(1)).await.expect("accepted by the link");
    let what = event(&mut events, "the refusal is told", |event| match event {
        Event::Unauthorized { data_center, what } if data_center.as_str() == "dc-2" => Some(what),
        _ => None,
    });
    assert_eq!(what.await, "send \"note\" to kind \"worker\"");
    assert_eq!(worker.ask(Noted).await, Ok(vec![4]));
    // The other way round nothing was configured: everything is allowed.
    let there = first.spawn_on::<Worker>("y", WorkerArgs::default()).in_data_center("dc-2").await.expect("allowed");
    there.tell(Note(2)).await.expect("accepted");
    assert_eq!(there.ask(Noted).await, Ok(vec![2]));
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grain_whose_home_does_not_allow_it_is_refused_at_once() {
    let all = two("grains", Rights::none()).await;
    let second = &all[1][0];
    let began = TokioClock.now();
    let mut denied = 0;
    for n in 0..16 {
        match second.grain::<Cart>(format!("user-{n}")).ask(AddItem(1)).await {
            Ok(_) => {}
            Err(AskError::Failed(error)) => {
                refused::<()>(Err(error), "find grains of kind \"cart\"");
                denied += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(denied > 0, "of 16 grains some have their home in dc-1");
    assert!(TokioClock.now() - began < std::time::Duration::from_secs(4), "no retries");
    soon("shutdown", shut_down(all)).await;
}
