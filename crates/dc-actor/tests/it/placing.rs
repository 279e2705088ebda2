//! Single global grains that are placed in other datacenters than their slots.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use dc_actor::{
    ActorSystem, Authority, DrainOptions, DrainOutcome, Error, Event, GrainRef, Handles, RemoteActor, Rights,
};
use dc_core::Selector;

use crate::{
    actors::Cart,
    global::{check_fencing, describe, end, sites, sites_with, turn},
    owned::{self, Basket, Count, Seen, Slowly, Till, log},
    proxy::Proxy,
    watches::moved,
    world::{SOON, World, event, eventually, shut_down, soon, until_known},
};

/// Nothing is lost in these tests: a lease that a busy machine keeps.
const CALM: Duration = Duration::from_secs(20);

async fn count<A>(grain: &GrainRef<A>, number: u64) -> Seen
where
    A: RemoteActor + Handles<Count, Ok = Seen, Err = String>,
{
    grain.ask(Count(number)).timeout(SOON).await.expect("counts")
}

fn other(seen: &Seen) -> &'static str {
    if seen.dc == "dc-1" { "dc-2" } else { "dc-1" }
}

async fn place<A: RemoteActor>(grain: &GrainRef<A>, dc: &str) {
    grain.place_in(dc).timeout(SOON).await.unwrap_or_else(|error| panic!("{grain} in {dc}: {error}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_a_grain_that_is_placed_elsewhere_while_it_is_asked_loses_no_acknowledged_effect() {
    let _turn = turn().await;
    let world = World::new("g5-place");
    let sites = sites_with(&world, CALM, [("dc-1", 2), ("dc-2", 1)]).await;
    let (here, there) = (&sites[0].nodes[1], &sites[1].nodes[0]);
    let basket = here.grain::<Basket>("g5-place");
    let first = count(&basket, 1).await;
    let (acknowledged, stop) = (AtomicU64::new(1), AtomicBool::new(false));
    let stream = |from: &ActorSystem, first: u64| {
        let (basket, acknowledged, stop) = (from.grain::<Basket>("g5-place"), &acknowledged, &stop);
        async move {
            let mut number = first;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                basket.ask(Count(number)).timeout(SOON).await.expect("a move fails no ask");
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let placing = async {
        let (mut last, mut asked) = (first.clone(), 0);
        // To where it is with its slot, to and fro, and once more to where it is: asked of nodes that own it and of others.
        let (own, far) = (first.dc.as_str(), other(&first));
        for to in [own, far, own, own, far] {
            let from = &sites[asked % 2].nodes[0];
            place(&from.grain::<Basket>("g5-place"), to).await;
            asked += 1;
            let seen = count(&basket, 1_000 + asked as u64).await;
            acknowledged.fetch_add(1, Ordering::Relaxed);
            assert_eq!(seen.dc, to);
            let stays = asked > 1 && seen.dc == last.dc;
            assert_eq!(seen.epoch > last.epoch, !stays, "{seen:?} after {last:?}");
            last = seen;
        }
        stop.store(true, Ordering::Relaxed);
        last
    };
    let ((), (), last) = tokio::join!(stream(here, 1_000_000), stream(there, 2_000_000), placing);
    let after = count(&basket, 2).await;
    assert_eq!(after.count, acknowledged.load(Ordering::Relaxed) + 1, "all effects, each once");
    assert_eq!((&after.dc, after.epoch), (&last.dc, last.epoch));
    check_fencing("basket/g5-place");
    let numbers: HashSet<u64> = log("basket/g5-place").iter().map(|entry| entry.number).collect();
    assert_eq!(numbers.len(), log("basket/g5-place").len(), "nothing ran twice");

    // A drain of where it lives moves it, with its state; and it goes back only when it is told to.
    let (drained, left) = if last.dc == "dc-1" { (&sites[0], "dc-2") } else { (&sites[1], "dc-1") };
    let mut drain = drained.nodes[0].drain(DrainOptions::default().by("test").why("g5")).await.expect("written");
    assert_eq!(soon("the drain", drain.outcome()).await, DrainOutcome::Drained);
    let moved = count(&basket, 3).await;
    assert_eq!((moved.dc.as_str(), moved.count), (left, after.count + 1));
    assert!(moved.epoch > after.epoch);
    end(sites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_messages_of_one_sender_keep_their_order_when_its_grain_is_placed_elsewhere() {
    let _turn = turn().await;
    let world = World::new("g5-place-order");
    let sites = sites_with(&world, CALM, [("dc-1", 1), ("dc-2", 1)]).await;
    let basket = sites[0].nodes[0].grain::<Basket>("g5-place-order");
    let first = count(&basket, 0).await;
    // Sent from the other datacenter than where it is: over a link. It is busy when the move begins.
    let sender = if first.dc == "dc-1" { &sites[1].nodes[0] } else { &sites[0].nodes[0] };
    let basket = sender.grain::<Basket>("g5-place-order");
    basket.tell(Slowly { ms: 400, number: 0 }).timeout(SOON).await.expect("accepted");
    let (told, moved) = (AtomicU64::new(0), AtomicBool::new(false));
    let telling = async {
        while !moved.load(Ordering::Relaxed) {
            let number = told.fetch_add(1, Ordering::Relaxed) + 1;
            basket.tell(Count(number)).timeout(SOON).await.expect("accepted");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let placing = async {
        place(&sites[0].nodes[0].grain::<Basket>("g5-place-order"), other(&first)).await;
        moved.store(true, Ordering::Relaxed);
    };
    tokio::join!(telling, placing);
    let told = told.load(Ordering::Relaxed);
    let log = eventually("the last one arrives", || async {
        let log = log("basket/g5-place-order");
        log.iter().any(|entry| entry.number == told).then_some(log)
    })
    .await;
    let numbers: Vec<u64> = log.iter().map(|entry| entry.number).filter(|number| *number > 0).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    assert_eq!(numbers.len() as u64, told, "none was lost");
    assert_eq!(count(&basket, 0).await.dc, other(&first));
    end(sites).await;
}

/// Found by the soak: what was told went by way of the former owner for as long as that lived, and what was asked did not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_once_the_senders_node_knows_of_a_move_its_messages_go_to_the_new_owner_in_order() {
    let _turn = turn().await;
    let world = World::new("r1-known");
    let sites = sites_with(&world, CALM, [("dc-1", 1), ("dc-2", 1), ("dc-3", 1)]).await;
    let far = &sites[2].nodes[0];
    let basket = far.grain::<Basket>("r1-known");
    place(&basket, "dc-1").await;
    assert_eq!(count(&basket, 0).await.dc, "dc-1");
    let mut watch = far.watch(&basket);
    // By another node: this reference still has the old place.
    place(&sites[1].nodes[0].grain::<Basket>("r1-known"), "dc-2").await;
    while moved(&mut watch).await.0 != "dc-2" {}
    let sent = (1..=30).map(|number| {
        let basket = basket.clone();
        async move {
            match number % 2 {
                0 => drop(basket.ask(Count(number)).timeout(SOON).await.expect("counts")),
                _ => basket.tell(Count(number)).timeout(SOON).await.expect("accepted"),
            }
        }
    });
    // Begun in this order, none waiting for another; the last one is an ask.
    futures::future::join_all(sent).await;
    let numbers: Vec<u64> =
        log("basket/r1-known").iter().map(|entry| entry.number).filter(|number| *number > 0).collect();
    assert_eq!(numbers, (1..=30).collect::<Vec<_>>());
    end(sites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_what_follows_a_move_waits_for_what_is_still_on_its_way_to_the_former_owner() {
    let _turn = turn().await;
    let world = World::new("r1-way");
    let (former, way) = Proxy::and_node(describe(&world, "dc-1", &[], world.plane(), CALM), true).await;
    let new = describe(&world, "dc-2", &[], world.plane(), CALM).start().await.expect("starts");
    let all = vec![vec![former.clone()], vec![new.clone()]];
    until_known(&all).await;
    let basket = new.grain::<Basket>("r1-way");
    place(&basket, "dc-1").await;
    assert_eq!(count(&basket, 0).await.dc, "dc-1");
    // The first is on its way over a slow link when the grain moves to where its sender is.
    way.open(false);
    basket.tell(Count(1)).timeout(SOON).await.expect("accepted");
    let mut watch = new.watch(&new.grain::<Basket>("r1-way"));
    place(&former.grain::<Basket>("r1-way"), "dc-2").await;
    while moved(&mut watch).await.0 != "dc-2" {}
    let opens = async {
        // The link is slower than any wait that goes by time, and not silent for so long that it is given up.
        tokio::time::sleep(Duration::from_secs(1)).await;
        way.open(true);
    };
    let follows = async {
        basket.tell(Count(2)).timeout(SOON).await.expect("accepted");
        count(&basket, 3).await
    };
    let (seen, ()) = tokio::join!(follows, opens);
    assert_eq!(seen.dc, "dc-2");
    let numbers: Vec<u64> = log("basket/r1-way").iter().map(|entry| entry.number).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_a_grain_that_was_placed_outlives_the_owner_of_its_slot_and_its_own_datacenter() {
    let _turn = turn().await;
    let world = World::new("g4-place");
    let sites = sites(&world, [("dc-1", 1), ("dc-2", 1), ("dc-3", 1)]).await;
    let far = &sites[2].nodes[0];
    let mut candidates = 0..;
    // One whose slot is in the datacenter that is lost first, and which was never active.
    let basket = eventually("an identity of dc-1", || {
        let basket = far.grain::<Basket>(format!("g4-place-{}", candidates.next().unwrap_or_default()));
        async move { (count(&basket, 1).await.dc == "dc-1").then_some(basket) }
    })
    .await;
    place(&basket, "dc-2").await;
    let placed = count(&basket, 2).await;
    assert_eq!((placed.dc.as_str(), placed.count), ("dc-2", 2));
    sites[0].planes[0].cut_off();
    // The others have taken over what dc-1 had: one that was with its slot answers elsewhere.
    eventually("its slots are taken over", || async {
        let with_slot = far.grain::<Basket>("g4-place-with-its-slot");
        let seen = with_slot.ask(Count(1)).timeout(SOON).await.ok()?;
        (seen.dc != "dc-1" && far.grain::<Basket>(basket.id()).ask(Count(3)).timeout(SOON).await.is_ok()).then_some(())
    })
    .await;
    let stayed = count(&basket, 4).await;
    assert_eq!((stayed.dc.as_str(), stayed.epoch), ("dc-2", placed.epoch), "it has nothing to do with its slot");
    sites[1].planes[0].cut_off();
    let saved = eventually("it is taken over", || async {
        let seen = basket.ask(Count(5)).timeout(SOON).await.ok()?;
        (seen.dc == "dc-3").then_some(seen)
    })
    .await;
    assert!(saved.epoch > placed.epoch);
    check_fencing(&format!("basket/{}", basket.id()));
    // Two of three are cut off: there is nobody to hand anything over to.
    drop(sites);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_grain_is_placed_only_where_it_may_live_and_a_passive_one_stays_passive() {
    let _turn = turn().await;
    let world = World::new("l1-place");
    let sites = sites_with(&world, CALM, [("dc-1", 1), ("dc-2", 1)]).await;
    let here = &sites[0].nodes[0];
    // Never active: one with its slot here, and one there.
    for number in 0..8 {
        let basket = here.grain::<Basket>(format!("l1-place-{number}"));
        place(&basket, "dc-2").await;
        assert!(log(&format!("basket/l1-place-{number}")).is_empty());
        let seen = count(&basket, 1).await;
        assert_eq!((seen.dc.as_str(), seen.count), ("dc-2", 1));
    }
    let kept = here.grain::<Till>("l1-place");
    let seen = count(&kept, 1).await;
    let error = kept.place_in("dc-2").await.expect_err("its policy keeps it in dc-1");
    assert!(matches!(error, Error::DataCenterNotRoutable { .. }), "{error}");
    let error = kept.place_in(Selector::region("nowhere")).await.expect_err("there is none");
    assert!(matches!(error, Error::DataCenterRecordNotFound { .. }), "{error}");
    let error = kept.place_in("a\u{7}b").await.expect_err("no legal name");
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    let error = here.grain::<Cart>("l1-place").place_in("dc-2").await.expect_err("no kind of this node");
    assert!(matches!(error, Error::TypeNotRegistered { .. }), "{error}");
    assert_eq!(count(&kept, 2).await.epoch, seen.epoch, "nothing has moved");
    end(sites).await;
}

/// dc-1, where dc-2 may do with baskets what it likes, but take over none; and dc-2.
async fn all_but_take_over(world: &World) -> Vec<Vec<ActorSystem>> {
    let rights = Rights::none().call_kind("basket").spawn_kind("basket").look_up();
    let authority = Authority::deny_by_default().allow("dc-2", rights).expect("good rights");
    let describe = |dc| owned::register(world.bare(dc, &[]).ownership(|options| options.ttl(CALM)));
    let first = describe("dc-1").authority(authority).start().await.expect("starts");
    let second = describe("dc-2").start().await.expect("starts");
    let all = vec![vec![first], vec![second]];
    until_known(&all).await;
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_datacenter_places_only_what_it_may_take_over() {
    let _turn = turn().await;
    let world = World::new("deny-place");
    let all = all_but_take_over(&world).await;
    let mut candidates = 0..;
    let basket = eventually("an identity of dc-1", || {
        let basket = all[1][0].grain::<Basket>(format!("deny-place-{}", candidates.next().unwrap_or_default()));
        async move { (count(&basket, 1).await.dc == "dc-1").then_some(basket) }
    })
    .await;
    let error = basket.place_in("dc-2").timeout(SOON).await.expect_err("it may not");
    assert!(matches!(&error, Error::Unauthorized { data_center, .. } if data_center == "dc-2"), "{error}");
    assert!(error.certainly_not_run());
    assert_eq!(count(&basket, 2).await.dc, "dc-1");
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_nothing_is_handed_over_to_a_datacenter_that_may_not_take_it_over() {
    let _turn = turn().await;
    let world = World::new("deny-offer");
    let all = all_but_take_over(&world).await;
    let first = &all[0][0];
    let mut candidates = 0..;
    let basket = eventually("an identity of dc-1", || {
        let basket = first.grain::<Basket>(format!("deny-offer-{}", candidates.next().unwrap_or_default()));
        async move { (count(&basket, 1).await.dc == "dc-1").then_some(basket) }
    })
    .await;
    let before = count(&basket, 2).await;
    let mut events = first.events();
    // Asked by who may: it is the owner that may not give it there.
    let error = basket.place_in("dc-2").timeout(SOON).await.expect_err("dc-2 may not have it");
    let what = "take over what is owned of kind \"basket\"";
    assert!(matches!(&error, Error::OwnershipUnavailable { reason, .. } if reason.contains(what)), "{error}");
    let refused = event(&mut events, "the refusal is told", |event| match event {
        Event::Unauthorized { data_center, what } => Some((data_center, what)),
        _ => None,
    });
    let (who, refused) = refused.await;
    assert_eq!((who.as_str(), refused.as_str()), ("dc-2", what));
    let after = count(&basket, 3).await;
    assert_eq!((after.dc.as_str(), after.epoch, after.count), ("dc-1", before.epoch, before.count + 1), "it stays");
    shut_down(all).await;
}
