//! Nodes of another datacenter that say what no well-behaved one does: bodies of `docs/wire.md`, by hand.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dc_actor::{ActorSystem, Authority, Event, EventStream, Loss, Rights};
use dc_controlplane::TokioClock;
use dc_core::{DataCenter, NodeId, SystemName};
use dc_ownership::{
    ids::{GroupId, Slot},
    policy::Policy,
};
use dc_remoting::{Answer, Message, Peer, PeerTarget, Remoting, RemotingConfig, ServiceId, Services};
use prost::Message as _;

use crate::{
    global::{opening, turn},
    owned::{self, Keeper},
    world::{SOON, World, event, now, shut_down, until_known},
};

const ACTIVATE: ServiceId = ServiceId(19);
const FIND: ServiceId = ServiceId(22);
const OWNED: ServiceId = ServiceId(23);
const OFFER: ServiceId = ServiceId(24);

/// Of a group, slot, name and identity.
#[derive(Clone, PartialEq, prost::Message)]
struct Thing {
    #[prost(bytes = "vec", tag = "1")]
    group: Vec<u8>,
    #[prost(uint32, tag = "2")]
    slot: u32,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    identity: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Find {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "3")]
    epoch: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Grain {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    id: String,
    #[prost(uint64, tag = "3")]
    epoch: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Offer {
    #[prost(message, tag = "1")]
    thing: Option<Thing>,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint32, tag = "3")]
    part: u32,
    #[prost(bool, tag = "4")]
    last: bool,
    #[prost(message, repeated, tag = "5")]
    states: Vec<State>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct State {
    #[prost(string, tag = "1")]
    identity: String,
    #[prost(bytes = "vec", tag = "2")]
    state: Vec<u8>,
}

/// Who has sent a message.
#[derive(Clone, PartialEq, prost::Message)]
struct Sender {
    #[prost(message, tag = "1")]
    thing: Option<Thing>,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(bool, tag = "3")]
    passed_on: bool,
}

/// Where something was found.
#[derive(Clone, PartialEq, prost::Message)]
struct Place {
    #[prost(uint64, tag = "6")]
    actor: u64,
    #[prost(uint64, tag = "7")]
    epoch: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Fault {
    #[prost(bool, tag = "1")]
    not_run: bool,
    #[prost(string, tag = "2")]
    text: String,
}

/// What was refused, and that it certainly did not run.
fn refusal(answer: &Answer) -> String {
    assert_eq!(answer.status, 2, "an error: {answer:?}");
    let fault = Fault::decode(answer.body.clone()).expect("readable");
    assert!(fault.not_run, "{}", fault.text);
    fault.text
}

/// A node that is in no table, only links.
struct Stranger {
    peer: Peer,
    _links: Remoting,
}

impl Stranger {
    async fn of(dc: &str, system: &str, to: &ActorSystem) -> Self {
        let dc = DataCenter::new(dc).build().expect("legal");
        let name = SystemName::new(system).expect("legal");
        let config = RemotingConfig::builder(name, dc.id().clone(), NodeId(99)).build().expect("legal");
        let links = Remoting::start(config, Arc::new(TokioClock), Services::new()).await.expect("starts");
        Self { peer: links.peer(PeerTarget::at(to.endpoint().clone())), _links: links }
    }

    async fn call(&self, service: ServiceId, body: &impl prost::Message, within: Duration) -> Answer {
        self.peer.call_for_answer(service, Bytes::from(body.encode_to_vec()), within).await.expect("an answer")
    }
}

/// dc-1, which lets dc-9 do what `rights` says, if there are any rights.
async fn alone(world: &World, rights: Option<Rights>) -> Vec<Vec<ActorSystem>> {
    let mut node = owned::register(world.bare("dc-1", &[]));
    if let Some(rights) = rights {
        node = node.authority(Authority::deny_by_default().allow("dc-9", rights).expect("good rights"));
    }
    let all = vec![vec![node.start().await.expect("starts")]];
    until_known(&all).await;
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r8_questions_for_what_never_comes_end_soon_however_long_they_may_wait() {
    let _turn = turn().await;
    let world = World::new("r8-ahead");
    let all = alone(&world, None).await;
    let stranger = Stranger::of("dc-9", "r8-ahead", &all[0][0]).await;
    let spawn = all[0][0].spawn_on::<Keeper>("known", opening("r8-ahead")).global().survives(Loss::DataCenter);
    spawn.timeout(SOON).await.expect("spawns");
    let began = now();
    let hour = Duration::from_secs(3_600);
    let find = |name: &str, epoch| Find { name: name.into(), epoch };
    let grain = Grain { kind: "basket".into(), id: "r8-ahead".into(), epoch: u64::MAX };
    let (unknown, ahead) = (find("unknown", 1), find("known", u64::MAX));
    let answers = futures::future::join3(
        stranger.call(FIND, &unknown, hour),
        stranger.call(FIND, &ahead, hour),
        stranger.call(OWNED, &grain, hour),
    );
    let answers = tokio::time::timeout(SOON, answers).await.expect("nobody waits for an hour");
    for answer in [answers.0, answers.1, answers.2] {
        let text = refusal(&answer);
        assert!(text.contains("is not owned there"), "{text}");
    }
    // Who is ahead of the watch by less is waited for.
    assert!(now() - began >= Duration::from_secs(2));
    shut_down(all).await;
}

/// That of `basket`.
fn group() -> GroupId {
    Policy { survives: Loss::DataCenter, ..Policy::default() }.group()
}

fn of_slot(group: GroupId, identity: &str) -> Thing {
    let (group, slot) = (group.0.to_be_bytes().to_vec(), Slot::of(identity).number().into());
    Thing { group, slot, ..Thing::default() }
}

fn offer(thing: Thing, identities: &[&str]) -> Offer {
    let state = |identity: &&str| State { identity: (*identity).to_owned(), state: vec![7; 100] };
    let states = identities.iter().map(state).collect();
    Offer { thing: Some(thing), epoch: 1 << 40, part: 0, last: false, states }
}

async fn told(events: &mut EventStream) -> String {
    let refused = event(events, "the refusal is told", |event| match event {
        Event::Unauthorized { data_center, what } if data_center.as_str() == "dc-9" => Some(what),
        _ => None,
    });
    refused.await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_who_may_take_over_nothing_may_offer_nothing() {
    let _turn = turn().await;
    let world = World::new("g5-offers");
    let rights = Rights::none().look_up().call_kind("basket").call_kind("keeper");
    let all = alone(&world, Some(rights)).await;
    let stranger = Stranger::of("dc-9", "g5-offers", &all[0][0]).await;
    let spawn = all[0][0].spawn_on::<Keeper>("known", opening("g5-offers")).global().survives(Loss::DataCenter);
    spawn.timeout(SOON).await.expect("spawns");
    let named = |name: &str| Thing { name: name.into(), ..Thing::default() };
    let basket = "basket/user-42";
    let group = group();
    let placed = Thing { identity: basket.into(), ..of_slot(group, basket) };
    let mut events = all[0][0].events();
    for (offer, what) in [
        (offer(of_slot(group, basket), &[basket]), "of kind \"basket\""),
        (offer(of_slot(group, basket), &[]), "of kind \""),
        (offer(of_slot(GroupId(7), basket), &[]), "of a kind that is not known here"),
        (offer(placed, &[]), "of kind \"basket\""),
        (offer(named("known"), &["known"]), "of kind \"keeper\""),
        (offer(named("unknown"), &["unknown"]), "of a kind that is not known here"),
    ] {
        let answer = stranger.call(OFFER, &offer, SOON).await;
        let text = refusal(&answer);
        assert!(text.contains("does not allow dc-9 to take over what is owned") && text.contains(what), "{text}");
        let told = told(&mut events).await;
        assert!(told.contains(what), "{told}");
    }
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_an_offer_holds_state_of_what_is_offered_and_nothing_else() {
    let _turn = turn().await;
    let world = World::new("g5-strays");
    let all = alone(&world, Some(Rights::none().take_over_kind("basket").take_over_kind("till"))).await;
    let stranger = Stranger::of("dc-9", "g5-strays", &all[0][0]).await;
    let (basket, group) = ("basket/user-42", group());
    let alien = (0..).map(|number| format!("basket/{number}")).find(|id| Slot::of(id) != Slot::of(basket));
    let alien = alien.expect("there are many");
    let placed = Thing { identity: basket.into(), ..of_slot(group, basket) };
    let named = Thing { name: "x".into(), ..Thing::default() };
    let ok = offer(of_slot(group, basket), &[basket]);
    for (offer, what) in [
        (offer(of_slot(group, basket), &[basket, &alien]), "which is not of slot"),
        (offer(of_slot(GroupId(7), basket), &[basket]), "which is not of slot"),
        (offer(placed, &[&alien]), "which is not of basket/user-42"),
        (offer(named, &["y"]), "which is not of the global name"),
        (offer(of_slot(group, basket), &["no-identity"]), "grain id"),
        (Offer { epoch: u64::MAX, ..ok.clone() }, "which nothing can have"),
        (Offer { epoch: 0, ..ok.clone() }, "which nothing can have"),
        (Offer { thing: None, ..ok.clone() }, "of nothing known"),
        (Offer { part: 1, ..ok.clone() }, "out of turn"),
    ] {
        let text = refusal(&stranger.call(OFFER, &offer, SOON).await);
        assert!(text.contains(what), "{text}");
    }
    assert_eq!(stranger.call(OFFER, &ok, SOON).await.status, 0, "this one is in order");
    let late = Offer { epoch: 1 << 39, ..ok };
    let text = refusal(&stranger.call(OFFER, &late, SOON).await);
    assert!(text.contains("is in epoch"), "{text}");
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g3_nobody_speaks_for_what_another_datacenter_owns() {
    let _turn = turn().await;
    let world = World::new("g3-speaks");
    let all = alone(&world, None).await;
    let stranger = Stranger::of("dc-9", "g3-speaks", &all[0][0]).await;
    let spawn = all[0][0].spawn_on::<Keeper>("known", opening("g3-speaks")).global().survives(Loss::DataCenter);
    spawn.timeout(SOON).await.expect("spawns");
    let mut events = all[0][0].events();
    let found = stranger.call(FIND, &Find { name: "known".into(), epoch: 0 }, SOON).await;
    let place = Place::decode(found.body).expect("a place");
    let pair = stranger.peer.pair();
    let ask = async |name: &str, epoch, passed_on| {
        let sender = Sender { thing: Some(Thing { name: name.into(), ..Thing::default() }), epoch, passed_on };
        let message = Message {
            to: place.actor,
            kind: "keeper".into(),
            key: "known".into(),
            message: "Count".into(),
            epoch: place.epoch,
            from: sender.encode_to_vec().into(),
            payload: Bytes::from_static(&[7]),
        };
        pair.ask(message, SOON).await.expect("an answer")
    };
    let refused = ask("known", place.epoch, false).await;
    assert!(refusal(&refused).contains("does not allow dc-9 to speak for"), "{}", refusal(&refused));
    assert!(told(&mut events).await.contains("speak for"));
    // By a former owner of the target, it may be: that one is in the owner's datacenter, and the other not.
    let passed_on = ask("known", place.epoch, true).await;
    assert_eq!(passed_on.status, 0, "{passed_on:?}");
    for (name, epoch, what) in [
        ("known", u64::MAX, "which nothing can have"),
        ("known", 0, "which nothing can have"),
        (&*"x".repeat(60_000), place.epoch, "must be 1 to 255 bytes"),
    ] {
        let text = refusal(&ask(name, epoch, false).await);
        assert!(text.contains(what), "{text}");
    }
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_only_its_own_datacenter_chooses_the_node_of_a_grain() {
    let world = World::new("g2-chooses");
    let all = world.start(["dc-1"], 1).await;
    let mut events = all[0][0].events();
    let cart = Grain { kind: "cart".into(), id: "user-42".into(), epoch: 0 };
    let stranger = Stranger::of("dc-9", "g2-chooses", &all[0][0]).await;
    let text = refusal(&stranger.call(ACTIVATE, &cart, SOON).await);
    assert!(text.contains("does not allow dc-9 to choose the node of a \"cart\""), "{text}");
    assert!(told(&mut events).await.contains("choose the node"));
    let member = Stranger::of("dc-1", "g2-chooses", &all[0][0]).await;
    assert_eq!(member.call(ACTIVATE, &cart, SOON).await.status, 0);
    shut_down(all).await;
}
