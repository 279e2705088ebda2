//! Certificates and CAs are replaced while nodes run, and no ask fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use dc_remoting::{LinkEvent, PeerTarget, TlsError, TlsRefusal};
use tokio::sync::broadcast;

use super::certs::{Ca, EXPIRED, Issued, VALID, files};
use crate::support::*;

async fn told<T>(events: &mut broadcast::Receiver<LinkEvent>, what: impl Fn(LinkEvent) -> Option<T>) -> T {
    let waited = async {
        loop {
            if let Some(found) = what(events.recv().await.expect("open")) {
                return found;
            }
        }
    };
    tokio::time::timeout(SOON, waited).await.expect("told in time")
}

fn replaced(event: LinkEvent) -> Option<u64> {
    if let LinkEvent::CertificatesReplaced { not_after } = event { Some(not_after) } else { None }
}

fn rejected(event: LinkEvent) -> Option<Arc<str>> {
    if let LinkEvent::CertificatesRejected { why } = event { Some(why) } else { None }
}

#[tokio::test]
async fn r9_ca_and_certificates_are_replaced_and_no_ask_fails() {
    let (old, new) = (Ca::new(), Ca::new());
    let dirs = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
    for (dir, dc) in dirs.iter().zip(["dc-1", "dc-2"]) {
        old.dc(dc).write(dir.path(), &old.pem);
    }
    let here = Node::echo(config("dc-1").tls(files(dirs[0].path()))).await;
    let there = Node::echo(config("dc-2").tls(files(dirs[1].path()))).await;
    let mut events = [here.remoting.events(), there.remoting.events()];

    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let stream = {
        let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
        let pair = here.remoting.peer(there.target()).pair();
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(body(pair.ask(message("x"), SOON).await), "x");
                asked.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    // The way to replace a CA: first trust both, then show the new certificate, then trust the new one only.
    let both = format!("{}{}", old.pem, new.pem);
    for step in 0..3 {
        for (index, dc) in ["dc-1", "dc-2"].into_iter().enumerate() {
            match step {
                0 => old.dc(dc).write(dirs[index].path(), &both),
                1 => new.dc(dc).write(dirs[index].path(), &both),
                _ => new.dc(dc).write(dirs[index].path(), &new.pem),
            }
        }
        // What is half written may be seen, and is refused until it is whole.
        for (events, remoting) in events.iter_mut().zip([&here.remoting, &there.remoting]) {
            told(events, replaced).await;
            remoting.reload_tls().await.expect("whole by now");
        }
        // A new dialler shakes hands with what is there now; the standing link goes on.
        let probe = Node::echo(config("dc-1").tls(files(dirs[0].path()))).await;
        assert_eq!(body(probe.remoting.peer(there.target()).pair().ask(message("p"), SOON).await), "p");
        let before = asked.load(Ordering::Relaxed);
        eventually("asks go on", || asked.load(Ordering::Relaxed) > before + 10 || stream.is_finished()).await;
    }
    // Whoever still has the old CA's certificate is out.
    let left = Node::echo(config("dc-1").tls(old.dc("dc-1").tls(&both))).await;
    let err = left.remoting.peer(there.target()).pair().ask(message("x"), SOON).await.expect_err("refused");
    assert!(matches!(&err, dc_remoting::LinkError::Tls { why: TlsRefusal::UnknownCa, .. }), "{err:?}");
    stop.store(true, Ordering::Relaxed);
    stream.await.expect("R9: no ask failed");
}

#[tokio::test]
async fn r9_what_cannot_be_used_leaves_the_old_set_in_place_and_is_told_once() {
    let ca = Ca::new();
    let dir = tempfile::tempdir().expect("a directory");
    ca.dc("dc-2").write(dir.path(), &ca.pem);
    let there = Node::echo(config("dc-2").tls(files(dir.path()))).await;
    let mut events = there.remoting.events();

    let garbage = Issued { certificate: "garbage".into(), key: "garbage".into() };
    let (mine, expired) = (ca.dc("dc-2"), ca.issue(&["multidc://app/dc-2"], EXPIRED));
    let mixed = Issued { certificate: mine.certificate, key: ca.dc("dc-2").key };
    for (bad, part) in [
        (garbage, "`certificate`"),
        (mixed, "does not belong"),
        (ca.issue(&["multidc://app/dc-1"], VALID), "this node is multidc://app/dc-2"),
        (expired, "has expired"),
    ] {
        bad.write(dir.path(), &ca.pem);
        told(&mut events, |event| rejected(event).filter(|why| why.contains(part))).await;
        let err = there.remoting.reload_tls().await.expect_err("still bad");
        assert!(err.to_string().contains(part), "{err}");
        // The old set serves.
        let here = Node::echo(ca.node("dc-1")).await;
        assert_eq!(body(here.remoting.peer(there.target()).pair().ask(message("x"), SOON).await), "x");
        while let Ok(event) = events.try_recv() {
            assert!(rejected(event).is_none_or(|why| !why.contains(part)), "told twice: {part}");
        }
    }
    std::fs::remove_file(dir.path().join("node.key")).expect("removes");
    told(&mut events, |event| rejected(event).filter(|why| why.contains("cannot read"))).await;
    let err = there.remoting.reload_tls().await.expect_err("gone");
    assert!(matches!(err, TlsError::Unreadable { field: "key", .. }), "{err:?}");
    ca.dc("dc-2").write(dir.path(), &ca.pem);
    told(&mut events, replaced).await;
}

#[tokio::test]
async fn r9_reload_says_whether_anything_changed() {
    let ca = Ca::new();
    let dir = tempfile::tempdir().expect("a directory");
    ca.dc("dc-2").write(dir.path(), &ca.pem);
    let tls = dc_remoting::TlsConfig::builder()
        .ca_file(dir.path().join("ca.pem"))
        .certificate_file(dir.path().join("node.pem"))
        .key_file(dir.path().join("node.key"))
        .reload_every(Duration::from_secs(3_600))
        .build()
        .expect("legal");
    let there = Node::echo(config("dc-2").tls(tls)).await;
    assert!(!there.remoting.reload_tls().await.expect("unchanged"));
    ca.dc("dc-2").write(dir.path(), &ca.pem);
    assert!(there.remoting.reload_tls().await.expect("new ones"));
    let plain = Node::echo(config("dc-2")).await;
    assert!(!plain.remoting.reload_tls().await.expect("no TLS, nothing to read"));
    let target: PeerTarget = there.target();
    let here = Node::echo(ca.node("dc-1")).await;
    assert_eq!(body(here.remoting.peer(target).pair().ask(message("x"), SOON).await), "x");
}

#[tokio::test]
async fn r9_a_link_is_replaced_before_its_certificates_expire_and_no_ask_fails_or_overtakes() {
    let ca = Ca::new();
    let dir = tempfile::tempdir().expect("a directory");
    // Both ends: the one that dials has to renew for either.
    ca.issue(&["multidc://app/dc-1"], (-6, 6)).write(dir.path(), &ca.pem);
    let here = Node::echo(config("dc-1").tls(files(dir.path()))).await;
    let last = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&last);
    let there = Node::start(ca.node("dc-2"), move |incoming| {
        let n = number(&incoming.message.payload);
        assert_eq!(seen.swap(n, Ordering::Relaxed) + 1, n, "R1: in the order sent");
        echo(incoming);
    })
    .await;
    let mut events = here.remoting.events();
    let stop = Arc::new(AtomicBool::new(false));
    let stream = {
        let stop = Arc::clone(&stop);
        let pair = here.remoting.peer(there.target()).pair();
        tokio::spawn(async move {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..20 {
                    n += 1;
                    pair.tell(numbered(n, 8)).await.expect("R9: a tell failed");
                }
                n += 1;
                pair.ask(numbered(n, 8), SOON).await.expect("R9: an ask failed");
            }
            n
        })
    };
    let expiry = rustls::pki_types::UnixTime::now().as_secs() + 6;
    ca.dc("dc-1").write(dir.path(), &ca.pem);
    told(&mut events, |event| matches!(event, LinkEvent::Renewed { .. }).then_some(())).await;
    assert!(rustls::pki_types::UnixTime::now().as_secs() <= expiry, "before the old one expired");
    eventually("the old certificate has expired", || rustls::pki_types::UnixTime::now().as_secs() > expiry + 1).await;
    stop.store(true, Ordering::Relaxed);
    let sent = stream.await.expect("R9: nothing failed");
    eventually("all arrived", || last.load(Ordering::Relaxed) == sent).await;
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, LinkEvent::PeerDown { .. }), "{event:?}");
    }
}

#[tokio::test]
async fn r9_no_link_outlives_a_certificate_that_was_not_replaced() {
    let ca = Ca::new();
    let short = ca.issue(&["multidc://app/dc-1"], (-3, 3));
    let there = Node::echo(ca.node("dc-2")).await;
    let here = Node::echo(config("dc-1").tls(short.tls(&ca.pem))).await;
    // And one that would not end by itself: it knows nothing of certificates.
    let heedless = Node::echo(config("dc-1")).await;
    let client = super::wrapper::client(Some(&short));
    let at = super::wrapper::put_on(there.remoting.local_addr(), client).await;
    let peers = [here.remoting.peer(there.target()), heedless.remoting.peer(at)];
    let mut events = [here.remoting.events(), heedless.remoting.events()];
    for peer in &peers {
        assert_eq!(body(peer.pair().ask(message("x"), SOON).await), "x");
    }
    for events in &mut events {
        let why = told(events, |event| match event {
            LinkEvent::PeerDown { why, unaccepted: 0, .. } => Some(why),
            _ => None,
        });
        let why = why.await;
        assert!(why.contains("certificate"), "{why}");
    }
    let err = peers[0].pair().ask(message("x"), SOON).await.expect_err("R9: expired");
    let expired = |err: &dc_remoting::LinkError| {
        matches!(err, dc_remoting::LinkError::Tls { why: TlsRefusal::Expired { .. }, .. })
    };
    assert!(expired(&err), "{err:?}");
    peers[1].pair().ask(message("x"), SOON).await.expect_err("R9: expired");
}
