//! The plane against the suite, and its faults against what they claim.

mod conformance;
mod faults;
mod ownership;
