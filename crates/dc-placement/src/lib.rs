//! Which datacenter and which endpoint: pure functions of a request and a snapshot.
