//! R1: order within a pair. R2, R3: at most once, and honest about it.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dc_remoting::{Incoming, PeerTarget};
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::{mpsc, watch};

use crate::{
    proxy::{Mode, Proxy},
    support::*,
};

/// Small, just around the bulk threshold, several chunks.
fn random_size(random: &mut StdRng) -> usize {
    match random.random_range(0..10) {
        0..6 => random.random_range(8..200),
        6..8 => random.random_range(60_000..70_000),
        8 => random.random_range(200_000..300_000),
        _ => random.random_range(500_000..1_500_000),
    }
}

/// A receiver that accepts in its own time, on another task, in the order of arrival per target.
fn slow_acceptor(seen: Arc<watch::Sender<HashMap<u64, Vec<u64>>>>, seed: u64) -> impl Fn(Incoming) + Send + Sync {
    let (tx, mut rx) = mpsc::unbounded_channel::<Incoming>();
    tokio::spawn(async move {
        let mut random = StdRng::seed_from_u64(seed);
        while let Some(incoming) = rx.recv().await {
            if random.random_range(0..20) == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            echo(incoming);
        }
    });
    move |incoming| {
        let (to, n) = (incoming.message.to, number(&incoming.message.payload));
        seen.send_modify(|seen| seen.entry(to).or_default().push(n));
        tx.send(incoming).expect("open");
    }
}

async fn order_holds(here: Node, seed: u64, pairs: u64, each: u64) {
    println!("seed {seed}");
    let seen = Arc::new(watch::Sender::new(HashMap::new()));
    let there = Node::start(config("dc-2"), slow_acceptor(Arc::clone(&seen), seed)).await;
    let peer = here.remoting.peer(there.target());
    let mut senders = Vec::new();
    for to in 0..pairs {
        let pair = peer.pair();
        let mut random = StdRng::seed_from_u64(seed + to);
        senders.push(tokio::spawn(async move {
            for n in 0..each {
                let mut msg = numbered(n, random_size(&mut random));
                msg.to = to;
                if random.random_range(0..8) == 0 {
                    pair.ask(msg, SOON).await.expect("answered");
                } else {
                    pair.tell(msg).await.expect("queued");
                }
            }
        }));
    }
    for sender in senders {
        sender.await.expect("sends");
    }
    until(&seen, "all messages", |seen| seen.values().map(Vec::len).sum::<usize>() as u64 == pairs * each).await;
    for (to, numbers) in &*seen.borrow() {
        assert_eq!(*numbers, (0..each).collect::<Vec<_>>(), "R1 broken for pair {to}, seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r1_messages_arrive_in_the_order_sent_whatever_their_size() {
    let seed = rand::random();
    order_holds(Node::echo(config("dc-1")).await, seed, 4, 150).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r1_order_holds_while_credits_run_out() {
    let seed = rand::random();
    let tight = config("dc-1").pair_messages(3).pair_bytes(100_000);
    order_holds(Node::echo(tight).await, seed, 3, 100).await;
}

#[tokio::test]
async fn r1_clones_of_a_pair_share_its_order_while_it_waits() {
    let seen = Arc::new(watch::Sender::new(HashMap::new()));
    let there = Node::start(config("dc-2"), slow_acceptor(Arc::clone(&seen), 1)).await;
    let here = Node::echo(config("dc-1").pair_messages(1)).await;
    let pair = here.remoting.peer(there.target()).pair();
    // Started in this order, before there is even a link; each waits for the ones before it.
    let tells = (0..50u64).map(|n| {
        let pair = pair.clone();
        async move { pair.tell(numbered(n, 8)).await }
    });
    for result in futures::future::join_all(tells).await {
        result.expect("queued");
    }
    until(&seen, "all messages", |seen| seen.get(&7).is_some_and(|all| all.len() == 50)).await;
    assert_eq!(seen.borrow()[&7], (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn r1_the_lane_changes_only_when_nothing_of_the_pair_is_in_flight() {
    let held = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::new(watch::Sender::new(Vec::new()));
    let there = Node::start(config("dc-2"), {
        let (held, seen) = (Arc::clone(&held), Arc::clone(&seen));
        move |incoming| {
            if incoming.reply.is_some() {
                return echo(incoming);
            }
            seen.send_modify(|seen| seen.push(incoming.message.payload.len()));
            held.lock().push(incoming.accept);
        }
    })
    .await;
    let here = Node::echo(config("dc-1")).await;
    let peer = here.remoting.peer(there.target());
    let pair = peer.pair();
    pair.tell(message(vec![0; 10])).await.expect("queued");
    until(&seen, "the small one", |seen| seen.len() == 1).await;
    let large = tokio::spawn({
        let pair = pair.clone();
        async move { pair.tell(message(vec![0; 200_000])).await }
    });
    // Other pairs use the bulk lane meanwhile; this one waits for its small message to be accepted.
    for _ in 0..5 {
        assert_eq!(body(peer.pair().ask(message(vec![0; 200_000]), SOON).await).len(), 200_000);
    }
    assert!(!large.is_finished());
    assert_eq!(seen.borrow().len(), 1, "the large one overtook");
    held.lock().clear();
    large.await.expect("no panic").expect("queued");
    until(&seen, "the large one", |seen| *seen == [10, 200_000]).await;
    // On the bulk lane now: a small one follows there, behind the large one that is not accepted yet.
    pair.tell(message(vec![0; 11])).await.expect("queued");
    until(&seen, "the second small one", |seen| *seen == [10, 200_000, 11]).await;
}

/// How often each ask was handled, and what its asker was told.
struct Told {
    handled: HashMap<u64, u32>,
    answered: Vec<u64>,
    not_run: Vec<u64>,
    may_have_run: Vec<u64>,
}

/// Asks under way while links are cut again and again.
async fn ask_while_links_are_cut() -> Told {
    let handled = Arc::new(Mutex::new(HashMap::<u64, u32>::new()));
    let there = Node::start(config("dc-2"), {
        let handled = Arc::clone(&handled);
        move |incoming| {
            *handled.lock().entry(number(&incoming.message.payload)).or_default() += 1;
            echo(incoming);
        }
    })
    .await;
    let proxy = Proxy::to(there.remoting.local_addr()).await;
    let backoff = Duration::from_millis(10);
    let here = Node::echo(config("dc-1").backoff_first(backoff).backoff_max(backoff)).await;
    let peer = here.remoting.peer(PeerTarget::at(proxy.endpoint()));
    let next = Arc::new(AtomicU64::new(0));
    let (stop, stopped) = watch::channel(false);
    let mut askers = Vec::new();
    for _ in 0..32 {
        let (pair, next, stopped) = (peer.pair(), Arc::clone(&next), stopped.clone());
        askers.push(tokio::spawn(async move {
            let mut told = Vec::new();
            while !*stopped.borrow() {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let size = if n.is_multiple_of(50) { 100_000 } else { 8 };
                let result = pair.ask(numbered(n, size), SOON).await;
                if result.is_err() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                told.push((n, result));
            }
            told
        }));
    }
    for _ in 0..8 {
        peer.connected(SOON).await.expect("comes back");
        tokio::time::sleep(Duration::from_millis(60)).await;
        proxy.set(Mode::Cut);
        eventually("the link to go", || peer.identity().is_none()).await;
        proxy.set(Mode::Pass);
    }
    stop.send_replace(true);
    let mut told = Told { handled: HashMap::new(), answered: vec![], not_run: vec![], may_have_run: vec![] };
    for asker in askers {
        for (n, result) in asker.await.expect("no panic") {
            match result {
                Ok(_) => told.answered.push(n),
                Err(err) if err.certainly_not_run() => told.not_run.push(n),
                Err(_) => told.may_have_run.push(n),
            }
        }
    }
    told.handled = std::mem::take(&mut handled.lock());
    assert!(told.answered.len() > 100, "the load was real: {} answers", told.answered.len());
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r2_nothing_is_handled_twice_while_links_are_cut() {
    let told = ask_while_links_are_cut().await;
    assert!(told.handled.values().all(|times| *times == 1), "R2 broken");
    assert!(told.answered.iter().all(|n| told.handled.contains_key(n)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r3_what_certainly_did_not_run_was_never_handled() {
    let told = ask_while_links_are_cut().await;
    assert!(!told.not_run.is_empty() && !told.may_have_run.is_empty(), "both kinds of failure occurred");
    let lies: Vec<_> = told.not_run.iter().filter(|n| told.handled.contains_key(n)).collect();
    assert!(lies.is_empty(), "R3 broken: {lies:?} were handled");
}

#[tokio::test]
async fn r1_answered_asks_are_no_longer_in_flight_and_a_tell_is_until_it_is_accepted() {
    let held = Arc::new(Mutex::new(Vec::new()));
    let there = Node::start(config("dc-2"), {
        let held = Arc::clone(&held);
        move |incoming: Incoming| {
            let Incoming { accept, reply, message, .. } = incoming;
            held.lock().push(accept);
            if let Some(reply) = reply {
                reply.send(0, message.payload);
            }
        }
    })
    .await;
    let here = Node::echo(config("dc-1")).await;
    let pair = here.remoting.peer(there.target()).pair();
    // Nothing is ever accepted, but each ask is answered before the next is sent: lanes may change.
    for size in [8, 200_000, 8, 8, 300_000] {
        assert_eq!(body(pair.ask(message(vec![0; size]), SOON).await).len(), size);
    }
    // The bulk lane is kept for the next ones as long as a tell is in flight there, and left afterwards.
    pair.tell(message(vec![0; 200_000])).await.expect("queued");
    assert_eq!(body(pair.ask(message("small"), SOON).await), "small");
    held.lock().clear();
    assert_eq!(body(pair.ask(message("small"), SOON).await), "small");
    // On the user lane with a tell in flight, a large one has to wait for it.
    eventually("credits to come back", || {
        held.lock().clear();
        here.remoting.peer(there.target()).in_flight() == 0
    })
    .await;
    let fresh = here.remoting.peer(there.target()).pair();
    fresh.tell(message("small")).await.expect("queued");
    let large = fresh.ask(message(vec![0; 200_000]), Duration::from_millis(200)).await.expect_err("must wait");
    assert!(large.certainly_not_run(), "{large:?}");
    held.lock().clear();
    assert_eq!(body(fresh.ask(message(vec![0; 200_000]), SOON).await).len(), 200_000);
}
