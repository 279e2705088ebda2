//! One in the world: global names and grains, over several datacenters on one store.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use dc_actor::{ActorSystem, ActorSystemBuilder, ConfigError, Error, Loss, OnLoss, OwnershipEvent, Ref, StartError};
use dc_controlplane::memory::MemoryControlPlane;
use dc_core::Selector;

use crate::{
    owned::{self, Always, Basket, Close, Count, Keeper, Ledger, Opening, PassTo, Plain, Seen, Slowly, Till, log},
    world::{OWN_TTL, SOON, World, event, eventually, shut_down, soon, until_known},
};

pub(crate) fn opening(id: &str) -> Opening {
    Opening { id: id.to_owned(), ..Opening::default() }
}

/// A datacenter whose nodes have clients of the store of their own.
pub(crate) struct Site {
    pub(crate) nodes: Vec<ActorSystem>,
    pub(crate) planes: Vec<MemoryControlPlane>,
}

/// One at a time: each of these tests keeps thousands of slots on every node, and none is about a busy machine.
pub(crate) async fn turn() -> tokio::sync::MutexGuard<'static, ()> {
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    TURN.lock().await
}

/// Starts datacenters with as many nodes each, all of which take part in ownership.
pub(crate) async fn sites<const D: usize>(world: &World, dcs: [(&str, usize); D]) -> Vec<Site> {
    sites_with(world, OWN_TTL, dcs).await
}

/// As [`sites`], with another lease.
pub(crate) async fn sites_with<const D: usize>(world: &World, ttl: Duration, dcs: [(&str, usize); D]) -> Vec<Site> {
    let mut sites = Vec::new();
    for (dc, nodes) in dcs {
        let mut site = Site { nodes: Vec::new(), planes: Vec::new() };
        for _ in 0..nodes {
            let plane = world.plane();
            let seeds: Vec<&ActorSystem> = site.nodes.first().into_iter().collect();
            let node = describe(world, dc, &seeds, plane.clone(), ttl);
            site.nodes.push(node.start().await.expect("starts"));
            site.planes.push(plane);
        }
        sites.push(site);
    }
    until_known(&sites.iter().map(|site| site.nodes.clone()).collect::<Vec<_>>()).await;
    sites
}

/// A node of these tests.
pub(crate) fn describe(
    world: &World,
    dc: &str,
    seeds: &[&ActorSystem],
    plane: MemoryControlPlane,
    ttl: Duration,
) -> ActorSystemBuilder {
    // A busy machine must not make these tests about leases and stale tables by itself.
    let node = world.bare_on(dc, seeds, plane).controller(|options| {
        options
            .lease_ttl(Duration::from_secs(6))
            .heartbeat_interval(Duration::from_millis(500))
            .cache_refresh_interval(Duration::from_millis(300))
            .max_cache_staleness(Duration::from_secs(20))
            .leader_check_interval(Duration::from_millis(200))
            .request_timeout(Duration::from_secs(2))
    });
    owned::register(node.shutdown_grace(Duration::from_secs(12)).ownership(|options| options.ttl(ttl)))
}

pub(crate) async fn end(sites: Vec<Site>) {
    shut_down(sites.into_iter().rev().map(|site| site.nodes).collect()).await;
}

pub(crate) async fn count<A>(target: &Ref<A>, number: u64) -> Seen
where
    A: dc_actor::Handles<Count, Ok = Seen, Err = String>,
{
    target.ask(Count(number)).timeout(SOON).await.expect("counts")
}

/// No lower epoch after a higher one.
pub(crate) fn check_fencing(id: &str) {
    let log = log(id);
    assert!(log.is_sorted_by_key(|entry| entry.epoch), "{id}: {log:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_a_global_name_is_unique_in_all_datacenters_and_found_from_every_node() {
    let _turn = turn().await;
    let world = World::new("a2-global");
    let sites = sites(&world, [("dc-1", 2), ("dc-2", 2)]).await;
    let (here, there) = (&sites[0].nodes[0], &sites[1].nodes[1]);
    let keeper = here.spawn_on::<Keeper>("k", opening("a2")).global().in_data_center("dc-2").await.expect("spawns");
    assert!(keeper.data_center().as_str().ends_with("dc-2"), "{}", keeper.data_center());
    assert!(keeper.is_global());
    let first = count(&keeper, 1).await;
    assert_eq!((first.count, first.dc.as_str()), (1, "dc-2"));

    for system in sites.iter().flat_map(|site| &site.nodes) {
        let taken = system.spawn_on::<Keeper>("k", opening("a2")).global().await.unwrap_err();
        assert!(matches!(&taken, Error::NameTaken { holder, .. } if holder.contains("dc-2")), "{taken}");
        for found in [system.actor_of::<Keeper>("k").await, system.actor_of::<Keeper>("k").global().await] {
            let found = found.expect("found from everywhere");
            assert_eq!(found, keeper);
            assert_eq!(count(&found, 1).await.epoch, first.epoch);
        }
        let wrong = system.actor_of::<Ledger>("k").await.unwrap_err();
        assert!(matches!(wrong, Error::WrongKind { .. }), "{wrong}");
        let none = system.actor_of::<Keeper>("nobody").global().await.unwrap_err();
        assert!(matches!(none, Error::ActorNotFound { .. }), "{none}");
    }
    assert!(matches!(here.actor_of::<Keeper>("k").in_data_center("dc-1").await, Err(Error::ActorNotFound { .. })));

    // The same name of a datacenter is another one, and comes first there (A2).
    let local = here.spawn_on::<Plain>("k", ()).await.expect("another namespace");
    assert_eq!(sites[0].nodes[1].actor_of::<Plain>("k").await, Ok(local));
    assert_eq!(sites[0].nodes[1].actor_of::<Keeper>("k").global().await, Ok(keeper.clone()));
    assert_eq!(there.actor_of::<Keeper>("k").await.as_ref(), Ok(&keeper), "global before other datacenters");

    // Stopped for good, its name is free; claimed again, its epoch is higher (G3).
    keeper.tell(Close).await.expect("accepted");
    let again =
        eventually("its name is free", || async { there.spawn_on("k", opening("a2")).global().await.ok() }).await;
    let again: Ref<Keeper> = again;
    let second = count(&again, 2).await;
    assert_eq!((second.count, second.dc.as_str()), (1, "dc-2"));
    assert!(second.epoch > first.epoch, "{} after {}", second.epoch, first.epoch);
    check_fencing("keeper/a2");
    end(sites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_a_global_actor_that_fails_to_start_leaves_its_name_free() {
    let _turn = turn().await;
    let world = World::new("a2-fails");
    let sites = sites(&world, [("dc-1", 1), ("dc-2", 1)]).await;
    let here = &sites[0].nodes[0];
    for dc in ["dc-1", "dc-2"] {
        let fails = Opening { fails: true, ..opening("a2-fails") };
        let error = here.spawn_on::<Ledger>("f", fails).global().in_data_center(dc).await.unwrap_err();
        assert!(matches!(&error, Error::StartFailed { reason, .. } if reason.contains("told to fail")), "{error}");
    }
    let nowhere = here.spawn_on::<Ledger>("f", opening("a2-fails")).global().within("dc-9").await.unwrap_err();
    assert!(matches!(nowhere, Error::DataCenterRecordNotFound { .. }), "{nowhere}");
    let kept_out =
        here.spawn_on::<Ledger>("f", opening("a2-fails")).global().within("dc-2").in_data_center("dc-1").await;
    assert!(matches!(kept_out, Err(Error::DataCenterNotRoutable { .. })), "{kept_out:?}");
    let within = here.spawn_on::<Ledger>("f", opening("a2-fails")).global().within("dc-2").await.expect("it is free");
    assert_eq!(count(&within, 1).await.dc, "dc-2", "where it may live, although spawned elsewhere");
    end(sites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_a_global_grain_is_active_once_in_the_world_whoever_asks() {
    let _turn = turn().await;
    let world = World::new("g2-grains");
    let sites = sites(&world, [("dc-1", 2), ("dc-2", 2)]).await;
    for round in 0..8 {
        let id = format!("g2-{round}");
        let asks = sites.iter().flat_map(|site| &site.nodes).cycle().take(40).map(|system| {
            let basket = system.grain::<Basket>(id.clone());
            async move { basket.ask(Count(1)).timeout(SOON).await.expect("counts") }
        });
        let seen: Vec<Seen> = soon("all answers", futures::future::join_all(asks)).await;
        let mut counts: Vec<u64> = seen.iter().map(|seen| seen.count).collect();
        counts.sort_unstable();
        assert_eq!(counts, (1..=40).collect::<Vec<_>>(), "each ran once, in one place");
        assert!(seen.iter().all(|one| one.epoch == seen[0].epoch && one.node == seen[0].node));
        let till = sites[1].nodes[0].grain::<Till>(id.clone()).ask(Count(1)).timeout(SOON).await.expect("counts");
        assert_eq!(till.dc, "dc-1", "where it may live");
    }
    end(sites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g3_g4_what_is_lost_with_its_datacenter_goes_on_elsewhere_under_a_higher_epoch_if_it_is_to() {
    let _turn = turn().await;
    let world = World::new("g4");
    let sites = sites(&world, [("dc-1", 1), ("dc-2", 1), ("dc-3", 1)]).await;
    let (here, lost) = (&sites[0].nodes[0], &sites[1].nodes[0]);
    let survivor = |name: &str| here.spawn_on::<Keeper>(name, opening(&format!("g4-{name}"))).global();
    let goes = survivor("goes").survives(Loss::DataCenter).failover_to("dc-3").in_data_center("dc-2");
    let goes = goes.await.expect("spawns");
    let stays = survivor("stays").survives(Loss::Node).in_data_center("dc-2").await.expect("spawns");
    let waits = survivor("waits").survives(Loss::DataCenter).on_loss(OnLoss::Wait).in_data_center("dc-2");
    let waits = waits.await.expect("spawns");
    let mut grains = Vec::new();
    for number in 0..30 {
        let basket = here.grain::<Basket>(format!("g4-{number}"));
        let seen = basket.ask(Count(1)).timeout(SOON).await.expect("counts");
        if seen.dc == "dc-2" {
            grains.push((basket, seen));
        }
    }
    if grains.is_empty() {
        // dc-1 was there first, and has all slots.
        let basket = here.grain::<Basket>("g4-0");
        basket.place_in("dc-2").timeout(SOON).await.expect("placed");
        let seen = basket.ask(Count(1)).timeout(SOON).await.expect("counts");
        assert_eq!(seen.dc, "dc-2");
        grains.push((basket, seen));
    }
    let before = count(&goes, 1).await;
    assert_eq!(before.dc, "dc-2");
    let mut events = lost.events();

    // Cut off from the store, and only from that: it must stop by itself.
    sites[1].planes[0].cut_off();
    event(&mut events, "it stops by itself", |event| match event {
        dc_actor::Event::Ownership(event) if matches!(*event, OwnershipEvent::SessionLost { .. }) => Some(()),
        _ => None,
    })
    .await;
    let refused = lost.spawn_on::<Keeper>("other", opening("g4-other")).global().timeout(Duration::from_secs(1)).await;
    assert!(refused.as_ref().is_err_and(Error::certainly_not_run), "{refused:?}");

    let after = count(&goes, 2).await;
    assert_eq!((after.dc.as_str(), after.count), ("dc-3", 1), "from its arguments");
    assert!(after.epoch > before.epoch, "G3");
    for (basket, before) in &grains {
        let after = basket.ask(Count(2)).timeout(SOON).await.expect("goes on");
        assert_ne!(after.dc, "dc-2");
        assert!(after.epoch > before.epoch, "G3: {} after {}", after.epoch, before.epoch);
    }
    for stays in [&stays, &waits] {
        let error = stays.ask(Count(2)).timeout(OWN_TTL * 2).await.unwrap_err();
        assert!(error.certainly_not_run(), "{error}");
        assert!(log(&format!("keeper/g4-{}", stays.name().expect("named"))).is_empty());
    }

    // It comes back, with a new session: what waited for it is there again, and nothing else comes back by itself.
    sites[1].planes[0].reconnect();
    for back in [&stays, &waits] {
        assert_eq!(count(back, 3).await.dc, "dc-2");
    }
    assert_eq!(count(&goes, 3).await.dc, "dc-3", "no failback unless declared");
    for id in ["goes", "stays", "waits"] {
        check_fencing(&format!("keeper/g4-{id}"));
    }
    (0..30).for_each(|number| check_fencing(&format!("basket/g4-{number}")));
    end(sites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_a_former_owner_that_works_on_is_neither_answered_for_nor_heard() {
    let _turn = turn().await;
    let world = World::new("g2-fenced");
    let sites = sites(&world, [("dc-1", 1), ("dc-2", 1)]).await;
    let here = &sites[0].nodes[0];
    let spawn = |name: &str| here.spawn_on::<Keeper>(name, opening(&format!("g2-{name}"))).global();
    let target = spawn("target").in_data_center("dc-1").await.expect("spawns");
    let old = spawn("old").survives(Loss::DataCenter).in_data_center("dc-2").await.expect("spawns");
    let epoch = count(&old, 1).await.epoch;
    // It is in the middle of long handlers when it loses its session: one would answer late, one would send late.
    let lasts = u64::try_from(OWN_TTL.as_millis()).expect("small") * 2;
    let slow = tokio::spawn(IntoFuture::into_future(old.ask(Slowly { ms: lasts, number: 2 }).timeout(SOON)));
    let asked = eventually("it has begun", || async {
        old.ask(Count(9)).timeout(Duration::from_millis(60)).await.is_err().then_some(())
    });
    asked.await;
    let pass = PassTo { whom: target.clone(), after_ms: 0, number: 66 };
    let passes = tokio::spawn(IntoFuture::into_future(old.ask(pass).timeout(SOON)));
    sites[1].planes[0].cut_off();
    let late = soon("the late answer", slow).await.expect("no panic").unwrap_err();
    assert!(!late.certainly_not_run(), "its handler had begun: {late}");
    // What was behind it did not run there; it is asked again at the new owner, which may send.
    let passed = soon("the one behind", passes).await.expect("no panic");
    assert_eq!(passed, Ok(()));
    let now = count(&old, 3).await;
    assert!(now.epoch > epoch && now.dc == "dc-1", "{now:?}");
    let numbers: Vec<u64> = log("keeper/g2-old").iter().map(|entry| entry.number).collect();
    assert!(!numbers.contains(&2), "the cut-off handler did not write: {numbers:?}");
    check_fencing("keeper/g2-old");
    sites[1].planes[0].reconnect();
    end(sites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_with_the_store_away_strict_ones_stop_and_available_ones_go_on() {
    let _turn = turn().await;
    let world = World::new("g2-strict");
    let sites = sites(&world, [("dc-1", 1), ("dc-2", 1)]).await;
    let here = &sites[0].nodes[0];
    let mut pairs = Vec::new();
    for number in 0..6 {
        let (strict, available) =
            (here.grain::<Basket>(format!("s-{number}")), here.grain::<Always>(format!("a-{number}")));
        let one = strict.ask(Count(1)).timeout(SOON).await.expect("counts");
        let other = available.ask(Count(1)).timeout(SOON).await.expect("counts");
        pairs.push((strict, one, available, other));
    }
    world.store.stop();
    eventually("strict ones stop", || async {
        let error = pairs[0].0.ask(Count(2)).timeout(Duration::from_millis(300)).await.err()?;
        error.certainly_not_run().then_some(())
    })
    .await;
    for (strict, _, available, before) in &pairs {
        let stopped = strict.ask(Count(3)).timeout(Duration::from_millis(300)).await.unwrap_err();
        assert!(stopped.certainly_not_run(), "{stopped}");
        let goes_on = available.ask(Count(2)).timeout(SOON).await.expect("goes on");
        assert_eq!((goes_on.count, goes_on.epoch), (2, before.epoch));
    }
    world.store.start();
    for (strict, before, _, _) in &pairs {
        let back = strict.ask(Count(4)).timeout(SOON).await.expect("goes on when the store is back");
        assert!(back.epoch > before.epoch, "a new session owns nothing until it has claimed");
    }
    (0..6).for_each(|number| check_fencing(&format!("basket/s-{number}")));
    end(sites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g3_an_owner_that_ends_without_a_word_is_followed_under_a_higher_epoch() {
    let _turn = turn().await;
    let world = World::new("g3-crash");
    let mut sites = sites(&world, [("dc-1", 2), ("dc-2", 1)]).await;
    let here = sites[1].nodes[0].clone();
    let on = sites[0].nodes[1].node_id();
    let keeper = here.spawn_on::<Keeper>("k", opening("g3")).global().on_node(on).await.expect("spawns");
    let before = count(&keeper, 1).await;
    assert_eq!(before.node, on.to_string());
    // A crash: nothing that it sends reaches the store any more, and nobody hears of it again.
    sites[0].planes[1].cut_off();
    drop(sites[0].nodes.remove(1));
    // What was on its way over the broken link may have run.
    let after = eventually("another one has it", || async { keeper.ask(Count(2)).timeout(SOON).await.ok() }).await;
    assert_eq!(after.dc, "dc-1", "in its own datacenter");
    assert!(after.epoch > before.epoch && after.node != before.node);
    check_fencing("keeper/g3");
    end(sites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_a_global_name_whose_owner_is_lost_is_unreachable_and_not_unknown() {
    let _turn = turn().await;
    let world = World::new("a2-lost");
    let mut sites = sites(&world, [("dc-1", 1), ("dc-2", 1)]).await;
    let (here, there) = (sites[0].nodes[0].clone(), sites[1].nodes[0].clone());
    there.spawn_on::<Keeper>("k", opening("a2-lost")).global().survives(Loss::DataCenter).await.expect("spawns");
    // Where it is was not asked here before.
    let taken = here.spawn_on::<Keeper>("k", opening("a2-lost")).global().await.unwrap_err();
    assert!(matches!(taken, Error::NameTaken { .. }), "{taken}");
    sites[1].planes[0].cut_off();
    drop((there, sites.remove(1)));
    let unreachable = AtomicU32::new(0);
    let found = eventually("another one has it", || async {
        let anywhere = here.actor_of::<Keeper>("k").timeout(Duration::from_millis(500)).await;
        if let Err(error) = anywhere {
            let open = matches!(&error, Error::ActorNotFound { unanswered, .. } if !unanswered.is_empty());
            assert!(open, "whether it is global is not known: {error}");
        }
        match here.actor_of::<Keeper>("k").global().timeout(Duration::from_millis(500)).await {
            Ok(found) => Some(found),
            Err(error @ Error::Unreachable { .. }) => {
                unreachable.fetch_add(1, Ordering::SeqCst);
                assert!(error.certainly_not_run());
                None
            }
            Err(error) => panic!("{error}"),
        }
    });
    let keeper = found.await;
    assert!(unreachable.into_inner() > 0, "it was lost for a lease");
    assert_eq!(count(&keeper, 1).await.dc, "dc-1");
    end(sites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_ownership_what_is_global_is_refused_at_start_and_everything_else_works() {
    let _turn = turn().await;
    let world = World::new("no-ownership");
    let refused = owned::register(world.bare("dc-1", &[])).without_ownership().start().await.expect_err("refused");
    let StartError::Config(wrong) = &refused else { panic!("{refused}") };
    assert_eq!(wrong.iter().filter(|error| matches!(error, ConfigError::NoOwnership { .. })).count(), 3, "{refused}");
    assert!(refused.to_string().contains("another scope"), "{refused}");
    let bad = world.bare("dc-1", &[]).ownership(|options| options.margin(Duration::from_millis(1))).start().await;
    assert!(bad.expect_err("refused").to_string().contains("margin"));

    let plain =
        world.describe("dc-1", &[]).actor::<Plain>(|kind| kind).without_ownership().start().await.expect("starts");
    let error = plain.spawn_on::<Plain>("p", ()).global().await.unwrap_err();
    assert!(matches!(&error, Error::NoOwnership { what } if what.contains("\"p\"")), "{error}");
    let error = plain.actor_of::<Plain>("p").global().await.unwrap_err();
    assert!(matches!(error, Error::NoOwnership { .. }), "{error}");
    plain.spawn_on::<Plain>("p", ()).await.expect("per datacenter");
    plain.actor_of::<Plain>("p").await.expect("found");
    shut_down(vec![vec![plain]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_a_reference_to_a_global_actor_travels_and_follows_it() {
    let _turn = turn().await;
    let world = World::new("a2-travels");
    let sites = sites(&world, [("dc-1", 1), ("dc-2", 1)]).await;
    let here = &sites[0].nodes[0];
    let target = here.spawn_on::<Keeper>("t", opening("travels-t")).global().await.expect("spawns");
    let other =
        here.spawn_on::<Keeper>("o", opening("travels-o")).global().in_data_center("dc-2").await.expect("spawns");
    let pass = PassTo { whom: target.clone(), after_ms: 0, number: 5 };
    other.ask(pass).await.expect("the reference reads as a global one there");
    eventually("it arrives", || async { log("keeper/travels-t").iter().any(|entry| entry.number == 5).then_some(()) })
        .await;
    assert_eq!(target, here.actor_of::<Keeper>("t").await.expect("found"));
    let everywhere = here
        .spawn_on::<Keeper>("e", opening("travels-e"))
        .global()
        .within(Selector::id(here.data_center().id().clone()));
    assert_eq!(everywhere.await.expect("spawns").name(), Some("e"));
    end(sites).await;
}
