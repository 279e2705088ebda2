//! The suite of the ownership documents, on a single server and on three members.

use crate::conformance::{Guarded, Single, Three};

mod single {
    dc_controlplane::ownership_conformance_tests!(super::Single);
}

mod guarded {
    // The user has the documented rights of a node of the suite's datacenter, which sets intents of it, and no more. What
    // the rights have no part in is left to `single`.
    dc_controlplane::ownership_conformance_tests!(
        super::Guarded::ForDocuments,
        without: [requests, outage, freeze, wipe]
    );
}

mod three_members {
    // outage, freeze, wipe, requests: on a single server, as for the control plane.
    dc_controlplane::ownership_conformance_tests!(super::Three, without: [requests, outage, freeze, wipe]);
}

/// `cargo test -p dc-etcd --release --test it ownership::what_documents_cost -- --ignored --nocapture --test-threads 1`
#[test]
#[ignore = "measures for a minute and a half"]
fn what_documents_cost() {
    dc_controlplane::conformance::run(async {
        println!("one server:");
        dc_controlplane::conformance::measure_documents(Single, true).await;
        println!("three members:");
        dc_controlplane::conformance::measure_documents(Three, false).await;
    });
}
