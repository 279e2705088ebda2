//! R5: memory is bounded, and only the senders of a slow receiver are slowed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use dc_remoting::{Accept, LinkError, WhenFull, proto::Envelope};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    raw::{RawLane, envelopes, tell},
    support::*,
};

/// A node that answers target 7 and keeps what goes to other targets unaccepted.
struct Hoarder {
    node: Node,
    held: Arc<Mutex<Vec<Accept>>>,
    bytes: Arc<watch::Sender<usize>>,
}

async fn hoarder(config: dc_remoting::RemotingConfigBuilder) -> Hoarder {
    let held = Arc::new(Mutex::new(Vec::new()));
    let bytes = Arc::new(watch::Sender::new(0));
    let node = Node::start(config, {
        let (held, bytes) = (Arc::clone(&held), Arc::clone(&bytes));
        move |incoming| {
            if incoming.message.to == 7 {
                return echo(incoming);
            }
            held.lock().push(incoming.accept);
            bytes.send_modify(|bytes| *bytes += incoming.message.payload.len());
        }
    })
    .await;
    Hoarder { node, held, bytes }
}

const WINDOW: usize = 1 << 20;

fn tight() -> dc_remoting::RemotingConfigBuilder {
    config("dc-2").max_payload(64 << 10).link_window(WINDOW)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r5_slow_receivers_slow_their_senders_and_not_their_neighbours() {
    let there = hoarder(tight()).await;
    let here = Node::echo(config("dc-1")).await;
    let peer = here.remoting.peer(there.node.target());
    let sent = Arc::new(AtomicUsize::new(0));
    // Ten senders fill what they can get of a window that would hold a tenth of what they have.
    let senders: Vec<_> = (0..10)
        .map(|to| {
            let (pair, sent) = (peer.pair(), Arc::clone(&sent));
            tokio::spawn(async move {
                for n in 0..1000 {
                    let mut msg = numbered(n, 1000);
                    msg.to = 100 + to;
                    pair.tell(msg).await.expect("queued");
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    eventually("senders to be slowed", || {
        let before = sent.load(Ordering::SeqCst);
        before > 100 && senders.iter().all(|sender| !sender.is_finished())
    })
    .await;
    // A neighbour is served at once all the while.
    let neighbour = peer.pair();
    for n in 0..100 {
        let answer = tokio::time::timeout(Duration::from_secs(2), neighbour.ask(numbered(n, 500), SOON)).await;
        body(answer.expect("R5: the neighbour was held up"));
    }
    assert!(sent.load(Ordering::SeqCst) < 10_000, "nobody was slowed");
    assert!(*there.bytes.borrow() <= WINDOW, "R5: {} bytes unaccepted", *there.bytes.borrow());
    // Once the receivers accept, everything goes through.
    let held = Arc::clone(&there.held);
    let release = tokio::spawn(async move {
        loop {
            held.lock().clear();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    until(&there.bytes, "all messages", |bytes| *bytes == 10 * 1000 * 1000).await;
    for sender in senders {
        sender.await.expect("done");
    }
    release.abort();
}

#[tokio::test]
async fn r5_a_full_window_refuses_at_once_where_so_configured() {
    let there = hoarder(tight()).await;
    let here = Node::echo(config("dc-1").when_full(WhenFull::Refuse)).await;
    let pair = here.remoting.peer(there.node.target()).pair();
    let refused = async {
        loop {
            let mut msg = message(vec![0; 10_000]);
            msg.to = 1;
            if let Err(err) = pair.tell(msg).await {
                return err;
            }
        }
    };
    let err = tokio::time::timeout(SOON, refused).await.expect("refused at some time");
    assert!(matches!(err, LinkError::Overloaded { .. }) && err.certainly_not_run(), "{err:?}");
}

#[tokio::test]
async fn r5_cancelled_senders_leave_no_credits_behind() {
    let there = hoarder(tight()).await;
    let here = Node::echo(config("dc-1").pair_messages(2)).await;
    let pair = here.remoting.peer(there.node.target()).pair();
    let to_hoard = |n| {
        let mut msg = numbered(n, 8);
        msg.to = 1;
        msg
    };
    pair.tell(to_hoard(0)).await.expect("queued");
    pair.tell(to_hoard(1)).await.expect("queued");
    for n in 0..100 {
        let cancelled = tokio::time::timeout(Duration::from_millis(1), pair.tell(to_hoard(n))).await;
        assert!(cancelled.is_err(), "there were no credits for it");
    }
    until(&there.bytes, "two messages", |bytes| *bytes == 16).await;
    there.held.lock().clear();
    pair.tell(to_hoard(3)).await.expect("queued");
    pair.tell(to_hoard(4)).await.expect("queued");
    until(&there.bytes, "four messages, none of the cancelled", |bytes| *bytes == 32).await;
}

#[tokio::test]
async fn r5_a_dialler_that_overdraws_its_window_is_cut_off() {
    let there = hoarder(tight()).await;
    let mut events = there.node.remoting.events();
    let [_control, mut user, _bulk] = RawLane::link(there.node.remoting.local_addr(), 1).await;
    for _ in 0..WINDOW / 50_000 + 1 {
        user.send(&envelopes(vec![Envelope { to: 1, ..tell(vec![0; 50_000]) }]));
    }
    assert!(user.ended().await.contains("window"));
    assert!(*there.bytes.borrow() <= WINDOW);
    refused(&mut events, "window").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r5_a_dialler_that_never_reads_is_not_read_from_without_end() {
    let handled = Arc::new(watch::Sender::new(0usize));
    let there = Node::start(config("dc-2"), {
        let handled = Arc::clone(&handled);
        move |incoming| {
            handled.send_modify(|n| *n += 1);
            echo(incoming);
        }
    })
    .await;
    let [_control, user, _bulk] = RawLane::link(there.remoting.local_addr(), 1).await;
    // 100 MB of asks whose answers nobody reads; 16 MiB of answers may pile up.
    let payload = Bytes::from(vec![0; 50_000]);
    for n in 1..=2000 {
        let ask = Envelope { correlation: n, left_us: 60_000_000, ..tell(payload.clone()) };
        user.send(&envelopes(vec![ask]));
    }
    until(&handled, "some asks", |n| *n > 200).await;
    let settled = async {
        let mut seen = handled.subscribe();
        while tokio::time::timeout(Duration::from_millis(500), seen.changed()).await.is_ok() {}
        *handled.borrow()
    };
    let settled = tokio::time::timeout(SOON, settled).await.expect("reading stops");
    assert!(settled < 600, "R5: {settled} answers of 50 kB pile up");
    // Others are served meanwhile.
    let here = Node::echo(config("dc-1")).await;
    let pair = here.remoting.peer(there.target()).pair();
    assert_eq!(body(pair.ask(message("x"), SOON).await), "x");
    drop(user);
}

#[tokio::test]
async fn r5_a_window_that_holds_one_large_message_lets_all_through_in_turn() {
    let there = Node::echo(config("dc-2").max_payload(200_000).link_window(300_000)).await;
    let here = Node::echo(config("dc-1")).await;
    let peer = here.remoting.peer(there.target());
    let asks = (0..60u64).map(|n| {
        let pair = peer.pair();
        async move { pair.ask(numbered(n, if n.is_multiple_of(3) { 150_000 } else { 2000 }), SOON).await }
    });
    for (n, answer) in futures::future::join_all(asks).await.into_iter().enumerate() {
        assert_eq!(number(&body(answer)), n as u64);
    }
}
