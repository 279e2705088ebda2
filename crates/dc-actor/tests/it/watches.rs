//! Watching actors: what is told when they, their nodes and their datacenters end, and what is not told (A7).

use std::time::Duration;

use dc_actor::{ActorChange, ActorSystem, ActorWatch, Authority, EndReason, Error, Event, Ref, Rights};
use dc_controlplane::TokioClock;
use dc_core::{DataCenterId, Endpoint, NodeId, SystemName};
use dc_remoting::{Remoting, RemotingConfig, Services};
use futures::FutureExt;
use serde::Serialize;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::{
    actors::{AddItem, Cart, Note, Noted, PanicNow, Phoenix, StopNow, WhoAreYou, Worker, WorkerArgs},
    world::{SOON, World, event, eventually, shut_down, soon, until_known},
};

/// Long enough for what must not happen to happen: more than a node that nobody lists is waited for.
const QUIET: Duration = Duration::from_secs(4);

async fn next(watch: &mut ActorWatch) -> Option<ActorChange> {
    soon("the watch tells something", watch.next()).await
}

/// The end of what is watched: told once, and the last word.
pub(crate) async fn ended(watch: &mut ActorWatch) -> EndReason {
    let change = next(watch).await;
    let Some(ActorChange::Terminated { reason }) = change else { panic!("not an end: {change:?}") };
    assert_eq!(next(watch).await, None, "nothing follows");
    reason
}

/// Where it has moved, and under which epoch.
pub(crate) async fn moved(watch: &mut ActorWatch) -> (String, NodeId, u64) {
    let change = next(watch).await;
    let Some(ActorChange::Moved { data_center, node, epoch }) = change else { panic!("no move: {change:?}") };
    (data_center.to_string(), node, epoch)
}

/// Nothing is told by now.
pub(crate) fn silent(watch: &mut ActorWatch, why: &str) {
    let told = watch.next().now_or_never();
    assert!(told.is_none(), "{why}: {told:?}");
}

/// Nothing is told, although there is time for it.
pub(crate) async fn quiet(watch: &mut ActorWatch, why: &str) {
    let told = tokio::time::timeout(QUIET, watch.next()).await;
    assert!(told.is_err(), "{why}: {told:?}");
}

async fn worker(from: &ActorSystem, name: &str, at: &ActorSystem) -> Ref<Worker> {
    from.spawn_on::<Worker>(name, WorkerArgs::default()).on_node(at.node_id()).await.expect("spawns")
}

/// Ends when `at` knows everything that `from` watches there by now: what is told of this one has been told after the
/// others, or with them.
async fn known(from: &ActorSystem, at: &ActorSystem) {
    let gone = at.spawn::<Worker>(WorkerArgs::default()).await.expect("spawns");
    gone.tell(StopNow).await.expect("accepted");
    ended(&mut at.watch(&gone)).await;
    assert_eq!(ended(&mut from.watch(&gone)).await, EndReason::Gone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_an_end_is_told_once_with_its_reason_wherever_the_actor_is() {
    let world = World::new("a7-ends");
    let all = world.start(["dc-1", "dc-2"], 2).await;
    let here = &all[0][0];
    for (place, at) in [("here", here), ("beside", &all[0][1]), ("far", &all[1][0])] {
        let stops = worker(here, &format!("{place}-stops"), at).await;
        let panics = worker(here, &format!("{place}-panics"), at).await;
        let (mut one, mut other, mut failing) = (here.watch(&stops), here.watch(&stops), here.watch(&panics));
        known(here, at).await;
        stops.tell(StopNow).await.expect("accepted");
        assert_eq!(ended(&mut one).await, EndReason::Stopped, "{place}");
        assert_eq!(ended(&mut other).await, EndReason::Stopped, "{place}");
        panics.tell(PanicNow).await.expect("accepted");
        let reason = ended(&mut failing).await;
        assert!(matches!(&reason, EndReason::Failed { why } if why.contains("told to panic")), "{place}: {reason}");

        // What has ended is gone at once; its name was free when that was told.
        assert_eq!(ended(&mut here.watch(&stops)).await, EndReason::Gone, "{place}");
        let again = worker(here, &format!("{place}-stops"), at).await;
        assert_ne!(again, stops);
        let mut watch = here.watch(&again);
        assert_eq!(again.ask(Noted).await, Ok(vec![]));
        silent(&mut watch, "another actor of that name lives");
    }
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_a_restart_in_place_is_no_end_and_the_last_failure_is() {
    let world = World::new("a7-restarts");
    let all = world.start(["dc-1", "dc-2"], 1).await;
    let here = &all[0][0];
    let phoenix: Ref<Phoenix> = here.spawn_on("p", 7).on_node(all[1][0].node_id()).await.expect("spawns");
    let mut watch = here.watch(&phoenix);
    known(here, &all[1][0]).await;
    // As often as its kind allows.
    for restart in 1..=3 {
        assert_eq!(phoenix.ask(Note(1)).await, Ok(8));
        phoenix.tell(PanicNow).await.expect("accepted");
        eventually("it is there again", || async { (phoenix.ask(Note(0)).await == Ok(7)).then_some(()) }).await;
        silent(&mut watch, &format!("restarted {restart} times"));
    }
    phoenix.tell(PanicNow).await.expect("accepted");
    let reason = ended(&mut watch).await;
    assert!(matches!(reason, EndReason::Failed { .. }), "{reason}");
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_a_shutdown_tells_others_that_its_actors_stopped_and_ends_its_own_watches() {
    let world = World::new("a7-shutdown");
    let all = world.start(["dc-1", "dc-2"], 1).await;
    let (here, far) = (all[0][0].clone(), all[1][0].clone());
    let (own, other) = (worker(&here, "own", &here).await, worker(&here, "other", &far).await);
    let (mut of_own, mut of_other) = (here.watch(&own), here.watch(&other));
    let mut from_far = far.watch(&own);
    known(&far, &here).await;
    let waits = tokio::spawn(async move { of_other.next().await });
    soon("shutdown", here.shutdown()).await.expect("ends in good order");
    assert_eq!(ended(&mut from_far).await, EndReason::Stopped, "told before the links went");
    assert_eq!(soon("the end of the stream", waits).await.expect("no panic"), None, "no word of what lives on");
    assert_eq!(ended(&mut of_own).await, EndReason::Stopped);
    assert_eq!(soon("nothing is told", here.watch(&other).next()).await, None, "the system has ended");
    shut_down(vec![vec![far]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_a_lost_node_of_the_own_datacenter_ends_what_ran_there() {
    let world = World::new("a7-node");
    let mut all = world.start(["dc-1"], 3).await;
    let lost = all[0].pop().expect("a third one");
    let here = all[0][0].clone();
    let mut watches = Vec::new();
    for number in 0..20 {
        watches.push(here.watch(&worker(&here, &format!("w{number}"), &lost).await));
    }
    let (stays, goes) = (worker(&here, "stays", &all[0][1]).await, worker(&here, "goes", &lost).await);
    let mut stays_watch = here.watch(&stays);
    // As a crash: it falls silent, and takes no leave.
    drop(lost);
    for watch in &mut watches {
        assert_eq!(ended(watch).await, EndReason::NodeLost);
    }
    assert_eq!(ended(&mut here.watch(&goes)).await, EndReason::NodeLost, "it was lost before it was watched");
    assert_eq!(stays.ask(Noted).await, Ok(vec![]));
    silent(&mut stays_watch, "its node lives");
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_a_lost_node_and_a_lost_datacenter_are_told_apart_from_afar() {
    let world = World::new("a7-dc");
    let mut all = world.start(["dc-1", "dc-2"], 2).await;
    let mut far = all.pop().expect("dc-2");
    let here = all[0][0].clone();
    let (one, other) = (worker(&here, "one", &far[1]).await, worker(&here, "other", &far[0]).await);
    let (mut of_one, mut of_other) = (here.watch(&one), here.watch(&other));
    assert_eq!(other.ask(Noted).await, Ok(vec![]));
    drop(far.pop());
    assert_eq!(ended(&mut of_one).await, EndReason::NodeLost, "its datacenter goes on without it");
    assert_eq!(other.ask(Noted).await, Ok(vec![]));
    silent(&mut of_other, "its node lives");
    drop(far);
    assert_eq!(ended(&mut of_other).await, EndReason::DataCenterLost, "the record has expired");
    assert_eq!(ended(&mut here.watch(&other)).await, EndReason::DataCenterLost);
    shut_down(all).await;
}

/// A way to a node that can be cut: connections break, and no new ones come about.
struct Wire {
    endpoint: String,
    open: watch::Sender<bool>,
}

impl Wire {
    async fn new(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = listener.local_addr().expect("bound").to_string();
        let (open, state) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut state = state.clone();
                tokio::spawn(async move {
                    let carry = async {
                        let mut far = TcpStream::connect(("127.0.0.1", to)).await?;
                        copy_bidirectional(&mut near, &mut far).await
                    };
                    tokio::select! {
                        _ = carry => {}
                        _ = state.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Self { endpoint, open }
    }
}

/// A port that was free just now.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_a_broken_link_is_no_end_and_what_ended_meanwhile_is_told_over_the_next_one() {
    let world = World::new("a7-link");
    let here = world.describe("dc-1", &[]).start().await.expect("starts");
    let port = free_port();
    let wire = Wire::new(port).await;
    let far = world.describe("dc-2", &[]).listen(format!("127.0.0.1:{port}")).advertise(&wire.endpoint);
    let far = far.start().await.expect("starts");
    let all = vec![vec![here.clone()], vec![far.clone()]];
    until_known(&all).await;
    let [stays, stops, panics] = ["stays", "stops", "panics"].map(|name| worker(&here, name, &far));
    let (stays, stops, panics) = (stays.await, stops.await, panics.await);
    let (mut of_stays, mut of_stops, mut of_panics) = (here.watch(&stays), here.watch(&stops), here.watch(&panics));
    let mut dropped = here.watch(&stays);
    known(&here, &far).await;

    wire.open.send_replace(false);
    eventually("the link is broken", || async { stays.ask(Noted).await.err() }).await;
    let mut late = here.watch(&stops);
    quiet(&mut of_stays, "broken, and alive: its datacenter lists its node").await;
    for (name, how) in [("stops", true), ("panics", false)] {
        let there = far.actor_of::<Worker>(name).await.expect("it is there");
        let mut seen = far.watch(&there);
        match how {
            true => there.tell(StopNow).await.expect("accepted"),
            false => there.tell(PanicNow).await.expect("accepted"),
        }
        ended(&mut seen).await;
    }
    drop(std::mem::replace(&mut dropped, here.watch(&stays)));
    silent(&mut of_stops, "that cannot be known yet");
    wire.open.send_replace(true);
    assert_eq!(ended(&mut of_stops).await, EndReason::Stopped, "with its reason");
    let reason = ended(&mut of_panics).await;
    assert!(matches!(&reason, EndReason::Failed { why } if why.contains("told to panic")), "{reason}");
    let reason = ended(&mut late).await;
    assert!(matches!(reason, EndReason::Stopped | EndReason::Gone), "{reason}");
    assert_eq!(stays.ask(Noted).timeout(SOON).await, Ok(vec![]));
    quiet(&mut of_stays, "it lives on").await;
    silent(&mut dropped, "watched while the link was broken");
    stays.tell(StopNow).await.expect("accepted");
    assert_eq!(ended(&mut of_stays).await, EndReason::Stopped, "over the new link");
    assert_eq!(ended(&mut dropped).await, EndReason::Stopped);
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_another_run_of_a_node_at_its_address_is_not_that_node() {
    let world = World::new("a7-rerun");
    let here = world.describe("dc-1", &[]).start().await.expect("starts");
    let port = free_port();
    let describe = || world.describe("dc-2", &[]).listen(format!("127.0.0.1:{port}"));
    let far = describe().start().await.expect("starts");
    until_known(&[vec![here.clone()], vec![far.clone()]]).await;
    let first = worker(&here, "w", &far).await;
    let mut watch = here.watch(&first);
    assert_eq!(first.ask(Noted).await, Ok(vec![]));
    drop(far);
    let again = eventually("its port is free again", || async { describe().start().await.ok() }).await;
    // On a busy machine the record may have expired before the new run renews it.
    let reason = ended(&mut watch).await;
    assert!(matches!(reason, EndReason::NodeLost | EndReason::DataCenterLost), "{reason}");
    until_known(&[vec![here.clone()], vec![again.clone()]]).await;
    // The link to that address may still wait after an attempt that failed.
    let second = eventually("it is reached", || async {
        here.spawn_on::<Worker>("w", WorkerArgs::default()).on_node(again.node_id()).await.ok()
    })
    .await;
    let mut watch = here.watch(&second);
    assert_eq!(second.ask(Noted).await, Ok(vec![]));
    silent(&mut watch, "it lives");
    assert_eq!(ended(&mut here.watch(&first)).await, EndReason::NodeLost);
    shut_down(vec![vec![here], vec![again]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_watches_are_bounded_here_and_there_and_a_dropped_one_is_given_back() {
    let world = World::new("a7-bounds");
    let here = world.describe("dc-1", &[]).max_watches(8).start().await.expect("starts");
    let far = world.describe("dc-2", &[]).max_watches(2).start().await.expect("starts");
    let all = vec![vec![here.clone()], vec![far.clone()]];
    until_known(&all).await;
    let mut workers = Vec::new();
    for number in 0..4 {
        workers.push(worker(&here, &format!("w{number}"), &far).await);
    }
    // One actor counts once there, however often it is watched.
    let mut many: Vec<_> = (0..7).map(|_| here.watch(&workers[0])).collect();
    let mut second = here.watch(&workers[1]);
    drop(many.pop());
    // What is gone takes no room.
    known(&here, &far).await;
    many.push(here.watch(&workers[0]));
    let refused = ended(&mut here.watch(&workers[2])).await;
    assert!(
        matches!(&refused, EndReason::Refused(Error::Overloaded { what }) if what.contains("dc-1")),
        "this node's bound: {refused}"
    );
    drop(many.pop());
    let refused = ended(&mut here.watch(&workers[2])).await;
    assert!(
        matches!(&refused, EndReason::Refused(Error::Overloaded { what }) if what.contains("one node")),
        "the far node's bound: {refused}"
    );
    silent(&mut second, "that harms no other");
    // Dropped here, they are given back there; and so are those that have ended.
    drop(second);
    many.clear();
    known(&here, &far).await;
    for round in workers[2..].chunks(2).chain([&workers[..2]]) {
        let mut watches: Vec<_> = round.iter().map(|worker| here.watch(worker)).collect();
        known(&here, &far).await;
        for (watch, worker) in watches.iter_mut().zip(round) {
            silent(watch, "there is room");
            worker.tell(StopNow).await.expect("accepted");
            assert_eq!(ended(watch).await, EndReason::Stopped);
        }
    }
    shut_down(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_a_datacenter_watches_what_it_may_call_and_nothing_else() {
    let world = World::new("a7-authority");
    let authority = Authority::deny_by_default()
        .allow("dc-2", Rights::none())
        .and_then(|authority| authority.allow("dc-3", Rights::none().call_message::<Worker, Noted>()))
        .expect("good rights");
    let first = world.describe("dc-1", &[]).authority(authority).start().await.expect("starts");
    let second = world.describe("dc-2", &[]).start().await.expect("starts");
    let third = world.describe("dc-3", &[]).start().await.expect("starts");
    let all = vec![vec![first.clone()], vec![second.clone()], vec![third.clone()]];
    until_known(&all).await;
    let worker = worker(&first, "w", &first).await;
    let mut events = first.events();
    let bytes = postcard::to_allocvec(&worker).expect("a reference can be written");
    let read = || postcard::from_bytes::<Ref<Worker>>(&bytes).expect("and read");

    let refused = ended(&mut second.watch(&read())).await;
    let EndReason::Refused(error @ Error::Unauthorized { .. }) = &refused else { panic!("{refused}") };
    assert!(error.to_string().contains("watch actors of kind \"worker\""), "{error}");
    let what = event(&mut events, "the refusal is told there", |event| match event {
        Event::Unauthorized { data_center, what } if data_center.as_str() == "dc-2" => Some(what),
        _ => None,
    });
    assert_eq!(what.await, "watch actors of kind \"worker\"");
    let mut allowed = third.watch(&read());
    known(&third, &first).await;
    silent(&mut allowed, "it lives");
    worker.tell(StopNow).await.expect("accepted");
    assert_eq!(ended(&mut allowed).await, EndReason::Stopped);
    shut_down(all).await;
}

/// A reference as it is written.
#[derive(Serialize)]
struct Written {
    kind: &'static str,
    dc: DataCenterId,
    node: NodeId,
    endpoint: Endpoint,
    actor: u64,
    name: Option<String>,
    grain: Option<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_a_node_that_knows_nothing_of_watches_is_told_apart_and_keeps_its_link() {
    let world = World::new("a7-old");
    let here = world.describe("dc-1", &[]).start().await.expect("starts");
    let (dc, node): (DataCenterId, _) = ("dc-2".parse().expect("legal"), NodeId(7));
    let config = RemotingConfig::builder(SystemName::new("a7-old").expect("legal"), dc.clone(), node);
    let clock = std::sync::Arc::new(TokioClock);
    let old = Remoting::start(config.build().expect("legal"), clock, Services::new()).await.expect("listens");
    let endpoint = old.local().advertised.clone();
    let written = Written { kind: "worker", dc, node, endpoint, actor: 3, name: None, grain: None };
    let bytes = postcard::to_allocvec(&written).expect("can be written");
    let there: Ref<Worker> = postcard::from_bytes(&bytes).expect("a reference");
    assert_eq!(ended(&mut here.watch(&there)).await, EndReason::Unsupported);
    assert_eq!(old.taken().links, 1, "nothing happened to its link");
    old.shutdown(Duration::ZERO).await;
    assert_eq!(ended(&mut here.watch(&there)).await, EndReason::DataCenterLost, "nobody lists it");
    shut_down(vec![vec![here]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_grains_without_a_place_in_the_world_are_refused_and_activations_end() {
    let world = World::new("a7-grains");
    let all = world.start(["dc-1", "dc-2"], 1).await;
    let here = &all[0][0];
    let cart = here.grain::<Cart>("c");
    cart.ask(AddItem(1)).await.expect("active");
    let refused = ended(&mut here.watch(&cart)).await;
    assert!(matches!(&refused, EndReason::Refused(Error::Invalid { value, .. }) if value == "cart/c"), "{refused}");
    // What an actor says of itself is that actor.
    let worker = worker(here, "w", &all[1][0]).await;
    let itself = worker.ask(WhoAreYou).await.expect("answers").expect("an actor of a system");
    let mut watch = here.watch(&itself);
    known(here, &all[1][0]).await;
    worker.tell(StopNow).await.expect("accepted");
    assert_eq!(ended(&mut watch).await, EndReason::Stopped);
    shut_down(all).await;
}
