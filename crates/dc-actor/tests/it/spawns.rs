//! Where actors are started.

use std::{
    collections::HashMap,
    future::IntoFuture,
    sync::{Arc, Condvar, LazyLock, Mutex},
    time::Duration,
};

use bytes::Bytes;
use dc_actor::{ActorRef, ActorSystem, Error, Ref};
use dc_controlplane::TokioClock;
use dc_core::{DataCenter, NodeId, Selector, SystemName};
use dc_ownership::policy::Policy;
use dc_placement::Strategy;
use dc_remoting::{PeerTarget, Remoting, RemotingConfig, ServiceId, Services};
use kameo::{
    Actor,
    error::Infallible,
    message::{Context, Message},
};
use multidc::RemoteActor;
use prost::Message as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    actors::{Note, Noted, Start, Worker, WorkerArgs},
    global::{end, opening, sites, turn},
    world::{SOON, World, eventually, now, shut_down, soon},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_every_node_spawns_in_another_datacenter_and_asks() {
    let world = World::new("a1-spawn");
    let all = world.start(["dc-1", "dc-2"], 3).await;
    for (number, system) in all.iter().flatten().enumerate() {
        let other = if system.data_center().name() == "dc-1" { "dc-2" } else { "dc-1" };
        let name = format!("worker-{number}");
        let spawn = system.spawn_on::<Worker>(&name, WorkerArgs::default()).in_data_center(Selector::name(other));
        let worker: Ref<Worker> = soon("spawn", spawn.into_future()).await.expect("spawns");
        assert_eq!(worker.data_center().parts().0, other);
        worker.tell(Note(7)).await.expect("accepted");
        assert_eq!(worker.ask(Noted).await.expect("answers"), [7]);
        assert!(system.data_center_ready());
        assert!(system.data_center_last_refresh().is_some_and(|age| age < Duration::from_secs(2)));
    }
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_selector_may_mean_the_own_datacenter_and_strategies_choose_the_node() {
    let world = World::new("own");
    let all = world.start(["dc-1", "dc-2"], 2).await;
    let here = &all[0][0];
    let mut nodes = std::collections::HashSet::new();
    for number in 0..4 {
        let spawn = here.spawn_on::<Worker>(format!("w{number}"), WorkerArgs::default());
        let worker = spawn.in_data_center("dc-1").strategy(Strategy::Random).await.expect("spawns");
        assert_eq!(worker.data_center(), here.data_center().id());
        nodes.insert(worker.node());
    }
    let near = here.spawn_on::<Worker>("near", WorkerArgs::default()).in_data_center("dc-1");
    let near = near.strategy(Strategy::Nearest).await.expect("spawns");
    assert_eq!(near.node(), here.node_id(), "nothing is nearer than itself");
    let plain = here.spawn_on::<Worker>("plain", WorkerArgs::default()).await.expect("spawns");
    assert_eq!(plain.node(), here.node_id());
    assert!(nodes.iter().all(|node| all[0].iter().any(|system| system.node_id() == *node)));
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_dead_endpoint_does_not_fail_a_spawn() {
    let world = World::new("l3");
    let mut all = world.start(["dc-1", "dc-2"], 3).await;
    let dead = all[1].pop().expect("three nodes");
    let gone = dead.node_id();
    // A reference outlives its system, which ends all the same.
    let held = dead.spawn::<Worker>(WorkerArgs::default()).await.expect("spawns");
    // Its record goes on listing it for a while: dropped without a goodbye, as a crash would.
    drop(dead);
    let here = &all[0][0];
    for number in 0..20 {
        let spawn = here.spawn_on::<Worker>(format!("w{number}"), WorkerArgs::default()).in_data_center("dc-2");
        let worker = soon("spawn", spawn.into_future()).await.expect("spawns on a living node");
        assert_ne!(worker.node(), gone);
        assert_eq!(worker.ask(Noted).await, Ok(vec![]));
    }
    crate::world::eventually("its neighbours notice", || async { (all[1][0].members().len() == 2).then_some(()) })
        .await;
    assert!(held.ask(Noted).await.is_err());
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l4_a_placement_explains_itself() {
    let world = World::new("l4");
    let all = world.start(["dc-1", "dc-2"], 1).await;
    let explained = all[0][0].explain("dc-2").expect("a selector that can match").to_string();
    assert!(explained.contains("dc-2: chosen"), "{explained}");
    let explained = all[0][0].explain("dc-9").expect("a selector that can match").to_string();
    assert!(explained.contains("refused"), "{explained}");
    assert!(all[0][0].explain("").is_err());
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reference_is_handed_out_only_after_on_start() {
    let world = World::new("slow-start");
    let all = world.start(["dc-1", "dc-2"], 1).await;
    let began = now();
    let args = WorkerArgs { start: Start::Slow(300), ..WorkerArgs::default() };
    all[0][0].spawn_on::<Worker>("slow", args).in_data_center("dc-2").await.expect("spawns");
    assert!(now() - began >= Duration::from_millis(300));

    let args = WorkerArgs { start: Start::Fails, ..WorkerArgs::default() };
    let failed = all[0][0].spawn_on::<Worker>("fails", args).in_data_center("dc-2").await;
    assert!(matches!(&failed, Err(Error::StartFailed { reason, .. }) if reason.contains("told to fail")), "{failed:?}");
    let again = all[0][0].spawn_on::<Worker>("fails", WorkerArgs::default()).in_data_center("dc-2").await;
    assert!(again.is_ok(), "its name is free: {again:?}");
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_a_name_is_taken_once_in_a_datacenter_and_free_when_its_actor_has_ended() {
    let world = World::new("a2");
    let all = world.start(["dc-1", "dc-2"], 2).await;
    let (here, neighbour, far) = (&all[0][0], &all[0][1], &all[1][0]);
    let spawns = (0..10).map(|number| {
        let system = if number % 2 == 0 { here } else { neighbour };
        system.spawn_on::<Worker>("only-one", WorkerArgs::default()).into_future()
    });
    let results = soon("all spawns", futures::future::join_all(spawns)).await;
    let (ok, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(ok.len(), 1, "{refused:?}");
    assert!(refused.iter().all(|result| matches!(result, Err(Error::NameTaken { name, .. }) if name == "only-one")));

    let elsewhere = far.spawn_on::<Worker>("only-one", WorkerArgs::default()).await;
    assert!(elsewhere.is_ok(), "a per-DC name: {elsewhere:?}");

    let first = here.actor_of::<Worker>("only-one").await.expect("found");
    first.ask(crate::actors::StopNow).await.expect("stops");
    crate::world::eventually("the name is free", || async {
        neighbour.spawn_on::<Worker>("only-one", WorkerArgs::default()).await.ok()
    })
    .await;
    shut_down(all).await;
}

/// The body of a spawn, as `docs/wire.md` describes it.
#[derive(Clone, PartialEq, prost::Message)]
struct SpawnBody {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "bytes", tag = "3")]
    request: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    args: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    policy: Bytes,
}

/// Why there is no place.
#[derive(Clone, PartialEq, prost::Message)]
struct Refused {
    #[prost(bool, tag = "1")]
    not_run: bool,
    #[prost(string, tag = "2")]
    text: String,
}

/// The links of a node that is none of the test's.
async fn stranger(world: &str) -> Remoting {
    let stranger = DataCenter::new("dc-9").build().unwrap();
    let config = RemotingConfig::builder(SystemName::new(world).unwrap(), stranger.id().clone(), NodeId(9));
    Remoting::start(config.build().unwrap(), Arc::new(TokioClock), Services::new()).await.expect("starts")
}

/// Asks a node for a spawn: status and body of its answer.
async fn ask_to_spawn(links: &Remoting, system: &ActorSystem, body: &SpawnBody) -> (u32, Bytes) {
    let peer = links.peer(PeerTarget::node(system.endpoint().clone(), system.node_id()));
    let body = Bytes::from(body.encode_to_vec());
    let asked = peer.call_for_answer(ServiceId(16), body, Duration::from_secs(10)).await;
    let answer = asked.expect("answers");
    (answer.status, answer.body)
}

/// Asks every node twice for one and the same spawn.
async fn spawn_again_and_again(world: &str, all: &[Vec<ActorSystem>], args: &WorkerArgs) -> Vec<(u32, Bytes)> {
    let links = stranger(world).await;
    let body = SpawnBody {
        kind: "worker".into(),
        name: "once".into(),
        request: Bytes::from_static(&[7; 16]),
        args: postcard::to_allocvec(args).unwrap().into(),
        policy: Bytes::new(),
    };
    let mut answers = Vec::new();
    for system in all.iter().flatten().chain(all.iter().flatten()) {
        answers.push(ask_to_spawn(&links, system, &body).await);
    }
    links.shutdown(Duration::ZERO).await;
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_repeated_spawn_is_not_a_second_run() {
    let world = World::new("l3-repeat");
    let all = world.start(["dc-1"], 3).await;
    let mut places = spawn_again_and_again("l3-repeat", &all, &WorkerArgs::default()).await;
    assert!(places.iter().all(|(status, _)| *status == 0), "{places:?}");
    places.dedup();
    assert_eq!(places.len(), 1, "one and the same place");
    assert_eq!(all[0].iter().map(ActorSystem::actor_count).sum::<usize>(), 1, "one actor");
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_repeated_spawn_of_what_failed_to_start_is_told_so() {
    let world = World::new("l3-failed");
    let all = world.start(["dc-1"], 3).await;
    let args = WorkerArgs { start: Start::Fails, ..WorkerArgs::default() };
    for (status, body) in spawn_again_and_again("l3-failed", &all, &args).await {
        assert_ne!(status, 0, "{body:?}");
        assert!(String::from_utf8_lossy(&body).contains("fail"), "{body:?}");
    }
    assert_eq!(all[0].iter().map(ActorSystem::actor_count).sum::<usize>(), 0);
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_global_spawn_that_is_repeated_while_its_name_is_claimed_is_told_what_the_first_is() {
    let _turn = turn().await;
    let world = World::new("l3-global");
    let sites = sites(&world, [("dc-1", 1)]).await;
    let system = &sites[0].nodes[0];
    let links = stranger("l3-global").await;
    let body = |request: &'static [u8; 16]| SpawnBody {
        kind: "keeper".into(),
        name: "once".into(),
        request: Bytes::from_static(request),
        args: postcard::to_allocvec(&opening("l3-global")).unwrap().into(),
        policy: serde_json::to_vec(&Policy::default()).unwrap().into(),
    };
    let (one, other) = (body(&[7; 16]), body(&[8; 16]));
    // So long that the second try comes while the first one claims.
    sites[0].planes[0].delay(Duration::from_millis(400));
    let (first, again) = tokio::join!(ask_to_spawn(&links, system, &one), ask_to_spawn(&links, system, &one));
    assert_eq!((first.0, &first), (0, &again), "one and the same place");
    let (status, refused) = ask_to_spawn(&links, system, &other).await;
    assert_ne!(status, 0, "another spawn finds it taken: {refused:?}");
    assert_eq!(system.actor_count(), 1, "one actor");
    sites[0].planes[0].delay(Duration::ZERO);
    links.shutdown(Duration::ZERO).await;
    end(sites).await;
}

/// Where the making of arguments is held up, by name: true where somebody waits.
static GATES: LazyLock<(Mutex<HashMap<String, bool>>, Condvar)> = LazyLock::new(Default::default);

static MADE: LazyLock<Mutex<HashMap<String, u32>>> = LazyLock::new(Mutex::default);

/// A name whose [`Gated`] is held up between the claim of its name and its start, until this is opened.
pub(crate) struct Gate(&'static str);

impl Gate {
    pub(crate) fn closed(name: &'static str) -> Self {
        GATES.0.lock().expect("no test panics with it").insert(name.to_owned(), false);
        Self(name)
    }

    pub(crate) async fn until_reached(&self) {
        eventually("it is held up", || async {
            let gates = GATES.0.lock().expect("no test panics with it");
            (gates.get(self.0) == Some(&true)).then_some(())
        })
        .await;
    }

    pub(crate) fn open(self) {
        GATES.0.lock().expect("no test panics with it").remove(self.0);
        GATES.1.notify_all();
    }

    fn pass(name: &str) {
        // In place: the runtime's workers go on, however many wait here. What opens it runs there.
        let opened = tokio::task::block_in_place(|| {
            let mut gates = GATES.0.lock().expect("no test panics with it");
            let Some(reached) = gates.get_mut(name) else { return true };
            *reached = true;
            let (_gates, waited) = GATES.1.wait_timeout_while(gates, SOON, |gates| gates.contains_key(name)).unwrap();
            !waited.timed_out()
        });
        assert!(opened, "{name} is opened in time");
    }
}

/// An actor, or a grain, whose arguments pass a gate when they are made.
#[derive(RemoteActor)]
#[remote(name = "gated")]
pub(crate) struct Gated;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct GatedArgs(pub(crate) String);

impl GatedArgs {
    pub(crate) fn of(name: &str) -> Self {
        *MADE.lock().expect("no test panics with it").entry(name.to_owned()).or_default() += 1;
        Gate::pass(name);
        Self(name.to_owned())
    }

    /// How often those of this name were made.
    pub(crate) fn made(name: &str) -> u32 {
        MADE.lock().expect("no test panics with it").get(name).copied().unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for GatedArgs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|name| Self::of(&name))
    }
}

impl Actor for Gated {
    type Args = GatedArgs;
    type Error = Infallible;
    async fn on_start(args: GatedArgs, _: ActorRef<Self>) -> Result<Self, Infallible> {
        if args.0.starts_with("slow") {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        assert!(!args.0.starts_with("fails"), "told to fail");
        Ok(Self)
    }
}

impl Message<Noted> for Gated {
    type Reply = u32;
    async fn handle(&mut self, _: Noted, _: &mut Context<Self, u32>) -> u32 {
        7
    }
}

/// The first fields of a directory's questions and answers, as members of a datacenter exchange them.
#[derive(Serialize, Deserialize)]
struct Framed<T> {
    clock: u64,
    body: T,
}

#[derive(Serialize)]
#[expect(dead_code, reason = "the place of a variant is its number on the wire")]
enum Question {
    Claim,
    Lookup { key: String, backup: bool },
    Release,
    Replicate,
    Forget,
    Pull,
    Evict { lost: Box<dc_cluster::Entry>, kept: Box<dc_cluster::Entry> },
}

#[derive(Deserialize)]
enum Told {
    Granted,
    Same,
    Taken,
    Found(Option<dc_cluster::Entry>),
}

/// Tells `system` what a member that answers for `key` would, after a partition in which an older actor had it.
pub(crate) async fn evict(world: &str, system: &ActorSystem, key: &str) {
    let config = RemotingConfig::builder(SystemName::new(world).unwrap(), system.data_center().id().clone(), NodeId(9));
    let links = Remoting::start(config.build().unwrap(), Arc::new(TokioClock), Services::new()).await.expect("starts");
    let peer = links.peer(PeerTarget::node(system.endpoint().clone(), system.node_id()));
    let ask = async |body: Question| {
        let body = postcard::to_allocvec(&Framed { clock: 0, body }).unwrap();
        soon("an answer", peer.call(ServiceId(1), body.into(), SOON)).await.expect("answers")
    };
    let answer = ask(Question::Lookup { key: key.to_owned(), backup: false }).await;
    let told: Framed<Told> = postcard::from_bytes(&answer).expect("reads");
    let Told::Found(Some(lost)) = told.body else { panic!("{key} is held") };
    let kept = dc_cluster::Entry { holder: NodeId(9), age: 0, ..lost.clone() };
    ask(Question::Evict { lost: Box::new(lost), kept: Box::new(kept) }).await;
    links.shutdown(Duration::ZERO).await;
}

/// Nodes of one datacenter that know [`Gated`] as an actor.
async fn gated(world: &World, count: usize) -> Vec<Vec<ActorSystem>> {
    let mut nodes: Vec<ActorSystem> = Vec::new();
    for _ in 0..count {
        let seeds: Vec<_> = nodes.first().into_iter().collect();
        let node = world.describe("dc-1", &seeds).actor::<Gated>(|kind| kind.handles::<Noted>()).start().await;
        nodes.push(node.expect("starts"));
    }
    let all = vec![nodes];
    crate::world::until_known(&all).await;
    all
}

/// The question for a [`Gated`], the same each time: a repeated try.
fn gated_body(name: &str) -> SpawnBody {
    SpawnBody {
        kind: "gated".into(),
        name: name.into(),
        request: Bytes::copy_from_slice(format!("{name:0>16}").as_bytes()),
        args: postcard::to_allocvec(name).unwrap().into(),
        policy: Bytes::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_an_eviction_between_claim_and_start_stops_the_actor() {
    let world = World::new("a2-early");
    let all = gated(&world, 1).await;
    let gate = Gate::closed("a2-early");
    let spawn = all[0][0].spawn_on::<Gated>("evicted", GatedArgs("a2-early".into())).in_data_center("dc-1");
    let spawn = tokio::spawn(spawn.into_future());
    gate.until_reached().await;
    evict("a2-early", &all[0][0], "a/evicted").await;
    gate.open();
    let failed = soon("spawn", spawn).await.unwrap();
    assert!(matches!(failed, Err(Error::StartFailed { .. })), "{failed:?}");
    assert_eq!(all[0][0].actor_count(), 0, "it has ended");
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_a_spawn_under_way_does_not_outlive_shutdown() {
    let world = World::new("d6-spawn");
    let all = gated(&world, 1).await;
    let system = all[0][0].clone();
    let gate = Gate::closed("d6-spawn");
    let spawn = system.spawn_on::<Gated>("late", GatedArgs("d6-spawn".into())).in_data_center("dc-1");
    let spawn = tokio::spawn(spawn.into_future());
    gate.until_reached().await;
    shut_down(all).await;
    gate.open();
    let failed = soon("spawn", spawn).await.unwrap();
    assert!(matches!(failed, Err(Error::StartFailed { .. })), "{failed:?}");
    assert_eq!(system.actor_count(), 0, "it has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_spawn_whose_node_died_before_it_started_is_not_told_that_it_has() {
    const NAMES: [&str; 4] = ["l3-died-0", "l3-died-1", "l3-died-2", "l3-died-3"];
    let world = World::new("l3-died");
    let mut all = gated(&world, 3).await;
    let nodes = &mut all[0];
    let links = stranger("l3-died").await;
    // All have claimed their names on one node, and have not started, when that one dies.
    let dies = nodes.pop().expect("three nodes");
    let gates = NAMES.map(Gate::closed);
    for name in NAMES {
        let peer = links.peer(PeerTarget::node(dies.endpoint().clone(), dies.node_id()));
        let body = Bytes::from(gated_body(name).encode_to_vec());
        tokio::spawn(async move { peer.call_for_answer(ServiceId(16), body, SOON).await });
    }
    for gate in &gates {
        gate.until_reached().await;
    }
    drop(dies);
    let again = tokio::spawn({
        let (links, node, bodies) = (links.clone(), nodes[0].clone(), NAMES.map(gated_body));
        async move { futures::future::join_all(bodies.iter().map(|body| ask_to_spawn(&links, &node, body))).await }
    });
    eventually("the others notice", || async { (nodes[0].members().len() == 2).then_some(()) }).await;
    for gate in gates {
        gate.open();
    }
    for (status, answer) in soon("all answer", again).await.expect("asks") {
        assert_eq!(status, 0, "{answer:?}");
    }
    assert_eq!(nodes[0].actor_count(), NAMES.len(), "each has started on a node that lives");
    links.shutdown(Duration::ZERO).await;
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_repeated_spawn_whose_first_try_does_not_say_whether_it_started_may_have_run() {
    let world = World::new("l3-silent");
    let all = gated(&world, 2).await;
    let nodes = &all[0];
    let links = stranger("l3-silent").await;
    let body = gated_body("l3-silent");
    let gate = Gate::closed("l3-silent");
    let first = tokio::spawn({
        let (links, node, body) = (links.clone(), nodes[0].clone(), body.clone());
        async move { ask_to_spawn(&links, &node, &body).await }
    });
    gate.until_reached().await;
    // Long enough to ask the first one twice. The answer may come as the time is over.
    let peer = links.peer(PeerTarget::node(nodes[1].endpoint().clone(), nodes[1].node_id()));
    let asked = peer.call_for_answer(ServiceId(16), body.encode_to_vec().into(), Duration::from_millis(1_500)).await;
    match asked {
        Ok(answer) => {
            assert_ne!(answer.status, 0, "nobody knows that it runs");
            let refused = Refused::decode(answer.body).expect("an error");
            assert!(!refused.not_run, "{}", refused.text);
        }
        Err(error) => assert!(!error.certainly_not_run(), "{error}"),
    }
    gate.open();
    let (status, place) = first.await.expect("asks");
    let again = ask_to_spawn(&links, &nodes[1], &body).await;
    assert_eq!((status, &place), (0, &again.1), "one and the same place: {again:?}");
    assert_eq!(nodes.iter().map(ActorSystem::actor_count).sum::<usize>(), 1, "one actor");
    links.shutdown(Duration::ZERO).await;
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spawns_timeout_is_kept_while_the_actor_starts_on_this_node() {
    let world = World::new("spawn-timeout");
    let all = world.start(["dc-1"], 1).await;
    let args = WorkerArgs { start: Start::Slow(2_000), ..WorkerArgs::default() };
    let began = now();
    let late = all[0][0].spawn_on::<Worker>("late", args).timeout(Duration::from_millis(100)).await.unwrap_err();
    assert!(now() - began < Duration::from_millis(1_500), "{:?}", now() - began);
    assert!(matches!(late, Error::Timeout { not_run: false, .. }), "{late:?}");
    let worker = eventually("it goes on", || async { all[0][0].actor_of::<Worker>("late").await.ok() }).await;
    assert_eq!(soon("an answer", worker.ask(Noted).into_future()).await, Ok(vec![]));
    shut_down(all).await;
}
