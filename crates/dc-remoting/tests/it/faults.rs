//! R3 and R6: peers that die, go silent, are not there, or come back.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use dc_core::{Clock, SystemClock};
use dc_remoting::{Incoming, LinkError, LinkEvent, PeerTarget};
use parking_lot::Mutex;
use tokio::net::TcpListener;

use crate::{
    proxy::{Mode, Proxy},
    support::*,
};

/// Keeps what arrives, unanswered.
fn keep(kept: &Arc<Mutex<Vec<Incoming>>>) -> impl Fn(Incoming) + Send + Sync + 'static {
    let kept = Arc::clone(kept);
    move |incoming| kept.lock().push(incoming)
}

#[tokio::test]
async fn r3_nothing_listens_so_it_certainly_did_not_run() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("bound");
    let here = Node::echo(config("dc-1")).await;
    let peer = here.remoting.peer(PeerTarget::at(free.into()));
    let err = peer.pair().ask(message("x"), SOON).await.expect_err("nobody there");
    assert!(matches!(err, LinkError::Unreachable { .. }) && err.certainly_not_run(), "{err:?}");
    let err = peer.pair().tell(message("x")).await.expect_err("nobody there");
    assert!(err.certainly_not_run(), "{err:?}");
    let err = peer.call(ECHO, Bytes::new(), SOON).await.expect_err("nobody there");
    assert!(err.certainly_not_run(), "{err:?}");
}

#[tokio::test]
async fn r3_asks_in_flight_fail_promptly_as_may_have_run_when_the_peer_is_killed() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let there = Node::start(config("dc-2"), keep(&kept)).await;
    let here = Node::echo(config("dc-1")).await;
    let mut events = here.remoting.events();
    let peer = here.remoting.peer(there.target());
    let asks: Vec<_> = (0..50)
        .map(|n| {
            let pair = peer.pair();
            tokio::spawn(async move { pair.ask(numbered(n, 8), Duration::from_secs(60)).await })
        })
        .collect();
    eventually("the asks to arrive", || kept.lock().len() == 50).await;
    drop(there);
    for ask in asks {
        let result = tokio::time::timeout(SOON, ask).await.expect("R3: promptly").expect("no panic");
        let err = result.expect_err("killed");
        assert!(matches!(err, LinkError::Lost { .. }) && !err.certainly_not_run(), "{err:?}");
    }
    let down = async {
        loop {
            if let LinkEvent::PeerDown { .. } = events.recv().await.expect("open") {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, down).await.expect("the event");
}

#[tokio::test]
async fn r3_an_ask_dropped_unanswered_may_have_run_and_one_refused_did_not() {
    let there = Node::start(config("dc-2"), |incoming| match number(&incoming.message.payload) {
        0 => drop(incoming),
        1 => incoming.reply.expect("an ask").not_run("not today"),
        2 => incoming.reply.expect("an ask").expired(),
        _ => incoming.reply.expect("an ask").send(0, Bytes::from(vec![0; 17 << 20])),
    })
    .await;
    let here = Node::echo(config("dc-1")).await;
    let pair = here.remoting.peer(there.target()).pair();
    let err = pair.ask(numbered(0, 8), SOON).await.expect_err("dropped");
    assert!(matches!(err, LinkError::Unanswered { .. }) && !err.certainly_not_run(), "{err:?}");
    let err = pair.ask(numbered(1, 8), SOON).await.expect_err("refused");
    assert!(matches!(&err, LinkError::NotRun { why, .. } if &**why == "not today"), "{err:?}");
    assert!(err.certainly_not_run());
    let err = pair.ask(numbered(2, 8), SOON).await.expect_err("expired");
    assert!(matches!(err, LinkError::Timeout { may_have_run: false, after: SOON, .. }), "{err:?}");
    let err = pair.ask(numbered(3, 8), SOON).await.expect_err("too large an answer");
    assert!(matches!(err, LinkError::TooLarge { may_have_run: true, .. }), "{err:?}");
}

#[tokio::test]
async fn r3_what_is_too_large_is_refused_at_the_sender() {
    let there = Node::echo(config("dc-2").max_payload(1000)).await;
    let here = Node::echo(config("dc-1")).await;
    let peer = here.remoting.peer(there.target());
    let pair = peer.pair();
    body(pair.ask(message(vec![0; 1000]), SOON).await);
    let err = pair.ask(message(vec![0; 1001]), SOON).await.expect_err("too large");
    assert!(matches!(err, LinkError::TooLarge { size: 1001, max: 1000, .. }) && err.certainly_not_run(), "{err:?}");
    let mut long_key = message("x");
    long_key.key = Bytes::from(vec![0; 70_000]);
    let err = pair.ask(long_key, SOON).await.expect_err("too large");
    assert!(matches!(err, LinkError::TooLarge { .. }), "{err:?}");
    let err = peer.call(ECHO, Bytes::from(vec![0; 2 << 20]), SOON).await.expect_err("too large");
    assert!(matches!(err, LinkError::TooLarge { .. }), "{err:?}");
    body(pair.ask(message("the link lives"), SOON).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r3_tells_that_never_left_are_reported() {
    let there = Node::echo(config("dc-2")).await;
    let proxy = Proxy::to(there.remoting.local_addr()).await;
    let here = Node::echo(config("dc-1")).await;
    let peer = here.remoting.peer(PeerTarget::at(proxy.endpoint()));
    peer.connected(SOON).await.expect("up");
    proxy.set(Mode::BlackHole);
    // More than sockets and HTTP/2 windows take: the rest stays in the queue.
    let pairs: Vec<_> = (0..8).map(|_| peer.pair()).collect();
    for pair in &pairs {
        pair.tell(message(vec![0; 6 << 20])).await.expect("queued");
    }
    eventually("the silence to be noticed", || !here.undelivered.lock().is_empty()).await;
    assert!(here.undelivered.lock().iter().all(|lost| lost.message.payload.len() == 6 << 20));
}

/// Accepts connections and never says a word.
async fn deaf() -> (TcpListener, PeerTarget) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let target = PeerTarget::at(listener.local_addr().expect("bound").into());
    (listener, target)
}

#[tokio::test]
async fn r6_a_peer_that_does_not_answer_delays_nothing_addressed_elsewhere() {
    let (_listener, target) = deaf().await;
    let there = Node::echo(config("dc-2")).await;
    let here = Node::echo(config("dc-1")).await;
    let stuck = here.remoting.peer(target).pair();
    let stuck = tokio::spawn(async move { stuck.ask(message("x"), SOON).await });
    let pair = here.remoting.peer(there.target()).pair();
    for n in 0..200 {
        body(pair.ask(numbered(n, 8), Duration::from_secs(2)).await);
    }
    assert!(!stuck.is_finished(), "it should still wait for the handshake");
    stuck.abort();
}

#[tokio::test]
async fn r6_a_peer_known_to_be_dead_fails_at_once() {
    let (_listener, target) = deaf().await;
    let limit = Duration::from_millis(300);
    let here = Node::echo(config("dc-1").handshake_timeout(limit)).await;
    let peer = here.remoting.peer(target);
    let err = peer.pair().ask(message("x"), SOON).await.expect_err("deaf");
    assert!(matches!(err, LinkError::Unreachable { .. }) && err.certainly_not_run(), "{err:?}");
    // From now on nobody waits, also while it is dialled again.
    let began = SystemClock.now();
    for _ in 0..1000 {
        peer.pair().ask(message("x"), SOON).await.expect_err("deaf");
    }
    assert!(SystemClock.now() - began < limit, "R6: senders waited for a dead peer");
}

#[tokio::test]
async fn r6_a_dead_peer_is_dialled_ever_more_rarely() {
    let there = Node::echo(config("dc-2")).await;
    let proxy = Proxy::to(there.remoting.local_addr()).await;
    proxy.set(Mode::Cut);
    let (first, max) = (Duration::from_millis(50), Duration::from_millis(800));
    let here = Node::echo(config("dc-1").backoff_first(first).backoff_max(max).seed(1)).await;
    let peer = here.remoting.peer(PeerTarget::at(proxy.endpoint()));
    let err = peer.connected(Duration::from_secs(3)).await.expect_err("cut");
    assert!(err.certainly_not_run(), "{err:?}");
    // Waits of 50, 100, .. 800 ms, each at least half that: at most 1 + 4 + 3000/400 attempts of 3 lanes,
    // each of which tonic tries twice when the connection opens and ends at once.
    let dialled = proxy.connections.load(Ordering::SeqCst);
    assert!((4..=78).contains(&dialled), "R6: {dialled} connections in 3 s");
    proxy.set(Mode::Pass);
    peer.connected(SOON).await.expect("R6: it is dialled again");
}

#[tokio::test]
async fn r6_a_peer_that_dials_is_dialled_back_without_waiting_for_the_backoff() {
    let there = Node::echo(config("dc-2")).await;
    let address = there.remoting.local_addr();
    let there_config = || config("dc-2").listen(address);
    let hour = Duration::from_secs(3600);
    let here = Node::echo(config("dc-1").backoff_first(hour).backoff_max(hour)).await;
    let peer = here.remoting.peer(PeerTarget::at(address.into()));
    drop(there);
    peer.pair().ask(message("x"), SOON).await.expect_err("gone");
    eventually("the port to be free", || std::net::TcpListener::bind(address).is_ok()).await;
    let again = Node::echo(there_config()).await;
    let err = peer.pair().ask(message("x"), SOON).await.expect_err("an hour to wait");
    assert!(matches!(err, LinkError::Unreachable { .. }), "{err:?}");
    body(again.remoting.peer(here.target()).pair().ask(message("hello"), SOON).await);
    peer.connected(SOON).await.expect("R6: dialled back");
}

#[tokio::test]
async fn r6_a_restarted_peer_is_found_again_and_known_to_be_another_run() {
    let there = Node::echo(config("dc-2")).await;
    let address = there.remoting.local_addr();
    let here = Node::echo(config("dc-1")).await;
    let old = here.remoting.peer(there.target());
    let anyone = here.remoting.peer(PeerTarget::at(address.into()));
    old.connected(SOON).await.expect("up");
    drop(there);
    eventually("the link to go", || old.identity().is_none()).await;
    eventually("the port to be free", || std::net::TcpListener::bind(address).is_ok()).await;
    let again = Node::echo(config("dc-2").listen(address)).await;
    assert_eq!(anyone.connected(SOON).await.expect("up").node, again.remoting.local().node);
    body(anyone.pair().ask(message("x"), SOON).await);
    let err = old.pair().ask(message("x"), SOON).await.expect_err("another run");
    assert!(matches!(err, LinkError::WrongPeer { .. }), "{err:?}");
}

#[tokio::test]
async fn r8_a_peer_that_falls_silent_is_noticed_and_found_again() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let there = Node::start(config("dc-2"), keep(&kept)).await;
    let proxy = Proxy::to(there.remoting.local_addr()).await;
    let (interval, timeout) = (Duration::from_millis(100), Duration::from_millis(400));
    let quick = config("dc-1").keepalive_interval(interval).keepalive_timeout(timeout);
    let here = Node::echo(quick.handshake_timeout(timeout).backoff_max(timeout)).await;
    let peer = here.remoting.peer(PeerTarget::at(proxy.endpoint()));
    let pair = peer.pair();
    let asked = tokio::spawn({
        let pair = pair.clone();
        async move { pair.ask(numbered(0, 8), Duration::from_secs(60)).await }
    });
    eventually("the ask to arrive", || kept.lock().len() == 1).await;
    proxy.set(Mode::BlackHole);
    let began = SystemClock.now();
    let err = tokio::time::timeout(SOON, asked).await.expect("noticed").expect("no panic").expect_err("silent");
    assert!(matches!(err, LinkError::Lost { .. }), "{err:?}");
    let took = SystemClock.now() - began;
    assert!(took < timeout * 5, "noticed after {took:?}");
    proxy.set(Mode::Pass);
    peer.connected(SOON).await.expect("comes back");
    // The far side gives up its end of the old link as well.
    pair.tell(numbered(1, 8)).await.expect("queued");
    eventually("the tell to arrive", || kept.lock().len() == 2).await;
}
