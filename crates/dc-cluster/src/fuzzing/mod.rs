//! What the fuzzers drive: gossip datagrams and the directory's questions. Not an interface.
//!
//! Each function takes any bytes and panics where a claim of this crate does not hold. The same functions run under
//! cargo-fuzz and as property tests on the stable toolchain; `docs/fuzzing.md` tells how.

mod directory;
mod gossip;
mod steps;

pub use directory::{Samples, directory, directory_samples, directory_seeds, read_answer, read_question};
pub use gossip::{close, gossip, gossip_samples, gossip_seeds, open, read_body};
