//! Where actors are started.

use std::future::IntoFuture;

use dc_actor::Ref;
use dc_core::Selector;

use crate::{
    actors::{Note, Noted, Worker, WorkerArgs},
    world::{World, shut_down, soon},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_every_node_spawns_in_another_datacenter_and_asks() {
    let world = World::new("a1-spawn");
    let all = world.start(["dc-1", "dc-2"], 2).await;
    for (number, system) in all.iter().flatten().enumerate() {
        let other = if system.data_center().name() == "dc-1" { "dc-2" } else { "dc-1" };
        let name = format!("worker-{number}");
        let spawn = system.spawn_on::<Worker>(&name, WorkerArgs::default()).in_data_center(Selector::name(other));
        let worker: Ref<Worker> = soon("spawn", spawn.into_future()).await.expect("spawns");
        assert_eq!(worker.data_center().parts().0, other);
        worker.tell(Note(7)).await.expect("accepted");
        assert_eq!(worker.ask(Noted).await.expect("answers"), [7]);
    }
    shut_down(all).await;
}
