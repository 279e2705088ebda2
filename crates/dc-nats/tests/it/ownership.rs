//! The suite of the ownership documents, on one server and on a cluster of three.

use crate::conformance::{NatsHarness, Servers};

mod single {
    use super::*;

    dc_controlplane::ownership_conformance_tests!(NatsHarness(Servers::Single));
}

mod guarded {
    use super::*;

    // The account has the documented rights of a node of the suite's datacenter, which sets intents of it, and no more.
    dc_controlplane::ownership_conformance_tests!(NatsHarness(Servers::GuardedDocuments));
}

mod cluster {
    use super::*;

    dc_controlplane::ownership_conformance_tests!(NatsHarness(Servers::Cluster));
}

/// `cargo test -p dc-nats --release --test it ownership::what_documents_cost -- --ignored --nocapture --test-threads 1`
#[test]
#[ignore = "measures for a minute and a half"]
fn what_documents_cost() {
    dc_controlplane::conformance::run(async {
        println!("one server:");
        dc_controlplane::conformance::measure_documents(NatsHarness(Servers::Single), true).await;
        println!("three servers:");
        dc_controlplane::conformance::measure_documents(NatsHarness(Servers::Cluster), false).await;
    });
}
