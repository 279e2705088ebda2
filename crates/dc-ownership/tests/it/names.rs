//! Global names.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use dc_core::{DataCenterId, DataCenterSelector, Epoch, Selector};
use dc_ownership::{
    Change, DrainEnd, DrainOptions, OwnershipError, OwnershipEvent, Standing,
    policy::{Failback, Loss, OnLoss, Policy, Strictness},
};

use crate::support::{TTL, World, name, now, spec, survivor, until};

#[tokio::test(start_paused = true)]
async fn a2_a_global_name_has_one_owner_and_the_second_claim_names_the_first() {
    let world = World::new();
    let (a, b) = (world.node("us-1", &[]), world.node("eu-1", &[]));
    a.own.until_ready().await;
    b.own.until_ready().await;
    let title = a.own.claim(spec("ledger-7", &survivor())).await.expect("free");
    assert_eq!(title.check(), Ok(()));
    match b.own.claim(spec("ledger-7", &survivor())).await {
        Err(OwnershipError::NameTaken { holder, .. }) => {
            assert_eq!(holder.epoch, title.epoch());
            assert_eq!(holder.holder, a.own.holder());
        }
        other => panic!("{other:?}"),
    }
    let found = b.own.look_up("ledger-7").await.expect("the store answers").expect("it is there");
    assert_eq!((found.holder, found.epoch), (a.own.holder(), title.epoch()));
    assert!(b.own.look_up("nobody").await.expect("the store answers").is_none());
}

#[tokio::test(start_paused = true)]
async fn a2_who_is_behind_the_store_finds_the_owner_of_a_name_all_the_same() {
    let world = World::new();
    let a = world.node("us-1", &[]);
    a.own.until_ready().await;
    let title = a.own.claim(spec("x", &survivor())).await.expect("free");
    // It has seen nothing of the store yet, and asks for the name alone.
    let b = world.node("eu-1", &[]);
    let found = b.own.look_up("x").await.expect("the store answers").expect("it is there");
    assert_eq!((found.holder, found.epoch), (a.own.holder(), title.epoch()));
}

#[tokio::test(start_paused = true)]
async fn a2_of_claims_from_all_datacenters_at_once_one_is_granted() {
    let world = World::new();
    let nodes: Vec<_> = ["us-1", "us-1", "eu-1", "eu-1", "ap-1"].map(|dc| world.node(dc, &[])).into();
    for node in &nodes {
        node.own.until_ready().await;
    }
    let claims = nodes.iter().map(|node| node.own.claim(spec("one", &survivor())));
    let answers = futures::future::join_all(claims).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
    let taken = |answer: &&Result<_, _>| matches!(answer, Err(OwnershipError::NameTaken { .. }));
    assert_eq!(answers.iter().filter(taken).count(), 4, "{answers:?}");
}

#[tokio::test(start_paused = true)]
async fn g3_a_name_that_was_released_and_claimed_again_has_a_higher_epoch() {
    let world = World::new();
    let (a, b) = (world.node("us-1", &[]), world.node("eu-1", &[]));
    b.own.until_ready().await;
    let first = a.own.claim(spec("x", &survivor())).await.expect("free");
    a.own.release("x", first.epoch()).await.expect("ours");
    assert!(first.check().is_err(), "released");
    a.own.release("x", first.epoch()).await.expect("already gone");
    let second = b.own.claim(spec("x", &survivor())).await.expect("free again");
    assert!(second.epoch() > first.epoch());
    a.own.release("x", first.epoch()).await.expect("another's: nothing to do");
    assert_eq!(second.check(), Ok(()), "a late release touches nobody else's");
    assert!(world.store.documents("n/").len() == 1);
}

#[tokio::test(start_paused = true)]
async fn g4_a_name_that_survives_its_datacenter_is_started_in_another_within_the_ttl_and_two_seconds() {
    let world = World::new();
    let (a, b) = (world.node("us-1", &[]), world.node("eu-1", &[]));
    a.own.until_ready().await;
    b.own.until_ready().await;
    let first = a.own.claim(spec("x", &survivor())).await.expect("free");
    let mut events = b.own.events();
    world.kill(a);
    let took = until("a new owner", 2 * TTL, || b.log.adopted.lock().contains_key("x")).await;
    assert!(took <= TTL + Duration::from_secs(2), "took {took:?}");
    assert!(first.check().is_err(), "the old title ended before");
    let (title, _) = b.log.adopted.lock()["x"].clone();
    assert_eq!(title.epoch(), first.epoch().next());
    assert_eq!(title.check(), Ok(()));
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        seen.push(event);
    }
    assert!(seen.iter().any(|event| matches!(event, OwnershipEvent::Takeover { took: Some(_), .. })), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn g4_a_lost_nodes_name_stays_in_its_datacenter_while_a_node_of_it_lives() {
    let world = World::new();
    let nodes = [world.node("us-1", &[]), world.node("us-1", &[]), world.node("eu-1", &[])];
    for node in &nodes {
        node.own.until_ready().await;
    }
    let [a, b, c] = nodes;
    a.own.claim(spec("x", &survivor())).await.expect("free");
    world.kill(a);
    until("a new owner", 2 * TTL, || b.own.name_title("x").is_some()).await;
    assert!(c.log.adopted.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn g4_what_was_declared_to_stay_does_not_move() {
    let world = World::new();
    let (a, b) = (world.node("us-1", &[]), world.node("eu-1", &[]));
    a.own.until_ready().await;
    b.own.until_ready().await;
    let waits = Policy { on_loss: OnLoss::Wait, ..survivor() };
    let asks = Policy { on_loss: OnLoss::Operator, ..survivor() };
    let bound = Policy { within: Selector::region("us"), ..survivor() };
    let node_only = Policy::default();
    let cases: [(&str, &Policy); 4] = [("waits", &waits), ("asks", &asks), ("bound", &bound), ("node", &node_only)];
    for (name, policy) in cases {
        a.own.claim(spec(name, policy)).await.expect("free");
    }
    a.own.claim(spec("ends", &Policy { survives: Loss::Nothing, ..Policy::default() })).await.expect("free");
    assert!(
        matches!(b.own.claim(spec("us-only", &bound)).await, Err(OwnershipError::NotAllowed { .. })),
        "jurisdiction holds for the first claim too"
    );
    world.kill(a);
    until("what ends with its node is gone", 3 * TTL, || b.own.known("ends").is_none()).await;
    tokio::time::sleep(5 * TTL).await;
    assert!(b.log.adopted.lock().is_empty(), "{:?}", b.log.adopted.lock().keys());
    // Its datacenter comes back, and has it again.
    let c = world.node("us-1", &[]);
    until("all are back", 3 * TTL, || c.log.adopted.lock().len() == 4).await;
}

#[tokio::test(start_paused = true)]
async fn g4_a_grace_time_lets_a_datacenter_come_back() {
    let world = World::new();
    let (a, b) = (world.node("us-1", &[]), world.node("eu-1", &[]));
    a.own.until_ready().await;
    b.own.until_ready().await;
    let grace = Duration::from_secs(60);
    let policy = Policy { on_loss: OnLoss::Relocate { grace }, ..survivor() };
    a.own.claim(spec("x", &policy)).await.expect("free");
    world.kill(a);
    let took = until("a new owner", 10 * TTL, || b.own.name_title("x").is_some()).await;
    assert!(took >= grace && took <= TTL + grace + Duration::from_secs(3), "took {took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_operator_moves_what_waits_and_nothing_that_lives() {
    let world = World::new();
    let nodes = [world.node("us-1", &[]), world.node("eu-1", &[]), world.node("ap-1", &[])];
    for node in &nodes {
        node.own.until_ready().await;
    }
    let [a, b, c] = nodes;
    let policy = Policy { on_loss: OnLoss::Operator, ..survivor() };
    a.own.claim(spec("x", &policy)).await.expect("free");
    until("it is known", TTL, || b.own.known("x").is_some()).await;
    let eu: DataCenterSelector = Selector::region("eu");
    let lives = c.own.relocate(name("x"), eu.clone()).await;
    assert!(matches!(lives, Err(OwnershipError::OwnerLives { .. })), "{lives:?}");
    let nowhere = c.own.relocate(name("y"), eu.clone()).await;
    assert!(matches!(nowhere, Err(OwnershipError::NoSuchName { .. })), "{nowhere:?}");
    world.kill(a);
    tokio::time::sleep(3 * TTL).await;
    c.own.relocate(name("x"), eu).await.expect("it waits");
    until("it is started there", TTL, || b.log.adopted.lock().contains_key("x")).await;
}

#[tokio::test(start_paused = true)]
async fn g4_failback_is_automatic_only_where_it_was_declared() {
    let world = World::new();
    let (a, b) = (world.node("us-1", &[]), world.node("eu-1", &[]));
    a.own.until_ready().await;
    b.own.until_ready().await;
    let goes_back = Policy { failback: Failback::Automatic, ..survivor() };
    let first = a.own.claim(spec("goes", &goes_back)).await.expect("free");
    a.own.claim(spec("stays", &survivor())).await.expect("free");
    world.kill(a);
    until("both are elsewhere", 2 * TTL, || b.log.adopted.lock().len() == 2).await;
    let c = world.node("us-1", &[]);
    until("one went back", 6 * TTL, || c.log.adopted.lock().contains_key("goes")).await;
    tokio::time::sleep(5 * TTL).await;
    assert!(b.own.name_title("stays").is_some());
    let back = c.own.name_title("goes").expect("it holds").epoch();
    assert_eq!(back, Epoch(first.epoch().0 + 2));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_start_an_actor_passes_the_name_on() {
    let world = World::new();
    let nodes = [world.node("us-1", &[]), world.node("us-1", &[]), world.node("us-1", &[])];
    for node in &nodes {
        node.own.until_ready().await;
    }
    let [a, b, c] = nodes;
    b.log.refuse_adoption.store(true, Ordering::SeqCst);
    for n in 0..8 {
        a.own.claim(spec(&format!("n{n}"), &Policy::default())).await.expect("free");
    }
    world.kill(a);
    until("the other one has all", 10 * TTL, || c.log.adopted.lock().len() == 8).await;
    assert!(b.own.stats().not_adopted > 0, "some had come to the one that refuses");
}

#[tokio::test(start_paused = true)]
async fn g5_a_drained_node_hands_its_names_over_with_their_state() {
    let world = World::new();
    let nodes = [world.node("us-1", &[]), world.node("us-1", &[]), world.node("eu-1", &[])];
    for node in &nodes {
        node.own.until_ready().await;
    }
    let [a, b, c] = nodes;
    for n in 0..100 {
        let title = a.own.claim(spec(&format!("n{n}"), &survivor())).await.expect("free");
        assert_eq!(title.check(), Ok(()));
    }
    a.log.state.lock().insert(name("n7"), vec![("n7".to_owned(), Bytes::from_static(b"42"))]);
    let begun = now();
    let mut drain = a.own.drain(DrainOptions::node());
    let mut seen = Vec::new();
    while let Some(progress) = drain.next().await {
        seen.push(progress);
        if progress.end.is_some() {
            break;
        }
    }
    let last = seen.last().copied().expect("some");
    assert_eq!((last.moved, last.left, last.end), (100, 0, Some(DrainEnd::Done)), "{seen:?}");
    until("all started", TTL, || b.log.adopted.lock().len() == 100).await;
    assert!(now() - begun < Duration::from_secs(2), "no TTL was waited for: {:?}", now() - begun);
    assert_eq!(b.log.adopted.lock()["n7"].1.as_deref(), Some(&b"42"[..]));
    assert!(c.log.adopted.lock().is_empty(), "inside its datacenter first");
    a.own.stop().await;
    assert_eq!(b.log.adopted.lock().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_claim_without_a_store_ends_within_a_ttl_and_says_so() {
    let world = World::new();
    world.store.stop();
    let a = world.node("us-1", &[]);
    let begun = now();
    let answer = a.own.claim(spec("x", &survivor())).await;
    assert!(matches!(answer, Err(OwnershipError::NoSession { .. })), "{answer:?}");
    assert!(now() - begun <= TTL + Duration::from_secs(1));
    assert!(!a.own.ready());
    world.store.start();
    a.own.until_ready().await;
    a.own.claim(spec("x", &survivor())).await.expect("free");
}

#[tokio::test(start_paused = true)]
async fn g2_strict_stops_at_the_lease_bound_and_available_goes_on() {
    let world = World::new();
    let (a, b) = (world.node("us-1", &[]), world.node("us-1", &[]));
    a.own.until_ready().await;
    b.own.until_ready().await;
    let strict = a.own.claim(spec("strict", &survivor())).await.expect("free");
    let policy = Policy { strictness: Strictness::Available, ..survivor() };
    let available = a.own.claim(spec("available", &policy)).await.expect("free");
    world.store.stop();
    let took = until("the strict one ends", 2 * TTL, || strict.check().is_err()).await;
    assert!(took < TTL, "before anybody may take over: {took:?}");
    assert_eq!(available.check(), Ok(()));
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.store.start();
    until("the strict one is owned again", 3 * TTL, || {
        [&a, &b].iter().any(|node| node.own.name_title("strict").is_some())
    })
    .await;
    let again = [&a, &b].iter().find_map(|node| node.own.name_title("strict")).expect("just seen");
    assert!(again.epoch() > strict.epoch());
}

/// `lasting`: whether something goes on without a lease, so that the session may come back.
async fn a_hand_over_is_cut_through(lasting: bool) {
    let world = World::new();
    let (a, b) = (world.node("us-1", &[]), world.node("eu-1", &[]));
    a.own.until_ready().await;
    b.own.until_ready().await;
    a.own.claim(spec("x", &survivor())).await.expect("free");
    if lasting {
        let stays = Policy { strictness: Strictness::Available, within: Selector::name("us-1"), ..survivor() };
        a.own.claim(spec("y", &stays)).await.expect("free");
    }
    a.log.keep_quiet.store(true, Ordering::SeqCst);
    let _drain = a.own.drain(DrainOptions::node());
    until("it is to be handed over", TTL, || !a.log.quiesced.lock().is_empty()).await;
    a.plane.cut_off();
    until("its session is lost", 2 * TTL, || a.log.lost_sessions.load(Ordering::SeqCst) == 1).await;
    let (begun, over) = (a.log.quiesced.lock().clone(), a.log.moved.lock().clone());
    assert!(begun.iter().all(|thing| *thing == name("x")), "{begun:?}");
    assert_eq!(over, vec![(name("x"), false); begun.len()], "each that has begun is over");
}

#[tokio::test(start_paused = true)]
async fn g5_a_hand_over_ends_with_the_session() {
    a_hand_over_is_cut_through(false).await;
}

#[tokio::test(start_paused = true)]
async fn g5_a_hand_over_of_what_is_strict_ends_with_the_lease() {
    a_hand_over_is_cut_through(true).await;
}

/// What is told of a name until it is free: whether it was told to be without an owner first, and with whose end it is.
async fn until_free(changes: &mut tokio::sync::broadcast::Receiver<Change>, of: &str) -> (bool, Option<DataCenterId>) {
    let mut ownerless = false;
    let told = async {
        loop {
            let change = changes.recv().await.expect("none is missed");
            match change.to {
                _ if change.thing != name(of) => {}
                Standing::Owned(..) => ownerless = false,
                Standing::Ownerless(dc) => ownerless = dc.to_string() == "us/us-1",
                Standing::Free(with) => return (ownerless, with),
            }
        }
    };
    tokio::time::timeout(3 * TTL, told).await.expect("it is told")
}

#[tokio::test(start_paused = true)]
async fn a7_a_name_that_ends_with_its_owner_is_told_apart_from_one_that_was_let_go() {
    let world = World::new();
    let (a, b) = (world.node("us-1", &[]), world.node("eu-1", &[]));
    a.own.until_ready().await;
    b.own.until_ready().await;
    let ends = Policy { survives: Loss::Nothing, ..Policy::default() };
    let (mut of_let_go, mut of_ends) = (b.own.changes(), b.own.changes());
    let let_go = a.own.claim(spec("let-go", &ends)).await.expect("free");
    a.own.claim(spec("ends", &ends)).await.expect("free");
    a.own.release("let-go", let_go.epoch()).await.expect("ours");
    assert_eq!(until_free(&mut of_let_go, "let-go").await, (false, None));
    world.kill(a);
    // Told by the change itself: by the time that anybody reads it, the name may not be known any more.
    let us: DataCenterId = "us/us-1".parse().expect("valid");
    assert_eq!(until_free(&mut of_ends, "ends").await, (true, Some(us)));
}
