//! Grains: one activation, wherever the messages come from.

use std::{future::IntoFuture, time::Duration};

use dc_actor::{ActorSystem, AskError, Error, Event, GrainBuilder, GrainRef};
use dc_controlplane::ControlPlane;
use dc_core::{Intent, IntentKind};
use futures::future::join_all;

use crate::{
    actors::{
        self, AddItem, AddTo, Busy, Cart, FailNow, LocalCart, Noted, PanicNow, PinnedCart, Placed, RestlessCart,
        Worker, WorkerArgs, lives,
    },
    proxy::Proxy,
    spawns::{Gate, Gated, GatedArgs, evict},
    world::{World, event, eventually, now, shut_down, soon, until_known},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_a_hundred_first_messages_from_two_datacenters_make_one_activation() {
    let world = World::new("g1");
    let all = world.start(["dc-1", "dc-2"], 3).await;
    for round in 0..4 {
        let id = format!("g1-{round}");
        let asks = (0..100).map(|number| {
            let system = &all[number % 2][number / 2 % 3];
            system.grain::<Cart>(id.clone()).ask(AddItem(1)).into_future()
        });
        let mut items: Vec<u64> = soon("all answers", join_all(asks))
            .await
            .into_iter()
            .map(|answer| answer.expect("answers").items)
            .collect();
        items.sort_unstable();
        assert_eq!(items, (1..=100).collect::<Vec<_>>(), "each ran once, in one place");
        let lives = lives(&format!("cart/{id}"));
        assert_eq!((lives.begun, lives.most), (1, 1));
    }
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_a_per_dc_grain_has_one_activation_in_each_datacenter() {
    let world = World::new("g2-local");
    let all = world.start(["dc-1", "dc-2"], 3).await;
    let asks = (0..60).map(|number| {
        let system = &all[number % 2][number / 2 % 3];
        system.grain::<LocalCart>("g2").ask(AddItem(1)).into_future()
    });
    let answers: Vec<Placed> =
        soon("all answers", join_all(asks)).await.into_iter().map(|answer| answer.expect("answers")).collect();
    for dc in ["dc-1", "dc-2"] {
        let mut items: Vec<u64> = answers.iter().filter(|placed| placed.dc == dc).map(|placed| placed.items).collect();
        items.sort_unstable();
        assert_eq!(items, (1..=30).collect::<Vec<_>>(), "{dc}");
    }
    assert_eq!(lives("local-cart/g2").begun, 2);
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_all_nodes_choose_the_same_home_and_a_given_home_is_kept() {
    let world = World::new("g2-home");
    let all = world.start(["dc-1", "dc-2"], 2).await;
    let mut homes = std::collections::BTreeSet::new();
    for number in 0..12 {
        let id = format!("home-{number}");
        let mut places = Vec::new();
        for system in all.iter().flatten() {
            let placed = system.grain::<Cart>(id.clone()).ask(AddItem(0)).await.expect("answers");
            places.push((placed.dc, placed.node));
        }
        places.dedup();
        assert_eq!(places.len(), 1, "{places:?}");
        homes.insert(places[0].0.clone());
        let pinned = all[0][0].grain::<PinnedCart>(id).ask(AddItem(0)).await.expect("answers");
        assert_eq!(pinned.dc, "dc-2");
    }
    assert_eq!(homes.len(), 2, "both datacenters are homes");
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grain_goes_to_rest_when_idle_and_comes_back_with_the_next_message() {
    let world = World::new("rest");
    let all = world.start(["dc-1", "dc-2"], 2).await;
    let mut streams: Vec<_> = all.iter().flatten().map(dc_actor::ActorSystem::events).collect();
    let grain = all[0][0].grain::<RestlessCart>("rest");
    assert_eq!(grain.ask(AddItem(1)).await.expect("answers").items, 1);
    let rests = streams.iter_mut().map(|events| {
        Box::pin(event(events, "it goes to rest", |event| {
            matches!(event, Event::GrainPassivated { kind: "restless-cart", .. }).then_some(())
        }))
    });
    futures::future::select_all(rests).await;
    assert_eq!(grain.ask(AddItem(1)).await.expect("answers").items, 1, "a fresh one");
    assert_eq!(lives("restless-cart/rest").begun, 2);
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_messages_that_race_with_rest_run_once_and_in_one_place() {
    let world = World::new("race");
    let all = world.start(["dc-1", "dc-2"], 2).await;
    // The pauses are about as long as the idle time, so that messages meet the grain at every stage of going to rest.
    let round = tokio::sync::Barrier::new(4);
    let senders = all.iter().flatten().enumerate().map(|(number, system)| {
        let grain = system.grain::<RestlessCart>("race");
        let round = &round;
        async move {
            for step in 0..30_u64 {
                round.wait().await;
                tokio::time::sleep(Duration::from_millis(40 + step + 3 * number as u64)).await;
                let answer = grain.ask(AddItem(1)).await.expect("certainly not run is tried again");
                assert!(answer.items > 0);
                grain.tell(AddItem(1)).await.expect("accepted");
            }
        }
    });
    soon("all senders", join_all(senders)).await;
    let lives = lives("restless-cart/race");
    assert_eq!(lives.most, 1, "never two at once: {lives:?}");
    assert!(lives.begun > 1, "it did go to rest: {lives:?}");
    let lost: u64 = all.iter().flatten().map(dc_actor::ActorSystem::dead_letters).sum();
    assert_eq!(lost, 0, "tells that came too late were passed on");
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grains_error_is_returned_not_retried_and_the_smaller_timeout_wins() {
    let world = World::new("grain-errors");
    let all = world.start(["dc-1", "dc-2"], 1).await;
    for system in all.iter().flatten() {
        let id = format!("errors-{}", system.data_center().name());
        let grain = system.grain::<PinnedCart>(id);
        assert_eq!(grain.ask(FailNow).await, Err(AskError::Handler("told to fail, at 1".to_owned())));
        assert_eq!(grain.ask(AddItem(0)).await.expect("answers").items, 1, "it ran once");
        let began = now();
        let late = grain.ask(Busy { ms: 600 }).timeout(Duration::from_millis(100)).await.unwrap_err();
        assert!(now() - began < Duration::from_millis(400));
        assert!(matches!(late.failure(), Some(Error::Timeout { .. })), "{late}");
        assert!(!late.certainly_not_run());
        assert_eq!(grain.ask(AddItem(0)).await.expect("answers").items, 2, "and that once");
    }
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grain_that_panicked_is_active_again_with_the_next_message() {
    let world = World::new("grain-panic");
    let all = world.start(["dc-1", "dc-2"], 2).await;
    for system in all.iter().flatten() {
        let grain = system.grain::<Cart>("panics");
        assert!(grain.ask(AddItem(1)).await.is_ok());
        let panic = grain.ask(PanicNow).await.unwrap_err();
        assert!(matches!(panic.failure(), Some(Error::HandlerPanicked { .. })), "{panic}");
        assert_eq!(grain.ask(AddItem(1)).await.expect("answers").items, 1);
    }
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grain_whose_arguments_cannot_be_made_fails_to_start_again_and_again() {
    let world = World::new("grain-args");
    let all = world.start(["dc-1", "dc-2"], 2).await;
    for system in all.iter().flatten() {
        let error = system.grain::<PinnedCart>("panics-in-args").ask(AddItem(1)).await.unwrap_err();
        assert!(matches!(error.failure(), Some(Error::StartFailed { .. })), "{error}");
    }
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grains_reference_travels_inside_messages() {
    let world = World::new("grain-ref");
    let all = world.start(["dc-1", "dc-2"], 1).await;
    let here = &all[0][0];
    let worker = here.spawn_on::<Worker>("adds", WorkerArgs::default()).in_data_center("dc-2").await.expect("spawns");
    let grain = here.grain::<Cart>("travels");
    let placed = worker.ask(AddTo(grain.clone(), 3)).await.expect("the grain answers");
    assert_eq!(placed.items, 3);
    assert_eq!(grain.ask(AddItem(1)).await.expect("answers").items, 4, "the same one");
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_a_draining_home_answers_for_what_it_has_and_sends_others_on() {
    let world = World::new("g2-drain");
    let all = world.start(["dc-1", "dc-2"], 2).await;
    let here = &all[0][0];
    let mut old = Vec::new();
    for number in 0..8 {
        let id = format!("old-{number}");
        old.push((id.clone(), here.grain::<Cart>(id).ask(AddItem(1)).await.expect("answers")));
    }
    let intent = Intent::new(IntentKind::Drain, "ops", "test");
    world.plane().set_intent(all[1][0].data_center().id(), &intent).await.expect("written");
    for system in all.iter().flatten() {
        eventually("the drain is known", || async {
            system.data_centers().iter().any(|dc| dc.data_center.name() == "dc-2" && !dc.takes_placements).then_some(())
        })
        .await;
    }
    for system in all.iter().flatten() {
        for (id, before) in &old {
            let now = system.grain::<Cart>(id.clone()).ask(AddItem(0)).await.expect("answers");
            assert_eq!(&now, before, "still where it was");
        }
        for number in 0..8 {
            let id = format!("new-{number}");
            let placed = system.grain::<Cart>(id).ask(AddItem(1)).await.expect("answers");
            assert_eq!(placed.dc, "dc-1", "sent on");
        }
    }
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_a_joining_datacenter_takes_an_identity_only_after_its_old_activation_rests() {
    let world = World::new("g2-join");
    let mut all = world.start(["dc-1"], 2).await;
    let ids: Vec<String> = (0..16).map(|number| format!("join-{number}")).collect();
    for id in &ids {
        assert_eq!(all[0][0].grain::<Cart>(id.clone()).ask(AddItem(1)).await.expect("answers").dc, "dc-1");
        assert_eq!(all[0][0].grain::<RestlessCart>(id.clone()).ask(AddItem(1)).await.expect("answers").dc, "dc-1");
    }
    let joining = world.describe("dc-2", &[]).start().await.expect("starts");
    all.push(vec![joining]);
    until_known(&all).await;
    for system in all.iter().flatten() {
        for id in &ids {
            let placed = system.grain::<Cart>(id.clone()).ask(AddItem(1)).await.expect("answers");
            assert_eq!(placed.dc, "dc-1", "{id}: still active there");
        }
    }
    assert!(ids.iter().all(|id| lives(&format!("cart/{id}")).begun == 1));
    // Those that have gone to rest move to their new home.
    eventually("some move", || async {
        for id in &ids {
            let placed = all[0][1].grain::<RestlessCart>(id.clone()).ask(AddItem(0)).await.expect("answers");
            if placed.dc == "dc-2" {
                return Some(());
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        None
    })
    .await;
    assert!(ids.iter().all(|id| lives(&format!("restless-cart/{id}")).most == 1));
    shut_down(all).await;
}

/// Found by the soak: senders went on where each had found it, for as long as both were used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_a_grain_that_was_active_in_two_datacenters_is_at_home_alone_once_tables_agree() {
    let world = World::new("g2-astray");
    let plane = world.plane();
    let home = actors::register(world.bare_on("dc-1", &[], plane.clone())).start().await.expect("starts");
    let away = world.describe("dc-2", &[]).start().await.expect("starts");
    let all = vec![vec![home.clone()], vec![away.clone()]];
    until_known(&all).await;
    let mut candidates = 0..;
    let (id, at_home) = eventually("one whose home is dc-1", || {
        let id = format!("astray-{}", candidates.next().unwrap_or_default());
        let grain = home.grain::<Cart>(id.clone());
        async move { (grain.ask(AddItem(1)).await.expect("answers").dc == "dc-1").then_some((id, grain)) }
    })
    .await;
    // For dc-2 it is lost; it goes on with what it has.
    plane.cut_off();
    let astray = eventually("dc-2 takes it for its own", || async {
        let grain = away.grain::<Cart>(id.clone());
        let placed = grain.ask(AddItem(1)).await.ok()?;
        (placed.dc == "dc-2").then_some(grain)
    })
    .await;
    assert_eq!(at_home.ask(AddItem(1)).await.expect("answers").dc, "dc-1", "active in both");
    plane.reconnect();
    let items = eventually("it is at home alone", || async {
        let placed = astray.ask(AddItem(1)).await.ok()?;
        (placed.dc == "dc-1").then_some(placed.items)
    })
    .await;
    assert_eq!(at_home.ask(AddItem(1)).await.expect("answers").items, items + 1, "the same activation");
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_a_home_that_could_not_ask_a_former_home_gives_way_to_it() {
    let world = World::new("g2-parted");
    let describe = |dc| {
        let cart =
            |kind: GrainBuilder<Cart>| kind.args(str::to_owned).handles::<AddItem>().idle(Duration::from_secs(2));
        world.bare(dc, &[]).grain::<Cart>(cart)
    };
    let (former, way_to_former) = Proxy::and_node(describe("dc-2"), true).await;
    until_known(&[vec![former.clone()]]).await;
    let grains = |node: &ActorSystem| -> Vec<_> {
        (0..16).map(|number| node.grain::<Cart>(format!("parted-{number}"))).collect()
    };
    let add = |grain: GrainRef<Cart>| async move { grain.ask(AddItem(1)).timeout(Duration::from_secs(5)).await };
    let there = grains(&former);
    for grain in &there {
        assert_eq!(soon("an answer", add(grain.clone())).await.expect("answers").dc, "dc-2");
    }
    // All are in use without a pause, so that none goes to rest.
    let in_use = tokio::spawn({
        let there = there.clone();
        async move {
            loop {
                join_all(there.iter().cloned().map(add)).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    // A home for half of them, and neither hears the other.
    way_to_former.open(false);
    let (home, way_to_home) = Proxy::and_node(describe("dc-1"), false).await;
    until_known(&[vec![former.clone()], vec![home.clone()]]).await;
    let here = grains(&home);
    let index = eventually("one is active at its new home, too", || async {
        let answers = join_all(here.iter().cloned().map(add)).await;
        answers.iter().position(|answer| answer.as_ref().is_ok_and(|placed| placed.dc == "dc-1"))
    })
    .await;
    assert_eq!(add(there[index].clone()).await.expect("answers").dc, "dc-2", "active in both");
    // The home hears the other one, which still cannot ask the home.
    way_to_former.open(true);
    eventually("the home has given way", || async {
        let placed = add(here[index].clone()).await.ok()?;
        (placed.dc == "dc-2").then_some(())
    })
    .await;
    in_use.abort();
    way_to_home.open(true);
    shut_down(vec![vec![former], vec![home]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_what_is_not_the_home_by_its_own_table_starts_nothing_while_the_home_does_not_answer() {
    let world = World::new("g2-no-home");
    let describe = |dc, plane| {
        // The table of the one that is cut off holds for the whole test.
        actors::register(world.bare_on(dc, &[], plane)).controller(|options| {
            options.lease_ttl(Duration::from_secs(60)).max_cache_staleness(Duration::from_secs(50))
        })
    };
    let lags = world.plane();
    let asked = describe("dc-2", world.plane()).start().await.expect("starts");
    let late = describe("dc-3", lags.clone()).start().await.expect("starts");
    until_known(&[vec![asked.clone()], vec![late.clone()]]).await;
    // dc-3 never hears of the third one, and dc-2 cannot ask it.
    lags.cut_off();
    let (home, way_to_home) = Proxy::and_node(describe("dc-1", world.plane()), false).await;
    eventually("dc-2 knows all three", || async { (asked.data_centers().len() == 3).then_some(()) }).await;
    let ask = |node: &ActorSystem, number: usize| {
        node.grain::<RestlessCart>(format!("no-home-{number}")).ask(AddItem(1)).timeout(Duration::from_secs(4))
    };
    let answers = join_all((0..48).map(|number| ask(&late, number).into_future())).await;
    let refused: Vec<_> = (0..48).filter(|number| answers[*number].is_err()).collect();
    assert!(answers.iter().flatten().any(|placed| placed.dc == "dc-2"), "dc-2 takes its own: {answers:?}");
    assert!(!refused.is_empty(), "some belong in dc-1");
    lags.reconnect();
    way_to_home.open(true);
    for number in refused {
        let dc = eventually("it has its home", || async { ask(&asked, number).await.ok() }).await.dc;
        assert_eq!(dc, "dc-1", "of {number}");
    }
    shut_down(vec![vec![asked], vec![late], vec![home]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grain_whose_node_died_is_active_again_in_its_datacenter() {
    let world = World::new("grain-dead");
    let mut all = world.start(["dc-1", "dc-2"], 3).await;
    let here = all[0][0].clone();
    // One that lives in dc-2 on a node that is not the first, so that it can be dropped.
    let mut found = None;
    for number in 0..64 {
        let id = format!("dead-{number}");
        let placed = here.grain::<PinnedCart>(id.clone()).ask(AddItem(1)).await.expect("answers");
        if placed.node == all[1][2].node_id().to_string() {
            found = Some(id);
            break;
        }
    }
    let id = found.expect("one of 64 lives there");
    drop(all[1].pop());
    let grain = here.grain::<PinnedCart>(id);
    let began = now();
    let placed = eventually("it answers again", || async { grain.ask(AddItem(1)).await.ok() }).await;
    assert_eq!(placed.items, 1, "a fresh one");
    assert!(now() - began < Duration::from_secs(10));
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grains_become_active_elsewhere_while_their_node_shuts_down() {
    let world = World::new("grain-ending");
    let mut all = world.start(["dc-1"], 3).await;
    let ending = all[0].pop().expect("three nodes");
    // Something that keeps the shutdown busy for a while.
    let slow = ending.spawn::<Worker>(WorkerArgs::default()).await.expect("spawns");
    let busy = tokio::spawn(slow.ask(Busy { ms: 1_500 }).into_future());
    eventually("it is busy", || async {
        slow.ask(crate::actors::Noted).timeout(Duration::from_millis(50)).await.err()
    })
    .await;
    let shutdown = tokio::spawn({
        let ending = ending.clone();
        async move { ending.shutdown().await }
    });
    eventually("it takes nothing new", || async { ending.spawn::<Worker>(WorkerArgs::default()).await.err() }).await;
    let asks = (0..30)
        .map(|number| all[0][number % 2].grain::<Cart>(format!("ending-{number}")).ask(AddItem(1)).into_future());
    for answer in soon("all answers", join_all(asks)).await {
        let placed = answer.expect("another node takes it");
        assert_ne!(placed.node, ending.node_id().to_string());
    }
    shutdown.await.unwrap().expect("ends in good order");
    assert_eq!(busy.await.unwrap(), Ok(()));
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_while_a_former_home_cannot_be_asked_nothing_is_doubled_and_the_error_is_clear() {
    let world = World::new("g2-dead-home");
    let mut all = world.start(["dc-1", "dc-2"], 1).await;
    drop(all.pop());
    let here = all[0][0].clone();
    // While dc-2 is in the table, its own grains, and those that it might have active, are not to be had: at once.
    for number in 0..4 {
        let began = now();
        let answer = here.grain::<Cart>(format!("dead-home-{number}")).ask(AddItem(1)).await;
        if here.data_centers().iter().any(|dc| dc.data_center.name() == "dc-2" && dc.takes_traffic) {
            let error = answer.expect_err("it is not to be had");
            let failure = error.failure().expect("not the handler's");
            assert!(matches!(failure, Error::Unreachable { .. } | Error::DataCenterNotRoutable { .. }), "{failure}");
            assert!(failure.to_string().contains("dc-2"), "{failure}");
            assert!(error.certainly_not_run());
            assert!(now() - began < Duration::from_millis(1_500), "it fails fast");
            assert_eq!(lives(&format!("cart/dead-home-{number}")).begun, 0);
        }
    }
    eventually("dc-2's lease ends", || async {
        let known = here.data_centers();
        known.iter().all(|dc| !dc.takes_traffic || dc.data_center.name() == "dc-1").then_some(())
    })
    .await;
    for number in 0..4 {
        let placed = here.grain::<Cart>(format!("dead-home-{number}")).ask(AddItem(1)).await.expect("answers");
        assert_eq!(placed.dc, "dc-1");
    }
    shut_down(all).await;
}

/// One node that knows [`Gated`] as a grain.
async fn gated(world: &World) -> Vec<Vec<ActorSystem>> {
    let describe = world.describe("dc-1", &[]);
    let system = describe.grain::<Gated>(|kind| kind.args(GatedArgs::of).handles::<Noted>().per_data_center());
    let all = vec![vec![system.start().await.expect("starts")]];
    until_known(&all).await;
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_an_eviction_between_claim_and_start_stops_the_activation() {
    let world = World::new("g2-early");
    let all = gated(&world).await;
    let gate = Gate::closed("g2-early");
    let asked = tokio::spawn(all[0][0].grain::<Gated>("g2-early").ask(Noted).into_future());
    gate.until_reached().await;
    evict("g2-early", &all[0][0], "g/gated/g2-early").await;
    gate.open();
    let answer = soon("the ask", asked).await.unwrap();
    assert_eq!(answer, Ok(7), "it looked for the grain again");
    assert_eq!(GatedArgs::made("g2-early"), 2, "a fresh activation took it");
    assert_eq!(all[0][0].actor_count(), 1, "the first one has ended");
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_an_activation_under_way_does_not_outlive_shutdown() {
    let world = World::new("d6-grain");
    let all = gated(&world).await;
    let system = all[0][0].clone();
    let gate = Gate::closed("d6-grain");
    let asked = tokio::spawn(system.grain::<Gated>("d6-grain").ask(Noted).into_future());
    gate.until_reached().await;
    shut_down(all).await;
    gate.open();
    let error = soon("the ask", asked).await.unwrap().unwrap_err();
    assert!(matches!(error.failure(), Some(Error::ShuttingDown { .. })), "{error}");
    assert_eq!(system.actor_count(), 0, "it has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grain_that_fails_to_start_at_once_leaves_nothing_behind() {
    let world = World::new("grain-fails");
    let all = gated(&world).await;
    let asks = (0..200).map(|number| all[0][0].grain::<Gated>(format!("fails-{number}")).ask(Noted).into_future());
    for answer in soon("all answers", join_all(asks)).await {
        let error = answer.unwrap_err();
        assert!(matches!(error.failure(), Some(Error::StartFailed { .. })), "{error}");
    }
    assert_eq!(all[0][0].actor_count(), 0);
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_messages_timeout_is_kept_while_its_grain_starts_on_this_node() {
    let world = World::new("grain-timeout");
    let all = gated(&world).await;
    let grain = all[0][0].grain::<Gated>("slow");
    let began = now();
    // The second one waits behind the first.
    let asks = [100, 200].map(|ms| grain.ask(Noted).timeout(Duration::from_millis(ms)).into_future());
    for answer in join_all(asks).await {
        let error = answer.unwrap_err();
        assert!(matches!(error.failure(), Some(Error::Timeout { not_run: true, .. })), "{error}");
    }
    assert!(now() - began < Duration::from_millis(1_500), "{:?}", now() - began);
    assert_eq!(grain.ask(Noted).await, Ok(7), "the activation went on by itself");
    shut_down(all).await;
}
