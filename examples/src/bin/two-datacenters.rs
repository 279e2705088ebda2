//! The example of the README: two datacenters in one process, a node each, on real sockets and one SQLite file.
//!
//! `cargo run -p multidc-examples --bin two-datacenters`

use std::time::Duration;

use kameo::Actor; // kameo's derive needs the direct dependency
use multidc::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Actor, RemoteActor, Default, Serialize, Deserialize)]
struct Worker {
    days: Vec<u32>,
}

#[derive(Serialize, Deserialize, RemoteMessage)]
struct Analyse(u32);

#[derive(Serialize, Deserialize, RemoteMessage)]
struct Progress;

impl Message<Analyse> for Worker {
    type Reply = ();
    async fn handle(&mut self, Analyse(day): Analyse, _: &mut Context<Self, ()>) {
        self.days.push(day);
    }
}

impl Message<Progress> for Worker {
    type Reply = Vec<u32>;
    async fn handle(&mut self, _: Progress, _: &mut Context<Self, Vec<u32>>) -> Vec<u32> {
        self.days.clone()
    }
}

async fn node(dc: &str, plane: &str) -> Result<ActorSystem, Box<dyn std::error::Error>> {
    let system = ActorSystem::builder("app")
        .data_center(DataCenter::new(dc))
        .control_plane(multidc::connect(plane).await?)
        .controller(|c| c.cache_refresh_interval(Duration::from_millis(200))) // SQLite has no watch: it is polled
        .listen("127.0.0.1:0")
        .actor::<Worker>(|kind| kind.handles::<Analyse>().handles::<Progress>())
        .start()
        .await?;
    Ok(system)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let plane = format!("sqlite://{}", dir.path().join("dcs.db").display());
    let (here, there) = (node("dc-1", &plane).await?, node("dc-2", &plane).await?);
    until_known(&here, "dc-2").await;

    // From dc-1, an actor in dc-2: spawned, told, asked, and found again by its name.
    let worker = here.spawn_on::<Worker>("analytics-worker", Worker::default()).in_data_center("dc-2").await?;
    worker.tell(Analyse(7)).await?;
    worker.tell(Analyse(8)).await?;
    println!("{worker} has analysed {:?}", worker.ask(Progress).await?);
    let same = there.actor_of::<Worker>("analytics-worker").await?;
    println!("found in {}: {:?}", there.data_center().name(), same.ask(Progress).await?);

    here.shutdown().await?;
    there.shutdown().await?;
    Ok(())
}

/// A datacenter's record reaches the others' routing tables within one refresh: wait for its event.
async fn until_known(system: &ActorSystem, dc: &str) {
    let mut events = system.events();
    while !system.data_centers().iter().any(|known| known.data_center.name() == dc && known.takes_placements) {
        events.next().await;
    }
}
