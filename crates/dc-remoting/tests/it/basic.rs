//! The plain paths: ask, tell, call, identity, shutdown.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dc_remoting::{LinkError, PeerTarget, ServiceId};
use tokio::sync::watch;

use crate::{
    proxy::{Mode, Proxy},
    support::*,
};

#[tokio::test]
async fn ask_tell_and_call_go_both_ways() {
    let seen = Arc::new(watch::Sender::new(0u64));
    let there = Node::start(config("dc-2"), {
        let seen = Arc::clone(&seen);
        move |incoming| {
            if incoming.reply.is_none() {
                seen.send_modify(|n| *n += 1);
            }
            echo(incoming);
        }
    })
    .await;
    let here = Node::echo(config("dc-1")).await;

    let peer = here.remoting.peer(there.target());
    let pair = peer.pair();
    assert_eq!(body(pair.ask(message("hello"), SOON).await), "hello");
    pair.tell(message("x")).await.expect("queued");
    until(&seen, "the tell", |n| *n == 1).await;
    assert_eq!(peer.call(ECHO, Bytes::from_static(b"call"), SOON).await.expect("answered"), "call");
    assert_eq!(peer.identity().expect("up").node, there.remoting.local().node);
    eventually("a measured rtt", || peer.rtt().is_some()).await;

    let back = there.remoting.peer(here.target()).pair();
    assert_eq!(body(back.ask(message("back"), SOON).await), "back");
}

#[tokio::test]
async fn all_fields_of_a_message_arrive() {
    let (sent, seen) = tokio::sync::mpsc::unbounded_channel();
    let there = Node::start(config("dc-2"), move |incoming| {
        sent.send((incoming.message.clone(), incoming.left)).expect("open");
        echo(incoming);
    })
    .await;
    let here = Node::echo(config("dc-1")).await;
    let pair = here.remoting.peer(there.target()).pair();
    let mut seen = seen;
    for size in [0, 1, 1000, 100_000, 3_000_000] {
        let mut msg = message(vec![7u8; size]);
        msg.key = Bytes::from_static(b"key");
        msg.from = Bytes::from_static(b"from");
        msg.epoch = u64::MAX;
        msg.to = u64::MAX;
        assert_eq!(body(pair.ask(msg.clone(), SOON).await).len(), size);
        let (got, left) = seen.recv().await.expect("arrived");
        assert_eq!(got, msg);
        assert!(left.expect("an ask") <= SOON);
    }
}

#[tokio::test]
async fn an_unknown_service_is_certainly_not_run() {
    let there = Node::echo(config("dc-2")).await;
    let here = Node::echo(config("dc-1")).await;
    let peer = here.remoting.peer(there.target());
    let err = peer.call(ServiceId(999), Bytes::new(), SOON).await.expect_err("no such service");
    assert!(matches!(err, LinkError::NotRun { .. }) && err.certainly_not_run(), "{err:?}");
}

#[tokio::test]
async fn another_node_at_the_endpoint_is_the_wrong_peer() {
    let there = Node::echo(config("dc-2")).await;
    let here = Node::echo(config("dc-1")).await;
    let wrong_node = PeerTarget { node: Some(dc_core::NodeId(99)), ..there.target() };
    let err = here.remoting.peer(wrong_node).pair().ask(message("x"), SOON).await.expect_err("wrong node");
    assert!(matches!(err, LinkError::WrongPeer { .. }) && err.certainly_not_run(), "{err:?}");
    let wrong_dc = PeerTarget { dc: Some(here.remoting.local().dc.clone()), ..there.target() };
    let err = here.remoting.peer(wrong_dc).connected(SOON).await.expect_err("wrong datacenter");
    assert!(matches!(err, LinkError::WrongPeer { .. }), "{err:?}");
    // Who expects nobody in particular is served over the same link.
    let anyone = here.remoting.peer(PeerTarget::at(there.target().endpoint));
    assert_eq!(body(anyone.pair().ask(message("x"), SOON).await), "x");
}

#[tokio::test]
async fn shutdown_lets_asks_end_and_refuses_new_ones() {
    let there = Node::start(config("dc-2"), |incoming| {
        drop(incoming.accept);
        let reply = incoming.reply.expect("an ask");
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            reply.send(0, Bytes::from_static(b"late"));
        });
    })
    .await;
    let here = Node::echo(config("dc-1")).await;
    let peer = here.remoting.peer(there.target());
    let pair = peer.pair();
    peer.connected(SOON).await.expect("up");
    let asked = tokio::spawn({
        let pair = pair.clone();
        async move { pair.ask(message("x"), SOON).await }
    });
    eventually("the ask to leave", || peer.in_flight() == 1).await;
    here.remoting.shutdown(SOON).await;
    assert_eq!(body(asked.await.expect("no panic")), "late");
    let err = pair.ask(message("x"), SOON).await.expect_err("shut down");
    assert!(err.certainly_not_run(), "{err:?}");
}

/// The lanes of a link are not ordered among each other: the goodbye of one must not overtake answers on another.
/// The line is slow in every second round, so that a goodbye over an idle lane certainly is there first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orderly_shutdown_loses_no_answer_that_was_given_before() {
    const ASKS: usize = 64;
    for round in 0..50 {
        let replies = watch::Sender::new(Vec::new());
        let there = Node::start(config("dc-2"), {
            let replies = replies.clone();
            move |incoming| {
                drop(incoming.accept);
                let reply = incoming.reply.expect("an ask");
                replies.send_modify(|all| all.push((reply, number(&incoming.message.payload))));
            }
        })
        .await;
        let here = Node::echo(config("dc-1")).await;
        let proxy = Proxy::to(there.remoting.local_addr()).await;
        let peer = here.remoting.peer(PeerTarget::at(proxy.endpoint()));
        peer.connected(SOON).await.expect("up");
        let asks = (0..ASKS).map(|n| {
            let pair = peer.pair();
            tokio::spawn(async move { pair.ask(numbered(n as u64, 8), SOON).await })
        });
        let asks: Vec<_> = asks.collect();
        until(&replies, "the asks to arrive", |all| all.len() == ASKS).await;
        if round % 2 == 0 {
            proxy.set(Mode::Slow(60_000));
        }
        for (reply, n) in replies.send_replace(Vec::new()) {
            // Every eighth goes over the bulk lane, in pieces.
            let size = if n % 8 == 0 { 150 << 10 } else { 8 };
            reply.send(0, numbered(n, size).payload);
        }
        there.remoting.shutdown(SOON).await;
        for (n, ask) in asks.into_iter().enumerate() {
            let answer = ask.await.expect("no panic").unwrap_or_else(|err| panic!("round {round}, ask {n}: {err:?}"));
            assert_eq!(number(&answer.body), n as u64);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_goodbye_new_asks_fail_as_certainly_not_run() {
    let there = Node::echo(config("dc-2")).await;
    let here = Node::echo(config("dc-1")).await;
    let peer = here.remoting.peer(there.target());
    let pair = peer.pair();
    assert_eq!(body(pair.ask(message("x"), SOON).await), "x");
    let begun = tokio::time::sleep(Duration::ZERO).deadline();
    there.remoting.shutdown(SOON).await;
    let took = tokio::time::sleep(Duration::ZERO).deadline() - begun;
    assert!(took < Duration::from_millis(900), "nobody held it up, yet it took {took:?}");
    let err = pair.ask(message("x"), SOON).await.expect_err("nobody is there");
    assert!(err.certainly_not_run(), "{err:?}");
}
