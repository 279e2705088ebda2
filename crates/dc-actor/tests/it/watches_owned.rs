//! Watching what is one in the world: it moves, is let go, is lost (A7).

use dc_actor::{ActorSystem, DrainOptions, DrainOutcome, EndReason, Error, Loss, OnLoss, Ref};

use crate::{
    global::{Site, count, end, opening, sites, sites_with, turn},
    owned::{Basket, Close, Count, Keeper, Plain},
    watches::{ended, moved, quiet, silent},
    world::{SOON, World, eventually, soon},
};

/// As a crash of a datacenter: nothing that it sends reaches the store, and nobody hears of it again.
fn lose(site: Site) {
    site.planes.iter().for_each(|plane| plane.cut_off());
    drop(site);
}

async fn spawn(from: &ActorSystem, name: &str, loss: Loss, dc: &str) -> Ref<Keeper> {
    let spawn = from.spawn_on::<Keeper>(name, opening(&format!("a7-{name}"))).global().survives(loss);
    spawn.in_data_center(dc).timeout(SOON).await.expect("spawns")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_a_global_name_that_is_drained_away_moves_and_one_that_stops_is_let_go() {
    let _turn = turn().await;
    let world = World::new("a7-drain");
    // Nothing is lost here: a lease that a busy machine keeps.
    let sites = sites_with(&world, SOON, [("dc-1", 1), ("dc-2", 1)]).await;
    let (here, drained) = (&sites[0].nodes[0], &sites[1].nodes[0]);
    let keeper = spawn(here, "k", Loss::DataCenter, "dc-2").await;
    let before = count(&keeper, 1).await;
    let mut watches = [here.watch(&keeper), drained.watch(&keeper)];
    let basket = (0..).map(|number| here.grain::<Basket>(format!("a7-{number}")));
    let mut in_dc_2 = None;
    for basket in basket.take(30) {
        let seen = basket.ask(Count(1)).timeout(SOON).await.expect("counts");
        if seen.dc == "dc-2" {
            in_dc_2 = Some((basket, seen));
            break;
        }
    }
    let (basket, active) = match in_dc_2 {
        Some(found) => found,
        None => {
            // dc-1 was there first, and has all slots.
            let basket = here.grain::<Basket>("a7-0");
            basket.place_in("dc-2").timeout(SOON).await.expect("placed");
            let seen = basket.ask(Count(1)).timeout(SOON).await.expect("counts");
            assert_eq!(seen.dc, "dc-2");
            (basket, seen)
        }
    };
    let mut of_basket = here.watch(&basket);
    for watch in watches.iter_mut().chain([&mut of_basket]) {
        silent(watch, "it is where it was");
    }
    let mut drain = drained.drain(DrainOptions::default()).await.expect("the intent is written");
    // Thousands of slots, on whatever machine.
    let outcome = tokio::time::timeout(SOON * 3, drain.outcome()).await.expect("the drain ends");
    assert_eq!(outcome, DrainOutcome::Drained);
    for watch in &mut watches {
        let (dc, node, epoch) = moved(watch).await;
        assert_eq!((dc.as_str(), node), ("dc-1", here.node_id()));
        assert!(epoch > before.epoch, "{epoch} after {}", before.epoch);
    }
    let (dc, _, epoch) = moved(&mut of_basket).await;
    assert!(dc == "dc-1" && epoch > active.epoch, "{dc} {epoch} after {}", active.epoch);
    // A reference of before knows where it was: that it has moved is told at once.
    assert_eq!(moved(&mut here.watch(&keeper)).await.0, "dc-1");

    keeper.tell(Close).await.expect("accepted");
    for watch in &mut watches {
        assert_eq!(ended(watch).await, EndReason::LetGo);
    }
    assert_eq!(ended(&mut here.watch(&keeper)).await, EndReason::Gone);
    // The grain's rest, or what else becomes of its activation, is no end of the grain.
    basket.tell(Close).await.expect("accepted");
    eventually("it is active anew", || async {
        let seen = basket.ask(Count(1)).timeout(SOON).await.ok()?;
        (seen.count == 1).then_some(())
    })
    .await;
    silent(&mut of_basket, "an identity does not end");
    end(sites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_what_survives_its_datacenter_moves_what_waits_stays_watched_what_ends_with_it_is_told() {
    let _turn = turn().await;
    let world = World::new("a7-lost");
    let mut sites = sites(&world, [("dc-1", 1), ("dc-2", 1)]).await;
    let here = sites[0].nodes[0].clone();
    let goes = spawn(&here, "goes", Loss::DataCenter, "dc-2").await;
    let stays = spawn(&here, "stays", Loss::Node, "dc-2").await;
    let waits = here.spawn_on::<Keeper>("waits", opening("a7-waits")).global().survives(Loss::DataCenter);
    let waits = waits.on_loss(OnLoss::Wait).in_data_center("dc-2").timeout(SOON).await.expect("spawns");
    let ends = spawn(&here, "ends", Loss::Nothing, "dc-2").await;
    let before = count(&goes, 1).await;
    let mut watches = [&goes, &stays, &waits, &ends].map(|name| here.watch(name));
    lose(sites.pop().expect("dc-2"));
    let [of_goes, of_stays, of_waits, of_ends] = &mut watches;
    let (dc, node, epoch) = moved(of_goes).await;
    assert_eq!((dc.as_str(), node), ("dc-1", here.node_id()));
    assert!(epoch > before.epoch, "{epoch} after {}", before.epoch);
    assert_eq!(count(&goes, 2).await.epoch, epoch, "what was told is what serves");
    let reason = ended(of_ends).await;
    assert!(matches!(reason, EndReason::DataCenterLost | EndReason::NodeLost), "{reason}");
    quiet(of_stays, "it waits for its datacenter").await;
    silent(of_waits, "it was told to wait");
    silent(of_goes, "it has moved once");
    end(sites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_an_owner_that_is_lost_and_comes_back_is_told_as_a_move_under_a_higher_epoch() {
    let _turn = turn().await;
    let world = World::new("a7-back");
    let sites = sites(&world, [("dc-1", 1), ("dc-2", 1)]).await;
    let here = &sites[0].nodes[0];
    let stays = spawn(here, "back", Loss::Node, "dc-2").await;
    let before = count(&stays, 1).await;
    let mut watch = here.watch(&stays);
    // Cut off from the store, it stops by itself; back, it claims what waited for it under a new session.
    sites[1].planes[0].cut_off();
    eventually("its session is lost", || async {
        let stats = sites[1].nodes[0].ownership_stats();
        stats.iter().any(|(name, count)| *name == "lease_ends" && *count > 0).then_some(())
    })
    .await;
    let error = stays.ask(Count(2)).timeout(std::time::Duration::from_secs(1)).await.unwrap_err();
    assert!(error.certainly_not_run(), "{error}");
    quiet(&mut watch, "lost, and waited for").await;
    sites[1].planes[0].reconnect();
    let (dc, node, epoch) = moved(&mut watch).await;
    assert_eq!((dc.as_str(), node), ("dc-2", sites[1].nodes[0].node_id()));
    assert!(epoch > before.epoch, "{epoch} after {}", before.epoch);
    end(sites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_without_a_part_in_ownership_what_is_global_cannot_be_watched() {
    let _turn = turn().await;
    let world = World::new("a7-none");
    let sites = sites(&world, [("dc-1", 1)]).await;
    let keeper = spawn(&sites[0].nodes[0], "none", Loss::Node, "dc-1").await;
    let without = world.bare("dc-2", &[]).actor::<Plain>(|kind| kind).without_ownership().start().await;
    let without = without.expect("starts");
    let refused = ended(&mut without.watch(&keeper)).await;
    assert!(matches!(&refused, EndReason::Refused(Error::NoOwnership { .. })), "{refused}");
    soon("shutdown", without.shutdown()).await.expect("ends in good order");
    end(sites).await;
}
