//! The ControlPlane contract, the in-memory plane and the conformance suite.
