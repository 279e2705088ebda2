//! R7: control traffic and small messages pass whatever else is under way.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dc_remoting::{Accept, PeerTarget};
use parking_lot::Mutex;

use crate::{
    proxy::{Mode, Proxy},
    support::*,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r7_calls_pass_while_no_user_message_does() {
    let held = Arc::new(Mutex::new(Vec::<Accept>::new()));
    let there = Node::start(config("dc-2").max_payload(64 << 10).link_window(1 << 20), {
        let held = Arc::clone(&held);
        move |incoming| held.lock().push(incoming.accept)
    })
    .await;
    let here = Node::echo(config("dc-1")).await;
    let peer = here.remoting.peer(there.target());
    let senders: Vec<_> = (0..20)
        .map(|_| {
            let pair = peer.pair();
            tokio::spawn(async move { while pair.tell(message(vec![0; 5000])).await.is_ok() {} })
        })
        .collect();
    eventually("the window to fill", || held.lock().len() > 50).await;
    for _ in 0..50 {
        let call = peer.call(ECHO, Bytes::from_static(b"ping"), Duration::from_secs(2)).await;
        assert_eq!(call.expect("R7: a call was stuck"), "ping");
    }
    assert!(senders.iter().all(|sender| !sender.is_finished()));
}

/// Two nodes with a line of about 8 MB/s per connection between them.
async fn slow_line() -> (Node, Node, Proxy, dc_remoting::Peer) {
    let there = Node::echo(config("dc-2")).await;
    let proxy = Proxy::to(there.remoting.local_addr()).await;
    let here = Node::echo(config("dc-1").keepalive_timeout(Duration::from_secs(20))).await;
    let peer = here.remoting.peer(PeerTarget::at(proxy.endpoint()));
    peer.connected(SOON).await.expect("up");
    proxy.set(Mode::Slow(40_000));
    (there, here, proxy, peer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r7_a_large_payload_does_not_stall_small_ones_of_other_pairs() {
    let (_there, _here, proxy, peer) = slow_line().await;
    let large = tokio::spawn({
        let pair = peer.pair();
        async move { pair.ask(message(vec![0; 12 << 20]), Duration::from_secs(60)).await }
    });
    eventually("the large ask to leave", || peer.in_flight() == 1).await;
    let small = peer.pair();
    for n in 0..20 {
        let asked = tokio::time::timeout(Duration::from_millis(700), small.ask(numbered(n, 64), SOON)).await;
        body(asked.expect("R7: a small ask was stalled"));
    }
    peer.call(ECHO, Bytes::new(), Duration::from_millis(700)).await.expect("R7: a call was stalled");
    assert!(!large.is_finished(), "the large ask was over too soon to show anything");
    proxy.set(Mode::Pass);
    assert_eq!(body(large.await.expect("no panic")).len(), 12 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r7_large_payloads_share_the_bulk_lane_piece_by_piece() {
    let (_there, _here, proxy, peer) = slow_line().await;
    let larger = tokio::spawn({
        let pair = peer.pair();
        async move { pair.ask(message(vec![0; 15 << 20]), Duration::from_secs(60)).await }
    });
    eventually("the larger ask to leave", || peer.in_flight() == 1).await;
    // On the same lane: it waits for pieces of the larger one, not for all of it.
    let asked = peer.pair().ask(message(vec![0; 300 << 10]), SOON).await;
    assert_eq!(body(asked).len(), 300 << 10);
    assert!(!larger.is_finished(), "R7: the smaller one waited for the larger one");
    proxy.set(Mode::Pass);
    assert_eq!(body(larger.await.expect("no panic")).len(), 15 << 20);
}
