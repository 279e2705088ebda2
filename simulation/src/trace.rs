//! What happened, as lines: hashed always, kept or printed where somebody wants to read them.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use parking_lot::Mutex;

/// What becomes of the lines besides the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// Those that tell a story are printed.
    Story,
    /// All are printed.
    All,
}

struct State {
    // Its keys are fixed: the same in every run.
    hasher: DefaultHasher,
    lines: u64,
    keep: Keep,
}

/// The trace of one run; a handle.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<State>>);

impl Trace {
    /// An empty trace.
    pub fn new(keep: Keep) -> Self {
        Self(Arc::new(Mutex::new(State { hasher: DefaultHasher::new(), lines: 0, keep })))
    }

    /// Something happened that only matters for the comparison of two runs.
    pub fn event(&self, line: impl FnOnce() -> String) {
        self.add(Keep::All, line);
    }

    /// Something happened that people want to read.
    pub fn story(&self, line: impl FnOnce() -> String) {
        self.add(Keep::Story, line);
    }

    fn add(&self, class: Keep, line: impl FnOnce() -> String) {
        let mut state = self.0.lock();
        let line = line();
        line.hash(&mut state.hasher);
        state.lines += 1;
        if state.keep == Keep::All || (state.keep == Keep::Story && class == Keep::Story) {
            println!("{line}");
        }
    }

    /// The hash of all lines so far, and their number.
    pub fn hash(&self) -> (u64, u64) {
        let state = self.0.lock();
        (state.hasher.finish(), state.lines)
    }
}
