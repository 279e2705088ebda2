//! Handing over in good order: drains, a node that leaves, and what is not lost by them.

use std::{
    future::IntoFuture,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use dc_actor::{ActorSystem, DrainOptions, DrainOutcome, Error, Loss, Ref};
use dc_controlplane::{
    ControlPlane, Expected,
    memory::{Failure, MemoryControlPlane, MemoryOptions, Operation},
    ownership::{Document, Keep, Swap},
};
use dc_core::{DataCenterState, Intent, IntentKind};
use serde_json::Value;

use crate::{
    global::{check_fencing, count, end, opening, sites_with, turn},
    owned::{self, Basket, Count, Entry, Keeper, Ledger, Seen, Slowly, Till, log},
    world::{OWN_TTL, SOON, World, eventually, shut_down, soon},
};

/// Nothing is lost in these tests: a lease that a busy machine keeps.
const CALM: Duration = Duration::from_secs(20);

async fn spawn<A>(from: &ActorSystem, name: &str, id: &str, dc: &str) -> Ref<A>
where
    A: dc_actor::RemoteActor<Args = crate::owned::Opening>,
{
    let spawn = from.spawn_on::<A>(name, opening(id)).global().survives(Loss::DataCenter);
    spawn.in_data_center(dc).timeout(SOON).await.expect("spawns")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_a_drain_loses_no_acknowledged_effect_and_takes_state_along() {
    let _turn = turn().await;
    let world = World::new("g5-drain");
    let sites = sites_with(&world, CALM, [("dc-1", 1), ("dc-2", 2)]).await;
    let (here, drained) = (&sites[0].nodes[0], &sites[1].nodes[1]);
    let keeper: Ref<Keeper> = spawn(here, "k", "g5", "dc-2").await;
    let ledger: Ref<Ledger> = spawn(here, "l", "g5", "dc-2").await;
    assert_eq!(count(&ledger, 1).await.count, 1);
    let baskets: Vec<_> = (0..12).map(|number| here.grain::<Basket>(format!("g5-{number}"))).collect();
    let (acknowledged, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    // From both datacenters, while it moves: each answer that comes is an effect that must be kept.
    let stream = |from: &ActorSystem, first: u64| {
        let (system, acknowledged, stop) = (from.clone(), &acknowledged, &stop);
        async move {
            let target = system.actor_of::<Keeper>("k").global().await.expect("found");
            let mut number = first;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                target.ask(Count(number)).timeout(SOON).await.expect("a move fails no ask");
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let draining = async {
        let mut sums = Vec::new();
        for basket in &baskets {
            sums.push(basket.ask(Count(1)).timeout(SOON).await.expect("counts"));
        }
        let mut drain =
            drained.drain(DrainOptions::default().by("test").why("g5")).await.expect("the intent is written");
        let mut told = Vec::new();
        soon("the drain", async {
            while let Some(progress) = drain.next().await {
                told.push(progress);
            }
        })
        .await;
        assert_eq!(drain.outcome().await, DrainOutcome::Drained);
        assert_eq!(told.last().expect("progress").left, 0);
        assert!(told.iter().any(|progress| progress.moved > 0), "{told:?}");
        stop.store(true, Ordering::Relaxed);
        sums
    };
    let ((), (), before) = tokio::join!(stream(here, 1_000), stream(&sites[1].nodes[0], 1_000_000), draining);
    let after = count(&keeper, 1).await;
    assert_eq!(after.dc, "dc-1");
    assert_eq!(after.count, acknowledged.load(Ordering::Relaxed) + 1, "all effects, each once");
    let fresh = count(&ledger, 2).await;
    assert_eq!((fresh.dc.as_str(), fresh.count), ("dc-1", 1), "without snapshots: from its arguments");
    for (basket, before) in baskets.iter().zip(before) {
        let after = basket.ask(Count(2)).timeout(SOON).await.expect("counts");
        assert_eq!((after.dc.as_str(), after.count), ("dc-1", 2), "its state came along");
        assert!(after.epoch >= before.epoch);
    }
    check_fencing("keeper/g5");
    let numbers: std::collections::HashSet<u64> = log("keeper/g5").iter().map(|entry| entry.number).collect();
    assert_eq!(numbers.len(), log("keeper/g5").len(), "nothing ran twice");
    end(sites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_tells_of_one_sender_keep_their_order_through_a_move() {
    let _turn = turn().await;
    let world = World::new("g5-order");
    let sites = sites_with(&world, CALM, [("dc-1", 1), ("dc-2", 1)]).await;
    let here = &sites[0].nodes[0];
    let keeper: Ref<Keeper> = spawn(here, "k", "g5-order", "dc-2").await;
    // It is busy when the move begins: what comes meanwhile is held, and follows it.
    let busy = tokio::spawn(keeper.ask(Slowly { ms: 400, number: 0 }).timeout(SOON).into_future());
    eventually("it is busy", || async {
        keeper.ask(Count(0)).timeout(Duration::from_millis(50)).await.is_err().then_some(())
    })
    .await;
    let mut drain = sites[1].nodes[0].drain(DrainOptions::default()).await.expect("written");
    let (told, moved) = (AtomicU64::new(0), AtomicBool::new(false));
    let telling = async {
        while !moved.load(Ordering::Relaxed) {
            let number = told.fetch_add(1, Ordering::Relaxed) + 1;
            keeper.tell(Count(number)).timeout(SOON).await.expect("accepted");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let draining = async {
        assert_eq!(soon("the drain", drain.outcome()).await, DrainOutcome::Drained);
        moved.store(true, Ordering::Relaxed);
    };
    tokio::join!(telling, draining);
    assert!(soon("the busy one", busy).await.expect("no panic").is_ok());
    count(&keeper, 0).await;
    let told = told.load(Ordering::Relaxed);
    let log = eventually("the last one arrives", || async {
        let log = log("keeper/g5-order");
        log.iter().any(|entry| entry.number == told).then_some(log)
    })
    .await;
    let numbers: Vec<u64> = log.iter().map(|entry| entry.number).filter(|number| *number > 0).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    assert_eq!(numbers.len() as u64, told, "none was lost");
    assert!(log.first().expect("some").epoch < log.last().expect("some").epoch, "it did move meanwhile");
    end(sites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_an_aborted_drain_leaves_everything_with_one_owner() {
    let _turn = turn().await;
    let world = World::new("g5-abort");
    let sites = sites_with(&world, CALM, [("dc-1", 1), ("dc-2", 1)]).await;
    let (here, drained) = (&sites[0].nodes[0], &sites[1].nodes[0]);
    let mut keepers: Vec<(Ref<Keeper>, Seen)> = Vec::new();
    for number in 0..6 {
        let keeper = spawn(here, &format!("k-{number}"), &format!("g5-abort-{number}"), "dc-2").await;
        let seen = count(&keeper, 1).await;
        keepers.push((keeper, seen));
    }
    // One is in the middle of something, so that the drain cannot have ended before it is aborted.
    let busy = tokio::spawn(keepers[0].0.ask(Slowly { ms: 800, number: 7 }).timeout(SOON).into_future());
    eventually("it is busy", || async {
        keepers[0].0.ask(Count(0)).timeout(Duration::from_millis(50)).await.is_err().then_some(())
    })
    .await;
    let mut drain = drained.drain(DrainOptions::default()).await.expect("written");
    eventually("it is under way", || async {
        drained.data_centers().iter().any(|dc| dc.intent == IntentKind::Drain).then_some(())
    })
    .await;
    drain.abort().await.expect("written");
    assert_eq!(soon("its end", drain.outcome()).await, DrainOutcome::Aborted);
    assert!(soon("the busy one", busy).await.expect("no panic").is_ok(), "it was not cut through");
    for (keeper, before) in &keepers {
        let after = count(keeper, 2).await;
        assert!(after.count >= 2, "its effects are kept wherever it is: {after:?} after {before:?}");
        if after.dc == "dc-2" {
            assert_eq!(after.epoch, before.epoch, "what stays, stays under the same title");
        } else {
            assert!(after.epoch > before.epoch);
        }
    }
    for number in 0..6 {
        check_fencing(&format!("keeper/g5-abort-{number}"));
    }
    end(sites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_a_drain_that_is_undone_at_once_ends() {
    let _turn = turn().await;
    let world = World::new("g5-at-once");
    let sites = sites_with(&world, CALM, [("dc-1", 1), ("dc-2", 1)]).await;
    let (here, drained) = (&sites[0].nodes[0], &sites[1].nodes[0]);
    let keeper: Ref<Keeper> = spawn(here, "k", "g5-at-once", "dc-2").await;
    for round in 1..=5 {
        // By the time it looks at its table, that may never have shown the intent, or not show it yet.
        let mut drain = drained.drain(DrainOptions::default()).await.expect("written");
        drain.abort().await.expect("written");
        assert_eq!(soon("its end", drain.outcome()).await, DrainOutcome::Aborted);
        assert_eq!(count(&keeper, round).await.count, round, "and what it owned is served");
    }
    end(sites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_a_node_that_ends_hands_over_inside_its_datacenter() {
    let _turn = turn().await;
    let world = World::new("d6-owned");
    let mut sites = sites_with(&world, CALM, [("dc-1", 2), ("dc-2", 1)]).await;
    let here = sites[1].nodes[0].clone();
    let leaves = sites[0].nodes.remove(1);
    let spawn = here.spawn_on::<Keeper>("k", opening("d6")).global().on_node(leaves.node_id());
    let keeper = spawn.await.expect("spawns");
    let before = count(&keeper, 1).await;
    assert_eq!(before.node, leaves.node_id().to_string());
    let tills: Vec<_> = (0..8).map(|number| here.grain::<Till>(format!("d6-{number}"))).collect();
    for till in &tills {
        till.ask(Count(1)).timeout(SOON).await.expect("counts");
    }
    // All slots of the node are handed over, too: on a busy machine that takes a while.
    let ended = tokio::time::timeout(SOON * 3, leaves.shutdown()).await;
    ended.expect("it ends").expect("in good order");
    let after = count(&keeper, 2).await;
    assert_eq!((after.dc.as_str(), after.count), ("dc-1", 2), "inside its datacenter, with its state");
    assert!(after.epoch > before.epoch && after.node != before.node);
    for till in &tills {
        assert_eq!(till.ask(Count(2)).timeout(SOON).await.expect("counts").dc, "dc-1");
    }
    end(sites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p8_a_node_of_a_drained_datacenter_that_starts_again_takes_nothing() {
    let _turn = turn().await;
    let world = World::new("p8-restart");
    let plane = world.plane();
    let drain = Intent::new(IntentKind::Drain, "ops", "test");
    plane.set_intent(&"dc-1".parse().expect("valid"), &drain).await.expect("written");
    // For a while it can open its session, and cannot know what the operator wants.
    for operation in [Operation::List, Operation::Watch] {
        plane.fail_next(operation, Failure::Unreachable, 8);
    }
    let node = owned::register(world.bare_on("dc-1", &[], plane)).start().await.expect("starts");
    let stat = |name: &str| node.ownership_stats().iter().find(|(of, _)| *of == name).map(|(_, count)| *count);
    eventually("its session is renewed", || async { stat("renewals").filter(|count| *count > 1) }).await;
    let draining = |node: &ActorSystem| node.data_centers().iter().any(|dc| dc.state == DataCenterState::Draining);
    eventually("its record follows the intent", || async { draining(&node).then_some(()) }).await;
    assert_eq!(stat("titles"), Some(0), "every slot was there to be taken");
    soon("shutdown", node.shutdown()).await.expect("ends in good order");
}

/// Found by the simulation of whole systems: seed 500725 at its time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p8_a_node_that_was_out_of_reach_while_its_datacenter_was_drained_takes_nothing() {
    let _turn = turn().await;
    let world = World::new("p8-reach");
    let plane = world.plane();
    let builder = world.bare_on("dc-1", &[], plane.clone());
    let node = owned::register_baskets(builder).start().await.expect("starts");
    let stat = |name: &str| node.ownership_stats().iter().find(|(of, _)| *of == name).map_or(0, |(_, count)| *count);
    eventually("it has slots", || async { (stat("titles") > 0).then_some(()) }).await;
    plane.cut_off();
    eventually("its session is over", || async { (stat("lease_ends") > 0).then_some(()) }).await;
    let (taken, sessions) = (stat("titles"), stat("sessions"));
    let drain = Intent::new(IntentKind::Drain, "ops", "test");
    world.plane().set_intent(&"dc-1".parse().expect("valid"), &drain).await.expect("written");
    // For a while it can open its session, and cannot know what the operator wants.
    for operation in [Operation::List, Operation::Watch] {
        plane.fail_next(operation, Failure::Unreachable, 8);
    }
    // Else a watch would tell it at once.
    world.store.lose_watches("by the test");
    plane.reconnect();
    eventually("it has a session", || async { (stat("sessions") > sessions).then_some(()) }).await;
    let draining = || node.data_centers().iter().any(|dc| dc.state == DataCenterState::Draining);
    eventually("its record follows the intent", || async { draining().then_some(()) }).await;
    assert_eq!(stat("titles"), taken, "every slot was there to be taken");
    soon("shutdown", node.shutdown()).await.expect("ends in good order");
}

/// Found by the simulation of whole systems: a hand-over to a node that had drained was under way when it did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p8_what_still_comes_to_a_drained_datacenter_is_handed_on_and_nothing_starts_for_it() {
    let _turn = turn().await;
    let world = World::new("p8-late");
    let sites = sites_with(&world, CALM, [("dc-1", 1), ("dc-2", 1)]).await;
    let (here, drained) = (&sites[0].nodes[0], &sites[1].nodes[0]);
    let mut drain = drained.drain(DrainOptions::default()).await.expect("written");
    assert_eq!(soon("the drain", drain.outcome()).await, DrainOutcome::Drained);
    let basket = here.grain::<Basket>("p8-late");
    let seen = basket.ask(Count(1)).timeout(SOON).await.expect("counts");
    assert_eq!(seen.dc, "dc-1");
    // As from a node that has not heard of the drain: all that dc-1 owns is handed to the node of dc-2.
    let session = session_of(&world, "dc-2");
    let mut handed = 0;
    let documents = world.plane().ownership().expect("it has documents");
    for document in world.store.documents("g/") {
        let mut slots: Value = serde_json::from_slice(&document.body).expect("ours");
        for owner in slots["owners"].as_array_mut().expect("a list").iter_mut().filter(|owner| owner["dc"] == "dc-1") {
            (owner["session"], owner["dc"]) = (session.clone(), "dc-2".into());
            handed += 1;
        }
        for slot in slots["slots"].as_array_mut().expect("a list").iter_mut().filter(|slot| !slot.is_null()) {
            slot[1] = (slot[1].as_u64().expect("an epoch") + 1).into();
        }
        slots["nonce"] = handed.into();
        let body = serde_json::to_vec(&slots).expect("written").into();
        let expected = Expected::Version(document.version);
        let swapped = documents.compare_and_set(&document.key, expected, body, Keep::Forever).await.expect("asked");
        assert!(matches!(swapped, Swap::Done(_)), "{swapped:?}");
    }
    assert!(handed > 0, "there was something to hand over");
    let starts = |log: Vec<Entry>| log.iter().map(|entry| entry.epoch).collect::<Vec<_>>();
    eventually("it is handed on", || async {
        let again = basket.ask(Count(2)).timeout(SOON).await.ok()?;
        assert_eq!(again.dc, "dc-1", "what has drained starts nothing: epochs {:?}", starts(log("basket/p8-late")));
        // It was with dc-2 in between.
        (again.epoch > seen.epoch + 1).then_some(())
    })
    .await;
    end(sites).await;
}

/// The session of the one node of a datacenter, as documents name it.
fn session_of(world: &World, dc: &str) -> Value {
    let sessions = world.store.documents("s/");
    let of = |document: &Document| {
        let read: Value = serde_json::from_slice(&document.body).ok()?;
        (read["dc"]["name"] == dc).then(|| document.key.as_str()[2..].into())
    };
    sessions.iter().find_map(of).expect("it has one")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p8_out_ends_inactive_only_when_nothing_global_is_owned() {
    let _turn = turn().await;
    let world = World::new("p8-out");
    let sites = sites_with(&world, CALM, [("dc-1", 1), ("dc-2", 1)]).await;
    let here = &sites[0].nodes[0];
    let keeper: Ref<Keeper> = spawn(here, "k", "p8", "dc-2").await;
    // It may live nowhere else: as long as it is there, the datacenter is not out.
    let stays = here.spawn_on::<Ledger>("stays", opening("p8-stays")).global().within("dc-2");
    let stays = stays.await.expect("spawns");
    let id = sites[1].nodes[0].data_center().id().clone();
    let out = Intent::new(IntentKind::Out, "ops", "test");
    world.plane().set_intent(&id, &out).await.expect("written");
    let state = || async { world.plane().get(&id).await.expect("read").map(|record| record.state) };
    eventually("it drains", || async { (state().await == Some(DataCenterState::Draining)).then_some(()) }).await;
    assert_eq!(
        eventually("it has moved", || async {
            let seen = keeper.ask(Count(1)).timeout(SOON).await.ok()?;
            (seen.dc == "dc-1").then_some(seen)
        })
        .await
        .dc,
        "dc-1"
    );
    assert_eq!(count(&stays, 1).await.dc, "dc-2");
    assert_eq!(state().await, Some(DataCenterState::Draining), "something global is still owned");
    stays.tell(crate::owned::Close).await.expect("accepted");
    eventually("it is out", || async { (state().await == Some(DataCenterState::Inactive)).then_some(()) }).await;
    let refused = here.spawn_on::<Ledger>("new", opening("p8-new")).global().in_data_center("dc-2").await;
    assert!(matches!(refused, Err(Error::DataCenterNotRoutable { .. })), "{refused:?}");
    shut_down(sites.into_iter().map(|site| site.nodes).collect()).await;
}

/// Found by the simulation of whole systems: the handle took a table without the own record for an undone drain, and what
/// was on its way when its session was lost was never served by that node again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_a_hand_over_whose_session_is_lost_is_over_and_the_drain_is_not_undone_by_it() {
    let _turn = turn().await;
    let world = World::new("g5-lost");
    let sites = sites_with(&world, OWN_TTL, [("dc-1", 1), ("dc-2", 1)]).await;
    let (here, drained) = (&sites[0].nodes[0], &sites[1].nodes[0]);
    let keeper: Ref<Keeper> = spawn(here, "k", "g5-lost", "dc-2").await;
    count(&keeper, 1).await;
    // It is busy for longer than its session lives: its hand-over waits for it.
    let busy = tokio::spawn(keeper.ask(Slowly { ms: 60_000, number: 0 }).timeout(SOON).into_future());
    eventually("it is busy", || async {
        keeper.ask(Count(0)).timeout(Duration::from_millis(50)).await.is_err().then_some(())
    })
    .await;
    let mut drain = drained.drain(DrainOptions::default()).await.expect("written");
    eventually("its hand-over waits", || async { (drain.progress().left == 1).then_some(()) }).await;
    sites[1].planes[0].cut_off();
    let taken = eventually("it is taken over", || async {
        let seen = keeper.ask(Count(2)).timeout(Duration::from_secs(1)).await.ok()?;
        (seen.dc == "dc-1").then_some(())
    });
    taken.await;
    busy.abort();
    sites[1].planes[0].reconnect();
    assert_eq!(soon("the drain", drain.outcome()).await, DrainOutcome::Drained, "nobody undid it");
    drain.abort().await.expect("written");
    eventually("it serves again", || async {
        here.data_centers().iter().any(|dc| dc.id() == drained.data_center().id() && dc.takes_placements).then_some(())
    })
    .await;
    // Some slots may live nowhere else: this drain does not end, and is not waited for.
    let _back = here.drain(DrainOptions::default()).await.expect("written");
    let answers = eventually("it answers where it was before", || async {
        let seen = keeper.ask(Count(3)).timeout(Duration::from_secs(2)).await.ok()?;
        (seen.dc == "dc-2").then_some(())
    });
    answers.await;
    check_fencing("keeper/g5-lost");
    end(sites).await;
}

/// A name that moves exists all the time: whoever looks for it meanwhile finds it, before, on its way, or after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_whoever_looks_for_a_name_while_it_moves_finds_it() {
    const NAMES: usize = 150;
    let _turn = turn().await;
    let world = World::new("g5-found");
    let sites = sites_with(&world, CALM, [("dc-1", 1), ("dc-2", 1)]).await;
    let (here, drained) = (&sites[0].nodes[0], &sites[1].nodes[0]);
    for number in 0..NAMES {
        let _: Ref<Keeper> = spawn(drained, &format!("f-{number}"), &format!("g5-found-{number}"), "dc-2").await;
    }
    for number in 0..NAMES {
        // Both nodes are ready, and know all of them.
        let name = format!("f-{number}");
        eventually("it is found", || async { here.actor_of::<Keeper>(&name).global().await.ok() }).await;
    }
    let stop = AtomicBool::new(false);
    let client = |from: &ActorSystem, first: usize| {
        let (system, stop) = (from.clone(), &stop);
        async move {
            let (mut number, mut failures) = (first, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                number += 7;
                let name = format!("f-{}", number % NAMES);
                // Found and asked anew each time, as a client does that keeps no reference.
                let counted = async {
                    let found =
                        system.actor_of::<Keeper>(&name).global().await.map_err(|e| format!("lookup: {e:?}"))?;
                    found.ask(Count(1)).timeout(SOON).await.map_err(|e| format!("ask: {e:?}"))
                };
                if let Err(failure) = counted.await {
                    failures.push((name, failure));
                }
                tokio::task::yield_now().await;
            }
            failures
        }
    };
    let draining = async {
        let mut drain = drained.drain(DrainOptions::default()).await.expect("written");
        assert_eq!(soon("the drain", drain.outcome()).await, DrainOutcome::Drained);
        stop.store(true, Ordering::Relaxed);
    };
    let (a, b, c, d, ()) =
        tokio::join!(client(here, 0), client(here, 40), client(drained, 80), client(drained, 120), draining);
    let failures = [a, b, c, d].concat();
    assert!(failures.is_empty(), "{} failures: {:#?}", failures.len(), &failures[..failures.len().min(30)]);
    end(sites).await;
}

/// Where the store tells nobody of an intent, the node that wrote it does not wait for the next list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p8_a_drain_begins_at_once_where_the_store_has_no_watch() {
    let world = World::new("p8-no-watch");
    let plane = MemoryControlPlane::with(&world.store, MemoryOptions { watch: false, ..MemoryOptions::default() });
    // The next list comes too late for everything here.
    let interval = SOON * 10;
    let node = world.bare_on("dc-1", &[], plane).controller(|options| {
        options.cache_refresh_interval(interval).max_cache_staleness(interval * 3).lease_ttl(interval)
    });
    let node = crate::owned::register(node).start().await.expect("starts");
    let mut drain = node.drain(DrainOptions::default()).await.expect("written");
    // It owns nothing; that it is over is known once its own table shows the intent.
    assert_eq!(soon("its end", drain.outcome()).await, DrainOutcome::Drained);
    shut_down(vec![vec![node]]).await;
}
