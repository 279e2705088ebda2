//! The suite that checks a backend against the contract, from outside.
//!
//! Owns one check for each clause of P1 to P13 and O1 to O7 that can be seen without reading
//! the backend's code, and [`Harness`]: what a backend brings to be tested. Must
//! not know any backend by name; where backends may differ,
//! [`Capabilities`](crate::Capabilities) says what to expect.
//!
//! A backend's test file holds an `impl Harness for MyHarness` and one line,
//! `dc_controlplane::conformance_tests!(MyHarness::new());`, which expands to one
//! `#[test]` per claim. `docs/write-a-backend.md` walks through it.
//!
//! Reading order: [`Harness`], [`conformance_tests!`](crate::conformance_tests), then the checks.

mod ground;
mod harness;
mod macros;

mod cutting;
mod faults;
mod honest;
mod intents;
mod leases;
mod lists;
mod moves;
mod ownership;
mod watching;
mod writes;

#[cfg(test)]
pub(crate) mod tests;

pub use cutting::*;
pub use faults::*;
pub use harness::{Harness, Skew};
pub use honest::*;
pub use intents::*;
pub use leases::*;
pub use lists::*;
pub use moves::*;
pub use ownership::*;
pub use watching::*;
pub use writes::*;

/// The hooks that a harness may leave out, as the macro spells them.
#[doc(hidden)]
#[expect(non_camel_case_types, reason = "spelled as in the macro's `without`")]
#[derive(Clone, Copy, Debug)]
pub enum Hook {
    requests,
    raw,
    outage,
    freeze,
    wipe,
    cut,
    skew,
}

/// Runs one check in a runtime of its own.
#[doc(hidden)]
pub fn run(check: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs only file descriptors and memory");
    runtime.block_on(check);
    // What a backend left running (a blocked thread, say) does not hold up the other tests.
    runtime.shutdown_background();
}
