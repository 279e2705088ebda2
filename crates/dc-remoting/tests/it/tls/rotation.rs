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
