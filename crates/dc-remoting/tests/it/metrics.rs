//! Links tell what they do, where the feature `metrics` is on.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use crate::support::*;

/// Remembers the names of what is recorded.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<BTreeSet<String>>>);

impl Recorder for Names {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.0.lock().unwrap().insert(key.name().to_owned());
        Counter::noop()
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.0.lock().unwrap().insert(key.name().to_owned());
        Gauge::noop()
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.0.lock().unwrap().insert(key.name().to_owned());
        Histogram::noop()
    }
}

#[tokio::test]
async fn links_record_what_the_documentation_names() {
    let names = Names::default();
    // Once a process: no other test of this program sets one.
    metrics::set_global_recorder(names.clone()).expect("the only recorder");
    let there = Node::echo(config("dc-2")).await;
    let here = Node::echo(config("dc-1")).await;
    let peer = here.remoting.peer(there.target());
    assert_eq!(body(peer.pair().ask(message("hello"), SOON).await), "hello");
    eventually("a measured rtt", || peer.rtt().is_some()).await;
    // Counted at the end that refuses.
    let mut events = there.remoting.events();
    let mut stranger = tokio::net::TcpStream::connect(there.remoting.local_addr()).await.expect("connects");
    tokio::io::AsyncWriteExt::write_all(&mut stranger, b"GET / HTTP/1.1\r\n\r\n").await.expect("writes");
    refused(&mut events, "not HTTP/2").await;
    // And a bound that is reached, where it is.
    let few = Node::echo(config("dc-3").max_peers(1)).await;
    let _one = few.remoting.peer(here.target());
    let refused = few.remoting.peer(there.target()).pair().tell(message("x")).await;
    assert!(refused.is_err(), "a second peer");
    let recorded = names.0.lock().unwrap().clone();
    let documented = include_str!("../../../../docs/metrics.md");
    for what in [
        "link_rtt_seconds",
        "link_in_flight",
        "link_credits_bytes",
        "link_sent_bytes_total",
        "link_received_bytes_total",
        "link_refused_total",
        "limit_reached_total",
    ] {
        let name = format!("multidc_{what}");
        assert!(recorded.contains(&name), "{name} is not recorded: {recorded:?}");
        assert!(documented.contains(&name), "{name} is not documented");
    }
}
