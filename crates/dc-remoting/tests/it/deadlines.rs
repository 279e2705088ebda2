//! R4: time left travels with the ask; what is late is not started.

use std::{sync::Arc, time::Duration};

use dc_core::{Clock, SystemClock};
use dc_remoting::{Accept, LinkError, PeerTarget, proto::Envelope};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::{
    proxy::{Mode, Proxy},
    raw::{RawLane, envelopes, tell},
    support::*,
};

#[tokio::test]
async fn r4_the_time_left_travels_with_the_ask() {
    let (sent, mut seen) = mpsc::unbounded_channel();
    let there = Node::start(config("dc-2"), move |incoming| {
        sent.send(incoming.left).expect("open");
        echo(incoming);
    })
    .await;
    let here = Node::echo(config("dc-1")).await;
    let pair = here.remoting.peer(there.target()).pair();
    for seconds in [1, 60] {
        let time = Duration::from_secs(seconds);
        body(pair.ask(message("x"), time).await);
        let left = seen.recv().await.expect("arrived").expect("an ask");
        assert!(left <= time && left > time - Duration::from_millis(900), "{left:?} of {time:?}");
    }
    pair.tell(message("x")).await.expect("queued");
    assert_eq!(seen.recv().await.expect("arrived"), None, "a tell has no deadline");
}

#[tokio::test]
async fn r4_an_ask_that_arrives_late_is_not_started() {
    let started = Arc::new(watch::Sender::new(0));
    let there = Node::start(config("dc-2"), {
        let started = Arc::clone(&started);
        move |incoming| {
            started.send_modify(|n| *n += 1);
            echo(incoming);
        }
    })
    .await;
    let [_control, mut user, _bulk] = RawLane::link(there.remoting.local_addr(), 1).await;
    user.send(&envelopes(vec![
        Envelope { correlation: 5, left_us: 0, ..tell("late") },
        Envelope { correlation: 9, left_us: 5_000_000, ..tell("in time") },
    ]));
    let mut outcomes = Vec::new();
    while outcomes.len() < 2 {
        let frame = user.back.message().await.expect("open").expect("open");
        outcomes.extend(frame.replies.into_iter().map(|reply| (reply.correlation, reply.outcome())));
    }
    use dc_remoting::proto::Outcome;
    assert_eq!(outcomes, [(5, Outcome::Expired), (9, Outcome::Answered)]);
    assert_eq!(*started.borrow(), 1);
}

#[tokio::test]
async fn r4_a_large_ask_that_takes_longer_than_its_time_is_not_started() {
    let started = Arc::new(Mutex::new(Vec::new()));
    let there = Node::start(config("dc-2"), {
        let started = Arc::clone(&started);
        move |incoming| {
            started.lock().push(incoming.message.payload.len());
            echo(incoming);
        }
    })
    .await;
    let proxy = Proxy::to(there.remoting.local_addr()).await;
    // Pings must survive a slow line.
    let slow = config("dc-1").keepalive_timeout(Duration::from_secs(20));
    let here = Node::echo(slow).await;
    let peer = here.remoting.peer(PeerTarget::at(proxy.endpoint()));
    peer.connected(SOON).await.expect("up");
    // About 4 MB/s: 8 MB take two seconds.
    proxy.set(Mode::Slow(20_000));
    let pair = peer.pair();
    let err = pair.ask(message(vec![0; 8_000_000]), Duration::from_millis(300)).await.expect_err("no time");
    assert!(matches!(err, LinkError::Timeout { may_have_run: true, .. }), "{err:?}");
    // Behind it in the same pair, so it arrives after it, long after its deadline at the far end.
    assert_eq!(body(pair.ask(message("next"), SOON).await), "next");
    assert_eq!(*started.lock(), [4], "R4: work was started past its deadline");
}

#[tokio::test]
async fn r4_an_ask_that_waits_for_credits_past_its_time_certainly_did_not_run() {
    let held = Arc::new(Mutex::new(Vec::<Accept>::new()));
    let seen = Arc::new(watch::Sender::new(Vec::new()));
    let there = Node::start(config("dc-2"), {
        let (held, seen) = (Arc::clone(&held), Arc::clone(&seen));
        move |incoming| {
            seen.send_modify(|seen| seen.push(number(&incoming.message.payload)));
            if incoming.reply.is_none() {
                held.lock().push(incoming.accept);
            } else {
                echo(incoming);
            }
        }
    })
    .await;
    let here = Node::echo(config("dc-1").pair_messages(1)).await;
    let pair = here.remoting.peer(there.target()).pair();
    pair.tell(numbered(1, 8)).await.expect("queued");
    let err = pair.ask(numbered(2, 8), Duration::from_millis(50)).await.expect_err("no credits");
    assert!(matches!(err, LinkError::Timeout { may_have_run: false, .. }), "{err:?}");
    until(&seen, "the tell", |seen| *seen == [1]).await;
    held.lock().clear();
    body(pair.ask(numbered(3, 8), SOON).await);
    assert_eq!(*seen.borrow(), [1, 3]);
}

#[tokio::test]
async fn r4_an_ask_that_is_not_answered_ends_in_its_time() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let there = Node::start(config("dc-2"), {
        let kept = Arc::clone(&kept);
        move |incoming| kept.lock().push(incoming)
    })
    .await;
    let here = Node::echo(config("dc-1")).await;
    let peer = here.remoting.peer(there.target());
    peer.connected(SOON).await.expect("up");
    // Short ones have a timer of their own, longer ones are watched by the link.
    for millis in [10, 40, 100, 300] {
        let (time, began) = (Duration::from_millis(millis), SystemClock.now());
        let err = peer.pair().ask(message("x"), time).await.expect_err("kept");
        let took = SystemClock.now() - began;
        assert!(matches!(err, LinkError::Timeout { may_have_run: true, after, .. } if after == time), "{err:?}");
        assert!(took >= time && took < time + Duration::from_millis(500), "{took:?} for {time:?}");
    }
    // Late answers find nobody, and the places of those who asked are free again.
    let mut late = std::mem::take(&mut *kept.lock());
    assert_eq!(late.len(), 4);
    late.drain(..).for_each(echo);
    eventually("nobody to be left waiting", || peer.in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r4_an_ask_that_cannot_leave_in_its_time_certainly_did_not_run() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let there = Node::start(config("dc-2"), {
        let seen = Arc::clone(&seen);
        move |incoming| {
            seen.lock().push(incoming.message.payload.len());
            echo(incoming);
        }
    })
    .await;
    let proxy = Proxy::to(there.remoting.local_addr()).await;
    let here = Node::echo(config("dc-1").keepalive_timeout(Duration::from_secs(60))).await;
    let peer = here.remoting.peer(PeerTarget::at(proxy.endpoint()));
    peer.connected(SOON).await.expect("up");
    proxy.set(Mode::BlackHole);
    // Fill what HTTP/2 and the sockets take of the user lane; what comes behind stays in its queue.
    let fillers: Vec<_> = (0..4).map(|_| peer.pair()).collect();
    for n in 0..500 {
        fillers[n % 4].tell(message(vec![0; 60_000])).await.expect("queued");
    }
    let time = Duration::from_millis(300);
    let err = peer.pair().ask(message("late"), time).await.expect_err("stuck");
    assert!(matches!(err, LinkError::Timeout { may_have_run: false, .. }), "{err:?}");
    proxy.set(Mode::Pass);
    eventually("the fillers to arrive", || seen.lock().len() == 500).await;
    assert_eq!(body(peer.pair().ask(message("next"), SOON).await), "next");
    assert_eq!(seen.lock().len(), 501, "R4: the withdrawn ask ran");
}
