//! The preludes of kameo and multidc can be imported together, and everything a small program needs is in ours.

// Of the two derives that are called `RemoteActor`, ours.
use kameo::prelude::*;
use multidc::{RemoteActor, prelude::*};
use serde::{Deserialize, Serialize};

#[derive(Actor, RemoteActor, Serialize, Deserialize)]
#[remote(name = "greeter")]
struct Greeter;

#[derive(Serialize, Deserialize, RemoteMessage)]
struct Greet(String);

#[derive(Clone, PartialEq, prost::Message, RemoteMessage)]
#[remote(codec = prost, reply = serde)]
struct Wave {
    #[prost(uint32, tag = "1")]
    times: u32,
}

impl Message<Greet> for Greeter {
    type Reply = String;
    async fn handle(&mut self, Greet(name): Greet, _: &mut Context<Self, String>) -> String {
        format!("hello {name}")
    }
}

impl Message<Wave> for Greeter {
    type Reply = Vec<u32>;
    async fn handle(&mut self, wave: Wave, _: &mut Context<Self, Vec<u32>>) -> Vec<u32> {
        (0..wave.times).collect()
    }
}

#[cfg(feature = "memory")]
#[tokio::test]
async fn kameo_and_multidc_preludes_work_side_by_side() {
    let system = ActorSystem::builder("preludes")
        .data_center(DataCenter::new("dc-1"))
        .control_plane(multidc::connect("memory://preludes").await.unwrap())
        .actor::<Greeter>(|kind| kind.handles::<Greet>().handles::<Wave>())
        .start()
        .await
        .unwrap();
    let greeter: Ref<Greeter> = system.spawn(Greeter).await.unwrap();
    assert_eq!(greeter.ask(Greet("you".into())).await.unwrap(), "hello you");
    assert_eq!(greeter.ask(Wave { times: 2 }).await.unwrap(), [0, 1]);

    // The same type is an ordinary kameo actor, too.
    let plain = <Greeter as Spawn>::spawn(Greeter);
    assert_eq!(plain.ask(Greet("me".into())).await.unwrap(), "hello me");
    system.shutdown().await.unwrap();
}
