//! What happens to messages, here, on another node, and in another datacenter.

use std::{future::IntoFuture, time::Duration};

use bytes::Bytes;
use dc_actor::{ActorSystem, AskError, Error, Event, Ref};

use crate::{
    actors::{
        Answers, AskThat, Blob, Busy, FailNow, Later, Note, Noted, PanicNow, Phoenix, Relay, StopNow, Sum, Unlisted,
        WhoAreYou, Worker, WorkerArgs,
    },
    world::{World, event, eventually, now, shut_down, soon},
};

/// A worker on this very node, on another node of its datacenter, and in another datacenter, with the node of each.
async fn three_places(all: &[Vec<ActorSystem>], name: &str) -> Vec<(Ref<Worker>, ActorSystem)> {
    let here = &all[0][0];
    let mut workers = Vec::new();
    for (number, place) in [&all[0][0], &all[0][1], &all[1][0]].into_iter().enumerate() {
        let spawn = here.spawn_on::<Worker>(format!("{name}-{number}"), WorkerArgs::default());
        let worker = soon("spawn", spawn.on_node(place.node_id()).into_future()).await.expect("spawns");
        assert_eq!(worker.node(), place.node_id());
        workers.push((worker, place.clone()));
    }
    workers
}

fn failed<T: std::fmt::Debug, E: std::fmt::Debug>(answer: Result<T, AskError<E>>) -> Error {
    match answer {
        Err(AskError::Failed(error)) => error,
        other => panic!("expected a failure, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a4_messages_behave_alike_here_on_another_node_and_in_another_datacenter() {
    let world = World::new("a4");
    let all = world.start(["dc-1", "dc-2"], 2).await;
    for (worker, place) in three_places(&all, "alike").await {
        worker.tell(Note(1)).await.expect("accepted");
        assert_eq!(worker.ask(Noted).await, Ok(vec![1]));
        assert_eq!(worker.ask(Later(7)).await, Ok(7), "a promised answer");
        assert_eq!(worker.ask(Sum { of: vec![1, 2, 3] }).await, Ok(6), "by protobuf");
        assert_eq!(worker.ask(Blob(2, Bytes::from(vec![0; 300_000]))).await, Ok(300_000), "in pieces");

        assert_eq!(worker.ask(FailNow).await, Err(AskError::Handler("told to fail".to_owned())));
        assert_eq!(worker.ask(Noted).await, Ok(vec![1, 2]), "an error to an asker is a value");

        let slow = worker.ask(Busy { ms: 400 }).timeout(Duration::from_millis(100)).await;
        let error = failed(slow);
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        assert!(!error.certainly_not_run(), "it began");

        let error = failed(worker.ask(Unlisted).await);
        let expected = Error::MessageNotListed { kind: "worker".into(), message: "Unlisted".into() };
        assert_eq!(error, expected, "A3: alike everywhere");
        assert_eq!(worker.tell(Unlisted).await, Err(expected));

        let mut events = place.events();
        worker.tell(FailNow).await.expect("accepted");
        let failure = event(&mut events, "a tell's error stops the actor", |event| match event {
            Event::ActorFailed { reason, .. } => Some(reason),
            _ => None,
        });
        assert!(failure.await.contains("told to fail"));
        let gone = eventually("it is gone", || async {
            let error = failed(worker.ask(Noted).await);
            matches!(error, Error::ActorStopped { .. } | Error::ActorNotFound { .. }).then_some(error)
        });
        assert!(gone.await.certainly_not_run());
    }
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a3_an_unlisted_message_and_an_unknown_kind_harm_no_link() {
    let world = World::new("a3");
    let here = world.describe("dc-1", &[]).start().await.expect("starts");
    // The other side lists less, and knows no phoenix: what the sender knows does not help.
    let narrow = world.bare("dc-2", &[]).actor::<Worker>(|kind| kind.handles::<Noted>()).start().await;
    let there = narrow.expect("starts");
    let all = vec![vec![here], vec![there]];
    crate::world::until_known(&all).await;
    let here = &all[0][0];
    let worker = here.spawn_on::<Worker>("narrow", WorkerArgs::default()).in_data_center("dc-2").await.expect("spawns");

    let error = failed(worker.ask(Sum { of: vec![] }).await);
    assert_eq!(error, Error::MessageNotListed { kind: "worker".into(), message: "sum".into() });
    let mut letters = all[1][0].events();
    worker.tell(Note(1)).await.expect("accepted by the link");
    let letter = event(&mut letters, "a dead letter", |event| match event {
        Event::DeadLetter(letter) => Some(letter),
        _ => None,
    });
    assert!(matches!(letter.await.error, Error::MessageNotListed { .. }));

    let spawn = here.spawn_on::<Phoenix>("p", 1).in_data_center("dc-2").await;
    assert!(matches!(&spawn, Err(Error::TypeNotRegistered { kind, .. }) if kind == "phoenix"), "{spawn:?}");
    assert_eq!(worker.ask(Noted).await, Ok(vec![]), "the link is unharmed");
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_messages_arrive_in_the_order_sent_whatever_their_size() {
    let world = World::new("r1");
    let all = world.start(["dc-1", "dc-2"], 1).await;
    let here = &all[0][0];
    let worker = here.spawn_on::<Worker>("order", WorkerArgs::default()).in_data_center("dc-2").await.expect("spawns");
    let large = Bytes::from(vec![1; 200_000]);
    for n in 0..200 {
        if n % 10 == 3 {
            worker.tell(Blob(n, large.clone())).await.expect("accepted");
        } else {
            worker.clone().tell(Note(n)).await.expect("accepted");
        }
    }
    let noted = worker.ask(Noted).timeout(Duration::from_secs(10)).await.expect("answers");
    assert_eq!(noted, (0..200).collect::<Vec<_>>());
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_one_actor_is_one_sender_whichever_references_it_sends_through() {
    let world = World::new("r1-actor");
    let all = world.start(["dc-1", "dc-2"], 1).await;
    let here = &all[0][0];
    let target = here.spawn_on::<Worker>("target", WorkerArgs::default()).in_data_center("dc-2").await.expect("spawns");
    let relay = here.spawn::<Worker>(WorkerArgs::default()).await.expect("spawns");
    // Read from the message, each reference is a value of its own.
    let looked_up = here.actor_of::<Worker>("target").await.expect("found");
    let through = vec![target.clone(), looked_up, target.clone()];
    relay.ask(Relay { through, n: 120 }).timeout(Duration::from_secs(10)).await.expect("relays");
    let noted =
        eventually("all have arrived", || async { target.ask(Noted).await.ok().filter(|noted| noted.len() == 120) });
    assert_eq!(noted.await, (0..120).collect::<Vec<_>>());
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a5_a_panic_is_its_askers_error_everywhere_and_what_is_behind_it_did_not_run() {
    let world = World::new("a5");
    let all = world.start(["dc-1", "dc-2"], 2).await;
    for (worker, _) in three_places(&all, "panics").await {
        // The first keeps the actor busy while the others queue up, in this order.
        let first = worker.ask(Busy { ms: 100 });
        let (busy, panics, behind) =
            (first.into_future(), worker.ask(PanicNow).into_future(), worker.ask(Noted).into_future());
        let (busy, panics, behind) = tokio::join!(busy, panics, behind);
        assert_eq!(busy, Ok(()));
        let error = failed(panics);
        assert!(matches!(&error, Error::HandlerPanicked { panic, .. } if panic == "told to panic"), "{error}");
        let error = failed(behind);
        assert!(error.certainly_not_run(), "{error}");
    }
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a6_what_cannot_be_delivered_is_a_dead_letter_that_can_be_observed() {
    let world = World::new("a6");
    let all = world.start(["dc-1", "dc-2"], 2).await;
    for (worker, place) in three_places(&all, "dead").await {
        let mut events = place.events();
        let before = place.dead_letters();
        // Both are accepted; the second one is behind the actor's end.
        worker.tell(Busy { ms: 50 }).await.expect("accepted");
        worker.tell(StopNow).await.expect("accepted");
        worker.tell(Note(1)).await.expect("accepted");
        let letter = event(&mut events, "a dead letter", |event| match event {
            Event::DeadLetter(letter) => Some(letter),
            _ => None,
        });
        let letter = letter.await;
        assert_eq!((letter.kind.as_str(), letter.message.as_str()), ("worker", "note"));
        assert!(letter.error.certainly_not_run());
        assert!(place.dead_letters() > before);
    }
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn references_travel_inside_messages_and_work_at_the_other_end() {
    let world = World::new("refs");
    let all = world.start(["dc-1", "dc-2"], 2).await;
    let workers = three_places(&all, "refs").await;
    let (local, far) = (&workers[0].0, &workers[2].0);
    let itself = far.ask(WhoAreYou).await.expect("answers").expect("it knows itself");
    assert_eq!(&itself, far);
    itself.tell(Note(5)).await.expect("accepted");
    assert_eq!(far.ask(Noted).await, Ok(vec![5]));

    // The far one asks the near one, by the reference in the message; its answer comes back as a message.
    far.ask(AskThat { whom: local.clone(), busy: 200 }).await.expect("does not wait for it");
    assert_eq!(far.ask(Answers).await, Ok(vec![]), "it goes on meanwhile");
    eventually("the answer comes back", || async {
        (far.ask(Answers).await == Ok(vec!["done".to_owned()])).then_some(())
    })
    .await;

    // Read outside of any system: bound by hand.
    let bytes = written(far);
    let read: Ref<Worker> = postcard::from_bytes(&bytes).expect("reads back");
    assert_eq!(failed(read.ask(Noted).await), Error::Unbound);
    all[0][1].bind(&read);
    assert_eq!(read.ask(Noted).await, Ok(vec![5]));
    let other: Result<Ref<Phoenix>, _> = postcard::from_bytes(&bytes);
    assert!(other.is_err(), "a reference to another kind");
    shut_down(all).await;
}

fn written(reference: &Ref<Worker>) -> Vec<u8> {
    postcard::to_allocvec(reference).expect("writes")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_requests_answer_to_an_actor_that_has_stopped_is_a_dead_letter() {
    let world = World::new("request");
    let all = world.start(["dc-1"], 1).await;
    let here = &all[0][0];
    let asker = here.spawn::<Worker>(WorkerArgs::default()).await.expect("spawns");
    let asked = here.spawn::<Worker>(WorkerArgs::default()).await.expect("spawns");
    let mut events = here.events();
    asker.ask(AskThat { whom: asked, busy: 100 }).await.expect("asks");
    asker.ask(StopNow).await.expect("stops");
    event(&mut events, "the answer is a dead letter", |event| match event {
        Event::DeadLetter(letter) if letter.message.contains("Came") => Some(()),
        _ => None,
    })
    .await;
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r4_a_message_past_its_deadline_is_not_started_elsewhere_either() {
    let world = World::new("r4");
    let all = world.start(["dc-1", "dc-2"], 2).await;
    for (worker, _) in three_places(&all, "late").await {
        let busy = worker.ask(Busy { ms: 400 }).into_future();
        let late = worker.ask(Blob(9, Bytes::new())).timeout(Duration::from_millis(100)).into_future();
        let (busy, late) = tokio::join!(busy, late);
        assert_eq!(busy, Ok(()));
        assert!(matches!(failed(late), Error::Timeout { .. }));
        assert_eq!(worker.ask(Noted).await, Ok(vec![]), "it was not started");
    }
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r5_a_slow_actor_delays_neither_its_neighbours_nor_control() {
    let world = World::new("r5");
    let all = world.start(["dc-1", "dc-2"], 1).await;
    let here = &all[0][0];
    let spawn = |name: &str| here.spawn_on::<Worker>(name, WorkerArgs::default()).in_data_center("dc-2");
    let slow = spawn("slow").await.expect("spawns");
    let quick = spawn("quick").await.expect("spawns");
    slow.tell(Busy { ms: 3_000 }).await.expect("accepted");
    // Far more than its mailbox holds: they wait outside, in order.
    for n in 0..300 {
        slow.tell(Note(n)).await.expect("accepted");
    }
    let began = now();
    for n in 0..50 {
        assert_eq!(quick.ask(Sum { of: vec![n] }).await, Ok(n));
    }
    let name = spawn("third").await.expect("spawns beside it");
    assert_eq!(name.ask(Noted).await, Ok(vec![]));
    assert!(now() - began < Duration::from_millis(2_500), "they did not wait for the slow one");
    let noted = slow.ask(Noted).timeout(Duration::from_secs(10)).await.expect("answers");
    assert_eq!(noted, (0..300).collect::<Vec<_>>());
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_larger_than_links_carry_is_refused_and_nothing_else_happens() {
    let world = World::new("large");
    let all = world.start(["dc-1", "dc-2"], 1).await;
    let worker = all[0][0].spawn_on::<Worker>("w", WorkerArgs::default()).in_data_center("dc-2").await.expect("spawns");
    let error = failed(worker.ask(Blob(1, Bytes::from(vec![0; 17 << 20]))).await);
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    assert!(error.certainly_not_run());
    assert_eq!(worker.ask(Noted).await, Ok(vec![]));
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_actor_answers_to_the_same_reference_in_another_datacenter() {
    let world = World::new("phoenix");
    let all = world.start(["dc-1", "dc-2"], 1).await;
    let phoenix = all[0][0].spawn_on::<Phoenix>("p", 10).in_data_center("dc-2").await.expect("spawns");
    assert_eq!(phoenix.ask(Note(1)).await, Ok(11));
    assert!(matches!(failed(phoenix.ask(PanicNow).await), Error::HandlerPanicked { .. }));
    eventually("it is back, made of its arguments", || async { (phoenix.ask(Note(2)).await == Ok(12)).then_some(()) })
        .await;
    shut_down(all).await;
}
